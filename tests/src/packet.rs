//! The few packets that the measuring tools build and read by themselves.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`
    pub const BROADCAST: Self = Self([0xff; 6]);
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Destination of the Ethernet frame.
    pub ethernet_destination: MacAddr,
    /// Source of the Ethernet frame.
    pub ethernet_source: MacAddr,
    /// 1 is a request, 2 a reply.
    pub operation: u16,
    /// Who speaks.
    pub sender_mac: MacAddr,
    /// For which address.
    pub sender_ip: Ipv4Addr,
    /// To whom.
    pub target_mac: MacAddr,
    /// Which address is asked for, or whose owner is told.
    pub target_ip: Ipv4Addr,
}

impl Arp {
    /// The `operation` of a request.
    pub const REQUEST: u16 = 1;
    /// The `operation` of a reply.
    pub const REPLY: u16 = 2;

    /// "Who has `target_ip`?", to everybody.
    pub fn request(sender_mac: MacAddr, sender_ip: Ipv4Addr, target_ip: Ipv4Addr) -> Self {
        Self {
            ethernet_destination: MacAddr::BROADCAST,
            ethernet_source: sender_mac,
            operation: Self::REQUEST,
            sender_mac,
            sender_ip,
            target_mac: MacAddr([0; 6]),
            target_ip,
        }
    }

    /// "`ip` is at `mac`", to everybody: the form that hosts update caches by.
    pub fn gratuitous(mac: MacAddr, ip: Ipv4Addr) -> Self {
        Self::request(mac, ip, ip)
    }

    /// The frame, without padding.
    pub fn to_frame(self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(FRAME_LEN);
        frame.extend(self.ethernet_destination.0);
        frame.extend(self.ethernet_source.0);
        frame.extend(ETHERNET_IPV4_ARP);
        frame.extend(self.operation.to_be_bytes());
        frame.extend(self.sender_mac.0);
        frame.extend(self.sender_ip.octets());
        frame.extend(self.target_mac.0);
        frame.extend(self.target_ip.octets());
        frame
    }

    /// Reads a frame; `None` if it is something else.
    pub fn from_frame(frame: &[u8]) -> Option<Self> {
        if frame.get(12..20)? != ETHERNET_IPV4_ARP {
            return None;
        }
        Some(Self {
            ethernet_destination: MacAddr(array(frame, 0)?),
            ethernet_source: MacAddr(array(frame, 6)?),
            operation: u16::from_be_bytes(array(frame, 20)?),
            sender_mac: MacAddr(array(frame, 22)?),
            sender_ip: array(frame, 28)?.into(),
            target_mac: MacAddr(array(frame, 32)?),
            target_ip: array(frame, 38)?.into(),
        })
    }
}

/// A neighbour advertisement for IPv6 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourAdvert {
    /// Destination of the Ethernet frame.
    pub ethernet_destination: MacAddr,
    /// Source of the Ethernet frame.
    pub ethernet_source: MacAddr,
    /// Router, solicited, override.
    pub flags: u8,
    /// Whose hardware address is told.
    pub target: Ipv6Addr,
    /// It.
    pub target_mac: MacAddr,
}

impl NeighbourAdvert {
    /// "`ip` is at `mac`", to everybody, so that hosts update their caches.
    pub fn unsolicited(mac: MacAddr, target: Ipv6Addr) -> Self {
        let ethernet_destination = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
        Self { ethernet_destination, ethernet_source: mac, flags: 0x20, target, target_mac: mac }
    }

    /// Reads a frame; `None` if it is something else.
    pub fn from_frame(frame: &[u8]) -> Option<Self> {
        let is_ipv6 = *frame.get(12..)?.first_chunk()? == [0x86, 0xdd];
        // ICMPv6, type 136, and the option with the target's address.
        if !is_ipv6 || *frame.get(20)? != 58 || *frame.get(54)? != 136 || *frame.get(78)? != 2 {
            return None;
        }
        Some(Self {
            ethernet_destination: MacAddr(array(frame, 0)?),
            ethernet_source: MacAddr(array(frame, 6)?),
            flags: *frame.get(58)?,
            target: Ipv6Addr::from(array(frame, 62)?),
            target_mac: MacAddr(array(frame, 80)?),
        })
    }
}

/// Length of an ARP packet in an Ethernet frame, without padding.
const FRAME_LEN: usize = 42;

/// Ethernet type ARP; hardware type Ethernet, protocol IPv4, lengths 6 and 4.
const ETHERNET_IPV4_ARP: [u8; 8] = [0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 6, 4];

/// An ICMP echo request (without IP header) that carries `sequence` as data.
pub(crate) fn echo_request(ident: u16, sequence: u64) -> [u8; 16] {
    let mut message = [0; 16];
    message[0] = 8;
    message[4..6].copy_from_slice(&ident.to_be_bytes());
    message[8..16].copy_from_slice(&sequence.to_be_bytes());
    let checksum = internet_checksum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// Who sent this echo reply, and the `sequence` in it. `None` if the frame is
/// not an answer from `source`. (Its `ident` has been compared by the filter.)
pub(crate) fn echo_reply(frame: &[u8], source: Ipv4Addr) -> Option<(MacAddr, u64)> {
    let from: [u8; 4] = array(frame, 26)?;
    if Ipv4Addr::from(from) != source {
        return None;
    }
    Some((MacAddr(array(frame, 6)?), u64::from_be_bytes(array(frame, 42)?)))
}

/// RFC 1071, over an even number of bytes.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded + (folded >> 16)) as u16)
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset + N)?.try_into().ok()
}
