//! The decision: one committed command to one key. Reserve stands here, with its precedence; the command that tells an
//! outcome stands in [`complete`], and those that end, extend or take over a grant in [`settle`].

use crate::ids::{FencingToken, Fingerprint};
use crate::limits;
use crate::reservation::command::{Command, Context, Doubt, Kind, Reserve};
use crate::reservation::record::{Attempt, Checkpoint, EventKind, OnLapse, Phase, Record};
use crate::reservation::reply::{Decision, Grant, Limit, Reply};
use crate::reservation::{complete, settle};

/// Decides a command from the key's record and the entry's context alone: the same on every replica, for ever.
///
/// A decision without a changed record may be answered without a log entry, by whoever holds the applied state.
#[must_use]
pub fn decide(record: Option<&Record>, command: &Command, context: &Context) -> Decision {
    if context.open_epoch != Some(command.epoch) {
        return void_epoch(record, command, context);
    }
    match &command.kind {
        Kind::Reserve(reserve) => decide_reserve(record, reserve, context),
        Kind::Complete(told) => complete::complete(record, told, context),
        Kind::Release { token } => settle::release(record, *token, context),
        Kind::Extend { token, lease_ms } => settle::extend(record, *token, *lease_ms, context),
        Kind::Checkpoint { token, checkpoint } => settle::checkpoint(record, *token, checkpoint, context),
        Kind::Claim { nonce, lease_ms, worker } => settle::claim(record, nonce.as_ref(), *lease_ms, worker, context),
        Kind::Resolve { token, verdict, actor, reason } => {
            settle::resolve(record, *token, *verdict, &settle::Signature { actor, reason }, context)
        }
        Kind::Lapse { token, lease_revision } => settle::lapse(record, *token, *lease_revision, context),
        Kind::Void { token } => settle::void(record, *token, context),
    }
}

/// Nothing changes in an epoch that is not open; what is completed is replayed all the same.
fn void_epoch(record: Option<&Record>, command: &Command, context: &Context) -> Decision {
    if let (Kind::Reserve(reserve), Some(record)) = (&command.kind, record)
        && let Some(reply) = answered(record, reserve)
    {
        return Decision::unchanged(reply);
    }
    Decision::unchanged(Reply::Void { open: context.open_epoch })
}

/// The precedence of Reserve: the first that applies.
///
/// 1. completed: `Mismatch` or `Replay`
/// 2. minted after this epoch: `Superseded`
/// 3. absent and at or below the endpoint's horizon: `Expired`
/// 4. held: `Mismatch`, else the same grant for the same nonce, else `InProgress`
/// 5. lapsed under `hold`: `OutcomeUnknown`
/// 6. lapsed under `regrant`, or given back with a recovery point: `Mismatch` (what may have executed, or a part of it,
///    keeps its request)
///
///    In 1, 4 and 6 it is `OtherSelection` in place of `Mismatch` as long as the two fingerprints were taken under different
///    selections: whether the request is the same is not known then.
/// 7. an unsettled older epoch, failing closed: `InDoubt`
/// 8. a limit on new grants: `Limited`
/// 9. another token than the proposer knew: `Raced`
/// 10. `Granted`
fn decide_reserve(record: Option<&Record>, reserve: &Reserve, context: &Context) -> Decision {
    if let Some(reply) = record.and_then(|record| answered(record, reserve)) {
        return Decision::unchanged(reply);
    }
    if let Some(open) = context.open_epoch
        && context.key.mint_epoch > open
    {
        return Decision::unchanged(Reply::Superseded { epoch: open });
    }
    if record.is_none() && is_past_horizon(context) {
        return Decision::unchanged(Reply::Expired);
    }
    if let Some(reply) = record.and_then(|record| unanswered(record, reserve)) {
        return Decision::unchanged(reply);
    }
    if reserve.doubt == Doubt::UnsettledFailClosed {
        return Decision::unchanged(Reply::InDoubt);
    }
    if record.is_some_and(|record| may_have_executed(record).count() >= limits::MAX_ATTEMPTS) {
        return Decision::unchanged(Reply::Limited(Limit::Attempts));
    }
    if record.and_then(Record::last_token) != reserve.known {
        return Decision::unchanged(Reply::Raced);
    }
    grant(record, reserve, context)
}

fn is_past_horizon(context: &Context) -> bool {
    matches!((context.key.time_ms, context.horizon_ms), (Some(time), Some(horizon)) if time <= horizon)
}

/// How a request compares with the one that a grant is for.
enum Compared {
    Same,
    Other,
    /// Nobody can say before the fingerprint is taken under the selection that the grant's was.
    OtherSelection(u32),
}

fn compare(granted: &Fingerprint, asked: &Fingerprint) -> Compared {
    if granted == asked {
        return Compared::Same;
    }
    // Version 0 is the caller's own digest, which no selection made.
    let comparable = granted.version == 0 || granted.version != asked.version || granted.selection == asked.selection;
    if comparable { Compared::Other } else { Compared::OtherSelection(granted.selection) }
}

/// What a completed key answers.
fn answered(record: &Record, reserve: &Reserve) -> Option<Reply> {
    let answer = record.answer?;
    let executed = record.attempts.iter().find(|attempt| attempt.token == answer.token);
    Some(match executed.map(|attempt| compare(&attempt.fingerprint, &reserve.fingerprint)) {
        Some(Compared::Same) => Reply::Replay(answer),
        Some(Compared::OtherSelection(selection)) => Reply::OtherSelection { selection },
        Some(Compared::Other) | None => Reply::Mismatch,
    })
}

