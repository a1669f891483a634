//! The one clock of the lab, `CLOCK_BOOTTIME`, and how to wait on it.

use std::fmt;
use std::ops::Add;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};

/// A moment on `CLOCK_BOOTTIME`, the clock of the agent and of its XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(u64);

impl BootTime {
    /// Now.
    pub fn now() -> Self {
        Self(nanoseconds(ClockId::CLOCK_BOOTTIME))
    }

    /// The moment that the kernel stamped with the wall clock a short while ago.
    ///
    /// Only the age is taken from the wall clock, so a clock that is set
    /// between two frames moves neither of them.
    pub(crate) fn from_wall_clock(stamp: TimeSpec) -> Self {
        let now = Self::now();
        let age = nanoseconds(ClockId::CLOCK_REALTIME).saturating_sub(as_u64(stamp));
        Self(now.0.saturating_sub(age))
    }

    /// Nanoseconds since boot, as in the agent's events and maps.
    pub fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this was; zero if it was not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(nanos_of(later)))
    }
}

impl fmt::Display for BootTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000_000, self.0 / 1_000 % 1_000_000)
    }
}

/// Waits until `check` holds, looking every few milliseconds.
///
/// For what has no event to wait for, such as a counter in a map. Prefer
/// [`crate::Agent::wait_for_line`] or [`crate::Capture::wait_for`] where they do.
pub fn eventually(what: &str, timeout: Duration, mut check: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = BootTime::now() + timeout;
    while !check()? {
        if BootTime::now() >= deadline {
            bail!("waited {timeout:?} in vain for this: {what}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Wakes at absolute deadlines a fixed period apart: a late wake-up does not
/// shift the next one, and what was missed is skipped rather than made up for.
pub(crate) struct Pacer {
    next: u64,
    period: u64,
}

impl Pacer {
    /// The first deadline is now.
    pub(crate) fn new(period: Duration) -> Self {
        let next = nanoseconds(ClockId::CLOCK_MONOTONIC);
        Self { next, period: nanos_of(period).max(1) }
    }

    /// Sleeps until the next deadline.
    pub(crate) fn wait(&mut self) {
        let deadline = TimeSpec::nanoseconds(self.next.try_into().unwrap_or(i64::MAX));
        let flags = ClockNanosleepFlags::TIMER_ABSTIME;
        while clock_nanosleep(ClockId::CLOCK_MONOTONIC, flags, &deadline) == Err(Errno::EINTR) {}
        let late = nanoseconds(ClockId::CLOCK_MONOTONIC).saturating_sub(self.next);
        self.next += self.period * (1 + late / self.period);
    }
}

fn nanoseconds(clock: ClockId) -> u64 {
    // These clocks exist on every Linux since 2.6.39: reading them cannot fail.
    as_u64(clock.now().expect("a clock that every kernel has"))
}

fn as_u64(time: TimeSpec) -> u64 {
    time.num_nanoseconds().try_into().unwrap_or(0)
}

fn nanos_of(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}
