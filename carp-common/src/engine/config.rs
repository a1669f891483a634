//! What an administrator sets for a virtual host. Inside the engine a value is valid.

use core::{net::IpAddr, time::Duration};

use super::{AdvertFields, Profile};
use crate::abi::Family;

/// Defines a newtype over an integer with a documented range.
macro_rules! ranged {
    ($(#[$doc:meta])* $name:ident, $range:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u8);

        impl $name {
            /// The values it may have.
            pub const RANGE: core::ops::RangeInclusive<u8> = $range;

            /// `None` if the value is out of [range](Self::RANGE).
            #[must_use]
            pub fn new(value: u8) -> Option<Self> {
                Self::RANGE.contains(&value).then_some(Self(value))
            }

            /// The value.
            #[must_use]
            pub const fn get(self) -> u8 {
                self.0
            }
        }
    };
}

ranged!(
    /// Virtual host id: which group on this network an advert belongs to.
    Vhid, 1..=255
);
ranged!(
    /// Advertisement base interval in seconds. 0 counts in advskew alone (OpenBSD).
    Advbase, 0..=255
);
ranged!(
    /// Advertisement skew in 1/256 s: the larger, the less preferred. 255 is kept for the bow-out.
    Advskew, 0..=254
);
impl Advskew {
    /// The least preferred: the last resort.
    pub const MAX: Self = Self(254);
}

ranged!(
    /// After how many advertisement bases of silence the master counts as dead (`--deadratio`; 3 in the BSDs).
    DeadRatio, 1..=255
);

/// How often a master says where the VIPs are, beside the first time (keepalived's `garp_master_repeat` and
/// `garp_master_refresh`, but counted in the master's own adverts, so that nothing else needs a timer).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Announcements {
    /// After a takeover, and after another master was heard that did not win: how many times the announcement is
    /// repeated, each time with the second next advert. 0 to 255; 0: not at all.
    pub repeat: u8,
    /// When these are over: with every how manieth advert the announcement is made again. 0 to 255; 0: not at all.
    ///
    /// Not 0 unless asked for: when a split heals, the other master may yield without a word, and its neighbours
    /// go on sending to it until their caches expire. Nothing else would tell them.
    pub refresh: u8,
}

impl Default for Announcements {
    /// Once more, then with every fifth advert.
    fn default() -> Self {
        Self { repeat: 1, refresh: 5 }
    }
}

/// The settings of a virtual host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// Advertisement base interval.
    pub advbase: Advbase,
    /// Advertisement skew.
    pub advskew: Advskew,
    /// How long the master may be silent.
    pub dead_ratio: DeadRatio,
    /// How long a peer lets a master be silent, at the least; for the lease.
    pub peer_dead_ratio: DeadRatio,
    /// The smallest advskew that a peer has, where it is known: at advbase 0 the lease needs it.
    pub peer_advskew: Option<Advskew>,
    /// Whether a backup takes over from a master that advertises less often.
    pub preempt: bool,
    /// The families in which adverts are exchanged: each has its own master-down timer.
    pub families: &'static [Family],
    /// Whether an advert of one family speaks for all: while the VIPs are changed on one host after the other, not every
    /// host sends in every family.
    pub any_family: bool,
    /// The own source address: what tells two equal hosts apart after a tie.
    pub source: IpAddr,
    /// How often a master announces the VIPs again.
    pub announcements: Announcements,
    /// Whether the bow-out waits until the VIPs are gone, whatever the kernel enforces: it does not know what a script adds.
    pub bow_out_last: bool,
    /// What a demotion does.
    pub profile: Profile,
    /// How long a backup that preempts bears with a worse master, from when it hears that first, and from when it
    /// leaves INIT; a dead one is not waited for.
    pub preempt_delay: Duration,
    /// How much longer than a dead time a host that has just started lets others be silent of which it hears that they have
    /// the key, but cannot tell whether that is of now (see [`seal`](crate::seal)).
    pub doubt: Duration,
}

impl Config {
    /// What a host that is demoted by so much advertises.
    pub(super) fn fields(&self, demotion: u8) -> AdvertFields {
        let (advskew, demote) = self.profile.advertised(self.advskew.get(), demotion);
        AdvertFields { advbase: self.advbase.get(), advskew, demote }
    }

