//! Whether this node serves a partition: from when it leads it and has caught up with everybody who led it before, until it
//! leads it no more. What is counted or remembered for callers belongs to one term of serving, and ends with it.

use std::time::Duration;

use tokio::sync::watch;

use crate::raft::Leadership;

/// When an opening that failed is tried again, if leadership has not changed by then.
const RETRY: Duration = Duration::from_millis(100);

/// The gate of one partition.
pub(super) struct Gate {
    served: watch::Sender<Option<u64>>,
}

/// How an attempt to begin serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// This node may serve.
    Yes,
    /// Not now: it is tried again.
    NotYet,
    /// The partition has stopped here for good.
    Never,
}

impl Default for Gate {
    fn default() -> Self {
        Self { served: watch::channel(None).0 }
    }
}

impl Gate {
    /// The term that this node serves the partition in, if it does.
    pub(super) fn served(&self) -> Option<u64> {
        *self.served.borrow()
    }

    /// The same, and every change of it.
    pub(super) fn watch(&self) -> watch::Receiver<Option<u64>> {
        self.served.subscribe()
    }

    /// Ends serving, or begins another term, behind the back of whoever follows leadership.
    #[cfg(test)]
    pub(super) fn force(&self, served: Option<u64>) {
        self.served.send_replace(served);
    }

    /// Follows leadership for as long as the node runs. `open` makes a term ready to be served; `close` ends what belongs to
    /// the term before, and is called after serving has ended.
    pub(super) async fn follow<F: Future<Output = Opened>>(
        &self,
        mut leadership: watch::Receiver<Leadership>,
        open: impl Fn(u64) -> F,
        close: impl Fn(),
    ) {
        let shut = || {
            self.served.send_replace(None);
            close();
        };
        loop {
            let now = *leadership.borrow_and_update();
            let term = now.leads.then_some(now.term);
            if self.served() != term {
                shut();
            }
            let mut again = None;
            if let (Some(term), None) = (term, self.served()) {
                let opened = tokio::select! {
                    biased;
                    changed = leadership.changed() => match changed {
                        // What was opened half is closed, and leadership looked at anew.
                        Ok(()) => { shut(); continue }
                        Err(_) => return shut(),
                    },
                    opened = open(term) => opened,
                };
                match opened {
                    Opened::Yes => drop(self.served.send_replace(Some(term))),
                    Opened::NotYet => again = Some(RETRY),
                    Opened::Never => return shut(),
                }
            }
            let changed = match again {
                None => leadership.changed().await,
                // Whether leadership has changed or the time is over: look again.
                Some(pause) => tokio::time::timeout(pause, leadership.changed()).await.unwrap_or(Ok(())),
            };
            if changed.is_err() {
                return shut();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;
    use tokio::task::JoinSet;

    use super::*;

    /// A gate whose openings wait for a permit each, and what was closed.
    struct Bench {
        gate: Arc<Gate>,
        leadership: watch::Sender<Leadership>,
        allowed: Arc<Semaphore>,
        closed: Arc<AtomicUsize>,
        _task: JoinSet<()>,
    }

    impl Bench {
        fn start(outcome: Opened) -> Self {
            let gate = Arc::new(Gate::default());
            let (leadership, receiver) = watch::channel(Leadership::default());
            let (allowed, closed) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
            let mut task = JoinSet::new();
            let (ours, permits, count) = (Arc::clone(&gate), Arc::clone(&allowed), Arc::clone(&closed));
            task.spawn(async move {
                let open = |_| async {
                    permits.acquire().await.expect("open").forget();
                    outcome
                };
                let close = || {
                    count.fetch_add(1, Ordering::SeqCst);
                };
                ours.follow(receiver, open, close).await;
            });
            Self { gate, leadership, allowed, closed, _task: task }
        }

        fn lead(&self, term: u64, leads: bool) {
            self.leadership.send_replace(Leadership { term, leader: Some(if leads { 1 } else { 2 }), leads });
        }

        async fn serves(&self, term: Option<u64>) {
            let mut served = self.gate.watch();
            let wait = served.wait_for(|served| *served == term);
            tokio::time::timeout(Duration::from_secs(10), wait).await.expect("in time").expect("a gate");
        }
    }

    #[tokio::test]
    async fn it_serves_only_once_it_has_caught_up_and_only_the_term_it_caught_up_in() {
        let bench = Bench::start(Opened::Yes);
        bench.lead(1, true);
        tokio::task::yield_now().await;
        assert_eq!(bench.gate.served(), None, "it leads, and has not caught up");
        bench.allowed.add_permits(1);
        bench.serves(Some(1)).await;
        let closed = bench.closed.load(Ordering::SeqCst);
        bench.lead(1, false);
        bench.serves(None).await;
        assert!(bench.closed.load(Ordering::SeqCst) > closed, "what belonged to the term has ended");
        bench.lead(3, true);
        bench.allowed.add_permits(1);
        bench.serves(Some(3)).await;
    }

    #[tokio::test]
    async fn a_term_that_came_unseen_is_another_term() {
        let bench = Bench::start(Opened::Yes);
        bench.lead(1, true);
        bench.allowed.add_permits(1);
        bench.serves(Some(1)).await;
        bench.lead(3, true);
        bench.serves(None).await;
        bench.allowed.add_permits(1);
        bench.serves(Some(3)).await;
    }

    #[tokio::test]
    async fn an_opening_is_given_up_when_leadership_changes_meanwhile() {
        let bench = Bench::start(Opened::Yes);
        bench.lead(1, true);
        tokio::task::yield_now().await;
        bench.lead(2, false);
        tokio::task::yield_now().await;
        bench.allowed.add_permits(1);
        bench.lead(5, true);
        bench.serves(Some(5)).await;
    }

    #[tokio::test]
    async fn an_opening_that_failed_is_tried_again() {
        let bench = Bench::start(Opened::NotYet);
        bench.lead(1, true);
        bench.allowed.add_permits(2);
        let both = async {
            while bench.allowed.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), both).await.expect("in time");
        assert_eq!(bench.gate.served(), None);
    }
}
