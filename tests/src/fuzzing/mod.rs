//! What is asserted of any input, however it was made: `cargo xtask fuzz` looks for inputs that break it, and a test runs those
//! in `fuzz/corpus`.
//!
//! | target | an input is | what holds |
//! |---|---|---|
//! | [`wire()`] | a frame, and what is put right in it | an advert is taken if and only if another reading of it takes it, too; what is read is written the same; the fence drops nothing that is not ours |
//! | [`seal()`] | what senders, and somebody without the key, do one after the other | nobody's adverts are taken but a sender's, each once, and while they are new; a sender's always are |
//! | [`configuration()`] | a configuration file | mistakes stand in it, secrets are not told, what is accepted is valid, and the same when it is read again |
//! | [`control()`] | what a client sends | it is answered, in JSON, and not at length |
//! | [`ucarp()`] | a command line, or a file of ifupdown | options of one letter mean what they mean to getopt; nothing that is needed is missing; what is printed is taken |
//! | [`engine()`] | what an agent tells the state machine | what its own tests' witness demands |

mod engine;
mod seal;
mod wire;

pub use carp_user::fuzzing::{configuration, control};

pub use self::{engine::engine, seal::seal, wire::wire};

/// Something that panics if an input breaks what it asserts.
pub type Target = fn(&[u8]);

/// All targets, by the names of their programs and corpora.
pub const TARGETS: [(&str, Target); 6] = [
    ("configuration", configuration),
    ("control", control),
    ("engine", engine),
    ("seal", seal),
    ("ucarp", ucarp),
    ("wire", wire),
];

/// A file of ifupdown behind a NUL, with which no command line begins that could be right; else arguments, with a NUL between
/// each two.
pub fn ucarp(input: &[u8]) {
    match input {
        [0, text @ ..] => carp_user::fuzzing::interfaces(text),
        arguments => carp_user::fuzzing::arguments(arguments),
    }
}
