//! What a client of the virtual address sees: a ping every millisecond.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::clock::{BootTime, Pacer};
use crate::filter::Filter;
use crate::host::{ETH0, Host};
use crate::outage::ProbeReport;
use crate::packet::{MacAddr, echo_reply, echo_request};
use crate::packet_socket::PacketSocket;
use crate::record::Record;
use crate::worker::{LONGEST, Worker};

/// An answer to a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The number of the ping, from 0.
    pub sequence: u64,
    /// When the answer arrived in the client's kernel.
    pub at: BootTime,
    /// Its Ethernet source: which host answered.
    pub mac: MacAddr,
}

/// Sends an ICMP echo request to an address in every period, until it is
/// stopped or dropped, and records who answers.
///
/// The requests take the way of any client's packets, through the kernel's
/// routes and its ARP cache, stale or not. A period that the machine slept
/// through is skipped: pings never come in bursts.
pub struct Probe {
    answers: Arc<Record<Answer>>,
    worker: Worker<Sending>,
    period: Duration,
}

/// What the sending thread knows at its end.
struct Sending {
    sent: Vec<BootTime>,
    stopped: BootTime,
}

/// How long answers to the last pings may take.
const LINGER: Duration = Duration::from_millis(100);

impl Probe {
    /// Starts pinging from `client`.
    pub fn start(client: &Host, target: Ipv4Addr, period: Duration) -> Result<Self> {
        let ident = next_ident();
        let sender = client.ns().run(open_sender)?;
        let receiver = PacketSocket::receiver(client.ns(), ETH0, Filter::EchoReply { ident })?;
        let answers = Arc::new(Record::new());
        let mut pinger = Pinger { ident, target, sender, receiver, answers: Arc::clone(&answers), sent: Vec::new() };
        let worker = Worker::start("probe", LONGEST, move |running| {
            let pinged = pinger.ping(period, || running.goes_on());
            pinger.answers.close();
            pinged.map(|stopped| Sending { sent: pinger.sent, stopped })
        })?;
        Ok(Self { answers, worker, period })
    }

    /// Waits for an answer that this host gives from now on.
    pub fn wait_for_answer_from(&self, mac: MacAddr, timeout: Duration) -> Result<Answer> {
        self.wait_for_answer(&format!("from {mac}"), timeout, |answer| answer.mac == mac)
    }

    /// Waits for an answer that arrives from now on; `what` describes it in the
    /// error of a wait in vain.
    pub fn wait_for_answer(
        &self,
        what: &str,
        timeout: Duration,
        mut wanted: impl FnMut(&Answer) -> bool,
    ) -> Result<Answer> {
        let now = BootTime::now();
        self.answers.wait_for(timeout, |answer| answer.at >= now && wanted(answer)).or_else(|missed| {
            let all = self.answers.len();
            bail!("no answer {what} in {timeout:?} ({missed:?}; {all} answers so far)")
        })
    }

    /// All answers so far, as they arrived.
    pub fn answers(&self) -> Vec<Answer> {
        self.answers.snapshot()
    }

    /// Stops pinging and sums up.
    pub fn stop(self) -> Result<ProbeReport> {
        let Sending { sent, stopped } = self.worker.stop()?;
        Ok(ProbeReport::new(self.period, sent, stopped, self.answers.snapshot()))
    }
}

/// The probe's thread.
struct Pinger {
    ident: u16,
    target: Ipv4Addr,
    sender: Socket,
    receiver: PacketSocket,
    answers: Arc<Record<Answer>>,
    sent: Vec<BootTime>,
}

impl Pinger {
    /// Pings until it may not go on; returns when that was.
    fn ping(&mut self, period: Duration, goes_on: impl Fn() -> bool) -> Result<BootTime> {
        let mut pacer = Pacer::new(period);
        while goes_on() {
            pacer.wait();
            self.send_one()?;
            self.collect()?;
        }
        let stopped = BootTime::now();
        while self.answers.len() < self.sent.len() && BootTime::now() < stopped + LINGER {
            pacer.wait();
            self.collect()?;
        }
        Ok(stopped)
    }

    fn send_one(&mut self) -> Result<()> {
        let request = echo_request(self.ident, self.sent.len() as u64);
        let target = SockAddr::from(SocketAddrV4::new(self.target, 0));
        self.sent.push(BootTime::now());
        match self.sender.send_to(&request, &target) {
            Ok(_) => Ok(()),
            // No route, no neighbour, or too many packets waiting for one: the
            // client gets no answer, and that is all that counts.
            Err(error) if is_no_way(&error) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("pinging {}", self.target)),
        }
    }

    /// Takes the answers that have arrived; their times are the kernel's.
    fn collect(&mut self) -> Result<()> {
        let mut buffer = [0; 128];
        while let Some(received) = self.receiver.receive_now(&mut buffer)? {
            let frame = &buffer[..received.length];
            let Some((mac, sequence)) = echo_reply(frame, self.target) else {
                continue;
            };
            if !received.outgoing {
                self.answers.push(Answer { sequence, at: received.at, mac });
            }
        }
        Ok(())
    }
}

fn is_no_way(error: &std::io::Error) -> bool {
    let known = [Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::EHOSTDOWN, Errno::ENETDOWN, Errno::ENOBUFS];
    error.kind() == ErrorKind::WouldBlock
        || error.raw_os_error().is_some_and(|code| known.contains(&Errno::from_raw(code)))
}

/// A raw ICMP socket that never blocks. It hears nothing: answers are read
/// with their Ethernet header, from the packet socket.
fn open_sender() -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4));
    let socket = socket.context("opening a raw ICMP socket")?;
    socket.attach_filter(&[Filter::NOTHING]).context("attaching a filter")?;
    socket.set_nonblocking(true).context("making a socket non-blocking")?;
    Ok(socket)
}

/// Different for all probes of a process, and most likely of two processes.
fn next_ident() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(process::id() as u16)
}
