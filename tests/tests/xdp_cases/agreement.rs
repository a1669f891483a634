//! The kernel and the host agree: random frames, mutated from good ones, judged by both.
//!
//! The same code runs in both, but through the BPF backend, the verifier's rewrites and the JIT in one of
//! them; and the maps and packet accessors around it are different ones.

use std::collections::BTreeMap;

use carp_common::{
    abi::{Policy, SealCheck, Sent, VhostKey},
    digest::Scratch,
    reason::Reason,
    verdict::{Verdict, judge},
};

use carp_tests::random::SplitMix64;

use crate::xdp_support::{
    Family::{self, V4, V6},
    HostTables, IFINDEX, TestVhost,
    frames::{BOTH, DIGEST_AT, EthernetFrame, Fields, OUR_VHID, SEAL_ID, SEAL_KEY, payload_at, source_of},
    program::{Program, XdpAction},
    row_of, seed_and_frames,
    table::TABLE,
};

const SEED: u64 = 0x00c0_ffee_ca5b_0112;
/// The kernel takes no shorter frame for a test run.
const SHORTEST: usize = 14;

#[test]
fn the_kernel_and_the_host_agree_on_random_frames() {
    agree_about(&TestVhost::ours());
}

#[test]
fn so_they_do_with_peers_with_routers_between_and_with_two_digests() {
    agree_about(&choosy());
}

#[test]
fn so_they_do_about_seals() {
    for check in [SealCheck::Permissive, SealCheck::Enforce] {
        agree_about(&TestVhost { seal: (check, 0), ..TestVhost::ours() });
    }
}

/// Half of what there is.
const POLICY: Policy = Policy { advbase: [0, 127], bow_out: 0, ..Policy::ANY };

/// A virtual host that takes the frames' digest as its second one, from their senders only, and through routers.
fn choosy() -> TestVhost {
    let ours = TestVhost::ours();
    let another = TestVhost::new(OUR_VHID, b"another", &[]);
    TestVhost {
        key: another.key,
        other: Some(ours.key),
        min_ttl: 100,
        peers: BOTH.map(|family| (source_of(family), POLICY)).into(),
        ..ours
    }
}

fn agree_about(vhost: &TestVhost) {
    let (seed, frames) = seed_and_frames(SEED);
    let is_sealed = vhost.seal.0 != SealCheck::Off;
    let mut random = Random { random: SplitMix64::new(seed), sequence: is_sealed.then_some(1) };
    let mut program = Program::load();
    program.serve(vhost);
    let mut host = HostTables::default();
    host.serve(vhost);
    for family in BOTH {
        let key = VhostKey::new(IFINDEX, OUR_VHID, family);
        let sent = Sent::new(source_of(family), OUR_LAST_COUNTER);
        program.sent(key, sent);
        host.sent(key, sent);
    }

    let mut scratch = Scratch::default();
    let mut expected = BTreeMap::new();
    let (mut events, mut repeats) = (0, BTreeMap::new());
    for number in 0..frames {
        let frame = random.frame();
        let what = || format!("CARP_TEST_SEED={seed}, frame {number}: {frame:02x?}");
        // As it is for the kernel, by its own clock: one frame after the other, there is time for each.
        host.seals.clocks.boot += 1_000_000;
        let verdict = judge(frame.as_slice(), IFINDEX, &host, &host.seals, || Some(&mut scratch));
        let action = program.run(&frame);
        let (as_action, counter) = match verdict {
            Verdict::Foreign => (XdpAction::Pass, None),
            Verdict::Other(row, source) => (XdpAction::Pass, Some((row, Reason::Other, Some(source)))),
            Verdict::Refused(row, reason, source) => (XdpAction::Drop, Some((row, reason, Some(source)))),
            Verdict::Valid(row, advert) => {
                let v4 = advert.source.vhost() == VhostKey::new(IFINDEX, OUR_VHID, V4);
                let heard = program.heard(&advert.source).unwrap_or_else(|| panic!("not heard, {}", what())).heard();
                let fields = (heard.counter(), heard.advbase(), heard.advskew(), heard.demote());
                assert_eq!(fields, (advert.counter, advert.advbase, advert.advskew, advert.demote), "{}", what());
                // Of one that says the same again too soon, the first is remembered.
                let repeated = program.count(row, Reason::Repeat);
                if repeats.insert(row, repeated).unwrap_or(0) == repeated {
                    let objection = heard.objection().map_or(0, |reason| reason.index() as u8);
                    assert_eq!((heard.key_id(), objection), (advert.key_id, advert.objection), "{}", what());
                }
                (XdpAction::Pass, Some((row, if v4 { Reason::Ipackets } else { Reason::Ipackets6 }, None)))
            }
        };
        assert_eq!(action, as_action, "{verdict:?}, {}", what());
        if let Some((row, reason, source)) = counter {
            let count = expected.entry((row, reason)).or_insert(0);
            *count += 1;
            assert_eq!(program.count(row, reason), *count, "{verdict:?}, {}", what());
            let last = source.map(|_| program.refused(row, reason));
            assert_eq!(last, source, "{}", what());
        }
        if number % 500 == 0 {
            events += program.events().len() as u64;
        }
    }
    events += program.events().len() as u64;

    let mut counted = program.counts();
    let repeats: u64 = counted.extract_if(.., |counter, _| counter.1 == Reason::Repeat).map(|entry| entry.1).sum();
    assert_eq!(counted, expected, "all counters, CARP_TEST_SEED={seed}");
    let valid: u64 =
        counted.iter().filter(|entry| !entry.0.1.is_refusal() && entry.0.1 != Reason::Other).map(|e| e.1).sum();
    assert_eq!(valid, events + repeats, "each valid advert woke the agent or repeated one");
    println!("{counted:?}, {repeats} repeats");
    assert_all_are_seen(&counted, vhost.seal.0);
}

