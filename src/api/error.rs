//! Every failure of the API, and what each is on the wire: the one place that maps to gRPC and HTTP codes.
//!
//! Outcomes are not here: a mismatch or a key in flight is an answer. A failure says whether it is *definite*: nothing was
//! done and nothing will be. `docs/reference/errors` has a page a code, and a test holds the two together.

#[cfg(test)]
mod tests;
mod told;

use std::collections::HashMap;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use holdfast_client::proto::v1;
use http::{HeaderName, HeaderValue, StatusCode, header};
use tonic::{Code as Grpc, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::reply::millis;
use crate::limits;
use crate::region::calls::{Certainty, Failed, Failure, Invalid, Leader};
use crate::router::cluster::ChangeError;

pub(super) use self::told::write_metrics;

/// What `ErrorInfo.domain` says.
pub const DOMAIN: &str = "holdfast";

/// Says where the public API of the node is reached that leads the key's partition, if that is another node.
pub(super) const LEADER: HeaderName = HeaderName::from_static("holdfast-leader");

/// Bytes of a message that is sent: it repeats some of the input, which may be large, and gRPC sends it in a header.
const MAX_MESSAGE_BYTES: usize = 512;

/// When to try again after a failure that does not know when it ends.
const PATIENCE: Duration = Duration::from_secs(1);
/// When to try again while the disk is nearly full: somebody has to free space first.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// What is always true of failures with one code.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The stable code, as it stands in problems and in `ErrorInfo.reason`.
    pub code: &'static str,
    /// What it means, in a few words.
    pub title: &'static str,
    /// The HTTP status.
    pub http: StatusCode,
    /// The gRPC code.
    pub grpc: Grpc,
    /// The same request may succeed later.
    pub retryable: bool,
    /// Nothing was done, and nothing will be.
    pub definite: bool,
    /// The page of `docs/reference/errors`.
    pub page: &'static str,
}

/// Declares [`Code`] with the facts of each, so that a code cannot lack one of them or its page.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $title:literal, $http:ident, $grpc:ident, retryable $retryable:literal, definite $definite:literal;)*) => {
        /// The stable codes of failures.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code, in the order of the index of pages.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// What is always true of failures with this code.
            #[must_use]
            pub const fn facts(self) -> Facts {
                match self {
                    $(Self::$name => Facts {
                        code: $code,
                        title: $title,
                        http: StatusCode::$http,
                        grpc: Grpc::$grpc,
                        retryable: $retryable,
                        definite: $definite,
                        page: include_str!(concat!("../../docs/reference/errors/", $code, ".md")),
                    },)*
                }
            }
        }
    };
}

