//! Sources of every kind, alive and dead, with and without a flood of what they have sent.

use super::*;
use crate::abi::{Family, SourceKey, VhostKey, mapped};

const MILLISECOND: u64 = 1_000_000;
const INTERVAL: u64 = 1500 * MILLISECOND;
/// As often as makes no difference.
const FLOOD: u64 = MILLISECOND;

fn advert(counter: u64) -> Advert {
    let source = SourceKey::new(VhostKey::new(1, 1, Family::V4), mapped([10, 0, 0, 1]));
    Advert { source, mac: [0; 6], counter, advbase: 1, advskew: 128, demote: 0, key_id: 0, objection: 0 }
}

/// Who hears a source, and when.
#[derive(Default)]
struct Listener {
    last: Option<LastHeard>,
    now: u64,
}

impl Listener {
    /// Of a source with these counters, an interval apart.
    fn of(counters: impl IntoIterator<Item = u64>) -> Self {
        let mut listener = Self { last: None, now: 7 * INTERVAL };
        listener.hear_in_time(counters);
        listener
    }

    fn hear_in_time(&mut self, counters: impl IntoIterator<Item = u64>) {
        for counter in counters {
            self.now += INTERVAL;
            assert!(self.counts(&advert(counter)), "{counter} is genuine");
        }
    }

    /// Hears one, and tells whether that woke the agent.
    fn hear(&mut self, advert: &Advert) -> bool {
        let (last, wakes) = LastHeard::hear(self.last.as_ref(), advert, self.now);
        self.last = Some(last);
        wakes
    }

    /// Hears one, and tells whether it puts off the silence.
    fn counts(&mut self, advert: &Advert) -> bool {
        self.hear(advert);
        self.silence() == 0
    }

    fn silence(&self) -> u64 {
        self.now - self.last.unwrap().heard().arrival().as_nanos()
    }

    /// Hears this one again and again for three intervals, and between them a genuine one each interval.
    fn flood(&mut self, replayed: u64, mut genuine: impl FnMut() -> Option<u64>) {
        let end = self.now + 3 * INTERVAL;
        let mut due = self.now + INTERVAL / 3;
        while self.now < end {
            self.now += FLOOD;
            self.hear(&advert(replayed));
            if self.now >= due
                && let Some(counter) = genuine()
            {
                due += INTERVAL;
                assert!(self.counts(&advert(counter)), "{counter} is genuine");
            }
        }
    }
}

#[test]
fn a_repeat_says_the_same_within_the_interval_and_wakes_nobody() {
    let repeated = advert(9);
    let mut listener = Listener::of([9]);
    let first = listener.now;
    for (after, wakes) in [(1, false), (INTERVAL - 1, false), (INTERVAL, true), (2 * INTERVAL - 1, false)] {
        listener.now = first + after;
        assert_eq!(listener.hear(&repeated), wakes, "after {after}");
        assert_eq!(listener.silence(), 0, "the counter may be constant");
    }
    for edited in [
        Advert { counter: 10, ..repeated },
        Advert { advskew: 0, ..repeated },
        Advert { advbase: 0, ..repeated },
        Advert { demote: 1, ..repeated },
    ] {
        let mut listener = Listener::of([9]);
        assert!(listener.hear(&edited), "{edited:?}");
    }
}

#[test]
fn what_nobody_was_told_is_no_repeat() {
    let mut listener = Listener::of([9]);
    listener.last = listener.last.map(|last| last.untold(&advert(9)));
    assert!(listener.hear(&advert(9)));
    assert!(!listener.hear(&advert(9)));
}

#[test]
fn a_flood_of_an_advert_of_a_dead_master_whose_counter_changed_does_not_put_off_its_end() {
    // One from before, the last but one, and the very last.
    for replayed in [1, 4, 5] {
        let mut listener = Listener::of(1..=5);
        let silent_from = listener.now + FLOOD;
        listener.flood(replayed, || None);
        assert!(listener.silence() >= listener.now - silent_from, "{replayed}");
    }
}

#[test]
fn random_counters_change_as_well_as_rising_ones() {
    let mut listener = Listener::of([1 << 60, 3, u64::MAX, 0, 1 << 33]);
    listener.flood(3, || None);
    assert!(listener.silence() >= 3 * INTERVAL - FLOOD);
}

#[test]
fn a_flood_that_runs_when_the_first_advert_is_heard_does_not_put_off_the_end_either() {
    let mut listener = Listener::default();
    let mut counters = 2..=4;
    listener.flood(1, || counters.next());
    listener.flood(1, || None);
    assert!(listener.silence() >= 3 * INTERVAL - FLOOD);
}

#[test]
fn a_flood_that_falters_puts_off_the_end_once() {
    let mut listener = Listener::of(1..=5);
    listener.flood(5, || None);
    listener.now += INTERVAL / 2;
    listener.flood(5, || None);
    assert!(listener.silence() >= 3 * INTERVAL - FLOOD);
}

#[test]
fn every_advert_of_a_live_master_counts_under_a_flood_of_one_of_them() {
    for replayed in [1, 4, 5] {
        let mut counters = 6..;
        Listener::of(1..=5).flood(replayed, || counters.next());
    }
}

#[test]
fn a_constant_counter_counts_under_a_flood_of_its_own_advert() {
    for heard_before in [1, 2, 9] {
        Listener::of([7; 9].into_iter().take(heard_before)).flood(7, || Some(7));
    }
}

#[test]
fn another_constant_counter_after_a_restart_counts_with_and_without_a_flood_of_either() {
    for replayed in [7, 8] {
        let mut listener = Listener::of([7, 7, 7, 8, 8, 8]);
        listener.flood(replayed, || Some(8));
        listener.hear_in_time([8; 9]);
        listener.flood(replayed, || Some(8));
    }
}

#[test]
fn a_restart_to_another_constant_counter_within_a_flood_of_either_counts() {
    for replayed in [7, 8] {
        let mut listener = Listener::of([7; 5]);
        listener.flood(7, || Some(7));
        listener.flood(replayed, || Some(8));
        listener.flood(8, || Some(8));
    }
}

#[test]
fn a_constant_counter_of_a_host_that_has_got_the_address_counts_and_is_soon_known_for_one() {
    let mut listener = Listener::of(1..=99);
    listener.hear_in_time([7; 4]);
    listener.flood(7, || Some(7));
}

#[test]
fn a_live_ucarp_counts_that_answers_a_replay_of_ours_with_one_counter() {
    let mut listener = Listener::of(1..=5);
    listener.hear_in_time([7; 99]);
    listener.hear_in_time(8..=20);
    listener.flood(20, || None);
    assert!(listener.silence() >= 3 * INTERVAL - FLOOD, "its counter changes again");
}

#[test]
fn a_replay_that_another_cpu_saw_a_moment_later_is_one() {
    let mut listener = Listener::of(1..=5);
    assert!(!listener.hear(&advert(5)));
    listener.now -= 1;
    let (last, wakes) = LastHeard::hear(listener.last.as_ref(), &advert(5), listener.now);
    assert!(!wakes);
    assert_eq!(last.heard(), listener.last.unwrap().heard());
}
