//! When a lease begins, is renewed and is over, and how long it is.

use std::vec;

use super::*;

/// Three seconds, less 1 %.
const LEASE: Duration = Duration::from_millis(2970);

fn until(end: Time) -> Action {
    Action::SetLease(Lease::Until(end))
}

fn claim(end: Time) -> Action {
    Action::SetLease(Lease::Claim(end))
}

const OVER: Action = Action::SetLease(Lease::Over);

/// A master whose lease was renewed by its first advert, [`A_MOMENT`] ago.
fn master_with_lease(config: Config) -> Host {
    let mut host = Host::backup(config);
    host.handle(Input::Fence(true));
    host.sleep();
    host.handle(Input::AdvertSent(host.now));
    host.handle(Input::VipsTaken);
    host.later(A_MOMENT)
}

#[test]
fn a_backup_is_master_when_its_first_advert_has_left_which_counts_from_before_it_was_sent() {
    let mut host = Host::backup(config(1, 100));
    assert_eq!(host.handle(Input::Fence(true)), [OVER]);
    let actions = host.sleep();
    assert_eq!(actions, [claim(host.now.after(span(1, 100) * 4 / 3)), send(1, 100, 0)]);
    assert_eq!((host.state(), host.engine.status().lease), (State::Backup, None));
    let sent = host.now;
    let mut host = host.later(A_MOMENT);
    let master = host.transition(State::Backup, State::Master, Cause::MasterDown(span(3, 100)));
    assert_eq!(host.handle(Input::AdvertSent(sent)), [until(sent.after(LEASE)), Action::TakeVips, master]);
    assert_eq!(host.engine.status().lease, Some(sent.after(LEASE)));
}

#[test]
fn a_backup_whose_first_advert_does_not_leave_stays_one_and_tries_again_soon() {
    let mut host = Host::backup(config(1, 100));
    host.handle(Input::Fence(true));
    let retry = span(1, 100) / 10;
    for failures in 0..2 {
        let actions = host.sleep();
        assert_eq!(actions, [claim(host.now.after(span(1, 100) * 4 / 3)), send(1, 100, 0)]);
        assert_eq!(host.now.since(START), span(3, 100) + retry * failures);
        assert_eq!(host.handle(Input::AdvertFailed), [OVER]);
        assert_eq!((host.state(), host.next()), (State::Backup, Some(retry)));
    }
    host.sleep();
    let silence = Cause::MasterDown(span(3, 100) + retry * 2);
    let master = host.transition(State::Backup, State::Master, silence);
    assert_eq!(host.handle(Input::AdvertSent(host.now)), [until(host.now.after(LEASE)), Action::TakeVips, master]);
}

#[test]
fn a_bow_out_stays_the_cause_of_a_claim_until_a_master_is_heard() {
    let mut host = Host::backup(config(1, 100));
    host.handle(Input::Fence(true));
    let gone = host.hears(255, 255, 0);
    assert_eq!(host.handle(Input::Advert(gone)).last(), Some(&send(1, 100, 0)));
    host.handle(Input::AdvertFailed);
    let mut other = host.clone();

    host.sleep();
    let master = host.transition(State::Backup, State::Master, Cause::BowOut(PEER));
    assert_eq!(host.handle(Input::AdvertSent(host.now)).last(), Some(&master));

    let better = other.hears(1, 50, 0);
    assert_eq!(other.handle(Input::Advert(better)), []);
    assert_eq!(other.next(), Some(span(3, 100)));
    other.sleep();
    let master = other.transition(State::Backup, State::Master, Cause::MasterDown(span(3, 100)));
    assert_eq!(other.handle(Input::AdvertSent(other.now)).last(), Some(&master));
}

/// By then this host may be demoted, or the other one may hang, and be fenced only when its lease is over.
#[test]
fn who_cannot_say_that_it_takes_a_rivals_place_waits_for_the_rivals_next_advert() {
    let mut host = Host::backup(preempting(1, 100));
    host.handle(Input::Fence(true));
    let worse = host.hears(1, 200, 0);
    assert_eq!(host.handle(Input::Advert(worse)).last(), Some(&send(1, 100, 0)));
    assert_eq!(host.handle(Input::AdvertFailed), [OVER]);
    assert_eq!(host.next(), Some(span(3, 100)), "as long as any other");
    let mut host = host.later(span(1, 200));
    let again = host.hears(1, 200, 0);
    assert_eq!(host.handle(Input::Advert(again)).last(), Some(&send(1, 100, 0)));
    let master = host.transition(State::Backup, State::Master, Cause::Preempt(again));
    assert_eq!(host.handle(Input::AdvertSent(host.now)).last(), Some(&master));
}

