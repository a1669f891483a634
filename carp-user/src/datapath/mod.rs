//! The way of adverts from the wire to the agent.

mod xdp;

pub use self::xdp::{AttachError, DatapathError, Mode, OBJECT, Xdp};
