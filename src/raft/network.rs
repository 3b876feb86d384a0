//! How groups reach their peers. A cluster of one node has none, and says so to whoever asks.

use std::future::Future;

use openraft::RaftNetworkFactory;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::BasicNode;
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::storage::Snapshot;

use crate::raft::state_machine::Flushed;
use crate::raft::types::{Leader, NodeId, Types, Vote};

/// Makes no connections.
pub(super) struct NoPeers;

/// A peer that is not there.
pub(super) struct Nobody(NodeId);

impl Nobody {
    fn unreachable(&self) -> Unreachable<Types> {
        Unreachable::new(&std::io::Error::other(format!("node {} is not part of this cluster of one", self.0)))
    }
}

impl RaftNetworkFactory<Types> for NoPeers {
    type Network = Nobody;

    async fn new_client(&mut self, target: NodeId, _node: &BasicNode) -> Nobody {
        Nobody(target)
    }
}

impl RaftNetworkV2<Types> for Nobody {
    type SnapshotData = Flushed;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: Snapshot<Leader, NodeId, BasicNode, Flushed>,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        Err(StreamingError::Unreachable(self.unreachable()))
    }
}
