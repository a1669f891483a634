//! The virtual address: it is where the master is, whatever else touches it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::Result;
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::{ArpWatch, BootTime, ETH0, Host, LONG, Lab, Node, Probe, VIP, Wire, eventually};
use nix::sys::signal::Signal;

const PERIOD: Duration = Duration::from_millis(5);

const UNMOVED_MASTER: [&str; 2] = ["INIT -> BACKUP", "BACKUP -> MASTER"];
const UNMOVED_BACKUP: [&str; 1] = ["INIT -> BACKUP"];

#[test]
fn an_address_removed_by_hand_from_the_master_is_put_back_and_announced() -> Result<()> {
    let lab = Lab::new()?;
    let [a, client] = lab.hosts(["a", "client"])?;
    let node = Node::start(&a, PREFERRED)?;
    node.wait_for("BACKUP -> MASTER")?;
    let wire = Wire::at(&client)?;
    let watch = ArpWatch::start(&client, VIP, PERIOD)?;
    watch.wait_for_owner(a.mac(), LONG)?;
    for _ in 0..3 {
        let removed = BootTime::now();
        a.remove_address("10.77.0.100/32")?;
        let line = node.wait_for_line("putting it back")?;
        assert!(line.text.contains("10.77.0.100/32"), "{}", line.text);
        wire.wait_for_announcement(&a, VIP, removed)?;
        watch.wait_for_owner(a.mac(), LONG)?;
    }
    wire.wait_for_adverts(a.ip(), 1)?;
    let repairs = node.lines_with("putting it back");
    assert_eq!(repairs.len(), 3);
    // At once, but no faster than once a second: whatever removes it may go on for ever.
    assert!(repairs.windows(2).all(|pair| pair[1].at.since(pair[0].at) > Duration::from_millis(900)), "{repairs:?}");
    assert_eq!(node.changes(), UNMOVED_MASTER);
    Ok(())
}

#[test]
fn addresses_that_are_removed_together_are_put_back_together_and_announced() -> Result<()> {
    let lab = Lab::new()?;
    let [a, client] = lab.hosts(["a", "client"])?;
    let vips: Vec<_> = (100..120).map(|number| Ipv4Addr::new(10, 77, 0, number)).collect();
    let told: Vec<_> = vips.iter().map(ToString::to_string).collect();
    let told: Vec<_> = told.iter().map(String::as_str).collect();
    // No other announcement is to be expected.
    let node = Node::start_for(&told, &a, &format!("{PREFERRED} --garp-repeat=0 --garp-refresh=0"))?;
    node.wait_for("BACKUP -> MASTER")?;
    let wire = Wire::at(&client)?;
    eventually("they are there", LONG, || Ok(addresses(&a)?.len() == 1 + vips.len()))?;
    // All at once, as far as the agent can see.
    node.agent().signal(Signal::SIGSTOP)?;
    a.ns().ip_batch(&told.iter().map(|vip| format!("addr del {vip}/32 dev {ETH0}\n")).collect::<String>())?;
    let removed = BootTime::now();
    node.agent().signal(Signal::SIGCONT)?;
    eventually("they are back", LONG, || Ok(addresses(&a)?.len() == 1 + vips.len()))?;
    // The log has a thread of its own.
    node.wait_for_line("putting it back")?;
    // A second repair would have come a second later.
    assert_eq!(node.lines_with("putting it back").len(), 1);
    for vip in vips {
        wire.wait_for_announcement(&a, vip, removed)?;
    }
    Ok(())
}

#[test]
fn an_address_that_a_crash_left_behind_is_removed_at_the_start() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let [mut crashes, backup] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    let watch = ArpWatch::start(&client, VIP, PERIOD)?;
    watch.wait_for_owner(a.mac(), LONG)?;
    crashes.agent_mut().kill()?;
    backup.wait_for("BACKUP -> MASTER")?;
    watch.wait_for_owner(b.mac(), LONG)?;
    assert!(a.has_address(VIP)?, "a crash leaves the address where it was");

    let again = Node::start(&a, PREFERRED)?;
    again.wait_for_line("removing it")?;
    eventually("the address is gone", LONG, || Ok(!a.has_address(VIP)?))?;
    let alone = BootTime::now();
    watch.wait_for_owner(b.mac(), LONG)?;
    watch.wait_for_owner(b.mac(), LONG)?;
    assert!(again.report()?.text.contains("vhid 1: BACKUP for "));
    assert_eq!(again.changes(), UNMOVED_BACKUP);
    assert_eq!(backup.changes(), UNMOVED_MASTER);
    let report = watch.stop()?;
    assert!(report.overlaps().iter().all(|overlap| overlap.from < alone), "{:?}", report.overlaps());
    Ok(())
}

