//! What a region makes of the control state: the policies that hold, read once a revision, and who may have keys.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use holdfast_client::fingerprint::Selection;

use crate::clock::{self, Monotonic};
use crate::control::audit::Entry;
use crate::control::selection::{BUILT_IN, Spec};
use crate::control::state::{Revision, Tenants};
use crate::control::usage::Usage;
use crate::control::{self, State};
use crate::ids::{EndpointName, PartitionId, PolicyName, RecordKey, RegionName, TenantId};
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

/// The policies that hold, as this node has read them.
pub(super) struct Policies {
    unnamed: Promise,
    read: RwLock<Arc<Revised>>,
    /// One reads a new revision; who else needs it waits.
    reading: Mutex<()>,
    /// What stands under the numbers of selections: never anything else.
    selections: RwLock<BTreeMap<u32, Arc<Selection>>>,
}

/// One revision of the policies, read.
#[derive(Default)]
pub(super) struct Revised {
    revision: u32,
    policies: PolicySet,
    /// The numbers of their selections.
    selections: BTreeMap<PolicyName, u32>,
    /// Why they cannot be read: they were checked by a node of a newer version.
    unread: Option<String>,
}

/// What an endpoint of a tenant is promised now.
pub(super) struct Promised<'a> {
    pub(super) contract: &'a Contract,
    pub(super) terms: Terms,
    /// The number of its selection.
    pub(super) selection: u32,
}

impl Revised {
    fn of(control: &State) -> Self {
        let (revision, known) = (control.revision(), control.policies());
        let sources: Vec<Source<'_>> =
            control.sources.iter().map(|source| Source { name: &source.name, text: &source.text }).collect();
        let selections = known.into_iter().map(|(name, known)| (name, known.selection)).collect();
        match PolicySet::parse(&sources) {
            Ok(policies) => Self { revision, policies, selections, unread: None },
            Err(refusals) => {
                let error = refusals.first().map(ToString::to_string).unwrap_or_default();
                tracing::error!(revision, error, "the policies cannot be read: is this node older than the others?");
                Self { revision, policies: PolicySet::default(), selections, unread: Some(error) }
            }
        }
    }
}

impl Policies {
    /// What endpoints get that no policy names follows from the severity.
    pub(super) fn new(unnamed: Severity) -> Self {
        let unnamed = Document::defaults(unnamed).promise();
        Self { unnamed, read: RwLock::default(), reading: Mutex::default(), selections: RwLock::default() }
    }

    /// The policies of a revision, read, or of a later one.
    pub(super) fn current(&self, control: &State) -> Result<Arc<Revised>, Failure> {
        let (mut read, revision) = (self.newest(), control.revision());
        if read.revision < revision {
            let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
            read = self.newest();
            if read.revision < revision {
                read = Arc::new(Revised::of(control));
                *self.read.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&read);
            }
        }
        match &read.unread {
            Some(error) => Err(Failure::Unavailable {
                certainty: Certainty::Definite,
                reason: format!(
                    "this node cannot read revision {revision} of the policies ({error}): is it older than the others?"
                ),
                retry_after: Duration::from_secs(5),
            }),
            None => Ok(read),
        }
    }

    fn newest(&self) -> Arc<Revised> {
        Arc::clone(&self.read.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What an endpoint of a tenant is promised.
    pub(super) fn promised<'a>(
        &'a self,
        read: &'a Revised,
        tenant: &TenantId,
        endpoint: &EndpointName,
    ) -> Promised<'a> {
        let (contract, selection) = match read.policies.named(Some(tenant), endpoint) {
            Some((name, policy)) => (&policy.promise.contract, read.selections.get(name).copied().unwrap_or(BUILT_IN)),
            None => (&self.unnamed.contract, BUILT_IN),
        };
        Promised { contract, terms: contract.terms(read.revision), selection }
    }

    fn selection(&self, number: u32) -> Option<Arc<Selection>> {
        self.selections.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    fn keep_selection(&self, number: u32, selection: &Arc<Selection>) {
        let mut selections = self.selections.write().unwrap_or_else(PoisonError::into_inner);
        selections.insert(number, Arc::clone(selection));
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
        Ok(with(self.policies.promised(&read, tenant, endpoint), &control))
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
    pub async fn selection(&self, number: u32, until: Monotonic) -> Result<Arc<Selection>, Failure> {
        if let Some(selection) = self.policies.selection(number) {
            return Ok(selection);
        }
        let spec = if number == BUILT_IN {
            Spec::built_in()
        } else {
            let text = self.heard(until, |control| control.selections.get(&number).cloned()).await;
            let text = text.ok_or_else(|| unheard(&format!("selection {number}")))?;
            Spec::from_json(&text).map_err(|error| unexpected(&error))?
        };
        let selection = Arc::new(spec.selection().map_err(|error| unexpected(&error))?);
        self.policies.keep_selection(number, &selection);
        Ok(selection)
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

    /// The same, of all endpoints together.
    #[must_use]
    pub fn total_usage(&self, tenant: &TenantId) -> Usage {
        let each = self.partitions.iter().map(|partition| partition.group.usages(|usages| usages.of_tenant(tenant)));
        each.fold(Usage::default(), Usage::plus)
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
