//! A node's settings, defined once: the fields of [`Settings`] are the keys of the file, the flags, the environment
//! variables and the rows of docs/reference/configuration.md.
//!
//! A setting is taken from its flag, else its environment variable, else the file, else its default
//! ([`Settings::defaults`]). [`resolve`] then checks them together and makes what a node starts with; [`region`] reads what
//! the nodes of a region have in common.

pub(crate) mod bounds;
pub(crate) mod file;
mod origin;
#[cfg(test)]
mod reference;
pub(crate) mod region;
pub(crate) mod resolve;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args as _;

use crate::limits;
use crate::telemetry::LogFormat;

/// What a node starts with, as it is written down. Absent means: not said here.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Directory of everything that the node stores. Made if absent; one process at a time may have it
    #[arg(long, env = "HOLDFAST_DATA_DIR", hide_env_values = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Address and port of gRPC and HTTP/JSON. Port 0 takes a free one. With a region file: as that says, if not set
    #[arg(long, env = "HOLDFAST_LISTEN", hide_env_values = true, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,

    /// Address and port for the other nodes of the region. With a region file: as that says, if not set. Without either
    /// there are no other nodes
    #[arg(long, env = "HOLDFAST_PEER_LISTEN", hide_env_values = true, value_name = "ADDRESS:PORT")]
    pub(crate) peer_listen: Option<SocketAddr>,

    /// Where clients reach `listen`, if it is not what it says
    #[arg(long, env = "HOLDFAST_ADVERTISE", hide_env_values = true, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,

    /// Where the other nodes of the region reach `peer_listen`, if it is not what it says
    #[arg(long, env = "HOLDFAST_PEER_ADVERTISE", hide_env_values = true, value_name = "HOST:PORT")]
    pub(crate) peer_advertise: Option<String>,

    /// What the nodes have in common that make a region together, in a TOML file that is the same on all of them
    #[arg(long, env = "HOLDFAST_REGION_FILE", hide_env_values = true, value_name = "FILE")]
    pub(crate) region_file: Option<PathBuf>,

    /// Where members of a region that is there listen for other nodes: a new node has them take it in. In the environment
    /// and as a flag: with commas between
    #[arg(long, env = "HOLDFAST_JOIN", hide_env_values = true, value_name = "ADDRESSES", value_delimiter = ',')]
    pub(crate) join: Option<Vec<String>>,

    /// Whether `listen` and `peer_listen` may be reachable from other machines, although nothing is encrypted and nobody
    /// has to authenticate
    #[arg(long, env = "HOLDFAST_INSECURE", hide_env_values = true, value_name = "BOOL")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) insecure: Option<bool>,

    /// Name of the region that the node stands in: 1-32 of `a-z 0-9 -`, no hyphen at its ends. Not needed with
    /// `region_file` or `join`
    #[arg(long, env = "HOLDFAST_REGION", hide_env_values = true, value_name = "NAME")]
    pub(crate) region: Option<String>,

    /// Number of the node, unlike that of any other node that its cluster has or ever had
    #[arg(long, env = "HOLDFAST_NODE_ID", hide_env_values = true, value_name = "NUMBER")]
    pub(crate) node_id: Option<u64>,

    /// Partitions of the key space. Fixed for ever when the cluster is made
    #[arg(long, env = "HOLDFAST_PARTITIONS", hide_env_values = true, value_name = "COUNT")]
    pub(crate) partitions: Option<u16>,

    /// Homes that keys belong to, the same on every node and fixed for ever when the data directory is made; the region
    /// alone if not set. In the environment and as a flag: names with commas between
    #[arg(long, env = "HOLDFAST_HOMES", hide_env_values = true, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) homes: Option<Vec<String>>,

    /// Which tenants may have keys: `registered`, those that `holdfast ctl tenant create` made, or `any`. The same on every
    /// node and fixed for ever when the data directory is made, as it decides where keys are at home
    #[arg(long, env = "HOLDFAST_TENANTS", hide_env_values = true, value_name = "WHICH")]
    pub(crate) tenants: Option<String>,

    /// How bad a double execution is where no policy says: critical, high, medium or low. Picks the lease's lapse and the
    /// retention
    #[arg(long, env = "HOLDFAST_SEVERITY", hide_env_values = true, value_name = "CLASS")]
    pub(crate) severity: Option<String>,

    /// Largest body of a response envelope, in bytes
    #[arg(long, env = "HOLDFAST_MAX_ENVELOPE_BODY_BYTES", hide_env_values = true, value_name = "BYTES")]
    pub(crate) max_envelope_body_bytes: Option<u64>,

    /// Most connections at a time; more wait to be accepted
    #[arg(long, env = "HOLDFAST_MAX_CONNECTIONS", hide_env_values = true, value_name = "COUNT")]
    pub(crate) max_connections: Option<u64>,

    /// How long requests in flight get to end at a shutdown, in milliseconds
    #[arg(long, env = "HOLDFAST_DRAIN_MS", hide_env_values = true, value_name = "MS")]
    pub(crate) drain_ms: Option<u64>,

    /// Free bytes of the data directory's disk under which no new grant is made: completions still need room
    #[arg(long, env = "HOLDFAST_MIN_FREE_DISK_BYTES", hide_env_values = true, value_name = "BYTES")]
    pub(crate) min_free_disk_bytes: Option<u64>,

    /// Whether the node, as it starts, lets log time follow a clock that is over an hour ahead of it. Check the clock
    /// first: records expire by it
    #[arg(long, env = "HOLDFAST_ACCEPT_CLOCK_JUMP", hide_env_values = true, value_name = "BOOL")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) accept_clock_jump: Option<bool>,

    /// Memory for blocks read from disk, in bytes
    #[arg(long, env = "HOLDFAST_BLOCK_CACHE_BYTES", hide_env_values = true, value_name = "BYTES")]
    pub(crate) block_cache_bytes: Option<u64>,

    /// Memory for what is not yet written to the tables on disk, in bytes. It is in the log already
    #[arg(long, env = "HOLDFAST_WRITE_BUFFER_BYTES", hide_env_values = true, value_name = "BYTES")]
    pub(crate) write_buffer_bytes: Option<u64>,

    /// What is logged, on stderr: a level (error, warn, info, debug, trace), or levels by module such as
    /// `info,holdfast::raft=debug`
    #[arg(long, env = "HOLDFAST_LOG", hide_env_values = true, value_name = "FILTER")]
    pub(crate) log: Option<String>,

    /// How a log line looks: text or json
    #[arg(long, env = "HOLDFAST_LOG_FORMAT", hide_env_values = true, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
}

