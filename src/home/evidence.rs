//! What streams tell of a key: its grants, how far each is, and what was reported for it.
//!
//! Evidence only grows. Two pieces of one grant are joined in [`merge`](super::merge), in any order.

use std::fmt;

use crate::ids::{Digest, EndpointName, Epoch, FencingToken, Fingerprint, Nonce, RegionName};
use crate::reservation::record::{Checkpoint, Terms};
use crate::time::LogTime;

/// The epoch of `local` grants, whose stream never ends (R17). The epochs of homes begin at 1.
pub const LOCAL: Epoch = Epoch(0);

/// The name of a grant over all regions. Of an epoch from 1 on the fencing token says all, since one region acts in it. `local`
/// grants of two regions may have the same fencing token, and are two grants, so they bear their region (R17).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token {
    /// What a side effect's sink compares.
    pub fencing: FencingToken,
    /// The region that granted, of a `local` grant only.
    pub region: Option<RegionName>,
}

impl Token {
    /// The name of a grant that this region made.
    #[must_use]
    pub fn new(fencing: FencingToken, region: &RegionName) -> Self {
        Self { fencing, region: (fencing.epoch == LOCAL).then(|| region.clone()) }
    }

    /// Whether it is the name of a grant: one of `local` bears its region, and no other.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        (self.fencing.epoch == LOCAL) == self.region.is_some()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.region {
            None => write!(f, "{}", self.fencing),
            Some(region) => write!(f, "{}@{region}", self.fencing),
        }
    }
}

/// Where a mutation committed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Commit {
    /// The epoch of its stream; [`LOCAL`] in that of `local`.
    pub epoch: Epoch,
    /// Its position in the stream.
    pub position: u64,
    /// The region.
    pub region: RegionName,
}

/// An outcome that was reported for a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The digest of the response envelope.
    pub envelope: Digest,
    /// Where it was recorded, which need not be where the grant was made (R10).
    pub commit: Commit,
    /// Another completion of the key was known where and when it committed. The region says so; no later order changes it.
    pub late: bool,
    /// When, in the log time of the region.
    pub completed_at: LogTime,
}

/// How far a grant is, in the order of merge: later wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// May be executing.
    Held {
        /// The lease in milliseconds. It starts anew where the record is imported (R7).
        lease_ms: u32,
        /// Which lease of this grant.
        lease_revision: u32,
    },
    /// The lease ran out; it may have executed.
    Lapsed,
    /// It did not execute.
    Released,
    /// It executed. At least one completion, the best first ([`merge`](super::merge)), one for each envelope.
    Completed(Vec<Completion>),
}

/// One grant, as far as somebody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its name.
    pub token: Token,
    /// Which attempt of the key its region counted.
    pub number: u32,
    /// The endpoint that it was granted for.
    pub endpoint: EndpointName,
    /// What it was granted under. If a completion asked for a longer retention, that is in it too.
    pub terms: Terms,
    /// The request.
    pub fingerprint: Fingerprint,
    /// The attempt's random name. Not part of its identity.
    pub nonce: Option<Nonce>,
    /// Whoever was told of it was told that it may be a duplicate, every time.
    pub flagged: bool,
    /// How far it is.
    pub phase: Phase,
}

impl Attempt {
    /// The outcomes reported for it.
    #[must_use]
    pub fn completions(&self) -> &[Completion] {
        match &self.phase {
            Phase::Completed(completions) => completions,
            Phase::Held { .. } | Phase::Lapsed | Phase::Released => &[],
        }
    }

    /// Whether it may have had its effect.
    #[must_use]
    pub fn may_have_run(&self) -> bool {
        match self.phase {
            Phase::Held { .. } | Phase::Lapsed | Phase::Completed(_) => true,
            Phase::Released => false,
        }
    }

    /// Whether it may be executing now.
    #[must_use]
    pub fn is_held(&self) -> bool {
        match self.phase {
            Phase::Held { .. } => true,
            Phase::Lapsed | Phase::Released | Phase::Completed(_) => false,
        }
    }
}

/// The last word on a key's recovery point, and where it was said: it was stored, or an operator said that nothing ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Where it was said. The highest counts.
    pub commit: Commit,
    /// The recovery point; nothing if there is none any more.
    pub checkpoint: Option<Checkpoint>,
}
