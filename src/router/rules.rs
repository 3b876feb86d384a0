//! What a group's leader allows: pure rules over what it sees.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::PartitionId;
use crate::limits;

/// A group as its leader sees it.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// The group's partition.
    pub(crate) partition: PartitionId,
    /// The leader.
    pub(crate) me: u64,
    /// Who votes.
    pub(crate) voters: BTreeSet<u64>,
    /// Every member.
    pub(crate) nodes: BTreeSet<u64>,
    /// The members that answer, the leader among them.
    pub(crate) reachable: BTreeSet<u64>,
    /// Index of the last entry.
    pub(crate) last: u64,
    /// Up to where each member has the log.
    pub(crate) matched: BTreeMap<u64, u64>,
}

impl View {
    /// How many entries a member is behind.
    pub(crate) fn behind(&self, node_id: u64) -> u64 {
        if node_id == self.me {
            return 0;
        }
        self.last.saturating_sub(self.matched.get(&node_id).copied().unwrap_or_default())
    }

    /// Whether a member answers and is nearly caught up.
    pub(crate) fn ready(&self, node_id: u64) -> bool {
        self.reachable.contains(&node_id) && self.behind(node_id) <= limits::MAX_ENTRIES_BEHIND
    }
}

/// What to do when a known number comes with another data directory.
pub(crate) fn lost_disk(node_id: u64) -> String {
    format!(
        "node {node_id} lost its data directory: start it with a new node_id and --join, then \
         `holdfast ctl members replace {node_id} --with M`"
    )
}

/// Whether the voters may be changed so.
///
/// # Errors
/// Why not, and what to do.
pub(crate) fn voters(view: &View, promote: Option<u64>, remove: Option<u64>) -> Result<(), String> {
    let partition = view.partition;
    if let Some(node) = promote.filter(|node| !view.voters.contains(node)) {
        promotable(view, node)?;
    }
    let Some(leaving) = remove.filter(|node| view.nodes.contains(node)) else { return Ok(()) };
    let mut left = view.voters.clone();
    left.extend(promote);
    left.remove(&leaving);
    if left.is_empty() {
        return Err(format!(
            "node {leaving} is the only voter of partition {partition}: promote another node first, or replace it"
        ));
    }
    let answering = left.intersection(&view.reachable).count();
    let needed = left.len() / 2 + 1;
    if answering < needed {
        return Err(format!(
            "without node {leaving}, partition {partition} has the voters {}, of which {answering} answer and {needed} are \
             needed: start them first",
            list(&left)
        ));
    }
    Ok(())
}

fn promotable(view: &View, node: u64) -> Result<(), String> {
    let partition = view.partition;
    if !view.nodes.contains(&node) {
        return Err(format!(
            "node {node} is no member of partition {partition}: start it with --join, and wait until \
             `holdfast ctl members` lists it"
        ));
    }
    if !view.reachable.contains(&node) {
        return Err(format!("node {node} does not answer the leader of partition {partition}: start it first"));
    }
    let (behind, most) = (view.behind(node), limits::MAX_ENTRIES_BEHIND);
    if behind > most {
        return Err(format!(
            "node {node} is {behind} entries behind in partition {partition}, and at most {most} are allowed: wait until \
             `holdfast ctl members` shows that it has caught up"
        ));
    }
    Ok(())
}

/// Whether the group may be handed over.
///
/// # Errors
/// Why not, and what to do.
pub(crate) fn transfer(view: &View, to: u64) -> Result<(), String> {
    let partition = view.partition;
    if !view.voters.contains(&to) {
        return Err(format!(
            "node {to} is no voter of partition {partition}, which has {}: name one of them",
            list(&view.voters)
        ));
    }
    if to == view.me || view.ready(to) {
        return Ok(());
    }
    let behind = view.behind(to);
    Err(match view.reachable.contains(&to) {
        true => format!("node {to} is {behind} entries behind in partition {partition}: wait until it has caught up"),
        false => format!("node {to} does not answer the leader of partition {partition}: start it first"),
    })
}

fn list(nodes: &BTreeSet<u64>) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Voters 1, 2 and 3, learner 4; node 1 leads, everybody answers and has everything.
    fn view() -> View {
        View {
            partition: PartitionId(5),
            me: 1,
            voters: BTreeSet::from([1, 2, 3]),
            nodes: BTreeSet::from([1, 2, 3, 4]),
            reachable: BTreeSet::from([1, 2, 3, 4]),
            last: 50_000,
            matched: BTreeMap::from([(2, 50_000), (3, 50_000), (4, 49_990)]),
        }
    }

    #[test]
    fn voters_change_only_when_the_group_goes_on() {
        let all = view();
        let far = View { matched: BTreeMap::from([(4, 7)]), ..view() };
        let silent = View { reachable: BTreeSet::from([1, 2, 3]), ..view() };
        let half = View { reachable: BTreeSet::from([1, 4]), ..view() };
        let alone = View { voters: BTreeSet::from([1]), nodes: BTreeSet::from([1]), ..view() };
        let cases: Vec<(&View, Option<u64>, Option<u64>, &str)> = vec![
            (&all, Some(4), None, ""),
            (&all, Some(4), Some(3), ""),
            (&all, None, Some(3), ""),
            (&all, None, Some(4), ""),
            (&all, Some(2), None, ""),
            (&all, None, Some(9), ""),
            (&all, Some(9), None, "node 9 is no member of partition 5"),
            (&far, Some(4), None, "node 4 is 49993 entries behind in partition 5"),
            (&silent, Some(4), None, "node 4 does not answer"),
            (&alone, None, Some(1), "the only voter of partition 5"),
            (&half, None, Some(3), "voters 1, 2, of which 1 answer and 2 are needed"),
            // One of three is left, and one is added: two of three is enough.
            (&half, Some(4), Some(3), ""),
        ];
        for (view, promote, remove, expected) in cases {
            let got = voters(view, promote, remove).err().unwrap_or_default();
            assert!(got.contains(expected) && got.is_empty() == expected.is_empty(), "{promote:?} {remove:?}: {got}");
        }
    }

    #[test]
    fn a_group_goes_to_a_voter_that_can_lead_it() {
        assert_eq!(transfer(&view(), 2), Ok(()));
        assert_eq!(transfer(&view(), 1), Ok(()));
        assert!(transfer(&view(), 4).is_err_and(|why| why.contains("no voter of partition 5, which has 1, 2, 3")));
        let behind = View { matched: BTreeMap::from([(2, 1)]), ..view() };
        assert!(transfer(&behind, 2).is_err_and(|why| why.contains("49999 entries behind")));
        let silent = View { reachable: BTreeSet::from([1]), ..view() };
        assert!(transfer(&silent, 2).is_err_and(|why| why.contains("does not answer")));
    }
}
