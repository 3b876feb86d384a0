//! What a node says of itself: its metrics are as documented, valid for Prometheus, right about the traffic and bounded; and
//! neither they nor the logs give a secret away.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use holdfast::telemetry::metrics::table;
use holdfast_client::proto::v1 as api;
use serde_json::{Value, json};

use crate::client::Client;
use crate::cluster::{self, Cluster, Founding, PARTITIONS, SERVING_DEADLINE};
use crate::harness::{self, Place};
use crate::http;
use crate::payload;
use crate::strace::{self, Need};
use crate::talk::{self, Ask, TENANT};

/// A page of metrics: each sample's name and labels, as they are written, and its value.
pub(crate) struct Scraped {
    text: String,
    samples: BTreeMap<String, f64>,
}

impl Scraped {
    pub(crate) async fn of(address: SocketAddr) -> anyhow::Result<Self> {
        let answer = http::get(address, "/metrics").await?;
        ensure!(answer.status == 200, "{}", answer.status);
        ensure!(answer.header("content-type") == Some("text/plain; version=0.0.4; charset=utf-8"));
        let text = String::from_utf8(answer.body)?;
        let mut samples = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').with_context(|| format!("no value: {line}"))?;
            let twice = samples.insert(name.to_owned(), value.parse()?).is_some();
            ensure!(!twice, "{name} stands there twice");
        }
        Ok(Self { text, samples })
    }

    /// A sample's value; 0 if it is not there.
    pub(crate) fn value(&self, name: &str) -> f64 {
        self.samples.get(name).copied().unwrap_or_default()
    }

    /// The sum over all samples of a metric.
    fn sum(&self, metric: &str) -> f64 {
        let of_metric = |name: &str| name.split('{').next() == Some(metric);
        self.samples.iter().filter(|(name, _)| of_metric(name)).map(|(_, value)| value).sum()
    }
}

fn calls(method: &str, outcome: &str) -> String {
    format!("holdfast_calls_total{{method=\"{method}\",outcome=\"{outcome}\"}}")
}

fn reserves(endpoint: &str, version: &str, outcome: &str) -> String {
    format!(
        "holdfast_reserves_total{{tenant=\"{TENANT}\",endpoint=\"{endpoint}\",severity=\"high\",\
         client_version=\"{version}\",outcome=\"{outcome}\"}}"
    )
}

/// One key's life with every outcome that is easily had, over one API. What must not be told: keys, tokens, nonces.
async fn live(client: &Client, key: &str, nonce: u64) -> anyhow::Result<Vec<String>> {
    let ask = Ask::new(key, nonce);
    let grant = ask.granted(client).await?;
    ask.granted(client).await?;
    let _in_progress = Ask::new(key, nonce + 1).outcome(client).await?;
    let _mismatch = ask.clone().another_request().outcome(client).await?;
    let _forged = talk::release(client, key, "not-a-token").await;
    let _done = talk::checkpoint(client, key, &grant.token).await;
    talk::complete(client, key, &grant, &payload::envelope(nonce, 5_000)).await?;
    talk::complete(client, key, &grant, &payload::envelope(nonce, 5_000)).await?;
    for attempt in 0..3 {
        Ask::new(key, nonce + 10 + attempt).replayed(client).await?;
    }
    let _stale = talk::release(client, key, &grant.token).await;
    Ok(vec![key.to_owned(), grant.token, "not-a-token".to_owned(), hex(nonce), hex(nonce + 1)])
}

fn hex(nonce: u64) -> String {
    format!("{nonce:016x}")
}

/// Runs promtool over a text and expects it to find nothing.
fn promtool(arguments: &[&str], input: &str) -> anyhow::Result<()> {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().context("no stdin")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    ensure!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&said));
    Ok(())
}

