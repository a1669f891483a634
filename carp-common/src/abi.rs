//! What the kernel program and the agent share: map keys, map values and the event.
//!
//! Every struct is `repr(C)` of integers and byte arrays without padding, its size asserted here, so that
//! both sides and `bpftool map dump` see the same bytes. Addresses are 16 bytes in network order, an IPv4
//! address in its IPv4-mapped form.

mod heard;
mod held;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zeroize::Zeroize;

pub use self::{
    heard::{Heard, LastHeard},
    held::{AddressKey, Deadline, ENDING_WORDS, Held, MAX_VIPS, ending_bit},
};
use crate::{
    digest::DigestKey,
    reason::Reason,
    seal::{Apart, SealKey, Sequence},
    wire::{BOW_OUT, TTL},
};

/// Version of what is shared here. An agent goes on with the maps that another has left if they are of its own version: to
/// be raised whenever the layout of a map, the meaning of a value in one, or the name of one changes.
pub const ABI: u32 = 4;
/// Most virtual hosts that one program serves.
pub const MAX_VHOSTS: u32 = 1024;
/// Most keys of virtual hosts: one for each family.
pub const MAX_KEYS: u32 = 2 * MAX_VHOSTS;
/// Most sources of valid adverts that are remembered, four to a virtual host; beyond it the longest unheard are forgotten.
/// The kernel takes half a megabyte for them (128 bytes each), filled or not.
pub const MAX_SOURCES: u32 = 4 * MAX_VHOSTS;
/// Most peers of all virtual hosts together.
pub const MAX_PEERS: u32 = 4 * MAX_VHOSTS;
/// Most seal keys of all virtual hosts together: [`MAX_SEAL_KEYS`] for each of [`MAX_KEYS`].
pub const MAX_SEALS: u32 = MAX_SEAL_KEYS * MAX_KEYS;
/// Most seal keys of one virtual host.
pub const MAX_SEAL_KEYS: u32 = 4;
/// Most sources whose sequences are remembered: four to each key of a virtual host. Memory is taken for those that are there.
pub const MAX_SEQUENCES: u32 = 4 * MAX_KEYS;
/// Size of the event ring in bytes: some 1,000 events.
pub const RING_BYTES: u32 = 64 * 1024;
/// Rows of counters: one a virtual host, and row 0 for protocol 112 that belongs to none.
pub const COUNTER_ROWS: u32 = MAX_VHOSTS + 1;
/// Counters in all.
pub const COUNTERS: u32 = COUNTER_ROWS * Reason::COUNT as u32;

/// Names of the maps, as `bpftool map` lists them.
pub mod map {
    /// [`VhostKey`](super::VhostKey) to [`Vhost`](super::Vhost): what is ours.
    pub const VHOSTS: &str = "CARP_VHOSTS";
    /// [`VhostKey`](super::VhostKey) to [`Sent`](super::Sent): what we sent ourselves.
    pub const SENT: &str = "CARP_SENT";
    /// [`SourceKey`](super::SourceKey) to [`Policy`](super::Policy): who the peers are, of a virtual host that has some.
    pub const PEERS: &str = "CARP_PEERS";
    /// [`SourceKey`](super::SourceKey) to [`LastHeard`](super::LastHeard): the last valid advert of each.
    pub const LAST_HEARD: &str = "CARP_HEARD";
    /// Counter index to count, per CPU; see [`counter_index`](super::counter_index).
    pub const COUNTERS: &str = "CARP_COUNTERS";
    /// Counter index to [`Refused`](super::Refused).
    pub const REFUSED: &str = "CARP_REFUSED";
    /// The ring of [`AdvertEvent`](super::AdvertEvent)s.
    pub const EVENTS: &str = "CARP_EVENTS";
    /// [`AddressKey`](super::AddressKey) to [`Held`](super::Held): the VIPs that this host holds.
    pub const HELD: &str = "CARP_HELD";
    /// Words of bits, each for two bytes with which a held VIP ends ([`ending_bit`](super::ending_bit)): asked first.
    pub const ENDINGS: &str = "CARP_ENDINGS";
    /// Row to the [`Deadline`](super::Deadline) of its mastership lease.
    pub const LEASES: &str = "CARP_LEASES";
    /// [`SealId`](super::SealId) to [`SealKey`](crate::seal::SealKey): with what adverts may be sealed.
    pub const SEALS: &str = "CARP_SEALS";
    /// [`SourceKey`](super::SourceKey) to [`Sequence`](crate::seal::Sequence): the last good one of each.
    pub const SEQUENCES: &str = "CARP_SEQUENCES";
    /// [`SourceKey`](super::SourceKey) to [`Apart`](crate::seal::Apart): whose clocks are set to another time.
    pub const APART: &str = "CARP_APART";
    /// Row to the largest counter of its sealed adverts, own ones too.
    pub const NEWEST: &str = "CARP_NEWEST";
    /// One value: by how many nanoseconds CLOCK_REALTIME is ahead of CLOCK_BOOTTIME.
    pub const WALL: &str = "CARP_WALL";
}

