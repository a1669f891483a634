//! Virtual hosts with IPv6 addresses, beside IPv4 or alone.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Context, Result};
use carp_tests::adverts;
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::{BootTime, ETH0, Host, LONG, Lab, LabOptions, Node, VIP, Wire, eventually};

const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);
const LINK_LOCAL_VIP: &str = "fe80::100";
/// Where adverts go.
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

fn lab() -> Result<Lab> {
    Lab::with(LabOptions { ipv6: true, ..LabOptions::default() })
}

/// A master, and a backup that was started when that was one.
fn pair<'h>(vips: &[&str], a: &'h Host, b: &'h Host) -> Result<[Node<'h>; 2]> {
    let master = Node::start_for(vips, a, PREFERRED)?;
    master.wait_for("BACKUP -> MASTER")?;
    let backup = Node::start_for(vips, b, OTHER)?;
    Ok([master, backup])
}

/// What a host's neighbour cache says of an address.
fn neighbour(host: &Host, address: IpAddr) -> Result<String> {
    host.ns().ip(&format!("neigh show {address} dev {ETH0}"))
}

#[test]
fn addresses_of_both_families_fall_over_together_and_the_neighbours_are_told() -> Result<()> {
    let lab = lab()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let [_master, backup] = pair(&["10.77.0.100", "fd77::100/64"], &a, &b)?;
    let wire = Wire::at(&client)?;
    wire.wait_for_adverts(a.ip(), 4)?;
    wire.wait_for_adverts(a.link_local(), 4)?;
    assert_eq!(backup.changes(), ["INIT -> BACKUP"]);
    let counted = backup.report()?;
    assert!(counted.count("ipackets") > 3 && counted.count("ipackets6") > 3, "{counted:?}");
    for address in [IpAddr::from(VIP), VIP6.into()] {
        client.ns().ip(&format!("neigh replace {address} lladdr {} dev {ETH0} nud stale", a.mac()))?;
    }

    let death = BootTime::now();
    a.kill_host()?;
    backup.wait_for("BACKUP -> MASTER")?;
    wire.wait_for_announcement(&b, VIP, death)?;
    wire.wait_for_announcement(&b, VIP6, death)?;
    for address in [IpAddr::from(VIP), VIP6.into()] {
        assert!(b.has_address(address)?);
        eventually("the client knows", LONG, || Ok(neighbour(&client, address)?.contains(&b.mac().to_string())))?;
    }
    Ok(())
}

/// Whether its eth0 has joined the group.
fn is_member(host: &Host) -> Result<bool> {
    let groups = host.ns().run(|| fs::read_to_string("/proc/thread-self/net/igmp6").context("reading memberships"))?;
    // 2 eth0 ff020000000000000000000000000012 1 00000004 0
    let joined = format!("{:032x}", u128::from(GROUP));
    Ok(groups.lines().any(|line| line.split_whitespace().skip(1).take(2).eq([ETH0, &joined])))
}

/// Without it the card's filter, or a switch that snoops, lets no advert through.
#[test]
fn adverts_go_to_a_group_that_master_and_backup_are_members_of_whatever_becomes_of_the_link() -> Result<()> {
    let lab = lab()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let wire = Wire::at(&bystander)?;
    assert!(!is_member(&a)? && !is_member(&b)?);
    let [master, backup] = pair(&["fd77::100"], &a, &b)?;
    assert!(is_member(&a)? && is_member(&b)?);
    for (node, from) in [(&backup, "BACKUP"), (&master, "MASTER")] {
        let host = node.host();
        host.ns().ip(&format!("link set {ETH0} down"))?;
        node.wait_for(&format!("{from} -> INIT"))?;
        if from == "MASTER" {
            backup.wait_for("BACKUP -> MASTER")?;
        }
        host.ns().ip(&format!("link set {ETH0} up"))?;
        node.wait_for("INIT -> BACKUP")?;
        eventually("it is a member again", LONG, || is_member(host))?;
        host.delete_interface()?;
        node.wait_for("BACKUP -> INIT")?;
        host.create_interface()?;
        node.wait_for("INIT -> BACKUP")?;
        eventually("it is one on the new interface", LONG, || is_member(host))?;
    }
    wire.wait_for_adverts(b.link_local(), 4)?;
    assert_eq!(master.changes().last().map(String::as_str), Some("INIT -> BACKUP"));
    let frames = wire.frames();
    let mut adverts = frames.iter().filter(|frame| adverts::parse(frame).is_some());
    let ethernet = [0x33, 0x33, 0, 0, 0, 0x12];
    assert!(adverts.all(|frame| frame.bytes[..6] == ethernet && frame.bytes[38..54] == GROUP.octets()));
    Ok(())
}