#[tokio::test]
async fn process_metrics_are_as_documented_and_right() -> anyhow::Result<()> {
    let _place = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let before = Scraped::of(node.address()).await?;
    let mut secrets = Vec::new();
    for (number, client) in Client::both(node.address())?.iter().enumerate() {
        let key = format!("secret-key-of-{}", client.name());
        secrets.extend(live(client, &key, 0x5ec2_e700_0000_0100 * (number as u64 + 1)).await?);
    }
    let page = Scraped::of(node.address()).await?;

    let documented: BTreeSet<&str> = table::all().map(|metric| metric.name).collect();
    let exposed = page.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    ensure!(exposed.collect::<BTreeSet<_>>() == documented, "other metrics than documented:\n{}", page.text);

    // Each over gRPC and over HTTP.
    let expected = [
        ("reserve", "granted", 2.0),
        ("reserve", "granted_again", 2.0),
        ("reserve", "in_progress", 2.0),
        ("reserve", "mismatch", 2.0),
        ("reserve", "replay", 6.0),
        ("reserve", "failed_indefinite", 0.0),
        ("checkpoint", "done", 2.0),
        ("complete", "answer", 2.0),
        ("complete", "repeated", 2.0),
        ("release", "stale_token", 2.0),
        ("release", "failed_definite", 2.0),
    ];
    for (method, outcome, count) in expected {
        let name = calls(method, outcome);
        ensure!(before.value(&name) == 0.0 && before.samples.contains_key(&name), "{name} before");
        ensure!(page.value(&name) == count, "{name}: {}", page.value(&name));
        if method == "reserve" && count > 0.0 {
            let name = reserves(payload::ENDPOINT, "it/1", outcome);
            ensure!(page.value(&name) == count, "{name}: {}", page.value(&name));
        }
    }
    ensure!(page.value("holdfast_failures_total{code=\"token-invalid\",definite=\"yes\"}") == 2.0);
    ensure!(page.sum("holdfast_failures_total") == 2.0, "{}", page.text);
    let reserve_durations = "holdfast_call_duration_seconds_count{method=\"reserve\",waits=\"no\"}";
    ensure!(page.value(reserve_durations) == 14.0, "{}", page.value(reserve_durations));
    let changes = |change| {
        let name = format!("{{tenant=\"{TENANT}\",endpoint=\"{}\",change=\"{change}\"}}", payload::ENDPOINT);
        page.value(&format!("holdfast_applied_records_total{name}"))
    };
    ensure!((changes("created"), changes("completed"), changes("removed")) == (2.0, 2.0, 0.0), "{}", page.text);
    let bytes = page.sum("holdfast_applied_envelope_bytes_total");
    ensure!((10_000.0..12_000.0).contains(&bytes), "{bytes}: two envelopes of 5,000 bytes, stored once each");
    for grows in [
        "holdfast_log_sync_entries_count",
        "holdfast_log_sync_duration_seconds_sum",
        "holdfast_log_sync_bytes_sum",
        "holdfast_batch_operations_sum",
        "holdfast_commit_duration_seconds_count",
        "holdfast_applied_operations_total",
        "holdfast_apply_duration_seconds_count",
    ] {
        ensure!(page.value(grows) > before.value(grows), "{grows} stays at {}", page.value(grows));
    }
    ensure!(page.sum("holdfast_store_keys") >= 6.0, "two completed records have six keys");
    ensure!(page.sum("holdfast_raft_role") == 4.0, "one role in each of the four groups");
    for partition in 0..4 {
        ensure!(page.value(&format!("holdfast_raft_role{{partition=\"{partition}\",role=\"leader\"}}")) == 1.0);
        ensure!(page.value(&format!("holdfast_raft_leader_id{{partition=\"{partition}\"}}")) == 1.0);
        ensure!(page.value(&format!("holdfast_raft_leader_changes_total{{partition=\"{partition}\"}}")) == 1.0);
        ensure!(page.value(&format!("holdfast_partition_serving{{partition=\"{partition}\"}}")) == 1.0);
    }
    ensure!(page.value("process_resident_memory_bytes") > 1e6 && page.value("process_open_fds") > 3.0);
    for secret in &secrets {
        ensure!(!page.text.contains(secret), "the metrics tell {secret}");
    }
    if strace::available(&[Need::Promtool])? {
        promtool(&["check", "metrics"], &page.text)?;
    }
    node.stop().await
}

