//! What a region makes of the control state: the policies that hold, read once a revision, and who may have keys.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{self, Monotonic};
use crate::control::audit::Entry;
use crate::control::selection::{BUILT_IN, Spec};
use crate::control::state::Revision;
use crate::control::usage::Usage;
use crate::control::{self, State};
use crate::ids::{EndpointName, PartitionId, RecordKey, RegionName, TenantId};
use crate::policy::Severity;
use crate::policy::contract::Contract;
use crate::policy::document::{Document, Promise};
use crate::policy::set::{PolicySet, Source};
use crate::region::Region;
use crate::region::calls::{Certainty, Failure, Invalid};
use crate::region::partition::unexpected;
use crate::reservation::record::Terms;

/// How long a node waits to hear of a tenant or a selection that others know.
const PATIENCE: Duration = Duration::from_secs(2);

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

/// The policies that hold, as this node has read them.
pub(super) struct Policies {
    unnamed: Promise,
    read: Mutex<Arc<Read>>,
}

/// One revision of the policies, read.
#[derive(Default)]
pub(super) struct Read {
    revision: u32,
    /// Why it could not be read: it was checked by a node of a newer version.
    set: Option<Result<PolicySet, String>>,
}

/// What an endpoint of a tenant is promised now.
pub(super) struct Promised<'a> {
    pub(super) contract: &'a Contract,
    pub(super) terms: Terms,
    /// The number of its selection.
    pub(super) selection: u32,
}

impl Policies {
    /// What endpoints get that no policy names follows from the severity.
    pub(super) fn new(unnamed: Severity) -> Self {
        let unnamed = Document::defaults(unnamed).promise();
        Self { unnamed, read: Mutex::default() }
    }

    /// The current revision, read.
    pub(super) fn current(&self, control: &State) -> Result<Arc<Read>, Failure> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = control.revision();
        if read.revision != revision {
            let sources: Vec<Source<'_>> =
                control.sources.iter().map(|source| Source { name: &source.name, text: &source.text }).collect();
            let set = PolicySet::parse(&sources).map_err(|refusals| refusals.first().map(ToString::to_string));
            let set = set.map_err(Option::unwrap_or_default);
            if let Err(error) = &set {
                tracing::error!(revision, error, "the policies cannot be read: is this node older than the others?");
            }
            *read = Arc::new(Read { revision, set: Some(set) });
        }
        match &read.set {
            Some(Err(error)) => Err(Failure::Unavailable {
                certainty: Certainty::Definite,
                reason: format!(
                    "this node cannot read revision {revision} of the policies ({error}): is it older than the others?"
                ),
                retry_after: Duration::from_secs(5),
            }),
            Some(Ok(_)) | None => Ok(Arc::clone(&read)),
        }
    }

    /// What an endpoint of a tenant is promised.
    pub(super) fn promised<'a>(
        &'a self,
        read: &'a Read,
        control: &State,
        tenant: &TenantId,
        endpoint: &EndpointName,
    ) -> Promised<'a> {
        let named = read.set.as_ref().and_then(|set| set.as_ref().ok()).and_then(|set| set.named(tenant, endpoint));
        let Some((name, policy)) = named else {
            let contract = &self.unnamed.contract;
            return Promised { contract, terms: contract.terms(read.revision), selection: BUILT_IN };
        };
        let known = control.revisions.get(&read.revision).and_then(|revision| revision.policies.get(name));
        let contract = &policy.promise.contract;
        let selection = known.map_or(BUILT_IN, |known| known.selection);
        Promised { contract, terms: contract.terms(read.revision), selection }
    }
}

impl Region {
    /// What is the same for all partitions, as this node has applied it.
    #[must_use]
    pub fn control(&self) -> Arc<State> {
        self.homes.control()
    }

