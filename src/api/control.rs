//! What an operator decides about all partitions: policies and tenants, and who decided what.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use holdfast_client::proto::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::convert;
use super::error::{ApiError, Code};
use super::grpc::Services;
use crate::clock::{self, Monotonic};
use crate::control::Reply;
use crate::control::audit::{Action, Entry};
use crate::control::command::{Change, Command, Kind, LimitChanges, Signature, Source, Summary, TenantLimits};
use crate::control::selection::Spec;
use crate::control::state::{Revision, Tenant};
use crate::control::usage::Usage;
use crate::ids::{Digest, EndpointName, PartitionId, PolicyName, RegionName, TenantId};
use crate::limits;
use crate::policy::lint::{Level, lint};
use crate::policy::set::{self, PolicySet};
use crate::region::calls::{Failure, Invalid};
use crate::router;

/// Who decided and why, where nobody said so.
const UNSAID: &str = "(not said)";

/// How many of the things that are wrong with policies are told.
const TOLD: usize = 20;

fn refused(invalid: Invalid) -> ApiError {
    ApiError::from(Failure::Invalid(invalid))
}

fn until() -> Monotonic {
    router::until(clock::monotonic(), None, Duration::ZERO)
}

/// Who decides, and why: both have to be said.
fn signed(signature: Option<v1::Signature>) -> Result<Signature, ApiError> {
    let v1::Signature { actor, reason } = signature.unwrap_or_default();
    convert::signature(actor, reason)
}

/// Who decides, and why, as far as it is said.
pub(super) fn perhaps_signed(signature: Option<v1::Signature>) -> Result<Signature, ApiError> {
    let said = |text: String| if text.is_empty() { UNSAID.to_owned() } else { text };
    let v1::Signature { actor, reason } = signature.unwrap_or_default();
    convert::signature(said(actor), said(reason))
}

/// Makes the policies those of the files.
pub(super) async fn apply(
    services: &Services,
    request: v1::ApplyPoliciesRequest,
) -> Result<v1::ApplyPoliciesResponse, ApiError> {
    let v1::ApplyPoliciesRequest { signature, expected_revision, sources, prune } = request;
    let signature = signed(signature)?;
    let sources: Vec<Source> =
        sources.into_iter().map(|source| Source { name: source.name, text: source.text }).collect();
    let policies = read(&sources)?;
    services.router.know_control(until()).await?;
    let control = services.router.region().control();
    if control.revision() == expected_revision && !prune {
        let gone: Vec<String> = control
            .policies()
            .into_keys()
            .filter(|name| !policies.contains_key(name))
            .map(|name| name.to_string())
            .collect();
        if !gone.is_empty() {
            let text = format!(
                "{} would go, which no file has any more: say so with prune (`ctl policy apply --prune`), or give their files too",
                gone.join(", ")
            );
            return Err(refused(Invalid::Policies(text)));
        }
    }
    let policies = policies.into_values().collect();
    let kind = Kind::SetPolicies { expected: expected_revision, sources, policies };
    let (reply, _) = services.router.decide_control(Command { signature, kind }).await?;
    match reply {
        Reply::Policies { revision } => Ok(v1::ApplyPoliciesResponse { revision }),
        Reply::OtherRevision { current } => Err(refused(Invalid::Policies(format!(
            "revision {current} of the policies holds, and these files were compared with revision {expected_revision}: compare again"
        )))),
        Reply::Full { what, most } => {
            Err(refused(Invalid::Policies(format!("there are {most} {what}, which is as many as can be"))))
        }
        other @ (Reply::TenantExists | Reply::TenantUnknown | Reply::Tenant | Reply::Noted) => Err(unfit(&other)),
    }
}

/// What is in the files, if it can hold: a policy that contradicts itself cannot.
fn read(sources: &[Source]) -> Result<BTreeMap<PolicyName, Summary>, ApiError> {
    let bytes: usize = sources.iter().map(|source| source.text.len()).sum();
    if bytes > limits::MAX_POLICY_FILE_BYTES || sources.len() > limits::MAX_POLICIES {
        let text = format!(
            "the files have {bytes} bytes: all of them together may have {}, in at most {} files",
            limits::MAX_POLICY_FILE_BYTES,
            limits::MAX_POLICIES
        );
        return Err(refused(Invalid::Policies(text)));
    }
    let texts: Vec<set::Source<'_>> =
        sources.iter().map(|source| set::Source { name: &source.name, text: &source.text }).collect();
    let told = |lines: Vec<String>| {
        let more = lines.len().saturating_sub(TOLD);
        let mut text = lines.into_iter().take(TOLD).collect::<Vec<_>>().join("; ");
        if more > 0 {
            text.push_str(&format!("; and {more} more: `holdfast ctl policy lint` shows all"));
        }
        refused(Invalid::Policies(text))
    };
    let set = PolicySet::parse(&texts).map_err(|refusals| told(refusals.iter().map(ToString::to_string).collect()))?;
    let errors: Vec<String> =
        lint(&set).iter().filter(|finding| finding.code.level() == Level::Error).map(ToString::to_string).collect();
    if !errors.is_empty() {
        return Err(told(errors));
    }
    let summary = |(name, policy): (&PolicyName, &set::Policy)| {
        let said = serde_json::to_vec(&policy.document).unwrap_or_default();
        let digest = Digest(Sha256::digest(said).into());
        let selection = Spec::of(&policy.promise.document).to_json();
        (name.clone(), Summary { name: name.clone(), digest, selection })
    };
    Ok(set.policies().iter().map(summary).collect())
}

