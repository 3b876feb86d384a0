//! What is the same for all partitions, the audit and usage, to their messages and back.

use bytes::Bytes;

use crate::codec::record::{digest_from, digest_to};
use crate::codec::{CodecError, open, pb, required, seal};
use crate::control::audit::{Action, Entry};
use crate::control::command::{Change, Command, Kind, LimitChanges, Signature, Source, Summary, TenantLimits};
use crate::control::state::{Known, Revision, Tenant};
use crate::control::usage::Usage;
use crate::ids::{PolicyName, RegionName, TenantId};
use crate::time::LogTime;

const COMMAND: &str = "a control command";
const REVISION: &str = "a policy revision";
const TENANT: &str = "a tenant";
const AUDIT: &str = "an audit entry";

pub(crate) fn signature_to(signature: &Signature) -> pb::Signature {
    pb::Signature { actor: signature.actor.to_string(), reason: signature.reason.to_string() }
}

pub(crate) fn signature_from(signature: pb::Signature) -> Signature {
    Signature { actor: signature.actor.into(), reason: signature.reason.into() }
}

pub(crate) fn command_to(command: &Command) -> pb::ControlCommand {
    use pb::control_command::Kind as To;
    let kind = match &command.kind {
        Kind::SetPolicies { expected, sources, policies } => To::SetPolicies(pb::SetPolicies {
            expected_revision: *expected,
            sources: sources.iter().map(source_to).collect(),
            policies: policies.iter().map(summary_to).collect(),
        }),
        Kind::CreateTenant { name, home, limits } => {
            let (made_at, limits) = (LogTime::default(), *limits);
            let tenant = Tenant { home: home.clone(), made_at, closed: false, limits };
            To::PutTenant(pb::PutTenant { create: true, tenant: Some(tenant_to(name, &tenant)) })
        }
        Kind::ChangeTenant { name, closed, limits } => To::ChangeTenant(pb::ChangeTenant {
            name: name.as_str().to_owned(),
            closed: *closed,
            all_limits: None,
            limits: (*limits != LimitChanges::default()).then(|| changes_to(limits)),
        }),
        Kind::Note { action, target } => {
            To::Note(pb::Note { action: action.as_str().to_owned(), target: target.clone() })
        }
    };
    pb::ControlCommand { signature: Some(signature_to(&command.signature)), kind: Some(kind) }
}

pub(crate) fn command_from(command: pb::ControlCommand) -> Result<Command, CodecError> {
    use pb::control_command::Kind as From;
    let kind = match required(command.kind, COMMAND, "kind")? {
        From::SetPolicies(set) => Kind::SetPolicies {
            expected: set.expected_revision,
            sources: set.sources.into_iter().map(source_from).collect(),
            policies: set.policies.into_iter().map(summary_from).collect::<Result<_, _>>()?,
        },
        From::PutTenant(put) => {
            let (name, tenant) = tenant_from(required(put.tenant, COMMAND, "tenant")?)?;
            match put.create {
                true => Kind::CreateTenant { name, home: tenant.home, limits: tenant.limits },
                false => {
                    Kind::ChangeTenant { name, closed: Some(tenant.closed), limits: LimitChanges::to(tenant.limits) }
                }
            }
        }
        From::ChangeTenant(change) => Kind::ChangeTenant {
            name: TenantId::parse(&change.name).map_err(|_| CodecError::Field { what: COMMAND, field: "name" })?,
            closed: change.closed,
            limits: match (change.limits, change.all_limits) {
                (Some(changes), _) => changes_from(changes),
                (None, Some(all)) => LimitChanges::to(limits_from(all)),
                (None, None) => LimitChanges::default(),
            },
        },
        From::Note(note) => Kind::Note { action: action_from(&note.action, COMMAND)?, target: note.target },
    };
    Ok(Command { signature: signature_from(command.signature.unwrap_or_default()), kind })
}

