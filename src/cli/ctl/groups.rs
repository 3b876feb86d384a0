//! `holdfast ctl transfer` and `snapshot`: what is done to one partition's group, or to all.

use holdfast_client::proto::v1;
use holdfast_client::proto::v1::admin_client::AdminClient;
use serde_json::json;
use tonic::transport::Channel;

use crate::cli::client::Asking;
use crate::cli::exit::{Exit, Problem};
use crate::cli::output::{self, Output};

/// Which groups are handed over, and to whom.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Leaders go back to where they are spread to while all nodes are well, seconds later. To keep them off a node, stop it: it
hands over first.")]
pub(super) struct Transfer {
    /// The partition; all if it is not given
    #[arg(long, value_name = "NUMBER")]
    partition: Option<u32>,

    /// The voter that is to lead
    #[arg(long, value_name = "NODE")]
    to: u64,
}

/// Of which groups a snapshot is taken.
#[derive(Debug, clap::Args)]
pub(super) struct Snapshot {
    /// The partition; all if it is not given
    #[arg(long, value_name = "NUMBER")]
    partition: Option<u32>,
}

/// Hands groups over.
pub(super) async fn transfer(asking: &Asking, channel: Channel, transfer: Transfer) -> Result<Exit, Problem> {
    let Transfer { partition, to } = transfer;
    let request = v1::TransferLeadershipRequest { partition, to_node_id: to };
    let answer = AdminClient::new(channel).transfer_leadership(request).await;
    let partitions = answer.map_err(|status| asking.address.failed(&status))?.into_inner().partitions;
    match asking.output {
        Output::Json => output::emit_json(&json!({ "leader": to, "partitions": partitions }))?,
        Output::Text => {
            let numbers: Vec<String> = partitions.iter().map(ToString::to_string).collect();
            output::emit(&format!("node {to} leads {}\n", numbers.join(", ")))?;
        }
    }
    Ok(Exit::Ok)
}

/// Takes snapshots of the node's groups.
pub(super) async fn snapshot(asking: &Asking, channel: Channel, snapshot: Snapshot) -> Result<Exit, Problem> {
    let request = v1::SnapshotRequest { partition: snapshot.partition };
    let answer = AdminClient::new(channel).snapshot(request).await;
    let snapshots = answer.map_err(|status| asking.address.failed(&status))?.into_inner().snapshots;
    match asking.output {
        Output::Json => {
            let taken = snapshots.iter().map(|taken| json!({ "partition": taken.partition, "index": taken.index }));
            output::emit_json(&json!({ "snapshots": taken.collect::<Vec<_>>() }))?;
        }
        Output::Text => {
            let line =
                |taken: &v1::GroupSnapshot| format!("partition {}: up to entry {}\n", taken.partition, taken.index);
            output::emit(&snapshots.iter().map(line).collect::<String>())?;
        }
    }
    Ok(Exit::Ok)
}
