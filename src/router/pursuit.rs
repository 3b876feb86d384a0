//! Whom to ask next for a partition that this node does not serve: who is said to lead it, then whoever leads it after an
//! election. It waits for news of the leader, and ends with the caller's patience or after a few nodes.

use std::time::Duration;

use tokio::sync::watch;

use crate::clock::{self, Monotonic};
use crate::limits;
use crate::raft::{Leadership, NodeId};

/// How long news of a leader is waited for before the last one is asked again; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The way of one call to whoever serves it.
pub(super) struct Pursuit {
    me: NodeId,
    leadership: watch::Receiver<Leadership>,
    until: Monotonic,
    /// Others that may lead, where this node's group has stopped and learns nothing more.
    others: Vec<NodeId>,
    asked: Vec<NodeId>,
    tries: u32,
    pause: Duration,
}

impl Pursuit {
    /// For a call that this node has been asked for and does not serve. `others`: its group has stopped here, and these are
    /// its other voters.
    pub(super) fn new(
        me: NodeId,
        leadership: watch::Receiver<Leadership>,
        until: Monotonic,
        others: Option<Vec<NodeId>>,
    ) -> Self {
        let stopped = others.is_some();
        let others = others.unwrap_or_default();
        // A stopped group is not asked again.
        let me = if stopped { NodeId::MAX } else { me };
        Self { me, leadership, until, others, asked: vec![me], tries: 0, pause: FIRST_PAUSE }
    }

    fn leader(&mut self) -> Option<NodeId> {
        let now = *self.leadership.borrow_and_update();
        if now.leads { Some(self.me) } else { now.leader }
    }

    /// The next node to ask, this one among them. `told`: whom the last one named. Nothing when it is time to give up.
    pub(super) async fn next(&mut self, mut told: Option<NodeId>) -> Option<NodeId> {
        self.tries = self.tries.saturating_add(1);
        if self.tries > limits::MAX_FORWARDS {
            return None;
        }
        loop {
            let leader = self.leader();
            let candidates = told.take().into_iter().chain(leader).chain(self.others.iter().copied());
            let next = candidates.filter(|node| *node != NodeId::MAX).find(|node| !self.asked.contains(node));
            if let Some(next) = next {
                self.asked.push(next);
                return Some(next);
            }
            let left = self.until.since(clock::monotonic());
            if left.is_zero() {
                return None;
            }
            let wait = match leader {
                None if self.others.is_empty() => left,
                None | Some(_) => self.pause.min(left),
            };
            self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
            if let Ok(Err(_)) = tokio::time::timeout(wait, self.leadership.changed()).await {
                return None;
            }
            self.asked.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(term: u64, leader: Option<NodeId>) -> Leadership {
        Leadership { term, leader, leads: leader == Some(1) }
    }

    fn soon() -> Monotonic {
        clock::monotonic().plus(Duration::from_secs(10))
    }

    #[tokio::test]
    async fn the_leader_is_asked_then_whom_it_names_then_it_waits() {
        let (tell, leadership) = watch::channel(leader(1, Some(2)));
        let mut pursuit = Pursuit::new(1, leadership, soon(), None);
        assert_eq!(pursuit.next(Some(2)).await, Some(2));
        assert_eq!(pursuit.next(Some(3)).await, Some(3));
        // The two name each other: neither is asked before there is news, or time has passed.
        let begun = clock::monotonic();
        assert_eq!(pursuit.next(Some(2)).await, Some(2));
        assert!(clock::monotonic().since(begun) >= FIRST_PAUSE);
        tell.send_replace(leader(2, Some(1)));
        assert_eq!(pursuit.next(None).await, Some(1), "this node leads now");
    }

    #[tokio::test]
    async fn an_election_is_waited_for_and_wakes_at_once() {
        let (tell, leadership) = watch::channel(leader(1, None));
        let mut pursuit = Pursuit::new(1, leadership, soon(), None);
        let ((), next) = tokio::join!(
            async {
                tokio::task::yield_now().await;
                tell.send_replace(leader(2, None));
                tokio::task::yield_now().await;
                tell.send_replace(leader(2, Some(3)));
            },
            pursuit.next(None)
        );
        assert_eq!(next, Some(3));
    }

    #[tokio::test]
    async fn patience_ends_it() {
        let (_tell, leadership) = watch::channel(leader(1, None));
        let until = clock::monotonic().plus(Duration::from_millis(30));
        assert_eq!(Pursuit::new(1, leadership, until, None).next(None).await, None);
    }

    #[tokio::test]
    async fn it_asks_a_bounded_number_of_times() {
        let (_tell, leadership) = watch::channel(leader(1, Some(2)));
        let mut pursuit = Pursuit::new(1, leadership, soon(), None);
        pursuit.pause = Duration::ZERO;
        let mut asked = 0;
        for named in 2.. {
            match pursuit.next(Some(named)).await {
                Some(_) => asked += 1,
                None => break,
            }
        }
        assert_eq!(asked, limits::MAX_FORWARDS);
    }

    #[tokio::test]
    async fn a_group_that_stopped_here_is_asked_for_elsewhere() {
        let (_tell, leadership) = watch::channel(leader(1, Some(1)));
        let mut pursuit = Pursuit::new(1, leadership, soon(), Some(vec![2, 3]));
        assert_eq!(pursuit.next(None).await, Some(2), "not this node, which still believes that it leads");
        assert_eq!(pursuit.next(None).await, Some(3));
        assert_eq!(pursuit.next(Some(2)).await, Some(2), "after a pause");
    }
}
