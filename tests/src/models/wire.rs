//! The 36 bytes of an advert as the models write and read them: their own code, with a HMAC from elsewhere.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use crate::adverts::Election;

/// Length of an advert.
pub const LENGTH: usize = 36;
/// The TTL and hop limit of every advert.
pub const TTL: u8 = 255;
/// The protocol's version.
pub const VERSION: u8 = 2;

/// Advertisement, the only type there is.
const ADVERTISEMENT: u8 = 1;
/// Words of 32 bits in counter and digest.
const AUTHLEN: u8 = 7;
/// The key of the digest: a passphrase and at least one zero.
const KEY_LENGTH: usize = 20;

/// The fields of an advert that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Upper half of the first byte.
    pub version: u8,
    /// The virtual host.
    pub vhid: u8,
    /// advskew in 1/256 s.
    pub advskew: u8,
    /// OpenBSD's demotion counter; 0 from the others.
    pub demote: u8,
    /// advbase in seconds.
    pub advbase: u8,
    /// The counter.
    pub counter: u64,
    /// The digest.
    pub digest: [u8; 20],
}

impl Header {
    /// Reads an advert; what follows the 36 bytes is ignored. `None` if it is shorter. Nothing is verified.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = payload.first_chunk()?;
        Some(Self {
            version: bytes[0] >> 4,
            vhid: bytes[1],
            advskew: bytes[2],
            demote: bytes[4],
            advbase: bytes[5],
            counter: u64::from_be_bytes(*bytes[8..].first_chunk()?),
            digest: *bytes[16..].first_chunk()?,
        })
    }

    /// The advert, with its checksum.
    pub fn to_bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0] = self.version << 4 | ADVERTISEMENT;
        bytes[1] = self.vhid;
        bytes[2] = self.advskew;
        bytes[3] = AUTHLEN;
        bytes[4] = self.demote;
        bytes[5] = self.advbase;
        bytes[8..16].copy_from_slice(&self.counter.to_be_bytes());
        bytes[16..].copy_from_slice(&self.digest);
        let sum = checksum(&bytes);
        bytes[6..8].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// A valid advert.
pub fn signed(passphrase: &str, vhid: u8, vips: &[IpAddr], election: Election, counter: u64) -> [u8; LENGTH] {
    let Election { advbase, advskew, demote } = election;
    let digest = digest(passphrase, vhid, vips, counter);
    Header { version: VERSION, vhid, advskew, demote, advbase, counter, digest }.to_bytes()
}

/// Whether the first 36 bytes add up; those of IPv6 have no pseudo-header either.
pub fn adds_up(payload: &[u8]) -> bool {
    payload.get(..LENGTH).is_some_and(|bytes| checksum(bytes) == 0)
}

/// RFC 1071, over an even number of bytes.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        // The carry comes back in at once.
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The digest of an advert: of everybody's VIPs, sorted and each once, first those of IPv4.
pub fn digest(passphrase: &str, vhid: u8, vips: &[IpAddr], counter: u64) -> [u8; 20] {
    let mut key = [0; KEY_LENGTH];
    for (byte, letter) in key[..KEY_LENGTH - 1].iter_mut().zip(passphrase.bytes()) {
        *byte = letter;
    }
    let mut mac = Hmac::<Sha1>::new_from_slice(&key).expect("a HMAC takes a key of any length");
    mac.update(&[VERSION, ADVERTISEMENT, vhid]);
    // IPv4 sorts before IPv6, and within them numbers as their bytes in network order.
    for vip in vips.iter().collect::<BTreeSet<_>>() {
        match vip {
            IpAddr::V4(vip) => mac.update(&vip.octets()),
            IpAddr::V6(vip) => mac.update(&vip.octets()),
        }
    }
    mac.update(&counter.to_be_bytes());
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::testing::captured;

    #[test]
    fn captured_adverts_are_read_verified_and_written_again() {
        for (vhid, passphrase, payloads) in captured() {
            for payload in payloads {
                let header = Header::read(&payload).unwrap();
                assert!(adds_up(&payload));
                assert_eq!((header.version, header.vhid, header.demote), (VERSION, vhid, 0));
                let vip = [IpAddr::from([10, 77, 0, 100])];
                assert_eq!(header.digest, digest(passphrase, vhid, &vip, header.counter), "{vhid}");
                assert_ne!(header.digest, digest("another", vhid, &vip, header.counter), "{vhid}");
                assert_eq!(header.to_bytes()[..], payload, "{vhid}");
            }
        }
    }

    /// Computed by hand, with the standard library of another language.
    #[test]
    fn a_digest_covers_the_vips_of_both_families_sorted_and_each_once() {
        let vips = ["fd77::64", "10.77.0.100", "9.255.0.1", "fe80::64", "10.77.0.100"].map(|vip| vip.parse().unwrap());
        let expected = [
            0x22, 0x38, 0x14, 0x4b, 0x5c, 0x40, 0x7f, 0x3d, 0xb0, 0x1b, 0x94, 0x51, 0xaa, 0xc6, 0xf5, 0x14, 0x73, 0x14,
            0x82, 0xbd,
        ];
        assert_eq!(digest("open sesame", 7, &vips, 0x0102_0304_0506_0708), expected);
    }

    #[test]
    fn a_passphrase_counts_up_to_its_19th_letter() {
        let of = |passphrase| digest(passphrase, 1, &[], 1);
        assert_eq!(of("12345678901234567890"), of("1234567890123456789x"));
        assert_ne!(of("1234567890123456789"), of("123456789012345678"));
    }

    #[test]
    fn what_is_too_short_is_no_advert_and_what_follows_is_ignored() {
        let header = Header { version: 2, vhid: 1, advskew: 2, demote: 3, advbase: 4, counter: 5, digest: [6; 20] };
        let bytes = header.to_bytes();
        assert_eq!(Header::read(&bytes[..LENGTH - 1]), None);
        assert!(!adds_up(&bytes[..LENGTH - 1]));
        let longer = [&bytes[..], &[7; 3]].concat();
        assert_eq!(Header::read(&longer), Some(header));
        assert!(adds_up(&longer));
    }
}