    /// What keys are promised that are granted now, by its selection and its terms.
    pub(super) fn granting<T>(
        &self,
        tenant: &TenantId,
        endpoint: &EndpointName,
        with: impl FnOnce(Promised<'_>, &State) -> T,
    ) -> Result<T, Failure> {
        let control = self.control();
        let read = self.policies.current(&control)?;
        Ok(with(self.policies.promised(&read, &control, tenant, endpoint), &control))
    }

    /// The number of what a fingerprint of an endpoint takes now.
    ///
    /// # Errors
    /// When this node cannot read the policies.
    pub fn selection_for(&self, tenant: &TenantId, endpoint: &EndpointName) -> Result<u32, Failure> {
        self.granting(tenant, endpoint, |promised, _| promised.selection)
    }

    /// What stands under the number of a selection. One that this node has not heard of yet is waited for.
    ///
    /// # Errors
    /// When it is not heard of in time: nothing was done.
    pub async fn selection(&self, number: u32, until: Monotonic) -> Result<Spec, Failure> {
        if number == BUILT_IN {
            return Ok(Spec::built_in());
        }
        let text = self.heard(until, |control| control.selections.get(&number).cloned()).await;
        let text = text.ok_or_else(|| unheard(&format!("selection {number}")))?;
        Spec::from_json(&text).map_err(|error| unexpected(&error))
    }

    /// Where a key is at home; refuses keys of tenants that may have none.
    pub(super) async fn home_of(&self, key: &RecordKey, until: Monotonic) -> Result<RegionName, Failure> {
        if let Some(home) = self.homes.known(key)? {
            return Ok(home);
        }
        let known = self.heard(until, |control| control.tenants.get(&key.tenant).map(|_| ())).await;
        known.ok_or_else(|| unheard(&format!("tenant {}", key.tenant)))?;
        self.homes.known(key)?.ok_or_else(|| unexpected(&"no home"))
    }

    /// The severity whose defaults an endpoint gets that no policy names.
    #[must_use]
    pub fn unnamed_severity(&self) -> Severity {
        self.policies.unnamed.contract.severity
    }

    /// Whether only tenants that were made may have keys.
    #[must_use]
    pub fn registered_only(&self) -> bool {
        self.homes.tenants() == Tenants::Registered
    }

    /// Refuses what can be no tenant's home.
    ///
    /// # Errors
    /// When the cluster has no such home, or takes tenants that nobody made: their keys have homes already.
    pub fn check_tenant_home(&self, home: &RegionName) -> Result<(), Invalid> {
        if !self.homes.contains(home) {
            let known = self.homes.listed();
            return Err(Invalid::Tenant(format!("there is no home {home}: this cluster was made with {known}")));
        }
        if self.homes.tenants() == Tenants::Any {
            let text = "this cluster takes tenants that nobody made, and their keys are at home by their hash: leave the home out";
            return Err(Invalid::Tenant(text.to_owned()));
        }
        Ok(())
    }

    /// A revision of the policies with its files, as this node has applied it.
    ///
    /// # Errors
    /// When what is stored cannot be read.
    pub fn revision(&self, number: u32) -> Result<Option<(Revision, Vec<control::command::Source>)>, Failure> {
        let Some(first) = self.partitions.first() else { return Ok(None) };
        first.read(first.group.family().revision(number))
    }

    /// Entries of a partition's audit from `from` on, as this node has applied it. Nothing: there is no such partition.
    ///
    /// # Errors
    /// When what is stored cannot be read.
    pub fn audit(&self, partition: PartitionId, from: u64, limit: usize) -> Result<Option<Vec<Entry>>, Failure> {
        let Some(partition) = self.partitions.get(usize::from(partition.0)) else { return Ok(None) };
        partition.read(partition.group.family().audit(from, limit)).map(Some)
    }

    /// What a tenant's keys take up over all partitions, as this node has applied them, by endpoint.
    #[must_use]
    pub fn usage(&self, tenant: &TenantId) -> BTreeMap<EndpointName, Usage> {
        let mut sums: BTreeMap<EndpointName, Usage> = BTreeMap::new();
        for partition in &self.partitions {
            for (endpoint, usage) in partition.group.usages(|usages| usages.endpoints_of(tenant)) {
                let sum = sums.entry(endpoint).or_default();
                *sum = sum.plus(usage);
            }
        }
        sums
    }

    /// Whether a tenant may have keys, as far as this node has applied.
    #[must_use]
    pub fn knows_tenant(&self, tenant: &TenantId) -> bool {
        self.homes.tenants() == Tenants::Any || self.control().tenants.contains_key(tenant)
    }

    /// Waits until this node has applied the first partition's log up to there.
    ///
    /// # Errors
    /// When it has not in time: nothing was done.
    pub async fn control_applied(&self, position: u64, until: Monotonic) -> Result<(), Failure> {
        let Some(first) = self.partitions.first() else { return Err(unexpected(&"no partition")) };
        let applied = self.heard(until, |_| (first.group.position() >= position).then_some(())).await;
        applied.ok_or_else(|| unheard("the last decisions about tenants and policies"))
    }

    /// How far the first partition's log is applied, by its leader alone.
    ///
    /// # Errors
    /// When this node does not lead it.
    pub async fn control_position(&self, until: Monotonic) -> Result<u64, Failure> {
        let first = self.partitions.first().ok_or_else(|| unexpected(&"no partition"))?;
        first.serves(until).await?;
        first.group.confirm_read().await.map_err(crate::region::partition::unproposed)?;
        Ok(first.group.position())
    }

    /// Looks whenever something was applied, until there is something, or nobody waits any more.
    async fn heard<T>(&self, until: Monotonic, look: impl Fn(&State) -> Option<T>) -> Option<T> {
        let patience = clock::monotonic().plus(PATIENCE).min(until);
        let first = self.partitions.first()?;
        loop {
            let mut applied = std::pin::pin!(first.following.wakers.applied.notified());
            // Armed before the look, so that a change in between is not missed.
            applied.as_mut().enable();
            if let Some(found) = look(&first.group.control()) {
                return Some(found);
            }
            let left = patience.since(clock::monotonic());
            if left.is_zero() || tokio::time::timeout(left, applied).await.is_err() {
                return look(&first.group.control());
            }
        }
    }

    /// Refuses a new key of a tenant that is closed.
    pub(super) fn open_tenant(control: &State, tenant: &TenantId) -> Result<(), Invalid> {
        match control.tenants.get(tenant) {
            Some(known) if known.closed => Err(Invalid::TenantClosed { tenant: tenant.as_str().to_owned() }),
            Some(_) | None => Ok(()),
        }
    }

    /// Decides about what is the same for all partitions, if this node leads the first; `until` bounds the wait for that.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn decide_control(&self, command: control::Command, until: Monotonic) -> Result<control::Reply, Failure> {
        let first = self.partitions.first().ok_or_else(|| unexpected(&"no partition"))?;
        let _term = first.serves(until).await?;
        first.control(command).await
    }
}

fn unheard(what: &str) -> Failure {
    let reason = format!("this node has not heard of {what} yet: ask again");
    Failure::Unavailable { certainty: Certainty::Definite, reason, retry_after: Duration::from_millis(200) }
}
