//! `holdfast ctl status`.

use holdfast_client::proto::v1;
use holdfast_client::proto::v1::admin_client::AdminClient;
use serde_json::json;
use tonic::transport::Channel;

use crate::cli::client::Asking;
use crate::cli::exit::{Exit, Problem};
use crate::cli::output::{self, Output};

/// The state of a group that answers, as the API writes it.
const SERVING: &str = "serving";

/// Shows how the node is. Ends with 1 unless every group serves and new grants are made.
pub(super) async fn run(asking: &Asking, channel: Channel) -> Result<Exit, Problem> {
    let answer = AdminClient::new(channel).status(v1::StatusRequest {}).await;
    let status = answer.map_err(|status| asking.address.failed(&status))?.into_inner();
    match asking.output {
        Output::Text => output::emit(&text(&status))?,
        Output::Json => output::emit_json(&document(&status))?,
    }
    Ok(if is_well(&status) { Exit::Ok } else { Exit::Failed })
}

fn is_well(status: &v1::StatusResponse) -> bool {
    status.refusing.is_empty() && status.groups.iter().all(|group| group.state == SERVING && !group.clock_held)
}

fn text(status: &v1::StatusResponse) -> String {
    let grants = if status.refusing.is_empty() { "accepted" } else { &status.refusing };
    let mut text = format!(
        "node         {} in region {}\nversion      {}\ncluster      {}\nfree disk    {}\nnew grants   {grants}\n\n",
        status.node_id,
        status.region,
        status.version,
        status.cluster_id,
        output::bytes(status.free_disk_bytes),
    );
    let heads = [
        "partition",
        "state",
        "role",
        "leader",
        "term",
        "last",
        "applied",
        "snapshot",
        "purged",
        "held keys",
        "log time",
    ];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(status.groups.iter().map(|group| {
        vec![
            group.partition.to_string(),
            group.state.clone(),
            group.role.clone(),
            leader(group).map_or_else(|| "-".to_owned(), |leader| leader.to_string()),
            group.term.to_string(),
            group.last_log_index.to_string(),
            group.applied_index.to_string(),
            group.snapshot_index.to_string(),
            group.purged_index.to_string(),
            group.held_keys.to_string(),
            output::time(group.log_time_unix_ms),
        ]
    }));
    text.push_str(&output::table(&rows));
    for group in &status.groups {
        if !group.reason.is_empty() {
            text.push_str(&format!("\npartition {}: {}\n", group.partition, group.reason));
        }
        if group.clock_held {
            text.push_str(&format!(
                "\npartition {}: the clock is over an hour ahead of log time, which waits: check the clock, then run \
                 `holdfast ctl clock accept`\n",
                group.partition
            ));
        }
    }
    text
}

/// Who leads, if the node knows.
fn leader(group: &v1::GroupStatus) -> Option<u64> {
    (group.leader_node_id > 0).then_some(group.leader_node_id)
}

fn document(status: &v1::StatusResponse) -> serde_json::Value {
    let groups: Vec<_> = status.groups.iter().map(group_document).collect();
    json!({
        "version": status.version,
        "cluster_id": status.cluster_id,
        "node_id": status.node_id,
        "region": status.region,
        "partitions": status.partitions,
        "free_disk_bytes": status.free_disk_bytes,
        "refusing": (!status.refusing.is_empty()).then_some(&status.refusing),
        "well": is_well(status),
        "groups": groups,
    })
}

fn group_document(group: &v1::GroupStatus) -> serde_json::Value {
    json!({
        "partition": group.partition,
        "state": group.state,
        "role": group.role,
        "leader": leader(group),
        "reason": (!group.reason.is_empty()).then_some(&group.reason),
        "term": group.term,
        "last_log_index": group.last_log_index,
        "applied_index": group.applied_index,
        "snapshot_index": group.snapshot_index,
        "purged_index": group.purged_index,
        "log_time_unix_ms": group.log_time_unix_ms,
        "clock_held": group.clock_held,
        "held_keys": group.held_keys,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> v1::StatusResponse {
        let serving = v1::GroupStatus { state: SERVING.to_owned(), applied_index: 7, ..v1::GroupStatus::default() };
        v1::StatusResponse { node_id: 3, region: "eu".to_owned(), groups: vec![serving], ..Default::default() }
    }

    #[test]
    fn a_node_is_well_when_every_group_serves_and_grants_are_made() {
        assert!(is_well(&status()));
        let mut refusing = status();
        refusing.refusing = "the disk is nearly full".to_owned();
        assert!(!is_well(&refusing) && text(&refusing).contains("the disk is nearly full"));
        let mut stopped = status();
        let reason = "restore the file".to_owned();
        stopped.groups.push(v1::GroupStatus {
            partition: 1,
            state: "stopped".to_owned(),
            reason,
            ..Default::default()
        });
        assert!(!is_well(&stopped) && text(&stopped).contains("partition 1: restore the file"));
        let mut held = status();
        held.groups.iter_mut().for_each(|group| group.clock_held = true);
        assert!(!is_well(&held) && text(&held).contains("ctl clock accept"));
        assert_eq!(document(&held)["groups"][0]["applied_index"], 7);
        let mut led = status();
        led.groups.iter_mut().for_each(|group| (group.role, group.leader_node_id) = ("follower".to_owned(), 2));
        assert_eq!(document(&led)["groups"][0]["leader"], 2);
        assert!(text(&led).contains("follower"));
    }
}
