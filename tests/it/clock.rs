//! The tests' own clocks. Every history is stamped with the monotonic one, so both are read in one place.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

fn read(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or_default(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// The monotonic clock, which all threads read alike.
pub(crate) fn now() -> Duration {
    read(ClockId::Monotonic)
}

/// [`now`] in nanoseconds: a stamp whose order is the order in real time.
pub(crate) fn now_ns() -> u64 {
    u64::try_from(now().as_nanos()).unwrap_or(u64::MAX)
}

/// The wall clock in milliseconds since the Unix epoch, for minting tagged keys.
pub(crate) fn wall_unix_ms() -> u64 {
    u64::try_from(read(ClockId::Realtime).as_millis()).unwrap_or(u64::MAX)
}
