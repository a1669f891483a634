//! OpenBSD's `sys/netinet/ip_carp.c`, one virtual host that does not balance and has no `lladdr` of its own.

use std::net::IpAddr;
use std::time::Duration;

use super::wire::{self, Header};
use super::{Config, DownTimers, Family, Output, Peer, Reason, Refusal, State, interval, skew_time};
use crate::adverts::Election;
use crate::random::SplitMix64;

/// advbase and advskew of the advert that says "I leave".
const BOW_OUT: u8 = 255;

/// One carp interface.
pub struct OpenBsd {
    config: Config,
    state: State,
    /// Sum of the demotion counters of its interface groups.
    demotion: i32,
    /// The counter of all its adverts until it is booted again.
    cookie: u64,
    next_advert: Option<Duration>,
    down: DownTimers,
    /// Adverts until the second gratuitous ARP.
    delayed_arp: Option<u32>,
    stopped: bool,
    outputs: Vec<Output>,
}

impl OpenBsd {
    /// It is configured, and up.
    pub fn new(config: Config, now: Duration) -> Self {
        let cookie = SplitMix64::new(config.seed).next();
        let mut new = Self {
            config,
            state: State::Init,
            demotion: 0,
            cookie,
            next_advert: None,
            down: DownTimers::default(),
            delayed_arp: None,
            stopped: false,
            outputs: vec![],
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

    /// The checks in their order.
    fn judge(&self, family: Family, ttl: u8, payload: &[u8]) -> Result<Header, Refusal> {
        if self.state == State::Init || !self.config.has_vips_of(family) {
            return Err(Refusal::Deaf);
        }
        if ttl != wire::TTL {
            return Err(Refusal::Ttl);
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
        // With all VIPs, or without the link-local ones, whatever it sends itself.
        let forms = [self.config.vips.clone(), self.hashed_vips()];
        let digest = |vips: &Vec<IpAddr>| wire::digest(&self.config.passphrase, header.vhid, vips, header.counter);
        if !forms.iter().any(|vips| digest(vips) == header.digest) {
            return Err(Refusal::Digest);
        }
        if header.counter == self.cookie {
            return Err(Refusal::Echo);
        }
        Ok(header)
    }

    fn hear(&mut self, now: Duration, family: Family, peer: Header) {
        let mine = interval(self.config.advbase, self.config.advskew);
        let its = interval(peer.advbase, peer.advskew);
        let (demoted, its_demoted) = (self.demote_byte(), peer.demote);
        match self.state {
            State::Init => {}
            State::Master => {
                if its_demoted < demoted || (mine >= its && its_demoted <= demoted) {
                    self.next_advert = None;
                    self.change(State::Backup, Reason::Yields);
                    self.restart_all(now);
                }
            }
            State::Backup => {
                let dead =
                    Duration::from_secs(3 * u64::from(self.config.advbase)) + skew_time(self.config.advskew.into());
                if self.config.preempt && mine < its && its_demoted >= demoted {
                    self.take_over(now, Reason::Preempts);
                } else if its_demoted > demoted {
                    self.take_over(now, Reason::MasterDemoted);
                } else if self.config.advbase != 0 && dead < its {
                    self.take_over(now, Reason::MasterTooSlow);
                } else {
                    self.down.set(family, self.config.on_tick(now + self.dead_time()));
                }
            }
        }
    }

    fn take_over(&mut self, now: Duration, reason: Reason) {
        self.down = DownTimers::default();
        self.change(State::Master, reason);
        self.advertise(now);
        self.announce(Family::V4);
        self.delayed_arp = Some(2);
        self.announce(Family::V6);
    }

    /// Advertises in both families as far as it has VIPs of them, and sets the timer for the next time.
    fn advertise(&mut self, now: Duration) {
        self.send(self.config.advbase, self.config.advskew);
        self.next_advert = Some(self.config.on_tick(now + self.advert_interval()));
    }

    fn send(&mut self, advbase: u8, advskew: u8) {
        let Config { ref passphrase, vhid, source, source6, .. } = self.config;
        let election = Election { advbase, advskew, demote: self.demote_byte() };
        let advert = wire::signed(passphrase, vhid, &self.hashed_vips(), election, self.cookie);
        for (family, source) in Family::BOTH.into_iter().zip([IpAddr::V4(source), IpAddr::V6(source6)]) {
            if !self.config.has_vips_of(family) {
                continue;
            }
            let (destination, payload) = (family.group(), advert.to_vec());
            self.outputs.push(Output::Advert { source, destination, ttl: wire::TTL, payload });
            if family == Family::V4 {
                self.announce_again();
            }
        }
    }

    /// With the second advert after it became master, for IPv4 only.
    fn announce_again(&mut self) {
        let Some(left) = self.delayed_arp else { return };
        self.delayed_arp = Some(left - 1).filter(|left| *left > 0);
        if self.delayed_arp.is_none() {
            self.announce(Family::V4);
        }
    }

    fn announce(&mut self, family: Family) {
        let vips = self.config.vips.iter().filter(|vip| Family::of(**vip) == family);
        self.outputs.extend(vips.map(|vip| Output::Announcement(*vip)));
    }

    fn restart_all(&mut self, now: Duration) {
        self.delayed_arp = None;
        for family in Family::BOTH {
            if self.config.has_vips_of(family) {
                self.down.set(family, self.config.on_tick(now + self.dead_time()));
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

    fn advert_interval(&self) -> Duration {
        let Config { advbase, advskew, .. } = self.config;
        if advbase == 0 && advskew == 0 { skew_time(1) } else { interval(advbase, advskew) }
    }

    fn dead_time(&self) -> Duration {
        let Config { advbase, advskew, .. } = self.config;
        match (advbase, advskew) {
            (0, 0) => skew_time(3),
            (0, _) => skew_time(3 * u32::from(advskew)),
            _ => Duration::from_secs(3 * u64::from(advbase)) + skew_time(advskew.into()),
        }
    }

    fn demote_byte(&self) -> u8 {
        self.demotion.clamp(0, 255) as u8
    }

    /// What it hashes itself: all but the link-local VIPs.
    fn hashed_vips(&self) -> Vec<IpAddr> {
        let is_hashed = |vip: &IpAddr| if let IpAddr::V6(v6) = vip { !v6.is_unicast_link_local() } else { true };
        self.config.vips.iter().copied().filter(is_hashed).collect()
    }
}

impl Peer for OpenBsd {
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

    /// `ifconfig -g carp carpdemote`. While it is demoted at all, a change is advertised at once.
    fn demote(&mut self, now: Duration, by: i32) {
        self.demotion = self.demotion.saturating_add(by).max(0);
        if self.demotion > 0 && self.state == State::Master {
            self.advertise(now);
        }
    }

    /// `ifconfig carp0 down`: only a master says that it leaves.
    fn stop(&mut self, _: Duration) {
        if self.state == State::Master {
            self.send(BOW_OUT, BOW_OUT);
        }
        self.stopped = true;
        self.leave(Reason::Stopped);
    }

    fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }
}

#[cfg(test)]
mod tests;
