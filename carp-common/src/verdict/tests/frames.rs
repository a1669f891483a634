//! Frames built byte by byte from the protocol's description, and ways to spoil them.
//!
//! Also part of the tests of the XDP program, see [`table`](super::table).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Family::{self, V4, V6},
    digest,
};

/// The virtual host of these frames.
pub(crate) const OUR_VHID: u8 = 7;
/// Its passphrase.
pub(crate) const PASSPHRASE: &[u8] = b"secret";
/// The key that its adverts are sealed with, and its id.
pub(crate) const SEAL_KEY: &[u8] = b"sixteen bytes or more";
pub(crate) const SEAL_ID: u8 = 3;
/// Where the digest begins in an advert.
pub(crate) const DIGEST_AT: usize = 16;
/// Both families.
pub(crate) const BOTH: [Family; 2] = [V4, V6];

/// The VIPs of the virtual host, in the order of the digest.
pub(crate) fn vips() -> [IpAddr; 2] {
    [Ipv4Addr::new(10, 77, 0, 100).into(), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100).into()]
}

/// Who sends the adverts of a family.
pub(crate) fn source_of(family: Family) -> IpAddr {
    match family {
        V4 => Ipv4Addr::new(10, 77, 0, 1).into(),
        V6 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// What an advert says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) advbase: u8,
    pub(crate) advskew: u8,
    pub(crate) demote: u8,
    pub(crate) counter: u64,
}

impl Default for Fields {
    fn default() -> Self {
        Self { advbase: 1, advskew: 0, demote: 0, counter: 0x1122_3344_5566_7788 }
    }
}

/// Where the payload of a frame of this family begins.
pub(crate) fn payload_at(family: Family) -> usize {
    match family {
        V4 => 34,
        V6 => 54,
    }
}

/// An Ethernet frame; each method returns it changed.
#[derive(Clone, Debug)]
pub(crate) struct EthernetFrame {
    pub(crate) bytes: std::vec::Vec<u8>,
    family: Family,
}

impl EthernetFrame {
    /// A good advert of our virtual host.
    pub(crate) fn advert(family: Family, fields: Fields) -> Self {
        Self::signed(family, fields, &digest(fields.counter))
    }

    /// An advert of our virtual host with this digest.
    pub(crate) fn signed(family: Family, fields: Fields, digest: &[u8; 20]) -> Self {
        let Fields { advbase, advskew, demote, counter } = fields;
        let mut payload = std::vec![0x21, OUR_VHID, advskew, 7, demote, advbase, 0, 0];
        payload.extend(counter.to_be_bytes());
        payload.extend(digest);
        Self::of(family, &payload).with_checksum()
    }

    /// Protocol 112 with this payload, and good headers.
    pub(crate) fn of(family: Family, payload: &[u8]) -> Self {
        let mut bytes = match family {
            V4 => std::vec![1, 0, 0x5e, 0, 0, 0x12, 0, 0, 0x5e, 0, 1, OUR_VHID, 8, 0],
            V6 => std::vec![0x33, 0x33, 0, 0, 0, 0x12, 0, 0, 0x5e, 0, 1, OUR_VHID, 0x86, 0xdd],
        };
        match family {
            V4 => bytes.extend([0x45, 0x10, 0, 0, 0, 0, 0x40, 0, 255, 112, 0, 0, 0, 0, 0, 0, 224, 0, 0, 18]),
            V6 => {
                bytes.extend([0x60, 0, 0, 0, 0, 0, 112, 255]);
                bytes.extend([0; 16]);
                bytes.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12]);
            }
        }
        bytes.extend(payload);
        Self { bytes, family }.with_source(source_of(family)).with_payload_len(payload.len())
    }

    /// The advert with a seal behind it.
    pub(crate) fn sealed(mut self, key_id: u8, key: &[u8], sequence: u64) -> Self {
        use hmac::{Hmac, KeyInit, Mac};

        let at = payload_at(self.family);
        self.bytes.truncate(at + 36);
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
        match self.family {
            V4 => [26, 30].iter().for_each(|at| {
                mac.update(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
                mac.update(&self.bytes[*at..*at + 4]);
            }),
            V6 => mac.update(&self.bytes[22..54]),
        }
        self.bytes.extend([0x5e, 0xa1, 1, key_id]);
        self.bytes.extend(sequence.to_be_bytes());
        mac.update(&self.bytes[at..]);
        let tag = mac.finalize().into_bytes();
        self.bytes.extend(&tag[..16]);
        self.with_payload_len(64)
    }

    /// Other bytes at this place.
    pub(crate) fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Another byte at this place of the advert, and the right checksum for it.
    pub(crate) fn in_payload(self, at: usize, byte: u8) -> Self {
        let at = payload_at(self.family) + at;
        self.with(at, &[byte]).with_checksum()
    }

    /// One bit wrong at this place of the advert.
    pub(crate) fn spoilt(mut self, at: usize) -> Self {
        self.bytes[payload_at(self.family) + at] ^= 0x10;
        self
    }

    pub(crate) fn with_inserted(mut self, at: usize, bytes: &[u8]) -> Self {
        self.bytes.splice(at..at, bytes.iter().copied());
        self
    }

    pub(crate) fn with_protocol(self, protocol: u8) -> Self {
        let at = if self.family == V4 { 23 } else { 20 };
        self.with(at, &[protocol]).with_checksum()
    }

    pub(crate) fn with_ttl(self, ttl: u8) -> Self {
        let at = if self.family == V4 { 22 } else { 21 };
        self.with(at, &[ttl]).with_ip_checksum()
    }

    pub(crate) fn with_source(self, source: IpAddr) -> Self {
        match source {
            IpAddr::V4(v4) => self.with(26, &v4.octets()).with_ip_checksum(),
            IpAddr::V6(v6) => self.with(22, &v6.octets()),
        }
    }

    /// Says in the IP header that the payload is this long.
    pub(crate) fn with_payload_len(self, len: usize) -> Self {
        match self.family {
            V4 => self.with(16, &(len as u16 + 20).to_be_bytes()).with_ip_checksum(),
            V6 => self.with(18, &(len as u16).to_be_bytes()),
        }
    }

    /// More payload after the advert.
    pub(crate) fn with_trailer(mut self, trailer: &[u8]) -> Self {
        self.bytes.extend(trailer);
        let len = self.bytes.len() - payload_at(self.family);
        self.with_payload_len(len)
    }

    /// Bytes after the packet, as short frames have them.
    pub(crate) fn padded(mut self, len: usize) -> Self {
        self.bytes.resize(self.bytes.len() + len, 0xaa);
        self
    }

    pub(crate) fn cut_by(mut self, len: usize) -> Self {
        self.bytes.truncate(self.bytes.len() - len);
        self
    }

    /// The right checksums over the first 36 bytes of payload and over the IPv4 header.
    pub(crate) fn with_checksum(mut self) -> Self {
        let at = payload_at(self.family);
        let end = self.bytes.len().min(at + 36);
        self.bytes[at + 6..at + 8].fill(0);
        let sum = internet(&self.bytes[at..end]);
        self.with(at + 6, &sum.to_be_bytes()).with_ip_checksum()
    }

    pub(crate) fn with_ip_checksum(self) -> Self {
        match self.family {
            V4 => {
                let frame = self.with(24, &[0, 0]);
                let sum = internet(&frame.bytes[14..34]);
                frame.with(24, &sum.to_be_bytes())
            }
            V6 => self,
        }
    }
}

/// RFC 1071 once more, over any number of bytes.
fn internet(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
