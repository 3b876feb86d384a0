//! What is wrong with a plan, or worth a thought.

use crate::amounts::{bytes, count};
use crate::limits;
use crate::plan::carried::up;
use crate::plan::figures::{self, SPACE_AT_FULL_SPEED};
use crate::plan::workload::Workload;
use crate::plan::{Plan, memory};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// No node does it.
    Error,
    /// It may not go well.
    Warning,
}

impl Level {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// Its stable name.
    pub code: &'static str,
    /// What it is, and what to do.
    pub text: String,
}

/// Everything that is found in a plan.
pub(super) fn of(workload: &Workload, plan: &Plan) -> Vec<Finding> {
    [
        partitions(plan),
        partition_size(plan),
        speed(workload, plan),
        bodies(workload),
        held(plan),
        buffers(plan),
        cache(plan),
    ]
    .into_iter()
    .flatten()
    .chain(nodes(workload))
    .collect()
}

fn warning(code: &'static str, text: String) -> Option<Finding> {
    Some(Finding { level: Level::Warning, code, text })
}

fn error(code: &'static str, text: String) -> Option<Finding> {
    Some(Finding { level: Level::Error, code, text })
}

fn partitions(plan: &Plan) -> Option<Finding> {
    let (need, have) = (plan.partitions.unmet()?, plan.partitions.count);
    if plan.partitions.is_chosen {
        let text = format!(
            "{} asks for {} partitions, and a cluster has at most {have}: make several clusters, each with some of the endpoints",
            need.name,
            count(need.count)
        );
        return error("too-large", text);
    }
    let text = format!(
        "{} asks for {} partitions, there are {have}, and that never changes: {}",
        need.name,
        count(need.count),
        need.why
    );
    warning("partitions-few", text)
}

fn partition_size(plan: &Plan) -> Option<Finding> {
    let most = limits::SNAPSHOT_FILE_BYTES.saturating_mul(limits::MAX_SNAPSHOT_FILES as u64);
    let each = up(plan.state_bytes / plan.partitions.count as f64);
    if each <= most {
        return None;
    }
    let text = format!(
        "a partition would have {}, and a snapshot of one has at most {}: no new node could get it",
        bytes(each),
        bytes(most)
    );
    error("partition-too-large", text)
}

fn speed(workload: &Workload, plan: &Plan) -> Option<Finding> {
    let (rate, most) = (&plan.rate, 1.0 - workload.headroom);
    if rate.share <= most {
        return None;
    }
    let text = format!(
        "the peak is {:.0} % of what was measured on 2 cores, and the plan may use {:.0} %: more cores, sessions or clusters, and \
         measure them with `holdfast bench`. Records would take up to {SPACE_AT_FULL_SPEED} times their bytes while compaction is behind",
        rate.share * 100.0,
        most * 100.0
    );
    warning("faster-than-measured", text)
}

fn bodies(workload: &Workload) -> Option<Finding> {
    let measured = figures::MEASURED_BODY_BYTES;
    let largest = workload.endpoints.iter().max_by_key(|endpoint| endpoint.envelope_bytes)?;
    if largest.envelope_bytes < 4 * measured {
        return None;
    }
    let text = format!(
        "responses of {} have {}, and speed was measured with {measured} bytes: measure with `holdfast bench --body-bytes {}`",
        largest.name,
        bytes(largest.envelope_bytes),
        largest.envelope_bytes.min(limits::MAX_ENVELOPE_BODY_BYTES as u64)
    );
    warning("large-responses", text)
}

fn held(plan: &Plan) -> Option<Finding> {
    let (held, most) = (memory::held(&plan.endpoints), limits::MAX_HELD_KEYS as u64);
    if held <= most {
        return None;
    }
    let text = format!(
        "{} keys are held if every attempt takes its whole lease, and a region holds {}: beyond it, it answers `overloaded`. \
         Shorter leases that are extended hold fewer",
        count(held),
        count(most)
    );
    warning("held-keys", text)
}

fn buffers(plan: &Plan) -> Option<Finding> {
    let (have, wanted) = (plan.machines.write_buffer_bytes, memory::write_buffers(plan.partitions.count));
    if have >= wanted.min(plan.partitions.count.saturating_mul(figures::BUFFER_BYTES)) {
        return None;
    }
    let text = format!(
        "write_buffer_bytes = {have} is little for {} partitions: write {wanted}, or small tables are merged all the time",
        plan.partitions.count
    );
    warning("write-buffers-small", text)
}

fn cache(plan: &Plan) -> Option<Finding> {
    let (have, finding) = (plan.machines.block_cache_bytes, memory::finding(&plan.endpoints));
    if have >= finding {
        return None;
    }
    let text = format!(
        "block_cache_bytes = {have} is less than the {} of filters and indexes that find the records: write {}, or Reserve reads \
         the disk",
        bytes(finding),
        memory::block_cache(&plan.endpoints)
    );
    warning("block-cache-small", text)
}

fn nodes(workload: &Workload) -> Option<Finding> {
    match workload.nodes {
        1 => warning(
            "one-node",
            "one node: while it is down nothing is answered, and its disk is the only copy".to_owned(),
        ),
        even if even.is_multiple_of(2) => {
            let text = format!(
                "{even} nodes survive no more failures than {}, and each write waits for more of them",
                even - 1
            );
            warning("even-nodes", text)
        }
        _ => None,
    }
}
