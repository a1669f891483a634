//! carpd and the models of CARP's other peers with each other: which pairs agree on one master, and how long it takes.
//!
//! Each scenario is played by every pair in several phases, as their clocks and timers may stand to each other, and its
//! outcomes are printed as a table: `cargo test -p carp-tests --test models -- --nocapture`. What the peers' own rules
//! do not give is in the names of the tests.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::ops::RangeInclusive;
use std::time::Duration;

use carp_common::engine::Profile;
use carp_tests::models::{Config, FreeBsd, Lan, OpenBsd, Peer, Ucarp};
use carp_tests::ours::Ours;

/// What a frame takes from one host to another.
const LATENCY: Duration = Duration::from_micros(200);
/// Longer than any pair takes to settle.
const SETTLED: Duration = Duration::from_secs(20);
/// In how many phases a scenario is played.
const PHASES: u64 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    OpenBsd,
    FreeBsd,
    Ucarp,
    Carpd,
}

use Kind::{Carpd as C, FreeBsd as F, OpenBsd as O, Ucarp as U};

/// The first host is the preferred one, where one is; it also has the lower address.
#[rustfmt::skip]
const PAIRS: [[Kind; 2]; 16] = [
    [C, C], [C, O], [C, F], [C, U],
    [O, C], [O, O], [O, F], [O, U],
    [F, C], [F, O], [F, F], [F, U],
    [U, C], [U, O], [U, F], [U, U],
];

/// No time at all: there is no change.
const NEVER: RangeInclusive<f64> = 0.0..=0.0;
/// From one host to the other.
const AT_ONCE: RangeInclusive<f64> = 0.0..=0.001;
/// Until ucarp reads what it has captured.
const WHEN_READ: RangeInclusive<f64> = 0.0..=1.001;
/// A dead time of 3.391 s with up to two of the clock's ticks, less up to an interval since the master's last advert.
const DEAD_TIME: RangeInclusive<f64> = 2.39..=3.41;
/// ucarp's dead time: three of its intervals make 4.170 s, since the last advert was read.
const UCARPS_DEAD_TIME: RangeInclusive<f64> = 3.17..=5.18;

#[test]
fn a_backup_takes_over_when_the_master_crashes() {
    play("the master crashes", |pair| {
        pair.start([0, 100], false);
        pair.settle();
        pair.after(|pair| pair.lan.crash(0))
    })
    .assert(|[_, backup]| (1, dead_time_of(backup)));
}

#[test]
fn a_clean_stop_of_carpd_or_openbsd_is_a_takeover_at_once_and_the_others_leave_without_a_word() {
    play("the master is stopped", |pair| {
        pair.start([0, 100], false);
        pair.settle();
        pair.after(|pair| pair.lan.stop(0))
    })
    .assert(|pair| match pair {
        [C | O, C | O | F] => (1, AT_ONCE),
        [C | O, U] => (1, WHEN_READ),
        [F | U, backup] => (1, dead_time_of(backup)),
    });
}

#[test]
fn a_preferred_host_that_boots_becomes_master_if_it_preempts() {
    play("the preferred host is back and preempts", |pair| {
        pair.start([0, 100], true);
        pair.settle();
        pair.lan.crash(0);
        pair.settle();
        pair.after(Pair::boot_first)
    })
    // With the other's next advert; a ucarp reads it later, and the other one reads the answer later.
    .assert(|pair| {
        let readers = pair.into_iter().filter(|kind| *kind == U).count();
        (0, 0.0..=1.42 + readers as f64)
    });
}

#[test]
fn a_preferred_host_that_boots_stays_a_backup_if_it_does_not_preempt() {
    play("the preferred host is back and does not preempt", |pair| {
        pair.start([0, 100], false);
        pair.settle();
        pair.lan.crash(0);
        pair.settle();
        pair.after(Pair::boot_first)
    })
    .assert(|_| (1, NEVER));
}

#[test]
fn a_host_that_loses_its_carrier_is_missed_and_stays_a_backup_when_it_is_back() {
    play("the master loses its carrier, and has it again", |pair| {
        pair.start([0, 100], false);
        pair.settle();
        pair.after(|pair| {
            pair.lan.cut(0);
            pair.settle();
            pair.lan.mend(0);
        })
    })
    .assert(|[_, backup]| (1, dead_time_of(backup)));
}

#[test]
fn when_a_split_heals_the_preferred_host_remains_master() {
    play("a split heals", |pair| {
        pair.start([0, 100], false);
        pair.settle();
        pair.lan.split(&[1]);
        pair.settle();
        pair.after(|pair| pair.lan.heal())
    })
    // With its next advert.
    .assert(|[_, other]| (0, 0.0..=if other == U { 2.1 } else { 1.1 }));
}

