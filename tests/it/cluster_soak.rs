//! Long runs over a region: what a leader's death costs, and a snapshot of a gigabyte while traffic goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use hdrhistogram::Histogram;
use holdfast_client::proto::v1 as api;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::Client;
use crate::clock;
use crate::cluster::{self, Cluster, Founding, PARTITIONS, SERVING_DEADLINE};
use crate::cluster_faults::AtWork;
use crate::cluster_life::{Is, ctl_until_done, until_member};
use crate::gap;
use crate::harness;
use crate::history::{Answer, History, OnLapse};
use crate::payload;
use crate::soak::{memory_kib, out};
use crate::talk::{Ask, TENANT, complete};

/// Deaths whose cost is measured.
const KILLS: u32 = 50;
/// How often a partition is asked for a new grant until it gives one.
const PROBE_EVERY: Duration = Duration::from_millis(5);
/// How long after a death service must have returned.
const SERVICE_DEADLINE: Duration = Duration::from_secs(15);

/// New keys of one partition, one after the other.
struct Keys {
    partition: u16,
    next: AtomicU32,
}

impl Keys {
    fn next(&self) -> String {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let key = format!("probe-{}-{number}", self.partition);
            if gap::partition(TENANT, &key, PARTITIONS) == self.partition {
                return key;
            }
        }
    }
}

/// Asks the nodes in turn for new grants of a partition, without waiting for one before the next, until there is one.
/// Returns when it was there.
async fn first_grant(keys: Arc<Keys>, clients: Vec<Client>) -> anyhow::Result<Duration> {
    let end = clock::now() + SERVICE_DEADLINE;
    let mut asked = clients.iter().cycle();
    let mut under_way = JoinSet::new();
    while clock::now() < end {
        let client = asked.next().context("no node is left")?.clone();
        let key = keys.next();
        under_way.spawn(async move { Ask::new(&key, 1).granted(&client).await.map(|_| clock::now()) });
        sleep(PROBE_EVERY).await;
        while let Some(answered) = under_way.try_join_next() {
            if let Ok(at) = answered? {
                return Ok(at);
            }
        }
    }
    anyhow::bail!("partition {} granted nothing within {SERVICE_DEADLINE:?}", keys.partition)
}

/// Kills the leader of a partition and measures how long each partition that it led grants nothing.
async fn cost_of_a_death(cluster: &mut Cluster, partition: u16, keys: &[Arc<Keys>]) -> anyhow::Result<Vec<Duration>> {
    let victim = cluster.leader(partition).await?;
    let leaders = cluster.topology(victim).await?.leaders;
    let survivors: Vec<u64> = cluster.awake().into_iter().filter(|node| *node != victim).collect();
    let clients =
        survivors.iter().map(|node| Client::grpc(cluster.spot(*node)?.api)).collect::<anyhow::Result<Vec<_>>>()?;
    // Their connections are there before the death.
    for client in &clients {
        Ask::new(&format!("warm-{}", clock::now_ns()), 1).granted(client).await?;
    }
    let killed = clock::now();
    cluster.kill(victim)?;
    let mut probes = JoinSet::new();
    for (keys, _) in keys.iter().zip(leaders).filter(|(_, leader)| *leader == victim) {
        probes.spawn(first_grant(Arc::clone(keys), clients.clone()));
    }
    let mut costs = Vec::new();
    while let Some(served) = probes.join_next().await {
        costs.push(served??.saturating_sub(killed));
    }
    cluster.start(victim)?;
    cluster.until_serving(SERVING_DEADLINE).await?;
    cluster.until_caught_up().await?;
    Ok(costs)
}

