//! Followers that need what their leader has purged.

use openraft::RaftMetrics;

use super::cluster::{Cluster, PATIENCE};
use crate::raft::types::Types;

impl Cluster {
    /// Has nodes forget their logs up to what they have applied.
    fn purge(&self, ids: &[u64]) {
        for id in ids {
            let group = self.group(*id);
            let taken = self.wait("a snapshot", group.snapshot()).unwrap();
            self.wait("the purge", async {
                group.raft.trigger().purge_log(taken).await.unwrap();
            });
            self.purged(*id, taken);
        }
    }

    /// Waits until a node's log begins behind an entry: entries alone do not do that, a snapshot does.
    fn purged(&self, id: u64, index: u64) {
        let purged = |metrics: &RaftMetrics<Types>| metrics.purged.is_some_and(|id| id.index >= index);
        let raft = &self.group(id).raft;
        self.wait("the purge", async { raft.wait(Some(PATIENCE)).metrics(purged, "the purge").await }).unwrap();
    }
}

#[test]
fn a_node_that_was_away_for_long_gets_a_snapshot() {
    let mut cluster = Cluster::found(3);
    cluster.write(&[1, 2, 3], 1);
    [1, 2, 3].into_iter().for_each(|id| cluster.applied(id, 1));
    let leader = cluster.leader(&[1, 2, 3]);
    let away = if leader == 3 { 2 } else { 3 };
    let rest: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != away).collect();
    let had = cluster.group(away).progress().last_log_index;
    cluster.kill(away);
    (2..=20).for_each(|epoch| {
        cluster.write(&rest, epoch);
    });
    rest.iter().for_each(|id| cluster.applied(*id, 20));
    cluster.purge(&rest);
    cluster.start(away);
    cluster.applied(away, 20);
    cluster.purged(away, had + 1);
    // From there on by the log, and once more from its own disk.
    cluster.write(&[1, 2, 3], 21);
    cluster.applied(away, 21);
    cluster.kill(away);
    cluster.start(away);
    cluster.applied(away, 21);
    // It may lead with what it got.
    cluster.kill(rest[0]);
    cluster.write(&[rest[1], away], 22);
    cluster.applied(away, 22);
}

#[test]
fn a_new_node_gets_a_snapshot_and_may_be_cut_off_meanwhile() {
    let mut cluster = Cluster::found(3);
    (1..=10).for_each(|epoch| {
        cluster.write(&[1, 2, 3], epoch);
    });
    [1, 2, 3].into_iter().for_each(|id| cluster.applied(id, 10));
    cluster.purge(&[1, 2, 3]);
    let at = cluster.add(4);
    cluster.isolate(&[4]);
    let leader = cluster.leader(&[1, 2, 3]);
    cluster.wait("the learner", cluster.group(leader).add_learner(4, at)).unwrap();
    // The others go on meanwhile.
    (11..=20).for_each(|epoch| {
        cluster.write(&[1, 2, 3], epoch);
    });
    assert_eq!(cluster.group(4).position(), 0);
    cluster.heal();
    cluster.applied(4, 20);
    cluster.purged(4, 1);
    cluster.write(&[1, 2, 3], 21);
    cluster.applied(4, 21);
}
