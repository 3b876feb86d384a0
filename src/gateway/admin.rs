//! The gateway's own pages, on a listener of their own: `/healthz` and `/metrics`.

use std::convert::Infallible;
use std::future::Ready;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::Service;

use super::front::Shared;
use super::watch::Store;
use crate::clock::monotonic;
use crate::telemetry::metrics::{self, GatewayGauges, Page, RouteGauges};

/// What serves a connection of an operator.
#[derive(Clone)]
pub(super) struct Admin {
    pub(super) shared: Arc<Shared>,
    pub(super) store: Arc<Store>,
}

impl Service<Request<Incoming>> for Admin {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Full<Bytes>>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        std::future::ready(Ok(self.answer(request.method(), request.uri().path())))
    }
}

impl Admin {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let (kind, text) = match (method == Method::GET, path) {
            (true, "/healthz") => ("application/json", self.health()),
            (true, "/metrics") => (metrics::CONTENT_TYPE, self.metrics()),
            (true | false, _) => {
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::NOT_FOUND;
                return response;
            }
        };
        let mut response = Response::new(Full::from(text));
        response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
        response
    }

    fn gauges(&self) -> GatewayGauges {
        let (view, now) = (self.shared.views.now(), monotonic());
        let routes = view.table.routes().iter();
        GatewayGauges {
            routes: routes
                .map(|route| RouteGauges {
                    route: route.name.clone(),
                    in_flight: route.in_flight(),
                    addresses: route.addresses.all(now),
                })
                .collect(),
            held_bytes: self.shared.layer.held_bytes(),
            tunnels: self.shared.tunnels.open(),
            store_reachable: self.store.is_reachable(),
            policy_revision: view.policies.revision,
        }
    }

    /// It serves, or nobody would hear this: what it depends on is told, and changes no status.
    fn health(&self) -> String {
        let GatewayGauges { routes, store_reachable, policy_revision, held_bytes: _, tunnels: _ } = self.gauges();
        let address = |(address, serves): (String, bool)| serde_json::json!({ "address": address, "serves": serves });
        let route = |RouteGauges { route, in_flight, addresses }: RouteGauges| {
            let addresses: Vec<_> = addresses.into_iter().map(address).collect();
            serde_json::json!({ "route": route, "in_flight": in_flight, "addresses": addresses })
        };
        let routes: Vec<_> = routes.into_iter().map(route).collect();
        let store = serde_json::json!({ "reachable": store_reachable, "policy_revision": policy_revision });
        serde_json::json!({ "status": "ok", "store": store, "routes": routes }).to_string()
    }

    fn metrics(&self) -> String {
        let mut page = Page::default();
        metrics::write_gateway(&mut page, &self.gauges());
        page.finish()
    }
}
