//! A call without an outcome, the same for both APIs.

use std::collections::HashMap;
use std::error::Error;
use std::io;

use prost::Message as _;

use crate::http;

/// Why a call has no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The stable code; empty when the server gave none, as when there was no answer at all.
    pub(crate) code: String,
    /// The HTTP status, or the gRPC code's name.
    pub(crate) status: String,
    /// The server vouches that nothing was done, nor will be.
    pub(crate) definite: bool,
    /// The server says when to try again.
    pub(crate) retry_after: bool,
    pub(crate) text: String,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(map = "string, string", tag = "3")]
    metadata: HashMap<String, String>,
}

/// Whether the connection was refused. It is the first thing that a call does, so nothing of the call went out.
fn never_sent(error: &(dyn Error + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(at) = source {
        if at.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        source = at.source();
    }
    false
}

impl Failure {
    pub(crate) fn from_status(status: &tonic::Status) -> Self {
        if never_sent(status) {
            return Self { definite: true, ..Self::no_answer(&anyhow::anyhow!("{status}")) };
        }
        let details = RpcStatus::decode(status.details()).unwrap_or_default().details;
        let of = |name: &str| details.iter().find(|any| any.type_url.ends_with(name)).map(|any| any.value.as_slice());
        let info = of("google.rpc.ErrorInfo").and_then(|bytes| ErrorInfo::decode(bytes).ok()).unwrap_or_default();
        Self {
            definite: info.metadata.get("definite").is_some_and(|definite| definite == "true"),
            code: info.reason,
            status: format!("{:?}", status.code()),
            retry_after: of("google.rpc.RetryInfo").is_some(),
            text: status.message().to_owned(),
        }
    }

    pub(crate) fn from_problem(answer: &http::Answer) -> Self {
        let problem = answer.json().unwrap_or_default();
        let text = |name: &str| problem.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
        Self {
            code: text("code"),
            status: answer.status.to_string(),
            definite: problem.get("definite").and_then(serde_json::Value::as_bool).unwrap_or(false),
            retry_after: answer.header("retry-after").is_some(),
            text: text("detail"),
        }
    }

    /// The answer, or the request itself, was lost. What was never sent, since nobody listened, was not done.
    pub(crate) fn no_answer(error: &anyhow::Error) -> Self {
        Self {
            code: String::new(),
            status: "no answer".to_owned(),
            definite: never_sent(error.as_ref()),
            retry_after: false,
            text: format!("{error:#}"),
        }
    }

    /// An answer that breaks the contract. It is no failure of the store, and never passes for one.
    pub(crate) fn unreadable(error: &anyhow::Error) -> Self {
        Self { status: "unreadable".to_owned(), ..Self::no_answer(error) }
    }

    /// Too much waits already.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.code == "overloaded"
    }

    /// The store does not serve the key.
    pub(crate) fn is_unavailable(&self) -> bool {
        matches!(self.code.as_str(), "store-unavailable" | "outcome-indefinite")
            && matches!(self.status.as_str(), "503" | "Unavailable")
    }
}
