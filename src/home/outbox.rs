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
