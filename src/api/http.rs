//! HTTP/JSON over the router: the same calls as gRPC has, for whoever has no gRPC. `/openapi.json` describes it.
//!
//! An outcome is a 200 whose `outcome` says which; a failure is `application/problem+json`. Deliberately absent: the
//! statuses that an idempotent endpoint shows its own clients. That is a gateway's business.

mod answers;
mod openapi;
mod pages;
mod receive;
mod requests;
mod shapes;
mod strict;

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use holdfast_client::proto::v1;
use http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use serde::Serialize;
use tonic::Status;

use self::answers::{
    CheckpointAnswer, ClaimAnswer, ClockAnswer, ClusterKeyAnswer, CompleteAnswer, Epoch, EpochsAnswer, ExtendAnswer,
    KeyAnswer, ReleaseAnswer, ReserveAnswer, ResolveAnswer, StatusAnswer, TopologyAnswer,
};
use super::error::{ApiError, Code, LEADER, Problem};
use super::{asking, control};
use super::{convert, is_grpc, scrape};
use crate::clock::{self, Monotonic};
use crate::region::calls::Place;
use crate::router::{self, Router};
use crate::time::LogTime;

/// Names the epoch that a key's answer was given in: `<home>/<partition>=<epoch>`.
const EPOCH: HeaderName = HeaderName::from_static("holdfast-epoch");

/// How far the log of the key's partition was applied where it was answered: what `seen` of a later Reserve takes.
const POSITION: HeaderName = HeaderName::from_static("holdfast-position");

/// The index of the errors' pages.
const ERRORS: &str = include_str!("../../docs/reference/errors/README.md");

/// What the handlers share.
struct Shared {
    router: Router,
    max_envelope_body_bytes: usize,
    openapi: Bytes,
}

type App = State<Arc<Shared>>;
type Answer<T> = Result<Keyed<T>, ApiError>;

/// The routes of HTTP/JSON, and the answers for what has no route.
pub(super) fn routes(router: Router, max_envelope_body_bytes: usize) -> axum::Router {
    let shared = Shared { router, max_envelope_body_bytes, openapi: openapi::document() };
    axum::Router::new()
        .route("/v1/reserve", post(reserve))
        .route("/v1/complete", post(complete))
        .route("/v1/release", post(release))
        .route("/v1/extend", post(extend))
        .route("/v1/checkpoint", post(checkpoint))
        .route("/v1/claim", post(claim))
        .route("/v1/resolve", post(resolve))
        .route("/v1/keys/{tenant}/{key}", get(lookup))
        .route("/v1/epochs", get(epochs))
        .route("/v1/topology", get(topology))
        .route("/v1/status", get(status))
        .route("/v1/admin/rotate-cluster-key", post(rotate_cluster_key))
        .route("/v1/admin/accept-clock", post(accept_clock))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(document))
        .route("/errors", get(error_index))
        .route("/errors/{code}", get(error_page))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(path_unknown)
        .with_state(Arc::new(shared))
}

/// Until when a call may take that says nothing of it.
fn bound(received: Monotonic) -> Monotonic {
    router::until(received, None, Duration::ZERO)
}

/// An answer about a key, with the epoch and the position it was given at.
struct Keyed<T> {
    answer: T,
    place: Place,
    /// Where the leader's API is reached, if another node leads.
    leader: Option<String>,
}

impl Shared {
    fn keyed<T>(&self, answer: T, place: Place) -> Keyed<T> {
        let region = self.router.region();
        let another = place.leader.filter(|leader| *leader != region.node_id());
        Keyed { answer, place, leader: another.map(|leader| region.as_leader(leader).api) }
    }
}

impl<T: Serialize> IntoResponse for Keyed<T> {
    fn into_response(self) -> Response {
        let Place { home, partition, epoch, position, leader: _ } = self.place;
        let mut response = Json(self.answer).into_response();
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::try_from(format!("{home}/{partition}={epoch}")) {
            headers.insert(EPOCH, value);
        }
        headers.insert(POSITION, HeaderValue::from(position));
        if let Some(Ok(address)) = self.leader.map(HeaderValue::try_from) {
            headers.insert(LEADER, address);
        }
        response
    }
}

