//! "Two masters!": who answers ARP for an address, asked over and over.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::clock::{BootTime, Pacer};
use crate::filter::Filter;
use crate::host::{ETH0, Host};
use crate::packet::{Arp, MacAddr};
use crate::packet_socket::PacketSocket;
use crate::record::Record;
use crate::worker::{LONGEST, Worker};

/// Broadcasts an ARP request for an address in every period, until it is
/// stopped or dropped, and records which MACs answer.
///
/// It disturbs nobody's ARP cache: it asks as one does who has no address yet
/// (RFC 5227), and for answers to MACs that are not the client's own.
pub struct ArpWatch {
    answers: Arc<Record<ArpAnswer>>,
    worker: Worker<Vec<BootTime>>,
}

/// One MAC's answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpAnswer {
    /// The number of the request, from 0.
    pub round: usize,
    /// When the request was sent.
    pub asked: BootTime,
    /// The MAC that it names.
    pub owner: MacAddr,
}

/// Requests in turn come from this many MACs, so that an answer, which goes
/// to one of them, tells which request it is for, however late it is.
const ASKERS: usize = 4096;

/// How long answers to the last request may take.
const LINGER: Duration = Duration::from_millis(100);

impl ArpWatch {
    /// Starts asking from `client`.
    pub fn start(client: &Host, target: Ipv4Addr, period: Duration) -> Result<Self> {
        let answers = Arc::new(Record::new());
        let mut asker = Asker {
            client: client.mac(),
            target,
            socket: PacketSocket::receiver(client.ns(), ETH0, Filter::Arp)?,
            answers: Arc::clone(&answers),
            asked: Vec::new(),
        };
        let worker = Worker::start("arp-watch", LONGEST, move |running| {
            let done = asker.ask(period, || running.goes_on());
            asker.answers.close();
            done.map(|()| asker.asked)
        })?;
        Ok(Self { answers, worker })
    }

    /// Waits until this MAC answers a request that is sent from now on.
    pub fn wait_for_owner(&self, mac: MacAddr, timeout: Duration) -> Result<ArpAnswer> {
        let now = BootTime::now();
        let wanted = |answer: &ArpAnswer| answer.owner == mac && answer.asked >= now;
        self.answers.wait_for(timeout, wanted).or_else(|missed| {
            let all = self.answers.len();
            bail!("{mac} has not answered ARP in {timeout:?} ({missed:?}; {all} answers so far)")
        })
    }

    /// The last answer so far.
    pub fn last_answer(&self) -> Option<ArpAnswer> {
        self.answers.last()
    }

    /// Stops asking and sums up.
    pub fn stop(self) -> Result<ArpReport> {
        let asked = self.worker.stop()?;
        let rounds = asked.into_iter().map(|at| ArpRound { at, owners: Vec::new() });
        let mut rounds: Vec<ArpRound> = rounds.collect();
        for ArpAnswer { round, owner, .. } in self.answers.snapshot() {
            let Some(round) = rounds.get_mut(round) else {
                continue;
            };
            // One that is there twice has two hosts behind it.
            let place = round.owners.partition_point(|other| *other < owner);
            round.owners.insert(place, owner);
        }
        Ok(ArpReport { rounds })
    }
}

/// The outcome of an [`ArpWatch`].
#[derive(Clone, Debug)]
pub struct ArpReport {
    /// One for each request.
    rounds: Vec<ArpRound>,
}

/// A request and who answered it.
#[derive(Clone, Debug)]
struct ArpRound {
    at: BootTime,
    owners: Vec<MacAddr>,
}

/// A time during which the same MACs answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// The first request that was answered so.
    pub from: BootTime,
    /// The first request that was answered otherwise, or the last one of all.
    pub to: BootTime,
    /// The MACs in ascending order, one for each answer: none, one, or too many.
    pub owners: Vec<MacAddr>,
}

impl ArpReport {
    /// Who owned the address, from the first request to the last.
    pub fn timeline(&self) -> Vec<Ownership> {
        let Some(last) = self.rounds.last() else {
            return Vec::new();
        };
        let runs = self.rounds.chunk_by(|one, next| one.owners == next.owners);
        let starts = runs.clone().filter_map(|run| run.first());
        let ends = starts.clone().skip(1).chain([last]);
        starts
            .zip(ends)
            .map(|(start, end)| Ownership { from: start.at, to: end.at, owners: start.owners.clone() })
            .collect()
    }

    /// When two or more hosts answered the same request, with whatever MACs: "Two masters!"
    pub fn overlaps(&self) -> Vec<Ownership> {
        self.timeline().into_iter().filter(|ownership| ownership.owners.len() > 1).collect()
    }

    /// Who answered the last request that was sent by then.
    pub fn owners_at(&self, moment: BootTime) -> &[MacAddr] {
        let asked = self.rounds.partition_point(|round| round.at <= moment);
        asked.checked_sub(1).map_or(&[], |last| &self.rounds[last].owners)
    }
}

/// The watch's thread.
struct Asker {
    client: MacAddr,
    target: Ipv4Addr,
    socket: PacketSocket,
    answers: Arc<Record<ArpAnswer>>,
    asked: Vec<BootTime>,
}

impl Asker {
    fn ask(&mut self, period: Duration, goes_on: impl Fn() -> bool) -> Result<()> {
        let mut pacer = Pacer::new(period);
        while goes_on() {
            pacer.wait();
            let asker = self.asker(self.asked.len());
            self.asked.push(BootTime::now());
            let request = Arp::request(asker, Ipv4Addr::UNSPECIFIED, self.target);
            self.socket.send_if_up(&request.to_frame())?;
            self.collect()?;
        }
        let deadline = BootTime::now() + LINGER;
        while BootTime::now() < deadline {
            pacer.wait();
            self.collect()?;
        }
        Ok(())
    }

    fn collect(&mut self) -> Result<()> {
        let mut buffer = [0; 128];
        while let Some(received) = self.socket.receive_now(&mut buffer)? {
            let Some(arp) = Arp::from_frame(&buffer[..received.length]) else {
                continue;
            };
            if arp.operation != Arp::REPLY || arp.sender_ip != self.target {
                continue;
            }
            let Some(round) = self.round_of(arp.target_mac) else {
                continue;
            };
            self.answers.push(ArpAnswer { round, asked: self.asked[round], owner: arp.sender_mac });
        }
        Ok(())
    }

    /// A MAC of this client's for this round; no host's is like it.
    fn asker(&self, round: usize) -> MacAddr {
        let [.., number] = self.client.0;
        let [high, low] = ((round % ASKERS) as u16).to_be_bytes();
        MacAddr([0x02, high, low, 0x77, 0x80, number])
    }

    /// The last round that this MAC asked in.
    fn round_of(&self, asker: MacAddr) -> Option<usize> {
        (0..self.asked.len()).rev().take(ASKERS).find(|&round| self.asker(round) == asker)
    }
}
