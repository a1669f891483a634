use super::super::testing::{adverts, become_master, changes, hear, ms, run};
use super::*;

fn election(advbase: u8, advskew: u8, demote: u8) -> Election {
    Election { advbase, advskew, demote }
}

fn dual_stack() -> Config {
    let vips = ["10.77.0.100", "fd77::64", "fe80::64"].map(|vip| vip.parse().unwrap()).to_vec();
    Config { vips, ..Config::host(1, 0) }
}

fn master(config: Config) -> (OpenBsd, Duration) {
    become_master(OpenBsd::new(config, Duration::ZERO))
}

#[test]
fn it_takes_over_after_its_master_down_time_and_advertises_at_its_interval() {
    // advbase, advskew, then microseconds.
    let table = [
        (1, 0, 3_000_000, 1_000_000),
        (1, 100, 3_390_625, 1_390_625),
        (2, 254, 6_992_187, 2_992_187),
        (0, 60, 703_125, 234_375),
        (0, 254, 2_976_562, 992_187),
        (0, 0, 11_718, 3_906),
    ];
    for (advbase, advskew, dead_time, interval) in table {
        let config = Config { advbase, ..Config::host(1, advskew) };
        let (mut peer, now) = master(config);
        assert_eq!(now, Duration::from_micros(dead_time), "{advbase} {advskew}");
        let next = peer.next_deadline().unwrap();
        assert_eq!(next - now, Duration::from_micros(interval), "{advbase} {advskew}");
        let sent = adverts(&run(&mut peer, next + (next - now)));
        assert_eq!(sent.len(), 2);
        assert!(sent.iter().all(|(_, advert)| (advert.advbase, advert.advskew) == (advbase, advskew)));
    }
}

#[test]
fn timers_go_off_with_the_clocks_ticks() {
    // Ticks at 3 ms, 13 ms and so on.
    let ticking = Config { tick: ms(10), seed: 3_000, ..Config::host(1, 0) };
    let (mut peer, now) = master(ticking.clone());
    assert_eq!((now, peer.next_deadline()), (ms(3003), Some(ms(4003))));
    peer.expire(ms(4003));
    assert_eq!(peer.next_deadline(), Some(ms(5003)));
    let (peer, now) = master(Config { advbase: 0, ..ticking });
    assert_eq!((now, peer.next_deadline()), (ms(13), Some(ms(23))));
}

#[test]
fn what_it_makes_of_an_advert() {
    use Reason::{MasterDemoted, MasterTooSlow, Preempts, Yields};
    use State::{Backup, Master};
    // State, own advskew, demotion and preempt; what it hears; what it does.
    let table = [
        (Master, 100, 0, false, election(1, 99, 0), Some((Backup, Yields))),
        (Master, 100, 0, false, election(1, 100, 0), Some((Backup, Yields))),
        (Master, 100, 0, false, election(1, 101, 0), None),
        (Master, 100, 0, false, election(1, 0, 1), None),
        (Master, 100, 1, false, election(1, 0, 1), Some((Backup, Yields))),
        (Master, 100, 1, false, election(1, 200, 0), Some((Backup, Yields))),
        (Master, 100, 0, false, election(255, 255, 0), None),
        (Backup, 100, 0, false, election(1, 200, 0), None),
        (Backup, 100, 0, true, election(1, 200, 0), Some((Master, Preempts))),
        (Backup, 100, 0, true, election(1, 100, 0), None),
        (Backup, 100, 1, true, election(1, 200, 0), None),
        (Backup, 100, 1, true, election(1, 200, 1), Some((Master, Preempts))),
        (Backup, 100, 0, false, election(1, 0, 1), Some((Master, MasterDemoted))),
        (Backup, 100, 1, false, election(1, 0, 1), None),
        (Backup, 100, 0, false, election(3, 100, 0), None),
        (Backup, 100, 0, false, election(3, 101, 0), Some((Master, MasterTooSlow))),
        (Backup, 100, 0, false, election(255, 255, 0), Some((Master, MasterTooSlow))),
    ];
    for (state, advskew, demotion, preempt, heard, expected) in table {
        let config = Config { preempt, ..Config::host(1, advskew) };
        let (mut peer, now) = if state == Master { master(config) } else { (OpenBsd::new(config, ms(0)), ms(500)) };
        peer.demote(now, demotion);
        peer.take_outputs();
        hear(&mut peer, now, heard, 1);
        let case = format!("{state:?} {advskew} {demotion} {preempt}, {heard:?}");
        assert_eq!(changes(&peer.take_outputs()), Vec::from_iter(expected), "{case}");
        let stays_backup = state == Backup && expected.is_none();
        let expected = now + peer.dead_time();
        assert!(!stays_backup || peer.next_deadline() == Some(expected), "{case}: the timer restarts");
    }
}

#[test]
fn without_an_advbase_it_takes_no_advert_for_too_slow() {
    let mut peer = OpenBsd::new(Config { advbase: 0, ..Config::host(1, 60) }, ms(0));
    hear(&mut peer, ms(1), election(255, 255, 0), 1);
    assert_eq!(peer.state(), State::Backup);
}

#[test]
fn a_master_that_is_stopped_bows_out_in_both_families_and_a_backup_is_silent() {
    let (mut peer, now) = master(dual_stack());
    peer.stop(now);
    let done: Vec<_> = peer.take_outputs().into_iter().map(|output| (now, output)).collect();
    let sent = adverts(&done);
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|(_, advert)| (advert.advbase, advert.advskew) == (255, 255)));
    assert_eq!((peer.state(), peer.next_deadline()), (State::Init, None));

    let mut peer = OpenBsd::new(dual_stack(), ms(0));
    peer.take_outputs();
    peer.stop(ms(1));
    assert_eq!(peer.take_outputs().len(), 1);
}

