//! A minimal HTTP/1.1 client over a TCP stream: it sends the bytes it is given, so that a test can be as wrong as it
//! wants, and reads whatever comes back up to a limit and a deadline.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long one request may take, its `wait_ms` included.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// More than the largest answer: base64 of the largest body, plus its frame.
const MOST_BYTES: u64 = 8 * 1024 * 1024;

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The first header of that name, in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The stable code of a problem; nothing if it is none.
    pub(crate) fn code(&self) -> String {
        let code = self.json().ok().and_then(|problem| problem.get("code")?.as_str().map(str::to_owned));
        code.unwrap_or_default()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("no json in a {}: {}", self.status, String::from_utf8_lossy(&self.body)))
    }
}

/// GET without a body.
pub(crate) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    exchange(address, request.as_bytes(), DEADLINE).await
}

/// POST of JSON.
pub(crate) async fn post(address: SocketAddr, path: &str, json: &serde_json::Value) -> anyhow::Result<Answer> {
    let body = serde_json::to_vec(json)?;
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(&body);
    exchange(address, &request, DEADLINE).await
}

/// Sends raw bytes on a connection of their own and reads the answer to its end.
pub(crate) async fn exchange(address: SocketAddr, request: &[u8], deadline: Duration) -> anyhow::Result<Answer> {
    let bytes = tokio::time::timeout(deadline, async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request).await?;
        let mut bytes = Vec::new();
        stream.take(MOST_BYTES).read_to_end(&mut bytes).await?;
        anyhow::Ok(bytes)
    })
    .await
    .with_context(|| format!("no answer within {deadline:?}"))??;
    parse(&bytes)
}

/// Parses one whole answer, its body delimited by length, chunks or the end.
pub(crate) fn parse(bytes: &[u8]) -> anyhow::Result<Answer> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").context("the answer has no end of its head")?;
    let (head, rest) = bytes.split_at(end);
    let head = std::str::from_utf8(head)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status line")?.parse()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut answer = Answer { status, headers, body: Vec::new() };
    let rest = rest.get(4..).unwrap_or_default();
    answer.body = match (answer.header("transfer-encoding"), answer.header("content-length")) {
        (Some("chunked"), _) => dechunk(rest)?,
        (_, Some(length)) => {
            let length: usize = length.parse()?;
            rest.get(..length).with_context(|| format!("{} of {length} bytes came", rest.len()))?.to_vec()
        }
        (_, None) => rest.to_vec(),
    };
    Ok(answer)
}

fn dechunk(mut rest: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").context("a chunk without its size")?;
        let (size, after) = rest.split_at(end);
        let size = usize::from_str_radix(std::str::from_utf8(size)?.trim(), 16)?;
        let after = after.get(2..).unwrap_or_default();
        if size == 0 {
            return Ok(body);
        }
        let Some(chunk) = after.get(..size) else { bail!("a chunk of {size} bytes is cut") };
        body.extend_from_slice(chunk);
        rest = after.get(size + 2..).context("a chunk without its end")?;
    }
}
