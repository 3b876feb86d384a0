//! What a complete document comes to: every value within its bounds, in the types that the store works with.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;

use holdfast_client::fingerprint::{FingerprintError, Members, Pointer, Selection};
use holdfast_client::http::is_never_stored;

use crate::limits;
use crate::policy::document::{Document, FingerprintFields, Limits, ResponseFields};
use crate::policy::{Consistency, FailMode, Severity, Stage};
use crate::reservation::record::{OnLapse, Terms};
use crate::time::Span;

/// What is wrong with one field, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Wrong {
    /// The field, as [`crate::policy::document::FIELDS`] writes it.
    pub field: &'static str,
    /// What is wrong, and what to do.
    pub why: String,
}

/// What an endpoint's keys are promised. Every value is within its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contract {
    /// How bad a double execution is.
    pub severity: Severity,
    /// How far the rollout is.
    pub stage: Stage,
    /// Who grants.
    pub consistency: Consistency,
    /// What becomes of what is doubtful.
    pub fail: FailMode,
    /// What the end of a lease means.
    pub on_lapse: OnLapse,
    /// The grant's lease, in milliseconds.
    pub lease_ms: u32,
    /// How long a completed record is kept, in milliseconds.
    pub retention_ms: u64,
    /// How long callers go on retrying, in milliseconds, if somebody said so.
    pub retry_window_ms: Option<u64>,
    /// What a fingerprint takes of a request.
    pub selection: Selection,
    /// The statuses of responses that are stored.
    pub statuses: BTreeSet<u16>,
    /// The headers that are stored, in lower case.
    pub headers: BTreeSet<String>,
    /// The largest body that is stored, in bytes.
    pub max_body_bytes: u64,
    /// What the endpoint may take up.
    pub limits: Limits,
}

impl Contract {
    /// Checks a complete document: one with every field that has a default.
    ///
    /// # Errors
    /// Every field whose value is out of bounds or has no meaning.
    pub fn of(document: &Document) -> Result<Self, Vec<Wrong>> {
        let mut check = Check::default();
        check.text("owner", document.owner.as_deref(), limits::MAX_ACTOR_BYTES);
        check.text("justification", document.justification.as_deref(), limits::MAX_REASON_BYTES);
        check.limits(&document.limits);
        let lease_bounds = u64::from(*limits::LEASE_MS.start())..=u64::from(*limits::LEASE_MS.end());
        let lease_ms = check.span("lease", document.lease, &lease_bounds).and_then(|ms| u32::try_from(ms).ok());
        let retention_ms = check.span("retention", document.retention, &limits::RETENTION_MS);
        let retry_window_ms = check.span("retry_window", document.retry_window, &limits::RETENTION_MS);
        let selection = check.selection(&document.fingerprint);
        let ResponseFields { statuses, skip_statuses, headers, max_body_bytes } = &document.response;
        let mut stored = check.statuses("response.statuses", statuses.as_deref());
        let skipped = check.statuses("response.skip_statuses", skip_statuses.as_deref());
        stored.retain(|status| !skipped.contains(status));
        let headers = check.headers(headers.as_deref().unwrap_or_default());
        let max_body = 1..=u64::try_from(limits::MAX_ENVELOPE_BODY_BYTES).unwrap_or(u64::MAX);
        check.count("response.max_body_bytes", *max_body_bytes, &max_body);
        let complete = || {
            Some(Self {
                severity: document.severity,
                stage: document.stage?,
                consistency: document.consistency?,
                fail: document.fail?,
                on_lapse: document.on_lapse?,
                lease_ms: lease_ms?,
                retention_ms: retention_ms?,
                retry_window_ms,
                selection: selection?,
                statuses: stored,
                headers,
                max_body_bytes: (*max_body_bytes)?,
                limits: document.limits.clone(),
            })
        };
        match complete() {
            Some(contract) if check.wrong.is_empty() => Ok(contract),
            Some(_) | None => Err(check.wrong),
        }
    }

    /// What a key is granted under, by this revision of the policy.
    #[must_use]
    pub const fn terms(&self, policy_revision: u32) -> Terms {
        Terms { policy_revision, lease_ms: self.lease_ms, on_lapse: self.on_lapse, retention_ms: self.retention_ms }
    }
}

/// What was found wrong so far.
#[derive(Default)]
struct Check {
    wrong: Vec<Wrong>,
}

impl Check {
    fn wrong(&mut self, field: &'static str, why: impl fmt::Display) {
        self.wrong.push(Wrong { field, why: why.to_string() });
    }

    fn text(&mut self, field: &'static str, text: Option<&str>, most: usize) {
        let Some(text) = text else { return };
        if text.trim().is_empty() || text.len() > most {
            self.wrong(field, format!("has {} bytes: write 1 to {most}, or leave it out", text.trim().len()));
        }
        if text.chars().any(char::is_control) {
            self.wrong(field, "has a control character: write one line of text");
        }
    }

