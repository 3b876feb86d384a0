//! A client's request from its head to its answer: checked, given a route, and handed to the layer.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_client::http::{Fate, Refusal, grpc};
use holdfast_client::layer::{IdempotencyLayer, Verdict};
use http::{HeaderMap, Method, Request, Response, Version, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::Service;
use tower::{Layer as _, ServiceExt as _};

use super::body::{AnyBody, Timed};
use super::hygiene::{self, Hop};
use super::proxy::{Failure, KEYS, Passage, Proxy, refused};
use super::recent::{Gone, Recent};
use super::tunnel::{self, Tunnels};
use super::view::{View, Views};
use crate::clock::{Monotonic, monotonic};
use crate::limits;
use crate::telemetry::metrics;

/// What every request of a gateway needs.
pub(super) struct Shared {
    pub(super) views: Arc<Views>,
    pub(super) layer: IdempotencyLayer,
    pub(super) proxy: Proxy,
    pub(super) tunnels: Tunnels,
    pub(super) recent: Mutex<Recent>,
}

/// What serves the connections of a client.
pub(super) struct Front {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: IpAddr,
}

impl Service<Request<Incoming>> for Front {
    type Response = Response<AnyBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<AnyBody>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (shared, peer) = (Arc::clone(&self.shared), self.peer);
        Box::pin(async move { Ok(serve(shared, peer, request).await) })
    }
}

async fn serve(shared: Arc<Shared>, peer: IpAddr, mut request: Request<Incoming>) -> Response<AnyBody> {
    let view = shared.views.now();
    let passage = match passage(&view, peer, &request) {
        Ok(passage) => Arc::new(passage),
        Err(refusal) => {
            metrics::gateway_refused(refusal.code());
            let is_grpc = grpc::is_grpc(request.headers());
            return refused(&refusal, &view.settings.pages, is_grpc, Fate::Released);
        }
    };
    hygiene::remove_own(request.headers_mut());
    let watched = Watched::new(&shared, &passage, request.headers());
    let is_websocket = hygiene::asks_for_websocket(request.method(), request.headers());
    if is_websocket && request.version() == Version::HTTP_11 {
        if let Some(refusal) = unprotected(&passage, &request) {
            return watched.answered(refused(&refusal, &view.settings.pages, false, Fate::Released));
        }
        let response = shared.tunnels.upgrade(&shared.proxy, &passage, request).await;
        return watched.answered(response);
    }
    request.extensions_mut().insert(passage);
    let idle = Duration::from_millis(view.settings.body_idle.ms());
    let request = request.map(|body| Timed::new(body, Some(idle), None));
    let service = shared.layer.layer(shared.proxy.clone());
    let response = match service.oneshot(request).await {
        Ok(response) => response.map(BodyExt::boxed_unsync),
        Err(never) => match never {},
    };
    watched.answered(response)
}

/// Why a WebSocket, which no layer sees, may not pass.
fn unprotected(passage: &Passage, request: &Request<Incoming>) -> Option<Refusal> {
    let Passage { view, route, endpoint, .. } = passage;
    let is_protected = view.settings.protect.iter().any(|method| method == request.method().as_str());
    is_protected.then(|| tunnel::refusal(request, &view.rules(route, endpoint))).flatten()
}

/// Where a request goes, or why it goes nowhere.
fn passage(view: &Arc<View>, peer: IpAddr, request: &Request<Incoming>) -> Result<Passage, Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal::TunnelRefused);
    }
    let refused = |refused: hygiene::Refused| Refusal::RequestRefused { detail: refused.to_string() };
    let host = hygiene::checked(request.uri(), request.headers()).map_err(refused)?;
    let route = view.table.find(&host, request.method(), request.uri()).ok_or(Refusal::RouteUnknown)?;
    let endpoint = route.endpoint(request.method(), request.uri().path());
    let hop = Hop { client: peer, host, version: request.version() };
    Ok(Passage { view: Arc::clone(view), route: Arc::clone(route), endpoint, hop })
}

/// A request that is counted when it is answered, or when its caller goes.
struct Watched {
    shared: Arc<Shared>,
    passage: Arc<Passage>,
    begun: Monotonic,
    client_version: String,
    gone: Option<Gone>,
    answered: bool,
}

impl Watched {
    fn new(shared: &Arc<Shared>, passage: &Arc<Passage>, headers: &HeaderMap) -> Self {
        metrics::gateway_in_flight(1);
        let key = KEYS.iter().find_map(|name| headers.get(*name));
        Self {
            shared: Arc::clone(shared),
            passage: Arc::clone(passage),
            begun: monotonic(),
            client_version: product(headers),
            gone: key.map(|key| Gone::of(&passage.view.settings.tenant, key.as_bytes())),
            answered: false,
        }
    }

    fn answered(mut self, response: Response<AnyBody>) -> Response<AnyBody> {
        self.answered = true;
        let failure = response.extensions().get::<Failure>().map(|failure| failure.0);
        let verdict = response.extensions().get::<Verdict>();
        let name = failure.or_else(|| verdict.map(|verdict| verdict.as_str())).unwrap_or("passed");
        self.count(name);
        let Some(gone) = &self.gone else { return response };
        let mut recent = self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
        match (failure, name) {
            (Some("upstream-timeout" | "upstream-broken"), _) => recent.insert(gone),
            (None, "executed" | "replayed") if recent.remove(gone) => metrics::gateway_retry_succeeded(),
            (Some(_) | None, _) => {}
        }
        drop(recent);
        response
    }

    fn count(&self, verdict: &str) {
        let route = &self.passage.route.name;
        metrics::gateway_answered(route, &self.client_version, verdict, monotonic().since(self.begun));
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        metrics::gateway_in_flight(-1);
        if self.answered {
            return;
        }
        self.count("caller-gone");
        if let Some(gone) = &self.gone {
            self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner).insert(gone);
        }
    }
}

/// The first product of a client's `User-Agent`, such as `acme-pay/2.3.1`.
fn product(headers: &HeaderMap) -> String {
    let said = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let product = said.split_ascii_whitespace().next().unwrap_or_default();
    product.chars().take(limits::MAX_CLIENT_VERSION_BYTES).collect()
}