#[tokio::test]
async fn process_clients_cannot_make_metrics_without_end() -> anyhow::Result<()> {
    let _place = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let client = Client::grpc(node.address())?;
    let strange = "GET /\"quoted\"\\path {x=\"1\"}";
    for number in 0..150_u64 {
        let ask = Ask::new(&format!("many-{number}"), number).endpoint(strange);
        ask.client_version(&format!("made-up/{number}")).granted(&client).await?;
    }
    // Whoever comes later still has sets of their own.
    let mut message = Ask::new("modest", 1).client_version("modest/1").message();
    message.tenant = "modest".to_owned();
    client.reserve(message).await.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;

    let page = Scraped::of(node.address()).await?;
    let escaped = strange.replace('\\', "\\\\").replace('"', "\\\"");
    ensure!(page.value(&reserves(&escaped, "made-up/0", "granted")) == 1.0, "{}", page.text);
    ensure!(page.value(&reserves("(other)", "(other)", "granted")) == 50.0, "{}", page.text);
    ensure!(page.text.contains("client_version=\"modest/1\""));
    ensure!(page.sum("holdfast_reserves_total") == 151.0);
    ensure!(page.value("holdfast_label_sets{metric=\"holdfast_reserves_total\"}") == 102.0);
    ensure!(page.value("holdfast_label_sets_limited_total{metric=\"holdfast_reserves_total\"}") == 50.0);
    let said = node.output().matches("a metric has as many label sets as it may have").count();
    ensure!(said == 1, "said {said} times:\n{}", node.output());
    if strace::available(&[Need::Promtool])? {
        promtool(&["check", "metrics"], &page.text)?;
    }
    node.stop().await
}

/// Requests that are refused, each with something in it that must not be logged.
async fn refused(address: SocketAddr, secret: &str) -> anyhow::Result<()> {
    let bodies = [
        json!({"tenant": TENANT, "key": secret, "fingerprint": "00", "lease_ms": secret}),
        json!({"tenant": TENANT, "key": "k", "fingerprint": secret}),
        json!({"tenant": TENANT, "key": "k", "fingerprint": "00", "nonce": secret}),
        json!({"tenant": TENANT, "key": format!("{secret}\n"), "fingerprint": "00"}),
        json!({"tenant": secret, "key": "k", "fingerprint": "00", secret: 1}),
        Value::String(secret.to_owned()),
    ];
    for body in bodies {
        let answer = http::post(address, "/v1/reserve", &body).await?;
        ensure!(answer.status == 400, "{body}: {}", answer.status);
    }
    let forged =
        json!({"tenant": TENANT, "key": "k", "token": secret, "envelope": {"status": 200, "body_base64": secret}});
    for path in ["/v1/complete", "/v1/release", &format!("/{secret}"), &format!("/v1/keys/{TENANT}/{secret}")] {
        let answer = http::post(address, path, &forged).await?;
        ensure!((400..500).contains(&answer.status), "{path}: {}", answer.status);
    }
    http::get(address, &format!("/v1/keys/{TENANT}/{secret}")).await.map(drop)
}