/// The policies of a revision.
pub(super) async fn policies(
    services: &Services,
    request: v1::GetPoliciesRequest,
) -> Result<v1::GetPoliciesResponse, ApiError> {
    services.router.know_control(until()).await?;
    let region = services.router.region();
    let current = region.control().revision();
    let number = request.revision.unwrap_or(current);
    let unnamed_severity = region.unnamed_severity().to_string();
    if number == 0 {
        let revision = Some(v1::Revision::default());
        return Ok(v1::GetPoliciesResponse { revision, sources: Vec::new(), unnamed_severity });
    }
    let Some((revision, sources)) = region.revision(number)? else {
        let detail = format!("there is no revision {number}: `holdfast ctl policy list` shows those that are kept");
        return Err(ApiError::Input { code: Code::InputInvalid, field: "revision", detail });
    };
    let sources = sources.into_iter().map(|source| v1::PolicySource { name: source.name, text: source.text });
    Ok(v1::GetPoliciesResponse {
        revision: Some(revision_to(number, &revision)),
        sources: sources.collect(),
        unnamed_severity,
    })
}

/// The revisions of the policies.
pub(super) async fn revisions(
    services: &Services,
    request: v1::ListRevisionsRequest,
) -> Result<v1::ListRevisionsResponse, ApiError> {
    services.router.know_control(until()).await?;
    let control = services.router.region().control();
    let before = request.before.map_or(Bound::Unbounded, Bound::Excluded);
    let all = control.revisions.range((Bound::Unbounded, before)).rev();
    let (revisions, more) = page(all.map(|(number, revision)| revision_to(*number, revision)));
    Ok(v1::ListRevisionsResponse { revisions, more })
}

/// As many as an answer takes, and whether there are more.
fn page(all: impl Iterator<Item = v1::Revision>) -> (Vec<v1::Revision>, bool) {
    let (mut bytes, mut page) = (0_usize, Vec::new());
    for revision in all {
        bytes = bytes.saturating_add(revision.encoded_len());
        if bytes > limits::MAX_PAGE_BYTES && !page.is_empty() {
            return (page, true);
        }
        page.push(revision);
    }
    (page, false)
}

fn revision_to(number: u32, revision: &Revision) -> v1::Revision {
    v1::Revision {
        revision: number,
        made_at_unix_ms: revision.made_at.unix_ms(),
        actor: revision.signature.actor.to_string(),
        reason: revision.signature.reason.to_string(),
        policies: revision.policies.keys().map(ToString::to_string).collect(),
    }
}

/// Makes a tenant.
pub(super) async fn create_tenant(
    services: &Services,
    request: v1::CreateTenantRequest,
) -> Result<v1::TenantResponse, ApiError> {
    let v1::CreateTenantRequest { signature, tenant, home, limits } = request;
    let signature = signed(signature)?;
    let name = convert::tenant(&tenant)?;
    let home = match home.is_empty() {
        true => None,
        false => {
            let parsed = RegionName::parse(&home).map_err(|error| refused(Invalid::Tenant(error.to_string())))?;
            services.router.region().check_tenant_home(&parsed).map_err(refused)?;
            Some(parsed)
        }
    };
    let limits = limits_from(limits.unwrap_or_default())?;
    tenant_decided(services, signature, &name, Kind::CreateTenant { name: name.clone(), home, limits }).await
}

/// Gives a tenant other limits, closes it, or opens it again.
pub(super) async fn change_tenant(
    services: &Services,
    request: v1::ChangeTenantRequest,
) -> Result<v1::TenantResponse, ApiError> {
    let v1::ChangeTenantRequest { signature, tenant, limits, closed } = request;
    let signature = signed(signature)?;
    let name = convert::tenant(&tenant)?;
    let limits = changes_from(limits.unwrap_or_default())?;
    let kind = Kind::ChangeTenant { name: name.clone(), closed, limits };
    tenant_decided(services, signature, &name, kind).await
}

