//! What a run counted. Each thread has its own; they are added up at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest latency that is told apart, in microseconds; a longer one counts as this.
const MAX_US: u64 = 120_000_000;
/// Significant digits of a latency: within 0.1 %.
const DIGITS: u8 = 3;
/// Wrong answers that are named; the others are only counted.
const NAMED: usize = 5;
/// Different codes that are counted apart: the codes there are, and room for those of a newer node.
const MAX_CODES: usize = 64;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    /// Reserve of a fresh key.
    Reserve,
    /// Complete.
    Complete,
    /// Reserve of a completed key.
    Replay,
    /// From the start of reserve to the answer of complete.
    Cycle,
}

impl Operation {
    /// Every operation, in the order of a report.
    pub(super) const ALL: [Self; 4] = [Self::Reserve, Self::Complete, Self::Replay, Self::Cycle];

    /// Its name in a report.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Reserve => "reserve",
            Self::Complete => "complete",
            Self::Replay => "replay",
            Self::Cycle => "cycle",
        }
    }
}

/// What was counted.
#[derive(Debug)]
pub(super) struct Tally {
    /// Latencies in microseconds, of what succeeded.
    reserve: Histogram<u64>,
    complete: Histogram<u64>,
    replay: Histogram<u64>,
    cycle: Histogram<u64>,
    /// How long after its scheduled time a cycle started, in microseconds. Empty in a closed loop.
    pub(super) lag: Histogram<u64>,
    /// Failed calls, by operation and code.
    pub(super) errors: BTreeMap<(Operation, String), u64>,
    /// Answers that were wrong.
    pub(super) wrong: u64,
    /// The first of them.
    pub(super) named: Vec<String>,
    /// Replays that were compared, those of the warm-up included.
    pub(super) compared: u64,
    /// Cycles that were scheduled and could not start.
    pub(super) not_started: u64,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            reserve: histogram(),
            complete: histogram(),
            replay: histogram(),
            cycle: histogram(),
            lag: histogram(),
            errors: BTreeMap::new(),
            wrong: 0,
            named: Vec::new(),
            compared: 0,
            not_started: 0,
        }
    }

    /// The latencies of an operation, in microseconds.
    pub(super) fn latencies(&self, operation: Operation) -> &Histogram<u64> {
        match operation {
            Operation::Reserve => &self.reserve,
            Operation::Complete => &self.complete,
            Operation::Replay => &self.replay,
            Operation::Cycle => &self.cycle,
        }
    }

    /// Counts a success.
    pub(super) fn took(&mut self, operation: Operation, latency: Duration) {
        let histogram = match operation {
            Operation::Reserve => &mut self.reserve,
            Operation::Complete => &mut self.complete,
            Operation::Replay => &mut self.replay,
            Operation::Cycle => &mut self.cycle,
        };
        histogram.saturating_record(microseconds(latency));
    }

    /// Counts how late a cycle started.
    pub(super) fn late(&mut self, by: Duration) {
        self.lag.saturating_record(microseconds(by));
    }

    /// Counts a failed call.
    pub(super) fn failed(&mut self, operation: Operation, code: String) {
        let room = self.errors.len() < MAX_CODES || self.errors.contains_key(&(operation, code.clone()));
        let code = if room { code } else { "other".to_owned() };
        let count = self.errors.entry((operation, code)).or_default();
        *count = count.saturating_add(1);
    }

    /// Counts a wrong answer.
    pub(super) fn wrong(&mut self, key: &str, what: &str) {
        self.wrong = self.wrong.saturating_add(1);
        if self.named.len() < NAMED {
            self.named.push(format!("{key}: {what}"));
        }
    }

    /// Adds what another thread counted.
    pub(super) fn add(&mut self, other: Self) {
        let pairs = [
            (&mut self.reserve, &other.reserve),
            (&mut self.complete, &other.complete),
            (&mut self.replay, &other.replay),
            (&mut self.cycle, &other.cycle),
            (&mut self.lag, &other.lag),
        ];
        for (mine, theirs) in pairs {
            mine.add(theirs).expect("histograms of one shape can be added");
        }
        for (at, count) in other.errors {
            let sum = self.errors.entry(at).or_default();
            *sum = sum.saturating_add(count);
        }
        self.wrong = self.wrong.saturating_add(other.wrong);
        let room = NAMED.saturating_sub(self.named.len());
        self.named.extend(other.named.into_iter().take(room));
        self.compared = self.compared.saturating_add(other.compared);
        self.not_started = self.not_started.saturating_add(other.not_started);
    }
}

/// An empty histogram of microseconds.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_US, DIGITS).expect("the bounds and digits are valid")
}

/// A duration in whole microseconds, at least one: a histogram has no zero.
pub(super) fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let mut sum = Tally::new();
        for thread in 0..3u64 {
            let mut tally = Tally::new();
            tally.took(Operation::Reserve, Duration::from_micros(100 * (thread + 1)));
            tally.failed(Operation::Complete, "overloaded".to_owned());
            tally.wrong("key", "first");
            tally.wrong("key", "second");
            tally.not_started = 2;
            sum.add(tally);
        }
        assert_eq!(sum.latencies(Operation::Reserve).len(), 3);
        assert_eq!(sum.latencies(Operation::Reserve).max(), 300);
        assert_eq!(sum.errors.get(&(Operation::Complete, "overloaded".to_owned())), Some(&3));
        assert_eq!((sum.wrong, sum.named.len(), sum.not_started), (6, NAMED, 6));
    }

    #[test]
    fn latencies_beyond_the_scale_count_as_the_longest() {
        let mut tally = Tally::new();
        tally.took(Operation::Replay, Duration::from_secs(3_600));
        tally.took(Operation::Replay, Duration::ZERO);
        assert_eq!(tally.latencies(Operation::Replay).len(), 2);
    }
}