fn source_to(source: &Source) -> pb::PolicySource {
    pb::PolicySource { name: source.name.clone(), text: source.text.clone() }
}

fn source_from(source: pb::PolicySource) -> Source {
    Source { name: source.name, text: source.text }
}

fn summary_to(summary: &Summary) -> pb::PolicySummary {
    pb::PolicySummary {
        name: summary.name.to_string(),
        digest: digest_to(&summary.digest),
        selection: summary.selection.clone(),
    }
}

fn summary_from(summary: pb::PolicySummary) -> Result<Summary, CodecError> {
    Ok(Summary {
        name: policy_name(&summary.name, COMMAND)?,
        digest: digest_from(&summary.digest, COMMAND)?,
        selection: summary.selection,
    })
}

fn policy_name(text: &str, what: &'static str) -> Result<PolicyName, CodecError> {
    PolicyName::parse(text).map_err(|_| CodecError::Field { what, field: "policy" })
}

fn action_from(text: &str, what: &'static str) -> Result<Action, CodecError> {
    Action::parse(text).ok_or(CodecError::Field { what, field: "action" })
}

/// Writes a revision with its files.
#[must_use]
pub fn encode_revision(number: u32, revision: &Revision, sources: &[Source]) -> Vec<u8> {
    let policies = revision.policies.iter().map(|(name, known)| pb::KnownPolicy {
        name: name.to_string(),
        digest: digest_to(&known.digest),
        selection: known.selection,
    });
    seal(&pb::PolicyRevision {
        revision: number,
        made_at_unix_ms: revision.made_at.unix_ms(),
        signature: Some(signature_to(&revision.signature)),
        sources: sources.iter().map(source_to).collect(),
        policies: policies.collect(),
    })
}

/// Reads a revision with its files.
///
/// # Errors
/// When the bytes are damaged or of a newer version.
pub fn decode_revision(bytes: Bytes) -> Result<(u32, Revision, Vec<Source>), CodecError> {
    let message: pb::PolicyRevision = open(REVISION, bytes)?;
    let known = |policy: pb::KnownPolicy| {
        let digest = digest_from(&policy.digest, REVISION)?;
        Ok((policy_name(&policy.name, REVISION)?, Known { digest, selection: policy.selection }))
    };
    let revision = Revision {
        made_at: LogTime::from_unix_ms(message.made_at_unix_ms),
        signature: signature_from(message.signature.unwrap_or_default()),
        policies: message.policies.into_iter().map(known).collect::<Result<_, CodecError>>()?,
    };
    Ok((message.revision, revision, message.sources.into_iter().map(source_from).collect()))
}

/// Writes a selection.
#[must_use]
pub fn encode_selection(selection: u32, spec: &str) -> Vec<u8> {
    seal(&pb::StoredSelection { selection, spec: spec.to_owned() })
}

/// Reads a selection.
///
/// # Errors
/// When the bytes are damaged or of a newer version.
pub fn decode_selection(bytes: Bytes) -> Result<(u32, String), CodecError> {
    let message: pb::StoredSelection = open("a selection", bytes)?;
    Ok((message.selection, message.spec))
}

/// Writes a tenant.
#[must_use]
pub fn encode_tenant(name: &TenantId, tenant: &Tenant) -> Vec<u8> {
    seal(&tenant_to(name, tenant))
}

/// Reads a tenant.
///
/// # Errors
/// When the bytes are damaged or of a newer version.
pub fn decode_tenant(bytes: Bytes) -> Result<(TenantId, Tenant), CodecError> {
    tenant_from(open(TENANT, bytes)?)
}

fn limits_to(limits: TenantLimits) -> pb::TenantLimits {
    let TenantLimits { max_keys, max_bytes, keys_per_second, keys_per_second_per_client } = limits;
    pb::TenantLimits { max_keys, max_bytes, keys_per_second, keys_per_second_per_client }
}

