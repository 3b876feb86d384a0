//! How a node and its groups are, as an operator reads it.

use crate::ids::{PartitionId, RegionName};
use crate::time::LogTime;

/// How the node is.
#[derive(Clone, Debug)]
pub struct Status {
    /// The cluster's name for ever.
    pub cluster_id: String,
    /// The node.
    pub node_id: u64,
    /// Its region.
    pub region: RegionName,
    /// How many partitions the cluster has.
    pub partitions: u16,
    /// Every group of the node, by partition.
    pub groups: Vec<GroupStatus>,
    /// Free bytes on the data disk.
    pub free_disk_bytes: u64,
    /// Why no new grant is made, if so.
    pub refusing: Option<String>,
}

/// Whether a group serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// It answers.
    Serving,
    /// It stopped for good; why, and what to do.
    Stopped(String),
}

/// How one group is.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// Its partition.
    pub partition: PartitionId,
    /// Whether it serves.
    pub state: GroupState,
    /// The Raft term.
    pub term: u64,
    /// The last entry of the log.
    pub last_log_index: u64,
    /// The last entry that was applied.
    pub applied_index: u64,
    /// The last entry that a snapshot has.
    pub snapshot_index: u64,
    /// The last entry that was purged.
    pub purged_index: u64,
    /// Log time.
    pub log_time: LogTime,
    /// The clock is too far ahead of log time, and nobody has accepted it.
    pub clock_held: bool,
    /// Keys held now.
    pub held_keys: u64,
}
