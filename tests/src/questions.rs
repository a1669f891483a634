//! What clients ask of an address, as frames that can be brought to one host alone, and frames that speak in its name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::host::Host;
use crate::models::wire::checksum;
use crate::packet::{Arp, MacAddr, NeighbourAdvert, echo_request};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ECHO_REQUEST6: u8 = 128;

/// What a frame says in the name of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Where it is: ARP, or a neighbour advertisement.
    Neighbour,
    /// It is an IP packet from it.
    Packet,
}

/// "Who has `address`?", by ARP or as a neighbour solicitation, to those whom it may concern.
pub fn who_has(client: &Host, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => Arp::request(client.mac(), client.ip(), address).to_frame(),
        IpAddr::V6(address) => {
            let [.., x, y, z] = address.octets();
            let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
            group[13..].copy_from_slice(&[x, y, z]);
            // With the option that says where the client is.
            let told = [&address.octets()[..], &[1, 1], &client.mac().0].concat();
            let to = MacAddr([0x33, 0x33, 0xff, x, y, z]);
            icmpv6(client, to, group.into(), SOLICITATION, &told)
        }
    }
}

/// An ICMP echo request to an address, which is supposed to be at this MAC.
pub fn ping(client: &Host, at: MacAddr, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => {
            let message = echo_request(1, 1);
            let mut ip = ipv4(client.ip(), address, message.len());
            let sum = checksum(&ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            [&at.0[..], &client.mac().0, &[0x08, 0x00], &ip, &message].concat()
        }
        IpAddr::V6(address) => icmpv6(client, at, address, ECHO_REQUEST6, &[]),
    }
}

/// What a frame says in the name of an address, if it does.
pub fn claim(frame: &[u8], address: IpAddr) -> Option<Claim> {
    match address {
        IpAddr::V4(address) => {
            let is_arp = Arp::from_frame(frame).is_some_and(|arp| arp.sender_ip == address);
            let is_from = frame.get(12..14)? == [0x08, 0x00] && frame.get(26..30)? == address.octets();
            is_arp.then_some(Claim::Neighbour).or(is_from.then_some(Claim::Packet))
        }
        IpAddr::V6(address) => {
            let is_told = NeighbourAdvert::from_frame(frame).is_some_and(|advert| advert.target == address);
            let is_from = frame.get(12..14)? == [0x86, 0xdd] && frame.get(22..38)? == address.octets();
            is_told.then_some(Claim::Neighbour).or(is_from.then_some(Claim::Packet))
        }
    }
}

/// A header without its checksum.
fn ipv4(from: Ipv4Addr, to: Ipv4Addr, length: usize) -> [u8; 20] {
    let mut ip = [0; 20];
    (ip[0], ip[3], ip[8], ip[9]) = (0x45, 20 + length as u8, 64, ICMP);
    ip[12..16].copy_from_slice(&from.octets());
    ip[16..].copy_from_slice(&to.octets());
    ip
}

/// A message of this type, with four zeros before the rest of it.
fn icmpv6(client: &Host, at: MacAddr, to: Ipv6Addr, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0, 0, 0, 0, 0], rest].concat();
    let length = message.len() as u8;
    let addresses = [client.ip6().octets(), to.octets()].concat();
    let sum = checksum(&[&addresses[..], &[0, 0, 0, length, 0, 0, 0, ICMPV6], &message].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let ip = [&[0x60, 0, 0, 0, 0, length, ICMPV6, 255], &addresses[..]].concat();
    [&at.0[..], &client.mac().0, &[0x86, 0xdd], &ip, &message].concat()
}
