//! When timers end: they run from an advert's arrival in the kernel, a late one neither bursts nor shifts
//! those after it, each family has its own, a tie lengthens one master-down time, and stepping down holds.

use std::{collections::BTreeSet, vec};

use super::*;

/// How long an advert lay in the kernel before the agent got round to it.
const LAG: Duration = Duration::from_millis(400);
const DEAD: Duration = span(3, 100);
const OWN: Duration = span(1, 100);
const TIE_SPREAD: Duration = Duration::from_millis(250);

/// The host hears an advert that arrived `lag` ago; returns how long after the *arrival* the next timer ends.
fn hear_late(host: &mut Host, lag: Duration, mut advert: HeardAdvert) -> Duration {
    advert.arrival = host.now;
    host.now = host.now.after(lag);
    host.handle(Input::Advert(advert));
    host.engine.poll_timeout().unwrap().since(advert.arrival)
}

#[test]
fn master_down_runs_from_the_adverts_arrival_and_not_from_when_it_is_told() {
    let mut host = Host::backup(config(1, 100)).later(OWN);
    let advert = host.hears(1, 0, 0);
    assert_eq!(hear_late(&mut host, LAG, advert), DEAD);
}

#[test]
fn master_down_runs_from_the_arrival_of_the_advert_that_was_yielded_to() {
    let mut host = Host::master(config(1, 100)).later(A_MOMENT);
    let advert = host.hears(1, 0, 0);
    assert_eq!(hear_late(&mut host, LAG, advert), DEAD, "a better master");

    let mut host = Host::master(config(1, 100)).later(A_MOMENT);
    let advert = host.hears(1, 100, 0);
    let next = hear_late(&mut host, LAG, advert);
    assert!((OWN * 2..OWN * 2 + TIE_SPREAD).contains(&next), "an equal master: {next:?}");
}

#[test]
fn an_older_advert_told_after_a_newer_one_does_no_harm() {
    let mut host = Host::backup(config(1, 100)).later(OWN);
    let [newer, older] = [host.hears(1, 0, 0), HeardAdvert { arrival: START, ..host.hears(1, 0, 0) }];
    host.handle(Input::Advert(newer));
    host.handle(Input::Advert(older));
    assert_eq!(host.next(), Some(DEAD));
    assert_eq!(host.engine.status().last_arrival, Some(newer.arrival));
}

#[test]
fn an_advert_that_the_kernel_already_has_wins_over_a_late_timer() {
    let mut host = Host::backup(config(1, 100));
    let arrival = START.after(DEAD - A_MOMENT);
    host = host.later(DEAD + LAG);
    let advert = HeardAdvert { arrival, ..host.hears(1, 0, 0) };
    host.handle(Input::Advert(advert));
    assert_eq!(host.handle_timeout(), []);
    assert_eq!(host.state(), State::Backup);
}

#[test]
fn the_cause_of_a_takeover_names_the_silence_since_the_last_advert() {
    let mut host = Host::backup(config(1, 0)).later(Duration::from_secs(2));
    let advert = host.hears(1, 0, 0);
    host.handle(Input::Advert(advert));
    let mut host = host.later(Duration::from_millis(3_005));
    let actions = host.handle_timeout();
    let cause = Cause::MasterDown(Duration::from_millis(3_005));
    assert_eq!(actions.last(), Some(&host.transition(State::Backup, State::Master, cause)));
}

#[test]
fn a_timer_that_is_not_due_does_nothing() {
    for host in [Host::backup(config(1, 0)), Host::master(config(1, 0))] {
        let due = host.engine.poll_timeout().unwrap();
        let mut early = host.clone();
        early.now = Time::from_nanos(due.as_nanos() - 1);
        assert_eq!(early.handle_timeout(), []);
        assert_eq!(early.engine, host.engine);
    }
}

