//! From what was written down to what a node starts with: everything is checked here, before anything is opened.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_client::keys;

use crate::cli::settings::file::FileError;
use crate::cli::settings::{Settings, bounds, origin};
use crate::ids::{PartitionCount, RegionName};
use crate::node::settings::NodeSettings;
use crate::telemetry::{LogFilter, LogFormat};

/// Homes of a cluster: each is a name in keys for ever, and there are as many as sites.
const MAX_HOMES: usize = 64;

/// What a node process starts with.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// The node.
    pub(crate) node: NodeSettings,
    /// What it logs.
    pub(crate) log: LogFilter,
    /// How its log looks.
    pub(crate) log_format: LogFormat,
}

/// Why settings were refused. A pair that does not go together is named with both values.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// A setting without a default was not set.
    #[error("{name} is not set: write it in the settings file, or set --{} or HOLDFAST_{}", name.replace('_', "-"), name.to_uppercase())]
    Missing {
        /// The setting.
        name: &'static str,
    },
    /// A number is out of bounds.
    #[error("{name} = {got} is out of bounds: at least {} and at most {}", bounds.least, bounds.most)]
    OutOfBounds {
        /// The setting.
        name: &'static str,
        /// Its value.
        got: u64,
        /// Its bounds.
        bounds: bounds::Bounds,
    },
    /// A value does not parse.
    #[error("{name} = {got:?}: {why}")]
    Value {
        /// The setting.
        name: &'static str,
        /// Its value.
        got: String,
        /// What is wrong, and what to write.
        why: String,
    },
    /// The node would be reachable from other machines, and nobody said that it may.
    #[error(
        "{name} = {listen} is reachable from other machines and insecure = false: nothing is encrypted and nobody has to \
         authenticate, so listen on 127.0.0.1, or set insecure = true (--insecure) where the network keeps others out"
    )]
    Exposed {
        /// The setting.
        name: &'static str,
        /// Where it would listen.
        listen: SocketAddr,
    },
    /// Others are told no address that they could connect to.
    #[error(
        "{name} = {listen} is every address of this machine, and {setting} is not set: name the HOST:PORT that others connect to"
    )]
    Nowhere {
        /// The setting.
        name: &'static str,
        /// Its value.
        listen: SocketAddr,
        /// The setting that is missing.
        setting: &'static str,
    },
    /// The region file is wrong.
    #[error(transparent)]
    RegionFile(#[from] FileError),
    /// The region file says something else.
    #[error("{name} = {said}, and the region file has {planned}: leave {name} out, or correct one of them")]
    AgainstRegionFile {
        /// The setting.
        name: &'static str,
        /// Its value.
        said: String,
        /// The region file's.
        planned: String,
    },
    /// The node is none of those that make the region.
    #[error(
        "node_id = {node_id}, and the region file has {}: set one of these, or --join for a node that comes later",
        list(known)
    )]
    NoFounder {
        /// The node.
        node_id: u64,
        /// Those in the file.
        known: Vec<u64>,
    },
    /// Nobody to join, or too many.
    #[error("join has {got} addresses: name 1 to {most}")]
    JoinCount {
        /// How many there are.
        got: usize,
        /// The most.
        most: usize,
    },
    /// The region is none of the homes.
    #[error("region = {region:?} is none of homes = {homes:?}: add it to homes, or correct one of the two")]
    RegionIsNoHome {
        /// The region.
        region: String,
        /// The homes.
        homes: Vec<String>,
    },
    /// A home is listed twice.
    #[error("homes = {homes:?} lists {twice:?} twice: name each home once")]
    HomeTwice {
        /// The homes.
        homes: Vec<String>,
        /// The one that is listed twice.
        twice: String,
    },
    /// No home, or too many.
    #[error("homes has {got} names: name 1 to {most} homes, or leave it out for the region alone")]
    HomeCount {
        /// How many names there are.
        got: usize,
        /// The most.
        most: usize,
    },
}

