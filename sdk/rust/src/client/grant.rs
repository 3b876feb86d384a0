//! A grant in the hands of the application: how long it may be started, how long it may run, and what becomes of it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::call::Sending;
use super::clock::Moment;
use super::error::{Error, Failed};
use super::types::{Checkpoint, Completed, Envelope, FencingToken, Held, KeyState, Recorded, from_millis, millis};
use super::{Client, OnDrop};
use crate::keys::{IdempotencyKey, child_of_granted};
use crate::proto::v1;
use crate::proto::v1::session_answer::Answer;
use crate::proto::v1::session_call::Call;

/// The permission to execute one request once.
///
/// The order is: [`Grant::start`], the effect, [`Grant::complete`]. If nothing was done after all, [`Grant::release`]. An
/// effect that takes longer than the lease needs [`Grant::extend`] while it runs.
///
/// Dropped without any of that, the grant is left to lapse, or released, as [`OnDrop`] says. Once started it is never
/// released by itself: nobody but the application knows how far its effect got.
#[derive(Debug)]
#[must_use = "an effect is executed under a grant: start it, then complete or release it"]
pub struct Grant {
    client: Client,
    names: Names,
    fencing: FencingToken,
    attempt: u32,
    checkpoint: Option<Checkpoint>,
    possible_duplicate: bool,
    repeated: bool,
    lease: Duration,
    start_by: Moment,
    finish_by: Mutex<Moment>,
    stage: AtomicU8,
}

/// What every call of a grant names.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) tenant: String,
    pub(super) key: String,
    pub(super) token: String,
    pub(super) partition: Option<u16>,
}

/// The grant must not be started any more: drop it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time in which the grant has to be started is over: ask for the key again")]
pub struct TooLate;

// How far a grant got, as an atomic number.
const FRESH: u8 = 0;
const STARTED: u8 = 1;
const OVER: u8 = 2;

/// Until when a grant may be started and has to be finished: durations of an answer, counted from before the request was
/// sent, as the store counts from when it received it, which is later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Until {
    pub(super) start_by: Moment,
    pub(super) finish_by: Moment,
}

impl Until {
    pub(super) fn new(sent: Moment, granted: &v1::Granted) -> Self {
        Self {
            start_by: sent.plus(from_millis(granted.start_within_ms)),
            finish_by: sent.plus(from_millis(granted.lease_ms)),
        }
    }

    /// Whether it may still be started: strictly before its time is over.
    pub(super) fn allows_start(&self, now: Moment) -> bool {
        now < self.start_by && now < self.finish_by
    }
}

impl Grant {
    pub(super) fn new(client: Client, names: Names, granted: v1::Granted, until: Until) -> Self {
        Self {
            client,
            names,
            fencing: FencingToken::from_message(granted.fencing),
            attempt: granted.attempt,
            checkpoint: granted.checkpoint.map(Checkpoint::from_message),
            possible_duplicate: granted.possible_duplicate,
            repeated: granted.repeated,
            // The answer counts from when the request was sent: what it waited for is none of the lease.
            lease: until.finish_by.since(Moment::now()),
            start_by: until.start_by.min(until.finish_by),
            finish_by: Mutex::new(until.finish_by),
            stage: AtomicU8::new(FRESH),
        }
    }

