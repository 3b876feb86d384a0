//! What a layer tells its owner of each request: for metrics and logs. Never a body, never a key.

use std::sync::Arc;

use crate::client::Error;
use crate::http::{Stage, Status};

/// Who is told.
pub(super) type Hear = Arc<dyn Fn(&Heard<'_>) + Send + Sync>;

/// What became of a request, or, at [`Stage::Observe`], what would have become of it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Heard<'a> {
    /// The endpoint.
    pub endpoint: &'a str,
    /// The stage that it is in.
    pub stage: Stage,
    /// What became of it.
    pub verdict: Verdict,
    /// Why the store gave no answer, or took none.
    pub error: Option<&'a Error>,
}

/// What became of a request. The layer leaves it among the extensions of each response that it had a part in, but for those
/// that it observes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It had no key, and ran.
    NoKey,
    /// It got a response of the application, as this says.
    Answered(Status),
    /// It was refused, with this code.
    Refused(&'static str),
    /// The application panicked, or its service failed, while it executed it: its lease runs out.
    Died,
    /// Its caller was gone before it was begun: its key was given back.
    CallerGone,
    /// It was not observed: too much is already, or the application did not read it.
    Unseen,
}

impl Verdict {
    /// A name for it, such as a label of a metric has.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoKey => "no-key",
            Self::Answered(status) => status.as_str(),
            Self::Refused(code) => code,
            Self::Died => "died",
            Self::CallerGone => "caller-gone",
            Self::Unseen => "unseen",
        }
    }
}
