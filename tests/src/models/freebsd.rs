//! FreeBSD's `sys/netinet/ip_carp.c` since version 10, one virtual host at the multicast groups.
//!
//! pfSense and OPNsense run it.

use std::net::IpAddr;
use std::time::Duration;

use super::wire::{self, Header};
use super::{Config, DownTimers, Family, Output, Peer, Random, Reason, Refusal, State, interval, skew_time};
use crate::adverts::Election;

/// The most that it advertises, demoted or not: an advskew of 254, as in pfSense's maintenance mode, leaves as 240.
const MOST_SKEW: i32 = 240;

/// One vhid on an interface.
pub struct FreeBsd {
    config: Config,
    state: State,
    /// Added to advskew.
    demotion: i32,
    /// The last counter sent or heard; at random until an advert is heard.
    counter: Option<u64>,
    random: Random,
    next_advert: Option<Duration>,
    down: DownTimers,
    stopped: bool,
    outputs: Vec<Output>,
}

impl FreeBsd {
    /// It is configured, and its interface is up. (FreeBSD takes no advbase of 0.)
    pub fn new(config: Config, now: Duration) -> Self {
        let mut new = Self {
            state: State::Init,
            demotion: 0,
            counter: None,
            random: Random(config.seed),
            next_advert: None,
            down: DownTimers::default(),
            stopped: false,
            outputs: vec![],
            config,
        };
        new.start(now);
        new
    }

    fn start(&mut self, now: Duration) {
        if self.stopped || self.state != State::Init {
            return;
        }
        self.change(State::Backup, Reason::Started);
        self.restart_all(now);
    }

    /// The checks in their order. There is none for its own adverts.
    fn judge(&self, family: Family, ttl: u8, payload: &[u8]) -> Result<Header, Refusal> {
        if self.state == State::Init || !self.config.has_vips_of(family) {
            return Err(Refusal::Deaf);
        }
        let header = Header::read(payload).ok_or(Refusal::Length)?;
        if !wire::adds_up(payload) {
            return Err(Refusal::Sum);
        }
        if header.vhid != self.config.vhid {
            return Err(Refusal::Vhid);
        }
        if header.version != wire::VERSION {
            return Err(Refusal::Version);
        }
        if ttl != wire::TTL {
            return Err(Refusal::Ttl);
        }
        let Config { ref passphrase, vhid, ref vips, .. } = self.config;
        if wire::digest(passphrase, vhid, vips, header.counter) != header.digest {
            return Err(Refusal::Digest);
        }
        Ok(header)
    }

    fn hear(&mut self, now: Duration, family: Family, peer: Header) {
        self.counter = Some(peer.counter);
        let mine = interval(self.config.advbase, self.advertised_skew());
        let its = interval(peer.advbase, peer.advskew);
        match self.state {
            State::Init => {}
            State::Master => {
                if mine >= its {
                    self.next_advert = None;
                    self.change(State::Backup, Reason::Yields);
                    self.restart_all(now);
                }
            }
            State::Backup => {
                let patience = mine + Duration::from_secs(2 * u64::from(self.config.advbase));
                if self.config.preempt && mine < its {
                    self.take_over(now, Reason::Preempts);
                } else if patience < its {
                    self.take_over(now, Reason::MasterTooSlow);
                } else {
                    self.down.set(family, now + self.dead_time());
                }
            }
        }
    }

    fn take_over(&mut self, now: Duration, reason: Reason) {
        self.down = DownTimers::default();
        self.change(State::Master, reason);
        self.advertise(now);
        for family in Family::BOTH {
            let vips = self.config.vips.iter().filter(|vip| Family::of(**vip) == family);
            self.outputs.extend(vips.map(|vip| Output::Announcement(*vip)));
        }
        // Once, the demotion does not count for when it advertises, only for what.
        self.next_advert = Some(now + interval(self.config.advbase, self.config.advskew));
    }

