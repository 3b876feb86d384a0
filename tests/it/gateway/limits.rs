//! What is bounded: bytes that are held, connections that have switched, the time of a stop.

use std::time::Duration;

use anyhow::ensure;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::process::Gateway;
use super::upstream::{Act, Upstream, answer};
use super::{code, file};
use crate::clock;
use crate::harness::{self, Place, until};
use crate::http::{self, DEADLINE};

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
const ASK: &str = "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n";

/// Whether the page of metrics has this line by now.
async fn counted(gateway: &Gateway, line: &str) -> anyhow::Result<()> {
    let line = format!("{line}\n");
    until(&line, DEADLINE, async || {
        let page = http::get(gateway.admin, "/metrics").await?;
        Ok(String::from_utf8_lossy(&page.body).contains(&line).then_some(()))
    })
    .await
}

/// Opens a connection and sends this on it.
async fn open(gateway: &Gateway, bytes: &[u8]) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(gateway.address).await?;
    stream.write_all(bytes).await?;
    Ok(stream)
}

/// Reads the head of an answer.
async fn head(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = tokio::time::timeout(DEADLINE, stream.read_buf(&mut head)).await??;
        ensure!(read > 0, "it ended after {:?}", String::from_utf8_lossy(&head));
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Requests that come slowly hold what has come of them: there is an end to that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_requests_have_room_for_so_many_bytes() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let (place, upstream) = (Place::new()?, Upstream::counting().await?);
    let text = format!("max_held_bytes = 1048576\n{}", file(upstream.address, ""));
    let gateway = Gateway::configured(&place, &text, &[]).await?;
    let mut slow = Vec::new();
    for key in 0..4 {
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\nidempotency-key: {key}\r\ncontent-length: 250001\r\n\r\n");
        slow.push(open(&gateway, &[head.as_bytes(), &vec![b'x'; 250_000]].concat()).await?);
    }
    counted(&gateway, "holdfast_gateway_held_bytes 1000000").await?;
    let large = "x".repeat(100_000);
    let refused = gateway.charge("large", &large).await?;
    ensure!(refused.status == 503 && code(&refused) == "gateway-overloaded", "{refused:?}");
    ensure!(refused.header("retry-after") == Some("1") && upstream.effects() == 0, "{refused:?}");
    let small = gateway.charge("small", "{}").await?;
    ensure!(small.status == 201, "what has room is served: {small:?}");

    // Whoever goes gives back what it held, and so does whoever is answered.
    let ended = slow.pop();
    drop(ended);
    counted(&gateway, "holdfast_gateway_held_bytes 750000").await?;
    let served = gateway.charge("large", &large).await?;
    ensure!(served.status == 201, "{served:?}");
    for stream in &mut slow {
        stream.write_all(b"x").await?;
        ensure!(head(stream).await?.starts_with("HTTP/1.1 201 "));
    }
    counted(&gateway, "holdfast_gateway_held_bytes 0").await?;
    gateway.stop().await
}

