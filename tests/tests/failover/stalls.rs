//! An agent that stands still for a while (SIGSTOP) and goes on as if nothing had happened.

use anyhow::Result;
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::{BootTime, LONG, Lab, Node, VIP, Wire, eventually};
use nix::sys::signal::Signal;

#[test]
fn a_master_that_wakes_beside_a_better_one_yields_before_it_says_anything() -> Result<()> {
    wakes_beside_one_who_stays(OTHER, PREFERRED, "is preferred")
}

#[test]
fn a_master_that_wakes_beside_an_equal_one_yields_before_it_says_anything() -> Result<()> {
    wakes_beside_one_who_stays(OTHER, OTHER, "is as good and was heard first")
}

/// The first one is master first, stalls until the other has long been master, and must yield to it.
fn wakes_beside_one_who_stays(first: &str, second: &str, cause: &str) -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let [stalls, stays] = Node::start_pair((&a, first), (&b, second))?;
    let wire = Wire::at(&bystander)?;
    stalls.agent().signal(Signal::SIGSTOP)?;
    stays.wait_for("BACKUP -> MASTER")?;
    wire.wait_for_adverts(b.ip(), 4)?;

    let woken = BootTime::now();
    stalls.agent().signal(Signal::SIGCONT)?;
    let yields = stalls.wait_for("MASTER -> BACKUP")?;
    assert!(yields.cause.starts_with("10.77.0.2 (") && yields.cause.ends_with(cause), "{yields:?}");
    eventually("a has given the address up", LONG, || Ok(!a.has_address(VIP)?))?;
    // Longer than a's dead time.
    wire.wait_for_adverts(b.ip(), 5)?;
    let late: Vec<_> = wire.adverts_of(a.ip()).into_iter().filter(|(at, _)| *at >= woken).collect();
    assert_eq!(late, [], "a advertised after it woke at {woken}");
    assert_eq!(stalls.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER", "MASTER -> BACKUP"]);
    assert_eq!(stays.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    assert!(b.has_address(VIP)? && !a.has_address(VIP)?);
    Ok(())
}

#[test]
fn a_master_that_wakes_beside_a_worse_one_stays_and_is_heard() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let [stalls, yields] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    let wire = Wire::at(&bystander)?;
    stalls.agent().signal(Signal::SIGSTOP)?;
    yields.wait_for("BACKUP -> MASTER")?;
    wire.wait_for_adverts(b.ip(), 4)?;

    let woken = BootTime::now();
    stalls.agent().signal(Signal::SIGCONT)?;
    let yielded = yields.wait_for("MASTER -> BACKUP")?;
    assert!(yielded.cause.ends_with("is preferred"), "{yielded:?}");
    eventually("b has given the address up", LONG, || Ok(!b.has_address(VIP)?))?;
    wire.wait_for_announcement(&a, VIP, woken)?;
    wire.wait_for_adverts(a.ip(), 5)?;
    assert_eq!(stalls.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    assert_eq!(yields.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER", "MASTER -> BACKUP"]);
    assert!(a.has_address(VIP)? && !b.has_address(VIP)?);
    Ok(())
}

#[test]
fn a_backup_that_wakes_past_its_dead_time_stays_backup_if_the_master_went_on() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let [master, stalls] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    let wire = Wire::at(&bystander)?;
    stalls.agent().signal(Signal::SIGSTOP)?;
    // Twice the dead time of b.
    wire.wait_for_adverts(a.ip(), 9)?;
    stalls.agent().signal(Signal::SIGCONT)?;
    let told = stalls.report()?;
    assert!(told.text.contains("vhid 1: BACKUP for ") && told.text.contains("adverts sent: 0;"), "{}", told.text);
    wire.wait_for_adverts(a.ip(), 5)?;
    assert_eq!(wire.adverts_of(b.ip()), []);
    assert_eq!(stalls.changes(), ["INIT -> BACKUP"]);
    assert_eq!(master.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}