codes! {
    /// The idempotency key is malformed, of an unknown home, or of a time too far ahead.
    KeyInvalid = "key-invalid", "The idempotency key is not valid", BAD_REQUEST, InvalidArgument, retryable false, definite true;
    /// The tenant's name is malformed.
    TenantInvalid = "tenant-invalid", "The tenant's name is not valid", BAD_REQUEST, InvalidArgument, retryable false, definite true;
    /// Nobody made the tenant.
    TenantUnknown = "tenant-unknown", "There is no such tenant", NOT_FOUND, NotFound, retryable false, definite true;
    /// The tenant gets no new keys.
    TenantClosed = "tenant-closed", "The tenant is closed", FORBIDDEN, PermissionDenied, retryable false, definite true;
    /// What a tenant was to be cannot be.
    TenantRefused = "tenant-refused", "The tenant cannot be made or changed so", CONFLICT, FailedPrecondition, retryable false, definite true;
    /// The policies cannot hold.
    PoliciesRefused = "policies-refused", "The policies cannot hold", CONFLICT, FailedPrecondition, retryable false, definite true;
    /// The endpoint's name is malformed.
    EndpointInvalid = "endpoint-invalid", "The endpoint's name is not valid", BAD_REQUEST, InvalidArgument, retryable false, definite true;
    /// Neither a digest nor a request, both, or one that is malformed.
    FingerprintInvalid = "fingerprint-invalid", "The request's fingerprint is not valid", BAD_REQUEST, InvalidArgument, retryable false, definite true;
    /// The nonce is malformed.
    NonceInvalid = "nonce-invalid", "The nonce is not valid", BAD_REQUEST, InvalidArgument, retryable false, definite true;
    /// The token is none of this cluster's, or of another key.
    TokenInvalid = "token-invalid", "The token is not valid for this key", BAD_REQUEST, InvalidArgument, retryable false, definite true;
    /// The lease is too short or too long.
    LeaseInvalid = "lease-invalid", "The lease is out of bounds", BAD_REQUEST, InvalidArgument, retryable false, definite true;
    /// The wait is too long.
    WaitInvalid = "wait-invalid", "The wait is out of bounds", BAD_REQUEST, InvalidArgument, retryable false, definite true;
    /// The retention is too short or too long.
    RetentionInvalid = "retention-invalid", "The retention is out of bounds", BAD_REQUEST, InvalidArgument, retryable false, definite true;
    /// The envelope's status or headers are malformed.
    EnvelopeInvalid = "envelope-invalid", "The response envelope is not valid", BAD_REQUEST, InvalidArgument, retryable false, definite true;
    /// The envelope's body or headers are too large.
    EnvelopeTooLarge = "envelope-too-large", "The response envelope is too large", PAYLOAD_TOO_LARGE, InvalidArgument, retryable false, definite true;
    /// The recovery point is malformed or too large.
    CheckpointInvalid = "checkpoint-invalid", "The checkpoint is not valid", BAD_REQUEST, InvalidArgument, retryable false, definite true;
    /// The verdict is incomplete or contradicts itself.
    VerdictInvalid = "verdict-invalid", "The verdict is not valid", BAD_REQUEST, InvalidArgument, retryable false, definite true;
    /// Another field is malformed.
    InputInvalid = "input-invalid", "A field is not valid", BAD_REQUEST, InvalidArgument, retryable false, definite true;
    /// The message does not parse.
    BodyInvalid = "body-invalid", "The message cannot be read", BAD_REQUEST, InvalidArgument, retryable false, definite true;
    /// The message is larger than any valid one.
    BodyTooLarge = "body-too-large", "The message is too large", PAYLOAD_TOO_LARGE, InvalidArgument, retryable false, definite true;
    /// The message did not arrive in time.
    BodyTimeout = "body-timeout", "The message did not arrive in time", REQUEST_TIMEOUT, Unavailable, retryable true, definite true;
    /// The message is of another media type.
    ContentTypeUnsupported = "content-type-unsupported", "The content type is not supported", UNSUPPORTED_MEDIA_TYPE, InvalidArgument, retryable false, definite true;
    /// The message is compressed.
    EncodingUnsupported = "unsupported-encoding", "Compressed messages are not supported", UNSUPPORTED_MEDIA_TYPE, Unimplemented, retryable false, definite true;
    /// There is nothing at that path.
    PathUnknown = "path-unknown", "There is nothing at this path", NOT_FOUND, Unimplemented, retryable false, definite true;
    /// The path has no such method.
    MethodNotAllowed = "method-not-allowed", "The path does not have this method", METHOD_NOT_ALLOWED, Unimplemented, retryable false, definite true;
    /// The store has no record of the key.
    KeyUnknown = "key-unknown", "The store has no record of this key", NOT_FOUND, NotFound, retryable false, definite true;
    /// The node has as much waiting as it takes.
    Overloaded = "overloaded", "The node is overloaded", TOO_MANY_REQUESTS, ResourceExhausted, retryable true, definite true;
    /// The data disk is nearly full.
    DiskLow = "disk-low", "The data disk is nearly full", SERVICE_UNAVAILABLE, ResourceExhausted, retryable true, definite true;
    /// The key's partition does not serve; nothing was done.
    StoreUnavailable = "store-unavailable", "The store is not available", SERVICE_UNAVAILABLE, Unavailable, retryable true, definite true;
    /// A change of members or leaders is refused; nothing was changed.
    ChangeRefused = "change-refused", "The change is refused", CONFLICT, FailedPrecondition, retryable false, definite true;
    /// It is not known whether the call was carried out.
    OutcomeIndefinite = "outcome-indefinite", "It is not known whether this was done", SERVICE_UNAVAILABLE, Unavailable, retryable true, definite false;
}

