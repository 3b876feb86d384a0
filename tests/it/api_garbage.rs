//! What a node does with bytes that are no HTTP, or HTTP that never ends: it closes the connection in time, and is there
//! for everybody else meanwhile and afterwards.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{api_hostile, clock, http};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
/// How long a client may take to send a head, as documented, and some slack.
const HEAD_DEADLINE: Duration = Duration::from_secs(15);
/// How long a client may take to send a body, as documented, and some slack.
const BODY_DEADLINE: Duration = Duration::from_secs(40);

/// Runs every case. Takes as long as a body may take to arrive: half a minute.
pub(crate) async fn all(address: SocketAddr) -> anyhow::Result<()> {
    garbage(address).await?;
    api_hostile::still_there(address).await?;
    let slow = async {
        tokio::try_join!(
            closed_within(address, b"", HEAD_DEADLINE),
            closed_within(address, b"P", HEAD_DEADLINE),
            closed_within(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", HEAD_DEADLINE),
            closed_within(address, b"POST /v1/reserve HTTP/1.1\r\nhost: x\r\nconte", HEAD_DEADLINE),
            dripping_head(address),
            half_a_body(address),
            half_a_grpc_message(address),
        )
    };
    let meanwhile = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        api_hostile::still_there(address).await
    };
    tokio::try_join!(slow, meanwhile)?;
    many(address).await?;
    api_hostile::still_there(address).await
}

/// Bytes that no node could make sense of. Nothing but an error or the end may come back.
async fn garbage(address: SocketAddr) -> anyhow::Result<()> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap_or(u8::MAX);
        [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
    };
    let after_preface = |rest: &[u8]| [PREFACE, SETTINGS, rest].concat();
    let long_line = [b"GET /".to_vec(), vec![b'a'; 100_000], b" HTTP/1.1\r\n\r\n".to_vec()].concat();
    let many_headers = ["GET /healthz HTTP/1.1\r\n".to_owned(), "a: b\r\n".repeat(10_000), "\r\n".to_owned()].concat();
    let cases = [
        vec![0; 64],
        vec![0xff; 4_096],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(),
        b"\r\n\r\n\r\n\r\n".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"GET /healthz\r\n\r\n".to_vec(),
        b"GET /healthz HTTP/9.9\r\n\r\n".to_vec(),
        b"GET /heal\0thz HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        b"GET /healthz HTTP/1.1\r\nhost x\r\n\r\n".to_vec(),
        b"POST /v1/reserve HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n".to_vec(),
        b"POST /v1/reserve HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n".to_vec(),
        b"POST /v1/reserve HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\n".to_vec(),
        b"POST /v1/reserve HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
            .to_vec(),
        long_line,
        many_headers.into_bytes(),
        [PREFACE, &[0xaa; 256]].concat(),
        after_preface(&frame(0x01, 0x05, 1, &[0xff; 32])),
        after_preface(&frame(0x00, 0x00, 1, b"data of no stream")),
        after_preface(&frame(0x04, 0x00, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])),
        after_preface(&frame(0x09, 0x00, 1, b"a continuation of nothing")),
        after_preface(&frame(0x01, 0x05, 2, &[0x82])),
    ];
    for bytes in cases {
        let shown = String::from_utf8_lossy(bytes.get(..48).unwrap_or(&bytes)).into_owned();
        let answer = talk(address, &bytes, HEAD_DEADLINE).await.with_context(|| format!("{shown:?}"))?;
        let is_http1 = answer.starts_with(b"HTTP/1");
        let is_error = answer.starts_with(b"HTTP/1.1 4") || answer.starts_with(b"HTTP/1.0 4");
        ensure!(!is_http1 || is_error, "{shown:?} got {:?}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

/// Sends bytes, ends the sending half, and reads to the end. A reset is an end too.
async fn talk(address: SocketAddr, bytes: &[u8], deadline: Duration) -> anyhow::Result<Vec<u8>> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let mut answer = Vec::new();
        if stream.write_all(bytes).await.is_ok() && stream.shutdown().await.is_ok() {
            drop(stream.take(1024 * 1024).read_to_end(&mut answer).await);
        }
        anyhow::Ok(answer)
    };
    tokio::time::timeout(deadline, exchange).await.context("the connection stays open")?
}

/// Sends the beginning of something and waits, without ending the sending half, until the node closes.
async fn closed_within(address: SocketAddr, bytes: &[u8], deadline: Duration) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(bytes).await?;
    ended(stream, deadline).await.with_context(|| String::from_utf8_lossy(bytes).into_owned()).map(drop)
}

async fn ended(stream: TcpStream, deadline: Duration) -> anyhow::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut limited = stream.take(1024 * 1024);
    let read = limited.read_to_end(&mut answer);
    drop(tokio::time::timeout(deadline, read).await.context("the connection stays open")?);
    Ok(answer)
}

/// A head that goes on for ever, a header at a time: each byte is progress, and the whole is none.
async fn dripping_head(address: SocketAddr) -> anyhow::Result<()> {
    let start = clock::now();
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n").await?;
    while stream.write_all(b"a: b\r\n").await.is_ok() {
        ensure!(clock::now() - start < HEAD_DEADLINE, "the node reads a head for ever");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// A JSON body that stops half-way is refused with an answer.
async fn half_a_body(address: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let half = b"POST /v1/reserve HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
        content-length: 100\r\n\r\n{\"tenant\":";
    stream.write_all(half).await?;
    let answer = http::parse(&ended(stream, BODY_DEADLINE).await?)?;
    let problem = api_hostile::is_problem(address, "half a body", &answer, 408, "body-timeout").await?;
    ensure!(api_hostile::at(&problem, "retryable") == true && answer.header("retry-after").is_some(), "{problem}");
    Ok(())
}

/// So is a gRPC message, as HTTP/1.1 has it here.
async fn half_a_grpc_message(address: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let half = b"POST /holdfast.v1.Reservations/Reserve HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
        content-type: application/grpc\r\ncontent-length: 100\r\n\r\n\0\0\0\0\x5f\x0a";
    stream.write_all(half).await?;
    let answer = http::parse(&ended(stream, BODY_DEADLINE).await?)?;
    ensure!(answer.header("grpc-status") == Some("14"), "UNAVAILABLE expected: {:?}", answer.headers);
    Ok(())
}

/// Connections that come and go without a word.
async fn many(address: SocketAddr) -> anyhow::Result<()> {
    for _ in 0..2_000 {
        drop(TcpStream::connect(address).await?);
    }
    Ok(())
}
