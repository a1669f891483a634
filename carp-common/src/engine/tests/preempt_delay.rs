//! `preempt_delay`: from INIT, and from when a worse master is heard first; never for one that is dead, demoted or leaves.

use super::*;

const DELAY: Duration = Duration::from_secs(10);

fn patient(advskew: u8) -> Config {
    Config { preempt_delay: DELAY, ..preempting(1, advskew) }
}

/// An advert of the peer, `after` so long.
fn hear(host: &mut Host, after: Duration, advskew: u8, demote: u8) -> State {
    host.now = host.now.after(after);
    let advert = host.hears(1, advskew, demote);
    host.handle(Input::Advert(advert));
    host.state()
}

#[test]
fn a_worse_master_is_borne_with_from_init_on() {
    let mut host = Host::backup(patient(50));
    for _ in 0..9 {
        assert_eq!(hear(&mut host, Duration::from_secs(1), 100, 0), State::Backup);
    }
    assert_eq!(host.engine.status().preempt_at, Some(START.after(DELAY)));
    assert_eq!(hear(&mut host, Duration::from_millis(999), 100, 0), State::Backup);
    assert_eq!(hear(&mut host, A_MOMENT, 100, 0), State::Master);
}

#[test]
fn a_master_that_has_yielded_bears_with_a_worse_one_from_when_it_is_heard() {
    let mut host = Host::master(patient(50));
    assert_eq!(hear(&mut host, A_MOMENT, 0, 0), State::Backup);
    assert_eq!(host.engine.status().preempt_at, None);
    assert_eq!(hear(&mut host, Duration::from_secs(1), 100, 0), State::Backup);
    assert_eq!(host.engine.status().preempt_at, Some(host.now.after(DELAY)));
}

#[test]
fn a_master_that_was_better_is_borne_with_from_when_it_is_worse() {
    let mut host = Host::backup(patient(50));
    for _ in 0..20 {
        assert_eq!(hear(&mut host, Duration::from_secs(1), 0, 0), State::Backup);
    }
    assert_eq!(host.engine.status().preempt_at, None);
    for worse_for in 0..10 {
        assert_eq!(hear(&mut host, Duration::from_secs(1), 100, 0), State::Backup, "{worse_for} s");
    }
    assert_eq!(hear(&mut host, Duration::from_secs(1), 100, 0), State::Master);
}

#[test]
fn a_master_that_is_better_now_and_then_is_borne_with_for_ever() {
    let mut host = Host::backup(patient(50));
    for _ in 0..20 {
        for advskew in [100, 100, 100, 0] {
            assert_eq!(hear(&mut host, Duration::from_secs(1), advskew, 0), State::Backup);
        }
    }
}

#[test]
fn a_dead_a_leaving_a_slow_and_a_demoted_master_are_not_borne_with() {
    let mut host = Host::backup(patient(50));
    hear(&mut host, Duration::from_secs(1), 100, 0);
    assert_eq!(host.next(), Some(span(3, 50)), "its silence counts as ever");
    host.sleep();
    assert_eq!(host.state(), State::Master);

    for (advbase, advskew, demote) in [(255, 255, 0), (4, 0, 0), (1, 100, 1), (1, 0, 1)] {
        let mut host = Host::backup(patient(50)).later(A_MOMENT);
        let advert = host.hears(advbase, advskew, demote);
        host.handle(Input::Advert(advert));
        assert_eq!(host.state(), State::Master, "{advbase} {advskew} {demote}");
    }
}

#[test]
fn a_host_whose_demotion_ends_bears_with_the_master_from_then_on() {
    let mut host = Host::backup(patient(50));
    host.handle(Input::Tracked { own: 100, group: 0 });
    for _ in 0..20 {
        assert_eq!(hear(&mut host, Duration::from_secs(1), 100, 0), State::Backup);
    }
    host.handle(Input::Tracked { own: 0, group: 0 });
    for _ in 0..10 {
        assert_eq!(hear(&mut host, Duration::from_secs(1), 100, 0), State::Backup);
    }
    assert_eq!(hear(&mut host, Duration::from_secs(1), 100, 0), State::Master);
}

#[test]
fn a_shorter_delay_holds_at_once() {
    let mut host = Host::backup(patient(50));
    assert_eq!(hear(&mut host, Duration::from_secs(1), 100, 0), State::Backup);
    host.engine.reconfigure(Config { preempt_delay: Duration::from_secs(2), ..patient(50) }, host.now);
    assert_eq!(hear(&mut host, Duration::from_secs(1), 100, 0), State::Backup);
    assert_eq!(hear(&mut host, Duration::from_secs(1), 100, 0), State::Master);
}
