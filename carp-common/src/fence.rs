//! The fence: when the mastership lease of a virtual host is over, its host no longer owns the VIPs, whatever the agent is
//! doing. The same functions in the kernel programs and in user space.
//!
//! | | dropped, if it is to or from this host | and |
//! |---|---|---|
//! | [`arrives`] | destination MAC is broadcast, multicast or one of [`Held`]'s | an ARP request or a neighbour solicitation for a held VIP; any IP packet to it |
//! | [`leaves`] | source MAC is one of [`Held`]'s | ARP that says a held VIP is its sender's; a neighbour advertisement for one; any IP packet from one |
//! | [`leaves`] | IP source is that of our adverts | an advert of a virtual host of ours, unless it is a bow-out |
//!
//! Everything else is never touched: frames of guests behind a bridge or a macvtap have other MACs, and every address
//! that is not held is missing in the table.
//!
//! Extension headers before ICMPv6 are not followed, and 802.1Q tags are not looked behind, as in the verdict. The stack
//! would answer such a solicitation, or a request whose tag is of VLAN 0; but what it answers with has neither, and is
//! dropped when it leaves.

use crate::{
    abi::{AddressKey, Deadline, Family, Held, VhostKey, mapped},
    seal::SEALED_LEN,
    verdict::{Frame, Tables},
    wire::{
        ADVERT_LEN, AUTHLEN, BOW_OUT, ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN,
        PROTOCOL, VERSION_TYPE,
    },
};

/// Length of the headers that are looked at, at most: Ethernet, IPv6, and ICMPv6 up to the end of its target.
pub const HEADERS_LEN: usize = ICMPV6_TARGET_AT + 16;

/// Protocol type IPv4, lengths 6 and 4: ARP for IPv4 over Ethernet. (The hardware type before them may be 1 or 6.)
const ARP_FOR_IPV4: [u8; 4] = [8, 0, 6, 4];
/// The operation of an ARP request.
const ARP_REQUEST: [u8; 2] = [0, 1];
const ARP_SENDER_AT: usize = ETHERNET_LEN + 14;
const ARP_TARGET_AT: usize = ETHERNET_LEN + 24;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const ICMPV6_TARGET_AT: usize = ETHERNET_LEN + IPV6_LEN + 8;

/// What the fence has to look up.
pub trait Leases {
    /// Whether there may be a held address that ends with these two bytes. To look one up takes several times as long, and
    /// most packets of a busy host have nothing to do with a VIP.
    fn may_hold(&self, ending: [u8; 2]) -> bool;

    /// Whose this address is, if this host holds it.
    fn held(&self, key: &AddressKey) -> Option<&Held>;

    /// Until when the lease in this row lasts.
    fn deadline(&self, row: u32) -> Deadline;
}

/// Whether a frame that arrived on the interface `ifindex` is dropped: `Some` with the row that it is counted in. `now`
/// reads the clock, which takes longer than all the rest: it is asked for held VIPs with a lease only.
#[inline(always)]
pub fn arrives<F: Frame + ?Sized>(frame: &F, ifindex: u32, leases: &impl Leases, now: impl Fn() -> u64) -> Option<u32> {
    let is_fenced = |family, at| {
        let held = held_at(frame, ifindex, family, at, leases)?;
        let to: [u8; 6] = frame.read(0)?;
        let is_group = to[0] & 1 != 0;
        if is_group || held.has(to) { fenced_vip(held.row(), leases, &now) } else { None }
    };
    let [type_0, type_1] = frame.read(ETHERNET_LEN - 2)?;
    match u16::from_be_bytes([type_0, type_1]) {
        ETHERTYPE_IPV4 => is_fenced(Family::V4, ETHERNET_LEN + 16),
        ETHERTYPE_IPV6 => is_fenced(Family::V6, ETHERNET_LEN + 24)
            .or_else(|| if is_icmpv6(frame, SOLICITATION)? { is_fenced(Family::V6, ICMPV6_TARGET_AT) } else { None }),
        ETHERTYPE_ARP if arp_operation(frame)? == ARP_REQUEST => is_fenced(Family::V4, ARP_TARGET_AT),
        _ => None,
    }
}

