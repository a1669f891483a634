//! The 36 bytes of a CARP advert, and the Ethernet and IP headers before them.
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

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{checksum, seal::TRAILER_LEN};

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
/// Length of an advert's Ethernet frame over IPv6.
pub const IPV6_FRAME_LEN: usize = ETHERNET_LEN + IPV6_LEN + ADVERT_LEN;
/// IP protocol number of CARP, shared with VRRP.
pub const PROTOCOL: u8 = 112;
/// First octet of an advert: version 2, type 1.
pub const VERSION_TYPE: u8 = 0x21;
/// The `authlen` of every advert.
pub const AUTHLEN: u8 = 7;
/// TTL and hop limit that adverts are sent with, and must still have unless `min_ttl` says otherwise.
pub const TTL: u8 = 255;
/// advbase and advskew of a bow-out, the last advert of a master that leaves.
pub const BOW_OUT: u8 = 255;
/// The IPv4 multicast group of CARP and VRRP.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// The IPv6 multicast group of CARP and VRRP.
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
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

/// Where adverts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The IP address.
    pub ip: IpAddr,
    /// The Ethernet address.
    pub mac: [u8; 6],
}

impl Destination {
    /// A multicast group, at its Ethernet address (RFC 1112, 6.4, and RFC 2464, 7).
    #[must_use]
    pub const fn group(ip: IpAddr) -> Self {
        let mac = match ip {
            IpAddr::V4(v4) => {
                let [_, b, c, d] = v4.octets();
                [0x01, 0x00, 0x5e, b & 0x7f, c, d]
            }
            IpAddr::V6(v6) => {
                let [.., c, d, e, f] = v6.octets();
                [0x33, 0x33, c, d, e, f]
            }
        };
        Self { ip, mac }
    }

    /// The same group, by Ethernet broadcast (ucarp's `--nomcast`).
    #[must_use]
    pub const fn broadcast(ip: IpAddr) -> Self {
        Self { ip, mac: [0xff; 6] }
    }
}

/// An advert's Ethernet frame, in either family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdvertFrame {
    bytes: [u8; IPV6_FRAME_LEN + TRAILER_LEN],
    len: usize,
}

impl AdvertFrame {
    /// From these Ethernet and IP addresses; the former is [`virtual_mac`] as a rule. `None` if the IP addresses are not
    /// of one family.
    #[must_use]
    pub fn new(header: &Header, mac: [u8; 6], source: IpAddr, destination: Destination) -> Option<Self> {
        Self::with(&header.encode(), None, mac, source, destination)
    }

    /// The same with a [`seal`](crate::seal) after these 36 bytes.
    #[must_use]
    pub fn sealed(
        advert: &[u8; ADVERT_LEN],
        trailer: &[u8; TRAILER_LEN],
        mac: [u8; 6],
        source: IpAddr,
        destination: Destination,
    ) -> Option<Self> {
        Self::with(advert, Some(trailer), mac, source, destination)
    }

    fn with(
        advert: &[u8; ADVERT_LEN],
        trailer: Option<&[u8; TRAILER_LEN]>,
        mac: [u8; 6],
        source: IpAddr,
        destination: Destination,
    ) -> Option<Self> {
        let trailer = trailer.map_or(&[][..], |trailer| trailer);
        let len = (ADVERT_LEN + trailer.len()) as u16;
        let mut frame = Self { bytes: [0; IPV6_FRAME_LEN + TRAILER_LEN], len: 0 };
        frame.push(&destination.mac);
        frame.push(&mac);
        match (source, destination.ip) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.push(&ETHERTYPE_IPV4.to_be_bytes());
                frame.push(&ipv4_header(source, destination, len));
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.push(&ETHERTYPE_IPV6.to_be_bytes());
                frame.push(&ipv6_header(source, destination, len));
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        }
        frame.push(advert);
        frame.push(trailer);
        Some(frame)
    }

    /// The bytes of the frame.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

fn ipv4_header(source: Ipv4Addr, destination: Ipv4Addr, len: u16) -> [u8; IPV4_LEN] {
    let mut ip = [0; IPV4_LEN];
    ip[0] = 0x45;
    ip[1] = TOS;
    ip[2..4].copy_from_slice(&(IPV4_LEN as u16 + len).to_be_bytes());
    ip[6..8].copy_from_slice(&DONT_FRAGMENT);
    ip[8] = TTL;
    ip[9] = PROTOCOL;
    ip[12..16].copy_from_slice(&source.octets());
    ip[16..20].copy_from_slice(&destination.octets());
    let sum = checksum::internet(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip
}

fn ipv6_header(source: Ipv6Addr, destination: Ipv6Addr, len: u16) -> [u8; IPV6_LEN] {
    let mut ip = [0; IPV6_LEN];
    ip[0] = 0x60;
    ip[4..6].copy_from_slice(&len.to_be_bytes());
    ip[6] = PROTOCOL;
    ip[7] = TTL;
    ip[8..24].copy_from_slice(&source.octets());
    ip[24..40].copy_from_slice(&destination.octets());
    ip
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
        let [source, group] = [IpAddr::from([10, 0, 0, 1]), GROUP_V4.into()];
        let frame = AdvertFrame::new(&HEADER, virtual_mac(7), source, Destination::group(group)).unwrap();
        let frame = frame.as_bytes();
        assert_eq!(frame.len(), IPV4_FRAME_LEN);
        assert_eq!(frame[..14], [1, 0, 0x5e, 0, 0, 0x12, 0, 0, 0x5e, 0, 1, 7, 8, 0]);
        assert_eq!(frame[14..18], [0x45, 0x10, 0, 56]);
        assert_eq!(frame[20..24], [0x40, 0, 255, 112]);
        assert_eq!(frame[26..34], [10, 0, 0, 1, 224, 0, 0, 18]);
        let ip: [u8; 20] = frame[14..34].try_into().unwrap();
        assert_eq!(checksum::internet(&ip), 0);
        assert_eq!(frame[34..], HEADER.encode());

        let other = AdvertFrame::new(&HEADER, [2, 0, 0, 0, 0, 9], source, Destination::group(group)).unwrap();
        let other = other.as_bytes();
        assert_eq!((&other[..6], &other[6..12], &other[12..]), (&frame[..6], &[2, 0, 0, 0, 0, 9][..], &frame[12..]));
    }

    #[test]
    fn so_it_is_over_ipv6() {
        let source: IpAddr = "fe80::1".parse().unwrap();
        let frame = AdvertFrame::new(&HEADER, virtual_mac(7), source, Destination::group(GROUP_V6.into())).unwrap();
        let frame = frame.as_bytes();
        assert_eq!(frame.len(), IPV6_FRAME_LEN);
        assert_eq!(frame[..14], [0x33, 0x33, 0, 0, 0, 0x12, 0, 0, 0x5e, 0, 1, 7, 0x86, 0xdd]);
        assert_eq!(frame[14..22], [0x60, 0, 0, 0, 0, 36, 112, 255]);
        assert_eq!(frame[22..38], *b"\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\x01");
        assert_eq!(frame[38..54], *b"\xff\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\x12");
        assert_eq!(frame[54..], HEADER.encode());
        assert_eq!(AdvertFrame::new(&HEADER, [2; 6], source, Destination::group(GROUP_V4.into())), None);
    }
}
