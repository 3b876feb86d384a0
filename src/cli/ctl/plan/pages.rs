//! Where pages of metrics are: files, and nodes, which are asked over HTTP.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::cli::ctl::plan::scrape::Page;
use crate::cli::exit::Problem;
use crate::cli::output;
use crate::cli::settings::file;
use crate::clock;
use crate::limits;

/// Where a page is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A node.
    Node(Uri),
    /// A file that a page was saved in.
    File(PathBuf),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no page of a node: write http://HOST:PORT/metrics, or a file");
        let has_port = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let (scheme, rest) = match text.split_once("://") {
            Some(parts) => parts,
            None if has_port => ("http", text),
            None => return Ok(Self::File(PathBuf::from(text))),
        };
        if scheme != "http" {
            return Err(format!("{scheme}:// is not supported: write http://HOST:PORT/metrics"));
        }
        let path = if rest.trim_end_matches('/').contains('/') { "" } else { "/metrics" };
        let uri: Uri = format!("http://{}{path}", rest.trim_end_matches('/')).parse().map_err(|_| wrong())?;
        match uri.authority() {
            Some(authority) if !authority.host().is_empty() => Ok(Self::Node(uri)),
            Some(_) | None => Err(wrong()),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(uri) => write!(f, "{uri}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A page, and when it was looked at.
#[derive(Clone, Debug)]
pub(super) struct Look {
    /// Where it was.
    pub(super) place: String,
    /// When, in milliseconds since the Unix epoch; unknown of a file.
    pub(super) at_unix_ms: Option<u64>,
    /// What it said.
    pub(super) page: Page,
}

/// Looks at all pages, and again at those of nodes after `over`.
///
/// # Errors
/// When a node cannot be reached, or a page is none.
pub(super) fn looks(places: &[Place], over: Option<Duration>) -> Result<Vec<Look>, Problem> {
    let most = limits::MAX_METRICS_PAGES;
    if places.len() > most {
        return Err(Problem::usage(anyhow!("{} pages: give at most {most}, those of one region", places.len())));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let mut looks = Vec::new();
        for place in places {
            looks.push(look(place).await?);
        }
        let nodes: Vec<&Place> = places.iter().filter(|place| matches!(place, Place::Node(_))).collect();
        let Some(over) = over else { return Ok(looks) };
        if nodes.is_empty() {
            return Err(Problem::usage(anyhow!(
                "--over looks at a node twice: a file says the same again. Give two files"
            )));
        }
        output::complain(&format!("holdfast: looking again in {} s", over.as_secs()));
        tokio::time::sleep(over).await;
        for place in nodes {
            looks.push(look(place).await?);
        }
        Ok(looks)
    })
}

async fn look(place: &Place) -> Result<Look, Problem> {
    let (text, at_unix_ms) = match place {
        Place::File(path) => {
            let most = u64::try_from(limits::MAX_METRICS_PAGE_BYTES).unwrap_or(u64::MAX);
            (file::text(path, most).map_err(Problem::usage)?, None)
        }
        Place::Node(uri) => {
            let patience = Duration::from_millis(limits::METRICS_TIMEOUT_MS);
            let silent = |_| Problem::unavailable(anyhow!("{uri} sends no page within {} s", patience.as_secs()));
            let text = tokio::time::timeout(patience, get(uri)).await.map_err(silent)??;
            (text, Some(clock::wall_unix_ms()))
        }
    };
    let page =
        Page::parse(&text).map_err(|why| Problem::from(anyhow!("{place}: {why}: is it a node's page of metrics?")))?;
    Ok(Look { place: place.to_string(), at_unix_ms, page })
}

/// Fetches a page over HTTP/1.1, on a connection of its own.
async fn get(uri: &Uri) -> Result<String, Problem> {
    let authority = uri.authority().context("a place has an authority")?;
    // The brackets of an IPv6 address are no part of it.
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let unreachable = |error: &dyn std::fmt::Display| {
        Problem::unavailable(anyhow!("cannot reach a node at {uri} ({error}): start one, or give where it is"))
    };
    let stream =
        TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await.map_err(|error| unreachable(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
    // It ends with this function.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let path = uri.path_and_query().map_or("/metrics", http::uri::PathAndQuery::as_str);
    let request = Request::get(path).header(http::header::HOST, authority.as_str()).body(Empty::<Bytes>::new());
    let request = request.context("a path of a uri makes a request")?;
    let answer = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
    if answer.status() != StatusCode::OK {
        let status = answer.status();
        return Err(anyhow!("{uri} answers {status}: give a node's page, such as http://127.0.0.1:7400/metrics").into());
    }
    let body = Limited::new(answer.into_body(), limits::MAX_METRICS_PAGE_BYTES).collect().await;
    let body = body.map_err(|error| anyhow!("the page at {uri} did not come whole: {error}"))?.to_bytes();
    String::from_utf8(body.into()).map_err(|_| anyhow!("the page at {uri} is no text").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for (text, expected) in [
            ("http://127.0.0.1:7400", "http://127.0.0.1:7400/metrics"),
            ("http://127.0.0.1:7400/", "http://127.0.0.1:7400/metrics"),
            ("http://node-1.eu/metrics", "http://node-1.eu/metrics"),
            ("127.0.0.1:7400", "http://127.0.0.1:7400/metrics"),
            ("http://[::1]:7400/m?x=1", "http://[::1]:7400/m?x=1"),
            ("pages/before.txt", "pages/before.txt"),
        ] {
            assert_eq!(text.parse::<Place>().map(|place| place.to_string()), Ok(expected.to_owned()));
        }
        for bad in ["https://a:1/metrics", "ftp://a", "http://", "http:///metrics", "http://a b/"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
