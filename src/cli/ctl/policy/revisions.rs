//! `holdfast ctl policy list` and `show`: which policies were applied, when, by whom and why.

use anyhow::anyhow;
use holdfast_client::proto::v1;
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::files;
use super::held::Held;
use crate::cli::client::{Asking, admin};
use crate::cli::ctl::view;
use crate::cli::exit::Problem;
use crate::cli::output::{self, Output};
use crate::ids::PolicyName;
use crate::policy::document::Document;
use crate::policy::set::PolicySet;

/// Which policies are shown.
#[derive(Debug, clap::Args)]
pub(in crate::cli::ctl) struct Show {
    /// The revision; without it, the one that holds
    #[arg(long, value_name = "NUMBER")]
    revision: Option<u32>,

    /// One policy of it, by itself
    #[arg(long, value_name = "NAME", value_parser = |text: &str| PolicyName::parse(text))]
    policy: Option<PolicyName>,
}

/// Shows the revisions that are kept.
pub(super) async fn list(asking: &Asking, channel: Channel) -> Result<(), Problem> {
    let mut admin = admin(channel);
    let (mut revisions, mut before) = (Vec::<v1::Revision>::new(), None);
    loop {
        let answer = admin.list_revisions(v1::ListRevisionsRequest { before }).await;
        let v1::ListRevisionsResponse { revisions: page, more } =
            answer.map_err(|status| asking.address.failed(&status))?.into_inner();
        before = page.last().map(|last| last.revision);
        revisions.extend(page);
        // A page without any is the last, whatever it says.
        if !more || before.is_none() {
            break;
        }
    }
    match asking.output {
        Output::Text => output::emit(&list_text(&revisions))?,
        Output::Json => output::emit_json(&list_json(&revisions))?,
    }
    Ok(())
}

/// Shows the policies of a revision.
pub(super) async fn show(asking: &Asking, channel: Channel, show: Show) -> Result<(), Problem> {
    let held = Held::get(asking, channel, show.revision).await?;
    match asking.output {
        Output::Text => output::emit(&show_text(&held, show.policy.as_ref())?)?,
        Output::Json => output::emit_json(&show_json(&held, show.policy.as_ref())?)?,
    }
    Ok(())
}

/// The newest comes first, and is the one that holds.
fn list_text(revisions: &[v1::Revision]) -> String {
    if revisions.is_empty() {
        return "no policies were applied yet\n".to_owned();
    }
    let heads = ["revision", "made", "policies", "actor", "reason"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(revisions.iter().enumerate().map(|(at, revision)| {
        vec![
            format!("{}{}", revision.revision, if at == 0 { " (holds)" } else { "" }),
            output::time(revision.made_at_unix_ms),
            output::count(u64::try_from(revision.policies.len()).unwrap_or(u64::MAX)),
            view::one_line(&revision.actor),
            view::one_line(&revision.reason),
        ]
    }));
    output::columns(&rows)
}

fn list_json(revisions: &[v1::Revision]) -> Value {
    let listed = revisions
        .iter()
        .enumerate()
        .map(|(at, revision)| output::joined(revision_json(revision), json!({ "holds": at == 0 })));
    json!({ "revisions": listed.collect::<Vec<_>>() })
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

/// TOML that comes to the same policies: what is shown can be applied again.
fn show_text(held: &Held, policy: Option<&PolicyName>) -> Result<String, Problem> {
    if let Some(name) = policy {
        return Ok(toml(name, document(held, name)?));
    }
    if held.sources.is_empty() {
        return Ok(format!("# no policies were applied yet: endpoints get the defaults of {}\n", held.unnamed));
    }
    let files = held.sources.iter().map(|source| {
        let end = if source.text.ends_with('\n') { "" } else { "\n" };
        match held.sources.len() {
            1 => format!("{}{end}", source.text),
            _ => format!("# File: {}\n\n{}{end}\n", view::one_line(&source.name), source.text),
        }
    });
    let whole: String = files.collect();
    // Two files can each be TOML, and not be when one follows the other.
    if reads_as(&whole, &held.set) {
        return Ok(whole);
    }
    let policies = held.set.policies().iter();
    let anew: Vec<String> = policies.map(|(name, policy)| toml(name, &policy.document)).collect();
    Ok(format!(
        "# The files cannot stand in one, so their policies are written anew: see --output json for the files.\n\n{}",
        anew.join("\n")
    ))
}

fn reads_as(text: &str, set: &PolicySet) -> bool {
    let source = v1::PolicySource { name: String::new(), text: text.to_owned() };
    let documents = |set: &PolicySet| -> Vec<(PolicyName, Document)> {
        set.policies().iter().map(|(name, policy)| (name.clone(), policy.document.clone())).collect()
    };
    files::parse(&[source]).is_ok_and(|read| documents(&read) == documents(set))
}

fn show_json(held: &Held, policy: Option<&PolicyName>) -> Result<Value, Problem> {
    let what = match policy {
        Some(name) => json!({ "policy": name.as_str(), "document": document(held, name)? }),
        None => {
            let files = held.sources.iter().map(|source| json!({ "name": source.name, "text": source.text }));
            json!({ "files": files.collect::<Vec<_>>() })
        }
    };
    let unnamed = json!({ "unnamed_severity": held.unnamed.as_str() });
    Ok(output::joined(output::joined(revision_json(&held.revision), unnamed), what))
}

fn document<'a>(held: &'a Held, name: &PolicyName) -> Result<&'a Document, Problem> {
    let number = held.revision.revision;
    let policy = held.set.policies().get(name);
    let missing =
        || anyhow!("there is no policy {name} in revision {number}: `holdfast ctl policy show` shows all of it");
    Ok(&policy.ok_or_else(missing)?.document)
}