/// Asks to execute.
///
/// Sent before the side effect. A resend of the same attempt bears the same nonce.
#[utoipa::path(post, path = "/v1/reserve", tag = "reservations", request_body = requests::ReserveRequest, responses(
    (status = 200, description = "The outcome", body = ReserveAnswer,
        headers(
            ("Holdfast-Epoch" = String, description = "<home>/<partition>=<epoch>"),
            ("Holdfast-Position" = u64, description = "How far the partition's log was applied: a later `seen`"),
            ("Holdfast-Leader" = String, description = "Where the leader is reached, if another node leads"),
        )),
    (status = "4XX", description = "Definitely not done", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "`definite` says whether it may have been done", body = Problem,
        content_type = "application/problem+json"),
))]
async fn reserve(State(app): App, request: Request) -> Answer<ReserveAnswer> {
    let received = clock::monotonic();
    let body: requests::ReserveRequest = receive::json(request).await?;
    let asked = convert::reserve(body.into_message()?, received)?;
    let placed = asking::reserve(&app.router, asked, None).await?;
    Ok(app.keyed(placed.outcome.into(), placed.place))
}

/// Tells the outcome.
///
/// Idempotent for the same token and envelope. A stale token is recorded, never refused.
#[utoipa::path(post, path = "/v1/complete", tag = "reservations", request_body = requests::CompleteRequest, responses(
    (status = 200, description = "The outcome", body = CompleteAnswer,
        headers(
            ("Holdfast-Epoch" = String, description = "<home>/<partition>=<epoch>"),
            ("Holdfast-Position" = u64, description = "How far the partition's log was applied: a later `seen`"),
            ("Holdfast-Leader" = String, description = "Where the leader is reached, if another node leads"),
        )),
    (status = "4XX", description = "Definitely not done", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "`definite` says whether it may have been done", body = Problem,
        content_type = "application/problem+json"),
))]
async fn complete(State(app): App, request: Request) -> Answer<CompleteAnswer> {
    let received = clock::monotonic();
    let body: requests::CompleteRequest = receive::json(request).await?;
    let call = convert::complete(body.into_message()?, app.max_envelope_body_bytes)?;
    let placed = app.router.call(&call, bound(received)).await?;
    Ok(app.keyed(placed.outcome.into(), placed.place))
}

/// Gives a grant back.
///
/// Nothing ran, so the next attempt may.
#[utoipa::path(post, path = "/v1/release", tag = "reservations", request_body = requests::ReleaseRequest, responses(
    (status = 200, description = "The outcome", body = ReleaseAnswer,
        headers(
            ("Holdfast-Epoch" = String, description = "<home>/<partition>=<epoch>"),
            ("Holdfast-Position" = u64, description = "How far the partition's log was applied: a later `seen`"),
            ("Holdfast-Leader" = String, description = "Where the leader is reached, if another node leads"),
        )),
    (status = "4XX", description = "Definitely not done", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "`definite` says whether it may have been done", body = Problem,
        content_type = "application/problem+json"),
))]
async fn release(State(app): App, request: Request) -> Answer<ReleaseAnswer> {
    let received = clock::monotonic();
    let body: requests::ReleaseRequest = receive::json(request).await?;
    let call = convert::release(body.into_message())?;
    let placed = app.router.call(&call, bound(received)).await?;
    Ok(app.keyed(placed.outcome.into(), placed.place))
}

/// Restarts the grant's lease.
#[utoipa::path(post, path = "/v1/extend", tag = "reservations", request_body = requests::ExtendRequest, responses(
    (status = 200, description = "The outcome", body = ExtendAnswer,
        headers(
            ("Holdfast-Epoch" = String, description = "<home>/<partition>=<epoch>"),
            ("Holdfast-Position" = u64, description = "How far the partition's log was applied: a later `seen`"),
            ("Holdfast-Leader" = String, description = "Where the leader is reached, if another node leads"),
        )),
    (status = "4XX", description = "Definitely not done", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "`definite` says whether it may have been done", body = Problem,
        content_type = "application/problem+json"),
))]
async fn extend(State(app): App, request: Request) -> Answer<ExtendAnswer> {
    let received = clock::monotonic();
    let body: requests::ExtendRequest = receive::json(request).await?;
    let call = convert::extend(body.into_message())?;
    let placed = app.router.call(&call, bound(received)).await?;
    Ok(app.keyed(ExtendAnswer::of(placed.outcome, call.lease_ms), placed.place))
}

/// Stores a named recovery point with a grant.
#[utoipa::path(post, path = "/v1/checkpoint", tag = "reservations", request_body = requests::CheckpointRequest, responses(
    (status = 200, description = "The outcome", body = CheckpointAnswer,
        headers(
            ("Holdfast-Epoch" = String, description = "<home>/<partition>=<epoch>"),
            ("Holdfast-Position" = u64, description = "How far the partition's log was applied: a later `seen`"),
            ("Holdfast-Leader" = String, description = "Where the leader is reached, if another node leads"),
        )),
    (status = "4XX", description = "Definitely not done", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "`definite` says whether it may have been done", body = Problem,
        content_type = "application/problem+json"),
))]
async fn checkpoint(State(app): App, request: Request) -> Answer<CheckpointAnswer> {
    let received = clock::monotonic();
    let body: requests::CheckpointRequest = receive::json(request).await?;
    let call = convert::checkpoint(body.into_message()?)?;
    let placed = app.router.call(&call, bound(received)).await?;
    Ok(app.keyed(placed.outcome.into(), placed.place))
}

