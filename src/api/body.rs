//! Request bodies, with a time to arrive in and a bound on what all unfinished ones hold together.
//!
//! A body that is slow or one too many ends with an error that both halves of the API understand: its source is the gRPC
//! status, and [`refusal`] finds what it means for HTTP.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::error::ApiError;
use crate::limits;
use crate::telemetry::metrics;

/// Bytes of unfinished bodies that the node holds: a few hundred of the largest, so that slow senders cannot fill memory.
const MAX_HELD_BYTES: usize = 256 * 1024 * 1024;

/// How many messages of an endless body were read whole. A clone is the same count.
#[derive(Clone, Debug, Default)]
pub(super) struct Messages(Arc<AtomicUsize>);

impl Messages {
    /// One more was read whole.
    pub(super) fn arrived(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many bytes of unfinished bodies are held now.
#[derive(Clone, Debug, Default)]
pub(super) struct Held(Arc<AtomicUsize>);

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// The node refuses to read on.
    #[error("{refusal}")]
    Refused {
        /// Why.
        refusal: ApiError,
        /// The same for gRPC, which looks for it among the sources.
        #[source]
        status: Status,
    },
    /// The connection broke, or the frame is malformed.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// A request's body on its way in.
#[derive(Debug)]
pub(super) struct RequestBody {
    incoming: Incoming,
    /// Made when the body is first waited for: most are there with the head.
    deadline: Option<Pin<Box<Sleep>>>,
    held: Held,
    bytes: usize,
    /// Of a body without an end: the messages, and how many of them were read when this last looked.
    endless: Option<(Messages, usize)>,
}

impl RequestBody {
    /// A body of one message.
    pub(super) fn new(incoming: Incoming, held: Held) -> Self {
        Self { incoming, deadline: None, held, bytes: 0, endless: None }
    }

    /// A body of many messages, each with its own time to arrive in. Between two of them it may wait for ever.
    pub(super) fn endless(incoming: Incoming, held: Held, messages: Messages) -> Self {
        Self { incoming, deadline: None, held, bytes: 0, endless: Some((messages, 0)) }
    }

    /// Lets go of messages that were read whole: what is held is the beginning of the next at the most.
    fn let_go(&mut self) {
        let Some((messages, seen)) = &mut self.endless else { return };
        let count = messages.count();
        if count == *seen {
            return;
        }
        *seen = count;
        self.deadline = None;
        self.held.0.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
    }

    fn waits_in_vain(&mut self, context: &mut Context<'_>) -> bool {
        if self.endless.is_some() && self.bytes == 0 {
            return false;
        }
        let timeout = Duration::from_millis(limits::BODY_TIMEOUT_MS);
        self.deadline.get_or_insert_with(|| Box::pin(sleep(timeout))).as_mut().poll(context).is_ready()
    }

    /// Counts bytes in; false when there are too many.
    fn admit(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        self.held.0.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= MAX_HELD_BYTES
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.held.0.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        this.let_go();
        match Pin::new(&mut this.incoming).poll_frame(context) {
            Poll::Pending if this.waits_in_vain(context) => Poll::Ready(Some(Err(ApiError::BodyTimeout.into()))),
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(Some(Ok(frame))) => {
                if this.admit(frame.data_ref().map_or(0, Bytes::len)) {
                    Poll::Ready(Some(Ok(frame)))
                } else {
                    metrics::overloaded(metrics::Overload::Messages);
                    Poll::Ready(Some(Err(ApiError::Reading.into())))
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl From<ApiError> for BodyError {
    fn from(refusal: ApiError) -> Self {
        let status = refusal.to_status();
        Self::Refused { refusal, status }
    }
}

/// What the end of a body means, wherever among an error's sources it stands.
pub(super) fn refusal(error: &(dyn Error + 'static)) -> ApiError {
    let mut source = Some(error);
    while let Some(at) = source {
        if let Some(BodyError::Refused { refusal, .. }) = at.downcast_ref::<BodyError>() {
            return refusal.clone();
        }
        source = at.source();
    }
    ApiError::Body(format!("the message ended early: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::error::Code;

    #[test]
    fn both_halves_of_the_api_find_why_a_body_was_refused() {
        let status = Status::from_error(Box::new(BodyError::from(ApiError::BodyTimeout)));
        assert_eq!(status.code(), tonic::Code::Unavailable);
        let wrapped = axum::Error::new(BodyError::from(ApiError::Reading));
        assert_eq!(refusal(&wrapped).code(), Code::Overloaded);
        assert_eq!(refusal(&std::io::Error::other("reset")).code(), Code::BodyInvalid);
    }
}
