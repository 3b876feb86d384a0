//! Many calls on one stream. Callers put calls into a queue; the connection takes what is there when it may send, so that
//! calls that are ready together go together and nobody waits for company. One task takes the answers apart.
//!
//! A caller that goes away leaves its call behind: not sent yet, it is forgotten; sent, its answer is dropped.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::error::{Certainty, Failed, codes};
use crate::proto::v1;
use crate::proto::v1::reservations_client::ReservationsClient;
use crate::proto::v1::session_answer::Answer;
use crate::proto::v1::session_call::Call;

/// Calls that wait to be sent on one session. Beyond it, callers are refused: the node is slower than they are.
const MAX_QUEUED: usize = 16_384;
/// Bytes of calls in one message, unless one call alone is larger: an HTTP/2 frame, so that a small call does not wait for
/// much before it.
const FRAME_BYTES: usize = 64 * 1024;

type Answered = Result<Answer, Failed>;

/// An open session. A clone is the same; the last one ends it.
#[derive(Clone, Debug)]
pub(super) struct Session(Arc<Handle>);

/// What callers hold of a session. The connection and the reader hold the rest, and not this.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    _reader: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared(Mutex<Inside>);

#[derive(Debug, Default)]
struct Inside {
    next_id: u64,
    queue: VecDeque<v1::SessionCall>,
    slots: HashMap<u64, Slot>,
    /// Calls that were sent and not answered.
    in_flight: usize,
    most_in_flight: usize,
    sender: Option<Waker>,
    /// Nothing is sent any more.
    over: bool,
}

/// A call that has no answer yet.
#[derive(Debug)]
enum Slot {
    /// In the queue.
    Queued(oneshot::Sender<Answered>),
    /// On its way.
    Sent(oneshot::Sender<Answered>),
    /// On its way, and nobody waits for it.
    Left,
}

impl Session {
    /// Opens a session on a connection, and waits until the node has said what it takes.
    pub(super) async fn open(mut client: ReservationsClient<Channel>) -> Result<Self, Failed> {
        let shared = Arc::new(Shared::default());
        let opened = client.session(Requests(Arc::clone(&shared))).await;
        let mut answers = opened.map_err(|status| unopened(&status))?.into_inner();
        let hello = answers.message().await.map_err(|status| unopened(&status))?;
        let most = hello.map_or(0, |hello| hello.max_in_flight);
        if most == 0 {
            let message = "the node ended the session before it began".to_owned();
            return Err(Failed::on_the_way(codes::CONNECTION_LOST, Certainty::Definite, message));
        }
        shared.inside().most_in_flight = usize::try_from(most).unwrap_or(usize::MAX);
        let mut reader = JoinSet::new();
        reader.spawn(read(answers, Arc::clone(&shared)));
        Ok(Self(Arc::new(Handle { shared, _reader: reader })))
    }

    /// Whether nothing can be sent on it any more.
    pub(super) fn is_over(&self) -> bool {
        self.0.shared.inside().over
    }

    /// Sends a call and waits for its answer, for at most `limit`.
    pub(super) async fn call(&self, call: Call, limit: Duration) -> Answered {
        let timeout_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX).max(1);
        let (mut waiting, answer) = self.enter(call, timeout_ms)?;
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answered)) => {
                waiting.done = true;
                answered
            }
            Ok(Err(_)) => Err(lost(Certainty::Indefinite, "the session ended")),
            Err(_) => Err(waiting.late(limit)),
        }
    }

    fn enter(&self, call: Call, timeout_ms: u32) -> Result<(Waiting<'_>, oneshot::Receiver<Answered>), Failed> {
        let (sender, answer) = oneshot::channel();
        let mut inside = self.0.shared.inside();
        if inside.over {
            return Err(lost(Certainty::Definite, "the session ended before the call was sent"));
        }
        if inside.queue.len() >= MAX_QUEUED {
            drop(inside);
            let message = format!("{MAX_QUEUED} calls wait to be sent already: send fewer at a time");
            return Err(Failed::of_this_client(message));
        }
        let id = inside.next_id;
        inside.next_id = id.wrapping_add(1);
        inside.queue.push_back(v1::SessionCall { id, timeout_ms, call: Some(call) });
        inside.slots.insert(id, Slot::Queued(sender));
        let waker = if inside.in_flight < inside.most_in_flight { inside.sender.take() } else { None };
        drop(inside);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok((Waiting { shared: &self.0.shared, id, done: false }, answer))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.end(&lost(Certainty::Indefinite, "the client was closed"));
    }
}

