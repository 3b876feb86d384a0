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
use crate::raft::snapshot;
use crate::raft::state_machine::SnapshotData;
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
pub(super) struct Nobody(NodeId, PartitionId, Arc<Peers>);

impl Nobody {
    fn unreachable(&self) -> Unreachable<Types> {
        Unreachable::new(&std::io::Error::other(format!("node {} is not part of this cluster of one", self.0)))
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Nobody;

    async fn new_client(&mut self, target: NodeId, _node: &Address) -> Nobody {
        Nobody(target, self.partition, Arc::clone(&self.peers))
    }
}

impl RaftNetworkV2<Types> for Nobody {
    type SnapshotData = SnapshotData;

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
        vote: Vote,
        snapshot: Snapshot<Leader, NodeId, Address, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        snapshot::send(&self.2, self.0, self.1, vote, snapshot, cancel).await
    }
}
