//! Long runs over what policies and tenants promise each other: `make soak` runs them, and their figures are quoted in
//! docs/reference/performance.md.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use holdfast_client::proto::v1 as api;
use holdfast_client::proto::v1::reserve_response::Outcome;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::client::Client;
use crate::clock;
use crate::harness::{self, Place, report};
use crate::policies::{apply, create, outcome, tenant};
use crate::soak::{disk_bytes, out};
use crate::talk::Ask;

/// Records of the sweep's run; `SWEEP_RECORDS` makes it shorter for a look at the test itself.
const RECORDS: u32 = 3_000_000;
/// How many seconds they are kept: longer than they take to make, and than the look before they go. `SWEEP_RETENTION_S` is for
/// fewer.
const RETENTION_S: u32 = 420;
/// Cycles a second of the traffic whose latency is looked at, in open loop.
const LIVE_RATE: u32 = 500;
/// How long each look takes.
const LOOK: Duration = Duration::from_secs(20);
/// Clients of a storm, how often each asks for a new key, and how long it takes: a look, and a little before and after.
const STORMING: u32 = 64;
const PACE: Duration = Duration::from_millis(16);
const STORM: Duration = Duration::from_secs(28);

/// A bench that runs beside the test.
struct Bench(tokio::task::JoinHandle<anyhow::Result<Value>>);

impl Bench {
    fn start(address: SocketAddr, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(["bench", "--address", &format!("http://{address}"), "--output", "json"]).args(arguments);
        Self(tokio::task::spawn_blocking(move || {
            let ended = command.stdin(Stdio::null()).output()?;
            let text = String::from_utf8_lossy(&ended.stdout).into_owned();
            serde_json::from_str(&text).with_context(|| format!("{text}{}", String::from_utf8_lossy(&ended.stderr)))
        }))
    }

    async fn end(self) -> anyhow::Result<Value> {
        self.0.await?
    }
}

/// Live traffic of a tenant in open loop, for one look.
fn live(address: SocketAddr, tenant: &str) -> Bench {
    let (rate, look) = (LIVE_RATE.to_string(), format!("{}s", LOOK.as_secs()));
    Bench::start(address, &["--tenant", tenant, "--rate", &rate, "--duration", &look, "--body-bytes", "256"])
}

/// What a look saw, in a line.
fn line(what: &str, seen: &Value) -> anyhow::Result<String> {
    let of = |operation: &str| -> anyhow::Result<String> {
        let figures = seen.pointer(&format!("/operations/{operation}")).context("no such operation")?;
        let us = |name: &str| figures.get(name).and_then(Value::as_u64).context("no such figure");
        Ok(format!("{operation} p50 {} us, p99 {} us, p99.9 {} us", us("p50_us")?, us("p99_us")?, us("p99_9_us")?))
    };
    Ok(format!("{what:<24} {}; {}", of("reserve")?, of("complete")?))
}

fn p99(seen: &Value) -> anyhow::Result<u64> {
    seen.pointer("/operations/reserve/p99_us").and_then(Value::as_u64).context("no p99 of Reserve")
}

/// Millions of records whose time is over at once are removed while a tenant works on, and their disk comes back.
#[tokio::test(flavor = "multi_thread")]
async fn soak_millions_go_while_a_tenant_works_on() -> anyhow::Result<()> {
    let Some(out) = out() else { return Ok(()) };
    let records = harness::number("SWEEP_RECORDS", RECORDS)?;
    let retention = Duration::from_secs(u64::from(harness::number("SWEEP_RETENTION_S", RETENTION_S)?));
    let place = Place::new()?;
    let node = place.start().run().await?;
    let policy = format!(
        "[policy.short]\nendpoints = [\"POST /bench\"]\nseverity = \"low\"\nretention = \"{}s\"\n",
        retention.as_secs()
    );
    apply(node.address(), 0, &policy).await?;
    create(node.address(), "old", api::TenantLimits::default()).await?;
    let began = clock::now();
    let count = records.to_string();
    let load = ["--tenant", "old", "--session", "--concurrency", "256", "--body-bytes", "256", "--replay-share", "0"];
    let loading = Bench::start(node.address(), &[load.as_slice(), &["--warmup", "0s", "--cycles", &count]].concat());
    loading.end().await?;
    let loaded = clock::now();
    let before = live(node.address(), "live").end().await?;
    let full = disk_bytes(&place)?;
    let old = tenant(node.address(), "old").await?;
    ensure!(old.keys >= u64::from(records), "{} of {records} are stored", old.keys);
    ensure!(clock::now() - began < retention, "loading took longer than records are kept: make it fewer");
    // Nothing goes while the node is down: all of it is due when it comes back.
    node.stop().await?;
    let due = loaded + retention + Duration::from_secs(5);
    tokio::time::sleep(due.saturating_sub(clock::now())).await;
    let node = place.start().run().await?;
    let back = clock::now();
    let mut looks = Vec::new();
    let swept = loop {
        looks.push(live(node.address(), "live").end().await?);
        if tenant(node.address(), "old").await?.keys == 0 {
            break clock::now() - back;
        }
        ensure!(looks.len() < 60, "they are still there after {} looks", looks.len());
    };
    let after = live(node.address(), "live").end().await?;
    let mut disk = disk_bytes(&place)?;
    let waited = clock::now();
    while disk > full / 2 && clock::now() - waited < Duration::from_secs(180) {
        tokio::time::sleep(Duration::from_secs(5)).await;
        disk = disk_bytes(&place)?;
    }
    node.stop().await?;
    let worst = looks.iter().map(p99).collect::<anyhow::Result<Vec<_>>>()?.into_iter().max().unwrap_or_default();
    let mut figures = vec![
        format!(
            "{records} records of 256-byte bodies, all due at once; {LIVE_RATE} cycles/s of another tenant, open loop"
        ),
        line("before", &before)?,
    ];
    for look in &looks {
        figures.push(line("while they go", look)?);
    }
    figures.push(line("after", &after)?);
    figures.push(format!(
        "gone within {} s of the start; data directory {full} bytes before, {disk} after",
        swept.as_secs()
    ));
    let figures = figures.join("\n");
    std::fs::write(out.join("sweep.txt"), &figures)?;
    report(&figures);
    ensure!(disk < full / 2, "the disk did not come back:\n{figures}");
    let most = (p99(&before)? * 10).max(50_000);
    ensure!(worst <= most, "a p99 of {worst} us while they went, over {most}:\n{figures}");
    Ok(())
}