/// A caller that waits. Dropped, it leaves its call.
struct Waiting<'a> {
    shared: &'a Shared,
    id: u64,
    done: bool,
}

impl Waiting<'_> {
    /// What it means that no answer came in time: nothing was done if the call was not even sent.
    fn late(&mut self, limit: Duration) -> Failed {
        let certainty = self.leave();
        let message = format!("no answer within {} ms", limit.as_millis());
        Failed::on_the_way(codes::DEADLINE, certainty, message)
    }

    /// Leaves the call; definite if it was not sent and will not be.
    fn leave(&mut self) -> Certainty {
        self.done = true;
        let mut inside = self.shared.inside();
        match inside.slots.entry(self.id) {
            Entry::Occupied(mut slot) => match slot.get() {
                Slot::Queued(_) => {
                    slot.remove();
                    Certainty::Definite
                }
                Slot::Sent(_) | Slot::Left => {
                    slot.insert(Slot::Left);
                    Certainty::Indefinite
                }
            },
            Entry::Vacant(_) => Certainty::Indefinite,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.leave();
        }
    }
}

impl Shared {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands answers to their callers.
    fn answered(&self, answers: Vec<v1::SessionAnswer>) {
        let mut ready = Vec::with_capacity(answers.len());
        let mut inside = self.inside();
        for v1::SessionAnswer { id, answer } in answers {
            match inside.slots.remove(&id) {
                Some(Slot::Sent(caller)) => {
                    inside.in_flight = inside.in_flight.saturating_sub(1);
                    ready.push((caller, answer));
                }
                Some(Slot::Left) => inside.in_flight = inside.in_flight.saturating_sub(1),
                // An answer to what was not sent: it is nobody's.
                Some(queued @ Slot::Queued(_)) => {
                    inside.slots.insert(id, queued);
                }
                None => {}
            }
        }
        let waker = if inside.queue.is_empty() { None } else { inside.sender.take() };
        drop(inside);
        if let Some(waker) = waker {
            waker.wake();
        }
        for (caller, answer) in ready {
            let answered = match answer {
                Some(Answer::Failure(failure)) => Err(Failed::of_failure(failure)),
                Some(answer) => Ok(answer),
                None => Err(Failed::unknown_answer()),
            };
            // The caller may have gone between the two.
            let _gone = caller.send(answered);
        }
    }

    /// Ends the session: what was not sent was not done, of the rest it is not known.
    fn end(&self, failed: &Failed) {
        let mut inside = self.inside();
        inside.over = true;
        inside.queue.clear();
        let slots = std::mem::take(&mut inside.slots);
        let waker = inside.sender.take();
        drop(inside);
        if let Some(waker) = waker {
            waker.wake();
        }
        for slot in slots.into_values() {
            let (caller, certainty) = match slot {
                Slot::Queued(caller) => (caller, Certainty::Definite),
                Slot::Sent(caller) => (caller, Certainty::Indefinite),
                Slot::Left => continue,
            };
            let _gone = caller.send(Err(Failed { certainty, ..failed.clone() }));
        }
    }
}

