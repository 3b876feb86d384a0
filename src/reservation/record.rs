//! A reservation in its stored form.

use crate::ids::{Digest, EndpointName, FencingToken, Fingerprint, Nonce};
use crate::limits;
use crate::time::LogTime;

/// What happens when a grant's lease runs out. Weakest first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum OnLapse {
    /// The next Reserve is granted, flagged as a possible duplicate.
    Regrant,
    /// The outcome stays unknown until somebody completes, claims or resolves it.
    Hold,
}

/// What a key was granted under. A later change of policy never changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The revision of the policy; 0 is the built-in default.
    pub policy_revision: u32,
    /// The grant's lease in milliseconds.
    pub lease_ms: u32,
    /// What happens when the lease runs out.
    pub on_lapse: OnLapse,
    /// How long the completed record is kept, in milliseconds.
    pub retention_ms: u64,
}

impl Terms {
    /// These terms for a key that was promised others before: what it was promised never becomes less.
    #[must_use]
    pub fn keeping(self, before: Self) -> Self {
        let on_lapse = match (self.on_lapse, before.on_lapse) {
            (OnLapse::Regrant, OnLapse::Regrant) => OnLapse::Regrant,
            (OnLapse::Hold, _) | (_, OnLapse::Hold) => OnLapse::Hold,
        };
        Self { on_lapse, retention_ms: self.retention_ms.max(before.retention_ms), ..self }
    }
}

/// Where one grant stands. Ordered as merge orders them: later wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// May be executing.
    Held {
        /// The lease in milliseconds, counted by the region's leader.
        lease_ms: u32,
        /// Which lease of this grant: 0 at first, one more for each Extend, so that a lapse of an older one is void.
        lease_revision: u32,
    },
    /// The lease ran out; it may have executed.
    Lapsed,
    /// Given back: it did not execute.
    Released,
    /// It executed, and these envelopes were reported for it, in the order they came.
    Completed {
        /// Digests of the envelopes: at least one.
        envelopes: Vec<Digest>,
        /// Another completion of the key was known before the first of these.
        late: bool,
    },
}

/// One grant of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its token.
    pub token: FencingToken,
    /// Which attempt of the key it is, from 1.
    pub number: u32,
    /// The request it was granted for.
    pub fingerprint: Fingerprint,
    /// The attempt's random name, if the caller gave one.
    pub nonce: Option<Nonce>,
    /// It was granted as a possible duplicate.
    pub flagged: bool,
    /// Where it stands.
    pub phase: Phase,
}

/// A named recovery point of a multi-step operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which step is done.
    pub name: Box<str>,
    /// What the next attempt needs to go on.
    pub data: Box<[u8]>,
}

/// The completion that every retry gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The grant that it completed.
    pub token: FencingToken,
    /// The envelope's digest.
    pub envelope: Digest,
    /// When it was recorded.
    pub completed_at: LogTime,
    /// When the record may go.
    pub expires_at: LogTime,
}

/// What happened to a key, for `key history`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A grant was made.
    Granted,
    /// The first completion: the answer.
    Completed,
    /// A completion after another was known.
    Late,
    /// A grant was given back.
    Released,
    /// A lease was restarted.
    Extended,
    /// A recovery point was stored.
    Checkpointed,
    /// A lease ran out.
    Lapsed,
    /// The store took back a grant that it had told nobody of.
    Voided,
    /// A worker took the key over.
    Claimed,
    /// An operator decided.
    Resolved,
    /// A completion came with a token that the record did not know, and whose MAC was right.
    Adopted,
}

/// One line of a key's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Log time.
    pub at: LogTime,
    /// What happened.
    pub kind: EventKind,
    /// To which grant.
    pub token: FencingToken,
    /// Who and why; the checkpoint's name; the first 8 bytes of a late envelope's digest, in hexadecimal. Empty for most.
    pub detail: Box<str>,
}

