//! Who is in a group, who leads it, and how that is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Raft};
use tokio::sync::watch;

use crate::ids::PartitionId;
use crate::peers::Peers;
use crate::raft::ProposeError;
use crate::raft::group::{Group, Leadership, Membership};
use crate::raft::state_machine::Machine;
use crate::raft::types::{Address, NodeId, Types};
use crate::telemetry;
use crate::wire::v1::Node;

/// How long a change of members may take: a learner has to catch up before it can vote.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a handover may take: an election.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);

/// Tells of leaders for as long as the group runs, and tells `peers` where members are reached.
pub(super) async fn follow(
    partition: PartitionId,
    raft: Raft<Types, Machine>,
    peers: Arc<Peers>,
    leadership: watch::Sender<Leadership>,
    membership: watch::Sender<Membership>,
) {
    let mut metrics = raft.server_metrics();
    let mut counted = None;
    loop {
        let (now, members) = {
            let metrics = metrics.borrow_watched();
            let now = Leadership {
                term: metrics.vote.leader_id.term,
                leader: metrics.current_leader,
                leads: metrics.state.is_leader(),
            };
            let config = metrics.membership_config.membership();
            let members = Membership {
                voters: config.voter_ids().collect(),
                nodes: config.nodes().map(|(id, node)| (*id, node.clone())).collect(),
                changing: config.get_joint_config().len() > 1,
            };
            (now, members)
        };
        if *membership.borrow() != members {
            // Only then: while one group knows of a node's new address before another does, their members do not take turns.
            for (node_id, at) in &members.nodes {
                peers.know(&node(*node_id, at));
            }
            membership.send_replace(members);
        }
        leadership.send_if_modified(|known| std::mem::replace(known, now) != now);
        let leader = now.leader.map(|leader| (now.term, leader));
        if leader.is_some() && leader != counted {
            counted = leader;
            telemetry::metrics::leader_changed(partition);
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// A member as its peers know it.
pub(super) fn node(node_id: NodeId, at: &Address) -> Node {
    Node { node_id, peer: at.peer.clone(), api: at.api.clone(), disk: at.disk.clone() }
}

fn refused(error: RaftError<Types, ClientWriteError<Types>>) -> ProposeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            ProposeError::NotLeader { leader: forward.leader_id }
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            ProposeError::Definite(error.to_string())
        }
        RaftError::APIError(
            error @ (ClientWriteError::LogEntryDiscarded(_) | ClientWriteError::PreconditionFailed(_)),
        ) => ProposeError::Indefinite(error.to_string()),
        RaftError::Fatal(fatal) => ProposeError::Indefinite(fatal.to_string()),
    }
}

impl Group {
    /// Who leads, and every change of it.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Who leads now, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Leadership {
        *self.leadership.borrow()
    }

    /// The members now, as far as this node knows.
    #[must_use]
    pub fn members(&self) -> Membership {
        self.membership.borrow().clone()
    }

    /// The members, and every change of them.
    #[must_use]
    pub fn membership(&self) -> watch::Receiver<Membership> {
        self.membership.clone()
    }

    /// How far each follower has the log, by this leader's knowledge: the last index, 0 for nothing. Empty on a follower.
    #[must_use]
    pub fn replicated(&self) -> Vec<(NodeId, u64)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.iter().flatten();
        matched.map(|(id, log_id)| (*id, log_id.as_ref().map_or(0, |id| id.index))).collect()
    }

    async fn change(&self, change: ChangeMembers<NodeId, Address>, retain: bool) -> Result<(), ProposeError> {
        let now = self.leader();
        if !now.leads {
            return Err(ProposeError::NotLeader { leader: now.leader });
        }
        match tokio::time::timeout(CHANGE_TIMEOUT, self.raft.change_membership(change, retain)).await {
            Ok(changed) => changed.map(|_| ()).map_err(|error| match refused(error) {
                // A change of voters takes two entries, and the first may be in the log.
                ProposeError::NotLeader { .. } => {
                    ProposeError::Indefinite("the lead was lost while the members were changed".to_owned())
                }
                error @ (ProposeError::Overloaded | ProposeError::Definite(_) | ProposeError::Indefinite(_)) => error,
            }),
            Err(_) => Err(ProposeError::Indefinite("the change of members was not committed in time".to_owned())),
        }
    }

    /// Takes a node in as a learner. One that is a member with this address already stays what it is.
    ///
    /// # Errors
    /// When this node does not lead, or the change is not committed.
    pub async fn add_learner(&self, node_id: NodeId, at: Address) -> Result<(), ProposeError> {
        if self.members().nodes.get(&node_id) == Some(&at) {
            return Ok(());
        }
        match tokio::time::timeout(CHANGE_TIMEOUT, self.raft.add_learner(node_id, at, false)).await {
            Ok(added) => added.map(|_| ()).map_err(refused),
            Err(_) => Err(ProposeError::Indefinite("the change of members was not committed in time".to_owned())),
        }
    }

    /// Makes a learner a voter and takes a voter out of the group, in one change. Without either, a change that an earlier
    /// leader began is finished.
    ///
    /// # Errors
    /// When this node does not lead, who is promoted is no member, or the change is not committed.
    pub async fn promote_and_remove(
        &self,
        promote: Option<NodeId>,
        remove: Option<NodeId>,
    ) -> Result<(), ProposeError> {
        let promoted = promote.map(|id| ChangeMembers::AddVoterIds(BTreeSet::from([id])));
        let removed = remove.map(|id| ChangeMembers::RemoveVoters(BTreeSet::from([id])));
        self.change(ChangeMembers::Batch(promoted.into_iter().chain(removed).collect()), false).await
    }

    /// Takes note that a member is reached elsewhere. Only for the same data directory: another one has another number.
    ///
    /// # Errors
    /// When this node does not lead, or the change is not committed.
    pub async fn move_member(&self, node_id: NodeId, at: Address) -> Result<(), ProposeError> {
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(node_id, at)])), true).await
    }

    /// Takes a learner out of the group.
    ///
    /// # Errors
    /// When this node does not lead, the member votes, or the change is not committed.
    pub async fn remove_learner(&self, node_id: NodeId) -> Result<(), ProposeError> {
        if !self.members().nodes.contains_key(&node_id) {
            return Ok(());
        }
        self.change(ChangeMembers::RemoveNodes(BTreeSet::from([node_id])), false).await
    }

    /// Hands the group over to another voter, and waits until it leads. Nothing is proposed here from now on, whether or not
    /// the other one takes over; if it does not, there is an election.
    ///
    /// # Errors
    /// When this node does not lead, or the other one does not vote; or it leads not in time, and may yet.
    pub async fn transfer_to(&self, node_id: NodeId) -> Result<(), ProposeError> {
        let now = self.leader();
        if now.leader == Some(node_id) {
            return Ok(());
        }
        if !now.leads {
            return Err(ProposeError::NotLeader { leader: now.leader });
        }
        if !self.members().voters.contains(&node_id) {
            return Err(ProposeError::Definite(format!("node {node_id} is no voter of the partition")));
        }
        let handed = self.raft.trigger().transfer_leader(node_id).await;
        handed.map_err(|fatal| ProposeError::Definite(fatal.to_string()))?;
        let mut leadership = self.leadership();
        let led = leadership.wait_for(|now| now.leader == Some(node_id));
        match tokio::time::timeout(TRANSFER_TIMEOUT, led).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                Err(ProposeError::Indefinite(format!("node {node_id} did not take the partition over in time")))
            }
        }
    }
}