#[test]
fn a_late_advert_timer_does_not_shift_those_after_it() {
    let mut host = Host::master(config(1, 100));
    let first = host.engine.poll_timeout().unwrap();
    for n in 1..=5 {
        host.now = host.engine.poll_timeout().unwrap().after(LAG);
        assert_eq!(host.handle_timeout()[0], send(1, 100, 0));
        assert_eq!(host.engine.poll_timeout(), Some(first.after(OWN * n)));
    }
}

#[test]
fn after_a_stall_one_advert_leaves_and_no_burst() {
    for stall in [OWN, OWN * 8 + LAG] {
        let mut host = Host::master(config(1, 100)).later(OWN + stall);
        assert_eq!(host.handle_timeout(), [send(1, 100, 0)]);
        assert_eq!(host.next(), Some(OWN));
        assert_eq!(host.handle_timeout(), []);
    }
}

#[test]
fn each_familys_adverts_restart_its_own_timer_alone() {
    for heard in BOTH {
        let mut host = Host::backup(Config { families: BOTH, ..config(1, 100) });
        for _ in 0..2 {
            host = host.later(OWN);
            let advert = HeardAdvert { family: *heard, ..host.hears(1, 0, 0) };
            host.handle(Input::Advert(advert));
            assert_eq!(host.engine.poll_timeout(), Some(START.after(DEAD)), "the other one still runs");
        }
        host.sleep();
        assert_eq!(host.state(), State::Master, "only {heard:?} was heard: the other one expired");
    }
}

#[test]
fn while_vips_are_changed_on_one_host_after_the_other_a_master_of_one_family_is_alive_in_all() {
    for heard in BOTH {
        let config = Config { families: BOTH, any_family: true, ..config(1, 100) };
        let mut host = Host::backup(config.clone());
        for _ in 0..4 {
            host = host.later(OWN);
            let advert = HeardAdvert { family: *heard, ..host.hears(1, 0, 0) };
            host.handle(Input::Advert(advert));
            assert_eq!(host.next(), Some(DEAD));
        }
        // It is over: from now on each family's silence counts.
        host.engine.reconfigure(Config { any_family: false, ..config }, host.now);
        for _ in 0..3 {
            host = host.later(OWN);
            let advert = HeardAdvert { family: *heard, ..host.hears(1, 0, 0) };
            host.handle(Input::Advert(advert));
        }
        host.handle_timeout();
        assert_eq!(host.state(), State::Master);
    }
}

#[test]
fn a_host_that_hears_both_families_waits() {
    let mut host = Host::backup(Config { families: BOTH, ..config(1, 100) });
    for _ in 0..4 {
        host = host.later(OWN);
        for family in BOTH {
            let advert = HeardAdvert { family: *family, ..host.hears(1, 0, 0) };
            host.handle(Input::Advert(advert));
        }
        assert_eq!(host.next(), Some(DEAD));
    }
}

/// How much longer than two intervals a host waits after it has yielded to an equal.
fn tie_delay(host: &mut Host) -> Duration {
    let Config { advbase, advskew, .. } = host.engine.config;
    let two = host.engine.interval() * 2;
    let advert = host.hears(advbase.get(), advskew.get(), 0);
    host.handle(Input::Advert(advert));
    host.next().unwrap().checked_sub(two).expect("two intervals at least")
}

#[test]
fn ties_lengthen_by_spans_that_differ_from_host_to_host() {
    let delays: BTreeSet<_> = (1..=254)
        .map(|last| {
            let source = IpAddr::from([192, 168, 178, last]);
            tie_delay(&mut Host::master(Config { source, ..config(1, 0) }).later(A_MOMENT))
        })
        .collect();
    assert!(delays.len() > 250, "{} different ones", delays.len());
    assert!(*delays.last().unwrap() < TIE_SPREAD);
    assert!(*delays.last().unwrap() - *delays.first().unwrap() > TIE_SPREAD * 9 / 10, "they use the whole span");
}

#[test]
fn a_second_tie_lengthens_by_another_span() {
    let mut host = Host::master(config(1, 0)).later(A_MOMENT);
    let mut delays = vec![];
    for _ in 0..4 {
        delays.push(tie_delay(&mut host));
        host.sleep();
        assert_eq!(host.state(), State::Master);
        host = host.later(A_MOMENT);
    }
    assert_eq!(delays.iter().collect::<BTreeSet<_>>().len(), delays.len(), "{delays:?}");
}

