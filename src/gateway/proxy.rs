//! The service inside the layer: sends a request to its route's upstream, again where that is safe, and says what the layer
//! cannot know of a failure: whether anything of the request was written.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_client::http::{About, Fate, Refusal, Rules, TriedBefore, grpc};
use holdfast_client::layer::{Execution, LayerBody};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rand::TryRngCore as _;
use tower::Service;

use super::body::{AnyBody, ClientBody, Load, Timed};
use super::budget::{Failed, Next, Tried};
use super::hygiene::{self, Hop};
use super::propagate;
use super::route::Route;
use super::settings::Settings;
use super::view::View;
use crate::clock::monotonic;
use crate::telemetry::metrics;

/// Bytes of a request that is held to be sent again.
const MAX_HELD_BYTES: u64 = 1024 * 1024;
/// The headers that keys stand in.
pub(super) const KEYS: [&str; 2] = ["idempotency-key", "repeatability-request-id"];
/// When to ask again where nothing was written.
const AGAIN_MS: u64 = 1_000;

/// A request on its way: where it came from, and where it goes.
#[derive(Debug)]
pub(super) struct Passage {
    pub(super) view: Arc<View>,
    pub(super) route: Arc<Route>,
    pub(super) endpoint: String,
    pub(super) hop: Hop,
}

/// Connections to upstreams.
#[derive(Clone)]
pub(super) struct Proxy {
    one: Client<HttpConnector, AnyBody>,
    two: Client<HttpConnector, AnyBody>,
}

/// A request to an upstream, for as many tries as it takes.
struct Outgoing {
    passage: Arc<Passage>,
    method: Method,
    path: PathAndQuery,
    headers: HeaderMap,
    load: Load<LayerBody<ClientBody>>,
    /// The upstream does it once, however often it is sent.
    idempotent: bool,
    /// What it is executed under, if it is protected.
    execution: Option<Execution>,
}

impl Proxy {
    pub(super) fn new(settings: &Settings) -> Self {
        let client = |two: bool| {
            let mut connector = HttpConnector::new();
            connector.set_connect_timeout(Some(Duration::from_millis(settings.connect_timeout.ms())));
            connector.set_nodelay(true);
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_millis(settings.idle_timeout.ms()))
                .pool_max_idle_per_host(settings.max_idle)
                .http2_only(two)
                .build(connector)
        };
        Self { one: client(false), two: client(true) }
    }

    /// Sends one request, as it is.
    pub(super) async fn send(
        &self,
        request: Request<AnyBody>,
        limit: Duration,
    ) -> Option<Result<Response<Incoming>, legacy::Error>> {
        let client = if request.version() == Version::HTTP_2 { &self.two } else { &self.one };
        tokio::time::timeout(limit, client.request(request)).await.ok()
    }

    async fn forward(self, request: Request<LayerBody<ClientBody>>) -> Response<AnyBody> {
        let (mut parts, body) = request.into_parts();
        let Some(passage) = parts.extensions.remove::<Arc<Passage>>() else {
            return refused(&Refusal::RouteUnknown, "", false, Fate::Released);
        };
        let (route, settings) = (Arc::clone(&passage.route), &passage.view.settings);
        let is_grpc = grpc::is_grpc(&parts.headers);
        let Some(place) = route.enter() else {
            let refusal = Refusal::GatewayOverloaded { retry_after_ms: AGAIN_MS };
            return refused(&refusal, &settings.pages, is_grpc, Fate::Released);
        };
        hygiene::to_upstream(&mut parts.headers, &passage.hop, settings.forwarded);
        let execution = parts.extensions.remove::<Execution>();
        if let Some(execution) = execution.as_ref().filter(|_| settings.propagate) {
            propagate::tell(&mut parts.headers, execution, random());
        }
        // An upstream that keeps keys does a request once only if it has one.
        let has_key = KEYS.iter().any(|name| parts.headers.contains_key(*name));
        let idempotent = route.said.upstream_idempotent && (has_key || parts.method.is_idempotent());
        if body.is_end_stream() && [Method::POST, Method::PUT, Method::PATCH].contains(&parts.method) {
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let is_small = body.size_hint().exact().is_some_and(|bytes| bytes <= MAX_HELD_BYTES);
        let load = if idempotent && is_small {
            match body.collect().await {
                Ok(held) => Load::held(held),
                Err(_) => return refused(&Refusal::RequestUnreadable, &settings.pages, is_grpc, Fate::Released),
            }
        } else {
            Load::streamed(body)
        };
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let idle = Duration::from_millis(settings.body_idle.ms());
        let outgoing = Outgoing {
            passage: Arc::clone(&passage),
            method: parts.method,
            path,
            headers: parts.headers,
            load,
            idempotent,
            execution,
        };
        match outgoing.run(&self).await {
            Ok((response, tried_before)) => {
                let (mut parts, body) = response.into_parts();
                hygiene::remove_hop_by_hop(&mut parts.headers);
                // A version is of one connection (RFC 9110 section 2.5): the client's is what the client speaks.
                parts.version = Version::HTTP_11;
                // What the connection left there is of no use to anybody.
                parts.extensions = http::Extensions::new();
                if tried_before {
                    parts.extensions.insert(TriedBefore);
                }
                parts.extensions.insert(route.grace());
                let idle = (!is_event_stream(&parts.headers)).then_some(idle);
                Response::from_parts(parts, Timed::new(body, idle, Some(place)).boxed_unsync())
            }
            Err((refusal, fate)) => {
                let mut response = refused(&refusal, &settings.pages, is_grpc, fate);
                response.extensions_mut().insert(route.grace());
                response
            }
        }
    }
}