/// Whether a frame that is about to leave by the interface `ifindex` is dropped, as [`arrives`].
#[inline(always)]
pub fn leaves<F: Frame + ?Sized>(
    frame: &F,
    ifindex: u32,
    tables: &(impl Tables + Leases),
    now: impl Fn() -> u64,
) -> Option<u32> {
    let is_fenced = |family, at| {
        let held = held_at(frame, ifindex, family, at, tables)?;
        if held.has(frame.read(6)?) { fenced_vip(held.row(), tables, &now) } else { None }
    };
    let [type_0, type_1] = frame.read(ETHERNET_LEN - 2)?;
    match u16::from_be_bytes([type_0, type_1]) {
        ETHERTYPE_IPV4 => is_fenced(Family::V4, ETHERNET_LEN + 12).or_else(|| {
            let [protocol] = frame.read(ETHERNET_LEN + 9)?;
            if protocol == PROTOCOL { overdue(frame, ifindex, Family::V4, tables, &now) } else { None }
        }),
        ETHERTYPE_IPV6 => is_fenced(Family::V6, ETHERNET_LEN + 8).or_else(|| {
            let [next_header] = frame.read(ETHERNET_LEN + 6)?;
            if next_header == PROTOCOL {
                overdue(frame, ifindex, Family::V6, tables, &now)
            } else if is_icmpv6(frame, ADVERTISEMENT)? {
                is_fenced(Family::V6, ICMPV6_TARGET_AT)
            } else {
                None
            }
        }),
        ETHERTYPE_ARP => {
            arp_operation(frame)?;
            is_fenced(Family::V4, ARP_SENDER_AT)
        }
        _ => None,
    }
}

/// Whose the address at this place of the frame is, if this host holds it.
#[inline(always)]
fn held_at<'l, F: Frame + ?Sized, L: Leases>(
    frame: &F,
    ifindex: u32,
    family: Family,
    at: usize,
    leases: &'l L,
) -> Option<&'l Held> {
    let ending_at = match family {
        Family::V4 => at + 2,
        Family::V6 => at + 14,
    };
    if !leases.may_hold(frame.read(ending_at)?) {
        return None;
    }
    let address = match family {
        Family::V4 => mapped(frame.read(at)?),
        Family::V6 => frame.read(at)?,
    };
    leases.held(&AddressKey::new(ifindex, address))
}

/// Whether an IP packet of protocol 112 is an advert of ours that the lease no longer covers. (An agent that wakes up late
/// may send one before it looks at the clock.) Ours are as short as an advert is, or sealed: with seven addresses, VRRPv2 has CARP's
/// authlen where it counts them, and keepalived sends it from the same address.
#[inline(always)]
fn overdue<F: Frame + ?Sized>(
    frame: &F,
    ifindex: u32,
    family: Family,
    tables: &(impl Tables + Leases),
    now: impl Fn() -> u64,
) -> Option<u32> {
    let (source, at, header, len_at) = match family {
        Family::V4 => (mapped(frame.read(ETHERNET_LEN + 12)?), ETHERNET_LEN + IPV4_LEN, IPV4_LEN, ETHERNET_LEN + 2),
        Family::V6 => (frame.read(ETHERNET_LEN + 8)?, ETHERNET_LEN + IPV6_LEN, 0, ETHERNET_LEN + 4),
    };
    let len = usize::from(u16::from_be_bytes(frame.read(len_at)?));
    if len != header + ADVERT_LEN && len != header + SEALED_LEN {
        return None;
    }
    let [version_type, vhid, advskew, authlen, _, advbase] = frame.read(at)?;
    let is_bow_out = advbase == BOW_OUT && advskew == BOW_OUT;
    if version_type != VERSION_TYPE || authlen != AUTHLEN || is_bow_out {
        return None;
    }
    let key = VhostKey::new(ifindex, vhid, family);
    if !tables.sent(&key)?.is_from(&source) {
        return None;
    }
    let row = tables.vhost(&key)?.row();
    tables.deadline(row).fences_adverts(now).then_some(row)
}

/// The row, if its VIPs are not served any more, or not yet.
#[inline(always)]
fn fenced_vip(row: u32, leases: &impl Leases, now: impl Fn() -> u64) -> Option<u32> {
    leases.deadline(row).fences_vips(now).then_some(row)
}

/// The operation of a frame of ARP for IPv4 over Ethernet.
#[inline(always)]
fn arp_operation<F: Frame + ?Sized>(frame: &F) -> Option<[u8; 2]> {
    if frame.read(ETHERNET_LEN + 2)? == ARP_FOR_IPV4 { frame.read(ETHERNET_LEN + 6) } else { None }
}

/// Whether an IPv6 packet has a message of ICMPv6 of this type right after its header.
#[inline(always)]
fn is_icmpv6<F: Frame + ?Sized>(frame: &F, wanted: u8) -> Option<bool> {
    let [next_header] = frame.read(ETHERNET_LEN + 6)?;
    if next_header != ICMPV6 {
        return None;
    }
    let [message] = frame.read(ETHERNET_LEN + IPV6_LEN)?;
    Some(message == wanted)
}

#[cfg(test)]
mod tests;