/// Checks the settings of all sources together, defaults included.
///
/// # Errors
/// The first setting, or pair of settings, that is wrong.
pub(crate) fn resolve(settings: Settings) -> Result<Resolved, SettingsError> {
    let plan = origin::plan(&settings)?;
    let addresses = origin::addresses(&settings, plan.as_ref())?;
    let exposed = [("listen", Some(addresses.listen)), ("peer_listen", addresses.peer_listen)];
    for (name, listen) in exposed.into_iter().filter_map(|(name, listen)| Some((name, listen?))) {
        if !listen.ip().is_loopback() && !settings.insecure.unwrap_or_default() {
            return Err(SettingsError::Exposed { name, listen });
        }
    }
    let origin = origin::origin(&settings, plan)?;
    let settings = settings.or(Settings::defaults());
    let node = NodeSettings {
        data_dir: data_dir(required("data_dir", settings.data_dir)?)?,
        listen: addresses.listen,
        peer_listen: addresses.peer_listen,
        advertise: addresses.advertise,
        peer_advertise: addresses.peer_advertise,
        node_id: bounded("node_id", settings.node_id)?,
        origin,
        severity: parsed("severity", settings.severity)?,
        max_envelope_body_bytes: size("max_envelope_body_bytes", settings.max_envelope_body_bytes)?,
        max_connections: size("max_connections", settings.max_connections)?,
        drain: Duration::from_millis(bounded("drain_ms", settings.drain_ms)?),
        min_free_disk_bytes: bounded("min_free_disk_bytes", settings.min_free_disk_bytes)?,
        accept_clock_jump: settings.accept_clock_jump.unwrap_or_default(),
        block_cache_bytes: size("block_cache_bytes", settings.block_cache_bytes)?,
        write_buffer_bytes: size("write_buffer_bytes", settings.write_buffer_bytes)?,
    };
    Ok(Resolved { node, log: parsed("log", settings.log)?, log_format: parsed("log_format", settings.log_format)? })
}