fn limits_from(limits: pb::TenantLimits) -> TenantLimits {
    let pb::TenantLimits { max_keys, max_bytes, keys_per_second, keys_per_second_per_client } = limits;
    TenantLimits { max_keys, max_bytes, keys_per_second, keys_per_second_per_client }
}

fn changes_to(changes: &LimitChanges) -> pb::TenantLimitChanges {
    let one = |change: Change| match change {
        Change::Keep => None,
        Change::Clear => Some(pb::LimitChange { most: None }),
        Change::Set(most) => Some(pb::LimitChange { most: Some(most) }),
    };
    pb::TenantLimitChanges {
        max_keys: one(changes.max_keys),
        max_bytes: one(changes.max_bytes),
        keys_per_second: one(changes.keys_per_second),
        keys_per_second_per_client: one(changes.keys_per_second_per_client),
    }
}

fn changes_from(changes: pb::TenantLimitChanges) -> LimitChanges {
    let one = |change: Option<pb::LimitChange>| {
        change.map_or(Change::Keep, |change| change.most.map_or(Change::Clear, Change::Set))
    };
    LimitChanges {
        max_keys: one(changes.max_keys),
        max_bytes: one(changes.max_bytes),
        keys_per_second: one(changes.keys_per_second),
        keys_per_second_per_client: one(changes.keys_per_second_per_client),
    }
}

fn tenant_to(name: &TenantId, tenant: &Tenant) -> pb::Tenant {
    pb::Tenant {
        name: name.as_str().to_owned(),
        home: tenant.home.as_ref().map(ToString::to_string).unwrap_or_default(),
        made_at_unix_ms: tenant.made_at.unix_ms(),
        closed: tenant.closed,
        limits: Some(limits_to(tenant.limits)),
    }
}

fn tenant_from(tenant: pb::Tenant) -> Result<(TenantId, Tenant), CodecError> {
    let refused = |field| CodecError::Field { what: TENANT, field };
    let home = match tenant.home.is_empty() {
        true => None,
        false => Some(RegionName::parse(&tenant.home).map_err(|_| refused("home"))?),
    };
    let made = Tenant {
        home,
        made_at: LogTime::from_unix_ms(tenant.made_at_unix_ms),
        closed: tenant.closed,
        limits: limits_from(tenant.limits.unwrap_or_default()),
    };
    Ok((TenantId::parse(&tenant.name).map_err(|_| refused("name"))?, made))
}

/// Writes an entry of the audit.
#[must_use]
pub fn encode_audit(entry: &Entry) -> Vec<u8> {
    seal(&pb::AuditEntry {
        sequence: entry.sequence,
        at_unix_ms: entry.at.unix_ms(),
        signature: Some(signature_to(&entry.signature)),
        action: entry.action.as_str().to_owned(),
        target: entry.target.clone(),
        detail: entry.detail.clone(),
    })
}

/// Reads an entry of the audit.
///
/// # Errors
/// When the bytes are damaged or of a newer version.
pub fn decode_audit(bytes: Bytes) -> Result<Entry, CodecError> {
    let message: pb::AuditEntry = open(AUDIT, bytes)?;
    Ok(Entry {
        sequence: message.sequence,
        at: LogTime::from_unix_ms(message.at_unix_ms),
        signature: signature_from(message.signature.unwrap_or_default()),
        action: action_from(&message.action, AUDIT)?,
        target: message.target,
        detail: message.detail,
    })
}

/// Writes what an endpoint takes up.
#[must_use]
pub fn encode_usage(usage: Usage) -> Vec<u8> {
    seal(&pb::Usage { keys: usage.keys, bytes: usage.bytes })
}

/// Reads what an endpoint takes up.
///
/// # Errors
/// When the bytes are damaged or of a newer version.
pub fn decode_usage(bytes: Bytes) -> Result<Usage, CodecError> {
    let message: pb::Usage = open("a usage", bytes)?;
    Ok(Usage { keys: message.keys, bytes: message.bytes })
}
