//! How a node and its groups are, as an operator reads it.

use crate::ids::{PartitionId, RegionName};
use crate::raft::{Leadership, Membership};
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

/// What this node is in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader,
    /// It votes, and follows a leader.
    Follower,
    /// It is a member without a vote, or none yet.
    Learner,
    /// It votes, and knows no leader.
    Candidate,
    /// The group has stopped here.
    Stopped,
}

impl Role {
    /// What a node is in a group, given who leads and who votes.
    #[must_use]
    pub fn of(node_id: u64, now: Leadership, members: &Membership, stopped: bool) -> Self {
        if stopped {
            return Self::Stopped;
        }
        match (now.leads, members.voters.contains(&node_id), now.leader) {
            (true, _, _) => Self::Leader,
            (false, true, Some(_)) => Self::Follower,
            (false, true, None) => Self::Candidate,
            (false, false, _) => Self::Learner,
        }
    }

    /// Every role.
    pub const ALL: [Self; 5] = [Self::Leader, Self::Follower, Self::Learner, Self::Candidate, Self::Stopped];

    /// As the API writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Learner => "learner",
            Self::Candidate => "candidate",
            Self::Stopped => "stopped",
        }
    }
}

/// How one group is.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// Its partition.
    pub partition: PartitionId,
    /// Whether it serves.
    pub state: GroupState,
    /// What this node is in it.
    pub role: Role,
    /// Who leads it, if that is known.
    pub leader: Option<u64>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_what_leader_and_voters_make_it() {
        let members = Membership { voters: [1, 2].into(), ..Membership::default() };
        let led = |leader| Leadership { term: 1, leader, leads: leader == Some(1) };
        let of = |node, leader| Role::of(node, led(leader), &members, false);
        assert_eq!(of(1, Some(1)), Role::Leader);
        assert_eq!(of(1, Some(2)), Role::Follower);
        assert_eq!(of(1, None), Role::Candidate);
        assert_eq!(of(3, Some(2)), Role::Learner);
        assert_eq!(Role::of(1, led(Some(1)), &members, true), Role::Stopped);
    }
}
