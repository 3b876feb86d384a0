//! The gRPC services over the router. Outcomes are messages, failures are statuses; see `convert`, `reply` and `error`.

use std::sync::Arc;
use std::time::Duration;

use holdfast_client::proto::v1;
use holdfast_client::proto::v1::admin_server::AdminServer;
use holdfast_client::proto::v1::reservations_server::{Reservations, ReservationsServer};
use tonic::{Request, Response, Status};

use super::error::ApiError;
use super::{asking, convert, reply};
use crate::clock::{self, Monotonic};
use crate::limits;
use crate::router::cluster::Cluster;
use crate::router::{self, Router};

/// The metadata in which gRPC clients say how long they wait.
const GRPC_TIMEOUT: &str = "grpc-timeout";

pub(super) type Answer<T> = Result<Response<T>, Status>;

/// Both services of this package.
#[derive(Clone)]
pub(super) struct Services {
    pub(super) router: Router,
    pub(super) cluster: Arc<Cluster>,
    pub(super) max_envelope_body_bytes: usize,
}

/// When a call came in, and how long its caller waits.
struct Arrived {
    received: Monotonic,
    timeout: Option<Duration>,
}

impl Arrived {
    fn now<T>(request: &Request<T>) -> Self {
        let timeout = request.metadata().get(GRPC_TIMEOUT).and_then(|value| parse_timeout(value.to_str().ok()?));
        Self { received: clock::monotonic(), timeout }
    }

    fn until(&self, wait: Duration) -> Monotonic {
        router::until(self.received, self.timeout, wait)
    }
}

/// A timeout as gRPC's protocol over HTTP/2 spells it: at most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count.saturating_mul(3_600))),
        "M" => Some(Duration::from_secs(count.saturating_mul(60))),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

impl Services {
    pub(super) const fn new(router: Router, cluster: Arc<Cluster>, max_envelope_body_bytes: usize) -> Self {
        Self { router, cluster, max_envelope_body_bytes }
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
        let arrived = Arrived::now(&request);
        let asked = convert::reserve(request.into_inner(), arrived.received)?;
        let placed = asking::reserve(&self.router, asked, arrived.timeout).await?;
        Ok(Response::new(reply::reserve(placed)))
    }

    async fn complete(&self, request: Request<v1::CompleteRequest>) -> Answer<v1::CompleteResponse> {
        let arrived = Arrived::now(&request);
        let call = convert::complete(request.into_inner(), self.max_envelope_body_bytes)?;
        let placed = self.router.call(&call, arrived.until(Duration::ZERO)).await.map_err(ApiError::from)?;
        Ok(Response::new(reply::complete(&placed)))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Answer<v1::ReleaseResponse> {
        let arrived = Arrived::now(&request);
        let call = convert::release(request.into_inner())?;
        let placed = self.router.call(&call, arrived.until(Duration::ZERO)).await.map_err(ApiError::from)?;
        Ok(Response::new(reply::release(placed)))
    }

    async fn extend(&self, request: Request<v1::ExtendRequest>) -> Answer<v1::ExtendResponse> {
        let arrived = Arrived::now(&request);
        let call = convert::extend(request.into_inner())?;
        let placed = self.router.call(&call, arrived.until(Duration::ZERO)).await.map_err(ApiError::from)?;
        Ok(Response::new(reply::extend(placed, call.lease_ms)))
    }

    async fn checkpoint(&self, request: Request<v1::CheckpointRequest>) -> Answer<v1::CheckpointResponse> {
        let arrived = Arrived::now(&request);
        let call = convert::checkpoint(request.into_inner())?;
        let placed = self.router.call(&call, arrived.until(Duration::ZERO)).await.map_err(ApiError::from)?;
        Ok(Response::new(reply::checkpointed(placed)))
    }

    async fn lookup(&self, request: Request<v1::LookupRequest>) -> Answer<v1::LookupResponse> {
        let arrived = Arrived::now(&request);
        let call = convert::lookup(request.get_ref())?;
        let placed = self.router.call(&call, arrived.until(Duration::ZERO)).await.map_err(ApiError::from)?;
        Ok(Response::new(reply::lookup(placed)))
    }

    async fn claim(&self, request: Request<v1::ClaimRequest>) -> Answer<v1::ClaimResponse> {
        let arrived = Arrived::now(&request);
        let call = convert::claim(request.into_inner(), arrived.received)?;
        let placed = self.router.call(&call, arrived.until(Duration::ZERO)).await.map_err(ApiError::from)?;
        Ok(Response::new(reply::claim(placed)))
    }

    async fn resolve(&self, request: Request<v1::ResolveRequest>) -> Answer<v1::ResolveResponse> {
        let arrived = Arrived::now(&request);
        let call = convert::resolve(request.into_inner(), self.max_envelope_body_bytes)?;
        let placed = self.router.call(&call, arrived.until(Duration::ZERO)).await.map_err(ApiError::from)?;
        Ok(Response::new(reply::resolve(placed)))
    }

    async fn epochs(&self, _request: Request<v1::EpochsRequest>) -> Answer<v1::EpochsResponse> {
        let region = self.router.region();
        let partitions = u32::from(region.partition_count().get().get());
        let epochs = region.epochs().iter().map(reply::epoch).collect();
        Ok(Response::new(v1::EpochsResponse { partitions, epochs }))
    }

    type SessionStream = tonic::codegen::BoxStream<v1::SessionResponse>;

    async fn session(&self, _calls: Request<tonic::Streaming<v1::SessionRequest>>) -> Answer<Self::SessionStream> {
        // `dispatch` takes sessions before the library does, since it cannot read one call without the others.
        Err(Status::unimplemented("sessions are not served here"))
    }

    async fn topology(&self, _request: Request<v1::TopologyRequest>) -> Answer<v1::TopologyResponse> {
        Ok(Response::new(reply::topology(self.router.region().topology())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_spells_them() {
        assert_eq!(parse_timeout("1H"), Some(Duration::from_secs(3_600)));
        assert_eq!(parse_timeout("2M"), Some(Duration::from_secs(120)));
        assert_eq!(parse_timeout("3S"), Some(Duration::from_secs(3)));
        assert_eq!(parse_timeout("99999999m"), Some(Duration::from_millis(99_999_999)));
        assert_eq!(parse_timeout("5u"), Some(Duration::from_micros(5)));
        assert_eq!(parse_timeout("6n"), Some(Duration::from_nanos(6)));
        for text in ["", "m", "1", "1x", "+1m", "-1m", "123456789m", "1.5S", "1é"] {
            assert_eq!(parse_timeout(text), None, "{text:?}");
        }
    }
}