async fn tenant_decided(
    services: &Services,
    signature: Signature,
    name: &TenantId,
    kind: Kind,
) -> Result<v1::TenantResponse, ApiError> {
    let (reply, is_known) = services.router.decide_control(Command { signature, kind }).await?;
    match reply {
        Reply::Tenant => {
            // Nothing: it is decided, and this node has not applied it yet.
            let control = services.router.region().control();
            let decided = control.tenants.get(name).filter(|_| is_known);
            let tenant = decided.map(|tenant| tenant_to(services, name, tenant, false));
            Ok(v1::TenantResponse { tenant })
        }
        Reply::TenantExists => Err(refused(Invalid::Tenant(format!(
            "there is a tenant {name} already, with another home or other limits: `holdfast ctl tenant show {name}`"
        )))),
        Reply::TenantUnknown => Err(refused(Invalid::TenantUnknown { tenant: name.as_str().to_owned() })),
        Reply::Full { what, most } => {
            Err(refused(Invalid::Tenant(format!("there are {most} {what}, which is as many as can be"))))
        }
        other @ (Reply::OtherRevision { .. } | Reply::Policies { .. } | Reply::Noted) => Err(unfit(&other)),
    }
}

fn changes_from(changes: v1::TenantLimitChanges) -> Result<LimitChanges, ApiError> {
    let one = |change: Option<v1::LimitChange>| {
        change.map_or(Change::Keep, |change| change.most.map_or(Change::Clear, Change::Set))
    };
    let v1::TenantLimitChanges { max_keys, max_bytes, keys_per_second, keys_per_second_per_client } = changes;
    let most = |change: Option<v1::LimitChange>| change.and_then(|change| change.most);
    // What is set has the bounds that it has when a tenant is made.
    limits_from(v1::TenantLimits {
        max_keys: most(max_keys),
        max_bytes: most(max_bytes),
        keys_per_second: most(keys_per_second),
        keys_per_second_per_client: most(keys_per_second_per_client),
    })?;
    Ok(LimitChanges {
        max_keys: one(max_keys),
        max_bytes: one(max_bytes),
        keys_per_second: one(keys_per_second),
        keys_per_second_per_client: one(keys_per_second_per_client),
    })
}

fn limits_from(limits: v1::TenantLimits) -> Result<TenantLimits, ApiError> {
    let v1::TenantLimits { max_keys, max_bytes, keys_per_second, keys_per_second_per_client } = limits;
    let within = [
        ("max_keys", max_keys, limits::QUOTA_KEYS),
        ("max_bytes", max_bytes, limits::QUOTA_BYTES),
        ("keys_per_second", keys_per_second, limits::KEYS_PER_SECOND),
        ("keys_per_second_per_client", keys_per_second_per_client, limits::KEYS_PER_SECOND),
    ];
    for (field, value, bounds) in within {
        if let Some(value) = value.filter(|value| !bounds.contains(value)) {
            let detail = format!("{field} is {value}: send {} to {}", bounds.start(), bounds.end());
            return Err(ApiError::Input { code: Code::InputInvalid, field, detail });
        }
    }
    Ok(TenantLimits { max_keys, max_bytes, keys_per_second, keys_per_second_per_client })
}

/// The tenants with their usage; of one alone, also by endpoint.
pub(super) async fn tenants(
    services: &Services,
    request: v1::ListTenantsRequest,
) -> Result<v1::ListTenantsResponse, ApiError> {
    services.router.know_control(until()).await?;
    let region = services.router.region();
    let control = region.control();
    let registered_only = region.registered_only();
    if request.tenant.is_empty() {
        let tenants = control.tenants.iter().map(|(name, tenant)| tenant_to(services, name, tenant, false)).collect();
        return Ok(v1::ListTenantsResponse { tenants, registered_only });
    }
    let name = convert::tenant(&request.tenant)?;
    let Some(tenant) = control.tenants.get(&name) else {
        return Err(refused(Invalid::TenantUnknown { tenant: request.tenant }));
    };
    Ok(v1::ListTenantsResponse { tenants: vec![tenant_to(services, &name, tenant, true)], registered_only })
}

fn tenant_to(services: &Services, name: &TenantId, tenant: &Tenant, with_endpoints: bool) -> v1::Tenant {
    let TenantLimits { max_keys, max_bytes, keys_per_second, keys_per_second_per_client } = tenant.limits;
    let region = services.router.region();
    let total = region.total_usage(name);
    let by_endpoint = if with_endpoints { region.usage(name) } else { BTreeMap::new() };
    v1::Tenant {
        tenant: name.as_str().to_owned(),
        home: tenant.home.as_ref().map(ToString::to_string).unwrap_or_default(),
        made_at_unix_ms: tenant.made_at.unix_ms(),
        closed: tenant.closed,
        limits: Some(v1::TenantLimits { max_keys, max_bytes, keys_per_second, keys_per_second_per_client }),
        keys: total.keys,
        bytes: total.bytes,
        endpoints: largest(by_endpoint),
    }
}

