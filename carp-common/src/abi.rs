//! What the kernel program and the agent share: map keys, map values and the event.
//!
//! Every struct is `repr(C)` of integers and byte arrays without padding, its size asserted here, so that
//! both sides and `bpftool map dump` see the same bytes. Addresses are 16 bytes in network order, an IPv4
//! address in its IPv4-mapped form.

mod addresses;
mod heard;
mod held;
mod said;
mod vhost;

use core::net::IpAddr;

pub use self::{
    addresses::{address, address_bytes, mapped},
    heard::{Heard, LastHeard},
    held::{AddressKey, Deadline, ENDING_WORDS, Held, MAX_VIPS, ending_bit},
    said::{Policy, Said, Sent},
    vhost::{MAX_DIGESTS, SealCheck, Vhost},
};
use crate::{
    digest::DigestKey,
    reason::Reason,
    seal::{Apart, SealKey, Sequence},
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
