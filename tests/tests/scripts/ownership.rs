//! With a script, the script owns the address: the agent only announces it, when the script is done.

use std::time::Duration;

use anyhow::Result;
use carp_tests::{BootTime, ETH0, Host, LONG, Lab, VHID, VIP, Wire, eventually};

use crate::{Scripts, carpd};

const ADD: &str = "ip address add $2/32 dev $1";
const REMOVE: &str = "ip address del $2/32 dev $1; true";

#[test]
fn the_scripts_move_the_address() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let scripts = Scripts::new()?;
    let wire = Wire::at(&bystander)?;
    let mut agent = carpd(&a, &scripts.write_both(ADD, REMOVE)?)?;
    let (master, _) = wire.wait_for_advert("the first", |_, advert| advert.source == a.ip())?;
    wire.wait_for_announcement(&a, VIP, master)?;
    assert!(a.has_address(VIP)?, "announced before it was there");
    assert!(agent.stop_and_wait(LONG)?.success());
    assert!(!a.has_address(VIP)?);
    Ok(())
}

#[test]
fn the_agent_never_adds_an_address_that_the_script_does_not() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    for script in ["up", "down"] {
        let scripts = Scripts::new()?;
        let wire = Wire::at(&bystander)?;
        let mut agent = carpd(&a, &[scripts.write(script, "")?])?;
        let (master, _) = wire.wait_for_advert("the first", |_, advert| advert.source == a.ip())?;
        wire.wait_for_announcement(&a, VIP, master)?;
        wire.wait_for_adverts(a.ip(), 5)?;
        assert!(!a.has_address(VIP)?, "added with only --{script}script");
        assert!(agent.stop_and_wait(LONG)?.success());
    }
    Ok(())
}

#[test]
fn the_agent_never_removes_an_address_that_the_script_leaves() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    a.add_address("10.77.0.100/32")?;
    let scripts = Scripts::new()?;
    let mut agent = carpd(&a, &scripts.write_both("", "")?)?;
    agent.wait_for_line("BACKUP -> MASTER", LONG)?;
    assert!(agent.stop_and_wait(LONG)?.success());
    assert!(a.has_address(VIP)?);
    assert!(
        agent.lines().iter().all(|line| !line.text.contains("removing it") && !line.text.contains("putting it back"))
    );
    Ok(())
}

#[test]
fn adverts_go_on_while_the_up_script_works_and_announcements_follow_it() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let scripts = Scripts::new()?;
    let wire = Wire::at(&bystander)?;
    let _agent = carpd(&a, &scripts.write_both(&format!("sleep 0.8; {ADD}"), REMOVE)?)?;
    let (master, _) = wire.wait_for_advert("the first", |_, advert| advert.source == a.ip())?;
    let announced = wire.wait_for_announcement(&a, VIP, master)?;
    assert!(announced.since(master) >= Duration::from_millis(800), "before the script had ended");
    assert!(a.has_address(VIP)?);
    assert_advertises(&wire, &a, master, announced);
    Ok(())
}

#[test]
fn a_hanging_up_script_holds_up_no_advert_and_announcements_only_to_its_time_limit() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let scripts = Scripts::new()?;
    let wire = Wire::at(&bystander)?;
    let options = [scripts.write("up", &format!("{ADD}; exec sleep 600"))?, "--script-timeout=1".to_owned()];
    let agent = carpd(&a, &options)?;
    let (master, _) = wire.wait_for_advert("the first", |_, advert| advert.source == a.ip())?;
    eventually("the script has added the VIP", LONG, || a.has_address(VIP))?;
    let announced = wire.wait_for_announcement(&a, VIP, master)?;
    let waited = announced.since(master);
    assert!(waited >= Duration::from_secs(1) && waited < Duration::from_secs(4), "after {waited:?}");
    agent.wait_for_line("was killed: it ran longer than 1 s", LONG)?;
    let (later, _) = wire.wait_for_adverts(a.ip(), 3)?;
    assert_advertises(&wire, &a, master, later);
    assert!(a.has_address(VIP)?, "what the script did stays done");
    Ok(())
}

/// Asserts that a host advertised all the time, with no gap that a backup would take for its death.
pub(crate) fn assert_advertises(wire: &Wire, host: &Host, from: BootTime, to: BootTime) {
    let longest = wire.longest_silence(host.ip(), VHID, from, to);
    assert!(longest < Duration::from_millis(351), "{ETH0} was silent for {longest:?}");
}