/// The test is worth something only if frames get as far as each check.
fn assert_all_are_seen(counted: &BTreeMap<(u32, Reason), u64>, check: SealCheck) {
    for family in BOTH {
        let row = row_of(family);
        let ipackets = if family == V6 { Reason::Ipackets6 } else { Reason::Ipackets };
        let reasons = [Reason::BadTtl, Reason::BadSum, Reason::BadAddrs, Reason::BadAuth, Reason::Echo, Reason::Other];
        let of_seals: &[Reason] = match check {
            SealCheck::Off | SealCheck::Permissive => &[],
            SealCheck::Enforce => &[Reason::BadSeal, Reason::Replayed, Reason::Unsealed, Reason::UnknownKey],
        };
        for reason in reasons.into_iter().chain([ipackets]).chain(of_seals.iter().copied()) {
            let count = counted.get(&(row, reason)).copied().unwrap_or(0);
            assert!(count >= 20, "only {count} frames of {family:?} were counted as {reason:?}");
        }
    }
}

/// What we sent last ourselves.
const OUR_LAST_COUNTER: u64 = 0xdead_beef;

/// What is drawn by chance.
struct Random {
    random: SplitMix64,
    /// Of the next sealed advert, where there are such.
    sequence: Option<u64>,
}

impl Random {
    fn next(&mut self) -> u64 {
        self.random.next()
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A frame: usually a good advert with a few changes.
    fn frame(&mut self) -> Vec<u8> {
        if self.one_in(50) {
            let len = SHORTEST + self.below(150);
            return (0..len).map(|_| self.next() as u8).collect();
        }
        let family = self.pick(&BOTH);
        let mut frame = if self.one_in(3) {
            let (_, families, build, _) = self.pick(TABLE);
            build(self.pick(families))
        } else {
            self.advert(family)
        };
        if self.one_in(4) {
            let len = self.below(12);
            let trailer: Vec<u8> = (0..len).map(|_| self.next() as u8).collect();
            frame = if self.one_in(2) { frame.with_trailer(&trailer) } else { frame.padded(len) };
        }
        if let Some(sequence) = self.sequence
            && !self.one_in(6)
        {
            let id = self.pick(&[SEAL_ID, SEAL_ID, SEAL_ID, 4]);
            let at = self.pick(&[0, 1, 1, 1, 1000]);
            self.sequence = Some(sequence + at);
            let key = self.pick(&[SEAL_KEY, SEAL_KEY, SEAL_KEY, b"another key of 24 bytes."]);
            // What the table has may be no advert, and shorter than one.
            if frame.bytes.len() >= payload_at(family) + 36 {
                frame = frame.sealed(id, key, sequence + at);
            }
        }
        for _ in 0..self.pick(&[0, 0, 1, 1, 1, 2, 4]) {
            self.change(&mut frame.bytes);
        }
        // Right checksums let what was changed get as far as the digest.
        if frame.bytes.len() >= payload_at(V6) + 36 && self.one_in(2) {
            frame = frame.with_checksum();
        }
        if self.one_in(12) {
            frame.bytes.truncate(SHORTEST + self.below(frame.bytes.len() - SHORTEST));
        }
        frame.bytes
    }

    fn advert(&mut self, family: Family) -> EthernetFrame {
        let counter = if self.one_in(8) { OUR_LAST_COUNTER } else { self.next() };
        let [advbase, advskew, demote, ..] = self.next().to_ne_bytes();
        let frame = EthernetFrame::advert(family, Fields { advbase, advskew, demote, counter });
        match self.below(12) {
            0 => frame.with_ttl(self.next() as u8),
            1 => frame.spoilt(DIGEST_AT + self.below(20)).with_checksum(),
            2 => frame.with(if family == V4 { 26 } else { 22 }, &[self.pick(&[0, 127, 224, 0xff])]).with_checksum(),
            _ => frame,
        }
    }

    /// Changes a byte: one bit of it, or to a value that means something somewhere.
    fn change(&mut self, frame: &mut [u8]) {
        let at = self.below(frame.len());
        frame[at] = match self.below(3) {
            0 => frame[at] ^ (1 << self.below(8)),
            1 => self.next() as u8,
            _ => {
                self.pick(&[0, 1, 6, 7, 8, 35, 36, 37, 44, 56, 57, 112, 0x21, 0x31, 0x40, 0x45, 0x60, 0x86, 0xdd, 255])
            }
        };
    }
}
