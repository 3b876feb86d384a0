//! The client's clocks. What a grant still allows is counted on the monotonic clock that counts suspend: a laptop that
//! slept, or a machine that was moved, must not execute a grant that ran out meanwhile. (`std::time::Instant` does not
//! count suspend on Linux.)

use std::time::Duration;

/// A reading of this machine's CLOCK_BOOTTIME: comparable within one process only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(Duration);

impl Moment {
    /// Now.
    pub(crate) fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanos = u32::try_from(now.tv_nsec).unwrap_or_default();
        Self(Duration::new(seconds, nanos))
    }

    /// A reading at a given distance from the clock's start, for tests of pure code.
    #[cfg(test)]
    pub(crate) const fn at(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// This moment plus a duration.
    pub(crate) fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// How long after `earlier` this is; zero if it is before.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The wall clock in milliseconds since the Unix epoch, for the time in a key that is minted; 0 for a clock before it.
pub(crate) fn wall_unix_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000)
}
