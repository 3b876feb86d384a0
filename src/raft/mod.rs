//! Consensus: the only user of openraft. One [`Group`] a partition; all groups of a node share one log thread.
//!
//! The way of a command: [`Group::propose`] → `batcher` (what waits while the last write syncs goes together) → openraft →
//! `log_store` (memory at once, disk by `log_thread`) → `state_machine` (decides, writes one batch) → the reply. To the other
//! nodes: `network` → `pipeline` → the wire → `peer` → openraft there.
//!
//! Deliberately absent: the meaning of a command (`reservation`), and the time that leases take (`region`).

mod batcher;
mod exports;
mod gauges;
mod group;
mod heartbeat;
mod kept;
mod log_store;
mod log_thread;
mod members;
mod network;
mod peer;
mod pipeline;
mod purge;
mod reads;
mod receive;
mod snapshot;
mod state_machine;
#[cfg(test)]
mod tests;
mod types;

pub use gauges::Gauges;
pub use group::{Group, GroupSettings, Leadership, Membership, Progress};
#[cfg(test)]
pub(crate) use kept::reload;
pub use log_thread::{LogHandle, LogThread};
pub use peer::Refused;
pub use state_machine::{Change, Hook, Hooks, ReplacedHook};
pub use types::{Address, NodeId, OperationReply};

/// Why a proposal has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too much waits already: nothing was proposed.
    #[error("too many operations wait")]
    Overloaded,
    /// Nothing was proposed: another node leads the group, or none does.
    #[error("this node does not lead the partition (leader: {leader:?})")]
    NotLeader {
        /// Who leads, if that is known.
        leader: Option<NodeId>,
    },
    /// Nothing was proposed, and this is why.
    #[error("{0}")]
    Definite(String),
    /// It may have been committed, or may yet be.
    #[error("{0}")]
    Indefinite(String),
}
