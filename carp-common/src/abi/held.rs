//! The VIPs that this host holds, and until when: what [`fence`](crate::fence) looks up.

use core::net::IpAddr;

use super::{MAX_VHOSTS, address};

/// Most VIPs that are held at once, of all virtual hosts together.
pub const MAX_VIPS: u32 = 4 * MAX_VHOSTS;

/// Words of the map [`ENDINGS`](super::map::ENDINGS): one bit for each value of two bytes.
pub const ENDING_WORDS: u32 = (1 << 16) / u64::BITS;

/// Where the bit for addresses that end with these two bytes stands: the word, and the bit in it. (In the order of this
/// machine, which is the cheapest.)
#[inline(always)]
#[must_use]
pub const fn ending_bit(last: [u8; 2]) -> (u32, u64) {
    let last = u16::from_ne_bytes(last) as u32;
    (last / u64::BITS, 1 << (last % u64::BITS))
}

/// What a row of the map [`LEASES`](super::map::LEASES) says of the virtual host's VIPs and adverts: until when, in nanoseconds
/// of CLOCK_BOOTTIME. The lowest bit is set if that is about adverts alone, and the VIPs are not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(u64);

impl Deadline {
    /// There is no lease: nothing is fenced.
    pub const NONE: Self = Self(0);
    /// The lease was cut: over since the machine started, for adverts too.
    pub const CUT: Self = Self(ADVERTS_ONLY);

    /// The VIPs are served until then, and adverts may leave. (A time that is as good as 0 has been over since the machine
    /// started.)
    #[must_use]
    pub const fn serving(until: u64) -> Self {
        match until & !ADVERTS_ONLY {
            0 => Self::CUT,
            until => Self(until),
        }
    }

    /// Adverts may leave until then, and the VIPs are not served: a host would like to be master.
    #[must_use]
    pub const fn claiming(until: u64) -> Self {
        Self(until | ADVERTS_ONLY)
    }

    /// As the map has it.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// For the map.
    #[must_use]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// Until when the VIPs are served, if there is a lease and it was not cut.
    #[must_use]
    pub const fn served_until(self) -> Option<u64> {
        if self.0 == 0 || self.0 & ADVERTS_ONLY != 0 { None } else { Some(self.0) }
    }

    /// Whether the VIPs are not served any more, or not yet. `now` is read only if it matters.
    #[inline(always)]
    pub fn fences_vips(self, now: impl Fn() -> u64) -> bool {
        self.0 != 0 && (self.0 & ADVERTS_ONLY != 0 || now() >= self.0)
    }

    /// Whether adverts may not leave.
    #[inline(always)]
    pub fn fences_adverts(self, now: impl Fn() -> u64) -> bool {
        self.0 != 0 && now() >= self.0
    }
}

const ADVERTS_ONLY: u64 = 1;

/// An address on an interface, the one on which the adverts of its virtual host come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct AddressKey {
    ifindex: u32,
    reserved: [u8; 4],
    address: [u8; 16],
}

impl AddressKey {
    /// The key of this address, in the ABI's form, on the interface with this index.
    #[inline(always)]
    #[must_use]
    pub const fn new(ifindex: u32, address: [u8; 16]) -> Self {
        Self { ifindex, reserved: [0; 4], address }
    }

    /// Index of the interface.
    #[must_use]
    pub const fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// The address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        address(self.address)
    }

    /// The last two bytes of the address.
    #[must_use]
    pub const fn ending(&self) -> [u8; 2] {
        let [.., a, b] = self.address;
        [a, b]
    }
}

/// Whose a held VIP is, and at which Ethernet addresses this host has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Held {
    row: u32,
    macs: [[u8; 6]; 2],
}

impl Held {
    /// A VIP of the virtual host with this row, at the interface's own MAC and at the virtual one.
    #[must_use]
    pub const fn new(row: u32, macs: [[u8; 6]; 2]) -> Self {
        Self { row, macs }
    }

    /// The row of the virtual host's lease and counters.
    #[inline(always)]
    #[must_use]
    pub const fn row(&self) -> u32 {
        self.row
    }

    /// Whether a frame to or from this Ethernet address is this host's, and not that of a guest behind the interface.
    #[inline(always)]
    #[must_use]
    pub fn has(&self, mac: [u8; 6]) -> bool {
        self.macs[0] == mac || self.macs[1] == mac
    }
}
