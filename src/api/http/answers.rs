//! The bodies of HTTP/JSON answers. Every outcome of a call is an answer with status 200 and says in `outcome` which it is.

mod fill;

use serde::Serialize;
use utoipa::ToSchema;

/// What Reserve comes to.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum ReserveAnswer {
    /// Execute.
    Granted(Granted),
    /// It was done, and this was the response.
    Replay {
        /// The first response, byte for byte.
        envelope: Envelope,
        /// When it was recorded, by log time.
        completed_at_unix_ms: u64,
        /// When the record may be removed, by log time.
        expires_at_unix_ms: u64,
        /// The grant that it completed.
        fencing: FencingToken,
    },
    /// The key was used for another request.
    Mismatch,
    /// Another attempt is being executed.
    InProgress {
        /// When to ask again.
        retry_after_ms: u32,
    },
    /// An attempt's lease ran out and the policy holds the key: reconcile, then claim or resolve it.
    OutcomeUnknown {
        /// Which attempt.
        attempt: u32,
        /// What it left.
        #[serde(skip_serializing_if = "Option::is_none")]
        checkpoint: Option<Checkpoint>,
    },
    /// An unsettled epoch may have granted the key.
    InDoubt {
        /// When to ask again.
        retry_after_ms: u32,
    },
    /// The key was made in an epoch that this region has not reached: ask another one.
    Superseded {
        /// The region's epoch.
        epoch: u64,
    },
    /// The key is older than its endpoint remembers.
    Expired,
    /// A limit refuses new grants.
    Limited {
        /// Which.
        limit: &'static str,
        /// When to ask again.
        retry_after_ms: u32,
    },
}

/// The permission to execute.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Granted {
    /// Names the grant in every later call.
    token: String,
    /// What a side effect's sink compares.
    fencing: FencingToken,
    /// Start within this time, counted from when the request was sent, or drop the grant.
    start_within_ms: u32,
    /// Finish or extend within this time, counted from the same moment.
    lease_ms: u32,
    /// Which attempt, from 1.
    attempt: u32,
    /// Left by an earlier attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<Checkpoint>,
    /// An earlier attempt may have executed: reconcile before you do.
    possible_duplicate: bool,
    /// This answer repeats one that was given for the same nonce.
    repeated: bool,
}

/// A response.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Envelope {
    /// The HTTP status.
    status: u16,
    /// `[name, value]` pairs in the order they were sent. One character of a value is one byte (ISO 8859-1).
    headers: Vec<(String, String)>,
    /// The body, base64 with padding.
    body_base64: String,
}

/// Strictly increasing per key, by epoch, then sequence.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(super) struct FencingToken {
    /// The epoch of the key's home.
    epoch: u64,
    /// The position in the epoch's stream.
    sequence: u64,
}

/// A named recovery point.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Checkpoint {
    /// Which step is done.
    name: String,
    /// What the next attempt needs to go on, base64 with padding.
    data_base64: String,
}

/// Where a key stands.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum KeyState {
    /// There is no record.
    Absent,
    /// Granted, lease running.
    Held,
    /// The lease ran out and the policy grants again.
    Lapsed,
    /// The lease ran out and the policy holds the key.
    OutcomeUnknown,
    /// Given back.
    Released,
    /// Answered.
    Completed,
}

/// What Complete comes to.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum CompleteAnswer {
    /// The outcome is recorded.
    Completed {
        /// How.
        recorded: Recorded,
        /// When the record may be removed, by log time.
        expires_at_unix_ms: u64,
    },
}

/// How a completion was recorded.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Recorded {
    /// It is what every retry gets.
    Answer,
    /// The same token and envelope were recorded before.
    Repeated,
    /// Another completion was known already: kept as evidence that a second execution ran.
    Late,
}

/// What Release comes to.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum ReleaseAnswer {
    /// The grant was given back.
    Released,
    /// The token is no longer the key's current one.
    StaleToken {
        /// Where the key stands.
        state: KeyState,
    },
}

/// What Extend comes to.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum ExtendAnswer {
    /// The lease starts anew.
    Extended {
        /// Its length, counted from when the request was sent.
        lease_ms: u32,
    },
    /// The token is no longer the key's current one.
    StaleToken {
        /// Where the key stands.
        state: KeyState,
    },
}

/// What Checkpoint comes to.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum CheckpointAnswer {
    /// The recovery point is stored.
    Checkpointed,
    /// The token is no longer the key's current one.
    StaleToken {
        /// Where the key stands.
        state: KeyState,
    },
}

/// What Claim comes to.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum ClaimAnswer {
    /// The caller holds the key now.
    Claimed(Claimed),
    /// The key's outcome is not unknown.
    NotClaimable {
        /// Where the key stands.
        state: KeyState,
    },
    /// A limit refuses new grants.
    Limited {
        /// Which.
        limit: &'static str,
    },
}

