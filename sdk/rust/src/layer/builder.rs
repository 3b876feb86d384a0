//! How a layer is put together. Every default is the one of the design: change one with a reason.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::request::Parts;

use super::heard::Heard;
use super::room::{self, Room};
use super::tasks::{self, Tasks};
use super::{IdempotencyLayer, Shared, Subject};
use crate::client::Client;
use crate::http::{Rules, endpoint_name};

/// How long a request's body may take to come, unless it is set otherwise.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// How long a response of unknown length may be silent before it is a stream, unless it is set otherwise.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a caller waits for its response to be stored, unless it is set otherwise.
const RECORD_LIMIT: Duration = Duration::from_secs(5);

/// Builds an [`IdempotencyLayer`].
#[must_use = "a builder protects nothing"]
pub struct Builder(Shared);

impl Builder {
    pub(super) fn new(client: Client) -> Self {
        let rules = Arc::new(Rules::default());
        Self(Shared {
            client,
            tenant: Arc::new(|_| Some("default".to_owned())),
            endpoint: Arc::new(|parts| endpoint_name(parts.method.as_str(), parts.uri.path())),
            rules: Arc::new(move |_| Arc::clone(&rules)),
            compare_in_store: false,
            methods: vec![Method::POST, Method::PATCH],
            pages: "/errors/".to_owned(),
            hear: None,
            request_limit: REQUEST_LIMIT,
            silence: SILENCE,
            record_limit: RECORD_LIMIT,
            tasks: Tasks::new(tasks::MOST),
            observing: Tasks::new(tasks::MOST_OBSERVED),
            room: Room::new(room::DEFAULT_BYTES),
        })
    }

    /// Whose keys they are. Default: `default`.
    pub fn tenant(self, tenant: impl Into<String>) -> Self {
        let tenant = tenant.into();
        self.tenant_of(move |_| Some(tenant.clone()))
    }

    /// Whose key it is, told from the request: from what authenticated it, never from what a client may choose freely. Without
    /// an answer the request is refused (`tenant-missing`).
    pub fn tenant_of(mut self, tenant: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        self.0.tenant = Arc::new(tenant);
        self
    }

    /// The name of every request's endpoint: for a layer around one route.
    pub fn endpoint(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.endpoint_of(move |_| name.clone())
    }

    /// The name of a request's endpoint, 1 to 256 printable ASCII characters. It is part of what requests are compared by, so it
    /// must not change while keys are remembered. Default: method and path, without the query. For axum:
    /// `|parts| parts.extensions.get::<MatchedPath>().map_or_else(…)`.
    pub fn endpoint_of(mut self, name: impl Fn(&Parts) -> String + Send + Sync + 'static) -> Self {
        self.0.endpoint = Arc::new(name);
        self
    }

    /// The rules of every endpoint. Default: those of [`Severity::High`](crate::http::Severity).
    pub fn rules(self, rules: Rules) -> Self {
        let rules = Arc::new(rules);
        self.rules_of(move |_| Arc::clone(&rules))
    }

    /// The rules of a request, by its tenant and endpoint. Asked for every request, so that they may change while the layer
    /// runs.
    pub fn rules_of(mut self, rules: impl Fn(&Subject<'_>) -> Arc<Rules> + Send + Sync + 'static) -> Self {
        self.0.rules = Arc::new(rules);
        self
    }

    /// Has the store compare requests, by the selection of its policy for the endpoint: it is sent the request with its
    /// headers and its body, in place of a digest by [`Rules::selection`]. A change of that policy then makes no retry
    /// another request. A request that is longer than what is held back is compared here as ever. Default: off.
    pub fn compare_in_store(mut self) -> Self {
        self.0.compare_in_store = true;
        self
    }

    /// The methods whose requests are protected; others pass. Default: POST and PATCH.
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.0.methods = methods.into_iter().collect();
        self
    }

    /// Where the pages of the codes are, up to the code: `type` and `Link` of refusals are made of it. Default: `/errors/`.
    pub fn pages(mut self, pages: impl Into<String>) -> Self {
        self.0.pages = pages.into();
        self
    }

    /// Tells what became of each request, for metrics and logs. Called in the request's task: it must not block.
    pub fn on_verdict(mut self, hear: impl Fn(&Heard<'_>) + Send + Sync + 'static) -> Self {
        self.0.hear = Some(Arc::new(hear));
        self
    }

    /// How long a request's body may take to come. Default: 30 s.
    pub fn request_limit(mut self, limit: Duration) -> Self {
        self.0.request_limit = limit;
        self
    }

    /// How long a response of unknown length may be silent before it is passed on as a stream, which is not replayable.
    /// Default: 1 s.
    pub fn silence(mut self, silence: Duration) -> Self {
        self.0.silence = silence;
        self
    }

    /// How long a caller waits for its response to be stored before it gets it all the same. The store is told on, for 5 minutes.
    /// Default: 5 s.
    pub fn record_limit(mut self, limit: Duration) -> Self {
        self.0.record_limit = limit;
        self
    }

    /// Bytes of requests that are held back at a time, of all requests together, until each is over. One that finds no room is refused
    /// (`gateway-overloaded`), and its key is not asked for. Default: 256 MiB.
    pub fn most_held_bytes(mut self, bytes: usize) -> Self {
        self.0.room = Room::new(bytes);
        self
    }

    /// Requests that are observed at a time ([`Stage::Observe`](crate::http::Stage)). One more runs as well, and is told to be
    /// [`Unseen`](super::Verdict::Unseen). They take no place of those that are protected. Default: 1,024.
    pub fn most_observed(mut self, requests: usize) -> Self {
        self.0.observing = Tasks::new(requests);
        self
    }

    /// The layer.
    #[must_use]
    pub fn build(self) -> IdempotencyLayer {
        IdempotencyLayer(Arc::new(self.0))
    }
}
