//! A workload as it is written down: a TOML file. What is misspelt, missing or out of bounds is refused, with what to write.
//!
//! docs/guides/capacity.md has the fields; a test compares it with what is read here.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;

use crate::ids::{EndpointName, PartitionCount, meant};
use crate::limits;
use crate::plan::workload::{Endpoint, Workload};
use crate::policy::Severity;
use crate::time::Span;

/// Nodes of a region unless it says.
pub const DEFAULT_NODES: u64 = 3;
/// The part of each machine that stays free unless the file says.
pub const DEFAULT_HEADROOM: f64 = 0.3;
/// How many times as much the partitions have to carry one day, unless the file says.
pub const DEFAULT_GROWTH: f64 = 4.0;
/// Connections of clients to one node unless the file says.
pub const DEFAULT_CONNECTIONS: u64 = 256;
/// How much busier than the mean the busiest moment is unless the file says.
pub const DEFAULT_PEAK_FACTOR: f64 = 4.0;
/// Replays of a key unless the file says.
pub const DEFAULT_REPLAYS: f64 = 0.1;
/// Bytes of tenant and key unless the file says: those of a tagged key, and a short name.
pub const DEFAULT_KEY_BYTES: u64 = 56;

/// Bytes that tenant and key may have together: one of each at least.
pub const KEY_BYTES: RangeInclusive<u64> = 2..=(limits::MAX_TENANT_BYTES + holdfast_client::keys::MAX_KEY_BYTES) as u64;
/// Bytes that a response may have.
pub const ENVELOPE_BYTES: RangeInclusive<u64> = 1..=(limits::MAX_ENVELOPE_BODY_BYTES + limits::MAX_HEADER_BYTES) as u64;
/// Nodes that a region may have.
pub const NODES: RangeInclusive<u64> = 1..=limits::MAX_FOUNDERS as u64;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    nodes: Option<u64>,
    partitions: Option<u64>,
    headroom: Option<f64>,
    growth: Option<f64>,
    sessions: Option<bool>,
    connections: Option<u64>,
    block_cache_bytes: Option<u64>,
    write_buffer_bytes: Option<u64>,
    endpoint: Option<Vec<WrittenEndpoint>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEndpoint {
    name: String,
    keys_per_day: u64,
    envelope_bytes: u64,
    severity: Option<Severity>,
    retention: Option<Span>,
    lease: Option<Span>,
    peak_factor: Option<f64>,
    replays_per_key: Option<f64>,
    key_bytes: Option<u64>,
    compresses_to: Option<f64>,
}

/// Reads a plan's file.
///
/// # Errors
/// Everything that is wrong, in the order in which it is read: where, and what to write.
pub fn parse(text: &str) -> Result<Workload, Vec<String>> {
    let written: Written = toml::from_str(text).map_err(|error| {
        let before = text.bytes().take(error.span().map_or(0, |span| span.start));
        let line = before.filter(|byte| *byte == b'\n').count() + 1;
        vec![format!("line {line}: {}", meant(error.message()))]
    })?;
    let mut check = Check::default();
    let nodes = check.count("nodes", written.nodes.unwrap_or(DEFAULT_NODES), &NODES);
    let workload = Workload {
        nodes,
        partitions: written.partitions.and_then(|count| check.partitions(count)),
        headroom: check.number("headroom", written.headroom.unwrap_or(DEFAULT_HEADROOM), &limits::PLANNED_HEADROOM),
        growth: check.number("growth", written.growth.unwrap_or(DEFAULT_GROWTH), &limits::PLANNED_GROWTH),
        sessions: written.sessions.unwrap_or_default(),
        connections: check.count(
            "connections",
            written.connections.unwrap_or(DEFAULT_CONNECTIONS),
            &limits::CONNECTIONS,
        ),
        block_cache_bytes: written
            .block_cache_bytes
            .map(|bytes| check.count("block_cache_bytes", bytes, &limits::BLOCK_CACHE_BYTES)),
        write_buffer_bytes: written
            .write_buffer_bytes
            .map(|bytes| check.count("write_buffer_bytes", bytes, &limits::WRITE_BUFFER_BYTES)),
        endpoints: check.endpoints(written.endpoint.unwrap_or_default()),
    };
    if check.wrong.is_empty() { Ok(workload) } else { Err(check.wrong) }
}

/// What was found wrong so far.
#[derive(Default)]
struct Check {
    /// The endpoint that is being read.
    endpoint: Option<String>,
    wrong: Vec<String>,
}

