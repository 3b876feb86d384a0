//! More than a node can take: it says so early, keeps the latency of what it accepted, and stays up.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use futures_util::StreamExt as _;
use holdfast_client::keys::{self, IdempotencyKey};
use holdfast_client::proto::v1::reserve_response::Outcome;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::Client;
use crate::clock;
use crate::failure::Failure;
use crate::harness::{self, Node, Place};
use crate::kept;
use crate::payload;
use crate::strace::{Need, Strace, Sync, available};
use crate::talk::{Ask, TENANT, complete, fencing};

/// Connections, and calls at a time on each: as many as a node allows on one.
const CONNECTIONS: usize = 12;
const CALLS: usize = 1_000;

/// Keys of one partition, so that one queue gets them all.
fn keys_of_one_partition(count: usize) -> Vec<String> {
    let partitions = NonZeroU16::new(4).unwrap_or(NonZeroU16::MIN);
    let is_there =
        |key: &String| IdempotencyKey::parse(key).is_ok_and(|key| keys::partition(TENANT, &key, partitions) == 0);
    (0..).map(|number: u32| format!("crowded-{number}")).filter(is_there).take(count).collect()
}

/// One call of the crowd, its answer, and how long that took.
struct Called {
    key: String,
    answer: Result<Outcome, Failure>,
    took: Duration,
}

async fn call(client: &Client, key: String) -> Called {
    let began = clock::now();
    let answer = Ask::new(&key, 1).of(client).await;
    Called { key, answer, took: clock::now() - began }
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn latencies<'a>(called: impl Iterator<Item = &'a Called>) -> (usize, Duration, Duration) {
    let mut took: Vec<Duration> = called.map(|called| called.took).collect();
    took.sort_unstable();
    (took.len(), percentile(&took, 50), percentile(&took, 99))
}