impl Code {
    /// The code that is spelt `text`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.facts().code == text)
    }
}

/// Why a call has no outcome.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApiError {
    /// One field is wrong.
    #[error("{detail}")]
    Input {
        /// What is wrong with it.
        code: Code,
        /// Its name, as in the .proto files.
        field: &'static str,
        /// What was sent, and what to send.
        detail: String,
    },
    /// The message does not parse.
    #[error("{0}")]
    Body(String),
    /// The message is larger than any valid one.
    #[error("the message has more than {most_bytes} bytes")]
    BodyTooLarge {
        /// Bytes of the largest message.
        most_bytes: usize,
    },
    /// The message did not arrive in time.
    #[error("the message did not arrive within {} ms", limits::BODY_TIMEOUT_MS)]
    BodyTimeout,
    /// Too many bytes of unfinished messages are held already.
    #[error("the node is reading as many messages as it takes")]
    Reading,
    /// The message is of another media type.
    #[error("the content type is {got:?}: send application/json (curl: -H 'content-type: application/json')")]
    ContentType {
        /// The media type that was sent; empty for none.
        got: String,
    },
    /// The message is compressed.
    #[error("the content encoding is {got:?}: send the message as it is")]
    Encoding {
        /// The coding that was sent.
        got: String,
    },
    /// There is nothing at that path.
    #[error("there is nothing at {path:?}: /openapi.json lists what there is")]
    PathUnknown {
        /// The path that was asked for.
        path: String,
    },
    /// The path has no such method.
    #[error("{method} is not among the methods of this path: the allow header lists them")]
    MethodNotAllowed {
        /// The method that was sent.
        method: String,
    },
    /// The store has no record of the key.
    #[error("the tenant has no record of this key: it was never granted, or its record was removed")]
    KeyUnknown,
    /// The members or leaders are not changed.
    #[error("{0}")]
    ChangeRefused(String),
    /// The store failed or refused.
    #[error(transparent)]
    Failure(#[from] Failed),
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        Self::Failure(Failed { failure, leader: None })
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Refused(reason) => Self::ChangeRefused(reason),
            ChangeError::NotLeader { .. } => Self::ChangeRefused(error.to_string()),
            ChangeError::Unknown(_) => Self::from(Failure::Unavailable {
                certainty: Certainty::Indefinite,
                reason: error.to_string(),
                retry_after: PATIENCE,
            }),
        }
    }
}