impl Check {
    fn wrong(&mut self, why: impl fmt::Display) {
        match &self.endpoint {
            Some(name) => self.wrong.push(format!("endpoint {name:?}: {why}")),
            None => self.wrong.push(why.to_string()),
        }
    }

    fn bounded<T: PartialOrd + fmt::Display>(&mut self, field: &str, value: &T, bounds: &RangeInclusive<T>) {
        if !bounds.contains(value) {
            let (least, most) = (bounds.start(), bounds.end());
            self.wrong(format!("{field} = {value} is out of bounds: write {least} to {most}"));
        }
    }

    fn count(&mut self, field: &str, count: u64, bounds: &RangeInclusive<u64>) -> u64 {
        self.bounded(field, &count, bounds);
        count
    }

    fn number(&mut self, field: &str, number: f64, bounds: &RangeInclusive<f64>) -> f64 {
        self.bounded(field, &number, bounds);
        number
    }

    fn span(&mut self, field: &str, span: Span, bounds: &RangeInclusive<u64>) -> u64 {
        let (least, most) = (Span::from_ms(*bounds.start()), Span::from_ms(*bounds.end()));
        if !bounds.contains(&span.ms()) {
            self.wrong(format!("{field} = \"{span}\" is out of bounds: write \"{least}\" to \"{most}\""));
        }
        span.ms()
    }

    fn partitions(&mut self, count: u64) -> Option<PartitionCount> {
        let (least, most) = (u64::from(*limits::PARTITIONS.start()), u64::from(*limits::PARTITIONS.end()));
        self.bounded("partitions", &count, &(least..=most));
        u16::try_from(count).ok().and_then(PartitionCount::new)
    }

    fn endpoints(&mut self, written: Vec<WrittenEndpoint>) -> Vec<Endpoint> {
        if !(1..=limits::MAX_PLAN_ENDPOINTS).contains(&written.len()) {
            let most = limits::MAX_PLAN_ENDPOINTS;
            self.wrong(format!("there are {} endpoints: write 1 to {most}, each as [[endpoint]]", written.len()));
        }
        let mut names = BTreeSet::new();
        let mut endpoints = Vec::new();
        for written in written.into_iter().take(limits::MAX_PLAN_ENDPOINTS) {
            self.endpoint = Some(written.name.clone());
            if !names.insert(written.name.clone()) {
                self.wrong("is there twice: write it once");
            }
            endpoints.extend(self.one(&written));
        }
        self.endpoint = None;
        endpoints
    }

