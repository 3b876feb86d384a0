//! This node among the nodes of its region: who it is, who the members are, and changes of one group's members where this
//! node leads it.
//!
//! Deliberately absent: changes of all groups (`changes`), and how calls get here (`api`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use tokio::sync::Mutex;

use crate::ids::PartitionId;
use crate::peers::Peers;
use crate::raft::{Address, Group, ProposeError};
use crate::region::Region;
use crate::router::rules::{self, View};
use crate::wire::v1;
use crate::wire::v1::change_members_reply::Outcome;
use crate::wire::v1::change_members_request::Change as Wire;

/// This node among the nodes of its region. The peer service answers from it before the groups are there.
pub struct Cluster {
    peers: Arc<Peers>,
    made: bool,
    /// Weak, since a node that stops waits until its groups are gone.
    region: OnceLock<Weak<Region>>,
    stopping: AtomicBool,
    /// One change of members at a time: each is checked against what the one before has left.
    changing: Mutex<()>,
}

/// A change of one group's members, or of its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Takes a node in as a learner, or takes note that a member has another address.
    AddLearner(v1::Node),
    /// Changes the voters.
    Voters(VoterChange),
    /// Hands the group over to this voter.
    Transfer(u64),
}

/// Who becomes a voter and who leaves, in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoterChange {
    /// Becomes a voter.
    pub promote: Option<u64>,
    /// Is a member no more.
    pub remove: Option<u64>,
    /// Only says whether it could be done now.
    pub check_only: bool,
}

/// Why members were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Nothing was changed: another node leads the group, or none does.
    #[error("this node does not lead the partition (leader: {leader:?})")]
    NotLeader {
        /// Who leads, if that is known.
        leader: Option<u64>,
    },
    /// Nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// It may have been changed, or may yet be.
    #[error("{0}: it is not known whether it was done, and a repeated call goes on from there")]
    Unknown(String),
}

impl From<ProposeError> for ChangeError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { leader } => Self::NotLeader { leader },
            ProposeError::Overloaded => Self::Refused(error.to_string()),
            ProposeError::Definite(reason) => Self::Refused(reason),
            ProposeError::Indefinite(reason) => Self::Unknown(reason),
        }
    }
}

impl Change {
    /// From a request between nodes. Nothing if it says nothing.
    #[must_use]
    pub fn parse(request: v1::ChangeMembersRequest) -> Option<(PartitionId, Self)> {
        let partition = PartitionId(u16::try_from(request.partition).ok()?);
        let change = match request.change? {
            Wire::AddLearner(node) => Self::AddLearner(node),
            Wire::TransferToNodeId(node_id) => Self::Transfer(node_id),
            Wire::Voters(voters) => Self::Voters(VoterChange {
                promote: some(voters.promote_node_id),
                remove: some(voters.remove_node_id),
                check_only: voters.check_only,
            }),
        };
        Some((partition, change))
    }

    /// As it is sent to the node that leads the group.
    #[must_use]
    pub fn request(&self, partition: PartitionId) -> v1::ChangeMembersRequest {
        let change = match self {
            Self::AddLearner(node) => Wire::AddLearner(node.clone()),
            Self::Transfer(node_id) => Wire::TransferToNodeId(*node_id),
            Self::Voters(change) => Wire::Voters(v1::VoterChange {
                promote_node_id: change.promote.unwrap_or_default(),
                remove_node_id: change.remove.unwrap_or_default(),
                check_only: change.check_only,
            }),
        };
        v1::ChangeMembersRequest { partition: u32::from(partition.0), change: Some(change) }
    }
}

/// A number in a message: 0 is none.
pub(super) fn some(node_id: u64) -> Option<u64> {
    (node_id > 0).then_some(node_id)
}

impl Cluster {
    /// This node, whose groups are not there yet. `made`: whether its data directory has Raft state.
    #[must_use]
    pub fn new(peers: Arc<Peers>, made: bool) -> Arc<Self> {
        let (region, stopping, changing) = (OnceLock::new(), AtomicBool::new(false), Mutex::new(()));
        Arc::new(Self { peers, made, region, stopping, changing })
    }

    /// From now on the groups are there.
    pub fn open(&self, region: &Arc<Region>) {
        // Set once, by the node that made this.
        let _ = self.region.set(Arc::downgrade(region));
    }

    /// The nodes of the region.
    #[must_use]
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// This node's part of the region, once its groups are there.
    #[must_use]
    pub fn region(&self) -> Option<Arc<Region>> {
        self.region.get()?.upgrade()
    }

    /// One partition's group, once it is there.
    #[must_use]
    pub fn group(&self, partition: u32) -> Option<Group> {
        self.region()?.group(PartitionId(u16::try_from(partition).ok()?)).cloned()
    }

    /// From now on no group is handed to this node: it stops.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether this node stops, and takes no group over.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Whether this node is a member of a cluster that has been made, for all that its disk says.
    #[must_use]
    pub fn made(&self) -> bool {
        let has_state = |group: &Group| group.leader().term > 0 || !group.members().nodes.is_empty();
        self.made || self.region().is_some_and(|region| region.groups().any(has_state))
    }

    /// Who this node is, to whoever asks.
    #[must_use]
    pub fn hello(&self) -> v1::HelloReply {
        v1::HelloReply {
            node: Some(self.peers.me().clone()),
            facts: Some(self.peers.facts().clone()),
            made: self.made(),
            members: self.nodes(),
            stopping: self.stopping(),
            leads: self.region().map_or_else(Vec::new, |region| region.groups().filter_map(lead).collect()),
        }
    }