#[test]
fn a_claim_that_waits_takes_no_bow_out_for_its_advert_and_ends_with_the_link() {
    let mut host = Host::backup(config(1, 100));
    host.handle(Input::Fence(true));
    host.sleep();
    host.handle(Input::AdvertFailed);
    assert_eq!(host.handle(Input::AdvertSent(host.now)), [], "it was another advert");
    host.sleep();
    let gone = host.transition(State::Backup, State::Init, Cause::LinkDown(LinkFault::NoCarrier));
    assert_eq!(host.handle(Input::LinkDown(LinkFault::NoCarrier)), [gone]);
    assert_eq!(host.handle(Input::AdvertSent(host.now)), []);
    assert_eq!((host.state(), host.next()), (State::Init, None));
}

/// All of it comes before the agent gets round to any of the actions.
#[test]
fn a_claim_that_is_dropped_unsays_its_advert_and_nothing_else() {
    let mut host = master_with_lease(config(1, 100));
    host.engine.handle(Input::StepDown, host.now);
    host.engine.handle(Input::Advert(host.hears(255, 255, 0)), host.now);
    let left = host.transition(State::Master, State::Backup, Cause::StepDown);
    let claimed = claim(host.now.after(span(1, 100) * 4 / 3));
    let better = host.hears(1, 50, 0);
    let actions = host.handle(Input::Advert(better));
    assert_eq!(actions, [OVER, Action::ReleaseVips, left, bow_out(0), claimed, OVER]);
}

#[test]
fn a_master_that_wakes_too_late_is_a_backup_before_it_hears_or_sends_anything() {
    for event in ["a timer", "an advert", "carrier lost"] {
        let mut host = master_with_lease(config(1, 100)).later(LEASE);
        let (actions, rest) = match event {
            "a timer" => (host.handle_timeout(), vec![]),
            "an advert" => {
                let advert = host.hears(1, 200, 0);
                (host.handle(Input::Advert(advert)), vec![])
            }
            _ => {
                let gone = host.transition(State::Backup, State::Init, Cause::LinkDown(LinkFault::NoCarrier));
                (host.handle(Input::LinkDown(LinkFault::NoCarrier)), vec![gone])
            }
        };
        let backup = host.transition(State::Master, State::Backup, Cause::LeaseOver);
        assert_eq!(actions, [vec![OVER, Action::ReleaseVips, backup], rest].concat(), "{event}");
    }
}

#[test]
fn the_word_that_an_advert_has_left_may_be_late() {
    let host = master_with_lease(config(1, 100));
    let sent = host.now;
    let mut host = host.later(LEASE - A_MOMENT);
    assert_eq!(host.handle(Input::AdvertSent(sent)), [until(sent.after(LEASE))]);
    assert_eq!(host.state(), State::Master);
}

#[test]
fn who_leaves_under_a_lease_bows_out_at_once_and_says_nothing_more() {
    for (input, to, cause) in
        [(Input::StepDown, State::Backup, Cause::StepDown), (Input::Shutdown, State::Init, Cause::Shutdown)]
    {
        let mut host = master_with_lease(config(1, 100));
        let actions = host.handle(input);
        let left = host.transition(State::Master, to, cause);
        assert_eq!(actions, [OVER, Action::ReleaseVips, left, bow_out(0)]);
        assert_eq!(host.handle(Input::AdvertSent(host.now)), [], "a bow-out renews nothing");
        assert_eq!(host.handle(Input::VipsReleased), []);
    }
}

#[test]
fn who_has_its_vips_by_script_bows_out_when_they_are_gone() {
    let mut host = master_with_lease(Config { bow_out_last: true, ..config(1, 100) });
    let left = host.transition(State::Master, State::Backup, Cause::StepDown);
    assert_eq!(host.handle(Input::StepDown), [OVER, Action::ReleaseVips, left]);
    assert_eq!(host.handle(Input::VipsReleased), [bow_out(0)]);
}

