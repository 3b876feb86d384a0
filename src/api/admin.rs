//! The gRPC service of an operator: how the node is, who is in the region, and what an operator decides.

use holdfast_client::proto::v1;
use holdfast_client::proto::v1::admin_server::Admin;
use tonic::{Request, Response};

use super::error::{ApiError, Code};
use super::grpc::{Answer, Services};
use super::reply;
use crate::ids::PartitionId;
use crate::router::changes::Member;
use crate::time::LogTime;

#[tonic::async_trait]
impl Admin for Services {
    async fn status(&self, _request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        Ok(Response::new(reply::status(self.router.region().status())))
    }

    async fn rotate_cluster_key(
        &self,
        _request: Request<v1::RotateClusterKeyRequest>,
    ) -> Answer<v1::RotateClusterKeyResponse> {
        let key_id = self.router.rotate_cluster_key().await.map_err(ApiError::from)?;
        Ok(Response::new(v1::RotateClusterKeyResponse { key_id }))
    }

    async fn accept_clock(&self, _request: Request<v1::AcceptClockRequest>) -> Answer<v1::AcceptClockResponse> {
        let log_times = self.router.accept_clock().await.map_err(ApiError::from)?;
        let log_time_unix_ms = log_times.into_iter().map(LogTime::unix_ms).collect();
        Ok(Response::new(v1::AcceptClockResponse { log_time_unix_ms }))
    }

    async fn members(&self, _request: Request<v1::MembersRequest>) -> Answer<v1::MembersResponse> {
        let partitions = u32::from(self.router.region().partition_count().get().get());
        let members = self.cluster.members().await.into_iter().map(member).collect();
        Ok(Response::new(v1::MembersResponse { members, partitions }))
    }

    async fn change_members(&self, request: Request<v1::ChangeMembersRequest>) -> Answer<v1::ChangeMembersResponse> {
        let request = request.into_inner();
        let some = |node_id: u64| (node_id > 0).then_some(node_id);
        let changed = self.cluster.change_voters(some(request.promote_node_id), some(request.remove_node_id)).await;
        changed.map_err(ApiError::from)?;
        Ok(Response::new(v1::ChangeMembersResponse {}))
    }

    async fn transfer_leadership(
        &self,
        request: Request<v1::TransferLeadershipRequest>,
    ) -> Answer<v1::TransferLeadershipResponse> {
        let request = request.into_inner();
        let partition = partition(request.partition)?;
        let moved = self.cluster.transfer(partition, request.to_node_id).await.map_err(ApiError::from)?;
        let partitions = moved.into_iter().map(|partition| u32::from(partition.0)).collect();
        Ok(Response::new(v1::TransferLeadershipResponse { partitions }))
    }

    async fn snapshot(&self, request: Request<v1::SnapshotRequest>) -> Answer<v1::SnapshotResponse> {
        let partition = partition(request.into_inner().partition)?;
        let taken = self.cluster.snapshot(partition).await.map_err(ApiError::from)?;
        let snapshots = taken
            .into_iter()
            .map(|(partition, index)| v1::GroupSnapshot { partition: u32::from(partition.0), index })
            .collect();
        Ok(Response::new(v1::SnapshotResponse { snapshots }))
    }
}

fn partition(number: Option<u32>) -> Result<Option<PartitionId>, ApiError> {
    let parse = |number: u32| {
        u16::try_from(number).map(PartitionId).map_err(|_| ApiError::Input {
            code: Code::InputInvalid,
            field: "partition",
            detail: format!("there is no partition {number}: see `holdfast ctl status`"),
        })
    };
    number.map(parse).transpose()
}

fn member(member: Member) -> v1::Member {
    v1::Member {
        node_id: member.node_id,
        api: member.api,
        peer: member.peer,
        voter_of: member.voter_of,
        learner_of: member.learner_of,
        leader_of: member.leader_of,
        behind: member.behind,
        reachable: member.reachable,
    }
}