/// Name of the XDP program.
pub const PROGRAM: &str = "carp_advert";
/// Name of the program that looks at what leaves, a tc classifier.
pub const EGRESS_PROGRAM: &str = "carp_egress";

/// Place of a reason's counter, and of its last refused source, in the row of a virtual host.
#[inline(always)]
#[must_use]
pub const fn counter_index(row: u32, reason: Reason) -> u32 {
    row * Reason::COUNT as u32 + reason.index() as u32
}

/// IPv4 or IPv6: adverts, timers and map entries exist once for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

/// A virtual host as the kernel program looks it up: interface, vhid and family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct VhostKey {
    ifindex: u32,
    vhid: u8,
    family: u8,
    reserved: [u8; 2],
}

impl VhostKey {
    /// The key of `vhid` on the interface with this index.
    #[inline(always)]
    #[must_use]
    pub const fn new(ifindex: u32, vhid: u8, family: Family) -> Self {
        Self { ifindex, vhid, family: family as u8, reserved: [0; 2] }
    }

    /// Index of the interface.
    #[must_use]
    pub const fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Virtual host id.
    #[must_use]
    pub const fn vhid(&self) -> u8 {
        self.vhid
    }

    /// The family; IPv4 unless the byte says IPv6.
    #[must_use]
    pub const fn family(&self) -> Family {
        if self.family == Family::V6 as u8 { Family::V6 } else { Family::V4 }
    }
}

/// One of the seal keys of a virtual host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct SealId {
    vhost: VhostKey,
    key_id: u8,
    reserved: [u8; 3],
}

impl SealId {
    /// The key with this id.
    #[inline(always)]
    #[must_use]
    pub const fn new(vhost: VhostKey, key_id: u8) -> Self {
        Self { vhost, key_id, reserved: [0; 3] }
    }

    /// The virtual host.
    #[must_use]
    pub const fn vhost(&self) -> VhostKey {
        self.vhost
    }
}

/// How a virtual host looks at the seals of its adverts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealCheck {
    /// Not at all.
    Off,
    /// It is reported what is wrong with them.
    Permissive,
    /// Every advert must be sealed.
    Enforce,
}

/// Most digests that a virtual host accepts: each further one costs every forgery as much again.
pub const MAX_DIGESTS: usize = 2;

/// What the kernel program knows of a virtual host.
///
/// Holds key material: no `Debug`.
#[derive(Clone, Copy, Zeroize)]
#[repr(C)]
pub struct Vhost {
    keys: [DigestKey; MAX_DIGESTS],
    row: u32,
    /// How many of the keys there are.
    digests: u8,
    min_ttl: u8,
    /// 1: adverts are taken from peers only.
    has_peers: u8,
    /// 0: seals are not looked at; 1: there may be one; 2: there must.
    seal: u8,
    /// In nanoseconds; 0: whatever is larger than the last one is new enough.
    seal_window: u64,
}

impl Vhost {
    /// A virtual host with its row of counters (1 to [`MAX_VHOSTS`]) and the digest of its adverts, which come with a
    /// TTL of 255, from anybody.
    #[must_use]
    pub const fn new(key: DigestKey, row: u32) -> Self {
        Self { keys: [key; MAX_DIGESTS], row, digests: 1, min_ttl: TTL, has_peers: 0, seal: 0, seal_window: 0 }
    }