fn list(nodes: &[u64]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

pub(super) fn required<T>(name: &'static str, value: Option<T>) -> Result<T, SettingsError> {
    value.ok_or(SettingsError::Missing { name })
}

pub(super) fn bounded(name: &'static str, value: Option<u64>) -> Result<u64, SettingsError> {
    let got = required(name, value)?;
    match bounds::of(name) {
        Some(bounds) if !(bounds.least..=bounds.most).contains(&got) => {
            Err(SettingsError::OutOfBounds { name, got, bounds })
        }
        Some(_) | None => Ok(got),
    }
}

fn size(name: &'static str, value: Option<u64>) -> Result<usize, SettingsError> {
    let got = bounded(name, value)?;
    usize::try_from(got).map_err(|_| SettingsError::Value {
        name,
        got: got.to_string(),
        why: "this machine cannot address that many".to_owned(),
    })
}

fn parsed<T>(name: &'static str, value: Option<String>) -> Result<T, SettingsError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let got = required(name, value)?;
    got.parse().map_err(|error: T::Err| SettingsError::Value { name, why: error.to_string(), got })
}

fn data_dir(path: PathBuf) -> Result<PathBuf, SettingsError> {
    if path.as_os_str().is_empty() {
        return Err(SettingsError::Missing { name: "data_dir" });
    }
    Ok(path)
}

pub(super) fn partition_count(count: u64) -> Result<PartitionCount, SettingsError> {
    // The bounds are those of the type, so this holds.
    u16::try_from(count).ok().and_then(PartitionCount::new).ok_or(SettingsError::Missing { name: "partitions" })
}

pub(super) fn check_homes(region: &str, homes: &[String]) -> Result<Vec<RegionName>, SettingsError> {
    if homes.is_empty() || homes.len() > MAX_HOMES {
        return Err(SettingsError::HomeCount { got: homes.len(), most: MAX_HOMES });
    }
    let names = homes.iter().map(|name| home("homes", name)).collect::<Result<Vec<_>, _>>()?;
    let mut seen = std::collections::BTreeSet::new();
    if let Some(twice) = homes.iter().find(|name| !seen.insert(name.as_str())) {
        return Err(SettingsError::HomeTwice { homes: homes.to_vec(), twice: twice.clone() });
    }
    if !seen.contains(region) {
        return Err(SettingsError::RegionIsNoHome { region: region.to_owned(), homes: homes.to_vec() });
    }
    Ok(names)
}

/// A region's name that keys can bear too: what no key could name would be a home that is out of reach.
pub(super) fn home(name: &'static str, got: &str) -> Result<RegionName, SettingsError> {
    let refused = |why: String| SettingsError::Value { name, got: got.to_owned(), why };
    if !keys::is_home(got) {
        return Err(refused("a region's name is 1 to 32 of a-z 0-9 and -, with no hyphen at its ends".to_owned()));
    }
    RegionName::parse(got).map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::settings::Origin;

    fn valid() -> Settings {
        Settings { data_dir: Some("/d".into()), region: Some("eu".to_owned()), ..Settings::default() }
    }

    #[test]
    fn two_settings_make_a_node() -> anyhow::Result<()> {
        let resolved = resolve(valid())?;
        let Origin::Alone(shape) = resolved.node.origin else { anyhow::bail!("it is alone") };
        assert_eq!(shape.partitions.get().get(), crate::limits::DEFAULT_PARTITIONS);
        assert_eq!(shape.homes, [RegionName::parse("eu")?]);
        assert_eq!(resolved.node.drain, Duration::from_secs(10));
        assert_eq!(resolved.node.block_cache_bytes, 134_217_728);
        assert_eq!(resolved.log_format, LogFormat::Text);
        Ok(())
    }

    /// Every wrong setting, and what the refusal has to name.
    #[test]
    fn wrong_settings_are_refused_with_their_values() {
        let names = |list: &[&str]| Some(list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let text = |text: &str| Some(text.to_owned());
        let cases: Vec<(Settings, &[&str])> = vec![
            (Settings { data_dir: None, ..valid() }, &["data_dir is not set", "--data-dir", "HOLDFAST_DATA_DIR"]),
            (Settings { data_dir: Some("".into()), ..valid() }, &["data_dir is not set"]),
            (Settings { region: None, ..valid() }, &["region is not set", "HOLDFAST_REGION"]),
            (Settings { region: text("EU"), ..valid() }, &["homes = \"EU\"", "a-z 0-9"]),
            (Settings { region: text("eu-"), ..valid() }, &["\"eu-\"", "no hyphen at its ends"]),
            (
                Settings { listen: "0.0.0.0:7400".parse().ok(), ..valid() },
                &["listen = 0.0.0.0:7400 is reachable from other machines and insecure = false:", "--insecure"],
            ),
            (
                Settings { listen: "[2001:db8::1]:7400".parse().ok(), insecure: Some(false), ..valid() },
                &["listen = [2001:db8::1]:7400", "insecure = false"],
            ),
            (
                Settings { peer_listen: "10.0.0.1:7401".parse().ok(), ..valid() },
                &["peer_listen = 10.0.0.1:7401 is reachable from other machines", "insecure = false"],
            ),
            (Settings { region_file: Some("/missing".into()), ..valid() }, &["cannot read /missing"]),
            (Settings { node_id: Some(0), ..valid() }, &["node_id = 0", "at least 1"]),
            (Settings { partitions: Some(0), ..valid() }, &["partitions = 0", "at least 1 and at most 1024"]),
            (Settings { partitions: Some(1_025), ..valid() }, &["partitions = 1025", "1024"]),
            (
                Settings { max_envelope_body_bytes: Some(1_048_577), ..valid() },
                &["max_envelope_body_bytes = 1048577", "at most 1048576"],
            ),
            (Settings { max_envelope_body_bytes: Some(0), ..valid() }, &["max_envelope_body_bytes = 0", "1024"]),
            (Settings { max_connections: Some(0), ..valid() }, &["max_connections = 0", "at least 1"]),
            (Settings { drain_ms: Some(600_001), ..valid() }, &["drain_ms = 600001", "600000"]),
            (Settings { min_free_disk_bytes: Some(u64::MAX), ..valid() }, &["min_free_disk_bytes", "1099511627776"]),
            (Settings { block_cache_bytes: Some(128), ..valid() }, &["block_cache_bytes = 128", "1048576"]),
            (Settings { write_buffer_bytes: Some(96), ..valid() }, &["write_buffer_bytes = 96", "4194304"]),
            (Settings { homes: names(&[]), ..valid() }, &["homes has 0 names"]),
            (Settings { homes: names(&["us", "ap"]), ..valid() }, &["region = \"eu\"", "homes = [\"us\", \"ap\"]"]),
            (Settings { homes: names(&["eu", "us", "us"]), ..valid() }, &["[\"eu\", \"us\", \"us\"]", "\"us\" twice"]),
            (Settings { homes: names(&["eu", "a b"]), ..valid() }, &["homes = \"a b\"", "a-z 0-9"]),
            (Settings { severity: text("urgent"), ..valid() }, &["severity = \"urgent\""]),
            (Settings { log: text("holdfast=loud"), ..valid() }, &["log = \"holdfast=loud\""]),
            (Settings { log_format: text("xml"), ..valid() }, &["log_format = \"xml\"", "text or json"]),
        ];
        for (settings, expected) in cases {
            let described = format!("{settings:?}");
            let message = resolve(settings).map_or_else(|error| error.to_string(), |_| "accepted".to_owned());
            for part in expected {
                assert!(message.contains(part), "{described}\nanswers: {message}\nwithout: {part}");
            }
        }
    }

    #[test]
    fn what_is_said_to_be_insecure_may_listen_anywhere() {
        let settings = Settings { listen: "0.0.0.0:7400".parse().ok(), insecure: Some(true), ..valid() };
        assert!(resolve(settings).is_ok());
    }
}
