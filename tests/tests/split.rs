//! The network falls apart and comes together again: two masters during the split, one soon after.

use std::time::Duration;

use anyhow::Result;
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::{ArpWatch, BootTime, Host, LONG, Lab, Node, Probe, VIP, Wire, eventually};

const PERIOD: Duration = Duration::from_millis(5);
/// Between two adverts of [`PREFERRED`] and of [`OTHER`].
const INTERVALS: [Duration; 2] = [Duration::from_micros(234_375), Duration::from_micros(312_500)];
/// Two advert intervals, and what a busy machine may add.
const SOON: Duration = Duration::from_millis(2 * 313 + 1000);

/// Who is heard first after the heal, which is decided by the moment of it.
#[derive(Clone, Copy)]
enum First {
    Winner,
    Loser,
}

#[test]
fn after_a_split_the_worse_master_yields_when_it_hears_the_better_one() -> Result<()> {
    one_master_after_a_heal(First::Winner)
}

#[test]
fn after_a_split_the_worse_master_yields_although_it_speaks_first() -> Result<()> {
    one_master_after_a_heal(First::Loser)
}

fn one_master_after_a_heal(first: First) -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, near_a, near_b] = lab.hosts(["a", "b", "near-a", "near-b"])?;
    let [winner, loser] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    let [wire_a, wire_b] = [Wire::at(&near_a)?, Wire::at(&near_b)?];
    // Each client reaches the master of its side, and remembers its MAC.
    let [probe_a, probe_b] = [Probe::start(&near_a, VIP, PERIOD)?, Probe::start(&near_b, VIP, PERIOD)?];
    probe_b.wait_for_answer_from(a.mac(), LONG)?;

    lab.split(&[&a, &near_a], &[&b, &near_b])?;
    let takeover = loser.wait_for("BACKUP -> MASTER")?;
    assert!(takeover.cause.starts_with("no advert for 0.9"), "{takeover:?}");
    probe_b.wait_for_answer_from(b.mac(), LONG)?;
    // Both announcements of becoming master are over.
    wire_b.wait_for_adverts(b.ip(), 3)?;
    probe_a.wait_for_answer_from(a.mac(), LONG)?;
    assert_eq!(winner.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);

    wait_until_next_is(first, (&wire_a, &a), (&wire_b, &b))?;
    let healed = BootTime::now();
    lab.heal()?;
    let yields = loser.wait_for("MASTER -> BACKUP")?;
    assert!(yields.cause.starts_with("10.77.0.1 (") && yields.cause.ends_with("is preferred"), "{yields:?}");
    assert!(yields.at.since(healed) < SOON, "{yields:?}, healed at {healed}");
    eventually("the loser has given the address up", LONG, || Ok(!b.has_address(VIP)?))?;
    // The clients of the other side still have the loser's MAC in their caches.
    let announced = wire_b.wait_for_announcement(&a, VIP, healed)?;
    assert!(announced.since(healed) < SOON, "announced at {announced}, healed at {healed}");
    probe_b.wait_for_answer_from(a.mac(), LONG)?;

    wire_b.wait_for_adverts(a.ip(), 6)?;
    assert_eq!(winner.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    assert_eq!(loser.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER", "MASTER -> BACKUP"]);
    let turns: Vec<_> = probe_a.stop()?.answered_by().iter().map(|turn| turn.mac).collect();
    assert_eq!(turns, [a.mac()], "the winner's side noticed the heal");
    Ok(())
}

#[test]
fn two_owners_answer_during_a_split_and_one_after_it() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, near_a, near_b] = lab.hosts(["a", "b", "near-a", "near-b"])?;
    let [winner, loser] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    let [watch_a, watch_b] = [ArpWatch::start(&near_a, VIP, PERIOD)?, ArpWatch::start(&near_b, VIP, PERIOD)?];
    let wire = Wire::at(&near_a)?;
    lab.split(&[&a, &near_a], &[&b, &near_b])?;
    watch_b.wait_for_owner(b.mac(), LONG)?;
    watch_a.wait_for_owner(a.mac(), LONG)?;
    let healed = BootTime::now();
    lab.heal()?;
    loser.wait_for("MASTER -> BACKUP")?;
    eventually("the loser has given the address up", LONG, || Ok(!b.has_address(VIP)?))?;
    let one = BootTime::now();
    assert!(one.since(healed) < SOON, "one master at {one}, healed at {healed}");
    wire.wait_for_adverts(a.ip(), 6)?;
    for watch in [watch_a, watch_b] {
        watch.wait_for_owner(a.mac(), LONG)?;
        let report = watch.stop()?;
        let after = report.timeline().into_iter().filter(|turn| turn.from > one);
        assert!(after.into_iter().all(|turn| turn.owners == [a.mac()]), "{:?}", report.timeline());
        assert!(report.overlaps().iter().all(|turn| turn.from >= healed && turn.from <= one));
    }
    assert_eq!(winner.changes().len(), 2);
    Ok(())
}

#[test]
fn a_backup_that_is_unplugged_becomes_master_and_yields_when_it_is_back() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let [master, backup] = Node::start_pair((&a, PREFERRED), (&b, &format!("{OTHER} --preempt")))?;
    let wire = Wire::at(&client)?;
    let probe = Probe::start(&client, VIP, PERIOD)?;
    probe.wait_for_answer_from(a.mac(), LONG)?;
    b.unplug()?;
    backup.wait_for("BACKUP -> MASTER")?;
    b.plug()?;
    let yields = backup.wait_for("MASTER -> BACKUP")?;
    assert!(yields.cause.ends_with("is preferred"), "{yields:?}");
    eventually("the loser has given the address up", LONG, || Ok(!b.has_address(VIP)?))?;
    wire.wait_for_adverts(a.ip(), 6)?;
    assert_eq!(backup.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER", "MASTER -> BACKUP"]);
    assert_eq!(master.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    probe.wait_for_answer_from(a.mac(), LONG)?;
    Ok(())
}

/// Waits for a moment shortly after which the wanted host sends an advert, and clearly before the other.
fn wait_until_next_is(first: First, a: (&Wire, &Host), b: (&Wire, &Host)) -> Result<()> {
    let margin = Duration::from_millis(60);
    loop {
        let (wire, host) = match first {
            First::Winner => b,
            First::Loser => a,
        };
        wire.wait_for_adverts(host.ip(), 1)?;
        let due = [(a, INTERVALS[0]), (b, INTERVALS[1])].map(|((wire, host), interval)| {
            let last = wire.adverts_of(host.ip()).pop().map(|(at, _)| at);
            last.map_or(BootTime::now(), |at| at + interval)
        });
        let now = BootTime::now();
        let (next, other) = match first {
            First::Winner => (due[0], due[1]),
            First::Loser => (due[1], due[0]),
        };
        if next > now + margin / 2 && other > next + margin / 2 {
            return Ok(());
        }
    }
}
