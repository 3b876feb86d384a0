//! What becomes of the response of an execution: stored and given, given and not stored, or given while it still comes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::Body;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tonic::Code;

use super::Verdict;
use super::body::{LayerBody, Passed, Watch};
use super::keeping::{kept, lasting};
use super::reading::{self, Holding};
use super::recording::{Recorded, Recording};
use super::run::{Answered, Question};
use super::serve::Endpoint;
use crate::client::clock::Moment;
use crate::client::{Envelope, Grant, Held};
use crate::http::{Fate, Grace, Mark, Status, TriedBefore, Unavailable, fate, grpc, grpc_fate, store, store_outcome};

/// An execution whose response is there.
pub(super) struct Executed {
    pub(super) endpoint: Endpoint,
    pub(super) question: Question,
    pub(super) grant: Arc<Grant>,
    /// Until when the lease is kept alive.
    pub(super) until: Moment,
    pub(super) epoch: Option<String>,
    pub(super) unavailable: Option<Unavailable>,
    pub(super) passed: Arc<Passed>,
    /// An earlier try of the request may have been executed.
    pub(super) tried_before: bool,
    /// How long what was asked for may still be done somewhere after it lapses.
    pub(super) grace: Duration,
}

/// Who waits for the answer.
type Caller<R, E> = oneshot::Sender<Answered<R, E>>;

impl Executed {
    /// Brings a response to its end.
    pub(super) async fn end<R, E>(mut self, response: Response<R>, caller: Caller<R, E>)
    where
        R: Body<Data: Buf>,
    {
        let (mut parts, body) = response.into_parts();
        // The application may say what becomes of its key: the layer does not know what it knows.
        let said = parts.extensions.remove::<Fate>();
        self.tried_before = parts.extensions.remove::<TriedBefore>().is_some();
        self.grace = parts.extensions.remove::<Grace>().map(|Grace(grace)| grace).unwrap_or_default();
        let is_grpc = grpc::is_grpc(&parts.headers) && parts.status.is_success();
        let fate = match (said, is_grpc) {
            (Some(said), _) => Some(said),
            (None, false) => Some(fate(parts.status, &self.endpoint.rules)),
            // A call that failed at once says so in its headers; any other at its end.
            (None, true) => grpc::status(&parts.headers).map(|code| grpc_fate(code, &self.endpoint.rules)),
        };
        match fate {
            Some(Fate::Stored) | None => self.stored(parts, body, said, is_grpc, caller).await,
            Some(Fate::Released) => self.released(parts, LayerBody::passed(body), caller).await,
            Some(Fate::Lapses) => self.lapses(parts, LayerBody::passed(body), said.is_some(), caller).await,
        }
    }

    /// A response that is stored, unless a gRPC call's end says otherwise.
    async fn stored<R, E>(self, parts: Parts, body: R, said: Option<Fate>, is_grpc: bool, caller: Caller<R, E>)
    where
        R: Body<Data: Buf>,
    {
        let most = self.endpoint.rules.most_response_bytes();
        let holding = Holding { most, silence: self.endpoint.shared.silence, is_grpc };
        let passed = Arc::clone(&self.passed);
        let held = if is_event_stream(&parts.headers) {
            reading::Response::Streaming { held: Bytes::new(), rest: Box::pin(body) }
        } else {
            let holding = reading::response(body, holding, || passed.is_over());
            kept(&self.grant, self.until, holding).await
        };
        match held {
            reading::Response::Whole { body, trailers } => {
                self.whole((parts, body, trailers), said, is_grpc, caller).await
            }
            reading::Response::Longer { held, rest } => {
                let body = LayerBody::rest(held, rest);
                self.passing((parts, body), Unavailable::SizeExceeded, said, is_grpc, caller).await;
            }
            reading::Response::Streaming { held, rest } if is_grpc => {
                let body = LayerBody::rest(held, rest);
                self.passing((parts, body), Unavailable::Streaming, said, is_grpc, caller).await;
            }
            reading::Response::Streaming { held, rest } => {
                // It may never end: that it was executed is recorded before it begins.
                let outcome = store_outcome(parts.status, Unavailable::Streaming, None);
                let body = LayerBody::rest(held, rest);
                self.record(Some(Unavailable::Streaming), outcome, parts, body, caller).await;
            }
            reading::Response::Broken { held, error } => {
                // Its caller gets of it what there is, as without the layer. What was done is not known.
                self.lapses(parts, LayerBody::broken(held, error), true, caller).await;
            }
        }
    }

