//! Calls on their way to the nodes that lead: one long-lived stream to each peer, many calls in flight. What waits while the
//! connection takes no more goes together in one message; nobody waits for company.
//!
//! Whether a call was sent is never a guess. It counts as sent when it is taken into a message; a call that was not is
//! dropped with its link, and nothing was done.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::clock::{self, Monotonic};
use crate::limits;
use crate::peers::{Client, Peers};
use crate::raft::NodeId;
use crate::wire::v1::{ForwardAnswer, ForwardCall, ForwardRequest};

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// The call did not leave this node.
    NotSent,
    /// As many calls are in flight to the node as may be. Nothing was sent.
    Full,
    /// It may have arrived: the stream broke, or the time was over.
    Lost,
}

/// The links to all peers.
pub(super) struct Links {
    peers: Arc<Peers>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    links: HashMap<NodeId, Link>,
    tasks: JoinSet<()>,
}

/// A stream to one peer.
#[derive(Clone)]
struct Link {
    queue: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

/// A call that has not left yet. Dropped, its caller hears that nothing was sent.
struct Waiting {
    call: ForwardCall,
    bytes: usize,
    reply: oneshot::Sender<Told>,
    room: OwnedSemaphorePermit,
}

/// What a caller hears of a call that was sent.
enum Told {
    Answer(Box<ForwardAnswer>),
    Lost,
}

/// A call that has left. Dropped without an answer, its caller hears that it was lost.
struct Sent {
    reply: Option<oneshot::Sender<Told>>,
    _room: OwnedSemaphorePermit,
}

impl Sent {
    fn tell(mut self, told: Told) {
        if let Some(reply) = self.reply.take() {
            // Whoever asked may have gone.
            let _ = reply.send(told);
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Told::Lost);
        }
    }
}

/// What waits for a link and what is in flight on it.
struct Traffic {
    /// Gone once the link has ended: nothing is taken any more.
    queue: Option<mpsc::Receiver<Waiting>>,
    /// Taken from the queue, and too large for the message before.
    carried: Option<Waiting>,
    sent: HashMap<u64, Sent>,
    next_id: u64,
}

type Shared = Arc<Mutex<Traffic>>;

fn lock(traffic: &Shared) -> MutexGuard<'_, Traffic> {
    traffic.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Links {
    pub(super) fn new(peers: Arc<Peers>) -> Self {
        Self { peers, table: Mutex::default() }
    }

    /// Passes a call to a peer and waits for its answer, at most until `until`.
    pub(super) async fn ask(
        &self,
        node_id: NodeId,
        mut call: ForwardCall,
        bytes: usize,
        until: Monotonic,
    ) -> Result<ForwardAnswer, Unanswered> {
        let left = until.since(clock::monotonic());
        if left.is_zero() {
            return Err(Unanswered::NotSent);
        }
        if let Some(call) = &mut call.call {
            call.timeout_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1);
        }
        let link = self.link(node_id).ok_or(Unanswered::NotSent)?;
        let room = link.room.try_acquire_owned().map_err(|_| Unanswered::Full)?;
        let (reply, told) = oneshot::channel();
        link.queue.try_send(Waiting { call, bytes, reply, room }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Unanswered::Full,
            mpsc::error::TrySendError::Closed(_) => Unanswered::NotSent,
        })?;
        match tokio::time::timeout(left, told).await {
            Ok(Ok(Told::Answer(answer))) => Ok(*answer),
            Ok(Ok(Told::Lost)) | Err(_) => Err(Unanswered::Lost),
            Ok(Err(_)) => Err(Unanswered::NotSent),
        }
    }

    /// The link to a peer, made anew if it ended.
    fn link(&self, node_id: NodeId) -> Option<Link> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = table.links.get(&node_id).filter(|link| !link.queue.is_closed()) {
            return Some(link.clone());
        }
        while table.tasks.try_join_next().is_some() {}
        table.links.retain(|_, link| !link.queue.is_closed());
        let client = self.peers.client(node_id)?;
        let (queue, waiting) = mpsc::channel(limits::MAX_FORWARDED_CALLS);
        let link = Link { queue, room: Arc::new(Semaphore::new(limits::MAX_FORWARDED_CALLS)) };
        table.links.insert(node_id, link.clone());
        let traffic = Traffic { queue: Some(waiting), carried: None, sent: HashMap::new(), next_id: 1 };
        table.tasks.spawn(run(node_id, client, Arc::new(Mutex::new(traffic))));
        Some(link)
    }
}

