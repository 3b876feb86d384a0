//! The decision: one committed command, from what is known and the entry alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::control::audit::Action;
use crate::control::command::{Command, Kind, LimitChanges, Source, Summary, TenantLimits};
use crate::control::selection::{BUILT_IN, Spec};
use crate::control::state::{Known, Revision, State, Tenant};
use crate::ids::{PolicyName, RegionName, TenantId};
use crate::limits;
use crate::time::LogTime;

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Another revision took its place before: compare again.
    OtherRevision {
        /// The one that holds.
        current: u32,
    },
    /// The policies hold under this number; the one before, if nothing is different.
    Policies {
        /// The revision.
        revision: u32,
    },
    /// There are as many as can be, of what is named.
    Full {
        /// Of what.
        what: String,
        /// How many can be.
        most: usize,
    },
    /// A tenant of that name was made before, with another home.
    TenantExists,
    /// There is no such tenant.
    TenantUnknown,
    /// The tenant is as was asked.
    Tenant,
    /// It stands in the audit.
    Noted,
}

/// What is to be stored of a state that changed, beside the state itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A revision is new, with its files.
    Revision(u32),
    /// A revision is older than anything that was granted under it.
    RevisionGone(u32),
    /// A selection has a number.
    Selection(u32),
    /// A tenant is new or other.
    Tenant(TenantId),
}

/// What goes into the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// What was done.
    pub action: Action,
    /// To what.
    pub target: String,
    /// What else there is to say.
    pub detail: String,
}

/// What a command comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub reply: Reply,
    /// The state from now on, if it changed.
    pub state: Option<State>,
    /// What of it is to be stored.
    pub writes: Vec<Write>,
    /// What goes into the audit.
    pub audited: Option<Audited>,
}

impl Decision {
    const fn unchanged(reply: Reply) -> Self {
        Self { reply, state: None, writes: Vec::new(), audited: None }
    }
}

/// Decides a command: the same on every replica, for ever.
#[must_use]
pub fn decide(state: &State, command: &Command, now: LogTime) -> Decision {
    match &command.kind {
        Kind::SetPolicies { expected, sources, policies } => {
            set_policies(state, command, *expected, &Files { sources, policies }, now)
        }
        Kind::CreateTenant { name, home, limits } => create_tenant(state, name, home.as_ref(), *limits, now),
        Kind::ChangeTenant { name, closed, limits } => change_tenant(state, name, *closed, limits),
        Kind::Note { action, target } => Decision {
            audited: Some(Audited { action: *action, target: target.clone(), detail: String::new() }),
            ..Decision::unchanged(Reply::Noted)
        },
    }
}

struct Files<'a> {
    sources: &'a [Source],
    policies: &'a [Summary],
}

fn set_policies(state: &State, command: &Command, expected: u32, files: &Files<'_>, now: LogTime) -> Decision {
    let current = state.revision();
    let before = state.policies();
    if current != expected {
        // Sent twice, and done the first time: what holds is what was asked for.
        return Decision::unchanged(match current > 0 && *state.sources == *files.sources {
            true => Reply::Policies { revision: current },
            false => Reply::OtherRevision { current },
        });
    }
    let (mut next, mut writes, mut after) = (state.clone(), Vec::new(), BTreeMap::new());
    for Summary { name, digest, selection } in files.policies {
        let Some(selection) = numbered(&mut next, selection, &mut writes) else {
            return Decision::unchanged(Reply::Full { what: "selections".to_owned(), most: limits::MAX_SELECTIONS });
        };
        after.insert(name.clone(), Known { digest: *digest, selection });
    }
    if after == before && *next.sources == *files.sources {
        return Decision::unchanged(Reply::Policies { revision: current });
    }
    let Some(revision) = current.checked_add(1) else {
        return Decision::unchanged(Reply::Full { what: "revisions".to_owned(), most: usize::MAX });
    };
    let detail = changes(&before, &after);
    let signature = command.signature.clone();
    next.revisions.insert(revision, Arc::new(Revision { made_at: now, signature, policies: after }));
    next.sources = files.sources.into();
    writes.push(Write::Revision(revision));
    forget(&mut next, now, &mut writes);
    let audited = Audited { action: Action::SetPolicies, target: format!("revision {revision}"), detail };
    Decision { reply: Reply::Policies { revision }, state: Some(next), writes, audited: Some(audited) }
}

/// The number of a selection; a new one, if it has none. Nothing: there are as many as can be.
fn numbered(state: &mut State, text: &str, writes: &mut Vec<Write>) -> Option<u32> {
    if text == Spec::built_in().to_json() {
        return Some(BUILT_IN);
    }
    if let Some((number, _)) = state.selections.iter().find(|(_, known)| known.as_str() == text) {
        return Some(*number);
    }
    if state.selections.len() >= limits::MAX_SELECTIONS {
        return None;
    }
    let number = state.selections.last_key_value().map_or(BUILT_IN, |(last, _)| *last).checked_add(1)?;
    state.selections.insert(number, text.to_owned());
    writes.push(Write::Selection(number));
    Some(number)
}

