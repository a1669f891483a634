//! The verdict on a frame: the same function in the XDP program and in user space.
//!
//! | frame | verdict | counted as |
//! |---|---|---|
//! | not IPv4 or IPv6 protocol 112, a fragment, IPv4 options, 802.1Q tagged | [`Verdict::Foreign`]: pass | - |
//! | payload under 36 bytes, first octet not 0x21, authlen not 7, vhid not configured on this interface | [`Verdict::Other`]: pass | other |
//! | exactly 36 bytes, configured vhid, and bad | [`Verdict::Refused`]: drop | badttl badsum badaddrs badauth echo |
//! | longer than 36, configured vhid, and bad: it may be VRRPv2 | [`Verdict::Other`]: pass | other |
//! | valid, with or without a trailer (BSDs accept one) | [`Verdict::Valid`]: pass, event | ipackets, ipackets6 |
//!
//! Nothing is dropped before its vhid is known to be ours. Lengths come from the IP header, checked against
//! the frame, which may be padded. The order of the checks is that of `carp_proto_input` in the BSDs'
//! `ip_carp.c`: TTL, checksum, source, digest, own echo. The verdict passes what tcpdump should still show.

use core::hint::black_box;

use crate::{
    abi::{Advert, Family, MAX_DIGESTS, Refused, Sent, SourceKey, Vhost, VhostKey, mapped},
    checksum,
    digest::Blocks,
    reason::Reason,
    wire::{
        ADVERT_LEN, AUTHLEN, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, PROTOCOL, VERSION_TYPE,
        can_be_host,
    },
};

/// A frame from its Ethernet header on. The kernel's reads packet memory, user space's a slice.
pub trait Frame {
    /// The `N` bytes at `offset`, or `None` if the frame ends before.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Whether the frame has at least `len` bytes.
    fn has(&self, len: usize) -> bool;

    /// What follows the first `offset` bytes.
    fn skip(&self, offset: usize) -> impl Frame;
}

impl Frame for [u8] {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }

    fn has(&self, len: usize) -> bool {
        self.len() >= len
    }

    fn skip(&self, offset: usize) -> impl Frame {
        self.get(offset..).unwrap_or_default()
    }
}

impl<F: Frame + ?Sized> Frame for &F {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        (**self).read(offset)
    }

    fn has(&self, len: usize) -> bool {
        (**self).has(len)
    }

    fn skip(&self, offset: usize) -> impl Frame {
        (**self).skip(offset)
    }
}

/// What the verdict has to look up.
pub trait Tables {
    /// The virtual host under this key.
    fn vhost(&self, key: &VhostKey) -> Option<&Vhost>;

    /// Whether a virtual host that has peers has this one.
    fn is_peer(&self, source: &SourceKey) -> bool;

    /// What we sent ourselves for this virtual host.
    fn sent(&self, key: &VhostKey) -> Option<&Sent>;
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No business of CARP's: pass, uncounted.
    Foreign,
    /// Protocol 112, but no advert of ours: pass, counted as [`Reason::Other`] in this row.
    Other(u32, Refused),
    /// A bad advert to a vhid of ours: drop, counted under the reason in this row.
    Refused(u32, Reason, Refused),
    /// A valid advert: pass, counted in this row, told to the agent.
    Valid(u32, Advert),
}

/// Judges a frame that arrived on the interface `ifindex`. `blocks` gives working space for a digest.
#[inline(always)]
pub fn judge<'b, F: Frame + ?Sized, T: Tables>(
    frame: &F,
    ifindex: u32,
    tables: &T,
    blocks: impl FnOnce() -> Option<&'b mut Blocks>,
) -> Verdict {
    // Both families prove the same length to the verifier, or it would not see one case in them below.
    if !frame.has(ETHERNET_LEN + IPV4_LEN) {
        return Verdict::Foreign;
    }
    let Some([type_0, type_1]) = frame.read(ETHERNET_LEN - 2) else { return Verdict::Foreign };
    let header = match u16::from_be_bytes([type_0, type_1]) {
        ETHERTYPE_IPV4 => ipv4(frame),
        ETHERTYPE_IPV6 => ipv6(frame),
        _ => None,
    };
    // Behind the black box, the two families are one case to the compiler and, since offsets of one byte are
    // not followed through memory, to the kernel's verifier: half the code, and half the states to explore.
    header
        .and_then(|header| judge_payload(frame, ifindex, tables, blocks, black_box(&header)))
        .unwrap_or(Verdict::Foreign)
}

/// What the checks need of the IP header before an advert. Addresses stay in the frame until they are
/// needed: the kernel program has 512 bytes of stack.
struct IpHeader {
    family: Family,
    /// Where the source address stands in the frame.
    source_at: u8,
    /// Whether the source can be a host's address.
    is_host: bool,
    ttl: u8,
    /// Where the payload begins in the frame.
    at: u8,
    /// Length of the payload, as the IP header says.
    len: u16,
}

/// Reads an IPv4 header; `None` if its payload is not CARP's business.
#[inline(always)]
fn ipv4<F: Frame + ?Sized>(frame: &F) -> Option<IpHeader> {
    const SOURCE_AT: usize = ETHERNET_LEN + 12;
    // Most frames on a busy interface end here.
    let [ttl, protocol] = frame.read(ETHERNET_LEN + 8)?;
    if protocol != PROTOCOL {
        return None;
    }
    let [version_ihl, _, len_0, len_1, _, _, fragment_0, fragment_1] = frame.read(ETHERNET_LEN)?;
    let is_fragment = u16::from_be_bytes([fragment_0, fragment_1]) & 0x3fff != 0;
    if version_ihl != 0x45 || is_fragment {
        return None;
    }
    let [net] = frame.read(SOURCE_AT)?;
    Some(IpHeader {
        family: Family::V4,
        source_at: SOURCE_AT as u8,
        is_host: can_be_host(net),
        ttl,
        at: (ETHERNET_LEN + IPV4_LEN) as u8,
        len: u16::from_be_bytes([len_0, len_1]).saturating_sub(IPV4_LEN as u16),
    })
}

