//! The verdict on a frame: the same function in the XDP program and in user space.
//!
//! | frame | verdict | counted as |
//! |---|---|---|
//! | not IPv4 or IPv6 protocol 112, a fragment, IPv4 options, 802.1Q tagged | [`Verdict::Foreign`]: pass | - |
//! | payload under 36 bytes, first octet not 0x21, authlen not 7, vhid not configured on this interface | [`Verdict::Other`]: pass | other |
//! | exactly 36 bytes, or sealed ([`seal`]), configured vhid, and bad | [`Verdict::Refused`]: drop | badttl badsum badaddrs unsealed unknownkey replayed flood badauth badseal echo tampered policy stale |
//! | longer than 36 and not sealed, configured vhid, and bad: it may be VRRPv2 | [`Verdict::Other`]: pass | other |
//! | valid, with or without a trailer (BSDs accept one) | [`Verdict::Valid`]: pass, event | ipackets, ipackets6 |
//!
//! Nothing is dropped before its vhid is known to be ours. Lengths come from the IP header, checked against
//! the frame, which may be padded. The order of the checks is that of `carp_proto_input` in the BSDs'
//! `ip_carp.c`: TTL, checksum, source, digest, own echo. What can be told of a seal without its tag comes before the digest, for it costs
//! least, and the tag after it, for it costs most. The verdict passes what tcpdump should still show.
//!
//! While seals are being introduced ([`SealCheck::Permissive`]), what is wrong with one refuses nothing, for an advert without
//! any is taken, too: it is reported with the advert.

use core::hint::black_box;

use crate::{
    abi::{
        Advert, Family, MAX_DIGESTS, Policy, Refused, Said, SealCheck, SealId, Sent, SourceKey, Vhost, VhostKey, mapped,
    },
    checksum,
    digest::Scratch,
    reason::Reason,
    seal::{self, Apart, Clocks, SealKey, Sequence},
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

    /// What this peer may say of a virtual host that has peers, if it is one of them.
    fn peer(&self, source: &SourceKey) -> Option<&Policy>;

    /// What we sent ourselves for this virtual host.
    fn sent(&self, key: &VhostKey) -> Option<&Sent>;

    /// As [`objection`], which the kernel has as a function with a stack of its own.
    fn objection(&self, source: &SourceKey, counter: u64, said: Said, has_peers: bool) -> Option<Reason> {
        objection(source, counter, said, has_peers, self)
    }
}

/// What it has to look up, and to remember, of seals.
pub trait Seals {
    /// A key that adverts may be sealed with.
    fn seal_key(&self, id: &SealId) -> Option<&SealKey>;

    /// The last good sequence of a source.
    fn sequence(&self, source: &SourceKey) -> Option<Sequence>;

    /// Has this be the last good one; `false` if that is not smaller, by now, or there are too many sources already.
    fn advance(&self, source: &SourceKey, next: Sequence) -> bool;

    /// Takes note that a source's clock is apart.
    fn note_apart(&self, source: &SourceKey, apart: Apart);

    /// Whether there is time to look at the tag of an advert with this counter: always, if it is larger than all of this row that
    /// were heard; else as long as there are not too many.
    fn may_look(&self, row: u32, counter: u64) -> bool;

    /// Takes note of a counter that was heard in a good advert.
    fn note_counter(&self, row: u32, counter: u64);

    /// The clocks.
    fn clocks(&self) -> Clocks;

    /// As [`goes_on`], which the kernel has as a function with a stack of its own.
    fn goes_on(&self, source: &SourceKey, row: u32, counter: u64, sequence: u64, window: u64) -> Option<Reason> {
        goes_on(source, row, counter, sequence, window, self)
    }
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

/// Judges a frame that arrived on the interface `ifindex`. `scratch` gives working space for digests.
#[inline(always)]
pub fn judge<'b, F: Frame + ?Sized>(
    frame: &F,
    ifindex: u32,
    tables: &impl Tables,
    seals: &impl Seals,
    scratch: impl FnOnce() -> Option<&'b mut Scratch>,
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
        .and_then(|header| judge_payload(frame, ifindex, tables, seals, scratch, black_box(&header)))
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
fn judge_payload<'b, F: Frame + ?Sized>(
    frame: &F,
    ifindex: u32,
    tables: &impl Tables,
    seals: &impl Seals,
    scratch: impl FnOnce() -> Option<&'b mut Scratch>,
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
    let [version_type, vhid, _, authlen] = payload.read(0)?;
    if version_type != VERSION_TYPE || authlen != AUTHLEN {
        return not_ours(0, vhid);
    }
    let key = VhostKey::new(ifindex, vhid, ip.family);
    let Some(vhost) = tables.vhost(&key) else { return not_ours(0, vhid) };

