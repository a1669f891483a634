//! Which address of an interface is the source, and which events concern it.

use clap::Parser;
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::*;
use crate::cli::Args;

const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
/// Of another virtual host of the same process.
const ANOTHERS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 101);

fn vips() -> BTreeSet<Ipv4Addr> {
    BTreeSet::from([VIP, ANOTHERS])
}

fn settings(words: &[&str]) -> Settings {
    let required = ["carpd", "--vhid=7", "--pass=secret", "--addr=10.0.0.100"];
    let args = Args::try_parse_from([&required, words].concat()).unwrap_or_else(|error| panic!("{error}"));
    args.virtual_hosts().unwrap_or_else(|error| panic!("{error:#}")).remove(0)
}

fn with(addresses: &[(Ipv4Addr, u8)]) -> Interface {
    Interface { addresses: addresses.to_vec(), ..ready() }
}

/// An interface that is up, without addresses.
pub(crate) fn ready() -> Interface {
    Interface {
        index: 2,
        mac: [2; 6],
        is_up: true,
        has_carrier: true,
        strips_vlan_tags: false,
        xdp_program: None,
        addresses: vec![],
    }
}

#[test]
fn the_source_is_the_address_in_the_vips_network_else_the_first_but_never_a_vip() {
    let settings = settings(&[]);
    assert_eq!(with(&[(ELSEWHERE, 24), (OWN, 24)]).source(&settings, &vips()), Ok(OWN));
    assert_eq!(with(&[(ELSEWHERE, 24), (OWN, 32)]).source(&settings, &vips()), Ok(ELSEWHERE));
    assert_eq!(with(&[(VIP, 24), (OWN, 24)]).source(&settings, &vips()), Ok(OWN));
    assert_eq!(with(&[(ANOTHERS, 24), (OWN, 24)]).source(&settings, &vips()), Ok(OWN));
    assert_eq!(with(&[(VIP, 24), (ANOTHERS, 24)]).source(&settings, &vips()), Err(LinkFault::NoAddress));
    assert_eq!(with(&[]).source(&settings, &vips()), Err(LinkFault::NoAddress));
}

#[test]
fn a_source_that_was_asked_for_is_that_or_none() {
    let settings = settings(&["--srcip=192.168.0.1"]);
    assert_eq!(with(&[(OWN, 24), (ELSEWHERE, 24)]).source(&settings, &vips()), Ok(ELSEWHERE));
    assert_eq!(with(&[(OWN, 24)]).source(&settings, &vips()), Err(LinkFault::NoAddress));
}

#[test]
fn an_interface_that_is_down_or_without_carrier_will_do_only_if_that_is_to_be_ignored() {
    let unplugged = Interface { has_carrier: false, ..with(&[(OWN, 24)]) };
    let down = Interface { is_up: false, ..unplugged.clone() };
    assert_eq!(unplugged.source(&settings(&[]), &vips()), Err(LinkFault::NoCarrier));
    assert_eq!(down.source(&settings(&[]), &vips()), Err(LinkFault::InterfaceDown));
    for interface in [unplugged, down] {
        assert_eq!(interface.source(&settings(&["--ignoreifstate"]), &vips()), Ok(OWN));
    }
}

#[test]
fn networks_of_every_prefix_length_are_told_apart() {
    for prefix in 0..=32 {
        let bit = |from_left: u8| Ipv4Addr::from(u32::from(OWN) ^ (1 << (32 - u32::from(from_left))));
        assert!(prefix == 0 || !in_network(bit(prefix), OWN, prefix), "/{prefix}");
        assert!(prefix == 32 || in_network(bit(prefix + 1), OWN, prefix), "/{prefix}");
    }
}

#[test]
fn an_event_concerns_an_interface_by_index_or_name() {
    let link = |name: &str, index| {
        let message = LinkMessageBuilder::<LinkUnspec>::default().name(name.to_owned()).index(index).build();
        RouteNetlinkMessage::NewLink(message)
    };
    let names = BTreeSet::from(["eth0".to_owned(), "eth7".to_owned()]);
    let (there, gone) = (BTreeSet::from([2, 7]), BTreeSet::from([7]));
    assert!(concerns(&link("eth0", 2), &names, &there));
    assert!(concerns(&link("renamed", 2), &names, &there));
    assert!(concerns(&link("eth0", 9), &names, &gone));
    assert!(!concerns(&link("eth1", 3), &names, &there));
    assert!(!concerns(&link("eth1", 3), &names, &gone));

    let mut address = AddressMessage::default();
    address.header.index = 2;
    assert!(concerns(&RouteNetlinkMessage::DelAddress(address.clone()), &names, &there));
    assert!(!concerns(&RouteNetlinkMessage::NewAddress(address), &names, &gone));
}

#[test]
fn an_address_of_a_point_to_point_interface_is_the_near_one() {
    let mut message = AddressMessage::default();
    message.attributes = vec![AddressAttribute::Address(ELSEWHERE.into()), AddressAttribute::Local(OWN.into())];
    assert_eq!(local(&message), Some(OWN));
}
