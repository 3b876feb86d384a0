//! Counters and histograms: a few atomic additions each, of fixed size whatever is counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::table::Buckets;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// At zero.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// One more.
    pub fn one(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Buckets of one histogram at the most, that of everything larger included.
const MOST_BUCKETS: usize = 18;

/// How values are spread over buckets. Durations are kept in nanoseconds.
#[derive(Debug)]
pub struct Histogram {
    buckets: Buckets,
    counts: [AtomicU64; MOST_BUCKETS],
    sum: AtomicU64,
}

impl Histogram {
    /// Without a value.
    #[must_use]
    pub const fn new(buckets: Buckets) -> Self {
        assert!(buckets.bounds().len() < MOST_BUCKETS, "the last bucket is for everything larger");
        Self { buckets, counts: [const { AtomicU64::new(0) }; MOST_BUCKETS], sum: AtomicU64::new(0) }
    }

    /// One more duration.
    pub fn took(&self, duration: Duration) {
        self.value(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// One more count, such as of bytes.
    pub fn size(&self, size: usize) {
        self.value(u64::try_from(size).unwrap_or(u64::MAX));
    }

    fn value(&self, value: u64) {
        let at = self.buckets.bounds().partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Its buckets.
    pub(super) fn buckets(&self) -> Buckets {
        self.buckets
    }

    /// How many values each bucket has, in the order of the bounds, last those above all of them.
    pub(super) fn counts(&self) -> impl Iterator<Item = u64> + '_ {
        let used = self.buckets.bounds().len().saturating_add(1);
        self.counts.iter().take(used).map(|count| count.load(Ordering::Relaxed))
    }

    /// The sum of all values.
    pub(super) fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_is_in_its_bucket() {
        let histogram = Histogram::new(Buckets::Sizes(&[1, 10]));
        for size in [0, 1, 2, 10, 11, usize::MAX] {
            histogram.size(size);
        }
        assert_eq!(histogram.counts().collect::<Vec<_>>(), [2, 2, 2]);
    }

    #[test]
    fn durations_are_summed_in_nanoseconds() {
        let histogram = Histogram::new(Buckets::Durations(&[1_000, 2_000]));
        histogram.took(Duration::from_nanos(1_500));
        histogram.took(Duration::from_secs(1));
        assert_eq!(histogram.counts().collect::<Vec<_>>(), [0, 1, 1]);
        assert_eq!(histogram.sum(), 1_000_001_500);
    }
}
