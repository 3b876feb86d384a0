//! `holdfast server`: a node as its settings say.

use std::path::PathBuf;

use crate::cli::exit::{Exit, Problem};
use crate::cli::serve::serve;
use crate::cli::settings::{Settings, file, resolve};
use crate::telemetry;

/// Flags of `holdfast server`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  holdfast server --config /etc/holdfast.toml
  HOLDFAST_DATA_DIR=/var/lib/holdfast HOLDFAST_REGION=eu holdfast server
  holdfast server --data-dir /var/lib/holdfast --region-file /etc/holdfast/region.toml --node-id 2
  holdfast server --data-dir /var/lib/holdfast --node-id 4 --join 10.0.0.1:7401 --peer-listen 10.0.0.4:7401

A setting is taken from its flag, else from its environment variable, else from the file, else it has its default.
SIGTERM ends the node after the requests in flight; a second one ends it at once.")]
pub(crate) struct Server {
    /// Settings file (TOML, with the names below and _ for -)
    #[arg(long, env = "HOLDFAST_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten, next_help_heading = "Settings")]
    settings: Settings,
}

/// Runs the node to its end.
pub(crate) fn run(server: Server) -> Result<Exit, Problem> {
    let file = match &server.config {
        Some(path) => file::read(path).map_err(Problem::usage)?,
        None => Settings::default(),
    };
    let resolved = resolve::resolve(server.settings.or(file)).map_err(Problem::usage)?;
    telemetry::init(resolved.log, resolved.log_format).map_err(anyhow::Error::new)?;
    let node_id = resolved.node.node_id;
    serve(resolved.node, |node| {
        let (address, region) = (node.local_addr(), node.region());
        tracing::info!(%address, %region, node_id, version = env!("CARGO_PKG_VERSION"), "serving");
        Ok(())
    })
}
