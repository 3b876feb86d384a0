//! Every answer of the layer that is not the application's: what it is called, which status and headers it has, and what it
//! tells a client to do. HTTP gets `application/problem+json` (RFC 9457), gRPC a status with the same in its details.
//!
//! docs/reference/errors has a page a code; a test holds the two together.

mod facts;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::mark::EPOCH;
use super::profile::{Profile, RESULT};
use super::rules::Rules;
use super::seconds_up;
use super::stored::Unavailable;

pub use self::facts::Facts;

/// Why a request gets no response of the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The endpoint asks for a key, and there is none.
    KeyMissing,
    /// The key's header is malformed, too long, or came twice; or the store does not take the key.
    KeyInvalid {
        /// What is wrong with it.
        detail: String,
    },
    /// Nobody could tell whose request it is.
    TenantMissing,
    /// The request's body ended before its end.
    RequestUnreadable,
    /// The request's body did not come in time.
    RequestTimeout {
        /// How long was waited, in milliseconds.
        limit_ms: u64,
    },
    /// The method is not protected, and the client asked for it (OASIS).
    Unsupported,
    /// The key was used for another request.
    KeyReused,
    /// The key is being executed elsewhere, and was waited for.
    InProgress {
        /// When to ask again, in milliseconds.
        retry_after_ms: u64,
    },
    /// An earlier attempt may have been executed, and nobody knows.
    OutcomeUnknown {
        /// Which attempt, from 1.
        attempt: u32,
    },
    /// A region that was lost may have executed the key.
    InDoubt {
        /// When to ask again, in milliseconds.
        retry_after_ms: u64,
    },
    /// The region is behind the key's epoch.
    Superseded {
        /// The epoch that it is in.
        epoch: u64,
    },
    /// The store gave no answer, and the endpoint does not run without it.
    StoreUnavailable {
        /// What failed.
        detail: String,
        /// When to ask again, in milliseconds.
        retry_after_ms: u64,
    },
    /// The store does not take what the layer asks: its settings are wrong.
    StoreRefused {
        /// What the store said.
        detail: String,
    },
    /// The key is older than what is remembered.
    KeyExpired,
    /// A rate of new keys is used up.
    RateLimited(Limit),
    /// A quota of stored keys or bytes is used up.
    QuotaExceeded(Limit),
    /// It was executed, and its response is not stored.
    ReplayUnavailable {
        /// Why not.
        why: Unavailable,
        /// The status of the response.
        status: StatusCode,
        /// SHA-256 of the body in lower-case hex, where it is known.
        sha256: Option<String>,
    },
    /// A gateway has no route for it.
    RouteUnknown,
    /// A gateway does not take its head.
    RequestRefused {
        /// What is wrong with it.
        detail: String,
    },
    /// A gateway makes no tunnels.
    TunnelRefused,
    /// A gateway did not reach the upstream: nothing of the request was written.
    UpstreamUnreachable {
        /// When to ask again, in milliseconds.
        retry_after_ms: u64,
    },
    /// The upstream did not begin its answer in time.
    UpstreamTimeout {
        /// How long was waited, in milliseconds.
        limit_ms: u64,
    },
    /// The connection to the upstream broke off while the request was on it.
    UpstreamBroken,
    /// The upstream has as many requests of a gateway as it may.
    GatewayOverloaded {
        /// When to ask again, in milliseconds.
        retry_after_ms: u64,
    },
}

/// A limit that was met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its name.
    pub name: String,
    /// What it allows, where that is known.
    pub quota: Option<Quota>,
    /// When to ask again, in milliseconds.
    pub retry_after_ms: u64,
}

/// What a limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many.
    pub amount: u64,
    /// In how many seconds; none: at a time.
    pub window_s: Option<u64>,
}

/// What an answer has to know beside the refusal.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The endpoint's rules.
    pub rules: &'a Rules,
    /// `<home>/<partition>=<epoch>`, where the store said it.
    pub epoch: Option<&'a str>,
    /// Where the pages of the codes are, up to the code: `type` and `Link` are made of it.
    pub pages: &'a str,
}