#[test]
fn a_tie_below_advbase_1_lengthens_by_less_than_a_quarter_interval() {
    for advskew in [0, 1, 5, 254] {
        let mut host = Host::master(config(0, advskew)).later(Duration::from_micros(100));
        let delay = tie_delay(&mut host);
        assert!(delay < host.engine.interval() / 4, "{advskew}: {delay:?}");
    }
}

/// The first that follows may be its last word, as a ucarp's that yields, too.
#[test]
fn an_equal_that_was_yielded_to_is_a_master_when_it_is_heard_for_the_second_time() {
    let mut host = Host::master(config(1, 0)).later(A_MOMENT);
    let patience = Duration::from_secs(2) + tie_delay(&mut host);
    for next in [patience, Duration::from_secs(3), Duration::from_secs(3)] {
        host = host.later(Duration::from_secs(1));
        let advert = host.hears(1, 0, 0);
        host.handle(Input::Advert(advert));
        assert_eq!(host.next(), Some(next));
    }
}

#[test]
fn an_equal_that_is_heard_an_interval_and_a_half_after_a_tie_has_not_yielded() {
    for (after, has_yielded) in [(1_499_999_999, true), (1_500_000_000, false)] {
        let mut host = Host::master(config(1, 0)).later(A_MOMENT);
        let patience = Duration::from_secs(2) + tie_delay(&mut host);
        let mut host = host.later(Duration::from_nanos(after));
        let advert = host.hears(1, 0, 0);
        host.handle(Input::Advert(advert));
        assert_eq!(host.next(), Some(if has_yielded { patience } else { Duration::from_secs(3) }), "{after}");
    }
}

/// Its lease may be as long as the dead time by then.
#[test]
fn an_equal_that_is_heard_long_after_a_tie_is_a_master() {
    let hears_one = |mut host: Host| {
        let advert = host.hears(1, 0, 0);
        host.handle(Input::Advert(advert));
        host.next()
    };
    let after_tie = || {
        let mut host = Host::master(config(1, 0)).later(A_MOMENT);
        tie_delay(&mut host);
        host
    };
    let mut unplugged = after_tie();
    unplugged.handle(Input::LinkDown(LinkFault::NoCarrier));
    let mut unplugged = unplugged.later(DEAD);
    unplugged.handle(Input::LinkUp);
    let unplugged = unplugged.later(Duration::from_secs(1));
    assert_eq!(hears_one(unplugged), Some(Duration::from_secs(3)));
    let mut stepped_down = after_tie();
    stepped_down.sleep();
    assert_eq!(stepped_down.state(), State::Master);
    let mut stepped_down = stepped_down.later(DEAD);
    stepped_down.handle(Input::StepDown);
    assert_eq!(hears_one(stepped_down), Some(Duration::from_secs(3)));
}

#[test]
fn a_tie_never_makes_the_wait_longer_than_the_dead_time_and_a_quarter_second() {
    let config = Config { dead_ratio: DeadRatio::new(1).unwrap(), ..config(1, 0) };
    let mut host = Host::master(config).later(A_MOMENT);
    let advert = host.hears(1, 0, 0);
    host.handle(Input::Advert(advert));
    let dead = Duration::from_secs(1);
    assert!((dead..dead + TIE_SPREAD).contains(&host.next().unwrap()), "{:?}", host.next());
}

/// Either family's timer makes MASTER, so a tie must lengthen both: else two hosts whose adverts cross in
/// both families end their waits together, for ever.
#[test]
fn a_tie_lengthens_the_master_down_time_of_both_families() {
    let mut host = Host::master(Config { families: BOTH, ..config(1, 0) }).later(A_MOMENT);
    for family in BOTH {
        let advert = HeardAdvert { family: *family, ..host.hears(1, 0, 0) };
        host.handle(Input::Advert(advert));
    }
    assert!(host.next() > Some(Duration::from_secs(2)), "{:?}", host.next());
}

