//! What is known: which revisions of the policies there were, under which number fingerprints take what, who the tenants are.

use std::collections::BTreeMap;

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

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The revisions, by number from 1. Revision 0 is that of no policies.
    pub revisions: BTreeMap<u32, Revision>,
    /// The files of the current revision.
    pub sources: Vec<Source>,
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
        self.revisions.last_key_value().map(|(_, revision)| revision.policies.clone()).unwrap_or_default()
    }
}
