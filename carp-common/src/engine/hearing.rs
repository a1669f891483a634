//! What an advert of another host means: the table of [`engine`](super), and what several masters at a time have to add to it.

use core::{
    hash::{Hash, Hasher},
    net::IpAddr,
    time::Duration,
};

use super::{Action, Cause, Demotion, Engine, HeardAdvert, State, profile::Standing};
use crate::{abi::Family, time::Time};

/// So many adverts of masters that should yield are answered at once in an interval: when a demoted master is followed by several
/// hosts at a time, each is.
pub(super) const MOST_ANSWERS: u8 = 8;
/// A tie lengthens the next master-down time by less than this (at advbase 0: by less than a quarter of
/// the advert interval).
pub(super) const TIE_SPREAD: Duration = Duration::from_millis(250);
/// A backup sends nothing by which it could learn that it can send again: after so long it takes it for granted.
pub(super) const SEND_ERRORS_LAST: Duration = Duration::from_secs(60);
/// Nor does it add VIPs; and each try is an outage.
const NO_VIPS_LASTS: Duration = Duration::from_secs(600);

/// The masters that were heard last and need no other in their place, by family.
///
/// Where several hosts are MASTER for a moment (several were waiting for a demoted one, a split has healed), the best of them sends
/// the others back. Until it has, who would take over from one of those, and there is always somebody, only adds another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(super) struct Followed([Option<Master>; 2]);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Master {
    source: IpAddr,
    since: Time,
    /// When its next advert has to be there.
    until: Time,
}

impl Followed {
    fn set(&mut self, advert: &HeardAdvert) {
        let HeardAdvert { source, arrival, .. } = *advert;
        let known = self.known(advert).filter(|known| known.source == source);
        let since = known.map_or(arrival, |known| known.since);
        let until = arrival.after(advert.interval() * 3 / 2);
        self.0[place(advert.family)] = Some(Master { source, since, until });
    }

    /// Whether there is another one.
    fn is_another(&self, advert: &HeardAdvert) -> bool {
        self.known(advert).is_some_and(|known| known.source != advert.source)
    }

    /// Whether it is this one that was heard before, at least about an interval ago.
    fn goes_on(&self, advert: &HeardAdvert) -> bool {
        let has_lasted = |known: Master| advert.arrival.since(known.since) >= advert.interval() / 2;
        self.known(advert).is_some_and(|known| known.source == advert.source && has_lasted(known))
    }

    fn known(&self, advert: &HeardAdvert) -> Option<Master> {
        self.0[place(advert.family)].filter(|known| advert.arrival < known.until)
    }
}

