use super::super::testing::{adverts, become_master, changes, hear, ms, run};
use super::*;

fn dual_stack(advskew: u8) -> Config {
    let vips = ["10.77.0.100", "fe80::64"].map(|vip| vip.parse().unwrap()).to_vec();
    Config { vips, ..Config::host(1, advskew) }
}

fn master(config: Config) -> (FreeBsd, Duration) {
    become_master(FreeBsd::new(config, Duration::ZERO))
}

#[test]
fn what_it_makes_of_an_advert() {
    use Reason::{MasterTooSlow, Preempts, Yields};
    use State::{Backup, Master};
    // State, own advskew, demotion and preempt; what it hears; what it does. OpenBSD's demotion is nothing to it.
    let table = [
        (Master, 100, 0, false, (1, 99, 200), Some((Backup, Yields))),
        (Master, 100, 0, false, (1, 100, 0), Some((Backup, Yields))),
        (Master, 100, 0, false, (1, 101, 0), None),
        (Master, 100, 50, false, (1, 150, 0), Some((Backup, Yields))),
        (Master, 100, -100, false, (1, 1, 0), None),
        (Backup, 100, 0, false, (1, 200, 9), None),
        (Backup, 100, 0, true, (1, 101, 0), Some((Master, Preempts))),
        (Backup, 100, 0, true, (1, 100, 9), None),
        (Backup, 100, 240, true, (1, 240, 0), None),
        (Backup, 100, 0, false, (3, 100, 0), None),
        (Backup, 100, 0, false, (3, 101, 0), Some((Master, MasterTooSlow))),
        (Backup, 100, 240, false, (3, 240, 0), None),
        (Backup, 100, 0, false, (255, 255, 0), Some((Master, MasterTooSlow))),
    ];
    for (state, advskew, demotion, preempt, (base, skew, demote), expected) in table {
        let config = Config { preempt, ..Config::host(1, advskew) };
        let (mut peer, now) = if state == Master { master(config) } else { (FreeBsd::new(config, ms(0)), ms(500)) };
        peer.demote(now, demotion);
        peer.take_outputs();
        hear(&mut peer, now, Election { advbase: base, advskew: skew, demote }, 1);
        let case = format!("{state:?} {advskew} {demotion} {preempt}, {base} {skew} {demote}");
        assert_eq!(changes(&peer.take_outputs()), Vec::from_iter(expected), "{case}");
        let stays_backup = state == Backup && expected.is_none();
        let timer = now + ms(3000) + skew_time(100);
        assert!(!stays_backup || peer.next_deadline() == Some(timer), "{case}: the timer restarts");
    }
}

#[test]
fn counters_are_at_random_until_it_hears_an_advert_and_then_go_on_from_there_in_each_family() {
    let (mut peer, now) = master(dual_stack(0));
    let counters = |done: &[(Duration, Output)]| adverts(done).iter().map(|(_, sent)| sent.counter).collect::<Vec<_>>();
    let sent = counters(&run(&mut peer, now + ms(2000)));
    assert_eq!(sent.len(), 4);
    assert!(sent.windows(2).all(|pair| pair[0].abs_diff(pair[1]) > 1 << 32), "{sent:?}");
    let advert = wire::signed(&peer.config.passphrase, 1, &peer.config.vips, Election::new(1, 200), u64::MAX - 1);
    peer.receive(now + ms(2500), Config::host(9, 0).source.into(), 255, &advert);
    assert_eq!(counters(&run(&mut peer, now + ms(4000))), [u64::MAX, 0, 1, 2]);
}