/// Not who: that is a matter of who advertises first. Where a ucarp loses the comparison of addresses to a BSD, it
/// yields with a last advert, to which the BSD yields as well: there is no master then for a whole dead time.
#[test]
fn equals_agree_on_one_master() {
    play("equals start", |pair| {
        pair.start([0, 0], false);
        pair.after(|_| ())
    })
    .assert_one_master(8.0);
    play("a split of equals heals", |pair| {
        pair.start([0, 0], false);
        pair.settle();
        pair.lan.split(&[1]);
        pair.settle();
        pair.after(|pair| pair.lan.heal())
    })
    .assert_one_master(6.0);
}

/// As long as their timers run out within a frame's time of each other: there is no tie-break but who is first.
#[test]
fn equal_bsds_in_lockstep_never_agree() {
    let mut lan = Lan::new(LATENCY);
    for number in [1, 2] {
        lan.add(Box::new(FreeBsd::new(Config::host(number, 0), Duration::ZERO)));
    }
    lan.run_for(Duration::from_secs(100));
    let moments = lan.moments();
    assert!(moments.iter().all(|moment| moment.masters.len() != 1), "{moments:?}");
    assert!(moments.iter().filter(|moment| moment.masters == [0, 1]).count() > 30, "{moments:?}");
}

/// OpenBSD's demotion is a byte that only OpenBSD reads; FreeBSD's and ucarp's is a larger advskew, which takes a
/// backup that preempts. carpd's is that of OpenBSD, and it bows out, which all understand.
#[test]
fn a_demoted_carpd_is_relieved_by_anybody_openbsd_by_it_and_carpd_alone_and_the_others_by_whoever_preempts() {
    for preempt in [false, true] {
        play(if preempt { "the master is demoted, all preempt" } else { "the master is demoted" }, |pair| {
            pair.start([0, 100], preempt);
            pair.settle();
            pair.after(|pair| pair.lan.demote(0, pair.demotion()))
        })
        .assert(|pair| match pair {
            [C, C | O | F] | [O, C | O] => (1, AT_ONCE),
            [C, U] => (1, WHEN_READ),
            [O, F | U] => (0, NEVER),
            _ if !preempt => (0, NEVER),
            [F, C | O | F] => (1, AT_ONCE),
            [F, U] | [U, C | O | F] => (1, WHEN_READ),
            [U, U] => (1, 0.0..=2.002),
        });
    }
}

#[test]
fn a_host_whose_demotion_ends_becomes_master_again_if_it_preempts() {
    play("the demotion of the preferred host ends, all preempt", |pair| {
        pair.start([0, 100], true);
        pair.settle();
        pair.lan.demote(0, pair.demotion());
        pair.settle();
        pair.after(|pair| pair.lan.demote(0, -pair.demotion()))
    })
    .assert(|pair| match pair {
        // They were never relieved.
        [O, F | U] => (0, NEVER),
        _ => (0, 0.0..=3.41),
    });
}

/// By what is tracked, so without a bow-out: in the peer's own profile, by the advert that tells it at once.
#[test]
fn a_tracking_carpd_hands_over_to_the_peers_of_its_profile_at_once_and_takes_back() {
    type Make = fn(Config, Duration) -> Box<dyn Peer>;
    let ours: [Make; 2] = [
        |config, now| Box::new(Ours::tracking(config, Profile::OpenBsd, now)),
        |config, now| Box::new(Ours::tracking(config, Profile::FreeBsd, now)),
    ];
    let [openbsd, freebsd]: [Make; 2] =
        [|config, now| Box::new(OpenBsd::new(config, now)), |config, now| Box::new(FreeBsd::new(config, now))];
    for (what, pair) in [
        ("carpd, OpenBSD", [ours[0], openbsd]),
        ("carpd, carpd", [ours[0], ours[0]]),
        ("carpd, FreeBSD", [ours[1], freebsd]),
        ("FreeBSD, carpd", [freebsd, ours[1]]),
        ("carpd, carpd as FreeBSD", [ours[1], ours[1]]),
    ] {
        for phase in 0..PHASES {
            let mut lan = Lan::new(LATENCY);
            for (number, (make, advskew)) in (1..).zip(pair.into_iter().zip([0, 100])) {
                lan.add(make(Config { preempt: true, ..Config::host(number, advskew) }, Duration::ZERO));
            }
            lan.run_for(SETTLED + Duration::from_millis(67 * phase));
            assert_eq!(lan.masters(), [0], "{what}");
            // advskew 120 is more than 100 just as well.
            lan.demote(0, 120);
            lan.run_for(Duration::from_millis(1));
            assert_eq!(lan.masters(), [1], "{what}, {phase}");
            lan.run_for(SETTLED);
            assert_eq!(lan.masters(), [1], "{what}, {phase}");
            lan.demote(0, -120);
            lan.run_for(Duration::from_millis(1_400));
            assert_eq!(lan.masters(), [0], "{what}, {phase}");
        }
    }
}