/// Takes over a key whose outcome is unknown, with its checkpoint.
#[utoipa::path(post, path = "/v1/claim", tag = "reservations", request_body = requests::ClaimRequest, responses(
    (status = 200, description = "The outcome", body = ClaimAnswer,
        headers(
            ("Holdfast-Epoch" = String, description = "<home>/<partition>=<epoch>"),
            ("Holdfast-Position" = u64, description = "How far the partition's log was applied: a later `seen`"),
            ("Holdfast-Leader" = String, description = "Where the leader is reached, if another node leads"),
        )),
    (status = "4XX", description = "Definitely not done", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "`definite` says whether it may have been done", body = Problem,
        content_type = "application/problem+json"),
))]
async fn claim(State(app): App, request: Request) -> Answer<ClaimAnswer> {
    let received = clock::monotonic();
    let body: requests::ClaimRequest = receive::json(request).await?;
    let call = convert::claim(body.into_message()?, received)?;
    let placed = app.router.call(&call, bound(received)).await?;
    Ok(app.keyed(placed.outcome.into(), placed.place))
}

/// Records an operator's verdict on a key whose outcome is unknown.
#[utoipa::path(post, path = "/v1/resolve", tag = "reservations", request_body = requests::ResolveRequest, responses(
    (status = 200, description = "The outcome", body = ResolveAnswer,
        headers(
            ("Holdfast-Epoch" = String, description = "<home>/<partition>=<epoch>"),
            ("Holdfast-Position" = u64, description = "How far the partition's log was applied: a later `seen`"),
            ("Holdfast-Leader" = String, description = "Where the leader is reached, if another node leads"),
        )),
    (status = "4XX", description = "Definitely not done", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "`definite` says whether it may have been done", body = Problem,
        content_type = "application/problem+json"),
))]
async fn resolve(State(app): App, request: Request) -> Answer<ResolveAnswer> {
    let received = clock::monotonic();
    let body: requests::ResolveRequest = receive::json(request).await?;
    let call = convert::resolve(body.into_message()?, app.max_envelope_body_bytes)?;
    let placed = app.router.call(&call, bound(received)).await?;
    Ok(app.keyed(placed.outcome.into(), placed.place))
}

/// What the store knows of a key, with its history.
#[utoipa::path(get, path = "/v1/keys/{tenant}/{key}", tag = "reservations",
    params(
        ("tenant" = shapes::Tenant, Path, description = "Whose key"),
        ("key" = shapes::Key, Path, description = "The idempotency key, percent-encoded"),
    ),
    responses(
        (status = 200, description = "The record", body = KeyAnswer,
            headers(
            ("Holdfast-Epoch" = String, description = "<home>/<partition>=<epoch>"),
            ("Holdfast-Position" = u64, description = "How far the partition's log was applied: a later `seen`"),
            ("Holdfast-Leader" = String, description = "Where the leader is reached, if another node leads"),
        )),
        (status = "4XX", description = "It is no key, or no tenant's", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no record", body = Problem,
            content_type = "application/problem+json"),
        (status = "5XX", description = "Not known now", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn lookup(State(app): App, path: Result<Path<(String, String)>, PathRejection>) -> Answer<KeyAnswer> {
    let Path((tenant, key)) = path.map_err(|rejection| ApiError::Input {
        code: Code::KeyInvalid,
        field: "key",
        detail: format!("tenant and key are not percent-encoded text: {}", rejection.body_text()),
    })?;
    let call = convert::lookup(&v1::LookupRequest { tenant, key })?;
    let placed = app.router.call(&call, bound(clock::monotonic())).await?;
    match placed.outcome {
        None => Err(ApiError::KeyUnknown),
        Some(found) => Ok(app.keyed(KeyAnswer::of(&call.0, found), placed.place)),
    }
}

/// The epoch of every home in every partition, and how many partitions there are.
#[utoipa::path(get, path = "/v1/epochs", tag = "reservations", responses(
    (status = 200, description = "The epochs", body = EpochsAnswer),
))]
async fn epochs(State(app): App) -> Json<EpochsAnswer> {
    let epochs = app.router.region().epochs().iter().map(Epoch::from).collect();
    Json(EpochsAnswer { partitions: app.router.region().partition_count().get().get(), epochs })
}