/// One stream, from its beginning to its end.
async fn run(node_id: NodeId, client: Client, traffic: Shared) {
    match converse(client, &traffic).await {
        Ok(()) => tracing::debug!(node_id, "a peer ended the stream of calls"),
        Err(status) => tracing::debug!(node_id, %status, "the stream of calls to a peer broke"),
    }
    let (queue, carried, sent) = {
        let mut traffic = lock(&traffic);
        (traffic.queue.take(), traffic.carried.take(), std::mem::take(&mut traffic.sent))
    };
    // What waits was not sent; what was sent is lost.
    drop((queue, carried, sent));
}

async fn converse(mut client: Client, traffic: &Shared) -> Result<(), tonic::Status> {
    let (open, opened) = oneshot::channel();
    let outgoing = Outgoing { opened: Some(opened), traffic: Arc::clone(traffic) };
    let mut replies = client.forward(outgoing).await?.into_inner();
    // Only now is it known that the peer takes calls: what it refused to begin has carried none.
    let _ = open.send(());
    while let Some(reply) = replies.message().await? {
        for answer in reply.answers {
            let id = answer.answer.as_ref().map_or(0, |answer| answer.id);
            let sent = lock(traffic).sent.remove(&id);
            if let Some(sent) = sent {
                sent.tell(Told::Answer(Box::new(answer)));
            }
        }
    }
    Ok(())
}

/// The messages of a link: each has what waits when it is asked for.
struct Outgoing {
    opened: Option<oneshot::Receiver<()>>,
    traffic: Shared,
}

impl Stream for Outgoing {
    type Item = ForwardRequest;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<ForwardRequest>> {
        let this = self.get_mut();
        if let Some(opened) = &mut this.opened {
            match Pin::new(opened).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Ready(Ok(())) => this.opened = None,
            }
        }
        lock(&this.traffic).take(context)
    }
}

impl Traffic {
    fn take(&mut self, context: &mut Context<'_>) -> Poll<Option<ForwardRequest>> {
        let mut calls = Vec::new();
        let mut bytes = 0_usize;
        while calls.len() < limits::MAX_FORWARDED_TOGETHER {
            let next = match (self.carried.take(), &mut self.queue) {
                (_, None) => return Poll::Ready(None),
                (Some(carried), Some(_)) => Poll::Ready(Some(carried)),
                (None, Some(queue)) => queue.poll_recv(context),
            };
            let waiting = match next {
                Poll::Ready(Some(waiting)) => waiting,
                Poll::Ready(None) if calls.is_empty() => return Poll::Ready(None),
                Poll::Pending if calls.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            };
            if waiting.reply.is_closed() {
                // Its caller has gone.
                continue;
            }
            if !calls.is_empty() && bytes.saturating_add(waiting.bytes) > limits::MAX_FORWARDED_BYTES {
                self.carried = Some(waiting);
                break;
            }
            bytes = bytes.saturating_add(waiting.bytes);
            calls.push(self.sending(waiting));
        }
        Poll::Ready(Some(ForwardRequest { calls }))
    }

    /// Notes that a call leaves, under a number of its own.
    fn sending(&mut self, waiting: Waiting) -> ForwardCall {
        let Waiting { mut call, reply, room, .. } = waiting;
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        if let Some(call) = &mut call.call {
            call.id = id;
        }
        self.sent.insert(id, Sent { reply: Some(reply), _room: room });
        call
    }
}
