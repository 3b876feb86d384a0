//! A request until it is known what becomes of it: it passes, is refused, or is compared and handed to a task that outlives its
//! caller.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use tokio::sync::oneshot;
use tower_service::Service;

use super::body::{LayerBody, Passed, Watch};
use super::room::Taken;
use super::run::{Compared as By, Job, Question};
use super::{Shared, Verdict, observe, reading};
use crate::client::Error;
use crate::client::clock::wall_unix_ms;
use crate::http::{
    About, Admission, Arrived, Compared, KeyLine, Refusal, Rules, Stage, Unavailable, admit, described_headers, grpc,
    request_digest,
};

/// Bytes of a body over which a request is compared on a thread of its own: at about 100 MB/s this is half a millisecond.
const INLINE_BYTES: usize = 64 * 1024;
/// When to send a request again that this process could not take.
const AGAIN_MS: u64 = 1_000;

/// A body that passes the layer.
pub(super) trait Passing: Body<Data: Buf, Error: Send + 'static> + Send + 'static {}

impl<B: Body<Data: Buf, Error: Send + 'static> + Send + 'static> Passing for B {}

/// A service that the layer is around: it takes requests with a body of `B`, and answers with one of `R`.
pub(super) trait Inner<B: Passing, R: Passing>:
    Service<Request<LayerBody<B>>, Response = Response<R>, Error: Send + 'static, Future: Send> + Send + 'static
{
}

impl<S, B: Passing, R: Passing> Inner<B, R> for S where
    S: Service<Request<LayerBody<B>>, Response = Response<R>, Error: Send + 'static, Future: Send> + Send + 'static
{
}

/// A request whose rules are asked for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Subject<'a> {
    /// Whose it is, if that can be told.
    pub tenant: Option<&'a str>,
    /// The endpoint's name.
    pub endpoint: &'a str,
    /// The request, without its body.
    pub parts: &'a Parts,
}

/// What is known of a request's endpoint.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) shared: Arc<Shared>,
    pub(super) tenant: Option<String>,
    pub(super) name: String,
    pub(super) rules: Arc<Rules>,
    /// It is a gRPC call.
    pub(super) is_grpc: bool,
}

impl Endpoint {
    /// Tells what became of a request.
    pub(super) fn tell(&self, verdict: Verdict, error: Option<&Error>) {
        if let Some(hear) = &self.shared.hear {
            hear(&super::Heard { endpoint: &self.name, stage: self.rules.stage(), verdict, error });
        }
    }

    /// The answer to a request that is refused.
    pub(super) fn refused<R: Body>(&self, refusal: &Refusal, epoch: Option<&str>) -> Response<LayerBody<R>> {
        let about = About { rules: &self.rules, epoch, pages: &self.shared.pages };
        let answer = if self.is_grpc { refusal.grpc_answer(&about) } else { refusal.answer(&about) };
        let mut response = Response::new(LayerBody::whole(answer.body, None));
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        response.extensions_mut().insert(Verdict::Refused(refusal.code()));
        response
    }

    fn refuse<R: Body>(&self, refusal: &Refusal) -> Response<LayerBody<R>> {
        self.tell(Verdict::Refused(refusal.code()), None);
        self.refused(refusal, None)
    }
}

/// Serves a request.
pub(super) async fn serve<S, B, R>(
    shared: Arc<Shared>,
    mut inner: S,
    request: Request<B>,
) -> Result<Response<LayerBody<R>>, S::Error>
where
    S: Inner<B, R>,
    B: Passing,
    R: Passing,
{
    let (parts, body) = request.into_parts();
    let method_is_protected = shared.methods.contains(&parts.method);
    if !method_is_protected && parts.method.is_safe() {
        return pass(&mut inner, parts, body).await;
    }
    let (tenant, name) = ((shared.tenant)(&parts), (shared.endpoint)(&parts));
    let rules = (shared.rules)(&Subject { tenant: tenant.as_deref(), endpoint: &name, parts: &parts });
    let endpoint = Endpoint { shared, tenant, name, rules, is_grpc: grpc::is_grpc(&parts.headers) };
    let arrived =
        Arrived { method: &parts.method, headers: &parts.headers, method_is_protected, now_unix_ms: wall_unix_ms() };
    match admit(&arrived, &endpoint.rules) {
        Admission::Pass => {
            let counts = method_is_protected && endpoint.rules.stage() != Stage::Off;
            if counts {
                endpoint.tell(Verdict::NoKey, None);
            }
            let mut response = pass(&mut inner, parts, body).await?;
            if counts {
                response.extensions_mut().insert(Verdict::NoKey);
            }
            Ok(response)
        }
        Admission::Refuse(refusal) => Ok(endpoint.refuse(&refusal)),
        Admission::Observe(seen) => observe::observe(endpoint, *seen, inner, Request::from_parts(parts, body)).await,
        Admission::Protect(key) => protect(endpoint, key, inner, parts, body).await,
    }
}

