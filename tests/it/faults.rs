//! A disk that is slow, one that fails, and one that is full. The store may get slower and may stop; what it acknowledged
//! it keeps, and when it stops it says so and says what to do.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::checker;
use crate::client::Client;
use crate::clock;
use crate::crash::ask_for_every_key;
use crate::failure::Failure;
use crate::harness::{self, Node, Place, Start};
use crate::history::{Answer, History, OnLapse, Recorded};
use crate::http;
use crate::kept;
use crate::strace::{Need, Strace, Sync, Tmpfs, available};
use crate::workload::{Crowd, Target};

const WORKERS: u64 = 8;
/// Of `holdfast dev`.
const PARTITIONS: u32 = 4;
const MIB: u64 = 1024 * 1024;

/// A crowd at work on one node.
struct AtWork {
    crowd: Arc<Crowd>,
    workers: JoinSet<()>,
    target: watch::Sender<Target>,
    end: watch::Sender<bool>,
}

impl AtWork {
    fn on(node: &Node, seed: u64) -> Self {
        let (target, seen) = watch::channel(vec![(0, node.address())]);
        let (end, over) = watch::channel(false);
        let crowd = Crowd::new(seed, OnLapse::Regrant, seen, over);
        let mut workers = JoinSet::new();
        for number in 0..WORKERS {
            workers.spawn(crowd.worker(number).live());
        }
        Self { crowd, workers, target, end }
    }

