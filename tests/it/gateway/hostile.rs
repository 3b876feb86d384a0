//! What does not pass: requests that another server might read otherwise, and more of them than there is room for.

use anyhow::ensure;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::process::Gateway;
use super::upstream::{Act, Upstream, answer};
use super::{code, file};
use crate::harness::{self, Place};
use crate::http::{self, DEADLINE};

/// The status of what comes back first; 0 for a connection that is closed without any.
async fn status(gateway: &Gateway, request: &[u8]) -> anyhow::Result<u16> {
    let mut stream = TcpStream::connect(gateway.address).await?;
    stream.write_all(request).await?;
    let mut bytes = Vec::new();
    // A connection that goes on is of no interest after the first line.
    while !bytes.contains(&b'\n') && tokio::time::timeout(DEADLINE, stream.read_buf(&mut bytes)).await?? > 0 {}
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_be_read_in_two_ways_is_refused() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let (place, upstream) = (Place::new()?, Upstream::counting().await?);
    let gateway = Gateway::embedded(&place, upstream.address, &[]).await?;
    for request in [
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4, 5\r\n\r\nabcde",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4, 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nhost: a\r\nx-a: 1\r\n folded\r\ncontent-length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\nx-a: 1\rx\r\ncontent-length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\nx-a: \0\r\ncontent-length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\nx-a : 1\r\ncontent-length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\nhost: b\r\ncontent-length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a b\r\ncontent-length: 0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        let status = status(&gateway, request.as_bytes()).await?;
        ensure!(status == 400, "{request:?}: {status}");
    }
    ensure!(status(&gateway, b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n").await? == 405);
    ensure!(upstream.effects() == 0, "{:?}", upstream.arrived());
    Ok(())
}

/// A protocol that requests could hide in is not switched to, and asking for one is no way around the layer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_but_a_websocket_is_switched_to() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let (place, upstream) = (Place::new()?, Upstream::counting().await?);
    let gateway = Gateway::embedded(&place, upstream.address, &[]).await?;
    for (first, upgrade) in [("GET /a", "h2c"), ("POST /a", "websocket"), ("POST /a", "websocket")] {
        let request = format!(
            "{first} HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\nupgrade: {upgrade}\r\nidempotency-key: k\r\n\
             content-length: 0\r\n\r\n"
        );
        let answer = http::exchange(gateway.address, request.as_bytes(), DEADLINE).await?;
        ensure!(answer.status == 201, "{answer:?}");
    }
    let arrived = upstream.arrived();
    ensure!(arrived.iter().all(|arrived| arrived.header("upgrade").is_none()), "{arrived:?}");
    ensure!(arrived.len() == 2, "the POST ran once, and was replayed");
    Ok(())
}

/// Sends this on one connection that stays open, and reads until the gateway closes it. How many answers came.
async fn answers(gateway: &Gateway, requests: &str) -> anyhow::Result<usize> {
    let mut stream = TcpStream::connect(gateway.address).await?;
    stream.write_all(requests.as_bytes()).await?;
    let mut bytes = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut bytes)).await??;
    Ok(String::from_utf8_lossy(&bytes).matches("HTTP/1.1 ").count())
}

/// The HTTP library takes chunks before a length, and closes the connection after the answer (RFC 9112 section 6.1): what a proxy
/// before the gateway took for the end of the body is no request. The client asks for nothing to be closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_request_with_two_lengths_is_no_request() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let (place, upstream) = (Place::new()?, Upstream::counting().await?);
    let gateway = Gateway::embedded(&place, upstream.address, &[]).await?;
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    for head in ["content-length: 40\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 40"]
    {
        let request = format!("POST /both HTTP/1.1\r\nhost: a\r\n{head}\r\n\r\n{smuggled}");
        let count = answers(&gateway, &request).await?;
        ensure!(count == 1, "{head}: {count} answers");
    }
    let arrived = upstream.arrived();
    ensure!(arrived.len() <= 2 && arrived.iter().all(|one| one.head.starts_with("POST /both ")), "{arrived:?}");
    for arrived in arrived {
        let lengths =
            arrived.head.lines().filter(|line| line.starts_with("content-length") || line.starts_with("transfer-"));
        ensure!(lengths.count() <= 1 && arrived.body.is_empty(), "{}", arrived.head);
    }
    Ok(())
}