/// Runs a request as if there were no layer.
async fn pass<S, B, R>(inner: &mut S, parts: Parts, body: B) -> Result<Response<LayerBody<R>>, S::Error>
where
    S: Service<Request<LayerBody<B>>, Response = Response<R>>,
    B: Body,
    R: Body,
{
    let response = inner.call(Request::from_parts(parts, LayerBody::passed(body))).await?;
    Ok(response.map(LayerBody::passed))
}

async fn protect<S, B, R>(
    endpoint: Endpoint,
    key: KeyLine,
    inner: S,
    parts: Parts,
    body: B,
) -> Result<Response<LayerBody<R>>, S::Error>
where
    S: Inner<B, R>,
    B: Passing,
    R: Passing,
{
    let Some(tenant) = endpoint.tenant.clone() else {
        return Ok(endpoint.refuse(&Refusal::TenantMissing));
    };
    let prepared = match prepare(&endpoint, parts, body).await {
        Ok(prepared) => prepared,
        Err(refusal) => return Ok(endpoint.refuse(&refusal)),
    };
    let Prepared { request, compared, taken, unavailable, passed } = prepared;
    let question = Question { tenant, key, compared, _taken: Some(taken) };
    let job = Job { endpoint: endpoint.clone(), question, inner, request, unavailable, passed };
    let (answer, answered) = oneshot::channel();
    if !endpoint.shared.tasks.spawn(job.run(answer)) {
        let detail = "this service runs as many protected requests as it takes".to_owned();
        return Ok(endpoint.refuse(&Refusal::StoreUnavailable { detail, retry_after_ms: AGAIN_MS }));
    }
    match answered.await {
        Ok(Ok(answer)) => answer,
        // The application's panic is its caller's, as without the layer.
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(_) => std::panic::resume_unwind(Box::new("the task that ran the request ended before it had answered")),
    }
}

/// A request that can be asked for, and then run.
struct Prepared<B: Body> {
    request: Request<LayerBody<B>>,
    compared: By,
    /// The room that it takes.
    taken: Taken,
    /// Why its response will not be replayed, whatever it is.
    unavailable: Option<Unavailable>,
    passed: Arc<Passed>,
}

/// Holds a request back as far as it is compared, and compares it.
async fn prepare<B>(endpoint: &Endpoint, parts: Parts, body: B) -> Result<Prepared<B>, Refusal>
where
    B: Body<Data: Buf> + Send + 'static,
{
    let most = endpoint.rules.most_request_bytes();
    let limit = endpoint.shared.request_limit;
    let mut taken = endpoint.shared.room.enter();
    let held = tokio::time::timeout(limit, reading::request(body, most, endpoint.is_grpc, &mut taken)).await;
    let held =
        held.map_err(|_| Refusal::RequestTimeout { limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) })?;
    let passed = Arc::new(Passed::default());
    let watch = Watch::Request(Arc::clone(&passed));
    let (compared, length, body, unavailable) = match held {
        reading::Request::Whole { body, trailers } => {
            (body.clone(), Length::Whole, LayerBody::whole(body, trailers).watched(watch), None)
        }
        reading::Request::Message { held, message, rest } => {
            if held.len() > message {
                passed.longer();
            }
            (held.slice(..message), Length::Whole, LayerBody::rest(held, rest).watched(watch), None)
        }
        reading::Request::Longer { held, rest } => {
            let why = Some(Unavailable::SizeExceeded);
            (held.slice(..most), Length::First, LayerBody::rest(held, rest).watched(watch), why)
        }
        reading::Request::NoRoom => return Err(Refusal::GatewayOverloaded { retry_after_ms: AGAIN_MS }),
        reading::Request::Broken => return Err(Refusal::RequestUnreadable),
    };
    let (parts, compared) = compare(endpoint, parts, compared, length).await?;
    Ok(Prepared { request: Request::from_parts(parts, body), compared, taken, unavailable, passed })
}

/// How much of a body is compared.
#[derive(Clone, Copy)]
pub(super) enum Length {
    Whole,
    First,
}

/// What a request is compared by.
pub(super) async fn compare(
    endpoint: &Endpoint,
    parts: Parts,
    body: Bytes,
    length: Length,
) -> Result<(Parts, By), Refusal> {
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    if endpoint.shared.compare_in_store
        && matches!(length, Length::Whole)
        && let Some(headers) = described_headers(&parts.headers)
    {
        let (method, path) = (parts.method.as_str().to_owned(), target.to_owned());
        return Ok((parts, By::InStore { method, path, headers, body }));
    }
    let (name, rules) = (endpoint.name.clone(), Arc::clone(&endpoint.rules));
    let is_small = body.len() <= INLINE_BYTES;
    let compare = move || {
        let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
        let compared = match length {
            Length::Whole => Compared::Whole(&body),
            Length::First => Compared::First(&body),
        };
        let digest = request_digest((&parts.method, target), &name, &parts.headers, compared, rules.selection());
        (parts, By::Digest(digest))
    };
    if is_small {
        return Ok(compare());
    }
    tokio::task::spawn_blocking(compare).await.map_err(|_| Refusal::StoreUnavailable {
        detail: "the request could not be compared".to_owned(),
        retry_after_ms: AGAIN_MS,
    })
}
