//! One cycle: reserve, complete, and for some keys a replay, each answer checked.

use std::cell::{Cell, RefCell};

use holdfast_client::client::{Client, Error, Grant, Outcome, Recorded};

use crate::cli::bench::source::Source;
use crate::cli::bench::tally::{Operation, Tally};
use crate::clock::{Monotonic, monotonic};

/// What the clients of one thread share. They run on that thread only, so nothing is locked.
#[derive(Debug)]
pub(super) struct Shared {
    /// The keys.
    pub(super) source: Source,
    /// Share of keys that are asked again.
    pub(super) replay_share: f64,
    /// When the load began, warm-up included.
    pub(super) begun: Monotonic,
    /// Cycles that start from then on are measured.
    pub(super) measure_from: Monotonic,
    /// What was counted.
    pub(super) tally: RefCell<Tally>,
    /// When the last measured cycle ended.
    pub(super) last_end: Cell<Monotonic>,
    /// Answers and failures so far: what tells a slow node from a silent one.
    pub(super) answers: Cell<u64>,
    /// Cycles under way.
    pub(super) in_flight: Cell<u64>,
    /// The next key's number; the upper bits are the thread's.
    pub(super) next: Cell<u64>,
}

/// A cycle's place in the schedule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// When it starts, or should have: what its latency counts from.
    pub(super) at: Monotonic,
    /// Whether it counts.
    pub(super) measured: bool,
}

/// Whether a cycle came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Every call was answered.
    Answered,
    /// A call failed, which is counted.
    Failed,
}

/// Runs one cycle with a fresh key.
pub(super) async fn run(client: &Client, shared: &Shared, start: Start) -> Ended {
    let number = shared.next.get();
    shared.next.set(number.wrapping_add(1));
    shared.in_flight.set(shared.in_flight.get().saturating_add(1));
    let ended = steps(client, shared, number, start).await;
    shared.in_flight.set(shared.in_flight.get().saturating_sub(1));
    match ended {
        Ok(()) => Ended::Answered,
        Err((operation, error)) => {
            shared.count_answer();
            shared.tally.borrow_mut().failed(operation, error.code().to_owned());
            Ended::Failed
        }
    }
}

async fn steps(client: &Client, shared: &Shared, number: u64, start: Start) -> Result<(), (Operation, Error)> {
    let reserved = client.reserve(shared.source.reserve(number)).await;
    let reserved = reserved.map_err(|error| (Operation::Reserve, error))?;
    let granted_at = shared.took(Operation::Reserve, start.at, start);
    let Some(grant) = shared.granted(number, reserved) else { return Ok(()) };

    let completed = grant.complete(shared.source.envelope(number)).await;
    let completed = completed.map_err(|error| (Operation::Complete, error))?;
    let completed_at = shared.took(Operation::Complete, granted_at, start);
    shared.completed(number, completed.recorded);
    if start.measured {
        shared.tally.borrow_mut().took(Operation::Cycle, completed_at.since(start.at));
        shared.last_end.set(completed_at);
    }
    if !is_replayed(number, shared.replay_share) {
        return Ok(());
    }
    let replayed = client.reserve(shared.source.reserve(number)).await;
    let replayed = replayed.map_err(|error| (Operation::Replay, error))?;
    shared.took(Operation::Replay, completed_at, start);
    shared.replayed(number, replayed);
    Ok(())
}

impl Shared {
    fn count_answer(&self) {
        self.answers.set(self.answers.get().wrapping_add(1));
    }

    /// Counts an answered call that began at `since`, and returns when it ended.
    fn took(&self, operation: Operation, since: Monotonic, start: Start) -> Monotonic {
        let now = monotonic();
        self.count_answer();
        if start.measured {
            self.tally.borrow_mut().took(operation, now.since(since));
        }
        now
    }

    fn wrong(&self, number: u64, what: &str) {
        self.tally.borrow_mut().wrong(&self.source.key(number), what);
    }

    /// A first grant; anything else is wrong for a fresh key.
    fn granted(&self, number: u64, outcome: Outcome) -> Option<Grant> {
        match outcome {
            Outcome::Granted(grant) if grant.attempt() == 1 && !grant.possible_duplicate() && !grant.repeated() => {
                Some(grant)
            }
            Outcome::Granted(grant) => {
                self.wrong(
                    number,
                    &format!(
                        "a fresh key was granted as attempt {}, possible_duplicate {}, repeated {}",
                        grant.attempt(),
                        grant.possible_duplicate(),
                        grant.repeated()
                    ),
                );
                None
            }
            other => {
                self.wrong(number, &format!("reserve of a fresh key answered {}", outcome_name(&other)));
                None
            }
        }
    }

    fn completed(&self, number: u64, recorded: Recorded) {
        match recorded {
            Recorded::Answer => {}
            Recorded::Repeated => self.wrong(number, "the first completion was recorded as repeated"),
            Recorded::Late => self.wrong(number, "the only completion was recorded as late: another one ran"),
        }
    }

    fn replayed(&self, number: u64, outcome: Outcome) {
        match outcome {
            Outcome::Replay(replay) => {
                let checked = self.source.check(number, &replay);
                let mut tally = self.tally.borrow_mut();
                tally.compared = tally.compared.saturating_add(1);
                if let Err(wrong) = checked {
                    tally.wrong(&self.source.key(number), &wrong.to_string());
                }
            }
            Outcome::Granted(_) => self.wrong(number, "double grant: a completed key was granted again"),
            other => {
                self.wrong(number, &format!("reserve of a completed key answered {}", outcome_name(&other)));
            }
        }
    }
}

/// Spreads the replays evenly: of every ten keys two, for a share of 0.2.
fn is_replayed(number: u64, share: f64) -> bool {
    // The lower 32 bits are exact in a double, products included as far as it matters.
    let number = f64::from(number as u32);
    ((number + 1.0) * share).floor() > (number * share).floor()
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Granted(_) => "granted",
        Outcome::Replay(_) => "replay",
        Outcome::Mismatch => "mismatch",
        Outcome::InProgress { .. } => "in_progress",
        Outcome::OutcomeUnknown { .. } => "outcome_unknown",
        Outcome::InDoubt { .. } => "in_doubt",
        Outcome::Superseded { .. } => "superseded",
        Outcome::Expired => "expired",
        Outcome::Limited { .. } => "limited",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replays_are_spread_evenly() {
        for (share, expected) in [(0.0, 0), (0.2, 200), (0.5, 500), (1.0, 1_000)] {
            let count = (0..1_000).filter(|number| is_replayed(*number, share)).count();
            assert_eq!(count, expected, "{share}");
        }
        let gaps: Vec<u64> = (0..20).filter(|number| is_replayed(*number, 0.2)).collect();
        assert_eq!(gaps, [4, 9, 14, 19]);
    }
}