#[test]
fn after_stepping_down_a_host_does_not_preempt_for_three_seconds() {
    for advbase in [0, 1] {
        let mut host = Host::master(preempting(advbase, 10)).later(A_MOMENT);
        host.handle(Input::StepDown);
        let since = host.now;
        for _ in 0..5 {
            host = host.later(Duration::from_millis(500));
            let advert = host.hears(advbase, 20, 1);
            host.handle(Input::Advert(advert));
            host.handle_timeout();
            assert_eq!(host.state(), State::Backup, "{:?} after stepping down", host.now.since(since));
        }
        host.now = since.after(Duration::from_secs(3).max(host.engine.dead_time()));
        let advert = host.hears(advbase, 20, 0);
        host.handle(Input::Advert(advert));
        assert_eq!(host.state(), State::Master, "the hold is over");
    }
}

#[test]
fn the_silence_of_a_successor_counts_as_that_of_any_master() {
    for families in [&BOTH[..1], BOTH] {
        let mut host = Host::master(Config { families, ..config(0, 10) }).later(A_MOMENT);
        host.handle(Input::StepDown);
        host = host.later(Duration::from_millis(500));
        let advert = host.hears(0, 20, 0);
        host.handle(Input::Advert(advert));
        assert_eq!(host.next(), Some(skew(10) * 3), "and not the rest of three seconds");
        host.sleep();
        assert_eq!(host.state(), State::Master);
    }
}

#[test]
fn after_stepping_down_a_host_that_is_alone_comes_back() {
    for (advbase, hold) in [(0, Duration::from_secs(3)), (1, span(3, 10)), (2, span(6, 10))] {
        let mut host = Host::master(config(advbase, 10)).later(A_MOMENT);
        host.handle(Input::StepDown);
        assert_eq!(host.next(), Some(hold), "advbase {advbase}");
        host.sleep();
        assert_eq!(host.state(), State::Master, "advbase {advbase}");
    }
}

#[test]
fn a_bow_out_ends_the_hold() {
    let mut host = Host::master(config(1, 10)).later(A_MOMENT);
    host.handle(Input::StepDown);
    let advert = host.hears(255, 255, 0);
    host.handle(Input::Advert(advert));
    assert_eq!(host.state(), State::Master);
}

#[test]
fn after_a_takeover_the_adverts_fall_between_those_that_the_silent_master_may_still_send() {
    for late in [0, 1, 200, 500_000, 999_999, 1_400_000] {
        let mut host = Host::backup(config(1, 0)).later(A_MOMENT);
        let advert = host.hears(1, 0, 0);
        assert_eq!(host.handle(Input::Advert(advert)), []);
        // The takeover, and however late it is.
        host.now = host.engine.poll_timeout().unwrap().after(Duration::from_micros(late));
        assert!(host.handle_timeout().contains(&Action::TakeVips));
        let wait = host.next().unwrap();
        assert!(wait > Duration::ZERO && wait <= span(1, 0), "{wait:?}");
        for _ in 0..3 {
            assert_eq!(host.sleep(), [send(1, 0, 0)]);
            let phase = host.now.since(advert.arrival).as_micros() % 1_000_000;
            assert_eq!(phase, 500_000, "{late} us late");
        }
    }
}

#[test]
fn a_master_whose_advert_is_due_when_it_yields_has_a_last_word() {
    let mut host = Host::master(config(1, 100));
    host = host.clone().later(host.next().unwrap()).later(A_MOMENT);
    let better = host.hears(1, 0, 0);
    let yields = [
        send(1, 100, 0),
        Action::ReleaseVips,
        host.transition(State::Master, State::Backup, Cause::BetterMaster(better)),
    ];
    assert_eq!(host.handle(Input::Advert(better)), yields);
}

#[test]
fn a_master_that_was_stalled_yields_without_a_last_word() {
    let mut host = Host::master(config(1, 100)).later(span(5, 0));
    let better = host.hears(1, 0, 0);
    let yields = [Action::ReleaseVips, host.transition(State::Master, State::Backup, Cause::BetterMaster(better))];
    assert_eq!(host.handle(Input::Advert(better)), yields);
}

