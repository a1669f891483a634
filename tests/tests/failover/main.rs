//! Who is master, and when that changes: real agents on hosts of a lab.

mod announcements;
mod equals;
mod frames;
mod macs;
mod stalls;
mod stops;
mod takeover;
