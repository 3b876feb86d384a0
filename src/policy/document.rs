//! A policy as it is written: the fields of [`Document`] are the names in the file, the properties of the published JSON
//! Schema and the rows of docs/reference/policies.md.
//!
//! A field is taken from the policy, else from the defaults of its severity ([`Document::defaults`]). What the values mean
//! together is [`crate::policy::contract`]'s.

use std::collections::BTreeMap;

use holdfast_client::http::{DEFAULT_HEADERS, DEFAULT_SKIPPED};
use serde_json::Value;

use crate::limits;
use crate::policy::contract::{Contract, Wrong};
use crate::policy::{Consistency, FailMode, Severity, Stage};
use crate::reservation::record::OnLapse;
use crate::time::Span;

/// A policy file: contracts of endpoints, each under a name of 1-64 of `A-Z a-z 0-9 _ -`.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyFile {
    /// The policies, by name. Their order means nothing.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Document>", extend("propertyNames" = {"pattern": "^[A-Za-z0-9_-]{1,64}$"}))]
    pub policy: BTreeMap<String, toml::Value>,
}

/// The contract of some endpoints. What is left out has the default of the severity.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The endpoints that it is for: names such as `POST /v1/charges`, or patterns, in which one `*` stands for any characters
    #[schemars(length(min = 1, max = limits::MAX_ENDPOINTS_PER_POLICY))]
    pub endpoints: Vec<String>,

    /// The tenants that it is for; every tenant if left out
    #[schemars(length(min = 1, max = limits::MAX_TENANTS_PER_POLICY))]
    pub tenants: Option<Vec<String>>,

    /// How bad a double execution is. Picks every default
    pub severity: Severity,

    /// How far the rollout is: what becomes of requests, with and without a key
    pub stage: Option<Stage>,

    /// Who grants a key, and when that is answered
    pub consistency: Option<Consistency>,

    /// Whether a doubtful key is granted all the same, and whether requests run while the store is not there
    pub fail: Option<FailMode>,

    /// What happens to a key whose lease ran out: it is granted again, flagged as a possible duplicate, or held until its outcome
    /// is known
    pub on_lapse: Option<OnLapse>,

    /// How long an attempt may take before its grant lapses
    pub lease: Option<Span>,

    /// How long a completed key's answer is replayed
    pub retention: Option<Span>,

    /// How long callers may go on retrying. Nothing follows from it but the check that the retention is longer
    pub retry_window: Option<Span>,

    /// Who answers for the endpoint: a team, or how to reach it
    #[schemars(length(min = 1, max = limits::MAX_ACTOR_BYTES))]
    pub owner: Option<String>,

    /// Why the policy promises less than its severity does by default
    #[schemars(length(min = 1, max = limits::MAX_REASON_BYTES))]
    pub justification: Option<String>,

    /// What makes two requests the same request
    #[serde(default)]
    pub fingerprint: FingerprintFields,

    /// What is stored of a response, and replayed
    #[serde(default)]
    pub response: ResponseFields,

    /// What the endpoint may take up. Counted for each tenant by itself. Replays and completions are never refused
    #[serde(default)]
    pub limits: Limits,
}

/// What makes two requests the same request.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FingerprintFields {
    /// The headers that count, beside method, endpoint and body
    #[schemars(length(max = limits::MAX_FINGERPRINT_HEADERS))]
    pub headers: Option<Vec<String>>,

    /// The only members of a JSON body that count, as JSON Pointers (RFC 6901); all count if left out
    #[schemars(length(min = 1, max = holdfast_client::fingerprint::MAX_MEMBERS))]
    pub keep: Option<Vec<String>>,

    /// The members of a JSON body that do not count, as JSON Pointers (RFC 6901): what a client sets anew on every attempt
    #[schemars(length(max = holdfast_client::fingerprint::MAX_MEMBERS))]
    pub leave_out: Option<Vec<String>>,
}

/// What is stored of a response, and replayed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResponseFields {
    /// The statuses of responses that are stored: classes such as `2xx`, or single ones such as `404`
    #[schemars(length(max = limits::MAX_POLICY_STATUSES), inner(regex(pattern = "^[2-5](xx|[0-9][0-9])$")))]
    pub statuses: Option<Vec<String>>,

    /// Those among them that are passed on and not stored
    #[schemars(length(max = limits::MAX_POLICY_STATUSES), inner(regex(pattern = "^[2-5](xx|[0-9][0-9])$")))]
    pub skip_statuses: Option<Vec<String>>,

    /// The headers that are stored and replayed
    #[schemars(length(max = limits::MAX_HEADERS))]
    pub headers: Option<Vec<String>>,

    /// The largest body that is stored, in bytes. Of a larger one the outcome is stored, and it is not replayed
    #[schemars(range(min = 1, max = limits::MAX_ENVELOPE_BODY_BYTES))]
    pub max_body_bytes: Option<u64>,
}