    let reason = if ip.ttl < vhost.min_ttl() {
        Reason::BadTtl
    } else if !has_checksums(frame, ip, &payload)? {
        Reason::BadSum
    } else if !ip.is_host || (vhost.has_peers() && tables.peer(&SourceKey::new(key, source(frame, ip)?)).is_none()) {
        Reason::BadAddrs
    } else {
        let scratch = scratch()?;
        let mut objection = screen(frame, ip, &payload, len, key, vhost, seals)?;
        match objection {
            Some(reason) if vhost.seal() == SealCheck::Enforce => reason,
            _ if !has_digest(&payload, vhost, scratch)? => Reason::BadAuth,
            _ => {
                // What is known already is read again, and not kept on the stack meanwhile.
                let (again, vhost) = (payload.skip(0), black_box(vhost));
                let is_looked_at = vhost.seal() != SealCheck::Off;
                if is_looked_at && objection.is_none() && !has_tag(frame, ip, &payload, len, key, seals, scratch)? {
                    objection = Some(Reason::BadSeal);
                }
                let [advskew, _, demote, advbase] = again.read(2)?;
                let counter = u64::from_be_bytes(again.read(8)?);
                let source = SourceKey::new(key, source(frame, ip)?);
                let mac = frame.read(6)?;
                let mut advert = Advert { source, mac, counter, advbase, advskew, demote, key_id: 0, objection: 0 };
                let said = Said { advbase, advskew, demote };
                if let (Some(reason), SealCheck::Enforce) = (objection, vhost.seal()) {
                    reason
                } else if let Some(reason) = tables.objection(&advert.source, counter, said, vhost.has_peers()) {
                    reason
                } else {
                    if is_looked_at && objection.is_none() {
                        let sequence = seal::Head::sequence_of(&payload)?;
                        objection = seals.goes_on(&advert.source, vhost.row(), counter, sequence, vhost.seal_window());
                    }
                    match objection {
                        Some(reason) if vhost.seal() == SealCheck::Enforce => reason,
                        Some(reason) => {
                            advert.objection = reason.index() as u8;
                            return Some(Verdict::Valid(vhost.row(), advert));
                        }
                        None => {
                            advert.key_id = if is_looked_at { seal::Head::key_id_of(&again, len)? } else { 0 };
                            return Some(Verdict::Valid(vhost.row(), advert));
                        }
                    }
                }
            }
        }
    };
    let row = black_box(vhost).row();
    if len == ADVERT_LEN || seal::Head::key_id_of(&payload, len).is_some() {
        Some(Verdict::Refused(row, reason, refused(frame, ip, vhid)?))
    } else {
        not_ours(row, vhid)
    }
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
fn has_digest(payload: &impl Frame, vhost: &Vhost, scratch: &mut Scratch) -> Option<bool> {
    // Another frame to the compiler, or it would keep on the stack where each word of it is.
    let payload = payload.skip(0);
    let counter = u64::from_be_bytes(payload.read(8)?);
    for place in 0..MAX_DIGESTS {
        let Some(key) = vhost.key(place) else { break };
        let expected = key.digest(counter, scratch);
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

/// Why an advert of somebody who knows the digest of this counter is refused all the same: it is one of ours, or no peer says
/// that.
#[inline(always)]
pub fn objection(
    source: &SourceKey,
    counter: u64,
    said: Said,
    has_peers: bool,
    tables: &(impl Tables + ?Sized),
) -> Option<Reason> {
    if let Some(reason) = tables.sent(&source.vhost()).and_then(|sent| sent.recognise(source, counter, said)) {
        return Some(reason);
    }
    let is_allowed = !has_peers || tables.peer(source).is_some_and(|policy| policy.allows(said));
    if is_allowed { None } else { Some(Reason::Policy) }
}

/// Takes note of a good seal's sequence, and of the counter; or why the advert is refused: the sequence is not of now, or another
/// copy was faster, on another CPU.
#[inline(always)]
pub fn goes_on(
    source: &SourceKey,
    row: u32,
    counter: u64,
    sequence: u64,
    window: u64,
    seals: &(impl Seals + ?Sized),
) -> Option<Reason> {
    // Also if it is not of now: the digest of this counter is known to whoever has heard it.
    seals.note_counter(row, counter);
    let clocks = seals.clocks();
    match Sequence::after(seals.sequence(source).as_ref(), sequence, counter, window, clocks) {
        None => {
            seals.note_apart(source, Apart::new(sequence, clocks));
            Some(Reason::Stale)
        }
        Some(next) if !seals.advance(source, next) => Some(Reason::Replayed),
        Some(_) => None,
    }
}

/// What is wrong with the seal of an advert, as far as it can be told without its tag, if anybody looks at seals. What costs least is asked
/// first: whether it was heard before, and whether there are too many to look at, of adverts whose counter is a new one neither of
/// their source nor of the virtual host. (A digest that is right can be had from any advert that was heard, so [`has_digest`] does not
/// keep these away from [`has_tag`], which costs most. The counters of a source rise by themselves, however far those of another
/// are ahead: what it says next is always looked at.)
#[inline(always)]
fn screen<F: Frame + ?Sized>(
    frame: &F,
    ip: &IpHeader,
    payload: &impl Frame,
    len: usize,
    key: VhostKey,
    vhost: &Vhost,
    seals: &impl Seals,
) -> Option<Option<Reason>> {
    if vhost.seal() == SealCheck::Off {
        return Some(None);
    }
    let Some(key_id) = seal::Head::key_id_of(payload, len) else { return Some(Some(Reason::Unsealed)) };
    if seals.seal_key(&SealId::new(key, key_id)).is_none() {
        return Some(Some(Reason::UnknownKey));
    }
    let last = seals.sequence(&SourceKey::new(key, source(frame, ip)?));
    if last.is_some_and(|last| seal::Head::sequence_of(payload).is_none_or(|sequence| sequence <= last.last)) {
        return Some(Some(Reason::Replayed));
    }
    let counter = u64::from_be_bytes(payload.skip(0).read(8)?);
    let is_next = last.is_some_and(|last| counter > last.counter);
    Some(if is_next || seals.may_look(vhost.row(), counter) { None } else { Some(Reason::Flood) })
}

/// Whether the tag of a sealed advert is right.
#[inline(always)]
fn has_tag<F: Frame + ?Sized>(
    frame: &F,
    ip: &IpHeader,
    payload: &impl Frame,
    len: usize,
    key: VhostKey,
    seals: &impl Seals,
    scratch: &mut Scratch,
) -> Option<bool> {
    let payload = payload.skip(0);
    let key_id = seal::Head::key_id_of(&payload, len)?;
    let seal_key = seals.seal_key(&SealId::new(key, key_id))?;
    lay_out_addresses(frame, ip, &mut scratch.blocks[0])?;
    seal_key.fits(&payload, scratch)
}

/// Puts both addresses where the tag's message begins. (Word by word: there is too little stack for addresses.)
#[inline(always)]
fn lay_out_addresses<F: Frame + ?Sized>(frame: &F, ip: &IpHeader, block: &mut [u32; 16]) -> Option<()> {
    let word = |at: usize| Some(u32::from_be_bytes(frame.read(usize::from(ip.source_at) + at)?));
    match ip.family {
        Family::V4 => {
            for (to, at) in [(0, 0), (4, 4)] {
                [block[to], block[to + 1], block[to + 2]] = [0, 0, 0xffff];
                block[to + 3] = word(at)?;
            }
        }
        Family::V6 => {
            for (to, at) in block.iter_mut().zip((0..32).step_by(4)) {
                *to = word(at)?;
            }
        }
    }
    Some(())
}

#[inline(always)]
#[expect(unused_assignments, reason = "with it, the compiler takes less stack for the arms")]
fn source<F: Frame + ?Sized>(frame: &F, ip: &IpHeader) -> Option<[u8; 16]> {
    // Another frame to the compiler, or it would read once, and keep the address on the stack meanwhile.
    let frame = frame.skip(0);
    let mut source = [0; 16];
    // In memory after each, or it would be in as many registers as there are bytes after both, and these on the stack.
    match ip.family {
        Family::V4 => {
            source = mapped(frame.read(ip.source_at.into())?);
            black_box(&mut source);
        }
        Family::V6 => {
            source = frame.read(ip.source_at.into())?;
            black_box(&mut source);
        }
    }
    Some(source)
}

#[inline(always)]
fn refused<F: Frame + ?Sized>(frame: &F, ip: &IpHeader, vhid: u8) -> Option<Refused> {
    Some(Refused::new(source(frame, ip)?, frame.read(6)?, vhid, ip.family))
}

#[cfg(test)]
pub(crate) mod tests;
