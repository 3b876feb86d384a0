//! What the same group on another node says to this one: the receiving side of `network`.
//!
//! Deliberately absent: who may call (`api/peer` has checked it), and the snapshot's bytes.

use std::sync::{Arc, OnceLock};

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _, stream};
use openraft::errors::Fatal;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest, VoteRequest};

use crate::clock;
use crate::codec::CodecError;
use crate::raft::group::Group;
use crate::raft::types::{Types, entry_from, entry_id_from, entry_id_to, vote_message, vote_of};
use crate::wire::v1;
use crate::wire::v1::append_reply::Outcome;

/// Why a peer's message was not taken. Nothing of it was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The group serves no more.
    #[error("the partition has stopped: {0}")]
    Stopped(String),
    /// The message is damaged, or of a version that this one does not understand.
    #[error("the peer's message is not understood: {0}")]
    NotUnderstood(String),
}

impl From<CodecError> for Refused {
    fn from(error: CodecError) -> Self {
        Self::NotUnderstood(error.to_string())
    }
}

fn without(what: &'static str) -> Refused {
    Refused::NotUnderstood(format!("it has no {what}"))
}

/// Reads a request to append. What follows relies on its entries being consecutive, so that is checked here.
fn append_of(message: v1::AppendRequest) -> Result<AppendEntriesRequest<Types>, Refused> {
    let vote = vote_of(&message.vote.ok_or_else(|| without("vote"))?);
    let prev_log_id = message.prev.as_ref().map(entry_id_from);
    let mut next = prev_log_id.map_or(0, |prev| prev.index.saturating_add(1));
    let mut entries = Vec::with_capacity(message.entries.len());
    for bytes in message.entries {
        let entry = entry_from(bytes)?;
        if entry.log_id.index != next {
            return Err(Refused::NotUnderstood(format!("entry {} stands where {next} should", entry.log_id.index)));
        }
        next = next.saturating_add(1);
        entries.push(entry);
    }
    let leader_commit = message.committed.as_ref().map(entry_id_from);
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

fn reply_to(result: StreamAppendResult<Types>) -> v1::AppendReply {
    let outcome = match result {
        Ok(last) => Outcome::Flushed(v1::Flushed { last: last.as_ref().map(entry_id_to) }),
        Err(StreamAppendError::Conflict(at)) => Outcome::Conflict(entry_id_to(&at)),
        Err(StreamAppendError::HigherVote(vote)) => Outcome::HigherVote(vote_message(&vote)),
    };
    v1::AppendReply { outcome: Some(outcome), clock_unix_ms: clock::wall_unix_ms() }
}

fn broken(fatal: &Fatal<Types>) -> Refused {
    Refused::Stopped(fatal.to_string())
}

impl Group {
    /// Whether messages of peers may come in: a group that does not serve must not vote either, or its node's vote would
    /// rest on what it could not write.
    fn takes(&self) -> Result<(), Refused> {
        self.stopped().map_or(Ok(()), |reason| Err(Refused::Stopped(reason.to_owned())))
    }

    /// Takes the leader's entries, and answers each request once its entries are on the disk. Requests may follow each
    /// other without waiting; the answers keep their order. The stream ends with the requests, or with the first answer that
    /// is not "flushed".
    pub fn peer_append(
        &self,
        requests: impl Stream<Item = v1::AppendRequest> + Send + 'static,
    ) -> BoxStream<'static, Result<v1::AppendReply, Refused>> {
        let refused: Arc<OnceLock<Refused>> = Arc::default();
        let (group, why) = (self.clone(), Arc::clone(&refused));
        let understood = requests.map(move |message| group.takes().and_then(|()| append_of(message)));
        let good = understood.scan((), move |(), request| {
            let good = request.map_err(|reason| why.set(reason)).ok();
            std::future::ready(good)
        });
        let group = self.clone();
        let answers = self.raft.stream_append(good).map(move |answer| {
            answer.map(reply_to).map_err(|fatal| {
                group.check();
                broken(&fatal)
            })
        });
        // What came before a bad request is answered first.
        let why = stream::once(async move { refused.get().cloned() });
        Box::pin(answers.chain(why.filter_map(|refused| async { refused.map(Err) })))
    }

    /// Votes, or says how it would vote.
    ///
    /// # Errors
    /// When the group has stopped, or the message is not understood.
    pub async fn peer_vote(&self, message: v1::VoteRequest) -> Result<v1::VoteReply, Refused> {
        self.takes()?;
        let request = VoteRequest {
            vote: vote_of(&message.vote.ok_or_else(|| without("vote"))?),
            last_log_id: message.last.as_ref().map(entry_id_from),
            leadership_transfer: message.leadership_transfer,
        };
        let reply = if message.pre_vote { self.raft.pre_vote(request).await } else { self.raft.vote(request).await };
        let reply = reply.map_err(|error| {
            self.check();
            Refused::Stopped(error.to_string())
        })?;
        Ok(v1::VoteReply {
            vote: Some(vote_message(&reply.vote)),
            granted: reply.vote_granted,
            last: reply.last_log_id.as_ref().map(entry_id_to),
        })
    }

    /// Stands for election at once, if this node is meant and has what the leader had.
    ///
    /// # Errors
    /// When the group has stopped, or the message is not understood.
    pub async fn peer_transfer(&self, message: v1::TransferLeaderRequest) -> Result<v1::TransferLeaderReply, Refused> {
        self.takes()?;
        let from = vote_of(&message.from_leader.ok_or_else(|| without("vote"))?);
        let request = TransferLeaderRequest::new(from, message.to_node_id, message.last.as_ref().map(entry_id_from));
        let taken = self.raft.handle_transfer_leader(request).await.map_err(|fatal| {
            self.check();
            broken(&fatal)
        })?;
        Ok(v1::TransferLeaderReply { refused: taken.err().map(|error| error.to_string()).unwrap_or_default() })
    }
}