/// Asks for 4,000 new keys a second, from many tasks. Granted, and refused by a limit.
async fn storm(address: SocketAddr, tenant: &'static str) -> anyhow::Result<(u64, u64)> {
    let client = Arc::new(Client::grpc(address)?);
    let end = clock::now() + STORM;
    let mut tasks = JoinSet::new();
    for task in 0..STORMING {
        let client = Arc::clone(&client);
        tasks.spawn(async move {
            let mut seen = (0_u64, 0_u64);
            let mut pace = tokio::time::interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
            for number in 0_u64.. {
                pace.tick().await;
                if clock::now() >= end {
                    break;
                }
                let key = format!("storm-{task}-{number}");
                let request = api::ReserveRequest { tenant: tenant.to_owned(), ..Ask::new(&key, 1).message() };
                match outcome(&client, request).await? {
                    Outcome::Granted(_) => seen.0 += 1,
                    Outcome::Limited(_) => seen.1 += 1,
                    other => anyhow::bail!("{key}: {other:?}"),
                }
            }
            anyhow::Ok(seen)
        });
    }
    let mut sum = (0, 0);
    while let Some(ended) = tasks.join_next().await {
        let (granted, refused) = ended??;
        sum = (sum.0 + granted, sum.1 + refused);
    }
    Ok(sum)
}

/// A tenant that asks for as many keys as it can, beyond its rate, and another that works on beside it.
#[tokio::test(flavor = "multi_thread")]
async fn soak_a_storm_of_one_tenant_beside_another() -> anyhow::Result<()> {
    let Some(out) = out() else { return Ok(()) };
    let place = Place::new()?;
    let node = place.start().run().await?;
    let limits = api::TenantLimits { keys_per_second: Some(200), ..api::TenantLimits::default() };
    create(node.address(), "storm", limits).await?;
    let alone = live(node.address(), "live").end().await?;
    let mut storming = JoinSet::new();
    storming.spawn(storm(node.address(), "storm"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let beside = live(node.address(), "live").end().await?;
    let stormed = storming.join_next().await.context("no storm")???;
    // The same without a limit: what the limit is for.
    storming.spawn(storm(node.address(), "free"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let crowded = live(node.address(), "live").end().await?;
    let free = storming.join_next().await.context("no storm")???;
    // The limited storm once more, on a node of its own beside this one: what the machine has to do with it.
    let elsewhere = Place::new()?;
    let other = elsewhere.start().run().await?;
    create(other.address(), "storm", limits).await?;
    storming.spawn(storm(other.address(), "storm"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let machine = live(node.address(), "live").end().await?;
    storming.join_next().await.context("no storm")???;
    other.stop().await?;
    let after = live(node.address(), "live").end().await?;
    let kept = tenant(node.address(), "storm").await?.keys;
    node.stop().await?;
    let figures = [
        format!(
            "{LIVE_RATE} cycles/s of one tenant, open loop, beside {STORMING} clients of another that ask for 4,000 new keys/s"
        ),
        line("alone", &alone)?,
        line("beside a limited storm", &beside)?,
        line("beside one without limit", &crowded)?,
        line("beside it elsewhere", &machine)?,
        line("after", &after)?,
        format!("limited to 200 keys/s: {} granted, {} refused in {} s", stormed.0, stormed.1, STORM.as_secs()),
        format!("without limit: {} granted, {} refused in {} s", free.0, free.1, STORM.as_secs()),
    ]
    .join("\n");
    std::fs::write(out.join("storm.txt"), &figures)?;
    report(&figures);
    // What a second gives, for as long as it lasted, and one burst.
    let most = 200 * (STORM.as_secs() + 2) + 200;
    ensure!(stormed.1 > 0, "nothing was refused:\n{figures}");
    ensure!(stormed.0 == kept && kept <= most, "{kept} keys were granted, over {most}:\n{figures}");
    let bound = (p99(&alone)? * 10).max(50_000);
    ensure!(p99(&beside)? <= bound, "a p99 of over {bound} us beside the limited storm:\n{figures}");
    Ok(())
}