/// The nodes of the region, and which of them leads each partition.
///
/// Any node answers any call; a call that goes to the leader at once saves a hop.
#[utoipa::path(get, path = "/v1/topology", tag = "reservations", responses(
    (status = 200, description = "The topology", body = TopologyAnswer),
))]
async fn topology(State(app): App) -> Json<TopologyAnswer> {
    Json(app.router.region().topology().into())
}

/// How this node and its groups are.
#[utoipa::path(get, path = "/v1/status", tag = "admin", responses(
    (status = 200, description = "The status", body = StatusAnswer),
))]
async fn status(State(app): App) -> Json<StatusAnswer> {
    Json(app.router.region().status().into())
}

/// Makes a new cluster key for tokens.
///
/// The one before stays valid until the next rotation. The body is `{}`.
#[utoipa::path(post, path = "/v1/admin/rotate-cluster-key", tag = "admin", request_body = requests::Empty, responses(
    (status = 200, description = "The new key's number", body = ClusterKeyAnswer),
    (status = "4XX", description = "Definitely not done", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "Not rotated, or not known", body = Problem, content_type = "application/problem+json"),
))]
async fn rotate_cluster_key(State(app): App, request: Request) -> Result<Json<ClusterKeyAnswer>, ApiError> {
    let requests::Empty {} = receive::json(request).await?;
    Ok(Json(ClusterKeyAnswer { key_id: app.router.rotate_cluster_key(control::perhaps_signed(None)?).await? }))
}

/// Lets log time follow a clock that jumped by more than an hour.
///
/// The body is `{}`.
#[utoipa::path(post, path = "/v1/admin/accept-clock", tag = "admin", request_body = requests::Empty, responses(
    (status = 200, description = "Log time now", body = ClockAnswer),
    (status = "4XX", description = "Definitely not done", body = Problem, content_type = "application/problem+json"),
    (status = "5XX", description = "Not accepted, or not known", body = Problem, content_type = "application/problem+json"),
))]
async fn accept_clock(State(app): App, request: Request) -> Result<Json<ClockAnswer>, ApiError> {
    let requests::Empty {} = receive::json(request).await?;
    let log_times = app.router.accept_clock(&control::perhaps_signed(None)?).await?;
    Ok(Json(ClockAnswer { log_time_unix_ms: log_times.into_iter().map(LogTime::unix_ms).collect() }))
}

/// Whether this node can answer for every partition: it serves it, or reaches its leader.
#[utoipa::path(get, path = "/healthz", tag = "admin", responses(
    (status = 200, description = "For every partition", body = String, content_type = "text/plain"),
    (status = 503, description = "For which it cannot, and why", body = String, content_type = "text/plain"),
))]
async fn healthz(State(app): App) -> (StatusCode, String) {
    match app.router.region().unwell() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// What this node measures, for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "admin", responses(
    (status = 200, description = "Text format 0.0.4", body = String, content_type = "text/plain"),
))]
async fn metrics(State(app): App) -> Response {
    scrape::page(app.router.clone()).await
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "docs", responses(
    (status = 200, description = "OpenAPI 3.1", content_type = "application/json"),
))]
async fn document(State(app): App) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], app.openapi.clone()).into_response()
}

/// The index of error codes.
#[utoipa::path(get, path = "/errors", tag = "docs", responses(
    (status = 200, description = "Markdown", body = String, content_type = "text/markdown"),
))]
async fn error_index() -> Response {
    markdown(ERRORS)
}

/// What an error code means and what to do.
#[utoipa::path(get, path = "/errors/{code}", tag = "docs",
    params(("code" = String, Path, description = "The `code` of a problem")),
    responses(
        (status = 200, description = "Markdown", body = String, content_type = "text/markdown"),
        (status = 404, description = "There is no such code", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn error_page(uri: Uri, path: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let page = path.ok().and_then(|Path(text)| {
        let own = Code::parse(&text).map(|code| code.facts().page);
        own.or_else(|| pages::of(&text))
    });
    Ok(markdown(page.ok_or_else(|| ApiError::PathUnknown { path: uri.path().to_owned() })?))
}

fn markdown(text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], Body::from(text)).into_response()
}

async fn method_not_allowed(request: Request) -> ApiError {
    let (head, body) = request.into_parts();
    receive::discard(&head.headers, body).await;
    ApiError::MethodNotAllowed { method: head.method.to_string() }
}

/// A gRPC client that asks for a service that is not here gets gRPC's own answer.
async fn path_unknown(request: Request) -> Response {
    if is_grpc(request.headers()) {
        return Status::unimplemented("this node has no such service").into_http::<Body>();
    }
    let (head, body) = request.into_parts();
    receive::discard(&head.headers, body).await;
    ApiError::PathUnknown { path: head.uri.path().to_owned() }.into_response()
}
