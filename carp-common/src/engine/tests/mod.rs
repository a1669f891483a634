//! Tests of the state machine, written from the protocol's rules and not from the engine's code.
//!
//! | file | what it checks |
//! |---|---|
//! | [`adverts`] | the table "a valid advert": configuration, state, advert, what becomes of it |
//! | [`table`] | every state and every input, action by action |
//! | [`timing`] | when timers end: arrival, lateness, families, ties, the hold after stepping down |
//! | [`demotion`] | when a demotion is told, in both profiles, and what it does to timers |
//! | [`lease`] | when a lease begins, is renewed and is over, and how long it is |
//! | [`preempt_delay`] | for how long a worse master is borne with |
//! | [`sequences`] | what takes several inputs: announcements, stops, faults, send errors |
//! | [`several`] | several masters at a time, and what a host makes of it that stood still |
//! | [`properties`] | what holds after any sequence of inputs, as a [`witness`] sees it |
//! | [`simulation`] | two to eight hosts on a network, and all that can befall them: always one master in the end |

mod adverts;
mod demotion;
mod doubt;
mod lease;
mod preempt_delay;
mod properties;
mod sequences;
mod several;
mod simulation;
mod table;
mod timing;
mod witness;

use core::net::IpAddr;
use std::vec::Vec;

use proptest::test_runner::Config as ProptestConfig;

use self::witness::Host;
use super::*;
use crate::abi::Family;
use crate::wire::BOW_OUT;

/// When every test begins: late enough that nothing saturates at zero.
const START: Time = Time::from_nanos(1_000_000_000_000);
/// The own address in tests of one host.
const US: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 1));
/// The peer in tests of one host.
const PEER: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 2));
/// A host that exchanges adverts in both families.
const BOTH: &[Family] = &[Family::V4, Family::V6];
/// How long a state has lasted before a row's input arrives: shorter than any timer.
const A_MOMENT: Duration = Duration::from_millis(1);

/// How properties are tested: a failure prints its smallest case, and leaves no file behind.
fn proptest_config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

/// A configuration with these election fields: IPv4, no preemption, three times advbase.
fn config(advbase: u8, advskew: u8) -> Config {
    Config {
        advbase: Advbase::new(advbase).unwrap(),
        advskew: Advskew::new(advskew).unwrap(),
        dead_ratio: DeadRatio::new(3).unwrap(),
        peer_dead_ratio: DeadRatio::new(3).unwrap(),
        peer_advskew: None,
        preempt: false,
        any_family: false,
        families: &[Family::V4],
        source: US,
        announcements: Announcements::default(),
        bow_out_last: false,
        profile: Profile::OpenBsd,
        preempt_delay: Duration::ZERO,
        doubt: Duration::ZERO,
    }
}

fn announcing(repeat: u8, refresh: u8) -> Config {
    Config { announcements: Announcements { repeat, refresh }, ..config(1, 0) }
}

fn freebsd(config: Config) -> Config {
    Config { profile: Profile::FreeBsd, ..config }
}

fn preempting(advbase: u8, advskew: u8) -> Config {
    Config { preempt: true, ..config(advbase, advskew) }
}

/// advskew in whole microseconds, as the protocol page has it.
const fn skew(advskew: u64) -> Duration {
    Duration::from_micros(advskew * 1_000_000 / 256)
}

/// Seconds and 1/256 seconds.
const fn span(seconds: u64, advskew: u64) -> Duration {
    Duration::from_secs(seconds).saturating_add(skew(advskew))
}

impl Host {
    /// A host that became BACKUP at [`START`].
    fn backup(config: Config) -> Self {
        let mut host = Self::new(config);
        assert_eq!(host.handle(Input::LinkUp).len(), 1);
        assert_eq!(host.state(), State::Backup);
        host
    }

    /// A host that has just become MASTER after a silence, and has its VIPs.
    fn master(config: Config) -> Self {
        let mut host = Self::taking(config);
        assert_eq!(host.handle(Input::VipsTaken), [Action::Announce]);
        host
    }

    /// A host that has just become MASTER and waits for its VIPs.
    fn taking(config: Config) -> Self {
        let mut host = Self::backup(config);
        let actions = host.sleep();
        assert!(actions.contains(&Action::TakeVips));
        assert_eq!(host.state(), State::Master);
        host
    }

    /// Makes send errors demote it.
    fn demoted(mut self) -> Self {
        for _ in 0..3 {
            self.handle(Input::AdvertFailed);
        }
        assert_eq!(self.engine.status().demotion.get(), 240);
        self
    }

    /// Time passes; nobody calls the engine.
    fn later(mut self, span: Duration) -> Self {
        self.now = self.now.after(span);
        self
    }

    /// Goes on to the next timer and lets it run out.
    fn sleep(&mut self) -> Vec<Action> {
        self.now = self.engine.poll_timeout().expect("a timer should run");
        self.handle_timeout()
    }

    /// How long from now until the next timer ends.
    fn next(&self) -> Option<Duration> {
        self.engine.poll_timeout().map(|due| due.since(self.now))
    }

    /// An advert of the peer that arrives now.
    fn hears(&self, advbase: u8, advskew: u8, demote: u8) -> HeardAdvert {
        HeardAdvert { family: Family::V4, source: PEER, advbase, advskew, demote, arrival: self.now }
    }

    /// The action that tells of a change of state now.
    fn transition(&self, from: State, to: State, cause: Cause) -> Action {
        Action::Transition(Transition { from, to, cause, at: self.now })
    }
}

/// The action that sends this advert.
fn send(advbase: u8, advskew: u8, demote: u8) -> Action {
    Action::SendAdvert(AdvertFields { advbase, advskew, demote })
}

/// The last advert of a master that leaves.
fn bow_out(demote: u8) -> Action {
    send(255, 255, demote)
}
