//! Maps without room for both families of a virtual host. (Only somebody else can fill them: they have room for as many virtual
//! hosts as carpd serves.)

use anyhow::{Context, Result};
use aya::Pod;
use aya::maps::{HashMap, Map, MapData};
use carp_common::abi::{Family, MAX_KEYS, Sent, Vhost, VhostKey, map};
use carp_tests::node::ROAD;
use carp_tests::{Agent, ETH0, Folder, Host, LONG, Lab, LabOptions, VIP, Wire, configured, eventually};

const BOTH: &str = "[[virtual_host]]\nvhid = 2\naddresses = [\"10.77.0.102\", \"fd77::102\"]\n";

fn lab() -> Result<Lab> {
    Lab::with(LabOptions { ipv6: true, ..LabOptions::default() })
}

/// Whether adverts go by maps on the road that the tests take.
fn has_maps() -> bool {
    !std::env::var(ROAD).is_ok_and(|road| road == "socket")
}

/// A host with a virtual host of one family.
fn start(host: &Host) -> Result<(Folder, Agent)> {
    let folder = configured::folder()?;
    configured::write(&folder, &[configured::virtual_host(1, VIP, "")])?;
    let agent = configured::start(host, &folder)?;
    configured::wait_for_change(&agent, "eth0 vhid 1", "BACKUP -> MASTER")?;
    Ok((folder, agent))
}

/// Adds the one of both families.
fn add(folder: &Folder) -> Result<()> {
    configured::write(folder, &[configured::virtual_host(1, VIP, ""), BOTH.to_owned()])?;
    configured::carpctl(folder, &["reload"]).map(drop)
}

fn open<V: Pod>(host: &Host, name: &str) -> Result<HashMap<MapData, VhostKey, V>> {
    let path = host.ns().pins().context("nothing is pinned")?.join(name);
    Ok(Map::from_map_data(MapData::from_pin(path)?)?.try_into()?)
}

/// Fills a map up to this many free places, with what concerns nobody.
fn fill<V: Pod>(map: &mut HashMap<MapData, VhostKey, V>, value: V, free: usize) -> Result<()> {
    let taken = map.keys().count();
    for number in taken..MAX_KEYS as usize - free {
        map.insert(nobodys(number as u32), value, 0).with_context(|| format!("entry {number}"))?;
    }
    Ok(())
}

/// Of an interface that is not there.
fn nobodys(number: u32) -> VhostKey {
    VhostKey::new(1_000_000 + number, 1, Family::V4)
}

fn key(host: &Host, vhid: u8, family: Family) -> Result<VhostKey> {
    let listing = host.ns().ip(&format!("-oneline link show dev {ETH0}"))?;
    let index = listing.split(':').next().context("an index comes first")?;
    Ok(VhostKey::new(index.parse()?, vhid, family))
}

#[test]
fn a_virtual_host_is_known_in_both_families_or_in_none() -> Result<()> {
    if !has_maps() {
        return Ok(());
    }
    let lab = lab()?;
    let a = lab.host("a")?;
    let (folder, agent) = start(&a)?;
    let mut known = open::<Vhost>(&a, map::VHOSTS)?;
    let value = known.get(&key(&a, 1, Family::V4)?, 0)?;
    fill(&mut known, value, 1)?;
    add(&folder)?;
    agent.wait_for_line("eth0 vhid 2: cannot tell the XDP program of the virtual host", LONG)?;
    assert!(known.get(&key(&a, 2, Family::V4)?, 0).is_err());
    assert_eq!(known.keys().count(), MAX_KEYS as usize - 1);
    known.remove(&nobodys(MAX_KEYS - 2))?;
    // Has carpd look at once.
    a.add_address("10.77.0.50/32")?;
    configured::wait_for_change(&agent, "eth0 vhid 2", "INIT -> BACKUP")
}

#[test]
fn what_was_sent_is_told_of_one_family_though_the_other_has_no_room() -> Result<()> {
    if !has_maps() {
        return Ok(());
    }
    let lab = lab()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let wire = Wire::at(&bystander)?;
    let (folder, agent) = start(&a)?;
    let mut sent = open::<Sent>(&a, map::SENT)?;
    let v6 = key(&a, 2, Family::V6)?;
    let value = Sent::new(a.ip6().into(), 0);
    sent.insert(v6, value, 0)?;
    fill(&mut sent, value, 0)?;
    add(&folder)?;
    agent.wait_for_line("eth0 vhid 2: cannot tell the XDP program what was sent", LONG)?;
    assert!(sent.get(&v6, 0)?.newest() > 0);
    assert_eq!(configured::changes(&agent, "eth0 vhid 2"), [""; 0]);

    sent.remove(&nobodys(MAX_KEYS - 1))?;
    a.add_address("10.77.0.50/32")?;
    configured::wait_for_change(&agent, "eth0 vhid 2", "BACKUP -> MASTER")?;
    let v4 = key(&a, 2, Family::V4)?;
    eventually("there is no room again", LONG, || {
        sent.remove(&v4).ok();
        Ok(sent.insert(nobodys(MAX_KEYS - 1), value, 0).is_ok())
    })?;
    agent.wait_for_line("eth0 vhid 2: cannot send an advert", LONG)?;
    wire.wait_for_adverts(a.link_local(), 3)?;
    Ok(())
}
