//! The policies that a node holds, and what files would change of them.

use anyhow::{Context as _, anyhow};
use holdfast_client::proto::v1;
use tonic::transport::Channel;

use super::files;
use crate::cli::client::{Asking, admin};
use crate::cli::exit::{Exit, Problem};
use crate::ids::PolicyName;
use crate::policy::Severity;
use crate::policy::diff::{self, Change};
use crate::policy::set::PolicySet;

/// Policies of a revision, as a node gave them.
#[derive(Debug)]
pub(super) struct Held {
    /// Who applied them, when and why. Number 0: nobody did.
    pub(super) revision: v1::Revision,
    /// The files as they were applied.
    pub(super) sources: Vec<v1::PolicySource>,
    /// What is in them.
    pub(super) set: PolicySet,
    /// Whose defaults an endpoint gets that no policy is for.
    pub(super) unnamed: Severity,
}

impl Held {
    /// Asks a node; without a number, for the policies that hold.
    ///
    /// # Errors
    /// When the node does not answer, has no such revision, or has policies that this program cannot read.
    pub(super) async fn get(asking: &Asking, channel: Channel, revision: Option<u32>) -> Result<Self, Problem> {
        let answer = admin(channel).get_policies(v1::GetPoliciesRequest { revision }).await;
        Self::read(answer.map_err(|status| asking.address.failed(&status))?.into_inner())
    }

    /// Reads a node's answer.
    ///
    /// # Errors
    /// When this program cannot read it.
    pub(super) fn read(answer: v1::GetPoliciesResponse) -> Result<Self, Problem> {
        let v1::GetPoliciesResponse { revision, sources, unnamed_severity } = answer;
        let unread = || "the node's policies cannot be read: is it of a newer version than this program?";
        let set = files::parse(&sources)
            .map_err(|refusals| Problem { exit: Exit::Failed, ..files::refused(&refusals) })
            .map_err(|problem| Problem { error: problem.error.context(unread()), ..problem })?;
        let unnamed = unnamed_severity.parse::<Severity>().map_err(|error| anyhow!(error)).with_context(unread)?;
        let set = set.with_unnamed(unnamed);
        Ok(Self { revision: revision.unwrap_or_default(), sources, set, unnamed })
    }

    /// What other files would change.
    ///
    /// # Errors
    /// When something is wrong with the files.
    pub(super) fn compare(&self, sources: &[v1::PolicySource]) -> Result<Vec<Change>, Problem> {
        let new = files::parse(sources).map_err(|refusals| files::refused(&refusals))?;
        Ok(diff::diff(&self.set, &new.with_unnamed(self.unnamed)))
    }

    /// The policies that are in no file any more.
    pub(super) fn gone(&self, new: &PolicySet) -> Vec<PolicyName> {
        self.set.policies().keys().filter(|name| !new.policies().contains_key(*name)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Vec<v1::PolicySource> {
        vec![v1::PolicySource { name: "a.toml".to_owned(), text: text.to_owned() }]
    }

    fn held(text: &str, unnamed: &str) -> Held {
        let answer =
            v1::GetPoliciesResponse { revision: None, sources: source(text), unnamed_severity: unnamed.to_owned() };
        Held::read(answer).expect("policies of a test")
    }

    /// For each change: from, to, and the fields that differ.
    fn told(changes: Vec<Change>) -> Vec<String> {
        let name = |name: Option<PolicyName>| name.map_or_else(|| "-".to_owned(), |name| name.to_string());
        let told = |change: Change| {
            let fields: Vec<String> = change
                .fields
                .iter()
                .map(|field| format!("{}{}", field.field, if field.shortens { "!" } else { "" }))
                .collect();
            format!("{} {} {}", name(change.from), name(change.to), fields.join(" "))
        };
        changes.into_iter().map(told).collect()
    }

    #[test]
    fn what_no_policy_is_for_has_the_defaults_of_the_node() -> anyhow::Result<()> {
        let high = "[policy.a]\nendpoints = [\"x\"]\nseverity = \"high\"\n";
        let everything = "[policy.rest0]\nendpoints = [\"*\"]\nseverity = \"high\"\n";
        let cases: [(&str, &str, &str, &[&str]); 6] = [
            ("high", "", high, &[]),
            ("critical", "", high, &["- a severity! on_lapse! retention!"]),
            ("critical", high, "", &["a - severity on_lapse retention"]),
            ("low", high, "", &["a - severity! consistency! fail! retention!"]),
            ("critical", "", everything, &["- rest0 severity! on_lapse! retention!"]),
            ("critical", high, high, &[]),
        ];
        for (unnamed, old, new, expected) in cases {
            let changes = held(old, unnamed).compare(&source(new)).map_err(|problem| problem.error)?;
            assert_eq!(told(changes), expected, "{unnamed}: {old} -> {new}");
        }
        Ok(())
    }

    #[test]
    fn what_cannot_be_read_is_a_failure() {
        let answer = |text: &str, unnamed: &str| v1::GetPoliciesResponse {
            revision: None,
            sources: source(text),
            unnamed_severity: unnamed.to_owned(),
        };
        for answer in [answer("", "urgent"), answer("[policy.a]\nendpoints = [\"x\"]\nnewer = 1\n", "high")] {
            let problem = Held::read(answer).expect_err("it cannot be read");
            assert_eq!(problem.exit, Exit::Failed);
            assert!(problem.line().contains("newer version"), "{}", problem.line());
        }
    }
}
