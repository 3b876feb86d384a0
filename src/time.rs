//! Durations and log time. No clock is read here: `clock` does that, and hands the values in.

use std::fmt;
use std::str::FromStr;

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

/// A duration as people write it: a whole number and its unit, such as `500ms`, `30s`, `2m`, `1h` or `7d`. What it may be
/// is the field's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, schemars::JsonSchema)]
#[serde(into = "String")]
#[schemars(try_from = "String", extend("pattern" = "^[0-9]+(ms|s|m|h|d)$"))]
pub struct Span(u64);

/// Each unit with its length in milliseconds, longest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Span {
    /// The duration of so many milliseconds.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// In milliseconds.
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.0
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        if unit.is_empty() && !number.is_empty() {
            return Err(format!("{text} has no unit: write {text}s or {text}ms"));
        }
        let Some((_, ms_each)) = UNITS.into_iter().find(|(name, _)| *name == unit) else {
            return Err(format!("{unit:?} is no unit of time: write such as 500ms, 10s, 2m, 1h or 7d"));
        };
        let number: u64 =
            number.parse().map_err(|_| format!("{text:?} has no whole number before its unit: write such as 10s"))?;
        Ok(Self(number.saturating_mul(ms_each)))
    }
}

impl<'de> serde::Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text)
    }
}

/// Reads a duration's text.
struct Text;

impl serde::de::Visitor<'_> for Text {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration with its unit, in quotes: write such as \"30s\"")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Span, E> {
        text.parse().map_err(E::custom)
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl fmt::Display for Span {
    /// In the longest unit of which it is a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.into_iter().find(|(_, ms_each)| self.0 >= *ms_each && self.0.is_multiple_of(*ms_each));
        let (unit, ms_each) = whole.unwrap_or(("ms", 1));
        write!(f, "{}{unit}", self.0 / ms_each)
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
    fn spans_are_read_as_they_are_shown() {
        for text in ["0ms", "1ms", "1500ms", "30s", "90s", "2m", "1h", "25h", "7d"] {
            assert_eq!(text.parse::<Span>().map(|span| span.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("72h".parse::<Span>().map(|span| span.to_string()), Ok("3d".to_owned()));
        assert_eq!("18446744073709551615d".parse(), Ok(Span::from_ms(u64::MAX)));
    }

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
