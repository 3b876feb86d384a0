//! The gateway: a reverse proxy made of the tower layer, for services that are not changed. docs/guides/gateway.md says what it
//! promises.
//!
//! Reading order: [`settings`] with `check`; `front` (a request until it has a route), `proxy` (what the layer runs), `tunnel`; `view` (what
//! holds at a moment) and `watch` (what changes it). Functions over values: `table` with `route`, `endpoint` and `addresses`, `rules`,
//! `budget`, `hygiene`, `propagate`, `recent`. `body` is what passes.
//!
//! Deliberately absent: TLS (it is terminated before the gateway), who the client is, changes of bodies, and every decision about
//! a key: those are the store's.

mod addresses;
mod admin;
mod body;
mod budget;
mod check;
mod endpoint;
mod front;
mod hygiene;
mod propagate;
mod proxy;
mod recent;
#[cfg(test)]
mod reference;
mod route;
mod rules;
pub mod settings;
mod table;
mod tunnel;
mod view;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_client::client::{Client, OnDrop};
use holdfast_client::http::{MAX_BODY_BYTES, Stage};
use holdfast_client::layer::{Builder, IdempotencyLayer};
use http::Method;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch as flag;
use tokio::task::JoinSet;

use self::admin::Admin;
use self::front::{Front, Shared};
use self::proxy::{Passage, Proxy};
use self::settings::{Settings, Wrong};
use self::tunnel::Tunnels;
use self::view::Views;
use self::watch::Store;
use crate::server::{self, Bounds};
use crate::telemetry::metrics;

pub use self::hygiene::Forwarded;

/// Connections of operators at a time.
const MAX_ADMIN_CONNECTIONS: usize = 64;
/// How long a question to the store may take with all its resends: a client waits for it.
const STORE_DEADLINE: Duration = Duration::from_secs(5);

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Its settings.
    #[error(transparent)]
    Settings(#[from] Wrong),
    /// An address.
    #[error("cannot listen on {address}: {source}: stop what listens there, or name another address")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The system.
    #[error("cannot listen for SIGHUP: {0}")]
    Signals(std::io::Error),
}

/// What a gateway is started with.
#[derive(Clone, Debug)]
pub struct Start {
    /// Its settings.
    pub settings: Settings,
    /// The file that they were read from, and what was in it: it is followed.
    pub file: Option<(PathBuf, String)>,
    /// What the command line says in place of the settings.
    pub said: Said,
}

/// What the command line says in place of the settings.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// Where clients reach it.
    pub listen: Option<SocketAddr>,
    /// Where operators reach it.
    pub admin_listen: Option<SocketAddr>,
    /// The store's nodes.
    pub nodes: Option<Vec<String>>,
}

impl Said {
    /// The settings with what was said.
    fn over(&self, settings: Settings) -> Settings {
        Settings {
            listen: self.listen.unwrap_or(settings.listen),
            admin_listen: self.admin_listen.unwrap_or(settings.admin_listen),
            nodes: self.nodes.clone().unwrap_or(settings.nodes),
            ..settings
        }
    }
}

/// A running gateway.
pub struct Gateway {
    address: SocketAddr,
    admin_address: SocketAddr,
    drain: Duration,
    settle: Duration,
    shared: Arc<Shared>,
    stop: flag::Sender<bool>,
    servers: JoinSet<()>,
    watchers: JoinSet<()>,
}

impl Start {
    /// Without configuration: everything goes to these addresses.
    #[must_use]
    pub fn catch_all(upstream: Vec<String>) -> Self {
        Self { settings: Settings::catch_all(upstream), file: None, said: Said::default() }
    }

    /// Reads the settings from a file.
    ///
    /// # Errors
    /// When it cannot be read, or something in it has no meaning.
    pub fn from_file(path: PathBuf) -> Result<Self, Wrong> {
        let (text, settings) = watch::read(&path)?;
        Ok(Self { settings, file: Some((path, text)), said: Said::default() })
    }
}

