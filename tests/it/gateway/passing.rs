//! What passes: byte for byte what the upstream says, in whatever form it says it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::file;
use super::process::Gateway;
use super::upstream::{Act, Upstream, answer};
use crate::harness::{self, Place};
use crate::http::{self, DEADLINE};

/// Sends bytes, and reads all that comes back.
async fn raw(gateway: &Gateway, request: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(gateway.address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut bytes)).await??;
    Ok(bytes)
}

/// A line of an answer's head that says what was done with the key, or that is never replayed.
fn is_of_one_answer(line: &str) -> bool {
    ["idempotency-status: ", "idempotent-replayed: ", "set-cookie: ", "date: "]
        .iter()
        .any(|name| line.starts_with(name))
}

/// The lines of an answer's head, sorted, but for those that may differ; and its body as it was framed.
fn compared(bytes: &[u8]) -> anyhow::Result<(Vec<String>, Vec<u8>)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").context("the head has no end")?;
    let (head, body) = bytes.split_at(end);
    let head = std::str::from_utf8(head)?;
    let mut lines: Vec<String> = head.split("\r\n").filter(|line| !is_of_one_answer(line)).map(str::to_owned).collect();
    lines.sort();
    Ok((lines, body.to_vec()))
}

/// Answers by the path's last segment.
fn forms(path: &str) -> Act {
    let gzip: &[u8] = &[0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0, 3, 0x4b, 0x04, 0, 0x43, 0xbe, 0xb7, 0xe8, 1, 0, 0, 0];
    let mut zipped = format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", gzip.len());
    Act::Answer(match path {
        "repeated" => answer("200 OK", &["set-cookie: a=1", "set-cookie: b=2", "x-a: 1", "x-a: 2"], "body"),
        "gzip" => [zipped.as_bytes(), gzip].concat(),
        "head" => {
            zipped.clear();
            b"HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n".to_vec()
        }
        "none" => b"HTTP/1.1 204 No Content\r\nx-none: 1\r\n\r\n".to_vec(),
        "unchanged" => b"HTTP/1.1 304 Not Modified\r\netag: \"7\"\r\n\r\n".to_vec(),
        "empty" => answer("200 OK", &[], ""),
        "closed" => return Act::AnswerAndClose(answer("409 Conflict", &["x-a: 1", "connection: close"], "no")),
        "old" => return Act::AnswerAndClose(b"HTTP/1.0 200 OK\r\n\r\nuntil the end".to_vec()),
        "chunked" => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n"
            .to_vec(),
        _ => answer("404 Not Found", &["x-path: unknown"], path),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_of_an_answer_passes() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let upstream = Upstream::start(|_, arrived| {
        let path = arrived.head.split(' ').nth(1).unwrap_or_default();
        forms(path.trim_start_matches('/'))
    })
    .await?;
    let gateway = Gateway::embedded(&place, upstream.address, &[]).await?;
    for (first, parts) in [
        (
            "GET /repeated",
            &["set-cookie: a=1\r\n", "set-cookie: b=2\r\n", "x-a: 1\r\n", "x-a: 2\r\n", "\r\n\r\nbody"][..],
        ),
        ("HEAD /head", &["HTTP/1.1 200 OK\r\n", "content-length: 12345\r\n"]),
        ("GET /none", &["HTTP/1.1 204 No Content\r\n", "x-none: 1\r\n"]),
        ("GET /unchanged", &["HTTP/1.1 304 Not Modified\r\n", "etag: \"7\"\r\n"]),
        ("GET /empty", &["HTTP/1.1 200 OK\r\n", "content-length: 0\r\n"]),
        ("GET /chunked", &["transfer-encoding: chunked\r\n", "abc", "de", "\r\n0\r\nx-sum: 5\r\n\r\n"]),
        ("GET /old", &["HTTP/1.1 200 OK\r\n", "until the end"]),
        ("GET /else", &["HTTP/1.1 404 Not Found\r\n", "x-path: unknown\r\n", "\r\n\r\nelse"]),
    ] {
        let request = format!("{first} HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close\r\n\r\n");
        let bytes = raw(&gateway, &request).await?;
        let text = String::from_utf8_lossy(&bytes);
        for part in parts {
            ensure!(text.contains(part), "{first}: {part:?} is not in {text:?}");
        }
    }
    let Act::Answer(expected) = forms("gzip") else { anyhow::bail!("no answer") };
    for _ in 0..2 {
        let answer = gateway.send("POST /gzip", &["idempotency-key: zipped"], "{}").await?;
        let (body, encoding) = (answer.body.as_slice(), answer.header("content-encoding"));
        ensure!(expected.ends_with(body) && body.len() == 21 && encoding == Some("gzip"), "{answer:?}");
    }
    ensure!(upstream.arrived().iter().filter(|arrived| arrived.head.starts_with("POST")).count() == 1);
    Ok(())
}

/// What is stored is given again as it was: the same head, but for what is of one answer, the same framing, the same bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_of_an_answer_is_replayed_as_it_was() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let upstream = Upstream::start(|_, arrived| {
        let path = arrived.head.split(' ').nth(1).unwrap_or_default();
        forms(path.trim_start_matches('/'))
    })
    .await?;
    let lines = "headers = [\"x-a\", \"x-none\", \"x-path\", \"x-sum\", \"etag\", \"content-encoding\"]\nstatuses = [\"2xx\", \
                 \"3xx\", \"4xx\"]";
    let gateway = Gateway::configured(&place, &file(upstream.address, lines), &[]).await?;
    let forms = ["repeated", "gzip", "none", "unchanged", "empty", "old", "chunked", "closed", "else"];
    for form in forms {
        // The body comes in chunks, with a trailer of its own.
        let request = format!(
            "POST /{form} HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close\r\nidempotency-key: {form}\r\n\
             transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 3\r\n\r\n"
        );
        let (first, again) = (raw(&gateway, &request).await?, raw(&gateway, &request).await?);
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(shown(&first).contains("idempotency-status: executed\r\n"), "{}", shown(&first));
        ensure!(shown(&again).contains("idempotent-replayed: true\r\n"), "{}", shown(&again));
        ensure!(compared(&first)? == compared(&again)?, "{form}:\n{}\n{}", shown(&first), shown(&again));
        ensure!(form != "chunked" || shown(&again).ends_with("\r\n0\r\nx-sum: 5\r\n\r\n"), "{}", shown(&again));
    }
    let arrived = upstream.arrived();
    ensure!(arrived.len() == forms.len(), "{} requests", arrived.len());
    ensure!(arrived.iter().all(|one| one.body == b"abc" && one.trailers == "x-sum: 3\r\n"), "{arrived:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunked_request_and_its_trailers_pass() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let (place, upstream) = (Place::new()?, Upstream::counting().await?);
    let gateway = Gateway::embedded(&place, upstream.address, &[]).await?;
    let request = "PUT /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                   3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n";
    let bytes = raw(&gateway, request).await?;
    ensure!(bytes.starts_with(b"HTTP/1.1 201 Created\r\n"), "{}", String::from_utf8_lossy(&bytes));
    let arrived = upstream.arrived();
    let Some(arrived) = arrived.first() else { anyhow::bail!("nothing arrived") };
    ensure!(arrived.body == b"abcde" && arrived.trailers == "x-sum: 5\r\n", "{arrived:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_larger_than_is_held_streams_through_and_is_executed_once() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let large = "x".repeat(3_000_000);
    let sent = large.clone();
    let upstream = Upstream::start(move |_, _| Act::Answer(answer("201 Created", &[], &sent))).await?;
    let gateway = Gateway::embedded(&place, upstream.address, &[]).await?;
    let first = gateway.charge("large", &large).await?;
    ensure!(first.status == 201 && first.body.len() == large.len(), "{}", first.status);
    ensure!(first.header("idempotency-replay-unavailable") == Some("size-exceeded"));
    ensure!(upstream.arrived().first().is_some_and(|arrived| arrived.body == large.as_bytes()));
    let again = gateway.charge("large", &large).await?;
    ensure!(again.status == 409 && super::code(&again) == "replay-unavailable" && upstream.effects() == 1, "{again:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_breaks_off() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this".to_vec();
    let upstream = Upstream::start(move |_, _| Act::AnswerAndClose(cut.clone())).await?;
    let gateway = Gateway::embedded(&place, upstream.address, &["--severity", "critical"]).await?;
    for line in ["x-no: key", "idempotency-key: k"] {
        let request = format!("POST /a HTTP/1.1\r\nhost: a\r\n{line}\r\ncontent-length: 0\r\n\r\n");
        // Less than the time that a connection without a request has: the answer's end is the connection's.
        let bytes = tokio::time::timeout(Duration::from_secs(5), raw(&gateway, &request)).await??;
        let text = String::from_utf8_lossy(&bytes);
        ensure!(text.contains("content-length: 100\r\n") && text.ends_with("only this"), "{text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_as_they_are_sent() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n".to_vec();
    // It echoes: what the test sends comes as another event.
    let upstream = Upstream::start(move |_, _| Act::Echo(head.clone())).await?;
    let gateway = Gateway::embedded(&place, upstream.address, &[]).await?;
    let mut stream = TcpStream::connect(gateway.address).await?;
    let request = "POST /events HTTP/1.1\r\nhost: a\r\nidempotency-key: k\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut seen = Vec::new();
    let first = async {
        while !seen.windows(9).any(|window| window == b"data: 1\n\n") {
            anyhow::ensure!(stream.read_buf(&mut seen).await? > 0, "it ended");
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(10), first).await??;
    let text = String::from_utf8_lossy(&seen).into_owned();
    ensure!(text.contains("idempotency-replay-unavailable: streaming\r\n"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_passes_and_ends_with_the_gateway() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n";
    let upstream = Upstream::start(move |_, _| Act::Echo(switch.as_bytes().to_vec())).await?;
    let gateway = Gateway::embedded(&place, upstream.address, &[]).await?;
    let mut stream = TcpStream::connect(gateway.address).await?;
    let request =
        "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut head).await? > 0, "it ended");
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    ensure!(head.starts_with("HTTP/1.1 101 ") && head.contains("sec-websocket-accept: x\r\n"), "{head}");
    for text in ["hello", "again"] {
        stream.write_all(text.as_bytes()).await?;
        let mut echoed = vec![0; text.len()];
        tokio::time::timeout(DEADLINE, stream.read_exact(&mut echoed)).await??;
        ensure!(echoed == text.as_bytes());
    }
    let arrived = upstream.arrived();
    ensure!(arrived.first().and_then(|arrived| arrived.header("upgrade")) == Some("websocket"), "{arrived:?}");
    gateway.stop().await?;
    let mut rest = Vec::new();
    let _reset = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await?;
    ensure!(rest.is_empty());
    Ok(())
}

/// HTTP/2 towards the client, between two gateways, and HTTP/1.1 to the upstream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_on_both_sides() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let (place, other, upstream) = (Place::new()?, Place::new()?, Upstream::counting().await?);
    let inner = Gateway::embedded(&place, upstream.address, &[]).await?;
    let outer = Gateway::configured(&other, &file(inner.address, "http2 = true"), &[]).await?;
    let stream = TokioIo::new(TcpStream::connect(outer.address).await?);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
    let mut driving = JoinSet::new();
    driving.spawn(async move {
        let _ended = connection.await;
    });
    for replayed in [None, Some("true")] {
        let request = ::http::Request::post("http://shop.example/v1/charges").header("idempotency-key", "k");
        let response = sender.send_request(request.body(Full::new(Bytes::from_static(b"{}")))?).await?;
        let (parts, body) = response.into_parts();
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        ensure!(parts.status == 201 && header("idempotent-replayed") == replayed, "{parts:?}");
        ensure!(body.collect().await?.to_bytes() == "effect 1");
    }
    let arrived = upstream.arrived();
    let Some(arrived) = arrived.first() else { anyhow::bail!("nothing arrived") };
    ensure!(arrived.header("via") == Some("2 holdfast, 2 holdfast"), "{}", arrived.head);
    ensure!(arrived.header("x-forwarded-host") == Some("shop.example") && upstream.effects() == 1, "{}", arrived.head);
    Ok(())
}

/// The answer of an observed request is the answer without the gateway's doing anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn observing_changes_no_byte() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let upstream = Upstream::start(|_, arrived| {
        let lines = ["x-a: 1", "x-a: 2", "idempotency-status: of the service", "date: Sun, 06 Nov 1994 08:49:37 GMT"];
        Act::Answer(answer("201 Created", &lines, &format!("{} {}", arrived.body.len(), arrived.trailers)))
    })
    .await?;
    let mut seen: Vec<Vec<Vec<u8>>> = Vec::new();
    for stage in ["off", "observe"] {
        let place = Place::new()?;
        let lines = format!("stage = \"{stage}\"");
        let gateway = Gateway::configured(&place, &file(upstream.address, &lines), &[]).await?;
        let mut answers = Vec::new();
        for (key, body) in [("k", "{}"), ("k", "{}"), ("k", "other"), ("not valid", "{}"), ("", "{}")] {
            let request = format!(
                "POST /v1/charges HTTP/1.1\r\nhost: a\r\nconnection: close\r\nidempotency-key: {key}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            answers.push(raw(&gateway, &request).await?);
        }
        let page = http::get(gateway.admin, "/metrics").await?;
        ensure!(String::from_utf8_lossy(&page.body).contains("verdict=\"passed\""), "it has no part in them");
        gateway.stop().await?;
        seen.push(answers);
    }
    ensure!(seen.first() == seen.last() && upstream.effects() == 10);
    // What it got is the same too.
    let heads: Vec<String> = upstream.arrived().into_iter().map(|arrived| arrived.head).collect();
    ensure!(heads.get(..5) == heads.get(5..), "{heads:?}");
    Ok(())
}
