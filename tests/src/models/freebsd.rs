//! FreeBSD's `sys/netinet/ip_carp.c` since version 10, one virtual host at the multicast groups.
//!
//! pfSense and OPNsense run it.

use std::net::IpAddr;
use std::time::Duration;

use super::wire::{self, Header};
use super::{Config, DownTimers, Family, Output, Peer, Reason, Refusal, State, interval, skew_time};
use crate::adverts::Election;
use crate::random::SplitMix64;

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
    random: SplitMix64,
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
            random: SplitMix64::new(config.seed),
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
                    self.down.set(family, self.timer(now + self.dead_time()));
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
        self.next_advert = Some(self.timer(now + interval(self.config.advbase, self.config.advskew)));
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
        self.next_advert = Some(self.timer(now + interval(advbase, advskew)));
    }

    fn next_counter(&mut self) -> u64 {
        let Some(last) = &mut self.counter else { return self.random.next() };
        *last = last.wrapping_add(1);
        *last
    }

    fn restart_all(&mut self, now: Duration) {
        for family in Family::BOTH {
            if self.config.has_vips_of(family) {
                self.down.set(family, self.timer(now + self.dead_time()));
            }
        }
    }

    fn leave(&mut self, reason: Reason) {
        self.next_advert = None;
        self.down = DownTimers::default();
        self.change(State::Init, reason);
    }

    /// When a timer goes off: the tick that runs does not count.
    fn timer(&self, deadline: Duration) -> Duration {
        self.config.on_tick(deadline + self.config.tick)
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
mod tests;
