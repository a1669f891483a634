//! Seals in the kernel, by its own clock, and on several CPUs at once. (That it judges as the host does, shows the agreement
//! about random frames, but for the window: there, each has its own clock.)

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use carp_common::{
    abi::{SealCheck, SourceKey, VhostKey, address, address_bytes},
    reason::Reason,
    seal::Sequence,
};
use carp_tests::{BootTime, pcap::vector};

use crate::xdp_support::{
    Family, IFINDEX, TestVhost,
    frames::{BOTH, EthernetFrame, Fields, OUR_VHID, SEAL_ID, SEAL_KEY, source_of},
    program::{Program, XdpAction},
    row_of,
};

const SECOND: u64 = 1_000_000_000;
const WINDOW: u64 = 5 * SECOND;
/// By how much the wall clock is ahead of CLOCK_BOOTTIME.
const AHEAD: u64 = 1_800_000_000 * SECOND;

fn enforcing(window: u64) -> Program {
    let mut program = Program::load();
    program.serve(&TestVhost { seal: (SealCheck::Enforce, window), ..TestVhost::ours() });
    program.set_wall(AHEAD);
    program
}

fn sealed(family: Family, sequence: u64) -> EthernetFrame {
    EthernetFrame::advert(family, Fields::default()).sealed(SEAL_ID, SEAL_KEY, sequence)
}

fn source(family: Family) -> SourceKey {
    SourceKey::new(VhostKey::new(IFINDEX, OUR_VHID, family), address_bytes(source_of(family)))
}

fn boot() -> u64 {
    BootTime::now().as_nanos()
}

fn assert_refused(program: &Program, family: Family, frame: &EthernetFrame, reason: Reason) {
    assert_eq!(program.judge(&frame.bytes), (XdpAction::Drop, vec![(row_of(family), reason)]), "{family:?}");
}

fn assert_valid(program: &Program, family: Family, frame: &EthernetFrame) {
    let (action, counted) = program.judge(&frame.bytes);
    assert_eq!(action, XdpAction::Pass, "{counted:?}");
    assert!(counted.contains(&(row_of(family), Reason::received(family))), "{counted:?}");
}

#[test]
fn a_first_contact_is_judged_by_the_wall_clock_and_the_next_advert_by_what_has_passed() {
    for family in BOTH {
        let mut program = enforcing(WINDOW);
        for apart in [-3_600, -6, 6, 3_600] {
            let at = (boot() + AHEAD).wrapping_add_signed(apart * SECOND as i64);
            assert_refused(&program, family, &sealed(family, at), Reason::Stale);
        }
        let first = boot() + AHEAD;
        assert_valid(&program, family, &sealed(family, first));
        assert_refused(&program, family, &sealed(family, first), Reason::Replayed);
        // Whatever the wall clock is set to.
        program.set_wall(0);
        assert_valid(&program, family, &sealed(family, boot() + AHEAD));
        let last = program.sequence(&source(family)).expect("one has been heard");
        assert!(boot() - last.arrival < SECOND);
        // A minute ago.
        let then = Sequence { arrival: last.arrival - 60 * SECOND, ..last };
        program.set_sequence(&source(family), then);
        assert_refused(&program, family, &sealed(family, then.last + 50 * SECOND), Reason::Stale);
        assert_valid(&program, family, &sealed(family, then.last + 60 * SECOND));
        let next = program.sequence(&source(family)).expect("one has been heard");
        assert!(next.last == then.last + 60 * SECOND && boot() - next.arrival < SECOND, "{next:?}");
        assert_refused(&program, family, &EthernetFrame::advert(family, Fields::default()), Reason::Unsealed);
    }
}

