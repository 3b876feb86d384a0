//! How many partitions. They are fixed when a cluster is made, so what they are to carry is counted as it may be one day.

use crate::amounts::{bytes, count};
use crate::ids::PartitionCount;
use crate::limits;
use crate::plan::carried::{Carried, up};
use crate::plan::figures::{self, GUIDE, PERFORMANCE};
use crate::plan::workload::Workload;

/// A number of partitions, and what asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Partitions {
    /// How many.
    pub count: u64,
    /// Whether the plan chose it: else it is settled.
    pub is_chosen: bool,
    /// How many are needed, for each reason.
    pub needs: Vec<Need>,
}

/// A reason for partitions.
#[derive(Clone, Debug, PartialEq)]
pub struct Need {
    /// What it is about.
    pub name: &'static str,
    /// At least so many.
    pub count: u64,
    /// Why.
    pub why: String,
    /// Where that is written down.
    pub source: &'static str,
}

impl Partitions {
    /// Chooses, unless the number is settled: the most that something asks for, and the next power of two of that.
    pub(super) fn choose(carried: &[Carried], workload: &Workload) -> Self {
        let mut needs = needs(carried, workload);
        if workload.partitions.is_some() {
            // What one would choose says nothing of what is there.
            needs.retain(|need| need.name != DEFAULT);
        }
        let most = u64::from(*limits::PARTITIONS.end());
        let needed = needs.iter().map(|need| need.count).max().unwrap_or(1);
        let chosen = needed.checked_next_power_of_two().unwrap_or(u64::MAX).min(most);
        let settled = workload.partitions.map(PartitionCount::get).map(|count| u64::from(count.get()));
        Self { count: settled.unwrap_or(chosen), is_chosen: settled.is_none(), needs }
    }

    /// What asks for more than there are, the most demanding first.
    pub(super) fn unmet(&self) -> Option<&Need> {
        self.needs.iter().filter(|need| need.count > self.count).max_by_key(|need| need.count)
    }
}

/// The need of whoever needs nothing.
const DEFAULT: &str = "default";

fn needs(carried: &[Carried], workload: &Workload) -> Vec<Need> {
    let growth = workload.growth;
    let state: f64 = carried.iter().map(|endpoint| endpoint.table_bytes() + endpoint.blob_bytes()).sum();
    let peak: f64 = carried.iter().map(|endpoint| endpoint.peak_per_s).sum();
    let grown = peak * growth;
    let microseconds = figures::APPLY_S * 1e6;
    vec![
        Need {
            name: DEFAULT,
            count: u64::from(limits::DEFAULT_PARTITIONS),
            why: "idle ones cost little, and there are never more".to_owned(),
            source: "docs/adr/0003-fixed-partitions.md",
        },
        Need {
            name: "leaders",
            count: workload.nodes.saturating_mul(figures::LED_BY_EACH),
            why: format!("{} for each node to lead: if one dies, all others take some", figures::LED_BY_EACH),
            source: GUIDE,
        },
        Need {
            name: "applying",
            count: up(grown * figures::APPLY_S / (1.0 - workload.headroom)).max(1),
            why: format!(
                "{} keys/s, grown {growth} times: a partition applies one after another, {microseconds:.0} us each",
                count(up(grown))
            ),
            source: PERFORMANCE,
        },
        Need {
            name: "size",
            count: up(state * growth / figures::PARTITION_BYTES as f64).max(1),
            why: format!(
                "{} of records, grown {growth} times: a partition that is sent to a new node has at most {}",
                bytes(up(state * growth)),
                bytes(figures::PARTITION_BYTES)
            ),
            source: GUIDE,
        },
    ]
}
