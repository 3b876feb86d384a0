//! One cycle: reserve, complete, and for some keys a replay, each answer checked.

use std::cell::{Cell, RefCell};

use holdfast_client::proto::v1;
use holdfast_client::proto::v1::reservations_client::ReservationsClient;
use holdfast_client::proto::v1::reserve_response::Outcome;
use tonic::Status;
use tonic::transport::Channel;

use crate::cli::bench::source::Source;
use crate::cli::bench::tally::{Operation, Tally};
use crate::cli::client::code_of;
use crate::clock::{Monotonic, monotonic};

/// What asks the node.
pub(super) type Client = ReservationsClient<Channel>;

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
pub(super) async fn run(client: &mut Client, shared: &Shared, start: Start) -> Ended {
    let number = shared.next.get();
    shared.next.set(number.wrapping_add(1));
    shared.in_flight.set(shared.in_flight.get().saturating_add(1));
    let ended = steps(client, shared, number, start).await;
    shared.in_flight.set(shared.in_flight.get().saturating_sub(1));
    match ended {
        Ok(()) => Ended::Answered,
        Err((operation, status)) => {
            shared.count_answer();
            shared.tally.borrow_mut().failed(operation, code_of(&status));
            Ended::Failed
        }
    }
}

async fn steps(client: &mut Client, shared: &Shared, number: u64, start: Start) -> Result<(), (Operation, Status)> {
    let reserved = client.reserve(shared.source.reserve(number, 0)).await;
    let reserved = reserved.map_err(|status| (Operation::Reserve, status))?.into_inner();
    let granted_at = shared.took(Operation::Reserve, start.at, start);
    let Some(token) = shared.granted(number, reserved.outcome) else { return Ok(()) };

    let completed = client.complete(shared.source.complete(number, token)).await;
    let completed = completed.map_err(|status| (Operation::Complete, status))?.into_inner();
    let completed_at = shared.took(Operation::Complete, granted_at, start);
    shared.completed(number, completed.outcome);
    if start.measured {
        shared.tally.borrow_mut().took(Operation::Cycle, completed_at.since(start.at));
        shared.last_end.set(completed_at);
    }
    if !is_replayed(number, shared.replay_share) {
        return Ok(());
    }
    let replayed = client.reserve(shared.source.reserve(number, 1)).await;
    let replayed = replayed.map_err(|status| (Operation::Replay, status))?.into_inner();
    shared.took(Operation::Replay, completed_at, start);
    shared.replayed(number, replayed.outcome);
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

    /// The token of a first grant; anything else is wrong for a fresh key.
    fn granted(&self, number: u64, outcome: Option<Outcome>) -> Option<String> {
        match outcome {
            Some(Outcome::Granted(grant)) if grant.attempt == 1 && !grant.possible_duplicate && !grant.repeated => {
                Some(grant.token)
            }
            Some(Outcome::Granted(grant)) => {
                self.wrong(
                    number,
                    &format!(
                        "a fresh key was granted as attempt {}, possible_duplicate {}, repeated {}",
                        grant.attempt, grant.possible_duplicate, grant.repeated
                    ),
                );
                None
            }
            other => {
                self.wrong(number, &format!("reserve of a fresh key answered {}", outcome_name(other.as_ref())));
                None
            }
        }
    }

    fn completed(&self, number: u64, outcome: Option<v1::complete_response::Outcome>) {
        let Some(v1::complete_response::Outcome::Completed(completed)) = outcome else {
            return self.wrong(number, "complete answered no outcome that this version knows");
        };
        match v1::Recorded::try_from(completed.recorded) {
            Ok(v1::Recorded::Answer) => {}
            Ok(v1::Recorded::Repeated) => self.wrong(number, "the first completion was recorded as repeated"),
            Ok(v1::Recorded::Late) => self.wrong(number, "the only completion was recorded as late: another one ran"),
            Ok(v1::Recorded::Unspecified) | Err(_) => self.wrong(number, "complete does not say how it was recorded"),
        }
    }

    fn replayed(&self, number: u64, outcome: Option<Outcome>) {
        match outcome {
            Some(Outcome::Replay(replay)) => {
                let checked = self.source.check(number, &replay);
                let mut tally = self.tally.borrow_mut();
                tally.compared = tally.compared.saturating_add(1);
                if let Err(wrong) = checked {
                    tally.wrong(&self.source.key(number), &wrong.to_string());
                }
            }
            Some(Outcome::Granted(_)) => self.wrong(number, "double grant: a completed key was granted again"),
            other => {
                self.wrong(number, &format!("reserve of a completed key answered {}", outcome_name(other.as_ref())));
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

fn outcome_name(outcome: Option<&Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::Granted(_)) => "granted",
        Some(Outcome::Replay(_)) => "replay",
        Some(Outcome::Mismatch(_)) => "mismatch",
        Some(Outcome::InProgress(_)) => "in_progress",
        Some(Outcome::OutcomeUnknown(_)) => "outcome_unknown",
        Some(Outcome::InDoubt(_)) => "in_doubt",
        Some(Outcome::Superseded(_)) => "superseded",
        Some(Outcome::Expired(_)) => "expired",
        Some(Outcome::Limited(_)) => "limited",
        None => "an outcome that this version does not know",
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
