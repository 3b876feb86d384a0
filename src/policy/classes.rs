//! The classes that a policy chooses from.

use std::fmt;
use std::str::FromStr;

use crate::policy::document::Document;
use crate::reservation::record::Terms;

/// How bad a double execution is; picks every default of a contract. Worst first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Money moves: a key whose lease ran out is held until its outcome is known.
    Critical,
    /// The default of an endpoint that no policy names.
    High,
    /// A double execution is a nuisance.
    Medium,
    /// A double execution hardly matters.
    Low,
}

/// How far an endpoint's rollout is. Weakest first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Requests pass as if there were no store.
    Off,
    /// Keys and would-be conflicts are counted; nothing is changed.
    Observe,
    /// Requests with a key are protected, others pass.
    Optional,
    /// A request without a key is refused.
    Required,
    /// As required, and no request ever runs unprotected: with fail = "open" it is a contradiction.
    Strict,
}

/// Who grants, and when it is answered. Weakest first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// The region that is asked. After a region is lost, duplicates are possible; they are found and resolved.
    Local,
    /// The acting region of the key's home. After a region is lost there is no duplicate; keys in doubt are held back.
    Home,
    /// As home, and answered when all regions have it: no key is in doubt, and every first call waits for them.
    Global,
}

/// What becomes of a key that an unsettled epoch may have granted, and of a request while the store is not there. Weakest
/// first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum FailMode {
    /// It runs: a doubtful key flagged as a possible duplicate, a request without the store unprotected.
    Open,
    /// It is refused, for now.
    Closed,
}

impl Severity {
    /// Every class, worst first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Medium, Self::Low];

    /// The class's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }

    /// What a key is granted under by default.
    #[must_use]
    pub fn terms(self) -> Terms {
        Document::defaults(self).promise().contract.terms(0)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Severity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|severity| severity.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no severity: use critical, high, medium or low"))
    }
}
