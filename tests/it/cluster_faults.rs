//! Three real nodes under concurrent load while one after another dies, stands still or is cut off: nothing acknowledged
//! is lost, no key is granted twice, every replay is byte-exact, and no definite refusal takes effect.
//!
//! `SEED` repeats a run as far as the machine does; `CLUSTER_ROUNDS` makes it longer.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{bail, ensure};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::calls::TENANT;
use crate::cluster::{self, Cluster, Founding};
use crate::crash::{Broken, ask_for_every_key, judge_promises};
use crate::harness;
use crate::history::OnLapse;
use crate::nemesis::{Fault, Nemesis};
use crate::netns;
use crate::soak;
use crate::workload::{self, Crowd};

const WORKERS: u64 = 24;
/// What a workload on a region has to have met for its verdict to count.
const EXPECTED: &[&str] = &["granted", "replay", "mismatch", "in progress", "completed", "released", "no answer"];

/// What only those see whose answer was lost.
const RESENT: &[&str] = &["granted again for the same nonce", "completed again"];

/// A crowd at work on a region.
pub(crate) struct AtWork {
    pub(crate) crowd: Arc<Crowd>,
    workers: JoinSet<()>,
    end: watch::Sender<bool>,
}

impl AtWork {
    pub(crate) fn on(cluster: &Cluster, on_lapse: OnLapse, seed: u64) -> Self {
        let (end, over) = watch::channel(false);
        let crowd = Crowd::new(seed, on_lapse, cluster.target(), over);
        let mut workers = JoinSet::new();
        for number in 0..WORKERS {
            workers.spawn(crowd.worker(number).live());
        }
        Self { crowd, workers, end }
    }

    /// Ends the work. What the crowd did is kept for [`AtWork::judged`].
    pub(crate) async fn rest(&mut self) -> anyhow::Result<()> {
        self.end.send(true)?;
        while let Some(ended) = self.workers.join_next().await {
            ended?;
        }
        Ok(())
    }

    /// Ends the work, asks for every key once more, stops the nodes and judges all that happened.
    ///
    /// Returns how often each answer occurred.
    pub(crate) async fn judged(
        mut self,
        cluster: &mut Cluster,
        seed: u64,
    ) -> anyhow::Result<BTreeMap<&'static str, usize>> {
        cluster.until_serving(cluster::SERVING_DEADLINE).await?;
        self.rest().await?;
        cluster.until_caught_up().await?;
        ask_for_every_key(&self.crowd).await?;
        self.crowd.tell(cluster.events());
        let kinds = match judge_promises(&self.crowd, seed) {
            Ok(kinds) => kinds,
            Err(error) => {
                if let Some(broken) = error.downcast_ref::<Broken>() {
                    let key = workload::name(broken.key);
                    harness::report(&cluster.what_nodes_know(&format!("/v1/keys/{TENANT}/{key}")).await?);
                }
                return Err(error);
            }
        };
        for node in cluster.nodes() {
            cluster.terminate(node).await?;
        }
        Ok(kinds)
    }
}

