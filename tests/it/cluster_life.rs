//! A region's life under load: nodes restarted one by one, a follower that lost its disk replaced, members changed while
//! leaders die, and one clock that is wrong.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use holdfast_client::proto::v1 as api;
use holdfast_client::proto::v1::reserve_response::Outcome;

use crate::client::Client;
use crate::clock;
use crate::cluster::{self, Cluster, Founding, PARTITIONS, SERVING_DEADLINE};
use crate::cluster_faults::AtWork;
use crate::gap;
use crate::harness;
use crate::history::OnLapse;
use crate::nemesis::{Fault, Nemesis};
use crate::strace;
use crate::talk::Ask;

/// The longest time that a partition may grant nothing when its leader is told to stop: less than any election by timeout
/// can take, were its leadership not handed over.
const HANDED_OVER: Duration = Duration::from_millis(1_000);
/// How long a change of members may take.
const CHANGE_DEADLINE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_costs_nobody_more_than_a_handover() -> anyhow::Result<()> {
    let seed = harness::seed(61)?;
    cluster::with(Founding::default(), async |cluster| {
        let work = AtWork::on(cluster, OnLapse::Regrant, seed);
        let mut nemesis = Nemesis::new(seed);
        nemesis.quiet().await;
        for node in cluster.nodes() {
            cluster.terminate(node).await?;
            cluster.start(node)?;
            cluster.until_serving(SERVING_DEADLINE).await?;
            cluster.until_caught_up().await?;
            nemesis.quiet().await;
        }
        let longest = work.crowd.look(|history| gap::longest(history, PARTITIONS));
        harness::report(&format!("the longest time without a new grant in a partition: {longest:?}"));
        work.judged(cluster, seed).await?;
        ensure!(longest < HANDED_OVER, "a partition granted nothing for {longest:?}");
        Ok(())
    })
    .await
}

/// What a node knows of a member.
async fn member(cluster: &Cluster, asked: u64, node: u64) -> anyhow::Result<Option<api::Member>> {
    Ok(cluster.members(asked).await?.into_iter().find(|member| member.node_id == node))
}

/// Waits until a node, as another one knows it, votes in every group, or is no member at all.
pub(crate) async fn until_member(cluster: &Cluster, asked: u64, node: u64, is: Is) -> anyhow::Result<()> {
    let what = format!("node {node} is {is:?}");
    harness::until(&what, CHANGE_DEADLINE, async || {
        let Ok(member) = member(cluster, asked, node).await else { return Ok(None) };
        let all = u32::from(PARTITIONS);
        let so = match is {
            Is::Learner => member.is_some_and(|member| member.learner_of + member.voter_of == all),
            Is::Voter => member.is_some_and(|member| member.voter_of == all),
            Is::Gone => member.is_none(),
        };
        Ok(so.then_some(()))
    })
    .await
}

/// What a node may be in a region.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Is {
    Learner,
    Voter,
    Gone,
}

