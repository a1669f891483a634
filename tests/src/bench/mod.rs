//! What the benchmarks have in common: who takes part, what is measured of a process, and how figures are told: as tables, in one
//! JSON document, and drawn.

mod figures;
mod losses;
mod member;
mod plot;
mod settings;
mod usage;

pub use figures::{Goal, Options, Report, Spread, Table, millis, side_by_side, sort, spread};
pub use losses::{Adverts, Lost, Unheard};
pub use member::Member;
pub use plot::{Line, Panel, Scale, cdf, draw};
pub use settings::{CARPD, KEEPALIVED, Pace, SEALED, Setting, System, UCARP};
pub use usage::{MachineTime, Usage, bpf_mb};
