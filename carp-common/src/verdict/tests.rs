//! Tests of the verdict on the host: every row of "what is ours, what may be dropped", in both families.

mod frames;
mod properties;

use core::net::IpAddr;
use std::{collections::HashMap, vec::Vec};

use Expect::{Foreign, Other, OtherOfOurs, Refused, Valid};
use Family::{V4, V6};
use frames::{DIGEST_AT, EthernetFrame, Fields, SOURCE, payload_at};

use super::{Frame, Tables, Verdict, judge};
use crate::{
    abi::{Advert, Family, Sent, SourceKey, Vhost, VhostKey, address_bytes},
    digest::{Blocks, DigestKey, Passphrase},
    reason::Reason,
};

const IFINDEX: u32 = 3;
const OUR_VHID: u8 = 7;
const PASSPHRASE: &[u8] = b"secret";
/// Rows of counters, one for each family to tell them apart.
const ROWS: [(Family, u32); 2] = [(V4, 5), (V6, 6)];

/// The tables on a host: a virtual host in both families.
struct HostTables {
    vhosts: HashMap<VhostKey, Vhost>,
    sent: HashMap<VhostKey, Sent>,
    blocks: Blocks,
}

impl Tables for HostTables {
    fn vhost(&mut self, key: &VhostKey) -> Option<(&Vhost, &mut Blocks)> {
        Some((self.vhosts.get(key)?, &mut self.blocks))
    }

    fn sent(&self, key: &VhostKey) -> Option<&Sent> {
        self.sent.get(key)
    }
}

fn vips() -> [IpAddr; 2] {
    ["10.77.0.100", "fd00::100"].map(|vip| vip.parse().unwrap())
}

fn tables() -> HostTables {
    let key = DigestKey::new(&Passphrase::new(PASSPHRASE).unwrap(), OUR_VHID, &vips());
    let vhosts = ROWS.map(|(family, row)| (VhostKey::new(IFINDEX, OUR_VHID, family), Vhost::new(key, row))).into();
    HostTables { vhosts, sent: HashMap::new(), blocks: Blocks::default() }
}

fn row_of(family: Family) -> u32 {
    ROWS.into_iter().find(|row| row.0 == family).unwrap().1
}

fn judged(frame: &EthernetFrame) -> Verdict {
    judge(frame.bytes.as_slice(), IFINDEX, &mut tables())
}

