//! `holdfast ctl policy`: what policy files say, what is wrong with them, and which policies hold.

mod apply;
mod files;
mod held;
mod revisions;
mod show;

use std::path::PathBuf;

use serde_json::Value;

use crate::cli::client::{ANSWER_TIMEOUT, Asking};
use crate::cli::ctl::with_node;
use crate::cli::exit::{Exit, Problem};
use crate::cli::output::{self, Output};
use crate::ids::{EndpointName, TenantId};
use crate::policy::Severity;
use crate::policy::document::Document;
use crate::policy::lint::{self, Level};
use crate::policy::set::{Effective, PolicySet};
use crate::policy::{diff, schema};

use held::Held;
use show::Asked;

/// What is asked of policies.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Policy {
    /// Check policy files: what is wrong, contradicts itself or is unwise; ends with 1 if there is an error. No node is asked
    #[command(after_help = "\
All files are read together, as they hold together. The codes are listed in docs/reference/policies.md.

Examples:
  holdfast ctl policy lint deploy/policies/*.toml
  holdfast ctl policy lint payments.toml --output json | jq -r '.findings[].code'")]
    Lint(Lint),
    /// Show what an endpoint of a tenant is promised, and where each value comes from
    #[command(after_help = "\
With files no node is asked. Without, it is about the policies that hold.

Examples:
  holdfast ctl policy explain 'POST /v1/charges' --tenant acme
  holdfast ctl policy explain 'POST /v1/charges' --tenant acme --file payments.toml
  holdfast ctl policy explain 'POST /v1/charges' --tenant acme --file a.toml --file b.toml --output json")]
    Explain(Explain),
    /// Show what a change of policies does to endpoints, and which promises get shorter
    #[command(after_help = "\
It compares what endpoints get, so lines that are only moved, and values that are the default anyway, do not show. With two
files no node is asked. With one, it is compared with the policies that hold; `policy apply --dry-run` does that with several.

Examples:
  holdfast ctl policy diff payments.toml
  holdfast ctl policy diff payments.toml payments.new.toml
  holdfast ctl policy diff old.toml new.toml --output json | jq -e '.shortens | not'")]
    Diff(Diff),
    /// Make the policies exactly those of some files, for keys that are granted from then on
    #[command(after_help = "\
The files are checked as `policy lint` does, compared with the policies that hold as `policy diff` does, and applied if these
still hold by then. Give all files each time: what is in none of them would go.

Nothing is applied, and it ends with 1, if
  the files have an error;
  a policy would go that holds now, without --prune;
  the comparison shows a promise that gets \"(shorter)\", without --shorten;
  another revision was applied meanwhile: do it again.

A promise of a key that is there never gets shorter: a key keeps the lease, the retention and all else that it was granted under,
also when it is asked again. --shorten is about new keys. To go back, apply an older revision: it becomes a new one.

Examples:
  holdfast ctl policy apply policies/*.toml --dry-run
  holdfast ctl policy apply policies/*.toml --reason 'refunds are required, ticket 812'
  holdfast ctl policy show --revision 4 > old.toml
  holdfast ctl policy apply old.toml --prune --shorten --reason 'back to revision 4, ticket 813'")]
    Apply(apply::Apply),
    /// Show which policies were applied, when, by whom and why; the newest first
    List,
    /// Show the policies that hold, or those of another revision, as TOML that can be applied again
    #[command(after_help = "\
As text it is the file as it was applied. Several files stand one after the other; where they cannot, because TOML reads them
otherwise then, their policies are written anew without comments. JSON has each file.

Examples:
  holdfast ctl policy show > policies.toml
  holdfast ctl policy show --policy charges
  holdfast ctl policy show --revision 4 --output json | jq -r '.files[].name'")]
    Show(revisions::Show),
    /// Print the JSON Schema of policy files, for editors and for checks. No node is asked
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

    /// A policy file; may be given several times. Without one, the node is asked for the policies that hold
    #[arg(long = "file", num_args = 1.., value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// What is compared.
#[derive(Debug, clap::Args)]
pub(super) struct Diff {
    /// The policy file as it was and the one as it is to be, or only the latter
    #[arg(required = true, num_args = 1..=2, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Does what was asked.
pub(super) fn run(asking: &Asking, policy: Policy) -> Result<Exit, Problem> {
    let output = asking.output;
    match policy {
        Policy::Lint(Lint { files }) => lint(output, &files),
        Policy::Schema => {
            let schema = schema::schema();
            written(output, &format!("{schema:#}\n"), &schema)
        }
        Policy::Explain(explain) if !explain.files.is_empty() => {
            explained(output, &explain, &files::sound(&explain.files)?, Severity::High)
        }
        Policy::Explain(explain) => with_node(asking, ANSWER_TIMEOUT, async move |channel| {
            let held = Held::get(asking, channel, None).await?;
            explained(output, &explain, &held.set, held.unnamed)
        }),
        Policy::Diff(Diff { files }) => match files.as_slice() {
            [old, new] => {
                let (old, new) = (files::sound(std::slice::from_ref(old))?, files::sound(std::slice::from_ref(new))?);
                compared(output, &diff::diff(&old, &new), Severity::High)
            }
            new => {
                let sources = files::read(new)?;
                with_node(asking, ANSWER_TIMEOUT, async move |channel| {
                    let held = Held::get(asking, channel, None).await?;
                    compared(output, &held.compare(&sources)?, held.unnamed)
                })
            }
        },
        Policy::Apply(apply) => apply::run(asking, apply),
        Policy::List => with_node(asking, ANSWER_TIMEOUT, async move |channel| {
            revisions::list(asking, channel).await.map(|()| Exit::Ok)
        }),
        Policy::Show(show) => with_node(asking, ANSWER_TIMEOUT, async move |channel| {
            revisions::show(asking, channel, show).await.map(|()| Exit::Ok)
        }),
    }
}

fn written(output: Output, text: &str, document: &Value) -> Result<Exit, Problem> {
    match output {
        Output::Text => output::emit(text)?,
        Output::Json => output::emit_json(document)?,
    }
    Ok(Exit::Ok)
}

fn lint(output: Output, files: &[PathBuf]) -> Result<Exit, Problem> {
    let (refusals, findings) = match files::parse(&files::read(files)?) {
        Ok(set) => (Vec::new(), lint::lint(&set)),
        Err(refusals) => (refusals, Vec::new()),
    };
    written(output, &show::lint_text(&refusals, &findings), &show::lint_json(&refusals, &findings))?;
    let failed = !refusals.is_empty() || findings.iter().any(|found| found.code.level() == Level::Error);
    Ok(if failed { Exit::Failed } else { Exit::Ok })
}

fn explained(output: Output, explain: &Explain, set: &PolicySet, unnamed: Severity) -> Result<Exit, Problem> {
    let Explain { endpoint, tenant, .. } = explain;
    let (asked, defaults) = (Asked { endpoint, tenant, unnamed }, Document::defaults(unnamed).promise());
    let mut effective: Effective<'_> = set.effective(Some(tenant), endpoint);
    if effective.policy.is_none() {
        effective.promise = &defaults;
    }
    written(output, &show::explain_text(&asked, &effective), &show::explain_json(&asked, &effective))
}

fn compared(output: Output, changes: &[diff::Change], unnamed: Severity) -> Result<Exit, Problem> {
    written(output, &show::diff_text(changes, unnamed), &show::diff_json(changes))
}

#[cfg(test)]
mod tests;
