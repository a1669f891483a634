use super::super::testing::{adverts, captured, changes, hear, ms, run};
use super::*;

const SLACK: Duration = Duration::from_millis(2);

/// What arrives is handed over 500 ms after each second.
fn ucarp(config: Config) -> Ucarp {
    let mut peer = Ucarp::new(Config { seed: 500_000, ..config }, Duration::ZERO);
    assert_eq!(changes(&peer.take_outputs()), [(State::Backup, Reason::Started)]);
    peer
}

fn master(config: Config) -> (Ucarp, Duration) {
    let mut peer = ucarp(config);
    while peer.state() == State::Backup {
        let now = peer.next_deadline().unwrap();
        peer.expire(now);
    }
    peer.take_outputs();
    let now = peer.wakes - ms(1);
    (peer, now)
}

/// Until it has announced all that it does for having taken over.
fn past_its_announcements(peer: &mut Ucarp, now: Duration) -> Duration {
    run(peer, now + ms(4000)).last().unwrap().0
}

fn announcements(done: &[(Duration, Output)]) -> Vec<u64> {
    let only = done.iter().filter(|(_, output)| matches!(output, Output::Announcement(_)));
    only.map(|(at, _)| at.as_millis() as u64 / 100).collect()
}

#[test]
fn it_sends_what_was_captured_of_a_real_one() {
    for (vhid, passphrase, payloads) in captured() {
        for expected in payloads {
            let Header { advbase, advskew, counter, .. } = Header::read(&expected).unwrap();
            let passphrase = passphrase.to_owned();
            let mut peer = ucarp(Config { vhid, passphrase, advbase, ..Config::host(1, advskew) });
            peer.counter = Some(counter.wrapping_sub(1));
            peer.advertise(ms(0));
            let Some(Output::Advert { payload, .. }) = peer.take_outputs().pop() else { panic!("no advert") };
            assert_eq!(payload, expected, "{vhid}");
        }
    }
}

#[test]
fn it_takes_over_after_a_whole_number_of_its_own_intervals() {
    // advbase, advskew and dead ratio; milliseconds of three, or as many as it takes, of its intervals.
    let table = [
        (1, 0, 3, 3 * 1000),
        (1, 100, 3, 3 * 1390),
        (1, 240, 3, 3 * 1937),
        (2, 0, 3, 3 * 2000),
        (1, 0, 1, 1000),
        (1, 96, 1, 1375),
    ];
    for (advbase, advskew, dead_ratio, expected) in table {
        let mut peer = ucarp(Config { advbase, dead_ratio, ..Config::host(1, advskew) });
        let sent = adverts(&run(&mut peer, ms(12_000)));
        let late = sent[0].0 - ms(expected);
        assert!(late < SLACK, "{advbase} {advskew} {dead_ratio}: {:?}", sent[0].0);
        let wait = sent[1].0 - sent[0].0;
        assert!(wait.abs_diff(interval(advbase, advskew)) < SLACK, "{advbase} {advskew}: {wait:?}");
        assert!(sent.iter().all(|(_, sent)| (sent.advbase, sent.advskew, sent.demote) == (advbase, advskew, 0)));
    }
}

#[test]
fn what_it_makes_of_an_advert_that_libpcap_hands_over() {
    use Reason::{MasterTooSlow, Preempts, Yields};
    use State::{Backup, Master};
    // State, own advskew, whether demoted, preempt; what it hears; what it does.
    let table = [
        (Master, 100, false, false, Election::new(1, 99), Some((Backup, Yields))),
        (Master, 100, false, false, Election::new(1, 101), None),
        (Master, 100, true, false, Election::new(1, 239), Some((Backup, Yields))),
        (Master, 100, false, false, Election { advbase: 1, advskew: 99, demote: 9 }, Some((Backup, Yields))),
        (Backup, 100, false, false, Election::new(1, 200), None),
        (Backup, 100, false, true, Election::new(1, 101), Some((Master, Preempts))),
        (Backup, 100, false, true, Election::new(1, 100), None),
        (Backup, 100, true, true, Election::new(1, 240), None),
        (Backup, 100, false, false, Election::new(3, 100), None),
        (Backup, 100, false, false, Election::new(3, 101), Some((Master, MasterTooSlow))),
        (Backup, 100, false, false, Election::new(255, 255), Some((Master, MasterTooSlow))),
    ];
    for (state, advskew, demoted, preempt, heard, expected) in table {
        let config = Config { preempt, ..Config::host(1, advskew) };
        let (mut peer, now) = if state == Master { master(config) } else { (ucarp(config), ms(200)) };
        peer.demote(now, demoted.into());
        peer.take_outputs();
        hear(&mut peer, now, heard, 1);
        assert_eq!((peer.state(), peer.take_outputs()), (state, vec![]), "not yet");
        let handed_over = peer.handed_over;
        assert!(handed_over - now <= CAPTURE_INTERVAL && handed_over.subsec_millis() == 500);
        let done: Vec<_> = run(&mut peer, handed_over).into_iter().map(|(_, output)| output).collect();
        assert_eq!(changes(&done), Vec::from_iter(expected), "{state:?} {advskew} {demoted} {preempt}, {heard:?}");
        if state == Backup && expected.is_none() {
            assert_eq!(peer.down, Some(handed_over + ms(3000) + skew_time(100)), "the timer restarts");
        }
    }
}

