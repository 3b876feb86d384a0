//! A workload as nodes' pages of metrics show it.
//!
//! Records are counted by every node that applies them, so one node's counters say what the region stores. Replays are counted
//! by the node that answered them, so those of all nodes add up.

use std::collections::BTreeMap;

use crate::cli::ctl::plan::pages::Look;
use crate::cli::ctl::plan::scrape::{Page, Sample};
use crate::ids::{EndpointName, PartitionCount};
use crate::limits;
use crate::plan::carried::ENTRIES;
use crate::plan::file;
use crate::plan::workload::{Endpoint, Workload};
use crate::policy::Severity;
use crate::telemetry::metrics::{OTHER, table};
use crate::time::Span;

const DAY_S: f64 = 86_400.0;

/// What no page says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Assumed {
    /// How much busier than what is seen the busiest moment is.
    pub(super) peak_factor: f64,
    /// How long records are kept, in milliseconds, if somebody said so.
    pub(super) retention_ms: Option<u64>,
}

/// What pages show.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    /// The workload.
    pub(super) workload: Workload,
    /// What a node has now.
    pub(super) now: Now,
    /// What was assumed, and what the pages do not say.
    pub(super) notes: Vec<String>,
}

/// What a node has now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Now {
    /// Which node.
    pub(super) node_id: u64,
    /// Records at least, by RocksDB's estimate of its entries: each has three.
    pub(super) records_at_least: u64,
    /// Records at most: until it is merged, the mark of a key that is no longer held takes one off the estimate.
    pub(super) records_at_most: u64,
    /// Bytes of tables and blob files.
    pub(super) stored_bytes: u64,
    /// Bytes of writes that are in memory, and not in tables yet.
    pub(super) unwritten_bytes: u64,
    /// Resident bytes.
    pub(super) resident_bytes: u64,
}

/// The looks at one node: the last one, and what its counters are compared with.
struct Seen<'a> {
    node_id: u64,
    last: &'a Page,
    /// None: zero, when the process started.
    first: Option<&'a Page>,
    seconds: f64,
}

/// What happened at an endpoint, a second.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    created: f64,
    completed: f64,
    envelope_bytes: f64,
}

impl Observed {
    /// Reads looks at the nodes of one region.
    ///
    /// # Errors
    /// When they are not of a region's nodes, do not fit each other, or say nothing.
    pub(super) fn of(looks: &[Look], assumed: Assumed) -> Result<Self, String> {
        let nodes = nodes(looks)?;
        let applied = nodes.iter().map(|node| (node, node.applied()));
        let total = |rates: &BTreeMap<String, Rates>| rates.values().map(|rates| rates.created).sum::<f64>();
        let most = applied.max_by(|(_, one), (_, other)| total(one).total_cmp(&total(other)));
        let (busiest, rates) = most.ok_or("no page was given")?;
        if total(&rates) <= 0.0 {
            return Err(format!(
                "no key was granted in the {}: plan from a file, or look for longer",
                busiest.window()
            ));
        }
        let mut notes = vec![format!(
            "rates are those of {}; the busiest moment is taken to be {} times that: --peak-factor",
            busiest.window(),
            assumed.peak_factor
        )];
        let largest = |name| nodes.iter().filter_map(|node| node.last.largest(name)).fold(0.0, f64::max) as u64;
        let voters = largest(table::RAFT_VOTERS.name).max(1);
        if (nodes.len() as u64) < voters {
            let text = format!(
                "the region has {voters} nodes, and the pages are of {}: replays by others are not counted",
                nodes.len()
            );
            notes.push(text);
        }
        let endpoints = endpoints(&nodes, &rates, assumed, &mut notes)?;
        let workload = Workload {
            nodes: voters.min(*file::NODES.end()),
            partitions: busiest.partitions(),
            headroom: file::DEFAULT_HEADROOM,
            growth: file::DEFAULT_GROWTH,
            sessions: false,
            connections: file::DEFAULT_CONNECTIONS,
            block_cache_bytes: None,
            write_buffer_bytes: None,
            endpoints,
        };
        let now = nodes.iter().map(Seen::now).max_by_key(|now| now.records_at_least).ok_or("no page was given")?;
        Ok(Self { workload, now, notes })
    }
}

