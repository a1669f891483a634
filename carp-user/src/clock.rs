//! CLOCK_BOOTTIME: the present, and a timer.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use carp_common::time::Time;
use nix::{
    sys::{
        time::{TimeSpec, TimeValLike},
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    time::{self, clock_gettime},
};
use tokio::io::{Interest, unix::AsyncFd};

/// The present.
pub(crate) fn now() -> Time {
    let now = clock_gettime(time::ClockId::CLOCK_BOOTTIME).expect("every kernel since 2.6.39 has CLOCK_BOOTTIME");
    Time::from_nanos(now.num_nanoseconds().unsigned_abs())
}

/// The wall clock, in nanoseconds since 1970.
pub(crate) fn wall() -> u64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX)
}

/// By how many nanoseconds the wall clock is ahead of CLOCK_BOOTTIME, modulo 2^64.
pub(crate) fn wall_ahead() -> u64 {
    wall().wrapping_sub(now().as_nanos())
}

/// A timer on CLOCK_BOOTTIME: tokio's own step by a millisecond, and stop while the machine sleeps.
pub(crate) struct Timer {
    fd: AsyncFd<Fd>,
    set_for: Option<Time>,
}

struct Fd(TimerFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Timer {
    /// A timer that does not run. Must be called within the runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let fd = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        // SAFETY: the descriptor belongs to the TimerFd, which never replaces it.
        let fd = unsafe { AsyncFd::register_with_interest(Fd(fd), Interest::READABLE) }?;
        Ok(Self { fd, set_for: None })
    }

    /// Sets when it fires; `None`: never.
    pub(crate) fn set(&mut self, when: Option<Time>) -> io::Result<()> {
        if when == self.set_for {
            return Ok(());
        }
        let timer = &self.fd.get_ref().0;
        match when {
            // A time of 0 would disarm it; the past fires at once.
            Some(when) => {
                let when = TimeSpec::from_duration(Duration::from_nanos(when.as_nanos().max(1)));
                timer.set(Expiration::OneShot(when), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
            None => timer.unset()?,
        }
        self.set_for = when;
        Ok(())
    }

    /// Waits until it fires.
    pub(crate) async fn fired(&mut self) -> io::Result<()> {
        let mut guard = self.fd.readable().await?;
        // Reading takes the expiration; setting the timer anew may have taken it already.
        let read = nix::unistd::read(self.fd.get_ref().0.as_fd(), &mut [0; 8]);
        if read == Err(nix::errno::Errno::EAGAIN) {
            guard.clear_ready();
            return Ok(());
        }
        read?;
        guard.clear_ready();
        self.set_for = None;
        Ok(())
    }
}