#[test]
fn all_adverts_have_one_counter_by_which_it_knows_its_own() {
    let (mut peer, now) = master(dual_stack());
    let sent = adverts(&run(&mut peer, now + ms(3000)));
    assert_eq!(sent.len(), 6);
    assert!(sent.iter().all(|(_, advert)| advert.counter == peer.cookie));
    let own = sent[0].1.to_bytes();
    peer.receive(now, peer.config.source.into(), wire::TTL, &own);
    assert_eq!(peer.take_outputs(), [Output::Refusal(Refusal::Echo)]);
}

#[test]
fn it_leaves_link_local_vips_out_of_the_digest_and_takes_both_forms() {
    let (mut peer, now) = master(dual_stack());
    let vips = dual_stack().vips;
    let (_, advert) = adverts(&run(&mut peer, now + ms(1000)))[0];
    assert_eq!(advert.digest, wire::digest(&peer.config.passphrase, 1, &vips[..2], advert.counter));
    for (hashed, refusal) in [(&vips[..], None), (&vips[..2], None), (&vips[..1], Some(Refusal::Digest))] {
        let advert = wire::signed(&peer.config.passphrase, 1, hashed, Election::new(1, 1), 1);
        peer.receive(now, dual_stack().source6.into(), wire::TTL, &advert);
        assert_eq!(peer.take_outputs(), Vec::from_iter(refusal.map(Output::Refusal)));
    }
}

#[test]
fn either_family_that_falls_silent_makes_it_master() {
    let mut peer = OpenBsd::new(dual_stack(), ms(0));
    peer.take_outputs();
    let advert = wire::signed(&peer.config.passphrase, 1, &dual_stack().vips, Election::new(1, 0), 1);
    peer.receive(ms(1000), peer.config.source.into(), wire::TTL, &advert);
    assert_eq!(run(&mut peer, ms(2999)), []);
    let done = run(&mut peer, ms(3000));
    assert_eq!(done[0].1, Output::Change { from: State::Backup, to: State::Master, reason: Reason::Silence });
}

#[test]
fn it_announces_after_the_first_advert_and_for_ipv4_with_the_second_next() {
    let mut peer = OpenBsd::new(dual_stack(), ms(0));
    peer.take_outputs();
    let done = run(&mut peer, ms(7000));
    let kinds: Vec<_> =
        done.iter().map(|(at, output)| (at.as_secs(), matches!(output, Output::Announcement(_)))).collect();
    let [advert, announcement] = [false, true];
    let expected = [
        vec![(3, advert); 3], // The change, and an advert for each family.
        vec![(3, announcement); 3],
        vec![(4, advert), (4, advert), (5, advert), (5, announcement), (5, advert)],
        vec![(6, advert), (6, advert), (7, advert), (7, advert)],
    ];
    assert_eq!(kinds, expected.concat());
}

#[test]
fn demotion_is_advertised_at_once_and_so_is_its_half_but_not_its_end() {
    let (mut peer, now) = master(Config::host(1, 0));
    for (by, sent) in [(2, 1), (-1, 1), (-1, 0), (300, 1)] {
        peer.demote(now, by);
        let done: Vec<_> = peer.take_outputs().into_iter().map(|output| (now, output)).collect();
        assert_eq!(adverts(&done).len(), sent, "{by}");
    }
    assert_eq!(adverts(&run(&mut peer, now + ms(1000)))[0].1.demote, 255);
}

#[test]
fn without_a_carrier_it_is_deaf_and_begins_as_a_backup_again() {
    let (mut peer, now) = master(Config::host(1, 0));
    peer.link_down(now);
    hear(&mut peer, now, Election::new(1, 0), 1);
    let deaf = [
        Output::Change { from: State::Master, to: State::Init, reason: Reason::LinkDown },
        Output::Refusal(Refusal::Deaf),
    ];
    assert_eq!((peer.take_outputs(), peer.next_deadline()), (deaf.to_vec(), None));
    peer.link_up(now);
    assert_eq!(changes(&peer.take_outputs()), [(State::Backup, Reason::Started)]);
    assert_eq!(peer.next_deadline(), Some(now + ms(3000)));
}

#[test]
fn the_first_thing_that_is_wrong_is_why_an_advert_is_refused() {
    let good = wire::signed("open sesame", 1, &Config::host(1, 0).vips, Election::new(1, 0), 1);
    let with = |byte: usize, value: u8| {
        let mut advert = good;
        advert[byte] = value;
        let header = Header::read(&advert).unwrap();
        header.to_bytes()
    };
    let mut bad_sum = good;
    bad_sum[6] ^= 1;
    let table: [(u8, &[u8], Refusal); 7] = [
        (254, &good[..35], Refusal::Ttl),
        (255, &good[..35], Refusal::Length),
        (255, &bad_sum, Refusal::Sum),
        (255, &with(1, 2), Refusal::Vhid),
        (255, &with(0, 0x31), Refusal::Version),
        (255, &with(16, !good[16]), Refusal::Digest),
        (255, &with(15, 2), Refusal::Digest),
    ];
    let mut peer = OpenBsd::new(Config::host(1, 0), ms(0));
    for (ttl, payload, refusal) in table {
        peer.take_outputs();
        peer.receive(ms(1), Config::host(9, 0).source.into(), ttl, payload);
        assert_eq!(peer.take_outputs(), [Output::Refusal(refusal)]);
    }
    peer.receive(ms(1), Config::host(9, 0).source6.into(), 255, &good);
    assert_eq!(peer.take_outputs(), [Output::Refusal(Refusal::Deaf)]);
}