    /// Accepts this digest, too.
    #[must_use]
    pub const fn accepting(mut self, other: DigestKey) -> Self {
        self.keys[1] = other;
        self.digests = 2;
        self
    }

    /// Accepts adverts with a TTL or hop limit from this one on: they come through routers.
    #[must_use]
    pub const fn with_min_ttl(mut self, min_ttl: u8) -> Self {
        self.min_ttl = min_ttl;
        self
    }

    /// Accepts adverts from peers only, which stand in [`map::PEERS`].
    #[must_use]
    pub const fn of_peers(mut self) -> Self {
        self.has_peers = 1;
        self
    }

    /// Looks at seals; their sequences may be apart from what is expected by so many nanoseconds, with 0 by any number.
    #[must_use]
    pub const fn sealed(mut self, check: SealCheck, window: u64) -> Self {
        self.seal = match check {
            SealCheck::Off => 0,
            SealCheck::Permissive => 1,
            SealCheck::Enforce => 2,
        };
        self.seal_window = window;
        self
    }

    /// How it looks at seals.
    #[inline(always)]
    #[must_use]
    pub const fn seal(&self) -> SealCheck {
        match self.seal {
            0 => SealCheck::Off,
            1 => SealCheck::Permissive,
            _ => SealCheck::Enforce,
        }
    }

    /// By how many nanoseconds a sequence may be apart from what is expected; 0: by any number.
    #[inline(always)]
    #[must_use]
    pub const fn seal_window(&self) -> u64 {
        self.seal_window
    }

    /// The digest in this place, if there is one.
    #[inline(always)]
    #[must_use]
    pub fn key(&self, place: usize) -> Option<&DigestKey> {
        if place < self.digests as usize { self.keys.get(place) } else { None }
    }

    /// The row of counters.
    #[inline(always)]
    #[must_use]
    pub const fn row(&self) -> u32 {
        self.row
    }

    /// The smallest TTL or hop limit that an advert may have.
    #[inline(always)]
    #[must_use]
    pub const fn min_ttl(&self) -> u8 {
        self.min_ttl
    }

    /// Whether adverts are taken from peers only.
    #[inline(always)]
    #[must_use]
    pub const fn has_peers(&self) -> bool {
        self.has_peers != 0
    }
}

/// What the digest of an advert does not cover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Said {
    /// advbase in seconds.
    pub advbase: u8,
    /// advskew in 1/256 s.
    pub advskew: u8,
    /// Demotion counter.
    pub demote: u8,
}

/// What a peer may say. An advert without a seal can be heard by anybody, changed but for its counter and digest, and sent
/// again: what no peer says anyway need not be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Policy {
    /// The smallest and the largest advbase.
    pub advbase: [u8; 2],
    /// The smallest and the largest advskew.
    pub advskew: [u8; 2],
    /// The largest demotion counter.
    pub demote: u8,
    /// 1: it may say that it leaves.
    pub bow_out: u8,
    /// 0.
    pub reserved: [u8; 2],
}

impl Policy {
    /// Anything.
    pub const ANY: Self = Self { advbase: [0, 255], advskew: [0, 255], demote: 255, bow_out: 1, reserved: [0; 2] };

    /// Whether an advert may say this.
    #[inline(always)]
    #[must_use]
    pub const fn allows(&self, Said { advbase, advskew, demote }: Said) -> bool {
        if demote > self.demote {
            return false;
        }
        if advbase == BOW_OUT && advskew == BOW_OUT {
            return self.bow_out != 0;
        }
        let ([least_base, most_base], [least_skew, most_skew]) = (self.advbase, self.advskew);
        least_base <= advbase && advbase <= most_base && least_skew <= advskew && advskew <= most_skew
    }
}

/// One of the adverts that we sent last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Ours {
    counter: u64,
    said: Said,
    reserved: [u8; 5],
}

/// How many of our adverts are remembered with what they said.
const MAX_OURS: usize = 8;

