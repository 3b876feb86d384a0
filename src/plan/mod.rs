//! Capacity: from keys a day to disk, memory, speed and partitions. Functions over values: where the workload comes from, a
//! file or a node's metrics, is the caller's.
//!
//! What a key takes is not estimated: [`life`] lets the decisions and the codec write one. What was measured, and where, is
//! [`figures`]. [`mod@file`] reads a workload, [`Plan::of`] carries it.
//!
//! Deliberately absent: money, and machines by name.

pub mod carried;
mod disk;
pub mod figures;
pub mod file;
pub mod findings;
pub mod life;
mod memory;
pub mod partitions;
#[cfg(test)]
mod stored;
#[cfg(test)]
mod tests;
pub mod workload;

use carried::{Carried, up};
use figures::Speed;
use findings::Finding;
use partitions::Partitions;
use workload::Workload;

/// A part of a disk or of a memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub name: &'static str,
    /// How many bytes.
    pub bytes: u64,
    /// How that comes about.
    pub why: String,
    /// Where that is written down.
    pub source: &'static str,
}

/// The parts of a disk or of a memory, and their sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// The parts.
    pub items: Vec<Item>,
    /// All of them, in bytes.
    pub bytes: u64,
    /// The same with the headroom, in bytes: what to buy.
    pub with_headroom_bytes: u64,
}

/// What all nodes of the region have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machines {
    /// How many there are.
    pub nodes: u64,
    /// Partitions, all of them on each.
    pub partitions: u64,
    /// The setting of that name.
    pub block_cache_bytes: u64,
    /// The setting of that name.
    pub write_buffer_bytes: u64,
}

/// What is asked of the region in the busiest moment, and what was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// New keys a second in the day's mean.
    pub mean_keys_per_s: f64,
    /// New keys a second.
    pub peak_keys_per_s: f64,
    /// Calls a second.
    pub peak_operations_per_s: f64,
    /// What was measured that is most like it.
    pub measured: Speed,
    /// The part of that that is used.
    pub share: f64,
    /// Bytes a second that every node writes to its log, and a leader sends to each other node.
    pub log_bytes_per_s: u64,
}

/// What a workload asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Each endpoint.
    pub endpoints: Vec<Carried>,
    /// Live bytes of all records on one node.
    pub state_bytes: f64,
    /// The busiest moment.
    pub rate: Rate,
    /// The partitions.
    pub partitions: Partitions,
    /// What each node has.
    pub machines: Machines,
    /// The disk of one node.
    pub disk: Sum,
    /// The memory of one node.
    pub memory: Sum,
    /// What is wrong, or worth a thought.
    pub findings: Vec<Finding>,
}

impl Plan {
    /// Carries a workload.
    #[must_use]
    pub fn of(workload: &Workload) -> Self {
        let endpoints: Vec<Carried> = workload.endpoints.iter().map(Carried::of).collect();
        let partitions = Partitions::choose(&endpoints, workload);
        let machines = Machines {
            nodes: workload.nodes,
            partitions: partitions.count,
            block_cache_bytes: workload.block_cache_bytes.unwrap_or_else(|| memory::block_cache(&endpoints)),
            write_buffer_bytes: workload.write_buffer_bytes.unwrap_or_else(|| memory::write_buffers(partitions.count)),
        };
        let sum = |items| Sum::of(items, workload.headroom);
        let mut plan = Self {
            state_bytes: endpoints.iter().map(|endpoint| endpoint.table_bytes() + endpoint.blob_bytes()).sum(),
            rate: Rate::of(&endpoints, workload),
            disk: sum(disk::items(&endpoints, &machines)),
            memory: sum(memory::items(&endpoints, workload, &machines)),
            endpoints,
            partitions,
            machines,
            findings: Vec::new(),
        };
        plan.findings = findings::of(workload, &plan);
        plan
    }
}

impl Sum {
    fn of(items: Vec<Item>, headroom: f64) -> Self {
        let bytes = items.iter().fold(0_u64, |sum, item| sum.saturating_add(item.bytes));
        Self { items, bytes, with_headroom_bytes: up(bytes as f64 / (1.0 - headroom)) }
    }
}

impl Rate {
    fn of(endpoints: &[Carried], workload: &Workload) -> Self {
        let sum = |of: &dyn Fn(&Carried) -> f64| endpoints.iter().map(of).sum::<f64>();
        let measured = Speed::like(workload.nodes, workload.sessions);
        let peak_operations_per_s = sum(&|endpoint| endpoint.peak_operations_per_s);
        Self {
            mean_keys_per_s: workload.endpoints.iter().map(workload::Endpoint::mean_per_s).sum(),
            peak_keys_per_s: sum(&|endpoint| endpoint.peak_per_s),
            peak_operations_per_s,
            measured,
            share: peak_operations_per_s / measured.operations_per_s(),
            log_bytes_per_s: up(sum(&|endpoint| endpoint.peak_per_s * endpoint.stored.log)),
        }
    }
}
