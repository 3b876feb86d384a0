//! A session at work: reads calls while there is room for them, runs them side by side, and puts their answers out as they
//! are done. One task a session and none a call.
//!
//! Calls that are ready together are read, started, answered and sent together: what one look finds is one batch, and
//! nobody waits for company.
//!
//! The task is not the one that sends. A client that does not take its answers stops the reading of its own calls, while
//! those in flight go on to their end: one of them may hold what another client waits for.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream as _;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use holdfast_client::proto::v1;
use prost::Message as _;
use tokio::sync::watch;
use tonic::{Status, Streaming};

use super::codec::{CallId, Calls, Frames};
use super::outbox::Outbox;
use crate::api::answer::answer;
use crate::api::body::Messages;
use crate::api::error::{ApiError, of_undecodable};
use crate::api::grpc::Services;
use crate::clock::{self, Monotonic};
use crate::limits;
use crate::region::calls::{Certainty, Failure};

/// Calls that are started before it is looked again whether there is room for their answers.
const STARTS: usize = 64;
/// Rounds of one look, after which others get their turn.
const ROUNDS: usize = 16;
/// When to ask again after an answer that did not come in time.
const RETRY: Duration = Duration::from_millis(100);

/// A call in flight.
type Running = FuturesUnordered<BoxFuture<'static, Done>>;

/// An answered call.
struct Done {
    answer: v1::SessionAnswer,
    /// What the call took up while it was in flight.
    bytes: usize,
}

/// How a call in flight ends with the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It runs to its end.
    Works,
    /// It waits for another attempt, and is not worth more than whoever waits.
    Waits,
}

/// One session.
pub(super) struct Session {
    services: Services,
    /// Nothing: no more calls are read.
    incoming: Option<Streaming<Calls>>,
    messages: Messages,
    outbox: Outbox,
    /// Read, and not started for want of room.
    unstarted: VecDeque<Bytes>,
    working: Running,
    waiting: Running,
    in_flight: HashMap<u64, Kind>,
    /// Bytes of the calls that were read and not answered.
    held_bytes: usize,
    failed: Option<Status>,
}

impl Session {
    pub(super) fn new(services: Services, incoming: Streaming<Calls>, messages: Messages, outbox: Outbox) -> Self {
        Self {
            services,
            incoming: Some(incoming),
            messages,
            outbox,
            unstarted: VecDeque::new(),
            working: Running::new(),
            waiting: Running::new(),
            in_flight: HashMap::new(),
            held_bytes: 0,
            failed: None,
        }
    }

    /// Runs the session to its end: the client's, a broken message's, or the node's, which `closing` announces.
    pub(super) async fn run(mut self, mut closing: watch::Receiver<bool>) {
        // An error says that nobody can announce it any more, which is the end too.
        let mut closing = pin!(async move { closing.wait_for(|begun| *begun).await.is_ok() });
        let mut open = true;
        std::future::poll_fn(|context| {
            let mut out = Frames::default();
            if open && closing.as_mut().poll(context).is_ready() {
                open = false;
                self.close(&mut out);
            }
            self.poll(context, out)
        })
        .await;
    }

    fn poll(&mut self, context: &mut Context<'_>, mut out: Frames) -> Poll<()> {
        let mut rounds = 0;
        loop {
            // Anew in each round: it is emptied meanwhile, and only who was found to be full is woken.
            let look = self.outbox.look(context);
            if look.gone {
                self.leave();
            }
            let takes = look.bytes < limits::SESSION_UNSENT_BYTES;
            let read = takes && self.read(context);
            let started = takes && self.start(&mut out);
            let answered = self.collect(context, &mut out);
            self.outbox.put(out.take());
            if !read && !started && !answered {
                break;
            }
            rounds += 1;
            if rounds == ROUNDS {
                context.waker().wake_by_ref();
                break;
            }
        }
        let over = self.incoming.is_none() && self.unstarted.is_empty() && self.in_flight.is_empty();
        if !over {
            return Poll::Pending;
        }
        self.outbox.end(self.failed.take());
        Poll::Ready(())
    }

    /// Reads one message of calls, if there is one and room for it. Whether anything came of it.
    fn read(&mut self, context: &mut Context<'_>) -> bool {
        let room = self.unstarted.is_empty() && self.has_room();
        let Some(incoming) = self.incoming.as_mut().filter(|_| room) else { return false };
        match Pin::new(incoming).poll_next(context) {
            Poll::Pending => return false,
            Poll::Ready(Some(Ok(Calls { calls }))) => {
                self.messages.arrived();
                self.held_bytes = calls.iter().fold(self.held_bytes, |sum, call| sum.saturating_add(call.len()));
                self.unstarted.extend(calls);
            }
            Poll::Ready(Some(Err(status))) => {
                self.failed = Some(of_undecodable(&status).map_or(status, Status::from));
                self.incoming = None;
            }
            Poll::Ready(None) => self.incoming = None,
        }
        true
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < limits::MAX_CALLS_PER_SESSION as usize && self.held_bytes < limits::SESSION_HELD_BYTES
    }