/// Forgets revisions that nothing can have been granted under any more, and the oldest beyond the limit.
fn forget(state: &mut State, now: LogTime, writes: &mut Vec<Write>) {
    let over = state.revisions.len().saturating_sub(limits::MAX_POLICY_REVISIONS);
    // Each held until the next was made.
    let ends = state.revisions.values().skip(1).map(|next| next.made_at.plus_ms(*limits::RETENTION_MS.end()));
    let past = state.revisions.keys().zip(ends).enumerate().filter(|(at, (_, end))| *at < over || *end < now);
    let gone: Vec<u32> = past.map(|(_, (number, _))| *number).collect();
    for number in gone {
        state.revisions.remove(&number);
        writes.push(Write::RevisionGone(number));
    }
}

fn changes(before: &BTreeMap<PolicyName, Known>, after: &BTreeMap<PolicyName, Known>) -> String {
    let named = |what: &str, names: Vec<&PolicyName>| {
        let names: Vec<&str> = names.into_iter().map(PolicyName::as_str).collect();
        (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")))
    };
    let added = after.keys().filter(|name| !before.contains_key(*name)).collect();
    let removed = before.keys().filter(|name| !after.contains_key(*name)).collect();
    let changed = after.iter().filter(|(name, now)| before.get(*name).is_some_and(|was| was.digest != now.digest));
    let parts =
        [named("added", added), named("changed", changed.map(|(name, _)| name).collect()), named("removed", removed)];
    let mut text = parts.into_iter().flatten().collect::<Vec<_>>().join("; ");
    if text.len() > limits::MAX_AUDIT_DETAIL_BYTES {
        let end = (0..=limits::MAX_AUDIT_DETAIL_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

fn create_tenant(
    state: &State,
    name: &TenantId,
    home: Option<&RegionName>,
    limits: TenantLimits,
    now: LogTime,
) -> Decision {
    let tenant = Tenant { home: home.cloned(), made_at: now, closed: false, limits };
    match state.tenants.get(name) {
        // Sent twice.
        Some(known) if *known == (Tenant { made_at: known.made_at, ..tenant.clone() }) => {
            return Decision::unchanged(Reply::Tenant);
        }
        Some(_) => return Decision::unchanged(Reply::TenantExists),
        None => {}
    }
    if state.tenants.len() >= limits::MAX_TENANTS {
        return Decision::unchanged(Reply::Full { what: "tenants".to_owned(), most: limits::MAX_TENANTS });
    }
    let at_home = home.map_or_else(String::new, |home| format!("home {home}"));
    put(state, name, tenant, Action::CreateTenant, [at_home, described(limits)])
}

fn change_tenant(state: &State, name: &TenantId, closed: Option<bool>, changes: &LimitChanges) -> Decision {
    let Some(known) = state.tenants.get(name) else { return Decision::unchanged(Reply::TenantUnknown) };
    let (closed, limits) = (closed.unwrap_or(known.closed), changes.after(&known.limits));
    let tenant = Tenant { closed, limits, ..known.clone() };
    if tenant == *known {
        return Decision::unchanged(Reply::Tenant);
    }
    let action = match (known.closed, closed) {
        (false, true) => Action::CloseTenant,
        (true, false) => Action::ReopenTenant,
        (true, true) | (false, false) => Action::SetTenantLimits,
    };
    put(state, name, tenant, action, [String::new(), described(limits)])
}

fn put(state: &State, name: &TenantId, tenant: Tenant, action: Action, detail: [String; 2]) -> Decision {
    let mut next = state.clone();
    next.tenants.insert(name.clone(), tenant);
    let detail = detail.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
    let audited = Audited { action, target: format!("tenant {name}"), detail };
    let writes = vec![Write::Tenant(name.clone())];
    Decision { reply: Reply::Tenant, state: Some(next), writes, audited: Some(audited) }
}

fn described(limits: TenantLimits) -> String {
    let TenantLimits { max_keys, max_bytes, keys_per_second, keys_per_second_per_client } = limits;
    let parts = [
        ("max_keys", max_keys),
        ("max_bytes", max_bytes),
        ("keys_per_second", keys_per_second),
        ("keys_per_second_per_client", keys_per_second_per_client),
    ];
    let said = parts.into_iter().filter_map(|(name, value)| value.map(|value| format!("{name} {value}")));
    let said = said.collect::<Vec<_>>().join(", ");
    if said.is_empty() { "no limits".to_owned() } else { said }
}

#[cfg(test)]
mod tests;
