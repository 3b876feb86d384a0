//! The gRPC services over the router. Outcomes are messages, failures are statuses; see `convert`, `reply` and `error`.

use holdfast_client::proto::v1;
use holdfast_client::proto::v1::admin_server::{Admin, AdminServer};
use holdfast_client::proto::v1::reservations_server::{Reservations, ReservationsServer};
use tonic::{Request, Response, Status};

use super::error::ApiError;
use super::measured::Measured;
use super::{convert, reply};
use crate::time::LogTime;
use crate::{clock, limits};

type Answer<T> = Result<Response<T>, Status>;

/// Both services of this package.
#[derive(Clone)]
pub(super) struct Services {
    router: Measured,
    max_envelope_body_bytes: usize,
}

impl Services {
    pub(super) const fn new(router: Measured, max_envelope_body_bytes: usize) -> Self {
        Self { router, max_envelope_body_bytes }
    }

    pub(super) fn reservations(&self) -> ReservationsServer<Self> {
        ReservationsServer::new(self.clone()).max_decoding_message_size(limits::MAX_GRPC_MESSAGE_BYTES)
    }

    pub(super) fn admin(&self) -> AdminServer<Self> {
        AdminServer::new(self.clone()).max_decoding_message_size(limits::MAX_GRPC_MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl Reservations for Services {
    async fn reserve(&self, request: Request<v1::ReserveRequest>) -> Answer<v1::ReserveResponse> {
        let call = convert::reserve(request.into_inner(), clock::monotonic()).await?;
        let placed = self.router.reserve(call).await.map_err(ApiError::from)?;
        Ok(Response::new(reply::reserve(placed)))
    }

    async fn complete(&self, request: Request<v1::CompleteRequest>) -> Answer<v1::CompleteResponse> {
        let call = convert::complete(request.into_inner(), self.max_envelope_body_bytes)?;
        let placed = self.router.complete(call.key, &call.token, call.envelope, call.retention_ms).await;
        Ok(Response::new(reply::complete(&placed.map_err(ApiError::from)?)))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Answer<v1::ReleaseResponse> {
        let grant = convert::release(request.into_inner())?;
        let placed = self.router.release(grant.key, &grant.token).await.map_err(ApiError::from)?;
        Ok(Response::new(reply::release(placed)))
    }

    async fn extend(&self, request: Request<v1::ExtendRequest>) -> Answer<v1::ExtendResponse> {
        let (grant, lease_ms) = convert::extend(request.into_inner())?;
        let placed = self.router.extend(grant.key, &grant.token, lease_ms).await.map_err(ApiError::from)?;
        Ok(Response::new(reply::extend(placed, lease_ms)))
    }

    async fn checkpoint(&self, request: Request<v1::CheckpointRequest>) -> Answer<v1::CheckpointResponse> {
        let (grant, checkpoint) = convert::checkpoint(request.into_inner())?;
        let placed = self.router.checkpoint(grant.key, &grant.token, checkpoint).await.map_err(ApiError::from)?;
        Ok(Response::new(reply::checkpointed(placed)))
    }

    async fn lookup(&self, request: Request<v1::LookupRequest>) -> Answer<v1::LookupResponse> {
        let key = convert::lookup(request.get_ref())?;
        let placed = self.router.lookup(&key).map_err(ApiError::from)?;
        Ok(Response::new(reply::lookup(placed)))
    }

    async fn claim(&self, request: Request<v1::ClaimRequest>) -> Answer<v1::ClaimResponse> {
        let received = clock::monotonic();
        let call = convert::claim(request.into_inner())?;
        let placed = self.router.claim(call.key, &call.worker, call.nonce, call.lease_ms, received).await;
        Ok(Response::new(reply::claim(placed.map_err(ApiError::from)?)))
    }

    async fn resolve(&self, request: Request<v1::ResolveRequest>) -> Answer<v1::ResolveResponse> {
        let call = convert::resolve(request.into_inner(), self.max_envelope_body_bytes)?;
        let placed = self.router.resolve(call.key, call.fencing, call.verdict, &call.actor, &call.reason).await;
        Ok(Response::new(reply::resolve(placed.map_err(ApiError::from)?)))
    }

    async fn epochs(&self, _request: Request<v1::EpochsRequest>) -> Answer<v1::EpochsResponse> {
        let partitions = u32::from(self.router.partition_count().get().get());
        let epochs = self.router.epochs().iter().map(reply::epoch).collect();
        Ok(Response::new(v1::EpochsResponse { partitions, epochs }))
    }

    type SessionStream = tonic::codegen::BoxStream<v1::SessionResponse>;

    async fn session(&self, _calls: Request<tonic::Streaming<v1::SessionRequest>>) -> Answer<Self::SessionStream> {
        Err(Status::unimplemented("sessions"))
    }

    async fn topology(&self, _request: Request<v1::TopologyRequest>) -> Answer<v1::TopologyResponse> {
        Err(Status::unimplemented("topology"))
    }
}

#[tonic::async_trait]
impl Admin for Services {
    async fn status(&self, _request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        Ok(Response::new(reply::status(self.router.status())))
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
        Err(Status::unimplemented("members"))
    }

    async fn change_members(&self, _request: Request<v1::ChangeMembersRequest>) -> Answer<v1::ChangeMembersResponse> {
        Err(Status::unimplemented("members"))
    }

    async fn transfer_leadership(
        &self,
        _request: Request<v1::TransferLeadershipRequest>,
    ) -> Answer<v1::TransferLeadershipResponse> {
        Err(Status::unimplemented("transfer"))
    }

    async fn snapshot(&self, _request: Request<v1::SnapshotRequest>) -> Answer<v1::SnapshotResponse> {
        Err(Status::unimplemented("snapshot"))
    }
}
