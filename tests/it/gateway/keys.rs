//! What becomes of a key: it is executed once, whatever its callers and its upstream do.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::process::Gateway;
use super::upstream::{Act, Upstream, answer};
use super::{code, file};
use crate::harness::{self, Place, until};
use crate::http;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_run_a_replay_and_another_request() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let (place, upstream) = (Place::new()?, Upstream::counting().await?);
    let gateway = Gateway::embedded(&place, upstream.address, &[]).await?;
    let first = gateway.charge("order-1", r#"{"amount":1}"#).await?;
    ensure!(first.status == 201 && first.body == b"effect 1", "{first:?}");
    ensure!(first.header("idempotency-status") == Some("executed") && first.header("idempotent-replayed").is_none());
    let again = gateway.charge("order-1", r#"{ "amount": 1.0 }"#).await?;
    ensure!(again.status == 201 && again.body == b"effect 1", "the same json is the same request: {again:?}");
    ensure!(again.header("idempotent-replayed") == Some("true") && again.header("location") == Some("/v1/charges/1"));
    let other = gateway.charge("order-1", r#"{"amount":2}"#).await?;
    ensure!(other.status == 409 && code(&other) == "key-reused", "{other:?}");
    ensure!(other.header("stripe-should-retry") == Some("false"));
    let elsewhere = gateway.send("POST /v1/refunds", &["idempotency-key: order-1"], r#"{"amount":1}"#).await?;
    ensure!(elsewhere.status == 409, "another endpoint is another request: {elsewhere:?}");
    ensure!(upstream.effects() == 1);
    ensure!(gateway.send("POST /v1/charges", &[], "{}").await?.body == b"effect 2", "without a key it passes");
    gateway.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_is_told_of_its_execution_and_nobody_can_pretend_one() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let upstream = Upstream::start(|_, _| {
        let forged = ["idempotency-status: replayed", "idempotent-replayed: true", "idempotency-expires: never"];
        Act::Answer(answer("200 OK", &forged, ""))
    })
    .await?;
    let gateway = Gateway::embedded(&place, upstream.address, &[]).await?;
    let lines = [
        "idempotency-key: \"k\"",
        "Holdfast-Attempt: 99",
        "holdfast-fencing-token: 9.9",
        "holdfast-possible-duplicate: true",
        "Correlation-Id: order-7",
        "connection: x-hop",
        "x-hop: 1",
        "x-forwarded-for: 10.1.1.1",
    ];
    let first = gateway.send("POST /v1/charges?x=1", &lines, "{}").await?;
    ensure!(first.header("idempotency-status") == Some("executed"), "{first:?}");
    ensure!(first.header("idempotent-replayed").is_none() && first.header("idempotency-expires") != Some("never"));
    let arrived = upstream.arrived();
    let Some(arrived) = arrived.first() else { anyhow::bail!("nothing arrived") };
    ensure!(arrived.head.starts_with("POST /v1/charges?x=1 HTTP/1.1\r\n"), "{}", arrived.head);
    for (name, expected) in [
        ("idempotency-key", Some("\"k\"")),
        ("holdfast-attempt", Some("1")),
        ("holdfast-possible-duplicate", None),
        ("correlation-id", Some("order-7")),
        ("x-hop", None),
        ("host", Some("shop.example")),
        ("via", Some("1.1 holdfast")),
        ("x-forwarded-for", Some("10.1.1.1, 127.0.0.1")),
        ("x-forwarded-host", Some("shop.example")),
        ("x-forwarded-proto", Some("http")),
        ("content-length", Some("2")),
    ] {
        ensure!(arrived.header(name) == expected, "{name}: {}", arrived.head);
    }
    let token = arrived.header("holdfast-fencing-token").unwrap_or_default();
    ensure!(token.split('.').filter_map(|part| part.parse::<u64>().ok()).count() == 2 && token != "9.9", "{token}");
    ensure!(arrived.header("traceparent").is_some_and(|trace| trace.len() == 55), "{}", arrived.head);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_the_same_time_have_one_effect() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let (place, upstream) = (Place::new()?, Upstream::counting().await?);
    let gateway = Arc::new(Gateway::embedded(&place, upstream.address, &[]).await?);
    for round in 0..5 {
        let mut calls = JoinSet::new();
        for _ in 0..10 {
            let gateway = Arc::clone(&gateway);
            calls.spawn(async move { gateway.charge(&format!("order-{round}"), "{}").await });
        }
        while let Some(answer) = calls.join_next().await {
            let answer = answer??;
            ensure!(answer.status == 201 && answer.body == format!("effect {}", round + 1).as_bytes(), "{answer:?}");
        }
        ensure!(upstream.effects() == round + 1);
    }
    Ok(())
}

/// The upstream has its effect and gives no answer: it closes, or it hangs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_have_been_executed_is_never_executed_again_under_hold() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    for (act, status, expected) in
        [(Act::AnswerAndClose(Vec::new()), 502, "upstream-broken"), (Act::Hang, 504, "upstream-timeout")]
    {
        let place = Place::new()?;
        let upstream = Upstream::start(move |_, _| act.clone()).await?;
        let lines = "upstream_timeout = \"500ms\"\nlease = \"500ms\"\nwait = \"10s\"";
        let gateway = Gateway::configured(&place, &file(upstream.address, lines), &["--severity", "critical"]).await?;
        let first = gateway.charge("order-1", "{}").await?;
        ensure!(first.status == status && code(&first) == expected, "{first:?}");
        ensure!(first.header("stripe-should-retry") == Some("true"));
        ensure!(first.header("idempotency-status") == Some("unknown"), "{first:?}");
        // It waits for the end of the lease.
        let again = gateway.charge("order-1", "{}").await?;
        ensure!(again.status == 409 && code(&again) == "outcome-unknown", "{again:?}");
        ensure!(upstream.effects() == 1, "{} effects", upstream.effects());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_regrant_it_runs_again_and_the_upstream_is_told() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let upstream = Upstream::start(|number, _| match number {
        1 => Act::AnswerAndClose(Vec::new()),
        _ => Act::Answer(answer("201 Created", &[], "done")),
    })
    .await?;
    let lines = "lease = \"300ms\"\ngrace = \"300ms\"\nwait = \"0ms\"";
    let gateway = Gateway::configured(&place, &file(upstream.address, lines), &[]).await?;
    let first = gateway.charge("order-1", "{}").await?;
    ensure!(first.status == 502 && upstream.effects() == 1, "it is not sent again: {first:?}");
    let again = until("the lease has run out", Duration::from_secs(20), async || {
        let again = gateway.charge("order-1", "{}").await?;
        Ok((code(&again) != "in-progress").then_some(again))
    });
    let again = again.await?;
    ensure!(again.status == 201 && again.body == b"done", "{again:?}");
    let told: Vec<_> = upstream
        .arrived()
        .iter()
        .map(|arrived| {
            let header = |name| arrived.header(name).unwrap_or_default().to_owned();
            (header("holdfast-attempt"), header("holdfast-possible-duplicate"))
        })
        .collect();
    let expected = [("1", ""), ("2", "true")].map(|(one, other)| (one.to_owned(), other.to_owned()));
    ensure!(told == expected, "{told:?}");
    let page = http::get(gateway.admin, "/metrics").await?;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    ensure!(page.contains("\nholdfast_gateway_retry_success_after_timeout_total 1\n"), "{page}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_sent_is_given_back_and_its_retry_runs() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    drop(listener);
    let gateway = Gateway::configured(&place, &file(address, ""), &["--severity", "critical"]).await?;
    let first = gateway.charge("order-1", "{}").await?;
    ensure!(first.status == 502 && code(&first) == "upstream-unreachable", "{first:?}");
    ensure!(first.header("idempotency-status") == Some("released"), "{first:?}");
    let listener = TcpListener::bind(address).await?;
    let upstream = Upstream::listen(listener, |_, _| Act::Answer(answer("201 Created", &[], "done")))?;
    let again = gateway.charge("order-1", "{}").await?;
    ensure!(again.status == 201 && again.header("idempotency-status") == Some("executed"), "{again:?}");
    ensure!(upstream.effects() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_hangs_up_stops_nothing_and_its_retry_gets_the_answer() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let may = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&may);
    let upstream = Upstream::start(move |number, _| {
        Act::AnswerWhen(Arc::clone(&waits), answer("201 Created", &[], &format!("effect {number}")))
    })
    .await?;
    let gateway = Gateway::embedded(&place, upstream.address, &[]).await?;
    let mut caller = tokio::net::TcpStream::connect(gateway.address).await?;
    let head = "POST /v1/charges HTTP/1.1\r\nhost: a\r\nidempotency-key: k\r\ncontent-length: 2\r\n\r\n{}";
    caller.write_all(head.as_bytes()).await?;
    until("it arrived", Duration::from_secs(20), async || Ok((upstream.effects() == 1).then_some(()))).await?;
    drop(caller);
    may.add_permits(1);
    let again = gateway.send("POST /v1/charges", &["idempotency-key: k"], "{}").await?;
    ensure!(again.status == 201 && again.body == b"effect 1", "{again:?}");
    ensure!(again.header("idempotent-replayed") == Some("true") && upstream.effects() == 1, "{again:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_to_the_address_that_serves_and_again_where_the_upstream_allows_it() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let dead = listener.local_addr()?;
    drop(listener);
    let upstream = Upstream::start(|number, _| match number {
        7 => Act::AnswerAndClose(Vec::new()),
        8 => Act::Answer(answer("503 Service Unavailable", &["retry-after: 0"], "")),
        _ => Act::Answer(answer("200 OK", &[], "done")),
    })
    .await?;
    let lines = format!(
        "upstream_idempotent = true\n[[route]]\npath = \"/two\"\nupstream = [\"http://{dead}\", \"http://{}\"]",
        upstream.address
    );
    let gateway = Gateway::configured(&place, &file(upstream.address, &lines), &[]).await?;
    for key in 0..6 {
        let key = format!("idempotency-key: {key}");
        let answer = gateway.send("POST /two", &[&key], "{}").await?;
        ensure!(answer.status == 200 && answer.header("idempotency-status") == Some("executed"), "{answer:?}");
    }
    let answer = gateway.charge("k", "{}").await?;
    ensure!(answer.status == 200 && answer.body == b"done" && upstream.effects() == 9, "{answer:?}");
    let page = String::from_utf8_lossy(&http::get(gateway.admin, "/metrics").await?.body).into_owned();
    for line in [
        "holdfast_gateway_upstream_failures_total{route=\"charges\",failure=\"broken\"} 1\n",
        "holdfast_gateway_upstream_failures_total{route=\"charges\",failure=\"answered\"} 1\n",
        "holdfast_gateway_upstream_tries_total{route=\"charges\",try=\"again\"} 2\n",
        "holdfast_gateway_requests_total{route=\"charges\",verdict=\"executed\"} 1\n",
        "holdfast_gateway_in_flight 0\n",
    ] {
        ensure!(page.contains(line), "{line}\n{page}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_without_its_store_refuses_what_it_cannot_protect_and_passes_the_rest() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let (place, upstream) = (Place::new()?, Upstream::counting().await?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let nobody = listener.local_addr()?.to_string();
    drop(listener);
    let url = format!("http://{}", upstream.address);
    let gateway = Gateway::start(&place, &["--upstream", &url, "--nodes", &nobody]).await?;
    let refused = gateway.charge("k", "{}").await?;
    ensure!(refused.status == 503 && code(&refused) == "store-unavailable" && upstream.effects() == 0, "{refused:?}");
    ensure!(gateway.send("GET /v1/charges", &[], "").await?.status == 201);
    ensure!(gateway.output().contains("every endpoint is of severity high, and fails closed"), "{}", gateway.output());
    let health = http::get(gateway.admin, "/healthz").await?;
    ensure!(health.status == 200 && health.json()?["store"]["reachable"] == false, "{health:?}");
    gateway.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_a_key_is_sent_once_and_a_key_whose_first_try_broke_is_not_given_back() -> anyhow::Result<()>
{
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let upstream = Upstream::start(|number, _| match number {
        // It may have done it each time; what it says of the second try it says of that alone.
        1 | 2 => Act::AnswerAndClose(Vec::new()),
        3 => Act::Answer(answer("425 Too Early", &[], "not now")),
        _ => Act::Answer(answer("201 Created", &[], "done")),
    })
    .await?;
    let text = file(upstream.address, "upstream_idempotent = true\n");
    let gateway = Gateway::configured(&place, &text, &["--severity", "critical"]).await?;
    let keyless = gateway.send("POST /v1/charges", &[], "{}").await?;
    ensure!(keyless.status == 502 && code(&keyless) == "upstream-broken" && upstream.effects() == 1, "{keyless:?}");
    let early = gateway.charge("k", "{}").await?;
    ensure!(early.status == 425 && upstream.effects() == 3, "{early:?}");
    ensure!(early.header("idempotency-status") == Some("unknown"), "it was not given back: {early:?}");
    let again = gateway.send("POST /v1/charges", &["idempotency-key: k"], "{}").await?;
    ensure!(again.status == 409 && upstream.effects() == 3, "{again:?}");
    gateway.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_request_says_that_it_is_and_an_answer_that_nobody_asked_for_is_none() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let upstream = Upstream::start(|number, _| match number {
        1 => Act::Answer(answer("201 Created", &[], "done")),
        _ => Act::Answer(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".to_vec()),
    })
    .await?;
    let gateway = Gateway::configured(&place, &file(upstream.address, ""), &[]).await?;
    let empty = gateway.charge("a", "").await?;
    ensure!(empty.status == 201, "{empty:?}");
    let arrived = upstream.arrived();
    ensure!(arrived.first().is_some_and(|first| first.header("content-length") == Some("0")), "{arrived:?}");
    let switched = gateway.charge("b", "{}").await?;
    ensure!(switched.status == 502 && code(&switched) == "upstream-broken", "{switched:?}");
    gateway.stop().await
}
