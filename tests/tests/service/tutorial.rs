//! The tutorial's way: ucarp as a oneshot service on two servers, with the path of carpd and nothing else changed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use carp_tests::{Host, LONG, Lab, VIP, eventually, is_missing};

use crate::BOOT;
use crate::machine::Machine;

#[test]
fn the_tutorials_unit_works_as_it_stands_and_the_journal_tells_of_a_failover() -> Result<()> {
    if is_missing(BOOT)? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let first = server(&a)?;
    first.run("systemctl start ucarp")?;
    eventually("the first server has the VIP", LONG, || a.has_address(VIP))?;
    let second = server(&b)?;
    second.run("systemctl start ucarp")?;
    second.wait_for_journal("ucarp", &["INIT -> BACKUP"])?;
    assert_eq!(first.property("ucarp", "SubState")?, "exited");

    first.run("systemctl stop ucarp")?;
    assert!(!a.has_address(VIP)?, "systemd waits for the stop, and the stop for the down script");
    eventually("the second server has the VIP", LONG, || b.has_address(VIP))?;
    for (server, told) in [
        (&first, &["eth0 vhid 1: BACKUP -> MASTER, no advert for 3.", "vip-up eth0 10.77.0.100: exit status: 0"][..]),
        (&first, &["eth0 vhid 1: MASTER -> INIT, stopping", "vip-down eth0 10.77.0.100: exit status: 0", "stopped"]),
        (&second, &["eth0 vhid 1: BACKUP -> MASTER, 10.77.0.1 leaves", "vip-up eth0 10.77.0.100: exit status: 0"]),
    ] {
        server.wait_for_journal("ucarp", told)?;
    }
    assert!(!first.journal("ucarp")?.contains("bYaTxPw2") && !second.journal("ucarp")?.contains("bYaTxPw2"));

    // Back, as the tutorial's --preempt has it with equal skews: nobody is better, so nothing moves.
    first.run("systemctl start ucarp")?;
    second.run("systemctl stop ucarp")?;
    eventually("the first server has the VIP again", LONG, || a.has_address(VIP))?;
    assert!(!b.has_address(VIP)?);
    Ok(())
}

/// A server as the tutorial has it, with our path, names and addresses.
fn server(host: &Host) -> Result<Machine<'_>> {
    let machine = Machine::with_package(host)?;
    for (script, verb) in [("/root/vip-up", "add"), ("/root/vip-down", "del")] {
        machine.write(script, &format!("#!/bin/sh\nexec ip addr {verb} \"$2\"/24 dev \"$1\"\n"))?;
        fs::set_permissions(machine.path(script)?, Permissions::from_mode(0o755))
            .context("making a script executable")?;
    }
    let unit = format!(
        "[Unit]\n\
         Description=UCARP virtual interface\n\
         DefaultDependencies=no\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart=/usr/sbin/carpd --interface=eth0 --pass=bYaTxPw2 --srcip={} --vhid=1 --addr={VIP} --shutdown \
         --preempt --upscript=/root/vip-up --downscript=/root/vip-down -B\n",
        host.ip()
    );
    machine.write("/etc/systemd/system/ucarp.service", &unit)?;
    machine.run("systemctl daemon-reload")?;
    Ok(machine)
}