/// The looks, by node.
fn nodes(looks: &[Look]) -> Result<Vec<Seen<'_>>, String> {
    let mut by_node: BTreeMap<u64, Vec<&Look>> = BTreeMap::new();
    let mut cluster: Option<(&str, &str)> = None;
    for look in looks {
        let info = look.page.of(table::NODE_INFO.name).next();
        let node_id = info.and_then(|info| info.label("node_id").parse().ok());
        let (Some(info), Some(node_id)) = (info, node_id) else {
            return Err(format!("{} has no {}: it is no page of a Holdfast node", look.place, table::NODE_INFO.name));
        };
        let name = info.label("cluster_id");
        let (known, place) = *cluster.get_or_insert((name, look.place.as_str()));
        if known != name {
            return Err(format!("{place} is of cluster {known}, and {} of {name}: plan each by itself", look.place));
        }
        by_node.entry(node_id).or_default().push(look);
    }
    by_node.into_iter().map(|(node_id, looks)| Seen::of(node_id, looks)).collect()
}

/// When a page was written, in seconds since the Unix epoch: of a file, as its log time says.
fn written(look: &Look) -> Result<f64, String> {
    let at = look.at_unix_ms.map(|ms| ms as f64 / 1_000.0);
    let at = at.or_else(|| look.page.largest(table::LOG_TIME.name)).filter(|at| *at > 0.0);
    at.ok_or_else(|| format!("{} has no {}: save the whole page", look.place, table::LOG_TIME.name))
}

fn started(look: &Look) -> Result<f64, String> {
    let start = look.page.sum(table::PROCESS_START.name);
    start.ok_or_else(|| format!("{} has no {}: save the whole page", look.place, table::PROCESS_START.name))
}

impl<'a> Seen<'a> {
    fn of(node_id: u64, looks: Vec<&'a Look>) -> Result<Self, String> {
        let mut timed = looks.into_iter().map(|look| Ok((written(look)?, look))).collect::<Result<Vec<_>, String>>()?;
        timed.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let (Some((begun, first)), Some((ended, last))) = (timed.first().copied(), timed.last().copied()) else {
            return Err("no page was given".to_owned());
        };
        let alone = timed.len() == 1;
        let since = if alone { started(last)? } else { begun };
        if !alone && (started(first)? - started(last)?).abs() > 1.0 {
            return Err(format!(
                "node {node_id} was started anew between {} and {}: look again",
                first.place, last.place
            ));
        }
        let (seconds, least) = (ended - since, limits::MIN_RATE_WINDOW_MS as f64 / 1_000.0);
        if seconds < least {
            let what = match alone {
                true => format!("node {node_id} started {seconds:.0} s ago"),
                false => format!("the looks at node {node_id} are {seconds:.0} s apart"),
            };
            return Err(format!("{what}: rates need {least:.0} s or more (--over 60s, or two files)"));
        }
        let first = (!alone).then_some(&first.page);
        Ok(Self { node_id, last: &last.page, first, seconds })
    }

    /// The time that is looked at.
    fn window(&self) -> String {
        let span = Span::from_ms((self.seconds.round() as u64).saturating_mul(1_000));
        match self.first {
            Some(_) => format!("{span} between two looks at node {}", self.node_id),
            None => format!("{span} since node {} started", self.node_id),
        }
    }

    /// How much the samples of a metric grew, a second, each with what `key` makes of it.
    fn growth<K: Ord>(&self, metric: &str, key: impl Fn(&Sample) -> Option<K>) -> BTreeMap<K, f64> {
        let mut growth = BTreeMap::new();
        let mut add = |page: &Page, sign: f64| {
            for sample in page.of(metric) {
                if let Some(key) = key(sample) {
                    *growth.entry(key).or_insert(0.0) += sign * sample.value;
                }
            }
        };
        add(self.last, 1.0);
        if let Some(first) = self.first {
            add(first, -1.0);
        }
        growth
            .into_iter()
            .map(|(key, value)| (key, value / self.seconds))
            .filter(|(_, rate)| rate.is_finite())
            .collect()
    }

    /// What was stored, by endpoint, tenants together.
    fn applied(&self) -> BTreeMap<String, Rates> {
        let mut rates: BTreeMap<String, Rates> = BTreeMap::new();
        let changes = self.growth(table::APPLIED_RECORDS.name, |sample| {
            Some((sample.label("endpoint").to_owned(), sample.label("change").to_owned()))
        });
        for ((endpoint, change), rate) in changes {
            let rates = rates.entry(endpoint).or_default();
            match change.as_str() {
                "created" => rates.created += rate,
                "completed" => rates.completed += rate,
                _ => {}
            }
        }
        let bytes = self.growth(table::APPLIED_ENVELOPE_BYTES.name, |sample| Some(sample.label("endpoint").to_owned()));
        for (endpoint, rate) in bytes {
            rates.entry(endpoint).or_default().envelope_bytes += rate;
        }
        rates
    }