/// The address that a node listens on, and a client asks, unless told otherwise.
pub(crate) const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7400);

impl Settings {
    /// What is taken where nothing is said. `data_dir` and `region` have no default.
    #[must_use]
    pub(crate) fn defaults() -> Self {
        Self {
            data_dir: None,
            listen: Some(DEFAULT_LISTEN),
            peer_listen: None,
            advertise: None,
            peer_advertise: None,
            region_file: None,
            join: None,
            insecure: Some(false),
            region: None,
            node_id: Some(1),
            partitions: Some(limits::DEFAULT_PARTITIONS),
            homes: None,
            tenants: None,
            severity: Some(crate::policy::Severity::High.to_string()),
            max_envelope_body_bytes: u64::try_from(limits::DEFAULT_ENVELOPE_BODY_BYTES).ok(),
            max_connections: u64::try_from(limits::MAX_CONNECTIONS).ok(),
            drain_ms: Some(limits::DEFAULT_DRAIN_MS),
            min_free_disk_bytes: Some(limits::DEFAULT_MIN_FREE_DISK_BYTES),
            accept_clock_jump: Some(false),
            block_cache_bytes: Some(limits::DEFAULT_BLOCK_CACHE_BYTES),
            write_buffer_bytes: Some(limits::DEFAULT_WRITE_BUFFER_BYTES),
            // The consensus library tells of every message that a silent peer does not answer; the node tells once.
            log: Some("info,openraft=error".to_owned()),
            log_format: Some(LogFormat::default().to_string()),
        }
    }

