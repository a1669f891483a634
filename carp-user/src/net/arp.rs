//! Gratuitous ARP: tells the network where an IPv4 VIP is now.

use std::net::Ipv4Addr;

const BROADCAST: [u8; 6] = [0xff; 6];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Ethernet and IPv4, hardware addresses of 6 bytes and protocol addresses of 4, a request.
const REQUEST: [u8; 8] = [0, 1, 0x08, 0x00, 6, 4, 0, 1];

/// A gratuitous ARP request: `vip` asks for itself from `mac` (RFC 5227, an ARP announcement).
pub(crate) fn announcement(mac: [u8; 6], vip: Ipv4Addr) -> [u8; 42] {
    let mut frame = [0; 42];
    frame[..6].copy_from_slice(&BROADCAST);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_ARP);
    frame[14..22].copy_from_slice(&REQUEST);
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&vip.octets());
    // The target's hardware address stays 0: it is what a request asks for.
    frame[38..42].copy_from_slice(&vip.octets());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_a_broadcast_request_for_the_vip_by_itself() {
        let mac = [2, 0, 0, 0, 0, 1];
        let frame = announcement(mac, Ipv4Addr::new(10, 0, 0, 100));
        assert_eq!(frame[..14], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6]);
        assert_eq!(frame[14..22], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(frame[22..], [2, 0, 0, 0, 0, 1, 10, 0, 0, 100, 0, 0, 0, 0, 0, 0, 10, 0, 0, 100]);
    }
}
