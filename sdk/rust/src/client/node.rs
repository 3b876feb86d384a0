//! One node and the connections to it. A connection is made when it is first needed and again after it broke; a call
//! that found none to be made was not sent, which is a definite failure.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::clock::Moment;
use super::error::{Certainty, Failed, codes};
use super::session::Session;
use super::{Settings, Transport};
use crate::proto::v1;
use crate::proto::v1::reservations_client::ReservationsClient;
use crate::proto::v1::session_answer::Answer;
use crate::proto::v1::session_call::Call;

/// Bytes of the largest answer: a record with its envelope, and a session's frame beside it.
const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;
/// Bytes that a node may send ahead on one stream: the largest body needs no round trip.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Bytes that a node may send ahead on one connection.
const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// How often an idle connection is asked whether it still lives, and how long it has to answer: a node that lost its power
/// is noticed before a call finds out.
const PING_PERIOD: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Calls of their own that wait for one connection.
const BUFFERED_CALLS: usize = 1_024;

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    address: String,
    endpoint: Endpoint,
    transport: Transport,
    lines: Vec<Line>,
    next: AtomicUsize,
}

/// One connection, or the place for it.
#[derive(Debug, Default)]
struct Line {
    open: Mutex<Option<Connection>>,
    /// Held by whoever connects, so that the others wait for it.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Connection {
    client: ReservationsClient<Channel>,
    /// Nothing: each call goes alone.
    session: Option<Session>,
}

impl Node {
    /// A node that is not connected yet. `address` is `http://HOST:PORT`.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub(super) fn new(address: &str, settings: &Settings) -> Result<Self, String> {
        let wrong = |why: &dyn std::fmt::Display| format!("{address:?} is no address of a node ({why})");
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|error| wrong(&error))?;
        if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().authority().is_none() {
            return Err(wrong(&"write http://HOST:PORT"));
        }
        let endpoint = endpoint
            .connect_timeout(settings.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(PING_PERIOD)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .buffer_size(BUFFERED_CALLS);
        let lines = (0..settings.connections.max(1)).map(|_| Line::default()).collect();
        let transport = settings.transport;
        Ok(Self { address: address.to_owned(), endpoint, transport, lines, next: AtomicUsize::new(0) })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Sends a call and waits for its answer, for at most `limit`, connecting first where it has to.
    pub(super) async fn call(&self, call: Call, limit: Duration) -> Result<Answer, Failed> {
        let line = self.line()?;
        let (connection, limit) = self.connection(line, limit).await?;
        if let Some(session) = connection.session {
            return session.call(call, limit).await;
        }
        let answered = in_time(limit, unary(connection.client, call)).await;
        if answered.as_ref().is_err_and(|failed| failed.code == codes::CONNECTION_LOST) {
            line.close();
        }
        answered
    }

    /// Asks for the nodes of the region and who leads, within `limit`.
    pub(super) async fn topology(&self, limit: Duration) -> Result<v1::TopologyResponse, Failed> {
        let (connection, limit) = self.connection(self.line()?, limit).await?;
        let mut client = connection.client;
        in_time(limit, async {
            match client.topology(v1::TopologyRequest {}).await {
                Ok(answer) => Ok(answer.into_inner()),
                // A node that cannot tell serves all the same.
                Err(status) if status.code() == tonic::Code::Unimplemented => Ok(v1::TopologyResponse::default()),
                Err(status) => Err(Failed::of_status(&status)),
            }
        })
        .await
    }

    fn line(&self) -> Result<&Line, Failed> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let index = turn.checked_rem(self.lines.len()).unwrap_or_default();
        self.lines.get(index).ok_or_else(|| unreachable(format!("{} has no connection", self.address)))
    }

    /// A connection, and what is left of `limit`.
    async fn connection(&self, line: &Line, limit: Duration) -> Result<(Connection, Duration), Failed> {
        if let Some(connection) = line.usable() {
            return Ok((connection, limit));
        }
        let begun = Moment::now();
        let connection = tokio::time::timeout(limit, self.connect(line)).await.map_err(|_| {
            unreachable(format!("cannot reach a node at {} (no answer in {} ms)", self.address, limit.as_millis()))
        })??;
        Ok((connection, limit.saturating_sub(Moment::now().since(begun))))
    }

    async fn connect(&self, line: &Line) -> Result<Connection, Failed> {
        let _turn = line.connecting.lock().await;
        if let Some(connection) = line.usable() {
            return Ok(connection);
        }
        let channel = self.endpoint.connect().await.map_err(|error| unconnected(&self.address, &error))?;
        let client = ReservationsClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let session = match self.transport {
            Transport::Unary => None,
            Transport::Session => Some(Session::open(client.clone()).await?),
        };
        let connection = Connection { client, session };
        *line.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
        Ok(connection)
    }
}

impl Line {
    fn usable(&self) -> Option<Connection> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = open.as_ref()?.session.as_ref().is_some_and(Session::is_over);
        if broken {
            *open = None;
        }
        open.clone()
    }

    fn close(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

async fn unary(mut client: ReservationsClient<Channel>, call: Call) -> Result<Answer, Failed> {
    let answered = match call {
        Call::Reserve(request) => client.reserve(request).await.map(|answer| Answer::Reserve(answer.into_inner())),
        Call::Complete(request) => client.complete(request).await.map(|answer| Answer::Complete(answer.into_inner())),
        Call::Release(request) => client.release(request).await.map(|answer| Answer::Release(answer.into_inner())),
        Call::Extend(request) => client.extend(request).await.map(|answer| Answer::Extend(answer.into_inner())),
        Call::Checkpoint(request) => {
            client.checkpoint(request).await.map(|answer| Answer::Checkpoint(answer.into_inner()))
        }
        Call::Lookup(request) => client.lookup(request).await.map(|answer| Answer::Lookup(answer.into_inner())),
        Call::Claim(request) => client.claim(request).await.map(|answer| Answer::Claim(answer.into_inner())),
        Call::Resolve(request) => client.resolve(request).await.map(|answer| Answer::Resolve(answer.into_inner())),
    };
    answered.map_err(|status| Failed::of_status(&status))
}

/// Waits for an answer to what was sent.
async fn in_time<T>(limit: Duration, answer: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answered) => answered,
        Err(_) => {
            let message = format!("no answer within {} ms", limit.as_millis());
            Err(Failed::on_the_way(codes::DEADLINE, Certainty::Indefinite, message))
        }
    }
}

fn unconnected(address: &str, error: &tonic::transport::Error) -> Failed {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    unreachable(format!("cannot reach a node at {address} ({cause})"))
}

fn unreachable(message: String) -> Failed {
    Failed::on_the_way(codes::UNREACHABLE, Certainty::Definite, message)
}