    fn replays(&self) -> BTreeMap<String, f64> {
        self.growth(table::RESERVES.name, |sample| {
            (sample.label("outcome") == "replay").then(|| sample.label("endpoint").to_owned())
        })
    }

    fn partitions(&self) -> Option<PartitionCount> {
        let count = self.last.of(table::PARTITION_SERVING.name).count();
        u16::try_from(count).ok().and_then(PartitionCount::new)
    }

    fn now(&self) -> Now {
        let sum = |name| self.last.sum(name).unwrap_or_default();
        let stored = sum(table::STORE_TABLE_BYTES.name) + sum(table::STORE_BLOB_BYTES.name);
        Now {
            node_id: self.node_id,
            records_at_least: (sum(table::STORE_KEYS.name) / ENTRIES) as u64,
            records_at_most: (sum(table::STORE_KEYS.name) / (ENTRIES - 1.0)) as u64,
            stored_bytes: stored as u64,
            unwritten_bytes: sum(table::STORE_MEMORY_BYTES.name) as u64,
            resident_bytes: sum(table::PROCESS_RSS.name) as u64,
        }
    }
}

/// The endpoints that had new keys.
fn endpoints(
    nodes: &[Seen<'_>],
    rates: &BTreeMap<String, Rates>,
    assumed: Assumed,
    notes: &mut Vec<String>,
) -> Result<Vec<Endpoint>, String> {
    let mut replays: BTreeMap<String, f64> = BTreeMap::new();
    for (endpoint, rate) in nodes.iter().flat_map(Seen::replays) {
        *replays.entry(endpoint).or_default() += rate;
    }
    let severities = severities(nodes);
    let mut endpoints = Vec::new();
    let mut kept: BTreeMap<String, u64> = BTreeMap::new();
    for (name, rates) in rates.iter().filter(|(_, rates)| rates.created > 0.0) {
        if name == OTHER {
            notes.push(format!(
                "the keys of {OTHER} are those of endpoints that had no room among the labels of metrics"
            ));
        }
        if rates.completed <= 0.0 {
            return Err(format!(
                "no key of {name} was completed in that time, so its responses are unknown: look for longer"
            ));
        }
        let severity = severities.get(name).copied();
        if severity.is_none() && assumed.retention_ms.is_none() {
            notes.push(format!("no page says which severity keys of {name} have: it is taken for {}", Severity::High));
        }
        let terms = severity.unwrap_or(Severity::High).terms();
        kept.insert(severity.unwrap_or(Severity::High).to_string(), terms.retention_ms);
        let envelope_bytes = (rates.envelope_bytes / rates.completed).round() as u64;
        let most = *limits::PLANNED_KEYS_PER_DAY.end() as f64;
        let replays = replays.get(name).copied().unwrap_or_default() / rates.created;
        endpoints.push(Endpoint {
            name: EndpointName::parse(name).map_err(|error| format!("the endpoint {name:?} of a page: {error}"))?,
            keys_per_day: (rates.created * DAY_S).round().clamp(1.0, most),
            peak_factor: assumed.peak_factor,
            replays_per_key: ((replays * 100.0).round() / 100.0).clamp(0.0, *limits::PLANNED_REPLAYS.end()),
            key_bytes: file::DEFAULT_KEY_BYTES,
            envelope_bytes: envelope_bytes.clamp(*file::ENVELOPE_BYTES.start(), *file::ENVELOPE_BYTES.end()),
            compresses_to: 1.0,
            retention_ms: assumed.retention_ms.unwrap_or(terms.retention_ms),
            lease_ms: u64::from(terms.lease_ms),
        });
    }
    if assumed.retention_ms.is_none() {
        let kept = kept.iter().map(|(name, ms)| format!("{} ({name})", Span::from_ms(*ms))).collect::<Vec<_>>();
        notes
            .push(format!("records are taken to be kept for {}, the severity's default: --retention", kept.join(", ")));
    }
    Ok(endpoints)
}

/// The severity that most keys of each endpoint have.
fn severities(nodes: &[Seen<'_>]) -> BTreeMap<String, Severity> {
    let mut counts: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
    for sample in nodes.iter().flat_map(|node| node.last.of(table::RESERVES.name)) {
        let by_name = counts.entry(sample.label("endpoint").to_owned()).or_default();
        *by_name.entry(sample.label("severity").to_owned()).or_default() += sample.value;
    }
    let most = |by_name: &BTreeMap<String, f64>| {
        let most = by_name.iter().max_by(|(_, one), (_, other)| one.total_cmp(other));
        most.and_then(|(name, _)| name.parse::<Severity>().ok())
    };
    counts.iter().filter_map(|(endpoint, by_name)| Some((endpoint.clone(), most(by_name)?))).collect()
}
