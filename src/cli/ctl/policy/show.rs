//! How what is found in policies is shown: for people, and for scripts.

use serde_json::{Value, json};

use crate::cli::output;
use crate::ids::{EndpointName, PolicyName, TenantId};
use crate::policy::Severity;
use crate::policy::diff::Change;
use crate::policy::lint::{Finding, Level};
use crate::policy::matching::Target;
use crate::policy::set::{Effective, Origin, Refusal, Rule};

/// Which endpoint is explained.
pub(super) struct Asked<'a> {
    /// Its name.
    pub(super) endpoint: &'a EndpointName,
    /// Whose it is.
    pub(super) tenant: &'a TenantId,
    /// Whose defaults it gets if no policy is for it.
    pub(super) unnamed: Severity,
}

/// The code of what is refused, beside those of the lint: what is no policy has nothing to be unwise in.
const REFUSED: &str = "refused";

/// What is wrong, a line each, and how much.
pub(super) fn lint_text(refusals: &[Refusal], findings: &[Finding]) -> String {
    let refused = refusals.iter().map(|refusal| format!("error: {refusal} [{REFUSED}]\n"));
    let found = findings.iter().map(|found| format!("{found}\n"));
    let mut text: String = refused.chain(found).collect();
    let count = |level| {
        let refused = if level == Level::Error { refusals.len() } else { 0 };
        findings.iter().filter(|found| found.code.level() == level).count() + refused
    };
    let counts = [Level::Error, Level::Warning, Level::Note]
        .map(|level| (count(level), level.as_str()))
        .map(|(count, name)| format!("{count} {name}{}", if count == 1 { "" } else { "s" }));
    text.push_str(&format!("{}\n", counts.join(", ")));
    text
}

/// What is wrong.
pub(super) fn lint_json(refusals: &[Refusal], findings: &[Finding]) -> Value {
    let refused = refusals.iter().map(|refusal| {
        json!({
            "level": Level::Error.as_str(),
            "code": REFUSED,
            "file": refusal.file,
            "policy": refusal.policy,
            "field": refusal.field,
            "text": refusal.why,
        })
    });
    let found = findings.iter().map(|found| {
        json!({
            "level": found.code.level().as_str(),
            "code": found.code.as_str(),
            "file": found.file,
            "policy": found.policy.as_str(),
            "field": found.field,
            "text": found.text,
        })
    });
    json!({ "findings": refused.chain(found).collect::<Vec<_>>() })
}

/// A value as a person reads it.
fn value_text(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items.iter().map(value_text).collect::<Vec<_>>().join(", "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

fn rule_text(rule: &Rule<'_>) -> String {
    format!("{} ({}), by {:?}", rule.name, rule.policy.file, rule.target.to_string())
}

/// What an endpoint is promised.
pub(super) fn explain_text(asked: &Asked<'_>, effective: &Effective<'_>) -> String {
    let policy = match &effective.policy {
        Some(rule) => rule_text(rule),
        None => format!("none is for it: the defaults of {}", asked.unnamed),
    };
    let mut text = format!("endpoint  {}\ntenant    {}\npolicy    {policy}\n", asked.endpoint, asked.tenant);
    for other in &effective.others {
        text.push_str(&format!("          less specific: {}\n", rule_text(other)));
    }
    text.push('\n');
    let head = ["field", "from", "value"].map(str::to_owned).to_vec();
    let row =
        |(field, value, origin): (&str, Value, Origin)| vec![field.to_owned(), origin.to_string(), value_text(&value)];
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(effective.rows().into_iter().map(row)).collect();
    text.push_str(&output::columns(&rows));
    text
}

/// What an endpoint is promised.
pub(super) fn explain_json(asked: &Asked<'_>, effective: &Effective<'_>) -> Value {
    let rule = |rule: &Rule<'_>| {
        json!({
            "name": rule.name.as_str(),
            "file": rule.policy.file,
            "endpoint": rule.target.pattern.as_endpoint().as_str(),
            "tenant": rule.target.tenant.as_ref().map(TenantId::as_str),
        })
    };
    let fields = effective
        .rows()
        .into_iter()
        .map(|(field, value, origin)| json!({ "field": field, "value": value, "from": origin.to_string() }));
    json!({
        "endpoint": asked.endpoint.as_str(),
        "tenant": asked.tenant.as_str(),
        "policy": effective.policy.as_ref().map(rule),
        "less_specific": effective.others.iter().map(rule).collect::<Vec<_>>(),
        "fields": fields.collect::<Vec<_>>(),
    })
}

/// What a change does to endpoints. `unnamed` is whose defaults those get that no policy is for.
pub(super) fn diff_text(changes: &[Change], unnamed: Severity) -> String {
    let name = |name: &Option<PolicyName>| {
        name.as_ref().map_or_else(|| format!("the defaults of {unnamed}"), |name| format!("policy {name}"))
    };
    let mut text = String::new();
    for change in changes {
        match change.from == change.to {
            true => text.push_str(&format!("{}\n", name(&change.from))),
            false => text.push_str(&format!("{} -> {}\n", name(&change.from), name(&change.to))),
        }
        for target in &change.targets {
            text.push_str(&format!("  for {target}\n"));
        }
        for field in &change.fields {
            let shorter = if field.shortens { "  (shorter)" } else { "" };
            let (before, now) = (value_text(&field.before), value_text(&field.now));
            text.push_str(&format!("    {}: {before} -> {now}{shorter}\n", field.field));
        }
        text.push('\n');
    }
    text.push_str(&match (changes.len(), shorter(changes)) {
        (0, _) => "no endpoint is promised anything else\n".to_owned(),
        (_, 0) => "no promise gets shorter\n".to_owned(),
        (_, 1) => "1 promise gets shorter, for keys that are granted from then on\n".to_owned(),
        (_, count) => format!("{count} promises get shorter, for keys that are granted from then on\n"),
    });
    text
}

/// What a change does to endpoints.
pub(super) fn diff_json(changes: &[Change]) -> Value {
    let change = |change: &Change| {
        let target = |target: &Target| {
            json!({
                "endpoint": target.pattern.as_endpoint().as_str(),
                "tenant": target.tenant.as_ref().map(TenantId::as_str),
            })
        };
        let fields = change.fields.iter().map(|field| {
            json!({ "field": field.field, "before": field.before, "now": field.now, "shortens": field.shortens })
        });
        json!({
            "from": change.from.as_ref().map(PolicyName::as_str),
            "to": change.to.as_ref().map(PolicyName::as_str),
            "targets": change.targets.iter().map(target).collect::<Vec<_>>(),
            "fields": fields.collect::<Vec<_>>(),
        })
    };
    json!({
        "shortens": shorter(changes) > 0,
        "changes": changes.iter().map(change).collect::<Vec<_>>(),
    })
}

/// How many promises get shorter.
pub(super) fn shorter(changes: &[Change]) -> usize {
    changes.iter().flat_map(|change| &change.fields).filter(|field| field.shortens).count()
}