/// A key that was taken over.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Claimed {
    #[serde(flatten)]
    grant: Granted,
    /// The endpoint contract's name.
    endpoint: String,
    /// 0: made by the caller; 1: fingerprint v1.
    fingerprint_version: u32,
    /// The request's fingerprint, in hex.
    fingerprint: String,
}

/// What Resolve comes to.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum ResolveAnswer {
    /// The verdict is recorded.
    Resolved {
        /// Where the key stands now.
        state: KeyState,
    },
    /// The key's last token is another one, or its outcome is not unknown.
    StaleToken {
        /// Where the key stands.
        state: KeyState,
    },
}

/// What the store knows of a key.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeyAnswer {
    /// Whose key.
    tenant: String,
    /// The idempotency key.
    key: String,
    /// Where it stands.
    state: KeyState,
    /// The endpoint of the last grant.
    endpoint: String,
    /// 0: made by the caller; 1: fingerprint v1.
    fingerprint_version: u32,
    /// The request's fingerprint, in hex.
    fingerprint: String,
    /// The grant that was answered, else the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    fencing: Option<FencingToken>,
    /// Which attempt that is.
    attempt: u32,
    /// The lease.
    lease_ms: u32,
    /// How long the record is kept once completed.
    retention_ms: u64,
    /// The last recovery point.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<Checkpoint>,
    /// The answer, for a completed key.
    #[serde(skip_serializing_if = "Option::is_none")]
    envelope: Option<Envelope>,
    /// When it was recorded, by log time.
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at_unix_ms: Option<u64>,
    /// When the record may be removed, by log time.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at_unix_ms: Option<u64>,
    /// What happened, oldest first.
    history: Vec<Event>,
    /// How many events were dropped from the front of the history.
    history_dropped: u64,
}

/// One line of a key's history.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Event {
    /// Log time.
    at_unix_ms: u64,
    /// What happened.
    #[schema(value_type = String)]
    kind: &'static str,
    /// To which grant.
    fencing: FencingToken,
    /// Who and why, the checkpoint's name, or the worker that claimed; empty for most.
    detail: String,
}

/// The epoch of every home in every partition.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EpochsAnswer {
    /// How many partitions there are.
    pub(super) partitions: u16,
    /// One a home and partition.
    pub(super) epochs: Vec<Epoch>,
}

/// An epoch.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Epoch {
    home: String,
    partition: u16,
    epoch: u64,
    /// How far the partition's log is applied here.
    position: u64,
    /// The node that leads the partition, as far as this one knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<u64>,
}

/// The nodes of the region, and which of them leads each partition.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TopologyAnswer {
    /// How many partitions there are.
    partitions: usize,
    /// The members, by number.
    nodes: Vec<TopologyNode>,
    /// The leader's node of every partition, in their order; null where none is known.
    leaders: Vec<Option<u64>>,
}

/// A node of the region.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TopologyNode {
    /// Its number.
    node_id: u64,
    /// Where its API is reached. Empty: it has not said so.
    address: String,
}

/// How the node is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatusAnswer {
    /// The node's version.
    #[schema(value_type = String)]
    version: &'static str,
    /// The cluster's name for ever.
    cluster_id: String,
    /// The node.
    node_id: u64,
    /// Its region.
    region: String,
    /// How many partitions the cluster has.
    partitions: u16,
    /// Every group of the node, by partition.
    groups: Vec<GroupStatus>,
    /// Free bytes on the data disk.
    free_disk_bytes: u64,
    /// Why no new grant is made, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusing: Option<String>,
}

/// How one group is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GroupStatus {
    /// Its partition.
    partition: u16,
    /// `serving`, `starting` or `stopped`.
    #[schema(value_type = String)]
    state: &'static str,
    /// Why it stopped, and what to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    /// What this node is in it: `leader`, `follower`, `learner`, `candidate` or `stopped`.
    #[schema(value_type = String)]
    role: &'static str,
    /// The number of the node that leads it, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    leader_node_id: Option<u64>,
    /// The Raft term.
    term: u64,
    /// The last entry of the log.
    last_log_index: u64,
    /// The last entry that was applied.
    applied_index: u64,
    /// The last entry that a snapshot has.
    snapshot_index: u64,
    /// The last entry that was purged.
    purged_index: u64,
    /// Log time.
    log_time_unix_ms: u64,
    /// The clock is over an hour ahead of log time, and nobody has accepted it.
    clock_held: bool,
    /// Keys held now.
    held_keys: u64,
}

/// A new cluster key.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClusterKeyAnswer {
    /// Its number.
    pub(super) key_id: u32,
}

/// Log time after a clock was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClockAnswer {
    /// By partition.
    pub(super) log_time_unix_ms: Vec<u64>,
}
