//! The two ways in which hosts tell each other that they are demoted. All of a group speak the same.

use core::time::Duration;

use super::{AdvertFields, HeardAdvert, config::rank};

/// What a demotion does to adverts, and to their comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Profile {
    /// The counter travels in a byte of its own, and counts before advbase and advskew.
    #[default]
    OpenBsd,
    /// The counter is added to advskew, which alone counts; the byte is 0, and not looked at.
    FreeBsd,
}

impl Profile {
    /// What demotion makes of advskew at most (`CARP_MAXSKEW`).
    pub const MAX_DEMOTED: u8 = 240;

    /// advskew and demote byte of a host that is set to `advskew`, and demoted by so much.
    pub(super) fn advertised(self, advskew: u8, demotion: u8) -> (u8, u8) {
        match self {
            Self::OpenBsd => (advskew, demotion),
            // One that is set above that (FreeBSD cuts it) stays there: it is the last resort.
            Self::FreeBsd => (advskew.max(advskew.saturating_add(demotion).min(Self::MAX_DEMOTED)), 0),
        }
    }

    /// How two hosts compare.
    pub(super) fn standing(self, demote: u8, advbase: u8, advskew: u8) -> Standing {
        let demotion = match self {
            Self::OpenBsd => demote,
            Self::FreeBsd => 0,
        };
        Standing { demotion, rank: rank(advbase, advskew) }
    }
}

/// What decides between two hosts, the first thing first: the smaller, the more preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    pub(super) demotion: u8,
    pub(super) rank: Duration,
}

impl Standing {
    /// Of the host that advertises this.
    pub(super) fn own(profile: Profile, fields: AdvertFields) -> Self {
        profile.standing(fields.demote, fields.advbase, fields.advskew)
    }

    /// Of the host that has been heard.
    pub(super) fn peer(profile: Profile, advert: &HeardAdvert) -> Self {
        profile.standing(advert.demote, advert.advbase, advert.advskew)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openbsd_has_a_byte_for_it_and_freebsd_adds_it_to_advskew() {
        for (advskew, demotion, openbsd, freebsd) in [
            (0, 0, (0, 0), (0, 0)),
            (100, 0, (100, 0), (100, 0)),
            (100, 1, (100, 1), (101, 0)),
            (100, 140, (100, 140), (240, 0)),
            (100, 141, (100, 141), (240, 0)),
            (0, 255, (0, 255), (240, 0)),
            (254, 0, (254, 0), (254, 0)),
            (254, 240, (254, 240), (254, 0)),
        ] {
            assert_eq!(Profile::OpenBsd.advertised(advskew, demotion), openbsd);
            assert_eq!(Profile::FreeBsd.advertised(advskew, demotion), freebsd);
        }
    }
}