    /// Advertises in both families as far as it has VIPs of them, and sets the timer for the next time.
    fn advertise(&mut self, now: Duration) {
        let Config { advbase, source, source6, .. } = self.config;
        let advskew = self.advertised_skew();
        for (family, source) in Family::BOTH.into_iter().zip([IpAddr::V4(source), IpAddr::V6(source6)]) {
            if !self.config.has_vips_of(family) {
                continue;
            }
            let counter = self.next_counter();
            let Config { ref passphrase, vhid, ref vips, .. } = self.config;
            let election = Election { advbase, advskew, demote: 0 };
            let payload = wire::signed(passphrase, vhid, vips, election, counter).to_vec();
            self.outputs.push(Output::Advert { source, destination: family.group(), ttl: wire::TTL, payload });
        }
        self.next_advert = Some(now + interval(advbase, advskew));
    }

    fn next_counter(&mut self) -> u64 {
        let Some(last) = &mut self.counter else { return self.random.next() };
        *last = last.wrapping_add(1);
        *last
    }

    fn restart_all(&mut self, now: Duration) {
        for family in Family::BOTH {
            if self.config.has_vips_of(family) {
                self.down.set(family, now + self.dead_time());
            }
        }
    }

    fn leave(&mut self, reason: Reason) {
        self.next_advert = None;
        self.down = DownTimers::default();
        self.change(State::Init, reason);
    }

    fn change(&mut self, to: State, reason: Reason) {
        if self.state != to {
            self.outputs.push(Output::Change { from: self.state, to, reason });
            self.state = to;
        }
    }

    fn advertised_skew(&self) -> u8 {
        self.demotion.saturating_add(self.config.advskew.into()).clamp(0, MOST_SKEW) as u8
    }

    /// Without the demotion, and without the bound on the skew.
    fn dead_time(&self) -> Duration {
        Duration::from_secs(3 * u64::from(self.config.advbase)) + skew_time(self.config.advskew.into())
    }
}

impl Peer for FreeBsd {
    fn state(&self) -> State {
        self.state
    }

    fn receive(&mut self, now: Duration, source: IpAddr, ttl: u8, payload: &[u8]) {
        let family = Family::of(source);
        match self.judge(family, ttl, payload) {
            Ok(header) => self.hear(now, family, header),
            Err(refusal) => self.outputs.push(Output::Refusal(refusal)),
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        [self.next_advert, self.down.next()].into_iter().flatten().min()
    }

    fn expire(&mut self, now: Duration) {
        if self.down.next().is_some_and(|deadline| deadline <= now) {
            self.take_over(now, Reason::Silence);
        }
        if self.next_advert.is_some_and(|deadline| deadline <= now) {
            self.advertise(now);
        }
    }

    fn link_down(&mut self, _: Duration) {
        self.leave(Reason::LinkDown);
    }

    fn link_up(&mut self, now: Duration) {
        self.start(now);
    }

    /// `sysctl net.inet.carp.demotion=`, which adds. A master advertises any change at once.
    fn demote(&mut self, now: Duration, by: i32) {
        self.demotion = self.demotion.saturating_add(by);
        if self.state == State::Master {
            self.advertise(now);
        }
    }

    /// A shutdown, or the vhid's last address is removed: without a word.
    fn stop(&mut self, _: Duration) {
        self.stopped = true;
        self.leave(Reason::Stopped);
    }

    fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{adverts, changes, hear, ms, run};
    use super::*;

    fn dual_stack(advskew: u8) -> Config {
        let vips = ["10.77.0.100", "fe80::64"].map(|vip| vip.parse().unwrap()).to_vec();
        Config { vips, ..Config::host(1, advskew) }
    }

    fn master(config: Config) -> (FreeBsd, Duration) {
        let mut peer = FreeBsd::new(config, Duration::ZERO);
        let now = peer.next_deadline().unwrap();
        peer.expire(now);
        assert_eq!(peer.state(), State::Master);
        peer.take_outputs();
        (peer, now)
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
        let counters =
            |done: &[(Duration, Output)]| adverts(done).iter().map(|(_, sent)| sent.counter).collect::<Vec<_>>();
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
}
