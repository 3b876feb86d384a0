//! Where a request goes: calls about reservations straight to their gRPC service, sessions to theirs, everything else to
//! the routes.
//!
//! The short way matters: at tens of thousands of calls a second a route table, a body's boxing and a layer each cost more
//! than the call's own decision.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::routing::RouterIntoService;
use holdfast_client::proto::v1::reservations_server::ReservationsServer;
use http::{HeaderMap, HeaderName, Request, Response, header};
use http_body_util::Either;
use hyper::body::Incoming;
use tonic::Status;
use tonic::codegen::{BoxFuture, Service};
use tracing::Instrument as _;

use super::body::{Held, Messages, RequestBody};
use super::error::of_undecodable;
use super::grpc::Services;
use super::session::Sessions;
use crate::telemetry::trace;

/// The paths of the reservations service begin with this.
const RESERVATIONS: &str = "/holdfast.v1.Reservations/";
/// The one of them that is no single call.
const SESSION: &str = "/holdfast.v1.Reservations/Session";

/// Stands in the head of an answer only if the call failed.
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

type GrpcResponse = Response<tonic::body::Body>;
type HttpResponse = Response<axum::body::Body>;
type Body = Either<tonic::body::Body, axum::body::Body>;

/// The service of every connection. A clone is a few reference counts.
#[derive(Clone)]
pub(super) struct Dispatch {
    reservations: ReservationsServer<Services>,
    sessions: Sessions,
    routes: RouterIntoService<RequestBody>,
    held: Held,
}

/// Whether a request is gRPC by its content type.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

impl Dispatch {
    pub(super) fn new(reservations: ReservationsServer<Services>, sessions: Sessions, routes: axum::Router) -> Self {
        Self { reservations, sessions, routes: routes.into_service(), held: Held::default() }
    }
}

impl hyper::service::Service<Request<Incoming>> for Dispatch {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        if request.uri().path() == SESSION && is_grpc(request.headers()) {
            let messages = Messages::default();
            let body = |incoming| RequestBody::endless(incoming, self.held.clone(), messages.clone());
            return Answering::Grpc(self.sessions.open(request.map(body), messages.clone()));
        }
        let request = request.map(|incoming| RequestBody::new(incoming, self.held.clone()));
        let traceparent = request.headers().get(trace::TRACEPARENT).and_then(|value| value.to_str().ok());
        let span = traceparent.and_then(trace::span);
        if request.uri().path().starts_with(RESERVATIONS) && is_grpc(request.headers()) {
            let answer = self.reservations.clone().call(request);
            return Answering::Grpc(match span {
                None => answer,
                Some(span) => Box::pin(answer.instrument(span)),
            });
        }
        let mut routes = self.routes.clone();
        let answer = async move { routes.call(request).await };
        Answering::Http(match span {
            None => Box::pin(answer),
            Some(span) => Box::pin(answer.instrument(span)),
        })
    }
}

/// An answer on its way.
pub(super) enum Answering {
    /// Of the reservations service, or a session.
    Grpc(BoxFuture<GrpcResponse, Infallible>),
    /// Of the routes.
    Http(BoxFuture<HttpResponse, Infallible>),
}

impl Future for Answering {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let response = match self.get_mut() {
            Self::Grpc(answer) => match ready!(answer.as_mut().poll(context)) {
                Ok(response) => response.map(Either::Left),
                Err(never) => match never {},
            },
            Self::Http(answer) => match ready!(answer.as_mut().poll(context)) {
                Ok(response) => response.map(Either::Right),
                Err(never) => match never {},
            },
        };
        Poll::Ready(Ok(blame_the_right_side(response)))
    }
}

/// Replaces the library's "internal error" about a message that cannot be decoded with what the client did wrong.
fn blame_the_right_side(response: Response<Body>) -> Response<Body> {
    if !response.headers().contains_key(GRPC_STATUS) {
        return response;
    }
    let status = Status::from_header_map(response.headers());
    match status.as_ref().and_then(of_undecodable) {
        None => response,
        Some(error) => error.to_status().into_http::<tonic::body::Body>().map(Either::Left),
    }
}
