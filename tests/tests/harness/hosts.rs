//! Cables, carriers, splits: what can happen to a host.

use std::net::IpAddr;

use anyhow::Result;
use carp_tests::{Agent, BootTime, Lab, Probe, eventually};

use crate::namespaces::runs;
use crate::{LONG, MILLISECOND, VIP, VIP_PREFIX, capture_arp, is_said, say, shell};

#[test]
fn split_hosts_keep_their_carrier_but_hear_each_other_only_after_the_heal() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, c] = lab.hosts(["a", "b", "c"])?;
    let [at_b, at_c] = [capture_arp(&b)?, capture_arp(&c)?];

    lab.split(&[&a], &[&b, &c])?;
    say(&a, 1)?;
    say(&b, 2)?;
    at_c.wait_for("what b said", LONG, |frame| is_said(&frame.bytes, 2))?;
    lab.heal()?;
    say(&a, 3)?;
    at_b.wait_for("what a said", LONG, |frame| is_said(&frame.bytes, 3))?;
    at_c.wait_for("what a said", LONG, |frame| is_said(&frame.bytes, 3))?;

    for capture in [at_b, at_c] {
        assert!(capture.stop()?.iter().all(|frame| !is_said(&frame.bytes, 1)));
    }
    assert!(a.has_carrier()? && b.has_carrier()? && c.has_carrier()?);
    Ok(())
}

#[test]
fn an_unplugged_host_keeps_its_carrier_and_hears_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let at_b = capture_arp(&b)?;
    b.unplug()?;
    assert!(b.has_carrier()?);
    say(&a, 1)?;
    b.plug()?;
    say(&a, 2)?;
    at_b.wait_for("what a said", LONG, |frame| is_said(&frame.bytes, 2))?;
    assert!(at_b.stop()?.iter().all(|frame| !is_said(&frame.bytes, 1)));
    Ok(())
}

#[test]
fn a_host_sees_its_carrier_go_and_come() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let operstate = |wanted: &str| {
        eventually(wanted, LONG, || {
            let link = a.ns().ip("-brief link show dev eth0")?;
            Ok(link.split_whitespace().nth(1) == Some(wanted))
        })
    };
    operstate("UP")?;
    a.set_carrier(false)?;
    assert!(!a.has_carrier()?);
    operstate("DOWN")?;
    a.set_carrier(true)?;
    assert!(a.has_carrier()?);
    operstate("UP")
}

#[test]
fn a_deleted_interface_comes_back_as_it_was() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    a.add_address(VIP_PREFIX)?;
    assert_eq!(a.addresses()?, [(IpAddr::from(a.ip()), 24), (IpAddr::from(VIP), 32)]);
    a.delete_interface()?;
    assert!(a.addresses().is_err());
    a.create_interface()?;
    assert_eq!(a.addresses()?, [(IpAddr::from(a.ip()), 24)]);
    let probe = Probe::start(&b, a.ip(), MILLISECOND)?;
    probe.wait_for_answer_from(a.mac(), LONG)?;
    Ok(())
}

#[test]
fn a_killed_host_falls_silent_and_its_programs_end() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let mut agent = Agent::spawn("sleep", shell(a.ns(), "setsid sleep 600 & echo $!; exec sleep 600"))?;
    let left_behind = agent.wait_for_line_that("is a number", LONG, |line| line.parse::<u32>().is_ok())?;
    let probe = Probe::start(&b, a.ip(), MILLISECOND)?;
    probe.wait_for_answer_from(a.mac(), LONG)?;
    a.kill_host()?;
    let dead = BootTime::now();
    assert_eq!(agent.wait(LONG)?.code(), None);
    assert!(!runs(&left_behind.text));
    let report = probe.stop()?;
    assert!(report.answers().iter().all(|answer| answer.at <= dead));
    Ok(())
}
