//! A sniffer that a test can wait on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::clock::BootTime;
use crate::filter::Filter;
use crate::netns::Netns;
use crate::packet_socket::PacketSocket;
use crate::record::Record;
use crate::worker::{LONGEST, Worker};

/// A frame as it was on the wire, from the Ethernet header on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// When the kernel saw it.
    pub at: BootTime,
    /// Whether it left by the interface rather than arrived.
    pub outgoing: bool,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// The most frames that a capture keeps.
const MOST: usize = 1_000_000;

/// Larger than any frame in the lab.
const LARGEST: usize = 65_536;

/// Collects the frames of one interface until it is stopped or dropped.
///
/// What XDP drops on an interface is not seen there: capture at the other end
/// of its cable, which is the switch's port. A deleted interface is not heard
/// again, even if another of that name appears.
pub struct Capture {
    frames: Arc<Record<Frame>>,
    dropped: Arc<AtomicU64>,
    worker: Worker<()>,
}

impl Capture {
    /// Listens; frames from now on are collected.
    pub fn start(ns: &Netns, ifname: &str, filter: Filter) -> Result<Self> {
        let frames = Arc::new(Record::new());
        let dropped = Arc::new(AtomicU64::new(0));
        let mut socket = PacketSocket::receiver(ns, ifname, filter)?;
        let (collected, lost) = (Arc::clone(&frames), Arc::clone(&dropped));
        let worker = Worker::start("capture", LONGEST, move |running| {
            let listened = collect(&mut socket, &collected, &lost, || running.goes_on());
            collected.close();
            listened
        })?;
        Ok(Self { frames, dropped, worker })
    }

    /// Waits for a frame. Each wait looks at the frames after the one that the
    /// last wait found, so successive waits go forward in time.
    ///
    /// `what` describes the frame in the error of a wait in vain.
    pub fn wait_for(&self, what: &str, timeout: Duration, wanted: impl FnMut(&Frame) -> bool) -> Result<Frame> {
        self.frames.wait_for(timeout, wanted).or_else(|missed| {
            let (all, lost) = (self.frames.len(), self.dropped());
            bail!("no such frame in {timeout:?} ({missed:?}; captured {all}, lost {lost}): {what}")
        })
    }

    /// All frames so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.snapshot()
    }

    /// Frames that passed the filter but were lost for want of room.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Stops listening; returns all frames.
    pub fn stop(self) -> Result<Vec<Frame>> {
        self.worker.stop()?;
        Ok(self.frames.snapshot())
    }
}

fn collect(
    socket: &mut PacketSocket,
    frames: &Record<Frame>,
    dropped: &AtomicU64,
    goes_on: impl Fn() -> bool,
) -> Result<()> {
    let mut buffer = vec![0; LARGEST];
    while goes_on() {
        let received = socket.receive(&mut buffer)?;
        let kept = frames.len();
        if received.is_none() || kept.is_multiple_of(256) {
            dropped.fetch_add(socket.dropped()?.into(), Ordering::Relaxed);
        }
        let Some(received) = received else { continue };
        if kept == MOST {
            dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let bytes = buffer[..received.length].to_vec();
        frames.push(Frame { at: received.at, outgoing: received.outgoing, bytes });
    }
    dropped.fetch_add(socket.dropped()?.into(), Ordering::Relaxed);
    Ok(())
}
