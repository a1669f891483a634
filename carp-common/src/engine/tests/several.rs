//! Several masters at a time, as after a split, or when a demoted one is followed by all who waited for it.

use super::*;

const THIRD: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 3));

/// What another peer says.
fn third(advert: HeardAdvert) -> Input {
    Input::Advert(HeardAdvert { source: THIRD, ..advert })
}

#[test]
fn who_follows_a_master_leaves_it_to_that_one_to_send_the_others_back() {
    let worse = [(preempting(1, 100), (1, 200, 0)), (config(1, 100), (1, 50, 1)), (config(1, 100), (5, 0, 0))];
    for (config, (advbase, advskew, demote)) in worse.into_iter().chain([(config(1, 100), (255, 255, 0))]) {
        let mut host = Host::backup(config);
        let followed = host.hears(1, 50, 0);
        host.handle(Input::Advert(followed));
        let mut host = host.later(A_MOMENT);
        let other = host.hears(advbase, advskew, demote);
        assert_eq!(host.handle(third(other)), [], "{other:?}");
        let is_one_more_master = !other.is_bow_out();
        assert_eq!(host.next() == Some(span(3, 100)), is_one_more_master, "{other:?}");

        // One and a half intervals of the one that is followed.
        let mut host = host.later(span(1, 50) * 3 / 2 - A_MOMENT * 2);
        let other = host.hears(advbase, advskew, demote);
        assert_eq!(host.clone().handle(third(other)), [], "{other:?}");
        host = host.later(A_MOMENT);
        let other = host.hears(advbase, advskew, demote);
        host.handle(third(other));
        assert_eq!(host.state(), State::Master, "{other:?}");
    }
}

#[test]
fn what_the_master_that_is_followed_says_counts_at_once() {
    for fields in [(1, 50, 1), (5, 0, 0), (255, 255, 0)] {
        let mut host = Host::backup(config(1, 100));
        let followed = host.hears(1, 50, 0);
        host.handle(Input::Advert(followed));
        let (advbase, advskew, demote) = fields;
        let advert = host.hears(advbase, advskew, demote);
        host.handle(Input::Advert(advert));
        assert_eq!(host.state(), State::Master, "{fields:?}");
    }
}

/// The same host has another source in each.
#[test]
fn in_each_family_its_own_master_is_followed() {
    for [followed, other] in [[Family::V4, Family::V6], [Family::V6, Family::V4]] {
        let mut host = Host::backup(Config { families: BOTH, ..preempting(1, 100) });
        let better = HeardAdvert { family: followed, ..host.hears(1, 50, 0) };
        host.handle(Input::Advert(better));
        let worse = |family| HeardAdvert { family, ..host.hears(1, 200, 0) };
        let [same, another] = [worse(followed), worse(other)];
        assert_eq!(host.handle(third(same)), [], "{followed:?}");
        assert!(host.handle(third(another)).contains(&Action::TakeVips), "{other:?}");
    }
}

#[test]
fn who_has_yielded_follows_and_who_has_lost_its_link_follows_nobody() {
    let mut host = Host::master(preempting(1, 100)).later(A_MOMENT);
    let better = host.hears(1, 50, 0);
    host.handle(Input::Advert(better));
    let worse = host.hears(1, 200, 0);
    assert_eq!(host.handle(third(worse)), []);
    assert_eq!(host.state(), State::Backup);
    host.handle(Input::LinkDown(LinkFault::NoCarrier));
    host.handle(Input::LinkUp);
    host.handle(third(worse));
    assert_eq!(host.state(), State::Master);
}

/// All who have tied hear the worse master at the same time: taking over at once, they would tie for ever.
#[test]
fn who_has_tied_takes_over_from_a_worse_master_in_turn() {
    let mut waits = std::vec![];
    for last in 1..=8 {
        let source = IpAddr::from([10, 0, 0, last]);
        let mut host = Host::master(Config { source, ..preempting(1, 100) }).later(A_MOMENT);
        let equal = host.hears(1, 100, 0);
        host.handle(Input::Advert(equal));
        host = host.later(span(2, 100));
        let worse = host.hears(1, 200, 0);
        assert_eq!(host.handle(third(worse)), []);
        waits.push(host.next().unwrap());
        // An equal, whose turn came before.
        let mut other = host.clone();
        let equal = other.hears(1, 100, 0);
        other.handle(Input::Advert(equal));
        assert!(other.next() > Some(span(2, 0)), "{:?}", other.next());

        host.sleep();
        assert_eq!(host.state(), State::Master);
    }
    assert!(waits.iter().all(|wait| *wait < Duration::from_millis(250)), "{waits:?}");
    waits.sort();
    assert!(waits.windows(2).all(|pair| pair[0] < pair[1]), "two at a time: {waits:?}");
}

#[test]
fn who_has_stood_still_hears_all_that_has_come_before_it_takes_over() {
    for fields in [(1, 200, 0), (1, 50, 1), (255, 255, 0)] {
        let mut host = Host::backup(preempting(1, 100));
        let (advbase, advskew, demote) = fields;
        let old = host.hears(advbase, advskew, demote);
        let later = host.clone().later(A_MOMENT).hears(1, 50, 0);
        host = host.later(span(1, 100) / 4);
        assert!(host.clone().handle(Input::Advert(old)).contains(&Action::TakeVips), "not so late");
        host = host.later(Duration::from_nanos(1));
        assert_eq!(host.handle(Input::Advert(old)), []);
        assert_eq!(host.next(), Some(Duration::ZERO));
        let mut alone = host.clone();
        alone.handle_timeout();
        assert_eq!(alone.state(), State::Master, "{fields:?}, and nothing since");
        host.handle(third(later));
        host.handle_timeout();
        assert_eq!(host.state(), State::Backup, "{fields:?}, and a better one since");
    }
}

