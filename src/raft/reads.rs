//! Reads that are as new as the moment they were asked for: the leader asks a quorum whether it still leads, and waits
//! until everything committed before is applied. No clock is asked. Who asks while one round is on its way shares the next.

use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{Raft, ReadPolicy};
use tokio::sync::{mpsc, oneshot};

use crate::clock;
use crate::limits;
use crate::raft::ProposeError;
use crate::raft::state_machine::Machine;
use crate::raft::types::Types;
use crate::telemetry::metrics::{self, Overload};

type Confirmed = oneshot::Sender<Result<(), ProposeError>>;

/// Takes questions for a group. Cheap to clone.
#[derive(Clone)]
pub(super) struct Reads {
    queue: mpsc::Sender<Confirmed>,
}

impl Reads {
    /// The reads of a group and the task that serves them, which ends when every clone is gone.
    pub(super) fn new(raft: Raft<Types, Machine>) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, waiting) = mpsc::channel(limits::MAX_QUEUED_OPERATIONS);
        (Self { queue }, serve(raft, waiting))
    }

    /// Waits until the applied state is as new as this call.
    pub(super) async fn confirm(&self) -> Result<(), ProposeError> {
        let (reply, confirmed) = oneshot::channel();
        self.queue.try_send(reply).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                metrics::overloaded(Overload::Reads);
                ProposeError::Overloaded
            }
            mpsc::error::TrySendError::Closed(_) => ProposeError::Definite("the partition is shutting down".to_owned()),
        })?;
        confirmed.await.unwrap_or_else(|_| Err(ProposeError::Definite("the partition stopped".to_owned())))
    }
}

async fn serve(raft: Raft<Types, Machine>, mut waiting: mpsc::Receiver<Confirmed>) {
    let mut together = Vec::new();
    while waiting.recv_many(&mut together, limits::MAX_QUEUED_OPERATIONS).await > 0 {
        let limit = std::time::Duration::from_millis(limits::READ_TIMEOUT_MS);
        let begun = clock::monotonic();
        let confirmed = match tokio::time::timeout(limit, raft.ensure_linearizable(ReadPolicy::ReadIndex)).await {
            Ok(Ok(_)) => {
                metrics::read_confirmed(clock::monotonic().since(begun));
                Ok(())
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Err(ProposeError::NotLeader { leader: forward.leader_id })
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(error)))) => {
                Err(ProposeError::Definite(error.to_string()))
            }
            Ok(Err(RaftError::Fatal(fatal))) => Err(ProposeError::Definite(fatal.to_string())),
            Err(_) => Err(ProposeError::Definite(format!(
                "no majority of the partition answered within {} ms",
                limits::READ_TIMEOUT_MS
            ))),
        };
        for reply in together.drain(..) {
            // Whoever asked may have gone.
            let _ = reply.send(confirmed.clone());
        }
    }
}
