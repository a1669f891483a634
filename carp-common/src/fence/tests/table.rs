//! Frames of every kind to, from and about a held VIP, and which of them are dropped when its lease is over.
//!
//! The tests of the kernel programs in the `tests` crate take this file in by path, as that of the verdict.

use core::net::IpAddr;

use Drops::{Arriving, Both, Leaving, Neither};

use super::{
    Family::{self, V4, V6},
    frames::{BOTH, EthernetFrame, Fields, OUR_VHID, source_of, vips},
};

/// The interface's own MAC and the virtual one.
pub(crate) const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const VIRTUAL: [u8; 6] = [0, 0, 0x5e, 0, 1, OUR_VHID];
const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 0xc];
/// Of a guest behind a bridge or a macvtap on the interface.
const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const TCP: u8 = 6;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// In which direction a frame is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drops {
    /// Not at all.
    Neither,
    /// When it arrives.
    Arriving,
    /// When it leaves.
    Leaving,
    /// In either direction.
    Both,
}

impl Drops {
    pub(crate) fn arriving(self) -> bool {
        matches!(self, Arriving | Both)
    }

    pub(crate) fn leaving(self) -> bool {
        matches!(self, Leaving | Both)
    }
}

type Frame = std::vec::Vec<u8>;

/// Builds a frame of this family.
type Build = fn(Family) -> Frame;

