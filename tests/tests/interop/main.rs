//! Beside real programs of others: ucarp, which is a peer, keepalived, which shares CARP's protocol number and group, a
//! switch that snoops, and tshark, which looks on. OpenBSD and FreeBSD are models, but on hosts.

mod bsds;
mod counters;
mod decoded;
mod demoted;
mod elections;
mod keepalived;
mod modelled;
mod strangers;
mod switches;
mod ucarp;

use std::thread;

use anyhow::{Context, Result};

/// Does the same for each of several cases at once, in a lab of its own each: nearly all of the time is waiting.
fn at_once<C: std::fmt::Debug + Sync>(cases: &[C], scenario: impl Fn(&C) -> Result<()> + Sync) -> Result<()> {
    let scenario = &scenario;
    thread::scope(|scope| {
        let run = |case| scope.spawn(move || scenario(case).with_context(|| format!("{case:?}")));
        let running: Vec<_> = cases.iter().map(run).collect();
        running.into_iter().try_for_each(|case| case.join().expect("its panic has been told"))
    })
}