    /// The own advertisement interval, demoted by so much.
    pub(super) fn interval(&self, demotion: u8) -> Duration {
        let AdvertFields { advbase, advskew, .. } = self.fields(demotion);
        interval_of(advbase, advskew)
    }

    /// How long a backup that is demoted by so much waits for an advert: `dead_ratio` times advbase, and once the
    /// skew that it is set to; at advbase 0, `dead_ratio` times the interval. (`carp_setrun` in `ip_carp.c`.)
    pub(super) fn dead_time(&self, demotion: u8) -> Duration {
        let ratio = u32::from(self.dead_ratio.get());
        match self.advbase.get() {
            0 => self.interval(demotion) * ratio,
            advbase => Duration::from_secs(u64::from(advbase)) * ratio + skew_time(self.advskew.get()),
        }
    }
}

/// How far such adverts are apart: advbase + advskew/256 s, and 1/256 s where both are 0.
pub(super) fn interval_of(advbase: u8, advskew: u8) -> Duration {
    if (advbase, advskew) == (0, 0) { skew_time(1) } else { rank(advbase, advskew) }
}

/// advbase + advskew/256 s: the smaller, the more preferred. At 0/0 it is smaller than the interval.
pub(super) fn rank(advbase: u8, advskew: u8) -> Duration {
    Duration::from_secs(u64::from(advbase)) + skew_time(advskew)
}

/// advskew in whole microseconds, cut as the BSDs cut it.
fn skew_time(advskew: u8) -> Duration {
    Duration::from_micros(u64::from(advskew) * 1_000_000 / 256)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(advbase: u8, advskew: u8, dead_ratio: u8) -> Config {
        Config {
            advbase: Advbase::new(advbase).unwrap(),
            advskew: Advskew::new(advskew).unwrap(),
            dead_ratio: DeadRatio::new(dead_ratio).unwrap(),
            peer_dead_ratio: DeadRatio::new(dead_ratio).unwrap(),
            peer_advskew: None,
            preempt: false,
            families: &[Family::V4],
            any_family: false,
            source: IpAddr::from([10, 0, 0, 1]),
            announcements: Announcements::default(),
            bow_out_last: false,
            profile: Profile::OpenBsd,
            preempt_delay: Duration::ZERO,
            doubt: Duration::ZERO,
        }
    }

    #[test]
    fn intervals_and_dead_times_are_those_of_the_bsds() {
        for (advbase, advskew, ratio, interval, dead) in [
            (1, 0, 3, 1_000_000, 3_000_000),
            (1, 50, 3, 1_195_312, 3_195_312),
            (1, 100, 3, 1_390_625, 3_390_625),
            (2, 254, 5, 2_992_187, 10_992_187),
            (255, 254, 3, 255_992_187, 765_992_187),
            (0, 5, 3, 19_531, 58_593),
            (0, 10, 3, 39_062, 117_186),
            (0, 0, 3, 3_906, 11_718),
        ] {
            let config = config(advbase, advskew, ratio);
            assert_eq!(config.interval(0).as_micros(), interval, "{advbase}/{advskew}");
            assert_eq!(config.dead_time(0).as_micros(), dead, "{advbase}/{advskew}");
        }
    }

    #[test]
    fn what_freebsd_adds_to_the_skew_is_no_part_of_the_dead_time_but_at_advbase_0() {
        let times = |config: &Config| [config.interval(100), config.dead_time(100)].map(|time| time.as_micros());
        let freebsd = |advbase| Config { profile: Profile::FreeBsd, ..config(advbase, 50, 3) };
        assert_eq!(times(&config(1, 50, 3)), [1_195_312, 3_195_312]);
        assert_eq!(times(&freebsd(1)), [1_585_937, 3_195_312]);
        assert_eq!(times(&freebsd(0)), [585_937, 1_757_811]);
    }

    #[test]
    fn values_out_of_range_do_not_exist() {
        assert!(Vhid::new(0).is_none());
        assert!(Advskew::new(255).is_none());
        assert!(DeadRatio::new(0).is_none());
    }
}
