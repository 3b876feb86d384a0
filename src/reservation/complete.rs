//! Complete: how an outcome is recorded, and how long it is kept.
//!
//! The first that applies:
//!
//! 1. the token has the envelope already: `Repeated`, and nothing changes
//! 2. the token has as many envelopes as are kept: `Late`, and nothing changes. The envelope is not stored, and a caller
//!    that reports ever new ones cannot push the history out
//! 3. the key is answered, the record does not have the token, and it has as many grants as are kept: `Late`, and nothing
//!    changes
//! 4. the key is answered: `Late`. The envelope is kept as evidence, and the answer and its expiry stay
//! 5. `Answer`: what every retry gets from now on
//!
//! A token that the record does not have is adopted with what its claims say, and is then as any other. No token is stale
//! here: that something ran is worth knowing from whomever it comes.

use crate::ids::{Digest, FencingToken};
use crate::limits;
use crate::reservation::command::{Complete, Context};
use crate::reservation::record::{Answer, Attempt, EventKind, Phase, Record};
use crate::reservation::reply::{Decision, Recorded, Reply};
use crate::reservation::settle::state_of;
use crate::time::LogTime;

/// Records an outcome. The first completion known is the answer; whatever comes after it is evidence.
pub(super) fn complete(record: Option<&Record>, complete: &Complete, context: &Context) -> Decision {
    if let Some(reply) = record.and_then(|record| without_change(record, complete)) {
        return Decision::unchanged(reply);
    }
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
    match &mut attempt.phase {
        Phase::Completed { envelopes, .. } => envelopes.push(complete.envelope),
        Phase::Held { .. } | Phase::Lapsed | Phase::Released => {
            attempt.phase = Phase::Completed { envelopes: vec![complete.envelope], late: known.is_some() };
        }
    }
    next.position = context.next_position;
    let reply = match known {
        Some(answer) => {
            next.note(context.now, EventKind::Late, complete.token, &beginning(&complete.envelope));
            Reply::Completed { recorded: Recorded::Late, expires_at: answer.expires_at }
        }
        None => {
            let retention_ms = next.terms.retention_ms.max(complete.retention_ms.unwrap_or_default());
            let expires_at = set_answer(&mut next, complete.token, complete.envelope, retention_ms, context);
            next.note(context.now, EventKind::Completed, complete.token, "");
            Reply::Completed { recorded: Recorded::Answer, expires_at }
        }
    };
    Decision { reply, record: Some(next), envelope: Some(complete.envelope) }
}

/// What a completion is told that adds nothing to the record.
fn without_change(record: &Record, complete: &Complete) -> Option<Reply> {
    let expires_at = record.answer?.expires_at;
    let Some(attempt) = record.attempts.iter().find(|attempt| attempt.token == complete.token) else {
        let full = record.attempts.len() >= limits::MAX_ATTEMPTS;
        return full.then_some(Reply::Completed { recorded: Recorded::Late, expires_at });
    };
    let recorded = match &attempt.phase {
        Phase::Completed { envelopes, .. } if envelopes.contains(&complete.envelope) => Recorded::Repeated,
        Phase::Completed { envelopes, .. } if envelopes.len() >= limits::MAX_ENVELOPES_PER_TOKEN => Recorded::Late,
        Phase::Held { .. } | Phase::Lapsed | Phase::Released | Phase::Completed { .. } => return None,
    };
    Some(Reply::Completed { recorded, expires_at })
}

/// Makes an outcome the key's answer, and says when the record may go: after its retention, and not while another grant of
/// the key may still run, whose completion would find the key forgotten. Such a grant runs for one lease from now at the
/// most, since an answered key's grants are not extended.
pub(super) fn set_answer(
    record: &mut Record,
    token: FencingToken,
    envelope: Digest,
    retention_ms: u64,
    context: &Context,
) -> LogTime {
    let running = record.attempts.iter().map(|attempt| match attempt.phase {
        Phase::Held { lease_ms, .. } => u64::from(lease_ms),
        Phase::Lapsed | Phase::Released | Phase::Completed { .. } => 0,
    });
    let expires_at = expiry(running.fold(retention_ms, u64::max), context);
    record.answer = Some(Answer { token, envelope, completed_at: context.now, expires_at });
    record.idle_expires_at = None;
    expires_at
}

/// When a record that ends now may go. A tagged key is kept until log time has passed its own time too, so that the
/// horizon can tell a late arrival from a new key.
pub(super) fn expiry(retention_ms: u64, context: &Context) -> LogTime {
    let from = context.key.time_ms.map_or(context.now, |time| context.now.max(LogTime::from_unix_ms(time)));
    from.plus_ms(retention_ms)
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
        envelope_bytes: 0,
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

/// The first 8 bytes of a digest, in hexadecimal: enough to find the envelope among a key's few.
fn beginning(digest: &Digest) -> String {
    digest.0.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{EndpointName, Epoch, Fingerprint};
    use crate::reservation::command::KeyFacts;
    use crate::reservation::record::{OnLapse, Terms};

    fn completion(sequence: u64) -> Complete {
        Complete {
            token: FencingToken { epoch: Epoch::FIRST, sequence },
            fingerprint: Fingerprint { version: 0, selection: 0, digest: [7].into() },
            endpoint: EndpointName::parse("pay").unwrap(),
            nonce: None,
            terms: Terms { policy_revision: 0, lease_ms: 50, on_lapse: OnLapse::Hold, retention_ms: 1_000 },
            envelope: Digest([u8::try_from(sequence).unwrap(); 32]),
            retention_ms: None,
        }
    }

    #[test]
    fn forgotten_tokens_are_adopted_up_to_the_limit_of_a_record() {
        let key = KeyFacts { mint_epoch: Epoch::FIRST, time_ms: None };
        let mut record = None;
        for sequence in 1..=100 {
            let next_position = 200 + sequence;
            let now = LogTime::from_unix_ms(sequence);
            let context = Context { open_epoch: Some(Epoch::FIRST), next_position, now, key, horizon_ms: None };
            let decision = complete(record.as_ref(), &completion(sequence), &context);
            let recorded = if sequence == 1 { Recorded::Answer } else { Recorded::Late };
            assert!(matches!(decision.reply, Reply::Completed { recorded: got, .. } if got == recorded));
            assert_eq!(decision.record.is_some(), sequence <= limits::MAX_ATTEMPTS as u64);
            record = decision.record.or(record);
        }
        assert_eq!(record.map(|record| record.attempts.len()), Some(limits::MAX_ATTEMPTS));
    }
}
