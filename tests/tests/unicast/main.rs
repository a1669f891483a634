//! Adverts to peers instead of a group: for clouds and other networks without multicast.

mod routers;
mod virtual_mac;

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use carp_tests::adverts::{self, Election, Signer};
use carp_tests::node::{OTHER, PASSPHRASE, PREFERRED, VHID};
use carp_tests::{ETH0, Host, LONG, Lab, LabOptions, MacAddr, Node, VIP, Wire, configured, eventually, send_frame};

fn start_pair<'h>(a: &'h Host, b: &'h Host, of_a: &str, of_b: &str) -> Result<[Node<'h>; 2]> {
    Node::start_pair((a, &format!("{PREFERRED} {of_a}")), (b, &format!("{OTHER} {of_b}")))
}

/// How many adverts went to a group or to all. (A switch floods what is for a host that has just died.)
fn to_groups(wire: &Wire) -> usize {
    wire.frames().iter().filter(|frame| frame.bytes[0] & 1 == 1 && adverts::parse(frame).is_some()).count()
}

/// Whom adverts went to.
fn receivers(wire: &Wire) -> BTreeSet<MacAddr> {
    let adverts = wire.frames().into_iter().filter(|frame| adverts::parse(frame).is_some());
    adverts.filter_map(|frame| frame.bytes.first_chunk().map(|mac| MacAddr(*mac))).collect()
}

#[test]
fn peers_elect_a_master_and_fall_over_with_not_one_advert_to_a_group() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let (group, at_b) = (Wire::at(&bystander)?, Wire::on(lab.switch(), &b.port())?);
    let [mut master, backup] = start_pair(&a, &b, "--peer=10.77.0.2", "--peer=10.77.0.1")?;
    at_b.wait_for_adverts(a.ip(), 6)?;
    assert_eq!(backup.changes(), ["INIT -> BACKUP"]);
    let (_, last) = at_b.adverts_of(a.ip()).pop().context("no advert")?;
    assert_eq!(last.mac, a.mac(), "a cloud knows no other");

    assert!(master.agent_mut().stop_and_wait(LONG)?.success());
    assert_eq!(backup.wait_for("BACKUP -> MASTER")?.cause, "10.77.0.1 leaves");
    eventually("b has the address", LONG, || b.has_address(VIP))?;
    let back = Node::start(&a, &format!("{PREFERRED} --preempt --peer=10.77.0.2"))?;
    back.wait_for("BACKUP -> MASTER")?;
    backup.wait_for("MASTER -> BACKUP")?;
    a.kill_host()?;
    backup.wait_for("BACKUP -> MASTER")?;
    assert_eq!(to_groups(&group), 0);
    Ok(())
}

#[test]
fn so_they_do_over_ipv6() -> Result<()> {
    let lab = Lab::with(LabOptions { ipv6: true, ..LabOptions::default() })?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let (group, at_b) = (Wire::at(&bystander)?, Wire::on(lab.switch(), &b.port())?);
    let master = Node::start_for(&["fd77::100"], &a, &format!("{PREFERRED} --peer=fd77::2"))?;
    master.wait_for("BACKUP -> MASTER")?;
    let backup = Node::start_for(&["fd77::100"], &b, &format!("{OTHER} --peer=fd77::1"))?;
    at_b.wait_for_adverts(a.ip6(), 6)?;
    assert_eq!(backup.changes(), ["INIT -> BACKUP"]);
    a.kill_host()?;
    backup.wait_for("BACKUP -> MASTER")?;
    assert_eq!(to_groups(&group), 0);
    Ok(())
}

/// So that a switch learns where it is.
#[test]
fn the_virtual_mac_is_kept_where_it_is_asked_for() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let at_b = Wire::on(lab.switch(), &b.port())?;
    let options = "--advert-mac=virtual";
    let [_master, backup] =
        start_pair(&a, &b, &format!("{options} --peer=10.77.0.2"), &format!("{options} --peer=10.77.0.1"))?;
    let (_, advert) = at_b.wait_for_adverts(a.ip(), 6)?;
    assert_eq!(advert.mac, MacAddr([0, 0, 0x5e, 0, 1, VHID]));
    assert_eq!(backup.changes(), ["INIT -> BACKUP"]);
    Ok(())
}

#[test]
fn who_is_no_peer_is_not_heard_whatever_he_knows() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, stranger] = lab.hosts(["a", "b", "stranger"])?;
    let [master, backup] = start_pair(&a, &b, "--peer=10.77.0.2", "--peer=10.77.0.1")?;
    let signer = Signer::new(PASSPHRASE, VHID, &[VIP])?;
    for counter in 1..=5 {
        send_frame(stranger.ns(), ETH0, &signer.advert(stranger.ip(), Election::new(0, 1), counter))?;
    }
    for node in [&master, &backup] {
        let told = node.wait_for_line("badaddrs")?.text;
        assert!(told.contains("last from 10.77.0.3"), "{told}");
        eventually("all are counted", LONG, || Ok(node.report()?.count("badaddrs") == 5))?;
    }
    assert_eq!(master.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    assert_eq!(backup.changes(), ["INIT -> BACKUP"]);
    Ok(())
}

