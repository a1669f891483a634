//! A virtual host as the kernel program knows it.

use zeroize::Zeroize;

use crate::{digest::DigestKey, wire::TTL};

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
    /// A virtual host with its row of counters (1 to [`MAX_VHOSTS`](super::MAX_VHOSTS)) and the digest of its adverts, which
    /// come with a TTL of 255, from anybody.
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

    /// Accepts adverts from peers only, which stand in [`map::PEERS`](super::map::PEERS).
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
