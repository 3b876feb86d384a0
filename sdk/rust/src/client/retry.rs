//! When a call is sent again: how long to wait, and whether the budget allows it. Functions of time and randomness that
//! are handed in.

use std::time::Duration;

use super::clock::Moment;

/// How resends are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backoff {
    /// The longest pause before the first resend.
    pub(super) base: Duration,
    /// The longest pause before any.
    pub(super) cap: Duration,
}

impl Backoff {
    /// The pause before the `nth` resend, from 0: anything from nothing to the base, doubled each time, up to the cap
    /// ("full jitter": clients that failed together do not come back together). `random` is in `0.0..1.0`.
    pub(super) fn pause(&self, nth: u32, random: f64) -> Duration {
        let factor = 2_u32.saturating_pow(nth);
        self.base.saturating_mul(factor).min(self.cap).mul_f64(random.clamp(0.0, 1.0))
    }
}

/// What resends cost, so that clients of a cluster in trouble do not multiply its load.
#[derive(Clone, Copy, Debug)]
pub(super) struct BudgetRules {
    /// Resends that each first send allows.
    pub(super) share: f64,
    /// Resends that each second allows.
    pub(super) per_second: f64,
}

/// The resends that are allowed now: a bucket of tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    rules: BudgetRules,
    tokens: f64,
    filled: Moment,
}

/// Seconds of `per_second` that the bucket holds.
const SECONDS_SAVED: f64 = 10.0;
/// Tokens that the bucket holds at the least, whatever the rules say; none if they allow none.
const FEWEST_SAVED: f64 = 10.0;

impl Budget {
    /// A full bucket.
    pub(super) fn new(rules: BudgetRules, now: Moment) -> Self {
        let mut budget = Self { rules, tokens: 0.0, filled: now };
        budget.tokens = budget.most();
        budget
    }

    fn most(&self) -> f64 {
        if self.rules.share <= 0.0 && self.rules.per_second <= 0.0 {
            return 0.0;
        }
        (self.rules.per_second * SECONDS_SAVED).max(FEWEST_SAVED)
    }

    /// Counts a first send.
    pub(super) fn sent(&mut self) {
        self.tokens = (self.tokens + self.rules.share).min(self.most());
    }

    /// Takes a resend out; false when none is left.
    pub(super) fn resend(&mut self, now: Moment) -> bool {
        let grown = now.since(self.filled).as_secs_f64() * self.rules.per_second;
        self.filled = now;
        self.tokens = (self.tokens + grown).min(self.most());
        // Fractions do not add up exactly: five fifths are one.
        let allowed = self.tokens > 0.999_999;
        if allowed {
            self.tokens = (self.tokens - 1.0).max(0.0);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::at(Duration::from_millis(ms))
    }

    #[test]
    fn pauses_double_up_to_the_cap_and_are_jittered_from_nothing() {
        let backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(5) };
        let longest = [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000];
        for (nth, expected) in (0..).zip(longest) {
            assert_eq!(backoff.pause(nth, 1.0), Duration::from_millis(expected), "{nth}");
            assert_eq!(backoff.pause(nth, 0.5), Duration::from_millis(expected / 2), "{nth}");
            assert_eq!(backoff.pause(nth, 0.0), Duration::ZERO);
        }
        assert_eq!(backoff.pause(u32::MAX, 1.0), Duration::from_secs(5));
    }

    #[test]
    fn resends_are_a_share_of_what_is_sent_and_some_a_second() {
        let mut budget = Budget::new(BudgetRules { share: 0.2, per_second: 10.0 }, at(0));
        let spend = |budget: &mut Budget, now| (0..1_000).take_while(|_| budget.resend(now)).count();
        assert_eq!(spend(&mut budget, at(0)), 100, "ten seconds' worth are saved");
        (0..50).for_each(|_| budget.sent());
        assert_eq!(spend(&mut budget, at(0)), 10, "a fifth of fifty");
        assert_eq!(spend(&mut budget, at(500)), 5);
        assert_eq!(spend(&mut budget, at(550)), 0, "half a token is none");
        assert_eq!(spend(&mut budget, at(600)), 1);
        assert_eq!(spend(&mut budget, at(3_600_600)), 100, "and no more are saved");
    }

    #[test]
    fn a_budget_of_nothing_allows_nothing() {
        let mut budget = Budget::new(BudgetRules { share: 0.0, per_second: 0.0 }, at(0));
        budget.sent();
        assert!(!budget.resend(at(1_000_000)));
    }
}
