//! How a group reaches the same group on its peers: openraft's messages over the connections of [`Peers`].
//!
//! Deliberately absent: the receiving side (`peer`), and the snapshot's bytes.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::{RPCTypes, RaftNetworkFactory};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::ids::PartitionId;
use crate::limits;
use crate::peers::{Client, Peers};
use crate::raft::heartbeat::{Heartbeats, Open};
use crate::raft::members::node;
use crate::raft::pipeline::{Answer, Pipeline, Target, request};
use crate::raft::snapshot;
use crate::raft::state_machine::SnapshotData;
use crate::raft::types::{Address, Leader, NodeId, Types, Vote, entry_id_from, entry_id_to, vote_message, vote_of};
use crate::wire::v1;

/// Makes one group's connections.
pub(super) struct Network {
    partition: PartitionId,
    peers: Arc<Peers>,
}

impl Network {
    pub(super) fn new(partition: PartitionId, peers: Arc<Peers>) -> Self {
        Self { partition, peers }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, at: &Address) -> Peer {
        self.peers.know(&node(target, at));
        let target = Target { partition: self.partition, peers: Arc::clone(&self.peers), node_id: target };
        Peer { target, heartbeats: None }
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, at: &Address) -> Peer {
        Peer { heartbeats: Some(Heartbeats::default()), ..self.new_client(target, at).await }
    }
}

/// The same group on another node.
pub(super) struct Peer {
    target: Target,
    /// Of a client that is for heartbeats only.
    heartbeats: Option<Heartbeats>,
}

/// What failed, as openraft has to take it: a call that was lost on its way may be made again at once; a peer that is not
/// there, or refuses, is left alone for a while.
pub(super) fn failed(status: &Status) -> RPCError<Types> {
    match status.code() {
        Code::Cancelled | Code::DeadlineExceeded | Code::Aborted | Code::Internal | Code::DataLoss => {
            RPCError::Network(NetworkError::new(status))
        }
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unavailable
        | Code::Unauthenticated => RPCError::Unreachable(Unreachable::new(status)),
    }
}

impl Peer {
    /// Waits for a call's answer, as long as openraft does.
    async fn call<A>(
        &self,
        action: RPCTypes,
        option: &RPCOption,
        call: impl Future<Output = Result<tonic::Response<A>, Status>>,
    ) -> Result<A, RPCError<Types>> {
        let limit = option.soft_ttl();
        match timeout(limit, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(failed(&status)),
            Err(_) => Err(RPCError::Timeout(Timeout {
                action,
                id: self.target.peers.me().node_id,
                target: self.target.node_id,
                timeout: limit,
            })),
        }
    }

    async fn ask(
        &self,
        asked: VoteRequest<Types>,
        pre_vote: bool,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let message = v1::VoteRequest {
            partition: u32::from(self.target.partition.0),
            vote: Some(vote_message(&asked.vote)),
            last: asked.last_log_id.as_ref().map(entry_id_to),
            pre_vote,
            leadership_transfer: asked.leadership_transfer,
        };
        let mut client = client(&self.target)?;
        let reply = self.call(RPCTypes::Vote, &option, client.vote(message)).await?;
        let Some(vote) = &reply.vote else {
            return Err(failed(&Status::internal("an answer without a vote")));
        };
        Ok(VoteResponse::new(vote_of(vote), reply.last.as_ref().map(entry_id_from), reply.granted))
    }
}

fn client(target: &Target) -> Result<Client, RPCError<Types>> {
    let unknown = || Unreachable::from_string(format!("node {} has no address", target.node_id));
    target.peers.client(target.node_id).ok_or_else(|| RPCError::Unreachable(unknown()))
}

/// Opens a stream for entries, with a first request on it.
pub(super) async fn open(target: &Target, first: v1::AppendRequest) -> Result<Open, RPCError<Types>> {
    let (requests, mut queued) = mpsc::channel(limits::MAX_APPENDS_IN_FLIGHT);
    // There is room: the queue is new.
    let _sent = requests.try_send(first);
    let mut client = client(target)?;
    let call = client.append(stream::poll_fn(move |context| queued.poll_recv(context)));
    match timeout(Duration::from_millis(limits::APPEND_STALL_MS), call).await {
        Ok(Ok(replies)) => Ok(Open { requests, replies: replies.into_inner() }),
        Ok(Err(status)) => Err(failed(&status)),
        Err(_) => Err(failed(&Status::deadline_exceeded("the peer does not take the stream of entries"))),
    }
}

/// Starts a stream of entries with the first request of `input`, and returns the stream of answers.
async fn append<S>(target: &Target, mut input: S) -> Result<BoxStream<'static, Answer>, RPCError<Types>>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
{
    let Some(first) = input.next().await else { return Ok(Box::pin(stream::empty())) };
    let first = request(target.partition, &first);
    let Open { requests, replies } = open(target, first.clone()).await?;
    Ok(Box::pin(Pipeline::new(target.clone(), input, requests, &first, replies).answers()))
}

impl NetStreamAppend<Types> for Peer {
    /// The time to live that openraft passes is a heartbeat's, and for streams only advice: a stream here lives until the
    /// peer leaves it unanswered for [`limits::APPEND_STALL_MS`].
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Answer>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            let answers: BoxStream<'s, Answer> = match &mut self.heartbeats {
                Some(heartbeats) => {
                    Box::pin(stream::once(heartbeats.beat(&self.target, input)).filter_map(std::future::ready))
                }
                None => append(&self.target, input).await?,
            };
            Ok(answers)
        })
    }
}

impl NetVote<Types> for Peer {
    async fn vote(
        &mut self,
        asked: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask(asked, false, option).await
    }

    async fn pre_vote(
        &mut self,
        asked: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask(asked, true, option).await
    }
}

impl NetTransferLeader<Types> for Peer {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let message = v1::TransferLeaderRequest {
            partition: u32::from(self.target.partition.0),
            from_leader: Some(vote_message(request.from_leader())),
            to_node_id: *request.to_node_id(),
            last: request.last_log_id().map(entry_id_to),
        };
        let mut client = client(&self.target)?;
        let reply = self.call(RPCTypes::TransferLeader, &option, client.transfer_leader(message)).await?;
        if reply.refused.is_empty() {
            return Ok(Ok(()));
        }
        tracing::warn!(node_id = self.target.node_id, reason = reply.refused, "a peer does not take the lead");
        let expected = request.last_log_id().copied();
        Ok(Err(TransferLeaderError::LogNotFlushed { expected, actual: None }))
    }
}

impl NetSnapshot<Types> for Peer {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Leader, NodeId, Address, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let Target { peers, node_id, partition } = &self.target;
        snapshot::send(peers, *node_id, *partition, vote, snapshot, cancel).await
    }
}

impl NetBackoff<Types> for Peer {
    /// As the configuration says.
    fn backoff(&self) -> Option<Backoff> {
        None
    }
}
