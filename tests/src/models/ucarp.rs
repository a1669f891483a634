//! ucarp 1.5.2, as Debian 12 has it (git 1a9aaf7), on a little-endian machine.
//!
//! Its whole work is one loop around poll(2). What others notice of that:
//! - It hears through libpcap, which hands over what has arrived once a second: the advert that another host sends may
//!   count up to a second later.
//! - A backup looks at its timer when a packet is handed over or an interval of its own has passed, so that it takes
//!   over after a whole number of intervals, counted from the last advert that it was handed.
//! - A carrier that is lost is noticed at the next turn of the loop, and looked for again every ten seconds. It is a
//!   BACKUP meanwhile, and what arrives after the carrier is back waits.
//!
//! Left out: scripts take no time, and the wall clock is not set.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::wire::{self, Header};
use super::{Config, Family, Output, Peer, Random, Reason, Refusal, State, interval, skew_time};
use crate::adverts::Election;

/// What it advertises, unless that is less preferred still, while it is demoted.
const DEMOTED_SKEW: u8 = 240;
/// The timeout that it gives to libpcap.
const CAPTURE_INTERVAL: Duration = Duration::from_secs(1);
/// How long it sleeps without a carrier.
const CARRIER_INTERVAL: Duration = Duration::from_secs(10);
/// How late poll(2) returns: Linux's timer slack, and waking up.
const POLL_IS_LATE: Duration = Duration::from_micros(100);
/// It advertises if less than this is left: what is below a millisecond of the time left is cut off.
const NEARLY: Duration = Duration::from_millis(2);

/// A running ucarp.
pub struct Ucarp {
    config: Config,
    vip: Ipv4Addr,
    state: State,
    /// How many reasons there are to be demoted.
    suppressed: i32,
    /// The last counter sent or heard; at random until an advert is heard.
    counter: Option<u64>,
    random: Random,
    next_advert: Option<Duration>,
    down: Option<Duration>,
    /// Adverts until the second gratuitous ARP.
    delayed_arp: Option<u32>,
    carrier: bool,
    /// Whether it sleeps until the carrier is back.
    asleep: bool,
    /// When poll(2), or the sleep, is over.
    wakes: Duration,
    /// What has arrived and not been handed over, and when it will be.
    captured: Vec<(Ipv4Addr, u8, Vec<u8>)>,
    handed_over: Duration,
    outputs: Vec<Output>,
}

impl Ucarp {
    /// It starts; of the VIPs it has the first, which is of IPv4.
    pub fn new(config: Config, now: Duration) -> Self {
        let first = config.vips.iter().find_map(|vip| if let IpAddr::V4(v4) = vip { Some(*v4) } else { None });
        let mut new = Self {
            vip: first.expect("ucarp has one VIP, of IPv4"),
            state: State::Init,
            suppressed: 0,
            counter: None,
            random: Random(config.seed),
            next_advert: None,
            down: None,
            delayed_arp: None,
            carrier: true,
            asleep: false,
            wakes: now,
            captured: vec![],
            handed_over: now + Duration::from_micros(config.seed % 1_000_000),
            outputs: vec![],
            config,
        };
        new.change(State::Backup, Reason::Started);
        new.restart(now);
        new.sleep(now);
        new
    }

    /// The checks in their order; the type and the length of the authentication are not looked at.
    fn judge(&self, source: Ipv4Addr, ttl: u8, payload: &[u8]) -> Result<Header, Refusal> {
        if source == self.config.source {
            return Err(Refusal::Echo);
        }
        let header = Header::read(payload).ok_or(Refusal::Length)?;
        if ttl != wire::TTL {
            return Err(Refusal::Ttl);
        }
        if header.version != wire::VERSION {
            return Err(Refusal::Version);
        }
        if header.vhid != self.config.vhid {
            return Err(Refusal::Vhid);
        }
        if !wire::adds_up(payload) {
            return Err(Refusal::Sum);
        }
        let Config { ref passphrase, vhid, .. } = self.config;
        if wire::digest(passphrase, vhid, &[self.vip.into()], header.counter) != header.digest {
            return Err(Refusal::Digest);
        }
        Ok(header)
    }

    fn hear(&mut self, now: Duration, source: Ipv4Addr, peer: Header) {
        self.counter = Some(peer.counter);
        let advbase = self.config.advbase;
        let mine = interval(advbase, self.advertised_skew());
        let its = interval(peer.advbase, peer.advskew);
        match self.state {
            State::Init => {}
            State::Master => {
                if mine > its || (mine == its && wins(source, self.config.source)) {
                    self.advertise(now);
                    self.change(State::Backup, Reason::Yields);
                    self.restart(now);
                } else {
                    self.announce();
                    self.delayed_arp = Some(2);
                }
            }
            State::Backup => {
                let patience = self.deaf_seconds() + skew_time(self.advertised_skew().into());
                if self.config.preempt && mine < its {
                    self.take_over(now, Reason::Preempts);
                } else if patience < its {
                    self.take_over(now, Reason::MasterTooSlow);
                } else {
                    self.restart(now);
                }
            }
        }
    }

    /// Unlike the others, it announces before it advertises: the up script may take its time.
    fn take_over(&mut self, now: Duration, reason: Reason) {
        self.down = None;
        self.change(State::Master, reason);
        self.announce();
        self.advertise(now);
        self.delayed_arp = Some(2);
    }