/// Lets a crowd work through faults, and judges.
async fn survives(faults: &[Fault], rounds: u32, on_lapse: OnLapse, seed: u64) -> anyhow::Result<()> {
    let seed = harness::seed(seed)?;
    let rounds = harness::number("CLUSTER_ROUNDS", rounds)?;
    let founding = match on_lapse {
        OnLapse::Regrant => Founding::default(),
        OnLapse::Hold => Founding::default().flag("--severity", "critical"),
    };
    cluster::with(founding, async |cluster| {
        let work = AtWork::on(cluster, on_lapse, seed);
        Nemesis::new(seed).strikes(cluster, faults, rounds).await?;
        let kinds = work.judged(cluster, seed).await?;
        for kind in EXPECTED {
            ensure!(kinds.get(kind).is_some_and(|count| *count > 0), "the workload never saw {kind:?}: {kinds:?}");
        }
        // Where all nodes were dead for seconds, hardly a client asks again in time.
        if !faults.contains(&Fault::KillAll) {
            let resent = RESENT.iter().filter_map(|kind| kinds.get(kind)).sum::<usize>();
            ensure!(resent > 0, "no lost answer was given again: {kinds:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_are_killed_again_and_again() -> anyhow::Result<()> {
    survives(&[Fault::KillLeader], 12, OnLapse::Regrant, 31).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_are_killed_at_once_where_lapsed_keys_are_held() -> anyhow::Result<()> {
    survives(&[Fault::KillAll, Fault::KillOne], 6, OnLapse::Hold, 37).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_stand_still_for_longer_than_an_election() -> anyhow::Result<()> {
    survives(&[Fault::PauseLeader, Fault::PauseLeader, Fault::PauseOne], 6, OnLapse::Regrant, 41).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_cut_off_from_each_other() -> anyhow::Result<()> {
    if !netns::available()? {
        return Ok(());
    }
    let faults = [Fault::IsolateLeader, Fault::DeafLeader, Fault::MuteLeader, Fault::Bridge, Fault::OneWay];
    survives(&faults, 10, OnLapse::Regrant, 43).await
}

/// The planted bug: a majority whose disks forget what it has acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_that_forget_are_found_out() -> anyhow::Result<()> {
    let seed = harness::seed(45)?;
    cluster::with(Founding::default(), async |cluster| {
        let mut work = AtWork::on(cluster, OnLapse::Regrant, seed);
        let mut nemesis = Nemesis::new(seed);
        nemesis.quiet().await;
        for node in cluster.nodes() {
            cluster.kill(node)?;
        }
        for node in [2, 3] {
            copy(&cluster.data_dir(node), &cluster.data_dir(node).with_extension("before"))?;
        }
        for node in cluster.nodes() {
            cluster.start(node)?;
        }
        cluster.until_serving(cluster::SERVING_DEADLINE).await?;
        nemesis.quiet().await;
        for node in cluster.nodes() {
            cluster.kill(node)?;
        }
        cluster.forget(1)?;
        for node in cluster.nodes() {
            std::fs::remove_dir_all(cluster.data_dir(node))?;
            copy(&cluster.data_dir(node).with_extension("before"), &cluster.data_dir(node))?;
            cluster.start(node)?;
        }
        cluster.until_serving(cluster::SERVING_DEADLINE).await?;
        work.rest().await?;
        match work.judged(cluster, seed).await {
            Err(error) if format!("{error:#}").contains("broken promises") => Ok(()),
            other => bail!("what was forgotten was not missed: {other:?}"),
        }
    })
    .await
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(done.success(), "cannot copy {}", from.display());
    Ok(())
}

const EVERYTHING: &[Fault] = &[
    Fault::KillLeader,
    Fault::DeafLeader,
    Fault::PauseLeader,
    Fault::KillAll,
    Fault::IsolateLeader,
    Fault::KillOne,
    Fault::MuteLeader,
    Fault::OneWay,
    Fault::PauseOne,
    Fault::Bridge,
    Fault::IsolateOne,
];

/// Hours of it, if `CLUSTER_ROUNDS` says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_cluster_survives_everything() -> anyhow::Result<()> {
    if soak::out().is_none() || !netns::available()? {
        return Ok(());
    }
    survives(EVERYTHING, 220, OnLapse::Regrant, 47).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_cluster_survives_everything_where_lapsed_keys_are_held() -> anyhow::Result<()> {
    if soak::out().is_none() || !netns::available()? {
        return Ok(());
    }
    survives(EVERYTHING, 110, OnLapse::Hold, 53).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_cluster_leaders_are_killed_hundreds_of_times() -> anyhow::Result<()> {
    if soak::out().is_none() {
        return Ok(());
    }
    survives(&[Fault::KillLeader], 300, OnLapse::Regrant, 59).await
}
