//! Raw frames into an interface: one, or as many as it takes for a while.

use std::io::IoSlice;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::clock::Pacer;
use crate::netns::Netns;
use crate::packet_socket::PacketSocket;
use crate::worker::Worker;

/// Sends one frame out of an interface.
pub fn send_frame(ns: &Netns, ifname: &str, frame: &[u8]) -> Result<()> {
    PacketSocket::sender(ns, ifname)?.send(frame)
}

/// What a flood sends.
#[derive(Clone, Debug)]
pub struct FloodPlan {
    /// The frames, sent in turn, over and over.
    pub frames: Vec<Vec<u8>>,
    /// Frames a second; `None` is as many as the interface takes.
    pub rate: Option<u32>,
    /// How long, ten minutes at most.
    pub duration: Duration,
}

/// The most frames that leave with one system call.
const BATCH: usize = 64;

/// A sender of raw frames on its own thread; dropping it stops it.
///
/// It goes past the queueing discipline, so a [`crate::Capture`] on the same
/// interface does not see its frames: capture at the other end.
pub struct Flood {
    worker: Worker<u64>,
}

impl Flood {
    /// Starts sending.
    pub fn start(ns: &Netns, ifname: &str, plan: FloodPlan) -> Result<Self> {
        ensure!(!plan.frames.is_empty(), "a flood needs a frame to send");
        ensure!(plan.rate != Some(0), "a flood needs a rate above zero");
        let socket = PacketSocket::sender(ns, ifname)?;
        socket.bypass_queueing()?;
        let worker = Worker::start("flood", plan.duration, move |running| {
            let batch_size = plan.rate.map_or(BATCH, batch_for);
            let mut pacer = plan.rate.map(|rate| Pacer::new(period_of(batch_size, rate)));
            let mut frames = plan.frames.iter().cycle();
            let mut sent = 0;
            while running.goes_on() {
                if let Some(pacer) = &mut pacer {
                    pacer.wait();
                }
                let batch = frames.by_ref().take(batch_size);
                let batch: Vec<_> = batch.map(|frame| IoSlice::new(frame)).collect();
                sent += socket.send_many(&batch).context("flooding")? as u64;
            }
            Ok(sent)
        })?;
        Ok(Self { worker })
    }

    /// Waits until the planned duration is over; returns the number of frames sent.
    pub fn wait(self) -> Result<u64> {
        self.worker.wait()
    }

    /// Stops now; returns the number of frames sent.
    pub fn stop(self) -> Result<u64> {
        self.worker.stop()
    }
}

/// About one batch a millisecond, as far as a batch can hold it.
fn batch_for(rate: u32) -> usize {
    (rate as usize / 1000).clamp(1, BATCH)
}

fn period_of(batch: usize, rate: u32) -> Duration {
    Duration::from_secs_f64(batch as f64 / f64::from(rate))
}
