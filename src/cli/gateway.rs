//! `holdfast gateway`: the reverse proxy, in front of a store that is there or with one of its own.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::cli::dev::TemporaryDir;
use crate::cli::exit::{Exit, Problem};
use crate::cli::output;
use crate::cli::serve::{Signals, interrupt, not_started, runtime};
use crate::cli::settings::{Settings, resolve};
use crate::control::state::Tenants;
use crate::gateway::{self, GatewayError, Said, Start};
use crate::limits;
use crate::node::Node;
use crate::node::settings::NodeSettings;
use crate::policy::Severity;
use crate::telemetry::{self, LogFormat};

/// Flags of `holdfast gateway`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  holdfast gateway --embedded --upstream http://127.0.0.1:9000
  holdfast gateway --embedded --upstream http://127.0.0.1:9000 --listen 0.0.0.0:8080 --data-dir ./holdfast-data
  holdfast gateway --config /etc/holdfast/gateway.toml
  holdfast gateway --config gateway.toml --embedded

A changed file is followed; SIGHUP has it read at once. SIGTERM or Ctrl-C ends the gateway after the requests in flight; a second
one ends it at once.")]
#[command(group = clap::ArgGroup::new("routes").args(["config", "upstream"]).required(true))]
pub(crate) struct Gateway {
    /// Settings file (TOML): docs/reference/gateway.md has every setting
    #[arg(long, env = "HOLDFAST_GATEWAY_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where everything goes, without a settings file. Several addresses, with commas between, each have their turn
    #[arg(long, value_name = "URL", value_delimiter = ',', conflicts_with = "config")]
    upstream: Vec<String>,

    /// Run a store in this process, of one node and on this machine only, in place of the nodes of the settings
    #[arg(long)]
    embedded: bool,

    /// The store's nodes, with commas between, in place of those of the settings
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', conflicts_with = "embedded")]
    nodes: Vec<String>,

    /// Address and port for clients, in place of the setting's. Port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,

    /// Address and port of `/healthz` and `/metrics`, in place of the setting's. Port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin_listen: Option<SocketAddr>,

    /// Directory of the store in this process, kept at exit. Without it: a fresh temporary one, removed at exit
    #[arg(long, value_name = "DIR", requires = "embedded")]
    data_dir: Option<PathBuf>,

    /// How bad a double execution is, for the store in this process: critical, high, medium or low
    #[arg(long, value_name = "CLASS", default_value_t = Severity::High, requires = "embedded")]
    severity: Severity,

    /// What is logged, on stderr: a level, or levels by module
    #[arg(long, value_name = "FILTER", default_value = "warn,holdfast::gateway=info,holdfast::cli=info")]
    log: String,
}

/// The store in this process, before it is started.
struct Embedded {
    settings: NodeSettings,
    data_dir: PathBuf,
    /// Goes with the process.
    temporary: Option<TemporaryDir>,
}

impl Embedded {
    fn new(flags: &Gateway) -> Result<Self, Problem> {
        let temporary = match &flags.data_dir {
            Some(_) => None,
            None => Some(TemporaryDir::make()?),
        };
        let data_dir = temporary.as_ref().map(|dir| dir.path().to_owned()).or_else(|| flags.data_dir.clone());
        let data_dir = data_dir.unwrap_or_default();
        let settings = Settings {
            data_dir: Some(data_dir.clone()),
            // Nobody but this process is meant to ask it.
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            region: Some("local".to_owned()),
            partitions: Some(limits::DEV_PARTITIONS),
            tenants: Some(Tenants::Any.to_string()),
            severity: Some(flags.severity.to_string()),
            ..Settings::default()
        };
        Ok(Self { settings: resolve::resolve(settings).map_err(Problem::usage)?.node, data_dir, temporary })
    }

    fn told(&self) -> String {
        let kept = if self.temporary.is_some() { "temporary: removed at exit" } else { "kept" };
        format!("in this process, data in {} ({kept})", self.data_dir.display())
    }
}

