//! Peers of hosts whose VIPs are at the virtual MAC: adverts come from it, or no switch would learn where it is.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Result;
use carp_tests::node::{OTHER, PREFERRED, VHID};
use carp_tests::{BootTime, Host, LONG, Lab, LabOptions, MacAddr, Node, Wire, eventually};

use crate::{receivers, to_groups};

/// 00:00:5e:00:01:VHID
const MAC: MacAddr = MacAddr([0, 0, 0x5e, 0, 1, VHID]);
/// Nothing but adverts tells a switch.
const VIRTUAL: &str = "--mac=virtual --garp-repeat=0 --garp-refresh=0";

/// Waits until the switch has the virtual MAC at a host's port.
fn wait_for_port(lab: &Lab, host: &Host) -> Result<()> {
    let what = format!("the virtual MAC is where {} is", host.name());
    eventually(&what, LONG, || Ok(lab.port_of(MAC)?.is_some_and(|port| port == host.port())))
}

#[test]
fn adverts_to_peers_come_from_the_virtual_mac_which_the_switch_has_where_the_master_is() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [at_a, at_b] = [Wire::on(lab.switch(), &a.port())?, Wire::on(lab.switch(), &b.port())?];
    let of_a = format!("{PREFERRED} {VIRTUAL} --peer={}", b.ip());
    let of_b = format!("{OTHER} {VIRTUAL} --peer={}", a.ip());
    let [mut master, backup] = Node::start_pair((&a, &of_a), (&b, &of_b))?;
    assert_eq!(at_b.wait_for_adverts(a.ip(), 3)?.1.mac, MAC);
    assert_eq!(backup.changes(), ["INIT -> BACKUP"]);
    wait_for_port(&lab, &a)?;

    assert!(master.agent_mut().stop_and_wait(LONG)?.success());
    assert_eq!(backup.wait_for("BACKUP -> MASTER")?.cause, "10.77.0.1 leaves");
    assert_eq!(at_a.wait_for_adverts(b.ip(), 2)?.1.mac, MAC);
    wait_for_port(&lab, &b)?;

    let back = Node::start(&a, &format!("{of_a} --preempt"))?;
    back.wait_for("BACKUP -> MASTER")?;
    backup.wait_for("MASTER -> BACKUP")?;
    at_b.wait_for_adverts(a.ip(), 2)?;
    wait_for_port(&lab, &a)?;
    a.kill_host()?;
    backup.wait_for("BACKUP -> MASTER")?;
    wait_for_port(&lab, &b)?;
    let seen = [at_a.adverts_of(b.ip()), at_a.adverts_of(a.ip()), at_b.adverts_of(a.ip())].concat();
    assert!(seen.iter().all(|(_, advert)| advert.mac == MAC), "{seen:?}");
    assert_eq!(to_groups(&at_a) + to_groups(&at_b), 0);
    Ok(())
}

#[test]
fn a_peer_in_each_family_gets_the_adverts_of_its_own_and_both_come_from_the_virtual_mac() -> Result<()> {
    let lab = Lab::with(LabOptions { ipv6: true, ..LabOptions::default() })?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let at_b = Wire::on(lab.switch(), &b.port())?;
    let start = |host, options, peer: &Host| {
        let peers = format!("--peer={} --peer={}", peer.ip(), peer.ip6());
        Node::start_for(&["10.77.0.100", "fd77::100"], host, &format!("{options} {VIRTUAL} {peers}"))
    };
    let master = start(&a, PREFERRED, &b)?;
    master.wait_for("BACKUP -> MASTER")?;
    let backup = start(&b, OTHER, &a)?;
    for source in [a.ip().into(), IpAddr::from(a.ip6())] {
        assert_eq!(at_b.wait_for_adverts(source, 5)?.1.mac, MAC);
    }
    assert_eq!(backup.changes(), ["INIT -> BACKUP"]);
    let told = backup.report()?;
    assert!(told.count("ipackets") >= 5 && told.count("ipackets6") >= 5, "{told:?}");
    assert_eq!((receivers(&at_b), to_groups(&at_b)), (BTreeSet::from([b.mac()]), 0));
    wait_for_port(&lab, &a)?;

    let death = BootTime::now();
    a.kill_host()?;
    backup.wait_for("BACKUP -> MASTER")?;
    wait_for_port(&lab, &b)?;
    let of_b = [at_b.adverts_of(b.ip()), at_b.adverts_of(b.ip6())];
    assert!(of_b.iter().all(|adverts| !adverts.is_empty()));
    assert!(of_b.concat().iter().all(|(at, advert)| *at >= death && advert.mac == MAC));
    Ok(())
}
