//! Virtual addresses are added on one server after the other, and nobody notices.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use carp_tests::configured::{carpctl, changes, folder, start, virtual_host, wait_for_change, write};
use carp_tests::{Folder, LONG, Lab, Probe, VIP, Wire, eventually};
use jiff::{SignedDuration, Timestamp};

const SECOND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);
const PERIOD: Duration = Duration::from_millis(10);

/// Gives the virtual host both addresses, with or without word of what it had before.
fn add_second(folder: &Folder, skew: u8, rollout: bool, until: Timestamp) -> Result<()> {
    let rollout =
        if rollout { format!("rollout = {{ from = [\"{VIP}\"], until = \"{until}\" }}\n") } else { String::new() };
    let host = virtual_host(1, VIP, &format!("advskew = {skew}\n{rollout}"));
    write(folder, &[host.replace(&format!("\"{VIP}\"]\nadv"), &format!("\"{VIP}\", \"{SECOND}\"]\nadv"))])
}

fn reload(folder: &Folder) -> Result<()> {
    let done = carpctl(folder, &["reload"])?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

#[test]
fn an_address_is_added_on_one_server_after_the_other_without_two_masters_and_without_an_outage() -> Result<()> {
    for backup_first in [true, false] {
        let lab = Lab::new()?;
        let [a, b, client] = lab.hosts(["a", "b", "client"])?;
        let [of_a, of_b] = [folder()?, folder()?];
        write(&of_a, &[virtual_host(1, VIP, "advskew = 60")])?;
        write(&of_b, &[virtual_host(1, VIP, "advskew = 80")])?;
        let on_a = start(&a, &of_a)?;
        wait_for_change(&on_a, "eth0 vhid 1", "BACKUP -> MASTER")?;
        let on_b = start(&b, &of_b)?;
        wait_for_change(&on_b, "eth0 vhid 1", "INIT -> BACKUP")?;
        let probe = Probe::start(&client, VIP, PERIOD)?;
        probe.wait_for_answer_from(a.mac(), LONG)?;
        let wire = Wire::at(&client)?;

        let tomorrow = Timestamp::now() + SignedDuration::from_hours(24);
        let mut order = [(&of_a, 60), (&of_b, 80)];
        if backup_first {
            order.reverse();
        }
        for rollout in [true, false] {
            for (folder, skew) in order {
                add_second(folder, skew, rollout, tomorrow)?;
                reload(folder)?;
                // Longer than the backup's dead time.
                wire.wait_for_adverts(a.ip(), 16)?;
            }
        }
        eventually("the second address is there", LONG, || a.has_address(SECOND))?;
        assert_eq!(changes(&on_a, "eth0 vhid 1"), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
        assert_eq!(changes(&on_b, "eth0 vhid 1"), ["INIT -> BACKUP"]);
        let outage = probe.stop()?.longest_outage();
        assert!(outage < Duration::from_millis(500), "no answer for {outage:?}");
    }
    Ok(())
}

#[test]
fn a_rollout_ends_by_itself() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let of_a = folder()?;
    add_second(&of_a, 60, true, Timestamp::now() + SignedDuration::from_secs(3))?;
    let on_a = start(&a, &of_a)?;
    wait_for_change(&on_a, "eth0 vhid 1", "BACKUP -> MASTER")?;
    on_a.wait_for_line("eth0 vhid 1: the rollout is over", LONG)?;
    assert_eq!(changes(&on_a, "eth0 vhid 1"), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}
