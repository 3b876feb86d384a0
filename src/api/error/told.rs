//! What is counted and logged of a failure when it is told to a client: its code, and nothing that the client sent.

use super::{ApiError, Code};
use crate::region::calls::{Failed, Failure};
use crate::telemetry::metrics::{Counter, Page, table};

/// How many failures of each code were told, in the order of [`Code::ALL`].
static FAILURES: [Counter; Code::ALL.len()] = [const { Counter::new() }; Code::ALL.len()];

impl ApiError {
    /// Counts and logs the failure, once, as it is told to a client. The text that is sent is not logged: it repeats what the
    /// client sent, which may be a secret.
    pub(in crate::api) fn told(&self) {
        let code = self.code();
        if let Some((_, counter)) = Code::ALL.iter().zip(&FAILURES).find(|(known, _)| **known == code) {
            counter.one();
        }
        let (field, definite) = (self.field(), code.facts().definite);
        tracing::debug!(code = code.facts().code, definite, field, reason = self.reason(), "call refused");
    }

    /// Why, where the store's own words say so.
    fn reason(&self) -> Option<&str> {
        match self {
            Self::Failure(Failed { failure: Failure::Unavailable { reason, .. }, .. }) => Some(reason),
            Self::Failure(_)
            | Self::Input { .. }
            | Self::Body(_)
            | Self::BodyTooLarge { .. }
            | Self::BodyTimeout
            | Self::Reading
            | Self::ContentType { .. }
            | Self::Encoding { .. }
            | Self::PathUnknown { .. }
            | Self::MethodNotAllowed { .. }
            | Self::KeyUnknown
            | Self::ChangeRefused(_) => None,
        }
    }
}

/// Writes how many failures there were.
pub(in crate::api) fn write_metrics(page: &mut Page) {
    let mut samples = page.metric(&table::FAILURES);
    for (code, counter) in Code::ALL.iter().zip(&FAILURES) {
        let facts = code.facts();
        let definite = if facts.definite { "yes" } else { "no" };
        samples.value(&[&facts.code, &definite], counter.get());
    }
}
