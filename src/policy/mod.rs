//! Endpoint contracts. So far: what a severity class promises by default, since no policy can be written yet.

use std::fmt;
use std::str::FromStr;

use crate::reservation::record::{OnLapse, Terms};

/// How bad a double execution is; picks every default of a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

const LEASE_MS: u32 = 30_000;
const HOUR_MS: u64 = 3_600_000;

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
    pub const fn terms(self) -> Terms {
        let (on_lapse, retention_ms) = match self {
            Self::Critical => (OnLapse::Hold, 7 * 24 * HOUR_MS),
            Self::High => (OnLapse::Regrant, 3 * 24 * HOUR_MS),
            Self::Medium => (OnLapse::Regrant, 24 * HOUR_MS),
            Self::Low => (OnLapse::Regrant, HOUR_MS),
        };
        Terms { policy_revision: 0, lease_ms: LEASE_MS, on_lapse, retention_ms }
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
