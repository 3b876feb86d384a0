//! What is known: which revisions of the policies there were, under which number fingerprints take what, who the tenants are.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::control::command::{Signature, Source, TenantLimits};
use crate::ids::{Digest, PolicyName, RegionName, TenantId};
use crate::time::LogTime;

/// A revision of the policies, without the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// When it was made.
    pub made_at: LogTime,
    /// By whom, and why.
    pub signature: Signature,
    /// Its policies.
    pub policies: BTreeMap<PolicyName, Known>,
}

/// One policy of a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// SHA-256 over what it says.
    pub digest: Digest,
    /// The number of its selection.
    pub selection: u32,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Where its opaque keys are at home; nothing: by their hash. Never changes.
    pub home: Option<RegionName>,
    /// When it was made.
    pub made_at: LogTime,
    /// No new keys.
    pub closed: bool,
    /// What it may take up.
    pub limits: TenantLimits,
}

/// Which tenants may have keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tenants {
    /// Only those that were made.
    #[default]
    Registered,
    /// Any. One that was not made has no limits of its own.
    Any,
}

impl Tenants {
    /// From how a data directory says it.
    #[must_use]
    pub const fn of(registered: bool) -> Self {
        if registered { Self::Registered } else { Self::Any }
    }

    /// Whether only tenants that were made may have keys.
    #[must_use]
    pub const fn registered(self) -> bool {
        match self {
            Self::Registered => true,
            Self::Any => false,
        }
    }
}

impl fmt::Display for Tenants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.registered() { "registered" } else { "any" })
    }
}

impl FromStr for Tenants {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "registered" => Ok(Self::Registered),
            "any" => Ok(Self::Any),
            _ => Err(format!("{text:?} is neither registered (those that `holdfast ctl tenant create` made) nor any")),
        }
    }
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The revisions, by number from 1. Revision 0 is that of no policies.
    pub revisions: BTreeMap<u32, Arc<Revision>>,
    /// The files of the current revision.
    pub sources: Arc<[Source]>,
    /// What fingerprints take of a request, by number, as canonical JSON. The built-in one is not among them.
    pub selections: BTreeMap<u32, String>,
    /// The tenants.
    pub tenants: BTreeMap<TenantId, Tenant>,
}

impl State {
    /// The current revision; 0 before the first.
    #[must_use]
    pub fn revision(&self) -> u32 {
        self.revisions.last_key_value().map_or(0, |(number, _)| *number)
    }

    /// The policies of the current revision.
    #[must_use]
    pub fn policies(&self) -> BTreeMap<PolicyName, Known> {
        self.revisions.last_key_value().map(|(_, last)| last.policies.clone()).unwrap_or_default()
    }
}
