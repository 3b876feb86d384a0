//! One rate: its state, and the arithmetic on it. That is `governor`'s generic cell rate algorithm, over a state and a clock of
//! ours: its own stores have one quota for all their keys, and take a key without a look at other caps.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::ops::Add;
use std::time::Duration;

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use crate::clock::Monotonic;
use crate::limits;
use crate::region::rates::Share;

/// The state of one rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    /// When its whole burst is there again: each key puts it off by one period.
    full_at: Monotonic,
}

/// A bucket without a key to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) retry_after: Duration,
    pub(super) reset: Duration,
}

impl Bucket {
    /// Never used, or long ago.
    pub(super) const FULL: Self = Self { full_at: Monotonic::at(Duration::ZERO) };

    /// Whether it is as good as one that was never used.
    pub(super) fn is_full(self, now: Monotonic) -> bool {
        self.full_at <= now
    }

    /// Puts the bucket under a quota that may be another than before: it lacks one burst of it at the most.
    pub(super) fn fit(&mut self, quota: Quota, now: Monotonic) {
        self.full_at = self.full_at.min(now.plus(quota.burst_size_replenished_in()));
    }

    /// The bucket with one key less.
    pub(super) fn take(self, quota: Quota, now: Monotonic) -> Result<Self, Refused> {
        // The limiter lives for one look and begins now, so its state is how far ahead of now the bucket is.
        let lacks = self.full_at.since(now);
        let state = Lacks(Cell::new(lacks.into()));
        let limiter: RateLimiter<_, _, _, NoOpMiddleware<Monotonic>> = RateLimiter::new(quota, state, Now(now));
        match limiter.check() {
            Ok(()) => Ok(Self { full_at: now + limiter.into_state_store().0.get() }),
            Err(not_until) => Err(Refused { retry_after: not_until.wait_time_from(now), reset: lacks }),
        }
    }
}

impl Share {
    /// How many keys of a rate may come at once: a second's keys of this share, and two standard deviations more, since the
    /// hash spreads them over nodes only on average.
    #[must_use]
    pub(in crate::region::rates) fn burst(self, keys_per_second: u64) -> u64 {
        let (led, of) = self.parts();
        // In keys × `of`. A second's keys are drawn one by one: of the binomial distribution, times `of` squared, the variance
        // is rate × led × (of - led).
        let mean = bounded(keys_per_second).saturating_mul(led);
        let variance = mean.saturating_mul(of.saturating_sub(led));
        mean.saturating_add(variance.saturating_mul(4).isqrt()).div_ceil(of)
    }

    /// One key every so often, and how many at once.
    pub(super) fn quota(self, keys_per_second: u64) -> Quota {
        const SECOND: u64 = 1_000_000_000;
        let (led, of) = self.parts();
        let period = of.saturating_mul(SECOND).div_ceil(bounded(keys_per_second).saturating_mul(led));
        let burst = u32::try_from(self.burst(keys_per_second)).ok().and_then(NonZeroU32::new);
        let quota = Quota::with_period(Duration::from_nanos(period)).expect("rounded up, a period is not zero");
        quota.allow_burst(burst.expect("a burst is at least one key, and at most the largest rate and its deviations"))
    }

    fn parts(self) -> (u64, u64) {
        let of = u64::from(self.of.get().get());
        (u64::from(self.led).clamp(1, of), of)
    }
}

fn bounded(keys_per_second: u64) -> u64 {
    keys_per_second.clamp(*limits::KEYS_PER_SECOND.start(), *limits::KEYS_PER_SECOND.end())
}

/// The state that a limiter works on.
struct Lacks(Cell<Nanos>);

impl StateStore for Lacks {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _one: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (answer, lacks) = decide(Some(self.0.get()))?;
        self.0.set(lacks);
        Ok(answer)
    }
}

/// The time that the caller read.
#[derive(Clone, Copy)]
struct Now(Monotonic);

impl Clock for Now {
    type Instant = Monotonic;

    fn now(&self) -> Monotonic {
        self.0
    }
}

impl Reference for Monotonic {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.since(earlier).into()
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        let since_start = self.since(Self::at(Duration::ZERO));
        since_start.checked_sub(duration.into()).map_or(*self, Self::at)
    }
}

impl Add<Nanos> for Monotonic {
    type Output = Self;

    fn add(self, duration: Nanos) -> Self {
        self.plus(duration.into())
    }
}
