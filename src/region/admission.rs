//! What may refuse a new key before the log sees it: quotas and rates, of the tenant and of the endpoint's policy.
//!
//! A quota counts what is stored, over all partitions as this node has applied them, and the new keys that this node has
//! proposed and not applied yet. So one node lets no key too many in. With several, each leads some partitions: together they
//! may exceed a quota by what the others have granted and this one has not applied yet. A key that was just applied counts twice
//! for a moment, so at the edge of a quota one may be refused that would have had room.
//!
//! Deliberately absent: completions and replays, and another attempt of a key that is there. They are never refused here.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::control::command::TenantLimits;
use crate::control::usage::Usage;
use crate::ids::{EndpointName, TenantId};
use crate::limits;
use crate::policy::document::Limits;
use crate::region::rates::{self, Rate};
use crate::reservation::reply::Limit;
use crate::telemetry::metrics;

/// When to ask again after a quota refused: room comes when records expire.
const QUOTA_PATIENCE: Duration = Duration::from_secs(60);

/// Whose key it would be.
#[derive(Clone, Copy)]
pub(super) struct Who<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) endpoint: &'a EndpointName,
}

/// What may not be exceeded.
#[derive(Clone, Debug, Default)]
pub(super) struct Caps {
    pub(super) tenant: TenantLimits,
    pub(super) endpoint: Limits,
}

/// What is stored already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stored {
    pub(super) tenant: Usage,
    pub(super) endpoint: Usage,
    /// How many endpoints of the tenant have keys in the key's partition.
    pub(super) endpoints: usize,
}

/// Whether a new key may be proposed.
pub(super) enum Admitted<'a> {
    /// It is counted as long as this lives.
    Yes(Option<Flying<'a>>),
    /// A limit refuses it.
    No { limit: Limit, retry_after: Duration },
}

/// The new keys that this node has proposed, by whose they are.
#[derive(Default)]
pub(super) struct Admission {
    flying: Mutex<HashMap<TenantId, HashMap<EndpointName, u64>>>,
}

/// One new key on its way.
pub(super) struct Flying<'a> {
    admission: &'a Admission,
    tenant: TenantId,
    endpoint: EndpointName,
}

impl Caps {
    /// The rates among them.
    pub(super) fn rates(&self) -> rates::Caps {
        let rate = |keys_per_second, per_client| Rate { keys_per_second, per_client };
        rates::Caps {
            tenant: rate(self.tenant.keys_per_second, self.tenant.keys_per_second_per_client),
            endpoint: rate(self.endpoint.keys_per_second, self.endpoint.keys_per_second_per_client),
        }
    }

    /// Whether a rate is among them.
    pub(super) fn has_rate(&self) -> bool {
        let TenantLimits { keys_per_second, keys_per_second_per_client, .. } = self.tenant;
        let of_endpoint = [self.endpoint.keys_per_second, self.endpoint.keys_per_second_per_client];
        [keys_per_second, keys_per_second_per_client].iter().chain(&of_endpoint).any(Option::is_some)
    }

    /// Whether a quota is among them.
    pub(super) fn has_quota(&self) -> bool {
        let TenantLimits { max_keys, max_bytes, .. } = self.tenant;
        [max_keys, max_bytes, self.endpoint.max_keys, self.endpoint.max_bytes].iter().any(Option::is_some)
    }
}

impl Admission {
    /// Admits a new key, or names the quota that refuses it. `stored` is read while nothing else is admitted.
    pub(super) fn quota(&self, who: Who<'_>, caps: &Caps, stored: impl FnOnce() -> Stored) -> Admitted<'_> {
        if !caps.has_quota() {
            let Stored { endpoint, endpoints, .. } = stored();
            return match endpoint.keys == 0 && endpoints >= limits::MAX_TENANT_ENDPOINTS {
                true => Admitted::No { limit: Limit::Endpoints, retry_after: QUOTA_PATIENCE },
                false => Admitted::Yes(None),
            };
        }
        let mut flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
        let of_tenant = flying.get(who.tenant);
        let on_the_way: u64 = of_tenant.map_or(0, |endpoints| endpoints.values().sum());
        let of_endpoint = of_tenant.and_then(|endpoints| endpoints.get(who.endpoint)).copied().unwrap_or_default();
        let stored = stored();
        let full = |most: Option<u64>, taken: u64| most.is_some_and(|most| taken >= most);
        let refused = if full(caps.tenant.max_keys, stored.tenant.keys.saturating_add(on_the_way)) {
            Some(Limit::TenantKeys)
        } else if full(caps.tenant.max_bytes, stored.tenant.bytes) {
            Some(Limit::TenantBytes)
        } else if full(caps.endpoint.max_keys, stored.endpoint.keys.saturating_add(of_endpoint)) {
            Some(Limit::EndpointKeys)
        } else if full(caps.endpoint.max_bytes, stored.endpoint.bytes) {
            Some(Limit::EndpointBytes)
        } else if stored.endpoint.keys == 0 && stored.endpoints >= limits::MAX_TENANT_ENDPOINTS {
            Some(Limit::Endpoints)
        } else {
            None
        };
        if let Some(limit) = refused {
            return Admitted::No { limit, retry_after: QUOTA_PATIENCE };
        }
        let count = flying.entry(who.tenant.clone()).or_default().entry(who.endpoint.clone()).or_default();
        *count = count.saturating_add(1);
        drop(flying);
        Admitted::Yes(Some(Flying { admission: self, tenant: who.tenant.clone(), endpoint: who.endpoint.clone() }))
    }
}

/// As a limit is counted.
pub(super) const fn label(limit: Limit) -> metrics::Limit {
    match limit {
        Limit::Attempts => metrics::Limit::Attempts,
        Limit::TenantKeys => metrics::Limit::TenantKeys,
        Limit::TenantBytes => metrics::Limit::TenantBytes,
        Limit::EndpointKeys => metrics::Limit::EndpointKeys,
        Limit::EndpointBytes => metrics::Limit::EndpointBytes,
        Limit::Endpoints => metrics::Limit::Endpoints,
        Limit::TenantRate => metrics::Limit::TenantRate,
        Limit::ClientRate => metrics::Limit::ClientRate,
        Limit::EndpointRate => metrics::Limit::EndpointRate,
        Limit::EndpointClientRate => metrics::Limit::EndpointClientRate,
    }
}

impl Drop for Flying<'_> {
    fn drop(&mut self) {
        let mut flying = self.admission.flying.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(endpoints) = flying.get_mut(&self.tenant) else { return };
        if let Some(count) = endpoints.get_mut(&self.endpoint) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                endpoints.remove(&self.endpoint);
            }
        }
        if endpoints.is_empty() {
            flying.remove(&self.tenant);
        }
    }
}
