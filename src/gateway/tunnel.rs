//! Connections that switch protocols (RFC 9110 section 7.8), such as WebSockets: they pass through unprotected, and end with the
//! gateway. They are open for as long as they like, so they have places of their own, and none at the upstream. What the layer would
//! have protected is refused.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_client::http::{Admission, Arrived, Fate, Refusal, Rules, admit};
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::body::{AnyBody, Timed};
use super::hygiene;
use super::proxy::{Passage, Proxy, refused};
use crate::clock::{monotonic, wall_unix_ms};

/// The connections that have switched, and the places for them.
#[derive(Debug)]
pub(super) struct Tunnels {
    running: Mutex<JoinSet<()>>,
    free: Arc<Semaphore>,
    most: usize,
}

/// Why a request that asks to switch may not, by the rules of its endpoint: it has no key where there must be one, or it has one,
/// which promises an execution and a replay, neither of which a switched connection has.
pub(super) fn refusal(request: &Request<Incoming>, rules: &Rules) -> Option<Refusal> {
    let arrived = Arrived {
        method: request.method(),
        headers: request.headers(),
        method_is_protected: true,
        now_unix_ms: wall_unix_ms(),
    };
    match admit(&arrived, rules) {
        Admission::Pass | Admission::Observe(_) => None,
        Admission::Refuse(refusal) => Some(refusal),
        Admission::Protect(_) => {
            let detail =
                "a WebSocket cannot be executed under a key: send it without one, or to a route that is not protected";
            Some(Refusal::RequestRefused { detail: detail.to_owned() })
        }
    }
}

impl Tunnels {
    /// So many at a time.
    pub(super) fn new(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self { running: Mutex::default(), free: Arc::new(Semaphore::new(most)), most }
    }

    /// How many are open, or about to be.
    pub(super) fn open(&self) -> usize {
        self.most.saturating_sub(self.free.available_permits())
    }

    /// Asks the upstream to switch, and joins both sides if it does.
    pub(super) async fn upgrade(
        &self,
        proxy: &Proxy,
        passage: &Passage,
        mut request: Request<Incoming>,
    ) -> Response<AnyBody> {
        let (route, settings) = (&passage.route, &passage.view.settings);
        let refuse = |refusal: Refusal| refused(&refusal, &settings.pages, false, Fate::Released);
        let overloaded = Refusal::GatewayOverloaded { retry_after_ms: 1_000 };
        let Ok(tunnel) = Arc::clone(&self.free).try_acquire_owned() else { return refuse(overloaded) };
        let Some(place) = route.enter() else { return refuse(overloaded) };
        let Some(asked) = request.headers().get(UPGRADE).cloned() else { return refuse(Refusal::TunnelRefused) };
        let client = hyper::upgrade::on(&mut request);
        let mut headers = std::mem::take(request.headers_mut());
        hygiene::to_upstream(&mut headers, &passage.hop, settings.forwarded);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, asked);
        headers.remove(HOST);
        if let Some(host) = HeaderValue::try_from(passage.hop.host.as_str()).ok().filter(|_| route.said.keep_host) {
            headers.insert(HOST, host);
        }
        let at = route.addresses.pick(&[], monotonic());
        let path = request.uri().path_and_query().cloned();
        let Some(target) = path.and_then(|path| route.addresses.target(at, path)) else {
            return refuse(Refusal::TunnelRefused);
        };
        let mut outgoing = Request::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
        (*outgoing.method_mut(), *outgoing.uri_mut()) = (request.method().clone(), target);
        (*outgoing.version_mut(), *outgoing.headers_mut()) = (Version::HTTP_11, headers);
        let limit = Duration::from_millis(route.said.upstream_timeout.ms());
        let mut response = match proxy.send(outgoing, limit).await {
            Some(Ok(response)) => response,
            Some(Err(error)) if error.is_connect() => {
                route.addresses.refused(at, monotonic());
                return refuse(Refusal::UpstreamUnreachable { retry_after_ms: 1_000 });
            }
            Some(Err(_)) => return refuse(Refusal::UpstreamBroken),
            None => {
                let limit_ms = route.said.upstream_timeout.ms();
                return refuse(Refusal::UpstreamTimeout { limit_ms });
            }
        };
        let switched = response.headers().get(UPGRADE).cloned();
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            hygiene::remove_hop_by_hop(response.headers_mut());
            let idle = Duration::from_millis(settings.body_idle.ms());
            return response.map(|body| Timed::new(body, Some(idle), Some(place)).boxed_unsync());
        }
        let upstream = hyper::upgrade::on(&mut response);
        // The upstream has answered: what follows is no request.
        drop(place);
        let joined = async move {
            let _tunnel = tunnel;
            // Either side that does not switch ends both.
            let Ok((client, upstream)) = tokio::try_join!(client, upstream) else { return };
            let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
                tracing::debug!(%error, "a switched connection ended with an error");
            }
        };
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        while running.try_join_next().is_some() {}
        running.spawn(joined);
        drop(running);
        let (mut parts, _empty) = response.into_parts();
        hygiene::remove_hop_by_hop(&mut parts.headers);
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.extend(switched.map(|switched| (UPGRADE, switched)));
        parts.extensions = http::Extensions::new();
        Response::from_parts(parts, Empty::new().map_err(|never| match never {}).boxed_unsync())
    }

    /// Ends them all.
    pub(super) async fn end(&self) {
        let mut running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        running.shutdown().await;
    }
}
