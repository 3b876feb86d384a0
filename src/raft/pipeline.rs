//! One stream of entries to one follower: requests flow while their answers come back, in order.
//!
//! The log's requests are taken only while the returned stream is polled, and go when it is dropped: openraft's source of
//! requests holds a lock while it waits, and must not outlive the stream that it was given for.
//!
//! Deliberately absent: the connection (`network`), and any retry: the stream ends with its first error, and openraft makes
//! a new one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use openraft::errors::RPCError;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tonic::Status;

use crate::ids::PartitionId;
use crate::limits;
use crate::peers::Peers;
use crate::raft::network::failed;
use crate::raft::types::{NodeId, Types, entry_id_from, entry_id_to, entry_to, vote_message, vote_of};
use crate::wire::v1::append_reply::Outcome;
use crate::wire::v1::{AppendReply, AppendRequest};

/// In so many steps the silence of a peer is counted: a pause of this process counts as one, however long it was.
const STALL_STEPS: u32 = 5;

/// What openraft gets for a request.
pub(super) type Answer = Result<StreamAppendResult<Types>, RPCError<Types>>;

/// Whom a pipeline leads to.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) partition: PartitionId,
    pub(super) peers: Arc<Peers>,
    pub(super) node_id: NodeId,
}

/// One request as it travels.
pub(super) fn request(partition: PartitionId, request: &AppendEntriesRequest<Types>) -> AppendRequest {
    AppendRequest {
        partition: u32::from(partition.0),
        vote: Some(vote_message(&request.vote)),
        prev: request.prev_log_id.as_ref().map(entry_id_to),
        entries: request.entries.iter().map(|entry| entry_to(entry).into()).collect(),
        committed: request.leader_commit.as_ref().map(entry_id_to),
    }
}

/// What a reply says, which is also a sign of life.
pub(super) fn answer(target: &Target, reply: &AppendReply) -> Answer {
    target.peers.heard(target.node_id, reply.clock_unix_ms);
    match &reply.outcome {
        Some(Outcome::Flushed(flushed)) => Ok(Ok(flushed.last.as_ref().map(entry_id_from))),
        Some(Outcome::Conflict(at)) => Ok(Err(StreamAppendError::Conflict(entry_id_from(at)))),
        Some(Outcome::HigherVote(vote)) => Ok(Err(StreamAppendError::HigherVote(vote_of(vote)))),
        None => Err(failed(&Status::internal("an answer without an outcome"))),
    }
}

/// Bytes that the receiver has to keep.
fn weight(request: &AppendRequest) -> usize {
    request.entries.iter().map(bytes::Bytes::len).sum()
}

/// Requests on their way and answers on theirs.
pub(super) struct Pipeline<S, R> {
    target: Target,
    /// None once it has ended.
    input: Option<S>,
    /// None once everything was sent, or the transport takes no more.
    requests: Option<mpsc::Sender<AppendRequest>>,
    replies: R,
    /// The bytes of each unanswered request.
    in_flight: VecDeque<usize>,
    bytes_in_flight: usize,
    step: Interval,
    silent_steps: u32,
}

impl<S, R> Pipeline<S, R>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    R: Stream<Item = Result<AppendReply, Status>> + Send + Unpin + 'static,
{
    /// A pipeline on which one request is on its way already. `requests` has to take [`limits::MAX_APPENDS_IN_FLIGHT`] of
    /// them.
    pub(super) fn new(
        target: Target,
        input: S,
        requests: mpsc::Sender<AppendRequest>,
        first: &AppendRequest,
        replies: R,
    ) -> Self {
        let mut step = interval(Duration::from_millis(limits::APPEND_STALL_MS) / STALL_STEPS);
        step.set_missed_tick_behavior(MissedTickBehavior::Delay);
        step.reset();
        Self {
            target,
            input: Some(input),
            requests: Some(requests),
            replies,
            in_flight: VecDeque::from([weight(first)]),
            bytes_in_flight: weight(first),
            step,
            silent_steps: 0,
        }
    }

    /// The answers, one a request, in order. It ends after the last, or after the first that is not good.
    pub(super) fn answers(self) -> impl Stream<Item = Answer> + Send + 'static {
        stream::unfold(Some(self), |pipeline| async move {
            let mut pipeline = pipeline?;
            let answer = pipeline.next().await?;
            let goes_on = matches!(answer, Ok(Ok(_)));
            Some((answer, goes_on.then_some(pipeline)))
        })
    }

    async fn next(&mut self) -> Option<Answer> {
        loop {
            let room = self.in_flight.len() < limits::MAX_APPENDS_IN_FLIGHT
                && self.bytes_in_flight < limits::MAX_APPEND_BYTES_IN_FLIGHT;
            let waits = !self.in_flight.is_empty() || self.input.is_none();
            tokio::select! {
                biased;
                reply = self.replies.next() => return self.answered(reply),
                request = next(&mut self.input), if room && self.input.is_some() => self.send(request),
                _ = self.step.tick(), if waits => {
                    self.silent_steps = self.silent_steps.saturating_add(1);
                    if self.silent_steps >= STALL_STEPS {
                        let waiting = self.in_flight.len();
                        let text = format!("{waiting} appends unanswered for {} ms", limits::APPEND_STALL_MS);
                        return Some(Err(failed(&Status::deadline_exceeded(text))));
                    }
                }
            }
        }
    }

    /// Sends what the log has, or says that there is no more. When the transport takes no more, its answers end too, and
    /// say why.
    fn send(&mut self, next: Option<AppendEntriesRequest<Types>>) {
        let Some(next) = next else {
            self.input = None;
            self.requests = None;
            return;
        };
        let next = request(self.target.partition, &next);
        let bytes = weight(&next);
        if self.in_flight.is_empty() {
            self.silent_steps = 0;
            self.step.reset();
        }
        self.in_flight.push_back(bytes);
        self.bytes_in_flight = self.bytes_in_flight.saturating_add(bytes);
        if self.requests.as_ref().is_some_and(|requests| requests.try_send(next).is_err()) {
            self.requests = None;
        }
    }

    fn answered(&mut self, reply: Option<Result<AppendReply, Status>>) -> Option<Answer> {
        let reply = match reply {
            Some(Ok(reply)) => reply,
            Some(Err(status)) => return Some(Err(failed(&status))),
            None if self.input.is_none() && self.in_flight.is_empty() => return None,
            None => return Some(Err(failed(&Status::unavailable("the peer ended the stream of entries")))),
        };
        let Some(bytes) = self.in_flight.pop_front() else {
            return Some(Err(failed(&Status::internal("an answer to no request"))));
        };
        self.bytes_in_flight = self.bytes_in_flight.saturating_sub(bytes);
        self.silent_steps = 0;
        Some(answer(&self.target, &reply))
    }
}

/// The next of a stream that is there, or nothing for one that has ended.
async fn next<S: Stream + Unpin>(stream: &mut Option<S>) -> Option<S::Item> {
    stream.as_mut()?.next().await
}

#[cfg(test)]
mod tests;
