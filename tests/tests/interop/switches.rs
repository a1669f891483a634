//! Switches that do not bring every multicast to every port, and ways around them.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use carp_tests::netns::output_of;
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::{BootTime, Host, LONG, Lab, LabOptions, Node, Ucarp, VIP, Wire, adverts, eventually, is_missing};

/// A group that is pruned; 224.0.0.0/24 never is (RFC 4541, section 2.1.2), and Linux floods it.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);

/// A switch that snoops IGMP and MLD, and is the querier of both.
fn snooping() -> Result<Lab> {
    Lab::with(LabOptions { mcast_snooping: true, ipv6: true })
}

#[test]
fn a_backup_behind_a_switch_that_snoops_is_a_member_and_hears_the_master() -> Result<()> {
    let lab = snooping()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let [_master, backup] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    let wire = Wire::at(&bystander)?;
    let heard = backup.report()?.count("ipackets");
    // Three of them are a dead time.
    wire.wait_for_adverts(a.ip(), 12)?;
    eventually("all have arrived", LONG, || Ok(backup.report()?.count("ipackets") >= heard + 12))?;
    assert_eq!(backup.changes(), ["INIT -> BACKUP"]);
    for host in [&a, &b] {
        assert!(is_member(host, Ipv4Addr::new(224, 0, 0, 18))?, "{}", host.name());
    }
    Ok(())
}

/// Of IPv6 no group is flooded but that of all nodes.
#[test]
fn so_it_does_over_ipv6_also_after_the_link_was_down_and_nobody_else_does() -> Result<()> {
    let lab = snooping()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let start = |host, options| Node::start_for(&["fd77::100"], host, options);
    let master = start(&a, PREFERRED)?;
    master.wait_for("BACKUP -> MASTER")?;
    let backup = start(&b, OTHER)?;
    let members = || output_of(lab.switch().command("bridge").args(["mdb", "show"]));
    let is_known = || anyhow::Ok(members()?.contains(&format!("port {} grp ff02::12", b.port())));
    eventually("the switch knows the member", LONG, is_known)?;
    b.set_carrier(false)?;
    backup.wait_for("BACKUP -> INIT")?;
    eventually("the switch has forgotten it", LONG, || Ok(!is_known()?))?;
    b.set_carrier(true)?;
    backup.wait_for("INIT -> BACKUP")?;
    eventually("the switch knows it again", LONG, is_known)?;
    let at_bystander = Wire::at(&bystander)?;
    let heard = backup.report()?.count("ipackets6");
    let pruned = BootTime::now();
    // Three of them are a dead time.
    Wire::on(lab.switch(), &b.port())?.wait_for_adverts(a.link_local(), 12)?;
    // To all nodes: what the switch had to say before it has arrived.
    at_bystander.wait_for_announcement(&a, VIP6, pruned)?;
    assert_eq!(at_bystander.adverts_of(a.link_local()), []);
    eventually("all have arrived", LONG, || Ok(backup.report()?.count("ipackets6") >= heard + 12))?;
    assert_eq!(backup.changes(), ["INIT -> BACKUP", "BACKUP -> INIT", "INIT -> BACKUP"]);
    Ok(())
}

#[test]
fn a_group_that_the_switch_prunes_reaches_the_backup_and_nobody_else() -> Result<()> {
    let lab = snooping()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let own_group = |options| format!("{options} --mcast={GROUP}");
    let [mut master, backup] = Node::start_pair((&a, &own_group(PREFERRED)), (&b, &own_group(OTHER)))?;
    for host in [&a, &b] {
        assert!(is_member(host, GROUP)?, "{}", host.name());
    }
    let members = || output_of(lab.switch().command("bridge").args(["mdb", "show"]));
    eventually("the switch knows the member", LONG, || {
        let member = format!("port {} grp {GROUP}", b.port());
        Ok(members()?.contains(&member))
    })?;
    let at_bystander = Wire::at(&bystander)?;
    // What XDP drops would be seen here, and here alone.
    let to_backup = Wire::on(lab.switch(), &b.port())?;
    let pruned = BootTime::now();
    to_backup.wait_for_adverts(a.ip(), 12)?;
    // A broadcast: what the switch had to say before it has arrived.
    at_bystander.wait_for_announcement(&a, VIP, pruned)?;
    assert_eq!(at_bystander.adverts_of(a.ip()), []);
    assert_eq!(backup.changes(), ["INIT -> BACKUP"]);
    assert!(backup.report()?.count("ipackets") >= 12);
    assert!(master.agent_mut().stop_and_wait(LONG)?.success());
    assert_eq!(backup.wait_for("BACKUP -> MASTER")?.cause, "10.77.0.1 leaves");
    Ok(())
}

#[test]
fn broadcast_adverts_work_between_carpd_and_ucarp() -> Result<()> {
    if is_missing("ucarp")? {
        return Ok(());
    }
    let lab = snooping()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let wire = Wire::at(&bystander)?;
    let mut ucarp = Ucarp::start(&a, "--nomcast --deadratio=1")?;
    ucarp.wait_for("MASTER")?;
    let node = Node::start(&b, "--advbase=1 --advskew=100 --deadratio=2 --nomcast")?;
    wire.wait_for_adverts(a.ip(), 3)?;
    assert_eq!(node.changes(), ["INIT -> BACKUP"]);
    assert!(node.report()?.count("ipackets") >= 2);
    ucarp.stop()?;
    node.wait_for("BACKUP -> MASTER")?;

    let back = Ucarp::start(&a, "--nomcast --advskew=110")?;
    // Longer than its dead time.
    wire.wait_for_adverts(b.ip(), 4)?;
    assert_eq!(back.states(), ["BACKUP"]);
    let frames = wire.frames();
    let mut adverts = frames.iter().filter(|frame| adverts::parse(frame).is_some());
    assert!(adverts.all(|frame| frame.bytes[..6] == [0xff; 6]));
    Ok(())
}

/// Whether the host's eth0 has joined a group.
fn is_member(host: &Host, group: Ipv4Addr) -> Result<bool> {
    let groups = host.ns().run(|| fs::read_to_string("/proc/thread-self/net/igmp").context("reading memberships"))?;
    // In the byte order of the machine; a host of the lab has no other interface with groups of this kind.
    Ok(groups.contains(&format!("{:08X}", u32::from_ne_bytes(group.octets()))))
}
