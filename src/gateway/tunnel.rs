//! Connections that switch protocols (RFC 9110 section 7.8), such as WebSockets: they pass through unprotected, and end with the
//! gateway.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use holdfast_client::http::{Fate, Refusal};
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::body::{AnyBody, Timed};
use super::hygiene;
use super::proxy::{Passage, Proxy, refused};
use crate::clock::monotonic;

/// Switched connections at a time.
const MAX_TUNNELS: usize = 1_024;

/// The connections that have switched.
#[derive(Debug, Default)]
pub(super) struct Tunnels(Mutex<JoinSet<()>>);

impl Tunnels {
    /// Asks the upstream to switch, and joins both sides if it does.
    pub(super) async fn upgrade(
        &self,
        proxy: &Proxy,
        passage: &Passage,
        mut request: Request<Incoming>,
    ) -> Response<AnyBody> {
        let (route, settings) = (&passage.route, &passage.view.settings);
        let refuse = |refusal: Refusal| refused(&refusal, &settings.pages, false, Fate::Released);
        let Some(place) = route.enter().filter(|_| self.has_room()) else {
            return refuse(Refusal::GatewayOverloaded { retry_after_ms: 1_000 });
        };
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
        let joined = async move {
            let _place = place;
            // Either side that does not switch ends both.
            let Ok((client, upstream)) = tokio::try_join!(client, upstream) else { return };
            let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
                tracing::debug!(%error, "a switched connection ended with an error");
            }
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).spawn(joined);
        let (mut parts, _empty) = response.into_parts();
        hygiene::remove_hop_by_hop(&mut parts.headers);
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.extend(switched.map(|switched| (UPGRADE, switched)));
        parts.extensions = http::Extensions::new();
        Response::from_parts(parts, Empty::new().map_err(|never| match never {}).boxed_unsync())
    }

    fn has_room(&self) -> bool {
        let mut tunnels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while tunnels.try_join_next().is_some() {}
        tunnels.len() < MAX_TUNNELS
    }

    /// Ends them all.
    pub(super) async fn end(&self) {
        let mut tunnels = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        tunnels.shutdown().await;
    }
}