#[test]
fn who_is_demoted_while_its_turn_has_not_come_waits_for_the_next_advert() {
    let mut host = Host::master(preempting(1, 100)).later(A_MOMENT);
    let equal = host.hears(1, 100, 0);
    host.handle(Input::Advert(equal));
    host = host.later(span(2, 100));
    let worse = host.hears(1, 200, 0);
    host.handle(third(worse));
    host.handle(Input::Tracked { own: 1, group: 0 });
    assert_eq!(host.next(), Some(span(3, 100)));
    host = host.later(span(1, 200));
    let worse = host.hears(1, 200, 0);
    host.handle(third(worse));
    assert_eq!(host.next(), Some(span(3, 100)));
}

/// However many come after the first: all of them hear the answer.
#[test]
fn each_of_several_that_take_over_at_a_time_is_answered_at_once() {
    let mut host = Host::master(config(1, 0)).later(A_MOMENT);
    for _ in 0..4 {
        let worse = host.hears(1, 50, 0);
        assert!(host.handle(Input::Advert(worse)).contains(&send(1, 0, 0)));
    }
}

/// What the timers of both families were set to for a claim is no silence of a master.
#[test]
fn who_does_not_take_over_after_all_hears_each_family_for_as_long_as_ever() {
    for [first, other] in [[Family::V4, Family::V6], [Family::V6, Family::V4]] {
        let mut host = Host::backup(Config { families: BOTH, ..preempting(1, 100) });
        let worse = HeardAdvert { family: first, ..host.hears(1, 200, 0) };
        host = host.later(span(1, 100));
        host.handle(third(HeardAdvert { family: other, ..worse }));
        assert_eq!(host.next(), Some(Duration::ZERO), "as late as that, it waits for what else has come");
        let better = HeardAdvert { family: first, ..host.hears(1, 50, 0) };
        assert_eq!(host.handle(Input::Advert(better)), []);
        assert_eq!(host.next(), Some(span(3, 100)), "{first:?} alone was heard");
    }
}

/// The equal that is heard may yield in the same moment, to another that was not slower. If that were peace, groups of four and more
/// would take turns at tying for ever, beside a demoted host that is master again first.
#[test]
fn who_has_tied_takes_over_in_turn_until_a_master_has_lasted() {
    let mut host = Host::master(preempting(1, 100)).later(A_MOMENT);
    let hear_equal = |host: &mut Host| {
        let equal = host.hears(1, 100, 0);
        host.handle(Input::Advert(equal))
    };
    hear_equal(&mut host);
    for round in 1..=3 {
        host = host.later(span(2, 100));
        let worse = host.hears(1, 200, 0);
        assert_eq!(host.handle(third(worse)), [], "{round}");
        assert!(host.next() < Some(Duration::from_millis(250)), "{round}");
        assert_eq!(hear_equal(&mut host), [], "{round}");
        assert_eq!(host.next(), Some(span(3, 100)), "{round}");
    }
    // It goes on.
    host = host.later(span(1, 100));
    hear_equal(&mut host);
    host = host.later(span(2, 100));
    let worse = host.hears(1, 200, 0);
    assert!(host.handle(third(worse)).contains(&Action::TakeVips));
}

/// All who hear a master leave take over; whoever hears another one that was faster, before its own advert has left, leaves it at that:
/// or that one yields to its advert, and nobody is master for a dead time.
#[test]
fn a_claim_that_is_over_before_its_advert_has_left_sends_none() {
    for fields in [(1, 200), (1, 100), (1, 50)] {
        let mut host = Host::backup(Config { families: BOTH, ..config(1, 100) }).later(A_MOMENT);
        host.handle(Input::Fence(true));
        let master = host.hears(1, 0, 0);
        host.handle(Input::Advert(master));
        let leaves = host.hears(255, 255, 0);
        // All of it is there when the agent looks.
        for family in BOTH {
            host.engine.handle(Input::Advert(HeardAdvert { family: *family, ..leaves }), host.now);
        }
        let third_is_faster = third(host.hears(fields.0, fields.1, 0));
        let actions = host.handle(third_is_faster);
        assert!(!actions.iter().any(|action| matches!(action, Action::SendAdvert(_))), "{fields:?}: {actions:?}");
        assert_eq!(actions.last(), Some(&Action::SetLease(Lease::Over)), "{fields:?}: {actions:?}");
        assert_eq!((host.state(), host.next()), (State::Backup, Some(span(3, 100))), "{fields:?}");
    }
}

/// What it was about to say would have the other yield as well.
#[test]
fn who_yields_to_an_equal_says_nothing_that_has_not_left_yet() {
    // Just become master, without a lease; and about to answer a worse one.
    for (host, (advbase, advskew)) in
        [(Host::backup(config(1, 100)), (255, 255)), (Host::master(config(1, 100)), (1, 200))]
    {
        let mut host = host.later(A_MOMENT);
        let before = host.hears(advbase, advskew, 0);
        host.engine.handle(Input::Advert(before), host.now);
        let equal = third(host.hears(1, 100, 0));
        let actions = host.handle(equal);
        assert!(!actions.iter().any(|action| matches!(action, Action::SendAdvert(_))), "{actions:?}");
        assert_eq!(host.state(), State::Backup);
    }
}
