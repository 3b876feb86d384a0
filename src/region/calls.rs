//! What a service asks of its region, and what it is told: the router's vocabulary, already parsed.

use std::time::Duration;

use bytes::Bytes;

use crate::clock::Monotonic;
use crate::codec::pb;
use crate::ids::{EndpointName, Epoch, FencingToken, Fingerprint, Nonce, PartitionId, RecordKey, RegionName};
use crate::reservation::record::{Checkpoint, Record, State};
use crate::reservation::reply::{Limit, Recorded};
use crate::time::LogTime;

/// The first response, as every retry gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// HTTP status, 100-599.
    pub status: u16,
    /// In the order they were sent.
    pub headers: Vec<(String, Bytes)>,
    /// The body.
    pub body: Bytes,
}

impl Envelope {
    /// As it is stored.
    #[must_use]
    pub fn to_stored(&self) -> pb::Envelope {
        pb::Envelope {
            status: u32::from(self.status),
            headers: self
                .headers
                .iter()
                .map(|(name, value)| pb::Header { name: name.clone(), value: value.clone() })
                .collect(),
            body: self.body.clone(),
        }
    }

    /// From what is stored.
    #[must_use]
    pub fn from_stored(stored: pb::Envelope) -> Self {
        Self {
            status: u16::try_from(stored.status).unwrap_or_default(),
            headers: stored.headers.into_iter().map(|header| (header.name, header.value)).collect(),
            body: stored.body,
        }
    }
}

/// Asks to execute.
#[derive(Clone, Debug)]
pub struct ReserveCall {
    /// The key.
    pub key: RecordKey,
    /// The endpoint contract.
    pub endpoint: EndpointName,
    /// The request.
    pub fingerprint: Fingerprint,
    /// The attempt's random name.
    pub nonce: Option<Nonce>,
    /// Overrides the policy's lease, in milliseconds.
    pub lease_ms: Option<u32>,
    /// How long to wait while another attempt is in flight.
    pub wait: Duration,
    /// When the request reached this node.
    pub received: Monotonic,
    /// The largest position of the key's partition that the caller has seen: the answer is no older.
    pub seen: Option<u64>,
    /// What the caller says it is, such as `acme-pay/2.3.1`: for metrics.
    pub client_version: String,
}

/// A grant as the caller gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The token's text, with claims and MAC.
    pub token: String,
    /// The fencing token.
    pub fencing: FencingToken,
    /// Start within this time, counted from when the request was sent.
    pub start_within_ms: u32,
    /// Finish or extend within this time, counted from the same moment.
    pub lease_ms: u32,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// What an earlier attempt left.
    pub checkpoint: Option<Checkpoint>,
    /// An earlier attempt may have executed.
    pub possible_duplicate: bool,
    /// The answer repeats one given for the same nonce.
    pub repeated: bool,
    /// The request it is for.
    pub fingerprint: Fingerprint,
    /// The endpoint it is for.
    pub endpoint: EndpointName,
}

/// What Reserve comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReserveOutcome {
    /// Execute.
    Granted(Box<Granted>),
    /// It was done.
    Replay(Box<Replay>),
    /// The key was used for another request.
    Mismatch,
    /// Another attempt is being executed.
    InProgress {
        /// When to ask again.
        retry_after: Duration,
    },
    /// An attempt's lease ran out and the policy holds the key.
    OutcomeUnknown {
        /// Which attempt.
        attempt: u32,
        /// What it left.
        checkpoint: Option<Checkpoint>,
    },
    /// An unsettled epoch may have granted the key.
    InDoubt {
        /// When to ask again.
        retry_after: Duration,
    },
    /// The key was made in an epoch that this region has not reached.
    Superseded {
        /// The region's epoch.
        epoch: Epoch,
    },
    /// The key is older than its endpoint remembers.
    Expired,
    /// A limit refuses new grants.
    Limited {
        /// Which.
        limit: Limit,
        /// When to ask again.
        retry_after: Duration,
    },
}

/// A stored answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The first response.
    pub envelope: Envelope,
    /// When it was recorded.
    pub completed_at: LogTime,
    /// When the record may go.
    pub expires_at: LogTime,
    /// The grant that it completed.
    pub fencing: FencingToken,
}

/// Where a key belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The key's home.
    pub home: RegionName,
    /// Its partition.
    pub partition: PartitionId,
    /// The home's epoch in that partition.
    pub epoch: Epoch,
}

/// An answer, and the epoch it was given in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    /// The answer.
    pub outcome: T,
    /// Where the key belongs.
    pub place: Place,
}

/// What Complete comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// How the completion was recorded.
    pub recorded: Recorded,
    /// When the record may go.
    pub expires_at: LogTime,
}

/// What a call that names a running grant comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantOutcome {
    /// Done.
    Done,
    /// The token is not the key's current one, which is in this state.
    StaleToken(State),
}

/// What Claim comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The caller holds the key now.
    Claimed(Box<Granted>),
    /// The key's outcome is not unknown.
    NotClaimable(State),
    /// A limit refuses new grants.
    Limited(Limit),
}

/// An operator's verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It ran, and this is the answer.
    Executed(Envelope),
    /// Nothing ran.
    NotExecuted,
}

/// What Resolve comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveOutcome {
    /// The verdict is recorded; the key is in this state now.
    Resolved(State),
    /// The key's last token is another one, or its outcome is not unknown.
    StaleToken(State),
}

/// What the store knows of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The record.
    pub record: Record,
    /// The answer's envelope, for a completed key.
    pub envelope: Option<Envelope>,
}

/// Whether it is known that nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Nothing was done, and nothing will be.
    Definite,
    /// It may have been done, or may yet be: keep the key, resend with the same nonce.
    Indefinite,
}

/// Why there is no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The input is wrong in a way that only the store can see.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// Too much waits already. Nothing was done.
    #[error("the node has as much waiting as it takes")]
    Overloaded {
        /// When to ask again.
        retry_after: Duration,
    },
    /// The disk is nearly full: no new grant is made. Nothing was done.
    #[error("the data disk has {free_bytes} bytes free, under the {least_bytes} that new grants need: free some space")]
    DiskLow {
        /// Free bytes.
        free_bytes: u64,
        /// Bytes under which no grant is made.
        least_bytes: u64,
    },
    /// The partition does not serve.
    #[error("{reason}")]
    Unavailable {
        /// Whether it is known that nothing was done.
        certainty: Certainty,
        /// Why, and what to do.
        reason: String,
        /// When to ask again.
        retry_after: Duration,
    },
}

/// What is wrong with the input, seen from inside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The token does not parse, or its MAC is wrong.
    #[error("the token is not one of this cluster's: {0}")]
    Token(String),
    /// The token was made for another key.
    #[error("the token is for another tenant or key")]
    TokenForAnotherKey,
    /// The key names a home that this cluster does not have.
    #[error("the key names the home {home:?}; this cluster has {known}")]
    UnknownHome {
        /// The key's home.
        home: String,
        /// The homes there are.
        known: String,
    },
    /// The key's time is too far ahead of log time.
    #[error(
        "the key's time is {ahead_ms} ms ahead of the store's log time; at most {most_ms} ms are accepted: check the clock that made the key, and `holdfast ctl status` for a held clock"
    )]
    KeyTimeAhead {
        /// How far ahead, in milliseconds.
        ahead_ms: u64,
        /// How far ahead it may be, in milliseconds.
        most_ms: u64,
    },
}
