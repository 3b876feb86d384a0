//! A client for both APIs with one vocabulary, that of the .proto files, so that a test says once what it asks and asks
//! it twice. It knows nothing of the server's code: JSON is written here by the documented contract.

use std::net::SocketAddr;
use std::time::Duration;

use holdfast_client::proto::v1 as api;
use holdfast_client::proto::v1::admin_client::AdminClient;
use holdfast_client::proto::v1::reservations_client::ReservationsClient;
use tonic::transport::{Channel, Endpoint};

use crate::failure::Failure;
use crate::{http, json};

/// A client of one node.
#[derive(Clone, Debug)]
pub(crate) enum Client {
    Grpc(ReservationsClient<Channel>),
    Http(SocketAddr),
}

type Answer<T> = Result<T, Failure>;

impl Client {
    /// Over gRPC, on a connection of its own, made at the first call.
    pub(crate) fn grpc(address: SocketAddr) -> anyhow::Result<Self> {
        let most = 8 * 1024 * 1024;
        let client = ReservationsClient::new(channel(address)?);
        Ok(Self::Grpc(client.max_decoding_message_size(most).max_encoding_message_size(most)))
    }

    /// Over HTTP/JSON, a connection a call.
    pub(crate) fn http(address: SocketAddr) -> Self {
        Self::Http(address)
    }

    /// Both, for a test that holds for either.
    pub(crate) fn both(address: SocketAddr) -> anyhow::Result<[Self; 2]> {
        Ok([Self::grpc(address)?, Self::http(address)])
    }

    /// The API's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Grpc(_) => "grpc",
            Self::Http(_) => "http",
        }
    }

    pub(crate) async fn reserve(&self, request: api::ReserveRequest) -> Answer<api::ReserveResponse> {
        match self {
            Self::Grpc(client) => answered(client.clone().reserve(request)).await,
            Self::Http(address) => post(*address, "/v1/reserve", &json::reserve(&request), json::reserved).await,
        }
    }

    pub(crate) async fn complete(&self, request: api::CompleteRequest) -> Answer<api::CompleteResponse> {
        match self {
            Self::Grpc(client) => answered(client.clone().complete(request)).await,
            Self::Http(address) => post(*address, "/v1/complete", &json::complete(&request), json::completed).await,
        }
    }

    pub(crate) async fn release(&self, request: api::ReleaseRequest) -> Answer<api::ReleaseResponse> {
        match self {
            Self::Grpc(client) => answered(client.clone().release(request)).await,
            Self::Http(address) => post(*address, "/v1/release", &json::release(&request), json::released).await,
        }
    }

    pub(crate) async fn extend(&self, request: api::ExtendRequest) -> Answer<api::ExtendResponse> {
        match self {
            Self::Grpc(client) => answered(client.clone().extend(request)).await,
            Self::Http(address) => post(*address, "/v1/extend", &json::extend(&request), json::extended).await,
        }
    }

    pub(crate) async fn checkpoint(&self, request: api::CheckpointRequest) -> Answer<api::CheckpointResponse> {
        match self {
            Self::Grpc(client) => answered(client.clone().checkpoint(request)).await,
            Self::Http(address) => {
                post(*address, "/v1/checkpoint", &json::checkpoint(&request), json::checkpointed).await
            }
        }
    }

    pub(crate) async fn claim(&self, request: api::ClaimRequest) -> Answer<api::ClaimResponse> {
        match self {
            Self::Grpc(client) => answered(client.clone().claim(request)).await,
            Self::Http(address) => post(*address, "/v1/claim", &json::claim(&request), json::claimed).await,
        }
    }

    pub(crate) async fn resolve(&self, request: api::ResolveRequest) -> Answer<api::ResolveResponse> {
        match self {
            Self::Grpc(client) => answered(client.clone().resolve(request)).await,
            Self::Http(address) => post(*address, "/v1/resolve", &json::resolve(&request), json::resolved).await,
        }
    }
}

/// A channel that connects when it is first used and again when the connection broke.
pub(crate) fn channel(address: SocketAddr) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(endpoint.connect_timeout(Duration::from_secs(5)).timeout(http::DEADLINE).tcp_nodelay(true).connect_lazy())
}

/// What an operator asks over gRPC.
pub(crate) fn admin(address: SocketAddr) -> anyhow::Result<AdminClient<Channel>> {
    Ok(AdminClient::new(channel(address)?))
}

async fn answered<T>(call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> Answer<T> {
    match call.await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(Failure::from_status(&status)),
    }
}

/// An answer about a key, which says where and how far on it was given: over HTTP in headers.
trait Placed {
    fn place(&mut self) -> &mut Option<api::Epoch>;
}

macro_rules! placed {
    ($($answer:ident)*) => {
        $(impl Placed for api::$answer {
            fn place(&mut self) -> &mut Option<api::Epoch> {
                &mut self.epoch
            }
        })*
    };
}

placed! { ReserveResponse CompleteResponse ReleaseResponse ExtendResponse CheckpointResponse ClaimResponse ResolveResponse }

/// `Holdfast-Epoch` and `Holdfast-Position`, without the leader: over HTTP that is an address.
fn place(answer: &http::Answer) -> Option<api::Epoch> {
    let (home, rest) = answer.header("holdfast-epoch")?.split_once('/')?;
    let (partition, epoch) = rest.split_once('=')?;
    let (partition, epoch) = (partition.parse().ok()?, epoch.parse().ok()?);
    let position = answer.header("holdfast-position")?.parse().ok()?;
    Some(api::Epoch { home: home.to_owned(), partition, epoch, position, leader: 0 })
}

async fn post<T: Placed>(
    address: SocketAddr,
    path: &str,
    body: &serde_json::Value,
    read: impl FnOnce(&serde_json::Value) -> anyhow::Result<T>,
) -> Answer<T> {
    let answer = http::post(address, path, body).await.map_err(|error| Failure::no_answer(&error))?;
    if answer.status != 200 {
        return Err(Failure::from_problem(&answer));
    }
    let mut read = answer.json().and_then(|json| read(&json)).map_err(|error| Failure::unreadable(&error))?;
    *read.place() = place(&answer);
    Ok(read)
}