    /// A response that is here, whole.
    async fn whole<R, E>(
        self,
        (parts, body, trailers): (Parts, Bytes, Option<HeaderMap>),
        said: Option<Fate>,
        is_grpc: bool,
        caller: Caller<R, E>,
    ) where
        R: Body,
    {
        let fate = match (said, is_grpc) {
            (Some(said), _) => said,
            (None, false) => Fate::Stored,
            (None, true) => {
                let code = trailers.as_ref().and_then(grpc::status).or_else(|| grpc::status(&parts.headers));
                // Without a status, clients take a call for failed.
                grpc_fate(code.unwrap_or(Code::Unknown), &self.endpoint.rules)
            }
        };
        let unavailable = self.unavailable.or_else(|| self.passed.went_on().then_some(Unavailable::Streaming));
        let envelope = match unavailable {
            None => {
                let (status, headers) = (parts.status, parts.headers.clone());
                let response =
                    crate::http::Response { status, headers, body: body.clone(), trailers: trailers.clone() };
                store(&response, &self.endpoint.rules)
            }
            Some(why) => store_outcome(parts.status, why, Some(Sha256::digest(&body).into())),
        };
        let body = LayerBody::whole(body, trailers);
        match fate {
            Fate::Stored => self.record(unavailable, envelope, parts, body, caller).await,
            Fate::Released => self.released(parts, body, caller).await,
            Fate::Lapses => self.lapses(parts, body, said.is_some(), caller).await,
        }
    }

    /// A response that is handed on as it comes: what it came to is recorded when it is over, or its caller has gone.
    async fn passing<R, E>(
        self,
        (mut parts, body): (Parts, LayerBody<R>),
        why: Unavailable,
        said: Option<Fate>,
        is_grpc: bool,
        caller: Caller<R, E>,
    ) where
        R: Body,
    {
        let status = parts.status;
        let (watch, ended) = Watch::response();
        self.mark(Status::Executed, None, Some(why), &mut parts);
        let _gone = caller.send(Ok(Ok(Response::from_parts(parts, body.watched(watch)))));
        // Whoever reads for longer than the lease is kept alive does not undo what is known: it was executed.
        let ended = tokio::time::timeout(self.until.since(Moment::now()), kept(&self.grant, self.until, ended)).await;
        let ended = ended.ok().and_then(Result::ok);
        let code = ended.and_then(|ended| ended.code);
        let fate = match (said, code, is_grpc) {
            (Some(said), _, _) => said,
            (None, Some(code), true) => grpc_fate(code, &self.endpoint.rules),
            (None, _, _) => Fate::Stored,
        };
        match fate {
            Fate::Stored => {
                let outcome = store_outcome(status, why, ended.map(|ended| ended.sha256));
                match Recording::new(&self, why).run(outcome).await {
                    Ok(_) => self.endpoint.tell(Verdict::Answered(Status::Executed), None),
                    Err(error) => self.endpoint.tell(Verdict::Answered(Status::Unrecorded), error.as_ref()),
                }
            }
            Fate::Released => {
                let released = self.release().await;
                self.endpoint.tell(Verdict::Answered(released), None);
            }
            Fate::Lapses => self.endpoint.tell(Verdict::Answered(Status::Unknown), None),
        }
    }

