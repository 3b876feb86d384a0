//! `holdfast ctl policy apply`: the policies of a region are those of some files from then on.

use std::path::PathBuf;

use anyhow::anyhow;
use holdfast_client::proto::v1;
use serde_json::{Value, json};

use super::held::Held;
use super::{files, show};
use crate::cli::client::{ANSWER_TIMEOUT, Asking, admin};
use crate::cli::ctl::signature::{Who, sign};
use crate::cli::ctl::with_node;
use crate::cli::exit::{Exit, Problem};
use crate::cli::output::{self, Output};
use crate::ids::PolicyName;
use crate::policy::diff::Change;
use crate::policy::lint::{self, Finding, Level};
use crate::policy::set::Refusal;

/// What is applied, and what it may do.
#[derive(Debug, clap::Args)]
pub(in crate::cli::ctl) struct Apply {
    /// Policy files: all that are to hold
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    who: Who,

    /// Why; kept in the audit
    #[arg(long, value_name = "TEXT", required_unless_present = "dry_run")]
    reason: Option<String>,

    /// Policies may go that no file has any more
    #[arg(long)]
    prune: bool,

    /// Promises may get shorter, for keys that are granted from then on
    #[arg(long)]
    shorten: bool,

    /// Compare only, and end as it would end
    #[arg(long)]
    dry_run: bool,
}

/// What the files are, and what they would change.
struct Plan {
    sources: Vec<v1::PolicySource>,
    findings: Vec<Finding>,
    compared: Option<Compared>,
}

/// What is other than in the revision that holds.
struct Compared {
    held: Held,
    changes: Vec<Change>,
    gone: Vec<PolicyName>,
}

/// Checks the files, compares them with what holds, and applies them.
pub(super) fn run(asking: &Asking, apply: Apply) -> Result<Exit, Problem> {
    let sources = files::read(&apply.files)?;
    let set = match files::parse(&sources) {
        Ok(set) => set,
        Err(refusals) => return refuse_files(asking.output, &refusals, &[]),
    };
    let findings = lint::lint(&set);
    if findings.iter().any(|found| found.code.level() == Level::Error) {
        return refuse_files(asking.output, &[], &findings);
    }
    // Who decides has to be known before anything is asked.
    let signature = match apply.dry_run {
        true => None,
        false => Some(sign(apply.who, apply.reason.unwrap_or_default())?),
    };
    let allowed = Allowed { prune: apply.prune, shorten: apply.shorten };
    with_node(asking, ANSWER_TIMEOUT, async move |channel| {
        let held = Held::get(asking, channel.clone(), None).await?;
        let (changes, gone) = (held.compare(&sources)?, held.gone(&set));
        let expected_revision = held.revision.revision;
        let plan = Plan { sources, findings, compared: Some(Compared { held, changes, gone }) };
        let refusal = plan.refusal(allowed);
        let (Some(signature), None) = (signature, &refusal) else {
            report(asking.output, &plan, None)?;
            let refused = |why| Problem { exit: Exit::Failed, error: anyhow!("nothing is applied: {why}") };
            return refusal.map_or(Ok(Exit::Ok), |why| Err(refused(why)));
        };
        let request = v1::ApplyPoliciesRequest {
            signature: Some(signature),
            expected_revision,
            sources: plan.sources.clone(),
            prune: allowed.prune,
        };
        let answer = admin(channel).apply_policies(request).await;
        let revision = answer.map_err(|status| asking.address.failed(&status))?.into_inner().revision;
        report(asking.output, &plan, Some(revision))?;
        Ok(Exit::Ok)
    })
}

/// Says what is wrong with the files. No node was asked.
fn refuse_files(output: Output, refusals: &[Refusal], findings: &[Finding]) -> Result<Exit, Problem> {
    match output {
        Output::Text => output::complain(show::lint_text(refusals, findings).trim_end()),
        Output::Json => {
            let plan = Plan { sources: Vec::new(), findings: Vec::new(), compared: None };
            output::emit_json(&plan.document(show::lint_json(refusals, findings), None))?;
        }
    }
    Err(Problem { exit: Exit::Failed, error: anyhow!("nothing is applied: the files have errors") })
}

fn report(output: Output, plan: &Plan, revision: Option<u32>) -> Result<(), Problem> {
    match output {
        Output::Text => {
            if !plan.findings.is_empty() {
                output::complain(show::lint_text(&[], &plan.findings).trim_end());
            }
            output::emit(&plan.text(revision))?;
        }
        Output::Json => output::emit_json(&plan.document(show::lint_json(&[], &plan.findings), revision))?,
    }
    Ok(())
}

/// What may happen to policies that hold.
#[derive(Clone, Copy)]
struct Allowed {
    prune: bool,
    shorten: bool,
}