async fn crowd(address: SocketAddr) -> anyhow::Result<Vec<Called>> {
    let mut tasks = JoinSet::new();
    for keys in keys_of_one_partition(CONNECTIONS * CALLS).chunks(CALLS) {
        let client = Client::grpc(address)?;
        let keys = keys.to_vec();
        tasks.spawn(async move {
            let calls = keys.into_iter().map(|key| call(&client, key));
            futures_util::stream::iter(calls).buffer_unordered(CALLS).collect::<Vec<_>>().await
        });
    }
    Ok(tasks.join_all().await.into_iter().flatten().collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_early_and_keeps_what_it_accepted() -> anyhow::Result<()> {
    if !available(&[Need::Strace])? {
        return Ok(());
    }
    let _machine = harness::alone().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let strace = Strace::attach(node.pid(), Sync::Delayed(Duration::from_millis(400)), place.root()).await?;
    let over = AtomicBool::new(false);
    let (called, http) = tokio::join!(
        async {
            let called = crowd(node.address()).await;
            over.store(true, Ordering::Relaxed);
            called
        },
        refused_over_http(node.address(), &over)
    );
    let called = called?;
    strace.detach()?;
    let (accepted, refused): (Vec<&Called>, Vec<&Called>) = called.iter().partition(|called| called.answer.is_ok());
    let (count, p50, p99) = latencies(accepted.iter().copied());
    let (refusals, refused_p50, refused_p99) = latencies(refused.iter().copied());
    harness::report(&format!(
        "{count} accepted, p50 {p50:?}, p99 {p99:?}; {refusals} refused, p50 {refused_p50:?}, p99 {refused_p99:?}"
    ));
    ensure!(count > 1_000, "only {count} of {} were accepted", called.len());
    ensure!(refusals > 100, "only {refusals} of {} were refused: nothing was shown", called.len());
    for called in &refused {
        let Err(failure) = &called.answer else { continue };
        let clear = failure.is_overloaded() && failure.status == "ResourceExhausted";
        ensure!(clear && failure.definite && failure.retry_after, "{}: {failure:?}", called.key);
    }
    // Both wait for the same two cores; only what was accepted waits for the disk as well.
    ensure!(refused_p50 < p50 && refused_p99 < Duration::from_secs(6), "refused after {refused_p50:?}: not early");
    ensure!(p99 < Duration::from_secs(12), "what was accepted took {p99:?}");
    let http = http?;
    ensure!(http.status == "429" && http.definite && http.retry_after, "{http:?}");
    all_as_said(&node, &called).await?;
    node.stop().await
}

/// The refusal that HTTP gives while the queue is full.
async fn refused_over_http(address: SocketAddr, over: &AtomicBool) -> anyhow::Result<Failure> {
    let client = &Client::http(address);
    let keys = keys_of_one_partition(2 * CONNECTIONS * CALLS).split_off(CONNECTIONS * CALLS);
    for keys in keys.chunks(64) {
        // What is accepted takes its time; a refusal comes at once.
        let calls = keys.iter().map(|key| timeout(Duration::from_millis(250), call(client, key.clone())));
        let called = futures_util::future::join_all(calls).await;
        let refused =
            called.into_iter().flatten().find_map(|called| called.answer.err().filter(Failure::is_overloaded));
        if let Some(refused) = refused {
            return Ok(refused);
        }
        ensure!(!over.load(Ordering::Relaxed), "HTTP never said that the queue is full");
    }
    anyhow::bail!("HTTP took {} reserves beside the crowd", keys.len())
}

/// What was granted is granted, and what was refused was not done.
async fn all_as_said(node: &Node, called: &[Called]) -> anyhow::Result<()> {
    let client = &Client::grpc(node.address())?;
    let checks = called.iter().map(|called| async move {
        let grant = Ask::new(&called.key, 1).granted(client).await?;
        match &called.answer {
            Ok(Outcome::Granted(first)) => {
                ensure!(grant.repeated && fencing(&grant) == fencing(first), "{}: {first:?}, {grant:?}", called.key);
            }
            Ok(other) => anyhow::bail!("{}: {other:?}", called.key),
            Err(_) => ensure!(!grant.repeated, "{} was refused for good, and had been granted", called.key),
        }
        Ok(())
    });
    futures_util::stream::iter(checks).buffer_unordered(256).collect::<Vec<_>>().await.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_bytes_are_refused_and_come_through_later() -> anyhow::Result<()> {
    if !available(&[Need::Strace])? {
        return Ok(());
    }
    let _machine = harness::alone().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let client = Client::grpc(node.address())?;
    let keys = keys_of_one_partition(300);
    let mut grants = Vec::new();
    for key in &keys {
        grants.push((key, Ask::new(key, 1).granted(&client).await?));
    }
    let strace = Strace::attach(node.pid(), Sync::Delayed(Duration::from_millis(100)), place.root()).await?;
    let answer = payload::envelope(1, 256 * 1024);
    let completions = grants.iter().map(|(key, grant)| complete(&client, key, grant, &answer));
    let first: Vec<_> = futures_util::stream::iter(completions).buffered(300).collect().await;
    strace.detach()?;
    let refused = first.iter().filter(|completed| completed.is_err()).count();
    harness::report(&format!("{refused} of {} completions of 256 KiB were refused", first.len()));
    ensure!(refused > 10 && refused < first.len(), "{refused} of {} were refused", first.len());
    for completed in &first {
        let Err(error) = completed else { continue };
        ensure!(format!("{error:#}").contains("\"overloaded\""), "{error:#}");
    }
    for (key, grant) in &grants {
        complete(&client, key, grant, &answer).await?;
        ensure!(Ask::new(key, 2).replayed(&client).await? == answer, "{key} is replayed otherwise");
    }
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_answers_are_not_held_up_by_bodies_of_a_mebibyte() -> anyhow::Result<()> {
    const MIB: usize = 1024 * 1024;
    let _machine = harness::alone().await?;
    let place = Place::new()?;
    let start = place.start().server().flag("--partitions", 4).flag("--max-envelope-body-bytes", MIB);
    let node = start.run().await?;
    let address = node.address();
    let until = clock::now() + Duration::from_secs(8);
    let mut large = JoinSet::new();
    for worker in 0..4_u64 {
        let client = Client::grpc(address)?;
        large.spawn(async move {
            let mut count = 0;
            while clock::now() < until {
                let number = worker * 1_000_000 + count;
                kept::fill(&client, number..number + 1, &[MIB]).await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    let mut small = JoinSet::new();
    for worker in 10..18_u64 {
        let client = Client::grpc(address)?;
        small.spawn(async move {
            let mut took = Vec::new();
            while clock::now() < until {
                let number = worker * 1_000_000 + took.len() as u64;
                let began = clock::now();
                kept::fill(&client, number..number + 1, &[200]).await?;
                took.push(clock::now() - began);
            }
            anyhow::Ok(took)
        });
    }
    let mut took = small.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>()?.concat();
    let large: u64 = large.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>()?.iter().sum();
    took.sort_unstable();
    let (p50, p99) = (percentile(&took, 50), percentile(&took, 99));
    harness::report(&format!("{large} of 1 MiB; {} small lives, p50 {p50:?}, p99 {p99:?}", took.len()));
    ensure!(large >= 20, "only {large} bodies of 1 MiB went through");
    ensure!(took.len() >= 200, "only {} small lives went through", took.len());
    ensure!(p99 < Duration::from_millis(750), "p99 of two small writes is {p99:?} beside bodies of 1 MiB");
    node.stop().await
}
