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
use crate::ids::{EndpointName, IdempotencyKey, RecordKey, TenantId};
use crate::limits;
use crate::policy::document::Limits;
use crate::region::rates::{self, Rate};
use crate::reservation::reply::Limit;
use crate::telemetry::metrics;

/// When to ask again after a quota refused: room comes when records expire.
const QUOTA_PATIENCE: Duration = Duration::from_secs(60);

/// Which key it would be.
#[derive(Clone, Copy)]
pub(super) struct Who<'a> {
    pub(super) key: &'a RecordKey,
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
    /// How many endpoints of the tenant have keys in the key's partition, if the key's is none of them.
    pub(super) other_endpoints: Option<usize>,
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
    flying: Mutex<HashMap<TenantId, OnTheWay>>,
}

/// One tenant's new keys on their way.
#[derive(Default)]
struct OnTheWay {
    /// Calls for one key make one record together.
    keys: HashMap<IdempotencyKey, Asked>,
    endpoints: HashMap<EndpointName, u64>,
}

/// A new key on its way.
struct Asked {
    /// The endpoint that it counts for.
    endpoint: EndpointName,
    /// How many calls ask for it.
    calls: usize,
    /// The rates have let it pass: it is counted once, and what asks for it again is let pass too.
    is_rated: bool,
}

/// One call for a new key, on its way.
pub(super) struct Flying<'a> {
    admission: &'a Admission,
    key: RecordKey,
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
        if !caps.has_quota() && !caps.has_rate() {
            return refusal(caps, &stored(), 0, 0).map_or(Admitted::Yes(None), no);
        }
        let mut flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
        let of_tenant = flying.entry(who.key.tenant.clone()).or_default();
        let admitted = || Admitted::Yes(Some(Flying { admission: self, key: who.key.clone() }));
        if let Some(asked) = of_tenant.keys.get_mut(&who.key.key) {
            asked.calls = asked.calls.saturating_add(1);
            return admitted();
        }
        let on_the_way = u64::try_from(of_tenant.keys.len()).unwrap_or(u64::MAX);
        let of_endpoint = of_tenant.endpoints.get(who.endpoint).copied().unwrap_or_default();
        if let Some(limit) = refusal(caps, &stored(), on_the_way, of_endpoint) {
            if of_tenant.keys.is_empty() {
                flying.remove(&who.key.tenant);
            }
            return no(limit);
        }
        let asked = Asked { endpoint: who.endpoint.clone(), calls: 1, is_rated: false };
        of_tenant.keys.insert(who.key.key.clone(), asked);
        let count = of_tenant.endpoints.entry(who.endpoint.clone()).or_default();
        *count = count.saturating_add(1);
        admitted()
    }
}

fn no(limit: Limit) -> Admitted<'static> {
    Admitted::No { limit, retry_after: QUOTA_PATIENCE }
}

/// The first quota that has no room for one key more.
fn refusal(caps: &Caps, stored: &Stored, on_the_way: u64, of_endpoint: u64) -> Option<Limit> {
    let full = |most: Option<u64>, taken: u64| most.is_some_and(|most| taken >= most);
    let Stored { tenant, endpoint, other_endpoints } = stored;
    let checks = [
        (full(caps.tenant.max_keys, tenant.keys.saturating_add(on_the_way)), Limit::TenantKeys),
        (full(caps.tenant.max_bytes, tenant.bytes), Limit::TenantBytes),
        (full(caps.endpoint.max_keys, endpoint.keys.saturating_add(of_endpoint)), Limit::EndpointKeys),
        (full(caps.endpoint.max_bytes, endpoint.bytes), Limit::EndpointBytes),
        (other_endpoints.is_some_and(|others| others >= limits::MAX_TENANT_ENDPOINTS), Limit::Endpoints),
    ];
    checks.into_iter().find(|(refuses, _)| *refuses).map(|(_, limit)| limit)
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

impl Flying<'_> {
    /// Whether the rates have let the key pass already.
    pub(super) fn is_rated(&self) -> bool {
        self.with(|asked| asked.is_rated)
    }

    /// The rates let the key pass.
    pub(super) fn rated(&self) {
        self.with(|asked| std::mem::replace(&mut asked.is_rated, true));
    }

    fn with(&self, with: impl FnOnce(&mut Asked) -> bool) -> bool {
        let mut flying = self.admission.flying.lock().unwrap_or_else(PoisonError::into_inner);
        flying.get_mut(&self.key.tenant).and_then(|of| of.keys.get_mut(&self.key.key)).is_some_and(with)
    }
}

