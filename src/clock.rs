//! The only place that reads clocks. Leases are counted on [`monotonic`], which counts suspend too; the wall clock feeds
//! log time and nothing else.

use std::fmt;
use std::time::Duration;

/// A reading of this machine's monotonic clock (CLOCK_BOOTTIME): comparable within one process only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(Duration);

impl Monotonic {
    /// A reading at a given distance from the clock's start, for tests of pure code.
    #[must_use]
    pub const fn at(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// This reading plus a duration.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// How long after `earlier` this reading is; zero if it is before.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Monotonic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Now, on the clock that counts suspend.
#[must_use]
pub fn monotonic() -> Monotonic {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(now.tv_nsec).unwrap_or_default();
    Monotonic(Duration::new(seconds, nanos))
}

/// The wall clock, in milliseconds since the Unix epoch; 0 for a clock set before it.
///
/// Read through libc, which lets a test give one process of several another clock.
#[must_use]
#[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "this is the one place that reads it")]
pub fn wall_unix_ms() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    u64::try_from(since_epoch.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
