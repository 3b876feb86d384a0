//! Bodies on their way: one that may not be silent for too long, and one that comes back if nobody has begun to send it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Collected, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::route::InFlight;

/// Why a body ends before its end.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A client's.
pub(super) type ClientBody = Timed<Incoming>;
/// Any.
pub(super) type AnyBody = UnsyncBoxBody<Bytes, BoxError>;

/// Nothing came of a body for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing of the body came for {idle:?}")]
struct Idle {
    idle: Duration,
}

/// A body that breaks off when nothing of it comes for a while.
#[derive(Debug)]
pub(super) struct Timed<B> {
    body: B,
    idle: Option<Duration>,
    waiting: Option<Pin<Box<Sleep>>>,
    /// Goes with the body.
    _place: Option<InFlight>,
}

impl<B> Timed<B> {
    /// Without a time it may be silent for ever. `place` is held until the body is over.
    pub(super) fn new(body: B, idle: Option<Duration>, place: Option<InFlight>) -> Self {
        Self { body, idle, waiting: None, _place: place }
    }
}

impl<B> Body for Timed<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.waiting = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let Some(idle) = this.idle else { return Poll::Pending };
        let waiting = this.waiting.get_or_insert_with(|| Box::pin(sleep(idle)));
        waiting.as_mut().poll(context).map(|()| Some(Err(Idle { idle }.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request's body, for as many tries as it is good for.
pub(super) enum Load<B> {
    /// It is sent as it comes, once somebody has begun to.
    Streamed(Arc<Mutex<Option<B>>>, SizeHint, bool),
    /// It is here, with its trailers.
    Held(Bytes, Option<HeaderMap>),
}

impl<B> Load<B>
where
    B: Body<Data = Bytes, Error = BoxError> + Unpin + Send + 'static,
{
    pub(super) fn held(body: Collected<Bytes>) -> Self {
        let trailers = body.trailers().cloned();
        Self::Held(body.to_bytes(), trailers)
    }

    pub(super) fn streamed(body: B) -> Self {
        let (hint, is_over) = (body.size_hint(), body.is_end_stream());
        Self::Streamed(Arc::new(Mutex::new(Some(body))), hint, is_over)
    }

    /// The body of one try.
    pub(super) fn lend(&self) -> AnyBody {
        match self {
            Self::Streamed(slot, hint, is_over) => {
                let lent = Lent { slot: Arc::clone(slot), body: None, hint: *hint, is_over: *is_over };
                lent.boxed_unsync()
            }
            Self::Held(held, None) => Full::new(held.clone()).map_err(|never| match never {}).boxed_unsync(),
            // Without a length: what has one has no trailers in HTTP/1.1.
            Self::Held(held, Some(trailers)) => {
                let frames = [Frame::data(held.clone()), Frame::trailers(trailers.clone())];
                StreamBody::new(futures_util::stream::iter(frames.map(Ok))).boxed_unsync()
            }
        }
    }

    /// Whether there may be another try: nothing of it has been taken.
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Self::Streamed(slot, ..) => slot.lock().unwrap_or_else(PoisonError::into_inner).is_some(),
            Self::Held(..) => true,
        }
    }

    /// Whether all of it is here.
    pub(super) fn is_held(&self) -> bool {
        match self {
            Self::Streamed(..) => false,
            Self::Held(..) => true,
        }
    }
}

/// A body that is taken when somebody begins to send it.
struct Lent<B> {
    slot: Arc<Mutex<Option<B>>>,
    body: Option<B>,
    hint: SizeHint,
    is_over: bool,
}

impl<B> Body for Lent<B>
where
    B: Body<Data = Bytes, Error = BoxError> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.body.is_none() {
            this.body = this.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        match &mut this.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().map_or(self.is_over, Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(self.hint, Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &'static str) -> AnyBody {
        Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync()
    }

    #[tokio::test]
    async fn what_nobody_began_to_send_is_lent_again() {
        let load = Load::streamed(body("abc"));
        let lent = load.lend();
        assert_eq!((lent.size_hint().exact(), lent.is_end_stream()), (Some(3), false));
        drop(lent);
        assert!(load.is_whole() && !load.is_held());
        let read = load.lend().collect().await.expect("a body").to_bytes();
        assert_eq!(&read[..], b"abc");
        assert!(!load.is_whole(), "it is gone");
        assert!(Load::streamed(body("")).lend().is_end_stream());
    }

    #[tokio::test]
    async fn what_is_here_is_lent_as_often_as_it_takes_with_its_trailers() {
        let trailers = HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("7"))]);
        let with_trailers = body("abc").with_trailers(std::future::ready(Some(Ok(trailers.clone()))));
        let load: Load<AnyBody> = Load::held(with_trailers.collect().await.expect("a body"));
        for _ in 0..2 {
            assert_eq!(load.lend().size_hint().exact(), None, "with a length the trailers would be left out");
            let read = load.lend().collect().await.expect("a body");
            assert_eq!(read.trailers(), Some(&trailers));
            assert_eq!(&read.to_bytes()[..], b"abc");
        }
        assert!(load.is_whole() && load.is_held());
    }

    #[tokio::test]
    async fn a_body_may_not_be_silent_for_too_long() {
        let silent = || StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>());
        let error = Timed::new(silent(), Some(Duration::from_millis(7)), None).collect().await.err();
        assert_eq!(error.map(|error| error.to_string()), Some("nothing of the body came for 7ms".to_owned()));
        let mut unlimited = Timed::new(silent(), None, None);
        let polled = std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut unlimited).poll_frame(context))).await;
        assert!(polled.is_pending() && unlimited.waiting.is_none(), "nothing would end it");
    }
}