impl Drop for Flying<'_> {
    fn drop(&mut self) {
        let mut flying = self.admission.flying.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(of_tenant) = flying.get_mut(&self.key.tenant) else { return };
        let Some(Asked { endpoint, calls, .. }) = of_tenant.keys.get_mut(&self.key.key) else { return };
        *calls = calls.saturating_sub(1);
        if *calls > 0 {
            return;
        }
        if let Some(count) = of_tenant.endpoints.get_mut(endpoint) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                of_tenant.endpoints.remove(endpoint);
            }
        }
        of_tenant.keys.remove(&self.key.key);
        if of_tenant.keys.is_empty() {
            flying.remove(&self.key.tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::fixture::key;

    fn endpoint(name: &str) -> EndpointName {
        EndpointName::parse(name).unwrap()
    }

    fn caps(tenant_keys: Option<u64>, endpoint_keys: Option<u64>) -> Caps {
        Caps {
            tenant: TenantLimits { max_keys: tenant_keys, ..TenantLimits::default() },
            endpoint: Limits { max_keys: endpoint_keys, ..Limits::default() },
        }
    }

    /// Asks for a key where so many are stored.
    fn ask<'a>(
        admission: &'a Admission,
        name: &str,
        of: &str,
        caps: &Caps,
        keys: u64,
    ) -> Result<Option<Flying<'a>>, Limit> {
        let usage = Usage { keys, bytes: 0 };
        let (key, endpoint) = (key(name), endpoint(of));
        let stored = || Stored { tenant: usage, endpoint: usage, other_endpoints: None };
        match admission.quota(Who { key: &key, endpoint: &endpoint }, caps, stored) {
            Admitted::Yes(flying) => Ok(flying),
            Admitted::No { limit, .. } => Err(limit),
        }
    }

    #[test]
    fn what_is_on_the_way_counts_until_it_has_arrived() {
        let (admission, caps) = (Admission::default(), caps(Some(3), None));
        let first = ask(&admission, "a", "pay", &caps, 1);
        let _second = ask(&admission, "b", "pay", &caps, 1);
        assert_eq!(ask(&admission, "c", "pay", &caps, 1).err(), Some(Limit::TenantKeys));
        drop(first);
        assert!(ask(&admission, "c", "pay", &caps, 1).is_ok(), "one has gone without a record");
    }

    #[test]
    fn a_second_call_for_a_key_on_its_way_is_no_second_key() {
        let (admission, caps) = (Admission::default(), caps(Some(1), None));
        let first = ask(&admission, "a", "pay", &caps, 0);
        let second = ask(&admission, "a", "pay", &caps, 0);
        assert!(second.is_ok(), "it will hear of the first");
        drop(first);
        assert_eq!(ask(&admission, "b", "pay", &caps, 0).err(), Some(Limit::TenantKeys), "the second is on its way");
        drop(second);
        assert!(admission.flying.lock().unwrap().is_empty(), "nothing is left");
    }

    #[test]
    fn calls_for_one_key_are_rated_once_and_a_key_that_is_gone_is_rated_anew() {
        let rate = TenantLimits { keys_per_second: Some(1), ..TenantLimits::default() };
        let caps = Caps { tenant: rate, ..Caps::default() };
        let admission = Admission::default();
        let first = ask(&admission, "a", "e", &caps, 0).unwrap().unwrap();
        assert!(!first.is_rated());
        let beside = ask(&admission, "a", "e", &caps, 0).unwrap().unwrap();
        assert!(!beside.is_rated(), "the rates have not said yet");
        first.rated();
        assert!(beside.is_rated() && ask(&admission, "a", "e", &caps, 0).unwrap().unwrap().is_rated());
        assert!(!ask(&admission, "b", "e", &caps, 0).unwrap().unwrap().is_rated(), "another key");
        drop((first, beside));
        assert!(!ask(&admission, "a", "e", &caps, 0).unwrap().unwrap().is_rated());
    }

    #[test]
    fn an_endpoints_quota_is_its_own() {
        let (admission, caps) = (Admission::default(), caps(None, Some(1)));
        let _first = ask(&admission, "a", "pay", &caps, 0);
        assert_eq!(ask(&admission, "b", "pay", &caps, 0).err(), Some(Limit::EndpointKeys));
        assert!(ask(&admission, "b", "ship", &caps, 0).is_ok());
    }

    #[test]
    fn nothing_is_counted_where_nothing_is_limited() {
        let admission = Admission::default();
        assert!(matches!(ask(&admission, "a", "pay", &caps(None, None), u64::MAX), Ok(None)));
        assert!(admission.flying.lock().unwrap().is_empty());
    }
}
