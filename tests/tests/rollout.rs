//! Virtual addresses are added on one server after the other, and nobody notices.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use carp_tests::configured::{carpctl, changes, folder, start, virtual_host, wait_for_change, write};
use carp_tests::{BootTime, Folder, Host, LONG, Lab, LabOptions, Probe, VIP, Wire, eventually};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

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

/// What `carpctl status` says of a rollout, and what it says with `--json`.
fn told_of_rollout(folder: &Folder) -> Result<(Option<String>, Value)> {
    let [table, json] = [&["status"][..], &["status", "--json"]].map(|words| carpctl(folder, words));
    let line = String::from_utf8(table?.stdout)?.lines().find(|line| line.contains("rollout")).map(str::to_owned);
    let mut status: Value = serde_json::from_slice(&json?.stdout)?;
    Ok((line, status["virtual_hosts"][0]["rollout"].take()))
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
                let until = format!("{tomorrow:.3}");
                let line =
                    format!("  eth0 vhid 1: rollout until {until}: adverts for {VIP} are sent and accepted, too");
                let expected =
                    if rollout { (Some(line), json!({"from": [VIP], "until": until})) } else { (None, Value::Null) };
                assert_eq!(told_of_rollout(folder)?, expected);
                // Longer than the backup's dead time.
                wire.wait_for_adverts(a.ip(), 16)?;
            }
        }
        eventually("the second address is there", LONG, || a.has_address(SECOND))?;
        assert_eq!(changes(&on_a, "eth0 vhid 1"), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
        assert_eq!(changes(&on_b, "eth0 vhid 1"), ["INIT -> BACKUP"]);
        let outages = probe.stop()?.outages();
        assert!(outages.is_empty(), "no answer: {outages:?}");
    }
    Ok(())
}

/// Changes the addresses of a master and of its backup, one after the other, in either order; neither's state changes.
fn change_under_a_master(before: &[&str], after: &[&str]) -> Result<()> {
    for backup_first in [true, false] {
        let lab = Lab::with(LabOptions { ipv6: true, ..LabOptions::default() })?;
        let [a, b] = lab.hosts(["a", "b"])?;
        let [of_a, of_b] = [folder()?, folder()?];
        let serve = |folder: &Folder, skew, vips: &[&str], from: Option<&[&str]>| {
            let until = Timestamp::now() + SignedDuration::from_hours(24);
            let rollout = from.map(|from| format!("rollout = {{ from = {from:?}, until = \"{until}\" }}\n"));
            let rollout = rollout.unwrap_or_default();
            write(folder, &[format!("[[virtual_host]]\nvhid = 1\naddresses = {vips:?}\nadvskew = {skew}\n{rollout}")])
        };
        serve(&of_a, 60, before, None)?;
        serve(&of_b, 80, before, None)?;
        let on_a = start(&a, &of_a)?;
        wait_for_change(&on_a, "eth0 vhid 1", "BACKUP -> MASTER")?;
        let on_b = start(&b, &of_b)?;
        wait_for_change(&on_b, "eth0 vhid 1", "INIT -> BACKUP")?;
        let wire = Wire::at(&b)?;
        let mut order = [(&of_a, 60), (&of_b, 80)];
        if backup_first {
            order.reverse();
        }
        for from in [Some(before), None] {
            for (folder, skew) in order {
                serve(folder, skew, after, from)?;
                reload(folder)?;
                let reloaded = BootTime::now();
                // Longer than the backup's dead time.
                let is_later = |(at, _): &(BootTime, _)| at.since(reloaded) > Duration::from_millis(1500);
                eventually("the master goes on", LONG, || {
                    let sources = [a.ip().into(), a.link_local().into()];
                    Ok(sources.into_iter().any(|source: IpAddr| wire.adverts_of(source).iter().any(is_later)))
                })?;
            }
        }
        assert_eq!(changes(&on_a, "eth0 vhid 1"), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
        assert_eq!(changes(&on_b, "eth0 vhid 1"), ["INIT -> BACKUP"]);
        for vip in after {
            let vip: IpAddr = vip.parse()?;
            eventually("the address is there", LONG, || a.has_address(vip))?;
        }
    }
    Ok(())
}

#[test]
fn the_first_address_of_a_family_comes_without_two_masters() -> Result<()> {
    change_under_a_master(&["10.77.0.100"], &["10.77.0.100", "fd77::100"])
}

#[test]
fn the_last_address_of_a_family_goes_without_two_masters() -> Result<()> {
    change_under_a_master(&["10.77.0.100", "fd77::100"], &["10.77.0.100"])
}

#[test]
fn one_family_takes_the_place_of_the_other_without_two_masters() -> Result<()> {
    change_under_a_master(&["10.77.0.100"], &["fd77::100"])
}

/// How often the last advert so far was sent, and with which counter: once for each digest.
fn copies_of_the_last(wire: &Wire, host: &Host) -> Option<(u64, usize)> {
    let adverts = wire.adverts_of(host.ip());
    // Of the very last, more may follow.
    let last = adverts.last()?.1.counter;
    let counter = adverts.iter().rev().map(|(_, advert)| advert.counter).find(|counter| *counter != last)?;
    Some((counter, adverts.iter().filter(|(_, advert)| advert.counter == counter).count()))
}

#[test]
fn a_rollout_ends_by_itself() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [of_a, of_b] = [folder()?, folder()?];
    add_second(&of_a, 60, true, Timestamp::now() + SignedDuration::from_secs(5))?;
    let wire = Wire::at(&b)?;
    let on_a = start(&a, &of_a)?;
    wait_for_change(&on_a, "eth0 vhid 1", "BACKUP -> MASTER")?;
    write(&of_b, &[virtual_host(1, VIP, "advskew = 80")])?;
    let on_b = start(&b, &of_b)?;
    wait_for_change(&on_b, "eth0 vhid 1", "INIT -> BACKUP")?;
    let copies = |wanted| Ok(copies_of_the_last(&wire, &a).is_some_and(|(_, copies)| copies == wanted));
    eventually("each advert is sent with both digests", LONG, || copies(2))?;

    on_a.wait_for_line("eth0 vhid 1: the rollout is over", LONG)?;
    eventually("each is sent once", LONG, || copies(1))?;
    // From now on, who has not been changed is not understood, nor does it understand.
    wait_for_change(&on_b, "eth0 vhid 1", "BACKUP -> MASTER")?;
    eventually("what it sends is refused", LONG, || {
        let counters = carpctl(&of_a, &["counters"])?;
        Ok(String::from_utf8_lossy(&counters.stdout).lines().any(|line| line.contains("badauth")))
    })?;
    assert_eq!(changes(&on_a, "eth0 vhid 1"), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}
