//! What a node says to gRPC that is wrong, oversized or hostile: a status that blames the right side, with its details.
//!
//! Requests are made by hand over a plain HTTP/2 channel, so that a frame can be as wrong as it wants.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use holdfast_client::proto::v1 as api;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::ServiceExt as _;

use crate::api_hostile;
use crate::failure::Failure;

/// Bytes of the largest message, as documented: 1.25 MiB.
const MOST_MESSAGE_BYTES: usize = 1_280 * 1024;
const RESERVE: &str = "/holdfast.v1.Reservations/Reserve";

/// Runs every case.
pub(crate) async fn all(address: SocketAddr) -> anyhow::Result<()> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
    frames(&channel).await?;
    messages(&channel).await?;
    services(&channel).await?;
    reflection(&channel).await?;
    api_hostile::still_there(address).await
}

/// One message, framed.
fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[flag][..], &length.to_be_bytes(), message].concat()
}

/// Sends a body to a path and returns the status that came back, wherever it stood, and the message if there was one.
async fn send(
    channel: &Channel,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> anyhow::Result<(Status, Bytes)> {
    let mut request = http::Request::builder().method("POST").uri(path).header("te", "trailers");
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header("content-type", "application/grpc");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(tonic::body::Body::new(Full::new(Bytes::from(body))))?;
    let response = channel.clone().oneshot(request).await?;
    let (head, body) = response.into_parts();
    ensure!(head.status == 200, "{path}: HTTP status {}", head.status);
    let collected = body.collect().await?;
    let status = Status::from_header_map(&head.headers)
        .or_else(|| collected.trailers().and_then(Status::from_header_map))
        .with_context(|| format!("{path}: no grpc-status"))?;
    Ok((status, collected.to_bytes()))
}

fn check(what: &str, status: &Status, code: Code, reason: &str) -> anyhow::Result<()> {
    let failure = Failure::from_status(status);
    ensure!(status.code() == code && failure.code == reason, "{what}: {code:?} {reason} expected, {status:?} came");
    ensure!(failure.definite && !status.message().is_empty(), "{what}: {status:?}");
    Ok(())
}

fn reserve(key: &str) -> api::ReserveRequest {
    let kind = Some(api::fingerprint::Kind::Digest(Bytes::from_static(b"digest")));
    api::ReserveRequest {
        tenant: "acme".to_owned(),
        key: key.to_owned(),
        fingerprint: Some(api::Fingerprint { kind }),
        ..api::ReserveRequest::default()
    }
}

/// Frames and encodings that are wrong.
async fn frames(channel: &Channel) -> anyhow::Result<()> {
    let valid = reserve("grpc-frames").encode_to_vec();
    let cut = valid.get(..valid.len() - 3).context("a short message")?;
    let mut bad_text = reserve("grpc-text").encode_to_vec();
    bad_text.extend_from_slice(&[0x0a, 0x02, 0xff, 0xfe]);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a cut message", frame(0, cut)),
        ("a cut frame", frame(0, &valid).get(..20).unwrap_or_default().to_vec()),
        ("a cut head of a frame", vec![0, 0, 0]),
        ("no frame", Vec::new()),
        ("garbage", vec![0xff; 64]),
        ("garbage in a frame", frame(0, &[0xff; 64])),
        ("a field of another wire type", frame(0, &[0x08, 0x01])),
        ("a length beyond the end", frame(0, &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f])),
        ("groups without end", frame(0, &[0x7b; 4_096])),
        ("text that is not utf-8", frame(0, &bad_text)),
        ("a compressed flag and no encoding", frame(1, &valid)),
        ("an unknown flag", frame(7, &valid)),
    ];
    for (what, body) in cases {
        let (status, _) = send(channel, RESERVE, &[], body).await.with_context(|| what.to_owned())?;
        check(what, &status, Code::InvalidArgument, "body-invalid")?;
    }

    let (status, _) = send(channel, RESERVE, &[("grpc-encoding", "gzip")], frame(1, &valid)).await?;
    ensure!(status.code() == Code::Unimplemented, "gzip: {status:?}");

    let mut padded = reserve("grpc-largest").encode_to_vec();
    pad(&mut padded, MOST_MESSAGE_BYTES);
    ensure!(padded.len() == MOST_MESSAGE_BYTES, "{} bytes", padded.len());
    let (status, answer) = send(channel, RESERVE, &[], frame(0, &padded)).await?;
    ensure!(status.code() == Code::Ok && !answer.is_empty(), "the largest message: {status:?}");
    pad(&mut padded, MOST_MESSAGE_BYTES + 10);
    let (status, _) = send(channel, RESERVE, &[], frame(0, &padded)).await?;
    check("one over the largest message", &status, Code::InvalidArgument, "body-too-large")?;
    let claim = [&[0][..], &u32::MAX.to_be_bytes(), &valid].concat();
    let (status, _) = send(channel, RESERVE, &[], claim).await?;
    check("a frame that says 4 GiB", &status, Code::InvalidArgument, "body-too-large")
}

