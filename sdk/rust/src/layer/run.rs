//! A protected request from the store's answer to its end, in a task of its own: when its caller hangs up, what was begun goes on,
//! so that its outcome is recorded.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body::Body;
use tokio::sync::oneshot;
use tower_service::Service;

use super::body::{LayerBody, Passed};
use super::ending::Executed;
use super::keeping::kept;
use super::room::Taken;
use super::serve::Endpoint;
use super::{Execution, Verdict};
use crate::client::clock::Moment;
use crate::client::{Asked, Certainty, Error, Grant, Outcome, Replay, Reserve, codes};
use crate::http::{FailMode, KeyLine, Mark, Refusal, Status, Stored, Unavailable, open};

/// What a caller gets: the answer, or the application's panic.
pub(super) type Answered<R, E> = Result<Result<Response<LayerBody<R>>, E>, Box<dyn Any + Send>>;

/// When to ask again after a failure that does not know when it ends.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the store is asked.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) tenant: String,
    pub(super) key: KeyLine,
    pub(super) compared: Compared,
    /// The room for what is compared: free when the request is over.
    pub(super) _taken: Option<Taken>,
}

/// What the request is compared by.
#[derive(Clone, Debug)]
pub(super) enum Compared {
    /// A digest of it.
    Digest([u8; 32]),
    /// The request, for the store to digest.
    InStore { method: String, path: String, headers: Vec<(String, Bytes)>, body: Bytes },
}

/// A request that is ready to be asked for.
pub(super) struct Job<S, B: Body> {
    pub(super) endpoint: Endpoint,
    pub(super) question: Question,
    pub(super) inner: S,
    pub(super) request: Request<LayerBody<B>>,
    pub(super) unavailable: Option<Unavailable>,
    pub(super) passed: Arc<Passed>,
}

impl Question {
    /// The question, for an endpoint.
    pub(super) fn reserve(&self, endpoint: &Endpoint, wait: Duration) -> Reserve {
        let reserve =
            Reserve::new(self.tenant.as_str(), self.key.key.as_str()).endpoint(endpoint.name.as_str()).wait(wait);
        let reserve = match &self.compared {
            Compared::Digest(digest) => reserve.digest(digest.to_vec()),
            Compared::InStore { method, path, headers, body } => {
                reserve.request(method, path, headers.iter().cloned(), body.clone())
            }
        };
        match endpoint.rules.lease() {
            Some(lease) => reserve.lease(lease),
            None => reserve,
        }
    }
}

impl<S, B, R> Job<S, B>
where
    S: Service<Request<LayerBody<B>>, Response = Response<R>>,
    S::Future: Send,
    B: Body<Data: Buf>,
    R: Body<Data: Buf>,
{
    /// Asks, executes if it may, records, and answers.
    pub(super) async fn run(self, answer: oneshot::Sender<Answered<R, S::Error>>) {
        let wait = self.endpoint.rules.wait();
        let asked = self.endpoint.shared.client.ask(self.question.reserve(&self.endpoint, wait)).await;
        let Asked { outcome, epoch } = match asked {
            Ok(asked) => asked,
            Err(error) => return self.without_store(&error, answer).await,
        };
        let epoch = epoch.map(|epoch| epoch.to_string());
        let refusal = match outcome {
            Outcome::Granted(grant) => return self.execute(grant, epoch, answer).await,
            Outcome::Replay(replay) => match replayed(&self.endpoint, &self.question, replay, epoch.as_deref()) {
                Ok(response) => {
                    self.endpoint.tell(Verdict::Answered(Status::Replayed), None);
                    let _gone = answer.send(Ok(Ok(response)));
                    return;
                }
                Err(refusal) => refusal,
            },
            Outcome::Mismatch => Refusal::KeyReused,
            Outcome::InProgress { retry_after } => Refusal::InProgress { retry_after_ms: millis(retry_after) },
            Outcome::OutcomeUnknown { attempt, checkpoint: _ } => Refusal::OutcomeUnknown { attempt },
            Outcome::InDoubt { retry_after } => Refusal::InDoubt { retry_after_ms: millis(retry_after) },
            Outcome::Superseded { epoch } => Refusal::Superseded { epoch },
            Outcome::Expired => Refusal::KeyExpired,
            Outcome::Limited { limit, retry_after } => Refusal::limited(limit, millis(retry_after)),
        };
        self.endpoint.tell(Verdict::Refused(refusal.code()), None);
        let _gone = answer.send(Ok(Ok(self.endpoint.refused(&refusal, epoch.as_deref()))));
    }

    /// The store gave no answer: the request runs without it, or does not run.
    async fn without_store(mut self, error: &Error, answer: oneshot::Sender<Answered<R, S::Error>>) {
        let refusal = refusal_of(error);
        // What the store refuses is not a store that is not there: it would be refused again and again, and run each time.
        let is_refused = !matches!(refusal, Refusal::StoreUnavailable { .. });
        if is_refused || self.endpoint.rules.fail() == FailMode::Closed {
            self.endpoint.tell(Verdict::Refused(refusal.code()), Some(error));
            let _gone = answer.send(Ok(Ok(self.endpoint.refused(&refusal, None))));
            return;
        }
        let answered = AssertUnwindSafe(async { self.inner.call(self.request).await }).catch_unwind().await;
        self.endpoint.tell(Verdict::Answered(Status::Unprotected), Some(error));
        let mark = Mark {
            status: Status::Unprotected,
            key: &self.question.key,
            profile: self.endpoint.rules.profile(),
            expires_at_unix_ms: None,
            epoch: None,
            unavailable: None,
        };
        let _gone = answer.send(answered.map(|answered| {
            answered.map(|response| {
                let mut response = response.map(LayerBody::passed);
                mark.write(response.headers_mut());
                response.extensions_mut().insert(Verdict::Answered(Status::Unprotected));
                response
            })
        }));
    }

    async fn execute(mut self, grant: Grant, epoch: Option<String>, answer: oneshot::Sender<Answered<R, S::Error>>) {
        if answer.is_closed() {
            // Nothing was begun. If it cannot be given back, its lease runs out.
            let _lapses = grant.release().await;
            return self.endpoint.tell(Verdict::CallerGone, None);
        }
        if grant.start().is_err() {
            let _lapses = grant.release().await;
            let detail = "the store's answer came too late".to_owned();
            let refusal = Refusal::StoreUnavailable { detail, retry_after_ms: 0 };
            self.endpoint.tell(Verdict::Refused(refusal.code()), None);
            let _gone = answer.send(Ok(Ok(self.endpoint.refused(&refusal, epoch.as_deref()))));
            return;
        }
        let grant = Arc::new(grant);
        let until = Moment::now().plus(self.endpoint.rules.work_limit());
        self.request.extensions_mut().insert(Execution { grant: Arc::clone(&grant) });
        let calling = AssertUnwindSafe(async { self.inner.call(self.request).await }).catch_unwind();
        match kept(&grant, until, calling).await {
            Ok(Ok(response)) => {
                let Self { endpoint, question, unavailable, passed, .. } = self;
                let executed = Executed {
                    endpoint,
                    question,
                    grant,
                    until,
                    epoch,
                    unavailable,
                    passed,
                    tried_before: false,
                    grace: Duration::ZERO,
                };
                executed.end(response, answer).await;
            }
            // How far it came is not known: the lease runs out, and the policy decides.
            Ok(Err(failed)) => {
                self.endpoint.tell(Verdict::Died, None);
                let _gone = answer.send(Ok(Err(failed)));
            }
            Err(panic) => {
                self.endpoint.tell(Verdict::Died, None);
                let _gone = answer.send(Err(panic));
            }
        }
    }
}

