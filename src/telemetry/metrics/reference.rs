//! docs/reference/metrics.md, made from [`table`]: the test fails when the page is old, and `REWRITE=1` writes it.

use std::fmt::Write as _;

use super::table::{self, Buckets, Kind};
use super::{Change, Direction, Forwarded, Limit, Method, OTHER, Outcome, Overload};
use crate::limits;

const HEAD: &str = "\
# Metrics

<!-- Generated from src/telemetry/metrics by `REWRITE=1 cargo test --release metrics_reference`. Do not edit. -->

`GET /metrics` on the API's port answers in Prometheus' text format. [deploy/prometheus](../../deploy/prometheus) has a
scrape configuration and alert rules.

What a gateway counts stands with [its settings](gateway.md#metrics-requests).

Counters begin at zero when the process starts. Gauges are read at the moment of the scrape. Nothing here names an
idempotency key, a token or a nonce.

## Questions and their queries

How many calls a second, by what they came to:

```promql
sum by (method, outcome) (rate(holdfast_calls_total[5m]))
```

The replay hit rate: of the Reserve calls that had an outcome, the share that got a stored response:

```promql
sum(rate(holdfast_calls_total{method=\"reserve\", outcome=\"replay\"}[5m]))
  / sum(rate(holdfast_calls_total{method=\"reserve\", outcome!~\"failed_.*\"}[5m]))
```

The conflict rate, a tenant: the share of Reserve calls whose key had been used for another request:

```promql
sum by (tenant) (rate(holdfast_reserves_total{outcome=\"mismatch\"}[5m]))
  / sum by (tenant) (rate(holdfast_reserves_total{outcome!~\"failed_.*\"}[5m]))
```

Which client versions still send no end of conflicts:

```promql
topk(10, sum by (tenant, client_version) (rate(holdfast_reserves_total{outcome=\"mismatch\"}[1h])))
```

The 99th percentile of a Reserve that does not wait, as the node sees it:

```promql
histogram_quantile(0.99, sum by (le) (rate(holdfast_call_duration_seconds_bucket{method=\"reserve\", waits=\"no\"}[5m])))
```

Grants that a limit refused, by tenant and limit:

```promql
sum by (tenant, limit) (rate(holdfast_limited_total[5m]))
```

Endpoints whose clients seem to make a new key for each retry; the log names the client:

```promql
sum by (tenant, endpoint) (increase(holdfast_key_storms_total[1h])) > 0
```

Failures of which the caller cannot know whether the call was carried out:

```promql
sum by (code) (rate(holdfast_failures_total{definite=\"no\"}[5m]))
```

How many entries share a sync, and how long a sync takes:

```promql
rate(holdfast_log_sync_entries_sum[5m]) / rate(holdfast_log_sync_entries_count[5m])
histogram_quantile(0.99, rate(holdfast_log_sync_duration_seconds_bucket[5m]))
```

How long one operation takes to be applied:

```promql
rate(holdfast_apply_duration_seconds_sum[5m]) / rate(holdfast_applied_operations_total[5m])
```

Partitions that no node leads (0 for those that have a leader):

```promql
1 - max by (partition) (holdfast_raft_role{role=\"leader\"})
```

The follower that is furthest behind:

```promql
max by (peer) (holdfast_raft_replication_lag_entries)
```

How many records an endpoint gained, by what one node applied:

```promql
sum by (endpoint) (increase(holdfast_applied_records_total{change=\"created\"}[1h]))
  - sum by (endpoint) (increase(holdfast_applied_records_total{change=\"removed\"}[1h]))
```
";

fn page() -> String {
    let mut text = HEAD.to_owned();
    for section in table::SECTIONS {
        let _infallible =
            write!(text, "\n## {}\n\n| metric | kind | labels | meaning |\n|---|---|---|---|\n", section.title);
        for metric in section.metrics {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, kind, help) = (metric.name, metric.kind.name(), metric.help);
            let _infallible = writeln!(text, "| `{name}` | {kind} | {} | {help} |", labels.join(", "));
        }
    }
    text.push_str(&labels());
    text.push_str(&buckets());
    text
}

