//! Merge (R11): what is known of a key, from what streams told of it. A separate function over values, which regions use
//! too for what their replica shows them.
//!
//! **In any order.** Evidence of one grant is joined: a later phase wins, envelopes are a set, a grant counts as flagged only
//! if all say so, and of terms the strongest promise holds. Records are joined grant by grant. Both are commutative,
//! associative and idempotent, so whatever order the streams come in and however often, the attempts, the
//! [winner](Record::winner) and the [losers](Record::losers) are the same. Late marks are part of the evidence: the region
//! that recorded a completion says whether it knew another.
//!
//! **In the order of the global log.** When a loser was found, its place in the ledger, and what became of its task
//! ([`ledger`](super::ledger)); that a held grant which arrived as tail of a `global` epoch is void (`ship`);
//! which grants a record keeps when there are more than it may have ([`Record::admit`]); when the record changed last, and
//! so when it may go.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeSet;

use crate::home::evidence::{Attempt, Completion, Phase, Placed, Token};
use crate::home::ledger::{Conflict, Loser};
use crate::home::state::Limits;
use crate::ids::{Digest, EndpointName, RegionName};
use crate::reservation::record::{OnLapse, Terms};
use crate::time::LogTime;

/// A key as the global group knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key's home.
    pub home: RegionName,
    /// Every grant that is known, by token.
    pub attempts: Vec<Attempt>,
    /// The last word on its recovery point.
    pub placed: Option<Placed>,
    /// Its conflicts, in the order in which they were found.
    pub conflicts: Vec<Conflict>,
    /// How many pieces of evidence did not fit. Each stands whole in the ledger. Such a key is never granted unflagged.
    pub not_kept: u32,
    /// The global log time of the last change.
    pub changed_at: LogTime,
}

/// Which grant stands, and what its retries get if it completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Winner {
    /// The grant.
    pub token: Token,
    /// Its envelope.
    pub envelope: Option<Digest>,
}

impl Record {
    /// A key of which nothing is known.
    #[must_use]
    pub const fn new(home: RegionName) -> Self {
        let changed_at = LogTime::from_unix_ms(0);
        Self { home, attempts: Vec::new(), placed: None, conflicts: Vec::new(), not_kept: 0, changed_at }
    }

    /// What is known of a grant.
    #[must_use]
    pub fn get(&self, token: &Token) -> Option<&Attempt> {
        self.attempts.iter().find(|attempt| attempt.token == *token)
    }

    /// Joins a piece of evidence, and returns what did not fit: the grant itself, if the record has as many as it may, or
    /// the least of its completions.
    #[must_use]
    pub fn admit(&mut self, attempt: Attempt, limits: &Limits) -> Vec<Attempt> {
        let place = self.attempts.partition_point(|known| known.token < attempt.token);
        let is_full = self.attempts.len() >= limits.attempts;
        let joined = match self.attempts.get(place).filter(|known| known.token == attempt.token) {
            Some(known) => join(known.clone(), attempt),
            None if is_full => return vec![attempt],
            None => {
                self.attempts.insert(place, attempt.clone());
                // Joined with itself it is in its one form.
                join(attempt.clone(), attempt)
            }
        };
        let Some(kept) = self.attempts.get_mut(place) else { return Vec::new() };
        *kept = joined;
        let over = match &mut kept.phase {
            Phase::Completed(completions) => completions.split_off(completions.len().min(limits.envelopes)),
            Phase::Held { .. } | Phase::Lapsed | Phase::Released => Vec::new(),
        };
        over.into_iter().map(|one| Attempt { phase: Phase::Completed(vec![one]), ..kept.clone() }).collect()
    }

    /// Joins a word on the recovery point.
    pub fn place(&mut self, placed: Placed) {
        if self.placed.as_ref().is_none_or(|known| known.commit < placed.commit) {
            self.placed = Some(placed);
        }
    }

    /// Every completion with its grant.
    pub fn completions(&self) -> impl Iterator<Item = (&Token, &Completion)> {
        self.attempts.iter().flat_map(|attempt| attempt.completions().iter().map(|one| (&attempt.token, one)))
    }

    /// The completion that every retry gets: what callers were last told stays. Among completions not late that of the
    /// highest epoch, and in it the first; if only late ones are known, since the one before them is not here yet, the best
    /// of those, so that a key which ran is never granted as if it had not.
    #[must_use]
    pub fn answer(&self) -> Option<(&Token, &Completion)> {
        self.completions().max_by(|one, other| better(one.1, other.1).then_with(|| other.0.cmp(one.0)))
    }

    /// Which grant stands: the answer's, else the highest held.
    #[must_use]
    pub fn winner(&self) -> Option<Winner> {
        if let Some((token, completion)) = self.answer() {
            return Some(Winner { token: token.clone(), envelope: Some(completion.envelope) });
        }
        let held = self.attempts.iter().rev().find(|attempt| attempt.is_held())?;
        Some(Winner { token: held.token.clone(), envelope: None })
    }

