use std::net::UdpSocket;
use std::time::Duration;

use anyhow::Result;
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::packet::Arp;
use carp_tests::{
    Capture, ETH0, Filter, Host, LONG, Lab, Netns, Node, Probe, VIP, Wire, configured, eventually, foreign,
};

use super::{MAC, VIRTUAL, alone, device, has_device, listing, pair, wait_for_device, wait_until_gone};

const PERIOD: Duration = Duration::from_millis(5);

fn neighbour(client: &Host) -> Result<String> {
    let told = client.ns().ip(&format!("neigh show {VIP} dev {ETH0}"))?;
    Ok(told.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).unwrap_or_default().to_owned())
}

/// Nobody hears an announcement, or any other ARP, of the next master.
#[test]
fn a_client_goes_on_with_the_entry_that_it_has_learnt_and_adverts_tell_the_switch_the_port() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let [_master, backup] = pair(&a, &b)?;
    let probe = Probe::start(&client, VIP, PERIOD)?;
    probe.wait_for_answer_from(a.mac(), LONG)?;
    assert_eq!(neighbour(&client)?, MAC.to_string());
    assert_eq!(lab.port_of(MAC)?, Some(a.port()));
    assert!(!has_device(&b)?);
    b.ns().ip(&format!("neigh replace {} lladdr {} dev {ETH0} nud permanent", client.ip(), client.mac()))?;
    let _silent = foreign::drop_arp(lab.switch(), &b.port())?;
    let capture = Capture::start(client.ns(), ETH0, Filter::Arp)?;

    a.kill_host()?;
    backup.wait_for("BACKUP -> MASTER")?;
    probe.wait_for_answer_from(b.mac(), LONG)?;
    assert_eq!(lab.port_of(MAC)?, Some(b.port()));
    assert_eq!(neighbour(&client)?, MAC.to_string());
    let from_b = capture.frames().into_iter().filter_map(|frame| Arp::from_frame(&frame.bytes));
    let from_b: Vec<_> = from_b.filter(|arp| arp.sender_ip == VIP || arp.sender_ip == b.ip()).collect();
    assert!(from_b.is_empty(), "{from_b:?}");
    Ok(())
}

#[test]
fn a_learnt_entry_stays_the_same_over_a_handover_and_only_the_master_has_the_device() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let [mut master, backup] = pair(&a, &b)?;
    let wire = Wire::at(&client)?;
    let probe = Probe::start(&client, VIP, PERIOD)?;
    probe.wait_for_answer_from(a.mac(), LONG)?;
    assert!(listing(&a)?.contains(&VIP.to_string()) && !a.has_address(VIP)? && !has_device(&b)?);

    assert!(master.agent_mut().stop_and_wait(LONG)?.success());
    assert!(!has_device(&a)?);
    backup.wait_for("BACKUP -> MASTER")?;
    probe.wait_for_answer_from(b.mac(), LONG)?;
    wait_for_device(&b)?;
    assert_eq!(neighbour(&client)?, MAC.to_string());
    // Whoever says where the VIP is says the same.
    let frames = wire.frames();
    let said = frames.iter().filter_map(|frame| Arp::from_frame(&frame.bytes)).filter(|arp| arp.sender_ip == VIP);
    assert!(said.clone().count() > 0);
    assert!(
        said.clone().all(|arp| arp.sender_mac == MAC && arp.ethernet_source == MAC),
        "{:?}",
        said.collect::<Vec<_>>()
    );
    Ok(())
}

/// Each has a device with the source of the other's adverts.
#[test]
fn two_masters_hear_each_other_whatever_the_road() -> Result<()> {
    for road in ["native", "generic", "socket"] {
        let lab = Lab::new()?;
        let [a, b, client] = lab.hosts(["a", "b", "client"])?;
        let node = |host, options| Node::spawn(host, &format!("{options} {VIRTUAL} --datapath={road}"));
        let winner = node(&a, PREFERRED)?;
        winner.wait_for("BACKUP -> MASTER")?;
        let loser = node(&b, OTHER)?;
        loser.wait_for("INIT -> BACKUP")?;
        lab.split(&[&a, &client], &[&b])?;
        loser.wait_for("BACKUP -> MASTER")?;
        wait_for_device(&b)?;
        lab.heal()?;
        loser.wait_for("MASTER -> BACKUP")?;
        wait_until_gone(&b)?;
        Wire::at(&client)?.wait_for_adverts(a.ip(), 2)?;
        assert_eq!(winner.changes().last().map(String::as_str), Some("BACKUP -> MASTER"), "{road}");
        wait_for_device(&a)?;
    }
    Ok(())
}

