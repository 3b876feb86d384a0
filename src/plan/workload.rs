//! What a region is to carry: endpoints with their keys, and the machines that carry them. Every value is within its bounds
//! ([`crate::plan::file`] checks them).

use crate::ids::{EndpointName, PartitionCount};

const DAY_MS: f64 = 86_400_000.0;
const DAY_S: f64 = 86_400.0;

/// A region, and what it is to carry.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Nodes of the region.
    pub nodes: u64,
    /// Partitions, if their number is settled: it never changes once a cluster is made.
    pub partitions: Option<PartitionCount>,
    /// The part of each machine that stays free.
    pub headroom: f64,
    /// How many times as much the partitions have to carry one day.
    pub growth: f64,
    /// Whether clients call over sessions.
    pub sessions: bool,
    /// Connections of clients to one node.
    pub connections: u64,
    /// Bytes of memory for blocks, if they are settled.
    pub block_cache_bytes: Option<u64>,
    /// Bytes of memory for what is not in tables yet, if they are settled.
    pub write_buffer_bytes: Option<u64>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// The keys of one endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Its name: it stands in every record.
    pub name: EndpointName,
    /// New keys a day.
    pub keys_per_day: f64,
    /// How much busier than the day's mean the busiest moment is.
    pub peak_factor: f64,
    /// How often a key is asked again once it is completed.
    pub replays_per_key: f64,
    /// Bytes of tenant and key together, in the mean.
    pub key_bytes: u64,
    /// Bytes of a response, body and headers, in the mean.
    pub envelope_bytes: u64,
    /// The part of these bytes that compression leaves.
    pub compresses_to: f64,
    /// How long a completed record is kept, in milliseconds.
    pub retention_ms: u64,
    /// The grant's lease, in milliseconds.
    pub lease_ms: u64,
}

impl Endpoint {
    /// New keys a second in the day's mean.
    #[must_use]
    pub fn mean_per_s(&self) -> f64 {
        self.keys_per_day / DAY_S
    }

    /// New keys a second in the busiest moment.
    #[must_use]
    pub fn peak_per_s(&self) -> f64 {
        self.mean_per_s() * self.peak_factor
    }

    /// Calls a second in the busiest moment: Reserve, Complete, and the replays.
    #[must_use]
    pub fn peak_operations_per_s(&self) -> f64 {
        self.peak_per_s() * (2.0 + self.replays_per_key)
    }

    /// Records that are kept at a time: of whole days all keys; of what remains of the retention as many as the peak makes in
    /// it, and no more than a day's.
    #[must_use]
    pub fn records(&self) -> f64 {
        let days = self.retention_ms as f64 / DAY_MS;
        let rest = (days - days.floor()) * DAY_S * self.peak_per_s();
        self.keys_per_day * days.floor() + rest.min(self.keys_per_day)
    }

    /// Keys that are held at a time if every attempt takes its whole lease, in the busiest moment: no more than a day's.
    #[must_use]
    pub fn held(&self) -> f64 {
        (self.peak_per_s() * self.lease_ms as f64 / 1_000.0).min(self.keys_per_day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_those_of_the_retention() {
        let endpoint = |retention_ms, peak_factor| Endpoint {
            name: EndpointName::parse("POST /v1/charges").unwrap(),
            keys_per_day: 86_400.0,
            peak_factor,
            replays_per_key: 0.5,
            key_bytes: 50,
            envelope_bytes: 500,
            compresses_to: 1.0,
            retention_ms,
            lease_ms: 30_000,
        };
        const HOUR: u64 = 3_600_000;
        assert_eq!(endpoint(7 * 24 * HOUR, 5.0).records(), 7.0 * 86_400.0, "of whole days the peaks are in the mean");
        assert_eq!(endpoint(HOUR, 5.0).records(), 5.0 * 3_600.0, "an hour may be the busiest");
        assert_eq!(endpoint(12 * HOUR, 5.0).records(), 86_400.0, "no half day has more than the day");
        assert_eq!(endpoint(36 * HOUR, 1.0).records(), 1.5 * 86_400.0);
        assert_eq!(endpoint(HOUR, 5.0).peak_operations_per_s(), 12.5);
        assert_eq!(endpoint(HOUR, 4.0).held(), 120.0);
    }
}
