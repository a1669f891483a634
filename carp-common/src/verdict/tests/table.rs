//! What is ours, what may be dropped: frames of every kind, and what becomes of them.
//!
//! The tests of the XDP program in the `tests` crate take this file and [`frames`](super::frames) in by
//! path, so that the kernel and the host are asked about the same frames.

use core::net::IpAddr;

use Expect::{Foreign, Other, OtherOfOurs, Refused, Valid};

use super::{
    Family::{self, V4, V6},
    Reason,
    frames::{BOTH, DIGEST_AT, EthernetFrame, Fields, OUR_VHID},
};

/// What it is, in which families, how it is built, what becomes of it.
#[rustfmt::skip]
pub(crate) const TABLE: &[(&str, &[Family], Build, Expect)] = &[
    ("another protocol", &BOTH, |f| good(f).with_protocol(6), Foreign),
    ("another EtherType", &BOTH, |f| good(f).with(12, &[0x08, 0x06]), Foreign),
    ("802.1Q tagged", &BOTH, |f| good(f).with_inserted(12, &[0x81, 0, 0, 10]), Foreign),
    ("the first fragment", &[V4], |f| good(f).with(20, &[0x20, 0]).with_checksum(), Foreign),
    ("a later fragment", &[V4], |f| good(f).with(20, &[0x00, 1]).with_checksum(), Foreign),
    ("a fragment", &[V6], |f| good(f).with_protocol(44), Foreign),
    ("IPv4 options", &[V4], |f| good(f).with(14, &[0x46]).with_inserted(34, &[1; 4]), Foreign),
    ("another IP version", &[V4], |f| good(f).with(14, &[0x65]), Foreign),
    ("another IP version", &[V6], |f| good(f).with(14, &[0x40]), Foreign),

    ("payload of 35 bytes in a longer frame", &BOTH, |f| good(f).with_payload_len(35), Other),
    ("no payload", &BOTH, |f| good(f).with_payload_len(0), Other),
    ("a total length below the header's", &[V4], |f| good(f).with(16, &[0, 3]), Other),
    ("longer than its frame", &BOTH, |f| good(f).with_payload_len(37), Other),
    ("cut short", &BOTH, |f| good(f).cut_by(1), Other),
    ("VRRPv3", &BOTH, |f| EthernetFrame::of(f, &[0x31; 36]).with_checksum(), Other),
    ("version 2, type 2", &BOTH, |f| good(f).in_payload(0, 0x22), Other),
    ("authlen 6", &BOTH, |f| good(f).in_payload(3, 6), Other),
    ("authlen 8", &BOTH, |f| good(f).in_payload(3, 8), Other),
    ("VRRPv2, 1 address", &BOTH, |f| vrrp_2(f, 1), Other),
    ("VRRPv2, 5 addresses: 36 bytes", &BOTH, |f| vrrp_2(f, 5), Other),
    ("VRRPv2, 6 addresses", &BOTH, |f| vrrp_2(f, 6), Other),
    ("VRRPv2, 8 addresses", &BOTH, |f| vrrp_2(f, 8), Other),
    ("an unknown vhid", &BOTH, |f| good(f).in_payload(1, 8), Other),
    ("an unknown vhid, bad in every way", &BOTH, |f| good(f).in_payload(1, 8).with_ttl(1).spoilt(DIGEST_AT), Other),

    ("VRRPv2, 7 addresses: authlen 7", &BOTH, |f| vrrp_2(f, 7), OtherOfOurs),
    ("a trailer and a bad digest", &BOTH, |f| good(f).spoilt(DIGEST_AT).with_checksum().with_trailer(&[0; 8]), OtherOfOurs),
    ("a trailer of a byte and a bad digest", &BOTH, |f| good(f).spoilt(DIGEST_AT).with_checksum().with_trailer(&[0]), OtherOfOurs),
    ("a trailer and a bad TTL", &BOTH, |f| good(f).with_ttl(64).with_trailer(&[0; 8]), OtherOfOurs),

    ("TTL 254", &BOTH, |f| good(f).with_ttl(254), Refused(Reason::BadTtl)),
    ("TTL 0", &BOTH, |f| good(f).with_ttl(0), Refused(Reason::BadTtl)),
    ("a bad checksum", &BOTH, |f| good(f).spoilt(6), Refused(Reason::BadSum)),
    ("a bad digest", &BOTH, |f| good(f).spoilt(DIGEST_AT).with_checksum(), Refused(Reason::BadAuth)),
    ("another counter", &BOTH, |f| good(f).spoilt(15).with_checksum(), Refused(Reason::BadAuth)),
    ("a padded frame, bad", &BOTH, |f| good(f).spoilt(6).padded(20), Refused(Reason::BadSum)),
    ("no source", &[V4], |_| from("0.0.0.0"), Refused(Reason::BadAddrs)),
    ("loopback", &[V4], |_| from("127.0.0.1"), Refused(Reason::BadAddrs)),
    ("a group", &[V4], |_| from("224.0.0.18"), Refused(Reason::BadAddrs)),
    ("broadcast", &[V4], |_| from("255.255.255.255"), Refused(Reason::BadAddrs)),
    ("no source", &[V6], |_| from("::"), Refused(Reason::BadAddrs)),
    ("loopback", &[V6], |_| from("::1"), Refused(Reason::BadAddrs)),
    ("a group", &[V6], |_| from("ff02::12"), Refused(Reason::BadAddrs)),

    ("an advert", &BOTH, good, Valid),
    ("a padded frame", &BOTH, |f| good(f).padded(20), Valid),
    ("a trailer and a good digest", &BOTH, |f| good(f).with_trailer(&[0xee; 16]), Valid),
    ("a trailer of a byte and a good digest", &BOTH, |f| good(f).with_trailer(&[0]), Valid),
    ("ucarp's Ethernet source", &BOTH, |f| good(f).with(6, &[0, 0, 0x5e, 0, 0, OUR_VHID]), Valid),
    ("another TOS and no DF", &[V4], |f| good(f).with(15, &[0xe0]).with(20, &[0, 0]).with_checksum(), Valid),
    ("traffic class and flow label", &[V6], |f| good(f).with(14, &[0x6e, 0x12, 0x34, 0x56]), Valid),
    ("to a unicast peer", &[V4], |f| good(f).with(30, &[10, 77, 0, 2]).with_checksum(), Valid),
    ("a bow-out", &BOTH, |f| good(f).in_payload(2, 255).in_payload(5, 255), Valid),
    ("edited election fields", &BOTH, |f| good(f).in_payload(2, 0).in_payload(4, 9), Valid),
    ("a private source", &[V4], |_| from("192.168.178.210"), Valid),
    ("a link-local source", &[V6], |_| from("fe80::210"), Valid),
];

/// What a row of the table says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    /// Pass, uncounted.
    Foreign,
    /// Pass, counted as other of no virtual host.
    Other,
    /// Pass, counted as other of ours: an unknown trailer.
    OtherOfOurs,
    /// Drop.
    Refused(Reason),
    /// Pass, event.
    Valid,
}

/// Builds a frame of this family.
pub(crate) type Build = fn(Family) -> EthernetFrame;

pub(crate) fn good(family: Family) -> EthernetFrame {
    EthernetFrame::advert(family, Fields::default())
}

/// A good advert with this source address.
pub(crate) fn from(source: &str) -> EthernetFrame {
    let source: IpAddr = source.parse().unwrap();
    good(if source.is_ipv4() { V4 } else { V6 }).with_source(source)
}

/// VRRPv2 with this many IPv4 addresses and 8 bytes of authentication data, of a router id that is our vhid.
fn vrrp_2(family: Family, addresses: u8) -> EthernetFrame {
    let mut payload = std::vec![0x21, OUR_VHID, 100, addresses, 0, 1, 0, 0];
    payload.extend((0..addresses).flat_map(|last| [10, 77, 0, last]));
    payload.extend([0; 8]);
    EthernetFrame::of(family, &payload).with_checksum()
}
