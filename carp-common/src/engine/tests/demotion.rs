//! A demotion by what is tracked: told at once by a master, in both profiles, and never by one that was stalled.

use super::*;

const TRACKED: Input = Input::Tracked { own: 100, group: 0 };
const OVER: Input = Input::Tracked { own: 0, group: 0 };

/// What is sent.
fn adverts(actions: &[Action]) -> Vec<Action> {
    actions.iter().filter(|action| matches!(action, Action::SendAdvert(_))).copied().collect()
}

#[test]
fn a_master_tells_at_once_that_it_is_demoted_and_with_its_next_advert_that_it_no_longer_is() {
    for (config, demoted, plain) in
        [(config(1, 50), send(1, 50, 100), send(1, 50, 0)), (freebsd(config(1, 50)), send(1, 150, 0), send(1, 50, 0))]
    {
        let mut host = Host::master(config).later(A_MOMENT);
        assert_eq!(adverts(&host.handle(TRACKED)), [demoted]);
        assert_eq!(adverts(&host.handle(TRACKED)), [], "it is known");
        assert_eq!(adverts(&host.sleep()), [demoted]);
        assert_eq!(adverts(&host.handle(OVER)), []);
        assert_eq!(adverts(&host.sleep()), [plain]);
        assert_eq!(host.state(), State::Master, "nobody else is there");
    }
}

#[test]
fn the_advert_that_tells_of_a_demotion_does_not_put_off_the_next_one() {
    let mut host = Host::master(config(1, 100)).later(Duration::from_secs(1));
    let due = host.engine.poll_timeout();
    host.handle(TRACKED);
    assert_eq!(host.engine.poll_timeout(), due);
}

/// An advert of a better master may lie in the kernel: it has to be heard before this one speaks.
#[test]
fn a_master_that_was_stalled_tells_of_a_demotion_with_its_overdue_advert() {
    let mut host = Host::master(config(1, 100)).later(Duration::from_secs(60));
    assert_eq!(adverts(&host.handle(TRACKED)), []);
    assert_eq!(adverts(&host.handle_timeout()), [send(1, 100, 100)]);
}

#[test]
fn a_master_was_stalled_if_its_advert_is_late_by_a_quarter_interval() {
    let host = Host::master(config(1, 100));
    let late = host.next().unwrap() + span(1, 100) / 4;
    for (after, told) in [(late - Duration::from_nanos(1), &[send(1, 100, 100)][..]), (late, &[])] {
        assert_eq!(adverts(&host.clone().later(after).handle(TRACKED)), told, "{after:?}");
    }
}

#[test]
fn freebsds_adverts_are_as_far_apart_as_they_say() {
    let mut host = Host::master(freebsd(config(1, 50)));
    host.handle(TRACKED);
    host.sleep();
    assert_eq!(host.next(), Some(span(1, 150)));
    host.handle(OVER);
    assert_eq!(host.next(), Some(span(1, 50)), "sooner, now that it says so");
    host.sleep();
    assert_eq!(host.next(), Some(span(1, 50)));
}

#[test]
fn a_bow_out_has_the_demote_byte_of_the_profile() {
    for (config, demote) in [(config(1, 50), 100), (freebsd(config(1, 50)), 0)] {
        let mut host = Host::master(config).later(A_MOMENT);
        host.handle(TRACKED);
        host.handle(Input::Shutdown);
        assert_eq!(host.handle(Input::VipsReleased), [bow_out(demote)]);
    }
}

#[test]
fn only_at_advbase_0_a_demotion_lengthens_a_backups_dead_time_and_then_at_once() {
    for (config, before, demoted) in [
        (config(1, 10), span(3, 10), span(3, 10)),
        (freebsd(config(1, 10)), span(3, 10), span(3, 10)),
        (config(0, 10), skew(10) * 3, skew(10) * 3),
        (freebsd(config(0, 10)), skew(10) * 3, skew(110) * 3),
    ] {
        let mut host = Host::backup(config);
        assert_eq!(host.next(), Some(before));
        host.handle(TRACKED);
        assert_eq!((host.next(), host.engine.dead_time()), (Some(demoted), demoted));
        host.handle(OVER);
        assert_eq!((host.next(), host.engine.dead_time()), (Some(before), before));
    }
}

#[test]
fn each_source_ends_alone() {
    let mut host = Host::backup(config(1, 0)).demoted();
    host.handle(Input::Demote(1));
    host.handle(Input::Tracked { own: 2, group: 3 });
    let demotion = host.engine.status().demotion;
    assert_eq!((demotion.manual(), demotion.send_errors(), demotion.tracked(), demotion.group()), (1, 240, 2, 3));
    assert_eq!(demotion.get(), 246);
    host.handle(Input::Demote(0));
    host.handle(Input::Tracked { own: 2, group: 0 });
    assert_eq!(host.engine.status().demotion.get(), 242);
    host.handle(Input::LinkDown(LinkFault::NoCarrier));
    host.handle(Input::LinkUp);
    assert_eq!(host.engine.status().demotion.get(), 2, "the link took its send errors along");
    host.handle(OVER);
    assert_eq!(host.engine.status().demotion, Demotion::default());
}

#[test]
fn a_demotion_that_ends_is_no_reason_to_step_down() {
    let mut host = Host::backup(config(1, 50));
    host.handle(Input::Demote(10));
    assert!(host.sleep().contains(&Action::TakeVips));
    assert_eq!(host.handle(Input::Demote(0)), [Action::Demoted(Demotion::default())]);
    assert_eq!(host.state(), State::Master);
}

#[test]
fn another_profile_changes_the_next_advert_and_not_the_state() {
    let mut host = Host::master(config(1, 50)).later(A_MOMENT);
    host.handle(TRACKED);
    host.engine.reconfigure(freebsd(config(1, 50)), host.now);
    assert_eq!(adverts(&host.sleep()), [send(1, 150, 0)]);
    host.engine.reconfigure(config(1, 50), host.now);
    assert_eq!(adverts(&host.sleep()), [send(1, 50, 100)]);
    assert_eq!(host.state(), State::Master);
}

#[test]
fn a_backups_send_errors_are_forgotten_after_a_minute() {
    for (seconds, demotion) in [(59, 240), (60, 0)] {
        let mut host = Host::backup(config(1, 0)).demoted().later(Duration::from_secs(seconds));
        let advert = host.hears(1, 0, 0);
        host.handle(Input::Advert(advert));
        assert_eq!(host.engine.status().demotion.get(), demotion, "after {seconds} s");
    }
}
