//! Durations and log time. No clock is read here: `clock` does that, and hands the values in.

use std::fmt;

/// Milliseconds since the Unix epoch as the log of a partition counts them: never backwards, and bounded in its jumps.
/// It decides when a completed record may go, and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogTime(u64);

impl LogTime {
    /// Log time at `unix_ms` milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_unix_ms(unix_ms: u64) -> Self {
        Self(unix_ms)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn unix_ms(self) -> u64 {
        self.0
    }

    /// This time plus a duration, at most the end of time.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl fmt::Display for LogTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// What a leader's clock reading does to log time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// Log time is now this: the larger of itself and the clock.
    To(LogTime),
    /// The clock is too far ahead. Log time stays until an operator accepts the jump.
    Held,
}

/// Advances log time by a clock reading, both in milliseconds since the Unix epoch. The first reading of a new log is
/// taken as it is; later ones may be ahead by at most [`crate::limits::MAX_CLOCK_JUMP_MS`], unless `accepted`.
#[must_use]
pub fn advance(log_time: LogTime, clock_unix_ms: u64, accepted: bool) -> Advance {
    let jump = clock_unix_ms.saturating_sub(log_time.unix_ms());
    if jump > crate::limits::MAX_CLOCK_JUMP_MS && log_time != LogTime::default() && !accepted {
        return Advance::Held;
    }
    Advance::To(log_time.max(LogTime::from_unix_ms(clock_unix_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_backwards_and_held_over_an_hour() {
        let noon = LogTime::from_unix_ms(1_000_000_000);
        assert_eq!(advance(LogTime::default(), 1_000_000_000, false), Advance::To(noon), "the first reading counts");
        assert_eq!(advance(noon, 999, false), Advance::To(noon));
        assert_eq!(advance(noon, 1_000_000_000 + 3_600_000, false), Advance::To(noon.plus_ms(3_600_000)));
        assert_eq!(advance(noon, 1_000_000_000 + 3_600_001, false), Advance::Held);
        assert_eq!(advance(noon, 1_000_000_000 + 3_600_001, true), Advance::To(noon.plus_ms(3_600_001)));
    }
}
