//! Whose conventions an endpoint's clients know. A profile sets statuses and headers together; what it does not name is the
//! same in all of them.

use http::{HeaderName, StatusCode};

/// The conventions of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Ours: `Idempotency-Key`, and 409 for a key that was used for another request.
    #[default]
    Default,
    /// draft-ietf-httpapi-idempotency-key-header: as ours, but 422 for a key that was used for another request.
    Ietf,
    /// Stripe's: 400 for a key that was used for another request; the application's own 5xx answers are stored and
    /// replayed, since it had begun.
    Stripe,
    /// OASIS Repeatable Requests 1.0: `Repeatability-Request-ID` and `Repeatability-First-Sent`.
    Oasis,
}

/// What a caller is told whose key is being executed elsewhere, after it has waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum InFlight {
    /// 409 Conflict.
    #[default]
    Conflict,
    /// 423 Locked: for clients that never retry a 409.
    Locked,
}

impl InFlight {
    /// The status.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Conflict => StatusCode::CONFLICT,
            Self::Locked => StatusCode::LOCKED,
        }
    }
}

/// When the client says that it sent a request for the first time (OASIS).
pub(super) const FIRST_SENT: HeaderName = HeaderName::from_static("repeatability-first-sent");
/// What became of a request as a repeatable one (OASIS).
pub(super) const RESULT: HeaderName = HeaderName::from_static("repeatability-result");

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 4] = [Self::Default, Self::Ietf, Self::Stripe, Self::Oasis];

    /// The profile's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Ietf => "ietf",
            Self::Stripe => "stripe",
            Self::Oasis => "oasis",
        }
    }

    /// The header that has the key, in requests and echoed in answers.
    #[must_use]
    pub const fn key_header(self) -> HeaderName {
        match self {
            Self::Default | Self::Ietf | Self::Stripe => HeaderName::from_static("idempotency-key"),
            Self::Oasis => HeaderName::from_static("repeatability-request-id"),
        }
    }

    /// The status for a key that was used for another request.
    #[must_use]
    pub const fn mismatch(self) -> StatusCode {
        match self {
            Self::Default => StatusCode::CONFLICT,
            Self::Ietf => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Stripe | Self::Oasis => StatusCode::BAD_REQUEST,
        }
    }

    /// The status for a key that is older than what is remembered.
    #[must_use]
    pub const fn expired(self) -> StatusCode {
        match self {
            Self::Default | Self::Ietf | Self::Stripe => StatusCode::BAD_REQUEST,
            Self::Oasis => StatusCode::PRECONDITION_FAILED,
        }
    }

    /// Whether the application's own 5xx answers are stored unless the endpoint's rules say otherwise.
    #[must_use]
    pub const fn stores_failures(self) -> bool {
        match self {
            Self::Default | Self::Ietf | Self::Oasis => false,
            Self::Stripe => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of docs/guides/tower.md.
    #[test]
    fn the_guide_has_the_table_of_profiles() {
        let row = |profile: Profile| {
            format!(
                "| `{}` | `{}` | {} | {} | {} |\n",
                profile.as_str(),
                profile.key_header(),
                profile.mismatch().as_u16(),
                profile.expired().as_u16(),
                if profile.stores_failures() { "stored" } else { "not stored" },
            )
        };
        let table: String = Profile::ALL.map(row).concat();
        let guide = include_str!("../../../../docs/guides/tower.md");
        assert!(guide.contains(&table), "docs/guides/tower.md must have:\n{table}");
    }
}