/// Makes a message `bytes` long with a field that the node does not know, as a newer client might send.
fn pad(message: &mut Vec<u8>, bytes: usize) {
    let rest = bytes.saturating_sub(message.len());
    // Field 1000, length-delimited: two bytes of tag, then the length as a varint.
    let length_bytes = if rest > 16_384 + 5 { 3 } else { 1 };
    let payload = rest.saturating_sub(2 + length_bytes);
    message.extend_from_slice(&[0xc2, 0x3e]);
    prost::encoding::encode_varint(payload as u64, message);
    message.resize(message.len() + payload, 0);
}

/// Messages that decode and say nothing valid. The rules are those of HTTP/JSON; some of each kind show that they hold.
async fn messages(channel: &Channel) -> anyhow::Result<()> {
    let mut client = api::reservations_client::ReservationsClient::new(channel.clone());
    let text = |length: usize| "a".repeat(length);
    let with = |change: &dyn Fn(&mut api::ReserveRequest)| {
        let mut request = reserve("grpc-messages");
        change(&mut request);
        request
    };
    let cases = [
        (api::ReserveRequest::default(), "tenant-invalid"),
        (with(&|request| request.tenant = text(65)), "tenant-invalid"),
        (with(&|request| request.key = text(256)), "key-invalid"),
        (with(&|request| request.key = "hf1.".to_owned()), "key-invalid"),
        (with(&|request| request.endpoint = text(257)), "endpoint-invalid"),
        (with(&|request| request.fingerprint = None), "fingerprint-invalid"),
        (with(&|request| request.fingerprint = Some(api::Fingerprint { kind: None })), "fingerprint-invalid"),
        (with(&|request| request.nonce = vec![0; 65].into()), "nonce-invalid"),
        (with(&|request| request.client_version = text(65)), "input-invalid"),
        (with(&|request| request.lease_ms = Some(0)), "lease-invalid"),
        (with(&|request| request.lease_ms = Some(u32::MAX)), "lease-invalid"),
        (with(&|request| request.wait_ms = Some(60_001)), "wait-invalid"),
    ];
    for (request, reason) in cases {
        let status = client.reserve(request).await.err().with_context(|| format!("{reason} expected"))?;
        check(reason, &status, Code::InvalidArgument, reason)?;
    }

    let key = api_hostile::key();
    let granted = client.reserve(reserve(&key)).await?.into_inner();
    let Some(api::reserve_response::Outcome::Granted(grant)) = granted.outcome else {
        anyhow::bail!("not granted: {granted:?}");
    };
    let complete = |envelope: Option<api::Envelope>| api::CompleteRequest {
        tenant: "acme".to_owned(),
        key: key.clone(),
        token: grant.token.clone(),
        envelope,
        retention_ms: None,
    };
    let header = |name: &str, value: &'static [u8]| {
        let headers = vec![api::Header { name: name.to_owned(), value: value.into() }];
        Some(api::Envelope { status: 200, headers, body: Bytes::new() })
    };
    let body = |bytes: usize| Some(api::Envelope { status: 200, headers: Vec::new(), body: vec![0; bytes].into() });
    let cases = [
        (None, "envelope-invalid"),
        (Some(api::Envelope::default()), "envelope-invalid"),
        (header("a", b"b\r\nset-cookie: c"), "envelope-invalid"),
        (header("a\0", b""), "envelope-invalid"),
        (body(256 * 1024 + 1), "envelope-too-large"),
        (body(1024 * 1024), "envelope-too-large"),
    ];
    for (envelope, reason) in cases {
        let status = client.complete(complete(envelope)).await.err().with_context(|| format!("{reason} expected"))?;
        check(reason, &status, Code::InvalidArgument, reason)?;
    }
    client.complete(complete(body(256 * 1024))).await.context("the largest envelope")?;
    Ok(())
}

