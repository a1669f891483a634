//! Whatever befalls one server: no two hosts answer for the VIP, and in the end one does.

use std::time::Duration;

use anyhow::Result;
use carp_tests::Lab;
use carp_tests::faults::{Fault, Kind, Pair, QUICK, USUAL};
use carp_tests::random::SplitMix64;

/// Whoever takes over from a master that is alive, for it is demoted or less preferred, says so and takes the VIP; the other gives
/// it up when it hears that. On a busy machine a request that comes just then is answered by both.
const ELECTION: Duration = Duration::from_millis(10);

/// Has these befall a pair, one after the other.
fn suffer(options: [&str; 2], faults: impl IntoIterator<Item = Fault>) -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let mut pair = Pair::start([&a, &b], &client, options)?;
    for (number, fault) in faults.into_iter().enumerate() {
        let seen = pair.suffer(fault)?;
        eprintln!("{number}: {fault:?}: {seen:?}");
        assert!(seen.two < ELECTION, "{number}: {fault:?}: {seen:?}\n{}", pair.logs());
    }
    Ok(())
}

fn all_of(kinds: &'static [Kind], lasts: &'static [u64]) -> impl Iterator<Item = Fault> {
    let fault = |kind, on_master, lasts| Fault { kind, on_master, lasts: Duration::from_millis(lasts) };
    kinds.iter().flat_map(move |kind| {
        [true, false]
            .into_iter()
            .flat_map(move |on_master| lasts.iter().map(move |lasts| fault(*kind, on_master, *lasts)))
    })
}

#[test]
fn processes_are_killed_and_stopped() -> Result<()> {
    suffer(QUICK, all_of(&[Kind::Kill, Kind::Stop, Kind::StopBoth, Kind::Loop], &[100, 850, 3000]))
}

#[test]
fn a_master_hangs_for_less_and_for_more_than_the_others_dead_time() -> Result<()> {
    let hang = |milliseconds| Fault { kind: Kind::Stop, on_master: true, lasts: Duration::from_millis(milliseconds) };
    suffer(USUAL, [1000, 2900, 3100, 10_000].map(hang))
}

#[test]
fn interfaces_and_programs_are_taken_away() -> Result<()> {
    suffer(QUICK, all_of(&[Kind::Carrier, Kind::Interface, Kind::Detach, Kind::DetachEgress, Kind::Unpin], &[1500]))
}

#[test]
fn resources_are_short() -> Result<()> {
    suffer(QUICK, all_of(&[Kind::SendErrors, Kind::Descriptors, Kind::Memory, Kind::Hogs], &[500, 2500]))
}

#[test]
fn administrators_are_at_work() -> Result<()> {
    suffer(QUICK, all_of(&[Kind::Restart, Kind::StepDown, Kind::Upgrade], &[10, 1500]))
}

#[test]
fn fifty_faults_of_a_schedule() -> Result<()> {
    let mut random = SplitMix64::new(1);
    suffer(QUICK, std::iter::repeat_with(move || Fault::draw(&mut random)).take(50))
}
