//! `holdfast ctl audit`: who decided what, when and why, over all partitions.

use holdfast_client::proto::v1;
use holdfast_client::proto::v1::admin_client::AdminClient;
use serde_json::json;
use tonic::transport::Channel;

use crate::cli::client::Asking;
use crate::cli::exit::{Exit, Problem};
use crate::cli::output::{self, Output};

/// Which entries are shown.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --output json each entry is one line. Entries of a partition have numbers that only grow and never change, so an export
goes on where it stopped: keep each partition's last number, and drop what is not above it.

Examples:
  holdfast ctl audit
  holdfast ctl audit --action resolve-key
  holdfast ctl audit --output json >> audit.jsonl")]
pub(super) struct Audit {
    /// Only what was done so, such as set-policies, create-tenant or resolve-key
    #[arg(long, value_name = "ACTION", value_parser = action)]
    action: Option<String>,
}

fn action(text: &str) -> Result<String, String> {
    use crate::control::audit::Action;
    match Action::parse(text) {
        Some(action) => Ok(action.as_str().to_owned()),
        None => Err(format!("there is no such action: use one of {}", Action::ALL.map(Action::as_str).join(", "))),
    }
}

/// Reads the audit of every partition, and shows it by time.
pub(super) async fn run(asking: &Asking, channel: Channel, audit: Audit) -> Result<Exit, Problem> {
    let mut client = AdminClient::new(channel);
    let members = client.members(v1::MembersRequest {}).await.map_err(|status| asking.address.failed(&status))?;
    let mut entries = Vec::new();
    for partition in 0..members.into_inner().partitions {
        let mut from = 1;
        while from > 0 {
            let page = client.audit(v1::AuditRequest { partition, from }).await;
            let page = page.map_err(|status| asking.address.failed(&status))?.into_inner();
            entries.extend(page.entries);
            from = page.next;
        }
    }
    entries.retain(|entry| audit.action.as_ref().is_none_or(|action| *action == entry.action));
    entries.sort_by_key(|entry| (entry.at_unix_ms, entry.partition, entry.sequence));
    let lines: String = entries.iter().map(|entry| line(asking.output, entry)).collect();
    output::emit(&lines)?;
    Ok(Exit::Ok)
}

fn line(output: Output, entry: &v1::AuditEntry) -> String {
    let v1::AuditEntry { partition, sequence, at_unix_ms, actor, reason, action, target, detail } = entry;
    match output {
        Output::Text => {
            let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
            format!("{}  {action} {target}{detail}, by {actor}: {reason}\n", output::time(*at_unix_ms))
        }
        Output::Json => {
            let document = json!({
                "partition": partition,
                "sequence": sequence,
                "at_unix_ms": at_unix_ms,
                "actor": actor,
                "reason": reason,
                "action": action,
                "target": target,
                "detail": detail,
            });
            format!("{document}\n")
        }
    }
}
