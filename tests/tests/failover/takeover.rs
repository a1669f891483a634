//! A master's host dies, and comes back.

use std::time::Duration;

use anyhow::Result;
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::{ArpWatch, Host, LONG, Lab, Node, Probe, VIP, Wire, eventually};

const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn the_backup_takes_over_once_when_the_masters_host_dies() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    // The preferred host is alone for its first second, and has no need to wait for three.
    let [_master, backup] = Node::start_pair((&a, "--deadratio=1"), (&b, "--advskew=50"))?;
    let wire = Wire::at(&client)?;
    let probe = Probe::start(&client, VIP, 20 * MILLISECOND)?;
    probe.wait_for_answer_from(a.mac(), LONG)?;
    wire.wait_for_adverts(a.ip(), 1)?;

    a.kill_host()?;
    let takeover = backup.wait_for("BACKUP -> MASTER")?;
    let (first_advert, _) = wire.wait_for_advert("b's first", |_, advert| advert.source == b.ip())?;
    assert!(takeover.cause.starts_with("no advert for 3."), "{takeover:?}");
    probe.wait_for_answer_from(b.mac(), LONG)?;
    // The announcement is repeated with the second next advert; with the one after, it has been.
    wire.wait_for_adverts(b.ip(), 3)?;
    assert_eq!(wire.announcements_of(&b, VIP).len(), 2);
    assert!(first_advert < wire.announcements_of(&b, VIP)[0], "advert first, then the address");
    assert_eq!(backup.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);

    let report = probe.stop()?;
    let turns: Vec<_> = report.answered_by().iter().map(|turn| turn.mac).collect();
    assert_eq!(turns, [a.mac(), b.mac()]);
    let [outage] = report.outages()[..] else { panic!("one outage: {:?}", report.outages()) };
    assert!(outage.ended);
    // b waits for 3.195 s from an advert that left up to a second before its host died.
    let bounds = Duration::from_millis(2000)..Duration::from_millis(4195);
    assert!(bounds.contains(&outage.duration()), "{outage:?}");
    Ok(())
}

#[test]
fn a_preferred_host_that_returns_takes_the_address_back_if_it_preempts() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let backup = takes_over(&a, &b)?;
    let wire = Wire::at(&client)?;
    let watch = ArpWatch::start(&client, VIP, 2 * MILLISECOND)?;

    let master = Node::start(&a, &format!("{PREFERRED} --preempt"))?;
    let back = master.wait_for("BACKUP -> MASTER")?;
    assert!(back.cause.starts_with("preempting 10.77.0.2 "), "{back:?}");
    let left = backup.wait_for("MASTER -> BACKUP")?;
    assert!(left.cause.starts_with("10.77.0.1 (") && left.cause.ends_with("is preferred"), "{left:?}");
    wire.wait_for_announcement(&a, VIP, back.at)?;
    eventually("b has given the address up", LONG, || Ok(!b.has_address(VIP)?))?;
    wire.wait_for_adverts(a.ip(), 5)?;
    watch.wait_for_owner(a.mac(), LONG)?;

    assert_eq!(master.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    assert_eq!(backup.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER", "MASTER -> BACKUP"]);
    let owners: Vec<_> = watch.stop()?.timeline().into_iter().map(|turn| turn.owners).collect();
    assert_eq!(owners.first(), Some(&vec![b.mac()]));
    assert_eq!(owners.last(), Some(&vec![a.mac()]));
    Ok(())
}

#[test]
fn a_preferred_host_that_returns_stays_backup_unless_it_preempts() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let backup = takes_over(&a, &b)?;
    let wire = Wire::at(&client)?;
    let watch = ArpWatch::start(&client, VIP, 5 * MILLISECOND)?;

    let returned = Node::start(&a, PREFERRED)?;
    // Three adverts span its dead time.
    wire.wait_for_adverts(b.ip(), 6)?;
    assert_eq!(returned.changes(), ["INIT -> BACKUP"]);
    assert_eq!(backup.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    assert_eq!(wire.adverts_of(a.ip()), []);
    watch.wait_for_owner(b.mac(), LONG)?;
    let owners: Vec<_> = watch.stop()?.timeline().into_iter().map(|turn| turn.owners).collect();
    assert_eq!(owners, [[b.mac()]]);
    Ok(())
}

/// Kills the host of a master, and starts it again without its agent when the other has taken over.
fn takes_over<'h>(a: &'h Host, b: &'h Host) -> Result<Node<'h>> {
    let [_master, backup] = Node::start_pair((a, PREFERRED), (b, OTHER))?;
    a.kill_host()?;
    backup.wait_for("BACKUP -> MASTER")?;
    a.delete_interface()?;
    a.create_interface()?;
    Ok(backup)
}
