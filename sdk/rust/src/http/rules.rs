//! What holds for an endpoint: which requests are protected, how they are compared, what is stored of their responses.

use core::time::Duration;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use http::{HeaderName, StatusCode};

use super::profile::{InFlight, Profile};
use crate::fingerprint::{Members, Selection};

/// How bad a double execution is; picks the defaults of [`Rules`]. Worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Money moves: a key whose lease ran out is held until its outcome is known.
    Critical,
    /// The default of an endpoint that nobody has thought about.
    High,
    /// A double execution is a nuisance.
    Medium,
    /// A double execution hardly matters.
    Low,
}

/// How far an endpoint's rollout is. Weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Requests pass as if there were no store.
    Off,
    /// Keys and would-be conflicts are counted; nothing is changed.
    Observe,
    /// Requests with a key are protected, others pass.
    Optional,
    /// A request without a key is refused.
    Required,
    /// As required, and no request ever runs unprotected, whatever the fail mode says.
    Strict,
}

/// What becomes of a request while the store is not there. Weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailMode {
    /// It runs, unprotected.
    Open,
    /// It is refused, for now.
    Closed,
}

/// What happens to a key whose lease ran out. The store decides it, by its policy; the rules repeat it, because a failure of
/// the application is treated alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnLapse {
    /// It is granted again, marked as a possible duplicate.
    Regrant,
    /// It is held until its outcome is known.
    Hold,
}

/// What becomes of a key whose execution ended in a response that is not stored and says that the application failed (5xx).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnFailure {
    /// It is released: a retry runs it.
    Release,
    /// Its lease runs out: what follows is what [`OnLapse`] says.
    Lapse,
}

/// Headers that are stored unless the rules name others.
pub const DEFAULT_HEADERS: [&str; 9] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "etag",
    "last-modified",
    "link",
    "location",
];

/// Statuses of the application that are not stored unless the rules say so: they say that nothing was done, or that the same
/// request may be sent again.
pub const DEFAULT_SKIPPED: [u16; 6] = [401, 403, 408, 409, 425, 429];

/// Headers of a response that are never replayed: they are of one connection, one moment, one caller or one trace.
pub const NEVER_STORED: [&str; 29] = [
    "b3",
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "server",
    "server-timing",
    "set-cookie",
    "set-cookie2",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "uber-trace-id",
    "upgrade",
    "www-authenticate",
    "x-amzn-trace-id",
    "x-b3-flags",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-cloud-trace-context",
    "x-correlation-id",
    "x-request-id",
];

/// Beginnings of names that are this protocol's own: what an application says under them is not repeated.
const OWN_PREFIXES: [&str; 4] = ["holdfast-", "idempotency-", "idempotent-", "repeatability-"];

/// Bytes of the largest response body that may be stored, and of the largest request body that is compared whole: what a
/// node takes at the most.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Headers that rules may name.
const MAX_HEADERS: usize = 128;
/// Bytes of a body that is stored or compared whole, unless the rules say otherwise.
const DEFAULT_BODY_BYTES: usize = 256 * 1024;
/// How long a request waits for an attempt of its key that runs elsewhere, unless the rules say otherwise, and at the most.
const DEFAULT_WAIT: Duration = Duration::from_secs(10);
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How long an execution's lease is kept alive, unless the rules say otherwise.
const DEFAULT_WORK: Duration = Duration::from_secs(300);
/// A lease and a retention, as a node takes them.
const LEASE: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(3_600);
const RETENTION: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(400 * 24 * 3_600);

/// Whether a response header is never stored, whoever names it.
#[must_use]
pub fn is_never_stored(name: &str) -> bool {
    NEVER_STORED.contains(&name) || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Why rules cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// A text is no header's name.
    #[error("{name:?} is no name of a header: write such as location")]
    HeaderName {
        /// What was written.
        name: String,
    },
    /// A header that is never stored was named.
    #[error("{name} is never stored: it is of one connection, moment, caller or trace, or the layer's own")]
    NeverStored {
        /// The header.
        name: String,
    },
    /// More headers than an envelope takes.
    #[error("{count} headers are named: name at most {MAX_HEADERS}")]
    TooManyHeaders {
        /// How many there were.
        count: usize,
    },
}

