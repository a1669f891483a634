//! Points in time: nanoseconds of CLOCK_BOOTTIME.
//!
//! That clock never steps and goes on while the machine sleeps, and the kernel program reads the same one
//! (`bpf_ktime_get_boot_ns`), so an advert's arrival and the agent's timers compare without conversion.

use core::time::Duration;

/// A point in time, in nanoseconds of CLOCK_BOOTTIME. Differences are [`Duration`]s; arithmetic saturates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    /// The point `nanos` nanoseconds after the machine started.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the machine started.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The point `span` later, or the end of time (584 years of uptime).
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }

    /// The point `span` earlier, or the start of the machine.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