/// What it is, in which families, how it is built, when it is dropped.
#[rustfmt::skip]
pub(crate) const TABLE: &[(&str, &[Family], Build, Drops)] = &[
    ("a request for the VIP", &[V4], |_| arp(BROADCAST, CLIENT, REQUEST, [10, 77, 0, 9], VIP), Arriving),
    ("a request for the VIP, to our MAC", &[V4], |_| arp(OWN, CLIENT, REQUEST, [10, 77, 0, 9], VIP), Arriving),
    ("a request for the VIP, to the virtual MAC", &[V4], |_| arp(VIRTUAL, CLIENT, REQUEST, [10, 77, 0, 9], VIP), Arriving),
    ("a request for the VIP, to a guest", &[V4], |_| arp(GUEST, CLIENT, REQUEST, [10, 77, 0, 9], VIP), Neither),
    ("a request for another address", &[V4], |_| arp(BROADCAST, CLIENT, REQUEST, [10, 77, 0, 9], [10, 77, 0, 1]), Neither),
    ("a request of hardware type 6", &[V4], |_| with(arp(BROADCAST, CLIENT, REQUEST, [10, 77, 0, 9], VIP), 15, &[6]), Arriving),
    ("a request for another protocol", &[V4], |_| with(arp(BROADCAST, CLIENT, REQUEST, [10, 77, 0, 9], VIP), 17, &[1]), Neither),
    ("a request with long addresses", &[V4], |_| with(arp(BROADCAST, CLIENT, REQUEST, [10, 77, 0, 9], VIP), 19, &[16]), Neither),
    ("a probe for the VIP", &[V4], |_| arp(BROADCAST, CLIENT, REQUEST, [0; 4], VIP), Arriving),
    ("the announcement of a new master", &[V4], |_| arp(BROADCAST, CLIENT, REQUEST, VIP, VIP), Arriving),
    ("a new master asks for us", &[V4], |_| arp(BROADCAST, CLIENT, REQUEST, VIP, [10, 77, 0, 1]), Neither),
    ("an answer to us", &[V4], |_| arp(OWN, CLIENT, REPLY, [10, 77, 0, 9], VIP), Neither),
    ("our answer", &[V4], |_| arp(CLIENT, OWN, REPLY, VIP, [10, 77, 0, 9]), Leaving),
    ("our answer from the virtual MAC", &[V4], |_| arp(CLIENT, VIRTUAL, REPLY, VIP, [10, 77, 0, 9]), Leaving),
    ("our announcement", &[V4], |_| arp(BROADCAST, OWN, REQUEST, VIP, VIP), Both),
    ("we ask in the name of the VIP", &[V4], |_| arp(BROADCAST, OWN, REQUEST, VIP, [10, 77, 0, 9]), Leaving),
    ("we answer for another address", &[V4], |_| arp(CLIENT, OWN, REPLY, [10, 77, 0, 1], [10, 77, 0, 9]), Neither),
    ("a guest's answer", &[V4], |_| arp(CLIENT, GUEST, REPLY, VIP, [10, 77, 0, 9]), Neither),

    ("a solicitation of the VIP", &[V6], |_| neighbour([0x33, 0x33, 0xff, 0, 1, 0], CLIENT, SOLICITATION, CLIENT_6, GROUP, vip(V6)), Arriving),
    ("a probe of the VIP", &[V6], |_| neighbour([0x33, 0x33, 0xff, 0, 1, 0], CLIENT, SOLICITATION, "::", GROUP, vip(V6)), Arriving),
    ("a solicitation of the VIP at our address", &[V6], |_| neighbour(OWN, CLIENT, SOLICITATION, CLIENT_6, "fe80::1", vip(V6)), Arriving),
    ("a solicitation of the VIP, to a guest", &[V6], |_| neighbour(GUEST, CLIENT, SOLICITATION, CLIENT_6, GROUP, vip(V6)), Neither),
    ("a solicitation of another address", &[V6], |_| neighbour([0x33, 0x33, 0xff, 0, 1, 0], CLIENT, SOLICITATION, CLIENT_6, GROUP, source_of(V6)), Neither),
    ("the advertisement of a new master", &[V6], |_| neighbour(ALL_NODES, CLIENT, ADVERTISEMENT, "fe80::2", "ff02::1", vip(V6)), Neither),
    ("our advertisement", &[V6], |_| neighbour(ALL_NODES, OWN, ADVERTISEMENT, "fe80::1", "ff02::1", vip(V6)), Leaving),
    ("our advertisement from the virtual MAC", &[V6], |_| neighbour(ALL_NODES, VIRTUAL, ADVERTISEMENT, "fe80::1", "ff02::1", vip(V6)), Leaving),
    ("we advertise another address", &[V6], |_| neighbour(ALL_NODES, OWN, ADVERTISEMENT, "fe80::1", "ff02::1", source_of(V6)), Neither),
    ("we solicit the VIP from our address", &[V6], |_| neighbour([0x33, 0x33, 0xff, 0, 1, 0], OWN, SOLICITATION, "fe80::1", GROUP, vip(V6)), Arriving),
    ("a guest's advertisement", &[V6], |_| neighbour(ALL_NODES, GUEST, ADVERTISEMENT, "fe80::99", "ff02::1", vip(V6)), Neither),
    ("another message of ICMPv6 about the VIP", &[V6], |_| neighbour(OWN, OWN, 137, "fe80::1", "fe80::1", vip(V6)), Neither),
    ("an extension header before the solicitation", &[V6], |_| with(neighbour([0x33, 0x33, 0xff, 0, 1, 0], CLIENT, SOLICITATION, CLIENT_6, GROUP, vip(V6)), 20, &[0]), Neither),

    ("to the VIP", &BOTH, |f| ip(f, OWN, CLIENT, client(f), vip(f)), Arriving),
    ("to the VIP at the virtual MAC", &BOTH, |f| ip(f, VIRTUAL, CLIENT, client(f), vip(f)), Arriving),
    ("to the VIP by broadcast", &BOTH, |f| ip(f, BROADCAST, CLIENT, client(f), vip(f)), Arriving),
    ("to the VIP at a guest", &BOTH, |f| ip(f, GUEST, CLIENT, client(f), vip(f)), Neither),
    ("to our address", &BOTH, |f| ip(f, OWN, CLIENT, client(f), source_of(f)), Neither),
    ("from the VIP", &BOTH, |f| ip(f, CLIENT, OWN, vip(f), client(f)), Leaving),
    ("from the VIP and the virtual MAC", &BOTH, |f| ip(f, CLIENT, VIRTUAL, vip(f), client(f)), Leaving),
    ("from the VIP of a guest", &BOTH, |f| ip(f, CLIENT, GUEST, vip(f), client(f)), Neither),
    ("from our address", &BOTH, |f| ip(f, CLIENT, OWN, source_of(f), client(f)), Neither),
    ("from the VIP to itself", &BOTH, |f| ip(f, OWN, OWN, vip(f), vip(f)), Both),
    ("a first fragment", &[V4], |f| with(ip(f, OWN, CLIENT, client(f), vip(f)), 20, &[0x20]), Arriving),
    ("a later fragment", &[V4], |f| with(ip(f, CLIENT, OWN, vip(f), client(f)), 21, &[7]), Leaving),
    ("a fragment", &[V6], |f| with(ip(f, OWN, CLIENT, client(f), vip(f)), 20, &[44]), Arriving),
    ("with options", &[V4], |f| insert(with(ip(f, OWN, CLIENT, client(f), vip(f)), 14, &[0x46]), 34, &[1; 4]), Arriving),
    ("with options, from the VIP", &[V4], |f| insert(with(ip(f, CLIENT, OWN, vip(f), client(f)), 14, &[0x46]), 34, &[1; 4]), Leaving),
    ("protocol 112 to the VIP, no advert", &BOTH, |f| EthernetFrame::of(f, &[0x31; 36]).with(0, &OWN).bytes_to(f, vip(f)), Arriving),
    ("802.1Q tagged, to the VIP", &BOTH, |f| insert(ip(f, OWN, CLIENT, client(f), vip(f)), 12, &[0x81, 0, 0, 10]), Neither),
    ("802.1Q tagged, from the VIP", &BOTH, |f| insert(ip(f, CLIENT, OWN, vip(f), client(f)), 12, &[0x81, 0, 0, 10]), Neither),
    ("another EtherType", &BOTH, |f| with(ip(f, OWN, OWN, vip(f), vip(f)), 12, &[0x88, 0xcc]), Neither),

    ("our advert", &BOTH, |f| ours(f).bytes, Leaving),
    ("our advert from the interface's MAC", &BOTH, |f| ours(f).with(6, &OWN).bytes, Leaving),
    ("our advert to a peer", &[V4], |f| ours(f).with(0, &CLIENT).with(30, &[10, 77, 0, 2]).bytes, Leaving),
    ("our bow-out", &BOTH, |f| ours(f).in_payload(2, 255).in_payload(5, 255).bytes, Neither),
    ("advbase 255", &BOTH, |f| ours(f).in_payload(5, 255).bytes, Leaving),
    ("advskew 255", &BOTH, |f| ours(f).in_payload(2, 255).bytes, Leaving),
    ("an advert of another vhid", &BOTH, |f| ours(f).in_payload(1, OUR_VHID + 1).bytes, Neither),
    ("an advert of another source", &BOTH, |f| ours(f).with_source(client(f)).bytes, Neither),
    ("VRRPv2 of our address", &BOTH, |f| ours(f).in_payload(3, 1).bytes, Neither),
    ("VRRPv2 of our address with seven virtual ones", &BOTH, |f| longer(f), Neither),
    ("VRRPv3 of our address", &BOTH, |f| ours(f).in_payload(0, 0x31).bytes, Neither),
    ("another protocol of our address", &BOTH, |f| ours(f).with_protocol(TCP).bytes, Neither),
];

