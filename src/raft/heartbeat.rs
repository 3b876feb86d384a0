//! Heartbeats to one follower, on a stream that is kept open: a leader says that it is there several times a second, and
//! asks again for every round of reads.

use futures_util::{Stream, StreamExt as _};
use openraft::raft::AppendEntriesRequest;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::raft::network::{failed, open};
use crate::raft::pipeline::{Answer, Target, answer, request};
use crate::raft::types::Types;
use crate::wire::v1::{AppendReply, AppendRequest};

/// An open stream to a follower.
pub(super) struct Open {
    pub(super) requests: mpsc::Sender<AppendRequest>,
    pub(super) replies: Streaming<AppendReply>,
}

/// The heartbeats of one group to one follower.
#[derive(Default)]
pub(super) struct Heartbeats {
    /// Away while an answer is awaited, and not put back without it: one that came too late must not be the next one's.
    kept: Option<Open>,
}

impl Heartbeats {
    /// Sends the one request of `input` and waits for its answer. Nothing if there is no request.
    pub(super) async fn beat<S>(&mut self, target: &Target, mut input: S) -> Option<Answer>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Unpin,
    {
        let beat = request(target.partition, &input.next().await?);
        if let Some(kept) = self.kept.take()
            && kept.requests.try_send(beat.clone()).is_ok()
            && let Ok(answer) = self.answered(target, kept).await
        {
            return Some(Ok(answer));
        }
        // The peer may have started again since the last heartbeat.
        let opened = open(target, beat).await;
        Some(match opened {
            Ok(open) => self.answered(target, open).await,
            Err(error) => Err(error),
        })
    }

    async fn answered(&mut self, target: &Target, mut open: Open) -> Answer {
        let answer = match open.replies.next().await {
            Some(Ok(reply)) => answer(target, &reply),
            Some(Err(status)) => Err(failed(&status)),
            None => Err(failed(&Status::unavailable("the peer ended the stream of heartbeats"))),
        };
        if matches!(answer, Ok(Ok(_))) {
            self.kept = Some(open);
        }
        answer
    }
}
