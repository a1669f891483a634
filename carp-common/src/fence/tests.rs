//! Tests of the fence on the host: every frame of the table, in both directions, under every lease.

mod table;

use core::net::IpAddr;
use std::{cell::Cell, collections::HashMap, vec::Vec};

use Family::{V4, V6};
use proptest::prelude::*;
use table::{OWN, TABLE, VIRTUAL, vip};

use super::{Leases, arrives, leaves};
use crate::{
    abi::{AddressKey, Deadline, Family, Held, Policy, Sent, SourceKey, Vhost, VhostKey, address_bytes},
    digest::{DigestKey, Passphrase},
    verdict::{Frame, Tables, tests::frames},
};
use frames::{BOTH, OUR_VHID, PASSPHRASE, source_of, vips};

const IFINDEX: u32 = 3;
const NOW: u64 = 1_000_000;

/// A host that holds a VIP in each family.
struct Host {
    vhosts: HashMap<VhostKey, Vhost>,
    sent: HashMap<VhostKey, Sent>,
    held: HashMap<AddressKey, Held>,
    deadlines: HashMap<u32, Deadline>,
    /// How often the clock was read.
    looks: Cell<u32>,
}

fn row_of(family: Family) -> u32 {
    match family {
        V4 => 5,
        V6 => 6,
    }
}

impl Host {
    /// Whose leases end at this time.
    fn with_lease(deadline: Deadline) -> Self {
        let key = DigestKey::new(&Passphrase::new(PASSPHRASE).unwrap(), OUR_VHID, &vips());
        let vhost_key = |family| VhostKey::new(IFINDEX, OUR_VHID, family);
        let held = |family| (address_key(IFINDEX, vip(family)), Held::new(row_of(family), [OWN, VIRTUAL]));
        Self {
            vhosts: BOTH.map(|family| (vhost_key(family), Vhost::new(key, row_of(family)))).into(),
            sent: BOTH.map(|family| (vhost_key(family), Sent::new(source_of(family), 1))).into(),
            held: BOTH.map(held).into(),
            deadlines: BOTH.map(|family| (row_of(family), deadline)).into(),
            looks: Cell::new(0),
        }
    }

    fn now(&self) -> u64 {
        self.looks.set(self.looks.get() + 1);
        NOW
    }

    /// The rows in which a frame is dropped when it arrives and when it leaves.
    fn judge(&self, ifindex: u32, frame: &[u8]) -> [Option<u32>; 2] {
        [arrives(frame, ifindex, self, || self.now()), leaves(frame, ifindex, self, || self.now())]
    }
}

fn address_key(ifindex: u32, address: IpAddr) -> AddressKey {
    AddressKey::new(ifindex, address_bytes(address))
}

impl Tables for Host {
    fn vhost(&self, key: &VhostKey) -> Option<&Vhost> {
        self.vhosts.get(key)
    }

    fn peer(&self, _source: &SourceKey) -> Option<&Policy> {
        unreachable!("the fence does not ask for peers")
    }

    fn sent(&self, key: &VhostKey) -> Option<&Sent> {
        self.sent.get(key)
    }
}

impl Leases for Host {
    fn may_hold(&self, ending: [u8; 2]) -> bool {
        self.held.keys().any(|key| key.ending() == ending)
    }

    fn held(&self, key: &AddressKey) -> Option<&Held> {
        self.held.get(key)
    }

    fn deadline(&self, row: u32) -> Deadline {
        self.deadlines[&row]
    }
}

/// Each frame of the table: what it is, its family, and in which rows it is dropped when the lease is over.
fn cases() -> impl Iterator<Item = (&'static str, Family, Vec<u8>, [Option<u32>; 2])> {
    TABLE.iter().flat_map(|(what, families, build, drops)| {
        families.iter().map(|family| {
            let rows = [drops.arriving(), drops.leaving()].map(|drops| drops.then_some(row_of(*family)));
            (*what, *family, build(*family), rows)
        })
    })
}

fn is_advert(family: Family, frame: &[u8]) -> bool {
    frame[if family == V4 { 23 } else { 20 }] == 112
}

#[test]
fn when_the_lease_is_over_every_frame_is_dropped_that_the_table_says_and_no_other() {
    for deadline in [Deadline::CUT, Deadline::serving(NOW - 2), Deadline::serving(NOW)] {
        let host = Host::with_lease(deadline);
        for (what, family, frame, rows) in cases() {
            assert_eq!(host.judge(IFINDEX, &frame), rows, "{what}, {family:?}, {deadline:?}");
        }
    }
}

#[test]
fn until_then_and_without_a_lease_none_is() {
    for deadline in [Deadline::NONE, Deadline::serving(NOW + 2), Deadline::serving(u64::MAX)] {
        let host = Host::with_lease(deadline);
        for (what, family, frame, _) in cases() {
            assert_eq!(host.judge(IFINDEX, &frame), [None; 2], "{what}, {family:?}, {deadline:?}");
        }
    }
}

#[test]
fn while_a_host_claims_to_be_master_its_adverts_leave_and_its_vips_stay_fenced() {
    let host = Host::with_lease(Deadline::claiming(NOW + 2));
    for (what, family, frame, rows) in cases() {
        let expected = if is_advert(family, &frame) { [rows[0], None] } else { rows };
        assert_eq!(host.judge(IFINDEX, &frame), expected, "{what}, {family:?}");
    }
    let host = Host::with_lease(Deadline::claiming(NOW - 2));
    for (what, family, frame, rows) in cases() {
        assert_eq!(host.judge(IFINDEX, &frame), rows, "too late: {what}, {family:?}");
    }
}

