//! Tests of the verdict on the host: every row of "what is ours, what may be dropped", in both families.

pub(crate) mod frames;
mod properties;
mod seals;
mod table;

use core::net::IpAddr;
use std::collections::HashMap;

use Expect::{Foreign, Other, OtherOfOurs, Refused, Valid};
use Family::{V4, V6};
use frames::{BOTH, DIGEST_AT, EthernetFrame, Fields, OUR_VHID, PASSPHRASE, payload_at, source_of, vips};
use table::{Expect, TABLE, from, good};

use super::{Frame, Tables, Verdict, judge};
use crate::{
    abi::{Advert, Family, Policy, Sent, SourceKey, Vhost, VhostKey, address_bytes},
    digest::{DigestKey, Passphrase, Scratch},
    reason::Reason,
    seal::SealMemory,
};

const IFINDEX: u32 = 3;
/// Rows of counters, one for each family to tell them apart.
const ROWS: [(Family, u32); 2] = [(V4, 5), (V6, 6)];

/// The tables on a host: a virtual host in both families.
struct HostTables {
    vhosts: HashMap<VhostKey, Vhost>,
    peers: HashMap<SourceKey, Policy>,
    sent: HashMap<VhostKey, Sent>,
    seals: SealMemory,
}

impl Tables for HostTables {
    fn vhost(&self, key: &VhostKey) -> Option<&Vhost> {
        self.vhosts.get(key)
    }

    fn peer(&self, source: &SourceKey) -> Option<&Policy> {
        self.peers.get(source)
    }

    fn sent(&self, key: &VhostKey) -> Option<&Sent> {
        self.sent.get(key)
    }
}

/// The digest of an advert to our virtual host, by the crates.
fn digest(counter: u64) -> [u8; 20] {
    use hmac::{Hmac, KeyInit, Mac};

    let mut key = [0; 20];
    key[..PASSPHRASE.len()].copy_from_slice(PASSPHRASE);
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(&key).unwrap();
    mac.update(&[2, 1, OUR_VHID]);
    for vip in vips() {
        match vip {
            IpAddr::V4(v4) => mac.update(&v4.octets()),
            IpAddr::V6(v6) => mac.update(&v6.octets()),
        }
    }
    mac.update(&counter.to_be_bytes());
    mac.finalize().into_bytes().into()
}

fn tables() -> HostTables {
    let key = DigestKey::new(&Passphrase::new(PASSPHRASE).unwrap(), OUR_VHID, &vips());
    let vhosts = ROWS.map(|(family, row)| (VhostKey::new(IFINDEX, OUR_VHID, family), Vhost::new(key, row))).into();
    HostTables { vhosts, peers: HashMap::new(), sent: HashMap::new(), seals: SealMemory::default() }
}

fn judge_with(frame: &EthernetFrame, ifindex: u32, tables: &HostTables) -> Verdict {
    let mut scratch = Scratch::default();
    judge(frame.bytes.as_slice(), ifindex, tables, &tables.seals, || Some(&mut scratch))
}

fn row_of(family: Family) -> u32 {
    ROWS.into_iter().find(|row| row.0 == family).unwrap().1
}

