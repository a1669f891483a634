use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::packet::NeighbourAdvert;
use carp_tests::questions::who_has;
use carp_tests::{
    Capture, ETH0, Filter, Flood, FloodPlan, Frame, Host, LONG, Lab, LabOptions, Node, Wire, adverts, eventually,
};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};

use super::{MAC, VIRTUAL, alone, listing};

const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);
const LINK_LOCAL_VIP: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x100);

fn lab() -> Result<Lab> {
    Lab::with(LabOptions { ipv6: true, ..LabOptions::default() })
}

fn index(host: &Host, interface: &str) -> Result<u32> {
    host.ns().run(|| Ok(if_nametoindex(interface)?))
}

/// Has a host's router advertisement for a network heard by all.
fn advertise_router(router: &Host) -> Result<()> {
    let mut message = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    // A prefix of 64 bits, on the link, for addresses of its hosts.
    message.extend([3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 7, 8, 0, 0, 0, 0]);
    message.extend(Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 0).octets());
    let index = index(router, ETH0)?;
    router.ns().run(|| {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.set_multicast_hops_v6(255)?;
        let all = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
        socket.send_to(&message, &all.into())?;
        Ok(())
    })
}

#[test]
fn the_device_says_nothing_of_its_own_and_takes_nothing_from_routers() -> Result<()> {
    let lab = lab()?;
    let [a, router] = lab.hosts(["a", "router"])?;
    for (knob, value) in [("accept_ra", "1"), ("autoconf", "1"), ("router_solicitations", "3"), ("accept_dad", "1")] {
        a.ns().set_sysctl(&format!("net.ipv6.conf.default.{knob}"), value)?;
        a.ns().set_sysctl(&format!("net.ipv6.conf.{ETH0}.{knob}"), value)?;
    }
    let capture = Capture::start(router.ns(), ETH0, Filter::Everything)?;
    let _node = alone(&a, "")?;
    advertise_router(&router)?;
    // The interface itself takes it.
    eventually("the router was heard", LONG, || {
        Ok(a.addresses()?.iter().any(|(own, _)| own.to_string().starts_with("fd78:")))
    })?;
    Wire::at(&router)?.wait_for_adverts(a.ip(), 5)?;
    assert!(!listing(&a)?.contains("inet6"), "{}", listing(&a)?);
    assert!(!a.ns().ip("-6 route show")?.lines().any(|line| line.contains("dev carp") && !line.starts_with("ff00::")));
    let frames = capture.frames();
    let ipv6 = frames.iter().filter(|frame| frame.bytes[6..12] == MAC.0 && frame.bytes[12..14] == [0x86, 0xdd]);
    let ipv6: Vec<_> = ipv6.collect();
    assert!(ipv6.is_empty(), "{ipv6:?}");
    Ok(())
}

/// Where it is, and the kernel, for switches that snoop, to which group it listens there; no search for another that has
/// the address, no question for routers.
#[test]
fn with_an_ipv6_address_the_device_says_where_that_is_and_nothing_of_its_own() -> Result<()> {
    let lab = lab()?;
    let [a, witness] = lab.hosts(["a", "witness"])?;
    for (knob, value) in [("router_solicitations", "3"), ("router_solicitation_delay", "0"), ("accept_dad", "1")] {
        a.ns().set_sysctl(&format!("net.ipv6.conf.default.{knob}"), value)?;
    }
    let capture = Capture::start(witness.ns(), ETH0, Filter::Everything)?;
    let options = format!("{PREFERRED} --mac=virtual");
    let mut node = Node::start_for(&["10.77.0.100", "fd77::100"], &a, &options)?;
    node.wait_for("BACKUP -> MASTER")?;
    // Longer than any of these would wait.
    Wire::at(&witness)?.wait_for_adverts(a.ip(), 10)?;
    assert!(listing(&a)?.contains("fd77::100"));
    node.agent_mut().stop_and_wait(LONG)?;
    let is_ipv6 = |frame: &Frame| frame.bytes[6..12] == MAC.0 && frame.bytes[12..14] == [0x86, 0xdd];
    let frames = capture.frames().into_iter().filter(|frame| is_ipv6(frame) && adverts::parse(frame).is_none());
    let here = NeighbourAdvert::unsolicited(MAC, VIP6);
    let (told, others): (Vec<_>, Vec<_>) =
        frames.partition(|frame| NeighbourAdvert::from_frame(&frame.bytes) == Some(here));
    assert!(!told.is_empty() && others.iter().all(|frame| is_membership(&frame.bytes)), "{others:?}");
    Ok(())
}

/// Whether a frame tells of the group in which solicitations for the VIP come, and of no other.
fn is_membership(frame: &[u8]) -> bool {
    // Behind the option that has routers look: a report of MLDv2 with one record of a group and no sources.
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x100);
    frame.len() == 90 && frame[62] == 143 && frame[69] == 1 && frame[74..] == group.octets()
}

