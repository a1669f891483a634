//! The frames that bring adverts, as the models' hosts write and read them.

use std::net::IpAddr;

use super::wire::checksum;
use crate::packet::MacAddr;

const CARP: u8 = 112;
/// OpenBSD's and ucarp's.
const TOS: u8 = 0x10;
const ETHERNET: usize = 14;
const IPV4: usize = ETHERNET + 20;
const IPV6: usize = ETHERNET + 40;

/// A packet of protocol 112.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'f> {
    /// IP source.
    pub source: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// What follows the IP header.
    pub payload: &'f [u8],
}

/// The frame that brings it to the group of its source's family.
pub fn write(from: MacAddr, packet: Packet<'_>) -> Vec<u8> {
    let Packet { source, ttl, payload } = packet;
    let length = payload.len() as u8;
    let header = match source {
        IpAddr::V4(source) => {
            let mut ip = [0x45, TOS, 0, 20 + length, 0, 0, 0x40, 0, ttl, CARP, 0, 0, 0, 0, 0, 0, 224, 0, 0, 18];
            ip[12..16].copy_from_slice(&source.octets());
            let sum = checksum(&ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            [&[0x01, 0, 0x5e, 0, 0, 0x12], &from.0[..], &[0x08, 0x00], &ip].concat()
        }
        IpAddr::V6(source) => {
            let mut group = [0; 16];
            (group[0], group[1], group[15]) = (0xff, 0x02, 0x12);
            let ip = [&[0x60, 0, 0, 0, 0, length, CARP, ttl], &source.octets()[..], &group].concat();
            [&[0x33, 0x33, 0, 0, 0, 0x12], &from.0[..], &[0x86, 0xdd], &ip].concat()
        }
    };
    [header, payload.to_vec()].concat()
}

/// Reads a frame; `None` if it has another packet in it.
pub fn read(frame: &[u8]) -> Option<Packet<'_>> {
    let length = |at: usize| Some(usize::from(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?)));
    let packet = match frame.get(12..14)? {
        [0x08, 0x00] if *frame.get(23)? == CARP => Packet {
            source: IpAddr::from(*frame.get(26..)?.first_chunk::<4>()?),
            ttl: frame[22],
            payload: frame.get(IPV4..ETHERNET + length(16)?)?,
        },
        [0x86, 0xdd] if *frame.get(20)? == CARP => Packet {
            source: IpAddr::from(*frame.get(22..)?.first_chunk::<16>()?),
            ttl: frame[21],
            payload: frame.get(IPV6..IPV6 + length(18)?)?,
        },
        _ => return None,
    };
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adverts;
    use crate::capture::Frame;
    use crate::clock::BootTime;
    use crate::pcap::{read_pcap, vector};

    #[test]
    fn ucarps_frames_are_read_and_written_again() {
        let frames = read_pcap(&vector("pair-v33.pcap")).unwrap();
        let packets: Vec<_> = frames.iter().filter_map(|bytes| Some((bytes, read(bytes)?))).collect();
        assert!(packets.len() >= 2);
        for (bytes, packet) in packets {
            let mut expected = bytes.clone();
            let mut written = write(MacAddr(*bytes[6..].first_chunk().unwrap()), packet);
            // ucarp's has an identification, and so another sum.
            for frame in [&mut expected, &mut written] {
                frame[18..20].fill(0);
                frame[24..26].fill(0);
            }
            assert_eq!(written, expected);
        }
    }

    #[test]
    fn both_families_are_written_as_they_are_read_and_others_read_them_too() {
        let payload = super::super::wire::signed("open sesame", 7, &[], adverts::Election::new(1, 2), 3);
        for source in ["10.77.0.1", "fe80::1"] {
            let packet = Packet { source: source.parse().unwrap(), ttl: 254, payload: &payload };
            let bytes = write(MacAddr([2; 6]), packet);
            assert_eq!(read(&bytes), Some(packet));
            let seen = adverts::parse(&Frame { at: BootTime::now(), outgoing: false, bytes }).unwrap();
            assert_eq!((seen.source, seen.vhid, seen.counter), (packet.source, 7, 3));
        }
    }
}
