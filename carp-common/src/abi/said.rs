//! What adverts say that their digest does not cover: what a peer may say, and what we said ourselves.

use core::net::IpAddr;

use super::{SourceKey, address, address_bytes, addresses::same_address};
use crate::{reason::Reason, wire::BOW_OUT};

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

#[cfg(test)]
mod tests {
    use super::{
        super::{Family, VhostKey, mapped},
        *,
    };

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
