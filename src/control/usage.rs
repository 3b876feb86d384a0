//! What keys take up, counted with every record that is written: the same on every replica, since it follows from the records
//! alone. A leader that is new knows what the one before knew.

use std::collections::BTreeMap;

use crate::ids::{EndpointName, TenantId};

/// Keys and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Records.
    pub keys: u64,
    /// Bytes of keys, records and envelopes, before compression and without indexes.
    pub bytes: u64,
}

/// What one record takes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// Usage by tenant and endpoint, in one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usages {
    tenants: BTreeMap<TenantId, TenantUsage>,
}

/// What one tenant's keys take up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct TenantUsage {
    total: Usage,
    endpoints: BTreeMap<EndpointName, Usage>,
}

impl Usage {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { keys: self.keys.saturating_add(other.keys), bytes: self.bytes.saturating_add(other.bytes) }
    }

    fn without(self, other: Self) -> Self {
        Self { keys: self.keys.saturating_sub(other.keys), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

impl Usages {
    /// Takes note of a record that another takes the place of. Nothing: there is none.
    pub fn replace(
        &mut self,
        tenant: &TenantId,
        before: Option<(&EndpointName, Size)>,
        after: Option<(&EndpointName, Size)>,
    ) {
        if let Some((endpoint, Size(bytes))) = before {
            self.change(tenant, endpoint, |usage| usage.without(Usage { keys: 1, bytes }));
        }
        if let Some((endpoint, Size(bytes))) = after {
            self.change(tenant, endpoint, |usage| usage.plus(Usage { keys: 1, bytes }));
        }
    }

    /// Sets what an endpoint takes up, as it was stored.
    pub fn set(&mut self, tenant: &TenantId, endpoint: &EndpointName, usage: Usage) {
        self.change(tenant, endpoint, |_| usage);
    }

    /// What an endpoint takes up.
    #[must_use]
    pub fn of(&self, tenant: &TenantId, endpoint: &EndpointName) -> Usage {
        self.tenants.get(tenant).and_then(|usage| usage.endpoints.get(endpoint)).copied().unwrap_or_default()
    }

    /// What a tenant takes up.
    #[must_use]
    pub fn of_tenant(&self, tenant: &TenantId) -> Usage {
        self.tenants.get(tenant).map(|usage| usage.total).unwrap_or_default()
    }

    /// How many endpoints of a tenant have keys.
    #[must_use]
    pub fn endpoints(&self, tenant: &TenantId) -> usize {
        self.tenants.get(tenant).map_or(0, |usage| usage.endpoints.len())
    }

    /// What a tenant's endpoints take up.
    #[must_use]
    pub fn endpoints_of(&self, tenant: &TenantId) -> BTreeMap<EndpointName, Usage> {
        self.tenants.get(tenant).map(|usage| usage.endpoints.clone()).unwrap_or_default()
    }

    /// Everything, by tenant and endpoint.
    pub fn all(&self) -> impl Iterator<Item = (&TenantId, &EndpointName, Usage)> {
        self.tenants
            .iter()
            .flat_map(|(tenant, of)| of.endpoints.iter().map(move |(endpoint, usage)| (tenant, endpoint, *usage)))
    }

    fn change(&mut self, tenant: &TenantId, endpoint: &EndpointName, change: impl FnOnce(Usage) -> Usage) {
        if !self.tenants.contains_key(tenant) {
            self.tenants.insert(tenant.clone(), TenantUsage::default());
        }
        let Some(of) = self.tenants.get_mut(tenant) else { return };
        let before = of.endpoints.get(endpoint).copied().unwrap_or_default();
        let after = change(before);
        of.total = of.total.plus(after).without(before);
        if after == Usage::default() {
            of.endpoints.remove(endpoint);
        } else if let Some(known) = of.endpoints.get_mut(endpoint) {
            *known = after;
        } else {
            of.endpoints.insert(endpoint.clone(), after);
        }
        if of.endpoints.is_empty() {
            self.tenants.remove(tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_is_counted_as_it_came() {
        let (acme, other) = (TenantId::parse("acme").unwrap(), TenantId::parse("other").unwrap());
        let (pay, ship) = (EndpointName::parse("pay").unwrap(), EndpointName::parse("ship").unwrap());
        let mut usages = Usages::default();
        usages.replace(&acme, None, Some((&pay, Size(100))));
        usages.replace(&acme, None, Some((&pay, Size(50))));
        usages.replace(&other, None, Some((&pay, Size(7))));
        usages.replace(&acme, Some((&pay, Size(50))), Some((&ship, Size(80))));
        assert_eq!(usages.of(&acme, &pay), Usage { keys: 1, bytes: 100 });
        assert_eq!(usages.of(&acme, &ship), Usage { keys: 1, bytes: 80 });
        assert_eq!(usages.of_tenant(&acme), Usage { keys: 2, bytes: 180 });
        assert_eq!((usages.endpoints(&acme), usages.all().count()), (2, 3));
        usages.replace(&acme, Some((&ship, Size(80))), None);
        usages.replace(&acme, Some((&pay, Size(100))), None);
        usages.replace(&other, Some((&pay, Size(7))), None);
        assert_eq!(usages, Usages::default(), "nothing is left of what has gone");
    }
}
