//! ucarp's signals.

use anyhow::Result;
use carp_tests::{LONG, Lab, VIP, eventually};
use nix::sys::signal::Signal;

use crate::{VHOST, is_clean};

#[test]
fn every_signal_that_ends_it_leaves_nothing_behind_and_the_exit_code_0() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP] {
        let mut master = host.carpd(&VHOST)?;
        eventually("the VIP is there", LONG, || host.has_address(VIP))?;
        assert!(host.xdp_program()?.is_some());
        master.signal(signal)?;
        assert_eq!(master.wait(LONG)?.code(), Some(0), "{signal} as MASTER");
        assert!(is_clean(&host)?, "{signal} as MASTER");
        let last = master.lines().pop();
        assert!(last.is_some_and(|line| line.text.ends_with("stopped")));

        let mut backup = host.carpd(&[&VHOST[..], &["--deadratio=255"]].concat())?;
        backup.wait_for_line("INIT -> BACKUP", LONG)?;
        backup.signal(signal)?;
        assert_eq!(backup.wait(LONG)?.code(), Some(0), "{signal} as BACKUP");
        assert!(is_clean(&host)?, "{signal} as BACKUP");
    }
    Ok(())
}

#[test]
fn a_signal_before_there_is_an_interface_ends_it_too() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    host.delete_interface()?;
    let mut agent = host.carpd(&VHOST)?;
    agent.wait_for_line("INIT: the interface does not exist; waiting for it", LONG)?;
    assert_eq!(agent.stop_and_wait(LONG)?.code(), Some(0));
    Ok(())
}

#[test]
fn sigusr1_tells_the_state() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let agent = host.carpd(&VHOST)?;
    agent.wait_for_line("BACKUP -> MASTER", LONG)?;
    agent.signal(Signal::SIGUSR1)?;
    let told = agent.wait_for_line("eth0 vhid 1: MASTER for", LONG)?.text;
    assert!(told.contains("no advert heard") && told.contains("adverts sent"), "{told}");
    Ok(())
}
