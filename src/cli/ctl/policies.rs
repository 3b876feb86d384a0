//! `holdfast ctl policy apply`, `list` and `show`: the policies that a cluster follows.

use std::path::{Path, PathBuf};

use holdfast_client::proto::v1;
use holdfast_client::proto::v1::admin_client::AdminClient;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::cli::client::Asking;
use crate::cli::ctl::policy::{diff_json, diff_text, shown};
use crate::cli::ctl::signed::Signed;
use crate::cli::exit::{Exit, Problem};
use crate::cli::output::{self, Output};
use crate::cli::settings::file;
use crate::limits;
use crate::policy::diff::{self, Change};
use crate::policy::set::{PolicySet, Refusal, Source};

/// What is asked of the policies that hold.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Policies {
    /// Make the policies of a cluster those of these files, for keys that are granted from then on
    #[command(after_help = "\
The policies are then exactly those of the files. One that holds and is in no file any more goes only with --prune. What gets
shorter is refused unless you say --shorten; it is so for new keys: a key that was granted keeps what it was promised.

Examples:
  holdfast ctl policy apply deploy/policies/*.toml --dry-run --actor ada --reason 'look'
  holdfast ctl policy apply payments.toml --actor ada --reason 'charges are critical, ticket 812'
  holdfast ctl policy show --revision 3 > old.toml && holdfast ctl policy apply old.toml --actor ada --reason 'back to 3'")]
    Apply(Apply),
    /// List the revisions of the policies that are kept, the newest first
    List,
    /// Print the policy files of a revision, as they were applied
    Show(Show),
}

/// What is to hold.
#[derive(Debug, clap::Args)]
pub(super) struct Apply {
    /// Policy files, all that are to hold
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    signed: Signed,

    /// Let policies go that are in no file any more
    #[arg(long)]
    prune: bool,

    /// Let promises get shorter
    #[arg(long)]
    shorten: bool,

    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
}

/// Which revision is shown.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The revision; the one that holds if left out
    #[arg(long, value_name = "NUMBER")]
    revision: Option<u32>,
}

/// Asks the node.
pub(super) async fn run(asking: &Asking, channel: Channel, policies: Policies) -> Result<Exit, Problem> {
    match policies {
        Policies::Apply(apply) => self::apply(asking, channel, apply).await,
        Policies::List => list(asking, channel).await,
        Policies::Show(Show { revision }) => show(asking, channel, revision).await,
    }
}

async fn apply(asking: &Asking, channel: Channel, apply: Apply) -> Result<Exit, Problem> {
    let Apply { files, signed, prune, shorten, dry_run } = apply;
    let sources = files.iter().map(|path| read(path)).collect::<Result<Vec<_>, Problem>>()?;
    let new = parsed(&sources).map_err(|refusals| unsound(&refusals))?;
    let mut client = AdminClient::new(channel);
    let held = client.get_policies(v1::GetPoliciesRequest { revision: None }).await;
    let held = held.map_err(|status| asking.address.failed(&status))?.into_inner();
    let expected_revision = held.revision.as_ref().map_or(0, |revision| revision.revision);
    let old = parsed(&held.sources).map_err(|refusals| unsound(&refusals))?;
    let changes = diff::diff(&old, &new);
    let shortens = changes.iter().flat_map(|change| &change.fields).any(|field| field.shortens);
    if dry_run || (shortens && !shorten) {
        let why = match dry_run {
            true => format!("nothing was applied: revision {expected_revision} holds\n"),
            false => "nothing was applied: say --shorten if promises are to get shorter\n".to_owned(),
        };
        tell(asking.output, &changes, &why, &json!({ "applied": false, "revision": expected_revision }))?;
        return Ok(if dry_run { Exit::Ok } else { Exit::Failed });
    }
    let request = v1::ApplyPoliciesRequest { signature: signed.message(), expected_revision, sources, prune };
    let applied = client.apply_policies(request).await.map_err(|status| asking.address.failed(&status))?.into_inner();
    let told = match applied.revision == expected_revision {
        true => format!("nothing is different: revision {expected_revision} holds\n"),
        false => format!("revision {} holds, for keys that are granted from now on\n", applied.revision),
    };
    let document = json!({ "applied": applied.revision != expected_revision, "revision": applied.revision });
    tell(asking.output, &changes, &told, &document)?;
    Ok(Exit::Ok)
}

fn tell(output: Output, changes: &[Change], told: &str, document: &Value) -> Result<(), Problem> {
    match output {
        Output::Text => output::emit(&format!("{}{told}", diff_text(changes)))?,
        Output::Json => output::emit_json(&json!({ "outcome": document, "diff": diff_json(changes) }))?,
    }
    Ok(())
}

fn read(path: &Path) -> Result<v1::PolicySource, Problem> {
    let most = u64::try_from(limits::MAX_POLICY_FILE_BYTES).unwrap_or(u64::MAX);
    let text = file::text(path, most).map_err(Problem::usage)?;
    Ok(v1::PolicySource { name: shown(path), text })
}

fn parsed(sources: &[v1::PolicySource]) -> Result<PolicySet, Vec<Refusal>> {
    let sources: Vec<Source<'_>> =
        sources.iter().map(|source| Source { name: &source.name, text: &source.text }).collect();
    PolicySet::parse(&sources)
}

fn unsound(refusals: &[Refusal]) -> Problem {
    let lines: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    Problem::usage(anyhow::anyhow!("{}", lines.join("\n")))
}

async fn list(asking: &Asking, channel: Channel) -> Result<Exit, Problem> {
    let answer = AdminClient::new(channel).list_revisions(v1::ListRevisionsRequest {}).await;
    let revisions = answer.map_err(|status| asking.address.failed(&status))?.into_inner().revisions;
    match asking.output {
        Output::Json => {
            let all: Vec<Value> = revisions.iter().map(revision_json).collect();
            output::emit_json(&json!({ "revisions": all }))?;
        }
        Output::Text if revisions.is_empty() => output::emit("no policies were applied yet\n")?,
        Output::Text => {
            let mut rows = vec![["revision", "since", "policies", "by", "why"].map(str::to_owned).to_vec()];
            rows.extend(revisions.iter().map(|revision| {
                vec![
                    revision.revision.to_string(),
                    output::time(revision.made_at_unix_ms),
                    revision.policies.len().to_string(),
                    revision.actor.clone(),
                    revision.reason.clone(),
                ]
            }));
            output::emit(&output::table(&rows))?;
        }
    }
    Ok(Exit::Ok)
}

fn revision_json(revision: &v1::Revision) -> Value {
    json!({
        "revision": revision.revision,
        "made_at_unix_ms": revision.made_at_unix_ms,
        "actor": revision.actor,
        "reason": revision.reason,
        "policies": revision.policies,
    })
}

async fn show(asking: &Asking, channel: Channel, revision: Option<u32>) -> Result<Exit, Problem> {
    let answer = AdminClient::new(channel).get_policies(v1::GetPoliciesRequest { revision }).await;
    let held = answer.map_err(|status| asking.address.failed(&status))?.into_inner();
    let revision = held.revision.unwrap_or_default();
    match asking.output {
        Output::Json => {
            let sources: Vec<Value> =
                held.sources.iter().map(|source| json!({ "name": source.name, "text": source.text })).collect();
            output::emit_json(&json!({
                "revision": revision_json(&revision),
                "sources": sources,
                "unnamed_severity": held.unnamed_severity,
            }))?;
        }
        // Comments, so that what is printed can be applied again.
        Output::Text => {
            let mut text = match revision.revision {
                0 => {
                    format!("# no policies were applied yet: endpoints get the defaults of {}\n", held.unnamed_severity)
                }
                number => {
                    let since = output::time(revision.made_at_unix_ms);
                    format!("# revision {number}, since {since}, by {}: {}\n", revision.actor, revision.reason)
                }
            };
            for source in &held.sources {
                text.push_str(&format!("\n# {}\n{}", source.name, source.text));
            }
            output::emit(&text)?;
        }
    }
    Ok(Exit::Ok)
}