    /// Who lost, and may have run without anybody having been warned:
    ///
    /// * every completion but the winner's, a second envelope of the winner's grant too;
    /// * a held grant that is unflagged, or above the winner's: without home leases it may have run first;
    /// * a lapsed grant that is unflagged, if another unflagged one stands or comes before it. A re-granted predecessor is
    ///   none: whoever came after it was told.
    ///
    /// So of all unflagged grants that may have run, one at the most is not named.
    #[must_use]
    pub fn losers(&self) -> BTreeSet<Loser> {
        let winner = self.winner();
        let won = |attempt: &&Attempt| winner.as_ref().is_some_and(|winner| winner.token == attempt.token);
        let unwarned = || self.attempts.iter().filter(|attempt| attempt.may_have_run() && !attempt.flagged);
        let first = unwarned().find(won).or_else(|| unwarned().next());
        let mut losers = BTreeSet::new();
        for attempt in &self.attempts {
            let above = winner.as_ref().is_some_and(|winner| winner.token < attempt.token);
            let loses = match &attempt.phase {
                Phase::Held { .. } => !won(&attempt) && (!attempt.flagged || above),
                Phase::Lapsed => !attempt.flagged && first.is_some_and(|first| first.token != attempt.token),
                Phase::Released | Phase::Completed(_) => false,
            };
            if loses {
                losers.insert(Loser { token: attempt.token.clone(), envelope: None });
            }
            for completion in attempt.completions() {
                let envelope = Some(completion.envelope);
                if !won(&attempt) || winner.as_ref().is_some_and(|winner| winner.envelope != envelope) {
                    losers.insert(Loser { token: attempt.token.clone(), envelope });
                }
            }
        }
        losers
    }

    /// What the key was promised: no grant's promise becomes less.
    #[must_use]
    pub fn terms(&self) -> Option<Terms> {
        self.attempts.iter().map(|attempt| attempt.terms).reduce(strongest)
    }

    /// The endpoint of the highest grant.
    #[must_use]
    pub fn endpoint(&self) -> Option<&EndpointName> {
        self.attempts.last().map(|attempt| &attempt.endpoint)
    }

    /// When the record may go, as far as it says itself (R15): its retention after the last change, the completion and the
    /// key's own time, which is in milliseconds since the Unix epoch. Never while a grant is held, or while an outcome is
    /// unknown and held back.
    #[must_use]
    pub fn expires_at(&self, key_time_ms: Option<u64>) -> Option<LogTime> {
        let terms = self.terms()?;
        let held = self.attempts.iter().any(Attempt::is_held);
        let lapsed = self.attempts.iter().any(|attempt| attempt.phase == Phase::Lapsed);
        let answer = self.answer().map(|(_, completion)| completion);
        if held || (answer.is_none() && lapsed && terms.on_lapse == OnLapse::Hold) {
            return None;
        }
        let completed_at = answer.map(|completion| completion.completed_at).unwrap_or_default();
        let key_time = LogTime::from_unix_ms(key_time_ms.unwrap_or_default());
        Some(self.changed_at.max(completed_at).max(key_time).plus_ms(terms.retention_ms))
    }
}

/// Joins two pieces of evidence of one grant.
#[must_use]
pub fn join(one: Attempt, other: Attempt) -> Attempt {
    Attempt {
        token: one.token,
        number: one.number.max(other.number),
        endpoint: one.endpoint.max(other.endpoint),
        terms: strongest(one.terms, other.terms),
        fingerprint: one.fingerprint.max(other.fingerprint),
        nonce: one.nonce.max(other.nonce),
        flagged: one.flagged && other.flagged,
        phase: further(one.phase, other.phase),
    }
}

fn strongest(one: Terms, other: Terms) -> Terms {
    let kept = one.keeping(other);
    Terms {
        policy_revision: one.policy_revision.max(other.policy_revision),
        lease_ms: one.lease_ms.max(other.lease_ms),
        ..kept
    }
}

fn further(one: Phase, other: Phase) -> Phase {
    match (one, other) {
        (Phase::Completed(mut all), Phase::Completed(more)) => {
            all.extend(more);
            Phase::Completed(best_of_each(all))
        }
        (Phase::Completed(all), Phase::Held { .. } | Phase::Lapsed | Phase::Released)
        | (Phase::Held { .. } | Phase::Lapsed | Phase::Released, Phase::Completed(all)) => {
            Phase::Completed(best_of_each(all))
        }
        (Phase::Released, Phase::Held { .. } | Phase::Lapsed | Phase::Released)
        | (Phase::Held { .. } | Phase::Lapsed, Phase::Released) => Phase::Released,
        (Phase::Lapsed, Phase::Held { .. } | Phase::Lapsed) | (Phase::Held { .. }, Phase::Lapsed) => Phase::Lapsed,
        (
            Phase::Held { lease_ms, lease_revision },
            Phase::Held { lease_ms: other_ms, lease_revision: other_revision },
        ) => {
            let (lease_revision, lease_ms) = (lease_revision, lease_ms).max((other_revision, other_ms));
            Phase::Held { lease_ms, lease_revision }
        }
    }
}

/// One completion for each envelope, the best first. Of an envelope that was reported in several places the best place
/// counts.
fn best_of_each(mut all: Vec<Completion>) -> Vec<Completion> {
    all.sort_by(|one, other| better(other, one));
    let mut kept: Vec<Completion> = Vec::with_capacity(all.len());
    for completion in all {
        if kept.iter().all(|known| known.envelope != completion.envelope) {
            kept.push(completion);
        }
    }
    kept
}

/// The greater is the better answer. Two places of one grant and envelope never compare as equal.
fn better(one: &Completion, other: &Completion) -> Ordering {
    let rank = |of: &Completion| {
        let Completion { envelope, commit, late, completed_at } = of;
        (
            !*late,
            commit.epoch,
            Reverse(commit.position),
            Reverse(commit.region.clone()),
            Reverse(*envelope),
            *completed_at,
        )
    };
    rank(one).cmp(&rank(other))
}
