//! The commands that end, extend or take over a grant: Release, Extend, Checkpoint, Claim, Resolve, and the leader's own
//! Lapse and Void. The one that tells an outcome stands in [`complete`](super::complete).
//!
//! Which grant each is accepted of, while the key has no answer:
//!
//! * Release: the running grant; the standing one ([`Record::standing`]) if its lease ran out, since its holder knows that
//!   nothing ran; and, changing nothing, one that the record still has as given back, so that a resend is told the same.
//!   Grants before it that may have executed stay, and keep the key's outcome unknown or its next grant flagged.
//! * Extend, Checkpoint: the running grant.
//! * Claim: none is named. The key's outcome is unknown, or the same nonce claimed the running grant.
//! * Resolve: the last grant, if the standing one's lease ran out. A verdict that is repeated finds the key resolved, and
//!   is refused as stale with the state that it led to: whether that is the verdict that stands is the operator's to see.
//! * Lapse: the running grant, in the lease that ran out.
//! * Void: the running grant in its first lease. One that was extended was told to somebody.
//!
//! A client's or an operator's command of any other grant is `StaleToken`, or `NotClaimable`; the leader's is `Ignored`.

use crate::ids::{Digest, FencingToken, Nonce};
use crate::limits;
use crate::reservation::command::{Context, Verdict};
use crate::reservation::complete::{expiry, set_answer};
use crate::reservation::decide::{add_attempt, may_have_executed, next_number, next_token, same_grant};
use crate::reservation::record::{Attempt, Checkpoint, EventKind, Phase, Record, State};
use crate::reservation::reply::{Decision, Limit, Reply};

/// Who decided, and why.
pub(super) struct Signature<'a> {
    pub(super) actor: &'a str,
    pub(super) reason: &'a str,
}

/// Where the key stands, for a refusal.
pub(super) fn state_of(record: Option<&Record>) -> State {
    record.map_or(State::Absent, Record::state)
}

/// The record to change, if the token is that of the running grant.
fn current(record: Option<&Record>, token: FencingToken) -> Result<Record, Decision> {
    match record {
        Some(record) if record.holding().is_some_and(|holding| holding.token == token) => Ok(record.clone()),
        Some(_) | None => Err(Decision::unchanged(Reply::StaleToken(state_of(record)))),
    }
}

/// Sets the phase of a grant.
fn set_phase(record: &mut Record, token: FencingToken, phase: Phase, context: &Context) {
    if let Some(attempt) = record.attempts.iter_mut().find(|attempt| attempt.token == token) {
        attempt.phase = phase;
    }
    record.position = context.next_position;
}

/// Gives a grant back: its holder says that nothing ran, also after the lease ran out. It cannot speak for the grants
/// before it.
pub(super) fn release(record: Option<&Record>, token: FencingToken, context: &Context) -> Decision {
    let stale = Decision::unchanged(Reply::StaleToken(state_of(record)));
    let Some(record) = record.filter(|record| record.answer.is_none()) else { return stale };
    let stands = record.standing().is_some_and(|standing| standing.token == token);
    let attempt = record.attempts.iter().find(|attempt| attempt.token == token);
    match attempt.map(|attempt| &attempt.phase) {
        Some(Phase::Released) => Decision::unchanged(Reply::Released),
        Some(Phase::Held { .. } | Phase::Lapsed) if stands => {
            Decision::changed(Reply::Released, give_back(record, token, EventKind::Released, context))
        }
        Some(Phase::Held { .. } | Phase::Lapsed | Phase::Completed { .. }) | None => stale,
    }
}

fn give_back(record: &Record, token: FencingToken, event: EventKind, context: &Context) -> Record {
    let mut next = record.clone();
    set_phase(&mut next, token, Phase::Released, context);
    next.note(context.now, event, token, "");
    end_idle(&mut next, context);
    next
}

/// A record without an answer may go too, unless its outcome has to be cleared up first.
pub(super) fn end_idle(record: &mut Record, context: &Context) {
    record.idle_expires_at = match record.state() {
        State::Released | State::Lapsed => Some(expiry(record.terms.retention_ms, context)),
        State::Absent | State::Held | State::OutcomeUnknown | State::Completed => None,
    };
}

/// Restarts the running grant's lease.
pub(super) fn extend(record: Option<&Record>, token: FencingToken, lease_ms: u32, context: &Context) -> Decision {
    let mut next = match current(record, token) {
        Ok(next) => next,
        Err(refused) => return refused,
    };
    let lease_revision = next.holding().map_or(0, |holding| holding.lease_revision.saturating_add(1));
    set_phase(&mut next, token, Phase::Held { lease_ms, lease_revision }, context);
    next.note(context.now, EventKind::Extended, token, "");
    Decision::changed(Reply::Extended { lease_ms }, next)
}

