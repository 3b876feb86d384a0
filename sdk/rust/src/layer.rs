//! The tower layer: protects the requests of an axum, tonic or any other HTTP service that is a tower service, by one line.
//! docs/guides/tower.md says what it promises and what clients see.
//!
//! ```no_run
//! use holdfast_client::client::{Client, OnDrop};
//! use holdfast_client::http::{Rules, Severity, Stage};
//! use holdfast_client::layer::IdempotencyLayer;
//!
//! # async fn layer() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder().nodes(["10.0.0.1:7400"]).on_drop(OnDrop::ReleaseUnstarted).connect().await?;
//! let layer = IdempotencyLayer::builder(client)
//!     .tenant("shop")
//!     .rules(Rules::of(Severity::Critical).with_stage(Stage::Required))
//!     .build();
//! // axum: Router::new().route("/v1/charges", post(charge)).layer(layer)
//! // tonic: Server::builder().layer(layer).add_service(charges)
//! # drop(layer);
//! # Ok(())
//! # }
//! ```
//!
//! Reading order: `serve` (a request until it is known what becomes of it), `run` (a protected one from the store's answer to its
//! end), `ending` (what becomes of a response), `recording`, `keeping`; below them `body`, `reading`, `room` and `tasks`. `observe` is the
//! stage that changes nothing. What an answer looks like is [`crate::http`]'s.
//!
//! Deliberately absent: retries of the application (a request is executed once for each grant), and policies from the store:
//! who has them gives [`Builder::rules_of`] what they come to.

mod body;
mod builder;
mod ending;
mod execution;
mod heard;
mod keeping;
mod observe;
mod reading;
mod recording;
mod room;
mod run;
mod serve;
mod tasks;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Buf;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use self::heard::Hear;
use self::room::Room;
use self::tasks::Tasks;
use crate::client::Client;
use crate::http::Rules;

pub use self::body::LayerBody;
pub use self::builder::Builder;
pub use self::execution::Execution;
pub use self::heard::{Heard, Verdict};
pub use self::serve::Subject;

/// What tells something of a request.
type Of<T> = Arc<dyn Fn(&Parts) -> T + Send + Sync>;
/// What has the rules of a request.
type RulesOf = Arc<dyn Fn(&Subject<'_>) -> Arc<Rules> + Send + Sync>;

/// What a layer was built with, and the tasks that it runs.
struct Shared {
    client: Client,
    tenant: Of<Option<String>>,
    endpoint: Of<String>,
    rules: RulesOf,
    compare_in_store: bool,
    methods: Vec<Method>,
    pages: String,
    hear: Option<Hear>,
    request_limit: Duration,
    silence: Duration,
    record_limit: Duration,
    tasks: Tasks,
    observing: Tasks,
    room: Room,
}

/// The layer. A clone is the same layer.
#[derive(Clone)]
pub struct IdempotencyLayer(Arc<Shared>);

/// A service whose requests are protected.
#[derive(Clone)]
pub struct Idempotency<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl IdempotencyLayer {
    /// Starts to build a layer that asks this client. Build the client with
    /// [`OnDrop::ReleaseUnstarted`](crate::client::OnDrop): the layer starts every grant right before the application runs.
    pub fn builder(client: Client) -> Builder {
        Builder::new(client)
    }

    /// Waits until no protected request runs, also none whose caller has gone, and every outcome is told or given up: for the end
    /// of a program, after its server has stopped. Dropped before, it ends those that are left; their leases run out.
    pub async fn settle(&self) {
        self.0.tasks.settle().await;
        self.0.observing.settle().await;
    }

    /// The same, for no longer than this. What is still open then is ended, and counted: leases run out, and the store's policy says
    /// what follows. What was only observed is not waited for, and not counted.
    pub async fn settle_within(&self, limit: Duration) -> usize {
        let open = self.0.tasks.settle_within(limit).await;
        self.0.observing.settle_within(Duration::ZERO).await;
        open
    }

    /// Bytes of requests that it holds now.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.0.room.held()
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        Idempotency { inner, shared: Arc::clone(&self.0) }
    }
}

impl<S, B, R> Service<Request<B>> for Idempotency<S>
where
    S: Service<Request<LayerBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    B: Body<Data: Buf, Error: Send + 'static> + Send + 'static,
    R: Body<Data: Buf, Error: Send + 'static> + Send + 'static,
{
    type Response = Response<LayerBody<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that was asked whether it is ready is the one that is called.
        let another = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, another);
        Box::pin(serve::serve(Arc::clone(&self.shared), ready, request))
    }
}

impl fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer").field("client", &self.0.client).finish_non_exhaustive()
    }
}

impl<S: fmt::Debug> fmt::Debug for Idempotency<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency").field("inner", &self.inner).finish_non_exhaustive()
    }
}
