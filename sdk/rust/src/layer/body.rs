//! The body that the layer hands on, in both directions: what was held back of it, then the rest as it comes. A watch may look
//! at what passes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tonic::Code;

use crate::http::grpc;

/// A body that the layer has looked at. It has the bytes, the trailers and the errors of the one that it was made of.
pub struct LayerBody<B: Body> {
    first: Bytes,
    rest: Option<Pin<Box<B>>>,
    trailers: Option<HeaderMap>,
    error: Option<B::Error>,
    /// The error was held back once.
    paused: bool,
    watch: Option<Watch>,
}

/// What looks at a body that passes.
pub(super) enum Watch {
    /// Whether the request went on after what was compared, and whether it is over.
    Request(Arc<Passed>),
    /// How a response ended.
    Response(Box<Ending>),
    /// A copy of a request, up to so many bytes.
    Copy { kept: BytesMut, most: usize, copied: Option<oneshot::Sender<Copied>> },
}

/// What is known of a request that was handed on before its end.
#[derive(Debug, Default)]
pub(super) struct Passed {
    more: AtomicBool,
    over: AtomicBool,
}

/// A request that was copied while it passed.
#[derive(Debug)]
pub(super) struct Copied {
    pub(super) body: Bytes,
    /// It was longer.
    pub(super) cut: bool,
}

/// What is learned of a response while it passes, for who waits for its end.
pub(super) struct Ending {
    hash: Sha256,
    ended: Option<oneshot::Sender<Ended>>,
}

/// A response that was handed on to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) sha256: [u8; 32],
    /// The status of a gRPC call, if its trailers had one.
    pub(super) code: Option<Code>,
}

impl<B: Body> LayerBody<B> {
    /// A body as it comes.
    pub(super) fn passed(body: B) -> Self {
        Self::rest(Bytes::new(), Box::pin(body))
    }

    /// What was held back, then the rest as it comes.
    pub(super) fn rest(first: Bytes, rest: Pin<Box<B>>) -> Self {
        Self { first, rest: Some(rest), trailers: None, error: None, paused: false, watch: None }
    }

    /// A body that is here.
    pub(super) fn whole(first: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { first, rest: None, trailers, error: None, paused: false, watch: None }
    }

    /// A body that broke off after this.
    pub(super) fn broken(first: Bytes, error: B::Error) -> Self {
        Self { first, rest: None, trailers: None, error: Some(error), paused: false, watch: None }
    }

    pub(super) fn watched(mut self, watch: Watch) -> Self {
        self.watch = Some(watch);
        self
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) {
        if let Some(watch) = self.watch.take() {
            watch.end(trailers);
        }
    }

    fn is_over(&self) -> bool {
        let nothing_held = self.first.is_empty() && self.trailers.is_none() && self.error.is_none();
        nothing_held && self.rest.as_ref().is_none_or(|rest| rest.is_end_stream())
    }
}

/// Nothing in it is pinned but the rest, which has a box of its own.
impl<B: Body> Unpin for LayerBody<B> {}

impl<B: Body> Body for LayerBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if !this.first.is_empty() {
            let first = std::mem::take(&mut this.first);
            if let Some(watch) = &mut this.watch {
                watch.held(&first);
            }
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if this.error.is_some() && !this.paused {
            // What comes before it is written while nothing else is there to write: with the error at hand it would be dropped.
            this.paused = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(error) = this.error.take() {
            this.watch = None;
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(rest) = &mut this.rest {
            match ready!(rest.as_mut().poll_frame(context)) {
                Some(Ok(frame)) => {
                    let frame = frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
                    if let (Some(watch), Some(data)) = (&mut this.watch, frame.data_ref()) {
                        watch.data(data);
                    }
                    if let Some(trailers) = frame.trailers_ref() {
                        this.end(Some(trailers));
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(Err(error)) => {
                    (this.rest, this.watch) = (None, None);
                    return Poll::Ready(Some(Err(error)));
                }
                None => this.rest = None,
            }
        }
        let trailers = this.trailers.take();
        this.end(trailers.as_ref());
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        let first = u64::try_from(self.first.len()).unwrap_or(u64::MAX);
        let mut hint = SizeHint::new();
        let Some(rest) = &self.rest else {
            // Of one that broke off more was promised: were this its size, whoever sends it would take it for whole. And what has
            // a length has no trailers in HTTP/1.1: whoever sends it would leave them out.
            if self.error.is_some() || self.trailers.is_some() {
                hint.set_lower(first);
                return hint;
            }
            return SizeHint::with_exact(first);
        };
        let rest = rest.size_hint();
        hint.set_lower(rest.lower().saturating_add(first));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(first));
        }
        hint
    }
}

impl<B: Body> Drop for LayerBody<B> {
    fn drop(&mut self) {
        // Whoever sends a body does not ask again once it says that it is over.
        if self.is_over() {
            self.end(None);
        }
    }
}

impl<B: Body> std::fmt::Debug for LayerBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerBody").field("held", &self.first.len()).finish_non_exhaustive()
    }
}

impl Watch {
    pub(super) fn copy(most: usize) -> (Self, oneshot::Receiver<Copied>) {
        let (copied, copy) = oneshot::channel();
        (Self::Copy { kept: BytesMut::new(), most, copied: Some(copied) }, copy)
    }

    pub(super) fn response() -> (Self, oneshot::Receiver<Ended>) {
        let (ended, end) = oneshot::channel();
        (Self::Response(Box::new(Ending { hash: Sha256::new(), ended: Some(ended) })), end)
    }

    /// What was held back passes.
    fn held(&mut self, data: &Bytes) {
        match self {
            Self::Request(_) => {}
            Self::Response(_) | Self::Copy { .. } => self.data(data),
        }
    }

    fn data(&mut self, data: &Bytes) {
        match self {
            Self::Request(passed) => {
                passed.more.fetch_or(!data.is_empty(), Ordering::AcqRel);
            }
            Self::Response(ending) => ending.hash.update(data),
            Self::Copy { kept, most, copied } => {
                let room = most.saturating_sub(kept.len()).min(data.len());
                kept.extend_from_slice(data.get(..room).unwrap_or_default());
                // Nobody needs to see the rest.
                if room < data.len()
                    && let Some(copied) = copied.take()
                {
                    let _gone = copied.send(Copied { body: std::mem::take(kept).freeze(), cut: true });
                }
            }
        }
    }

    fn end(self, trailers: Option<&HeaderMap>) {
        match self {
            Self::Request(passed) => passed.over.store(true, Ordering::Release),
            Self::Response(ending) => {
                let Ending { hash, ended } = *ending;
                let ended_as = Ended { sha256: hash.finalize().into(), code: trailers.and_then(grpc::status) };
                let _gone = ended.map(|ended| ended.send(ended_as));
            }
            Self::Copy { kept, copied, .. } => {
                let _gone = copied.map(|copied| copied.send(Copied { body: kept.freeze(), cut: false }));
            }
        }
    }
}

impl Passed {
    /// Whether the request went on after what was compared.
    pub(super) fn went_on(&self) -> bool {
        self.more.load(Ordering::Acquire)
    }

    /// Whether the request has been read to its end.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// It was longer than what is held back when it was handed on.
    pub(super) fn longer(&self) {
        self.more.store(true, Ordering::Release);
    }
}