/// What we sent ourselves: the guard against our own echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Sent {
    source: [u8; 16],
    newest: u64,
    /// The last first. A counter of 0 is none.
    ours: [Ours; MAX_OURS],
}

impl Sent {
    /// Adverts leave from `source`; none will have a counter of `newest` or less any more.
    #[must_use]
    pub const fn new(source: IpAddr, newest: u64) -> Self {
        let none = Ours { counter: 0, said: Said { advbase: 0, advskew: 0, demote: 0 }, reserved: [0; 5] };
        Self { source: address_bytes(source), newest, ours: [none; MAX_OURS] }
    }

    /// The same when one more advert is about to leave.
    #[must_use]
    pub const fn and(mut self, counter: u64, said: Said) -> Self {
        self.ours.rotate_right(1);
        self.ours[0] = Ours { counter, said, reserved: [0; 5] };
        Self { newest: counter, ..self }
    }

    /// The same when none will have a counter of `newest` or less any more.
    #[must_use]
    pub const fn until(self, newest: u64) -> Self {
        Self { newest, ..self }
    }

    /// What they leave from.
    #[must_use]
    pub const fn source(&self) -> IpAddr {
        address(self.source)
    }

    /// The counter that none will have any more, nor a smaller one.
    #[must_use]
    pub const fn newest(&self) -> u64 {
        self.newest
    }

    /// Why an advert with a right digest is refused as one of ours, if it is one: [`Reason::Echo`], or, if it does not say what
    /// we said, [`Reason::Tampered`].
    ///
    /// What comes from our source with a counter that we had is ours, however late: our counters rise, over restarts too. The
    /// source alone does not say so. Nor does a counter up to the newest: peers adopt what they hear and add one; but those of
    /// our last adverts are ours whoever says so.
    #[inline(always)]
    #[must_use]
    pub fn recognise(&self, source: &SourceKey, counter: u64, said: Said) -> Option<Reason> {
        let is_from_us = self.is_from(&source.source);
        for ours in &self.ours {
            if counter != 0 && ours.counter == counter {
                return Some(if is_from_us && ours.said == said { Reason::Echo } else { Reason::Tampered });
            }
        }
        (is_from_us && counter <= self.newest).then_some(Reason::Echo)
    }

    /// Whether adverts of ours leave from this source.
    #[inline(always)]
    #[must_use]
    pub fn is_from(&self, source: &[u8; 16]) -> bool {
        same_address(&self.source, source)
    }
}

/// One source of a virtual host's adverts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct SourceKey {
    vhost: VhostKey,
    source: [u8; 16],
}

impl SourceKey {
    /// The key of this source.
    #[inline(always)]
    #[must_use]
    pub const fn new(vhost: VhostKey, source: [u8; 16]) -> Self {
        Self { vhost, source }
    }

    /// The virtual host.
    #[must_use]
    pub const fn vhost(&self) -> VhostKey {
        self.vhost
    }

    /// The source address.
    #[must_use]
    pub const fn source(&self) -> IpAddr {
        address(self.source)
    }
}

/// A valid advert as the kernel hands it to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AdvertEvent {
    source: SourceKey,
    heard: Heard,
    mac: [u8; 6],
    reserved: [u8; 2],
}

impl AdvertEvent {
    /// The event of an advert that came from `source` with this Ethernet source.
    #[inline(always)]
    #[must_use]
    pub const fn new(source: SourceKey, heard: Heard, mac: [u8; 6]) -> Self {
        Self { source, heard, mac, reserved: [0; 2] }
    }

    /// Which virtual host, and from whom.
    #[must_use]
    pub const fn source(&self) -> SourceKey {
        self.source
    }

    /// What it said and when it arrived.
    #[must_use]
    pub const fn heard(&self) -> Heard {
        self.heard
    }

    /// Its Ethernet source.
    #[must_use]
    pub const fn mac(&self) -> [u8; 6] {
        self.mac
    }
}

/// The last advert that was refused for a reason: where to look for its sender. What XDP drops, tcpdump
/// does not show.
///
/// Written without a lock: under a flood from several senders the two addresses may be of two frames. Aligned
/// so that XDP copies it by words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Refused {
    source: [u8; 16],
    mac: [u8; 6],
    vhid: u8,
    family: u8,
}