/// A request that is executed for nobody any more does not keep a gateway from stopping.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_so_long_and_says_what_it_left() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let (place, upstream) = (Place::new()?, Upstream::start(|_, _| Act::Hang).await?);
    let text = format!("drain = \"100ms\"\nsettle = \"300ms\"\n{}", file(upstream.address, ""));
    let mut gateway = Gateway::configured(&place, &text, &[]).await?;
    let request = b"POST / HTTP/1.1\r\nhost: a\r\nidempotency-key: k\r\ncontent-length: 0\r\n\r\n";
    let caller = open(&gateway, request).await?;
    until("it arrived", DEADLINE, async || Ok((upstream.effects() == 1).then_some(()))).await?;
    drop(caller);
    let asked = clock::now();
    gateway.signal(Signal::TERM)?;
    let status = gateway.ended().await?;
    let (output, took) = (gateway.output(), clock::now().saturating_sub(asked));
    ensure!(status.success() && took >= Duration::from_millis(300), "{status} after {took:?}: {output}");
    let told = output.lines().find(|line| line.contains("executions that are not over")).unwrap_or_default();
    ensure!(told.contains("open=1"), "{output}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_take_no_place_of_requests_and_have_a_bound_of_their_own() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let upstream = Upstream::start(|_, arrived| match arrived.header("upgrade") {
        Some(_) => Act::Echo(SWITCH.as_bytes().to_vec()),
        None => Act::Answer(answer("200 OK", &[], "")),
    })
    .await?;
    let text = format!("max_tunnels = 1\n{}", file(upstream.address, "max_in_flight = 1"));
    let gateway = Gateway::configured(&place, &text, &[]).await?;
    let ask = format!("{ASK}\r\n");
    let mut first = open(&gateway, ask.as_bytes()).await?;
    ensure!(head(&mut first).await?.starts_with("HTTP/1.1 101 "));
    counted(&gateway, "holdfast_gateway_tunnels 1").await?;
    let served = gateway.charge("k", "{}").await?;
    ensure!(served.status == 200, "it has a place at the upstream: {served:?}");
    let mut second = open(&gateway, ask.as_bytes()).await?;
    let refused = head(&mut second).await?;
    ensure!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: 1\r\n"), "{refused}");
    drop(first);
    counted(&gateway, "holdfast_gateway_tunnels 0").await?;
    let mut third = open(&gateway, ask.as_bytes()).await?;
    ensure!(head(&mut third).await?.starts_with("HTTP/1.1 101 "));
    gateway.stop().await
}

/// What the layer would have protected does not pass beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_is_no_way_around_protection() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let upstream = Upstream::start(|_, _| Act::Echo(SWITCH.as_bytes().to_vec())).await?;
    let lines = format!(
        "stage = \"required\"\n[[route]]\npath = \"/free\"\nstage = \"off\"\nupstream = [\"http://{}\"]",
        upstream.address
    );
    let text = format!("protect = [\"GET\", \"POST\"]\n{}", file(upstream.address, &lines));
    let gateway = Gateway::configured(&place, &text, &[]).await?;
    for (lines, expected) in [("", "key-missing"), ("idempotency-key: k\r\n", "request-refused")] {
        let ask = format!("{ASK}connection: close\r\n{lines}\r\n");
        let answer = http::exchange(gateway.address, ask.as_bytes(), DEADLINE).await?;
        ensure!(answer.status == 400 && code(&answer) == expected, "{answer:?}");
    }
    ensure!(upstream.effects() == 0, "{:?}", upstream.arrived());
    let free = format!("{}\r\n", ASK.replace("/chat", "/free"));
    ensure!(head(&mut open(&gateway, free.as_bytes()).await?).await?.starts_with("HTTP/1.1 101 "));
    gateway.stop().await
}

/// A changed file makes no room that there is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_counts_after_a_reload() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let upstream = Upstream::start(|number, _| match number {
        1 => Act::Hang,
        _ => Act::Answer(answer("200 OK", &[], "")),
    })
    .await?;
    let gateway = Gateway::configured(&place, &file(upstream.address, "max_in_flight = 1"), &[]).await?;
    let first = open(&gateway, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    until("the first arrived", DEADLINE, async || Ok((upstream.effects() == 1).then_some(()))).await?;
    let changed = file(upstream.address, "max_in_flight = 1\nwait = \"1s\"");
    std::fs::write(place.root().join("gateway.toml"), changed)?;
    gateway.signal(Signal::HUP)?;
    let told = async || Ok(gateway.output().contains("going by the changed settings").then_some(()));
    until("it is followed", DEADLINE, told).await?;
    counted(&gateway, "holdfast_gateway_upstream_in_flight{route=\"charges\"} 1").await?;
    let refused = gateway.send("GET /", &[], "").await?;
    ensure!(refused.status == 503 && code(&refused) == "gateway-overloaded", "{refused:?}");
    drop(first);
    counted(&gateway, "holdfast_gateway_upstream_in_flight{route=\"charges\"} 0").await?;
    ensure!(gateway.send("GET /", &[], "").await?.status == 200);
    gateway.stop().await
}
