//! Whatever befalls one server: no two hosts answer for the VIP, and in the end one does.

use std::time::Duration;

use anyhow::{Context, Result};
use carp_tests::faults::{ELECTION, Fault, Group, Kind, QUICK, USUAL};
use carp_tests::random::SplitMix64;
use carp_tests::{Lab, Wire};

/// In nanoseconds, as adverts count.
const HOUR: u64 = 3_600_000_000_000;

/// What it takes at most to be served again after a fault: the longer dead time of two, and the start of a process.
const QUICKLY: Duration = Duration::from_millis(938 + 500);
const USUALLY: Duration = Duration::from_millis(3196 + 500);

/// Has these befall a pair, one after the other. Two hosts are never to answer for so long, and one is to answer again in time.
fn suffer(
    options: [&str; 2],
    faults: impl IntoIterator<Item = Fault>,
    both: Duration,
    in_time: Duration,
) -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let mut pair = Group::start(&[&a, &b], &client, &options)?;
    for (number, fault) in faults.into_iter().enumerate() {
        let seen = pair.suffer(fault)?;
        eprintln!("{number}: {fault:?}: {seen:?}");
        assert!(seen.two <= both && seen.back <= in_time, "{number}: {fault:?}: {seen:?}\n{}", pair.logs());
    }
    Ok(())
}

fn all_of(kinds: &'static [Kind], lasts: &'static [u64]) -> impl Iterator<Item = Fault> {
    let fault = |kind, rank, lasts| Fault { kind, rank, lasts: Duration::from_millis(lasts) };
    kinds.iter().flat_map(move |kind| {
        [0, 1].into_iter().flat_map(move |rank| lasts.iter().map(move |lasts| fault(*kind, rank, *lasts)))
    })
}

#[test]
fn processes_are_killed_and_stopped() -> Result<()> {
    suffer(
        QUICK,
        all_of(&[Kind::Kill, Kind::Stop, Kind::StopAll, Kind::Loop], &[100, 850, 3000]),
        Duration::ZERO,
        QUICKLY,
    )
}

#[test]
fn a_master_hangs_for_less_and_for_more_than_the_others_dead_time() -> Result<()> {
    let hang = |(kind, lasts)| Fault { kind, rank: 0, lasts: Duration::from_millis(lasts) };
    let all = [(Kind::Stop, 1000), (Kind::Stop, 2900), (Kind::Stop, 3100), (Kind::Stop, 10_000), (Kind::Loop, 5000)];
    suffer(USUAL, all.map(hang), Duration::ZERO, USUALLY)
}

#[test]
fn interfaces_and_programs_are_taken_away() -> Result<()> {
    let kinds = &[Kind::Carrier, Kind::Interface, Kind::Overrun, Kind::Detach, Kind::DetachEgress, Kind::Unpin];
    suffer(QUICK, all_of(kinds, &[1500]), Duration::ZERO, QUICKLY)
}

#[test]
fn resources_are_short() -> Result<()> {
    let kinds = &[Kind::NoBuffers, Kind::NotPermitted, Kind::Descriptors, Kind::Memory, Kind::Hogs];
    suffer(QUICK, all_of(kinds, &[500, 2500]), ELECTION, QUICKLY)
}

#[test]
fn administrators_are_at_work() -> Result<()> {
    let kinds = &[Kind::Restart, Kind::StepDown, Kind::Upgrade, Kind::UpgradeInElection];
    suffer(QUICK, all_of(kinds, &[10, 1500]), Duration::ZERO, QUICKLY)
}

#[test]
fn a_clock_that_is_set_forwards_and_back_changes_nothing_and_the_counters_rise() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let wire = Wire::at(&client)?;
    let mut pair = Group::start(&[&a, &b], &client, &QUICK)?;
    for fault in all_of(&[Kind::Clock], &[1500]) {
        let seen = pair.suffer(fault)?;
        assert_eq!((seen.two, seen.none), (Duration::ZERO, Duration::ZERO), "{fault:?}\n{}", pair.logs());
    }
    let mut changes = pair.changes().concat();
    changes.sort();
    assert_eq!(changes, ["BACKUP -> MASTER", "INIT -> BACKUP", "INIT -> BACKUP"], "{}", pair.logs());
    let of_both = [&a, &b].map(|host| wire.adverts_of(host.ip()));
    let of_master = of_both.into_iter().max_by_key(Vec::len).context("there are two")?;
    let counters: Vec<u64> = of_master.iter().map(|(_, advert)| advert.counter).collect();
    assert!(counters.is_sorted_by(|one, next| one < next), "{counters:?}");
    assert!(counters[counters.len() - 1] - counters[0] > HOUR, "its clock was set: {counters:?}");
    Ok(())
}

/// All who hear it leave take over at once, and one is left.
#[test]
fn in_a_group_of_three_a_master_that_leaves_is_followed_at_once() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, c, client] = lab.hosts(["a", "b", "c", "client"])?;
    let options = [QUICK[0], QUICK[1], "--advbase=0 --advskew=90 --peer-advskew=60"];
    let mut group = Group::start(&[&a, &b, &c], &client, &options)?;
    for _ in 0..12 {
        let seen = group.suffer(Fault { kind: Kind::StepDown, rank: 0, lasts: Duration::ZERO })?;
        // A dead time is 703 ms at least.
        assert!(seen.two <= ELECTION && seen.none < Duration::from_millis(300), "{seen:?}\n{}", group.logs());
    }
    Ok(())
}

#[test]
fn fifty_faults_of_a_schedule() -> Result<()> {
    let mut random = SplitMix64::new(1);
    suffer(QUICK, std::iter::repeat_with(move || Fault::draw(&mut random, 2)).take(50), ELECTION, QUICKLY)
}