#[test]
fn a_reload_moves_the_addresses_of_a_master_from_one_mac_to_the_other() -> Result<()> {
    let lab = Lab::new()?;
    let [a, client] = lab.hosts(["a", "client"])?;
    let folder = configured::folder()?;
    let of = |more: &str| [configured::virtual_host(1, VIP, more)];
    configured::write(&folder, &of(""))?;
    let carpd = configured::start(&a, &folder)?;
    configured::wait_for_change(&carpd, "eth0 vhid 1", "BACKUP -> MASTER")?;
    let probe = Probe::start(&client, VIP, PERIOD)?;
    probe.wait_for_answer_from(a.mac(), LONG)?;
    let status = || -> Result<serde_json::Value> {
        let told = configured::carpctl(&folder, &["status", "--json"])?;
        Ok(serde_json::from_slice::<serde_json::Value>(&told.stdout)?["virtual_hosts"][0]["device"].clone())
    };
    for _ in 0..2 {
        configured::write(&folder, &of("mac = \"virtual\""))?;
        assert!(configured::carpctl(&folder, &["reload"])?.status.success());
        wait_for_device(&a)?;
        eventually("the interface is without it", LONG, || Ok(!a.has_address(VIP)?))?;
        let device = device(&a)?;
        eventually("status knows the device", LONG, || Ok(status()? == device.as_str()))?;
        probe.wait_for_answer_from(a.mac(), LONG)?;
        eventually("the client knows the virtual MAC", LONG, || Ok(neighbour(&client)? == MAC.to_string()))?;

        configured::write(&folder, &of(""))?;
        assert!(configured::carpctl(&folder, &["reload"])?.status.success());
        wait_until_gone(&a)?;
        eventually("the interface has it", LONG, || a.has_address(VIP))?;
        eventually("status knows no device", LONG, || Ok(status()?.is_null()))?;
        probe.wait_for_answer_from(a.mac(), LONG)?;
        eventually("the client knows the other MAC", LONG, || Ok(neighbour(&client)? == a.mac().to_string()))?;
    }
    assert_eq!(configured::changes(&carpd, "eth0 vhid 1"), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

#[test]
fn another_set_of_addresses_is_on_the_device_after_a_reload() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let folder = configured::folder()?;
    configured::write(&folder, &[configured::virtual_host(1, VIP, "mac = \"virtual\"")])?;
    let _carpd = configured::start(&a, &folder)?;
    wait_for_device(&a)?;
    let other = "10.77.0.101".parse()?;
    configured::write(&folder, &[configured::virtual_host(1, other, "mac = \"virtual\"")])?;
    assert!(configured::carpctl(&folder, &["reload"])?.status.success());
    eventually("the other one is there, alone", LONG, || {
        let listing = listing(&a)?;
        Ok(listing.contains("10.77.0.101/32") && !listing.contains("10.77.0.100"))
    })?;
    Ok(())
}

#[test]
fn an_address_with_a_prefix_length_makes_no_second_way_into_its_network_ahead_of_the_first() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let node = Node::start_for(&["10.77.0.100/24"], &a, &format!("{PREFERRED} {VIRTUAL} --ignoreifstate"))?;
    node.wait_for("BACKUP -> MASTER")?;
    wait_for_device(&a)?;
    // The interface's own comes after it now.
    a.ns().ip(&format!("link set {ETH0} down"))?;
    a.ns().ip(&format!("link set {ETH0} up"))?;
    eventually("the way leads through the interface", LONG, || {
        Ok(a.ns().ip("route get 10.77.0.77").is_ok_and(|way| way.contains(&format!("dev {ETH0}"))))
    })?;
    Ok(())
}

#[test]
fn a_container_on_the_masters_interface_reaches_the_vip() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let _node = alone(&a, "")?;
    // A container's, as they are by default.
    let ns = Netns::new()?;
    a.ns().ip(&format!("link add link {ETH0} name guest netns {} type macvlan mode bridge", ns.path().display()))?;
    ns.ip_batch("link set guest up\naddr add 10.77.0.77/24 dev guest\n")?;
    let socket = ns.run(|| Ok(UdpSocket::bind("10.77.0.77:0")?))?;
    eventually("it knows the VIP", LONG, || {
        socket.send_to(b"?", (VIP, 9)).ok();
        Ok(ns.ip("neigh show dev guest")?.contains(&MAC.to_string()))
    })?;
    Ok(())
}