fn dead_time_of(backup: Kind) -> RangeInclusive<f64> {
    match backup {
        C | O | F => DEAD_TIME,
        U => UCARPS_DEAD_TIME,
    }
}

/// Two hosts on a segment.
struct Pair {
    kinds: [Kind; 2],
    phase: u64,
    configs: Vec<Config>,
    lan: Lan,
}

/// Who is master in the end, and how long after the event that has been so.
struct Ending {
    masters: Vec<usize>,
    after: Duration,
}

impl Pair {
    /// The second starts up to a second after the first.
    fn start(&mut self, skews: [u8; 2], preempt: bool) {
        for (nth, (kind, advskew)) in self.kinds.into_iter().zip(skews).enumerate() {
            let tick = Duration::from_millis(if kind == O { 10 } else { 1 });
            let seed = (self.phase + 1) * [618_034, 754_878][nth] % 1_000_000;
            self.configs.push(Config { preempt, tick, seed, ..Config::host(nth as u8 + 1, advskew) });
            let peer = self.peer(nth);
            self.lan.add(peer);
            if nth == 0 {
                self.lan.run_for(Duration::from_millis(63 * self.phase));
            }
        }
    }

    fn boot_first(&mut self) {
        let peer = self.peer(0);
        self.lan.boot(0, peer);
    }

    fn peer(&self, nth: usize) -> Box<dyn Peer> {
        let (config, now) = (self.configs[nth].clone(), self.lan.now());
        match self.kinds[nth] {
            Kind::OpenBsd => Box::new(OpenBsd::new(config, now)),
            Kind::FreeBsd => Box::new(FreeBsd::new(config, now)),
            Kind::Ucarp => Box::new(Ucarp::new(config, now)),
            Kind::Carpd => Box::new(Ours::new(config, now)),
        }
    }

    /// By how much the first is demoted, in its own unit.
    fn demotion(&self) -> i32 {
        match self.kinds[0] {
            C | O | U => 1,
            F => 240,
        }
    }

    fn settle(&mut self) {
        self.lan.run_for(SETTLED);
    }

    /// What comes of an event, some time into a second.
    fn after(&mut self, event: impl FnOnce(&mut Self)) -> Ending {
        self.lan.run_for(Duration::from_millis(67 * self.phase));
        let at = self.lan.now();
        event(self);
        self.settle();
        Ending { masters: self.lan.masters(), after: self.lan.unchanged_since().saturating_sub(at) }
    }
}

/// What came of a scenario, for each pair in all phases.
struct Outcomes {
    name: &'static str,
    endings: Vec<([Kind; 2], Vec<Ending>)>,
}

/// Plays a scenario and prints what came of it.
fn play(name: &'static str, scenario: impl Fn(&mut Pair) -> Ending) -> Outcomes {
    let play_once = |kinds, phase| scenario(&mut Pair { kinds, phase, configs: vec![], lan: Lan::new(LATENCY) });
    let endings = PAIRS.map(|kinds| (kinds, (0..PHASES).map(|phase| play_once(kinds, phase)).collect()));
    let outcomes = Outcomes { name, endings: endings.into() };
    println!("{}", outcomes.table());
    outcomes
}

impl Outcomes {
    /// In every phase there is this one master in the end, after as many seconds.
    fn assert(&self, expected: impl Fn([Kind; 2]) -> (usize, RangeInclusive<f64>)) {
        for (kinds, endings) in &self.endings {
            let (master, after) = expected(*kinds);
            for ending in endings {
                assert_eq!(ending.masters, [master], "{kinds:?}: {}", self.table());
                assert!(after.contains(&ending.after.as_secs_f64()), "{kinds:?}, {after:?}: {}", self.table());
            }
        }
    }

    /// In every phase there is one master in the end, after so many seconds at most.
    fn assert_one_master(&self, after: f64) {
        for (kinds, endings) in &self.endings {
            let settles = |ending: &Ending| ending.masters.len() == 1 && ending.after.as_secs_f64() <= after;
            assert!(endings.iter().all(settles), "{kinds:?}: {}", self.table());
        }
    }

    fn table(&self) -> String {
        let mut table = self.name.to_owned();
        for ([first, second], endings) in &self.endings {
            let masters: BTreeSet<_> = endings.iter().map(|ending| &ending.masters).collect();
            let times = || endings.iter().map(|ending| ending.after);
            let (least, most) = (times().min().unwrap_or_default(), times().max().unwrap_or_default());
            // Writing to a String cannot fail.
            let _ = write!(table, "\n  0 {first:7?} 1 {second:7?}  master {masters:?}");
            let _ = write!(table, " after {:.3} to {:.3} s", least.as_secs_f64(), most.as_secs_f64());
        }
        table
    }
}
