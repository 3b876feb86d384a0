//! Which home a key belongs to: a function of facts that never change.

use std::num::NonZeroU16;
use std::sync::{Arc, OnceLock};

use holdfast_client::keys::{self, KeyKind};

use crate::control::State;
use crate::control::state::Tenants;
use crate::ids::{RecordKey, RegionName};
use crate::raft::Group;
use crate::region::calls::Invalid;

/// The homes that the cluster was made with, in their order, and whose tenants' they are.
pub(super) struct Homes {
    names: Vec<RegionName>,
    first: RegionName,
    count: NonZeroU16,
    tenants: Tenants,
    control: OnceLock<Group>,
}

impl Homes {
    /// At least one home, and at most 65,535.
    pub(super) fn new(names: Vec<RegionName>, tenants: Tenants) -> Option<Self> {
        let first = names.first()?.clone();
        let count = NonZeroU16::new(u16::try_from(names.len()).ok()?)?;
        Some(Self { names, first, count, tenants, control: OnceLock::new() })
    }

    /// From now on tenants are known: this group decides about them.
    pub(super) fn follow(&self, control: &Group) {
        // Set once, by the region that made this.
        let _ = self.control.set(control.clone());
    }

    /// What is the same for all partitions, as this node has applied it.
    pub(super) fn control(&self) -> Arc<State> {
        self.control.get().map(Group::control).unwrap_or_default()
    }

    /// Which tenants may have keys.
    pub(super) fn tenants(&self) -> Tenants {
        self.tenants
    }

    /// Every home, in order.
    pub(super) fn all(&self) -> &[RegionName] {
        &self.names
    }

    /// A tagged key's home is in its tag; an opaque key's is its tenant's, or follows from its hash. Nothing: it cannot be said
    /// before the tenant is known.
    pub(super) fn known(&self, key: &RecordKey) -> Result<Option<RegionName>, Invalid> {
        let control = self.control();
        let tenant = control.tenants.get(&key.tenant);
        if tenant.is_none() && self.tenants == Tenants::Registered {
            return Ok(None);
        }
        match key.key.kind() {
            KeyKind::Opaque if tenant.is_some_and(|tenant| tenant.home.is_some()) => {
                Ok(tenant.and_then(|tenant| tenant.home.clone()))
            }
            KeyKind::Tagged(_) | KeyKind::Opaque => self.of(key).map(Some),
        }
    }

    /// Whether the cluster was made with that home.
    pub(super) fn contains(&self, home: &RegionName) -> bool {
        self.names.contains(home)
    }

    fn of(&self, key: &RecordKey) -> Result<RegionName, Invalid> {
        match key.key.kind() {
            KeyKind::Tagged(tagged) => self
                .names
                .iter()
                .find(|name| name.as_str() == tagged.home())
                .cloned()
                .ok_or_else(|| Invalid::UnknownHome { home: tagged.home().to_owned(), known: self.listed() }),
            KeyKind::Opaque => {
                let at = keys::home_index(key.tenant.as_str(), &key.key, self.count);
                Ok(self.names.get(usize::from(at)).unwrap_or(&self.first).clone())
            }
        }
    }

    pub(super) fn listed(&self) -> String {
        self.names.iter().map(RegionName::as_str).collect::<Vec<_>>().join(", ")
    }
}