#[tokio::test]
async fn process_logs_tell_no_secret() -> anyhow::Result<()> {
    let _place = harness::beside_another().await?;
    let place = Place::new()?;
    let start = place.start().server().log("warn,holdfast=trace").flag("--log-format", "json").critical();
    let node = start.run().await?;
    let mut secrets = vec!["hush-hush-hush".to_owned()];
    for (number, client) in Client::both(node.address())?.iter().enumerate() {
        let key = format!("secret-key-of-{}", client.name());
        secrets.extend(live(client, &key, 0x5ec2_e700_0000_0100 * (number as u64 + 1)).await?);
        // A lease that lapses, and is resolved.
        let key = format!("lapsing-key-of-{}", client.name());
        let grant = Ask::new(&key, 7).lease_ms(50).granted(client).await?;
        secrets.push(grant.token.clone());
        secrets.push(key.clone());
        Ask::new(&key, 8)
            .until(client, "unknown", |outcome| {
                matches!(outcome, api::reserve_response::Outcome::OutcomeUnknown(_)).then_some(())
            })
            .await?;
        talk::resolve(client, &key, grant.fencing, Some(payload::envelope(1, 100))).await?.ok();
    }
    refused(node.address(), "hush-hush-hush").await?;
    // What is logged of a call is logged before it is answered.
    let body = payload::envelope(1, 100).body;
    secrets.push(String::from_utf8_lossy(&body).into_owned());
    let output = node.output();
    for secret in &secrets {
        ensure!(!output.contains(secret), "the logs tell {secret:?}:\n{output}");
    }
    let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traced = format!(
        "POST /v1/release HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-type: application/json\r\n\
         traceparent: 00-{trace_id}-00f067aa0ba902b7-01\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    http::exchange(node.address(), traced.as_bytes(), http::DEADLINE).await?;

    let output = harness::until("the last refusal is logged", talk::SOON, async || {
        let output = node.output();
        Ok(output.contains(trace_id).then_some(output))
    })
    .await?;
    let lines: Vec<Value> = output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    ensure!(lines.len() == output.lines().count(), "a line is no json:\n{output}");
    let of_ours =
        |line: &Value| line.get("target").and_then(Value::as_str).is_some_and(|at| at.starts_with("holdfast"));
    let lines: Vec<Value> = lines.into_iter().filter(of_ours).collect();
    ensure!(lines.len() > 10, "too little is logged to say anything:\n{output}");
    for line in &lines {
        let message = line.get("message").and_then(Value::as_str).unwrap_or_default();
        let constant = !message.is_empty() && !message.starts_with(char::is_uppercase);
        ensure!(constant && line.get("level").is_some() && line.get("timestamp").is_some(), "{line}");
    }
    let refusal = lines.iter().find(|line| line.to_string().contains(trace_id)).context("no line of the trace")?;
    ensure!(refusal.get("code").is_some_and(Value::is_string), "{refusal}");
    node.stop().await
}

/// What every node of a region says.
async fn all(cluster: &Cluster) -> anyhow::Result<Vec<Scraped>> {
    let mut pages = Vec::new();
    for node in cluster.awake() {
        pages.push(Scraped::of(cluster.spot(node)?.api).await?);
    }
    Ok(pages)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_says_who_leads_who_follows_and_what_was_passed_on() -> anyhow::Result<()> {
    cluster::with(Founding::default(), async |cluster| {
        // All through one node, which cannot lead every partition.
        let through = if cluster.leader(0).await? == 1 { 2 } else { 1 };
        let client = Client::grpc(cluster.spot(through)?.api)?;
        for number in 0..40_u64 {
            Ask::new(&format!("passed-on-{number}"), number).granted(&client).await?;
        }
        let pages = all(cluster).await?;
        let sum = |name: &str| pages.iter().map(|page| page.value(name)).sum::<f64>();
        ensure!(sum(&calls("reserve", "granted")) == 40.0, "a call is counted where its client is, and nowhere else");
        let passed = |direction, outcome| {
            sum(&format!("holdfast_forwarded_calls_total{{direction=\"{direction}\",outcome=\"{outcome}\"}}"))
        };
        let (sent, received) = (passed("sent", "answered"), passed("received", "answered"));
        ensure!(sent > 0.0 && sent <= 40.0 && sent == received, "{sent} sent, {received} received");
        for partition in 0..PARTITIONS {
            let role = |role| sum(&format!("holdfast_raft_role{{partition=\"{partition}\",role=\"{role}\"}}"));
            ensure!((role("leader"), role("follower")) == (1.0, 2.0), "{} lead {partition}", role("leader"));
            let leader = pages[0].value(&format!("holdfast_raft_leader_id{{partition=\"{partition}\"}}"));
            let others = (1..=3).filter(|node| f64::from(*node) != leader);
            for peer in others {
                let lag = format!("holdfast_raft_replication_lag_entries{{partition=\"{partition}\",peer=\"{peer}\"}}");
                let told = pages.iter().filter(|page| page.samples.contains_key(&lag)).count();
                ensure!(told == 1, "{told} nodes say how far node {peer} is behind in partition {partition}");
            }
            let age = format!("holdfast_raft_quorum_ack_age_seconds{{partition=\"{partition}\"}}");
            ensure!(
                pages.iter().filter(|page| page.samples.contains_key(&age)).count() == 1,
                "only the leader says {age}"
            );
            ensure!(sum(&age) < 5.0, "{age}: {}", sum(&age));
            ensure!(sum(&format!("holdfast_raft_voters{{partition=\"{partition}\"}}")) == 9.0);
        }
        harness::until("every node reaches the two others", SERVING_DEADLINE, async || {
            let pages = all(cluster).await?;
            Ok(pages.iter().all(|page| page.sum("holdfast_peer_reachable") == 2.0).then_some(()))
        })
        .await?;
        if strace::available(&[Need::Promtool])? {
            promtool(&["check", "metrics"], &pages[0].text)?;
        }

        cluster.kill(3)?;
        harness::until("the others miss node 3", SERVING_DEADLINE, async || {
            let pages = all(cluster).await?;
            let missed = |page: &Scraped| page.samples.get("holdfast_peer_reachable{peer=\"3\"}") == Some(&0.0);
            Ok(pages.iter().all(missed).then_some(()))
        })
        .await
    })
    .await
}

#[test]
fn alert_rules_are_valid() -> anyhow::Result<()> {
    if !strace::available(&[Need::Promtool])? {
        return Ok(());
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    for (check, file) in [("rules", "alerts.yml"), ("config", "prometheus.yml")] {
        let file = folder.join(file).display().to_string();
        promtool(&["check", check, &file], "")?;
    }
    Ok(())
}
