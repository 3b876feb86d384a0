//! Which target is the most specific for an endpoint, without a look at each: every Reserve asks.
//!
//! Names are looked up. Patterns are looked up by what stands before their `*`, once for each length that occurs.

use std::collections::BTreeMap;

use crate::ids::{EndpointName, TenantId};
use crate::policy::matching::Target;

/// Places of targets in a list that has the most specific first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    /// Of targets that name a tenant.
    tenants: BTreeMap<TenantId, Shelf>,
    /// Of the others.
    all: Shelf,
}

/// The targets of one tenant, or of every tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shelf {
    names: BTreeMap<EndpointName, usize>,
    /// By the bytes before the `*`, and what these are.
    patterns: BTreeMap<usize, BTreeMap<Box<str>, Vec<usize>>>,
}

impl Index {
    /// Of targets, the most specific first.
    pub(super) fn of<'a>(targets: impl Iterator<Item = &'a Target>) -> Self {
        let mut index = Self::default();
        for (place, target) in targets.enumerate() {
            let shelf = match &target.tenant {
                Some(tenant) => index.tenants.entry(tenant.clone()).or_default(),
                None => &mut index.all,
            };
            match target.pattern.before() {
                None => {
                    shelf.names.entry(target.pattern.as_endpoint().clone()).or_insert(place);
                }
                Some(before) => {
                    shelf.patterns.entry(before.len()).or_default().entry(before.into()).or_default().push(place);
                }
            }
        }
        index
    }

    /// The place of the first target that an endpoint of a tenant fits; without a tenant, of one that no target names. `target`
    /// has the target of a place.
    pub(super) fn first<'a>(
        &self,
        tenant: Option<&TenantId>,
        endpoint: &EndpointName,
        target: impl Fn(usize) -> Option<&'a Target>,
    ) -> Option<usize> {
        // Whoever names the tenant goes before those who do not, and a name before a pattern.
        let fits = |place: &usize| target(*place).is_some_and(|target| target.fits(tenant, endpoint));
        tenant.and_then(|tenant| self.tenants.get(tenant)).into_iter().chain([&self.all]).find_map(|shelf| {
            shelf.names.get(endpoint).copied().or_else(|| shelf.candidates(endpoint).filter(fits).min())
        })
    }
}

impl Shelf {
    /// The patterns that begin as the endpoint does.
    fn candidates(&self, endpoint: &EndpointName) -> impl Iterator<Item = usize> {
        let text = endpoint.as_str();
        let alike = self.patterns.range(..=text.len());
        alike.filter_map(move |(length, of)| of.get(text.get(..*length)?)).flatten().copied()
    }
}
