//! Retries to an upstream: which failures may be tried again, how long to wait before, and how many there may be. Time and
//! randomness are arguments.
//!
//! A request is sent again only where nothing of it was written, or where the route says that its upstream is idempotent. A
//! bucket of tokens bounds the retries of a route: each first try fills it by a share, so that an upstream that fails gets a few
//! per cent more calls, and not a multiple of them.

use std::time::Duration;

use crate::clock::Monotonic;

/// What a route allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RetryRules {
    /// Tries of one request, the first included.
    pub(super) attempts: u32,
    /// The first pause is at random up to this; each further one up to twice as much.
    pub(super) base: Duration,
    /// No pause is longer.
    pub(super) cap: Duration,
    /// Retries for each first try.
    pub(super) ratio: f64,
    /// Retries a second that are there whatever the load is.
    pub(super) per_second: f64,
    /// The longest `Retry-After` of an upstream that is waited for.
    pub(super) most_retry_after: Duration,
}

/// The retries that a route has left.
#[derive(Debug)]
pub(super) struct Budget {
    tokens: f64,
    filled: Monotonic,
}

/// How a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// Nothing of it was written.
    Unsent,
    /// It broke off after something may have been.
    Broken,
    /// No answer came in time.
    TimedOut,
    /// The upstream answered 502, 503 or 504, and said when to try again, if it did.
    Answered(Option<Duration>),
}

impl Failed {
    /// What metrics call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Unsent => "unsent",
            Self::Broken => "broken",
            Self::TimedOut => "timed-out",
            Self::Answered(_) => "answered",
        }
    }
}

/// A request that failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tried {
    /// Its last try.
    pub(super) failed: Failed,
    /// How many tries there were.
    pub(super) tries: u32,
    /// The upstream does a request once however often it comes.
    pub(super) idempotent: bool,
    /// All of the request is here.
    pub(super) held: bool,
    /// A number from 0 to 1.
    pub(super) random: f64,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send it again after this time.
    Again(Duration),
    /// It is the end of it.
    End,
    /// It could be sent again, and the budget is used up.
    Exhausted,
}

/// Seconds of the least rate that a bucket holds, and first tries whose share it holds.
const BURST_SECONDS: f64 = 10.0;
const BURST_TRIES: f64 = 100.0;

impl RetryRules {
    /// What the bucket holds at the most. One retry at least, where there may be any.
    fn burst(&self) -> f64 {
        let burst = self.per_second * BURST_SECONDS + self.ratio * BURST_TRIES;
        if burst > 0.0 { burst.max(1.0) } else { 0.0 }
    }

    /// The pause before a retry, the first of which is number 1: full jitter.
    fn pause(&self, retry: u32, random: f64) -> Duration {
        let doubled = self.base.saturating_mul(2_u32.saturating_pow(retry.saturating_sub(1).min(16)));
        doubled.min(self.cap).mul_f64(random.clamp(0.0, 1.0))
    }
}

impl Budget {
    /// A full one.
    pub(super) fn new(rules: &RetryRules, now: Monotonic) -> Self {
        Self { tokens: rules.burst(), filled: now }
    }

    /// A request is sent for the first time.
    pub(super) fn first(&mut self, rules: &RetryRules) {
        self.tokens = (self.tokens + rules.ratio).min(rules.burst());
    }

    fn take(&mut self, rules: &RetryRules, now: Monotonic) -> bool {
        let gained = now.since(self.filled).as_secs_f64() * rules.per_second;
        self.filled = now;
        self.tokens = (self.tokens + gained).min(rules.burst());
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }
}

