//! Unsolicited neighbour advertisement: tells the network where an IPv6 VIP is now (RFC 4861, 7.2.6).

use std::net::Ipv6Addr;

use carp_common::checksum;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// The sender is a router. Whoever has it as its default router would take a 0 for the end of that.
const ROUTER: u8 = 0x80;
/// What the neighbours have is to be replaced.
const OVERRIDE: u8 = 0x20;
/// The option with the target's hardware address, of one unit of 8 bytes.
const TARGET_ADDRESS: [u8; 2] = [2, 1];
/// Type to option.
const MESSAGE_LEN: usize = 32;

/// `vip` says to all that it is at `mac` now.
pub(crate) fn announcement(mac: [u8; 6], vip: Ipv6Addr, is_router: bool) -> [u8; 86] {
    let mut message = [0; MESSAGE_LEN];
    message[0] = NEIGHBOUR_ADVERTISEMENT;
    message[4] = OVERRIDE | if is_router { ROUTER } else { 0 };
    message[8..24].copy_from_slice(&vip.octets());
    message[24..26].copy_from_slice(&TARGET_ADDRESS);
    message[26..].copy_from_slice(&mac);

    // The checksum covers the addresses, the length and the protocol, too (RFC 8200, 8.1).
    let mut summed = [0; 40 + MESSAGE_LEN];
    summed[..16].copy_from_slice(&vip.octets());
    summed[16..32].copy_from_slice(&ALL_NODES.octets());
    summed[35] = MESSAGE_LEN as u8;
    summed[39] = ICMPV6;
    summed[40..].copy_from_slice(&message);
    let sum = checksum::internet(&summed);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = [0; 86];
    frame[..6].copy_from_slice(&ALL_NODES_MAC);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_IPV6);
    frame[14] = 0x60;
    frame[19] = MESSAGE_LEN as u8;
    frame[20] = ICMPV6;
    frame[21] = 255;
    frame[22..38].copy_from_slice(&vip.octets());
    frame[38..54].copy_from_slice(&ALL_NODES.octets());
    frame[54..].copy_from_slice(&message);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_goes_to_all_nodes_and_overrides() {
        let mac = [2, 0, 0, 0, 0, 1];
        let vip: Ipv6Addr = "fd00::64".parse().unwrap();
        let frame = announcement(mac, vip, false);
        assert_eq!(frame[..14], [0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0x86, 0xdd]);
        assert_eq!(frame[14..22], [0x60, 0, 0, 0, 0, 32, 58, 255]);
        assert_eq!((&frame[22..38], &frame[62..78]), (&vip.octets()[..], &vip.octets()[..]));
        assert_eq!((frame[54], frame[58]), (136, 0x20));
        assert_eq!(frame[78..], [2, 1, 2, 0, 0, 0, 0, 1]);
        assert_eq!(announcement(mac, vip, true)[58], 0xa0);
    }
}
