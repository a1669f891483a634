//! What was heard of a source last, and what a further advert of it is worth.
//!
//! Whoever has seen an advert can send it again, and as often as he likes. If each copy counted, a flood of one
//! would keep a dead master alive. But OpenBSD's counter is constant until it reboots, so its own adverts are all
//! copies of the first, and a master that lives must never be taken for dead. Hence a **replay** is recognised by
//! what is known of its source, and counts for nothing:
//!
//! * the source's counter changes: [`CHANGING`] more new ones were seen than repeats in time. (With ucarp, the
//!   other BSDs and carpd each advert has another one.) New is what is neither of the last two, so that a flood
//!   of an OpenBSD's advert from before its restart, among those from after it, makes no change of itself;
//! * and the advert says exactly what the last one said, less than half its interval after it was last seen.
//!
//! What comes in time is believed, of any source: an OpenBSD may have got the address, and a ucarp, which sends the
//! last counter that it heard plus one, sends the same one again and again while someone replays an advert of
//! *ours* to it. One of these does not undo the knowledge that the counter changes, for a flood may falter.
//!
//! So, under a flood of one captured advert:
//!
//! | its source | |
//! |---|---|
//! | lives, and changes its counter | each genuine advert is new, and counts |
//! | lives, and its counter is constant, for ever or until its restart | every copy counts |
//! | is dead, and changed its counter | the advert counts once if it is not the last one: if the flood has begun later than the death, that is up to one dead time |
//! | is dead, and its counter was constant, or it was not heard with three counters | every copy counts: held while the flood lasts |
//!
//! And that is all that can be told from unsealed adverts. A dead master is held as well by two captured adverts
//! in turn, by one whose fields or source are rewritten each time, or by one that is sent in time, as if it were genuine. And a live
//! ucarp is lost if an advert of ours is replayed to it and its answer to us, both as floods.

use super::Advert;
use crate::{reason::Reason, time::Time};

/// From this score on, a source is one whose counter changes: with 1, an OpenBSD that has just been restarted
/// would be.
const CHANGING: u64 = 2;
/// The highest score: so many repeats in time, less one, and an OpenBSD that has got the address is known for
/// what it is.
const MOST_CHANGES: u64 = 4;

/// What a valid advert said, and when it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Heard {
    arrival: u64,
    counter: u64,
    advbase: u8,
    advskew: u8,
    demote: u8,
    key_id: u8,
    objection: u8,
    reserved: [u8; 3],
}

impl Heard {
    /// When it arrived in the kernel.
    #[must_use]
    pub const fn arrival(&self) -> Time {
        Time::from_nanos(self.arrival)
    }

    /// Its counter.
    #[must_use]
    pub const fn counter(&self) -> u64 {
        self.counter
    }

    /// Its advbase in seconds.
    #[must_use]
    pub const fn advbase(&self) -> u8 {
        self.advbase
    }

    /// Its advskew in 1/256 s.
    #[must_use]
    pub const fn advskew(&self) -> u8 {
        self.advskew
    }

    /// Its demotion counter.
    #[must_use]
    pub const fn demote(&self) -> u8 {
        self.demote
    }

    /// The key that it is sealed with; 0 if it is not, or nobody has looked.
    #[must_use]
    pub const fn key_id(&self) -> u8 {
        self.key_id
    }

    /// Why it is not well sealed, where it need not be.
    #[must_use]
    pub fn objection(&self) -> Option<Reason> {
        Reason::ALL.get(usize::from(self.objection)).copied().filter(|_| self.objection != 0)
    }

    #[inline(always)]
    const fn new(advert: &Advert, arrival: u64) -> Self {
        Self {
            arrival,
            counter: advert.counter,
            advbase: advert.advbase,
            advskew: advert.advskew,
            demote: advert.demote,
            key_id: advert.key_id,
            objection: advert.objection,
            reserved: [0; 3],
        }
    }

    #[inline(always)]
    fn says_the_same_as(&self, other: &Self) -> bool {
        let Self { counter, advbase, advskew, demote, .. } = *other;
        self.counter == counter && self.advbase == advbase && self.advskew == advskew && self.demote == demote
    }
}

/// The last advert of a source that counted: the truth that the agent asks before it believes in a silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LastHeard {
    heard: Heard,
    /// When an advert that said the same last woke the agent.
    notified: u64,
    /// When one that said the same was last seen, replays too.
    seen: u64,
    /// The counter before that of `heard`.
    previous: u64,
    /// How sure it is that the counter changes: one more with each new one, one less with each repeat in time.
    changes: u64,
}

impl LastHeard {
    /// What is remembered of a source when `advert` of it has arrived at `now`, in nanoseconds of CLOCK_BOOTTIME;
    /// and whether to wake the agent, which a repeat does not within the interval that it announces.
    #[inline(always)]
    #[must_use]
    pub fn hear(last: Option<&Self>, advert: &Advert, now: u64) -> (Self, bool) {
        let heard = Heard::new(advert, now);
        let Some(last) = last else {
            return (Self { heard, notified: now, seen: now, previous: advert.counter, changes: 0 }, true);
        };
        let is_same = last.heard.says_the_same_as(&heard);
        // Another CPU may have seen it a moment later than this one.
        let is_in_time = now.saturating_sub(last.seen) >= advert.interval_nanos() / 2;
        if is_same && !is_in_time && last.changes >= CHANGING {
            return (Self { seen: now, ..*last }, false);
        }
        let is_new = advert.counter != last.heard.counter && advert.counter != last.previous;
        let changes = if is_new {
            (last.changes + 1).min(MOST_CHANGES)
        } else if is_same && is_in_time {
            last.changes.saturating_sub(1)
        } else {
            last.changes
        };
        let previous = if advert.counter == last.heard.counter { last.previous } else { last.heard.counter };
        let wakes = !is_same || now.wrapping_sub(last.notified) >= advert.interval_nanos();
        (Self { heard, notified: if wakes { now } else { last.notified }, seen: now, previous, changes }, wakes)
    }

    /// The same if the agent could not be woken: the next one like it is to wake it.
    #[inline(always)]
    #[must_use]
    pub const fn untold(self, advert: &Advert) -> Self {
        Self { notified: self.notified.wrapping_sub(advert.interval_nanos()), ..self }
    }

    /// The advert.
    #[must_use]
    pub const fn heard(&self) -> Heard {
        self.heard
    }
}

#[cfg(test)]
mod tests;