/// RFC 9110 section 8.6 allows equal lengths to be taken for one. They end where one would, and one goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_that_is_said_twice_is_one_length() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let (place, upstream) = (Place::new()?, Upstream::counting().await?);
    let gateway = Gateway::embedded(&place, upstream.address, &[]).await?;
    let twice = "POST /twice HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nabcde";
    let next = "GET /next HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    ensure!(answers(&gateway, &format!("{twice}{next}")).await? == 2);
    let arrived = upstream.arrived();
    let [first, second] = arrived.as_slice() else { anyhow::bail!("{arrived:?}") };
    ensure!(first.header("content-length") == Some("5") && first.body == b"abcde", "{first:?}");
    ensure!(second.head.starts_with("GET /next ") && second.body.is_empty(), "{second:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_route_or_a_head_that_is_too_large_goes_nowhere() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let (place, upstream) = (Place::new()?, Upstream::counting().await?);
    let text = format!(
        "[[route]]\npath = \"/v1/charges\"\nmethods = [\"POST\"]\nupstream = [\"http://{}\"]",
        upstream.address
    );
    let gateway = Gateway::configured(&place, &text, &[]).await?;
    let unknown = gateway.send("GET /v1/charges", &[], "").await?;
    ensure!(unknown.status == 404 && code(&unknown) == "route-unknown", "{unknown:?}");
    let large = format!("x-large: {}", "x".repeat(64 * 1024));
    ensure!(gateway.send("POST /v1/charges", &[&large], "{}").await.map_or(0, |answer| answer.status) == 431);
    ensure!(upstream.effects() == 0 && gateway.charge("k", "{}").await?.status == 201);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_gets_no_more_than_it_may_have() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let upstream = Upstream::start(|number, _| match number {
        1 => Act::Hang,
        _ => Act::Answer(answer("200 OK", &[], "")),
    })
    .await?;
    let gateway = Gateway::configured(&place, &file(upstream.address, "max_in_flight = 1"), &[]).await?;
    let mut first = TcpStream::connect(gateway.address).await?;
    first.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    let arrived = async || Ok((upstream.effects() == 1).then_some(()));
    harness::until("the first arrived", DEADLINE, arrived).await?;
    let refused = gateway.charge("k", "{}").await?;
    ensure!(refused.status == 503 && code(&refused) == "gateway-overloaded", "{refused:?}");
    ensure!(refused.header("idempotency-status") == Some("released"), "{refused:?}");
    drop(first);
    let page = async || {
        let page = http::get(gateway.admin, "/metrics").await?;
        let idle = "holdfast_gateway_upstream_in_flight{route=\"charges\"} 0\n";
        Ok(String::from_utf8_lossy(&page.body).contains(idle).then_some(()))
    };
    harness::until("its caller is gone, and it is given up", DEADLINE, page).await?;
    ensure!(gateway.charge("k", "{}").await?.status == 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let (place, upstream) = (Place::new()?, Upstream::start(|_, _| Act::Hang).await?);
    let mut gateway = Gateway::embedded(&place, upstream.address, &[]).await?;
    let mut caller = TcpStream::connect(gateway.address).await?;
    caller.write_all(b"POST / HTTP/1.1\r\nhost: a\r\nidempotency-key: k\r\ncontent-length: 0\r\n\r\n").await?;
    let arrived = async || Ok((upstream.effects() == 1).then_some(()));
    harness::until("it arrived", DEADLINE, arrived).await?;
    gateway.signal(Signal::TERM)?;
    let told = async || Ok(gateway.output().contains("shutting down").then_some(()));
    harness::until("it heard the signal", DEADLINE, told).await?;
    gateway.signal(Signal::TERM)?;
    ensure!(gateway.ended().await?.code() == Some(130));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_come_is_not_waited_for() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let (place, upstream) = (Place::new()?, Upstream::counting().await?);
    let text = format!("body_idle = \"200ms\"\n{}", file(upstream.address, ""));
    let gateway = Gateway::configured(&place, &text, &[]).await?;
    let slow = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n";
    ensure!(status(&gateway, format!("{slow}\r\nabc").as_bytes()).await? == 502, "some of it may have been sent");
    ensure!(status(&gateway, format!("{slow}idempotency-key: k\r\n\r\nabc").as_bytes()).await? == 400);
    let page = String::from_utf8_lossy(&http::get(gateway.admin, "/metrics").await?.body).into_owned();
    let line = "holdfast_gateway_upstream_failures_total{route=\"charges\",failure=\"request\"} 1\n";
    ensure!(page.contains(line), "it is not the upstream's: {page}");
    ensure!(upstream.effects() == 0);
    Ok(())
}
