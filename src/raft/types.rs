//! openraft's types as this program uses them, and their way to the persisted messages and back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::vote::RaftLeaderId as _;
use openraft::{EntryPayload, LogId, Membership, StoredMembership};

use crate::codec::batch::{self, Batch};
use crate::codec::{self, CodecError, pb};
use crate::control;
use crate::reservation::Reply;

openraft::declare_raft_types!(
    /// openraft's type configuration.
    pub(crate) Types:
        D = LoggedBatch,
        R = Replies,
        Node = Address,
);

/// Where a member of a group is reached, and which data directory it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// host:port for its peers.
    pub peer: String,
    /// host:port of its public API.
    pub api: String,
    /// The random name of its data directory: a node that lost its disk has another.
    pub disk: String,
}

/// The id of a node.
pub type NodeId = u64;
/// Who led when an entry was proposed.
pub(crate) type Leader = LeaderId<u64, NodeId>;
/// An entry's place in the log.
pub(crate) type EntryId = LogId<Leader>;
/// A log entry.
pub(crate) type LogEntry = openraft::Entry<Leader, EntryPayload<LoggedBatch, NodeId, Address>>;
/// A node's vote.
pub(crate) type Vote = openraft::impls::Vote<Leader>;
/// Who votes and who listens.
pub(crate) type Members = Membership<NodeId, Address>;
/// Members, and the entry that made them so.
pub(crate) type StoredMembers = StoredMembership<Leader, NodeId, Address>;

/// A batch as it travels: decoded for applying, encoded once for every disk and every peer.
#[derive(Clone, Debug)]
pub(crate) struct LoggedBatch {
    pub(crate) batch: Arc<Batch>,
    pub(crate) encoded: Bytes,
}

impl LoggedBatch {
    pub(crate) fn new(batch: Batch) -> Self {
        let encoded = batch::encode(&batch);
        Self { batch: Arc::new(batch), encoded }
    }
}

impl PartialEq for LoggedBatch {
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

impl fmt::Display for LoggedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} operations, {} bytes", self.batch.operations.len(), self.encoded.len())
    }
}

/// What one operation comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationReply {
    /// A command's reply.
    Key(Reply),
    /// So many records were removed by a sweep.
    Swept(u32),
    /// What was decided about what is the same for all partitions.
    Control(control::Reply),
    /// Done.
    Done,
}

/// The replies to a batch, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replies(pub(crate) Vec<OperationReply>);

impl fmt::Display for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} replies", self.0.len())
    }
}

const WHAT: &str = "a log entry";

pub(crate) fn entry_id_to(id: &EntryId) -> pb::LogId {
    pb::LogId { term: id.leader_id.term, node_id: id.leader_id.node_id, index: id.index }
}

pub(crate) fn entry_id_from(id: &pb::LogId) -> EntryId {
    LogId { leader_id: Leader::new(id.term, id.node_id).to_committed(), index: id.index }
}

pub(crate) fn vote_message(vote: &Vote) -> pb::Vote {
    pb::Vote { term: vote.leader_id.term, node_id: vote.leader_id.node_id, committed: vote.committed }
}

pub(crate) fn vote_of(message: &pb::Vote) -> Vote {
    Vote { leader_id: Leader::new(message.term, message.node_id), committed: message.committed }
}

pub(crate) fn vote_to(vote: &Vote) -> Vec<u8> {
    codec::seal(&vote_message(vote))
}

pub(crate) fn vote_from(bytes: Vec<u8>) -> Result<Vote, CodecError> {
    Ok(vote_of(&codec::open("a vote", bytes)?))
}

pub(crate) fn entry_to(entry: &LogEntry) -> Vec<u8> {
    codec::seal(&pb::Entry {
        log_id: Some(entry_id_to(&entry.log_id)),
        payload: Some(match &entry.payload {
            EntryPayload::Blank => pb::entry::Payload::Blank(pb::Blank {}),
            EntryPayload::Normal(batch) => pb::entry::Payload::Batch(batch.encoded.clone()),
            EntryPayload::Membership(members) => pb::entry::Payload::Membership(members_to(members)),
        }),
    })
}

pub(crate) fn entry_from(bytes: impl Into<Bytes>) -> Result<LogEntry, CodecError> {
    let entry: pb::Entry = codec::open(WHAT, bytes)?;
    let log_id = entry.log_id.ok_or(CodecError::Field { what: WHAT, field: "id" })?;
    let payload = match entry.payload.ok_or(CodecError::Field { what: WHAT, field: "payload" })? {
        pb::entry::Payload::Blank(_) => EntryPayload::Blank,
        pb::entry::Payload::Batch(encoded) => {
            EntryPayload::Normal(LoggedBatch { batch: Arc::new(batch::decode(encoded.clone())?), encoded })
        }
        pb::entry::Payload::Membership(members) => EntryPayload::Membership(members_from(members)?),
    };
    Ok(LogEntry { log_id: entry_id_from(&log_id), payload })
}

/// The id alone of a written entry.
pub(crate) fn entry_id_of(bytes: Vec<u8>) -> Result<EntryId, CodecError> {
    let entry: pb::Entry = codec::open(WHAT, bytes)?;
    entry.log_id.as_ref().map(entry_id_from).ok_or(CodecError::Field { what: WHAT, field: "id" })
}

pub(crate) fn members_to(members: &Members) -> pb::Membership {
    pb::Membership {
        configs: members
            .get_joint_config()
            .iter()
            .map(|voters| pb::VoterSet { node_ids: voters.iter().copied().collect() })
            .collect(),
        nodes: members
            .nodes()
            .map(|(node_id, node)| pb::NodeAddress {
                node_id: *node_id,
                address: node.peer.clone(),
                api: node.api.clone(),
                disk: node.disk.clone(),
            })
            .collect(),
    }
}

pub(crate) fn members_from(members: pb::Membership) -> Result<Members, CodecError> {
    let configs: Vec<BTreeSet<NodeId>> =
        members.configs.into_iter().map(|voters| voters.node_ids.into_iter().collect()).collect();
    let address = |node: pb::NodeAddress| Address { peer: node.address, api: node.api, disk: node.disk };
    let nodes: BTreeMap<NodeId, Address> =
        members.nodes.into_iter().map(|node| (node.node_id, address(node))).collect();
    Members::new(configs, nodes).map_err(|_| CodecError::Field { what: WHAT, field: "membership" })
}

pub(crate) fn stored_members_to(members: &StoredMembers) -> pb::StoredMembership {
    pb::StoredMembership {
        log_id: members.log_id().as_ref().map(entry_id_to),
        membership: Some(members_to(members.membership())),
    }
}

pub(crate) fn stored_members_from(members: Option<pb::StoredMembership>) -> Result<StoredMembers, CodecError> {
    let Some(members) = members else { return Ok(StoredMembers::default()) };
    let log_id = members.log_id.as_ref().map(entry_id_from);
    match members.membership {
        Some(membership) if log_id.is_some() => Ok(StoredMembers::new(log_id, members_from(membership)?)),
        Some(_) | None => Ok(StoredMembers::default()),
    }
}
