//! What a region's decisions say to all regions: the mutations of its streams.
//!
//! A mutation bears evidence, and no command: every grant that a decision made, or took further, as it stands from then on.
//! Grants that were given back and are dropped from a region's record are not told again; that they were given back was.

use crate::home::command::KeyChange;
use crate::home::evidence::{Attempt, Commit, Completion, Phase, Placed, Token};
use crate::ids::{Digest, RecordKey};
use crate::reservation::record::{self, Record, Terms};
use crate::time::LogTime;

/// What a decision changed of a key, for the stream of the epoch that it was made in. `commit` is its place there, `now` the
/// region's log time. Nothing: no grant changed, and no word was said on the recovery point.
#[must_use]
pub fn told(
    key: &RecordKey,
    before: Option<&Record>,
    after: &Record,
    commit: &Commit,
    now: LogTime,
) -> Option<KeyChange> {
    let was = |attempt: &record::Attempt| {
        before.and_then(|before| before.attempts.iter().find(|known| known.token == attempt.token))
    };
    let answered = before.is_some_and(|before| before.answer.is_some());
    let changed = after.attempts.iter().filter(|attempt| was(attempt) != Some(*attempt));
    let attempts: Vec<Attempt> = changed
        .map(|attempt| Attempt {
            token: Token::new(attempt.token, &commit.region),
            number: attempt.number,
            endpoint: after.endpoint.clone(),
            terms: promised(after),
            fingerprint: attempt.fingerprint.clone(),
            nonce: attempt.nonce.clone(),
            flagged: attempt.flagged,
            phase: phase(was(attempt), attempt, |envelope| Completion {
                envelope,
                commit: commit.clone(),
                late: answered,
                completed_at: now,
            }),
        })
        .collect();
    let is_word = before.and_then(|before| before.checkpoint.as_ref()) != after.checkpoint.as_ref();
    let placed = is_word.then(|| Placed { commit: commit.clone(), checkpoint: after.checkpoint.clone() });
    (placed.is_some() || !attempts.is_empty()).then(|| KeyChange { key: key.clone(), attempts, placed })
}

/// How far a grant is. Of its envelopes only new ones are told, with the place where they committed.
fn phase(was: Option<&record::Attempt>, attempt: &record::Attempt, told: impl Fn(Digest) -> Completion) -> Phase {
    match &attempt.phase {
        record::Phase::Held { lease_ms, lease_revision } => {
            Phase::Held { lease_ms: *lease_ms, lease_revision: *lease_revision }
        }
        record::Phase::Lapsed => Phase::Lapsed,
        record::Phase::Released => Phase::Released,
        record::Phase::Completed { envelopes, .. } => {
            let known = was.map_or(&[][..], |was| match &was.phase {
                record::Phase::Completed { envelopes, .. } => envelopes,
                record::Phase::Held { .. } | record::Phase::Lapsed | record::Phase::Released => &[],
            });
            Phase::Completed(envelopes.iter().filter(|one| !known.contains(one)).copied().map(told).collect())
        }
    }
}

/// What the key is kept for: its terms, and what a completion asked for beyond them.
fn promised(record: &Record) -> Terms {
    let asked = record.answer.map(|answer| answer.expires_at.unix_ms().saturating_sub(answer.completed_at.unix_ms()));
    let retention_ms = record.terms.retention_ms.max(asked.unwrap_or_default());
    Terms { retention_ms, ..record.terms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{EndpointName, Epoch, FencingToken, Fingerprint, IdempotencyKey, RegionName, TenantId};
    use crate::reservation::command::{Command, Complete, Context, KeyFacts, Kind, Reserve};
    use crate::reservation::decide;
    use crate::reservation::record::{Checkpoint, OnLapse};

    const TERMS: Terms = Terms { policy_revision: 0, lease_ms: 500, on_lapse: OnLapse::Hold, retention_ms: 1_000 };

    fn commit(position: u64) -> Commit {
        Commit { epoch: Epoch::FIRST, position, region: RegionName::parse("eu").unwrap() }
    }

    fn fingerprint() -> Fingerprint {
        Fingerprint { version: 0, selection: 0, digest: [7].into() }
    }

    fn completion(envelope: u8, retention_ms: u64) -> Kind {
        Kind::Complete(Box::new(Complete {
            token: FencingToken { epoch: Epoch::FIRST, sequence: 1 },
            fingerprint: fingerprint(),
            endpoint: EndpointName::parse("pay").unwrap(),
            nonce: None,
            terms: TERMS,
            envelope: Digest([envelope; 32]),
            retention_ms: Some(retention_ms),
        }))
    }

    /// Decides at a position, and gives the record and what was told.
    fn then(before: Option<&Record>, kind: Kind, position: u64) -> (Record, KeyChange) {
        let key = RecordKey { tenant: TenantId::parse("acme").unwrap(), key: IdempotencyKey::parse("k").unwrap() };
        let facts = KeyFacts { mint_epoch: Epoch::FIRST, time_ms: None };
        let (now, open_epoch) = (LogTime::from_unix_ms(position), Some(Epoch::FIRST));
        let context = Context { open_epoch, next_position: position, now, key: facts, horizon_ms: None };
        let decision = decide(before, &Command { epoch: Epoch::FIRST, kind }, &context);
        let after = decision.record.unwrap();
        let change = told(&key, before, &after, &commit(position), now).unwrap();
        assert_eq!(told(&key, Some(&after), &after, &commit(position), now), None, "nothing is told twice");
        (after, change)
    }

    #[test]
    fn what_a_decision_changed_is_told_once_with_its_place() {
        let reserve = Reserve {
            fingerprint: fingerprint(),
            endpoint: EndpointName::parse("pay").unwrap(),
            terms: TERMS,
            nonce: None,
            doubt: crate::reservation::command::Doubt::Settled,
            known: None,
        };
        let (held, change) = then(None, Kind::Reserve(Box::new(reserve)), 1);
        assert_eq!(change.attempts[0].phase, Phase::Held { lease_ms: 500, lease_revision: 0 });
        assert_eq!((change.attempts[0].token.region.as_ref(), change.placed), (None, None));
        let checkpoint = Checkpoint { name: "booked".into(), data: [1].into() };
        let token = FencingToken { epoch: Epoch::FIRST, sequence: 1 };
        let (held, change) = then(Some(&held), Kind::Checkpoint { token, checkpoint: checkpoint.clone() }, 2);
        assert_eq!(change.placed, Some(Placed { commit: commit(2), checkpoint: Some(checkpoint) }));
        assert!(change.attempts.is_empty(), "the grant is as it was");

        // A longer retention is in the terms; a second envelope is told alone, and is late.
        let (done, change) = then(Some(&held), completion(1, 5_000), 3);
        let report = |envelope: u8, position, late| Completion {
            envelope: Digest([envelope; 32]),
            commit: commit(position),
            late,
            completed_at: LogTime::from_unix_ms(position),
        };
        assert_eq!(change.attempts[0].phase, Phase::Completed(vec![report(1, 3, false)]));
        assert_eq!((change.attempts[0].terms.retention_ms, change.placed), (5_000, None));
        let (_, change) = then(Some(&done), completion(2, 0), 4);
        assert_eq!(change.attempts[0].phase, Phase::Completed(vec![report(2, 4, true)]));
    }
}