    fn one(&mut self, written: &WrittenEndpoint) -> Option<Endpoint> {
        if written.severity.is_none() && written.retention.is_none() {
            self.wrong("how long are its records kept? write retention = \"7d\", or the severity whose default it has");
        }
        let terms = written.severity.unwrap_or(Severity::High).terms();
        let retention = written.retention.unwrap_or(Span::from_ms(terms.retention_ms));
        let lease = written.lease.unwrap_or(Span::from_ms(u64::from(terms.lease_ms)));
        let leases = u64::from(*limits::LEASE_MS.start())..=u64::from(*limits::LEASE_MS.end());
        let keys = self.count("keys_per_day", written.keys_per_day, &limits::PLANNED_KEYS_PER_DAY);
        let peak = written.peak_factor.unwrap_or(DEFAULT_PEAK_FACTOR);
        let replays = written.replays_per_key.unwrap_or(DEFAULT_REPLAYS);
        let name = EndpointName::parse(&written.name);
        if let Err(error) = &name {
            self.wrong(error);
        }
        Some(Endpoint {
            keys_per_day: keys as f64,
            peak_factor: self.number("peak_factor", peak, &limits::PLANNED_PEAK),
            replays_per_key: self.number("replays_per_key", replays, &limits::PLANNED_REPLAYS),
            key_bytes: self.count("key_bytes", written.key_bytes.unwrap_or(DEFAULT_KEY_BYTES), &KEY_BYTES),
            envelope_bytes: self.count("envelope_bytes", written.envelope_bytes, &ENVELOPE_BYTES),
            compresses_to: self.number("compresses_to", written.compresses_to.unwrap_or(1.0), &limits::PLANNED_SHARE),
            retention_ms: self.span("retention", retention, &limits::RETENTION_MS),
            lease_ms: self.span("lease", lease, &leases),
            name: name.ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
nodes = 5
partitions = 64
headroom = 0.5
growth = 2
sessions = true
connections = 1_000
block_cache_bytes = 268_435_456
write_buffer_bytes = 201_326_592

[[endpoint]]
name = \"POST /v1/charges\"
keys_per_day = 2_000_000
envelope_bytes = 900
severity = \"critical\"
lease = \"60s\"
peak_factor = 5
replays_per_key = 0.25
key_bytes = 50
compresses_to = 0.6

[[endpoint]]
name = \"POST /v1/notes\"
keys_per_day = 1
envelope_bytes = 1
retention = \"36h\"
";

    fn refusal(text: &str) -> String {
        parse(text).map_or_else(|wrong| wrong.join("\n"), |workload| format!("{workload:?}"))
    }

    #[test]
    fn a_file_says_everything_or_leaves_it_out() {
        let workload = parse(GOOD).unwrap();
        let [charges, notes] = workload.endpoints.as_slice() else { panic!("{workload:?}") };
        assert_eq!((charges.retention_ms, charges.lease_ms), (7 * 86_400_000, 60_000), "critical keeps seven days");
        assert_eq!((charges.peak_factor, charges.compresses_to), (5.0, 0.6));
        assert_eq!((notes.retention_ms, notes.lease_ms, notes.peak_factor), (36 * 3_600_000, 30_000, 4.0));
        assert_eq!((workload.nodes, workload.growth, workload.sessions), (5, 2.0, true));
        assert_eq!(workload.block_cache_bytes, Some(256 << 20));
        let lines = GOOD.lines().skip_while(|line| !line.is_empty());
        let short = parse(&lines.collect::<Vec<_>>().join("\n")).unwrap();
        assert_eq!((short.nodes, short.partitions, short.headroom, short.growth), (3, None, 0.3, 4.0));
    }

    #[test]
    fn the_example_is_one() {
        let workload = parse(include_str!("../../deploy/capacity/payments.toml")).unwrap();
        assert!(workload.endpoints.len() > 1 && workload.partitions.is_none());
    }

    #[test]
    fn the_example_of_the_guide_is_one() {
        let guide = include_str!("../../docs/guides/capacity.md");
        let text = guide.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap_or_default();
        assert_eq!(parse(text).map(|workload| workload.endpoints.len()), Ok(1));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("keys_per_day = 2_000_000", "keys_a_day = 5", "line 12: unknown field `keys_a_day`"),
            ("keys_per_day = 2_000_000", "key_per_day = 5", "did you mean `keys_per_day`?"),
            ("headroom", "head_room", "line 3: unknown field `head_room`"),
            ("head", "haed", "did you mean `headroom`?"),
            ("keys_per_day = 1\n", "", "missing field `keys_per_day`"),
            ("nodes = 5", "nodes = 0", "nodes = 0 is out of bounds: write 1 to 9"),
            ("partitions = 64", "partitions = 70000", "partitions = 70000 is out of bounds: write 1 to 1024"),
            ("headroom = 0.5", "headroom = 1", "headroom = 1 is out of bounds: write 0 to 0.9"),
            ("headroom = 0.5", "headroom = nan", "headroom = NaN is out of bounds"),
            ("growth = 2", "growth = 0.5", "growth = 0.5 is out of bounds: write 1 to 100"),
            ("connections = 1_000", "connections = 0", "connections = 0 is out of bounds"),
            ("block_cache_bytes = 268_435_456", "block_cache_bytes = 5", "block_cache_bytes = 5 is out of bounds"),
            (
                "keys_per_day = 1\n",
                "keys_per_day = 0\n",
                "endpoint \"POST /v1/notes\": keys_per_day = 0 is out of bounds",
            ),
            ("keys_per_day = 1\n", "keys_per_day = -1\n", "line 23: "),
            ("envelope_bytes = 1\n", "envelope_bytes = 2_000_000\n", "envelope_bytes = 2000000 is out of bounds"),
            ("peak_factor = 5", "peak_factor = 0.9", "peak_factor = 0.9 is out of bounds: write 1 to 1000"),
            ("replays_per_key = 0.25", "replays_per_key = -1", "replays_per_key = -1 is out of bounds"),
            ("key_bytes = 50", "key_bytes = 1", "key_bytes = 1 is out of bounds: write 2 to 319"),
            ("compresses_to = 0.6", "compresses_to = 60", "compresses_to = 60 is out of bounds: write 0.01 to 1"),
            ("\"60s\"", "\"2h\"", "lease = \"2h\" is out of bounds: write \"50ms\" to \"1h\""),
            ("\"60s\"", "60", "a duration with its unit, in quotes"),
            ("\"36h\"", "\"500d\"", "retention = \"500d\" is out of bounds: write \"1s\" to \"400d\""),
            ("retention = \"36h\"\n", "", "how long are its records kept?"),
            ("critical", "criticl", "did you mean `critical`?"),
            ("POST /v1/notes", "POST /v1/charges", "\"POST /v1/charges\": is there twice: write it once"),
            ("POST /v1/notes", "", "endpoint \"\": endpoint has 0 bytes"),
        ];
        for (from, to, expected) in cases {
            let message = refusal(&GOOD.replacen(from, to, 1));
            assert!(message.contains(expected), "{from} -> {to}: {message}");
        }
        assert_eq!(refusal("nodes = 3"), "there are 0 endpoints: write 1 to 1000, each as [[endpoint]]");
        let two = GOOD.replace("nodes = 5", "nodes = 0").replace("growth = 2", "growth = 0");
        assert_eq!(refusal(&two).lines().count(), 2, "all that is wrong is told at once");
    }

    /// The rows of the guide's table: name, values, default.
    fn rows() -> Vec<(&'static str, String, String)> {
        let counts = |bounds: RangeInclusive<u64>| format!("{} to {}", bounds.start(), bounds.end());
        let numbers = |bounds: RangeInclusive<f64>| format!("{} to {}", bounds.start(), bounds.end());
        let spans = |least, most| format!("{} to {}", Span::from_ms(least), Span::from_ms(most));
        let (partitions, leases, retention) = (limits::PARTITIONS, limits::LEASE_MS, limits::RETENTION_MS);
        let row = |name, values, default: &dyn fmt::Display| (name, values, default.to_string());
        vec![
            row("nodes", counts(NODES), &DEFAULT_NODES),
            row("partitions", counts((*partitions.start()).into()..=(*partitions.end()).into()), &"chosen"),
            row("headroom", numbers(limits::PLANNED_HEADROOM), &DEFAULT_HEADROOM),
            row("growth", numbers(limits::PLANNED_GROWTH), &DEFAULT_GROWTH),
            row("sessions", "true, false".to_owned(), &false),
            row("connections", counts(limits::CONNECTIONS), &DEFAULT_CONNECTIONS),
            row("block_cache_bytes", counts(limits::BLOCK_CACHE_BYTES), &"chosen"),
            row("write_buffer_bytes", counts(limits::WRITE_BUFFER_BYTES), &"chosen"),
            row("endpoint", format!("1 to {}", limits::MAX_PLAN_ENDPOINTS), &"must be there"),
            row("name", format!("1 to {} bytes", limits::MAX_ENDPOINT_BYTES), &"must be there"),
            row("keys_per_day", counts(limits::PLANNED_KEYS_PER_DAY), &"must be there"),
            row("envelope_bytes", counts(ENVELOPE_BYTES), &"must be there"),
            row("severity", Severity::ALL.map(Severity::as_str).join(", "), &"none"),
            row("retention", spans(*retention.start(), *retention.end()), &"the severity's"),
            row("lease", spans((*leases.start()).into(), (*leases.end()).into()), &"the severity's, or 30s"),
            row("peak_factor", numbers(limits::PLANNED_PEAK), &DEFAULT_PEAK_FACTOR),
            row("replays_per_key", numbers(limits::PLANNED_REPLAYS), &DEFAULT_REPLAYS),
            row("key_bytes", counts(KEY_BYTES), &DEFAULT_KEY_BYTES),
            row("compresses_to", numbers(limits::PLANNED_SHARE), &1),
        ]
    }

    #[test]
    fn the_guide_has_every_field_with_its_bounds_and_default() {
        let guide = include_str!("../../docs/guides/capacity.md");
        let rows = rows();
        for (name, values, default) in &rows {
            let found = guide.lines().find(|line| line.starts_with(&format!("| `{name}` | ")));
            let ends = found.is_some_and(|line| line.ends_with(&format!(" | {values} | {default} |")));
            assert!(ends, "the row of `{name}` ends with | {values} | {default} |, and there is {found:?}");
        }
        let fields = [refusal("x = 1"), refusal("[[endpoint]]\nx = 1")].map(|text| {
            text.split('`').skip(3).step_by(2).filter(|name| !name.contains('?')).map(str::to_owned).collect::<Vec<_>>()
        });
        let fields = fields.concat();
        assert_eq!(fields, rows.iter().map(|(name, ..)| *name).collect::<Vec<_>>(), "the parser's");
    }
}