#[test]
fn the_lease_is_the_shortest_patience_that_a_peer_can_have_less_one_percent() {
    // Who was heard, with advbase and advskew.
    let lease = |config: Config, heard: &[(u8, u8, u8)]| {
        let mut host = Host::backup(config);
        host.handle(Input::Fence(true));
        for (peer, advbase, advskew) in heard {
            let source = IpAddr::from([10, 0, 0, *peer]);
            let advert = HeardAdvert { source, ..host.hears(*advbase, *advskew, 0) };
            host.handle(Input::Advert(advert));
        }
        host.engine.lease().map(|lease| lease.as_micros())
    };
    let ratio = |ratio, config| Config { peer_dead_ratio: DeadRatio::new(ratio).unwrap(), ..config };
    // An impatient host, and so many after it that are not.
    let with_others = |others: u8| (0..=others).map(|i| (i, if i == 0 { 2 } else { 7 }, 0)).collect::<Vec<_>>();
    let peers = |advskew| Config { peer_advskew: Advskew::new(advskew), ..config(0, 60) };
    for (what, config, heard, expected) in [
        ("a peer may have advskew 0", config(1, 100), &[][..], Some(2_970_000)),
        ("its ratio may be another", ratio(5, config(1, 0)), &[], Some(4_950_000)),
        ("the smallest advbase of all heard", config(4, 0), &[(1, 2, 9), (2, 7, 0), (3, 255, 255)], Some(5_940_000)),
        ("of eight hosts", config(4, 0), &with_others(7), Some(5_940_000)),
        ("but not of more", config(4, 0), &with_others(8), Some(11_880_000)),
        ("what a host said last", config(4, 0), &[(1, 0, 9), (1, 2, 9)], Some(5_940_000)),
        ("and the own one", config(2, 0), &[(1, 7, 0)], Some(5_940_000)),
        ("at advbase 0 nobody is known", config(0, 60), &[], None),
        ("but who was heard", config(0, 60), &[(1, 0, 80)], Some(928_125)),
        ("or is configured", peers(80), &[], Some(928_125)),
        ("the more impatient of them", peers(80), &[(1, 0, 70)], Some(812_109)),
        ("the last resort", config(1, 254), &[], Some(2_970_000)),
        ("too tight for the own interval", peers(20), &[], None),
        ("too tight for a busy machine", peers(26), &[], None),
        ("too tight by nothing at all", ratio(5, config(18, 144)), &[(1, 5, 0)], None),
        ("too tight for its jitter", Config { peer_advskew: Advskew::new(1), ..config(0, 0) }, &[], None),
    ] {
        let microseconds = lease(config, heard);
        let is_near = |(got, wanted): (u128, u128)| got.abs_diff(wanted) < 10;
        assert_eq!(microseconds.is_some(), expected.is_some(), "{what}: {microseconds:?}");
        assert!(microseconds.zip(expected).is_none_or(is_near), "{what}: {microseconds:?}");
    }
}

#[test]
fn where_timers_are_too_tight_there_is_no_lease_and_a_stalled_master_goes_on() {
    let mut host = Host::backup(config(0, 1));
    host.handle(Input::Fence(true));
    let actions = host.sleep();
    assert_eq!(actions[..3], [Action::SetLease(Lease::None), send(0, 1, 0), Action::TakeVips]);
    host.handle(Input::AdvertSent(host.now));
    let mut host = host.later(Duration::from_secs(60));
    host.handle_timeout();
    assert_eq!(host.state(), State::Master);
}

#[test]
fn another_agents_lease_is_gone_on_with_until_the_first_advert_renews_it() {
    let mut host = Host::new(config(1, 100));
    host.handle(Input::Fence(true));
    let end = host.now.after(Duration::from_millis(500));
    let actions = host.handle(Input::Resume { until: end });
    let resumed = host.transition(State::Init, State::Master, Cause::Resumed(end));
    assert_eq!(actions, [until(end), send(1, 100, 0), Action::TakeVips, resumed]);
    assert_eq!(host.handle(Input::AdvertSent(host.now)), [until(host.now.after(LEASE))]);
}

#[test]
fn a_lease_that_can_be_enforced_only_later_counts_from_the_last_advert_all_the_same() {
    let mut host = Host::master(config(1, 100));
    let sent = host.now;
    host.handle(Input::AdvertSent(sent));
    let mut host = host.later(A_MOMENT);
    assert_eq!(host.handle(Input::Fence(true)), [until(sent.after(LEASE))]);
}

#[test]
fn who_goes_on_hears_what_came_after_the_last_advert_of_the_agent_before() {
    let resumed = |host: &mut Host| {
        host.handle(Input::Fence(true));
        host.handle(Input::Resume { until: START.after(Duration::from_millis(970)) });
        assert_eq!(host.state(), State::Master);
    };
    // Two seconds ago.
    for (ago, state) in [(2_001, State::Master), (1_999, State::Backup)] {
        let mut host = Host::new(config(1, 100));
        resumed(&mut host);
        let arrival = START.before(Duration::from_millis(ago));
        host.handle(Input::Advert(HeardAdvert { arrival, ..host.hears(1, 0, 0) }));
        assert_eq!(host.state(), state, "{ago} ms ago");
    }
}

#[test]
fn what_an_agent_before_has_heard_shortens_the_lease_until_the_link_goes() {
    let mut host = Host::new(config(4, 0));
    host.engine.remember(&host.hears(2, 0, 0));
    host.engine.remember(&host.hears(255, 255, 0));
    host.handle(Input::LinkUp);
    assert_eq!(host.engine.lease(), Some(Duration::from_millis(5940)));
    host.handle(Input::LinkDown(LinkFault::NoCarrier));
    assert_eq!(host.engine.lease(), Some(Duration::from_millis(11_880)));
}

#[test]
fn without_a_fence_there_is_none() {
    let mut host = Host::taking(config(1, 100));
    assert_eq!(host.handle(Input::AdvertSent(host.now)), []);
    assert_eq!(host.engine.status().lease, None);
    let mut host = master_with_lease(config(1, 100));
    assert_eq!(host.handle(Input::Fence(false)), [Action::SetLease(Lease::None)]);
    host.sleep();
    assert_eq!(host.handle(Input::AdvertSent(host.now)), []);
}
