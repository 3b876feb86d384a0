//! Breaks a region, one fault at a time, and makes it whole again: who is hit, how and for how long comes from a seed.
//!
//! Every fault outlasts an election, and before the next one the region is let come to serve again: so each finds a region
//! that has work to lose.

use std::time::Duration;

use anyhow::Context as _;
use rand::Rng as _;
use tokio::time::sleep;

use crate::cluster::{Cluster, PARTITIONS, SERVING_DEADLINE};
use crate::random::Random;

/// How long a fault lasts that has to outlast an election, in milliseconds: elections begin after 1 to 2 s.
const LASTS_MS: std::ops::Range<u64> = 3_000..5_000;
/// How long a killed node is away, in milliseconds: from less than an election to more than one.
const AWAY_MS: std::ops::Range<u64> = 0..3_500;
/// How long the region works unharmed between two faults, in milliseconds.
const QUIET_MS: std::ops::Range<u64> = 200..1_200;

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL of the leader of a partition, which comes back.
    KillLeader,
    /// SIGKILL of any node, which comes back.
    KillOne,
    /// SIGKILL of all nodes at once: only what is on the disks is left.
    KillAll,
    /// SIGSTOP of the leader of a partition: it comes back and believes that it still leads.
    PauseLeader,
    /// SIGSTOP of any node.
    PauseOne,
    /// The leader of a partition and the others hear nothing of each other.
    IsolateLeader,
    /// Any node and the others hear nothing of each other.
    IsolateOne,
    /// The leader of a partition is heard, and hears nobody.
    DeafLeader,
    /// The leader of a partition hears the others, and nobody hears it.
    MuteLeader,
    /// What one node sends to another is lost; all else arrives.
    OneWay,
    /// Two nodes hear nothing of each other, and both are heard by the third.
    Bridge,
}

/// Chooses and inflicts faults.
pub(crate) struct Nemesis {
    random: Random,
}

impl Nemesis {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed ^ 0x6e65_6d65_7369_7321) }
    }

    /// Inflicts faults of the given kinds, each about as often, with time to work between them.
    pub(crate) async fn strikes(&mut self, cluster: &mut Cluster, kinds: &[Fault], count: u32) -> anyhow::Result<()> {
        for fault in kinds.iter().copied().cycle().take(count as usize) {
            self.quiet().await;
            self.strike(cluster, fault).await.with_context(|| format!("{fault:?}"))?;
            cluster.until_serving(SERVING_DEADLINE).await.with_context(|| format!("after {fault:?}"))?;
        }
        Ok(())
    }

    /// Lets the region work unharmed for a while.
    pub(crate) async fn quiet(&mut self) {
        self.lasting(QUIET_MS).await;
    }

    /// Inflicts one fault, lets it last, and ends it. The region may not serve yet when this returns.
    pub(crate) async fn strike(&mut self, cluster: &mut Cluster, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::KillLeader => {
                let leader = self.leader(cluster).await?;
                self.kill(cluster, &[leader]).await
            }
            Fault::KillOne => {
                let one = self.one(&cluster.nodes())?;
                self.kill(cluster, &[one]).await
            }
            Fault::KillAll => self.kill(cluster, &cluster.nodes()).await,
            Fault::PauseLeader => {
                let leader = self.leader(cluster).await?;
                self.pause(cluster, leader).await
            }
            Fault::PauseOne => {
                let one = self.one(&cluster.nodes())?;
                self.pause(cluster, one).await
            }
            Fault::IsolateLeader => {
                let leader = self.leader(cluster).await?;
                self.cut(cluster, |from, to| from == leader || to == leader).await
            }
            Fault::IsolateOne => {
                let one = self.one(&cluster.nodes())?;
                self.cut(cluster, |from, to| from == one || to == one).await
            }
            Fault::DeafLeader => {
                let leader = self.leader(cluster).await?;
                self.cut(cluster, |_, to| to == leader).await
            }
            Fault::MuteLeader => {
                let leader = self.leader(cluster).await?;
                self.cut(cluster, |from, _| from == leader).await
            }
            Fault::OneWay => {
                let (one, other) = self.pair(cluster)?;
                self.cut(cluster, |from, to| (from, to) == (one, other)).await
            }
            Fault::Bridge => {
                let (one, other) = self.pair(cluster)?;
                self.cut(cluster, |from, to| (from, to) == (one, other) || (from, to) == (other, one)).await
            }
        }
    }

    async fn kill(&mut self, cluster: &mut Cluster, nodes: &[u64]) -> anyhow::Result<()> {
        for node in nodes {
            cluster.kill(*node)?;
        }
        self.lasting(AWAY_MS).await;
        for node in nodes {
            cluster.start(*node)?;
        }
        Ok(())
    }

    async fn pause(&mut self, cluster: &mut Cluster, node: u64) -> anyhow::Result<()> {
        cluster.pause(node)?;
        self.lasting(LASTS_MS).await;
        cluster.resume(node)
    }

    async fn cut(&mut self, cluster: &mut Cluster, lost: impl Fn(u64, u64) -> bool) -> anyhow::Result<()> {
        let nodes = cluster.nodes();
        for from in &nodes {
            for to in nodes.iter().filter(|to| *to != from && lost(*from, **to)) {
                cluster.cut(*from, *to)?;
            }
        }
        self.lasting(LASTS_MS).await;
        cluster.mend()
    }

    async fn lasting(&mut self, ms: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.random.random_range(ms))).await;
    }

    /// The leader of a partition.
    async fn leader(&mut self, cluster: &Cluster) -> anyhow::Result<u64> {
        let partition = self.random.random_range(0..PARTITIONS);
        cluster.leader(partition).await
    }

    fn one(&mut self, nodes: &[u64]) -> anyhow::Result<u64> {
        nodes.get(self.random.random_range(0..nodes.len().max(1))).copied().context("there is no node")
    }

    fn pair(&mut self, cluster: &Cluster) -> anyhow::Result<(u64, u64)> {
        let nodes = cluster.nodes();
        let one = self.one(&nodes)?;
        let others: Vec<u64> = nodes.into_iter().filter(|node| *node != one).collect();
        Ok((one, self.one(&others)?))
    }
}
