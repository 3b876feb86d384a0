//! What a gateway does unasked: it asks the store for its policies and upstreams for their health, and looks whether its file has
//! changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_client::proto::v1;
use holdfast_client::proto::v1::admin_client::AdminClient;
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use tokio::signal::unix::Signal;
use tonic::transport::{Channel, Endpoint};

use super::Said;
use super::proxy::Proxy;
use super::route::Route;
use super::settings::{Settings, Wrong};
use super::view::{Policies, Views};
use crate::limits;

/// How long a node may take to tell its policies, its connection included.
const POLICIES_LIMIT: Duration = Duration::from_secs(3);
/// Bytes of all policy files of a store, with room for their names.
const MAX_POLICIES_BYTES: usize = 2 * limits::MAX_POLICY_FILE_BYTES;
/// How often it is looked whether the settings file has changed.
const FILE_PERIOD: Duration = Duration::from_secs(1);
/// Bytes of a settings file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// How long an upstream may take to say how it is.
const HEALTH_LIMIT: Duration = Duration::from_secs(2);

/// Who is asked for policies.
pub(super) struct Store {
    nodes: Vec<AdminClient<Channel>>,
    reachable: AtomicBool,
}

impl Store {
    /// Nodes as `HOST:PORT` or `http://HOST:PORT`.
    ///
    /// # Errors
    /// When an address is none.
    pub(super) fn new(nodes: &[String]) -> Result<Self, Wrong> {
        let node = |text: &String| {
            let url = if text.contains("://") { text.clone() } else { format!("http://{text}") };
            let endpoint = Endpoint::from_shared(url).map_err(|error| Wrong(format!("nodes: {text:?}: {error}")))?;
            let channel = endpoint.connect_timeout(POLICIES_LIMIT).timeout(POLICIES_LIMIT).connect_lazy();
            Ok(AdminClient::new(channel).max_decoding_message_size(MAX_POLICIES_BYTES))
        };
        if nodes.is_empty() {
            return Err(Wrong("nodes: names no node of the store".to_owned()));
        }
        Ok(Self { nodes: nodes.iter().map(node).collect::<Result<_, Wrong>>()?, reachable: AtomicBool::new(false) })
    }

    /// Whether it answered when it was asked last.
    pub(super) fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    async fn ask(&self) -> Result<v1::GetPoliciesResponse, String> {
        let mut failed = String::new();
        for node in &self.nodes {
            let mut node = node.clone();
            let asking = node.get_policies(v1::GetPoliciesRequest { revision: None });
            match tokio::time::timeout(POLICIES_LIMIT, asking).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => failed = status.message().to_owned(),
                Err(_) => failed = format!("no answer within {POLICIES_LIMIT:?}"),
            }
        }
        Err(failed)
    }

    /// Asks once, and goes by the answer.
    pub(super) async fn refresh(&self, views: &Views) {
        let known = Arc::clone(&views.now().policies);
        match self.ask().await {
            Ok(answer) => {
                if !self.reachable.swap(true, Ordering::Relaxed) {
                    tracing::info!("the store tells its policies");
                }
                if known.are(&answer) {
                    return;
                }
                match Policies::read(answer) {
                    Ok(policies) => {
                        tracing::info!(revision = policies.revision, "going by these policies of the store");
                        views.follow(policies);
                    }
                    Err(error) => tracing::error!(%error, "the store's policies cannot be read: the ones before hold"),
                }
            }
            Err(error) if self.reachable.swap(false, Ordering::Relaxed) => {
                tracing::warn!(error, "the store does not tell its policies: the ones before hold");
            }
            Err(error) if known.revision.is_none() => {
                tracing::warn!(
                    error,
                    "the store's policies are not known: every endpoint is of severity high, and fails closed"
                );
            }
            Err(error) => tracing::debug!(error, "the store does not tell its policies"),
        }
    }
}

/// Asks the store for its policies, again and again.
pub(super) async fn policies(store: Arc<Store>, views: Arc<Views>) {
    loop {
        tokio::time::sleep(Duration::from_millis(views.now().settings.policies_every.ms())).await;
        store.refresh(&views).await;
    }
}

/// Asks the upstreams that have a `health_path` how they are, again and again.
pub(super) async fn health(proxy: Proxy, views: Arc<Views>) {
    loop {
        let view = views.now();
        let asked = view.table.routes().iter().filter(|route| route.said.health_path.is_some());
        futures_util::future::join_all(asked.map(|route| ask_health(&proxy, route))).await;
        tokio::time::sleep(Duration::from_millis(view.settings.health_every.ms())).await;
    }
}

async fn ask_health(proxy: &Proxy, route: &Route) {
    let path = route.said.health_path.as_deref().and_then(|path| PathAndQuery::try_from(path).ok());
    let Some(path) = path else { return };
    let addresses = route.addresses.all(crate::clock::monotonic());
    let ask = async |at: usize| {
        let mut request = Request::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
        let Some(target) = route.addresses.target(at, path.clone()) else { return };
        (*request.method_mut(), *request.uri_mut()) = (Method::GET, target);
        *request.version_mut() = if route.said.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        let answer = proxy.send(request, HEALTH_LIMIT).await;
        let status = answer.and_then(Result::ok).map(|response| response.status());
        route.addresses.said(at, status.as_ref().is_some_and(StatusCode::is_success));
    };
    futures_util::future::join_all((0..addresses.len()).map(ask)).await;
}

/// Reads a settings file.
///
/// # Errors
/// When it cannot be read, or something in it has no meaning.
pub(super) fn read(path: &Path) -> Result<(String, Settings), Wrong> {
    let unreadable = |error: std::io::Error| Wrong(format!("cannot read {}: {error}", path.display()));
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE_BYTES {
        return Err(Wrong(format!("{} is larger than {MAX_FILE_BYTES} bytes: is it another file?", path.display())));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let settings = Settings::parse(&path.display().to_string(), &text)?;
    Ok((text, settings))
}

/// Goes by a settings file whenever it changes, and looks at it at once on SIGHUP. A bad one is refused, and what was holds.
pub(super) async fn file(path: PathBuf, mut seen: String, views: Arc<Views>, said: Said, mut hangup: Signal) {
    let mut stamp = None;
    loop {
        let told = tokio::select! {
            _ = hangup.recv() => true,
            () = tokio::time::sleep(FILE_PERIOD) => false,
        };
        let found = std::fs::metadata(&path).ok().map(|found| (found.len(), found.modified().ok()));
        if found == stamp && !told {
            continue;
        }
        stamp = found;
        let looked = path.clone();
        let read = tokio::task::spawn_blocking(move || read(&looked)).await;
        let reloaded = match read {
            Ok(Ok((text, _))) if text == seen && !told => continue,
            Ok(Ok((text, settings))) => {
                seen = text;
                views.reload(said.over(settings))
            }
            Ok(Err(error)) => Err(error),
            Err(error) => Err(Wrong(error.to_string())),
        };
        match reloaded {
            Ok(()) => {
                tracing::info!(file = %path.display(), routes = views.now().table.routes().len(), "going by the changed settings")
            }
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "the changed settings are refused: the ones before hold")
            }
        }
    }
}
