//! Which node a call goes to. Any node answers any call, so that a wrong choice costs a hop and never an answer.

use super::clock::Moment;

/// What is known of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Its number; nothing for an address that no node has called its own.
    pub(super) node_id: Option<u64>,
    /// It failed a moment ago: until when it is asked only if no other is left.
    pub(super) suspect_until: Option<Moment>,
    /// This call went to it already.
    pub(super) tried: bool,
}

/// Picks a node: one that this call has not been sent to before one that it has; among those one that works before one that
/// failed; among those the leader; and by lot among equals. Nothing if there is no node.
pub(super) fn choose(candidates: &[Candidate], leader: Option<u64>, now: Moment, random: u64) -> Option<usize> {
    let rank = |candidate: &Candidate| {
        let suspect = candidate.suspect_until.is_some_and(|until| now < until);
        let leads = leader.is_some() && candidate.node_id == leader;
        (candidate.tried, suspect, !leads)
    };
    let best = candidates.iter().map(rank).min()?;
    let equals = || candidates.iter().enumerate().filter(|(_, candidate)| rank(candidate) == best);
    let count = u64::try_from(equals().count()).unwrap_or(u64::MAX);
    let lot = usize::try_from(random.checked_rem(count)?).ok()?;
    equals().nth(lot).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Moment = Moment::at(Duration::from_secs(100));

    fn node(node_id: u64) -> Candidate {
        Candidate { node_id: Some(node_id), ..Candidate::default() }
    }

    fn tried(node_id: u64) -> Candidate {
        Candidate { tried: true, ..node(node_id) }
    }

    fn suspect(node_id: u64) -> Candidate {
        Candidate { suspect_until: Some(NOW.plus(Duration::from_secs(1))), ..node(node_id) }
    }

    /// Every node that some lot picks.
    fn picked(candidates: &[Candidate], leader: Option<u64>) -> Vec<usize> {
        let mut picked: Vec<usize> = (0..12).filter_map(|random| choose(candidates, leader, NOW, random)).collect();
        picked.sort_unstable();
        picked.dedup();
        picked
    }

    #[test]
    fn the_leader_is_asked_unless_it_fails() {
        assert_eq!(picked(&[node(1), node(2), node(3)], Some(2)), [1]);
        assert_eq!(picked(&[node(1), tried(2), node(3)], Some(2)), [0, 2]);
        assert_eq!(picked(&[node(1), suspect(2), node(3)], Some(2)), [0, 2]);
        assert_eq!(
            picked(&[tried(1), suspect(2), tried(3)], Some(2)),
            [1],
            "suspects before what has failed this call"
        );
        assert_eq!(picked(&[tried(1), tried(2), tried(3)], Some(2)), [1], "all were tried: the leader again");
    }

    #[test]
    fn without_a_leader_the_lot_decides() {
        assert_eq!(picked(&[node(1), node(2), node(3)], None), [0, 1, 2]);
        assert_eq!(picked(&[node(1), node(2)], Some(9)), [0, 1], "a leader without an address");
        let nameless = Candidate::default();
        assert_eq!(picked(&[nameless, nameless], None), [0, 1]);
        assert_eq!(choose(&[], None, NOW, 5), None);
    }

    #[test]
    fn suspicion_ends() {
        let was = Candidate { suspect_until: Some(NOW), ..node(1) };
        assert_eq!(picked(&[was, node(2)], Some(1)), [0]);
    }
}