/// What is there and what is not.
async fn services(channel: &Channel) -> anyhow::Result<()> {
    let absent =
        ["/holdfast.v1.Reservations/Nothing", "/holdfast.v1.Nothing/Reserve", "/holdfast.v1.Admin/Nothing", "/x"];
    for path in absent {
        let (status, _) = send(channel, path, &[], frame(0, &[])).await?;
        ensure!(status.code() == Code::Unimplemented, "{path}: {status:?}");
    }
    // grpc.health.v1: HealthCheckRequest { service = 1 }, HealthCheckResponse { status = 1, SERVING = 1 }.
    for name in ["", "holdfast.v1.Reservations", "holdfast.v1.Admin"] {
        let length = u8::try_from(name.len()).unwrap_or_default();
        let request = [&[0x0a, length][..], name.as_bytes()].concat();
        let (status, answer) = send(channel, "/grpc.health.v1.Health/Check", &[], frame(0, &request)).await?;
        ensure!(status.code() == Code::Ok, "health of {name:?}: {status:?}");
        ensure!(answer == frame(0, &[0x08, 0x01]), "health of {name:?}: {answer:?}");
    }
    let (status, _) = send(channel, "/grpc.health.v1.Health/Check", &[], frame(0, &[0x0a, 1, b'x'])).await?;
    ensure!(status.code() == Code::NotFound, "health of x: {status:?}");
    Ok(())
}

/// Reflection (v1) lists the services.
async fn reflection(channel: &Channel) -> anyhow::Result<()> {
    // ServerReflectionRequest { list_services = 7 }.
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let (status, answer) = send(channel, path, &[], frame(0, &[0x3a, 1, b'*'])).await?;
    ensure!(status.code() == Code::Ok, "reflection: {status:?}");
    for name in ["holdfast.v1.Reservations", "holdfast.v1.Admin", "grpc.health.v1.Health"] {
        ensure!(answer.windows(name.len()).any(|window| window == name.as_bytes()), "reflection does not list {name}");
    }
    Ok(())
}

/// Watches the node's health. Returns once it is told that the node serves.
pub(crate) async fn watch_health(address: SocketAddr) -> anyhow::Result<tonic::body::Body> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
    let request = http::Request::builder()
        .method("POST")
        .uri("/grpc.health.v1.Health/Watch")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(Full::new(Bytes::from(frame(0, &[])))))?;
    let mut body = channel.oneshot(request).await?.into_body();
    let first = body.frame().await.context("no frame")??.into_data();
    ensure!(first.as_ref().is_ok_and(|data| *data == frame(0, &[0x08, 0x01])), "{first:?}");
    Ok(body)
}

/// Checks that a watcher was told the end: the node does not serve (`NOT_SERVING` = 2), and no more is said.
pub(crate) async fn watched_the_end(body: tonic::body::Body) -> anyhow::Result<()> {
    let rest = body.collect().await?.to_bytes();
    ensure!(rest == frame(0, &[0x08, 0x02]), "{rest:?}");
    Ok(())
}