#[test]
fn an_address_added_by_hand_to_a_backup_is_removed() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let [master, backup] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    let wire = Wire::at(&client)?;
    // Once as carpd would add it, and once as others might.
    for address in ["10.77.0.100/32", "10.77.0.100/24"] {
        b.add_address(address)?;
        backup.wait_for_line("removing it")?;
        eventually("the address is gone", LONG, || Ok(!b.has_address(VIP)?))?;
    }
    wire.wait_for_adverts(a.ip(), 2)?;
    assert_eq!(backup.lines_with("removing it").len(), 2);
    assert_eq!(addresses(&b)?, [(b.ip(), 24)]);
    assert_eq!(wire.announcements_of(&b, VIP), []);
    assert_eq!(master.changes(), UNMOVED_MASTER);
    assert_eq!(backup.changes(), UNMOVED_BACKUP);
    Ok(())
}

#[test]
fn an_address_is_added_with_the_prefix_length_that_it_was_given_with() -> Result<()> {
    let lab = Lab::new()?;
    let [a, client] = lab.hosts(["a", "client"])?;
    let mut node = Node::start_for(&["10.77.0.100/24"], &a, PREFERRED)?;
    node.wait_for("BACKUP -> MASTER")?;
    let watch = ArpWatch::start(&client, VIP, PERIOD)?;
    watch.wait_for_owner(a.mac(), LONG)?;
    assert_eq!(addresses(&a)?, [(a.ip(), 24), (VIP, 24)]);
    a.remove_address("10.77.0.100/24")?;
    node.wait_for_line("putting it back")?;
    watch.wait_for_owner(a.mac(), LONG)?;
    assert!(node.agent_mut().stop_and_wait(LONG)?.success());
    assert_eq!(addresses(&a)?, [(a.ip(), 24)]);
    Ok(())
}

#[test]
fn several_addresses_move_together() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    // The same set in another order: the digest does not depend on it.
    let vips = [VIP, Ipv4Addr::new(10, 77, 0, 101), Ipv4Addr::new(10, 77, 0, 200)];
    let mut master = Node::start_for(&["10.77.0.100", "10.77.0.101/24", "10.77.0.200"], &a, PREFERRED)?;
    master.wait_for("BACKUP -> MASTER")?;
    let backup = Node::start_for(&["10.77.0.200", "10.77.0.100", "10.77.0.101/24"], &b, OTHER)?;
    let wire = Wire::at(&client)?;
    let probes = vips.map(|vip| Probe::start(&client, vip, 4 * PERIOD));
    for probe in &probes {
        probe.as_ref().unwrap().wait_for_answer_from(a.mac(), LONG)?;
    }
    a.remove_address("10.77.0.101/24")?;
    let line = master.wait_for_line("putting it back")?;
    assert!(line.text.contains("10.77.0.101/24"), "{}", line.text);
    probes[1].as_ref().unwrap().wait_for_answer_from(a.mac(), LONG)?;
    assert_eq!(addresses(&b)?, [(b.ip(), 24)]);

    let stopped = BootTime::now();
    assert!(master.agent_mut().stop_and_wait(LONG)?.success());
    assert_eq!(addresses(&a)?, [(a.ip(), 24)]);
    backup.wait_for("BACKUP -> MASTER")?;
    for (vip, probe) in vips.into_iter().zip(probes) {
        probe?.wait_for_answer_from(b.mac(), LONG)?;
        eventually("b announces each address", LONG, || {
            Ok(wire.announcements_of(&b, vip).iter().any(|at| *at >= stopped))
        })?;
    }
    for (vip, prefix) in vips.into_iter().zip([32, 24, 32]) {
        assert!(addresses(&b)?.contains(&(vip, prefix)));
    }
    assert_eq!(backup.changes(), UNMOVED_MASTER);
    Ok(())
}

/// The IPv4 addresses of a host, in ascending order.
fn addresses(host: &Host) -> Result<Vec<(Ipv4Addr, u8)>> {
    let all = host.addresses()?.into_iter();
    let mut found: Vec<_> = all
        .filter_map(|(address, prefix)| match address {
            IpAddr::V4(address) => Some((address, prefix)),
            IpAddr::V6(_) => None,
        })
        .collect();
    found.sort_unstable();
    Ok(found)
}