/// Stores a recovery point with the running grant.
pub(super) fn checkpoint(
    record: Option<&Record>,
    token: FencingToken,
    checkpoint: &Checkpoint,
    context: &Context,
) -> Decision {
    let mut next = match current(record, token) {
        Ok(next) => next,
        Err(refused) => return refused,
    };
    next.note(context.now, EventKind::Checkpointed, token, &checkpoint.name);
    next.checkpoint = Some(checkpoint.clone());
    next.position = context.next_position;
    Decision::changed(Reply::Checkpointed, next)
}

/// Takes over a key whose outcome is unknown: a new grant for the same request, flagged.
pub(super) fn claim(
    record: Option<&Record>,
    nonce: Option<&Nonce>,
    lease_ms: Option<u32>,
    worker: &str,
    context: &Context,
) -> Decision {
    let not_claimable = Decision::unchanged(Reply::NotClaimable(state_of(record)));
    let Some((record, last)) = record.and_then(|record| record.last().map(|last| (record, last))) else {
        return not_claimable;
    };
    if nonce.is_some()
        && last.nonce.as_ref() == nonce
        && record.answer.is_none()
        && let Some(grant) = same_grant(record, last, true)
    {
        return Decision::unchanged(Reply::Claimed(Box::new(grant)));
    }
    if record.state() != State::OutcomeUnknown {
        return not_claimable;
    }
    if may_have_executed(record).count() >= limits::MAX_ATTEMPTS {
        return Decision::unchanged(Reply::Limited(Limit::Attempts));
    }
    let attempt = Attempt {
        token: next_token(context),
        number: next_number(Some(record)),
        fingerprint: last.fingerprint.clone(),
        nonce: nonce.cloned(),
        flagged: true,
        phase: Phase::Held { lease_ms: lease_ms.unwrap_or(record.terms.lease_ms), lease_revision: 0 },
    };
    let mut next = record.clone();
    let grant = add_attempt(&mut next, attempt, EventKind::Claimed, worker, context);
    Decision::changed(Reply::Claimed(Box::new(grant)), next)
}

/// Records an operator's verdict on a key whose lease ran out. If nothing ran, neither did the step that a recovery point
/// names, so it goes.
pub(super) fn resolve(
    record: Option<&Record>,
    token: FencingToken,
    verdict: Verdict,
    signature: &Signature<'_>,
    context: &Context,
) -> Decision {
    let stale = Decision::unchanged(Reply::StaleToken(state_of(record)));
    let Some(record) = record else { return stale };
    let open = match record.state() {
        State::OutcomeUnknown | State::Lapsed => true,
        State::Absent | State::Held | State::Released | State::Completed => false,
    };
    if !open || record.last_token() != Some(token) {
        return stale;
    }
    let mut next = record.clone();
    let detail = format!("{}: {}", signature.actor, signature.reason);
    match verdict {
        Verdict::Executed(envelope) => {
            let token = record.standing().map_or(token, |standing| standing.token);
            set_phase(&mut next, token, Phase::Completed { envelopes: vec![envelope], late: false }, context);
            let retention_ms = next.terms.retention_ms;
            set_answer(&mut next, token, envelope, retention_ms, context);
        }
        Verdict::NotExecuted => {
            for attempt in &mut next.attempts {
                attempt.phase = Phase::Released;
            }
            next.checkpoint = None;
            next.position = context.next_position;
            end_idle(&mut next, context);
        }
    }
    next.note(context.now, EventKind::Resolved, token, &detail);
    let envelope: Option<Digest> = next.answer.map(|answer| answer.envelope);
    Decision { reply: Reply::Resolved(next.state()), record: Some(next), envelope }
}

/// The running grant's lease ran out.
pub(super) fn lapse(record: Option<&Record>, token: FencingToken, lease_revision: u32, context: &Context) -> Decision {
    let Some(record) = in_lease(record, token, lease_revision) else { return Decision::unchanged(Reply::Ignored) };
    let mut next = record.clone();
    set_phase(&mut next, token, Phase::Lapsed, context);
    next.note(context.now, EventKind::Lapsed, token, "");
    end_idle(&mut next, context);
    Decision::changed(Reply::Lapsed, next)
}

/// Takes back a grant that nobody was told of: it did not execute.
pub(super) fn void(record: Option<&Record>, token: FencingToken, context: &Context) -> Decision {
    match in_lease(record, token, 0) {
        Some(record) => Decision::changed(Reply::Voided, give_back(record, token, EventKind::Voided, context)),
        None => Decision::unchanged(Reply::Ignored),
    }
}

/// The record, if the token is that of the running grant, and this lease of it runs.
fn in_lease(record: Option<&Record>, token: FencingToken, lease_revision: u32) -> Option<&Record> {
    let holding = record?.holding()?;
    record.filter(|_| holding.token == token && holding.lease_revision == lease_revision)
}