const VIP: [u8; 4] = [10, 77, 0, 100];
const CLIENT_6: &str = "fd00::9";
/// Which the VIP's solicitations go to.
const GROUP: &str = "ff02::1:ff00:100";

/// The VIP of a family.
pub(crate) fn vip(family: Family) -> IpAddr {
    vips()[usize::from(family == V6)]
}

fn client(family: Family) -> IpAddr {
    if family == V4 { [10, 77, 0, 9].into() } else { CLIENT_6.parse().unwrap() }
}

fn ours(family: Family) -> EthernetFrame {
    EthernetFrame::advert(family, Fields::default())
}

/// Our advert with eight bytes more.
fn longer(family: Family) -> Frame {
    let payload_at = if family == V4 { 34 } else { 54 };
    EthernetFrame::of(family, &[&ours(family).bytes[payload_at..], &[0; 8]].concat()).bytes
}

/// TCP between these addresses.
pub(crate) fn ip(family: Family, to: [u8; 6], from: [u8; 6], source: IpAddr, destination: IpAddr) -> Frame {
    let frame = EthernetFrame::of(family, &[0x55; 40]).with_protocol(TCP).with_source(source);
    frame.with(0, &to).with(6, &from).bytes_to(family, destination)
}

fn arp(to: [u8; 6], from: [u8; 6], operation: u16, sender: [u8; 4], target: [u8; 4]) -> Frame {
    let mut frame = [&to[..], &from, &[8, 6, 0, 1, 8, 0, 6, 4], &operation.to_be_bytes(), &from, &sender].concat();
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

/// A message of neighbour discovery about `target`.
fn neighbour(to: [u8; 6], from: [u8; 6], message: u8, source: &str, destination: &str, target: IpAddr) -> Frame {
    let mut payload = std::vec![message, 0, 0, 0, 0, 0, 0, 0];
    payload.extend(octets(target));
    payload.extend([2, 1]);
    payload.extend(from);
    let frame = EthernetFrame::of(V6, &payload).with(20, &[58]).with_source(source.parse().unwrap());
    frame.with(0, &to).with(6, &from).bytes_to(V6, destination.parse().unwrap())
}

fn octets(address: IpAddr) -> Frame {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Other bytes at this place.
fn with(mut frame: Frame, at: usize, bytes: &[u8]) -> Frame {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

fn insert(mut frame: Frame, at: usize, bytes: &[u8]) -> Frame {
    frame.splice(at..at, bytes.iter().copied());
    frame
}

impl EthernetFrame {
    /// The frame, to this address.
    fn bytes_to(self, family: Family, destination: IpAddr) -> Frame {
        with(self.bytes, if family == V4 { 30 } else { 38 }, &octets(destination))
    }
}
