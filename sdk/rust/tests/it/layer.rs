//! The layer around services of the tests' own, against a region that misbehaves.

mod answers;
mod bodies;
mod calls;
mod lives;
mod stages;

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use holdfast_client::client::{Client, OnDrop};
use holdfast_client::http::Rules;
use holdfast_client::layer::{Builder, IdempotencyLayer, LayerBody};
use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use tower::{Layer as _, ServiceExt as _};

use crate::fake::{Node, Region};

/// Longer than anything that a healthy machine needs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The body of both directions.
type Body = UnsyncBoxBody<Bytes, Broken>;
/// What the application gets.
type Asked = Request<LayerBody<Body>>;

/// Why a body of a test breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("as the test wants it")]
struct Broken;

/// A region with one node, a layer in front of it, and what was heard of it.
struct Bench {
    region: Region,
    layer: IdempotencyLayer,
    heard: Arc<Mutex<Vec<String>>>,
    _nodes: Vec<Node>,
}

/// An answer, whole.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

impl Bench {
    async fn new(rules: Rules) -> anyhow::Result<Self> {
        Self::with(rules, |builder| builder).await
    }

    async fn with(rules: Rules, also: impl FnOnce(Builder) -> Builder) -> anyhow::Result<Self> {
        let (region, nodes) = Region::start(1)?;
        let client = Client::builder()
            .nodes(nodes.iter().map(|node| node.address.to_string()))
            .attempt_timeout(Duration::from_secs(5))
            .backoff(Duration::from_millis(1), Duration::from_millis(5))
            .attempts(2)
            .on_drop(OnDrop::ReleaseUnstarted)
            .connect()
            .await?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hearing = Arc::clone(&heard);
        let builder = IdempotencyLayer::builder(client).tenant("acme").rules(rules).on_verdict(move |told| {
            hearing.lock().unwrap_or_else(PoisonError::into_inner).push(told.verdict.as_str().to_owned());
        });
        Ok(Self { region, layer: also(builder).build(), heard, _nodes: nodes })
    }

    /// Sends a request to an application behind the layer.
    async fn send<F, A>(&self, app: F, request: Request<Body>) -> anyhow::Result<Seen>
    where
        F: Fn(Asked) -> A + Clone + Send + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let response = tokio::time::timeout(PATIENCE, self.begin(app, request)).await.context("no answer")??;
        whole(response).await
    }

    /// As [`Bench::send`], up to the response's head.
    async fn begin<F, A>(&self, app: F, request: Request<Body>) -> anyhow::Result<Response<LayerBody<Body>>>
    where
        F: Fn(Asked) -> A + Clone + Send + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let service = tower::service_fn(move |request| {
            let answer = app(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        Ok(self.layer.layer(service).oneshot(request).await?)
    }

    /// What was heard since this was asked last, after everything has ended.
    async fn heard(&self) -> String {
        self.layer.settle().await;
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner)).join(" ")
    }
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Status and headers, sorted, without those that say what the body is.
    fn head(&self) -> String {
        let said = |name: &&http::HeaderName| !name.as_str().starts_with("content-");
        let mut names: Vec<_> = self.headers.keys().filter(said).collect();
        names.sort_by_key(|name| name.as_str());
        let values = |name| self.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        let lines = names.into_iter().flat_map(|name| values(name).map(move |value| format!("{name}: {value}")));
        std::iter::once(self.status.to_string()).chain(lines).collect::<Vec<_>>().join(" | ")
    }

    /// The code of a refusal.
    fn code(&self) -> String {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        problem.get("code").and_then(|code| code.as_str()).unwrap_or_default().to_owned()
    }
}

async fn whole(response: Response<LayerBody<Body>>) -> anyhow::Result<Seen> {
    let (parts, body) = response.into_parts();
    let exact = body.size_hint().exact();
    let collected = tokio::time::timeout(PATIENCE, body.collect()).await.context("the body does not end")??;
    let trailers = collected.trailers().cloned();
    let body = collected.to_bytes();
    anyhow::ensure!(exact.is_none_or(|exact| exact == body.len() as u64), "{exact:?} bytes were promised");
    Ok(Seen { status: parts.status.as_u16(), headers: parts.headers, body, trailers })
}

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of unknown length, in these pieces.
fn pieces(pieces: Vec<Result<Frame<Bytes>, Broken>>) -> Body {
    StreamBody::new(futures_util::stream::iter(pieces)).boxed_unsync()
}

fn data(bytes: impl Into<Bytes>) -> Result<Frame<Bytes>, Broken> {
    Ok(Frame::data(bytes.into()))
}

fn post(key: &str, body: impl Into<Bytes>) -> Request<Body> {
    let request = Request::post("/v1/charges").header("content-type", "application/json");
    let request = if key.is_empty() { request } else { request.header("idempotency-key", key) };
    request.body(full(body)).expect("a request")
}

fn answer(status: u16, headers: &[(&str, &str)], body: Body) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body).expect("a response")
}

/// An application that counts how often it runs and answers with a status and that count.
fn counting(
    ran: &Arc<AtomicUsize>,
    status: u16,
) -> impl Fn(Asked) -> std::future::Ready<Response<Body>> + Clone + use<> {
    let ran = Arc::clone(ran);
    move |_| {
        let run = ran.fetch_add(1, Ordering::SeqCst) + 1;
        std::future::ready(answer(
            status,
            &[("content-type", "text/plain"), ("x-run", "1")],
            full(format!("run {run}")),
        ))
    }
}

fn count() -> Arc<AtomicUsize> {
    Arc::default()
}

fn ran(count: &Arc<AtomicUsize>) -> usize {
    count.load(Ordering::SeqCst)
}
