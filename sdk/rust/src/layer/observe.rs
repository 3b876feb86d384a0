//! The stage that changes nothing: the request runs as if there were no layer, and what would have become of it is found out beside
//! it, under a key of its own. So the real key is untouched: the day the endpoint is protected, nothing of this is replayed.

use std::time::Duration;

use bytes::Buf;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body::Body;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tower_service::Service;

use super::Verdict;
use super::body::{Copied, LayerBody, Watch};
use super::run::{Question, refusal_of};
use super::serve::{Endpoint, Length, compare};
use crate::client::{Envelope, Grant, Outcome};
use crate::http::{Fate, KeyLine, Refusal, Status, Unavailable, fate, grpc, grpc_fate, hex, store_outcome};
use crate::keys::IdempotencyKey;

/// What the keys of observed requests begin with.
const PREFIX: &str = "observed.";

/// How a response began, once it has.
type Began = oneshot::Receiver<Fate>;

/// Runs a request, and tells what would have become of it.
pub(super) async fn observe<S, B, R>(
    endpoint: Endpoint,
    seen: Result<KeyLine, Refusal>,
    mut inner: S,
    request: Request<B>,
) -> Result<Response<LayerBody<R>>, S::Error>
where
    S: Service<Request<LayerBody<B>>, Response = Response<R>>,
    B: Body<Data: Buf> + Send + 'static,
    R: Body,
{
    let (parts, body) = request.into_parts();
    let mut body = LayerBody::passed(body);
    let (began, begins) = oneshot::channel();
    match seen {
        Err(refusal) => endpoint.tell(Verdict::Refused(refusal.code()), None),
        Ok(key) => {
            let (watch, copied) = Watch::copy(endpoint.rules.most_request_bytes());
            let observed = copy_of(&parts);
            let beside = endpoint.clone();
            let watching = async move {
                let verdict = find_out(&beside, key, observed, copied, begins).await;
                beside.tell(verdict, None);
            };
            if endpoint.shared.observing.spawn(watching) {
                body = body.watched(watch);
            } else {
                endpoint.tell(Verdict::Unseen, None);
            }
        }
    }
    let response = inner.call(Request::from_parts(parts, body)).await?;
    // Of a call that does not fail at once no more is known here than that it began.
    let code = if endpoint.is_grpc { grpc::status(response.headers()) } else { None };
    let fate = code.map_or_else(|| fate(response.status(), &endpoint.rules), |code| grpc_fate(code, &endpoint.rules));
    let _unwatched = began.send(fate);
    Ok(response.map(LayerBody::passed))
}

/// Of a request what it is compared by.
fn copy_of(parts: &Parts) -> Parts {
    let mut copy = Request::new(());
    (*copy.method_mut(), *copy.uri_mut()) = (parts.method.clone(), parts.uri.clone());
    *copy.headers_mut() = parts.headers.clone();
    copy.into_parts().0
}

async fn find_out(
    endpoint: &Endpoint,
    key: KeyLine,
    parts: Parts,
    copied: oneshot::Receiver<Copied>,
    begins: Began,
) -> Verdict {
    let refused = |refusal: &Refusal| Verdict::Refused(refusal.code());
    let Some(tenant) = endpoint.tenant.clone() else { return refused(&Refusal::TenantMissing) };
    let Ok(Copied { body, cut }) = copied.await else { return Verdict::Unseen };
    let first = if endpoint.is_grpc { grpc::first_message(&body).unwrap_or(body.len()) } else { body.len() };
    let length = if cut && !endpoint.is_grpc { Length::First } else { Length::Whole };
    let (_, compared) = match compare(endpoint, parts, body.slice(..first), length).await {
        Ok(compared) => compared,
        Err(refusal) => return refused(&refusal),
    };
    let Some(key) = shadow(&key) else { return Verdict::Unseen };
    let question = Question { tenant, key, compared, _taken: None };
    let outcome = match endpoint.shared.client.reserve(question.reserve(endpoint, Duration::ZERO)).await {
        Ok(outcome) => outcome,
        Err(error) => return refused(&refusal_of(&error)),
    };
    match outcome {
        Outcome::Granted(grant) => follow(&grant, begins).await,
        Outcome::Replay(_) => Verdict::Answered(Status::Replayed),
        Outcome::Mismatch => refused(&Refusal::KeyReused),
        Outcome::InProgress { .. } => refused(&Refusal::InProgress { retry_after_ms: 0 }),
        Outcome::OutcomeUnknown { attempt, .. } => refused(&Refusal::OutcomeUnknown { attempt }),
        Outcome::InDoubt { .. } => refused(&Refusal::InDoubt { retry_after_ms: 0 }),
        Outcome::Superseded { epoch } => refused(&Refusal::Superseded { epoch }),
        Outcome::Expired => refused(&Refusal::KeyExpired),
        Outcome::Limited { limit, .. } => refused(&Refusal::limited(limit, 0)),
    }
}

/// Does with the observed key what would have been done with the real one. What cannot be told lapses: it is not the real one.
async fn follow(grant: &Grant, begins: Began) -> Verdict {
    let Ok(fate) = begins.await else { return Verdict::Died };
    match fate {
        Fate::Stored => {
            let outcome: Envelope = store_outcome(StatusCode::OK, Unavailable::SizeExceeded, None);
            let _lapses = grant.complete(outcome).await;
            Verdict::Answered(Status::Executed)
        }
        Fate::Released => {
            let _lapses = grant.release().await;
            Verdict::Answered(Status::Released)
        }
        Fate::Lapses => Verdict::Answered(Status::Unknown),
    }
}

/// The key that stands for an observed one: as long as a digest, so that it is one, and none that a client sends by chance.
fn shadow(key: &KeyLine) -> Option<KeyLine> {
    let digest = hex(&Sha256::digest(key.key.as_str()));
    let shadow = IdempotencyKey::parse(&format!("{PREFIX}{digest}")).ok()?;
    Some(KeyLine { key: shadow, line: key.line.clone() })
}