/// The peer's address is found out while nobody has anything to send.
#[test]
fn a_peer_that_comes_later_or_has_another_card_is_found() -> Result<()> {
    const OTHER_MAC: MacAddr = MacAddr([2, 0, 0, 9, 9, 9]);
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    b.ns().ip(&format!("link set {ETH0} down"))?;
    let master = Node::start(&a, &format!("{PREFERRED} --peer=10.77.0.2"))?;
    master.wait_for("BACKUP -> MASTER")?;
    b.ns().ip(&format!("link set {ETH0} up"))?;
    let backup = Node::start(&b, &format!("{OTHER} --peer=10.77.0.1"))?;
    let at_b = Wire::on(lab.switch(), &b.port())?;
    at_b.wait_for_adverts(a.ip(), 4)?;
    b.ns().ip_batch(&format!("link set {ETH0} down\nlink set {ETH0} address {OTHER_MAC}\nlink set {ETH0} up\n"))?;
    let heard = |count: u64| eventually("it hears", LONG, || Ok(backup.report()?.count("ipackets") > count));
    let before = backup.report()?.count("ipackets");
    heard(before + 3)?;
    assert!(!master.changes().contains(&"MASTER -> BACKUP".to_owned()));
    Ok(())
}

/// Of a cloud that answers no ARP, say. To be asked for it, the kernel would take it for one of its own.
#[test]
fn a_permanent_entry_of_a_peer_stays_as_it_is_and_says_where_adverts_go() -> Result<()> {
    const GIVEN: MacAddr = MacAddr([2, 0, 0, 8, 8, 8]);
    let lab = Lab::new()?;
    let [a, _b] = lab.hosts(["a", "b"])?;
    a.ns().ip(&format!("neighbour replace 10.77.0.2 lladdr {GIVEN} dev {ETH0} nud permanent"))?;
    let at_a = Wire::on(lab.switch(), &a.port())?;
    let _master = Node::start(&a, &format!("{PREFERRED} --peer=10.77.0.2"))?;
    at_a.wait_for_adverts(a.ip(), 3)?;
    let entry = a.ns().ip(&format!("neighbour show 10.77.0.2 dev {ETH0}"))?;
    assert!(entry.contains(&GIVEN.to_string()) && entry.contains("PERMANENT"), "{entry}");
    assert_eq!(receivers(&at_a), BTreeSet::from([GIVEN]));
    Ok(())
}

/// The kernel tells no address of a neighbour that does not answer.
#[test]
fn a_peer_that_is_down_gets_adverts_all_the_same() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let master = Node::start(&a, &format!("{PREFERRED} --peer=10.77.0.2"))?;
    master.wait_for("BACKUP -> MASTER")?;
    Wire::on(lab.switch(), &a.port())?.wait_for_adverts(a.ip(), 2)?;
    b.ns().ip(&format!("link set {ETH0} down"))?;
    a.ns().ip(&format!("neighbour flush dev {ETH0}"))?;
    let entry = || a.ns().ip(&format!("neighbour show 10.77.0.2 dev {ETH0}"));
    // A failure is told to carpd, which has the kernel ask again at once: few would see it.
    let asks = |entry: String| entry.contains("INCOMPLETE") || entry.contains("FAILED");
    eventually("a asks for b in vain", LONG, || Ok(asks(entry()?)))?;
    let at_a = Wire::on(lab.switch(), &a.port())?;
    at_a.wait_for_adverts(a.ip(), 3)?;
    assert_eq!(receivers(&at_a), BTreeSet::from([b.mac()]));
    Ok(())
}

/// Nobody is master unless it is this host, so it keeps its lease (which ends after 0.7 s).
#[test]
fn while_no_peer_has_ever_answered_no_advert_leaves_and_everybody_can_know() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    b.ns().ip(&format!("link set {ETH0} down"))?;
    let wire = Wire::at(&bystander)?;
    let folder = configured::folder()?;
    let peers = "peers = [\"10.77.0.2\", \"10.77.0.9\"]\npeer_advskew = 60\ngarp_refresh = 1";
    configured::write(&folder, &[configured::virtual_host(VHID, VIP, peers)])?;
    let agent = configured::start(&a, &folder)?;
    let status = || -> Result<(u64, String)> {
        let told = configured::carpctl(&folder, &["status", "--json"])?;
        let told: serde_json::Value = serde_json::from_slice(&told.stdout)?;
        let host = &told["virtual_hosts"][0];
        Ok((host["sent"].as_u64().context("no count")?, host["troubles"].to_string()))
    };
    eventually("ten adverts are due", LONG, || Ok(wire.announcements_of(&a, VIP).len() >= 10))?;
    assert_eq!(configured::changes(&agent, "eth0 vhid 1"), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    let (sent, troubles) = status()?;
    assert!(sent == 0 && troubles.contains("no advert goes to 10.77.0.2, 10.77.0.9: "), "{sent} {troubles}");
    let lines = agent.lines();
    let told = lines.iter().filter(|line| line.text.contains("cannot send an advert"));
    let told: Vec<_> = told.filter(|line| line.text.contains("nobody answers for 10.77.0.2, 10.77.0.9")).collect();
    assert_eq!(told.len(), 1, "{lines:#?}");

    b.ns().ip(&format!("link set {ETH0} up"))?;
    agent.wait_for_line("adverts can be sent again", LONG)?;
    let (sent, troubles) = status()?;
    assert!(sent > 0 && troubles.contains("no advert goes to 10.77.0.9: "), "{sent} {troubles}");
    Ok(())
}

/// The other one is master, too, for it hears nothing.
#[test]
fn who_cannot_send_to_a_peer_that_it_hears_is_master_no_longer() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    b.ns().set_sysctl("net.ipv4.conf.all.arp_ignore", "8")?;
    // It asks nobody either: who is asked knows who asks.
    b.ns().ip(&format!("neighbour replace {} lladdr {} dev {ETH0} nud permanent", a.ip(), a.mac()))?;
    let [one, other] = start_pair(&a, &b, "--peer=10.77.0.2 --peer-advskew=80", "--peer=10.77.0.1 --peer-advskew=60")?;
    other.wait_for("BACKUP -> MASTER")?;
    one.wait_for("MASTER -> BACKUP")?;
    assert_eq!(other.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}
