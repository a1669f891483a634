use super::super::testing::ms;
use super::super::{Config, FreeBsd};
use super::*;

/// Two hosts, of which the first is preferred and preempts, and is MASTER since 3 s.
fn pair() -> Lan {
    let mut lan = Lan::new(Duration::from_micros(200));
    for (number, advskew) in [(1, 0), (2, 100)] {
        let config = Config { preempt: true, ..Config::host(number, advskew) };
        lan.add(Box::new(FreeBsd::new(config, lan.now())));
    }
    lan.run_for(ms(3500));
    assert_eq!((lan.masters(), lan.unchanged_since()), (vec![0], ms(3000)));
    lan
}

/// When that happens: 3.390625 s after an advert that is sent at a full second and takes 200 us.
const TAKEOVER: Duration = Duration::from_micros(3_390_825);

#[test]
fn a_host_that_crashes_is_missed_and_one_that_boots_is_back() {
    let mut lan = pair();
    lan.crash(0);
    lan.run_for(ms(3500));
    assert_eq!((lan.masters(), lan.unchanged_since()), (vec![1], ms(3000) + TAKEOVER));
    let none = Moment { at: ms(3500), masters: vec![] };
    assert!(lan.moments().contains(&none));
    let config = Config { preempt: true, ..Config::host(1, 0) };
    lan.boot(0, Box::new(FreeBsd::new(config, lan.now())));
    lan.run_for(ms(3000));
    assert_eq!(lan.masters(), [0]);
    let last = lan.announcements().last().unwrap();
    assert_eq!(last.host, 0);
}

#[test]
fn a_split_makes_two_masters_and_one_remains_when_it_heals() {
    let mut lan = pair();
    lan.split(&[1]);
    lan.run_for(ms(4000));
    assert_eq!((lan.masters(), lan.unchanged_since()), (vec![0, 1], ms(3000) + TAKEOVER));
    lan.heal();
    lan.run_for(ms(2000));
    assert_eq!((lan.masters(), lan.unchanged_since()), (vec![0], ms(8000) + lan.latency));
}

#[test]
fn a_host_without_a_carrier_knows_it_and_is_not_heard() {
    let mut lan = pair();
    lan.cut(0);
    assert!(lan.masters().is_empty());
    lan.run_for(ms(4000));
    assert_eq!(lan.masters(), [1]);
    lan.mend(0);
    lan.run_for(ms(3000));
    assert_eq!(lan.masters(), [0]);
}

#[test]
fn a_host_that_is_stopped_or_demoted_is_not_master() {
    let mut lan = pair();
    lan.demote(0, 240);
    lan.run_for(ms(500));
    assert_eq!(lan.masters(), [1]);
    lan.stop(1);
    assert!(lan.masters().is_empty());
    lan.run_for(ms(4000));
    assert_eq!(lan.masters(), [0]);
}