fn percentiles(of: &Histogram<u64>) -> String {
    let ms = |quantile| of.value_at_quantile(quantile) as f64 / 1_000.0;
    format!("n {} · p50 {:.1} · p90 {:.1} · p99 {:.1} · max {:.1} ms", of.len(), ms(0.5), ms(0.9), ms(0.99), ms(1.0))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_cluster_time_without_service_after_a_leaders_death() -> anyhow::Result<()> {
    let Some(out) = out() else { return Ok(()) };
    let kills = harness::number("CLUSTER_KILLS", KILLS)?;
    cluster::with(Founding::default(), async |cluster| {
        let keys: Vec<Arc<Keys>> =
            (0..PARTITIONS).map(|partition| Arc::new(Keys { partition, next: AtomicU32::new(0) })).collect();
        let mut costs = Histogram::<u64>::new(3)?;
        for (kill, partition) in (0..kills).zip((0..PARTITIONS).cycle()) {
            let of_one = cost_of_a_death(cluster, partition, &keys).await.with_context(|| format!("kill {kill}"))?;
            ensure!(!of_one.is_empty(), "the node that was killed led nothing");
            for cost in of_one {
                costs.record(micros(cost))?;
            }
        }
        let figures = format!(
            "time from a leader's SIGKILL to the next new grant of its partition, {kills} kills: {}",
            percentiles(&costs)
        );
        std::fs::write(out.join("cluster-leader-death.txt"), &figures)?;
        harness::report(&figures);
        Ok(())
    })
    .await
}

/// Bytes of one record's body, which no compression makes smaller, and how many there are: 1 GiB.
const BODY_BYTES: usize = 64 * 1024;
const RECORDS: u32 = 16 * 1024;
const AT_ONCE: usize = 32;
/// What any node may use at the most while it sends or receives, in KiB.
const MOST_KIB: u64 = 768 * 1024;

fn big_key(number: u32) -> String {
    format!("big-{number:06}")
}

/// Completes the records through all nodes.
async fn fill(clients: &[Client], records: u32) -> anyhow::Result<()> {
    let one = |number: u32| async move {
        let client = clients.get(number as usize % clients.len()).context("no node")?;
        let grant = Ask::new(&big_key(number), 1).granted(client).await?;
        complete(client, &big_key(number), &grant, &payload::envelope(u64::from(number), BODY_BYTES)).await
    };
    let mut filled = futures_util::stream::iter(0..records).map(one).buffer_unordered(AT_ONCE);
    while let Some(recorded) = filled.next().await {
        ensure!(recorded? == api::Recorded::Answer);
    }
    Ok(())
}

/// Replays all of them from one node, and compares every byte.
async fn compare(client: &Client, records: u32) -> anyhow::Result<()> {
    let one = |number: u32| async move { anyhow::Ok((number, Ask::new(&big_key(number), 2).replayed(client).await?)) };
    let mut replays = futures_util::stream::iter(0..records).map(one).buffer_unordered(AT_ONCE);
    while let Some(replay) = replays.next().await {
        let (number, replay) = replay?;
        ensure!(
            replay == payload::envelope(u64::from(number), BODY_BYTES),
            "{} is replayed differently",
            big_key(number)
        );
    }
    Ok(())
}

/// How long the calls that were answered in that time took.
fn latencies(history: &History, from_ns: u64, to_ns: u64) -> anyhow::Result<Histogram<u64>> {
    let mut latencies = Histogram::<u64>::new(3)?;
    for op in &history.ops {
        let answered = !matches!(op.answer, Answer::Unknown | Answer::Refused);
        if answered && from_ns <= op.invoked_ns && op.returned_ns <= to_ns {
            latencies.record((op.returned_ns - op.invoked_ns) / 1_000)?;
        }
    }
    Ok(latencies)
}

/// Lets a process's peak of memory begin anew.
fn forget_peak(cluster: &Cluster, node: u64) -> anyhow::Result<()> {
    std::fs::write(format!("/proc/{}/clear_refs", cluster.process(node)?.pid()), "5").context("cannot reset the peak")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_cluster_snapshot_of_a_gigabyte() -> anyhow::Result<()> {
    let Some(out) = out() else { return Ok(()) };
    let seed = harness::seed(79)?;
    let records = harness::number("SOAK_RECORDS", RECORDS)?;
    cluster::with(Founding::default(), async |cluster| {
        let begun = clock::now();
        let clients =
            cluster.nodes().iter().map(|node| Client::grpc(cluster.spot(*node)?.api)).collect::<anyhow::Result<Vec<_>>>()?;
        fill(&clients, records).await?;
        let filled = clock::now() - begun;
        // What the new node needs is in no log any more.
        for node in cluster.nodes() {
            cluster.ctl(node, &["snapshot"]).await?;
            let groups = cluster.groups(node).await?;
            ensure!(groups.iter().all(|group| group.purged_index > 0), "node {node} has purged nothing: {groups:?}");
        }
        let mut work = AtWork::on(cluster, OnLapse::Regrant, seed);
        let before = clock::now_ns();
        sleep(Duration::from_secs(20)).await;
        for node in cluster.nodes() {
            forget_peak(cluster, node)?;
        }
        let joined = clock::now_ns();
        cluster.add(4)?;
        cluster.start(4)?;
        until_member(cluster, 1, 4, Is::Learner).await?;
        cluster.until_serving(SNAPSHOT_DEADLINE).await?;
        cluster.until_caught_up().await?;
        let there = clock::now_ns();
        let groups = cluster.groups(4).await?;
        ensure!(groups.iter().all(|group| group.purged_index > 0), "node 4 has the whole log, so no snapshot: {groups:?}");
        ctl_until_done(cluster, &["members", "promote", "4"]).await?;
        until_member(cluster, 4, 4, Is::Voter).await?;
        let mut peaks = String::new();
        for node in cluster.nodes() {
            let peak = memory_kib(cluster.process(node)?, "VmHWM")?;
            peaks.push_str(&format!(" node {node}: {} MiB", peak / 1_024));
            ensure!(peak < MOST_KIB, "node {node} took {peak} KiB of memory");
        }
        let quiet = work.crowd.look(|history| latencies(history, before, joined))?;
        let during = work.crowd.look(|history| latencies(history, joined, there))?;
        let longest = work.crowd.look(|history| gap::longest(history, PARTITIONS));
        let figures = format!(
            "{records} records of {BODY_BYTES} bytes ({} MiB) written in {:.1} s\na fresh node had them after {:.1} s, with \
             traffic on\npeak memory meanwhile:{peaks}\ncalls before: {}\ncalls meanwhile: {}\nlongest time without a new grant \
             in a partition: {longest:?}",
            u64::from(records) * BODY_BYTES as u64 / (1024 * 1024),
            filled.as_secs_f64(),
            Duration::from_nanos(there - joined).as_secs_f64(),
            percentiles(&quiet),
            percentiles(&during),
        );
        std::fs::write(out.join("cluster-snapshot.txt"), &figures)?;
        harness::report(&figures);
        work.rest().await?;
        // The new node has everything itself: the others cannot help it now.
        for node in 1..=3 {
            cluster.pause(node)?;
        }
        let compared = compare(&Client::grpc(cluster.spot(4)?.api)?, records).await;
        for node in 1..=3 {
            cluster.resume(node)?;
        }
        compared.context("asked of the new node alone")?;
        work.judged(cluster, seed).await
    })
    .await
}

/// How long a fresh node may take to receive and install the snapshots.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(300);
