//! Who decided what, when and why: the entries that `holdfast ctl audit` shows.

use crate::control::Signature;
use crate::time::LogTime;

/// What somebody decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Other policies hold.
    SetPolicies,
    /// A tenant was made.
    CreateTenant,
    /// A tenant has other limits.
    SetTenantLimits,
    /// A tenant gets no new keys any more.
    CloseTenant,
    /// A closed tenant gets new keys again.
    ReopenTenant,
    /// A key whose outcome was unknown has one.
    ResolveKey,
    /// A new key for the MACs of tokens.
    RotateClusterKey,
    /// Log time follows a clock that jumped.
    AcceptClock,
    /// Who is a member of the region.
    ChangeMembers,
}

/// One entry of an audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Counts the entries of one partition, from 1.
    pub sequence: u64,
    /// When, by log time.
    pub at: LogTime,
    /// Who, and why.
    pub signature: Signature,
    /// What was done.
    pub action: Action,
    /// To what: a revision, a tenant, a key.
    pub target: String,
    /// What else there is to say.
    pub detail: String,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 9] = [
        Self::SetPolicies,
        Self::CreateTenant,
        Self::SetTenantLimits,
        Self::CloseTenant,
        Self::ReopenTenant,
        Self::ResolveKey,
        Self::RotateClusterKey,
        Self::AcceptClock,
        Self::ChangeMembers,
    ];

    /// As it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SetPolicies => "set-policies",
            Self::CreateTenant => "create-tenant",
            Self::SetTenantLimits => "set-tenant-limits",
            Self::CloseTenant => "close-tenant",
            Self::ReopenTenant => "reopen-tenant",
            Self::ResolveKey => "resolve-key",
            Self::RotateClusterKey => "rotate-cluster-key",
            Self::AcceptClock => "accept-clock",
            Self::ChangeMembers => "change-members",
        }
    }

    /// From how it is stored.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }
}
