//! Where leaders are: spread over the voters while all is well, and handed over before a node stops.
//!
//! Each partition prefers one voter: the voters in order, counted on by the partition's number. A leader that is not it
//! hands over once that one has been well for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::clock::{self, Monotonic};
use crate::ids::PartitionId;
use crate::node::watch;
use crate::raft::{Group, NodeId};
use crate::router::cluster::Cluster;
use crate::router::rules::View;

/// How often leaders are looked at.
const PERIOD: Duration = Duration::from_millis(500);
/// How long a leader has to have led, and the preferred voter to have been well, before it is handed over.
const STEADY: Duration = Duration::from_secs(5);
/// How long until a handover that failed is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// How long handing everything over may take before a node stops all the same.
const HANDOVER: Duration = Duration::from_secs(5);

/// What was seen of one group that this node leads.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Who was preferred.
    preferred: NodeId,
    /// Since when it has been so: this node leads, and that one is well.
    since: Monotonic,
    /// When a handover last failed.
    failed: Option<Monotonic>,
}

/// The voter that is to lead a partition.
fn preferred(voters: &BTreeSet<NodeId>, partition: PartitionId) -> Option<NodeId> {
    voters.iter().nth(usize::from(partition.0).checked_rem(voters.len())?).copied()
}

/// To whom a group goes now, if it does, and what is remembered of it.
fn decide(view: &View, seen: Option<Seen>, now: Monotonic) -> (Option<NodeId>, Option<Seen>) {
    let Some(to) = preferred(&view.voters, view.partition).filter(|to| *to != view.me && view.ready(*to)) else {
        return (None, None);
    };
    let known = seen.filter(|seen| seen.preferred == to);
    let seen = known.unwrap_or(Seen { preferred: to, since: now, failed: None });
    let steady = now.since(seen.since) >= STEADY;
    let tried = seen.failed.is_some_and(|at| now.since(at) < RETRY);
    ((steady && !tried).then_some(to), Some(seen))
}

/// Who takes a group over from a node that stops: the preferred voter if it can, else the one that is least behind.
fn heir(view: &View) -> Option<NodeId> {
    let can = |id: &NodeId| *id != view.me && view.ready(*id);
    let mut able: Vec<NodeId> = view.voters.iter().copied().filter(can).collect();
    let wanted = preferred(&able.iter().copied().collect(), view.partition);
    able.sort_by_key(|id| (view.behind(*id), Some(*id) != wanted));
    able.first().copied()
}

/// Spreads the leaders, for as long as the node runs. One group at a time.
pub(super) async fn spread(cluster: Arc<Cluster>) {
    let mut seen: BTreeMap<PartitionId, Seen> = BTreeMap::new();
    loop {
        tokio::time::sleep(PERIOD).await;
        for group in led(&cluster) {
            let partition = group.partition();
            let (to, remembered) = decide(&cluster.view(&group), seen.remove(&partition), clock::monotonic());
            let failed = match to {
                None => None,
                Some(to) => {
                    let moved = group.transfer_to(to).await;
                    tracing::info!(%partition, to, error = moved.as_ref().err().map(ToString::to_string), "leader handed over");
                    moved.err().map(|_| clock::monotonic())
                }
            };
            if let Some(remembered) = remembered {
                seen.insert(partition, Seen { failed: failed.or(remembered.failed), ..remembered });
            }
        }
        // What this node leads no more begins anew when it leads it again.
        let still: BTreeSet<PartitionId> = led(&cluster).iter().map(Group::partition).collect();
        seen.retain(|partition, _| still.contains(partition));
    }
}

/// Hands every group that this node leads to a voter that is well, as far as there is one and time allows.
pub(super) async fn hand_over(cluster: &Cluster) {
    let mut moving = JoinSet::new();
    for group in led(cluster) {
        let Some(to) = heir(&cluster.view(&group)) else { continue };
        moving.spawn(async move { group.transfer_to(to).await.is_ok() });
    }
    if moving.is_empty() {
        return;
    }
    let all = moving.len();
    let mut moved = 0_usize;
    let waited = timeout(HANDOVER, async {
        let mut look = tokio::time::interval(PERIOD);
        loop {
            tokio::select! {
                done = moving.join_next() => match done {
                    None => return,
                    Some(done) => moved = moved.saturating_add(usize::from(done.unwrap_or_default())),
                },
                // The whole region is being stopped: nobody is there to hand over to.
                _ = look.tick() => if watch::all_others_stop(cluster).await { return },
            }
        }
    });
    let in_time = waited.await.is_ok();
    tracing::info!(led = all, moved, in_time, "leaders handed over before the stop");
}

fn led(cluster: &Cluster) -> Vec<Group> {
    match cluster.region() {
        Some(region) => region.groups().filter(|group| group.leader().leads).cloned().collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Node 1 leads partition 1, which prefers node 2; everybody is well.
    fn view() -> View {
        View {
            partition: PartitionId(1),
            me: 1,
            voters: BTreeSet::from([1, 2, 3]),
            nodes: BTreeSet::from([1, 2, 3]),
            reachable: BTreeSet::from([1, 2, 3]),
            last: 5_000,
            matched: BTreeMap::from([(2, 5_000), (3, 5_000)]),
        }
    }

    #[test]
    fn every_voter_is_preferred_as_often() {
        let voters = BTreeSet::from([3, 7, 9]);
        let led: Vec<_> = (0..6).filter_map(|partition| preferred(&voters, PartitionId(partition))).collect();
        assert_eq!(led, [3, 7, 9, 3, 7, 9]);
        assert_eq!(preferred(&BTreeSet::new(), PartitionId(0)), None);
    }

    #[test]
    fn a_leader_goes_to_the_preferred_voter_once_that_is_steady() {
        let at = |seconds| Monotonic::at(Duration::from_secs(seconds));
        let (to, seen) = decide(&view(), None, at(0));
        assert_eq!(to, None, "it was seen just now");
        let (to, seen) = decide(&view(), seen, at(4));
        assert_eq!(to, None);
        let (to, steady) = decide(&view(), seen, at(5));
        assert_eq!(to, Some(2));

        let failed = steady.map(|seen| Seen { failed: Some(at(5)), ..seen });
        assert_eq!(decide(&view(), failed, at(20)).0, None, "it failed a while ago");
        assert_eq!(decide(&view(), failed, at(36)).0, Some(2));

        let silent = View { reachable: BTreeSet::from([1, 3]), ..view() };
        let (to, seen) = decide(&silent, steady, at(6));
        assert_eq!((to, seen.is_none()), (None, true), "what was seen begins anew");
        let behind = View { matched: BTreeMap::from([(2, 1)]), ..view() };
        assert_eq!(decide(&behind, steady, at(6)).0, None);
        let here = View { me: 2, ..view() };
        assert_eq!(decide(&here, steady, at(6)).0, None, "it is where it is to be");
    }

    #[test]
    fn a_stop_hands_over_to_who_is_able() {
        assert_eq!(heir(&view()), Some(3), "of two that are even, the partition's");
        let third = View { matched: BTreeMap::from([(2, 5_000), (3, 4_000)]), ..view() };
        assert_eq!(heir(&third), Some(2), "the one that is least behind");
        let nobody = View { reachable: BTreeSet::from([1]), ..view() };
        assert_eq!(heir(&nobody), None);
    }
}
