//! `holdfast dev`, killed with SIGKILL at random moments while a crowd works, and started again on what it left.
//!
//! Every call of every client is written down, and at the end the checker judges the whole of it. What SIGKILL cannot
//! show, the loss of what the page cache still held, is in `power`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rand::Rng as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::checker;
use crate::harness::{self, Node, Place};
use crate::history::{Answer, Call, History, KeyId, OnLapse, Recorded};
use crate::random::Random;
use crate::workload::{Crowd, Target};

const WORKERS: u64 = 24;
/// Clients that ask for every key again at the end.
const VERIFIERS: u64 = 32;
/// Of so many keys one is asked for at every node.
const ASKED_EVERYWHERE: u32 = 5;
/// How long a node is up before it is killed, in milliseconds.
const UP_MS: std::ops::Range<u64> = 100..900;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_a_hundred_times_where_lapsed_keys_are_granted_again() -> anyhow::Result<()> {
    let kills = harness::number("CRASH_KILLS", 100)?;
    kill_again_and_again(kills, OnLapse::Regrant).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_where_lapsed_keys_are_held() -> anyhow::Result<()> {
    let kills = harness::number("CRASH_KILLS", 100)? / 4;
    kill_again_and_again(kills, OnLapse::Hold).await
}

async fn kill_again_and_again(kills: u32, on_lapse: OnLapse) -> anyhow::Result<()> {
    let _place = harness::beside_another().await?;
    let seed = harness::seed(20_251_124)?;
    let mut random = Random::new(seed);
    let place = Place::new()?;
    let start = match on_lapse {
        OnLapse::Regrant => place.start(),
        OnLapse::Hold => place.start().critical(),
    };
    let (target, seen) = watch::channel(Target::new());
    let (end, over) = watch::channel(false);
    let crowd = Crowd::new(seed, on_lapse, seen, over);
    let mut workers = JoinSet::new();
    for number in 0..WORKERS {
        workers.spawn(crowd.worker(number).live());
    }
    for round in 0..u64::from(kills) {
        let mut node = start.run().await.with_context(|| format!("round {round} of SEED={seed}"))?;
        target.send(vec![(round, node.address())])?;
        sleep(Duration::from_millis(random.random_range(UP_MS))).await;
        kill(&mut node, &crowd)?;
        target.send(Vec::new())?;
        node.no_panic()?;
    }
    let node = start.run().await?;
    end.send(true)?;
    target.send(vec![(u64::from(kills), node.address())])?;
    while let Some(ended) = workers.join_next().await {
        ended?;
    }
    ask_for_every_key(&crowd).await?;
    node.stop().await?;
    judge(&crowd, seed)
}

fn kill(node: &mut Node, crowd: &Crowd) -> anyhow::Result<()> {
    if let Some(status) = node.ended()? {
        bail!("the node ended by itself with {status}:\n{}", node.output());
    }
    node.kill()?;
    crowd.died();
    Ok(())
}

/// A retry of every request, so that the fate of every key is in the history.
pub(crate) async fn ask_for_every_key(crowd: &Arc<Crowd>) -> anyhow::Result<()> {
    let mut verifiers = JoinSet::new();
    for number in 0..VERIFIERS {
        let mut worker = crowd.worker(1_000 + number);
        let keys = crowd.keys();
        verifiers.spawn(async move {
            for key in (0..keys).filter(|key| u64::from(*key) % VERIFIERS == number) {
                // A region's replicas are asked one by one, but not for all keys: that would take as long as the test.
                if key % ASKED_EVERYWHERE == 0 {
                    worker.verify_everywhere(KeyId(key)).await;
                } else {
                    worker.verify(KeyId(key)).await;
                }
            }
        });
    }
    while let Some(ended) = verifiers.join_next().await {
        ended?;
    }
    Ok(())
}

/// The verdict over everything that happened, and whether enough happened for it to count.
fn judge(crowd: &Crowd, seed: u64) -> anyhow::Result<()> {
    let kinds = judge_promises(crowd, seed)?;
    for kind in expected(crowd.on_lapse()) {
        ensure!(kinds.get(kind).is_some_and(|count| *count > 0), "the workload never saw {kind:?}: {kinds:?}");
    }
    Ok(())
}

/// The verdict that promises were broken.
#[derive(Debug)]
pub(crate) struct Broken {
    /// The key of the first.
    pub(crate) key: KeyId,
    text: String,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Broken {}

/// The verdict over everything that happened. Returns how often each answer occurred.
///
/// # Errors
/// [`Broken`], among others.
pub(crate) fn judge_promises(crowd: &Crowd, seed: u64) -> anyhow::Result<BTreeMap<&'static str, usize>> {
    let history = crowd.take_history();
    let kinds = kinds(&history);
    let summary = format!("{} keys, {} calls, {kinds:?}", crowd.keys(), history.ops.len());
    harness::report(&summary);
    let surprises = crowd.surprises();
    ensure!(surprises.is_empty(), "answers that no call deserved: {surprises:#?}");
    let violations = checker::check(&history, crowd.on_lapse());
    if let Some(first) = violations.first() {
        let text = format!("SEED={seed}: {} broken promises, the first:\n{first}\n{summary}", violations.len());
        return Err(Broken { key: first.key, text }.into());
    }
    Ok(kinds)
}

/// How often each answer occurs.
fn kinds(history: &History) -> BTreeMap<&'static str, usize> {
    let mut kinds = BTreeMap::new();
    for op in &history.ops {
        let kind = match op.answer {
            Answer::Granted { .. } if matches!(op.call, Call::Claim { .. }) => "claimed",
            Answer::Granted { repeated: true, .. } => "granted again for the same nonce",
            Answer::Granted { flagged: true, .. } => "granted as a possible duplicate",
            Answer::Granted { checkpoint: Some(_), .. } => "granted with a checkpoint",
            Answer::Granted { .. } => "granted",
            Answer::Replay(_) => "replay",
            Answer::Mismatch => "mismatch",
            Answer::InProgress => "in progress",
            Answer::OutcomeUnknown => "outcome unknown",
            Answer::Completed(Recorded::Answer) => "completed",
            Answer::Completed(Recorded::Repeated) => "completed again",
            Answer::Completed(Recorded::Late) => "completed late",
            Answer::Released => "released",
            Answer::Extended => "extended",
            Answer::Checkpointed => "checkpointed",
            Answer::NotClaimable => "not claimable",
            Answer::StaleToken => "stale token",
            Answer::Refused => "refused",
            Answer::Unknown => "no answer",
        };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

/// What a workload has to have met for its verdict to count.
fn expected(on_lapse: OnLapse) -> &'static [&'static str] {
    match on_lapse {
        OnLapse::Regrant => &[
            "granted",
            "granted again for the same nonce",
            "granted as a possible duplicate",
            "granted with a checkpoint",
            "replay",
            "mismatch",
            "in progress",
            "completed",
            "completed again",
            "completed late",
            "released",
            "extended",
            "checkpointed",
            "stale token",
            "no answer",
        ],
        OnLapse::Hold => &[
            "granted",
            "granted again for the same nonce",
            "replay",
            "outcome unknown",
            "claimed",
            "completed",
            "no answer",
        ],
    }
}
