//! The 36 bytes of a CARP advert, and the Ethernet and IPv4 headers before them.
//!
//! | offset | field | value |
//! |---|---|---|
//! | 0 | version << 4 \| type | 0x21 |
//! | 1 | vhid | 1 to 255 |
//! | 2 | advskew | 0 to 254; 255 only in a bow-out |
//! | 3 | authlen | 7, the 32-bit words of counter and digest |
//! | 4 | demote | 0 to 255 (OpenBSD); 0 and ignored elsewhere |
//! | 5 | advbase | 0 to 255 seconds |
//! | 6 | checksum | RFC 1071 over these 36 bytes, in IPv6 too: no pseudo-header |
//! | 8 | counter | 64 bits |
//! | 16 | digest | HMAC-SHA1, 20 bytes |
//!
//! Source: `struct carp_header` in the BSDs' `sys/netinet/ip_carp.h`. VRRP uses the same protocol number
//! and group, and VRRPv2's first octet is 0x21 too: only authlen, length and digest tell them apart.

use core::net::Ipv4Addr;

use crate::checksum;

/// Length of an advert after the IP header, in bytes.
pub const ADVERT_LEN: usize = 36;
/// Length of the Ethernet header.
pub const ETHERNET_LEN: usize = 14;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Length of the fixed IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Length of an advert's Ethernet frame over IPv4.
pub const IPV4_FRAME_LEN: usize = ETHERNET_LEN + IPV4_LEN + ADVERT_LEN;
/// IP protocol number of CARP, shared with VRRP.
pub const PROTOCOL: u8 = 112;
/// First octet of an advert: version 2, type 1.
pub const VERSION_TYPE: u8 = 0x21;
/// The `authlen` of every advert.
pub const AUTHLEN: u8 = 7;
/// TTL and hop limit that adverts are sent with, and must still have.
pub const TTL: u8 = 255;
/// advbase and advskew of a bow-out, the last advert of a master that leaves.
pub const BOW_OUT: u8 = 255;
/// The IPv4 multicast group of CARP and VRRP.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// TOS of an advert: low delay, as OpenBSD, NetBSD and ucarp send it.
const TOS: u8 = 0x10;
/// The "don't fragment" flag in an IPv4 header.
const DONT_FRAGMENT: [u8; 2] = [0x40, 0x00];

/// The virtual MAC of a vhid, 00:00:5e:00:01:VHID: the Ethernet source of its adverts, as a rule.
///
/// ucarp sends from 00:00:5e:00:*00*:VHID, so a receiver must not require it.
#[must_use]
pub const fn virtual_mac(vhid: u8) -> [u8; 6] {
    [0x00, 0x00, 0x5e, 0x00, 0x01, vhid]
}

/// Whether an IPv4 address that begins with this octet can be a host's: not this network, loopback, multicast
/// or reserved (RFC 6890).
#[inline(always)]
#[must_use]
pub const fn can_be_host(first_octet: u8) -> bool {
    !matches!(first_octet, 0 | 127 | 224..)
}

/// What an advert says. [`Header::encode`] adds the fixed fields and the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Virtual host id.
    pub vhid: u8,
    /// Advertisement skew in 1/256 s; [`BOW_OUT`] in a bow-out.
    pub advskew: u8,
    /// Demotion counter (OpenBSD).
    pub demote: u8,
    /// Advertisement base interval in seconds; [`BOW_OUT`] in a bow-out.
    pub advbase: u8,
    /// The number that the digest covers beside key and VIPs.
    pub counter: u64,
    /// HMAC-SHA1 over version, type, vhid, VIPs and counter.
    pub digest: [u8; 20],
}

impl Header {
    /// The bytes on the wire, with the checksum.
    #[must_use]
    pub fn encode(&self) -> [u8; ADVERT_LEN] {
        let mut bytes = [0; ADVERT_LEN];
        bytes[0] = VERSION_TYPE;
        bytes[1] = self.vhid;
        bytes[2] = self.advskew;
        bytes[3] = AUTHLEN;
        bytes[4] = self.demote;
        bytes[5] = self.advbase;
        bytes[8..16].copy_from_slice(&self.counter.to_be_bytes());
        bytes[16..].copy_from_slice(&self.digest);
        let sum = checksum::internet(&bytes);
        bytes[6..8].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// Reads the fields of an advert. `None` if the first octet or authlen says that it is none; the
    /// checksum and the digest are the caller's to check.
    #[must_use]
    pub fn decode(bytes: &[u8; ADVERT_LEN]) -> Option<Self> {
        if bytes[0] != VERSION_TYPE || bytes[3] != AUTHLEN {
            return None;
        }
        Some(Self {
            vhid: bytes[1],
            advskew: bytes[2],
            demote: bytes[4],
            advbase: bytes[5],
            counter: u64::from_be_bytes(*bytes[8..].first_chunk()?),
            digest: *bytes[16..].first_chunk()?,
        })
    }
}

/// Where IPv4 adverts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The IPv4 address.
    pub ip: Ipv4Addr,
    /// The Ethernet address.
    pub mac: [u8; 6],
}

