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

/// The deadline of a lease that was cut: over since the machine started. (0 is none: such a row is never fenced.)
pub const CUT: u64 = 1;

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