/// The endpoints that take up most, by name.
fn largest(usages: BTreeMap<EndpointName, Usage>) -> Vec<v1::EndpointUsage> {
    let mut usages: Vec<(EndpointName, Usage)> = usages.into_iter().collect();
    if usages.len() > limits::MAX_LISTED_ENDPOINTS {
        usages.sort_by_key(|(_, usage)| Reverse((usage.bytes, usage.keys)));
        usages.truncate(limits::MAX_LISTED_ENDPOINTS);
        usages.sort_by(|a, b| a.0.cmp(&b.0));
    }
    let listed = usages.into_iter().map(|(endpoint, usage)| v1::EndpointUsage {
        endpoint: endpoint.as_str().to_owned(),
        keys: usage.keys,
        bytes: usage.bytes,
    });
    listed.collect()
}

/// A page of one partition's audit.
pub(super) fn audit(services: &Services, request: v1::AuditRequest) -> Result<v1::AuditResponse, ApiError> {
    let region = services.router.region();
    let no_partition = || ApiError::Input {
        code: Code::InputInvalid,
        field: "partition",
        detail: format!("there is no partition {}: see `holdfast ctl status`", request.partition),
    };
    let partition = u16::try_from(request.partition).map(PartitionId).map_err(|_| no_partition())?;
    let entries = region.audit(partition, request.from.max(1), limits::MAX_AUDIT_PAGE)?.ok_or_else(no_partition)?;
    let is_full = entries.len() >= limits::MAX_AUDIT_PAGE;
    let next = entries.last().filter(|_| is_full).map_or(0, |last| last.sequence.saturating_add(1));
    let entries = entries.into_iter().map(|entry| entry_to(request.partition, entry)).collect();
    Ok(v1::AuditResponse { entries, next })
}

fn entry_to(partition: u32, entry: Entry) -> v1::AuditEntry {
    v1::AuditEntry {
        partition,
        sequence: entry.sequence,
        at_unix_ms: entry.at.unix_ms(),
        actor: entry.signature.actor.to_string(),
        reason: entry.signature.reason.to_string(),
        action: entry.action.as_str().to_owned(),
        target: entry.target,
        detail: entry.detail,
    }
}

/// Takes note in the audit of what was decided elsewhere.
pub(super) async fn note(
    services: &Services,
    signature: Signature,
    action: Action,
    target: String,
) -> Result<(), ApiError> {
    services.router.decide_control(Command { signature, kind: Kind::Note { action, target } }).await?;
    Ok(())
}

fn unfit(reply: &Reply) -> ApiError {
    tracing::error!(?reply, "a decision got a reply of another kind");
    ApiError::from(Failure::Unavailable {
        certainty: crate::region::calls::Certainty::Indefinite,
        reason: "the store's reply does not fit the request: please report this".to_owned(),
        retry_after: Duration::from_secs(5),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(number: u64) -> EndpointName {
        EndpointName::parse(&format!("e{number:05}")).expect("an endpoint of a test")
    }

    #[test]
    fn an_answer_lists_as_many_revisions_as_it_takes() {
        let revision = |number| v1::Revision { revision: number, reason: "x".repeat(1_000), ..v1::Revision::default() };
        let (listed, more) = page((1..=3_000).rev().map(revision));
        assert!(more && (900..=limits::MAX_PAGE_BYTES / 1_000).contains(&listed.len()), "{}", listed.len());
        assert_eq!(listed.first().map(|first| first.revision), Some(3_000));
        let large = v1::Revision { reason: "x".repeat(2 * limits::MAX_PAGE_BYTES), ..v1::Revision::default() };
        let (listed, more) = page([large.clone(), large].into_iter());
        assert_eq!((listed.len(), more), (1, true), "one at least");
        let (listed, more) = page([revision(1)].into_iter());
        assert_eq!((listed.len(), more), (1, false));
    }

    #[test]
    fn an_answer_lists_the_endpoints_that_take_up_most() {
        let most = u64::try_from(limits::MAX_LISTED_ENDPOINTS).expect("a count");
        let usages = |count: u64| (0..count).map(|at| (endpoint(at), Usage { keys: 1, bytes: at })).collect();
        assert_eq!(largest(usages(most)).len(), limits::MAX_LISTED_ENDPOINTS);
        let listed = largest(usages(most + 10));
        assert_eq!(listed.len(), limits::MAX_LISTED_ENDPOINTS);
        assert_eq!(
            listed.first().map(|first| first.bytes),
            Some(10),
            "the smallest are left out, and names are in order"
        );
    }
}
