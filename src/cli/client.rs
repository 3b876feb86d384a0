//! Asking a node over gRPC: where it is, how it is reached, and what its failures mean to a person.

use std::str::FromStr;
use std::time::Duration;

use anyhow::anyhow;
use holdfast_client::proto::v1::admin_client::AdminClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::cli::exit::{Exit, Problem};
use crate::limits;

/// How long a connection may take to be made. A node on the same continent answers within a tenth of it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one answer may take: the node's own limit for a proposal is ten seconds.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of an answer to an operator: a list of as many revisions as are kept, each with the names of as many policies as can
/// be, is no larger.
const MAX_ADMIN_ANSWER_BYTES: usize =
    limits::MAX_POLICY_REVISIONS * limits::MAX_POLICIES * (limits::MAX_POLICY_NAME_BYTES + 8);

/// Where a node is, as `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address(String);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = match text.split_once("://") {
            Some(("http", _)) => text.trim_end_matches('/').to_owned(),
            Some((scheme, _)) => return Err(format!("{scheme}:// is not supported: write http://HOST:PORT")),
            None => format!("http://{}", text.trim_end_matches('/')),
        };
        match url.parse::<http::Uri>() {
            Ok(uri) if uri.port().is_some() && matches!(uri.path(), "" | "/") => Ok(Self(url)),
            Ok(_) | Err(_) => Err(format!("{text:?} is no address of a node: write http://HOST:PORT")),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Address {
    /// Which node is meant unless told otherwise.
    pub(crate) const DEFAULT: &'static str = "http://127.0.0.1:7400";

    /// The address as a gRPC endpoint, not connected.
    ///
    /// # Errors
    /// When the address does not parse, which one of this type does.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Problem> {
        let endpoint = Endpoint::from_shared(self.0.clone()).map_err(Problem::usage)?;
        Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true))
    }

    /// Connects, for a few calls that may take so long each.
    ///
    /// # Errors
    /// When nothing answers there.
    pub(crate) async fn connect(&self, patience: Duration) -> Result<Channel, Problem> {
        self.endpoint()?.timeout(patience).connect().await.map_err(|error| self.unreachable(&error))
    }

    /// What to say when nothing answers there.
    #[must_use]
    pub(crate) fn unreachable(&self, error: &tonic::transport::Error) -> Problem {
        let mut cause: &dyn std::error::Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Problem::unavailable(anyhow!("cannot reach a node at {self} ({cause}): start one, or give its --address"))
    }

    /// What to say when a node refused or failed.
    #[must_use]
    pub(crate) fn failed(&self, status: &Status) -> Problem {
        let exit = match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled => Exit::Unavailable,
            Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => Exit::Usage,
            Code::Ok
            | Code::Unknown
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => Exit::Failed,
        };
        Problem { exit, error: anyhow!("the node at {self} answers {}: {}", code_of(status), status.message()) }
    }
}

/// A client for what operators ask, that takes the largest answer.
pub(crate) fn admin(channel: Channel) -> AdminClient<Channel> {
    AdminClient::new(channel).max_decoding_message_size(MAX_ADMIN_ANSWER_BYTES)
}

/// Flags of every command that asks a node.
#[derive(Debug, clap::Args)]
pub(crate) struct Asking {
    /// Where the node is
    #[arg(long, global = true, env = "HOLDFAST_ADDRESS", hide_env_values = true, value_name = "URL")]
    #[arg(default_value = Address::DEFAULT)]
    pub(crate) address: Address,

    /// How the result is written
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: crate::cli::output::Output,
}

/// A failure's name: the stable code of docs/reference/errors if the node gave one, else the gRPC code.
#[must_use]
pub(crate) fn code_of(status: &Status) -> String {
    match status.get_details_error_info() {
        Some(info) if !info.reason.is_empty() => info.reason,
        Some(_) | None => format!("{:?}", status.code()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("127.0.0.1:7400", "http://127.0.0.1:7400"),
            ("http://127.0.0.1:7400/", "http://127.0.0.1:7400"),
            ("http://node-1.eu:80", "http://node-1.eu:80"),
            ("http://[::1]:7400", "http://[::1]:7400"),
        ] {
            assert_eq!(text.parse::<Address>(), Ok(Address(expected.to_owned())), "{text}");
        }
        for bad in ["", "127.0.0.1", "https://a:1", "http://a:1/v1", "ftp://a:1", "a b:1"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        assert_eq!(Address::DEFAULT, format!("http://{}", crate::cli::settings::DEFAULT_LISTEN));
    }

    #[test]
    fn a_failure_is_called_by_its_stable_code() {
        let details = ErrorDetails::with_error_info("disk-low", "holdfast", HashMap::new());
        let status = Status::with_error_details(Code::ResourceExhausted, "full", details);
        assert_eq!(code_of(&status), "disk-low");
        assert_eq!(code_of(&Status::unavailable("gone")), "Unavailable");
        let problem = Address(Address::DEFAULT.to_owned()).failed(&status);
        assert_eq!(problem.exit, Exit::Unavailable);
        assert_eq!(problem.line(), "the node at http://127.0.0.1:7400 answers disk-low: full");
    }
}
