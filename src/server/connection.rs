//! Connections, from being accepted to being closed. Every task here has an owner: the set of connections owns one a
//! connection, and a connection owns those of its streams.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::rt::Executor;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::socket::Socket;
use crate::clock::{Monotonic, monotonic};
use crate::limits;

/// How often the log says that connections are refused or cannot be accepted, at most.
const LOG_WINDOW: Duration = Duration::from_secs(10);

/// How long to wait when the system has no socket to give, such as for want of file descriptors: until some are closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bytes of one HTTP/2 frame: fewer frames for large bodies, and still room for small ones between two.
const FRAME_BYTES: u32 = 64 * 1024;

/// What connections of one kind may use.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at a time.
    pub connections: usize,
    /// Streams at a time on one of them.
    pub streams: u32,
    /// Bytes that the other side may send ahead on one stream.
    pub stream_window: u32,
    /// Bytes that it may send ahead on one connection.
    pub connection_window: u32,
    /// How often it is asked whether it still lives.
    pub ping_period: Duration,
    /// How long it has to answer.
    pub ping_timeout: Duration,
}

impl Bounds {
    /// Clients, at most so many connections of them.
    #[must_use]
    pub const fn of_clients(connections: usize) -> Self {
        Self {
            connections,
            streams: limits::MAX_STREAMS_PER_CONNECTION,
            // A body of the default largest size needs no round trip.
            stream_window: 512 * 1024,
            connection_window: 2 * 1024 * 1024,
            ping_period: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(20),
        }
    }
}

/// Accepts connections until the shutdown begins, and returns those that are still open, each told to end. `service` makes what
/// serves a connection, by the address of the other side. A service may upgrade an HTTP/1.1 connection: it owns it then.
pub async fn accept<S, B>(
    listener: TcpListener,
    service: impl Fn(SocketAddr) -> S,
    bounds: Bounds,
    shutdown: &mut watch::Receiver<bool>,
) -> JoinSet<()>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut refused = Repeated::default();
    let mut failed = Repeated::default();
    loop {
        let accepted = tokio::select! {
            () = stopping(shutdown) => return connections,
            Some(ended) = connections.join_next() => {
                report_panic(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) if connections.len() >= bounds.connections => {
                drop(stream);
                if let Some(count) = refused.count() {
                    tracing::warn!(count, most = bounds.connections, %peer, "refusing connections: as many are open as are allowed");
                }
            }
            Ok((stream, peer)) => {
                connections.spawn(serve(stream, service(peer), bounds, shutdown.clone()));
            }
            Err(error) if is_of_the_peer(&error) => tracing::debug!(%error, "connection ended before it began"),
            Err(error) => {
                if let Some(count) = failed.count() {
                    tracing::warn!(count, %error, open = connections.len(), "connections cannot be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits for the connections to end, and closes those that have not by then.
pub async fn drain(connections: &mut JoinSet<()>, patience: Duration) {
    let all_ended = async {
        while let Some(ended) = connections.join_next().await {
            report_panic(ended);
        }
    };
    if tokio::time::timeout(patience, all_ended).await.is_err() {
        tracing::warn!(open = connections.len(), "closing connections whose requests did not end in time");
        connections.shutdown().await;
    }
}

/// Serves one connection to its end.
async fn serve<S, B>(stream: TcpStream, service: S, bounds: Bounds, mut shutdown: watch::Receiver<bool>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "small answers may be delayed");
    }
    let streams = Streams::default();
    let builder = builder(streams.executor(), bounds);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(Socket::new(stream)), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = stopping(&mut shutdown) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "connection ended with an error");
    }
}

fn builder(executor: StreamExecutor, bounds: Bounds) -> auto::Builder<StreamExecutor> {
    let mut builder = auto::Builder::new(executor);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits::HEAD_TIMEOUT_MS))
        .max_buf_size(limits::MAX_REQUEST_HEAD_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(bounds.streams)
        .max_header_list_size(limits::MAX_REQUEST_HEAD_BYTES)
        .initial_stream_window_size(bounds.stream_window)
        .initial_connection_window_size(bounds.connection_window)
        .max_frame_size(FRAME_BYTES)
        .keep_alive_interval(bounds.ping_period)
        .keep_alive_timeout(bounds.ping_timeout);
    builder
}

/// The tasks of one connection's streams. They end with it.
#[derive(Debug, Default)]
struct Streams(Arc<Mutex<JoinSet<()>>>);

/// Starts a stream's task. It does not own the set: a task that owned the set it is in would never go.
#[derive(Clone, Debug)]
struct StreamExecutor(Weak<Mutex<JoinSet<()>>>);

impl Streams {
    fn executor(&self) -> StreamExecutor {
        StreamExecutor(Arc::downgrade(&self.0))
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let Some(streams) = self.0.upgrade() else { return };
        let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = streams.try_join_next() {
            report_panic(ended);
        }
        streams.spawn(stream);
    }
}

/// Returns when the shutdown begins, or nobody can begin it any more.
async fn stopping(shutdown: &mut watch::Receiver<bool>) {
    // An error says that the sender is gone, which is a shutdown too.
    let _begun = shutdown.wait_for(|begun| *begun).await;
}

fn report_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a request's task panicked");
    }
}

/// Errors of one connection, which say nothing about the next.
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Something that may happen often, and is logged at most once in a window.
#[derive(Debug, Default)]
struct Repeated {
    count: u64,
    logged: Option<Monotonic>,
}

impl Repeated {
    /// Counts one more. How many there were since the last time, when it is time to log them.
    fn count(&mut self) -> Option<u64> {
        self.count = self.count.saturating_add(1);
        let now = monotonic();
        if self.logged.is_some_and(|logged| now.since(logged) < LOG_WINDOW) {
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_is_logged_once_in_a_window() {
        let mut repeated = Repeated::default();
        assert_eq!(repeated.count(), Some(1));
        assert_eq!(repeated.count(), None);
        assert_eq!(repeated.count(), None);
        repeated.logged = None;
        assert_eq!(repeated.count(), Some(3));
    }

    #[tokio::test]
    async fn a_streams_task_ends_with_its_connection() {
        let streams = Streams::default();
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        streams.executor().execute(async move {
            let _kept = sender;
            std::future::pending::<()>().await;
        });
        drop(streams);
        assert!(receiver.await.is_err(), "the task was dropped, and what it owned with it");
    }
}
