//! Import: a region takes over grants that another region made, when their epoch's outcome counts (R7). From then on Extend,
//! Release, Checkpoint, Claim and Lapse work on them as on its own.
//!
//! What was read of all regions stands in the entry, so that every replica of the region decides the same. An import is no
//! mutation of the region's stream: all regions know already what it says. Leases start anew where they are counted.
//!
//! Completions are not imported. They are read where all regions have them, with their envelopes.

use crate::ids::EndpointName;
use crate::reservation::command::Context;
use crate::reservation::record::{Attempt, Checkpoint, Phase, Record, Terms};
use crate::reservation::settle::end_idle;

/// What a region takes over of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The endpoint of the last grant.
    pub endpoint: EndpointName,
    /// What the key was promised.
    pub terms: Terms,
    /// The grants: held ones, and such that went further elsewhere.
    pub attempts: Vec<Attempt>,
    /// The recovery point, if what the region has is older.
    pub checkpoint: Option<Checkpoint>,
}

/// The region's record from now on. Nothing: it knew all of it, or more.
///
/// * A grant that it has goes as far as it went elsewhere, and never back.
/// * A held grant that it does not have is added, in its place by token, unless the key is answered.
/// * An ended grant that it does not have is no news: it is read where all regions have it.
#[must_use]
pub fn import(record: Option<&Record>, import: &Import, context: &Context) -> Option<Record> {
    let mut next = record.cloned().unwrap_or_else(|| Record {
        endpoint: import.endpoint.clone(),
        terms: import.terms,
        attempts: Vec::with_capacity(import.attempts.len()),
        checkpoint: None,
        answer: None,
        idle_expires_at: None,
        history: Vec::new(),
        history_dropped: 0,
        position: 0,
        envelope_bytes: 0,
    });
    let mut is_news = false;
    for attempt in &import.attempts {
        match next.attempts.iter_mut().find(|known| known.token == attempt.token) {
            Some(known) if is_further(&known.phase, &attempt.phase) => {
                known.phase = attempt.phase.clone();
                is_news = true;
            }
            Some(_) => {}
            None if is_held(attempt) && next.answer.is_none() => {
                let place = next.attempts.partition_point(|known| known.token < attempt.token);
                next.attempts.insert(place, attempt.clone());
                is_news = true;
            }
            None => {}
        }
    }
    if !is_news {
        return None;
    }
    next.terms = import.terms.keeping(next.terms);
    next.checkpoint = import.checkpoint.clone().or(next.checkpoint);
    if next.answer.is_none() {
        end_idle(&mut next, context);
    }
    Some(next)
}

const fn is_held(attempt: &Attempt) -> bool {
    match attempt.phase {
        Phase::Held { .. } => true,
        Phase::Lapsed | Phase::Released | Phase::Completed { .. } => false,
    }
}

const fn is_further(known: &Phase, elsewhere: &Phase) -> bool {
    match (known, elsewhere) {
        (Phase::Held { .. }, Phase::Lapsed | Phase::Released) | (Phase::Lapsed, Phase::Released) => true,
        (Phase::Held { .. }, Phase::Held { .. } | Phase::Completed { .. })
        | (Phase::Lapsed, Phase::Held { .. } | Phase::Lapsed | Phase::Completed { .. })
        | (
            Phase::Released | Phase::Completed { .. },
            Phase::Held { .. } | Phase::Lapsed | Phase::Released | Phase::Completed { .. },
        ) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Digest, Epoch, FencingToken, Fingerprint};
    use crate::reservation::command::KeyFacts;
    use crate::reservation::record::{Answer, OnLapse, State};
    use crate::reservation::{Command, Kind, Reply, decide};
    use crate::time::LogTime;

    const HELD: Phase = Phase::Held { lease_ms: 500, lease_revision: 2 };

    fn attempt(epoch: u64, sequence: u64, phase: Phase) -> Attempt {
        Attempt {
            token: FencingToken { epoch: Epoch(epoch), sequence },
            number: 1,
            fingerprint: Fingerprint { version: 0, selection: 0, digest: [7].into() },
            nonce: None,
            flagged: false,
            phase,
        }
    }

    fn of(attempts: Vec<Attempt>) -> Import {
        Import {
            endpoint: EndpointName::parse("pay").unwrap(),
            terms: Terms { policy_revision: 0, lease_ms: 500, on_lapse: OnLapse::Hold, retention_ms: 1_000 },
            attempts,
            checkpoint: Some(Checkpoint { name: "booked".into(), data: [1].into() }),
        }
    }

    fn context(epoch: u64) -> Context {
        Context {
            open_epoch: Some(Epoch(epoch)),
            next_position: 1,
            now: LogTime::from_unix_ms(100),
            key: KeyFacts { mint_epoch: Epoch::FIRST, time_ms: None },
            horizon_ms: None,
        }
    }

    #[test]
    fn a_held_grant_is_then_as_any_other() {
        let record = import(None, &of(vec![attempt(1, 7, HELD)]), &context(2)).unwrap();
        assert_eq!(record.state(), State::Held);
        assert_eq!(record.checkpoint.as_ref().map(|checkpoint| &*checkpoint.name), Some("booked"));
        let lapse = Kind::Lapse { token: attempt(1, 7, HELD).token, lease_revision: 2 };
        let lapsed = decide(Some(&record), &Command { epoch: Epoch(2), kind: lapse }, &context(2));
        assert_eq!((lapsed.reply, lapsed.record.unwrap().state()), (Reply::Lapsed, State::OutcomeUnknown));
    }

    #[test]
    fn nothing_goes_back_and_nothing_is_imported_twice() {
        let own = import(None, &of(vec![attempt(1, 7, HELD), attempt(2, 1, HELD)]), &context(3)).unwrap();
        assert_eq!(import(Some(&own), &of(vec![attempt(1, 7, HELD)]), &context(3)), None);
        let lapsed = import(Some(&own), &of(vec![attempt(1, 7, Phase::Lapsed)]), &context(3)).unwrap();
        assert_eq!(import(Some(&lapsed), &of(vec![attempt(1, 7, HELD)]), &context(3)), None);
        let all = of(vec![attempt(1, 7, Phase::Released), attempt(2, 1, Phase::Released)]);
        let back = import(Some(&lapsed), &all, &context(3)).unwrap();
        assert_eq!((back.state(), back.expires_at()), (State::Released, Some(LogTime::from_unix_ms(1_100))));
        assert_eq!(import(Some(&back), &of(vec![attempt(1, 7, Phase::Lapsed)]), &context(3)), None);
    }

    #[test]
    fn an_ended_grant_that_is_unknown_is_no_news() {
        assert_eq!(import(None, &of(vec![attempt(1, 7, Phase::Lapsed)]), &context(2)), None);
        assert_eq!(import(None, &of(Vec::new()), &context(2)), None);
    }

    #[test]
    fn an_answered_key_takes_no_grant_over() {
        let (token, envelope) = (attempt(1, 3, HELD).token, Digest([1; 32]));
        let mut own = import(None, &of(vec![attempt(1, 3, HELD)]), &context(2)).unwrap();
        own.attempts[0].phase = Phase::Completed { envelopes: vec![envelope], late: false };
        let (completed_at, expires_at) = (LogTime::default(), LogTime::from_unix_ms(9));
        own.answer = Some(Answer { token, envelope, completed_at, expires_at });
        assert_eq!(import(Some(&own), &of(vec![attempt(1, 7, HELD)]), &context(2)), None);
        assert_eq!(import(Some(&own), &of(vec![attempt(1, 3, Phase::Released)]), &context(2)), None);
    }
}