fn labels() -> String {
    let (most, tenant) = (limits::MAX_LABEL_SETS, limits::MAX_LABEL_SETS_PER_TENANT);
    let mut text = format!(
        "\n## Labels\n\n\
         Tenants, endpoints and client versions are what clients say. A metric with such labels has at most {most} label sets,\n\
         and {tenant} of one tenant. What is beyond that is counted with `{OTHER}` in place of the endpoint and the client\n\
         version, and where there is no more room at all, of the tenant too. `holdfast_label_sets_limited_total` counts it, and\n\
         the log says so once a minute. A start of the node makes room.\n\n\
         | label | values |\n|---|---|\n"
    );
    let outcomes = Method::ALL.iter().map(|method| {
        let values = method.outcomes().iter().map(|outcome| outcome.as_str());
        (format!("`outcome` of `{}`", method.as_str()), list(values))
    });
    let others = [
        ("`limit` of overloads", list(Overload::ALL.iter().map(|value| value.as_str()))),
        ("`limit` of limited calls", list(Limit::ALL.iter().map(|value| value.as_str()))),
        ("`direction`", list(Direction::ALL.iter().map(|value| value.as_str()))),
        ("`outcome` of forwarded calls", list(Forwarded::ALL.iter().map(|value| value.as_str()))),
        ("`outcome` of snapshots", list(["whole", "broken"].into_iter())),
        ("`change`", list(Change::ALL.iter().map(|value| value.as_str()))),
        ("`severity`", list(["critical", "high", "medium", "low"].into_iter())),
        ("`role`", list(["leader", "follower", "learner", "candidate", "stopped"].into_iter())),
        ("`definite`, `waits`", list(["yes", "no"].into_iter())),
        ("`code`", "the codes of [failures](errors/README.md)".to_owned()),
        ("`partition`, `peer`", "the number of a partition, of another node".to_owned()),
    ];
    for (label, values) in outcomes.chain(others.map(|(label, values)| (label.to_owned(), values))) {
        let _infallible = writeln!(text, "| {label} | {values} |");
    }
    text
}

fn list(values: impl Iterator<Item = &'static str>) -> String {
    values.map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ")
}

fn buckets() -> String {
    let mut text = "\n## Buckets\n\n| histogram | upper bounds |\n|---|---|\n".to_owned();
    for metric in table::all() {
        let (buckets, unit) = match metric.kind {
            Kind::Histogram(buckets @ Buckets::Durations(_)) => (buckets, 1e9),
            Kind::Histogram(buckets @ Buckets::Sizes(_)) => (buckets, 1.0),
            Kind::Counter | Kind::Gauge => continue,
        };
        let bounds: Vec<String> = buckets.bounds().iter().map(|bound| (*bound as f64 / unit).to_string()).collect();
        let _infallible = writeln!(text, "| `{}` | {} |", metric.name, bounds.join(", "));
    }
    text
}

#[test]
fn metrics_reference() -> anyhow::Result<()> {
    crate::cli::golden::check("docs/reference/metrics.md", &page())
}

/// Every name in a text that looks like one of ours.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("holdfast_") && word.len() > "holdfast_".len())
}

#[test]
fn queries_and_rules_name_metrics_that_there_are() -> anyhow::Result<()> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let rules = std::fs::read_to_string(root.join("deploy/prometheus/alerts.yml"))?;
    let mut found = 0;
    for name in names(HEAD).chain(names(&rules)) {
        let known = table::all().any(|metric| {
            let ends: &[&str] = match metric.kind {
                Kind::Histogram(_) => &["", "_bucket", "_sum", "_count"],
                Kind::Counter | Kind::Gauge => &[""],
            };
            ends.iter().any(|end| name.strip_suffix(end) == Some(metric.name))
        });
        anyhow::ensure!(known, "{name} is no metric");
        found += 1;
    }
    anyhow::ensure!(found > 20, "only {found} names were found");
    Ok(())
}

#[test]
fn labels_of_other_modules_are_as_the_page_lists_them() {
    let severities: Vec<&str> = crate::policy::Severity::ALL.iter().map(|severity| severity.as_str()).collect();
    let roles: Vec<&str> = crate::region::status::Role::ALL.iter().map(|role| role.name()).collect();
    let text = labels();
    assert!(text.contains(&list(severities.into_iter())) && text.contains(&list(roles.into_iter())), "{text}");
}

#[test]
fn every_outcome_is_of_a_method() {
    let of_some = |outcome: &Outcome| Method::ALL.iter().any(|method| method.outcomes().contains(outcome));
    assert!(Outcome::ALL.iter().all(of_some));
}
