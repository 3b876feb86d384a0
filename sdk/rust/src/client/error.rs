//! Why a call has no outcome, and whether it is known that nothing was done.

use std::borrow::Cow;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::proto::v1;

/// What `ErrorInfo.domain` says in failures of a node.
const DOMAIN: &str = "holdfast";

/// Codes of failures that no node answered with. Those of nodes stand in docs/reference/errors.
pub mod codes {
    /// No node could be reached: nothing was sent.
    pub const UNREACHABLE: &str = "unreachable";
    /// The connection ended while a call was on its way.
    pub const CONNECTION_LOST: &str = "connection-lost";
    /// A gRPC status that no node of this store gives: of something between the client and it.
    pub const STATUS_FOREIGN: &str = "status-foreign";
    /// The answer did not come in time.
    pub const DEADLINE: &str = "deadline-passed";
    /// A grant came too late to be started. It was dropped.
    pub const GRANT_LATE: &str = "grant-late";
    /// The node answered with something that this version does not know.
    pub const ANSWER_UNKNOWN: &str = "answer-unknown";
    /// As many calls wait on this client as it takes.
    pub const CLIENT_OVERLOADED: &str = "client-overloaded";
}

/// Whether it is known that nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Nothing was done, and nothing will be.
    Definite,
    /// It may have been done, or may yet be. Keep the key: another key would be another operation.
    Indefinite,
}

/// Why a call has no outcome, after every resend that was allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    code: Cow<'static, str>,
    message: String,
    certainty: Certainty,
    retry_after: Option<Duration>,
}

impl Error {
    /// The stable code: a node's (docs/reference/errors), or one of [`codes`].
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// What is wrong, and what to do.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether it is known that nothing was done. It is [`Certainty::Indefinite`] when any of the call's sends had an
    /// unknown outcome, also if a later one was refused.
    #[must_use]
    pub fn certainty(&self) -> Certainty {
        self.certainty
    }

    /// When asking again may help; nothing if it does not.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

/// Why one send has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) code: Cow<'static, str>,
    pub(super) message: String,
    pub(super) certainty: Certainty,
    /// Nothing: another send comes to the same.
    pub(super) retry_after: Option<Duration>,
    /// Another node than the asked one leads the partition.
    pub(super) leader: Option<u64>,
    /// The node cannot be reached or does not answer.
    pub(super) of_the_node: bool,
}

impl Failed {
    /// The connection or its end of it failed, not the call.
    pub(super) fn on_the_way(code: &'static str, certainty: Certainty, message: String) -> Self {
        let code = Cow::Borrowed(code);
        Self { code, message, certainty, retry_after: Some(Duration::ZERO), leader: None, of_the_node: true }
    }

    /// The client has as much waiting as it takes: nothing was sent, and no node is to blame.
    pub(super) fn of_this_client(message: String) -> Self {
        let retry_after = Some(Duration::from_millis(10));
        let failed = Self::on_the_way(codes::CLIENT_OVERLOADED, Certainty::Definite, message);
        Self { retry_after, of_the_node: false, ..failed }
    }

    /// Sending it again, anywhere, comes to the same.
    pub(super) fn for_good(code: &'static str, certainty: Certainty, message: String) -> Self {
        let code = Cow::Borrowed(code);
        Self { code, message, certainty, retry_after: None, leader: None, of_the_node: false }
    }

    /// The node answered with an outcome that this version cannot name.
    pub(super) fn unknown_answer() -> Self {
        let message = "the node answered with an outcome that this version of the client does not know".to_owned();
        Self::for_good(codes::ANSWER_UNKNOWN, Certainty::Indefinite, message)
    }

    /// What a node answered on a session.
    pub(super) fn of_failure(failure: v1::Failure) -> Self {
        let v1::Failure { code, message, definite, retry_after_ms, grpc_code: _, leader } = failure;
        Self {
            code: Cow::Owned(code),
            message,
            certainty: if definite { Certainty::Definite } else { Certainty::Indefinite },
            retry_after: (retry_after_ms > 0).then(|| Duration::from_millis(u64::from(retry_after_ms))),
            leader: (leader != 0).then_some(leader),
            of_the_node: false,
        }
    }

