//! The only servers of the public API: gRPC and HTTP/JSON on one port, HTTP/1.1 and HTTP/2 with prior knowledge.
//!
//! A request comes in through [`serve`], which owns the connections; `dispatch` sends it to `grpc`, `session` or `http`;
//! `convert` makes a call of its message; the router answers; `reply` or the answers of `http` say so; [`error`] says what
//! failed.
//!
//! Deliberately absent: TLS and who may call (the node refuses to listen beyond loopback until there is both), compression
//! (a small message can be a large one in disguise), and every decision.

mod admin;
mod answer;
mod asking;
mod body;
mod control;
mod convert;
mod dispatch;
pub mod error;
mod forward;
mod grpc;
mod http;
mod peer;
mod reply;
mod scrape;
mod session;

pub use self::peer::serve as serve_peers;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

use self::dispatch::{Dispatch, is_grpc};
use self::grpc::Services;
use self::session::Sessions;
use crate::limits;
use crate::router::Router;
use crate::router::cluster::Cluster;
use crate::server::{self, Bounds};

/// How often the health service looks at the node.
const HEALTH_PERIOD: Duration = Duration::from_secs(1);

/// The names that the health service answers for: the node, and each of its services.
const HEALTH_NAMES: [&str; 3] = ["", "holdfast.v1.Reservations", "holdfast.v1.Admin"];

/// What an operator may set.
#[derive(Clone, Copy, Debug)]
pub struct ApiSettings {
    /// Bytes of an envelope's body, at most [`limits::MAX_ENVELOPE_BODY_BYTES`].
    pub max_envelope_body_bytes: usize,
    /// Connections at a time. One more is closed at once.
    pub max_connections: usize,
    /// How long requests in flight get at a shutdown.
    pub drain: Duration,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            max_envelope_body_bytes: limits::DEFAULT_ENVELOPE_BODY_BYTES,
            max_connections: limits::MAX_CONNECTIONS,
            drain: Duration::from_millis(limits::DEFAULT_DRAIN_MS),
        }
    }
}

/// Serves the API on a bound listener until `shutdown` is true or its sender is gone; then takes no more connections and
/// gives the requests in flight [`ApiSettings::drain`] to end. Returns when the last connection is closed, and with it the
/// last use of `router`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    cluster: Arc<Cluster>,
    settings: ApiSettings,
    mut shutdown: watch::Receiver<bool>,
) {
    let services = Services::new(router.clone(), cluster, settings.max_envelope_body_bytes);
    let (reporter, health) = health_reporter();
    let mut routes = http::routes(router.clone(), settings.max_envelope_body_bytes)
        .route_service("/holdfast.v1.Admin/{*method}", services.admin())
        .route_service("/grpc.health.v1.Health/{*method}", health);
    match reflection() {
        Ok(reflection) => {
            routes = routes.route_service("/grpc.reflection.v1.ServerReflection/{*method}", reflection);
        }
        Err(error) => tracing::warn!(%error, "serving without reflection: the descriptors do not decode"),
    }
    let sessions = Sessions::new(services.clone(), shutdown.clone());
    let dispatch = Dispatch::new(services.reservations(), sessions.clone(), routes);

    let mut watcher = JoinSet::new();
    watcher.spawn(report_health(reporter.clone(), router));
    let mut connections =
        server::accept(listener, |_| dispatch.clone(), Bounds::of_clients(settings.max_connections), &mut shutdown)
            .await;
    watcher.shutdown().await;
    end_health(reporter).await;
    tokio::join!(server::drain(&mut connections, settings.drain), sessions.drain(settings.drain));
}

/// The reflection service (v1) for this package and the health service.
fn reflection() -> Result<
    tonic_reflection::server::v1::ServerReflectionServer<impl tonic_reflection::server::v1::ServerReflection>,
    tonic_reflection::server::Error,
> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(holdfast_client::proto::v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
}

/// Makes the health service say what `/healthz` says, for as long as it is polled. Only what changes is set: whoever
/// watches is told of every setting.
async fn report_health(reporter: HealthReporter, router: Router) {
    let mut said = None;
    loop {
        let serving = router.region().unwell().is_none();
        if said != Some(serving) {
            let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
            set_health(&reporter, status).await;
            said = Some(serving);
        }
        tokio::time::sleep(HEALTH_PERIOD).await;
    }
}

async fn set_health(reporter: &HealthReporter, status: ServingStatus) {
    for name in HEALTH_NAMES {
        reporter.set_service_status(name, status).await;
    }
}

/// Says that the node no longer serves, and ends the streams of whoever watches: they would outlast the drain.
async fn end_health(mut reporter: HealthReporter) {
    set_health(&reporter, ServingStatus::NotServing).await;
    for name in HEALTH_NAMES {
        reporter.clear_service_status(name).await;
    }
}
