//! What takes several inputs: announcements, stops, faults and send errors.

use super::*;

const ANNOUNCE: Action = Action::Announce;

#[test]
fn the_announcement_follows_the_vips_and_is_repeated_with_the_second_next_advert_and_every_fifth_after_it() {
    let mut host = Host::taking(config(1, 0)).later(A_MOMENT);
    assert_eq!(host.handle(Input::VipsTaken), [ANNOUNCE]);
    assert_eq!(host.sleep(), [send(1, 0, 0)]);
    assert_eq!(host.sleep(), [send(1, 0, 0), ANNOUNCE]);
    for _ in 0..3 {
        for _ in 0..4 {
            assert_eq!(host.sleep(), [send(1, 0, 0)]);
        }
        assert_eq!(host.sleep(), [send(1, 0, 0), ANNOUNCE]);
    }
}

/// With which of the next adverts the host announces; the first is 1.
fn announced_with(host: &mut Host, adverts: u32) -> std::vec::Vec<u32> {
    let announces = |host: &mut Host| {
        let actions = host.sleep();
        assert_eq!(actions[0], send(1, 0, 0));
        actions[1..].contains(&ANNOUNCE)
    };
    (1..=adverts).filter(|_| announces(host)).collect()
}

#[test]
fn the_announcement_is_repeated_as_often_as_it_was_set_and_then_refreshed_as_it_was_set() {
    let cases: [(u8, u8, &[u32]); 8] = [
        (1, 5, &[2, 7, 12, 17, 22]),
        (3, 5, &[2, 4, 6, 11, 16, 21]),
        (0, 5, &[5, 10, 15, 20]),
        (2, 0, &[2, 4]),
        (0, 0, &[]),
        (1, 1, &[2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]),
        (0, 255, &[]),
        (255, 0, &[2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22]),
    ];
    for (repeat, refresh, expected) in cases {
        let mut host = Host::master(announcing(repeat, refresh));
        assert_eq!(announced_with(&mut host, 22), expected, "repeat {repeat}, refresh {refresh}");
    }
    let mut host = Host::master(announcing(255, 255));
    assert_eq!(announced_with(&mut host, 510).len(), 255);
    assert_eq!(announced_with(&mut host, 510), [255, 510], "the longest there is");
}

#[test]
fn a_rival_that_does_not_win_starts_the_repetitions_again() {
    for (repeat, refresh, expected) in
        [(2, 4, &[2, 4, 8, 12][..]), (2, 0, &[2, 4]), (0, 3, &[3, 6, 9, 12]), (0, 0, &[])]
    {
        let mut host = Host::master(announcing(repeat, refresh));
        announced_with(&mut host, 9);
        let rival = host.hears(1, 50, 0);
        assert_eq!(
            host.handle(Input::Advert(rival)),
            [send(1, 0, 0), ANNOUNCE, Action::Rival(rival)],
            "at once, whatever was set"
        );
        assert_eq!(announced_with(&mut host, 12), expected, "repeat {repeat}, refresh {refresh}");
    }
}

#[test]
fn a_host_that_is_master_again_starts_the_repetitions_again() {
    let mut host = Host::master(announcing(2, 0));
    assert_eq!(announced_with(&mut host, 3), [2]);
    let better = host.hears(0, 0, 0);
    host.handle(Input::Advert(better));
    assert!(host.sleep().contains(&Action::TakeVips));
    assert_eq!(announced_with(&mut host, 5), [], "its VIPs are still on the way");
    assert_eq!(host.handle(Input::VipsTaken), [ANNOUNCE]);
    assert_eq!(announced_with(&mut host, 9), [2, 4]);
}

#[test]
fn nothing_is_announced_before_the_vips_are_here() {
    let mut host = Host::taking(config(1, 0));
    for _ in 0..5 {
        assert_eq!(host.sleep(), [send(1, 0, 0)], "a slow up script");
    }
    assert_eq!(host.handle(Input::VipsTaken), [ANNOUNCE]);
    assert_eq!(host.sleep(), [send(1, 0, 0)]);
    assert_eq!(host.sleep(), [send(1, 0, 0), ANNOUNCE]);
}

#[test]
fn a_master_that_left_does_not_repeat_its_announcement() {
    let mut host = Host::master(config(1, 100)).later(A_MOMENT);
    let advert = host.hears(1, 0, 0);
    host.handle(Input::Advert(advert));
    assert!(host.sleep().contains(&Action::TakeVips), "master again, its VIPs are still on the way");
    for _ in 0..4 {
        assert_eq!(host.sleep(), [send(1, 100, 0)]);
    }
}

