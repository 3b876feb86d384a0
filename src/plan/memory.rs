//! What one node keeps in memory.

use crate::amounts::{bytes, count};
use crate::limits;
use crate::plan::carried::{Carried, up};
use crate::plan::figures::{self, GUIDE};
use crate::plan::workload::Workload;
use crate::plan::{Item, Machines};

const LIMITS: &str = "src/limits.rs";
const MIB: u64 = 1024 * 1024;

/// The memory for blocks that a node should have: the default for blocks of data, and room for what finds every record; no more
/// than may be set.
pub(super) fn block_cache(carried: &[Carried]) -> u64 {
    let finding = finding(carried).div_ceil(STEP).saturating_mul(STEP);
    limits::DEFAULT_BLOCK_CACHE_BYTES.saturating_add(finding).min(*limits::BLOCK_CACHE_BYTES.end())
}

/// Steps of a setting that a person writes.
const STEP: u64 = 64 * MIB;

/// Bytes of the filters and indexes of all tables.
pub(super) fn finding(carried: &[Carried]) -> u64 {
    up(carried.iter().map(|endpoint| endpoint.records as f64 * endpoint.stored.finding).sum())
}

/// The memory for what is not in tables yet that so many partitions should have.
pub(super) fn write_buffers(partitions: u64) -> u64 {
    limits::DEFAULT_WRITE_BUFFER_BYTES.max(partitions.saturating_mul(figures::BUFFER_BYTES))
}

/// Keys that are held at a time, in the whole region.
pub(super) fn held(carried: &[Carried]) -> u64 {
    carried.iter().fold(0, |sum, endpoint| sum.saturating_add(endpoint.held))
}

/// The parts of the memory.
pub(super) fn items(carried: &[Carried], workload: &Workload, machines: &Machines) -> Vec<Item> {
    let partitions = machines.partitions;
    let each = figures::IDLE_PARTITION_BYTES;
    let tail = limits::LOG_TAIL_BYTES as u64;
    // One node may be lost: the others lead its partitions too.
    let leading = machines.nodes.saturating_sub(1).max(1);
    let held = held(carried).min(limits::MAX_HELD_KEYS as u64).div_ceil(leading);
    let item = |name, bytes, why: String, source| Item { name, bytes, why, source };
    vec![
        item("process", figures::IDLE_NODE_BYTES, "a node that does nothing".to_owned(), GUIDE),
        item("partitions", each * partitions, format!("{partitions} that do nothing, {} each", bytes(each)), GUIDE),
        item("blocks", machines.block_cache_bytes, "block_cache_bytes".to_owned(), "docs/reference/configuration.md"),
        item(
            "write buffers",
            machines.write_buffer_bytes,
            "write_buffer_bytes".to_owned(),
            "docs/reference/configuration.md",
        ),
        item("log tails", tail * partitions, format!("the newest {} of each partition's log", bytes(tail)), LIMITS),
        item(
            "held keys",
            held.saturating_mul(limits::HELD_KEY_BYTES),
            format!("{} leases that one node counts, {} bytes each", count(held), limits::HELD_KEY_BYTES),
            LIMITS,
        ),
        item(
            "connections",
            workload.connections.saturating_mul(limits::CONNECTION_BYTES),
            format!("{} of {}", count(workload.connections), bytes(limits::CONNECTION_BYTES)),
            LIMITS,
        ),
        item("work", figures::WORK_BYTES, "what is in flight, and what the allocator keeps".to_owned(), GUIDE),
    ]
}
