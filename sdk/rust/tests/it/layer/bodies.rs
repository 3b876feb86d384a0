//! Bodies of every kind: what is replayed is what was sent, byte for byte, or is said not to be.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::StreamExt as _;
use holdfast_client::http::{Rules, Severity};
use http::{Method, Request};
use http_body_util::{BodyExt as _, StreamBody};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::{Asked, Bench, Body, Broken, answer, count, data, full, pieces, post, ran, whole};
use crate::fake::Fault;
use crate::hex;

fn rules() -> Rules {
    Rules::of(Severity::High).with_most_request_bytes(1_000).with_most_response_bytes(1_000)
}

/// An application that always answers the same; each run is counted.
macro_rules! always {
    ($runs:expr, $response:expr) => {{
        let runs = std::sync::Arc::clone(&$runs);
        move |_: Asked| {
            runs.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            std::future::ready($response)
        }
    }};
}

#[tokio::test]
async fn what_is_replayed_is_what_was_sent() -> anyhow::Result<()> {
    let gzip = Bytes::from_static(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xff, 0xfe, 0]);
    const JSON: &[(&str, &str)] =
        &[("content-type", "application/json"), ("set-cookie", "a=1"), ("date", "today"), ("server", "s")];
    const LINKS: &[(&str, &str)] = &[("link", "</a>; rel=next"), ("link", "</b>; rel=last"), ("x-other", "1")];
    const CODED: &[(&str, &str)] = &[("content-encoding", "gzip"), ("etag", "\"7\""), ("traceparent", "00-1-2-01")];
    const MOVED: &[(&str, &str)] = &[("location", "/v1/charges/7"), ("cache-control", "no-store")];
    for (status, headers, body) in [
        (200, JSON, Bytes::from_static(b"{ \"a\" : 1 }\n")),
        (200, LINKS, Bytes::from_static(b"\0\xff\r\n")),
        (200, CODED, gzip),
        (201, MOVED, Bytes::new()),
        (204, &[], Bytes::new()),
        (304, &CODED[1..2], Bytes::new()),
        (400, JSON, Bytes::from(vec![b'x'; 1_000])),
    ] {
        let bench = Bench::new(rules()).await?;
        let runs = count();
        let (one, other) = (body.clone(), body.clone());
        let first = bench.send(always!(runs, answer(status, headers, full(one.clone()))), post("k", "{}")).await?;
        ensure!(first.header("idempotency-status") == Some("executed") && first.body == body, "{}", first.head());
        let replay = bench.send(always!(runs, answer(500, &[], full(other.clone()))), post("k", "{}")).await?;
        ensure!((replay.status, &replay.body, ran(&runs)) == (status, &body, 1));
        let stored = ["content-type", "content-encoding", "link", "location", "cache-control", "etag"];
        for (name, _) in headers {
            let lines = |seen: &super::Seen| seen.headers.get_all(*name).iter().cloned().collect::<Vec<_>>();
            ensure!(!lines(&first).is_empty(), "the first response is the application's: {name}");
            match stored.contains(name) {
                true => ensure!(lines(&replay) == lines(&first), "{name}"),
                false => ensure!(lines(&replay).is_empty(), "{name} is never replayed"),
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_head_is_answered_without_a_body() -> anyhow::Result<()> {
    let bench = Bench::with(rules(), |builder| builder.methods([Method::HEAD])).await?;
    let runs = count();
    let head = || Request::head("/v1/charges").header("idempotency-key", "k").body(full(""));
    for said in ["executed", "replayed"] {
        let app = always!(runs, answer(200, &[("etag", "\"7\""), ("content-length", "70000")], full("")));
        let seen = bench.send(app, head()?).await?;
        ensure!(seen.header("idempotency-status") == Some(said) && seen.header("etag") == Some("\"7\""));
        ensure!(seen.body.is_empty() && ran(&runs) == 1);
    }
    Ok(())
}

#[tokio::test]
async fn a_response_in_pieces_is_stored_whole() -> anyhow::Result<()> {
    let bench = Bench::new(rules()).await?;
    let runs = count();
    let app = always!(runs, answer(200, &[], pieces(vec![data("one "), data(""), data("two "), data("three")])));
    let first = bench.send(app.clone(), post("k", "{}")).await?;
    let replay = bench.send(app, post("k", "{}")).await?;
    ensure!(first.body == "one two three" && replay.body == first.body && ran(&runs) == 1);
    Ok(())
}

/// Of what is larger than what is stored, the outcome is.
#[tokio::test]
async fn a_large_response_is_given_once() -> anyhow::Result<()> {
    let large = vec![7_u8; 1_001];
    for known in [true, false] {
        let bench = Bench::new(rules()).await?;
        let runs = count();
        let body = large.clone();
        let app = always!(runs, {
            let halves = vec![data(body[..600].to_vec()), data(body[600..].to_vec())];
            answer(201, &[], if known { full(body.clone()) } else { pieces(halves) })
        });
        let first = bench.send(app.clone(), post("k", "{}")).await?;
        let head = "201 | holdfast-epoch: eu/0=3 | idempotency-key: k | idempotency-replay-unavailable: size-exceeded | \
                    idempotency-status: executed";
        ensure!(first.head() == head && first.body == large, "{}", first.head());
        ensure!(bench.heard().await == "executed");
        let again = bench.send(app, post("k", "{}")).await?;
        let head = "409 | holdfast-epoch: eu/0=3 | stripe-should-retry: false";
        ensure!(again.head() == head && again.code() == "replay-unavailable" && ran(&runs) == 1, "{}", again.head());
        let problem: serde_json::Value = serde_json::from_slice(&again.body)?;
        let response = serde_json::json!({ "status": 201, "sha256": hex(&Sha256::digest(&large)) });
        ensure!(problem["response"] == response && problem["reason"] == "size-exceeded", "{problem}");
    }
    Ok(())
}

/// A caller that leaves a large response behind has had its answer: it was executed, and no more is known of it.
#[tokio::test]
async fn a_large_response_that_nobody_reads_was_executed() -> anyhow::Result<()> {
    let bench = Bench::new(rules()).await?;
    let runs = count();
    let app = always!(runs, answer(201, &[], full(vec![7_u8; 2_000])));
    drop(bench.begin(app.clone(), post("k", "{}")).await?);
    ensure!(bench.heard().await == "executed");
    let again = bench.send(app, post("k", "{}")).await?;
    ensure!(again.code() == "replay-unavailable" && ran(&runs) == 1);
    Ok(())
}

/// A stream is passed on as it comes, and never waited for.
#[tokio::test]
async fn a_stream_is_given_once() -> anyhow::Result<()> {
    let (never, soon) = (Duration::from_secs(3_600), Duration::from_millis(20));
    for (content_type, piece, silence) in
        [("text/event-stream", "data: 1\n\n", never), ("application/x-ndjson", "{}\n", soon)]
    {
        let bench = Bench::with(rules(), |builder| builder.silence(silence)).await?;
        let (sender, receiver) = mpsc::channel::<Result<http_body::Frame<Bytes>, Broken>>(8);
        let receiver = std::sync::Arc::new(std::sync::Mutex::new(Some(receiver)));
        let runs = count();
        let app = always!(runs, {
            let receiver = receiver.lock().expect("the receiver").take();
            let stream = futures_util::stream::unfold(receiver, |receiver| async move {
                let mut receiver = receiver?;
                Some((receiver.recv().await?, Some(receiver)))
            });
            let body: Body = StreamBody::new(stream.boxed()).boxed_unsync();
            answer(200, &[("content-type", content_type)], body)
        });
        sender.send(data(piece)).await?;
        let response = tokio::time::timeout(super::PATIENCE, bench.begin(app.clone(), post("k", "{}"))).await??;
        let unavailable = response.headers().get("idempotency-replay-unavailable").context("it is a stream")?;
        ensure!(unavailable == "streaming" && response.headers().contains_key("idempotency-expires"));
        // It is recorded before it ends.
        let again = bench.send(app, post("k", "{}")).await?;
        ensure!(again.code() == "replay-unavailable" && ran(&runs) == 1);
        sender.send(data("last")).await?;
        drop(sender);
        ensure!(whole(response).await?.body == format!("{piece}last"));
    }
    Ok(())
}

/// What of a response there is, its caller gets, as without the layer.
#[tokio::test]
async fn a_response_that_breaks_off_is_not_stored() -> anyhow::Result<()> {
    let bench = Bench::new(rules()).await?;
    let runs = count();
    let app = always!(runs, answer(200, &[], pieces(vec![data("half"), Err(Broken)])));
    let response = bench.begin(app, post("k", "{}")).await?;
    ensure!(response.headers().get("idempotency-status").context("a status")? == "unknown");
    let mut body = response.into_body();
    ensure!(http_body::Body::size_hint(&body).exact().is_none(), "more was promised");
    ensure!(body.frame().await.context("a frame")??.into_data().ok() == Some(Bytes::from("half")));
    ensure!(body.frame().await.context("an error")?.err() == Some(Broken));
    ensure!(bench.region.holds("k") && bench.region.stored("k").is_none());
    Ok(())
}

#[tokio::test]
async fn the_application_gets_the_request_as_it_was_sent() -> anyhow::Result<()> {
    for sent in [0, 1, 999, 1_000, 1_001, 5_000] {
        for in_pieces in [false, true] {
            let bench = Bench::new(rules()).await?;
            let body: Vec<u8> = (0..sent).map(|at| u8::try_from(at % 251).unwrap_or_default()).collect();
            let chunks = || body.chunks(300).map(|chunk| data(chunk.to_vec())).collect::<Vec<_>>();
            let request = |body| Request::post("/up").header("idempotency-key", "k").body(body);
            let body_of = || if in_pieces { pieces(chunks()) } else { full(body.clone()) };
            let app = |request: Asked| async move {
                let got = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                answer(200, &[], full(hex(&Sha256::digest(&got))))
            };
            let first = bench.send(app, request(body_of())?).await?;
            ensure!(first.body == hex(&Sha256::digest(&body)), "{sent} bytes");
            let again = bench.send(app, request(body_of())?).await?;
            // Beyond what is held back, requests cannot be told apart: what was answered to one is given to none.
            let unavailable = first.header("idempotency-replay-unavailable");
            if sent > 1_000 {
                ensure!(unavailable == Some("size-exceeded") && again.code() == "replay-unavailable", "{sent} bytes");
            } else {
                ensure!(unavailable.is_none() && again.body == first.body && again.status == 200, "{sent} bytes");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_request_that_breaks_off_or_does_not_come_is_asked_of_nobody() -> anyhow::Result<()> {
    let bench = Bench::with(rules(), |builder| builder.request_limit(Duration::from_millis(30))).await?;
    let runs = count();
    let request = |body: Body| Request::post("/up").header("idempotency-key", "k").body(body);
    let broken = request(pieces(vec![data("half"), Err(Broken)]))?;
    let refused = bench.send(always!(runs, answer(200, &[], full(""))), broken).await?;
    ensure!((refused.status, refused.code()) == (400, "request-unreadable".to_owned()));
    let silent = request(StreamBody::new(futures_util::stream::pending()).boxed_unsync())?;
    let refused = bench.send(always!(runs, answer(200, &[], full(""))), silent).await?;
    ensure!((refused.status, refused.code()) == (408, "request-timeout".to_owned()));
    ensure!(ran(&runs) == 0 && bench.region.arrived().is_empty());
    Ok(())
}

/// A node may take less than the rules say: that it was executed is recorded all the same.
#[tokio::test]
async fn a_node_that_takes_no_body_is_told_the_outcome() -> anyhow::Result<()> {
    let bench = Bench::new(rules()).await?;
    bench.region.fault(1, Fault::TakesNoBodies);
    let runs = count();
    let app = always!(runs, answer(201, &[], full("a body")));
    let first = bench.send(app.clone(), post("k", "{}")).await?;
    ensure!(first.header("idempotency-status") == Some("executed") && first.body == "a body");
    ensure!(first.header("idempotency-replay-unavailable") == Some("size-exceeded"));
    let again = bench.send(app, post("k", "{}")).await?;
    ensure!(again.code() == "replay-unavailable" && ran(&runs) == 1);
    Ok(())
}
