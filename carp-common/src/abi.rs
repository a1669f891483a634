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
use crate::{digest::DigestKey, reason::Reason, wire::TTL};

/// Version of what is shared here. An agent goes on with the maps that another has left if they are of its own version: to
/// be raised whenever the layout of a map, the meaning of a value in one, or the name of one changes.
pub const ABI: u32 = 2;
/// Most virtual hosts that one program serves.
pub const MAX_VHOSTS: u32 = 1024;
/// Most keys of virtual hosts: one for each family.
pub const MAX_KEYS: u32 = 2 * MAX_VHOSTS;
/// Most sources of valid adverts that are remembered, four to a virtual host; beyond it the longest unheard are forgotten.
/// The kernel takes half a megabyte for them (128 bytes each), filled or not.
pub const MAX_SOURCES: u32 = 4 * MAX_VHOSTS;
/// Most peers of all virtual hosts together.
pub const MAX_PEERS: u32 = 4 * MAX_VHOSTS;
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
    /// [`SourceKey`](super::SourceKey) to nothing: who the peers are, of a virtual host that has some.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    reserved: u8,
}

impl Vhost {
    /// A virtual host with its row of counters (1 to [`MAX_VHOSTS`]) and the digest of its adverts, which come with a
    /// TTL of 255, from anybody.
    #[must_use]
    pub const fn new(key: DigestKey, row: u32) -> Self {
        Self { keys: [key; MAX_DIGESTS], row, digests: 1, min_ttl: TTL, has_peers: 0, reserved: 0 }
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

/// What we sent ourselves: the guard against our own echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Sent {
    source: [u8; 16],
    newest: u64,
}

impl Sent {
    /// Adverts leave from `source`; none will have a counter of `newest` or less any more.
    #[must_use]
    pub const fn new(source: IpAddr, newest: u64) -> Self {
        Self { source: address_bytes(source), newest }
    }

    /// The counter that none will have any more, nor a smaller one.
    #[must_use]
    pub const fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether an advert with this source and counter is one of ours come back, however late: our counters
    /// rise, over restarts too. The source alone does not say so, nor does the counter alone: peers adopt
    /// what they hear and add one.
    #[inline(always)]
    #[must_use]
    pub fn is_echo(&self, source: &[u8; 16], counter: u64) -> bool {
        counter <= self.newest && self.is_from(source)
    }

    /// Whether adverts of ours leave from this source.
    #[inline(always)]
    #[must_use]
    pub fn is_from(&self, source: &[u8; 16]) -> bool {
        same_address(&self.source, source)
    }
}

/// One source of a virtual host's adverts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    assert!(size_of::<Vhost>() == 360);
    assert!(size_of::<Sent>() == 24);
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
    use super::{AddressKey, AdvertEvent, Held, LastHeard, Refused, Sent, SourceKey, Vhost, VhostKey};

    macro_rules! pod {
        ($($name:ident)*) => { $(
            // SAFETY: a repr(C) struct of integers and byte arrays without padding (the sizes above are the
            // sums of the fields), for which every pattern of bits is a valid value.
            unsafe impl aya::Pod for $name {}
        )* };
    }
    pod!(VhostKey Vhost Sent SourceKey LastHeard AdvertEvent Refused AddressKey Held);
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
        assert!(sent.is_echo(&address_bytes(us), 100));
        assert!(sent.is_echo(&address_bytes(us), 1), "however old");
        assert!(!sent.is_echo(&address_bytes(us), 101), "never sent");
        assert!(!sent.is_echo(&mapped([10, 0, 0, 2]), 100), "a peer that adopted our counter");
    }
}
