//! `holdfast ctl members`: who is in the region, and who is to be.

use holdfast_client::proto::v1;
use holdfast_client::proto::v1::admin_client::AdminClient;
use serde_json::json;
use tonic::transport::Channel;

use crate::cli::client::Asking;
use crate::cli::ctl::signature::PerhapsSigned;
use crate::cli::exit::{Exit, Problem};
use crate::cli::output::{self, Output};

/// What to do about the members. Without a command: show them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A change is checked in every partition before the first is changed. One that fails goes on when it is repeated.")]
pub(super) struct Members {
    #[command(subcommand)]
    change: Option<Change>,
}

#[derive(Debug, clap::Subcommand)]
enum Change {
    /// Make a learner a voter of every partition, once it has caught up
    Promote {
        /// The node
        #[arg(value_name = "NODE")]
        node_id: u64,
        #[command(flatten)]
        signed: PerhapsSigned,
    },
    /// Take a member out of every partition
    Remove {
        /// The node
        #[arg(value_name = "NODE")]
        node_id: u64,
        #[command(flatten)]
        signed: PerhapsSigned,
    },
    /// Make a learner a voter in place of a member, which leaves: both in one step
    Replace {
        /// The node that leaves
        #[arg(value_name = "NODE")]
        node_id: u64,
        /// The learner that becomes a voter
        #[arg(long, value_name = "NODE")]
        with: u64,
        #[command(flatten)]
        signed: PerhapsSigned,
    },
}

/// Shows the members, or changes them and shows them then.
pub(super) async fn run(asking: &Asking, channel: Channel, members: Members) -> Result<Exit, Problem> {
    let mut client = AdminClient::new(channel);
    if let Some(change) = members.change {
        let answer = client.change_members(request(change)).await;
        answer.map_err(|status| asking.address.failed(&status))?;
    }
    let answer = client.members(v1::MembersRequest {}).await;
    let response = answer.map_err(|status| asking.address.failed(&status))?.into_inner();
    match asking.output {
        Output::Text => output::emit(&text(&response))?,
        Output::Json => output::emit_json(&document(&response))?,
    }
    Ok(Exit::Ok)
}

fn request(change: Change) -> v1::ChangeMembersRequest {
    let (promote_node_id, remove_node_id, signed) = match change {
        Change::Promote { node_id, signed } => (node_id, 0, signed),
        Change::Remove { node_id, signed } => (0, node_id, signed),
        Change::Replace { node_id, with, signed } => (with, node_id, signed),
    };
    v1::ChangeMembersRequest { promote_node_id, remove_node_id, signature: Some(signed.signature()) }
}

/// What a member is, over all partitions: a change that stopped on the way shows as one that is in between.
fn role(member: &v1::Member, partitions: u32) -> &'static str {
    match (member.voter_of, member.learner_of) {
        (voter, _) if voter == partitions => "voter",
        (0, learner) if learner == partitions => "learner",
        (_, _) => "in between",
    }
}

fn text(response: &v1::MembersResponse) -> String {
    let heads = ["node", "role", "votes in", "learns in", "leads", "behind", "reachable", "api", "peers"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(response.members.iter().map(|member| {
        vec![
            member.node_id.to_string(),
            role(member, response.partitions).to_owned(),
            member.voter_of.to_string(),
            member.learner_of.to_string(),
            member.leader_of.to_string(),
            member.behind.map_or_else(|| "unknown".to_owned(), output::count),
            if member.reachable { "yes" } else { "no" }.to_owned(),
            or_dash(&member.api),
            or_dash(&member.peer),
        ]
    }));
    output::table(&rows)
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn document(response: &v1::MembersResponse) -> serde_json::Value {
    let members = response.members.iter().map(|member| {
        json!({
            "node_id": member.node_id,
            "role": role(member, response.partitions),
            "voter_of": member.voter_of,
            "learner_of": member.learner_of,
            "leader_of": member.leader_of,
            "behind": member.behind,
            "reachable": member.reachable,
            "api": member.api,
            "peer": member.peer,
        })
    });
    json!({ "partitions": response.partitions, "members": members.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_a_voter_when_it_votes_everywhere() {
        let member = |voter_of, learner_of| v1::Member { voter_of, learner_of, ..v1::Member::default() };
        assert_eq!(role(&member(16, 0), 16), "voter");
        assert_eq!(role(&member(0, 16), 16), "learner");
        for between in [member(15, 1), member(0, 3), member(0, 0), member(3, 0)] {
            assert_eq!(role(&between, 16), "in between");
        }
        let members = vec![v1::Member { node_id: 4, behind: Some(12_345), ..member(0, 16) }];
        let response = v1::MembersResponse { partitions: 16, members };
        let table = text(&response);
        assert!(table.contains("learner") && table.contains("12,345") && table.contains("no"), "{table}");
        assert_eq!(document(&response)["members"][0]["behind"], 12_345);
    }

    #[test]
    fn a_replacement_is_one_change() {
        let signed = PerhapsSigned::of("ada", "its disk fails");
        let replace = request(Change::Replace { node_id: 2, with: 4, signed });
        assert_eq!((replace.promote_node_id, replace.remove_node_id), (4, 2));
        let signature = replace.signature.unwrap_or_default();
        assert_eq!((signature.actor.as_str(), signature.reason.as_str()), ("ada", "its disk fails"));
    }
}
