//! Sessions: many calls on one stream. `codec` takes messages apart, `drive` runs the calls, `outbox` holds the answers
//! that the connection has not taken yet.
//!
//! What a session may hold is bounded in calls and in bytes, in both directions; beyond it the node stops reading, and
//! HTTP/2's flow control stops the client. When its client is gone, calls in flight run to their end.

mod codec;
mod drive;
mod outbox;

use std::convert::Infallible;
use std::future::Ready;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Request as HttpRequest;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tonic::codegen::BoxFuture;
use tonic::server::{Grpc, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use self::codec::{Calls, SessionCodec};
use self::drive::Session;
use self::outbox::{Answers, Outbox};
use super::body::{Messages, RequestBody};
use super::error::ApiError;
use super::grpc::Services;
use crate::limits;
use crate::region::calls::{Certainty, Failure};

/// When to ask again when there are too many sessions, or the node shuts down.
const RETRY: Duration = Duration::from_secs(1);

/// The sessions of a node. A clone is the same.
#[derive(Clone)]
pub(super) struct Sessions {
    services: Services,
    /// True when the node shuts down.
    closing: watch::Receiver<bool>,
    tasks: Arc<Mutex<JoinSet<()>>>,
    places: Arc<Semaphore>,
}

impl Sessions {
    pub(super) fn new(services: Services, closing: watch::Receiver<bool>) -> Self {
        let places = Arc::new(Semaphore::new(limits::MAX_SESSIONS));
        Self { services, closing, tasks: Arc::default(), places }
    }

    /// Opens a session. `messages` is told of every message that was read.
    pub(super) fn open(
        &self,
        request: HttpRequest<RequestBody>,
        messages: Messages,
    ) -> BoxFuture<http::Response<tonic::body::Body>, Infallible> {
        let opening = Opening { sessions: self.clone(), messages };
        Box::pin(async move {
            let mut grpc = Grpc::new(SessionCodec).max_decoding_message_size(limits::MAX_GRPC_MESSAGE_BYTES);
            Ok(grpc.streaming(opening, request).await)
        })
    }

    /// Waits until every session has ended, and ends those that have not by then. No new one may be opened meanwhile.
    pub(super) async fn drain(self, patience: Duration) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let all_ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, all_ended).await.is_err() {
            tracing::warn!(open = tasks.len(), "ending sessions whose calls did not end in time");
            tasks.shutdown().await;
        }
    }

    fn start(&self, incoming: Streaming<Calls>, messages: Messages) -> Result<Answers, ApiError> {
        if *self.closing.borrow() {
            return Err(ApiError::from(Failure::Unavailable {
                certainty: Certainty::Definite,
                reason: "the node shuts down: open the session at another one".to_owned(),
                retry_after: RETRY,
            }));
        }
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| ApiError::from(Failure::Overloaded { retry_after: RETRY }))?;
        let (outbox, answers) = Outbox::new();
        answers.greet();
        let running = Session::new(self.services.clone(), incoming, messages, outbox).run(self.closing.clone());
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "a session's task panicked");
            }
        }
        tasks.spawn(async move {
            running.await;
            drop(place);
        });
        Ok(answers)
    }
}

/// A session that is being opened.
struct Opening {
    sessions: Sessions,
    messages: Messages,
}

impl StreamingService<Calls> for Opening {
    type Response = bytes::BytesMut;
    type ResponseStream = Answers;
    type Future = Ready<Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<Streaming<Calls>>) -> Self::Future {
        let answers = self.sessions.start(request.into_inner(), self.messages.clone());
        std::future::ready(answers.map(Response::new).map_err(Status::from))
    }
}
