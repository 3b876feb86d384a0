//! What a state machine keeps in memory beside its records: what is the same for all partitions (in partition 0), and what keys
//! take up. Both are as of the last written batch, and follow from what is stored alone.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use crate::codec::pb;
use crate::control::usage::{Size, Usage, Usages};
use crate::control::{State, Write};
use crate::ids::{EndpointName, TenantId};
use crate::store::{GroupBatch, GroupFamily, StoreError};

/// What readers see of it.
#[derive(Clone, Default)]
pub(super) struct Seen {
    control: Arc<RwLock<Arc<State>>>,
    usages: Arc<RwLock<Usages>>,
}

/// A record that came, changed or went, by what it takes up.
pub(super) struct Counted {
    pub(super) tenant: TenantId,
    pub(super) before: Option<(EndpointName, Size)>,
    pub(super) after: Option<(EndpointName, Size)>,
}

impl Seen {
    /// What is the same for all partitions.
    pub(super) fn control(&self) -> Arc<State> {
        Arc::clone(&self.control.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads what keys take up.
    pub(super) fn usages<T>(&self, read: impl FnOnce(&Usages) -> T) -> T {
        read(&self.usages.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the group's state, and keeps what belongs here. Usage that was never counted is counted, and written with the
    /// state that says so. Reads much, and waits for the disk.
    pub(super) fn load(&self, family: &GroupFamily) -> Result<pb::GroupState, StoreError> {
        let stored = family.state()?;
        let is_new = stored.is_none();
        let mut state = stored.unwrap_or_default();
        let usages = match state.usage_counted {
            true => family.usages()?,
            false => {
                let usages = family.count_usages()?;
                state.usage_counted = true;
                if !is_new {
                    recounted(family, &usages, &state)?;
                }
                usages
            }
        };
        self.set_control(Arc::new(family.control()?));
        *self.usages.write().unwrap_or_else(PoisonError::into_inner) = usages;
        Ok(state)
    }

    /// From now on readers see this.
    pub(super) fn set_control(&self, state: Arc<State>) {
        *self.control.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Counts what a batch changes, and writes the counts with it.
    pub(super) fn count(&self, counted: &[Counted], batch: &mut GroupBatch) {
        if counted.is_empty() {
            return;
        }
        let mut touched = BTreeSet::new();
        let mut usages = self.usages.write().unwrap_or_else(PoisonError::into_inner);
        for Counted { tenant, before, after } in counted {
            let [before, after] = [before, after].map(|side| side.as_ref().map(|(endpoint, size)| (endpoint, *size)));
            usages.replace(tenant, before, after);
            touched.extend(before.into_iter().chain(after).map(|(endpoint, _)| (tenant, endpoint)));
        }
        for (tenant, endpoint) in touched {
            batch.put_usage(tenant, endpoint, usages.of(tenant, endpoint));
        }
    }
}

/// Writes what was counted in the place of what may be left of an earlier count.
fn recounted(family: &GroupFamily, usages: &Usages, state: &pb::GroupState) -> Result<(), StoreError> {
    let mut batch = GroupBatch::default();
    for (tenant, endpoint, _) in family.usages()?.all() {
        batch.put_usage(tenant, endpoint, Usage::default());
    }
    for (tenant, endpoint, usage) in usages.all() {
        batch.put_usage(tenant, endpoint, usage);
    }
    batch.put_state(state);
    family.write(batch)
}

/// Stores what a decision changed.
pub(super) fn store(state: &State, writes: &[Write], batch: &mut GroupBatch) {
    for write in writes {
        match write {
            Write::Revision(number) => {
                if let Some(revision) = state.revisions.get(number) {
                    batch.put_revision(*number, revision, &state.sources);
                }
            }
            Write::RevisionGone(number) => batch.remove_revision(*number),
            Write::Selection(number) => {
                if let Some(spec) = state.selections.get(number) {
                    batch.put_selection(*number, spec);
                }
            }
            Write::Tenant(name) => {
                if let Some(tenant) = state.tenants.get(name) {
                    batch.put_tenant(name, tenant);
                }
            }
        }
    }
}

/// A group's state as a start reads it.
#[cfg(test)]
pub(crate) fn reload(family: &GroupFamily) -> Result<pb::GroupState, StoreError> {
    Seen::default().load(family)
}
