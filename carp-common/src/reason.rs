//! Why an advert was counted: one name for the kernel counter, the log and the metric.
//!
//! Names follow the BSDs' `struct carpstats` (`netstat -s -p carp`) where they fit.

use crate::abi::Family;

/// A counter that the kernel program keeps for each virtual host. The value is its place in the counter
/// map, see [`Reason::index`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Reason {
    /// A valid IPv4 advert.
    Ipackets = 0,
    /// A valid IPv6 advert.
    Ipackets6 = 1,
    /// TTL or hop limit is less than `min_ttl`, by default 255: it came through a router.
    BadTtl = 2,
    /// The checksum of the CARP header, or of the IPv4 header before it, is wrong.
    BadSum = 3,
    /// The source address cannot be a host's (unspecified, loopback or multicast), or is that of no peer where there are peers.
    BadAddrs = 4,
    /// The digest is wrong: another passphrase, another set of VIPs, or a forgery.
    BadAuth = 5,
    /// One of our own adverts came back, reflected by a switch or a hypervisor.
    Echo = 6,
    /// Protocol 112 that is not an advert of ours, and therefore left alone: VRRP, another vhid, garbage.
    Other = 7,
    /// Valid, but the same as one that has woken the agent within its interval, or a replay
    /// (`abi::heard`): it woke nobody. Counted beside `Ipackets`.
    Repeat = 8,
    /// Valid, but the event ring was full: the agent finds it in the last-heard map. Counted beside
    /// `Ipackets`.
    RingFull = 9,
    /// A frame to a VIP, or one that asks for it, that arrived after the mastership lease was over ([`fence`](crate::fence)).
    FencedIn = 10,
    /// A frame from a VIP, one that claims it, or an overdue advert of ours, that would have left after the mastership
    /// lease was over.
    FencedOut = 11,
    /// It is not sealed, and has to be.
    Unsealed = 12,
    /// It is sealed with a key that is not known here, and a known one is needed.
    UnknownKey = 13,
    /// The seal is wrong: forged, or altered on its way.
    BadSeal = 14,
    /// Its sequence is not larger than the last one's of its source: it was heard before. (Or its source is new, and
    /// [`MAX_SEQUENCES`](crate::abi::MAX_SEQUENCES) others are known.)
    Replayed = 15,
    /// Its sequence is not of now: it was kept back, or its sender's clock is set to another time.
    Stale = 16,
    /// One of our own last adverts with other fields, or from another source: somebody has changed it.
    Tampered = 17,
    /// A peer says what it may not (`peer_policy`).
    Policy = 18,
    /// Its counter was heard before, and so many such came at once that its seal was not looked at.
    Flood = 19,
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All of them, in the order of their indices.
    pub const ALL: [Self; 20] = [
        Self::Ipackets,
        Self::Ipackets6,
        Self::BadTtl,
        Self::BadSum,
        Self::BadAddrs,
        Self::BadAuth,
        Self::Echo,
        Self::Other,
        Self::Repeat,
        Self::RingFull,
        Self::FencedIn,
        Self::FencedOut,
        Self::Unsealed,
        Self::UnknownKey,
        Self::BadSeal,
        Self::Replayed,
        Self::Stale,
        Self::Tampered,
        Self::Policy,
        Self::Flood,
    ];

    /// What a valid advert of this family is counted as.
    #[inline(always)]
    #[must_use]
    pub const fn received(family: Family) -> Self {
        match family {
            Family::V4 => Self::Ipackets,
            Family::V6 => Self::Ipackets6,
        }
    }

    /// The place within a virtual host's row of counters.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name in the log and in metrics, as in `carpstats`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipackets => "ipackets",
            Self::Ipackets6 => "ipackets6",
            Self::BadTtl => "badttl",
            Self::BadSum => "badsum",
            Self::BadAddrs => "badaddrs",
            Self::BadAuth => "badauth",
            Self::Echo => "echo",
            Self::Other => "other",
            Self::Repeat => "repeat",
            Self::RingFull => "ringfull",
            Self::FencedIn => "fencedin",
            Self::FencedOut => "fencedout",
            Self::Unsealed => "unsealed",
            Self::UnknownKey => "unknownkey",
            Self::BadSeal => "badseal",
            Self::Replayed => "replayed",
            Self::Stale => "stale",
            Self::Tampered => "tampered",
            Self::Policy => "policy",
            Self::Flood => "flood",
        }
    }

    /// Whether an advert is refused for this: only one to a vhid of ours, of exactly an advert's length or a sealed one's. (What the fence
    /// drops is no fault of a peer.)
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        match self {
            Self::BadTtl
            | Self::BadSum
            | Self::BadAddrs
            | Self::BadAuth
            | Self::Echo
            | Self::Unsealed
            | Self::UnknownKey
            | Self::BadSeal
            | Self::Replayed
            | Self::Stale
            | Self::Tampered
            | Self::Policy
            | Self::Flood => true,
            Self::Ipackets
            | Self::Ipackets6
            | Self::Other
            | Self::Repeat
            | Self::RingFull
            | Self::FencedIn
            | Self::FencedOut => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn every_reason_stands_at_its_index() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
    }
}