#[test]
fn it_advertises_its_skew_and_demotion_up_to_240_and_the_first_time_waits_as_if_it_were_not_demoted() {
    // advskew and demotion; what it advertises, and the first two intervals in microseconds.
    let table = [
        (100, 0, 100, [1_390_625, 1_390_625]),
        (100, 50, 150, [1_390_625, 1_585_937]),
        (100, 240, 240, [1_390_625, 1_937_500]),
        (254, 0, 240, [1_992_187, 1_937_500]),
        (100, -200, 0, [1_390_625, 1_000_000]),
    ];
    for (advskew, demotion, expected, intervals) in table {
        let mut peer = FreeBsd::new(Config::host(1, advskew), ms(0));
        peer.demote(ms(0), demotion);
        let sent = adverts(&run(&mut peer, ms(8000)));
        assert!(sent.iter().all(|(_, advert)| (advert.advskew, advert.demote) == (expected, 0)));
        assert_eq!(sent[0].0, ms(3000) + skew_time(advskew.into()), "the demotion is not in its dead time");
        let waits = [1, 2].map(|nth| (sent[nth].0 - sent[nth - 1].0).as_micros());
        assert_eq!(waits, intervals, "{advskew} {demotion}");
    }
}

#[test]
fn timers_go_off_with_the_clocks_ticks_but_for_the_next() {
    // Ticks at 300 us, 1,300 us and so on.
    let (peer, now) = master(Config { tick: ms(1), seed: 300, ..Config::host(1, 0) });
    let expected = [3_001_300, 4_002_300].map(Duration::from_micros);
    assert_eq!([now, peer.next_deadline().unwrap()], expected);
}

#[test]
fn its_own_echo_makes_it_yield() {
    let (mut peer, now) = master(Config::host(1, 0));
    let (at, own) = adverts(&run(&mut peer, now + ms(1000)))[0];
    peer.receive(at, peer.config.source.into(), 255, &own.to_bytes());
    assert_eq!(changes(&peer.take_outputs()), [(State::Backup, Reason::Yields)]);
}

#[test]
fn demotion_is_advertised_at_once_and_so_is_its_end_and_a_stop_is_silent() {
    let (mut peer, now) = master(Config::host(1, 0));
    for by in [240, -240] {
        peer.demote(now, by);
        assert_eq!(peer.take_outputs().len(), 1);
    }
    peer.stop(now);
    let leaves = Output::Change { from: State::Master, to: State::Init, reason: Reason::Stopped };
    assert_eq!((peer.take_outputs(), peer.next_deadline()), (vec![leaves], None));
}

#[test]
fn its_digest_covers_link_local_vips_and_it_takes_no_other_form() {
    let mut peer = FreeBsd::new(dual_stack(0), ms(0));
    peer.take_outputs();
    let vips = peer.config.vips.clone();
    for (hashed, refusal) in [(&vips[..], None), (&vips[..1], Some(Refusal::Digest))] {
        let advert = wire::signed(&peer.config.passphrase, 1, hashed, Election::new(1, 0), 1);
        peer.receive(ms(1), Config::host(9, 0).source6.into(), 255, &advert);
        assert_eq!(peer.take_outputs(), Vec::from_iter(refusal.map(Output::Refusal)));
    }
}

#[test]
fn the_ttl_is_looked_at_after_the_vhid_and_before_the_digest() {
    let mut peer = FreeBsd::new(Config::host(1, 0), ms(0));
    peer.take_outputs();
    let vips = Config::host(1, 0).vips;
    for (passphrase, vhid, refusal) in [("another", 1, Refusal::Ttl), ("another", 2, Refusal::Vhid)] {
        let advert = wire::signed(passphrase, vhid, &vips, Election::new(1, 0), 1);
        peer.receive(ms(1), Config::host(9, 0).source.into(), 254, &advert);
        assert_eq!(peer.take_outputs(), [Output::Refusal(refusal)]);
    }
}

#[test]
fn it_takes_over_when_either_family_falls_silent_and_announces_each_vip_once() {
    let mut peer = FreeBsd::new(dual_stack(0), ms(0));
    peer.take_outputs();
    let advert = wire::signed(&peer.config.passphrase, 1, &peer.config.vips, Election::new(1, 0), 1);
    peer.receive(ms(1000), Config::host(9, 0).source6.into(), 255, &advert);
    assert_eq!(run(&mut peer, ms(2999)), []);
    let done = run(&mut peer, ms(6000));
    let announced: Vec<_> = done.iter().filter(|(_, output)| matches!(output, Output::Announcement(_))).collect();
    assert_eq!(announced.len(), 2);
    assert!(announced.iter().all(|(at, _)| *at == ms(3000)));
}
