//! An agent that ends by a signal, or steps down: nobody waits for a dead time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::{BootTime, Host, LONG, Lab, Node, Probe, VIP, Wire, eventually};
use nix::sys::signal::Signal;

/// Its dead time is 11.8 s: too long to be the reason for a takeover.
const PATIENT: &str = "--advbase=0 --advskew=80 --deadratio=38";

#[test]
fn a_master_that_ends_gives_up_the_address_then_bows_out_and_the_backup_follows_at_once() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let preferred = format!("{PREFERRED} --preempt");
    let [mut master, backup] = Node::start_pair((&a, &preferred), (&b, PATIENT))?;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP] {
        if backup.changes().len() > 1 {
            master = Node::start(&a, &preferred)?;
            backup.wait_for("MASTER -> BACKUP")?;
        }
        let wire = Wire::at(&bystander)?;
        wire.wait_for_adverts(a.ip(), 1)?;
        let left =
            bows_out(&wire, &bystander, &a, || master.agent().signal(signal)).with_context(|| format!("{signal}"))?;

        let takeover = backup.wait_for("BACKUP -> MASTER")?;
        assert_eq!(takeover.cause, "10.77.0.1 leaves");
        assert!(takeover.at.since(left) < Duration::from_secs(2));
        wire.wait_for_announcement(&b, VIP, left)?;
        assert!(master.agent_mut().wait(LONG)?.success(), "{signal}");
        assert_eq!(master.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER", "MASTER -> INIT"]);
        assert!(!a.has_address(VIP)?);
        let (last, _) = wire.adverts_of(a.ip()).pop().context("no advert of a")?;
        assert_eq!(last, left, "the bow-out is the last advert");
    }
    Ok(())
}

#[test]
fn a_backup_that_ends_leaves_without_a_word_and_disturbs_nobody() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let [master, mut backup] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    let wire = Wire::at(&bystander)?;
    wire.wait_for_adverts(a.ip(), 1)?;
    assert!(backup.agent_mut().stop_and_wait(LONG)?.success());
    assert_eq!(backup.changes(), ["INIT -> BACKUP", "BACKUP -> INIT"]);
    wire.wait_for_adverts(a.ip(), 2)?;
    assert_eq!(wire.adverts_of(b.ip()), []);
    assert_eq!(master.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

#[test]
fn a_master_told_to_step_down_leaves_for_some_seconds_although_it_preempts() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let [master, backup] = Node::start_pair((&a, &format!("{PREFERRED} --preempt")), (&b, PATIENT))?;
    let wire = Wire::at(&bystander)?;
    wire.wait_for_adverts(a.ip(), 1)?;

    let left = bows_out(&wire, &bystander, &a, || master.agent().signal(Signal::SIGUSR2))?;
    let down = master.wait_for("MASTER -> BACKUP")?;
    assert_eq!(down.cause, "asked to step down");
    assert_eq!(backup.wait_for("BACKUP -> MASTER")?.cause, "10.77.0.1 leaves");
    wire.wait_for_announcement(&b, VIP, left)?;
    let (silent_until, _) = wire.wait_for_advert("a's next", |at, advert| at > left && advert.source == a.ip())?;
    assert!(silent_until.since(left) >= Duration::from_millis(2900), "back too soon");
    let back = master.wait_for("BACKUP -> MASTER")?;
    assert!(back.cause.starts_with("preempting 10.77.0.2"), "{back:?}");
    backup.wait_for("MASTER -> BACKUP")?;
    wire.wait_for_announcement(&a, VIP, silent_until)?;
    assert_eq!(master.changes().len(), 4);
    assert_eq!(backup.changes().len(), 3);
    Ok(())
}

#[test]
fn a_backup_told_to_step_down_has_nothing_to_step_down_from() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let [master, backup] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    let wire = Wire::at(&bystander)?;
    backup.agent().signal(Signal::SIGUSR2)?;
    wire.wait_for_adverts(a.ip(), 2)?;
    assert!(backup.report()?.text.contains("vhid 1: BACKUP for "));
    assert_eq!(wire.adverts_of(b.ip()), []);
    assert_eq!(backup.changes(), ["INIT -> BACKUP"]);
    assert_eq!(master.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

#[test]
fn a_request_for_the_state_is_answered_with_state_and_counters() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let [master, backup] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    Wire::at(&bystander)?.wait_for_adverts(a.ip(), 3)?;
    let told = backup.report()?;
    assert!(told.text.contains("eth0 vhid 1: BACKUP for ") && told.text.contains("adverts sent: 0;"), "{}", told.text);
    assert!(told.count("ipackets") >= 3, "{}", told.text);
    let told = master.report()?.text;
    assert!(told.contains("MASTER for ") && told.contains("demotion 0, no advert heard;"), "{told}");
    assert!(told.ends_with("received: none"), "{told}");
    Ok(())
}

/// Has the master on a host leave, and asserts that it answers nobody when the bow-out has been sent. Returns when that was.
fn bows_out(wire: &Wire, client: &Host, host: &Host, leave: impl FnOnce() -> Result<()>) -> Result<BootTime> {
    let probe = Probe::start(client, VIP, Duration::from_millis(1))?;
    probe.wait_for_answer_from(host.mac(), LONG)?;
    leave()?;
    let own = |source| source == host.ip();
    let (left, _) = wire.wait_for_advert("a bow-out", |_, advert| own(advert.source) && advert.is_bow_out())?;
    eventually("it was asked some more", LONG, || Ok(BootTime::now().since(left) > Duration::from_millis(50)))?;
    let answers = probe.stop()?;
    let last = answers.answers().iter().rfind(|answer| answer.mac == host.mac()).context("no answer")?.at;
    // One may be on its way.
    let late = last.since(left);
    ensure!(late < Duration::from_millis(1), "it answered {late:?} after the bow-out");
    Ok(left)
}