/// Runs `ctl` against any node that is awake until it succeeds: a repeated call goes on where one that failed has stopped.
pub(crate) async fn ctl_until_done(cluster: &mut Cluster, words: &[&str]) -> anyhow::Result<()> {
    let end = clock::now() + CHANGE_DEADLINE;
    let mut asked = cluster.awake().into_iter().cycle();
    loop {
        let node = asked.next().context("no node is awake")?;
        match cluster.ctl(node, words).await {
            Ok(_) => return Ok(()),
            Err(error) if clock::now() > end => return Err(error),
            Err(error) => cluster.note(format!("{error:#}")),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_lost_its_disk_is_replaced_under_load() -> anyhow::Result<()> {
    let seed = harness::seed(67)?;
    cluster::with(Founding::default(), async |cluster| {
        let work = AtWork::on(cluster, OnLapse::Regrant, seed);
        Nemesis::new(seed).quiet().await;
        cluster.kill(3)?;
        std::fs::remove_dir_all(cluster.data_dir(3))?;
        std::fs::create_dir(cluster.data_dir(3))?;

        // Under its old number it might vote a second time in a term in which it has voted.
        let refused = match cluster.how(3)?.try_run().await? {
            Ok(_) => bail!("a node that lost its disk came back under its old number"),
            Err(refused) => refused,
        };
        ensure!(refused.status.is_some_and(|status| !status.success()), "{:?}: {}", refused.status, refused.output);
        for word in ["node 3", "--join", "replace 3"] {
            ensure!(refused.output.contains(word), "it does not say {word:?}: {}", refused.output);
        }

        cluster.add(4)?;
        cluster.start(4)?;
        until_member(cluster, 1, 4, Is::Learner).await?;
        ctl_until_done(cluster, &["members", "replace", "3", "--with", "4"]).await?;
        cluster.forget(3)?;
        for asked in [1, 2, 4] {
            until_member(cluster, asked, 4, Is::Voter).await?;
            until_member(cluster, asked, 3, Is::Gone).await?;
        }
        cluster.until_serving(SERVING_DEADLINE).await?;
        // The new one counts: with it, and without one of the others, there is a majority.
        cluster.kill(1)?;
        cluster.until_serving(SERVING_DEADLINE).await?;
        Nemesis::new(seed).quiet().await;
        cluster.start(1)?;
        work.judged(cluster, seed).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_change_while_leaders_die() -> anyhow::Result<()> {
    let seed = harness::seed(71)?;
    cluster::with(Founding::default(), async |cluster| {
        let work = AtWork::on(cluster, OnLapse::Regrant, seed);
        let mut nemesis = Nemesis::new(seed);
        cluster.add(4)?;
        cluster.start(4)?;
        nemesis.strike(cluster, Fault::KillLeader).await?;
        until_member(cluster, 2, 4, Is::Learner).await?;
        ctl_until_done(cluster, &["members", "promote", "4"]).await?;
        nemesis.strike(cluster, Fault::KillLeader).await?;
        cluster.until_serving(SERVING_DEADLINE).await?;

        ctl_until_done(cluster, &["members", "remove", "1"]).await?;
        for asked in [2, 3, 4] {
            until_member(cluster, asked, 1, Is::Gone).await?;
        }
        cluster.kill(1)?;
        cluster.forget(1)?;
        cluster.until_serving(SERVING_DEADLINE).await?;
        for node in cluster.nodes() {
            until_member(cluster, node, 4, Is::Voter).await?;
        }
        nemesis.strikes(cluster, &[Fault::KillLeader, Fault::KillOne], 2).await?;
        work.judged(cluster, seed).await
    })
    .await
}

/// Keys that are held when every process dies, and for how long.
const HELD: u64 = 200;
const HELD_MS: u32 = 2_000;

/// A leader that is started again before anybody stands for election leads on in its term, over a state that is behind
/// what it has acknowledged. What it granted may have executed all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_are_back_at_once_take_no_grant_back() -> anyhow::Result<()> {
    cluster::with(Founding::default(), async |cluster| {
        let client = &Client::grpc(cluster.spot(1)?.api)?;
        let key = |number: u64| format!("held-{number}");
        for number in 0..HELD {
            Ask::new(&key(number), 1).lease_ms(HELD_MS).granted(client).await?;
        }
        for node in cluster.nodes() {
            cluster.kill(node)?;
        }
        for node in cluster.nodes() {
            cluster.start(node)?;
        }
        cluster.until_serving(SERVING_DEADLINE).await?;
        for number in 0..HELD {
            let next = harness::until("the next grant", SERVING_DEADLINE, async || {
                match Ask::new(&key(number), 2).of(client).await {
                    Ok(Outcome::Granted(grant)) => Ok(Some(grant)),
                    Ok(Outcome::InProgress(_)) => Ok(None),
                    Err(failure) if failure.is_unavailable() => Ok(None),
                    other => bail!("{other:?}"),
                }
            })
            .await?;
            ensure!(next.possible_duplicate && next.attempt == 2, "{} may have executed: {next:?}", key(number));
        }
        Ok(())
    })
    .await
}

/// How far one clock is ahead, in minutes: less than the hour from which on a clock waits for an operator.
const AHEAD_MIN: u64 = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_clock_that_is_far_ahead_moves_no_log_time() -> anyhow::Result<()> {
    if !strace::available(&[strace::Need::Faketime])? {
        return Ok(());
    }
    let seed = harness::seed(73)?;
    let ahead = format!("+{AHEAD_MIN}m");
    let wrapper = ["faketime", "-m", "--exclude-monotonic", "-f", &ahead].map(str::to_owned).into();
    cluster::with(Founding::default().under(2, wrapper), async |cluster| {
        let work = AtWork::on(cluster, OnLapse::Regrant, seed);
        // It leads everything, and stamps what the region commits.
        for partition in 0..PARTITIONS {
            let partition = partition.to_string();
            ctl_until_done(cluster, &["transfer", "--partition", &partition, "--to", "2"]).await?;
        }
        cluster.until_serving(SERVING_DEADLINE).await?;
        Nemesis::new(seed).quiet().await;
        let own = |groups: &[api::GroupStatus]| groups.iter().filter(|group| group.role == "leader").count();
        let led = own(&cluster.groups(2).await?);
        ensure!(led == usize::from(PARTITIONS), "node 2 leads {led} partitions");
        harness::until("log time moves on", SERVING_DEADLINE, async || {
            let now = clock::wall_unix_ms();
            let mut moved = true;
            for node in cluster.nodes() {
                for group in cluster.groups(node).await? {
                    let ahead_ms = group.log_time_unix_ms.saturating_sub(now);
                    ensure!(ahead_ms < 5_000, "log time is {ahead_ms} ms ahead: {group:?}");
                    moved &= group.log_time_unix_ms + 30_000 > now;
                }
            }
            Ok(moved.then_some(()))
        })
        .await?;
        work.judged(cluster, seed).await
    })
    .await
}
