//! Captured adverts of ucarp: all of them verify in the kernel, and none after a flipped bit.

use std::{collections::BTreeMap, net::IpAddr};

use carp_common::reason::Reason;
use carp_tests::pcap::{read_pcap, vector};

use crate::xdp_support::{
    Family::V4,
    TestVhost,
    program::{Program, XdpAction},
    row_of,
};

/// File, vhid and passphrase, as in `vectors/README.md`.
const VECTORS: &[(&str, u8, &[u8])] = &[
    ("v1-secret-k0.pcap", 1, b"secret"),
    ("v77-k100-preempt.pcap", 77, b"secret"),
    ("v255-b2-k0.pcap", 255, b"secret"),
    ("v42-longpass19.pcap", 42, b"1234567890123456789"),
    ("pair-v33.pcap", 33, b"pair pw"),
];

/// Where the IPv4 header and the advert begin in a frame, and where the advert ends.
const IP_AT: usize = 14;
const ADVERT_AT: usize = 34;
const END: usize = 70;

/// The adverts of a capture; the rest of it is ARP.
fn adverts(file: &str) -> Vec<Vec<u8>> {
    let frames = read_pcap(&vector(file)).unwrap_or_else(|error| panic!("{error:#}"));
    frames.into_iter().filter(|frame| frame[12..14] == [8, 0] && frame[23] == 112).collect()
}

fn program_for(vhid: u8, passphrase: &[u8]) -> Program {
    let mut program = Program::load();
    program.serve(&TestVhost::new(vhid, passphrase, &[IpAddr::from([10, 77, 0, 100])]));
    program
}

#[test]
fn every_captured_advert_verifies_in_the_kernel() {
    for (file, vhid, passphrase) in VECTORS {
        let mut program = program_for(*vhid, passphrase);
        let adverts = adverts(file);
        assert!(adverts.len() >= 2, "{file} has {} adverts", adverts.len());
        for advert in &adverts {
            assert_eq!(program.run(advert), XdpAction::Pass, "{file}");
        }
        let count = adverts.len() as u64;
        assert_eq!(program.counts(), BTreeMap::from([((row_of(V4), Reason::Ipackets), count)]), "{file}");
        let events = program.events();
        assert_eq!(events.len(), adverts.len(), "{file}: each has a counter of its own");
        for (event, advert) in events.iter().zip(&adverts) {
            assert_eq!(event.counter.to_be_bytes(), advert[ADVERT_AT + 8..ADVERT_AT + 16], "{file}");
            assert_eq!([event.advskew, event.advbase], [advert[ADVERT_AT + 2], advert[ADVERT_AT + 5]], "{file}");
        }
    }
}

#[test]
fn no_captured_advert_verifies_with_another_passphrase_or_vip() {
    for (file, vhid, passphrase) in VECTORS {
        let mut programs = [program_for(*vhid, b"Secret"), Program::load()];
        programs[1].serve(&TestVhost::new(*vhid, passphrase, &[IpAddr::from([10, 77, 0, 101])]));
        for program in programs {
            for advert in adverts(file) {
                let expected = (XdpAction::Drop, vec![(row_of(V4), Reason::BadAuth)]);
                assert_eq!(program.judge(&advert), expected, "{file}");
            }
        }
    }
}

#[test]
fn no_captured_advert_verifies_after_a_flipped_bit_in_what_the_digest_covers() {
    for (file, vhid, passphrase) in VECTORS {
        let mut program = program_for(*vhid, passphrase);
        for advert in adverts(file) {
            for bit in (ADVERT_AT + 8) * 8..END * 8 {
                let flipped = with_checksum(flip(&advert, bit));
                assert_eq!(program.run(&flipped), XdpAction::Drop, "{file}: bit {bit}");
            }
        }
        let refused = adverts(file).len() as u64 * (END - ADVERT_AT - 8) as u64 * 8;
        assert_eq!(program.counts(), BTreeMap::from([((row_of(V4), Reason::BadAuth), refused)]), "{file}");
        assert_eq!(program.events(), [], "{file}");
    }
}

#[test]
fn a_flipped_bit_elsewhere_in_a_captured_advert_is_refused_for_its_reason() {
    let (file, vhid, passphrase) = VECTORS[0];
    let program = program_for(vhid, passphrase);
    let advert = &adverts(file)[0];
    let row = row_of(V4);
    for bit in IP_AT * 8..END * 8 {
        let expected = match bit / 8 {
            // Another version or header length.
            14 => (XdpAction::Pass, None),
            // Longer than the frame or shorter than an advert.
            16 | 17 => (XdpAction::Pass, Some((0, Reason::Other))),
            // More fragments or an offset; the reserved and the DF bit are only in the checksum.
            20 if bit % 8 < 6 => (XdpAction::Pass, None),
            21 => (XdpAction::Pass, None),
            22 => (XdpAction::Drop, Some((row, Reason::BadTtl))),
            23 => (XdpAction::Pass, None),
            // Version and type, vhid, authlen.
            34 | 35 | 37 => (XdpAction::Pass, Some((0, Reason::Other))),
            // Anything else is in one of the two checksums.
            _ => (XdpAction::Drop, Some((row, Reason::BadSum))),
        };
        let (action, counters) = program.judge(&flip(advert, bit));
        assert_eq!((action, counters.first().copied()), expected, "bit {} of byte {}", bit % 8, bit / 8);
    }
}

fn flip(frame: &[u8], bit: usize) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[bit / 8] ^= 1 << (bit % 8);
    frame
}

/// The right checksum over the advert.
fn with_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    frame[ADVERT_AT + 6..ADVERT_AT + 8].fill(0);
    let advert: [u8; 36] = frame[ADVERT_AT..END].try_into().unwrap();
    frame[ADVERT_AT + 6..ADVERT_AT + 8].copy_from_slice(&carp_common::checksum::internet(&advert).to_be_bytes());
    frame
}