/// Takes answers until there are no more.
async fn read(mut answers: Streaming<v1::SessionResponse>, shared: Arc<Shared>) {
    let failed = loop {
        match answers.message().await {
            Ok(Some(response)) => shared.answered(response.answers),
            Ok(None) => break lost(Certainty::Indefinite, "the node ended the session"),
            Err(status) => break Failed { of_the_node: true, ..Failed::of_status(&status) },
        }
    };
    let retry_after = failed.retry_after.or(Some(Duration::ZERO));
    shared.end(&Failed { retry_after, ..failed });
}

/// What the connection sends.
struct Requests(Arc<Shared>);

impl Stream for Requests {
    type Item = v1::SessionRequest;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<v1::SessionRequest>> {
        let mut inside = self.0.inside();
        if inside.over {
            return Poll::Ready(None);
        }
        let calls = take(&mut inside);
        if calls.is_empty() {
            inside.sender = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Some(v1::SessionRequest { calls }))
    }
}

/// The next message's calls: those that wait, as far as the node takes them and one message should bear them.
fn take(inside: &mut Inside) -> Vec<v1::SessionCall> {
    let room = inside.most_in_flight.saturating_sub(inside.in_flight).min(inside.queue.len());
    let mut calls = Vec::with_capacity(room);
    let mut bytes = 0_usize;
    while calls.len() < room {
        let Some(call) = inside.queue.pop_front() else { break };
        let Entry::Occupied(mut slot) = inside.slots.entry(call.id) else { continue };
        let weight = weight(&call);
        if !calls.is_empty() && bytes.saturating_add(weight) > FRAME_BYTES {
            inside.queue.push_front(call);
            break;
        }
        bytes = bytes.saturating_add(weight);
        let sent = match slot.insert(Slot::Left) {
            Slot::Queued(caller) | Slot::Sent(caller) => Slot::Sent(caller),
            Slot::Left => Slot::Left,
        };
        slot.insert(sent);
        inside.in_flight = inside.in_flight.saturating_add(1);
        calls.push(call);
    }
    calls
}

/// About how many bytes a call takes in a message: of what may be large, exactly.
fn weight(call: &v1::SessionCall) -> usize {
    const SMALL: usize = 256;
    let large = match &call.call {
        Some(Call::Complete(complete)) => complete.envelope.as_ref().map_or(0, envelope_weight),
        Some(Call::Resolve(resolve)) => match &resolve.verdict {
            Some(v1::resolve_request::Verdict::Executed(envelope)) => envelope_weight(envelope),
            Some(v1::resolve_request::Verdict::NotExecuted(_)) | None => 0,
        },
        Some(Call::Reserve(reserve)) => match reserve.fingerprint.as_ref().and_then(|print| print.kind.as_ref()) {
            Some(v1::fingerprint::Kind::Request(request)) => {
                request.body.len().saturating_add(headers_weight(&request.headers))
            }
            Some(v1::fingerprint::Kind::Digest(_)) | None => 0,
        },
        Some(Call::Checkpoint(checkpoint)) => checkpoint.checkpoint.as_ref().map_or(0, |data| data.data.len()),
        Some(Call::Release(_) | Call::Extend(_) | Call::Lookup(_) | Call::Claim(_)) | None => 0,
    };
    large.saturating_add(SMALL)
}

fn envelope_weight(envelope: &v1::Envelope) -> usize {
    envelope.body.len().saturating_add(headers_weight(&envelope.headers))
}

fn headers_weight(headers: &[v1::Header]) -> usize {
    headers.iter().map(|header| header.name.len() + header.value.len()).sum()
}

/// Why there is no session: the node takes none, whatever it would say to the call. Nothing is sent before its first
/// message.
fn unopened(status: &Status) -> Failed {
    let failed = Failed::of_status(status);
    Failed { certainty: Certainty::Definite, of_the_node: failed.retry_after.is_some(), ..failed }
}

fn lost(certainty: Certainty, message: &str) -> Failed {
    Failed::on_the_way(codes::CONNECTION_LOST, certainty, message.to_owned())
}
