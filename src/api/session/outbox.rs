//! Answers on their way to a client: the session puts frames in, the connection takes them out when it may send.
//!
//! It does not bound itself: whoever fills it looks first how much is in it, and is woken when that has become less.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use futures_util::Stream;
use tonic::Status;

use super::codec::Frames;
use crate::limits;

/// The session's end of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox(Arc<Mutex<Inside>>);

/// The connection's end: the frames in order, then how the session ended.
#[derive(Debug)]
pub(super) struct Answers(Outbox);

#[derive(Debug, Default)]
struct Inside {
    frames: VecDeque<BytesMut>,
    bytes: usize,
    ended: bool,
    /// Said after the last frame.
    failed: Option<Status>,
    /// Nobody takes frames any more.
    gone: bool,
    /// Who takes frames.
    taker: Option<Waker>,
    /// Who puts them in.
    putter: Option<Waker>,
}

/// What the session finds when it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Bytes that wait to be taken.
    pub(super) bytes: usize,
    /// Nobody will take them.
    pub(super) gone: bool,
}

impl Outbox {
    /// An outbox and the end that the client's answers come out of.
    pub(super) fn new() -> (Self, Answers) {
        let outbox = Self::default();
        (outbox.clone(), Answers(outbox))
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks, and has the task woken when there is less in it or nobody takes any more.
    pub(super) fn look(&self, context: &Context<'_>) -> Look {
        let mut inside = self.inside();
        match &mut inside.putter {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Look { bytes: inside.bytes, gone: inside.gone }
    }

    /// Puts frames in. Those that nobody will take are dropped.
    pub(super) fn put(&self, frames: impl Iterator<Item = BytesMut>) {
        let mut frames = frames.peekable();
        if frames.peek().is_none() {
            return;
        }
        let mut inside = self.inside();
        if inside.gone {
            return;
        }
        for frame in frames {
            inside.bytes = inside.bytes.saturating_add(frame.len());
            match inside.frames.back_mut() {
                Some(last) if last.len().saturating_add(frame.len()) <= limits::SESSION_FRAME_BYTES => {
                    last.extend_from_slice(&frame);
                }
                Some(_) | None => inside.frames.push_back(frame),
            }
        }
        let taker = inside.taker.take();
        drop(inside);
        wake(taker);
    }

    /// Says that no more frames come, and why if it is for a failure.
    pub(super) fn end(&self, failed: Option<Status>) {
        let mut inside = self.inside();
        inside.ended = true;
        inside.failed = failed;
        let taker = inside.taker.take();
        drop(inside);
        wake(taker);
    }
}

impl Answers {
    /// Puts the session's first message in.
    pub(super) fn greet(&self) {
        self.0.put(Frames::greeting().take());
    }
}

impl Stream for Answers {
    type Item = Result<BytesMut, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut inside = self.0.inside();
        if let Some(frame) = inside.frames.pop_front() {
            let full = inside.bytes >= limits::SESSION_UNSENT_BYTES;
            inside.bytes = inside.bytes.saturating_sub(frame.len());
            let putter = if full { inside.putter.take() } else { None };
            drop(inside);
            wake(putter);
            return Poll::Ready(Some(Ok(frame)));
        }
        if inside.ended {
            return Poll::Ready(inside.failed.take().map(Err));
        }
        inside.taker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        let mut inside = self.0.inside();
        inside.gone = true;
        inside.frames.clear();
        inside.bytes = 0;
        let putter = inside.putter.take();
        drop(inside);
        wake(putter);
    }
}

/// Wakes outside of the lock, so that whoever is woken does not wait for it.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use futures_util::StreamExt as _;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Wakes {
        fn count(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn frame(bytes: usize) -> std::iter::Once<BytesMut> {
        std::iter::once(BytesMut::from(vec![7; bytes].as_slice()))
    }

    #[test]
    fn whoever_found_it_full_is_woken_when_there_is_less_in_it() {
        let (outbox, mut answers) = Outbox::new();
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut context = Context::from_waker(&waker);
        outbox.put(frame(10));
        assert_eq!(outbox.look(&context), Look { bytes: 10, gone: false });
        assert!(answers.poll_next_unpin(&mut context).is_ready());
        assert_eq!(wakes.count(), 0, "there was room all the time");
        for _ in 0..2 {
            outbox.put(frame(limits::SESSION_UNSENT_BYTES));
        }
        assert!(outbox.look(&context).bytes > limits::SESSION_UNSENT_BYTES);
        for woken in 1..=2 {
            assert!(answers.poll_next_unpin(&mut context).is_ready());
            assert_eq!(wakes.count(), woken);
            assert_eq!(outbox.look(&context).bytes, limits::SESSION_UNSENT_BYTES * (2 - woken));
        }
        assert!(answers.poll_next_unpin(&mut context).is_pending());
        outbox.put(frame(1));
        assert_eq!(wakes.count(), 3, "who takes is woken by what is put in");
        drop(answers);
        assert_eq!((wakes.count(), outbox.look(&context)), (4, Look { bytes: 0, gone: true }));
        outbox.put(frame(1));
        assert_eq!(outbox.look(&context).bytes, 0, "nobody takes it");
    }

    #[test]
    fn small_frames_that_wait_go_together_and_the_end_comes_last() {
        let (outbox, mut answers) = Outbox::new();
        let mut context = Context::from_waker(Waker::noop());
        let half = limits::SESSION_FRAME_BYTES / 2;
        for _ in 0..3 {
            outbox.put(frame(half));
        }
        outbox.end(Some(Status::internal("broken")));
        let mut lengths = Vec::new();
        while let Poll::Ready(Some(Ok(frame))) = answers.poll_next_unpin(&mut context) {
            lengths.push(frame.len());
        }
        assert_eq!(lengths, [2 * half, half]);
        assert!(matches!(answers.poll_next_unpin(&mut context), Poll::Ready(None)), "the failure was said once");
    }
}