/// What holds for an endpoint. Made from a severity, then changed field by field; a value beyond its bounds is the nearest
/// within them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    stage: Stage,
    profile: Profile,
    fail: FailMode,
    on_lapse: OnLapse,
    on_failure: Option<OnFailure>,
    in_flight: InFlight,
    lease: Option<Duration>,
    retention: Option<Duration>,
    window: Duration,
    wait: Duration,
    work: Duration,
    selection: Selection,
    statuses: Option<BTreeSet<u16>>,
    headers: BTreeSet<String>,
    most_request_bytes: usize,
    most_response_bytes: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self::of(Severity::High)
    }
}

impl Rules {
    /// The defaults of a severity.
    #[must_use]
    pub fn of(severity: Severity) -> Self {
        const HOUR_S: u64 = 3_600;
        let (fail, on_lapse, retention_s) = match severity {
            Severity::Critical => (FailMode::Closed, OnLapse::Hold, 7 * 24 * HOUR_S),
            Severity::High => (FailMode::Closed, OnLapse::Regrant, 3 * 24 * HOUR_S),
            Severity::Medium => (FailMode::Open, OnLapse::Regrant, 24 * HOUR_S),
            Severity::Low => (FailMode::Open, OnLapse::Regrant, HOUR_S),
        };
        Self {
            stage: Stage::Optional,
            profile: Profile::Default,
            fail,
            on_lapse,
            on_failure: None,
            in_flight: InFlight::Conflict,
            lease: None,
            retention: None,
            window: Duration::from_secs(retention_s),
            wait: DEFAULT_WAIT,
            work: DEFAULT_WORK,
            // The target too: requests of one endpoint name may differ in it alone.
            selection: Selection::new(&["content-type", ":path"], Members::All).unwrap_or_default(),
            statuses: None,
            headers: DEFAULT_HEADERS.iter().map(|name| (*name).to_owned()).collect(),
            most_request_bytes: DEFAULT_BODY_BYTES,
            most_response_bytes: DEFAULT_BODY_BYTES,
        }
    }

    /// How far the rollout is. Default: optional.
    #[must_use]
    pub fn with_stage(self, stage: Stage) -> Self {
        Self { stage, ..self }
    }

    /// Whose conventions hold. Default: ours.
    #[must_use]
    pub fn with_profile(self, profile: Profile) -> Self {
        Self { profile, ..self }
    }

    /// What becomes of a request while the store is not there. Default: the severity's.
    #[must_use]
    pub fn with_fail(self, fail: FailMode) -> Self {
        Self { fail, ..self }
    }

    /// What the store does with a key whose lease ran out: what its policy says. Default: the severity's.
    #[must_use]
    pub fn with_on_lapse(self, on_lapse: OnLapse) -> Self {
        Self { on_lapse, ..self }
    }

    /// What becomes of a key whose execution ended in a 5xx that is not stored. Default: released under
    /// [`OnLapse::Regrant`], left to lapse under [`OnLapse::Hold`].
    #[must_use]
    pub fn with_on_failure(self, on_failure: OnFailure) -> Self {
        Self { on_failure: Some(on_failure), ..self }
    }

    /// What a caller is told whose key is being executed elsewhere. Default: 409.
    #[must_use]
    pub fn with_in_flight(self, in_flight: InFlight) -> Self {
        Self { in_flight, ..self }
    }

