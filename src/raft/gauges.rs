//! How a group is, as its metrics say it: read when somebody asks.

use std::time::Duration;

use openraft::async_runtime::{Instant as _, WatchReceiver as _};

use crate::raft::group::Group;
use crate::raft::types::NodeId;

/// How a group is at this moment.
#[derive(Clone, Debug)]
pub struct Gauges {
    /// For a leader: entries that each other member lacks.
    pub lag: Vec<(NodeId, u64)>,
    /// For a leader of several nodes: how long ago a majority last acknowledged it.
    pub quorum_ack_age: Option<Duration>,
    /// Operations that wait for a batch.
    pub queued_operations: usize,
    /// Bytes of operations that wait or are in flight.
    pub queued_bytes: usize,
}

impl Group {
    /// How the group is now.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or_default();
        let others = metrics.replication.iter().flatten().filter(|(id, _)| **id != metrics.id);
        let lag = others.map(|(id, matched)| (*id, last.saturating_sub(matched.as_ref().map_or(0, |id| id.index))));
        let alone = metrics.membership_config.membership().voter_ids().count() == 1;
        let acknowledged = metrics.last_quorum_acked.as_ref().filter(|_| !alone);
        Gauges {
            lag: lag.collect(),
            quorum_ack_age: acknowledged.map(|at| at.elapsed()),
            queued_operations: self.batcher.queued_operations(),
            queued_bytes: self.batcher.queued_bytes(),
        }
    }
}