#[test]
fn a_deadline_says_until_when_the_vips_are_served() {
    let until = |deadline: Deadline| Deadline::from_word(deadline.word()).served_until();
    assert_eq!(until(Deadline::serving(NOW)), Some(NOW));
    assert_eq!(until(Deadline::serving(NOW + 1)), Some(NOW), "never longer");
    let none = [Deadline::NONE, Deadline::CUT, Deadline::serving(0), Deadline::serving(1), Deadline::claiming(NOW)];
    assert_eq!(none.map(until), [None; 5]);
    assert!(Deadline::serving(0).fences_vips(|| NOW), "and never for ever");
}

#[test]
fn the_clock_is_read_only_for_what_is_held_with_a_lease() {
    let host = Host::with_lease(Deadline::serving(NOW + 2));
    for (what, family, frame, rows) in cases() {
        let before = host.looks.get();
        host.judge(IFINDEX, &frame);
        let looks = host.looks.get() - before;
        assert_eq!(looks as usize, rows.iter().flatten().count(), "{what}, {family:?}");
    }
    let host = Host::with_lease(Deadline::NONE);
    cases().for_each(|(_, _, frame, _)| _ = host.judge(IFINDEX, &frame));
    assert_eq!(host.looks.get(), 0);
}

#[test]
fn what_is_held_on_one_interface_is_not_on_another() {
    let host = Host::with_lease(Deadline::CUT);
    for (what, family, frame, _) in cases() {
        assert_eq!(host.judge(IFINDEX + 1, &frame), [None; 2], "{what}, {family:?}");
    }
}

#[test]
fn a_vip_that_was_given_back_is_an_address_like_any_other_and_an_overdue_advert_stays_one() {
    let mut host = Host::with_lease(Deadline::CUT);
    host.held.clear();
    for (what, family, frame, [_, leaving]) in cases() {
        let expected = [None, leaving.filter(|_| is_advert(family, &frame))];
        assert_eq!(host.judge(IFINDEX, &frame), expected, "{what}, {family:?}");
    }
}

#[test]
fn of_two_virtual_hosts_only_the_one_is_fenced_whose_lease_is_over() {
    for fenced in BOTH {
        let mut host = Host::with_lease(Deadline::serving(NOW + 2));
        host.deadlines.insert(row_of(fenced), Deadline::serving(NOW));
        for (what, family, frame, rows) in cases() {
            let expected = rows.map(|row| row.filter(|row| *row == row_of(fenced)));
            assert_eq!(host.judge(IFINDEX, &frame), expected, "{what}, {family:?}, {fenced:?} fenced");
        }
    }
}

#[test]
fn a_solicitation_is_dropped_for_its_destination_too() {
    let mut host = Host::with_lease(Deadline::serving(NOW + 2));
    let [target, destination] = ["fd00::1:1", "fd00::1:2"].map(|ip| ip.parse::<IpAddr>().unwrap());
    let [valid, over] = [20, 21];
    host.deadlines.extend([(valid, Deadline::serving(NOW + 2)), (over, Deadline::serving(NOW))]);
    let mut frame = table::ip(V6, OWN, [2; 6], source_of(V6), destination);
    frame[20] = 58;
    frame[54] = 135;
    frame[62..78].copy_from_slice(&address_bytes(target));
    for (rows, dropped) in [([over, valid], true), ([valid, over], true), ([valid, valid], false)] {
        for (address, row) in [target, destination].into_iter().zip(rows) {
            host.held.insert(address_key(IFINDEX, address), Held::new(row, [OWN, VIRTUAL]));
        }
        assert_eq!(host.judge(IFINDEX, &frame)[0], dropped.then_some(over));
    }
}

#[test]
fn a_frame_that_ends_early_is_never_dropped_for_what_it_does_not_say() {
    let host = Host::with_lease(Deadline::CUT);
    for (what, family, frame, rows) in cases() {
        for len in 0..frame.len() {
            let [arriving, leaving] = host.judge(IFINDEX, &frame[..len]);
            assert!(arriving.is_none() || arriving == rows[0], "{what}, {family:?}, {len} bytes");
            assert!(leaving.is_none() || leaving == rows[1], "{what}, {family:?}, {len} bytes");
        }
        let headers = &frame[..frame.len().min(super::HEADERS_LEN)];
        assert_eq!(host.judge(IFINDEX, headers), rows, "{what}, {family:?}: more than the headers was looked at");
    }
}

proptest! {
    // A failure prints its smallest case, and leaves no file behind.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_dropped_has_a_mac_of_ours_or_a_group_or_is_an_advert_of_our_address(
        case in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let host = Host::with_lease(Deadline::CUT);
        let cases: Vec<_> = cases().collect();
        let mut frame = cases[case.index(cases.len())].2.clone();
        for (at, byte) in edits {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        let [to, from]: [[u8; 6]; 2] = [0, 6].map(|at| frame.as_slice().read(at).unwrap());
        let [arriving, leaving] = host.judge(IFINDEX, &frame);
        prop_assert!(arriving.is_none() || to[0] & 1 == 1 || [OWN, VIRTUAL].contains(&to));
        let is_ipv4 = frame[12..14] == [8, 0];
        let [protocol_at, source_at, len] = if is_ipv4 { [23, 26, 4] } else { [20, 22, 16] };
        let bytes = address_bytes(source_of(if is_ipv4 { V4 } else { V6 }));
        let is_advert = frame[protocol_at] == 112 && frame[source_at..source_at + len] == bytes[16 - len..];
        prop_assert!(leaving.is_none() || is_advert || [OWN, VIRTUAL].contains(&from));
    }
}
