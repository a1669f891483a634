//! A valid advert: the protocol's table, row by row.
//!
//! T = advbase + advskew/256; mine M, the peer's P; demotion mine Dm, the peer's Dp. A demoted host has
//! Dm 240, the only value that its send errors can give it. With Dm and Dp 0 the rules are those of
//! FreeBSD, NetBSD, DragonFly and (ties apart) ucarp.

use Outcome::{Ignores, Stays, TakesOver, Waits, Yields};
use Reached::{Backup, Init, Master};
use Why::{Better, BowOut, Demoted, Equal, Preempts, Slow};

use super::*;

#[derive(Clone, Copy, Debug)]
enum Reached {
    Init,
    Backup,
    Master,
}

#[derive(Clone, Copy, Debug)]
enum Why {
    BowOut,
    Preempts,
    Demoted,
    Slow,
    Better,
    Equal,
}

impl Why {
    fn cause(self, advert: HeardAdvert) -> Cause {
        match self {
            BowOut => Cause::BowOut(advert.source),
            Preempts => Cause::Preempt(advert),
            Demoted => Cause::DemotedMaster(advert),
            Slow => Cause::SlowMaster(advert),
            Better => Cause::BetterMaster(advert),
            Equal => Cause::EqualMaster(advert),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// Nothing happens.
    Ignores,
    /// BACKUP: the master-down timer starts again.
    Waits,
    /// BACKUP becomes MASTER.
    TakesOver(Why),
    /// MASTER becomes BACKUP.
    Yields(Why),
    /// MASTER remains, and announces again.
    Stays,
}

/// advbase, advskew, demotion counter.
type Fields = (u8, u8, u8);

const P: bool = true;
const NO: bool = false;

/// State, mine, preempt, the peer's, what happens.
#[rustfmt::skip]
const ROWS: &[(Reached, Fields, bool, Fields, Outcome)] = &[
    // INIT: ignored, whatever it says.
    (Init, (1, 100, 0), P, (1, 0, 0), Ignores),
    (Init, (1, 100, 0), P, (1, 101, 0), Ignores),
    (Init, (1, 100, 0), P, (1, 100, 255), Ignores),
    (Init, (1, 100, 0), P, (255, 255, 0), Ignores),

    // MASTER, M >= P and Dp = Dm: yields.
    (Master, (1, 100, 0), NO, (1, 99, 0), Yields(Better)),
    (Master, (1, 100, 0), NO, (1, 0, 0), Yields(Better)),
    (Master, (1, 100, 0), NO, (0, 255, 0), Yields(Better)),
    (Master, (1, 100, 0), NO, (0, 0, 0), Yields(Better)),
    (Master, (2, 0, 0), NO, (1, 255, 0), Yields(Better)),
    (Master, (255, 254, 0), NO, (255, 253, 0), Yields(Better)),
    (Master, (1, 100, 0), NO, (1, 100, 0), Yields(Equal)),
    (Master, (1, 0, 0), NO, (1, 0, 0), Yields(Equal)),
    (Master, (255, 254, 0), NO, (255, 254, 0), Yields(Equal)),
    // Preemption is a backup's business.
    (Master, (1, 100, 0), P, (1, 99, 0), Yields(Better)),
    (Master, (1, 100, 0), P, (1, 100, 0), Yields(Equal)),
    // MASTER, M < P and Dp = Dm: stays.
    (Master, (1, 100, 0), NO, (1, 101, 0), Stays),
    (Master, (1, 100, 0), P, (1, 101, 0), Stays),
    (Master, (1, 254, 0), NO, (2, 0, 0), Stays),
    (Master, (1, 100, 0), NO, (254, 0, 0), Stays),
    (Master, (1, 100, 0), NO, (255, 255, 0), Stays),
    (Master, (255, 254, 0), NO, (255, 255, 0), Stays),
    // MASTER, Dp > Dm: stays, however fast the peer.
    (Master, (1, 100, 0), NO, (1, 99, 1), Stays),
    (Master, (1, 100, 0), NO, (1, 0, 255), Stays),
    (Master, (1, 100, 0), NO, (1, 100, 1), Stays),
    (Master, (1, 100, 240), NO, (1, 0, 241), Stays),
    (Master, (1, 100, 240), NO, (1, 100, 241), Stays),
    // MASTER, Dp < Dm: yields, however slow the peer.
    (Master, (1, 100, 240), NO, (1, 101, 239), Yields(Better)),
    (Master, (1, 100, 240), P, (1, 101, 0), Yields(Better)),
    (Master, (1, 100, 240), NO, (200, 0, 0), Yields(Better)),
    (Master, (1, 100, 240), NO, (1, 100, 0), Yields(Better)),
    (Master, (1, 100, 240), NO, (1, 0, 0), Yields(Better)),
    // MASTER, both demoted alike: T decides.
    (Master, (1, 100, 240), NO, (1, 99, 240), Yields(Better)),
    (Master, (1, 100, 240), NO, (1, 100, 240), Yields(Equal)),
    (Master, (1, 100, 240), NO, (1, 101, 240), Stays),
    (Master, (1, 100, 240), NO, (255, 255, 240), Stays),
    // MASTER at advbase 0 (OpenBSD).
    (Master, (0, 5, 0), NO, (0, 4, 0), Yields(Better)),
    (Master, (0, 5, 0), NO, (0, 5, 0), Yields(Equal)),
    (Master, (0, 5, 0), NO, (0, 6, 0), Stays),
    (Master, (0, 5, 0), NO, (1, 0, 0), Stays),
    (Master, (0, 5, 0), NO, (255, 255, 0), Stays),
    (Master, (0, 0, 0), NO, (0, 0, 0), Yields(Equal)),
    (Master, (86, 0, 0), NO, (255, 255, 0), Stays),

    // BACKUP, nothing against the master: waits.
    (Backup, (1, 100, 0), NO, (1, 0, 0), Waits),
    (Backup, (1, 100, 0), NO, (1, 100, 0), Waits),
    (Backup, (1, 100, 0), NO, (1, 101, 0), Waits),
    (Backup, (1, 100, 0), NO, (2, 0, 0), Waits),
    (Backup, (1, 100, 0), NO, (0, 0, 0), Waits),
    (Backup, (1, 100, 0), NO, (0, 255, 0), Waits),
    (Backup, (1, 100, 0), P, (1, 99, 0), Waits),
    (Backup, (1, 100, 0), P, (1, 100, 0), Waits),
    // BACKUP, rule 1: preempt, M < P and Dp >= Dm.
    (Backup, (1, 100, 0), P, (1, 101, 0), TakesOver(Preempts)),
    (Backup, (1, 100, 0), P, (2, 0, 0), TakesOver(Preempts)),
    (Backup, (1, 100, 0), P, (1, 101, 1), TakesOver(Preempts)),
    (Backup, (1, 100, 240), P, (1, 101, 240), TakesOver(Preempts)),
    (Backup, (1, 100, 240), P, (1, 101, 239), Waits),
    (Backup, (1, 100, 240), P, (1, 101, 0), Waits),
    (Backup, (1, 100, 240), P, (1, 100, 240), Waits),
    // BACKUP, rule 2: Dp > Dm, even without preempt.
    (Backup, (1, 100, 0), NO, (1, 0, 1), TakesOver(Demoted)),
    (Backup, (1, 100, 0), NO, (1, 100, 255), TakesOver(Demoted)),
    (Backup, (1, 100, 0), P, (1, 0, 1), TakesOver(Demoted)),
    (Backup, (1, 100, 240), NO, (1, 0, 241), TakesOver(Demoted)),
    (Backup, (1, 100, 240), NO, (1, 0, 240), Waits),
    // BACKUP, rule 3: the master is slower than our dead time, 3.39 s.
    (Backup, (1, 100, 0), NO, (3, 100, 0), Waits),
    (Backup, (1, 100, 0), NO, (3, 101, 0), TakesOver(Slow)),
    (Backup, (1, 100, 0), NO, (4, 0, 0), TakesOver(Slow)),
    (Backup, (1, 100, 240), P, (4, 0, 0), TakesOver(Slow)),
    (Backup, (85, 0, 0), NO, (255, 0, 0), Waits),
    (Backup, (85, 0, 0), NO, (255, 1, 0), TakesOver(Slow)),
    (Backup, (86, 0, 0), NO, (255, 254, 0), Waits),
    // Rule 3 only if advbase is not 0; the others hold there too.
    (Backup, (0, 10, 0), NO, (4, 0, 0), Waits),
    (Backup, (0, 10, 0), NO, (255, 254, 0), Waits),
    (Backup, (0, 10, 0), P, (0, 10, 0), Waits),
    (Backup, (0, 10, 0), P, (0, 11, 0), TakesOver(Preempts)),
    (Backup, (0, 10, 0), NO, (0, 9, 1), TakesOver(Demoted)),
    (Backup, (0, 0, 0), P, (0, 0, 0), Waits),
    // BACKUP, bow-out: whatever the own advbase, preemption or demotion.
    (Backup, (1, 100, 0), NO, (255, 255, 0), TakesOver(BowOut)),
    (Backup, (1, 100, 0), P, (255, 255, 0), TakesOver(BowOut)),
    (Backup, (1, 100, 0), NO, (255, 255, 7), TakesOver(BowOut)),
    (Backup, (1, 100, 240), NO, (255, 255, 0), TakesOver(BowOut)),
    (Backup, (0, 10, 0), NO, (255, 255, 0), TakesOver(BowOut)),
    (Backup, (0, 0, 0), NO, (255, 255, 0), TakesOver(BowOut)),
    (Backup, (85, 0, 0), NO, (255, 255, 0), TakesOver(BowOut)),
    (Backup, (86, 0, 0), NO, (255, 255, 0), TakesOver(BowOut)),
    (Backup, (255, 254, 0), NO, (255, 255, 0), TakesOver(BowOut)),
];

/// The same in FreeBSD's profile. (A demoted host has advskew 240 in its adverts.)
#[rustfmt::skip]
const ROWS_OF_FREEBSD: &[(Reached, Fields, bool, Fields, Outcome)] = &[
    (Init, (1, 100, 0), P, (1, 101, 0), Ignores),
    // M and P alone count, and the peer's demotion is not looked at.
    (Master, (1, 100, 0), NO, (1, 99, 0), Yields(Better)),
    (Master, (1, 100, 0), NO, (1, 99, 240), Yields(Better)),
    (Master, (1, 100, 0), NO, (1, 100, 240), Yields(Equal)),
    (Master, (1, 100, 0), NO, (1, 101, 0), Stays),
    // MASTER, demoted: M is 1 + 240/256.
    (Master, (1, 100, 240), NO, (1, 100, 0), Yields(Better)),
    (Master, (1, 100, 240), NO, (1, 239, 0), Yields(Better)),
    (Master, (1, 100, 240), NO, (1, 239, 255), Yields(Better)),
    (Master, (1, 100, 240), NO, (1, 240, 0), Yields(Equal)),
    (Master, (1, 100, 240), NO, (1, 241, 0), Stays),
    (Master, (1, 100, 240), NO, (2, 0, 0), Stays),
    (Master, (1, 254, 240), NO, (1, 253, 0), Yields(Better)),
    (Master, (1, 100, 240), NO, (255, 255, 0), Stays),
    // BACKUP: the peer's demotion is part of its skew, or none.
    (Backup, (1, 100, 0), NO, (1, 100, 240), Waits),
    (Backup, (1, 100, 0), NO, (1, 240, 0), Waits),
    (Backup, (1, 100, 0), P, (1, 240, 0), TakesOver(Preempts)),
    (Backup, (1, 100, 0), P, (1, 99, 240), Waits),
    (Backup, (1, 100, 240), P, (1, 101, 0), Waits),
    (Backup, (1, 100, 240), P, (1, 240, 0), Waits),
    (Backup, (1, 100, 240), P, (1, 241, 0), TakesOver(Preempts)),
    // BACKUP, the master is slower than our dead time, 3.39 s.
    (Backup, (1, 100, 240), NO, (3, 100, 0), Waits),
    (Backup, (1, 100, 240), NO, (3, 101, 0), TakesOver(Slow)),
    (Backup, (1, 100, 240), NO, (255, 255, 0), TakesOver(BowOut)),
    (Backup, (1, 100, 240), NO, (255, 255, 240), TakesOver(BowOut)),
    // advbase 0, which FreeBSD refuses.
    (Master, (0, 10, 240), NO, (0, 240, 0), Yields(Equal)),
    (Backup, (0, 10, 240), P, (0, 239, 0), Waits),
    (Backup, (0, 10, 240), P, (0, 241, 0), TakesOver(Preempts)),
];

#[test]
fn every_advert_has_the_effect_that_the_protocol_says() {
    ROWS.iter().for_each(|row| check(Profile::OpenBsd, row));
}

#[test]
fn every_advert_has_the_effect_that_freebsd_says() {
    ROWS_OF_FREEBSD.iter().for_each(|row| check(Profile::FreeBsd, row));
}

fn check(profile: Profile, row: &(Reached, Fields, bool, Fields, Outcome)) {
    let (reached, (advbase, advskew, demote), preempt, peer, outcome) = *row;
    let config = Config { preempt, profile, ..config(advbase, advskew) };
    let mut host = match reached {
        Init => Host::new(config),
        Backup => Host::backup(config),
        Master => Host::master(config),
    }
    .later(A_MOMENT);
    if demote != 0 {
        host = host.demoted();
    }
    let before = host.next();
    let advert = host.hears(peer.0, peer.1, peer.2);
    let actions = host.handle(Input::Advert(advert));

    let (told, demote) = match profile {
        Profile::OpenBsd => (advskew, demote),
        Profile::FreeBsd if demote > 0 => (advskew.max(240), 0),
        Profile::FreeBsd => (advskew, 0),
    };
    let [own, dead] = match (advbase, told) {
        (0, 0) => [skew(1), skew(1) * 3],
        (0, _) => [skew(told.into()), skew(told.into()) * 3],
        // What demotion adds to the skew is not waited for.
        _ => [span(advbase.into(), told.into()), span(3 * u64::from(advbase), advskew.into())],
    };
    let advskew = told;
    let (state, expected, next) = match outcome {
        Ignores => (State::Init, [].into(), None),
        Waits => (State::Backup, [].into(), Some(dead)),
        TakesOver(why) => {
            let transition = host.transition(State::Backup, State::Master, why.cause(advert));
            let expected = std::vec![send(advbase, advskew, demote), Action::TakeVips, transition];
            (State::Master, expected, Some(own))
        }
        Yields(why) => {
            let transition = host.transition(State::Master, State::Backup, why.cause(advert));
            // A last word to a better master, which makes it announce; to an equal it would make both yield.
            let last_word = matches!(why, Better).then(|| send(advbase, advskew, demote));
            let expected = last_word.into_iter().chain([Action::ReleaseVips, transition]).collect();
            (State::Backup, expected, Some(dead))
        }
        Stays => {
            // The other, if it goes on, yields when it hears this one.
            let answer = (!advert.is_bow_out()).then(|| send(advbase, advskew, demote));
            (State::Master, answer.into_iter().chain([Action::Announce, Action::Rival(advert)]).collect(), before)
        }
    };
    assert_eq!(host.state(), state, "{row:?}");
    assert_eq!(actions, expected, "{row:?}");
    if matches!(outcome, Yields(Equal)) {
        // Two intervals, a dead time at most, and less than a quarter second; in proportion at advbase 0.
        let longest = if advbase == 0 { own / 4 } else { Duration::from_millis(250) };
        let longer =
            host.next().unwrap().checked_sub((own * 2).min(dead)).unwrap_or_else(|| panic!("shorter: {row:?}"));
        assert!(longer < longest, "{longer:?} in {row:?}");
    } else {
        assert_eq!(host.next(), next, "{row:?}");
    }
}

#[test]
fn a_higher_dead_ratio_bears_a_slower_master() {
    for (ratio, peer, taken_over) in [(1, (1, 1), true), (2, (2, 0), false), (2, (2, 1), true), (5, (5, 0), false)] {
        let config = Config { dead_ratio: DeadRatio::new(ratio).unwrap(), ..config(1, 0) };
        let mut host = Host::backup(config).later(A_MOMENT);
        let advert = host.hears(peer.0, peer.1, 0);
        host.handle(Input::Advert(advert));
        assert_eq!(host.state() == State::Master, taken_over, "ratio {ratio}, {peer:?}");
    }
}

/// T is advbase + advskew/256, also where both are 0; only the *timer* is 1/256 s there.
#[test]
fn advbase_0_advskew_0_is_preferred_to_advskew_1() {
    let mut slower = Host::master(config(0, 1)).later(A_MOMENT);
    let advert = slower.hears(0, 0, 0);
    slower.handle(Input::Advert(advert));
    assert_eq!(slower.state(), State::Backup, "M > P: yields");

    let mut faster = Host::master(config(0, 0)).later(A_MOMENT);
    let advert = faster.hears(0, 1, 0);
    faster.handle(Input::Advert(advert));
    assert_eq!(faster.state(), State::Master, "M < P: stays");

    let mut backup = Host::backup(preempting(0, 0)).later(A_MOMENT);
    let advert = backup.hears(0, 1, 0);
    backup.handle(Input::Advert(advert));
    assert_eq!(backup.state(), State::Master, "preempt and M < P: takes over");
}
