//! What may be asked of what is the same for all partitions.

use crate::control::audit::Action;
use crate::ids::{Digest, PolicyName, RegionName, TenantId};

/// Who decided, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// Who.
    pub actor: Box<str>,
    /// Why.
    pub reason: Box<str>,
}

/// A policy file, as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What it is called, for messages.
    pub name: String,
    /// What is in it: TOML.
    pub text: String,
}

/// What the proposer read in the files of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its name.
    pub name: PolicyName,
    /// SHA-256 over what it says.
    pub digest: Digest,
    /// What its fingerprints take, as canonical JSON ([`crate::control::selection::Spec`]).
    pub selection: String,
}

/// What a tenant may take up. Nothing: no limit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenantLimits {
    /// Keys that are stored at a time.
    pub max_keys: Option<u64>,
    /// Bytes that are stored at a time, responses included.
    pub max_bytes: Option<u64>,
    /// New keys each second.
    pub keys_per_second: Option<u64>,
    /// New keys each second of one client.
    pub keys_per_second_per_client: Option<u64>,
}

/// How one limit changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change {
    /// It stays as it is.
    #[default]
    Keep,
    /// No limit any more.
    Clear,
    /// This is the limit.
    Set(u64),
}

/// How the limits of a tenant change, each by itself: two operators who change two limits at once undo nothing of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitChanges {
    /// Keys that are stored at a time.
    pub max_keys: Change,
    /// Bytes that are stored at a time, responses included.
    pub max_bytes: Change,
    /// New keys each second.
    pub keys_per_second: Change,
    /// New keys each second of one client.
    pub keys_per_second_per_client: Change,
}

impl Change {
    /// The limit after it.
    const fn after(self, limit: Option<u64>) -> Option<u64> {
        match self {
            Self::Keep => limit,
            Self::Clear => None,
            Self::Set(most) => Some(most),
        }
    }
}

impl LimitChanges {
    /// These limits, in the place of all that there were.
    #[must_use]
    pub fn to(limits: TenantLimits) -> Self {
        let one = |limit: Option<u64>| limit.map_or(Change::Clear, Change::Set);
        Self {
            max_keys: one(limits.max_keys),
            max_bytes: one(limits.max_bytes),
            keys_per_second: one(limits.keys_per_second),
            keys_per_second_per_client: one(limits.keys_per_second_per_client),
        }
    }

    /// The limits after it.
    #[must_use]
    pub const fn after(&self, limits: &TenantLimits) -> TenantLimits {
        TenantLimits {
            max_keys: self.max_keys.after(limits.max_keys),
            max_bytes: self.max_bytes.after(limits.max_bytes),
            keys_per_second: self.keys_per_second.after(limits.keys_per_second),
            keys_per_second_per_client: self.keys_per_second_per_client.after(limits.keys_per_second_per_client),
        }
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From now on exactly these policies hold. The proposer has read and checked them.
    SetPolicies {
        /// The revision that they were compared with.
        expected: u32,
        /// The files.
        sources: Vec<Source>,
        /// What is in them.
        policies: Vec<Summary>,
    },
    /// Makes a tenant.
    CreateTenant {
        /// Its name.
        name: TenantId,
        /// Where its opaque keys are at home; nothing: by their hash.
        home: Option<RegionName>,
        /// What it may take up.
        limits: TenantLimits,
    },
    /// Gives a tenant other limits, or closes it.
    ChangeTenant {
        /// Its name.
        name: TenantId,
        /// No new keys. Nothing: as it is.
        closed: Option<bool>,
        /// How what it may take up changes.
        limits: LimitChanges,
    },
    /// Only for the audit: what was decided elsewhere.
    Note {
        /// What was done.
        action: Action,
        /// To what.
        target: String,
    },
}

/// A signed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Who decided, and why.
    pub signature: Signature,
    /// What is asked.
    pub kind: Kind,
}

impl Command {
    /// About how many bytes it takes in a log entry.
    #[must_use]
    pub fn weight(&self) -> usize {
        let kind = match &self.kind {
            Kind::SetPolicies { sources, policies, .. } => {
                let texts = sources.iter().map(|source| source.name.len() + source.text.len());
                let read = policies.iter().map(|policy| policy.selection.len() + 128);
                texts.chain(read).sum()
            }
            Kind::CreateTenant { .. } | Kind::ChangeTenant { .. } | Kind::Note { .. } => 256,
        };
        kind + self.signature.actor.len() + self.signature.reason.len() + 64
    }
}