/// The stored response, as an answer.
pub(super) fn replayed<R: Body>(
    endpoint: &Endpoint,
    question: &Question,
    replay: Replay,
    epoch: Option<&str>,
) -> Result<Response<LayerBody<R>>, Refusal> {
    let stored = match open(replay.envelope) {
        Some(Stored::Whole(stored)) => *stored,
        Some(Stored::Outcome { status, why, sha256 }) => {
            return Err(Refusal::ReplayUnavailable { why, status, sha256 });
        }
        None => {
            let detail = "what is stored under the key is no response of http".to_owned();
            return Err(Refusal::StoreRefused { detail });
        }
    };
    let announced = stored.trailers.as_ref().filter(|_| !endpoint.is_grpc).and_then(announced);
    let mut response = Response::new(LayerBody::whole(stored.body, stored.trailers));
    *response.status_mut() = stored.status;
    *response.headers_mut() = stored.headers;
    // It is of one connection, and so not stored: made again of what it announces.
    response.headers_mut().extend(announced.map(|names| (header::TRAILER, names)));
    let mark = Mark {
        status: Status::Replayed,
        key: &question.key,
        profile: endpoint.rules.profile(),
        expires_at_unix_ms: Some(replay.expires_at_unix_ms),
        epoch,
        unavailable: None,
    };
    mark.write(response.headers_mut());
    response.extensions_mut().insert(Verdict::Answered(Status::Replayed));
    Ok(response)
}

/// The names of trailers, as the header `Trailer` has them (RFC 9110 section 6.6.2): in HTTP/1.1 none is sent that is not announced.
fn announced(trailers: &HeaderMap) -> Option<HeaderValue> {
    let names: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
    HeaderValue::try_from(names.join(", ")).ok().filter(|_| !names.is_empty())
}

/// What a caller is told when there is no outcome. Nothing of the inside: addresses and settings are the owner's to hear.
pub(super) fn refusal_of(error: &Error) -> Refusal {
    let code = error.code();
    if code == "key-invalid" {
        return Refusal::KeyInvalid { detail: error.message().to_owned() };
    }
    let is_the_services =
        error.retry_after().is_none() && error.certainty() == Certainty::Definite && code != codes::UNREACHABLE;
    if is_the_services {
        return Refusal::StoreRefused { detail: code.to_owned() };
    }
    let retry_after = error.retry_after().unwrap_or_default().max(PATIENCE);
    let detail = format!("the store gave no answer ({code})");
    Refusal::StoreUnavailable { detail, retry_after_ms: millis(retry_after) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