    /// The tenant.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.names.tenant
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.names.key
    }

    /// The token's text, which names the grant in every call: what another process needs to complete it.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.names.token
    }

    /// What the effect's sink compares.
    #[must_use]
    pub fn fencing(&self) -> FencingToken {
        self.fencing
    }

    /// The key that a step of this execution sends on: see [`IdempotencyKey::child`].
    #[must_use]
    pub fn child(&self, step: &str) -> IdempotencyKey {
        child_of_granted(&self.names.key, step)
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// What an earlier attempt left.
    #[must_use]
    pub fn left_checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    /// An earlier attempt may have executed: reconcile before you do.
    #[must_use]
    pub fn possible_duplicate(&self) -> bool {
        self.possible_duplicate
    }

    /// The answer repeats one that was given for the same nonce and got lost.
    #[must_use]
    pub fn repeated(&self) -> bool {
        self.repeated
    }

    /// The lease that it was granted under, as it was when the answer came: how long the effect may take, and a good one to ask
    /// [`Grant::extend`] for.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// How long the grant may still be used: before its start until it has to be started, then until it has to be finished
    /// or extended.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let until = if self.is_started() { self.finish_by() } else { self.start_by };
        until.since(Moment::now())
    }

    /// Whether [`Grant::start`] was called and allowed it.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.stage.load(Ordering::Acquire) != FRESH
    }

    fn finish_by(&self) -> Moment {
        *self.finish_by.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the moment right before the effect. From here on a dropped grant is never released by itself.
    ///
    /// # Errors
    /// When the time to start is over. Nothing may be executed under this grant then.
    pub fn start(&self) -> Result<(), TooLate> {
        if !self.is_started() && Moment::now() >= self.start_by {
            return Err(TooLate);
        }
        self.advance(STARTED);
        Ok(())
    }

    /// The grant only ever gets further.
    fn advance(&self, stage: u8) {
        self.stage.fetch_max(stage, Ordering::AcqRel);
    }

    fn sending(&self) -> Sending {
        Sending { partition: self.names.partition, wait: Duration::ZERO }
    }

    /// Tells the outcome. Repeat it until it succeeds: the effect is done, and every retry of the client waits for its answer.
    /// It may be told after the lease ran out, and twice.
    ///
    /// # Errors
    /// When there is no answer. If that is definite, nothing was recorded.
    pub async fn complete(&self, envelope: Envelope) -> Result<Completed, Error> {
        self.completed(envelope, None).await
    }

    /// As [`Grant::complete`], and the record is kept for `retention` instead of what the policy says.
    ///
    /// # Errors
    /// When there is no answer. If that is definite, nothing was recorded.
    pub async fn complete_for(&self, envelope: Envelope, retention: Duration) -> Result<Completed, Error> {
        self.completed(envelope, Some(u64::try_from(retention.as_millis()).unwrap_or(u64::MAX))).await
    }

    async fn completed(&self, envelope: Envelope, retention_ms: Option<u64>) -> Result<Completed, Error> {
        // Whoever has an outcome has executed.
        self.advance(STARTED);
        let Names { tenant, key, token, partition: _ } = self.names.clone();
        let envelope = Some(envelope.into_message());
        let call = Call::Complete(v1::CompleteRequest { tenant, key, token, envelope, retention_ms });
        let answered = self.client.call(call, self.sending()).await?;
        let Answer::Complete(v1::CompleteResponse { outcome: Some(outcome), .. }) = answered.answer else {
            return Err(unknown_answer());
        };
        let v1::complete_response::Outcome::Completed(completed) = outcome;
        let recorded = match v1::Recorded::try_from(completed.recorded) {
            Ok(v1::Recorded::Answer) => Recorded::Answer,
            Ok(v1::Recorded::Repeated) => Recorded::Repeated,
            Ok(v1::Recorded::Late) => Recorded::Late,
            Ok(v1::Recorded::Unspecified) | Err(_) => return Err(unknown_answer()),
        };
        self.advance(OVER);
        Ok(Completed { recorded, expires_at_unix_ms: completed.expires_at_unix_ms })
    }

    /// Gives the grant back: **nothing was executed**, and the next attempt may.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn release(&self) -> Result<Held, Error> {
        let Names { tenant, key, token, partition: _ } = self.names.clone();
        let call = Call::Release(v1::ReleaseRequest { tenant, key, token });
        let answered = self.client.call(call, self.sending()).await?;
        let Answer::Release(v1::ReleaseResponse { outcome: Some(outcome), .. }) = answered.answer else {
            return Err(unknown_answer());
        };
        let held = match outcome {
            v1::release_response::Outcome::Released(_) => Held::Done,
            v1::release_response::Outcome::StaleToken(stale) => Held::Stale(KeyState::from_message(stale.state)),
        };
        self.advance(OVER);
        Ok(held)
    }

    /// Restarts the lease: the effect has `lease` from now. It counts from before the request is sent.
    ///
    /// # Errors
    /// When there is no answer: the lease runs on as it did, for all that is known.
    pub async fn extend(&self, lease: Duration) -> Result<Held, Error> {
        let Names { tenant, key, token, partition: _ } = self.names.clone();
        let call = Call::Extend(v1::ExtendRequest { tenant, key, token, lease_ms: millis(lease) });
        let answered = self.client.call(call, self.sending()).await?;
        let Answer::Extend(v1::ExtendResponse { outcome: Some(outcome), .. }) = answered.answer else {
            return Err(unknown_answer());
        };
        match outcome {
            v1::extend_response::Outcome::Extended(extended) => {
                let until = answered.sent.plus(from_millis(extended.lease_ms));
                *self.finish_by.lock().unwrap_or_else(PoisonError::into_inner) = until;
                Ok(Held::Done)
            }
            v1::extend_response::Outcome::StaleToken(stale) => Ok(Held::Stale(KeyState::from_message(stale.state))),
        }
    }

    /// Stores a recovery point with the grant, for whoever continues after it.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn checkpoint(&self, checkpoint: Checkpoint) -> Result<Held, Error> {
        let Names { tenant, key, token, partition: _ } = self.names.clone();
        let Checkpoint { name, data } = checkpoint;
        let checkpoint = Some(v1::CheckpointData { name, data });
        let call = Call::Checkpoint(v1::CheckpointRequest { tenant, key, token, checkpoint });
        let answered = self.client.call(call, self.sending()).await?;
        let Answer::Checkpoint(v1::CheckpointResponse { outcome: Some(outcome), .. }) = answered.answer else {
            return Err(unknown_answer());
        };
        Ok(match outcome {
            v1::checkpoint_response::Outcome::Checkpointed(_) => Held::Done,
            v1::checkpoint_response::Outcome::StaleToken(stale) => Held::Stale(KeyState::from_message(stale.state)),
        })
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if *self.stage.get_mut() != FRESH {
            return;
        }
        match self.client.0.settings.on_drop {
            OnDrop::Lapse => {}
            OnDrop::ReleaseUnstarted => self.client.release_behind(self.names.clone()),
        }
    }
}

fn unknown_answer() -> Error {
    Failed::unknown_answer().end(super::Certainty::Definite)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::at(Duration::from_millis(ms))
    }

    #[test]
    fn a_grant_counts_from_before_its_request_was_sent() {
        let granted = v1::Granted { start_within_ms: 500, lease_ms: 30_000, ..v1::Granted::default() };
        let until = Until::new(at(1_000), &granted);
        assert_eq!((until.start_by, until.finish_by), (at(1_500), at(31_000)));
        assert!(until.allows_start(at(1_000)) && until.allows_start(at(1_499)));
        assert!(!until.allows_start(at(1_500)), "the last moment is too late");
        assert!(!until.allows_start(at(999_999)));
    }

    #[test]
    fn a_lease_that_ends_before_the_start_does_ends_both() {
        let granted = v1::Granted { start_within_ms: 500, lease_ms: 100, ..v1::Granted::default() };
        assert!(!Until::new(at(0), &granted).allows_start(at(100)));
        let nothing = v1::Granted::default();
        assert!(!Until::new(at(0), &nothing).allows_start(at(0)), "no time is no grant");
    }
}