    /// Records what is stored, and answers: with the response when it is recorded, or when that takes too long.
    async fn record<R, E>(
        self,
        unavailable: Option<Unavailable>,
        envelope: Envelope,
        mut parts: Parts,
        body: LayerBody<R>,
        caller: Caller<R, E>,
    ) where
        R: Body,
    {
        let limit = self.endpoint.shared.record_limit;
        let recording = Recording::new(&self, unavailable.unwrap_or(Unavailable::SizeExceeded));
        let mut recording = std::pin::pin!(recording.run(envelope));
        let (status, recorded) = match tokio::time::timeout(limit, recording.as_mut()).await {
            Ok(Ok(Recorded::Answer { expires_at_unix_ms, unavailable: cut })) => {
                self.endpoint.tell(Verdict::Answered(Status::Executed), None);
                (Status::Executed, Some((expires_at_unix_ms, unavailable.or(cut))))
            }
            Ok(Ok(Recorded::Another(replay))) => {
                // Another execution was recorded first: what every other caller was told is told to this one.
                let epoch = self.epoch.as_deref();
                if let Ok(response) = super::run::replayed(&self.endpoint, &self.question, *replay, epoch) {
                    self.endpoint.tell(Verdict::Answered(Status::Replayed), None);
                    let _gone = caller.send(Ok(Ok(response)));
                    return;
                }
                self.endpoint.tell(Verdict::Answered(Status::Unrecorded), None);
                (Status::Unrecorded, None)
            }
            Ok(Err(error)) => {
                self.endpoint.tell(Verdict::Answered(Status::Unrecorded), error.as_ref());
                (Status::Unrecorded, None)
            }
            Err(_) => {
                self.mark(Status::Unrecorded, None, unavailable, &mut parts);
                let _gone = caller.send(Ok(Ok(Response::from_parts(parts, body))));
                let error = recording.await.err().flatten();
                return self.endpoint.tell(Verdict::Answered(Status::Unrecorded), error.as_ref());
            }
        };
        let (expires, unavailable) = recorded.map_or((None, unavailable), |(at, unavailable)| (Some(at), unavailable));
        self.mark(status, expires, unavailable, &mut parts);
        let _gone = caller.send(Ok(Ok(Response::from_parts(parts, body))));
    }

    /// Gives the key back, then answers: a retry that comes at once is granted.
    async fn released<R, E>(self, mut parts: Parts, body: LayerBody<R>, caller: Caller<R, E>)
    where
        R: Body,
    {
        let status = self.release().await;
        self.endpoint.tell(Verdict::Answered(status), None);
        self.mark(status, None, None, &mut parts);
        let _gone = caller.send(Ok(Ok(Response::from_parts(parts, body))));
    }

    async fn release(&self) -> Status {
        if self.tried_before {
            let _lapses_earlier = tokio::time::timeout(self.endpoint.shared.record_limit, self.outlast()).await;
            return Status::Unknown;
        }
        match tokio::time::timeout(self.endpoint.shared.record_limit, self.grant.release()).await {
            Ok(Ok(Held::Done)) => Status::Released,
            // For all that is known, it lapses.
            Ok(Ok(Held::Stale(_)) | Err(_)) | Err(_) => Status::Unknown,
        }
    }

    /// Leaves the lease to run out. An application that has answered is done; one that `may_still_work` is outlasted, which the
    /// store is told before the answer is given: a retry that comes at once finds the key held.
    async fn lapses<R, E>(self, mut parts: Parts, body: LayerBody<R>, may_still_work: bool, caller: Caller<R, E>)
    where
        R: Body,
    {
        self.endpoint.tell(Verdict::Answered(Status::Unknown), None);
        self.mark(Status::Unknown, None, None, &mut parts);
        let response = Response::from_parts(parts, body);
        if !may_still_work || self.grace.is_zero() {
            let _gone = caller.send(Ok(Ok(response)));
            return;
        }
        let mut outlasting = std::pin::pin!(self.outlast());
        let told = tokio::time::timeout(self.endpoint.shared.record_limit, outlasting.as_mut()).await;
        let _gone = caller.send(Ok(Ok(response)));
        if told.is_err() {
            outlasting.await;
        }
    }

    /// Makes the lease last for as long as what was asked for may still be done, up to the end of its work limit.
    async fn outlast(&self) {
        let grace = self.grace.min(self.until.since(Moment::now()));
        lasting(&self.grant, grace).await;
    }

    fn mark(
        &self,
        status: Status,
        expires_at_unix_ms: Option<u64>,
        unavailable: Option<Unavailable>,
        parts: &mut Parts,
    ) {
        let (key, profile, epoch) = (&self.question.key, self.endpoint.rules.profile(), self.epoch.as_deref());
        Mark { status, key, profile, expires_at_unix_ms, epoch, unavailable }.write(&mut parts.headers);
        parts.extensions.insert(Verdict::Answered(status));
    }
}

/// Events that come when they come: there is nothing to wait for.
fn is_event_stream(headers: &HeaderMap) -> bool {
    let is = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream");
    headers.get(header::CONTENT_TYPE).is_some_and(is)
}
