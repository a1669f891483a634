//! Single frames: what ucarp takes for an advert though it is none, and mutations.

use std::time::Duration;

use anyhow::Result;
use carp_common::checksum;
use carp_tests::adverts::{Election, Signer};
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::{ETH0, Flood, FloodPlan, LONG, Lab, Node, PASSPHRASE, VHID, VIP, Wire, eventually, send_frame};

use crate::{BEST, assert_unmoved};

/// Where the IPv4 header begins, and where the advert.
const IP: usize = 14;
const ADVERT: usize = 34;

/// How a frame is spoilt, and the counter that tells of it, if any.
type Spoilt = (&'static str, fn(&mut Vec<u8>), Option<&'static str>);

/// Each measured to be accepted by ucarp.
const TAKEN_BY_UCARP: [Spoilt; 9] = [
    ("an IP packet that is longer than its frame", |frame| ip(frame, 2, &[0, 200]), Some("other")),
    ("an IP packet that ends within the advert", |frame| ip(frame, 2, &[0, 55]), Some("other")),
    ("the first fragment", |frame| ip(frame, 6, &[0x20, 0]), None),
    ("a later fragment", |frame| ip(frame, 6, &[0, 1]), None),
    ("type 2", |frame| advert(frame, 0, &[0x22]), Some("other")),
    ("authlen 0", |frame| advert(frame, 3, &[0]), Some("other")),
    ("no source", |frame| ip(frame, 12, &[0; 4]), Some("badaddrs")),
    ("a group as its source", |frame| ip(frame, 12, &[224, 0, 0, 18]), Some("badaddrs")),
    ("a wrong IP checksum", |frame| frame[IP + 10] ^= 1, Some("badsum")),
];

#[test]
fn what_ucarp_takes_for_an_advert_though_it_is_none_moves_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, attacker] = lab.hosts(["a", "b", "attacker"])?;
    let [master, backup] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    let wire = Wire::at(&attacker)?;
    let signer = Signer::new(PASSPHRASE, VHID, &[VIP])?;
    // A bow-out makes a backup master, the best advert makes a master backup.
    for (sent, election) in (1..).zip([Election::new(255, 255), BEST]) {
        for (counter, (what, spoil, reason)) in (1000 * sent..).zip(TAKEN_BY_UCARP) {
            let mut frame = signer.advert(attacker.ip(), election, counter);
            spoil(&mut frame);
            let of_reason = |node: &Node<'_>| reason.map_or(Ok(0), |name| node.report().map(|told| told.count(name)));
            let before = [of_reason(&master)?, of_reason(&backup)?];
            send_frame(attacker.ns(), ETH0, &frame)?;
            for (node, before) in [&master, &backup].into_iter().zip(before) {
                let is_counted = || Ok(of_reason(node)? == before + u64::from(reason.is_some()));
                eventually(&format!("{what} is counted as {reason:?}"), LONG, is_counted)?;
            }
        }
    }
    wire.wait_for_adverts(a.ip(), 3)?;
    assert_unmoved(&master, &backup);

    // Unspoilt, it is believed.
    send_frame(attacker.ns(), ETH0, &signer.advert(attacker.ip(), BEST, 1))?;
    master.wait_for("MASTER -> BACKUP")?;
    Ok(())
}

#[test]
fn a_hundred_thousand_mutated_frames_move_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, attacker] = lab.hosts(["a", "b", "attacker"])?;
    let [master, backup] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    let wire = Wire::at(&attacker)?;
    let genuine = wire.next_advert(&a)?;
    let mut random = Random(0x5eed_0001);
    let frames: Vec<_> = (0..100_000).map(|_| mutated(&genuine, &mut random)).collect();
    let plan = FloodPlan { frames, rate: Some(50_000), duration: Duration::from_secs(6) };
    let sent = Flood::start(attacker.ns(), ETH0, plan)?.wait()?;
    assert!(sent >= 100_000, "{sent}");
    wire.wait_for_adverts(a.ip(), 3)?;
    for node in [&master, &backup] {
        let told = node.report()?;
        assert!(
            told.count("badsum") > 1000 && told.count("badauth") > 1000 && told.count("other") > 1000,
            "{}",
            told.text
        );
    }
    assert_unmoved(&master, &backup);
    Ok(())
}

/// Overwrites bytes of the IPv4 header and makes its checksum right again.
fn ip(frame: &mut [u8], at: usize, bytes: &[u8]) {
    frame[IP + at..][..bytes.len()].copy_from_slice(bytes);
    frame[IP + 10..IP + 12].fill(0);
    let header: &[u8; 20] = frame[IP..].first_chunk().expect("an advert has an IPv4 header");
    let sum = checksum::internet(header);
    frame[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
}

/// Overwrites bytes of the advert and makes its checksum right again.
fn advert(frame: &mut [u8], at: usize, bytes: &[u8]) {
    frame[ADVERT + at..][..bytes.len()].copy_from_slice(bytes);
    frame[ADVERT + 6..ADVERT + 8].fill(0);
    let payload: &[u8; 36] = frame[ADVERT..].first_chunk().expect("it is an advert");
    let sum = checksum::internet(payload);
    frame[ADVERT + 6..ADVERT + 8].copy_from_slice(&sum.to_be_bytes());
}

/// Some bytes changed, among them one that the digest covers (what it does not cover, whoever sees an advert can
/// rewrite); half of them with checksums that are right; some cut or lengthened.
fn mutated(genuine: &[u8], random: &mut Random) -> Vec<u8> {
    let mut frame = genuine.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(frame.len());
        frame[at] ^= 1 << random.below(8);
    }
    let is_covered = |(at, _): &(usize, &u8)| *at == ADVERT + 1 || *at >= ADVERT + 8;
    if frame.iter().enumerate().filter(is_covered).eq(genuine.iter().enumerate().filter(is_covered)) {
        frame[ADVERT + 8 + random.below(28)] ^= 1 << random.below(8);
    }
    if random.below(2) == 0 {
        advert(&mut frame, 0, &[]);
        ip(&mut frame, 0, &[]);
    }
    match random.below(8) {
        0 => frame.truncate(15 + random.below(frame.len() - 15)),
        1 => frame.extend((0..random.below(100)).map(|byte| byte as u8)),
        _ => {}
    }
    frame
}

/// xorshift64: the same frames in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end
    }
}