    /// These settings, and `other`'s where these say nothing.
    #[must_use]
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(other.data_dir),
            listen: self.listen.or(other.listen),
            peer_listen: self.peer_listen.or(other.peer_listen),
            advertise: self.advertise.or(other.advertise),
            peer_advertise: self.peer_advertise.or(other.peer_advertise),
            region_file: self.region_file.or(other.region_file),
            join: self.join.or(other.join),
            insecure: self.insecure.or(other.insecure),
            region: self.region.or(other.region),
            node_id: self.node_id.or(other.node_id),
            partitions: self.partitions.or(other.partitions),
            homes: self.homes.or(other.homes),
            tenants: self.tenants.or(other.tenants),
            severity: self.severity.or(other.severity),
            max_envelope_body_bytes: self.max_envelope_body_bytes.or(other.max_envelope_body_bytes),
            max_connections: self.max_connections.or(other.max_connections),
            drain_ms: self.drain_ms.or(other.drain_ms),
            min_free_disk_bytes: self.min_free_disk_bytes.or(other.min_free_disk_bytes),
            accept_clock_jump: self.accept_clock_jump.or(other.accept_clock_jump),
            block_cache_bytes: self.block_cache_bytes.or(other.block_cache_bytes),
            write_buffer_bytes: self.write_buffer_bytes.or(other.write_buffer_bytes),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
        }
    }

    /// The settings as arguments, in the order of the fields: what their names, flags, variables and meanings are read from.
    pub(crate) fn arguments() -> Vec<clap::Arg> {
        Self::augment_args(clap::Command::new("settings")).get_arguments().cloned().collect()
    }

    /// A setting's default as it would be written, if it has one.
    pub(crate) fn default_text(name: &str) -> Option<String> {
        let defaults = serde_json::to_value(Self::defaults()).ok()?;
        let default = defaults.get(name).filter(|default| !default.is_null())?;
        Some(default.as_str().map_or_else(|| default.to_string(), str::to_owned))
    }
}

/// Adds to a setting's help what is written elsewhere: its default and its bounds.
pub(crate) fn annotate(argument: clap::Arg) -> clap::Arg {
    let name = argument.get_id().to_string();
    let mut help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    if let Some(bounds) = bounds::of(&name) {
        help.push_str(&format!(" [bounds: {bounds}]"));
    }
    if let Some(default) = Settings::default_text(&name) {
        help.push_str(&format!(" [default: {default}]"));
    }
    argument.help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_source_wins_setting_by_setting() {
        let flags = Settings { drain_ms: Some(1), ..Settings::default() };
        let file = Settings { drain_ms: Some(2), node_id: Some(7), ..Settings::default() };
        let merged = flags.or(file).or(Settings::defaults());
        assert_eq!(merged.drain_ms, Some(1), "the flag");
        assert_eq!(merged.node_id, Some(7), "the file");
        assert_eq!(merged.listen, Some(DEFAULT_LISTEN), "the default");
    }

    #[test]
    fn every_setting_merges() -> anyhow::Result<()> {
        // Each setting alone, taken from either side: a field left out of `or` would be lost on one of them.
        let all: Settings = serde_json::from_value(serde_json::json!({
            "data_dir": "/d", "listen": "127.0.0.1:1", "peer_listen": "127.0.0.1:2", "advertise": "a:1",
            "peer_advertise": "a:2", "region_file": "/r", "join": ["b:2"], "insecure": true, "region": "r", "node_id": 1, "partitions": 1,
            "homes": ["r"], "tenants": "any", "severity": "low", "max_envelope_body_bytes": 1, "max_connections": 1, "drain_ms": 1,
            "min_free_disk_bytes": 1, "accept_clock_jump": true, "block_cache_bytes": 1, "write_buffer_bytes": 1,
            "log": "info", "log_format": "json",
        }))?;
        let written = serde_json::to_value(&all)?;
        assert!(Settings::arguments().iter().all(|argument| !written[argument.get_id().as_str()].is_null()));
        assert_eq!(all.clone().or(Settings::default()), all);
        assert_eq!(Settings::default().or(all.clone()), all);
        Ok(())
    }

    #[test]
    fn flags_variables_and_fields_have_one_name() {
        for argument in Settings::arguments() {
            let name = argument.get_id().as_str();
            assert_eq!(argument.get_long().map(|long| long.replace('-', "_")).as_deref(), Some(name));
            let variable = argument.get_env().and_then(|env| env.to_str()).unwrap_or_default();
            assert_eq!(variable, format!("HOLDFAST_{}", name.to_uppercase()));
        }
    }
}