impl Destination {
    /// A multicast group, at its Ethernet address (RFC 1112, 6.4).
    #[must_use]
    pub const fn group(ip: Ipv4Addr) -> Self {
        let [_, b, c, d] = ip.octets();
        Self { ip, mac: [0x01, 0x00, 0x5e, b & 0x7f, c, d] }
    }

    /// The same group, by Ethernet broadcast (ucarp's `--nomcast`).
    #[must_use]
    pub const fn broadcast(ip: Ipv4Addr) -> Self {
        Self { ip, mac: [0xff; 6] }
    }
}

/// The whole Ethernet frame of an IPv4 advert, from this Ethernet address: as a rule [`virtual_mac`].
#[must_use]
pub fn ipv4_frame(header: &Header, mac: [u8; 6], source: Ipv4Addr, destination: Destination) -> [u8; IPV4_FRAME_LEN] {
    let mut frame = [0; IPV4_FRAME_LEN];
    frame[..6].copy_from_slice(&destination.mac);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());

    let mut ip = [0; IPV4_LEN];
    ip[0] = 0x45;
    ip[1] = TOS;
    ip[2..4].copy_from_slice(&((IPV4_LEN + ADVERT_LEN) as u16).to_be_bytes());
    ip[6..8].copy_from_slice(&DONT_FRAGMENT);
    ip[8] = TTL;
    ip[9] = PROTOCOL;
    ip[12..16].copy_from_slice(&source.octets());
    ip[16..20].copy_from_slice(&destination.ip.octets());
    let sum = checksum::internet(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame[ETHERNET_LEN..ETHERNET_LEN + IPV4_LEN].copy_from_slice(&ip);

    frame[ETHERNET_LEN + IPV4_LEN..].copy_from_slice(&header.encode());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header =
        Header { vhid: 7, advskew: 100, demote: 3, advbase: 1, counter: 0x0102_0304_0506_0708, digest: [0xd1; 20] };

    #[test]
    fn an_advert_survives_the_wire() {
        let bytes = HEADER.encode();
        assert_eq!(Header::decode(&bytes), Some(HEADER));
        assert_eq!(checksum::internet(&bytes), 0);
    }

    #[test]
    fn the_fields_stand_where_the_bsds_read_them() {
        let bytes = HEADER.encode();
        assert_eq!(bytes[..6], [0x21, 7, 100, 7, 3, 1]);
        assert_eq!(bytes[8..16], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bytes[16..], [0xd1; 20]);
    }

    #[test]
    fn another_version_type_or_authlen_is_no_advert() {
        let good = HEADER.encode();
        for (at, value) in [(0, 0x22), (0, 0x31), (3, 0), (3, 6)] {
            let mut bytes = good;
            bytes[at] = value;
            assert_eq!(Header::decode(&bytes), None);
        }
    }

    #[test]
    fn the_frame_is_multicast_from_the_virtual_mac_with_ttl_255() {
        let frame = ipv4_frame(&HEADER, virtual_mac(7), Ipv4Addr::new(10, 0, 0, 1), Destination::group(GROUP_V4));
        assert_eq!(frame[..14], [1, 0, 0x5e, 0, 0, 0x12, 0, 0, 0x5e, 0, 1, 7, 8, 0]);
        assert_eq!(frame[14..18], [0x45, 0x10, 0, 56]);
        assert_eq!(frame[20..24], [0x40, 0, 255, 112]);
        assert_eq!(frame[26..34], [10, 0, 0, 1, 224, 0, 0, 18]);
        let ip: [u8; 20] = frame[14..34].try_into().unwrap();
        assert_eq!(checksum::internet(&ip), 0);

        let other = ipv4_frame(&HEADER, [2, 0, 0, 0, 0, 9], Ipv4Addr::new(10, 0, 0, 1), Destination::group(GROUP_V4));
        assert_eq!((&other[..6], &other[6..12], &other[12..]), (&frame[..6], &[2, 0, 0, 0, 0, 9][..], &frame[12..]));
    }
}
