//! What is on the interface already: another agent, another XDP program.

use anyhow::{Context, Result};
use carp_tests::foreign::{Mode, attach};
use carp_tests::{ETH0, LONG, Lab, VIP, Wire};

use crate::{GOOD, assert_says, refusal};

/// An advert every 117 ms, so that nobody waits.
const QUICK: [&str; 2] = ["--advbase=0", "--advskew=30"];

#[test]
fn a_second_agent_for_the_same_virtual_host_is_refused_by_name_of_the_first_which_goes_on() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let mut first = a.carpd(&[&GOOD[..], &QUICK].concat())?;
    first.wait_for_line("BACKUP -> MASTER", LONG)?;
    let program = a.xdp_program()?.context("no XDP program")?;
    let wire = Wire::at(&b)?;

    for options in [&[][..], &["-B"]] {
        let line = refusal(a.carpd(&[&GOOD[..], options].concat())?)?;
        assert_says(&line, &["eth0 vhid 1", &format!("process {}", first.pid())]);
    }
    wire.wait_for_adverts(a.ip(), 3)?;
    assert!(a.has_address(VIP)?);
    assert_eq!(a.xdp_program()?.as_ref(), Some(&program));

    // Elsewhere it is another virtual host: a host of its own, with the same names.
    let elsewhere = b.carpd(&GOOD)?;
    elsewhere.wait_for_line("INIT -> BACKUP", LONG)?;

    // However it ends, its place is free.
    first.kill()?;
    let next = a.carpd(&GOOD)?;
    next.wait_for_line("INIT -> BACKUP", LONG)?;
    Ok(())
}

#[test]
fn an_agent_for_another_vhid_on_the_same_interface_says_whose_program_is_there_and_takes_a_socket() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let mut first = host.carpd(&[&GOOD[..], &QUICK].concat())?;
    first.wait_for_line("BACKUP -> MASTER", LONG)?;
    let program = host.xdp_program()?.context("no XDP program")?;
    let other = ["--interface=eth0", "--vhid=2", "--pass=secret", "--addr=10.77.0.101"];
    let named = format!("id {program}");
    for options in [&["--datapath=native"][..], &["--datapath=native", "-B"], &["--datapath=generic"]] {
        let line = refusal(host.carpd(&[&other[..], options].concat())?)?;
        assert_says(&line, &[ETH0, "XDP program", "carp", &named]);
    }
    assert_eq!(host.xdp_program()?.as_ref(), Some(&program));
    assert!(!host.has_address([10, 77, 0, 101])?);

    let mut second = host.carpd(&[&other[..], &QUICK].concat())?;
    let line = second.wait_for_line("a packet socket on eth0", LONG)?.text;
    assert_says(&line, &["WARN", "vhid 2", "carp_advert", &named]);
    second.wait_for_line("BACKUP -> MASTER", LONG)?;
    assert!(second.stop_and_wait(LONG)?.success());
    assert!(first.stop_and_wait(LONG)?.success());
    assert_eq!(host.xdp_program()?, None);
    Ok(())
}

#[test]
fn a_foreign_xdp_program_is_named_and_stays_where_it_is() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    for mode in [Mode::Native, Mode::Generic] {
        let foreign = attach(&host, ETH0, mode)?;
        let program = host.xdp_program()?.context("no XDP program")?;
        let named = format!("id {program}");
        let line = refusal(host.carpd(&[&GOOD[..], &["--datapath=native"]].concat())?)?;
        assert_says(&line, &[ETH0, "XDP program", "bystander", &named]);
        let mut agent = host.carpd(&GOOD)?;
        let line = agent.wait_for_line("a packet socket on eth0", LONG)?.text;
        assert_says(&line, &["WARN", "XDP program", "bystander", &named]);
        assert!(agent.stop_and_wait(LONG)?.success());
        assert_eq!(host.xdp_program()?.as_ref(), Some(&program));
        drop(foreign);
    }
    let agent = host.carpd(&GOOD)?;
    agent.wait_for_line("INIT -> BACKUP", LONG)?;
    Ok(())
}
