//! Peers on one segment, in a time of its own: nothing is lost, all takes as long, and every run is the same.

use std::collections::BTreeMap;
use std::collections::btree_map::OccupiedEntry;
use std::net::IpAddr;
use std::time::Duration;

use super::{Output, Peer, State};

/// The most that may happen at one moment; more is an endless loop between peers.
const MOST_AT_ONCE: u32 = 100_000;

/// A segment and the peers on it, who are called by their number.
pub struct Lan {
    now: Duration,
    latency: Duration,
    hosts: Vec<Host>,
    /// Adverts on their way, by arrival and in the order they were sent.
    flying: BTreeMap<(Duration, u64), Packet>,
    sent: u64,
    moments: Vec<Moment>,
    announcements: Vec<Announcement>,
}

/// From when on who was MASTER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When it began.
    pub at: Duration,
    /// All who are MASTER and run, whether the others hear them or not.
    pub masters: Vec<usize>,
}

/// A gratuitous ARP or neighbour advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// When.
    pub at: Duration,
    /// By whom.
    pub host: usize,
    /// Of what.
    pub vip: IpAddr,
}

struct Host {
    /// `None` once it has crashed.
    peer: Option<Box<dyn Peer>>,
    carrier: bool,
    /// Only hosts of the same side hear each other.
    side: bool,
}

struct Packet {
    from: usize,
    source: IpAddr,
    ttl: u8,
    payload: Vec<u8>,
}

impl Lan {
    /// An empty segment at the beginning of time.
    pub fn new(latency: Duration) -> Self {
        Self {
            now: Duration::ZERO,
            latency,
            hosts: vec![],
            flying: BTreeMap::new(),
            sent: 0,
            moments: vec![],
            announcements: vec![],
        }
    }

    /// The time of the segment, from which new peers are made.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Puts a peer on the segment; returns its number.
    pub fn add(&mut self, peer: Box<dyn Peer>) -> usize {
        self.hosts.push(Host { peer: Some(peer), carrier: true, side: false });
        let host = self.hosts.len() - 1;
        self.collect(host);
        host
    }

    /// Lets time pass.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut at_once = 0;
        while let Some(next) = self.next_event().filter(|next| *next <= end) {
            at_once = if next > self.now { 0 } else { at_once + 1 };
            assert!(at_once < MOST_AT_ONCE, "an endless loop at {next:?}");
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
    }

    /// A host loses its carrier, and knows it.
    pub fn cut(&mut self, host: usize) {
        self.hosts[host].carrier = false;
        self.tell(host, |peer, now| peer.link_down(now));
    }

    /// It has its carrier again.
    pub fn mend(&mut self, host: usize) {
        self.hosts[host].carrier = true;
        self.tell(host, |peer, now| peer.link_up(now));
    }

    /// These hosts and the others no longer hear each other; nobody loses the carrier.
    pub fn split(&mut self, side: &[usize]) {
        for (number, host) in self.hosts.iter_mut().enumerate() {
            host.side = side.contains(&number);
        }
    }

    /// All hear each other again.
    pub fn heal(&mut self) {
        self.split(&[]);
    }

    /// A host is ended in good order.
    pub fn stop(&mut self, host: usize) {
        self.tell(host, |peer, now| peer.stop(now));
    }

    /// A host is gone without a word.
    pub fn crash(&mut self, host: usize) {
        self.hosts[host].peer = None;
        self.note_masters();
    }

    /// A host that crashed, or any other, begins anew as this peer.
    pub fn boot(&mut self, host: usize, peer: Box<dyn Peer>) {
        self.hosts[host].peer = Some(peer);
        self.collect(host);
    }

    /// See [`Peer::demote`].
    pub fn demote(&mut self, host: usize, by: i32) {
        self.tell(host, |peer, now| peer.demote(now, by));
    }

    /// Who is MASTER now.
    pub fn masters(&self) -> Vec<usize> {
        let is_master = |host: &Host| host.peer.as_ref().is_some_and(|peer| peer.state() == State::Master);
        self.hosts.iter().enumerate().filter(|(_, host)| is_master(host)).map(|(number, _)| number).collect()
    }

    /// Who was MASTER when, from the beginning on.
    pub fn moments(&self) -> &[Moment] {
        &self.moments
    }

    /// Since when the masters have been the ones that they are.
    pub fn unchanged_since(&self) -> Duration {
        self.moments.last().map_or(Duration::ZERO, |moment| moment.at)
    }

    /// What neighbours were told, from the beginning on.
    pub fn announcements(&self) -> &[Announcement] {
        &self.announcements
    }

    fn next_event(&self) -> Option<Duration> {
        let arrival = self.flying.keys().next().map(|(at, _)| *at);
        let peers = self.hosts.iter().filter_map(|host| host.peer.as_ref());
        arrival.into_iter().chain(peers.filter_map(|peer| peer.next_deadline())).min()
    }

    /// One arrival, or else everybody's timers.
    fn step(&mut self) {
        let arrival = self.flying.first_entry().filter(|first| first.key().0 <= self.now);
        if let Some(packet) = arrival.map(OccupiedEntry::remove) {
            self.deliver(&packet);
            return;
        }
        for host in 0..self.hosts.len() {
            self.tell(host, |peer, now| {
                if peer.next_deadline().is_some_and(|deadline| deadline <= now) {
                    peer.expire(now);
                }
            });
        }
    }

    fn deliver(&mut self, packet: &Packet) {
        let Packet { from, source, ttl, ref payload } = *packet;
        let side = self.hosts[from].side;
        for to in 0..self.hosts.len() {
            let hears = to != from && self.hosts[to].carrier && self.hosts[to].side == side;
            if hears {
                self.tell(to, |peer, now| peer.receive(now, source, ttl, payload));
            }
        }
    }

    fn tell(&mut self, host: usize, what: impl FnOnce(&mut dyn Peer, Duration)) {
        let Some(peer) = &mut self.hosts[host].peer else { return };
        what(peer.as_mut(), self.now);
        self.collect(host);
    }

    fn collect(&mut self, host: usize) {
        let Host { peer: Some(peer), carrier, .. } = &mut self.hosts[host] else { return };
        for output in peer.take_outputs() {
            match output {
                Output::Advert { source, ttl, payload, .. } if *carrier => {
                    self.flying
                        .insert((self.now + self.latency, self.sent), Packet { from: host, source, ttl, payload });
                    self.sent += 1;
                }
                Output::Announcement(vip) if *carrier => {
                    self.announcements.push(Announcement { at: self.now, host, vip });
                }
                Output::Advert { .. } | Output::Announcement(_) | Output::Change { .. } | Output::Refusal(_) => {}
            }
        }
        self.note_masters();
    }

    /// What lasts for no time is left out.
    fn note_masters(&mut self) {
        let now = self.now;
        self.moments.pop_if(|last| last.at == now);
        let masters = self.masters();
        if self.moments.last().is_none_or(|last| last.masters != masters) {
            self.moments.push(Moment { at: self.now, masters });
        }
    }
}

#[cfg(test)]
mod tests;