/// An answer, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

const SHOULD_RETRY: HeaderName = HeaderName::from_static("stripe-should-retry");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

impl Refusal {
    /// The answer to a new key that a limit refuses, by the name that the store gives it: of a quota, which only time or an
    /// operator frees, or of a rate.
    #[must_use]
    pub fn limited(name: String, retry_after_ms: u64) -> Self {
        let is_quota = name.ends_with("-keys") || name.ends_with("-bytes") || name == "endpoints";
        let limit = Limit { name, quota: None, retry_after_ms };
        if is_quota { Self::QuotaExceeded(limit) } else { Self::RateLimited(limit) }
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.facts().code
    }

    /// The status under these rules.
    #[must_use]
    pub fn status(&self, rules: &Rules) -> StatusCode {
        match self {
            Self::KeyReused => rules.profile().mismatch(),
            Self::InProgress { .. } => rules.in_flight().status(),
            Self::KeyExpired => rules.profile().expired(),
            Self::KeyMissing
            | Self::KeyInvalid { .. }
            | Self::TenantMissing
            | Self::RequestUnreadable
            | Self::RequestTimeout { .. }
            | Self::Unsupported
            | Self::OutcomeUnknown { .. }
            | Self::InDoubt { .. }
            | Self::Superseded { .. }
            | Self::StoreUnavailable { .. }
            | Self::StoreRefused { .. }
            | Self::RateLimited(_)
            | Self::QuotaExceeded(_)
            | Self::ReplayUnavailable { .. }
            | Self::RouteUnknown
            | Self::RequestRefused { .. }
            | Self::TunnelRefused
            | Self::UpstreamUnreachable { .. }
            | Self::UpstreamTimeout { .. }
            | Self::UpstreamBroken
            | Self::GatewayOverloaded { .. } => self.facts().status,
        }
    }

