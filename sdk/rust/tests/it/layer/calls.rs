//! gRPC: unary calls are protected with their trailers, streams are passed on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::StreamExt as _;
use holdfast_client::http::{Rules, Severity, Stage};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::mpsc;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Asked, Bench, Body, Broken, PATIENCE, Seen, answer, count, data, pieces, ran, whole};
use crate::fake::Fault;

const GRPC: [(&str, &str); 2] = [("content-type", "application/grpc"), ("x-server", "7")];

fn rules() -> Rules {
    Rules::of(Severity::High).with_wait(Duration::from_millis(20))
}

/// A message as it travels.
fn message(text: &str) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(text.len()).unwrap_or_default().to_be_bytes());
    bytes.extend(text.as_bytes());
    bytes.into()
}

fn call(key: &str, body: Body) -> Request<Body> {
    let request = Request::post("/shop.v1.Charges/Charge").header("content-type", "application/grpc");
    let request = if key.is_empty() { request } else { request.header("idempotency-key", key) };
    request.body(body).expect("a request")
}

fn trailers(code: Code, text: &'static str) -> Result<Frame<Bytes>, Broken> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code as i32));
    trailers.insert("grpc-message", HeaderValue::from_static(text));
    trailers.insert("x-cost", HeaderValue::from_static("3"));
    Ok(Frame::trailers(trailers))
}

/// A unary handler, as a server makes it: it reads the call to its end, then answers with one message and a status.
fn unary(
    runs: &Arc<std::sync::atomic::AtomicUsize>,
    code: Code,
) -> impl Fn(Asked) -> std::pin::Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Clone + use<> {
    let runs = Arc::clone(runs);
    move |request: Asked| {
        let runs = Arc::clone(&runs);
        Box::pin(async move {
            let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
            let reply = message(&format!("run {run} of {} bytes", body.len()));
            match code {
                Code::Ok => answer(200, &GRPC, pieces(vec![data(reply), trailers(code, "")])),
                _ => answer(200, &GRPC, pieces(vec![trailers(code, "no")])),
            }
        })
    }
}

fn status(seen: &Seen) -> anyhow::Result<Status> {
    let trailers = seen.trailers.as_ref().unwrap_or(&seen.headers);
    Status::from_header_map(trailers).context("no status")
}

#[tokio::test]
async fn a_unary_call_is_replayed_with_its_trailers() -> anyhow::Result<()> {
    let bench = Bench::new(rules()).await?;
    let runs = count();
    let halves = || {
        let whole = message("charge");
        pieces(vec![data(whole.slice(..3)), data(whole.slice(3..)), data("")])
    };
    let first = bench.send(unary(&runs, Code::Ok), call("k", pieces(vec![data(message("charge"))]))).await?;
    ensure!(first.header("idempotency-status") == Some("executed") && first.header("x-server") == Some("7"));
    ensure!(first.body == message("run 1 of 11 bytes") && status(&first)?.code() == Code::Ok);
    let replay = bench.send(unary(&runs, Code::Internal), call("k", halves())).await?;
    ensure!(replay.header("idempotent-replayed") == Some("true") && replay.body == first.body, "{}", replay.head());
    ensure!(replay.header("content-type") == Some("application/grpc") && replay.header("x-server").is_none());
    let kept = replay.trailers.as_ref().context("trailers")?;
    ensure!(kept.get("grpc-status").context("a status")? == "0" && !kept.contains_key("x-cost"));
    ensure!(ran(&runs) == 1);
    let reused = bench.send(unary(&runs, Code::Ok), call("k", pieces(vec![data(message("other"))]))).await?;
    let told = status(&reused)?;
    ensure!((reused.status, told.code()) == (200, Code::InvalidArgument) && reused.body.is_empty());
    let info = told.get_error_details().error_info().context("error info")?.clone();
    ensure!(info.reason == "key-reused" && reused.header("stripe-should-retry") == Some("false"));
    Ok(())
}

#[tokio::test]
async fn what_becomes_of_a_call_is_told_from_its_status() -> anyhow::Result<()> {
    for (code, said, runs_again) in [
        (Code::NotFound, "executed", false),
        (Code::AlreadyExists, "executed", false),
        (Code::Unauthenticated, "released", true),
        (Code::Unavailable, "released", true),
        (Code::Internal, "released", true),
    ] {
        let bench = Bench::new(rules()).await?;
        let runs = count();
        let one = || call("k", pieces(vec![data(message("charge"))]));
        let first = bench.send(unary(&runs, code), one()).await?;
        ensure!(first.header("idempotency-status") == Some(said), "{code:?}: {}", first.head());
        ensure!(status(&first)?.code() == code && status(&first)?.message() == "no");
        let again = bench.send(unary(&runs, Code::Ok), one()).await?;
        ensure!(ran(&runs) == if runs_again { 2 } else { 1 }, "{code:?}");
        ensure!(status(&again)?.code() == if runs_again { Code::Ok } else { code }, "{code:?}");
    }
    let hold = rules().with_on_lapse(holdfast_client::http::OnLapse::Hold);
    let bench = Bench::new(hold).await?;
    let runs = count();
    let failed = bench.send(unary(&runs, Code::Unavailable), call("k", pieces(vec![data(message("charge"))]))).await?;
    ensure!(failed.header("idempotency-status") == Some("unknown") && bench.region.holds("k"));
    Ok(())
}