/// Everything that is stored of a key, envelopes aside, which stand beside it under their digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The endpoint of the last grant.
    pub endpoint: EndpointName,
    /// What the last grant was made under.
    pub terms: Terms,
    /// Every grant that may have executed, and those that were given back since the last one was made, by ascending
    /// token. Never empty.
    pub attempts: Vec<Attempt>,
    /// The last recovery point.
    pub checkpoint: Option<Checkpoint>,
    /// The completion that retries get, once there is one.
    pub answer: Option<Answer>,
    /// For a record that ended without an answer: when it may go.
    pub idle_expires_at: Option<LogTime>,
    /// What happened, oldest first, at most [`limits::MAX_HISTORY`].
    pub history: Vec<Event>,
    /// How many events were dropped from the front of the history.
    pub history_dropped: u64,
    /// The stream position of the last change.
    pub position: u64,
    /// Bytes of all envelopes beside it: counted by whoever stores them, no decision asks.
    pub envelope_bytes: u64,
}

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No record.
    Absent,
    /// Granted, lease running.
    Held,
    /// The lease ran out under `regrant`.
    Lapsed,
    /// The lease ran out under `hold`.
    OutcomeUnknown,
    /// Given back.
    Released,
    /// Answered.
    Completed,
}

/// The grant that is being executed now, for all the store knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Its token.
    pub token: FencingToken,
    /// Its lease in milliseconds.
    pub lease_ms: u32,
    /// Which lease of the grant.
    pub lease_revision: u32,
}

impl Record {
    /// The last grant.
    #[must_use]
    pub fn last(&self) -> Option<&Attempt> {
        self.attempts.last()
    }

    /// The last grant's token.
    #[must_use]
    pub fn last_token(&self) -> Option<FencingToken> {
        self.last().map(|attempt| attempt.token)
    }

    /// The grant that says where the key stands: the last one that was not given back, else the last one. Giving one back
    /// leaves the key as it was before, so an unknown outcome stays unknown when a claim of it is given back or voided.
    #[must_use]
    pub fn standing(&self) -> Option<&Attempt> {
        let kept = self.attempts.iter().rev().find(|attempt| match attempt.phase {
            Phase::Held { .. } | Phase::Lapsed | Phase::Completed { .. } => true,
            Phase::Released => false,
        });
        kept.or(self.last())
    }

    /// Where the key stands.
    #[must_use]
    pub fn state(&self) -> State {
        if self.answer.is_some() {
            return State::Completed;
        }
        match self.standing().map(|attempt| &attempt.phase) {
            None => State::Absent,
            Some(Phase::Held { .. }) => State::Held,
            Some(Phase::Released) => State::Released,
            Some(Phase::Lapsed | Phase::Completed { .. }) => match self.terms.on_lapse {
                OnLapse::Regrant => State::Lapsed,
                OnLapse::Hold => State::OutcomeUnknown,
            },
        }
    }

    /// The running grant whose lease the region has to count, if there is one.
    #[must_use]
    pub fn holding(&self) -> Option<Holding> {
        if self.answer.is_some() {
            return None;
        }
        match self.standing()? {
            Attempt { token, phase: Phase::Held { lease_ms, lease_revision }, .. } => {
                Some(Holding { token: *token, lease_ms: *lease_ms, lease_revision: *lease_revision })
            }
            Attempt { phase: Phase::Lapsed | Phase::Released | Phase::Completed { .. }, .. } => None,
        }
    }

    /// When the record may go: never while it is held or its outcome is unknown.
    #[must_use]
    pub fn expires_at(&self) -> Option<LogTime> {
        self.answer.map(|answer| answer.expires_at).or(self.idle_expires_at)
    }

    /// Every envelope that stands beside the record.
    pub fn envelopes(&self) -> impl Iterator<Item = Digest> {
        self.attempts
            .iter()
            .flat_map(|attempt| match &attempt.phase {
                Phase::Completed { envelopes, .. } => envelopes.as_slice(),
                Phase::Held { .. } | Phase::Lapsed | Phase::Released => &[],
            })
            .copied()
    }

    /// Adds a line to the history and drops the oldest beyond the limit.
    pub fn note(&mut self, at: LogTime, kind: EventKind, token: FencingToken, detail: &str) {
        self.history.push(Event { at, kind, token, detail: detail.into() });
        if self.history.len() > limits::MAX_HISTORY {
            self.history.remove(0);
            self.history_dropped = self.history_dropped.saturating_add(1);
        }
    }
}
