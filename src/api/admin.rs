//! The gRPC service of an operator: how the node is, who is in the region, and what an operator decides.

use holdfast_client::proto::v1;
use holdfast_client::proto::v1::admin_server::Admin;
use tonic::{Request, Response};

use super::control;
use super::error::{ApiError, Code};
use super::grpc::{Answer, Services};
use super::reply;
use crate::control::audit::Action;
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
        request: Request<v1::RotateClusterKeyRequest>,
    ) -> Answer<v1::RotateClusterKeyResponse> {
        let signature = control::perhaps_signed(request.into_inner().signature)?;
        let key_id = self.router.rotate_cluster_key(signature).await.map_err(ApiError::from)?;
        Ok(Response::new(v1::RotateClusterKeyResponse { key_id }))
    }

    async fn accept_clock(&self, request: Request<v1::AcceptClockRequest>) -> Answer<v1::AcceptClockResponse> {
        let signature = control::perhaps_signed(request.into_inner().signature)?;
        let log_times = self.router.accept_clock(&signature).await.map_err(ApiError::from)?;
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
        let signature = control::perhaps_signed(request.signature.clone())?;
        let some = |node_id: u64| (node_id > 0).then_some(node_id);
        let changed = self.cluster.change_voters(some(request.promote_node_id), some(request.remove_node_id)).await;
        changed.map_err(ApiError::from)?;
        let said = |what: &str, node_id| some(node_id).map(|node_id| format!("{what} node {node_id}"));
        let parts = [said("promoted", request.promote_node_id), said("removed", request.remove_node_id)];
        let target = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        // It is done: that it could not be noted is no failure of the call.
        if let Err(error) = control::note(self, signature, Action::ChangeMembers, target).await {
            tracing::warn!(%error, "a change of members is not in the audit");
        }
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

    async fn apply_policies(&self, request: Request<v1::ApplyPoliciesRequest>) -> Answer<v1::ApplyPoliciesResponse> {
        Ok(Response::new(control::apply(self, request.into_inner()).await?))
    }

    async fn get_policies(&self, request: Request<v1::GetPoliciesRequest>) -> Answer<v1::GetPoliciesResponse> {
        Ok(Response::new(control::policies(self, request.into_inner()).await?))
    }

    async fn list_revisions(&self, request: Request<v1::ListRevisionsRequest>) -> Answer<v1::ListRevisionsResponse> {
        Ok(Response::new(control::revisions(self, request.into_inner()).await?))
    }

    async fn create_tenant(&self, request: Request<v1::CreateTenantRequest>) -> Answer<v1::TenantResponse> {
        Ok(Response::new(control::create_tenant(self, request.into_inner()).await?))
    }

    async fn change_tenant(&self, request: Request<v1::ChangeTenantRequest>) -> Answer<v1::TenantResponse> {
        Ok(Response::new(control::change_tenant(self, request.into_inner()).await?))
    }

    async fn list_tenants(&self, request: Request<v1::ListTenantsRequest>) -> Answer<v1::ListTenantsResponse> {
        Ok(Response::new(control::tenants(self, request.into_inner()).await?))
    }

    async fn audit(&self, request: Request<v1::AuditRequest>) -> Answer<v1::AuditResponse> {
        Ok(Response::new(control::audit(self, request.into_inner())?))
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
