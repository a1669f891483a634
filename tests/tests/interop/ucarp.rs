//! carpd and ucarp share an address: each takes over from the other.

use std::time::Duration;

use anyhow::{Context, Result};
use carp_tests::peers::UCARPS_DELAY;
use carp_tests::{BootTime, Host, LONG, Lab, Node, Ucarp, VIP, Wire, eventually, is_missing};

use crate::at_once;

/// Options of whoever is to be master first: a dead time of a second.
const FIRST: &str = "--advbase=1 --deadratio=1";
/// Options of the other one: 100/256 s are added to its times.
const SECOND: &str = "--advbase=1 --advskew=100";
/// Its dead time.
const DEAD_TIME: Duration = Duration::from_nanos(3_390_625_000);

/// How a master ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    HostDies,
    IsStopped,
}

#[test]
fn carpd_takes_over_from_a_ucarp_whose_host_dies_or_that_is_stopped() -> Result<()> {
    if is_missing("ucarp")? {
        return Ok(());
    }
    at_once(&[End::HostDies, End::IsStopped], |end| carpd_takes_over(*end))
}

fn carpd_takes_over(end: End) -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let mut ucarp = Ucarp::start(&a, FIRST)?;
    ucarp.wait_for("MASTER")?;
    let wire = Wire::at(&bystander)?;
    let node = Node::start(&b, SECOND)?;
    wire.wait_for_adverts(a.ip(), 2)?;
    assert_eq!(node.changes(), ["INIT -> BACKUP"]);
    match end {
        End::HostDies => a.kill_host()?,
        End::IsStopped => {
            ucarp.stop()?;
            assert!(!a.has_address(VIP)?);
        }
    }
    // ucarp does not say that it leaves.
    let takeover = node.wait_for("BACKUP -> MASTER")?;
    assert!(takeover.cause.starts_with("no advert for "), "{takeover:?}");
    let (last, _) = wire.adverts_of(a.ip()).pop().context("no advert of ucarp's")?;
    assert!(takeover.at.since(last) >= DEAD_TIME);
    wire.wait_for_announcement(&b, VIP, last)?;
    eventually("the address is there", LONG, || b.has_address(VIP))?;
    assert_eq!(node.report()?.count("echo"), 0);
    Ok(())
}

#[test]
fn ucarp_takes_over_from_a_carpd_whose_host_dies_or_that_is_stopped() -> Result<()> {
    if is_missing("ucarp")? {
        return Ok(());
    }
    at_once(&[End::HostDies, End::IsStopped], |end| ucarp_takes_over(*end))
}

fn ucarp_takes_over(end: End) -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let mut node = Node::start(&a, FIRST)?;
    node.wait_for("BACKUP -> MASTER")?;
    let wire = Wire::at(&bystander)?;
    let ucarp = Ucarp::start(&b, SECOND)?;
    wire.wait_for_adverts(a.ip(), 5)?;
    assert_eq!(ucarp.states(), ["BACKUP"]);
    match end {
        End::HostDies => a.kill_host()?,
        End::IsStopped => {
            assert!(node.agent_mut().stop_and_wait(LONG)?.success());
            assert!(!a.has_address(VIP)?);
        }
    }
    ucarp.wait_for("MASTER")?;
    let (first, _) = wire.wait_for_advert("ucarp's first", |_, advert| advert.source == b.ip())?;
    let (last, _) = wire.adverts_of(a.ip()).pop().context("no advert of carpd's")?;
    eventually("the address is there", LONG, || b.has_address(VIP))?;
    let waited = first.since(last);
    match end {
        End::HostDies => assert!(waited >= DEAD_TIME && waited <= DEAD_TIME + UCARPS_DELAY, "{waited:?}"),
        // It understands that carpd leaves, once it has read it.
        End::IsStopped => assert!(waited < DEAD_TIME, "{waited:?}"),
    }
    Ok(())
}

#[test]
fn a_preferred_carpd_that_preempts_takes_the_address_back_from_ucarp() -> Result<()> {
    if is_missing("ucarp")? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let ucarp = Ucarp::start(&b, &format!("{SECOND} --deadratio=1"))?;
    ucarp.wait_for("MASTER")?;
    let wire = Wire::at(&bystander)?;
    let node = Node::start(&a, "--advbase=1 --preempt")?;
    let takeover = node.wait_for("BACKUP -> MASTER")?;
    assert!(takeover.cause.starts_with("preempting 10.77.0.2 ("), "{takeover:?}");
    ucarp.wait_for("BACKUP")?;
    owns_alone(&a, &b)?;
    let settled = BootTime::now();
    wire.wait_for_adverts(a.ip(), 3)?;
    assert!(wire.adverts_of(b.ip()).iter().all(|(at, _)| *at < settled));
    assert_eq!(ucarp.states(), ["BACKUP", "MASTER", "BACKUP"]);
    assert_eq!(node.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

#[test]
fn a_preferred_ucarp_that_preempts_takes_the_address_back_from_carpd() -> Result<()> {
    if is_missing("ucarp")? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let node = Node::start(&b, &format!("{SECOND} --deadratio=2"))?;
    node.wait_for("BACKUP -> MASTER")?;
    let wire = Wire::at(&bystander)?;
    let ucarp = Ucarp::start(&a, "--advbase=1 --preempt")?;
    ucarp.wait_for("MASTER")?;
    let yields = node.wait_for("MASTER -> BACKUP")?;
    assert!(yields.cause.starts_with("10.77.0.1 (") && yields.cause.ends_with("is preferred"), "{yields:?}");
    owns_alone(&a, &b)?;
    let settled = BootTime::now();
    wire.wait_for_adverts(a.ip(), 3)?;
    assert!(wire.adverts_of(b.ip()).iter().all(|(at, _)| *at < settled));
    assert_eq!(ucarp.states(), ["BACKUP", "MASTER"]);
    assert_eq!(node.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER", "MASTER -> BACKUP"]);
    assert_eq!(node.report()?.count("echo"), 0);
    Ok(())
}

#[test]
fn without_preempt_a_preferred_host_leaves_the_other_one_master() -> Result<()> {
    if is_missing("ucarp")? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let ucarp = Ucarp::start(&b, &format!("{SECOND} --deadratio=1"))?;
    ucarp.wait_for("MASTER")?;
    let wire = Wire::at(&bystander)?;
    let node = Node::start(&a, "--advbase=1")?;
    // Longer than its dead time of three seconds.
    wire.wait_for_adverts(b.ip(), 4)?;
    assert_eq!(node.changes(), ["INIT -> BACKUP"]);
    assert_eq!(wire.adverts_of(a.ip()), []);
    assert_eq!(ucarp.states(), ["BACKUP", "MASTER"]);
    Ok(())
}

/// Waits until one host has the address and the other one has not.
fn owns_alone(owner: &Host, other: &Host) -> Result<()> {
    eventually("one has the address", LONG, || owner.has_address(VIP))?;
    eventually("the other has given it up", LONG, || Ok(!other.has_address(VIP)?))
}