impl Refused {
    /// The refused advert's source.
    #[inline(always)]
    #[must_use]
    pub const fn new(source: [u8; 16], mac: [u8; 6], vhid: u8, family: Family) -> Self {
        Self { source, mac, vhid, family: family as u8 }
    }

    /// Its source address; unspecified if nothing was refused.
    #[must_use]
    pub const fn source(&self) -> IpAddr {
        address(self.source)
    }

    /// Its Ethernet source.
    #[must_use]
    pub const fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Its vhid.
    #[must_use]
    pub const fn vhid(&self) -> u8 {
        self.vhid
    }
}

/// A valid advert: what the verdict found in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert {
    /// Which virtual host, and from whom.
    pub source: SourceKey,
    /// Ethernet source.
    pub mac: [u8; 6],
    /// Counter.
    pub counter: u64,
    /// advbase in seconds.
    pub advbase: u8,
    /// advskew in 1/256 s.
    pub advskew: u8,
    /// Demotion counter.
    pub demote: u8,
    /// Which key it is sealed with; 0 if it is not, or nobody has looked.
    pub key_id: u8,
    /// The index of the [`Reason`] for which it is not well sealed, where it need not be; 0 if there is none.
    pub objection: u8,
}

impl Advert {
    /// The interval that the sender announces, in nanoseconds: advbase + advskew/256 s, and 1/256 s where
    /// both are 0 (OpenBSD).
    #[inline(always)]
    #[must_use]
    pub const fn interval_nanos(&self) -> u64 {
        let ticks = self.advbase as u64 * 256 + self.advskew as u64;
        (if ticks == 0 { 1 } else { ticks }) * (1_000_000_000 / 256)
    }
}

/// An address in the ABI's form.
#[must_use]
pub const fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An IPv4 address in the ABI's form, from its bytes on the wire.
#[inline(always)]
#[must_use]
pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = v4;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The address in these bytes.
#[must_use]
pub const fn address(bytes: [u8; 16]) -> IpAddr {
    let v6 = Ipv6Addr::from_octets(bytes);
    match v6.to_ipv4_mapped() {
        Some(v4) => IpAddr::V4(Ipv4Addr::from_octets(v4.octets())),
        None => IpAddr::V6(v6),
    }
}

#[inline(always)]
fn same_address(a: &[u8; 16], b: &[u8; 16]) -> bool {
    u128::from_ne_bytes(*a) == u128::from_ne_bytes(*b)
}

const _: () = {
    assert!(size_of::<VhostKey>() == 8);
    assert!(size_of::<DigestKey>() == 176);
    assert!(size_of::<Vhost>() == 368);
    assert!(size_of::<SealId>() == 12);
    assert!(size_of::<SealKey>() == 64);
    assert!(size_of::<Sequence>() == 24);
    assert!(size_of::<Apart>() == 16);
    assert!(size_of::<Policy>() == 8);
    assert!(size_of::<Sent>() == 152);
    assert!(size_of::<SourceKey>() == 24);
    assert!(size_of::<Heard>() == 24);
    assert!(size_of::<LastHeard>() == 56);
    // Eight bytes short of what an event may take: room for a sequence number.
    assert!(size_of::<AdvertEvent>() == 56);
    assert!(size_of::<Refused>() == 24);
    assert!(size_of::<AddressKey>() == 24);
    assert!(size_of::<Held>() == 16);
};

#[cfg(feature = "aya")]
#[allow(unsafe_code)]
mod pod {
    use super::{
        AddressKey, AdvertEvent, Apart, Held, LastHeard, Policy, Refused, SealId, SealKey, Sent, Sequence, SourceKey,
        Vhost, VhostKey,
    };

    macro_rules! pod {
        ($($name:ident)*) => { $(
            // SAFETY: a repr(C) struct of integers and byte arrays without padding (the sizes above are the
            // sums of the fields), for which every pattern of bits is a valid value.
            unsafe impl aya::Pod for $name {}
        )* };
    }
    pod!(VhostKey Vhost Sent SourceKey LastHeard AdvertEvent Refused AddressKey Held SealId SealKey Sequence Apart Policy);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_survive() {
        for text in ["10.77.0.1", "255.255.255.255", "fe80::1", "::", "ff02::12"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(address(address_bytes(ip)), ip);
        }
        assert_eq!(mapped([10, 0, 0, 1]), address_bytes(IpAddr::from([10, 0, 0, 1])));
    }