/// What a row of the table says.
#[derive(Clone, Copy, Debug)]
enum Expect {
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
type Build = fn(Family) -> EthernetFrame;

fn good(family: Family) -> EthernetFrame {
    EthernetFrame::advert(family, Fields::default())
}

/// A good advert with this source address.
fn from(source: &str) -> EthernetFrame {
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

const FAMILIES: [Family; 2] = [V4, V6];
const BOTH: &[Family] = &FAMILIES;

#[rustfmt::skip]
const TABLE: &[(&str, &[Family], Build, Expect)] = &[
    ("another protocol", BOTH, |f| good(f).with_protocol(6), Foreign),
    ("another EtherType", BOTH, |f| good(f).with(12, &[0x08, 0x06]), Foreign),
    ("802.1Q tagged", BOTH, |f| good(f).with_inserted(12, &[0x81, 0, 0, 10]), Foreign),
    ("the first fragment", &[V4], |f| good(f).with(20, &[0x20, 0]).with_checksum(), Foreign),
    ("a later fragment", &[V4], |f| good(f).with(20, &[0x00, 1]).with_checksum(), Foreign),
    ("a fragment", &[V6], |f| good(f).with_protocol(44), Foreign),
    ("IPv4 options", &[V4], |f| good(f).with(14, &[0x46]).with_inserted(34, &[1; 4]), Foreign),
    ("another IP version", &[V4], |f| good(f).with(14, &[0x65]), Foreign),
    ("another IP version", &[V6], |f| good(f).with(14, &[0x40]), Foreign),

    ("payload of 35 bytes in a longer frame", BOTH, |f| good(f).with_payload_len(35), Other),
    ("no payload", BOTH, |f| good(f).with_payload_len(0), Other),
    ("a total length below the header's", &[V4], |f| good(f).with(16, &[0, 3]), Other),
    ("longer than its frame", BOTH, |f| good(f).with_payload_len(37), Other),
    ("cut short", BOTH, |f| good(f).cut_by(1), Other),
    ("VRRPv3", BOTH, |f| EthernetFrame::of(f, &[0x31; 36]).with_checksum(), Other),
    ("version 2, type 2", BOTH, |f| good(f).in_payload(0, 0x22), Other),
    ("authlen 6", BOTH, |f| good(f).in_payload(3, 6), Other),
    ("authlen 8", BOTH, |f| good(f).in_payload(3, 8), Other),
    ("VRRPv2, 1 address", BOTH, |f| vrrp_2(f, 1), Other),
    ("VRRPv2, 5 addresses: 36 bytes", BOTH, |f| vrrp_2(f, 5), Other),
    ("VRRPv2, 6 addresses", BOTH, |f| vrrp_2(f, 6), Other),
    ("VRRPv2, 8 addresses", BOTH, |f| vrrp_2(f, 8), Other),
    ("an unknown vhid", BOTH, |f| good(f).in_payload(1, 8), Other),
    ("an unknown vhid, bad in every way", BOTH, |f| good(f).in_payload(1, 8).with_ttl(1).spoilt(DIGEST_AT), Other),

    ("VRRPv2, 7 addresses: authlen 7", BOTH, |f| vrrp_2(f, 7), OtherOfOurs),
    ("a trailer and a bad digest", BOTH, |f| good(f).spoilt(DIGEST_AT).with_checksum().with_trailer(&[0; 8]), OtherOfOurs),
    ("a trailer of a byte and a bad digest", BOTH, |f| good(f).spoilt(DIGEST_AT).with_checksum().with_trailer(&[0]), OtherOfOurs),
    ("a trailer and a bad TTL", BOTH, |f| good(f).with_ttl(64).with_trailer(&[0; 8]), OtherOfOurs),

    ("TTL 254", BOTH, |f| good(f).with_ttl(254), Refused(Reason::BadTtl)),
    ("TTL 0", BOTH, |f| good(f).with_ttl(0), Refused(Reason::BadTtl)),
    ("a bad checksum", BOTH, |f| good(f).spoilt(6), Refused(Reason::BadSum)),
    ("a bad digest", BOTH, |f| good(f).spoilt(DIGEST_AT).with_checksum(), Refused(Reason::BadAuth)),
    ("another counter", BOTH, |f| good(f).spoilt(15).with_checksum(), Refused(Reason::BadAuth)),
    ("a padded frame, bad", BOTH, |f| good(f).spoilt(6).padded(20), Refused(Reason::BadSum)),
    ("no source", &[V4], |_| from("0.0.0.0"), Refused(Reason::BadAddrs)),
    ("loopback", &[V4], |_| from("127.0.0.1"), Refused(Reason::BadAddrs)),
    ("a group", &[V4], |_| from("224.0.0.18"), Refused(Reason::BadAddrs)),
    ("broadcast", &[V4], |_| from("255.255.255.255"), Refused(Reason::BadAddrs)),
    ("no source", &[V6], |_| from("::"), Refused(Reason::BadAddrs)),
    ("loopback", &[V6], |_| from("::1"), Refused(Reason::BadAddrs)),
    ("a group", &[V6], |_| from("ff02::12"), Refused(Reason::BadAddrs)),

    ("an advert", BOTH, good, Valid),
    ("a padded frame", BOTH, |f| good(f).padded(20), Valid),
    ("a trailer and a good digest", BOTH, |f| good(f).with_trailer(&[0xee; 16]), Valid),
    ("a trailer of a byte and a good digest", BOTH, |f| good(f).with_trailer(&[0]), Valid),
    ("ucarp's Ethernet source", BOTH, |f| good(f).with(6, &[0, 0, 0x5e, 0, 0, OUR_VHID]), Valid),
    ("another TOS and no DF", &[V4], |f| good(f).with(15, &[0xe0]).with(20, &[0, 0]).with_checksum(), Valid),
    ("traffic class and flow label", &[V6], |f| good(f).with(14, &[0x6e, 0x12, 0x34, 0x56]), Valid),
    ("to a unicast peer", &[V4], |f| good(f).with(30, &[10, 77, 0, 2]).with_checksum(), Valid),
    ("a bow-out", BOTH, |f| good(f).in_payload(2, 255).in_payload(5, 255), Valid),
    ("edited election fields", BOTH, |f| good(f).in_payload(2, 0).in_payload(4, 9), Valid),
    ("a private source", &[V4], |_| from("192.168.178.210"), Valid),
    ("a link-local source", &[V6], |_| from("fe80::210"), Valid),
];

#[test]
fn every_frame_is_judged_as_the_table_says() {
    for (what, families, build, expect) in TABLE {
        for family in *families {
            let frame = build(*family);
            let row = row_of(*family);
            let verdict = judged(&frame);
            let as_expected = match (*expect, verdict) {
                (Foreign, Verdict::Foreign) | (Valid, Verdict::Valid(..)) => true,
                (Other, Verdict::Other(in_row, _)) => in_row == 0,
                (OtherOfOurs, Verdict::Other(in_row, _)) => in_row == row,
                (Refused(reason), Verdict::Refused(in_row, why, _)) => in_row == row && why == reason,
                _ => false,
            };
            assert!(as_expected, "{what}, {family:?}: {verdict:?} instead of {expect:?}");
        }
    }
}

#[test]
fn a_valid_advert_is_reported_with_all_it_says() {
    for family in FAMILIES {
        let fields = Fields { advbase: 2, advskew: 100, demote: 3, counter: 0x0102_0304_0506_0708 };
        let frame = EthernetFrame::advert(family, fields);
        let key = VhostKey::new(IFINDEX, OUR_VHID, family);
        let source = SourceKey::new(key, address_bytes(SOURCE[usize::from(family == V6)]));
        let mac = [0, 0, 0x5e, 0, 1, OUR_VHID];
        let advert = Advert { source, mac, counter: fields.counter, advbase: 2, advskew: 100, demote: 3 };
        assert_eq!(judged(&frame), Verdict::Valid(row_of(family), advert));
    }
}

#[test]
fn a_refused_advert_is_reported_with_its_sender() {
    for (family, ip) in [(V4, "10.9.8.7"), (V6, "fe80::9:8:7")] {
        let sender = from(ip).with(6, &[2, 4, 6, 8, 10, 12]);
        for (frame, vhid) in [(sender.clone().with_ttl(1), OUR_VHID), (sender.in_payload(1, 200), 200)] {
            let (Verdict::Refused(_, _, source) | Verdict::Other(_, source)) = judged(&frame) else {
                panic!("neither refused nor other, {family:?}")
            };
            assert_eq!(source.source(), ip.parse::<IpAddr>().unwrap());
            assert_eq!((source.mac(), source.vhid()), ([2, 4, 6, 8, 10, 12], vhid));
        }
    }
}

#[test]
fn checks_come_in_the_order_of_the_bsds() {
    const ORDER: [Reason; 5] = [Reason::BadTtl, Reason::BadSum, Reason::BadAddrs, Reason::BadAuth, Reason::Echo];
    for family in FAMILIES {
        // Every combination of faults: the first in order is the one that counts.
        for faults in 0..1u32 << ORDER.len() {
            let has = |reason: Reason| faults & (1 << ORDER.iter().position(|r| *r == reason).unwrap()) != 0;
            let group: IpAddr = if family == V4 { "224.0.0.1" } else { "ff02::1" }.parse().unwrap();
            let source = if has(Reason::BadAddrs) { group } else { SOURCE[usize::from(family == V6)] };
            let mut frame = good(family).with_source(source);
            let mut tables = tables();
            if has(Reason::Echo) {
                let mut sent = Sent::new(source);
                sent.push(Fields::default().counter);
                tables.sent.insert(VhostKey::new(IFINDEX, OUR_VHID, family), sent);
            }
            if has(Reason::BadAuth) {
                frame = frame.spoilt(DIGEST_AT + 19).with_checksum();
            }
            if has(Reason::BadSum) {
                frame = frame.spoilt(7);
            }
            if has(Reason::BadTtl) {
                frame = frame.with_ttl(254);
            }
            let found = match judge(frame.bytes.as_slice(), IFINDEX, &mut tables) {
                Verdict::Refused(_, reason, _) => Some(reason),
                Verdict::Valid(..) => None,
                verdict => panic!("{verdict:?}"),
            };
            assert_eq!(found, ORDER.into_iter().find(|reason| has(*reason)), "{family:?}, faults {faults:05b}");
        }
    }
}

#[test]
fn another_interface_or_family_is_another_virtual_host() {
    for family in FAMILIES {
        let frame = good(family);
        let mut one_family = tables();
        one_family.vhosts.remove(&VhostKey::new(IFINDEX, OUR_VHID, family));
        for (ifindex, tables) in [(IFINDEX + 1, &mut tables()), (IFINDEX, &mut one_family)] {
            assert!(matches!(judge(frame.bytes.as_slice(), ifindex, tables), Verdict::Other(0, _)), "{family:?}");
        }
    }
}

#[test]
fn an_echo_has_our_address_and_one_of_our_last_counters() {
    for family in FAMILIES {
        let us = SOURCE[usize::from(family == V6)];
        let stranger: IpAddr = if family == V4 { "10.77.0.99" } else { "fe80::99" }.parse().unwrap();
        let counter = Fields::default().counter;
        for (what, ours, counters, echo) in [
            ("the last one sent", us, std::vec![1, 2, counter], true),
            ("the eighth last", us, [&[counter][..], &[1; 7]].concat(), true),
            ("the ninth last", us, [&[counter][..], &[1; 8]].concat(), false),
            ("never sent", us, std::vec![1, 2, 3], false),
            ("a peer that took over our counter", stranger, std::vec![counter], false),
        ] {
            let mut sent = Sent::new(ours);
            counters.into_iter().for_each(|counter| sent.push(counter));
            let mut tables = tables();
            tables.sent.insert(VhostKey::new(IFINDEX, OUR_VHID, family), sent);
            let verdict = judge(good(family).bytes.as_slice(), IFINDEX, &mut tables);
            let is_echo = matches!(verdict, Verdict::Refused(_, Reason::Echo, _));
            assert!(echo == is_echo && echo != matches!(verdict, Verdict::Valid(..)), "{what}: {verdict:?}");
        }
    }
}
