//! Who is master, and when that changes: real agents on hosts of a lab.

mod equals;
mod frames;
mod stalls;
mod stops;
mod takeover;