    fn advertise(&mut self, now: Duration) {
        let counter = self.next_counter();
        let Config { ref passphrase, vhid, advbase, source, .. } = self.config;
        let advskew = self.advertised_skew();
        let election = Election { advbase, advskew, demote: 0 };
        let payload = wire::signed(passphrase, vhid, &[self.vip.into()], election, counter).to_vec();
        let (source, destination) = (source.into(), Family::V4.group());
        self.outputs.push(Output::Advert { source, destination, ttl: wire::TTL, payload });
        self.next_advert = Some(now + interval(advbase, advskew));

        let Some(left) = self.delayed_arp else { return };
        self.delayed_arp = Some(left - 1).filter(|left| *left > 0);
        if self.delayed_arp.is_none() && self.state == State::Master {
            self.announce();
        }
    }

    fn next_counter(&mut self) -> u64 {
        let Some(last) = &mut self.counter else { return self.random.next() };
        *last = last.wrapping_add(1);
        *last
    }

    fn announce(&mut self) {
        self.outputs.push(Output::Announcement(self.vip.into()));
    }

    /// Waits as a backup from now on.
    fn restart(&mut self, now: Duration) {
        self.next_advert = None;
        self.down = Some(now + self.deaf_seconds() + skew_time(self.config.advskew.into()));
    }

    fn change(&mut self, to: State, reason: Reason) {
        if self.state != to {
            self.outputs.push(Output::Change { from: self.state, to, reason });
            self.state = to;
        }
    }

    /// One turn of the loop after poll(2) or the sleep.
    fn turn(&mut self, now: Duration) {
        if !self.asleep {
            if now >= self.handed_over {
                for (source, ttl, payload) in std::mem::take(&mut self.captured) {
                    match self.judge(source, ttl, &payload) {
                        Ok(header) => self.hear(now, source, header),
                        Err(refusal) => self.outputs.push(Output::Refusal(refusal)),
                    }
                    // Each of them is a turn of the loop.
                    self.look_at_timers(now);
                }
            }
            self.look_at_timers(now);
        }
        if !self.carrier {
            self.change(State::Backup, Reason::LinkDown);
            (self.next_advert, self.down) = (None, None);
            self.asleep = true;
            self.wakes = now + CARRIER_INTERVAL;
            return;
        }
        if self.asleep {
            self.asleep = false;
            self.restart(now);
        }
        self.sleep(now);
    }

    fn look_at_timers(&mut self, now: Duration) {
        if self.down.is_some_and(|deadline| now > deadline) {
            self.take_over(now, Reason::Silence);
        }
        if self.next_advert.is_some_and(|deadline| deadline < now + NEARLY) {
            self.advertise(now);
        }
    }

    /// Until the next advert, or for an interval, in milliseconds.
    fn sleep(&mut self, now: Duration) {
        let Config { advbase, advskew, .. } = self.config;
        let left = match self.next_advert {
            Some(deadline) => deadline.saturating_sub(now).as_millis() as u64,
            None => u64::from(advbase) * 1000 + u64::from(advskew) * 1000 / 256,
        };
        self.wakes = now + Duration::from_millis(left.max(1)) + POLL_IS_LATE;
    }

    fn deaf_seconds(&self) -> Duration {
        Duration::from_secs(u64::from(self.config.advbase) * u64::from(self.config.dead_ratio))
    }

    fn advertised_skew(&self) -> u8 {
        let skew = self.config.advskew;
        if self.suppressed > 0 { skew.max(DEMOTED_SKEW) } else { skew }
    }
}

/// Whether the peer with this address wins a tie: it should be the lower one, but the bytes, which are in the network's
/// order, are compared as a number of the machine, the last one first.
fn wins(peer: Ipv4Addr, own: Ipv4Addr) -> bool {
    u32::from_le_bytes(peer.octets()) < u32::from_le_bytes(own.octets())
}

impl Peer for Ucarp {
    fn state(&self) -> State {
        self.state
    }

    /// It arrives; it counts when libpcap hands it over.
    fn receive(&mut self, now: Duration, source: IpAddr, ttl: u8, payload: &[u8]) {
        let IpAddr::V4(source) = source else {
            self.outputs.push(Output::Refusal(Refusal::Deaf));
            return;
        };
        if self.state == State::Init {
            self.outputs.push(Output::Refusal(Refusal::Deaf));
            return;
        }
        while self.handed_over <= now {
            self.handed_over += CAPTURE_INTERVAL;
        }
        self.captured.push((source, ttl, payload.to_vec()));
    }

    fn next_deadline(&self) -> Option<Duration> {
        if self.state == State::Init {
            return None;
        }
        let wakes_early = !self.asleep && !self.captured.is_empty();
        Some(if wakes_early { self.handed_over.min(self.wakes) } else { self.wakes })
    }

    fn expire(&mut self, now: Duration) {
        if self.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.turn(now);
        }
    }

    fn link_down(&mut self, _: Duration) {
        self.carrier = false;
    }

    fn link_up(&mut self, _: Duration) {
        self.carrier = true;
    }

    /// Adverts that it cannot send are its only reason; a master advertises the first at once.
    fn demote(&mut self, now: Duration, by: i32) {
        let before = self.suppressed;
        self.suppressed = self.suppressed.saturating_add(by).max(0);
        if before == 0 && self.suppressed > 0 && self.state == State::Master {
            self.advertise(now);
            self.sleep(now);
        }
    }

    /// SIGTERM, with `--shutdown`: without a word.
    fn stop(&mut self, _: Duration) {
        self.change(State::Init, Reason::Stopped);
    }

    fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }
}

#[cfg(test)]
mod tests {
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
            (1, 100, 1, 2 * 1390),
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
}