impl ApiError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Input { code, .. } => *code,
            Self::Body(_) => Code::BodyInvalid,
            Self::BodyTooLarge { .. } => Code::BodyTooLarge,
            Self::BodyTimeout => Code::BodyTimeout,
            Self::Reading => Code::Overloaded,
            Self::ContentType { .. } => Code::ContentTypeUnsupported,
            Self::Encoding { .. } => Code::EncodingUnsupported,
            Self::PathUnknown { .. } => Code::PathUnknown,
            Self::MethodNotAllowed { .. } => Code::MethodNotAllowed,
            Self::KeyUnknown => Code::KeyUnknown,
            Self::ChangeRefused(_) => Code::ChangeRefused,
            Self::Failure(failed) => failure_code(&failed.failure),
        }
    }

    /// The field that is wrong, as the .proto files name it.
    #[must_use]
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Input { field, .. } => Some(field),
            Self::Failure(failed) => failure_field(&failed.failure),
            Self::Body(_)
            | Self::BodyTooLarge { .. }
            | Self::BodyTimeout
            | Self::Reading
            | Self::ContentType { .. }
            | Self::Encoding { .. }
            | Self::PathUnknown { .. }
            | Self::MethodNotAllowed { .. }
            | Self::ChangeRefused(_)
            | Self::KeyUnknown => None,
        }
    }

    /// When to try again, for what may succeed then.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Failure(failed) => failure_retry(&failed.failure),
            Self::BodyTimeout | Self::Reading => Some(PATIENCE),
            Self::Input { .. }
            | Self::Body(_)
            | Self::BodyTooLarge { .. }
            | Self::ContentType { .. }
            | Self::Encoding { .. }
            | Self::PathUnknown { .. }
            | Self::MethodNotAllowed { .. }
            | Self::ChangeRefused(_)
            | Self::KeyUnknown => None,
        }
    }

    /// The text that is sent: at most [`MAX_MESSAGE_BYTES`] of it.
    fn detail(&self) -> String {
        let mut detail = self.to_string();
        if detail.len() > MAX_MESSAGE_BYTES {
            detail.truncate(detail.floor_char_boundary(MAX_MESSAGE_BYTES));
            detail.push('…');
        }
        detail
    }

    /// The failure as gRPC has it: `ErrorInfo`, and `BadRequest` or `RetryInfo` where they apply.
    #[must_use]
    pub fn to_status(&self) -> Status {
        self.told();
        let facts = self.code().facts();
        let detail = self.detail();
        let definite = if facts.definite { "true" } else { "false" };
        let mut metadata = HashMap::from([("definite".to_owned(), definite.to_owned())]);
        if let Some(leader) = self.leader() {
            metadata.insert("leader".to_owned(), leader.node_id.to_string());
            metadata.insert("leader_address".to_owned(), leader.api.clone());
        }
        let mut details = ErrorDetails::with_error_info(facts.code, DOMAIN, metadata);
        if let Some(field) = self.field() {
            details.add_bad_request_violation(field, detail.as_str());
        }
        if let Some(after) = self.retry_after() {
            details.set_retry_info(Some(after));
        }
        Status::with_error_details(facts.grpc, detail, details)
    }

    /// Who leads the key's partition, if that is another node.
    fn leader(&self) -> Option<&Leader> {
        match self {
            Self::Failure(failed) => failed.leader.as_ref(),
            Self::Input { .. }
            | Self::Body(_)
            | Self::BodyTooLarge { .. }
            | Self::BodyTimeout
            | Self::Reading
            | Self::ContentType { .. }
            | Self::Encoding { .. }
            | Self::PathUnknown { .. }
            | Self::MethodNotAllowed { .. }
            | Self::ChangeRefused(_)
            | Self::KeyUnknown => None,
        }
    }

    /// The failure as one answer of many on a stream. It is not told by that: another node may pass it on.
    #[must_use]
    pub fn to_failure(&self) -> v1::Failure {
        let facts = self.code().facts();
        let message = self.detail();
        v1::Failure {
            code: facts.code.to_owned(),
            message,
            definite: facts.definite,
            retry_after_ms: self.retry_after().map_or(0, millis),
            grpc_code: u32::try_from(i32::from(facts.grpc)).unwrap_or_default(),
            leader: self.leader().map_or(0, |leader| leader.node_id),
        }
    }

    /// The failure as HTTP has it (RFC 9457).
    #[must_use]
    pub fn to_problem(&self) -> Problem {
        let facts = self.code().facts();
        Problem {
            r#type: format!("/errors/{}", facts.code),
            title: facts.title.to_owned(),
            status: facts.http.as_u16(),
            detail: self.detail(),
            code: facts.code.to_owned(),
            retryable: facts.retryable,
            definite: facts.definite,
            field: self.field().map(str::to_owned),
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        error.to_status()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = self.to_problem();
        // Those two were told when the body ended: see `BodyError`.
        if !matches!(self, Self::BodyTimeout | Self::Reading) {
            self.told();
        }
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (self.code().facts().http, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = self.retry_after() {
            let seconds = u64::try_from(after.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(address) = self.leader().and_then(|leader| HeaderValue::try_from(leader.api.as_str()).ok()) {
            headers.insert(LEADER, address);
        }
        response
    }
}

/// A failure, as `application/problem+json`.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct Problem {
    /// Where this node serves the page of the code.
    #[schema(example = "/errors/key-invalid")]
    pub r#type: String,
    /// What it means, in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong this time.
    pub detail: String,
    /// The stable code.
    #[schema(example = "key-invalid")]
    pub code: String,
    /// The same request may succeed later.
    pub retryable: bool,
    /// Nothing was done, and nothing will be.
    pub definite: bool,
    /// The field that is wrong, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

fn failure_code(failure: &Failure) -> Code {
    match failure {
        Failure::Invalid(Invalid::Token(_) | Invalid::TokenForAnotherKey) => Code::TokenInvalid,
        Failure::Invalid(Invalid::UnknownHome { .. } | Invalid::KeyTimeAhead { .. }) => Code::KeyInvalid,
        Failure::Invalid(Invalid::TenantUnknown { .. }) => Code::TenantUnknown,
        Failure::Invalid(Invalid::TenantClosed { .. }) => Code::TenantClosed,
        Failure::Invalid(Invalid::Tenant(_)) => Code::TenantRefused,
        Failure::Invalid(Invalid::Policies(_)) => Code::PoliciesRefused,
        Failure::OtherSelection { .. } => Code::StoreUnavailable,
        Failure::Overloaded { .. } => Code::Overloaded,
        Failure::DiskLow { .. } => Code::DiskLow,
        Failure::NotLeader { .. } | Failure::Unavailable { certainty: Certainty::Definite, .. } => {
            Code::StoreUnavailable
        }
        Failure::Unavailable { certainty: Certainty::Indefinite, .. } => Code::OutcomeIndefinite,
        Failure::Elsewhere { code, certainty: Certainty::Definite, .. } => {
            let known = Code::parse(code).filter(|code| code.facts().definite);
            known.unwrap_or(Code::StoreUnavailable)
        }
        Failure::Elsewhere { certainty: Certainty::Indefinite, .. } => Code::OutcomeIndefinite,
    }
}

fn failure_field(failure: &Failure) -> Option<&'static str> {
    match failure {
        Failure::Invalid(Invalid::Token(_) | Invalid::TokenForAnotherKey) => Some("token"),
        Failure::Invalid(Invalid::UnknownHome { .. } | Invalid::KeyTimeAhead { .. }) => Some("key"),
        Failure::Invalid(Invalid::TenantUnknown { .. } | Invalid::TenantClosed { .. } | Invalid::Tenant(_)) => {
            Some("tenant")
        }
        Failure::Invalid(Invalid::Policies(_)) => Some("sources"),
        // What the leader alone finds wrong.
        Failure::Elsewhere { .. } if failure_code(failure) == Code::TokenInvalid => Some("token"),
        Failure::Elsewhere { .. } if failure_code(failure) == Code::KeyInvalid => Some("key"),
        Failure::Elsewhere { .. }
        | Failure::Overloaded { .. }
        | Failure::DiskLow { .. }
        | Failure::NotLeader { .. }
        | Failure::OtherSelection { .. }
        | Failure::Unavailable { .. } => None,
    }
}

fn failure_retry(failure: &Failure) -> Option<Duration> {
    match failure {
        Failure::Invalid(_) => None,
        Failure::DiskLow { .. } => Some(DISK_PATIENCE),
        Failure::NotLeader { .. } | Failure::OtherSelection { .. } => Some(PATIENCE),
        Failure::Overloaded { retry_after } | Failure::Unavailable { retry_after, .. } => Some(*retry_after),
        Failure::Elsewhere { retry_after, .. } => {
            failure_code(failure).facts().retryable.then(|| retry_after.unwrap_or(PATIENCE))
        }
    }
}

/// What a refusal by the gRPC library itself means here, if it is one: the library blames the server (`INTERNAL`,
/// `OUT_OF_RANGE`, `UNKNOWN`) for messages that the client got wrong. No handler of ours answers with these codes.
pub(super) fn of_undecodable(status: &Status) -> Option<ApiError> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum: every other code is a handler's own")]
    match status.code() {
        Grpc::Internal | Grpc::Unknown => {
            Some(ApiError::Body(format!("the message cannot be decoded: {}", status.message())))
        }
        Grpc::OutOfRange => Some(ApiError::BodyTooLarge { most_bytes: limits::MAX_GRPC_MESSAGE_BYTES }),
        _ => None,
    }
}
