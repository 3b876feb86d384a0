//! A pipeline over a transport that answers when a test says so.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use openraft::EntryPayload;
use openraft::vote::RaftLeaderId as _;
use tokio::time::timeout;

use super::*;
use crate::raft::types::{EntryId, Leader, LogEntry, Vote};
use crate::wire::v1;

const WAIT: Duration = Duration::from_secs(30);

fn id(index: u64) -> EntryId {
    EntryId::new(Leader::new(1, 1).to_committed(), index)
}

fn append(index: u64) -> AppendEntriesRequest<Types> {
    AppendEntriesRequest {
        vote: Vote { leader_id: Leader::new(1, 1), committed: true },
        prev_log_id: index.checked_sub(1).map(id),
        entries: vec![LogEntry { log_id: id(index), payload: EntryPayload::Blank }],
        leader_commit: None,
    }
}

fn says(outcome: Outcome) -> AppendReply {
    AppendReply { outcome: Some(outcome), clock_unix_ms: 1 }
}

fn flushed(index: u64) -> AppendReply {
    says(Outcome::Flushed(v1::Flushed { last: Some(entry_id_to(&id(index))) }))
}

/// The far end of a pipeline: what was sent, and the answers.
struct Far {
    sent: mpsc::Receiver<AppendRequest>,
    replies: mpsc::Sender<Result<AppendReply, Status>>,
    taken: Arc<AtomicUsize>,
}

/// A pipeline for entries 0 to `most`, of which the first is sent, and its far end.
fn pipeline(most: u64) -> (std::pin::Pin<Box<dyn Stream<Item = Answer> + Send>>, Far) {
    let me = v1::Node { node_id: 1, ..v1::Node::default() };
    let peers = Peers::new(me, v1::Facts::default());
    let target = Target { partition: PartitionId(0), peers, node_id: 2 };
    let (requests, sent) = mpsc::channel(limits::MAX_APPENDS_IN_FLIGHT);
    let (replies, mut answers) = mpsc::channel(100);
    let taken: Arc<AtomicUsize> = Arc::default();
    let count = Arc::clone(&taken);
    let input = stream::iter((1..most).map(append)).inspect(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let first = request(PartitionId(0), &append(0));
    requests.try_send(first.clone()).unwrap();
    let answers = stream::poll_fn(move |context| answers.poll_recv(context));
    let pipeline = Pipeline::new(target, input, requests, &first, answers);
    (Box::pin(pipeline.answers()), Far { sent, replies, taken })
}

async fn pending(answers: &mut (impl Stream<Item = Answer> + Unpin)) {
    assert!(futures_util::poll!(answers.next()).is_pending());
}

async fn next(answers: &mut (impl Stream<Item = Answer> + Unpin)) -> Option<Answer> {
    timeout(WAIT, answers.next()).await.expect("an answer in time")
}

#[tokio::test]
async fn requests_flow_while_answers_come_back_in_order() {
    let (mut answers, mut far) = pipeline(3);
    pending(&mut answers).await;
    for index in 0..3 {
        assert_eq!(far.sent.recv().await.unwrap().entries, [bytes::Bytes::from(entry_to(&append(index).entries[0]))]);
    }
    assert_eq!(far.sent.recv().await, None, "all of it was sent, and the transport knows");
    for index in 0..3 {
        far.replies.send(Ok(flushed(index))).await.unwrap();
        assert_eq!(next(&mut answers).await, Some(Ok(Ok(Some(id(index))))));
    }
    pending(&mut answers).await;
    drop(far.replies);
    assert_eq!(next(&mut answers).await, None);
}

#[tokio::test]
async fn no_more_is_taken_than_may_be_on_its_way() {
    let (mut answers, mut far) = pipeline(1_000);
    pending(&mut answers).await;
    assert_eq!(far.taken.load(Ordering::Relaxed), limits::MAX_APPENDS_IN_FLIGHT - 1, "one was sent before");
    far.sent.recv().await.unwrap();
    pending(&mut answers).await;
    assert_eq!(far.taken.load(Ordering::Relaxed), limits::MAX_APPENDS_IN_FLIGHT - 1, "it is not answered");
    far.replies.send(Ok(flushed(0))).await.unwrap();
    assert_eq!(next(&mut answers).await, Some(Ok(Ok(Some(id(0))))));
    pending(&mut answers).await;
    assert_eq!(far.taken.load(Ordering::Relaxed), limits::MAX_APPENDS_IN_FLIGHT);
    drop(answers);
    assert_eq!(Arc::strong_count(&far.taken), 1, "the source of requests is gone with it");
}

#[tokio::test]
async fn what_is_not_good_ends_it() {
    let vote = Vote { leader_id: Leader::new(7, 3), committed: true };
    let refusals = [
        (Outcome::Conflict(entry_id_to(&id(0))), StreamAppendError::Conflict(id(0))),
        (Outcome::HigherVote(vote_message(&vote)), StreamAppendError::HigherVote(vote)),
    ];
    for (said, meant) in refusals {
        let (mut answers, far) = pipeline(5);
        pending(&mut answers).await;
        far.replies.send(Ok(says(said))).await.unwrap();
        assert_eq!(next(&mut answers).await, Some(Ok(Err(meant))));
        assert_eq!(next(&mut answers).await, None);
        assert_eq!(Arc::strong_count(&far.taken), 1);
    }
    let failures: [(Option<Result<AppendReply, Status>>, &str); 4] = [
        (Some(Err(Status::aborted("reset"))), "reset"),
        (Some(Ok(AppendReply { outcome: None, clock_unix_ms: 1 })), "without an outcome"),
        (None, "ended the stream"),
        (Some(Err(Status::failed_precondition("another disk"))), "another disk"),
    ];
    for (said, text) in failures {
        let (mut answers, far) = pipeline(5);
        pending(&mut answers).await;
        let Far { replies, taken, sent: _sent } = far;
        match said {
            Some(said) => replies.send(said).await.unwrap(),
            None => drop(replies),
        }
        let Some(Err(error)) = next(&mut answers).await else { panic!("{text}: no error") };
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(next(&mut answers).await, None);
        assert_eq!(Arc::strong_count(&taken), 1);
    }
}

#[tokio::test]
async fn an_answer_to_nothing_is_an_error() {
    let (mut answers, far) = pipeline(1);
    pending(&mut answers).await;
    far.replies.send(Ok(flushed(0))).await.unwrap();
    far.replies.send(Ok(flushed(1))).await.unwrap();
    assert!(matches!(next(&mut answers).await, Some(Ok(Ok(_)))));
    assert!(matches!(next(&mut answers).await, Some(Err(_))));
}

#[tokio::test]
async fn silence_ends_it_only_while_something_is_unanswered() {
    let (mut answers, far) = pipeline(2);
    pending(&mut answers).await;
    let Some(Err(error)) = next(&mut answers).await else { panic!("no error") };
    assert!(error.to_string().contains("2 appends unanswered for 5000 ms"), "{error}");
    assert!(matches!(error, RPCError::Network(_)), "it is asked anew at once");
    assert_eq!(next(&mut answers).await, None);
    drop(far);
}