    /// The first group's members, as this node has them.
    #[must_use]
    pub fn nodes(&self) -> Vec<v1::Node> {
        let members = self.group(0).map(|group| group.members()).unwrap_or_default();
        members.nodes.into_iter().map(|(node_id, at)| node(node_id, at)).collect()
    }

    /// Changes a group that this node leads, for a peer.
    pub async fn change_for(&self, request: v1::ChangeMembersRequest) -> v1::ChangeMembersReply {
        let outcome = match Change::parse(request) {
            None => Outcome::Refused("the request says no change: is the other node newer?".to_owned()),
            Some((partition, change)) => match self.change_here(partition, &change).await {
                Ok(()) => Outcome::Changed(v1::Changed {}),
                Err(ChangeError::NotLeader { leader }) => {
                    Outcome::NotLeader(v1::NotLeader { leader_node_id: leader.unwrap_or_default() })
                }
                Err(ChangeError::Refused(reason)) => Outcome::Refused(reason),
                Err(ChangeError::Unknown(reason)) => Outcome::Unknown(reason),
            },
        };
        v1::ChangeMembersReply { outcome: Some(outcome) }
    }

    /// Takes a node in that asks for it.
    pub async fn join_for(self: &Arc<Self>, request: v1::JoinRequest) -> v1::JoinReply {
        let taken = self.take_in(&request.node.unwrap_or_default()).await;
        v1::JoinReply { refused: taken.err().map(|error| error.to_string()).unwrap_or_default() }
    }

    /// Changes a group that this node leads.
    ///
    /// # Errors
    /// When it does not lead it, a check refuses, or the change is not committed.
    pub async fn change_here(&self, partition: PartitionId, change: &Change) -> Result<(), ChangeError> {
        let Some(group) = self.group(u32::from(partition.0)) else {
            return Err(ChangeError::NotLeader { leader: None });
        };
        let now = group.leader();
        if !now.leads {
            return Err(ChangeError::NotLeader { leader: now.leader });
        }
        if let Change::Transfer(node_id) = change {
            return self.hand_over(&group, *node_id).await;
        }
        let _one_at_a_time = self.changing.lock().await;
        // Members are read after it: what an earlier leader changed is seen.
        match group.confirm_read().await {
            Ok(()) => {}
            Err(ProposeError::NotLeader { leader }) => return Err(ChangeError::NotLeader { leader }),
            // Nothing was asked for yet, whatever it is.
            Err(error @ (ProposeError::Overloaded | ProposeError::Definite(_) | ProposeError::Indefinite(_))) => {
                tracing::info!(%partition, %error, "no change of members without a majority");
                return Err(ChangeError::Refused(format!(
                    "partition {partition} has no majority of voters that answers: see `holdfast ctl members`, and start them first"
                )));
            }
        }
        match change {
            Change::Transfer(_) => Ok(()),
            Change::AddLearner(node) => add_learner(&group, node).await,
            Change::Voters(change) => self.change_group(&group, *change).await,
        }
    }

    async fn hand_over(&self, group: &Group, to: u64) -> Result<(), ChangeError> {
        rules::transfer(&self.view(group), to).map_err(ChangeError::Refused)?;
        Ok(group.transfer_to(to).await?)
    }

    async fn change_group(&self, group: &Group, change: VoterChange) -> Result<(), ChangeError> {
        let view = self.view(group);
        rules::voters(&view, change.promote, change.remove).map_err(ChangeError::Refused)?;
        if change.check_only {
            return Ok(());
        }
        let remove = change.remove.filter(|id| view.voters.contains(id));
        let promotes = change.promote.is_some_and(|id| !view.voters.contains(&id));
        // A change that an earlier leader began counts old and new voters alike: it is finished with what is asked now.
        if promotes || remove.is_some() || group.members().changing {
            group.promote_and_remove(change.promote, remove).await?;
        }
        match change.remove.filter(|id| view.nodes.contains(id) && !view.voters.contains(id)) {
            Some(learner) => Ok(group.remove_learner(learner).await?),
            None => Ok(()),
        }
    }

    /// A group as its leader sees it.
    pub(crate) fn view(&self, group: &Group) -> View {
        let members = group.members();
        let nodes: BTreeSet<u64> = members.nodes.keys().copied().collect();
        View {
            partition: group.partition(),
            me: self.peers.me().node_id,
            reachable: nodes.iter().copied().filter(|id| self.peers.reachable(*id)).collect(),
            voters: members.voters,
            nodes,
            last: group.progress().last_log_index,
            matched: group.replicated().into_iter().collect::<BTreeMap<u64, u64>>(),
        }
    }
}

/// Takes a node in, unless its number is another node's.
async fn add_learner(group: &Group, node: &v1::Node) -> Result<(), ChangeError> {
    let at = Address { peer: node.peer.clone(), api: node.api.clone(), disk: node.disk.clone() };
    match group.members().nodes.get(&node.node_id) {
        None => Ok(group.add_learner(node.node_id, at).await?),
        Some(known) if *known == at => Ok(()),
        // One from before nodes had named data directories says none.
        Some(known) if known.disk == at.disk || known.disk.is_empty() => {
            Ok(group.move_member(node.node_id, at).await?)
        }
        Some(_) => Err(ChangeError::Refused(rules::lost_disk(node.node_id))),
    }
}

fn node(node_id: u64, at: Address) -> v1::Node {
    v1::Node { node_id, peer: at.peer, api: at.api, disk: at.disk }
}

/// How far the members have a group, if this node leads it.
fn lead(group: &Group) -> Option<v1::Lead> {
    if !group.leader().leads {
        return None;
    }
    let matched = group.replicated().into_iter().map(|(node_id, index)| v1::Matched { node_id, index }).collect();
    Some(v1::Lead { partition: u32::from(group.partition().0), last: group.progress().last_log_index, matched })
}
