//! The tasks of a layer: what goes on when its caller is gone.

use std::sync::{Mutex, PoisonError};

use tokio::task::JoinSet;

/// Protected requests that one layer runs at a time: each holds a request and a response in memory.
const MOST: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Tasks(Mutex<JoinSet<()>>);

impl Tasks {
    /// Runs a task; false if too many run already.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        if tasks.len() >= MOST {
            return false;
        }
        tasks.spawn(task);
        true
    }

    /// Waits until none runs.
    pub(super) async fn settle(&self) {
        loop {
            let mut tasks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            if tasks.is_empty() {
                return;
            }
            while tasks.join_next().await.is_some() {}
        }
    }
}