    /// What a call of its own ended with, or the opening of a session. Without a node's own words about it, it is not known
    /// what was done.
    pub(super) fn of_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let Some(info) = details.error_info().filter(|info| info.domain == DOMAIN) else {
            return Self::of_foreign_status(status);
        };
        let definite = info.metadata.get("definite").is_some_and(|definite| definite == "true");
        let retry_after = details.retry_info().and_then(|info| info.retry_delay);
        Self {
            code: Cow::Owned(info.reason.clone()),
            message: status.message().to_owned(),
            certainty: if definite { Certainty::Definite } else { Certainty::Indefinite },
            retry_after,
            leader: info.metadata.get("leader").and_then(|leader| leader.parse().ok()).filter(|leader| *leader != 0),
            of_the_node: false,
        }
    }

    fn of_foreign_status(status: &Status) -> Self {
        let message = format!("{:?}: {}", status.code(), status.message());
        match status.code() {
            Code::InvalidArgument | Code::Unimplemented | Code::PermissionDenied | Code::Unauthenticated => {
                Self::for_good(codes::STATUS_FOREIGN, Certainty::Definite, message)
            }
            Code::DeadlineExceeded => Self::on_the_way(codes::DEADLINE, Certainty::Indefinite, message),
            Code::Cancelled | Code::Unknown | Code::Internal | Code::Unavailable => {
                Self::on_the_way(codes::CONNECTION_LOST, Certainty::Indefinite, message)
            }
            Code::Ok
            | Code::NotFound
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::DataLoss => Self::on_the_way(codes::STATUS_FOREIGN, Certainty::Indefinite, message),
        }
    }

    /// The call's error, this being its last send. `earlier` says whether every send before it is known to have done
    /// nothing.
    pub(super) fn end(self, earlier: Certainty) -> Error {
        let certainty = match (earlier, self.certainty) {
            (Certainty::Definite, Certainty::Definite) => Certainty::Definite,
            (Certainty::Indefinite, _) | (_, Certainty::Indefinite) => Certainty::Indefinite,
        };
        Error { code: self.code, message: self.message, certainty, retry_after: self.retry_after }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn failed(certainty: Certainty) -> Failed {
        Failed::on_the_way(codes::CONNECTION_LOST, certainty, "gone".to_owned())
    }

    #[test]
    fn unknown_is_never_turned_into_no() {
        use Certainty::{Definite, Indefinite};
        for (earlier, last, expected) in [
            (Definite, Definite, Definite),
            (Definite, Indefinite, Indefinite),
            (Indefinite, Definite, Indefinite),
            (Indefinite, Indefinite, Indefinite),
        ] {
            assert_eq!(failed(last).end(earlier).certainty(), expected, "{earlier:?} then {last:?}");
        }
    }

    #[test]
    fn a_nodes_own_words_are_believed_and_nobody_elses() {
        let mut details = ErrorDetails::with_error_info(
            "store-unavailable",
            "holdfast",
            HashMap::from([("definite".to_owned(), "true".to_owned()), ("leader".to_owned(), "3".to_owned())]),
        );
        details.set_retry_info(Some(Duration::from_millis(250)));
        let status = Status::with_error_details(Code::Unavailable, "no leader", details);
        let failed = Failed::of_status(&status);
        assert_eq!((failed.certainty, failed.leader, failed.of_the_node), (Certainty::Definite, Some(3), false));
        assert_eq!(failed.retry_after, Some(Duration::from_millis(250)));
        assert_eq!(failed.code, "store-unavailable");

        let foreign = ErrorDetails::with_error_info(
            "UPSTREAM",
            "proxy.example",
            HashMap::from([("definite".to_owned(), "true".to_owned())]),
        );
        let status = Status::with_error_details(Code::Unavailable, "gone", foreign);
        assert_eq!(Failed::of_status(&status).certainty, Certainty::Indefinite, "a proxy does not know");
        assert_eq!(Failed::of_status(&Status::unknown("h2 protocol error")).certainty, Certainty::Indefinite);
    }

    #[test]
    fn input_that_is_wrong_is_not_sent_again() {
        let details = ErrorDetails::with_error_info(
            "key-invalid",
            "holdfast",
            HashMap::from([("definite".to_owned(), "true".to_owned())]),
        );
        let failed = Failed::of_status(&Status::with_error_details(Code::InvalidArgument, "no", details));
        assert_eq!((failed.retry_after, failed.of_the_node), (None, false));
        let failure = v1::Failure { code: "key-invalid".to_owned(), definite: true, ..v1::Failure::default() };
        assert_eq!(Failed::of_failure(failure).retry_after, None);
    }
}
