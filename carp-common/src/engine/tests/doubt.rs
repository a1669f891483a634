//! Others that have the key, and whose clocks are apart.

use super::*;

const DOUBT: Duration = Duration::from_secs(5);
const DEAD: Duration = span(3, 100);

fn doubting() -> Host {
    Host::backup(Config { doubt: DOUBT, ..config(1, 100) })
}

/// Hears such a one every second from now on, until it is MASTER; how long after the start that is.
fn hears_until_master(mut host: Host) -> Duration {
    let mut next = host.now;
    for _ in 0..60 {
        host.now = next;
        host.handle(Input::Doubtful(next));
        next = next.after(Duration::from_secs(1));
        while let Some(due) = host.engine.poll_timeout().filter(|due| *due <= next) {
            host.now = due;
            host.handle_timeout();
            if host.state() == State::Master {
                return host.now.since(START);
            }
        }
    }
    panic!("it waits for ever");
}

#[test]
fn who_has_just_started_bears_with_them_for_some_seconds_and_no_longer() {
    assert_eq!(doubting().engine.doubt_until(), Some(START.after(DEAD + DOUBT)));
    assert_eq!(hears_until_master(doubting()), DEAD + DOUBT);
    assert_eq!(hears_until_master(Host::backup(config(1, 100))), DEAD, "without doubt");
}

#[test]
fn if_they_are_silent_it_takes_over_when_a_silence_is_over() {
    let mut host = doubting();
    host.now = START.after(Duration::from_secs(1));
    host.handle(Input::Doubtful(host.now));
    assert_eq!(host.engine.poll_timeout(), Some(START.after(Duration::from_secs(1) + DEAD)));
}

#[test]
fn there_is_no_doubt_after_the_start() {
    let mut host = doubting();
    host.handle(Input::LinkDown(LinkFault::NoCarrier));
    host.now = START.after(Duration::from_secs(60));
    host.handle(Input::LinkUp);
    let due = host.engine.poll_timeout();
    host.now = host.now.after(Duration::from_secs(1));
    host.handle(Input::Doubtful(host.now));
    assert_eq!(host.engine.poll_timeout(), due);
}

#[test]
fn who_has_stepped_down_is_not_brought_back_by_what_somebody_repeats() {
    let mut host = doubting();
    host.now = START.after(DEAD + DOUBT);
    host.handle_timeout();
    assert_eq!(host.state(), State::Master);
    host.handle(Input::StepDown);
    let due = host.engine.poll_timeout();
    host.now = host.now.after(A_MOMENT);
    host.handle(Input::Doubtful(host.now));
    assert_eq!((host.state(), host.engine.poll_timeout()), (State::Backup, due));
}

/// A host that has just tied waits for less than a dead time.
#[test]
fn what_arrived_before_it_listened_is_no_reason_for_doubt() {
    let mut host = doubting();
    let gone = host.hears(BOW_OUT, BOW_OUT, 0);
    host.handle(Input::Advert(gone));
    host = host.later(A_MOMENT);
    let equal = host.hears(1, 100, 0);
    host.handle(Input::Advert(equal));
    let due = host.engine.poll_timeout();
    host.handle(Input::Doubtful(START.before(A_MOMENT)));
    assert_eq!((host.state(), host.engine.poll_timeout()), (State::Backup, due));
    host.handle(Input::Doubtful(START));
    assert_eq!(host.engine.poll_timeout(), Some(START.after(DEAD)));
}