/// A policy as TOML.
fn toml(name: &PolicyName, document: &Document) -> String {
    let whom = [("endpoints", json!(document.endpoints)), ("tenants", json!(document.tenants))];
    let lines = whom.into_iter().chain(document.values()).filter(|(_, value)| !value.is_null());
    let line = |(field, value): (&str, Value)| format!("{field} = {}\n", written(&value));
    format!("[policy.{name}]\n{}", lines.map(line).collect::<String>())
}

/// What JSON writes of texts, numbers and lists is TOML too, but for one character.
fn written(value: &Value) -> String {
    match value.as_array() {
        Some(items) => format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(", ")),
        None => value.to_string().replace('\u{7f}', "\\u007f"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden;

    const SAMPLE: &str = include_str!("../../../../deploy/policies/payments.toml");

    fn revision(revision: u32) -> v1::Revision {
        v1::Revision {
            revision,
            made_at_unix_ms: 1_790_000_000_000 + u64::from(revision) * 86_400_000,
            actor: "ada".to_owned(),
            reason: format!("ticket 81{revision}\nand more"),
            policies: vec!["charges".to_owned(), "writes".to_owned()],
        }
    }

    fn held(texts: &[&str]) -> anyhow::Result<Held> {
        let source =
            |(at, text): (usize, &&str)| v1::PolicySource { name: format!("{at}.toml"), text: (*text).to_owned() };
        let answer = v1::GetPoliciesResponse {
            revision: Some(revision(3)),
            sources: texts.iter().enumerate().map(source).collect(),
            unnamed_severity: "high".to_owned(),
        };
        Held::read(answer).map_err(|problem| problem.error)
    }

    fn text(held: &Held, policy: Option<&PolicyName>) -> anyhow::Result<String> {
        show_text(held, policy).map_err(|problem| problem.error)
    }

    #[test]
    fn list_prints() -> anyhow::Result<()> {
        let revisions = [revision(3), revision(2)];
        let shown = format!("{}\n{:#}\n", list_text(&revisions), list_json(&revisions));
        golden::check("tests/output/policy-list.txt", &shown)?;
        assert_eq!(list_text(&[]), "no policies were applied yet\n");
        Ok(())
    }

    #[test]
    fn show_prints() -> anyhow::Result<()> {
        let held = held(&["[policy.charges]\nendpoints = [\"a\"]\nseverity = \"high\" # for now\n"])?;
        let document = show_json(&held, None).map_err(|problem| problem.error)?;
        let name = PolicyName::parse("charges")?;
        let one = show_json(&held, Some(&name)).map_err(|problem| problem.error)?;
        let shown = format!("{}\n{document:#}\n\n{}\n{one:#}\n", text(&held, None)?, text(&held, Some(&name))?);
        golden::check("tests/output/policy-show.txt", &shown)?;
        assert!(show_text(&held, Some(&PolicyName::parse("other")?)).is_err());
        Ok(())
    }

    #[test]
    fn what_is_shown_comes_to_the_same_policies() -> anyhow::Result<()> {
        let odd = "[policy.b]\nendpoints = [\"b\"]\nseverity = \"low\"\nowner = \"a \\\"b\\\"\\\\ é\"\nfingerprint.leave_out = [\"/\\t\\u007f\"]\n\
                   tenants = [\"acme\"]\nlimits = { max_bytes = 1024 }\nresponse.statuses = [\"2xx\", \"404\"]\n";
        let cases: [&[&str]; 5] = [
            &[SAMPLE],
            &[SAMPLE, odd],
            // Without a line end, and with lines that mean something else behind another table.
            &["[policy.a]\nendpoints = [\"a\"]\nseverity = \"high\"", odd],
            &[odd, "policy.a.endpoints = [\"a\"]\npolicy.a.severity = \"high\"\n"],
            &["policy = { a = { endpoints = [\"a\"], severity = \"high\" } }\n", odd],
        ];
        for texts in cases {
            let held = held(texts)?;
            let whole = text(&held, None)?;
            assert!(reads_as(&whole, &held.set), "{whole}");
            let each = held.set.policies().keys().map(|name| text(&held, Some(name)));
            let each = each.collect::<anyhow::Result<Vec<_>>>()?;
            assert!(reads_as(&each.join("\n"), &held.set), "{each:?}");
        }
        let anew = text(&held(cases[3])?, None)?;
        assert!(anew.starts_with("# The files cannot stand in one"), "{anew}");
        assert!(text(&held(cases[1])?, None)?.starts_with("# File: 0.toml\n"));
        Ok(())
    }
}