#[test]
fn a_tie_goes_to_the_address_whose_last_byte_is_lower() {
    let own = Config::host(2, 0);
    for (peer, wins) in
        [([10, 77, 0, 1], true), ([10, 77, 0, 3], false), ([10, 76, 0, 3], false), ([10, 78, 0, 1], true)]
    {
        let (mut ucarp, now) = master(own.clone());
        let now = past_its_announcements(&mut ucarp, now);
        let advert = wire::signed(&own.passphrase, 1, &own.vips, Election::new(1, 0), 1);
        ucarp.receive(now, IpAddr::from(peer), 255, &advert);
        let done = run(&mut ucarp, now + ms(1000));
        assert_eq!(ucarp.state() == State::Backup, wins, "{peer:?}");
        assert_eq!(announcements(&done).is_empty(), wins, "who stays announces again");
    }
}

#[test]
fn who_yields_sends_a_last_advert_and_who_stays_announces_at_once_and_with_the_second_next_advert() {
    let (mut peer, now) = master(Config::host(1, 100));
    let now = past_its_announcements(&mut peer, now);
    hear(&mut peer, now, Election::new(1, 200), 1000);
    let heard = peer.handed_over;
    let done = run(&mut peer, heard + ms(5000));
    let sent = adverts(&done);
    assert_eq!(sent.iter().map(|(_, sent)| sent.counter).collect::<Vec<_>>(), [1001, 1002, 1003]);
    let expected = [heard, sent[1].0].map(|at| at.as_millis() as u64 / 100);
    assert_eq!(announcements(&done), expected);

    hear(&mut peer, heard + ms(5000), Election::new(1, 0), 2000);
    let done = run(&mut peer, heard + ms(6000));
    let last = adverts(&done).pop().unwrap();
    assert_eq!((last.0, last.1.counter, peer.state()), (peer.handed_over, 2001, State::Backup));
}

#[test]
fn counters_are_at_random_until_it_hears_an_advert() {
    let (mut peer, now) = master(Config::host(1, 0));
    let sent: Vec<_> = adverts(&run(&mut peer, now + ms(3000))).iter().map(|(_, sent)| sent.counter).collect();
    assert!(sent.len() >= 3 && sent.windows(2).all(|pair| pair[0].abs_diff(pair[1]) > 1 << 32), "{sent:?}");
}

#[test]
fn it_announces_before_its_first_advert_and_with_the_third() {
    let mut peer = ucarp(Config::host(1, 0));
    let done = run(&mut peer, ms(7000));
    assert!(matches!(done[1].1, Output::Announcement(_)), "{done:?}");
    assert_eq!((announcements(&done), adverts(&done).len()), (vec![30, 50], 4));
}

#[test]
fn its_own_adverts_are_known_by_the_source_and_ipv6_is_not_heard() {
    let mut peer = ucarp(Config::host(9, 0));
    hear(&mut peer, ms(100), Election::new(1, 0), 1);
    assert_eq!(run(&mut peer, ms(500)), [(ms(500), Output::Refusal(Refusal::Echo))]);
    peer.receive(ms(600), Config::host(1, 0).source6.into(), 255, &[]);
    assert_eq!(peer.take_outputs(), [Output::Refusal(Refusal::Deaf)]);
}

#[test]
fn a_lost_carrier_makes_it_a_backup_at_its_next_turn_that_looks_again_in_ten_seconds() {
    let (mut peer, now) = master(Config::host(1, 0));
    peer.link_down(now);
    assert_eq!(peer.state(), State::Master);
    let turn = peer.next_deadline().unwrap();
    let done: Vec<_> = run(&mut peer, turn).into_iter().map(|(_, output)| output).collect();
    assert_eq!(changes(&done), [(State::Backup, Reason::LinkDown)]);
    peer.link_up(turn + ms(1));
    assert_eq!(peer.next_deadline(), Some(turn + ms(10_000)));
    let done = run(&mut peer, turn + ms(13_100));
    assert_eq!(done[0].1, Output::Change { from: State::Backup, to: State::Master, reason: Reason::Silence });
    assert!(done[0].0 - turn >= ms(13_000));
}

#[test]
fn a_demoted_master_says_at_once_that_its_skew_is_240_and_a_stop_is_silent() {
    let (mut peer, now) = master(Config::host(1, 100));
    peer.demote(now, 1);
    let done: Vec<_> = peer.take_outputs().into_iter().map(|output| (now, output)).collect();
    assert_eq!(adverts(&done)[0].1.advskew, DEMOTED_SKEW);
    peer.demote(now, -1);
    peer.stop(now);
    assert_eq!(changes(&peer.take_outputs()), [(State::Init, Reason::Stopped)]);
    assert_eq!(peer.next_deadline(), None);
}