fn judged(frame: &EthernetFrame) -> Verdict {
    judge_with(frame, IFINDEX, &tables())
}

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
    for family in BOTH {
        let fields = Fields { advbase: 2, advskew: 100, demote: 3, counter: 0x0102_0304_0506_0708 };
        let frame = EthernetFrame::advert(family, fields);
        let key = VhostKey::new(IFINDEX, OUR_VHID, family);
        let source = SourceKey::new(key, address_bytes(source_of(family)));
        let mac = [0, 0, 0x5e, 0, 1, OUR_VHID];
        let advert = Advert {
            source,
            mac,
            counter: fields.counter,
            advbase: 2,
            advskew: 100,
            demote: 3,
            key_id: 0,
            objection: 0,
        };
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
    for family in BOTH {
        // Every combination of faults: the first in order is the one that counts.
        for faults in 0..1u32 << ORDER.len() {
            let has = |reason: Reason| faults & (1 << ORDER.iter().position(|r| *r == reason).unwrap()) != 0;
            let group: IpAddr = if family == V4 { "224.0.0.1" } else { "ff02::1" }.parse().unwrap();
            let source = if has(Reason::BadAddrs) { group } else { source_of(family) };
            let mut frame = good(family).with_source(source);
            let mut tables = tables();
            if has(Reason::Echo) {
                let sent = Sent::new(source, Fields::default().counter);
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
            let found = match judge_with(&frame, IFINDEX, &tables) {
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
    for family in BOTH {
        let frame = good(family);
        let mut one_family = tables();
        one_family.vhosts.remove(&VhostKey::new(IFINDEX, OUR_VHID, family));
        for (ifindex, tables) in [(IFINDEX + 1, &tables()), (IFINDEX, &one_family)] {
            assert!(matches!(judge_with(&frame, ifindex, tables), Verdict::Other(0, _)), "{family:?}");
        }
    }
}

#[test]
fn an_echo_has_our_address_and_no_counter_that_is_still_to_come() {
    for family in BOTH {
        let us = source_of(family);
        let stranger: IpAddr = if family == V4 { "10.77.0.99" } else { "fe80::99" }.parse().unwrap();
        let counter = Fields::default().counter;
        for (what, ours, newest, echo) in [
            ("the last one sent", us, counter, true),
            ("one from long ago", us, u64::MAX, true),
            ("never sent", us, counter - 1, false),
            ("a peer that took over our counter", stranger, counter, false),
        ] {
            let sent = Sent::new(ours, newest);
            let mut tables = tables();
            tables.sent.insert(VhostKey::new(IFINDEX, OUR_VHID, family), sent);
            let verdict = judge_with(&good(family), IFINDEX, &tables);
            let is_echo = matches!(verdict, Verdict::Refused(_, Reason::Echo, _));
            assert!(echo == is_echo && echo != matches!(verdict, Verdict::Valid(..)), "{what}: {verdict:?}");
        }
    }
}

#[test]
fn where_there_are_peers_only_they_are_heard() {
    for family in BOTH {
        let mut tables = tables();
        let key = VhostKey::new(IFINDEX, OUR_VHID, family);
        tables.vhosts.insert(key, tables.vhosts[&key].of_peers());
        let verdict = judge_with(&good(family), IFINDEX, &tables);
        assert!(matches!(verdict, Verdict::Refused(_, Reason::BadAddrs, _)), "{verdict:?}");
        let peer = SourceKey::new(key, address_bytes(source_of(family)));
        tables.peers.insert(peer, Policy::ANY);
        assert!(matches!(judge_with(&good(family), IFINDEX, &tables), Verdict::Valid(..)));
        // And of these, what they may say.
        let fields = Fields { demote: 3, ..Fields::default() };
        let (Fields { advbase, advskew, demote, .. }, frame) = (fields, EthernetFrame::advert(family, fields));
        let exactly = Policy { advbase: [advbase; 2], advskew: [advskew; 2], demote, ..Policy::ANY };
        tables.peers.insert(peer, exactly);
        assert!(matches!(judge_with(&frame, IFINDEX, &tables), Verdict::Valid(..)));
        for policy in [
            Policy { advbase: [advbase + 1, 254], ..exactly },
            Policy { advskew: [advskew + 1, 254], ..exactly },
            Policy { demote: demote - 1, ..exactly },
        ] {
            tables.peers.insert(peer, policy);
            let verdict = judge_with(&frame, IFINDEX, &tables);
            assert!(matches!(verdict, Verdict::Refused(_, Reason::Policy, _)), "{policy:?}: {verdict:?}");
            let forged = frame.clone().spoilt(DIGEST_AT).with_checksum();
            let verdict = judge_with(&forged, IFINDEX, &tables);
            assert!(matches!(verdict, Verdict::Refused(_, Reason::BadAuth, _)), "{policy:?}: {verdict:?}");
        }
    }
}

#[test]
fn a_lower_ttl_is_taken_as_far_as_it_is_allowed() {
    for family in BOTH {
        let mut tables = tables();
        let key = VhostKey::new(IFINDEX, OUR_VHID, family);
        tables.vhosts.insert(key, tables.vhosts[&key].with_min_ttl(250));
        for (ttl, is_taken) in [(255, true), (250, true), (249, false), (0, false)] {
            let verdict = judge_with(&good(family).with_ttl(ttl), IFINDEX, &tables);
            assert_eq!(matches!(verdict, Verdict::Valid(..)), is_taken, "{ttl}: {verdict:?}");
        }
    }
}

#[test]
fn either_of_two_digests_is_accepted_and_no_third() {
    for family in BOTH {
        let other = DigestKey::new(&Passphrase::new(b"another").unwrap(), OUR_VHID, &vips());
        let ours = DigestKey::new(&Passphrase::new(PASSPHRASE).unwrap(), OUR_VHID, &vips());
        let key = VhostKey::new(IFINDEX, OUR_VHID, family);
        let mut tables = tables();
        for (vhost, is_taken) in [
            (Vhost::new(other, 1), false),
            (Vhost::new(other, 1).accepting(ours), true),
            (Vhost::new(ours, 1).accepting(other), true),
            (Vhost::new(other, 1).accepting(other), false),
        ] {
            tables.vhosts.insert(key, vhost);
            assert_eq!(matches!(judge_with(&good(family), IFINDEX, &tables), Verdict::Valid(..)), is_taken);
        }
    }
}