#[test]
fn a_master_announces_beside_another_once_an_own_interval_and_answers_a_few_times() {
    let mut host = Host::master(config(1, 0));
    let hear = |host: &mut Host| {
        let advert = host.hears(1, 50, 0);
        (host.handle(Input::Advert(advert)), Action::Rival(advert))
    };
    let (mut answered, mut announced) = (0, std::vec![]);
    // A flood of 1,000 adverts a second for 3 s: the own adverts go on in between.
    for _ in 0..3_000 {
        host = host.later(A_MOMENT);
        assert!(!host.handle_timeout().iter().any(|action| matches!(action, Action::TakeVips)));
        let (actions, rival) = hear(&mut host);
        answered += actions.iter().filter(|action| **action == send(1, 0, 0)).count();
        if actions.contains(&ANNOUNCE) {
            assert_eq!(actions, [send(1, 0, 0), ANNOUNCE, rival]);
            announced.push(host.now);
        }
    }
    assert!((24..=32).contains(&answered), "{answered} answers, and not 8 an interval");
    assert!((3..=4).contains(&announced.len()), "{announced:?}");
    for pair in announced.windows(2) {
        assert!(pair[1].since(pair[0]) >= Duration::from_secs(1));
    }
    assert_eq!(host.state(), State::Master);
}

#[test]
fn a_master_that_stops_gives_up_its_vips_first_and_bows_out_when_they_are_gone() {
    let mut host = Host::master(config(1, 100)).later(A_MOMENT);
    assert!(!host.engine.is_stopping());
    let actions = host.handle(Input::Shutdown);
    let transition = host.transition(State::Master, State::Init, Cause::Shutdown);
    assert_eq!(actions, [Action::ReleaseVips, transition]);
    assert!(host.engine.is_stopping() && !host.engine.is_stopped());
    assert_eq!(host.handle(Input::Shutdown), [], "asked twice");

    host = host.later(Duration::from_secs(10));
    assert_eq!(host.handle_timeout(), [], "a slow down script");
    assert_eq!(host.handle(Input::VipsReleased), [bow_out(0)]);
    assert!(host.engine.is_stopped());
    assert_eq!(host.handle(Input::VipsReleased), [], "one bow-out is enough");
}

#[test]
fn a_master_that_stops_before_its_vips_came_bows_out_too() {
    let mut host = Host::taking(config(1, 100)).later(A_MOMENT);
    assert_eq!(host.handle(Input::Shutdown)[0], Action::ReleaseVips);
    assert_eq!(host.handle(Input::VipsReleased), [bow_out(0)]);
}

#[test]
fn a_demoted_master_bows_out_as_one() {
    let mut host = Host::master(config(1, 100)).later(A_MOMENT).demoted();
    host.handle(Input::Shutdown);
    assert_eq!(host.handle(Input::VipsReleased), [bow_out(240)]);
}

#[test]
fn a_backup_that_stops_runs_the_down_script_and_does_not_bow_out() {
    let mut host = Host::backup(config(1, 100)).later(A_MOMENT);
    let actions = host.handle(Input::Shutdown);
    let transition = host.transition(State::Backup, State::Init, Cause::Shutdown);
    assert_eq!(actions, [Action::ReleaseVips, transition]);
    assert!(!host.engine.is_stopped());
    assert_eq!(host.handle(Input::VipsReleased), []);
    assert!(host.engine.is_stopped());
}

#[test]
fn a_host_without_a_link_stops_without_a_bow_out() {
    let mut host = Host::new(config(1, 100));
    assert_eq!(host.handle(Input::Shutdown), [Action::ReleaseVips]);
    assert_eq!(host.handle(Input::VipsReleased), []);
    assert!(host.engine.is_stopped());
}

#[test]
fn a_former_master_that_stops_while_it_releases_does_not_bow_out() {
    let mut host = Host::master(config(1, 100)).later(A_MOMENT);
    let advert = host.hears(1, 0, 0);
    host.handle(Input::Advert(advert));
    assert!(!host.handle(Input::Shutdown).contains(&Action::ReleaseVips), "one is under way");
    assert!(!host.engine.is_stopped());
    assert_eq!(host.handle(Input::VipsReleased), []);
    assert!(host.engine.is_stopped());
}

#[test]
fn nothing_wakes_a_host_that_has_stopped() {
    let mut host = Host::master(config(1, 100)).later(A_MOMENT);
    host.handle(Input::Shutdown);
    host.handle(Input::VipsReleased);
    for input in [Input::LinkDown(LinkFault::InterfaceDown), Input::LinkUp, Input::VipsTaken, Input::StepDown] {
        assert_eq!(host.handle(input), [], "{input:?}");
    }
    let advert = host.hears(255, 255, 255);
    assert_eq!(host.handle(Input::Advert(advert)), []);
    assert_eq!(host.next(), None);
}

#[test]
fn stepping_down_releases_then_bows_out() {
    let mut host = Host::master(config(1, 100)).later(A_MOMENT);
    let actions = host.handle(Input::StepDown);
    let transition = host.transition(State::Master, State::Backup, Cause::StepDown);
    assert_eq!(actions, [Action::ReleaseVips, transition]);
    assert_eq!(host.handle(Input::VipsReleased), [bow_out(0)]);
    assert_eq!(host.handle(Input::VipsReleased), []);
}