#[test]
fn a_demoted_master_does_not_yield_to_one_that_leaves() {
    let mut host = Host::master(config(1, 0)).demoted().later(A_MOMENT);
    let leaves = host.hears(255, 255, 0);
    assert_eq!(host.handle(Input::Advert(leaves)), [Action::Announce, Action::Rival(leaves)]);
    assert_eq!(host.state(), State::Master);
}

#[test]
fn other_settings_keep_the_state_and_count_from_when_the_master_was_last_heard() {
    let mut backup = Host::backup(config(1, 100)).later(Duration::from_secs(1));
    let advert = backup.hears(1, 0, 0);
    backup.handle(Input::Advert(advert));
    backup = backup.later(Duration::from_millis(500));
    for (advbase, advskew) in [(1, 254), (2, 0), (1, 0)] {
        backup.engine.reconfigure(config(advbase, advskew), backup.now);
        assert_eq!((backup.state(), backup.actions()), (State::Backup, vec![]));
        assert_eq!(backup.next(), Some(span(3 * u64::from(advbase), advskew.into()) - Duration::from_millis(500)));
    }

    let mut master = Host::master(config(1, 0)).later(A_MOMENT);
    master.engine.reconfigure(config(10, 0), master.now);
    assert!(master.next().unwrap() <= Duration::from_secs(1), "what was promised is kept");
    assert_eq!(master.sleep()[0], send(10, 0, 0));
    assert_eq!(master.next(), Some(Duration::from_secs(10)));
    master.engine.reconfigure(config(1, 254), master.now);
    assert_eq!((master.state(), master.next()), (State::Master, Some(span(1, 254))));
    assert_eq!(master.sleep()[0], send(1, 254, 0));
}

#[test]
fn a_family_that_is_new_has_a_dead_time_to_be_heard_in() {
    let both = || Config { families: BOTH, ..config(1, 100) };
    let mut backup = Host::backup(config(1, 100)).later(OWN);
    backup.engine.reconfigure(both(), backup.now);
    for wait in [DEAD, DEAD - OWN] {
        let advert = backup.hears(1, 0, 0);
        backup.handle(Input::Advert(advert));
        assert_eq!(backup.next(), Some(wait));
        backup = backup.later(OWN);
    }

    let mut master = Host::master(config(1, 100));
    master.engine.reconfigure(both(), master.now);
    for adverts in 1..=5 {
        assert_eq!(master.sleep()[0], send(1, 100, 0));
        assert_eq!((master.now.since(START), master.next()), (DEAD + OWN * adverts, Some(OWN)));
    }

    let mut without_link = Host::new(config(1, 100));
    without_link.engine.reconfigure(both(), START);
    assert_eq!(without_link.next(), None);
}

#[test]
fn the_source_is_told_apart_and_stays_when_settings_change() {
    let mut host = Host::new(config(1, 100));
    host.engine.set_source(PEER);
    assert_eq!(host.engine, Engine::new(Config { source: PEER, ..config(1, 100) }, START));
    host.engine.reconfigure(config(1, 50), START);
    assert_eq!(host.engine.config(), &Config { source: PEER, ..config(1, 50) });
}

#[test]
fn other_settings_for_announcements_count_from_the_next_advert() {
    let mut master = Host::master(announcing(0, 0));
    assert_eq!(master.sleep().len(), 1);
    master.engine.reconfigure(announcing(0, 2), master.now);
    assert_eq!(master.sleep().len(), 1);
    assert_eq!(master.sleep(), [send(1, 0, 0), Action::Announce]);

    let mut master = Host::master(announcing(1, 5));
    assert_eq!(master.sleep().len(), 1);
    master.engine.reconfigure(Config { preempt: true, ..announcing(1, 5) }, master.now);
    assert_eq!(master.sleep(), [send(1, 0, 0), Action::Announce], "what has not changed goes on");
}
