//! What may be asked of one key, and what the log entry says about the moment.

use crate::ids::{Digest, EndpointName, Epoch, FencingToken, Fingerprint, Nonce};
use crate::reservation::record::{Checkpoint, Terms};
use crate::time::LogTime;

/// What the leader read of older epochs that may have granted the key (design: the settle gate). A cluster of one region
/// has no older epochs, and says [`Doubt::Settled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Every epoch in [mint, now) is settled.
    Settled,
    /// One is lost: a grant is flagged.
    Lost,
    /// One is unsettled and the policy fails closed: no grant.
    UnsettledFailClosed,
    /// One is unsettled and the policy fails open: a grant is flagged.
    UnsettledFailOpen,
}

/// Asks to execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// The request.
    pub fingerprint: Fingerprint,
    /// The endpoint contract.
    pub endpoint: EndpointName,
    /// The resolved policy.
    pub terms: Terms,
    /// The attempt's random name.
    pub nonce: Option<Nonce>,
    /// What was read of older epochs.
    pub doubt: Doubt,
    /// The last token that was known when this was proposed. A grant is a compare-and-set on it.
    pub known: Option<FencingToken>,
}

/// Tells the outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complete {
    /// The grant.
    pub token: FencingToken,
    /// What the token's claims say it was granted for: enough to adopt a token that the record does not know.
    pub fingerprint: Fingerprint,
    /// The claims' endpoint.
    pub endpoint: EndpointName,
    /// The claims' nonce.
    pub nonce: Option<Nonce>,
    /// What an adopted key is kept under.
    pub terms: Terms,
    /// The envelope's digest.
    pub envelope: Digest,
    /// Makes the retention longer that the key was granted under, in milliseconds. A shorter one is not heard.
    pub retention_ms: Option<u64>,
}

/// An operator's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It ran; this is the digest of the answer.
    Executed(Digest),
    /// Nothing ran.
    NotExecuted,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asks to execute.
    Reserve(Box<Reserve>),
    /// Tells the outcome.
    Complete(Box<Complete>),
    /// Gives a grant back.
    Release {
        /// The grant.
        token: FencingToken,
    },
    /// Restarts a grant's lease.
    Extend {
        /// The grant.
        token: FencingToken,
        /// The new lease in milliseconds.
        lease_ms: u32,
    },
    /// Stores a recovery point.
    Checkpoint {
        /// The grant.
        token: FencingToken,
        /// The recovery point.
        checkpoint: Checkpoint,
    },
    /// Takes over a key whose outcome is unknown.
    Claim {
        /// The attempt's random name.
        nonce: Option<Nonce>,
        /// The new grant's lease in milliseconds; the one the key was granted under if absent.
        lease_ms: Option<u32>,
        /// Who takes over.
        worker: Box<str>,
    },
    /// An operator's verdict on a key whose outcome is unknown.
    Resolve {
        /// The last token that the operator saw.
        token: FencingToken,
        /// What happened.
        verdict: Verdict,
        /// Who decided.
        actor: Box<str>,
        /// Why.
        reason: Box<str>,
    },
    /// The leader saw a lease run out on its own monotonic clock.
    Lapse {
        /// The grant.
        token: FencingToken,
        /// Which lease of it.
        lease_revision: u32,
    },
    /// The leader takes back a grant that nobody was told of.
    Void {
        /// The grant.
        token: FencingToken,
    },
}

/// A command to one key, bound to an epoch of its home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The epoch it was proposed in. It is void in any other.
    pub epoch: Epoch,
    /// What is asked.
    pub kind: Kind,
}

/// What the key itself says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// The epoch the client knew when it made the key, at least 1.
    pub mint_epoch: Epoch,
    /// When a tagged key was made, in milliseconds since the Unix epoch; nothing for an opaque key.
    pub time_ms: Option<u64>,
}

/// What the log entry and the partition's state say about the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The epoch that is open for the key's home here, if one is.
    pub open_epoch: Option<Epoch>,
    /// The next position of the epoch's stream; a grant takes it as its sequence.
    pub next_position: u64,
    /// Log time.
    pub now: LogTime,
    /// What the key says.
    pub key: KeyFacts,
    /// The largest key time removed from this endpoint by a sweep, in milliseconds since the Unix epoch.
    pub horizon_ms: Option<u64>,
}