/// A call that fails at once says so in its headers, and has no trailers.
#[tokio::test]
async fn a_call_that_fails_at_once_is_replayed_so() -> anyhow::Result<()> {
    let bench = Bench::new(rules()).await?;
    let runs = count();
    let app = {
        let runs = Arc::clone(&runs);
        move |_: Asked| {
            runs.fetch_add(1, Ordering::SeqCst);
            let headers = [("content-type", "application/grpc"), ("grpc-status", "3"), ("grpc-message", "no")];
            std::future::ready(answer(200, &headers, pieces(Vec::new())))
        }
    };
    for said in ["executed", "replayed"] {
        let seen = bench.send(app.clone(), call("k", pieces(vec![data(message("charge"))]))).await?;
        ensure!(seen.header("idempotency-status") == Some(said), "{}", seen.head());
        ensure!(status(&seen)?.code() == Code::InvalidArgument && status(&seen)?.message() == "no");
    }
    ensure!(ran(&runs) == 1);
    Ok(())
}

#[tokio::test]
async fn refusals_are_statuses() -> anyhow::Result<()> {
    let bench = Bench::new(rules().with_stage(Stage::Required)).await?;
    let runs = count();
    let body = || pieces(vec![data(message("charge"))]);
    bench.region.hold("held");
    for (key, code, reason, retries) in [
        ("", Code::InvalidArgument, "key-missing", false),
        ("a b", Code::InvalidArgument, "key-invalid", false),
        ("held", Code::Aborted, "in-progress", true),
    ] {
        let refused = bench.send(unary(&runs, Code::Ok), call(key, body())).await?;
        let told = status(&refused)?;
        let details = told.get_error_details();
        ensure!((refused.status, told.code()) == (200, code), "{reason}: {told:?}");
        ensure!(details.error_info().context("error info")?.reason == reason);
        ensure!(details.retry_info().is_some() == retries);
    }
    bench.region.fault(1, Fault::Unavailable);
    let refused = bench.send(unary(&runs, Code::Ok), call("k", body())).await?;
    ensure!(status(&refused)?.code() == Code::Unavailable && ran(&runs) == 0);
    Ok(())
}

/// Several messages in either direction: the call runs once, and its answer is given once.
#[tokio::test]
async fn streams_run_once_and_are_not_replayed() -> anyhow::Result<()> {
    // A client that streams, and a server that answers once.
    let bench = Bench::new(rules()).await?;
    let runs = count();
    let two = || pieces(vec![data(message("one")), data(message("two"))]);
    let first = bench.send(unary(&runs, Code::Ok), call("k", two())).await?;
    ensure!(first.body == message("run 1 of 16 bytes"), "the application gets both");
    ensure!(first.header("idempotency-replay-unavailable") == Some("streaming"), "{}", first.head());
    let again = bench.send(unary(&runs, Code::Ok), call("k", two())).await?;
    let told = status(&again)?;
    ensure!(told.code() == Code::FailedPrecondition && ran(&runs) == 1, "{told:?}");

    // A server that streams.
    let bench = Bench::new(rules()).await?;
    let app = |_: Asked| {
        let body = pieces(vec![data(message("one")), data(message("two")), trailers(Code::Ok, "")]);
        std::future::ready(answer(200, &GRPC, body))
    };
    let one = || call("k", pieces(vec![data(message("list"))]));
    let first = bench.send(app, one()).await?;
    ensure!(first.body == [message("one"), message("two")].concat() && status(&first)?.code() == Code::Ok);
    ensure!(first.header("idempotency-replay-unavailable") == Some("streaming"));
    ensure!(bench.heard().await == "executed");
    ensure!(status(&bench.send(app, one()).await?)?.code() == Code::FailedPrecondition);

    // One that fails in the end, of which nothing is kept.
    let bench = Bench::new(rules()).await?;
    let app = |_: Asked| {
        let body = pieces(vec![data(message("one")), data(message("two")), trailers(Code::Unavailable, "gone")]);
        std::future::ready(answer(200, &GRPC, body))
    };
    bench.send(app, one()).await?;
    ensure!(bench.heard().await == "released" && !bench.region.holds("k"));
    Ok(())
}

/// Both sides take turns: nothing that one of them waits for is held back.
#[tokio::test]
async fn a_conversation_is_not_held_up() -> anyhow::Result<()> {
    let bench = Bench::with(rules(), |builder| builder.silence(Duration::from_secs(60))).await?;
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, Broken>>(8);
    let incoming =
        futures_util::stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    sender.send(data(message("hello"))).await?;
    let app =
        |request: Asked| async move {
            // Every message is sent back as it comes.
            let echo = futures_util::stream::unfold(request.into_body(), |mut body| async move {
                Some((body.frame().await?, body))
            });
            let ended = futures_util::stream::iter([trailers(Code::Ok, "")]);
            answer(200, &GRPC, StreamBody::new(echo.chain(ended).boxed()).boxed_unsync())
        };
    let talking = call("k", StreamBody::new(incoming.boxed()).boxed_unsync());
    let response = tokio::time::timeout(PATIENCE, bench.begin(app, talking)).await.context("it was held up")??;
    ensure!(response.headers().get("idempotency-replay-unavailable").context("it streams")? == "streaming");
    let (parts, mut body) = response.into_parts();
    let mut heard = async || -> anyhow::Result<Bytes> {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.context("held up")?.context("ended")??;
        frame.into_data().map_err(|_| anyhow::anyhow!("no message"))
    };
    ensure!(heard().await? == message("hello"));
    sender.send(data(message("again"))).await?;
    ensure!(heard().await? == message("again"));
    drop(sender);
    let rest = whole(Response::from_parts(parts, body)).await?;
    ensure!(rest.body.is_empty() && status(&rest)?.code() == Code::Ok);
    ensure!(bench.heard().await == "executed");
    Ok(())
}