    #[test]
    fn an_echo_has_our_source_and_no_counter_that_is_still_to_come() {
        let us = IpAddr::from([10, 0, 0, 1]);
        let sent = Sent::new(us, 100);
        let key = VhostKey::new(3, 7, Family::V4);
        let is_echo = |source: IpAddr, counter| {
            sent.recognise(
                &SourceKey::new(key, address_bytes(source)),
                counter,
                Said { advbase: 1, advskew: 0, demote: 0 },
            )
        };
        assert_eq!(is_echo(us, 100), Some(Reason::Echo));
        assert_eq!(is_echo(us, 1), Some(Reason::Echo), "however old");
        assert_eq!(is_echo(us, 101), None, "never sent");
        assert_eq!(is_echo(IpAddr::from([10, 0, 0, 2]), 100), None, "a peer that adopted our counter");
        assert_eq!(is_echo(IpAddr::from([10, 0, 0, 2]), 0), None, "no counter is none of ours");
    }

    #[test]
    fn of_the_last_few_it_is_known_what_they_said_whoever_sends_them() {
        let key = VhostKey::new(3, 7, Family::V4);
        let [us, other] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(|source| SourceKey::new(key, mapped(source)));
        let said = |advbase, advskew, demote| Said { advbase, advskew, demote };
        let first = 1_000;
        let last = first + 10 * 8;
        let sent = (1..=8).fold(Sent::new([10, 0, 0, 1].into(), first).and(first, said(1, 100, 0)), |sent, number| {
            sent.and(first + 10 * number, said(1, 100, 0))
        });
        for counter in (first + 10..=last).step_by(10) {
            assert_eq!(sent.recognise(&us, counter, said(1, 100, 0)), Some(Reason::Echo));
            assert_eq!(sent.recognise(&other, counter, said(1, 100, 0)), Some(Reason::Tampered));
            for [advbase, advskew, demote] in [[0, 100, 0], [1, 0, 0], [1, 100, 1], [255, 255, 0]] {
                assert_eq!(sent.recognise(&us, counter, said(advbase, advskew, demote)), Some(Reason::Tampered));
            }
            assert_eq!(sent.recognise(&other, counter + 1, said(1, 100, 0)), None, "a peer that adopted it");
        }
        assert_eq!(sent.recognise(&us, first, said(1, 0, 0)), Some(Reason::Echo), "too long ago to know more");
        assert_eq!(sent.recognise(&other, first, said(1, 100, 0)), None);
        assert_eq!(sent.recognise(&us, last + 1, said(1, 100, 0)), None, "never sent");
    }

    #[test]
    fn a_policy_is_a_range_of_each_field_and_its_bounds_are_in_it() {
        let policy = Policy { advbase: [1, 2], advskew: [10, 20], demote: 3, bow_out: 0, reserved: [0; 2] };
        for (advbase, advskew, demote) in [(1, 10, 0), (2, 20, 3), (1, 20, 3)] {
            assert!(policy.allows(Said { advbase, advskew, demote }), "{advbase}/{advskew} {demote}");
        }
        for (advbase, advskew, demote) in [(0, 10, 0), (3, 10, 0), (1, 9, 0), (1, 21, 0), (1, 10, 4), (255, 255, 0)] {
            assert!(!policy.allows(Said { advbase, advskew, demote }), "{advbase}/{advskew} {demote}");
        }
        let leaving = Policy { bow_out: 1, ..policy };
        let allows = |policy: Policy, advbase, advskew, demote| policy.allows(Said { advbase, advskew, demote });
        assert!(allows(leaving, 255, 255, 3) && !allows(leaving, 255, 255, 4) && !allows(leaving, 255, 254, 0));
        assert!(allows(Policy::ANY, 255, 255, 255) && allows(Policy::ANY, 0, 0, 0));
    }
}