#[test]
fn a_host_that_is_master_again_before_its_vips_were_gone_does_not_bow_out() {
    let mut host = Host::master(config(1, 100)).later(A_MOMENT);
    host.handle(Input::StepDown);
    assert!(host.sleep().contains(&Action::TakeVips));
    assert_eq!(host.handle(Input::VipsReleased), []);
}

/// Another master has spoken since: a bow-out now would make the other backups masters beside it.
#[test]
fn a_host_that_hears_a_master_before_its_vips_were_gone_does_not_bow_out() {
    let mut host = Host::master(config(1, 100)).later(A_MOMENT);
    host.handle(Input::StepDown);
    host = host.later(Duration::from_secs(1));
    let advert = host.hears(1, 0, 0);
    host.handle(Input::Advert(advert));
    assert_eq!(host.handle(Input::VipsReleased), []);
}

#[test]
fn a_fault_of_a_master_takes_its_vips_without_a_bow_out() {
    use LinkFault::{InterfaceDown, NoAddress, NoCarrier, NoInterface};
    for fault in [NoInterface, InterfaceDown, NoCarrier, NoAddress] {
        let mut host = Host::master(config(1, 0)).later(A_MOMENT);
        let actions = host.handle(Input::LinkDown(fault));
        let transition = host.transition(State::Master, State::Init, Cause::LinkDown(fault));
        assert_eq!(actions, [Action::ReleaseVips, transition]);
        assert_eq!(host.handle(Input::VipsReleased), []);
        assert_eq!(host.next(), None);

        let actions = host.handle(Input::LinkUp);
        assert_eq!(actions, [host.transition(State::Init, State::Backup, Cause::LinkUp)]);
        assert_eq!(host.next(), Some(Duration::from_secs(3)));
    }
}

#[test]
fn vips_that_cannot_be_had_demote_until_they_can_or_it_is_time_to_try_again() {
    let demotion = |host: &Host| host.engine.status().demotion.get();
    let mut host = Host::taking(config(1, 100)).later(A_MOMENT);
    host.handle(Input::VipsFailed);
    assert_eq!(host.handle(Input::VipsFailed), [], "it is known");
    host.handle(Input::VipsTaken);
    assert_eq!(demotion(&host), 0);

    let hear = |host: &mut Host| {
        let advert = host.hears(1, 0, 0);
        host.handle(Input::Advert(advert))
    };
    for ends in ["with time", "with the link"] {
        let mut host = Host::taking(config(1, 100)).later(A_MOMENT);
        host.handle(Input::VipsFailed);
        hear(&mut host);
        assert_eq!((host.state(), demotion(&host)), (State::Backup, 240));
        if ends == "with time" {
            host = host.later(Duration::from_secs(599));
            hear(&mut host);
            assert_eq!(demotion(&host), 240);
            host = host.later(Duration::from_secs(1));
            hear(&mut host);
        } else {
            host.handle(Input::LinkDown(LinkFault::NoCarrier));
            host.handle(Input::LinkUp);
        }
        assert_eq!(demotion(&host), 0, "{ends}");
    }
}

#[test]
fn three_send_errors_in_a_row_demote_and_three_successes_restore() {
    let mut host = Host::master(config(1, 0));
    let inputs = |host: &mut Host, failed: &[bool]| {
        let mut changes = 0;
        for failed in failed {
            let actions = host.handle(if *failed { Input::AdvertFailed } else { Input::AdvertSent(START) });
            for action in &actions {
                assert_eq!(*action, Action::Demoted(host.engine.status().demotion));
            }
            changes += actions.len();
        }
        changes
    };
    assert_eq!(inputs(&mut host, &[true, true, false, true, true, false]), 0, "never three in a row");
    assert_eq!(host.sleep()[0], send(1, 0, 0));
    assert_eq!(inputs(&mut host, &[true, true, true]), 1);
    assert_eq!(host.sleep()[0], send(1, 0, 240));
    assert_eq!(inputs(&mut host, &[true, true, true]), 0, "demoted once is enough");
    assert_eq!(inputs(&mut host, &[false, false, true, false, false]), 0, "never three in a row");
    assert_eq!(host.sleep()[0], send(1, 0, 240));
    assert_eq!(inputs(&mut host, &[false]), 1);
    assert_eq!(host.sleep()[0], send(1, 0, 0));
}

/// The kernel keeps the last advert of each source, and it is looked at again before a takeover.
#[test]
fn what_arrived_before_a_host_left_init_is_told_again_in_vain() {
    let host = Host::new(config(1, 0));
    let old = host.hears(BOW_OUT, BOW_OUT, 0);
    let mut host = host.later(Duration::from_secs(60));
    host.handle(Input::LinkUp);
    assert_eq!(host.handle(Input::Advert(old)), []);
    assert_eq!((host.state(), host.engine.status().last_arrival), (State::Backup, None));
}
