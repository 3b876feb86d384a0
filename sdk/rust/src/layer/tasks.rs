//! The tasks of a layer: what goes on when its caller is gone. Those that serve and those that only observe are two sets, so that
//! none takes the place of the other.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

/// Protected requests that one layer runs at a time: each holds a request and a response in memory.
pub(super) const MOST: usize = 16_384;
/// Requests that one layer observes at a time, unless it is set otherwise: what is not observed is counted, and runs all the same.
pub(super) const MOST_OBSERVED: usize = 1_024;

/// So many tasks at the most.
#[derive(Debug)]
pub(super) struct Tasks {
    running: Mutex<JoinSet<()>>,
    most: usize,
}

impl Tasks {
    pub(super) fn new(most: usize) -> Self {
        Self { running: Mutex::default(), most }
    }

    /// Runs a task; false if too many run already.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        while running.try_join_next().is_some() {}
        if running.len() >= self.most {
            return false;
        }
        running.spawn(task);
        true
    }

    /// Waits until none runs.
    pub(super) async fn settle(&self) {
        loop {
            let mut running = self.take();
            if running.is_empty() {
                return;
            }
            while running.join_next().await.is_some() {}
        }
    }

    /// The same, up to a time. How many it ended then.
    pub(super) async fn settle_within(&self, limit: Duration) -> usize {
        let mut running = self.take();
        let all = async {
            loop {
                while running.join_next().await.is_some() {}
                running = self.take();
                if running.is_empty() {
                    return;
                }
            }
        };
        if tokio::time::timeout(limit, all).await.is_ok() {
            return 0;
        }
        let open = running.len();
        running.shutdown().await;
        open
    }

    fn take(&self) -> JoinSet<()> {
        std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_is_room_for_so_many() {
        let tasks = Tasks::new(1);
        assert!(tasks.spawn(std::future::pending()));
        assert!(!tasks.spawn(std::future::ready(())));
        assert!(!Tasks::new(0).spawn(std::future::ready(())));
    }

    #[tokio::test]
    async fn what_is_left_after_the_time_is_ended_and_counted() {
        let tasks = Tasks::new(3);
        let (kept, gone) = tokio::sync::oneshot::channel::<()>();
        assert!(tasks.spawn(std::future::ready(())));
        assert!(tasks.spawn(async move {
            let _kept = kept;
            std::future::pending::<()>().await;
        }));
        assert_eq!(tasks.settle_within(Duration::from_millis(20)).await, 1);
        assert!(gone.await.is_err(), "what it had is dropped");
        assert_eq!(tasks.settle_within(Duration::ZERO).await, 0);
    }
}