/// Runs the gateway to its end.
pub(crate) fn run(flags: Gateway) -> Result<Exit, Problem> {
    let mut start = match &flags.config {
        Some(path) => Start::from_file(path.clone()).map_err(Problem::usage)?,
        None => Start::catch_all(flags.upstream.clone()),
    };
    telemetry::init(flags.log.parse().map_err(Problem::usage)?, LogFormat::Text).map_err(anyhow::Error::new)?;
    let embedded = flags.embedded.then(|| Embedded::new(&flags)).transpose()?;
    let nodes = (!flags.nodes.is_empty()).then_some(flags.nodes);
    start.said = Said { listen: flags.listen, admin_listen: flags.admin_listen, nodes };
    let runtime = runtime()?;
    let ended = runtime.block_on(serve(start, embedded.as_ref()));
    // A start that a signal ended may still be opening the store: what it does is safe to break off, and is not waited for.
    runtime.shutdown_background();
    ended
}

async fn serve(mut start: Start, embedded: Option<&Embedded>) -> Result<Exit, Problem> {
    let mut signals = Signals::new()?;
    let starting = async {
        let node = match embedded {
            Some(embedded) => Some(Node::start(embedded.settings.clone()).await.map_err(not_started)?),
            None => None,
        };
        if let Some(node) = &node {
            start.said.nodes = Some(vec![node.local_addr().to_string()]);
        }
        match gateway::Gateway::start(start).await {
            Ok(gateway) => Ok((node, gateway)),
            Err(error) => {
                end(node).await;
                Err(refused(error))
            }
        }
    };
    let (node, gateway) = tokio::select! {
        started = starting => started?,
        name = signals.next() => {
            tracing::info!(signal = name, "stopped before the gateway had started");
            return Ok(Exit::Ok);
        }
    };
    let store = embedded.map_or_else(|| format!("at {}", gateway.nodes().join(", ")), Embedded::told);
    output::emit(&welcome(&gateway, &store))?;
    let stopped = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "shutting down: requests in flight are answered first");
            None
        }
        why = stopped(node.as_ref()) => Some(why),
    };
    let ending = async {
        gateway.shutdown().await;
        end(node).await;
    };
    tokio::select! {
        () = ending => {}
        name = signals.next() => interrupt(name),
    }
    match stopped {
        None => Ok(Exit::Ok),
        Some(why) => Err(anyhow::anyhow!("the store in this process stopped for good: {why}").into()),
    }
}

async fn end(node: Option<Node>) {
    if let Some(node) = node {
        node.shutdown().await;
    }
}

/// Why the store in this process stopped; never, without one.
async fn stopped(node: Option<&Node>) -> String {
    match node {
        Some(node) => node.stopped().await,
        None => std::future::pending().await,
    }
}

fn refused(error: GatewayError) -> Problem {
    let exit = match &error {
        GatewayError::Settings(_) => Exit::Usage,
        GatewayError::Listen { .. } | GatewayError::Signals(_) => Exit::Failed,
    };
    Problem { exit, error: error.into() }
}

/// What a developer reads first.
fn welcome(gateway: &gateway::Gateway, store: &str) -> String {
    let mut routes = String::new();
    for (route, upstreams) in gateway.routes() {
        routes.push_str(&format!("  {route} -> {}\n", upstreams.join(", ")));
    }
    format!(
        "\
holdfast {version} gateway serves HTTP/1.1 and HTTP/2 on {address}
health and metrics on {admin}
store {store}

{routes}
A request with an Idempotency-Key is executed once, and every retry gets the first response:

  curl -i http://{address}/ -X POST -H 'Idempotency-Key: order-1' -d 'hello'

Ctrl-C ends it.
",
        version = env!("CARGO_PKG_VERSION"),
        address = gateway.local_addr(),
        admin = gateway.admin_addr(),
    )
}
