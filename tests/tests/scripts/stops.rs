//! The end of a mastership, and of the agent: the down script always runs, and not for ever.

use std::time::Duration;

use anyhow::Result;
use carp_tests::adverts::{Election, Signer};
use carp_tests::{BootTime, ETH0, LONG, Lab, VIP, Wire, eventually, send_frame};
use nix::sys::signal::Signal;

use crate::{Scripts, carpd, runs};

const UP: &str = "up eth0 10.77.0.100";
const DOWN: &str = "down eth0 10.77.0.100";

#[test]
fn a_stop_runs_the_down_script_as_master_and_as_backup() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let scripts = Scripts::new()?;
        let mut master = carpd(&host, &scripts.write_both("", "")?)?;
        scripts.wait_for_events(&[DOWN, UP])?;
        master.signal(signal)?;
        assert!(master.wait(LONG)?.success());
        assert_eq!(scripts.events()?, [DOWN, UP, DOWN]);

        let scripts = Scripts::new()?;
        let [up, down] = scripts.write_both("", "")?;
        let mut backup = carpd(&host, &[&up, &down, "--neutral", "--deadratio=255"])?;
        backup.wait_for_line("INIT -> BACKUP", LONG)?;
        backup.signal(signal)?;
        assert!(backup.wait(LONG)?.success());
        assert_eq!(scripts.events()?, [DOWN]);
        backup.wait_for_line("exit status: 0", LONG)?;
        backup.wait_for_line("stopped", LONG)?;
    }
    Ok(())
}

#[test]
fn a_down_script_goes_on_when_it_is_told_to_end_with_the_agent() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let scripts = Scripts::new()?;
    let [up, down] = scripts.write_both("", "kill -TERM $$")?;
    let mut agent = carpd(&host, &[&up, &down, "--neutral"])?;
    scripts.wait_for_events(&[UP])?;
    assert!(agent.stop_and_wait(LONG)?.success());
    agent.wait_for_line("down eth0 10.77.0.100: exit status: 0", LONG).map(drop)
}

#[test]
fn a_hanging_down_script_holds_up_the_stop_no_longer_than_its_limit() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let scripts = Scripts::new()?;
    let [up, down] = scripts.write_both("", "trap '' TERM; echo $$ > \"$here/pid\"; while :; do sleep 1; done")?;
    let options = [&up, &down, "--neutral", "--script-timeout=1", "--addr=10.77.0.101"];
    let mut agent = carpd(&a, &options)?;
    agent.wait_for_line("BACKUP -> MASTER", LONG)?;
    scripts.wait_for_events(&[UP, "up eth0 10.77.0.101"])?;
    let wire = Wire::at(&bystander)?;
    let asked = BootTime::now();
    assert!(agent.stop_and_wait(LONG)?.success());
    let took = BootTime::now().since(asked);
    // The limit, then a second between SIGTERM and SIGKILL, for each VIP at most.
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(5), "{took:?}");
    agent.wait_for_line("was killed: it ran longer than 1 s", LONG)?;
    assert!(!runs(scripts.number_in("pid")?));
    let (_, last) = wire.wait_for_advert("the bow-out", |_, advert| advert.is_bow_out())?;
    assert_eq!(last.source, a.ip());
    Ok(())
}

#[test]
fn mastership_lost_while_the_up_script_hangs_runs_the_down_script_at_once() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let scripts = Scripts::new()?;
    let [up, down] = scripts.write_both("echo $$ > \"$here/pid\"; sleep 600", "")?;
    let agent = carpd(&a, &[&up, &down, "--neutral", "--script-timeout=600"])?;
    scripts.wait_for_events(&[UP])?;
    let pid = scripts.number_in("pid")?;
    assert!(runs(pid));

    let better = Signer::new("secret", 1, &[VIP])?.advert(b.ip(), Election::new(0, 10), 1);
    send_frame(b.ns(), ETH0, &better)?;
    let lost = agent.wait_for_line("MASTER -> BACKUP", LONG)?;
    agent.wait_for_line("down eth0 10.77.0.100: exit status: 0", LONG)?;
    assert!(BootTime::now().since(lost.at) < Duration::from_secs(5));
    assert_eq!(scripts.events()?[..2], [UP, DOWN]);
    eventually("the up script is gone", LONG, || Ok(!runs(pid)))
}

#[test]
fn a_stop_while_the_up_script_hangs_runs_the_down_script_at_once() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let scripts = Scripts::new()?;
    let [up, down] = scripts.write_both("echo $$ > \"$here/pid\"; sleep 600", "")?;
    let mut agent = carpd(&host, &[&up, &down, "--neutral", "--script-timeout=600"])?;
    let pid = scripts.number_in("pid")?;
    let asked = BootTime::now();
    assert!(agent.stop_and_wait(LONG)?.success());
    assert!(BootTime::now().since(asked) < Duration::from_secs(5));
    assert_eq!(scripts.events()?, [UP, DOWN]);
    assert!(!runs(pid));
    Ok(())
}
