//! A model of a peer at work on a host of the lab: in real time and on the wire, beside the real carpd.
//!
//! It has no addresses there and announces none; its timers go off with the ticks of a slow clock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};

use crate::clock::BootTime;
use crate::filter::Filter;
use crate::host::{ETH0, Host};
use crate::models::{Config, Output, Peer, Reason, Refusal, State, frame};
use crate::node::{LONG, VHID};
use crate::packet::MacAddr;
use crate::packet_socket::PacketSocket;
use crate::record::Record;
use crate::worker::{LONGEST, Worker};

/// 00:00:5e:00:01:VHID
const VIRTUAL_MAC: MacAddr = MacAddr([0, 0, 0x5e, 0, 1, VHID]);

/// A peer that takes part. Dropping it is its crash.
pub struct Live {
    station: Arc<Mutex<Station>>,
    changes: Arc<Record<Change>>,
    _worker: Worker<()>,
}

/// It has changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: BootTime,
    /// The state that it entered.
    pub to: State,
    /// Why.
    pub reason: Reason,
}

/// The peer and its way out.
struct Station {
    peer: Box<dyn Peer + Send>,
    began: BootTime,
    sender: PacketSocket,
    changes: Arc<Record<Change>>,
    refusals: Vec<Refusal>,
}

impl Live {
    /// The configuration of one on this host.
    pub fn config(host: &Host, advskew: u8) -> Config {
        Config { source: host.ip(), source6: host.link_local(), ..Config::host(0, advskew) }
    }

    /// Begins; the peer's own time begins now.
    pub fn start(host: &Host, peer: impl Peer + Send + 'static) -> Result<Self> {
        let mut receiver = PacketSocket::receiver(host.ns(), ETH0, Filter::Carp)?;
        let changes = Arc::new(Record::new());
        let station = Arc::new(Mutex::new(Station {
            peer: Box::new(peer),
            began: BootTime::now(),
            sender: PacketSocket::sender(host.ns(), ETH0)?,
            changes: Arc::clone(&changes),
            refusals: vec![],
        }));
        let at_work = Arc::clone(&station);
        let worker = Worker::start("peer", LONGEST, move |running| {
            let mut buffer = [0; 2048];
            while running.goes_on() {
                // Nothing for a short while: then timers.
                let received = receiver.receive(&mut buffer)?.filter(|received| !received.outgoing);
                let heard = received.map(|received| (received.at, &buffer[..received.length]));
                lock(&at_work).go_on(heard)?;
            }
            Ok(())
        })?;
        Ok(Self { station, changes, _worker: worker })
    }

    /// Waits until it enters a state. Each wait looks at what came after the change that the last one found.
    pub fn wait_for(&self, state: State) -> Result<Change> {
        let found = self.changes.wait_for(LONG, |change| change.to == state);
        found.or_else(|missed| bail!("it did not become {state:?} ({missed:?}): {:?}", self.changes()))
    }

    /// The states that it has entered, and why.
    pub fn changes(&self) -> Vec<(State, Reason)> {
        self.changes.snapshot().into_iter().map(|change| (change.to, change.reason)).collect()
    }

    /// The state that it is in.
    pub fn state(&self) -> State {
        lock(&self.station).peer.state()
    }

    /// Why it ignored packets.
    pub fn refusals(&self) -> Vec<Refusal> {
        lock(&self.station).refusals.clone()
    }

    /// See [`Peer::demote`].
    pub fn demote(&self, by: i32) -> Result<()> {
        let mut station = lock(&self.station);
        let now = BootTime::now().since(station.began);
        station.peer.demote(now, by);
        station.tell()
    }

    /// See [`Peer::stop`].
    pub fn stop(&self) -> Result<()> {
        let mut station = lock(&self.station);
        let now = BootTime::now().since(station.began);
        station.peer.stop(now);
        station.tell()
    }
}

impl Station {
    /// Hears a frame, or else does what is due.
    fn go_on(&mut self, heard: Option<(BootTime, &[u8])>) -> Result<()> {
        if let Some((at, frame)) = heard {
            if let Some(packet) = frame::read(frame) {
                self.peer.receive(at.since(self.began), packet.source, packet.ttl, packet.payload);
            }
        } else {
            self.peer.expire(BootTime::now().since(self.began));
        }
        self.tell()
    }

    /// Sends what it has to say, and notes the rest.
    fn tell(&mut self) -> Result<()> {
        for output in self.peer.take_outputs() {
            match output {
                Output::Advert { source, ttl, payload, .. } => {
                    let packet = frame::Packet { source, ttl, payload: &payload };
                    self.sender.send_if_up(&frame::write(VIRTUAL_MAC, packet))?;
                }
                Output::Change { to, reason, .. } => self.changes.push(Change { at: BootTime::now(), to, reason }),
                Output::Refusal(refusal) => self.refusals.push(refusal),
                Output::Announcement(_) => {}
            }
        }
        Ok(())
    }
}

fn lock(station: &Mutex<Station>) -> MutexGuard<'_, Station> {
    station.lock().unwrap_or_else(PoisonError::into_inner)
}