    /// When to ask again, in milliseconds, for what may be another answer then.
    #[must_use]
    pub fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::InProgress { retry_after_ms }
            | Self::InDoubt { retry_after_ms }
            | Self::StoreUnavailable { retry_after_ms, .. }
            | Self::UpstreamUnreachable { retry_after_ms }
            | Self::GatewayOverloaded { retry_after_ms } => Some(*retry_after_ms),
            Self::RateLimited(limit) | Self::QuotaExceeded(limit) => Some(limit.retry_after_ms),
            // Elsewhere, and at once.
            Self::Superseded { .. } => Some(0),
            Self::KeyMissing
            | Self::KeyInvalid { .. }
            | Self::TenantMissing
            | Self::RequestUnreadable
            | Self::RequestTimeout { .. }
            | Self::Unsupported
            | Self::KeyReused
            | Self::OutcomeUnknown { .. }
            | Self::StoreRefused { .. }
            | Self::KeyExpired
            | Self::ReplayUnavailable { .. }
            | Self::RouteUnknown
            | Self::RequestRefused { .. }
            | Self::TunnelRefused
            | Self::UpstreamTimeout { .. }
            | Self::UpstreamBroken => None,
        }
    }

    /// What was wrong, and what to do.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::KeyMissing => "this request changes something and has no idempotency key: send one, made anew for each \
                                 operation and kept for its retries"
                .to_owned(),
            Self::KeyInvalid { detail } => detail.clone(),
            Self::TenantMissing => "it cannot be told whose request this is: send it with credentials".to_owned(),
            Self::RequestUnreadable => "the request's body broke off: send the request again".to_owned(),
            Self::RequestTimeout { limit_ms } => format!("the request's body did not come within {limit_ms} ms"),
            Self::Unsupported => "requests with this method are not protected: send it without the header, once".to_owned(),
            Self::KeyReused => "the key was sent before, with another request: make a new key for a new operation".to_owned(),
            Self::InProgress { .. } => {
                "the same request is being executed: ask again with the same key, and get its response".to_owned()
            }
            Self::OutcomeUnknown { attempt } => format!(
                "attempt {attempt} may have been executed, and nobody knows yet: this is no failure. Keep the key, and find \
                 out, or wait until somebody has"
            ),
            Self::InDoubt { .. } => "after a failover it is not known whether the key was granted before. It was not \
                                     executed now: ask again with the same key. A new key is right only if this operation \
                                     was never sent before"
                .to_owned(),
            Self::Superseded { epoch } => format!(
                "this region is in epoch {epoch} and behind the key. It was not executed now: send the same key elsewhere"
            ),
            Self::StoreUnavailable { detail, .. } => {
                format!("{detail}. It was not executed now: send the same request with the same key again")
            }
            Self::StoreRefused { detail } => format!("the store does not take what this service asks: {detail}"),
            Self::KeyExpired => "the key is older than what is remembered, so it cannot be told whether it was executed. \
                                 It was not executed now"
                .to_owned(),
            Self::RateLimited(limit) => format!("the limit {:?} allows no new key now: wait", limit.name),
            Self::QuotaExceeded(limit) => format!("the quota {:?} is used up: wait, or ask for more", limit.name),
            Self::ReplayUnavailable { why: Unavailable::SizeExceeded, status, .. } => {
                format!("it was executed and answered with {}, too large to be stored: do not send it again", status.as_u16())
            }
            Self::ReplayUnavailable { why: Unavailable::Streaming, status, .. } => {
                format!("it was executed and answered with {} in a stream: do not send it again", status.as_u16())
            }
            Self::RouteUnknown => "nothing is served at this host, method and path".to_owned(),
            Self::RequestRefused { detail } => detail.clone(),
            Self::TunnelRefused => "this is no proxy for CONNECT".to_owned(),
            Self::UpstreamUnreachable { .. } => {
                "the service behind this gateway takes no connection. It was not executed now: send the same request with the \
                 same key again"
                    .to_owned()
            }
            Self::UpstreamTimeout { limit_ms } => format!(
                "the service behind this gateway did not answer within {limit_ms} ms, and may have executed it: send the same \
                 request with the same key again"
            ),
            Self::UpstreamBroken => {
                "the connection to the service behind this gateway broke off, and it may have been executed: send the same \
                 request with the same key again"
                    .to_owned()
            }
            Self::GatewayOverloaded { .. } => {
                "the service behind this gateway has as many requests as it may. It was not executed now: send it again later"
                    .to_owned()
            }
        }
    }

    /// The answer as HTTP has it.
    #[must_use]
    pub fn answer(&self, about: &About<'_>) -> Answer {
        let status = self.status(about.rules);
        let mut headers = self.headers(about);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        Answer { status, headers, body: Bytes::from(self.problem(status, about)) }
    }

    /// The answer as gRPC has it: nothing but headers, the status among them.
    #[must_use]
    pub fn grpc_answer(&self, about: &About<'_>) -> Answer {
        let facts = self.facts();
        let retryable = [("retryable".to_owned(), facts.retryable.to_string())];
        let mut details = ErrorDetails::with_error_info(facts.code, "holdfast", retryable);
        if let Some(retry_after_ms) = self.retry_after_ms() {
            details.set_retry_info(Some(core::time::Duration::from_millis(retry_after_ms)));
        }
        let status = Status::with_error_details(facts.grpc, self.detail(), details);
        let mut headers = self.headers(about);
        headers.extend(status.into_http::<()>().into_parts().0.headers);
        Answer { status: StatusCode::OK, headers, body: Bytes::new() }
    }

    fn headers(&self, about: &About<'_>) -> HeaderMap {
        let facts = self.facts();
        let mut headers = HeaderMap::new();
        let mut put = |name: HeaderName, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        };
        if let Some(retry_after_ms) = self.retry_after_ms() {
            put(header::RETRY_AFTER, seconds_up(retry_after_ms).to_string());
        }
        if let Some(should_retry) = facts.should_retry {
            put(SHOULD_RETRY, should_retry.to_string());
        }
        if let Some(epoch) = about.epoch {
            put(EPOCH, epoch.to_owned());
        }
        if let Some(rejected) = facts.rejected.then_some("rejected").filter(|_| about.rules.profile() == Profile::Oasis)
        {
            put(RESULT, rejected.to_owned());
        }
        match self {
            Self::KeyMissing => put(header::LINK, format!("<{}{}>; rel=\"describedby\"", about.pages, facts.code)),
            Self::RateLimited(limit) | Self::QuotaExceeded(limit) => {
                put(RATE_LIMIT, format!("\"{}\";r=0;t={}", quotable(&limit.name), seconds_up(limit.retry_after_ms)));
                if let Some(Quota { amount, window_s }) = limit.quota {
                    let window = window_s.map(|window_s| format!(";w={window_s}")).unwrap_or_default();
                    put(RATE_LIMIT_POLICY, format!("\"{}\";q={amount}{window}", quotable(&limit.name)));
                }
            }
            Self::KeyInvalid { .. }
            | Self::TenantMissing
            | Self::RequestUnreadable
            | Self::RequestTimeout { .. }
            | Self::Unsupported
            | Self::KeyReused
            | Self::InProgress { .. }
            | Self::OutcomeUnknown { .. }
            | Self::InDoubt { .. }
            | Self::Superseded { .. }
            | Self::StoreUnavailable { .. }
            | Self::StoreRefused { .. }
            | Self::KeyExpired
            | Self::ReplayUnavailable { .. }
            | Self::RouteUnknown
            | Self::RequestRefused { .. }
            | Self::TunnelRefused
            | Self::UpstreamUnreachable { .. }
            | Self::UpstreamTimeout { .. }
            | Self::UpstreamBroken
            | Self::GatewayOverloaded { .. } => {}
        }
        headers
    }

    fn problem(&self, status: StatusCode, about: &About<'_>) -> String {
        let (facts, pages) = (self.facts(), about.pages);
        let mut problem = format!(
            "{{\"type\":{},\"title\":{},\"status\":{},\"detail\":{},\"code\":{},\"retryable\":{}",
            quoted(&format!("{pages}{}", facts.code)),
            quoted(facts.title),
            status.as_u16(),
            quoted(&self.detail()),
            quoted(facts.code),
            facts.retryable,
        );
        if let Self::ReplayUnavailable { why, status, sha256 } = self {
            let reason = quoted(why.as_str());
            let sha256 = sha256.as_deref().map_or_else(|| "null".to_owned(), quoted);
            let stored =
                format!(",\"reason\":{reason},\"response\":{{\"status\":{},\"sha256\":{sha256}}}", status.as_u16());
            problem.push_str(&stored);
        }
        if about.rules.profile() == Profile::Stripe {
            // What Stripe's libraries make their exceptions of; RFC 9457 lets a problem have members of its own.
            let (kind, code) = self.stripe_error(status);
            let (kind, code, message) = (quoted(kind), quoted(code), quoted(&self.detail()));
            problem.push_str(&format!(",\"error\":{{\"type\":{kind},\"code\":{code},\"message\":{message}}}"));
        }
        problem.push('}');
        problem
    }

    /// The type and the code of the error that Stripe's libraries know.
    fn stripe_error(&self, status: StatusCode) -> (&'static str, &'static str) {
        if matches!(self, Self::KeyReused) {
            return ("idempotency_error", self.code());
        }
        if matches!(self, Self::InProgress { .. }) {
            return ("invalid_request_error", "idempotency_key_in_use");
        }
        (if status.is_server_error() { "api_error" } else { "invalid_request_error" }, self.code())
    }
}

/// A text as a JSON string (RFC 8259 section 7).
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len().saturating_add(2));
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\0'..='\x1f' => {
                // Writing to a string does not fail.
                let _ok = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

/// A text without what would have to be escaped in a header's quoted string.
fn quotable(text: &str) -> String {
    text.chars().filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\')).collect()
}