impl Gateway {
    /// Starts a gateway. The store need not be there yet.
    ///
    /// # Errors
    /// When something is wrong with the settings, or an address is taken.
    pub async fn start(start: Start) -> Result<Self, GatewayError> {
        let Start { settings, file, said } = start;
        let settings = said.over(settings);
        let (listener, address) = bind(settings.listen).await?;
        let (admin_listener, admin_address) = bind(settings.admin_listen).await?;
        let store = Arc::new(Store::new(&settings.nodes)?);
        let drain = Duration::from_millis(settings.drain.ms());
        let settle = Duration::from_millis(settings.settle.ms());
        let max_tunnels = settings.max_tunnels;
        let bounds = Bounds::of_clients(settings.max_connections);
        let (proxy, layer) = (Proxy::new(&settings), layer(&settings)?);
        let views = Arc::new(Views::new(settings)?);
        store.refresh(&views).await;

        let mut watchers = JoinSet::new();
        watchers.spawn(watch::policies(Arc::clone(&store), Arc::clone(&views)));
        watchers.spawn(watch::health(proxy.clone(), Arc::clone(&views)));
        if let Some((path, text)) = file {
            let hangup = signal(SignalKind::hangup()).map_err(GatewayError::Signals)?;
            watchers.spawn(watch::file(path, text, Arc::clone(&views), said, hangup));
        }

        let (stop, mut stopping) = flag::channel(false);
        let mut servers = JoinSet::new();
        let (tunnels, recent) = (Tunnels::new(max_tunnels), Mutex::default());
        let shared = Arc::new(Shared { views, layer, proxy, tunnels, recent });
        let (serving, mut stops) = (Arc::clone(&shared), stopping.clone());
        let of_admin = Arc::clone(&shared);
        servers.spawn(async move {
            let front = |peer: SocketAddr| Front { shared: Arc::clone(&serving), peer: peer.ip() };
            let mut connections = server::accept(listener, front, bounds, &mut stops).await;
            server::drain(&mut connections, drain).await;
        });
        servers.spawn(async move {
            let admin = Admin { shared: of_admin, store };
            let bounds = Bounds::of_clients(MAX_ADMIN_CONNECTIONS);
            let mut connections = server::accept(admin_listener, |_| admin.clone(), bounds, &mut stopping).await;
            connections.shutdown().await;
        });
        Ok(Self { address, admin_address, drain, settle, shared, stop, servers, watchers })
    }

    /// Where clients reach it.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where operators reach it.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_address
    }

    /// The store's nodes that it asks.
    #[must_use]
    pub fn nodes(&self) -> Vec<String> {
        self.shared.views.now().settings.nodes.clone()
    }

    /// What its routes are called, and where they go.
    #[must_use]
    pub fn routes(&self) -> Vec<(String, Vec<String>)> {
        let view = self.shared.views.now();
        view.table.routes().iter().map(|route| (route.name.clone(), route.said.upstream.clone())).collect()
    }

    /// Stops in order: no new requests, those in flight end; then what was begun for callers that have gone; then switched
    /// connections. Each has its time: it takes no longer than `drain` and `settle` together.
    pub async fn shutdown(mut self) {
        // The servers are gone already when nobody receives this.
        let _ = self.stop.send(true);
        while self.servers.join_next().await.is_some() {}
        tracing::debug!(drain = ?self.drain, "no request is in flight");
        let open = self.shared.layer.settle_within(self.settle).await;
        if open > 0 {
            tracing::warn!(
                open,
                settle = ?self.settle,
                "stopping with executions that are not over: their leases run out, and the policy says what follows"
            );
        }
        self.shared.tunnels.end().await;
        self.watchers.shutdown().await;
    }
}

/// The layer, as the settings have it.
fn layer(settings: &Settings) -> Result<IdempotencyLayer, Wrong> {
    let client = Client::builder()
        .nodes(settings.nodes.iter().cloned())
        .deadline(STORE_DEADLINE)
        .on_drop(OnDrop::ReleaseUnstarted)
        .client_version(concat!("holdfast-gateway/", env!("CARGO_PKG_VERSION")))
        .connect_lazy()
        .map_err(|error| Wrong(format!("nodes: {}", error.message())))?;
    let method = |text: &String| {
        text.parse::<Method>().map_err(|_| Wrong(format!("protect: {text:?} is no method: write such as POST")))
    };
    if settings.max_held_bytes < MAX_BODY_BYTES {
        let held = settings.max_held_bytes;
        return Err(Wrong(format!("max_held_bytes = {held}: a request may have {MAX_BODY_BYTES}, so write no less")));
    }
    let methods = settings.protect.iter().map(method).collect::<Result<Vec<_>, _>>()?;
    let builder: Builder = IdempotencyLayer::builder(client)
        .tenant(settings.tenant.as_str())
        .methods(methods)
        .pages(settings.pages.as_str())
        .compare_in_store()
        .most_held_bytes(settings.max_held_bytes)
        .on_verdict(|heard| {
            if heard.stage == Stage::Observe {
                metrics::gateway_observed(heard.verdict.as_str());
            }
        })
        // The front gave every request its passage.
        .endpoint_of(|parts| passage(parts).map(|passage| passage.endpoint.clone()).unwrap_or_default())
        .rules_of(|subject| {
            let rules = passage(subject.parts).map(|passage| passage.view.rules(&passage.route, subject.endpoint));
            rules.unwrap_or_default()
        });
    Ok(builder.build())
}

fn passage(parts: &http::request::Parts) -> Option<&Arc<Passage>> {
    parts.extensions.get()
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), GatewayError> {
    let listening = |source| GatewayError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listening)?;
    let local = listener.local_addr().map_err(listening)?;
    Ok((listener, local))
}