    fn span(&mut self, field: &'static str, span: Option<Span>, bounds: &RangeInclusive<u64>) -> Option<u64> {
        let span = span?;
        if bounds.contains(&span.ms()) {
            return Some(span.ms());
        }
        let (least, most) = (Span::from_ms(*bounds.start()), Span::from_ms(*bounds.end()));
        self.wrong(field, format!("{span} is out of bounds: write {least} to {most}"));
        None
    }

    fn count(&mut self, field: &'static str, count: Option<u64>, bounds: &RangeInclusive<u64>) {
        if let Some(count) = count.filter(|count| !bounds.contains(count)) {
            self.wrong(field, format!("{count} is out of bounds: write {} to {}", bounds.start(), bounds.end()));
        }
    }

    fn limits(&mut self, limits: &Limits) {
        let Limits { keys_per_second, keys_per_second_per_client, max_keys, max_bytes } = limits;
        self.count("limits.keys_per_second", *keys_per_second, &limits::KEYS_PER_SECOND);
        self.count("limits.keys_per_second_per_client", *keys_per_second_per_client, &limits::KEYS_PER_SECOND);
        self.count("limits.max_keys", *max_keys, &limits::QUOTA_KEYS);
        self.count("limits.max_bytes", *max_bytes, &limits::QUOTA_BYTES);
    }

    fn selection(&mut self, fields: &FingerprintFields) -> Option<Selection> {
        let FingerprintFields { headers, keep, leave_out } = fields;
        let headers = headers.as_deref().unwrap_or_default();
        if headers.len() > limits::MAX_FINGERPRINT_HEADERS {
            let most = limits::MAX_FINGERPRINT_HEADERS;
            self.wrong("fingerprint.headers", format!("names {} headers: name at most {most}", headers.len()));
            return None;
        }
        if let Err(error) = Selection::new(headers, Members::All) {
            self.wrong("fingerprint.headers", error);
            return None;
        }
        let (field, members) = match (keep, leave_out) {
            (Some(_), Some(_)) => {
                self.wrong("fingerprint.keep", "keep and leave_out are both set: name what counts, or what does not");
                return None;
            }
            (Some(keep), None) => ("fingerprint.keep", pointers(keep).map(Members::Only)),
            (None, Some(leave_out)) => ("fingerprint.leave_out", pointers(leave_out).map(Members::Without)),
            (None, None) => ("fingerprint.headers", Ok(Members::All)),
        };
        match members.and_then(|members| Selection::new(headers, members)) {
            Ok(selection) => Some(selection),
            Err(error) => {
                self.wrong(field, error);
                None
            }
        }
    }

    fn statuses(&mut self, field: &'static str, written: Option<&[String]>) -> BTreeSet<u16> {
        let written = written.unwrap_or_default();
        if written.len() > limits::MAX_POLICY_STATUSES {
            let most = limits::MAX_POLICY_STATUSES;
            self.wrong(field, format!("names {} statuses: name at most {most}, or their class", written.len()));
        }
        let mut statuses = BTreeSet::new();
        for text in written {
            match status_range(text) {
                Some(range) => statuses.extend(range),
                None => self.wrong(field, format!("{text:?} is no status: write 200 to 599, or a class such as 2xx")),
            }
        }
        statuses
    }

    fn headers(&mut self, written: &[String]) -> BTreeSet<String> {
        const FIELD: &str = "response.headers";
        if written.len() > limits::MAX_HEADERS {
            self.wrong(FIELD, format!("names {} headers: name at most {}", written.len(), limits::MAX_HEADERS));
        }
        let mut headers = BTreeSet::new();
        for text in written {
            match http::HeaderName::try_from(text.as_str()) {
                Ok(name) if is_never_stored(name.as_str()) => {
                    self.wrong(
                        FIELD,
                        format!("{name} is never replayed: it is of one connection, moment, caller or trace"),
                    );
                }
                Ok(name) if name.as_str().len() <= limits::MAX_HEADER_NAME_BYTES => {
                    headers.insert(name.as_str().to_owned());
                }
                Ok(_) | Err(_) => self.wrong(FIELD, format!("{text:?} is no name of a header: write such as location")),
            }
        }
        headers
    }
}

fn pointers(written: &[String]) -> Result<Vec<Pointer>, FingerprintError> {
    written.iter().map(|pointer| Pointer::parse(pointer)).collect()
}

/// The statuses that `2xx` or `404` names.
#[must_use]
pub fn status_range(text: &str) -> Option<RangeInclusive<u16>> {
    const FINAL: RangeInclusive<u16> = 200..=599;
    if let Some(class) = text.strip_suffix("xx") {
        let first = class.parse::<u16>().ok().filter(|class| (2..=5).contains(class) && text.len() == 3)? * 100;
        return Some(first..=first + 99);
    }
    let status = text.parse().ok().filter(|status| FINAL.contains(status) && text.len() == 3)?;
    Some(status..=status)
}
