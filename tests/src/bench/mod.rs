//! What the benchmarks have in common: who takes part, what is measured of a process, and how figures are told: as tables, in one
//! JSON document, and drawn.

mod figures;
mod plot;
mod systems;
mod usage;

pub use figures::{Goal, Options, Report, Spread, Table, millis, side_by_side, sort, spread};
pub use plot::{Line, Panel, Scale, cdf, draw};
pub use systems::{Adverts, CARPD, KEEPALIVED, Lost, Member, Pace, SEALED, Setting, System, UCARP, Unheard};
pub use usage::{MachineTime, Usage, bpf_mb};
