//! How groups reach their peers. A cluster of one node has none, and says so to whoever asks.

use std::future::Future;
use std::sync::Arc;

use openraft::RaftNetworkFactory;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::storage::Snapshot;

use crate::ids::PartitionId;
use crate::peers::Peers;
use crate::raft::state_machine::Flushed;
use crate::raft::types::{Address, Leader, NodeId, Types, Vote};

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

/// A peer that is not there.
pub(super) struct Nobody(NodeId);

impl Nobody {
    fn unreachable(&self) -> Unreachable<Types> {
        Unreachable::new(&std::io::Error::other(format!("node {} is not part of this cluster of one", self.0)))
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Nobody;

    async fn new_client(&mut self, target: NodeId, _node: &Address) -> Nobody {
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
        _snapshot: Snapshot<Leader, NodeId, Address, Flushed>,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        Err(StreamingError::Unreachable(self.unreachable()))
    }
}
