//! The commands that end, extend or take over a grant: Complete, Release, Extend, Checkpoint, Claim, Resolve, and the
//! leader's own Lapse and Void.

use crate::ids::{Digest, FencingToken, Nonce};
use crate::limits;
use crate::reservation::command::{Complete, Context, Verdict};
use crate::reservation::decide::{add_attempt, may_have_executed, next_number, next_token, same_grant};
use crate::reservation::record::{Answer, Attempt, Checkpoint, EventKind, Phase, Record, State};
use crate::reservation::reply::{Decision, Limit, Recorded, Reply};
use crate::time::LogTime;

/// Who decided, and why.
pub(super) struct Signature<'a> {
    pub(super) actor: &'a str,
    pub(super) reason: &'a str,
}

fn state_of(record: Option<&Record>) -> State {
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

/// When a record that ends now may go. A tagged key is kept until log time has passed its own time too, so that the
/// horizon can tell a late arrival from a new key.
fn expiry(retention_ms: u64, context: &Context) -> LogTime {
    let from = context.key.time_ms.map_or(context.now, |time| context.now.max(LogTime::from_unix_ms(time)));
    from.plus_ms(retention_ms)
}

/// Records an outcome. The first completion known is the answer; whatever comes after it is evidence.
pub(super) fn complete(record: Option<&Record>, complete: &Complete, context: &Context) -> Decision {
    let mut next = match record {
        Some(record) => record.clone(),
        None => unknown_key(complete),
    };
    if !next.attempts.iter().any(|attempt| attempt.token == complete.token) {
        adopt(&mut next, complete, context);
    }
    let known = next.answer;
    let Some(attempt) = next.attempts.iter_mut().find(|attempt| attempt.token == complete.token) else {
        return Decision::unchanged(Reply::StaleToken(state_of(record)));
    };
    let recorded = match &mut attempt.phase {
        Phase::Completed { envelopes, .. } if envelopes.contains(&complete.envelope) => Recorded::Repeated,
        Phase::Completed { envelopes, .. } => {
            if envelopes.len() < limits::MAX_ENVELOPES_PER_TOKEN {
                envelopes.push(complete.envelope);
            }
            Recorded::Late
        }
        Phase::Held { .. } | Phase::Lapsed | Phase::Released => {
            attempt.phase = Phase::Completed { envelopes: vec![complete.envelope], late: known.is_some() };
            if known.is_some() { Recorded::Late } else { Recorded::Answer }
        }
    };
    finish(next, complete, known, recorded, context)
}

fn finish(
    mut next: Record,
    complete: &Complete,
    known: Option<Answer>,
    recorded: Recorded,
    context: &Context,
) -> Decision {
    let expires_at = match (recorded, known) {
        (Recorded::Answer, _) | (_, None) => {
            expiry(complete.retention_ms.unwrap_or(next.terms.retention_ms), context)
        }
        (Recorded::Repeated | Recorded::Late, Some(answer)) => answer.expires_at,
    };
    let reply = Reply::Completed { recorded, expires_at };
    match recorded {
        Recorded::Repeated => return Decision::unchanged(reply),
        Recorded::Late => next.note(context.now, EventKind::Late, complete.token, ""),
        Recorded::Answer => {
            let envelope = complete.envelope;
            next.answer = Some(Answer { token: complete.token, envelope, completed_at: context.now, expires_at });
            next.idle_expires_at = None;
            next.note(context.now, EventKind::Completed, complete.token, "");
        }
    }
    next.position = context.next_position;
    let kept = next.envelopes().any(|digest| digest == complete.envelope);
    Decision { reply, record: Some(next), envelope: kept.then_some(complete.envelope) }
}

/// The record of a key that the region never saw, or no longer: the token's claims are all that is known.
fn unknown_key(complete: &Complete) -> Record {
    Record {
        endpoint: complete.endpoint.clone(),
        terms: complete.terms,
        attempts: Vec::with_capacity(1),
        checkpoint: None,
        answer: None,
        idle_expires_at: None,
        history: Vec::with_capacity(2),
        history_dropped: 0,
        position: 0,
    }
}

/// Adds the grant that a token's claims tell of, in its place by token.
fn adopt(record: &mut Record, complete: &Complete, context: &Context) {
    let place = record.attempts.partition_point(|attempt| attempt.token < complete.token);
    let number = match place.checked_sub(1).and_then(|before| record.attempts.get(before)) {
        Some(before) => before.number.saturating_add(1),
        None => 1,
    };
    record.attempts.insert(
        place,
        Attempt {
            token: complete.token,
            number,
            fingerprint: complete.fingerprint.clone(),
            nonce: complete.nonce.clone(),
            flagged: false,
            phase: Phase::Lapsed,
        },
    );
    record.note(context.now, EventKind::Adopted, complete.token, "");
}

/// Gives the running grant back.
pub(super) fn release(record: Option<&Record>, token: FencingToken, context: &Context) -> Decision {
    give_back(record, token, EventKind::Released, context)
        .map_or_else(|refused| refused, |next| Decision::changed(Reply::Released, next))
}

fn give_back(
    record: Option<&Record>,
    token: FencingToken,
    event: EventKind,
    context: &Context,
) -> Result<Record, Decision> {
    let mut next = current(record, token)?;
    set_phase(&mut next, token, Phase::Released, context);
    next.note(context.now, event, token, "");
    end_idle(&mut next, context);
    Ok(next)
}

/// A record without an answer may go too, unless its outcome has to be cleared up first.
fn end_idle(record: &mut Record, context: &Context) {
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
    if nonce.is_some() && last.nonce.as_ref() == nonce && record.answer.is_none()
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
            let expires_at = expiry(next.terms.retention_ms, context);
            next.answer = Some(Answer { token, envelope, completed_at: context.now, expires_at });
            next.idle_expires_at = None;
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
pub(super) fn lapse(
    record: Option<&Record>,
    token: FencingToken,
    lease_revision: u32,
    context: &Context,
) -> Decision {
    let holding = record.and_then(Record::holding);
    let Some(record) = record.filter(|_| {
        holding.is_some_and(|holding| holding.token == token && holding.lease_revision == lease_revision)
    }) else {
        return Decision::unchanged(Reply::Ignored);
    };
    let mut next = record.clone();
    set_phase(&mut next, token, Phase::Lapsed, context);
    next.note(context.now, EventKind::Lapsed, token, "");
    end_idle(&mut next, context);
    Decision::changed(Reply::Lapsed, next)
}

/// Takes back a grant that nobody was told of: it did not execute.
pub(super) fn void(record: Option<&Record>, token: FencingToken, context: &Context) -> Decision {
    match give_back(record, token, EventKind::Voided, context) {
        Ok(next) => Decision::changed(Reply::Voided, next),
        Err(_) => Decision::unchanged(Reply::Ignored),
    }
}