    /// How long an attempt may be silent before its grant lapses: 50 ms to 1 h. It is kept alive while the application works.
    /// Default: the store's policy.
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        Self { lease: Some(lease.clamp(*LEASE.start(), *LEASE.end())), ..self }
    }

    /// How long an answer is kept: 1 s to 400 days. Default: the store's policy.
    #[must_use]
    pub fn with_retention(self, retention: Duration) -> Self {
        let retention = retention.clamp(*RETENTION.start(), *RETENTION.end());
        Self { retention: Some(retention), window: retention, ..self }
    }

    /// How old a request may be that says when it was first sent: the retention of the store's policy, where that is known and
    /// not asked for. Default: the severity's.
    #[must_use]
    pub fn with_window(self, window: Duration) -> Self {
        Self { window: window.clamp(*RETENTION.start(), *RETENTION.end()), ..self }
    }

    /// How long a request waits for an attempt of its key that runs elsewhere: up to 60 s. Default: 10 s.
    #[must_use]
    pub fn with_wait(self, wait: Duration) -> Self {
        Self { wait: wait.min(MAX_WAIT), ..self }
    }

    /// How long the lease is kept alive while the application works. After that it runs out. Default: 5 minutes.
    #[must_use]
    pub fn with_work_limit(self, work: Duration) -> Self {
        Self { work, ..self }
    }

    /// What requests are compared by, beside method and endpoint. `:path` names the target with its query. Default:
    /// `content-type`, `:path`, and the whole body.
    #[must_use]
    pub fn with_selection(self, selection: Selection) -> Self {
        Self { selection, ..self }
    }

    /// The statuses that are stored. Default: 200 to 499 without [`DEFAULT_SKIPPED`], and 500 to 599 where the profile stores
    /// them.
    #[must_use]
    pub fn with_statuses(self, statuses: impl IntoIterator<Item = u16>) -> Self {
        Self { statuses: Some(statuses.into_iter().collect()), ..self }
    }

    /// The headers that are stored, in any case. Default: [`DEFAULT_HEADERS`].
    ///
    /// # Errors
    /// [`RulesError`] for what is no name, or is never stored.
    pub fn with_headers<S: AsRef<str>>(self, names: impl IntoIterator<Item = S>) -> Result<Self, RulesError> {
        let mut headers = BTreeSet::new();
        for name in names {
            let text = name.as_ref();
            let wrong = |_| RulesError::HeaderName { name: text.to_owned() };
            let name = HeaderName::try_from(text).map_err(wrong)?;
            if is_never_stored(name.as_str()) {
                return Err(RulesError::NeverStored { name: name.to_string() });
            }
            headers.insert(name.as_str().to_owned());
        }
        match headers.len() {
            0..=MAX_HEADERS => Ok(Self { headers, ..self }),
            count => Err(RulesError::TooManyHeaders { count }),
        }
    }

    /// Bytes of a request's body that is held back and compared whole: up to 1 MiB. Of a longer one so much is compared, and
    /// its response is not replayed. Default: 256 KiB.
    #[must_use]
    pub fn with_most_request_bytes(self, bytes: usize) -> Self {
        Self { most_request_bytes: bytes.min(MAX_BODY_BYTES), ..self }
    }

    /// Bytes of the largest response body that is stored: up to 1 MiB. Of a larger one the outcome is stored. Default: 256
    /// KiB.
    #[must_use]
    pub fn with_most_response_bytes(self, bytes: usize) -> Self {
        Self { most_response_bytes: bytes.min(MAX_BODY_BYTES), ..self }
    }

    /// How far the rollout is.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Whose conventions hold.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// What becomes of a request while the store is not there: refused under [`Stage::Strict`], whatever was said.
    #[must_use]
    pub fn fail(&self) -> FailMode {
        match self.stage {
            Stage::Strict => FailMode::Closed,
            Stage::Off | Stage::Observe | Stage::Optional | Stage::Required => self.fail,
        }
    }

    /// What the store does with a key whose lease ran out.
    #[must_use]
    pub fn on_lapse(&self) -> OnLapse {
        self.on_lapse
    }

    /// What becomes of a key whose execution ended in a 5xx that is not stored.
    #[must_use]
    pub fn on_failure(&self) -> OnFailure {
        self.on_failure.unwrap_or(match self.on_lapse {
            OnLapse::Regrant => OnFailure::Release,
            OnLapse::Hold => OnFailure::Lapse,
        })
    }

    /// What a caller is told whose key is being executed elsewhere.
    #[must_use]
    pub fn in_flight(&self) -> InFlight {
        self.in_flight
    }

    /// The lease that is asked for; none: the store's policy decides.
    #[must_use]
    pub fn lease(&self) -> Option<Duration> {
        self.lease
    }

    /// The retention that is asked for; none: the store's policy decides.
    #[must_use]
    pub fn retention(&self) -> Option<Duration> {
        self.retention
    }

    /// How old a request may be that says when it was first sent: the retention, or what the severity's is.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.window
    }

    /// How long a request waits for an attempt that runs elsewhere.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// How long the lease is kept alive while the application works.
    #[must_use]
    pub fn work_limit(&self) -> Duration {
        self.work
    }

    /// What requests are compared by.
    #[must_use]
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Whether a response of this status is stored.
    #[must_use]
    pub fn stores_status(&self, status: StatusCode) -> bool {
        let status = status.as_u16();
        match &self.statuses {
            Some(statuses) => statuses.contains(&status),
            None => match status {
                200..=499 => !DEFAULT_SKIPPED.contains(&status),
                500..=599 => self.profile.stores_failures(),
                _ => false,
            },
        }
    }

    /// Whether a response header is stored: one that is named, and those without which nobody can read the body.
    #[must_use]
    pub fn stores_header(&self, name: &HeaderName) -> bool {
        [http::header::CONTENT_TYPE, http::header::CONTENT_ENCODING].contains(name)
            || self.headers.contains(name.as_str())
    }

    /// Bytes of a request's body that is compared whole.
    #[must_use]
    pub fn most_request_bytes(&self) -> usize {
        self.most_request_bytes
    }

    /// Bytes of the largest response body that is stored.
    #[must_use]
    pub fn most_response_bytes(&self) -> usize {
        self.most_response_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(rules: &Rules) -> Vec<u16> {
        (100..600).filter(|status| rules.stores_status(StatusCode::from_u16(*status).expect("a status"))).collect()
    }

    #[test]
    fn the_application_s_answers_are_stored_but_those_that_may_be_sent_again() {
        let rules = Rules::of(Severity::High);
        let expected: Vec<u16> = (200..500).filter(|status| ![401, 403, 408, 409, 425, 429].contains(status)).collect();
        assert_eq!(stored(&rules), expected);
        let stripe = stored(&rules.clone().with_profile(Profile::Stripe));
        assert_eq!(stripe, expected.iter().copied().chain(500..600).collect::<Vec<_>>());
        let chosen = rules.with_profile(Profile::Stripe).with_statuses([200, 503]);
        assert_eq!(stored(&chosen), [200, 503], "what was chosen goes before the profile");
    }

    #[test]
    fn a_failure_is_treated_as_the_end_of_a_lease_is_unless_somebody_says_otherwise() {
        assert_eq!(Rules::of(Severity::Critical).on_failure(), OnFailure::Lapse);
        assert_eq!(Rules::of(Severity::High).on_failure(), OnFailure::Release);
        assert_eq!(Rules::of(Severity::High).with_on_lapse(OnLapse::Hold).on_failure(), OnFailure::Lapse);
        assert_eq!(Rules::of(Severity::Critical).with_on_failure(OnFailure::Release).on_failure(), OnFailure::Release);
    }

    #[test]
    fn strict_never_fails_open() {
        let rules = Rules::of(Severity::Low);
        assert_eq!(rules.fail(), FailMode::Open);
        assert_eq!(rules.with_stage(Stage::Strict).fail(), FailMode::Closed);
    }

    #[test]
    fn what_is_never_stored_cannot_be_named() {
        let named = |name: &str| Rules::default().with_headers([name]);
        for name in ["Set-Cookie", "date", "traceparent", "Idempotency-Key", "holdfast-trailer-x", "content-length"] {
            let refused = RulesError::NeverStored { name: name.to_ascii_lowercase() };
            assert_eq!(named(name), Err(refused));
        }
        assert_eq!(named("a b"), Err(RulesError::HeaderName { name: "a b".to_owned() }));
        let many = Rules::default().with_headers((0..129).map(|number| format!("x-{number}")));
        assert_eq!(many, Err(RulesError::TooManyHeaders { count: 129 }));
        assert!(DEFAULT_HEADERS.iter().all(|name| !is_never_stored(name)));
        let rules = named("X-Charge").expect("a header of the application's");
        assert!(rules.stores_header(&HeaderName::from_static("x-charge")));
        assert!(!rules.stores_header(&HeaderName::from_static("location")), "named are these alone");
    }

    #[test]
    fn values_beyond_their_bounds_are_the_nearest_within() {
        let rules = Rules::default()
            .with_lease(Duration::from_millis(1))
            .with_retention(Duration::ZERO)
            .with_wait(Duration::from_secs(3_600))
            .with_most_request_bytes(usize::MAX)
            .with_most_response_bytes(usize::MAX);
        assert_eq!(rules.lease(), Some(Duration::from_millis(50)));
        assert_eq!((rules.retention(), rules.window()), (Some(Duration::from_secs(1)), Duration::from_secs(1)));
        assert_eq!(rules.wait(), Duration::from_secs(60));
        assert_eq!((rules.most_request_bytes(), rules.most_response_bytes()), (MAX_BODY_BYTES, MAX_BODY_BYTES));
    }
}
