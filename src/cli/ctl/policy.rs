//! `holdfast ctl policy`: what policy files say, and what is wrong with them. No node is asked.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use serde_json::{Value, json};

use crate::cli::exit::{Exit, Problem};
use crate::cli::output::{self, Output};
use crate::cli::settings::file;
use crate::ids::{EndpointName, PolicyName, TenantId};
use crate::limits;
use crate::policy::diff::{self, Change};
use crate::policy::lint::{self, Finding, Level};
use crate::policy::schema;
use crate::policy::set::{Effective, Origin, PolicySet, Refusal, Rule, Source};

/// What is asked of policy files.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Policy {
    /// Check policy files: what is wrong, contradicts itself or is unwise; ends with 1 if there is an error
    #[command(after_help = "\
All files are read together, as they hold together. The codes are listed in docs/reference/policies.md.

Examples:
  holdfast ctl policy lint deploy/policies/*.toml
  holdfast ctl policy lint payments.toml --output json | jq -r '.findings[].code'")]
    Lint(Lint),
    /// Show what an endpoint of a tenant is promised, and where each value comes from
    #[command(after_help = "\
Examples:
  holdfast ctl policy explain 'POST /v1/charges' --tenant acme --file payments.toml
  holdfast ctl policy explain 'POST /v1/charges' --tenant acme --file a.toml --file b.toml --output json")]
    Explain(Explain),
    /// Show what a change of policies does to endpoints, and which promises get shorter
    #[command(after_help = "\
It compares what endpoints get, so lines that are only moved, and values that are the default anyway, do not show.

Examples:
  holdfast ctl policy diff payments.toml payments.new.toml
  holdfast ctl policy diff old.toml new.toml --output json | jq -e '.shortens | not'")]
    Diff(Diff),
    /// Print the JSON Schema of policy files, for editors and for checks
    #[command(after_help = "\
Examples:
  holdfast ctl policy schema > policy.schema.json")]
    Schema,
}

/// Which files are checked.
#[derive(Debug, clap::Args)]
pub(super) struct Lint {
    /// Policy files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Which endpoint is explained.
#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    /// The endpoint's name
    #[arg(value_name = "ENDPOINT", value_parser = |text: &str| EndpointName::parse(text))]
    endpoint: EndpointName,

    /// Whose endpoint
    #[arg(long, value_name = "TENANT", value_parser = |text: &str| TenantId::parse(text))]
    tenant: TenantId,

    /// A policy file; may be given several times
    #[arg(long = "file", required = true, num_args = 1.., value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// What is compared.
#[derive(Debug, clap::Args)]
pub(super) struct Diff {
    /// The policy file as it was
    #[arg(value_name = "OLD")]
    old: PathBuf,

    /// The policy file as it is to be
    #[arg(value_name = "NEW")]
    new: PathBuf,
}

/// Does what was asked.
pub(super) fn run(policy: &Policy, output: Output) -> Result<Exit, Problem> {
    let (text, document, exit) = match policy {
        Policy::Lint(Lint { files }) => {
            let (refusals, findings) = match set(files)? {
                Ok(set) => (Vec::new(), lint::lint(&set)),
                Err(refusals) => (refusals, Vec::new()),
            };
            let failed = !refusals.is_empty() || findings.iter().any(|found| found.code.level() == Level::Error);
            let exit = if failed { Exit::Failed } else { Exit::Ok };
            (lint_text(&refusals, &findings), lint_json(&refusals, &findings), exit)
        }
        Policy::Explain(Explain { endpoint, tenant, files }) => {
            let set = sound(files)?;
            let effective = set.effective(Some(tenant), endpoint);
            let asked = Asked { endpoint, tenant };
            (explain_text(&asked, &effective), explain_json(&asked, &effective), Exit::Ok)
        }
        Policy::Diff(Diff { old, new }) => {
            let (old, new) = (sound(std::slice::from_ref(old))?, sound(std::slice::from_ref(new))?);
            let changes = diff::diff(&old, &new);
            (diff_text(&changes), diff_json(&changes), Exit::Ok)
        }
        Policy::Schema => {
            let schema = schema::schema();
            (format!("{schema:#}\n"), schema, Exit::Ok)
        }
    };
    match output {
        Output::Text => output::emit(&text)?,
        Output::Json => output::emit_json(&document)?,
    }
    Ok(exit)
}

struct Asked<'a> {
    endpoint: &'a EndpointName,
    tenant: &'a TenantId,
}

/// The policies of some files, or what is wrong with them.
fn set(files: &[PathBuf]) -> Result<Result<PolicySet, Vec<Refusal>>, Problem> {
    let most = u64::try_from(limits::MAX_POLICY_FILE_BYTES).unwrap_or(u64::MAX);
    let read = |path: &PathBuf| file::text(path, most).map(|text| (shown(path), text)).map_err(Problem::usage);
    let texts = files.iter().map(read).collect::<Result<Vec<_>, Problem>>()?;
    let sources: Vec<Source<'_>> = texts.iter().map(|(name, text)| Source { name, text }).collect();
    Ok(PolicySet::parse(&sources))
}

/// The policies of some files, all of which must be sound.
fn sound(files: &[PathBuf]) -> Result<PolicySet, Problem> {
    set(files)?.map_err(|refusals| {
        let more = match refusals.len() {
            0 | 1 => String::new(),
            count => format!(" (and {} more: holdfast ctl policy lint shows them)", count - 1),
        };
        Problem::usage(anyhow!("{}{more}", refusals.first().map(ToString::to_string).unwrap_or_default()))
    })
}

pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The code of what is refused, beside those of the lint: what is no policy has nothing to be unwise in.
const REFUSED: &str = "refused";

fn lint_text(refusals: &[Refusal], findings: &[Finding]) -> String {
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

fn lint_json(refusals: &[Refusal], findings: &[Finding]) -> Value {
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

fn explain_text(asked: &Asked<'_>, effective: &Effective<'_>) -> String {
    let policy = effective.policy.as_ref().map_or_else(|| "none is for it: the defaults of high".to_owned(), rule_text);
    let mut text = format!("endpoint  {}\ntenant    {}\npolicy    {policy}\n", asked.endpoint, asked.tenant);
    for other in &effective.others {
        text.push_str(&format!("          less specific: {}\n", rule_text(other)));
    }
    text.push('\n');
    let head = ["field", "from", "value"].map(str::to_owned);
    let row =
        |(field, value, origin): (&str, Value, Origin)| [field.to_owned(), origin.to_string(), value_text(&value)];
    let rows: Vec<[String; 3]> = std::iter::once(head).chain(effective.rows().into_iter().map(row)).collect();
    let longest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or_default();
    let first = longest(&mut rows.iter().map(|[field, _, _]| field.len()));
    let second = longest(&mut rows.iter().map(|[_, origin, _]| origin.len()));
    for [field, origin, value] in &rows {
        text.push_str(&format!("{field:<first$}  {origin:<second$}  {value}\n"));
    }
    text
}

fn explain_json(asked: &Asked<'_>, effective: &Effective<'_>) -> Value {
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

pub(super) fn diff_text(changes: &[Change]) -> String {
    let name = |name: &Option<PolicyName>| {
        name.as_ref().map_or_else(|| "the defaults of high".to_owned(), |name| format!("policy {name}"))
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
    let shorter = changes.iter().flat_map(|change| &change.fields).filter(|field| field.shortens).count();
    text.push_str(&match (changes.len(), shorter) {
        (0, _) => "no endpoint is promised anything else\n".to_owned(),
        (_, 0) => "no promise gets shorter\n".to_owned(),
        (_, 1) => "1 promise gets shorter, for keys that are granted from then on\n".to_owned(),
        (_, count) => format!("{count} promises get shorter, for keys that are granted from then on\n"),
    });
    text
}

pub(super) fn diff_json(changes: &[Change]) -> Value {
    let change = |change: &Change| {
        let target = |target: &crate::policy::matching::Target| {
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
        "shortens": changes.iter().flat_map(|change| &change.fields).any(|field| field.shortens),
        "changes": changes.iter().map(change).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