/// Reads an IPv6 header; `None` if its payload is not CARP's business.
#[inline(always)]
fn ipv6<F: Frame + ?Sized>(frame: &F) -> Option<IpHeader> {
    const SOURCE_AT: usize = ETHERNET_LEN + 8;
    let [next_header, hop_limit] = frame.read(ETHERNET_LEN + 6)?;
    if next_header != PROTOCOL {
        return None;
    }
    let [version, _, _, _, len_0, len_1] = frame.read(ETHERNET_LEN)?;
    let [net] = frame.read(SOURCE_AT)?;
    if version >> 4 != 6 {
        return None;
    }
    Some(IpHeader {
        family: Family::V6,
        source_at: SOURCE_AT as u8,
        // :: and ::1 are no host's, nor is a group; the rest of ::/8 is in no use.
        is_host: !matches!(net, 0 | 0xff),
        ttl: hop_limit,
        at: (ETHERNET_LEN + IPV6_LEN) as u8,
        len: u16::from_be_bytes([len_0, len_1]),
    })
}

/// Judges the payload of protocol 112; `None` if the frame is shorter than its headers.
#[inline(always)]
fn judge_payload<'b, F: Frame + ?Sized, T: Tables>(
    frame: &F,
    ifindex: u32,
    tables: &T,
    blocks: impl FnOnce() -> Option<&'b mut Blocks>,
    ip: &IpHeader,
) -> Option<Verdict> {
    let payload = frame.skip(ip.at.into());
    let not_ours = |row, vhid| Some(Verdict::Other(row, refused(frame, ip, vhid)?));
    // What the kernel's verifier goes by; it does not follow a length that comes from a header, and without
    // the black box the compiler would infer this comparison from the next.
    if !payload.has(ADVERT_LEN) {
        return not_ours(0, 0);
    }
    let len = usize::from(black_box(ip.len));
    if len < ADVERT_LEN || !payload.has(len) {
        return not_ours(0, 0);
    }
    let [version_type, vhid, advskew, authlen, demote, advbase] = payload.read(0)?;
    if version_type != VERSION_TYPE || authlen != AUTHLEN {
        return not_ours(0, vhid);
    }
    let key = VhostKey::new(ifindex, vhid, ip.family);
    let Some(vhost) = tables.vhost(&key) else { return not_ours(0, vhid) };
    let row = vhost.row();

    let counter = u64::from_be_bytes(payload.read(8)?);
    let reason = if ip.ttl < vhost.min_ttl() {
        Reason::BadTtl
    } else if !has_checksums(frame, ip, &payload)? {
        Reason::BadSum
    } else if !ip.is_host || (vhost.has_peers() && !tables.is_peer(&SourceKey::new(key, source(frame, ip)?))) {
        Reason::BadAddrs
    } else if !has_digest(&payload, vhost, counter, blocks()?)? {
        Reason::BadAuth
    } else {
        let source = source(frame, ip)?;
        if !tables.sent(&key).is_some_and(|sent| sent.is_echo(&source, counter)) {
            let source = SourceKey::new(key, source);
            let advert = Advert { source, mac: frame.read(6)?, counter, advbase, advskew, demote };
            return Some(Verdict::Valid(row, advert));
        }
        Reason::Echo
    };
    if len == ADVERT_LEN { Some(Verdict::Refused(row, reason, refused(frame, ip, vhid)?)) } else { not_ours(row, vhid) }
}

/// Whether the checksums of the advert and of the IPv4 header before it hold. (The stack checks the latter
/// too, but only after XDP.)
#[inline(always)]
fn has_checksums<F: Frame + ?Sized>(frame: &F, ip: &IpHeader, payload: &impl Frame) -> Option<bool> {
    let header = match ip.family {
        Family::V4 => checksum::internet(&frame.read::<IPV4_LEN>(ETHERNET_LEN)?),
        Family::V6 => 0,
    };
    Some(header == 0 && checksum::internet(&payload.read::<ADVERT_LEN>(0)?) == 0)
}

/// Whether the digest of an advert is one of the virtual host's. In constant time: how much of a wrong digest is right
/// must not show.
#[inline(always)]
fn has_digest(payload: &impl Frame, vhost: &Vhost, counter: u64, blocks: &mut Blocks) -> Option<bool> {
    for place in 0..MAX_DIGESTS {
        let Some(key) = vhost.key(place) else { break };
        let expected = key.digest(counter, blocks);
        let heard = [payload.read(16)?, payload.read(20)?, payload.read(24)?, payload.read(28)?, payload.read(32)?];
        let mut difference = 0;
        for (heard, expected) in heard.into_iter().zip(expected) {
            difference |= u32::from_be_bytes(heard) ^ expected;
        }
        if difference == 0 {
            return Some(true);
        }
    }
    Some(false)
}

#[inline(always)]
fn source<F: Frame + ?Sized>(frame: &F, ip: &IpHeader) -> Option<[u8; 16]> {
    match ip.family {
        Family::V4 => frame.read(ip.source_at.into()).map(mapped),
        Family::V6 => frame.read(ip.source_at.into()),
    }
}

#[inline(always)]
fn refused<F: Frame + ?Sized>(frame: &F, ip: &IpHeader, vhid: u8) -> Option<Refused> {
    Some(Refused::new(source(frame, ip)?, frame.read(6)?, vhid, ip.family))
}

#[cfg(test)]
pub(crate) mod tests;