impl Outgoing {
    /// Sends it until it is answered, or may not be sent again. With the answer: whether an earlier try may have been executed.
    async fn run(self, proxy: &Proxy) -> Result<(Response<Incoming>, bool), (Refusal, Fate)> {
        let route = &self.passage.route;
        let limit = Duration::from_millis(route.said.upstream_timeout.ms());
        let (mut tried, mut sent) = (Vec::new(), false);
        route.first_try();
        loop {
            // Another attempt may have begun: nothing is sent any more.
            if self.execution.as_ref().is_some_and(|execution| execution.remaining().is_zero()) {
                return Err(self.ended(Failed::Unsent, sent, limit));
            }
            let at = route.addresses.pick(&tried, monotonic());
            tried.push(at);
            let Some(request) = self.one_try(at) else { return Err(self.ended(Failed::Unsent, sent, limit)) };
            metrics::gateway_try(&route.name, tried.len() > 1);
            let mut of_the_client = false;
            let (failed, answer) = match proxy.send(request, limit).await {
                Some(Ok(response)) => {
                    route.addresses.connected(at);
                    match self.answered(&response) {
                        None => return Ok((response, sent)),
                        // Nobody asked for it, and nobody can read it.
                        Some(Failed::Broken) => (Failed::Broken, None),
                        Some(failed) => (failed, Some(response)),
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(route = route.name, error = %chain(&error), "an upstream failed");
                    if error.is_connect() {
                        route.addresses.refused(at, monotonic());
                    }
                    of_the_client = any(&error, hyper::Error::is_user);
                    let unsent = is_unsent(&error) && self.load.is_whole();
                    (if unsent { Failed::Unsent } else { Failed::Broken }, None)
                }
                None => (Failed::TimedOut, None),
            };
            let sent_before = sent;
            sent |= failed != Failed::Unsent;
            metrics::gateway_failure(&route.name, if of_the_client { "request" } else { failed.name() });
            let tries = u32::try_from(tried.len()).unwrap_or(u32::MAX);
            let (idempotent, held) = (self.idempotent, self.load.is_held());
            let next = route.after(&Tried { failed, tries, idempotent, held, random: share() }, monotonic());
            match (next, answer) {
                (Next::Again(pause), _) => tokio::time::sleep(pause).await,
                (Next::End | Next::Exhausted, answer) => {
                    if next == Next::Exhausted {
                        metrics::gateway_exhausted(&route.name);
                    }
                    let answer = answer.map(|answer| (answer, sent_before));
                    return answer.ok_or_else(|| self.ended(failed, sent, limit));
                }
            }
        }
    }

    /// The request of one try.
    fn one_try(&self, at: usize) -> Option<Request<AnyBody>> {
        let said = &self.passage.route.said;
        let mut request = Request::new(self.load.lend());
        *request.uri_mut() = self.passage.route.addresses.target(at, self.path.clone())?;
        *request.method_mut() = self.method.clone();
        *request.version_mut() = if said.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        *request.headers_mut() = self.headers.clone();
        // The client makes one of the target where there is none.
        request.headers_mut().remove(HOST);
        if said.keep_host && !said.http2 {
            let host = HeaderValue::try_from(self.passage.hop.host.as_str()).ok()?;
            request.headers_mut().insert(HOST, host);
        }
        Some(request)
    }

    /// Whether an answer is one to send the request again for.
    fn answered(&self, response: &Response<Incoming>) -> Option<Failed> {
        let repeatable = self.idempotent && self.load.is_held();
        match response.status() {
            // Nobody asked to switch: there is no telling what follows on that connection.
            StatusCode::SWITCHING_PROTOCOLS => Some(Failed::Broken),
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT if repeatable => {
                Some(Failed::Answered(retry_after(response.headers())))
            }
            _ => None,
        }
    }

    /// What the client is told, and what becomes of its key. Once something was written, by whichever try, it may have been
    /// executed.
    fn ended(&self, failed: Failed, sent: bool, limit: Duration) -> (Refusal, Fate) {
        match failed {
            Failed::Unsent if !sent => (Refusal::UpstreamUnreachable { retry_after_ms: AGAIN_MS }, Fate::Released),
            Failed::TimedOut => {
                let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                (Refusal::UpstreamTimeout { limit_ms }, Fate::Lapses)
            }
            Failed::Unsent | Failed::Broken | Failed::Answered(_) => (Refusal::UpstreamBroken, Fate::Lapses),
        }
    }
}

impl Service<Request<LayerBody<ClientBody>>> for Proxy {
    type Response = Response<AnyBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<AnyBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<LayerBody<ClientBody>>) -> Self::Future {
        let proxy = self.clone();
        Box::pin(async move { Ok(proxy.forward(request).await) })
    }
}