const fn place(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

impl Engine {
    pub(super) fn hear_as_backup(&mut self, advert: &HeardAdvert, now: Time) {
        let backup_for = now.since(self.since);
        if backup_for >= SEND_ERRORS_LAST {
            self.demote(now, Demotion::reset_send_errors);
        }
        if backup_for >= NO_VIPS_LASTS {
            self.demote(now, |demotion| demotion.set_no_vips(false));
        }
        let cause = if advert.is_bow_out() {
            Some(Cause::BowOut(advert.source))
        } else if self.hold.is_some_and(|until| now < until) {
            None
        } else {
            self.reason_to_take_over(advert, now)
        };
        match cause {
            Some(_) if self.followed.is_another(advert) => {
                if advert.is_bow_out() {
                    return;
                }
            }
            // This host stood still: what else has come meanwhile is heard first.
            Some(cause) if now.since(advert.arrival) > self.late() => return self.take_over_at(now, cause),
            // An equal that has just tied hears it, too, and does the same: if both did so at once, they would tie again.
            Some(cause) if self.ties > 0 && !advert.is_bow_out() => {
                return self.take_over_at(now.after(self.tie_delay()), cause);
            }
            Some(cause) => return self.take_over(cause, now),
            None => self.followed.set(advert),
        }
        // What its timers wait for then is none of a silence.
        let is_over = cause.is_none() && self.drop_claim();
        // For so long it may be the last word of an equal that yields as well, as a ucarp does within an interval.
        let has_just_tied = self.ties > 0 && advert.arrival.since(self.tied) < self.interval() * 3 / 2;
        if !has_just_tied && self.followed.goes_on(advert) {
            self.ties = 0;
        }
        // If this host has stepped down, this is the first word of its successor.
        let is_first = self.timers.nobody.take().is_some();
        let [mine, peers] = self.standings(advert);
        let may_yield = has_just_tied && !is_first && mine == peers;
        let patience = if may_yield { self.tie_patience() } else { self.dead_time() };
        let alive =
            if self.config.any_family || is_first || is_over { self.config.families } else { &[advert.family][..] };
        for family in alive {
            self.timers.start_master_down(*family, advert.arrival.after(patience));
        }
    }

    fn reason_to_take_over(&mut self, advert: &HeardAdvert, now: Time) -> Option<Cause> {
        let [mine, peers] = self.standings(advert);
        let is_worse = self.config.preempt && mine.rank < peers.rank && mine.demotion <= peers.demotion;
        if is_worse && self.has_waited(now) {
            return Some(Cause::Preempt(*advert));
        }
        if !is_worse {
            // The next one that is worse is waited for anew.
            self.preempt_at = None;
        }
        if mine.demotion < peers.demotion {
            Some(Cause::DemotedMaster(*advert))
        } else if self.config.advbase.get() != 0 && self.dead_time() < peers.rank {
            Some(Cause::SlowMaster(*advert))
        } else {
            None
        }
    }

    /// Whether a worse master, which is heard now, has been borne with for long enough.
    fn has_waited(&mut self, now: Time) -> bool {
        now >= *self.preempt_at.get_or_insert(now.after(self.config.preempt_delay))
    }

    /// What decides between this host and the one that is heard.
    fn standings(&self, advert: &HeardAdvert) -> [Standing; 2] {
        let profile = self.config.profile;
        [Standing::own(profile, self.fields()), Standing::peer(profile, advert)]
    }

    pub(super) fn hear_as_master(&mut self, advert: &HeardAdvert, now: Time) {
        let [mine, peers] = self.standings(advert);
        if advert.is_bow_out() {
            // It leaves: nothing to yield to, but its announcements may have been the last.
            self.announce_to_rival(advert, now);
        } else if mine > peers {
            // A last word: the better master hears that there was another one, stays, and announces.
            self.speak_up(now);
            self.followed.set(advert);
            self.set_state(State::Backup, Cause::BetterMaster(*advert), now);
        } else if mine == peers {
            // Or both would yield.
            self.retract_adverts();
            (self.ties, self.tied) = (self.ties.saturating_add(1), now);
            self.followed.set(advert);
            self.set_state(State::Backup, Cause::EqualMaster(*advert), now);
        } else {
            if let Some(left) = self.answers_left.checked_sub(1) {
                self.answers_left = left;
                // It yields when it hears this one, and not an interval later.
                self.speak_up(now);
            }
            self.announce_to_rival(advert, now);
        }
    }

    /// An advert between two. Not if one is long overdue: then this host was stalled, and may not speak as a master any
    /// more; if it is one still, that advert goes anyway. (That one is due at this very time means nothing: inputs come before
    /// timers.)
    pub(super) fn speak_up(&mut self, now: Time) {
        if self.timers.advert.is_some_and(|due| now < due.after(self.late())) {
            self.send_advert();
        }
    }

    /// Who does something so much later than it was due has been standing still.
    fn late(&self) -> Duration {
        self.interval() / 4
    }

    /// Another master was heard, and this one stays: says where the VIPs are, if they are here, and repeats it, for the
    /// other may announce once more before it hears of us. The administrator is told, too. Once in an interval.
    fn announce_to_rival(&mut self, rival: &HeardAdvert, now: Time) {
        if now >= self.announced_until {
            self.announced_until = now.after(self.interval());
            if self.vips_here {
                self.announce();
                self.actions.push_back(Action::Rival(*rival));
            }
        }
    }

    /// How long an equal may be silent that this host has yielded to: if its next advert does not come, it has yielded as
    /// well. (A ucarp that has yielded would be a master again about a dead time later, and read what it missed only
    /// then: there must be one that it cannot overlook by that time.)
    pub(super) fn tie_patience(&self) -> Duration {
        (self.interval() * 2).min(self.dead_time()) + self.tie_delay()
    }

    /// What differs from host to host, and from one tie
    /// to the next, in case two hosts come out too close together.
    pub(super) fn tie_delay(&self) -> Duration {
        let spread = match self.config.advbase.get() {
            0 => self.interval() / 4,
            _ => TIE_SPREAD,
        };
        let mut hasher = Fnv1a::new();
        (self.config.source, self.ties).hash(&mut hasher);
        spread * (hasher.finish() >> 48) as u32 / (1 << 16)
    }
}

/// FNV-1a, mixed so that its upper bits depend on all: a small hash that is the same on every host.
struct Fnv1a(u64);

impl Fnv1a {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv1a {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd)
    }
}