/// What an endpoint may take up.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// New keys each second
    #[schemars(range(min = *limits::KEYS_PER_SECOND.start(), max = *limits::KEYS_PER_SECOND.end()))]
    pub keys_per_second: Option<u64>,

    /// New keys each second of one client
    #[schemars(range(min = *limits::KEYS_PER_SECOND.start(), max = *limits::KEYS_PER_SECOND.end()))]
    pub keys_per_second_per_client: Option<u64>,

    /// Keys that are stored at a time
    #[schemars(range(min = *limits::QUOTA_KEYS.start(), max = *limits::QUOTA_KEYS.end()))]
    pub max_keys: Option<u64>,

    /// Bytes that are stored at a time, responses included
    #[schemars(range(min = *limits::QUOTA_BYTES.start(), max = *limits::QUOTA_BYTES.end()))]
    pub max_bytes: Option<u64>,
}

/// A complete document, and what it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Every field that has a value has it here.
    pub document: Document,
    /// The same, checked.
    pub contract: Contract,
}

/// What a policy promises, in the order in which it is shown. `endpoints` and `tenants` are not among them: they say to whom.
pub const FIELDS: [&str; 21] = [
    "severity",
    "stage",
    "consistency",
    "fail",
    "on_lapse",
    "lease",
    "retention",
    "retry_window",
    "fingerprint.headers",
    "fingerprint.keep",
    "fingerprint.leave_out",
    "response.statuses",
    "response.skip_statuses",
    "response.headers",
    "response.max_body_bytes",
    "limits.keys_per_second",
    "limits.keys_per_second_per_client",
    "limits.max_keys",
    "limits.max_bytes",
    "owner",
    "justification",
];

impl Document {
    /// What holds where nothing is said. There is no default for `retry_window`, the limits, the owner and the justification.
    ///
    /// Severities differ in what a double execution may cost (docs/reference/policies.md); all else is the same for all.
    #[must_use]
    pub fn defaults(severity: Severity) -> Self {
        const HOUR_MS: u64 = 3_600_000;
        let (consistency, fail, on_lapse, retention_ms) = match severity {
            Severity::Critical => (Consistency::Home, FailMode::Closed, OnLapse::Hold, 7 * 24 * HOUR_MS),
            Severity::High => (Consistency::Home, FailMode::Closed, OnLapse::Regrant, 3 * 24 * HOUR_MS),
            Severity::Medium => (Consistency::Home, FailMode::Open, OnLapse::Regrant, 24 * HOUR_MS),
            Severity::Low => (Consistency::Local, FailMode::Open, OnLapse::Regrant, HOUR_MS),
        };
        Self {
            endpoints: Vec::new(),
            tenants: None,
            severity,
            stage: Some(Stage::Optional),
            consistency: Some(consistency),
            fail: Some(fail),
            on_lapse: Some(on_lapse),
            lease: Some(Span::from_ms(30_000)),
            retention: Some(Span::from_ms(retention_ms)),
            retry_window: None,
            owner: None,
            justification: None,
            fingerprint: FingerprintFields { headers: texts(&["content-type"]), keep: None, leave_out: None },
            response: ResponseFields {
                statuses: texts(&["2xx", "3xx", "4xx"]),
                skip_statuses: Some(DEFAULT_SKIPPED.iter().map(u16::to_string).collect()),
                headers: texts(&DEFAULT_HEADERS),
                max_body_bytes: u64::try_from(limits::DEFAULT_ENVELOPE_BODY_BYTES).ok(),
            },
            limits: Limits::default(),
        }
    }

    /// The document with the defaults of its severity, checked.
    ///
    /// # Errors
    /// Every value that is out of bounds or has no meaning.
    pub fn complete(&self) -> Result<Promise, Vec<Wrong>> {
        let document = self.clone().or(Self::defaults(self.severity));
        Ok(Promise { contract: Contract::of(&document)?, document })
    }

    /// What a document of defaults comes to.
    #[must_use]
    pub fn promise(self) -> Promise {
        let contract = Contract::of(&self).expect("a test completes the defaults of every severity");
        Promise { document: self, contract }
    }

