//! One batcher a group: what waits while the last writes sync goes into one log entry. No timer: one client alone
//! never waits for company.

use std::sync::Arc;
use std::time::Duration;

use openraft::Raft;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::clock;
use crate::codec::batch::{Batch, Operation};
use crate::limits;
use crate::peers::Peers;
use crate::raft::ProposeError;
use crate::raft::group::Leadership;
use crate::raft::state_machine::Machine;
use crate::raft::types::{LoggedBatch, NodeId, OperationReply, Types};
use crate::telemetry::metrics::{self, Overload};

/// What a proposer gets.
type Outcome = Result<OperationReply, ProposeError>;

/// One operation that waits for a batch.
struct Waiting {
    operation: Operation,
    weight: usize,
    reply: oneshot::Sender<Outcome>,
    /// Its share of the bytes that may wait; given back when it is answered.
    room: OwnedSemaphorePermit,
}

/// Takes operations for a group. Cheap to clone.
#[derive(Clone)]
pub(super) struct Batcher {
    queue: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

impl Batcher {
    /// A batcher and the task that serves it, which ends when every clone is gone.
    pub(super) fn new(
        raft: Raft<Types, Machine>,
        peers: Arc<Peers>,
        leadership: watch::Receiver<Leadership>,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, waiting) = mpsc::channel(limits::MAX_QUEUED_OPERATIONS);
        let room = Arc::new(Semaphore::new(limits::MAX_QUEUED_BYTES));
        (Self { queue, room }, serve(raft, peers, waiting, leadership))
    }

    /// How many operations wait for a batch.
    pub(super) fn queued_operations(&self) -> usize {
        self.queue.max_capacity().saturating_sub(self.queue.capacity())
    }

    /// How many bytes wait or are in flight.
    pub(super) fn queued_bytes(&self) -> usize {
        limits::MAX_QUEUED_BYTES.saturating_sub(self.room.available_permits())
    }

    /// Proposes an operation and waits for what comes of it.
    pub(super) async fn propose(&self, operation: Operation) -> Outcome {
        let weight = operation.weight();
        let share = u32::try_from(weight).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(share).map_err(|_| overloaded(Overload::Bytes))?;
        let (reply, outcome) = oneshot::channel();
        self.queue.try_send(Waiting { operation, weight, reply, room }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => overloaded(Overload::Operations),
            mpsc::error::TrySendError::Closed(_) => ProposeError::Definite("the partition is shutting down".to_owned()),
        })?;
        outcome.await.unwrap_or_else(|_| Err(ProposeError::Indefinite("the partition stopped".to_owned())))
    }
}

fn overloaded(limit: Overload) -> ProposeError {
    metrics::overloaded(limit);
    ProposeError::Overloaded
}

async fn serve(
    raft: Raft<Types, Machine>,
    peers: Arc<Peers>,
    mut waiting: mpsc::Receiver<Waiting>,
    mut leadership: watch::Receiver<Leadership>,
) {
    let flights = Arc::new(Semaphore::new(limits::MAX_BATCHES_IN_FLIGHT));
    let mut tasks = JoinSet::new();
    let mut carried: Option<Waiting> = None;
    loop {
        let first = match carried.take() {
            Some(first) => first,
            None => match waiting.recv().await {
                Some(first) => first,
                None => break,
            },
        };
        let flight = tokio::select! {
            biased;
            flight = Arc::clone(&flights).acquire_owned() => flight,
            leader = deposed(&mut leadership) => {
                // What flies may stay in the air until the new leader is heard of: nobody has to wait behind it.
                refuse(first, &mut waiting, leader);
                continue;
            }
        };
        let Ok(flight) = flight else { return };
        while tasks.try_join_next().is_some() {}
        let mut bytes = first.weight;
        let alone = first.operation.is_sweep();
        let mut gathered = vec![first];
        while !alone && gathered.len() < limits::MAX_BATCH_OPERATIONS {
            let Ok(next) = waiting.try_recv() else { break };
            if next.operation.is_sweep() || bytes.saturating_add(next.weight) > limits::MAX_BATCH_BYTES {
                carried = Some(next);
                break;
            }
            bytes = bytes.saturating_add(next.weight);
            gathered.push(next);
        }
        let (raft, peers) = (raft.clone(), Arc::clone(&peers));
        tasks.spawn(async move {
            write(&raft, &peers, gathered).await;
            drop(flight);
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Waits until this node does not lead. Returns who does, if that is known.
async fn deposed(leadership: &mut watch::Receiver<Leadership>) -> Option<NodeId> {
    match leadership.wait_for(|now| !now.leads).await {
        Ok(now) => now.leader,
        // Nobody tells any more: the group stops.
        Err(_) => None,
    }
}

/// Refuses what waits: none of it was proposed.
fn refuse(first: Waiting, waiting: &mut mpsc::Receiver<Waiting>, leader: Option<NodeId>) {
    let mut next = Some(first);
    while let Some(Waiting { reply, room, .. }) = next {
        drop(room);
        // Whoever asked may have gone.
        let _ = reply.send(Err(ProposeError::NotLeader { leader }));
        next = waiting.try_recv().ok();
    }
}

async fn write(raft: &Raft<Types, Machine>, peers: &Peers, gathered: Vec<Waiting>) {
    let mut operations = Vec::with_capacity(gathered.len());
    let mut replies = Vec::with_capacity(gathered.len());
    for Waiting { operation, reply, room, .. } in gathered {
        operations.push(operation);
        replies.push((reply, room));
    }
    let voters: Vec<u64> = raft.voter_ids().collect();
    let batch = LoggedBatch::new(Batch { clock_unix_ms: peers.bounded_clock_unix_ms(&voters), operations });
    let limit = Duration::from_millis(limits::PROPOSE_TIMEOUT_MS);
    let begun = clock::monotonic();
    let failed = match tokio::time::timeout(limit, raft.client_write(batch)).await {
        Ok(Ok(response)) => {
            metrics::batch(replies.len(), clock::monotonic().since(begun));
            for ((reply, room), outcome) in replies.into_iter().zip(response.data.0) {
                drop(room);
                // Whoever asked may have gone: the operation stands all the same.
                let _ = reply.send(Ok(outcome));
            }
            return;
        }
        Ok(Err(RaftError::APIError(error))) => refused(&error),
        Ok(Err(RaftError::Fatal(fatal))) => ProposeError::Indefinite(fatal.to_string()),
        Err(_) => ProposeError::Indefinite(format!("no outcome within {} ms", limits::PROPOSE_TIMEOUT_MS)),
    };
    for (reply, room) in replies {
        drop(room);
        let _ = reply.send(Err(failed.clone()));
    }
}

/// openraft refuses a write before it is in the log, or says that it may have been discarded.
fn refused(error: &ClientWriteError<Types>) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(forward) => ProposeError::NotLeader { leader: forward.leader_id },
        ClientWriteError::LogEntryDiscarded(_)
        | ClientWriteError::ChangeMembershipError(_)
        | ClientWriteError::PreconditionFailed(_) => ProposeError::Indefinite(error.to_string()),
    }
}
