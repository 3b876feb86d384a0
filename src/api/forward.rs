//! The calls that another node passes on, on one stream: served many at a time, answered in whatever order they are done,
//! those that are done together in one message. While as many are served as may be, nothing more is read.

#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::task::JoinSet;
use tonic::Status;

use super::answer;
use crate::clock;
use crate::limits;
use crate::region::Region;
use crate::wire::v1::{ForwardAnswer, ForwardReply, ForwardRequest};

/// Bytes of an answer that has no envelope, roughly.
const FRAME_BYTES: usize = 256;

/// Answers the calls of a stream, by this node's part of the region. Ends with the last answer once `requests` has ended.
pub(super) fn answer_forwarded<S>(
    region: Arc<Region>,
    requests: S,
) -> impl Stream<Item = Result<ForwardReply, Status>> + Send
where
    S: Stream<Item = Result<ForwardRequest, Status>> + Send + Unpin,
{
    Answering { region, requests: Some(requests), serving: JoinSet::new() }
}

struct Answering<S> {
    region: Arc<Region>,
    /// Gone once it has ended.
    requests: Option<S>,
    /// Ends with the stream: whoever sent the calls hears nothing of them any more.
    serving: JoinSet<ForwardAnswer>,
}

impl<S: Stream<Item = Result<ForwardRequest, Status>> + Unpin> Answering<S> {
    fn read(&mut self, context: &mut Context<'_>) {
        while self.serving.len() < limits::MAX_FORWARDED_CALLS {
            let Some(requests) = &mut self.requests else { return };
            match Pin::new(requests).poll_next(context) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(request))) => {
                    let received = clock::monotonic();
                    for call in request.calls {
                        let region = Arc::clone(&self.region);
                        self.serving.spawn(async move { answer::answer_forwarded(&region, call, received).await });
                    }
                }
                // A stream that broke brings nothing more, like one that ended.
                Poll::Ready(None | Some(Err(_))) => self.requests = None,
            }
        }
    }

    /// The answers that are there.
    fn done(&mut self, context: &mut Context<'_>) -> Result<Vec<ForwardAnswer>, Status> {
        let (mut answers, mut bytes) = (Vec::new(), 0_usize);
        while answers.len() < limits::MAX_FORWARDED_TOGETHER && bytes < limits::MAX_FORWARDED_BYTES {
            match self.serving.poll_join_next(context) {
                Poll::Pending | Poll::Ready(None) => break,
                Poll::Ready(Some(Ok(answer))) => {
                    bytes = bytes.saturating_add(answer_bytes(&answer));
                    answers.push(answer);
                }
                Poll::Ready(Some(Err(error))) => {
                    // Its caller would wait in vain: the stream ends, and all on it are told that it is not known.
                    tracing::error!(%error, "a call's task panicked");
                    return Err(Status::internal("a call could not be served"));
                }
            }
        }
        Ok(answers)
    }
}

impl<S: Stream<Item = Result<ForwardRequest, Status>> + Unpin> Stream for Answering<S> {
    type Item = Result<ForwardReply, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.read(context);
        let answers = match this.done(context) {
            Ok(answers) => answers,
            Err(status) => return Poll::Ready(Some(Err(status))),
        };
        if !answers.is_empty() {
            return Poll::Ready(Some(Ok(ForwardReply { answers })));
        }
        if this.requests.is_none() && this.serving.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

fn answer_bytes(answer: &ForwardAnswer) -> usize {
    use holdfast_client::proto::v1::reserve_response::Outcome;
    use holdfast_client::proto::v1::session_answer::Answer;
    let body = match answer.answer.as_ref().and_then(|answer| answer.answer.as_ref()) {
        Some(Answer::Reserve(reserve)) => match &reserve.outcome {
            Some(Outcome::Replay(replay)) => replay.envelope.as_ref().map_or(0, |envelope| envelope.body.len()),
            Some(_) | None => 0,
        },
        Some(Answer::Lookup(lookup)) => {
            let envelope = lookup.record.as_ref().and_then(|record| record.envelope.as_ref());
            envelope.map_or(0, |envelope| envelope.body.len())
        }
        Some(_) | None => 0,
    };
    body.saturating_add(FRAME_BYTES)
}
