//! A client's socket, with a time to begin in and a time to take its answers in.
//!
//! The HTTP library counts how long a head takes once it knows which version of HTTP is spoken. Before that, and while a
//! client does not read what it asked for, nobody counts: this does.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use crate::limits;

/// What an HTTP/2 connection starts with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A TCP stream that does not wait for ever.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    /// Until it is clear which version of HTTP is spoken.
    opening: Option<Opening>,
    /// Running while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Opening {
    /// Bytes of the preface that have been seen.
    seen: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Opening {
    /// Whether it is clear now which version is spoken.
    fn is_over(&mut self, bytes: &[u8]) -> bool {
        let expected = PREFACE.get(self.seen..).unwrap_or_default();
        self.seen = self.seen.saturating_add(bytes.len());
        self.seen >= PREFACE.len() || !expected.starts_with(bytes)
    }
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        let deadline = Box::pin(sleep(Duration::from_millis(limits::HEAD_TIMEOUT_MS)));
        Self { stream, opening: Some(Opening { seen: 0, deadline }), stalled: None }
    }

    /// Passes a write's progress on, or the error of a client that takes nothing for too long.
    fn watched<T>(&mut self, context: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stalled = None;
            return progress;
        }
        let timeout = Duration::from_millis(limits::BODY_TIMEOUT_MS);
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take its answer")))
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let progress = Pin::new(&mut self.stream).poll_read(context, into);
        let Some(opening) = &mut self.opening else { return progress };
        if progress.is_pending() {
            ready!(opening.deadline.as_mut().poll(context));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not begin")));
        }
        if opening.is_over(into.filled().get(before..).unwrap_or_default()) {
            self.opening = None;
        }
        progress
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(context, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watched(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_over(pieces: &[&[u8]]) -> bool {
        let mut opening = Opening { seen: 0, deadline: Box::pin(sleep(Duration::ZERO)) };
        pieces.iter().any(|piece| opening.is_over(piece))
    }

    #[tokio::test]
    async fn the_opening_ends_with_the_preface_or_with_anything_else() {
        assert!(!is_over(&[]));
        assert!(!is_over(&[b"P"]), "POST or PRI");
        assert!(!is_over(&[b"PRI * HTTP", b"/2.0\r\n\r\nSM\r\n\r"]));
        assert!(is_over(&[b"PRI * HTTP", b"/2.0\r\n\r\nSM\r\n\r\n"]));
        assert!(is_over(&[PREFACE, b"more"]));
        assert!(is_over(&[b"P", b"OST /v1/reserve"]));
        assert!(is_over(&[b"GET / HTTP/1.1\r\n"]));
        assert!(is_over(&[b"\x16\x03\x01"]), "a TLS hello");
    }
}
