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
use super::{Config, Family, Output, Peer, Reason, Refusal, State, interval, skew_time};
use crate::adverts::Election;
use crate::random::SplitMix64;

/// What it advertises, unless that is less preferred still, while it is demoted.
const DEMOTED_SKEW: u8 = 240;
/// The timeout that it gives to libpcap.
const CAPTURE_INTERVAL: Duration = Duration::from_secs(1);
/// How long it sleeps without a carrier.
const CARRIER_INTERVAL: Duration = Duration::from_secs(10);
/// How late poll(2) returns: Linux's timer slack, and waking up. It decides where a time is over that poll(2), which
/// takes milliseconds, has cut a little short.
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
    random: SplitMix64,
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
            random: SplitMix64::new(config.seed),
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
mod tests;