/// What a key answers that is held or may have executed; nothing if it may be granted.
fn unanswered(record: &Record, reserve: &Reserve) -> Option<Reply> {
    let standing = record.standing()?;
    let differs = match compare(&standing.fingerprint, &reserve.fingerprint) {
        Compared::Same => None,
        Compared::Other => Some(Reply::Mismatch),
        Compared::OtherSelection(selection) => Some(Reply::OtherSelection { selection }),
    };
    match &standing.phase {
        Phase::Held { .. } if differs.is_some() => differs,
        Phase::Held { .. } if reserve.nonce.is_some() && standing.nonce == reserve.nonce => {
            let flagged = standing.flagged || reserve.doubt != Doubt::Settled;
            same_grant(record, standing, flagged).map(|grant| Reply::Granted(Box::new(grant)))
        }
        Phase::Held { .. } => Some(Reply::InProgress),
        Phase::Lapsed | Phase::Completed { .. } => match record.terms.on_lapse {
            OnLapse::Hold => {
                Some(Reply::OutcomeUnknown { attempt: standing.number, checkpoint: record.checkpoint.clone() })
            }
            OnLapse::Regrant => differs,
        },
        Phase::Released => record.checkpoint.as_ref().and(differs),
    }
}

/// The grants of the key that may have had their effect.
pub(super) fn may_have_executed(record: &Record) -> impl Iterator<Item = &Attempt> {
    record.attempts.iter().filter(|attempt| match attempt.phase {
        Phase::Held { .. } | Phase::Lapsed | Phase::Completed { .. } => true,
        Phase::Released => false,
    })
}

/// A held grant once more, for the nonce that it was made for.
pub(super) fn same_grant(record: &Record, attempt: &Attempt, flagged: bool) -> Option<Grant> {
    match attempt.phase {
        Phase::Held { lease_ms, lease_revision } => Some(Grant {
            token: attempt.token,
            lease_ms,
            lease_revision,
            attempt: attempt.number,
            checkpoint: record.checkpoint.clone(),
            possible_duplicate: flagged,
            repeated: true,
            fingerprint: attempt.fingerprint.clone(),
            endpoint: record.endpoint.clone(),
            policy_revision: record.terms.policy_revision,
        }),
        Phase::Lapsed | Phase::Released | Phase::Completed { .. } => None,
    }
}

fn grant(record: Option<&Record>, reserve: &Reserve, context: &Context) -> Decision {
    let doubtful = match reserve.doubt {
        Doubt::Settled | Doubt::UnsettledFailClosed => false,
        Doubt::Lost | Doubt::UnsettledFailOpen => true,
    };
    let flagged = doubtful || record.is_some_and(|record| may_have_executed(record).next().is_some());
    let attempt = Attempt {
        token: next_token(context),
        number: next_number(record),
        fingerprint: reserve.fingerprint.clone(),
        nonce: reserve.nonce.clone(),
        flagged,
        phase: Phase::Held { lease_ms: reserve.terms.lease_ms, lease_revision: 0 },
    };
    let mut next = match record {
        Some(record) => record.clone(),
        None => Record {
            endpoint: reserve.endpoint.clone(),
            terms: reserve.terms,
            attempts: Vec::with_capacity(1),
            checkpoint: None,
            answer: None,
            idle_expires_at: None,
            history: Vec::with_capacity(1),
            history_dropped: 0,
            position: 0,
            envelope_bytes: 0,
        },
    };
    next.endpoint = reserve.endpoint.clone();
    next.terms = record.map_or(reserve.terms, |record| reserve.terms.keeping(record.terms));
    let granted = add_attempt(&mut next, attempt, EventKind::Granted, "", context);
    Decision::changed(Reply::Granted(Box::new(granted)), next)
}

/// The token of a grant made now.
pub(super) fn next_token(context: &Context) -> FencingToken {
    FencingToken { epoch: context.open_epoch.unwrap_or(crate::ids::Epoch::FIRST), sequence: context.next_position }
}

/// The number of a grant made now.
pub(super) fn next_number(record: Option<&Record>) -> u32 {
    record.and_then(Record::last).map_or(1, |last| last.number.saturating_add(1))
}

/// Adds a held grant to a record, and forgets the grants that were given back.
pub(super) fn add_attempt(
    record: &mut Record,
    attempt: Attempt,
    event: EventKind,
    detail: &str,
    context: &Context,
) -> Grant {
    let checkpoint: Option<Checkpoint> = record.checkpoint.clone();
    let (lease_ms, lease_revision) = match attempt.phase {
        Phase::Held { lease_ms, lease_revision } => (lease_ms, lease_revision),
        Phase::Lapsed | Phase::Released | Phase::Completed { .. } => (record.terms.lease_ms, 0),
    };
    let granted = Grant {
        token: attempt.token,
        lease_ms,
        lease_revision,
        attempt: attempt.number,
        checkpoint,
        possible_duplicate: attempt.flagged,
        repeated: false,
        fingerprint: attempt.fingerprint.clone(),
        endpoint: record.endpoint.clone(),
        policy_revision: record.terms.policy_revision,
    };
    record.attempts.retain(|earlier| match earlier.phase {
        Phase::Held { .. } | Phase::Lapsed | Phase::Completed { .. } => true,
        Phase::Released => false,
    });
    record.idle_expires_at = None;
    record.position = context.next_position;
    record.note(context.now, event, attempt.token, detail);
    record.attempts.push(attempt);
    granted
}