/// A refusal as a response, for the layer to treat as this says.
pub(super) fn refused(refusal: &Refusal, pages: &str, is_grpc: bool, fate: Fate) -> Response<AnyBody> {
    let rules = Rules::default();
    let about = About { rules: &rules, epoch: None, pages };
    let answer = if is_grpc { refusal.grpc_answer(&about) } else { refusal.answer(&about) };
    let mut response = Response::new(Full::new(answer.body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response.extensions_mut().insert(fate);
    response.extensions_mut().insert(Failure(refusal.code()));
    response
}

/// The code that the gateway answered with itself, among a response's extensions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure(pub(super) &'static str);

/// Whether nothing of a request was written: no connection was made, or the one it waited for was closed.
fn is_unsent(error: &legacy::Error) -> bool {
    error.is_connect() || any(error, hyper::Error::is_canceled)
}

/// Whether an error, or one that it came of, is of this kind.
fn any(error: &legacy::Error, is: fn(&hyper::Error) -> bool) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(deeper) = cause {
        if deeper.downcast_ref::<hyper::Error>().is_some_and(is) {
            return true;
        }
        cause = deeper.source();
    }
    false
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text.push_str(": ");
        text.push_str(&deeper.to_string());
        cause = deeper.source();
    }
    text
}

/// `Retry-After` in seconds (RFC 9110 section 10.2.3). A date is not waited for: clocks differ.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let is = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream");
    headers.get(CONTENT_TYPE).is_some_and(is)
}

/// Random bytes of the system. Without any, zeroes: a trace is named less well, and nothing else depends on it.
fn random() -> [u8; 24] {
    let mut bytes = [0; 24];
    let _zeroes = rand::rngs::OsRng.try_fill_bytes(&mut bytes);
    bytes
}

/// A number from 0 to 1.
fn share() -> f64 {
    rand::rngs::OsRng.try_next_u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}
