//! What is always true of each refusal: the one table from which statuses, codes and advice come.

use http::StatusCode;
use tonic::Code;

use super::Refusal;

/// What is always true of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The stable code.
    pub code: &'static str,
    /// What it means, in a few words.
    pub title: &'static str,
    /// The HTTP status of the default profile.
    pub status: StatusCode,
    /// The gRPC code.
    pub grpc: Code,
    /// The same request may get another answer later.
    pub retryable: bool,
    /// What `Stripe-Should-Retry` says; none: the status says enough.
    pub should_retry: Option<bool>,
    /// Whether OASIS clients are told that the request was not taken as a repeatable one.
    pub rejected: bool,
}

/// A row without advice.
const fn row(code: &'static str, title: &'static str, status: StatusCode, grpc: Code, retryable: bool) -> Facts {
    Facts { code, title, status, grpc, retryable, should_retry: None, rejected: false }
}

impl Facts {
    /// The status alone would mislead a client: it is told what to do.
    const fn advice(self, should_retry: bool) -> Self {
        Self { should_retry: Some(should_retry), ..self }
    }

    const fn rejected(self) -> Self {
        Self { rejected: true, ..self }
    }
}

impl Refusal {
    /// Every code.
    pub const CODES: [&str; 24] = [
        "key-missing",
        "key-invalid",
        "tenant-missing",
        "request-unreadable",
        "request-timeout",
        "repeatability-unsupported",
        "key-reused",
        "in-progress",
        "outcome-unknown",
        "in-doubt",
        "superseded",
        "store-unavailable",
        "store-refused",
        "key-expired",
        "rate-limited",
        "quota-exceeded",
        "replay-unavailable",
        "route-unknown",
        "request-refused",
        "tunnel-refused",
        "upstream-unreachable",
        "upstream-timeout",
        "upstream-broken",
        "gateway-overloaded",
    ];

    /// What is always true of it.
    #[must_use]
    pub const fn facts(&self) -> Facts {
        use StatusCode as S;
        match self {
            Self::KeyMissing => {
                row("key-missing", "The idempotency key is missing", S::BAD_REQUEST, Code::InvalidArgument, false)
                    .rejected()
            }
            Self::KeyInvalid { .. } => {
                row("key-invalid", "The idempotency key is not valid", S::BAD_REQUEST, Code::InvalidArgument, false)
                    .rejected()
            }
            Self::TenantMissing => row(
                "tenant-missing",
                "It is not known whose request this is",
                S::UNAUTHORIZED,
                Code::Unauthenticated,
                false,
            ),
            Self::RequestUnreadable => {
                row("request-unreadable", "The request cannot be read", S::BAD_REQUEST, Code::InvalidArgument, true)
            }
            Self::RequestTimeout { .. } => row(
                "request-timeout",
                "The request did not come in time",
                S::REQUEST_TIMEOUT,
                Code::DeadlineExceeded,
                true,
            ),
            Self::Unsupported => {
                let (code, title) = ("repeatability-unsupported", "Requests with this method are not protected");
                row(code, title, S::NOT_IMPLEMENTED, Code::Unimplemented, false).rejected()
            }
            Self::KeyReused => {
                let (code, title) = ("key-reused", "The idempotency key was used for another request");
                row(code, title, S::CONFLICT, Code::InvalidArgument, false).advice(false).rejected()
            }
            Self::InProgress { .. } => {
                row("in-progress", "The same request is being executed", S::CONFLICT, Code::Aborted, true).advice(true)
            }
            Self::OutcomeUnknown { .. } => {
                let (code, title) = ("outcome-unknown", "It is not known whether an earlier attempt was executed");
                row(code, title, S::CONFLICT, Code::FailedPrecondition, false).advice(false)
            }
            Self::InDoubt { .. } => {
                let (code, title) = ("in-doubt", "A region that was lost may have executed this");
                row(code, title, S::SERVICE_UNAVAILABLE, Code::Unavailable, true)
            }
            Self::Superseded { .. } => {
                row("superseded", "This region is behind", S::SERVICE_UNAVAILABLE, Code::Unavailable, true)
            }
            Self::StoreUnavailable { .. } => {
                row("store-unavailable", "The store is not available", S::SERVICE_UNAVAILABLE, Code::Unavailable, true)
            }
            Self::StoreRefused { .. } => {
                let (code, title) = ("store-refused", "The store does not take what the service asks");
                row(code, title, S::INTERNAL_SERVER_ERROR, Code::Internal, false).advice(false)
            }
            Self::KeyExpired => {
                let (code, title) = ("key-expired", "The idempotency key is older than what is remembered");
                row(code, title, S::BAD_REQUEST, Code::FailedPrecondition, false).rejected()
            }
            Self::RateLimited(_) => {
                let (code, title) = ("rate-limited", "Too many new keys at a time");
                row(code, title, S::TOO_MANY_REQUESTS, Code::ResourceExhausted, true)
            }
            Self::QuotaExceeded(_) => {
                let (code, title) = ("quota-exceeded", "A quota of stored keys is used up");
                row(code, title, S::TOO_MANY_REQUESTS, Code::ResourceExhausted, true)
            }
            Self::ReplayUnavailable { .. } => {
                let (code, title) = ("replay-unavailable", "It was executed, and its response is not stored");
                row(code, title, S::CONFLICT, Code::FailedPrecondition, false).advice(false)
            }
            Self::RouteUnknown => {
                row("route-unknown", "No route is for this request", S::NOT_FOUND, Code::Unimplemented, false)
            }
            Self::RequestRefused { .. } => row(
                "request-refused",
                "The head of the request is refused",
                S::BAD_REQUEST,
                Code::InvalidArgument,
                false,
            ),
            Self::TunnelRefused => {
                row("tunnel-refused", "Tunnels are not made", S::METHOD_NOT_ALLOWED, Code::Unimplemented, false)
            }
            Self::UpstreamUnreachable { .. } => {
                row("upstream-unreachable", "The service takes no connection", S::BAD_GATEWAY, Code::Unavailable, true)
                    .advice(true)
            }
            Self::UpstreamTimeout { .. } => {
                let (code, title) = ("upstream-timeout", "The service did not answer in time");
                row(code, title, S::GATEWAY_TIMEOUT, Code::DeadlineExceeded, true).advice(true)
            }
            Self::UpstreamBroken => {
                let (code, title) = ("upstream-broken", "The connection to the service broke off");
                row(code, title, S::BAD_GATEWAY, Code::Unavailable, true).advice(true)
            }
            Self::GatewayOverloaded { .. } => {
                let (code, title) = ("gateway-overloaded", "The service has as many requests as it may");
                row(code, title, S::SERVICE_UNAVAILABLE, Code::ResourceExhausted, true)
            }
        }
    }
}
