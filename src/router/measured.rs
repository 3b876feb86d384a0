//! Counts what a router's calls come to. A call is counted where its client is; the node that leads its partition counts it
//! as forwarded only.

use holdfast_client::proto::v1::session_answer::Answer;

use super::call::Call;
use super::link::Unanswered;
use crate::clock::{self, Monotonic};
use crate::region::Region;
use crate::region::calls::{
    Certainty, ClaimOutcome, Completed, Failed, Failure, Found, GrantOutcome, ReserveOutcome, ResolveOutcome,
};
use crate::reservation::reply::Recorded;
use crate::telemetry::metrics::{self, Direction, Forwarded, Outcome, Whose};
use crate::wire::v1::ForwardAnswer;

/// Counts a client's call that was answered.
pub(super) fn call<C: Call>(region: &Region, call: &C, begun: Monotonic, answered: &Result<C::Answer, Failed>) {
    let Some(method) = C::METHOD else { return };
    let outcome = match answered {
        Ok(answer) => C::came_to(answer),
        Err(failed) => match certainty(&failed.failure) {
            Certainty::Definite => Outcome::FailedDefinite,
            Certainty::Indefinite => Outcome::FailedIndefinite,
        },
    };
    let reserve = call.reserve();
    let waits = reserve.is_some_and(|call| !call.wait.is_zero());
    metrics::call(method, waits, outcome, clock::monotonic().since(begun));
    if let Some(call) = reserve {
        let severity = region.severity().as_str();
        let (tenant, endpoint, client_version) = (&call.key.tenant, &call.endpoint, call.client_version.as_str());
        metrics::reserve(Whose { tenant, endpoint, severity, client_version }, outcome);
    }
}

/// Counts a call that this node passed on.
pub(super) fn sent(begun: Monotonic, answered: &Result<ForwardAnswer, Unanswered>) {
    let outcome = match answered {
        Err(Unanswered::NotSent | Unanswered::Full) => Forwarded::Definite,
        Err(Unanswered::Lost) => Forwarded::Indefinite,
        Ok(answer) if answer.not_leader.is_some() => Forwarded::NotLeader,
        Ok(answer) => match answer.answer.as_ref().and_then(|answer| answer.answer.as_ref()) {
            Some(Answer::Failure(failure)) if failure.definite => Forwarded::Definite,
            None | Some(Answer::Failure(_)) => Forwarded::Indefinite,
            Some(
                Answer::Reserve(_)
                | Answer::Complete(_)
                | Answer::Release(_)
                | Answer::Extend(_)
                | Answer::Checkpoint(_)
                | Answer::Lookup(_)
                | Answer::Claim(_)
                | Answer::Resolve(_),
            ) => Forwarded::Answered,
        },
    };
    metrics::forwarded(Direction::Sent, outcome, clock::monotonic().since(begun));
}

/// Counts a call that another node passed on.
pub(super) fn received<T>(begun: Monotonic, served: &Result<T, Failure>) {
    let outcome = match served {
        Ok(_) => Forwarded::Answered,
        Err(Failure::NotLeader { .. }) => Forwarded::NotLeader,
        Err(failure) => match certainty(failure) {
            Certainty::Definite => Forwarded::Definite,
            Certainty::Indefinite => Forwarded::Indefinite,
        },
    };
    metrics::forwarded(Direction::Received, outcome, clock::monotonic().since(begun));
}

fn certainty(failure: &Failure) -> Certainty {
    match failure {
        Failure::Elsewhere { certainty, .. } | Failure::Unavailable { certainty, .. } => *certainty,
        Failure::Invalid(_)
        | Failure::Overloaded { .. }
        | Failure::DiskLow { .. }
        | Failure::OtherSelection { .. }
        | Failure::NotLeader { .. } => Certainty::Definite,
    }
}

pub(super) fn reserved(outcome: &ReserveOutcome) -> Outcome {
    match outcome {
        ReserveOutcome::Granted(grant) if grant.repeated => Outcome::GrantedAgain,
        ReserveOutcome::Granted(_) => Outcome::Granted,
        ReserveOutcome::Replay(_) => Outcome::Replay,
        ReserveOutcome::Mismatch => Outcome::Mismatch,
        ReserveOutcome::InProgress { .. } => Outcome::InProgress,
        ReserveOutcome::OutcomeUnknown { .. } => Outcome::Unknown,
        ReserveOutcome::InDoubt { .. } => Outcome::InDoubt,
        ReserveOutcome::Superseded { .. } => Outcome::Superseded,
        ReserveOutcome::Expired => Outcome::Expired,
        ReserveOutcome::Limited { .. } => Outcome::Limited,
    }
}

pub(super) fn completed(outcome: &Completed) -> Outcome {
    match outcome.recorded {
        Recorded::Answer => Outcome::Answer,
        Recorded::Repeated => Outcome::Repeated,
        Recorded::Late => Outcome::Late,
    }
}

pub(super) fn on_grant(outcome: &GrantOutcome) -> Outcome {
    match outcome {
        GrantOutcome::Done => Outcome::Done,
        GrantOutcome::StaleToken(_) => Outcome::StaleToken,
    }
}

pub(super) fn claimed(outcome: &ClaimOutcome) -> Outcome {
    match outcome {
        ClaimOutcome::Claimed(grant) if grant.repeated => Outcome::GrantedAgain,
        ClaimOutcome::Claimed(_) => Outcome::Claimed,
        ClaimOutcome::NotClaimable(_) => Outcome::NotClaimable,
        ClaimOutcome::Limited(_) => Outcome::Limited,
    }
}

pub(super) fn resolved(outcome: &ResolveOutcome) -> Outcome {
    match outcome {
        ResolveOutcome::Resolved(_) => Outcome::Done,
        ResolveOutcome::StaleToken(_) => Outcome::StaleToken,
    }
}

pub(super) fn found(outcome: &Option<Found>) -> Outcome {
    if outcome.is_some() { Outcome::Found } else { Outcome::Absent }
}