#[test]
fn the_published_vectors_are_good_once_and_with_one_bit_otherwise_never() {
    let text = std::fs::read_to_string(vector("seal.json")).expect("the vectors");
    let vectors: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
    assert_eq!(vectors.len(), 4);
    for vector in vectors {
        let bytes = |value: &serde_json::Value| {
            let digits = value.as_str().expect("a string").as_bytes();
            let byte = |pair: &[u8; 2]| u8::from_str_radix(str::from_utf8(pair).expect("digits"), 16).expect("digits");
            digits.as_chunks().0.iter().map(byte).collect::<Vec<_>>()
        };
        let of = |name: &str| bytes(&vector[name]);
        let vips: Vec<_> = vector["vips"].as_array().expect("addresses").iter().map(bytes).collect();
        let vips: Vec<_> = vips.into_iter().map(|vip| address(vip.try_into().expect("16 bytes"))).collect();
        let packet = of("packet");
        let is_v4 = packet[0] >> 4 == 4;
        let family = if is_v4 { Family::V4 } else { Family::V6 };
        let vhost = TestVhost {
            seal: (SealCheck::Enforce, WINDOW),
            ..TestVhost::new(of("advert")[1], &of("passphrase"), &vips)
        };
        let mut program = Program::load();
        program.serve(&vhost);
        program.set_seal_key(vhost.vhid, of("key_id")[0], &of("key"));
        let sequence = u64::from_be_bytes(of("sequence").try_into().expect("eight bytes"));
        program.set_wall(sequence.wrapping_sub(boot()));
        let ethernet = [&[2; 12][..], if is_v4 { &[8, 0] } else { &[0x86, 0xdd] }].concat();
        let frame = [&ethernet[..], &packet].concat();
        let advert_at = if is_v4 { 34 } else { 54 };
        for byte in advert_at..frame.len() {
            let mut changed = frame.clone();
            changed[byte] ^= 1;
            program.run(&changed);
            assert_eq!(program.count(row_of(family), Reason::received(family)), 0, "byte {byte} of {}", vector["name"]);
        }
        assert_eq!(program.run(&frame), XdpAction::Pass, "{}", vector["name"]);
        assert_eq!(program.count(row_of(family), Reason::received(family)), 1, "{}", vector["name"]);
        assert_eq!(
            program.judge(&frame),
            (XdpAction::Drop, vec![(row_of(family), Reason::Replayed)]),
            "{}",
            vector["name"]
        );
    }
}

#[test]
fn a_flood_made_of_an_advert_that_was_heard_costs_the_kernel_little_and_no_genuine_one() {
    for family in BOTH {
        let program = enforcing(WINDOW);
        let row = row_of(family);
        let genuine = |counter| {
            let fields = Fields { counter, ..Fields::default() };
            EthernetFrame::advert(family, fields).sealed(SEAL_ID, SEAL_KEY, boot() + AHEAD)
        };
        assert_valid(&program, family, &genuine(100));
        let elsewhere = if family == Family::V4 { "10.77.0.9" } else { "fe80::9" };
        let forged = EthernetFrame::advert(family, Fields { counter: 100, ..Fields::default() })
            .with_source(elsewhere.parse().expect("an address"))
            .sealed(SEAL_ID, b"another key of 24 bytes.", boot() + AHEAD);
        program.run_repeatedly(&forged.bytes, 100_000);
        let (looked, not_looked) = (program.count(row, Reason::BadSeal), program.count(row, Reason::Flood));
        assert_eq!(looked + not_looked, 100_000);
        assert!(looked >= 64 && not_looked > 50_000, "{looked} {not_looked}");
        assert_valid(&program, family, &genuine(101));
    }
}

#[test]
fn of_two_copies_that_arrive_on_two_cpus_at_once_one_counts() {
    // Between the look at the last sequence and its exchange lie a few nanoseconds.
    const ROUNDS: u64 = 100_000;
    let program = enforcing(0);
    let arrived = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for sequence in 1..=ROUNDS {
                    let frame = sealed(Family::V4, sequence);
                    // Never asleep, or one of them would be late.
                    arrived.fetch_add(1, Ordering::SeqCst);
                    while arrived.load(Ordering::SeqCst) < 2 * sequence {
                        thread::yield_now();
                    }
                    program.run(&frame.bytes);
                }
            });
        }
    });
    let count = |reason| program.count(row_of(Family::V4), reason);
    assert_eq!((count(Reason::Ipackets), count(Reason::Replayed)), (ROUNDS, ROUNDS));
}