#[test]
fn whoever_asks_for_an_ipv6_address_is_told_the_virtual_mac_and_no_other() -> Result<()> {
    let lab = lab()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let start = |host, options| Node::start_for(&["fd77::100", "fe80::100"], host, &format!("{options} {VIRTUAL}"));
    let master = start(&a, PREFERRED)?;
    master.wait_for("BACKUP -> MASTER")?;
    let backup = start(&b, OTHER)?;
    let vips = [VIP6, LINK_LOCAL_VIP];
    let wires = [&a, &b].map(|host| Capture::start(lab.switch(), &host.port(), Filter::Everything));
    let frames = vips.map(|vip| who_has(&client, vip.into())).to_vec();
    let _asks = Flood::start(client.ns(), ETH0, FloodPlan { frames, rate: Some(200), duration: 4 * LONG })?;
    for (host, wire) in [&a, &b].into_iter().zip(wires) {
        let wire = wire?;
        if host.name() == "b" {
            a.kill_host()?;
        }
        let told = || {
            let frames = wire.frames().into_iter().filter(|frame| !frame.outgoing);
            let told = frames.filter_map(|frame| NeighbourAdvert::from_frame(&frame.bytes));
            told.filter(|told| vips.contains(&told.target)).collect::<Vec<_>>()
        };
        eventually("both are told a hundred times", LONG, || {
            let told = told();
            Ok(vips.iter().all(|vip| told.iter().filter(|told| told.target == *vip).count() >= 100))
        })?;
        assert!(told().iter().all(|told| told.target_mac == MAC && told.ethernet_source == MAC), "{:?}", told());
    }
    assert_eq!(backup.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

#[test]
fn ipv6_addresses_are_answered_by_the_virtual_mac_before_and_after_a_takeover() -> Result<()> {
    let lab = lab()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    let vips = ["10.77.0.100", "fd77::100", "fe80::100"];
    let start = |host, options| Node::start_for(&vips, host, &format!("{options} {VIRTUAL}"));
    let master = start(&a, PREFERRED)?;
    master.wait_for("BACKUP -> MASTER")?;
    let backup = start(&b, OTHER)?;
    let scope = index(&client, ETH0)?;
    let client_socket = client.ns().run(|| Ok(UdpSocket::bind("[::]:0")?))?;
    client_socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut is_first = true;
    for host in [&a, &b] {
        if !is_first {
            a.kill_host()?;
            backup.wait_for("BACKUP -> MASTER")?;
        }
        eventually("the addresses are there", LONG, || {
            let listing = listing(host)?;
            Ok(listing.contains("fd77::100") && listing.contains("fe80::100") && !listing.contains("tentative"))
        })?;
        for vip in [VIP6, LINK_LOCAL_VIP] {
            let is_link_local = vip == LINK_LOCAL_VIP;
            let device = index(host, &super::device(host)?)?;
            let here = SocketAddrV6::new(vip, 7, 0, if is_link_local { device } else { 0 });
            let service = host.ns().run(|| Ok(UdpSocket::bind(here)?))?;
            service.set_nonblocking(true)?;
            let there = SocketAddrV6::new(vip, 7, 0, if is_link_local { scope } else { 0 });
            eventually("it answers", LONG, || {
                client_socket.send_to(b"?", there)?;
                let mut buffer = [0; 8];
                thread::sleep(Duration::from_millis(5));
                while let Ok((_, from)) = service.recv_from(&mut buffer) {
                    service.send_to(b"!", from).ok();
                }
                Ok(client_socket.recv_from(&mut buffer).is_ok_and(|(_, from)| from.ip() == vip))
            })?;
            let entry = client.ns().ip(&format!("neigh show {vip} dev {ETH0}"))?;
            assert!(entry.contains(&MAC.to_string()), "{entry}");
        }
        is_first = false;
    }
    Ok(())
}

/// Switches would learn the MAC on the wrong port: by then it is the next master's.
#[test]
fn a_master_that_leaves_says_nothing_more_from_the_virtual_mac() -> Result<()> {
    let lab = lab()?;
    let [a, witness] = lab.hosts(["a", "witness"])?;
    for more in ["", "--fence=off"] {
        let mut node = Node::start_for(&["10.77.0.100", "fd77::100"], &a, &format!("{PREFERRED} {VIRTUAL} {more}"))?;
        node.wait_for("BACKUP -> MASTER")?;
        eventually("the addresses are there", LONG, || Ok(listing(&a)?.contains("fd77::100")))?;
        // Until it has told of its groups.
        Wire::at(&witness)?.wait_for_adverts(a.ip(), 10)?;
        let capture = Capture::start(witness.ns(), ETH0, Filter::Everything)?;
        node.agent_mut().stop_and_wait(LONG)?;
        let frames = capture.frames();
        let said: Vec<_> = frames.iter().filter(|frame| frame.bytes[6..12] == MAC.0).collect();
        let adverts = said.iter().filter_map(|frame| adverts::parse(frame));
        let adverts: Vec<_> = adverts.collect();
        assert!(adverts.iter().any(|advert| advert.is_bow_out()), "{adverts:?}");
        assert_eq!(adverts.len(), said.len(), "{said:?}");
    }
    Ok(())
}
