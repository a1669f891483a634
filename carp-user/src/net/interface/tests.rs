//! Which address of an interface is the source, and which events concern it.

use clap::Parser;
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::*;
use crate::cli::Args;

const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1));
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100));
/// Of another virtual host of the same process.
const ANOTHERS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 101));
const OWN6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
const ELSEWHERE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1));
const LINK_LOCAL: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

fn vips() -> BTreeSet<IpAddr> {
    BTreeSet::from([VIP, ANOTHERS])
}

fn settings(words: &[&str]) -> Settings {
    let required = ["carpd", "--vhid=7", "--pass=secret", "--addr=10.0.0.100"];
    let args = Args::try_parse_from([&required, words].concat()).unwrap_or_else(|error| panic!("{error}"));
    args.configuration().unwrap_or_else(|error| panic!("{error:#}")).hosts.remove(0)
}

fn with(addresses: &[(IpAddr, u8)]) -> Interface {
    let address = |(ip, prefix): &(IpAddr, u8)| Address { ip: *ip, prefix: *prefix, is_ready: true };
    Interface { addresses: addresses.iter().map(address).collect(), ..ready() }
}

/// An interface that is up, without addresses.
pub(crate) fn ready() -> Interface {
    Interface {
        index: 2,
        mac: [2; 6],
        is_up: true,
        has_carrier: true,
        strips_vlan_tags: false,
        xdp: None,
        is_router: false,
        addresses: vec![],
        devices: vec![],
    }
}

#[test]
fn the_source_is_the_address_in_the_vips_network_else_the_first_but_never_a_vip() {
    let settings = settings(&[]);
    assert_eq!(with(&[(ELSEWHERE, 24), (OWN, 24)]).sources(&settings, &vips()), Ok(vec![OWN]));
    assert_eq!(with(&[(ELSEWHERE, 24), (OWN, 32)]).sources(&settings, &vips()), Ok(vec![ELSEWHERE]));
    assert_eq!(with(&[(VIP, 24), (OWN, 24)]).sources(&settings, &vips()), Ok(vec![OWN]));
    assert_eq!(with(&[(ANOTHERS, 24), (OWN, 24)]).sources(&settings, &vips()), Ok(vec![OWN]));
    assert_eq!(with(&[(VIP, 24), (ANOTHERS, 24)]).sources(&settings, &vips()), Err(LinkFault::NoAddress));
    assert_eq!(with(&[]).sources(&settings, &vips()), Err(LinkFault::NoAddress));
}

#[test]
fn a_source_that_was_asked_for_is_that_or_none() {
    let settings = settings(&["--srcip=192.168.0.1"]);
    assert_eq!(with(&[(OWN, 24), (ELSEWHERE, 24)]).sources(&settings, &vips()), Ok(vec![ELSEWHERE]));
    assert_eq!(with(&[(OWN, 24)]).sources(&settings, &vips()), Err(LinkFault::NoAddress));
}

#[test]
fn over_ipv6_the_source_is_link_local_unless_peers_are_elsewhere() {
    let all = [(OWN6, 64), (ELSEWHERE6, 64), (LINK_LOCAL, 64), (OWN, 24)];
    let both = settings(&["--addr=fd00::100"]);
    assert_eq!(with(&all).sources(&both, &vips()), Ok(vec![OWN, LINK_LOCAL]));
    assert_eq!(with(&all[..3]).sources(&both, &vips()), Err(LinkFault::NoAddress), "each family needs one");
    assert_eq!(with(&[(OWN6, 64), (OWN, 24)]).sources(&both, &vips()), Ok(vec![OWN, OWN6]));
    let peers = settings(&["--addr=fd00::100", "--peer=fd77::9", "--peer=10.0.0.9"]);
    assert_eq!(with(&all).sources(&peers, &vips()), Ok(vec![OWN, ELSEWHERE6]));
    let named = settings(&["--addr=fd00::100", "--srcip=fd00::1"]);
    assert_eq!(with(&all).sources(&named, &vips()), Ok(vec![OWN, OWN6]));
}

#[test]
fn an_address_that_may_be_anothers_yet_is_no_source() {
    let mut interface = with(&[(OWN, 24), (ELSEWHERE, 24)]);
    interface.addresses[0].is_ready = false;
    assert_eq!(interface.sources(&settings(&[]), &vips()), Ok(vec![ELSEWHERE]));
    assert!(interface.has(OWN));
}

#[test]
fn an_interface_that_is_down_or_without_carrier_will_do_only_if_that_is_to_be_ignored() {
    let unplugged = Interface { has_carrier: false, ..with(&[(OWN, 24)]) };
    let down = Interface { is_up: false, ..unplugged.clone() };
    assert_eq!(unplugged.sources(&settings(&[]), &vips()), Err(LinkFault::NoCarrier));
    assert_eq!(down.sources(&settings(&[]), &vips()), Err(LinkFault::InterfaceDown));
    for interface in [unplugged, down] {
        assert_eq!(interface.sources(&settings(&["--ignoreifstate"]), &vips()), Ok(vec![OWN]));
    }
}

#[test]
fn networks_of_every_prefix_length_are_told_apart() {
    for (own, longest) in [(OWN, 32), (OWN6, 128)] {
        for prefix in 0..=longest {
            let bit = |from_left: u8| match own {
                IpAddr::V4(own) => IpAddr::from(Ipv4Addr::from(u32::from(own) ^ (1 << (32 - u32::from(from_left))))),
                IpAddr::V6(own) => IpAddr::from(Ipv6Addr::from(u128::from(own) ^ (1 << (128 - u32::from(from_left))))),
            };
            assert!(prefix == 0 || !in_network(bit(prefix), own, prefix), "/{prefix}");
            assert!(prefix == longest || in_network(bit(prefix + 1), own, prefix), "/{prefix}");
        }
    }
    assert!(!in_network(OWN, OWN6, 0));
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
    message.attributes = vec![AddressAttribute::Address(ELSEWHERE), AddressAttribute::Local(OWN)];
    assert_eq!(address(&message).map(|address| address.ip), Some(OWN));
}
