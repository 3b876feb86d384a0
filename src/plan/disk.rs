//! What stands on the disk of one node. Every node of a region has all partitions.

use crate::amounts::{bytes, count};
use crate::limits;
use crate::plan::carried::{Carried, up};
use crate::plan::figures::{self, GUIDE, PERFORMANCE};
use crate::plan::{Item, Machines};

/// Where the names of the constants stand.
const LIMITS: &str = "src/limits.rs";
const OPTIONS: &str = "src/store/options.rs";

/// The parts of the disk.
pub(super) fn items(carried: &[Carried], machines: &Machines) -> Vec<Item> {
    let tables: f64 = carried.iter().map(Carried::table_bytes).sum();
    let blobs: f64 = carried.iter().map(Carried::blob_bytes).sum();
    let records = carried.iter().fold(0_u64, |sum, endpoint| sum.saturating_add(endpoint.records));
    let mean = up(tables / (records.max(1) as f64));
    let mut items = vec![Item {
        name: "records",
        bytes: up(tables),
        why: format!("{} records of {mean} bytes: record, response, index of expiry", count(records)),
        source: "src/codec, and what compression leaves: docs/guides/capacity.md",
    }];
    if blobs > 0.0 {
        items.push(Item {
            name: "large responses",
            bytes: up(blobs),
            why: format!("those of {} and more stand in files of their own", bytes(limits::BLOB_BYTES)),
            source: OPTIONS,
        });
    }
    items.extend(compaction(tables, blobs, machines));
    items.extend(log(machines));
    if machines.nodes > 1 {
        items.extend(snapshots(tables + blobs, machines));
    }
    items.push(Item {
        name: "kept free",
        bytes: limits::DEFAULT_MIN_FREE_DISK_BYTES,
        why: "with less, no new key is granted".to_owned(),
        source: LIMITS,
    });
    items
}

fn compaction(tables: f64, blobs: f64, machines: &Machines) -> [Item; 2] {
    let partition = up(tables * figures::SPACE / machines.partitions as f64);
    [
        Item {
            name: "replaced and removed",
            bytes: up((tables + blobs) * (figures::SPACE - 1.0))
                .saturating_add(machines.write_buffer_bytes.saturating_mul(figures::NEW_TABLES)),
            why: format!(
                "until it is merged: {} times what lives, and {} times the write buffers",
                figures::SPACE,
                figures::NEW_TABLES
            ),
            source: GUIDE,
        },
        Item {
            name: "a merge under way",
            bytes: partition.min(figures::COMPACTION_BYTES),
            why: format!("its result beside its tables: a partition, or {}", bytes(figures::COMPACTION_BYTES)),
            source: OPTIONS,
        },
    ]
}

fn log(machines: &Machines) -> [Item; 2] {
    let behind = if machines.nodes > 1 { limits::KEPT_LOG_BYTES } else { 0 };
    let each = limits::SNAPSHOT_LOG_BYTES + behind;
    let buffer = machines.write_buffer_bytes / (limits::LOG_BUFFER_PART as u64);
    let tables = u64::from(limits::LOG_TABLES.unsigned_abs());
    [
        Item {
            name: "log",
            bytes: each.saturating_mul(machines.partitions),
            why: format!("up to {} of each of {} partitions", bytes(each), machines.partitions),
            source: LIMITS,
        },
        Item {
            name: "log that is done with",
            bytes: buffer.saturating_mul(tables).saturating_add(machines.write_buffer_bytes),
            why: format!("{tables} tables of {} before they are merged, and what no table has yet", bytes(buffer)),
            source: OPTIONS,
        },
    ]
}

fn snapshots(state: f64, machines: &Machines) -> [Item; 2] {
    let partition = state / machines.partitions as f64;
    // With one node lost, the others lead its partitions, and bring the one up that replaces it.
    let led_partitions = machines.partitions.div_ceil(machines.nodes.saturating_sub(1).max(1));
    let led = led_partitions as f64 * partition;
    let idle_s = limits::EXPORT_IDLE_MS as f64 / 1_000.0;
    let lingering = partition.max(figures::SNAPSHOT_BYTES_PER_S * idle_s);
    let installs = limits::MAX_INSTALLS as u64;
    let held_back = limits::SENDING_LOG_BYTES.saturating_sub(limits::SNAPSHOT_LOG_BYTES + limits::KEPT_LOG_BYTES);
    [
        Item {
            name: "snapshots sent",
            bytes: up(led.min(lingering)).saturating_add(held_back.saturating_mul(installs)),
            why: format!(
                "in place of a lost node: of {led_partitions} partitions, at most what goes out in the {idle_s} s that each stays; log kept"
            ),
            source: PERFORMANCE,
        },
        Item {
            name: "snapshots received",
            bytes: up(partition * installs as f64),
            why: format!("{installs} partitions at a time, beside what they replace"),
            source: LIMITS,
        },
    ]
}