    /// What is said of each of [`FIELDS`]; null where nothing is.
    #[must_use]
    pub fn values(&self) -> Vec<(&'static str, Value)> {
        let document = serde_json::to_value(self).unwrap_or_default();
        let value = |field: &&'static str| {
            let found = document.pointer(&format!("/{}", field.replace('.', "/")));
            (*field, found.cloned().unwrap_or_default())
        };
        FIELDS.iter().map(value).collect()
    }

    /// This document, and `other`'s values where it says nothing.
    fn or(self, other: Self) -> Self {
        Self {
            endpoints: self.endpoints,
            tenants: self.tenants,
            severity: self.severity,
            stage: self.stage.or(other.stage),
            consistency: self.consistency.or(other.consistency),
            fail: self.fail.or(other.fail),
            on_lapse: self.on_lapse.or(other.on_lapse),
            lease: self.lease.or(other.lease),
            retention: self.retention.or(other.retention),
            retry_window: self.retry_window.or(other.retry_window),
            owner: self.owner.or(other.owner),
            justification: self.justification.or(other.justification),
            fingerprint: FingerprintFields {
                headers: self.fingerprint.headers.or(other.fingerprint.headers),
                keep: self.fingerprint.keep.or(other.fingerprint.keep),
                leave_out: self.fingerprint.leave_out.or(other.fingerprint.leave_out),
            },
            response: ResponseFields {
                statuses: self.response.statuses.or(other.response.statuses),
                skip_statuses: self.response.skip_statuses.or(other.response.skip_statuses),
                headers: self.response.headers.or(other.response.headers),
                max_body_bytes: self.response.max_body_bytes.or(other.response.max_body_bytes),
            },
            limits: Limits {
                keys_per_second: self.limits.keys_per_second.or(other.limits.keys_per_second),
                keys_per_second_per_client: self
                    .limits
                    .keys_per_second_per_client
                    .or(other.limits.keys_per_second_per_client),
                max_keys: self.limits.max_keys.or(other.limits.max_keys),
                max_bytes: self.limits.max_bytes.or(other.limits.max_bytes),
            },
        }
    }
}

fn texts(texts: &[&str]) -> Option<Vec<String>> {
    Some(texts.iter().map(|text| (*text).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_every_severity_hold() {
        // Severity, consistency, fail, on_lapse, lease, retention; all else is the same for all.
        let expected = [
            "critical home closed hold 30s 7d",
            "high home closed regrant 30s 3d",
            "medium home open regrant 30s 1d",
            "low local open regrant 30s 1h",
        ];
        for (severity, expected) in Severity::ALL.into_iter().zip(expected) {
            let defaults = Document::defaults(severity);
            assert!(defaults.complete().is_ok_and(|promise| promise.document == defaults), "{severity}");
            let values = defaults.values();
            let shown = ["severity", "consistency", "fail", "on_lapse", "lease", "retention"]
                .map(|field| values.iter().find(|(name, _)| *name == field).and_then(|(_, value)| value.as_str()));
            assert_eq!(shown.map(Option::unwrap_or_default).join(" "), expected);
        }
    }

    /// A service that no policy was given behaves as the store's defaults would have it.
    #[test]
    fn the_layer_s_rules_have_the_same_defaults() {
        use holdfast_client::http::{self, Rules};
        let severities = [http::Severity::Critical, http::Severity::High, http::Severity::Medium, http::Severity::Low];
        for (severity, of_rules) in Severity::ALL.into_iter().zip(severities) {
            let (contract, rules) = (Document::defaults(severity).promise().contract, Rules::of(of_rules));
            let fail = match rules.fail() {
                http::FailMode::Open => FailMode::Open,
                http::FailMode::Closed => FailMode::Closed,
            };
            let on_lapse = match rules.on_lapse() {
                http::OnLapse::Regrant => OnLapse::Regrant,
                http::OnLapse::Hold => OnLapse::Hold,
            };
            assert_eq!((fail, on_lapse), (contract.fail, contract.on_lapse), "{severity}");
            assert_eq!(rules.stage() == http::Stage::Optional, contract.stage == Stage::Optional);
            assert_eq!(rules.window().as_millis(), u128::from(contract.retention_ms));
            assert_eq!(rules.most_response_bytes() as u64, contract.max_body_bytes);
            let statuses = (100..=599).filter_map(|status| ::http::StatusCode::from_u16(status).ok());
            let stored = statuses.filter(|status| rules.stores_status(*status)).map(|status| status.as_u16());
            assert!(stored.eq(contract.statuses.iter().copied()), "{severity}");
            assert!(contract.headers.iter().all(|name| DEFAULT_HEADERS.contains(&name.as_str())));
            assert_eq!(contract.headers.len(), DEFAULT_HEADERS.len());
        }
    }

    #[test]
    fn every_field_is_taken_from_the_policy_first() -> Result<(), serde_json::Error> {
        let all: Document = serde_json::from_value(serde_json::json!({
            "endpoints": ["a"], "tenants": ["t"], "severity": "low", "stage": "strict", "consistency": "global",
            "fail": "closed", "on_lapse": "hold", "lease": "1s", "retention": "2d", "retry_window": "1d", "owner": "o",
            "justification": "j", "fingerprint": { "headers": ["h"], "keep": ["/a"], "leave_out": ["/b"] },
            "response": { "statuses": ["200"], "skip_statuses": ["201"], "headers": ["x"], "max_body_bytes": 1 },
            "limits": { "keys_per_second": 1, "keys_per_second_per_client": 1, "max_keys": 1, "max_bytes": 1024 },
        }))?;
        assert!(all.values().iter().all(|(_, value)| !value.is_null()), "the case above says everything");
        assert_eq!(all.clone().or(Document::defaults(Severity::Low)), all);
        let nothing: Document = serde_json::from_str(r#"{"endpoints":["a"],"severity":"low"}"#)?;
        assert_eq!(nothing.or(all.clone()).values(), all.values());
        Ok(())
    }
}