/// What follows a failed try. Takes a token if it is sent again.
pub(super) fn next(rules: &RetryRules, budget: &mut Budget, tried: &Tried, now: Monotonic) -> Next {
    let repeatable = tried.idempotent && tried.held;
    let asked = match tried.failed {
        Failed::Unsent => None,
        Failed::Broken if repeatable => None,
        Failed::Answered(retry_after) if repeatable => retry_after,
        // An upstream that is slow is not helped by the same request again.
        Failed::TimedOut | Failed::Broken | Failed::Answered(_) => return Next::End,
    };
    if tried.tries >= rules.attempts || asked.is_some_and(|asked| asked > rules.most_retry_after) {
        return Next::End;
    }
    if !budget.take(rules, now) {
        return Next::Exhausted;
    }
    Next::Again(rules.pause(tried.tries, tried.random).max(asked.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: RetryRules = RetryRules {
        attempts: 3,
        base: Duration::from_millis(100),
        cap: Duration::from_millis(300),
        ratio: 0.1,
        per_second: 0.0,
        most_retry_after: Duration::from_secs(2),
    };
    const NOW: Monotonic = Monotonic::at(Duration::from_secs(100));

    fn tried(failed: Failed, idempotent: bool, held: bool) -> Tried {
        Tried { failed, tries: 1, idempotent, held, random: 1.0 }
    }

    fn after(rules: &RetryRules, tried: Tried) -> Next {
        next(rules, &mut Budget::new(rules, NOW), &tried, NOW)
    }

    #[test]
    fn what_may_have_been_done_is_sent_again_only_to_an_idempotent_upstream_that_can_be_sent_all_of_it() {
        let again = Next::Again(Duration::from_millis(100));
        for failed in [Failed::Unsent, Failed::Broken, Failed::TimedOut, Failed::Answered(None)] {
            for (idempotent, held) in [(false, false), (false, true), (true, false), (true, true)] {
                let expected = match failed {
                    Failed::Unsent => again,
                    Failed::Broken | Failed::Answered(_) if idempotent && held => again,
                    Failed::Broken | Failed::Answered(_) | Failed::TimedOut => Next::End,
                };
                assert_eq!(after(&RULES, tried(failed, idempotent, held)), expected, "{failed:?} {idempotent} {held}");
            }
        }
    }

    #[test]
    fn pauses_double_up_to_their_cap_and_are_at_random() {
        let pause = |tries, random| {
            after(&RetryRules { attempts: 99, ..RULES }, Tried { tries, random, ..tried(Failed::Unsent, false, false) })
        };
        let ms = |ms| Next::Again(Duration::from_millis(ms));
        assert_eq!([pause(1, 1.0), pause(2, 1.0), pause(3, 1.0), pause(80, 1.0)], [ms(100), ms(200), ms(300), ms(300)]);
        assert_eq!([pause(2, 0.0), pause(2, 0.5), pause(2, 7.0)], [ms(0), ms(100), ms(200)]);
    }

    #[test]
    fn what_an_upstream_asks_for_is_waited_for_up_to_a_cap() {
        let asked = |seconds| after(&RULES, tried(Failed::Answered(Some(Duration::from_secs(seconds))), true, true));
        assert_eq!(asked(2), Next::Again(Duration::from_secs(2)));
        assert_eq!(asked(3), Next::End);
    }

    #[test]
    fn attempts_are_counted() {
        let of = |tries| after(&RULES, Tried { tries, ..tried(Failed::Unsent, false, false) });
        assert!(matches!(of(2), Next::Again(_)));
        assert_eq!(of(3), Next::End);
    }

    #[test]
    fn retries_are_a_share_of_first_tries_and_a_few_a_second() {
        let unsent = tried(Failed::Unsent, false, false);
        let mut budget = Budget::new(&RULES, NOW);
        let granted = |budget: &mut Budget, rules: &RetryRules, now| {
            (0..1_000).filter(|_| matches!(next(rules, budget, &unsent, now), Next::Again(_))).count()
        };
        assert_eq!(granted(&mut budget, &RULES, NOW), 10, "a full bucket");
        assert_eq!(next(&RULES, &mut budget, &unsent, NOW), Next::Exhausted);
        (0..51).for_each(|_| budget.first(&RULES));
        assert_eq!(granted(&mut budget, &RULES, NOW), 5, "a tenth of the first tries");
        let least = RetryRules { ratio: 0.0, per_second: 2.0, ..RULES };
        let mut budget = Budget::new(&least, NOW);
        assert_eq!(granted(&mut budget, &least, NOW), 20);
        assert_eq!(granted(&mut budget, &least, NOW.plus(Duration::from_secs(3))), 6);
        let none = RetryRules { ratio: 0.0, ..RULES };
        assert_eq!(after(&none, unsent), Next::Exhausted);
    }
}