#[test]
fn a_master_that_ends_hands_over_both_families() -> Result<()> {
    let lab = lab()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [mut master, backup] = pair(&["10.77.0.100", "fd77::100"], &a, &b)?;
    assert!(master.agent_mut().stop_and_wait(LONG)?.success());
    let cause = backup.wait_for("BACKUP -> MASTER")?.cause;
    // Whichever of the two bow-outs comes first.
    assert!([a.ip().into(), IpAddr::from(a.link_local())].iter().any(|ip| cause == format!("{ip} leaves")), "{cause}");
    eventually("b has both", LONG, || Ok(b.has_address(VIP)? && b.has_address(VIP6)?))?;
    assert!(!a.has_address(VIP)? && !a.has_address(VIP6)?);
    Ok(())
}

/// Nor is there a moment in which the kernel looks for somebody else with the address.
#[test]
fn hosts_without_any_ipv4_address_work_and_the_address_is_usable_at_once() -> Result<()> {
    let lab = lab()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    for host in [&a, &b] {
        host.remove_address(&format!("{}/24", host.ip()))?;
        host.ns().set_sysctl(&format!("net.ipv6.conf.{ETH0}.accept_dad"), "1")?;
    }
    let wire = Wire::at(&client)?;
    let [_master, backup] = pair(&["fd77::100/64"], &a, &b)?;
    let death = BootTime::now();
    a.kill_host()?;
    backup.wait_for("BACKUP -> MASTER")?;
    wire.wait_for_announcement(&b, VIP6, death)?;
    let listing = b.ns().ip(&format!("-6 addr show dev {ETH0} to {VIP6}"))?;
    assert!(listing.contains("nodad") && !listing.contains("tentative"), "{listing}");
    assert!(wire.adverts_of(b.ip()).is_empty() && !wire.adverts_of(b.link_local()).is_empty());
    Ok(())
}

#[test]
fn an_ipv6_address_is_put_back_and_one_that_is_left_behind_removed_whatever_its_prefix() -> Result<()> {
    let lab = lab()?;
    let a = lab.host("a")?;
    a.add_address("fd77::100/96")?;
    let mut node = Node::start_for(&["fd77::100"], &a, PREFERRED)?;
    node.wait_for_line("fd77::100/128 is here although this host is not master: removing it")?;
    node.wait_for("BACKUP -> MASTER")?;
    eventually("it is there", LONG, || a.has_address(VIP6))?;
    a.remove_address("fd77::100/128")?;
    node.wait_for_line("putting it back")?;
    eventually("it is back", LONG, || a.has_address(VIP6))?;
    assert!(node.agent_mut().stop_and_wait(LONG)?.success());
    assert!(!a.has_address(VIP6)?);
    Ok(())
}

#[test]
fn hosts_that_hash_a_link_local_address_and_hosts_that_do_not_understand_each_other() -> Result<()> {
    for [of_a, of_b] in [["hashed", "ignored"], ["ignored", "hashed"]] {
        let lab = lab()?;
        let [a, b, client] = lab.hosts(["a", "b", "client"])?;
        let vips = ["fd77::100", LINK_LOCAL_VIP];
        let master = Node::start_for(&vips, &a, &format!("{PREFERRED} --link-local={of_a}"))?;
        master.wait_for("BACKUP -> MASTER")?;
        let backup = Node::start_for(&vips, &b, &format!("{OTHER} --link-local={of_b}"))?;
        Wire::at(&client)?.wait_for_adverts(a.link_local(), 6)?;
        assert_eq!(backup.changes(), ["INIT -> BACKUP"], "{of_a}, {of_b}");
        assert_eq!(backup.report()?.count("badauth"), 0, "{of_a}, {of_b}");
        a.kill_host()?;
        backup.wait_for("BACKUP -> MASTER")?;
        eventually("it has taken it", LONG, || b.has_address(LINK_LOCAL_VIP.parse::<IpAddr>()?))?;
    }
    Ok(())
}

/// Each family has a silence of its own.
#[test]
fn a_backup_that_hears_its_master_in_one_family_only_takes_over() -> Result<()> {
    let lab = lab()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let master = Node::start_for(&["10.77.0.100", "fd77::100"], &a, PREFERRED)?;
    master.wait_for("BACKUP -> MASTER")?;
    // What comes from elsewhere is no host's in this family.
    let backup = Node::start_for(&["10.77.0.100", "fd77::100"], &b, &format!("{OTHER} --peer=fd77::99"))?;
    backup.wait_for("BACKUP -> MASTER")?;
    assert!(backup.report()?.count("badaddrs") > 0);
    Ok(())
}