    /// Ends the crowd's work, kills the node, starts it again, and judges what happened and what it answers now.
    async fn judge_after_a_kill(mut self, mut node: Node, start: &Start) -> anyhow::Result<History> {
        self.end.send(true)?;
        if node.ended()?.is_none() {
            node.kill()?;
        }
        self.crowd.died();
        let node = start.run().await?;
        self.target.send(vec![(1, node.address())])?;
        while let Some(ended) = self.workers.join_next().await {
            ended?;
        }
        ask_for_every_key(&self.crowd).await?;
        node.stop().await?;
        let surprises = self.crowd.surprises();
        ensure!(surprises.is_empty(), "answers that no call deserved: {surprises:#?}");
        let history = self.crowd.take_history();
        if let Some(first) = checker::check(&history, OnLapse::Regrant).first() {
            bail!("a broken promise: {first}");
        }
        Ok(history)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_syncs_slow_the_answers_and_lose_nothing() -> anyhow::Result<()> {
    if !available(&[Need::Strace])? {
        return Ok(());
    }
    let _machine = harness::alone().await?;
    let delay = Duration::from_millis(50);
    let place = Place::new()?;
    let start = place.start();
    let node = start.run().await?;
    let work = AtWork::on(&node, harness::seed(1)?);
    let strace = Strace::attach(node.pid(), Sync::Delayed(delay), place.root()).await?;
    let from_ns = clock::now_ns();
    sleep(Duration::from_secs(6)).await;
    let until_ns = clock::now_ns();
    strace.detach()?;
    let history = work.judge_after_a_kill(node, &start).await?;

    let mut waits_ms: Vec<u64> = history
        .ops
        .iter()
        .filter(|op| op.invoked_ns > from_ns && op.returned_ns < until_ns && is_written(&op.answer))
        .map(|op| (op.returned_ns - op.invoked_ns) / 1_000_000)
        .collect();
    waits_ms.sort_unstable();
    let (count, least) = (waits_ms.len(), waits_ms.first().copied().unwrap_or_default());
    let p99 = waits_ms.get(count * 99 / 100).copied().unwrap_or_default();
    harness::report(&format!("{count} writes acknowledged, least {least} ms, p99 {p99} ms"));
    ensure!(count > 100, "only {count} writes were acknowledged in 6 s");
    let delay_ms = u64::try_from(delay.as_millis())?;
    ensure!(
        least >= delay_ms,
        "a write was acknowledged after {least} ms, before a sync of {delay_ms} ms can have ended"
    );
    ensure!(
        p99 < 40 * delay_ms,
        "p99 is {p99} ms with syncs of {delay_ms} ms: writes wait for more than their own syncs"
    );
    Ok(())
}

/// Whether the answer tells of something that had to be on the disk first.
fn is_written(answer: &Answer) -> bool {
    match answer {
        Answer::Granted { repeated, .. } => !repeated,
        Answer::Completed(recorded) => match recorded {
            Recorded::Answer | Recorded::Late => true,
            Recorded::Repeated => false,
        },
        Answer::Released | Answer::Extended | Answer::Checkpointed => true,
        Answer::Replay(_)
        | Answer::Mismatch
        | Answer::InProgress
        | Answer::OutcomeUnknown
        | Answer::NotClaimable
        | Answer::StaleToken
        | Answer::Refused
        | Answer::Unknown => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_stops_the_node_loudly() -> anyhow::Result<()> {
    if !available(&[Need::Strace])? {
        return Ok(());
    }
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let start = place.start();
    let mut node = start.run().await?;
    let work = AtWork::on(&node, harness::seed(2)?);
    sleep(Duration::from_millis(1_500)).await;
    let strace = Strace::attach(node.pid(), Sync::Fails, place.root()).await?;
    let failing_from_ns = clock::now_ns();
    stops_loudly(&mut node, &["disk", "EIO", "Input/output"]).await?;
    // All of them write to one log, and each looks at it a few times a second.
    stopped_in_all(&mut node).await?;
    let loud_from_ns = clock::now_ns();
    sleep(Duration::from_millis(500)).await;
    strace.detach()?;
    // The disk works again, and still nothing is answered from what the failure left in doubt.
    sleep(Duration::from_millis(500)).await;
    node.no_panic()?;
    let over_ns = clock::now_ns();
    let history = work.judge_after_a_kill(node, &start).await?;

    let before = history.ops.iter().filter(|op| op.returned_ns < failing_from_ns && is_written(&op.answer)).count();
    ensure!(before > 50, "only {before} writes were acknowledged before the failure");
    for op in history.ops.iter().filter(|op| op.invoked_ns > failing_from_ns && op.invoked_ns < over_ns) {
        ensure!(!is_written(&op.answer), "acknowledged though no sync succeeded: {op:?}");
        let answered = !matches!(op.answer, Answer::Unknown | Answer::Refused);
        ensure!(op.invoked_ns < loud_from_ns || !answered, "answered after the node had stopped: {op:?}");
    }
    Ok(())
}

/// Waits until the node says that it does not serve, over everything it says things with; or until it ended and said why.
async fn stops_loudly(node: &mut Node, names: &[&str]) -> anyhow::Result<()> {
    let address = node.address();
    let clients = Client::both(address)?;
    for client in &clients {
        // Something to write, so that the failure is met.
        drop(kept::grant(client, 900_000).await);
    }
    let deadline = clock::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = node.ended()? {
            ensure!(!status.success(), "the node ended with {status} though its disk failed");
            return says_what_to_do(&node.output(), names);
        }
        match http::get(address, "/healthz").await {
            Ok(health) if health.status == 503 => break,
            _ if clock::now() > deadline => bail!("the node still says that it is healthy:\n{}", node.output()),
            _ => sleep(Duration::from_millis(20)).await,
        }
    }
    for (number, client) in (900_001..).zip(&clients) {
        match kept::grant(client, number).await? {
            // A partition that has not written since may still know no more than that the disk is nearly full.
            Err(failure) if failure.is_unavailable() || failure.code == "disk-low" => {
                says_what_to_do(&failure.text, names)?;
            }
            // It may end between the answer of /healthz and this one.
            Err(failure) if failure.code.is_empty() => {
                let status = node.wait(harness::STOP_DEADLINE).await?;
                ensure!(!status.success(), "the node ended with {status} though its disk failed");
                says_what_to_do(&node.output(), names)?;
            }
            other => bail!("not refused over {} as unavailable: {other:?}", client.name()),
        }
    }
    Ok(())
}

/// Waits until the node says of every partition that it has stopped, or has ended.
async fn stopped_in_all(node: &mut Node) -> anyhow::Result<()> {
    let deadline = clock::now() + Duration::from_secs(20);
    loop {
        if node.ended()?.is_some() {
            return Ok(());
        }
        let said = match http::get(node.address(), "/healthz").await {
            Ok(health) => String::from_utf8_lossy(&health.body).into_owned(),
            Err(error) => error.to_string(),
        };
        if (0..PARTITIONS).all(|partition| said.contains(&format!("partition {partition}: stopped"))) {
            return Ok(());
        }
        ensure!(clock::now() < deadline, "some partitions have not stopped:\n{said}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A message names what is wrong, and a remedy.
pub(crate) fn says_what_to_do(text: &str, names: &[&str]) -> anyhow::Result<()> {
    let lower = text.to_lowercase();
    let names_it = names.iter().any(|name| lower.contains(&name.to_lowercase()));
    let remedies = ["restart", "restore", "replace", "free some space", "free space", "check ", "stop it"];
    let helps = remedies.iter().any(|remedy| lower.contains(remedy));
    ensure!(names_it && helps, "this names none of {names:?}, or no remedy:\n{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_grants_early_and_keeps_what_was_acknowledged() -> anyhow::Result<()> {
    if !available(&[Need::Mount])? {
        return Ok(());
    }
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let disk = Tmpfs::mount(place.data(), 640 * MIB)?;
    let start = Start::new(&place.data().join("node")).logs_in(place.root());
    let mut node = start.run().await?;
    let clients = Client::both(node.address())?;
    let [grpc, _] = &clients;
    let done = kept::fill(grpc, 0..200, &[0, 300, 16 * 1024, 256 * 1024]).await?;
    let mut held = kept::hold(grpc, 1_000..1_300).await?;

    disk.leave_free(100 * MIB)?;
    for (number, client) in (2_000..).step_by(1_000).zip(&clients) {
        grants_are_refused(client, number).await?;
    }
    let health = http::get(node.address(), "/healthz").await?;
    ensure!(health.status == 200, "a low disk is no reason to be unhealthy: {health:?}");
    kept::all_there(node.address(), &done).await?;
    let (now, later) = held.split_at_mut(20);
    for (kept, client) in now.iter_mut().zip(clients.iter().cycle()) {
        let completed = kept::complete(client, kept, 64 * 1024).await?;
        ensure!(completed.is_ok(), "a completion was refused while there was room: {completed:?}");
    }

    disk.leave_free(0)?;
    let mut last = None;
    for kept in later.iter_mut() {
        if let Err(failure) = kept::complete(grpc, kept, 256 * 1024).await? {
            last = Some(failure);
            break;
        }
    }
    let Some(failure) = last else { bail!("{} completions of 256 KiB went onto a full disk", later.len()) };
    harness::report(&format!("the full disk: {failure:?}"));
    stops_loudly(&mut node, &["space", "disk"]).await?;
    node.no_panic()?;
    // The one whose answer was a failure is indefinite: it may be recorded.
    let unsure = held.iter().position(|kept| kept.number() >= 1_020 && kept.completed.is_none());
    if let Some(unsure) = unsure {
        held.remove(unsure);
    }

    drop(node);
    disk.leave_free(400 * MIB)?;
    let node = start.run().await?;
    kept::all_there(node.address(), &done).await?;
    kept::all_there(node.address(), &held).await?;
    let client = Client::grpc(node.address())?;
    ensure!(kept::grant(&client, 5_000).await?.is_ok(), "there is room again, and a grant is refused");
    node.stop().await
}

/// Waits until new grants are refused for want of space, with everything a client needs to know.
async fn grants_are_refused(client: &Client, from: u64) -> anyhow::Result<()> {
    let mut number = from;
    let deadline = clock::now() + Duration::from_secs(20);
    let failure: Failure = loop {
        number += 1;
        match kept::grant(client, number).await? {
            Err(failure) => break failure,
            Ok(_) if clock::now() > deadline => bail!("grants are still made with 100 MiB free"),
            Ok(_) => sleep(Duration::from_millis(20)).await,
        }
    };
    ensure!(failure.code == "disk-low", "refused over {} as {failure:?}", client.name());
    ensure!(failure.definite && failure.retry_after, "not definite, or without a time to retry: {failure:?}");
    says_what_to_do(&failure.text, &["disk"])
}