impl Plan {
    /// Why it is not applied.
    fn refusal(&self, allowed: Allowed) -> Option<String> {
        let compared = self.compared.as_ref()?;
        let mut why = Vec::new();
        if !compared.gone.is_empty() && !allowed.prune {
            let gone = names(&compared.gone);
            why.push(format!("{gone} would go, which no file has any more: give --prune, or the files too"));
        }
        let shorter = show::shorter(&compared.changes);
        if shorter > 0 && !allowed.shorten {
            let promises = if shorter == 1 { "1 promise gets" } else { &format!("{shorter} promises get") };
            why.push(format!(
                "{promises} shorter for new keys (those that are there keep what they were promised): give --shorten if \
                 that is meant"
            ));
        }
        (!why.is_empty()).then(|| why.join("; "))
    }

    /// For people. `revision`: what holds after it was applied.
    fn text(&self, revision: Option<u32>) -> String {
        let Some(Compared { held, changes, gone }) = &self.compared else { return String::new() };
        let before = held.revision.revision;
        let mut text = match before {
            0 => "compared with no policies: none were applied yet\n\n".to_owned(),
            _ => format!("compared with revision {before}\n\n"),
        };
        text.push_str(&show::diff_text(changes, held.unnamed));
        if !gone.is_empty() {
            text.push_str(&format!("policies that go: {}\n", names(gone)));
        }
        match revision {
            None => {}
            Some(same) if same == before => text.push_str(&format!("\nrevision {same} holds on: the files are its files\n")),
            Some(new) => text.push_str(&format!(
                "\nrevision {new} holds, for keys that are granted from now on; those that are there keep what they were \
                 promised\n"
            )),
        }
        text
    }

    /// For scripts.
    fn document(&self, findings: Value, revision: Option<u32>) -> Value {
        let compared = self.compared.as_ref();
        let empty: &[Change] = &[];
        let changes = show::diff_json(compared.map_or(empty, |compared| &compared.changes));
        let gone = compared.iter().flat_map(|compared| &compared.gone).map(PolicyName::as_str);
        let ended = json!({
            "applied": revision.is_some(),
            "compared_with": compared.map(|compared| compared.held.revision.revision),
            "revision": revision,
            "gone": gone.collect::<Vec<_>>(),
        });
        output::joined(output::joined(ended, findings), changes)
    }
}

fn names(names: &[PolicyName]) -> String {
    names.iter().map(PolicyName::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden;

    const OLD: &str = "\
[policy.charges]
endpoints = [\"POST /v1/charges\"]
severity = \"critical\"
stage = \"required\"
owner = \"payments\"
lease = \"20s\"

[policy.old]
endpoints = [\"POST /v0/*\"]
severity = \"high\"
";

    fn source(text: &str) -> Vec<v1::PolicySource> {
        vec![v1::PolicySource { name: "payments.toml".to_owned(), text: text.to_owned() }]
    }

    fn plan(old: &str, new: &str) -> anyhow::Result<Plan> {
        let revision = Some(v1::Revision { revision: 3, ..v1::Revision::default() });
        let answer = v1::GetPoliciesResponse { revision, sources: source(old), unnamed_severity: "high".to_owned() };
        let held = Held::read(answer).map_err(|problem| problem.error)?;
        let set = files::parse(&source(new)).map_err(|refusals| anyhow!("{refusals:?}"))?;
        let changes = held.compare(&source(new)).map_err(|problem| problem.error)?;
        let gone = held.gone(&set);
        let findings = lint::lint(&set);
        Ok(Plan { sources: source(new), findings, compared: Some(Compared { held, changes, gone }) })
    }

    #[test]
    fn apply_prints() -> anyhow::Result<()> {
        let new = OLD.split("\n[policy.old]").next().unwrap_or_default().replace("20s", "10s");
        let plan = plan(OLD, &new)?;
        let document = plan.document(show::lint_json(&[], &plan.findings), Some(4));
        let text = format!("{}\n{document:#}\n", plan.text(Some(4)));
        golden::check("tests/output/policy-apply.txt", &text)?;
        assert!(plan.text(Some(3)).ends_with("revision 3 holds on: the files are its files\n"));
        assert!(!plan.text(None).contains("holds"));
        Ok(())
    }

    #[test]
    fn what_goes_or_gets_shorter_has_to_be_said() -> anyhow::Result<()> {
        let shorter = OLD.replace("20s", "10s");
        let fewer = OLD.split("\n[policy.old]").next().unwrap_or_default();
        let both = fewer.replace("20s", "10s");
        let longer = OLD.replace("20s", "30s");
        let renamed = OLD.replace("policy.old", "policy.new");
        // The files, and which flags they need.
        for (new, prune, shorten) in [
            (OLD, false, false),
            (longer.as_str(), false, false),
            (shorter.as_str(), false, true),
            (fewer, true, false),
            (renamed.as_str(), true, false),
            (both.as_str(), true, true),
        ] {
            let plan = plan(OLD, new)?;
            for allowed in [(false, false), (true, false), (false, true), (true, true)] {
                let refusal = plan.refusal(Allowed { prune: allowed.0, shorten: allowed.1 }).unwrap_or_default();
                assert_eq!(refusal.contains("--prune"), prune && !allowed.0, "{new}: {refusal}");
                assert_eq!(refusal.contains("--shorten"), shorten && !allowed.1, "{new}: {refusal}");
            }
        }
        Ok(())
    }
}
