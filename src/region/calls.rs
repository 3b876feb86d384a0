//! What a service asks of its region, and what it is told: the router's vocabulary, already parsed.

use std::time::Duration;

use bytes::Bytes;

use crate::clock::Monotonic;
use crate::codec::pb;
use crate::ids::{EndpointName, Epoch, FencingToken, Fingerprint, Nonce, PartitionId, RecordKey, RegionName};
use crate::reservation::record::{Checkpoint, Event, Record, State};
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

/// Tells the outcome.
#[derive(Clone, Debug)]
pub struct CompleteCall {
    /// The key.
    pub key: RecordKey,
    /// The grant's token, as it was sent.
    pub token: String,
    /// The response to keep.
    pub envelope: Envelope,
    /// Makes the policy's retention longer, in milliseconds.
    pub retention_ms: Option<u64>,
}

/// Names a grant.
#[derive(Clone, Debug)]
pub struct GrantCall {
    /// The key.
    pub key: RecordKey,
    /// The grant's token, as it was sent.
    pub token: String,
}

/// Gives a grant back.
#[derive(Clone, Debug)]
pub struct ReleaseCall(pub GrantCall);

/// Restarts a grant's lease.
#[derive(Clone, Debug)]
pub struct ExtendCall {
    /// Which grant.
    pub grant: GrantCall,
    /// The new lease, in milliseconds.
    pub lease_ms: u32,
}

/// Stores a recovery point with a grant.
#[derive(Clone, Debug)]
pub struct CheckpointCall {
    /// Which grant.
    pub grant: GrantCall,
    /// The recovery point.
    pub checkpoint: Checkpoint,
}

/// Asks what is known of a key.
#[derive(Clone, Debug)]
pub struct LookupCall(pub RecordKey);

/// Takes over a key whose outcome is unknown.
#[derive(Clone, Debug)]
pub struct ClaimCall {
    /// The key.
    pub key: RecordKey,
    /// Who takes over.
    pub worker: String,
    /// The attempt's random name.
    pub nonce: Option<Nonce>,
    /// The new grant's lease in milliseconds; the one the key was granted under if absent.
    pub lease_ms: Option<u32>,
    /// When the request reached this node.
    pub received: Monotonic,
}

/// An operator's verdict on a key whose outcome is unknown.
#[derive(Clone, Debug)]
pub struct ResolveCall {
    /// The key.
    pub key: RecordKey,
    /// The token that was looked at.
    pub fencing: FencingToken,
    /// What happened.
    pub verdict: Verdict,
    /// Who decided.
    pub actor: String,
    /// Why.
    pub reason: String,
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

impl Granted {
    /// Counts its times from so much earlier.
    pub(crate) fn after(&mut self, waited: Duration) {
        let waited_ms = u32::try_from(waited.as_millis()).unwrap_or(u32::MAX);
        self.start_within_ms = self.start_within_ms.saturating_add(waited_ms);
        self.lease_ms = self.lease_ms.saturating_add(waited_ms);
    }
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
    /// How far the partition's log was applied where this was answered.
    pub position: u64,
    /// The node that leads the partition, as far as the answering node knows.
    pub leader: Option<u64>,
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

/// What the store knows of a key: fingerprint, fencing token and so on of its answer if it has one, else of the last grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it stands.
    pub state: State,
    /// The endpoint of the last grant.
    pub endpoint: EndpointName,
    /// 0: made by the caller; 1: fingerprint v1.
    pub fingerprint_version: u32,
    /// The request.
    pub fingerprint: Bytes,
    /// The grant.
    pub fencing: Option<FencingToken>,
    /// Which attempt that is.
    pub attempt: u32,
    /// The lease in milliseconds.
    pub lease_ms: u32,
    /// How long the record is kept once completed, in milliseconds.
    pub retention_ms: u64,
    /// The last recovery point.
    pub checkpoint: Option<Checkpoint>,
    /// The answer's envelope, for a completed key.
    pub envelope: Option<Envelope>,
    /// When it was recorded.
    pub completed_at: Option<LogTime>,
    /// When the record may go.
    pub expires_at: Option<LogTime>,
    /// What happened, oldest first.
    pub history: Vec<Event>,
    /// How many events were dropped from the front of the history.
    pub history_dropped: u64,
}

impl Found {
    /// A record as it is shown, with the envelope of its answer.
    #[must_use]
    pub fn of(record: Record, envelope: Option<Envelope>) -> Self {
        let answered = record.answer.and_then(|answer| record.attempts.iter().find(|one| one.token == answer.token));
        let shown = answered.or_else(|| record.last());
        Self {
            state: record.state(),
            fingerprint_version: shown.map_or(0, |attempt| attempt.fingerprint.version),
            fingerprint: shown.map_or_else(Bytes::new, |attempt| Bytes::copy_from_slice(&attempt.fingerprint.digest)),
            fencing: shown.map(|attempt| attempt.token),
            attempt: shown.map_or(0, |attempt| attempt.number),
            lease_ms: record.holding().map_or(record.terms.lease_ms, |holding| holding.lease_ms),
            retention_ms: record.terms.retention_ms,
            completed_at: record.answer.map(|answer| answer.completed_at),
            expires_at: record.expires_at(),
            endpoint: record.endpoint,
            checkpoint: record.checkpoint,
            envelope,
            history: record.history,
            history_dropped: record.history_dropped,
        }
    }
}

/// A node, as a client has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its number.
    pub node_id: u64,
    /// Where its public API is reached. Empty: it has not said so.
    pub api: String,
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
    /// Another node leads the key's partition, or none does. Nothing was done.
    #[error("{}", not_leader(*.leader))]
    NotLeader {
        /// Who leads, if that is known.
        leader: Option<u64>,
    },
    /// The key's fingerprint was taken under another selection: whether the request is the same is not known before it is
    /// taken under that one. Nothing was done.
    #[error("the key was reserved under selection {selection} of what counts in a fingerprint")]
    OtherSelection {
        /// Its number.
        selection: u32,
    },
    /// The node that leads the key's partition answered so.
    #[error("{message}")]
    Elsewhere {
        /// The stable code of docs/reference/errors.
        code: String,
        /// What it said.
        message: String,
        /// Whether it is known that nothing was done.
        certainty: Certainty,
        /// When to ask again, if that helps.
        retry_after: Option<Duration>,
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

fn not_leader(leader: Option<u64>) -> String {
    match leader {
        Some(node_id) => format!("node {node_id} leads the key's partition: ask it"),
        None => "no node is known to lead the key's partition now: an election takes a second or two".to_owned(),
    }
}

/// Why there is no outcome, and who leads the key's partition if that is another node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{failure}")]
pub struct Failed {
    /// Why.
    pub failure: Failure,
    /// Whom to ask.
    pub leader: Option<Leader>,
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
    /// Nobody made the tenant.
    #[error("there is no tenant {tenant}: an operator makes it with `holdfast ctl tenant create {tenant}`")]
    TenantUnknown {
        /// The tenant.
        tenant: String,
    },
    /// The tenant gets no new keys.
    #[error("tenant {tenant} is closed: it gets no new keys, and those that it has are answered as ever")]
    TenantClosed {
        /// The tenant.
        tenant: String,
    },
    /// The policies cannot hold.
    #[error("{0}")]
    Policies(String),
    /// What a tenant was to be cannot be.
    #[error("{0}")]
    Tenant(String),
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
