//! What an upstream may still be working on when nobody waits for it any more, and what of a failed try is tried again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::process::Gateway;
use super::upstream::{Act, Upstream, answer};
use super::{code, file};
use crate::clock;
use crate::harness::{self, Place, until};
use crate::http::{self, DEADLINE};

/// The upstream is slow, and finishes after its time: until it may be taken for done, no retry runs beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_does_not_run_while_a_slow_upstream_may_still_work() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let may = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&may);
    let upstream = Upstream::start(move |number, _| match number {
        1 => Act::AnswerWhen(Arc::clone(&waits), answer("201 Created", &[], "late")),
        _ => Act::Answer(answer("201 Created", &[], "again")),
    })
    .await?;
    // Whoever is granted a lapsed key runs it again: the default of severity high.
    let lines = "upstream_timeout = \"2s\"\nlease = \"300ms\"\nwait = \"0ms\"";
    let gateway = Gateway::configured(&place, &file(upstream.address, lines), &[]).await?;
    let first = gateway.charge("order-1", "{}").await?;
    let told = clock::now();
    ensure!(first.status == 504 && first.header("idempotency-status") == Some("unknown"), "{first:?}");
    let again = gateway.charge("order-1", "{}").await?;
    ensure!(code(&again) == "in-progress" && upstream.effects() == 1, "{again:?}");
    // It finishes now, which nobody hears.
    may.add_permits(1);
    let again = until("its key has lapsed", DEADLINE, async || {
        let again = gateway.charge("order-1", "{}").await?;
        Ok((code(&again) != "in-progress").then_some(again))
    });
    let again = again.await?;
    let kept = clock::now().saturating_sub(told);
    ensure!(kept >= Duration::from_millis(1_500), "it was kept for {kept:?}, and the upstream's time is 2 s");
    ensure!(again.status == 201 && again.body == b"again" && upstream.effects() == 2, "{again:?}");
    let arrived = upstream.arrived();
    let duplicate = arrived.last().and_then(|last| last.header("holdfast-possible-duplicate"));
    ensure!(duplicate == Some("true"), "{arrived:?}");
    gateway.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_budget_nothing_is_sent_again() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let dead = listener.local_addr()?;
    drop(listener);
    let upstream = Upstream::counting().await?;
    let lines = format!(
        "retry = {{ attempts = 3, budget_ratio = 0.0, budget_per_second = 0.0 }}\n[[route]]\npath = \"/two\"\nendpoint = \
         \"two\"\nupstream = [\"http://{dead}\", \"http://{}\"]",
        upstream.address
    );
    let gateway = Gateway::configured(&place, &file(dead, &lines), &[]).await?;
    let refused = gateway.charge("k", "{}").await?;
    ensure!(refused.status == 502 && code(&refused) == "upstream-unreachable", "{refused:?}");
    ensure!(refused.header("idempotency-status") == Some("released"), "{refused:?}");
    // A route beside it has a budget of its own.
    let served = gateway.send("POST /two", &["idempotency-key: two"], "{}").await?;
    ensure!(served.status == 201 && upstream.effects() == 1, "{served:?}");
    let page = String::from_utf8_lossy(&http::get(gateway.admin, "/metrics").await?.body).into_owned();
    for line in [
        "holdfast_gateway_retry_budget_exhausted_total{route=\"charges\"} 1\n",
        "holdfast_gateway_upstream_tries_total{route=\"charges\",try=\"first\"} 1\n",
        "holdfast_gateway_upstream_tries_total{route=\"two\",try=\"again\"} 1\n",
    ] {
        ensure!(page.contains(line), "{line}\n{page}");
    }
    ensure!(!page.contains("retry_budget_exhausted_total{route=\"two\"}"), "{page}");
    gateway.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_is_told_only_what_the_settings_say() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let (place, upstream) = (Place::new()?, Upstream::counting().await?);
    let text = format!("propagate = false\nforwarded = \"replace\"\n{}", file(upstream.address, ""));
    let gateway = Gateway::configured(&place, &text, &[]).await?;
    let pretended = [
        "idempotency-key: k",
        "x-forwarded-for: 10.9.9.9",
        "x-forwarded-proto: https",
        "x-forwarded-host: evil.example",
        "forwarded: for=10.9.9.9",
    ];
    let answer = gateway.send("POST /v1/charges", &pretended, "{}").await?;
    ensure!(answer.status == 201 && answer.header("idempotency-status") == Some("executed"), "{answer:?}");
    let arrived = upstream.arrived();
    let [first] = arrived.as_slice() else { anyhow::bail!("{arrived:?}") };
    for (name, value) in [
        ("idempotency-key", Some("k")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some("shop.example")),
        ("forwarded", Some("for=127.0.0.1;host=\"shop.example\";proto=http")),
        ("holdfast-fencing-token", None),
        ("holdfast-attempt", None),
        ("correlation-id", None),
        ("traceparent", None),
    ] {
        ensure!(first.header(name) == value, "{name}: {}", first.head);
    }
    gateway.stop().await
}