    /// Starts calls that were read, while fewer are in flight than may be. Whether there was one.
    fn start(&mut self, out: &mut Frames) -> bool {
        let received = clock::monotonic();
        let mut started = 0;
        while started < STARTS && self.in_flight.len() < limits::MAX_CALLS_PER_SESSION as usize {
            let Some(bytes) = self.unstarted.pop_front() else { break };
            self.start_one(bytes, received, out);
            started += 1;
        }
        started > 0
    }

    fn start_one(&mut self, bytes: Bytes, received: Monotonic, out: &mut Frames) {
        let held = bytes.len();
        let refused = match v1::SessionCall::decode(bytes.clone()) {
            Ok(call) if !self.in_flight.contains_key(&call.id) => return self.run_one(call, held, received),
            Ok(call) => {
                let error = ApiError::Body(format!("a call with the id {} is in flight on this session", call.id));
                (call.id, error)
            }
            Err(error) => {
                let Ok(CallId { id }) = CallId::decode(bytes) else {
                    self.failed = Some(ApiError::Body(format!("a call cannot be decoded: {error}")).to_status());
                    return self.stop_reading();
                };
                (id, ApiError::Body(format!("the call cannot be decoded: {error}")))
            }
        };
        self.held_bytes = self.held_bytes.saturating_sub(held);
        let (id, error) = refused;
        out.push(&failure(id, &error));
    }

    fn run_one(&mut self, call: v1::SessionCall, bytes: usize, received: Monotonic) {
        let (id, timeout_ms) = (call.id, call.timeout_ms);
        let kind = kind(&call);
        let services = self.services.clone();
        let running = async move {
            let answering = answer(&services, call, received);
            let answer = match timeout_ms {
                0 => answering.await,
                limit => {
                    let limit = Duration::from_millis(u64::from(limit));
                    tokio::time::timeout(limit, answering).await.unwrap_or_else(|_| failure(id, &late(timeout_ms)))
                }
            };
            Done { answer, bytes }
        };
        self.in_flight.insert(id, kind);
        match kind {
            Kind::Works => self.working.push(Box::pin(running)),
            Kind::Waits => self.waiting.push(Box::pin(running)),
        }
    }

    /// Takes the answers that are done. Whether there was one.
    fn collect(&mut self, context: &mut Context<'_>, out: &mut Frames) -> bool {
        let mut any = false;
        for running in [&mut self.working, &mut self.waiting] {
            while let Poll::Ready(Some(Done { answer, bytes })) = running.poll_next_unpin(context) {
                self.in_flight.remove(&answer.id);
                self.held_bytes = self.held_bytes.saturating_sub(bytes);
                out.push(&answer);
                any = true;
            }
        }
        any
    }

    /// The node ends: nothing more is read, whoever waits is told to ask elsewhere, the rest is answered.
    fn close(&mut self, out: &mut Frames) {
        self.incoming = None;
        for (id, kind) in &self.in_flight {
            match kind {
                Kind::Works => {}
                Kind::Waits => out.push(&failure(*id, &closing())),
            }
        }
        self.drop_waits();
    }

    /// The client is gone: what works goes on, as it may be committed already; the rest is dropped.
    fn leave(&mut self) {
        self.stop_reading();
        self.drop_waits();
    }

    fn stop_reading(&mut self) {
        self.incoming = None;
        self.unstarted.clear();
    }

    fn drop_waits(&mut self) {
        self.waiting.clear();
        self.in_flight.retain(|_, kind| *kind == Kind::Works);
    }
}

fn kind(call: &v1::SessionCall) -> Kind {
    match &call.call {
        Some(v1::session_call::Call::Reserve(reserve)) if reserve.wait_ms.is_some_and(|wait_ms| wait_ms > 0) => {
            Kind::Waits
        }
        Some(_) | None => Kind::Works,
    }
}

fn failure(id: u64, error: &ApiError) -> v1::SessionAnswer {
    error.told();
    v1::SessionAnswer { id, answer: Some(v1::session_answer::Answer::Failure(error.to_failure())) }
}

fn late(timeout_ms: u32) -> ApiError {
    indefinite(format!("no outcome within the {timeout_ms} ms that the call allows: ask again with the same key"))
}

fn closing() -> ApiError {
    indefinite("the node shuts down: ask another one with the same key".to_owned())
}

fn indefinite(reason: String) -> ApiError {
    ApiError::from(Failure::Unavailable { certainty: Certainty::Indefinite, reason, retry_after: RETRY })
}
