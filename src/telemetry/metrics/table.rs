//! Every metric of a node, with its labels and its meaning: docs/reference/metrics.md is made from this table, and a test
//! holds what a running node exposes against it.
//!
//! Names begin with `holdfast_`, but for those that Prometheus itself names (`process_…`). Units are seconds and bytes, and
//! stand last.

/// Bounds of buckets, ascending. The bucket of everything larger is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buckets {
    /// In nanoseconds; shown in seconds.
    Durations(&'static [u64]),
    /// Counts, or bytes.
    Sizes(&'static [u64]),
}

impl Buckets {
    /// The bounds.
    #[must_use]
    pub const fn bounds(self) -> &'static [u64] {
        match self {
            Self::Durations(bounds) | Self::Sizes(bounds) => bounds,
        }
    }
}

/// What kind of numbers a metric has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; begins at zero with the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Values in buckets.
    Histogram(Buckets),
}

impl Kind {
    /// As the text format says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it says, in one or a few sentences.
    pub help: &'static str,
}

/// Metrics that belong together.
#[derive(Debug)]
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// Its metrics.
    pub metrics: &'static [&'static Metric],
}

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;
const S: u64 = 1_000 * MS;

/// Of calls and of what they wait for: 50 µs to 10 s.
pub const LATENCIES: Buckets = Buckets::Durations(&[
    50 * US,
    100 * US,
    200 * US,
    500 * US,
    MS,
    2 * MS,
    5 * MS,
    10 * MS,
    20 * MS,
    50 * MS,
    100 * MS,
    200 * MS,
    500 * MS,
    S,
    2 * S,
    5 * S,
    10 * S,
]);
/// Of a snapshot on its way: 100 ms to 30 minutes.
pub const LONG: Buckets =
    Buckets::Durations(&[100 * MS, 500 * MS, S, 5 * S, 10 * S, 30 * S, 60 * S, 300 * S, 600 * S, 1_800 * S]);
/// Of what goes together.
pub const COUNTS: Buckets = Buckets::Sizes(&[1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000]);
/// Of bytes that go together: 1 KiB to 16 MiB.
pub const BYTES: Buckets = Buckets::Sizes(&[1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24]);

macro_rules! table {
    ($($title:literal { $($name:ident = $kind:expr, $text:literal [$($label:literal)*] $help:literal;)* })*) => {
        $($(#[doc = $help] pub static $name: Metric =
            Metric { name: $text, kind: $kind, labels: &[$($label),*], help: $help };)*)*

        /// Every metric.
        pub static SECTIONS: &[Section] = &[$(Section { title: $title, metrics: &[$(&$name),*] }),*];
    };
}

use Kind::{Counter, Gauge, Histogram};
pub(super) use table;

table! {
    "Calls" {
        CALLS = Counter, "holdfast_calls_total" ["method" "outcome"]
            "Calls that this node answered its clients, over any API, by what they came to. A call whose input was refused before it reached the store is in holdfast_failures_total only; one whose client went away first is in neither.";
        CALL_DURATION = Histogram(LATENCIES), "holdfast_call_duration_seconds" ["method" "waits"]
            "How long these calls took, from when they were read until the answer was known. waits is yes for a Reserve with wait_ms, which may take as long as it asked to.";
        FAILURES = Counter, "holdfast_failures_total" ["code" "definite"]
            "Failures that this node told its clients, by code. definite is no where the call may have been carried out all the same.";
        RESERVES = Counter, "holdfast_reserves_total" ["tenant" "endpoint" "severity" "client_version" "outcome"]
            "Reserve calls that this node answered its clients, by whose they were. The number of label sets is limited: what is beyond it is counted as (other). An outcome is shown from its first call on.";
        OVERLOADS = Counter, "holdfast_overloads_total" ["limit"]
            "Times that something was refused because as much waited as is allowed, by what was full.";
        LIMITED = Counter, "holdfast_limited_total" ["tenant" "limit"]
            "Reserve calls that a limit refused, by the limit, as the node that leads the key's partition counts them. A limit is shown from its first refusal on. The number of label sets is limited.";
        KEY_STORMS = Counter, "holdfast_key_storms_total" ["tenant" "endpoint"]
            "Alarms that a client uses new keys as in a storm: the same requests under new keys, or many times as many keys as it ever used. At most one a client and minute, on each node. The number of label sets is limited.";
        MODIFIED_REPLAYS = Counter, "holdfast_modified_replay_alarms_total" ["tenant" "endpoint"]
            "Alarms that a client came back with keys and other requests, 20 times or more in a minute. At most one a client and minute, on each node. How often it happens is in holdfast_reserves_total, as mismatch.";
        HELD_KEYS = Gauge, "holdfast_held_keys" ["partition"]
            "Keys that are held now, as the leader of the partition counts their leases.";
        TENANT_KEYS = Gauge, "holdfast_tenant_keys" ["tenant"]
            "Keys that a tenant has stored in the region, as this node has applied them: every node shows the same. Of tenants that were made, the first 1,000 by name.";
        TENANT_BYTES = Gauge, "holdfast_tenant_bytes" ["tenant"]
            "Bytes of these keys, answers included.";
        TENANT_MAX_KEYS = Gauge, "holdfast_tenant_max_keys" ["tenant"]
            "Keys that a tenant may have stored. Not shown for one without that limit.";
        TENANT_MAX_BYTES = Gauge, "holdfast_tenant_max_bytes" ["tenant"]
            "Bytes that a tenant may have stored. Not shown for one without that limit.";
        LABEL_SETS = Gauge, "holdfast_label_sets" ["metric"]
            "Label sets that are in use, of the metrics whose labels clients choose.";
        LABEL_SETS_LIMITED = Counter, "holdfast_label_sets_limited_total" ["metric"]
            "Events that were counted as (other) because there were as many label sets as are allowed.";
    }
    "Several nodes" {
        PEER_REACHABLE = Gauge, "holdfast_peer_reachable" ["peer"]
            "1 if the other node was heard of within the last two seconds, else 0.";
        FORWARDED_CALLS = Counter, "holdfast_forwarded_calls_total" ["direction" "outcome"]
            "Calls that were passed on to the node that leads their partition, as the node that sends and the one that receives count them. One that goes to several nodes, while leaders change, counts each time; not_leader is a node that passed it back.";
        FORWARD_DURATION = Histogram(LATENCIES), "holdfast_forward_duration_seconds" []
            "How long a forwarded call took, as the node that forwarded it saw it.";
    }
    "Consensus" {
        RAFT_ROLE = Gauge, "holdfast_raft_role" ["partition" "role"]
            "1 for the role that this node has in the partition's group, 0 for the others.";
        RAFT_LEADER = Gauge, "holdfast_raft_leader_id" ["partition"]
            "The node that leads the group, as far as this node knows; 0 for nobody.";
        RAFT_LEADER_CHANGES = Counter, "holdfast_raft_leader_changes_total" ["partition"]
            "Times that this node learned of another leader of the group, or of a new term of the same one.";
        RAFT_TERM = Gauge, "holdfast_raft_term" ["partition"]
            "The group's term.";
        RAFT_VOTERS = Gauge, "holdfast_raft_voters" ["partition"]
            "Members of the group that vote.";
        RAFT_LEARNERS = Gauge, "holdfast_raft_learners" ["partition"]
            "Members of the group that do not vote.";
        RAFT_LAST_LOG = Gauge, "holdfast_raft_last_log_index" ["partition"]
            "The last entry of the log.";
        RAFT_APPLIED = Gauge, "holdfast_raft_applied_index" ["partition"]
            "The last entry that was applied here.";
        RAFT_SNAPSHOT = Gauge, "holdfast_raft_snapshot_index" ["partition"]
            "The last entry that is in a snapshot.";
        RAFT_PURGED = Gauge, "holdfast_raft_purged_index" ["partition"]
            "The last entry that was removed from the log.";
        RAFT_LAG = Gauge, "holdfast_raft_replication_lag_entries" ["partition" "peer"]
            "Entries that another member lacks. Only the leader has it.";
        RAFT_QUORUM_AGE = Gauge, "holdfast_raft_quorum_ack_age_seconds" ["partition"]
            "How long ago a majority last acknowledged this leader. Only the leader of more than one node has it.";
    }
    "Log and state machine" {
        QUEUED_OPERATIONS = Gauge, "holdfast_queued_operations" ["partition"]
            "Operations that wait for a batch.";
        QUEUED_BYTES = Gauge, "holdfast_queued_bytes" ["partition"]
            "Bytes of operations that wait or are in flight.";
        BATCH_OPERATIONS = Histogram(COUNTS), "holdfast_batch_operations" []
            "Operations in one log entry that this node proposed.";
        COMMIT_DURATION = Histogram(LATENCIES), "holdfast_commit_duration_seconds" []
            "How long a log entry took from being proposed until it was applied, replication and sync included.";
        READ_CONFIRM_DURATION = Histogram(LATENCIES), "holdfast_read_confirm_duration_seconds" []
            "How long a leader took to make sure that it still leads. All reads that wait share one round.";
        LOG_SYNC_DURATION = Histogram(LATENCIES), "holdfast_log_sync_duration_seconds" []
            "How long one write and sync of the log took.";
        LOG_SYNC_ENTRIES = Histogram(COUNTS), "holdfast_log_sync_entries" []
            "Log entries of all groups in one sync.";
        LOG_SYNC_BYTES = Histogram(BYTES), "holdfast_log_sync_bytes" []
            "Bytes of log entries in one sync.";
        APPLY_DURATION = Histogram(LATENCIES), "holdfast_apply_duration_seconds" []
            "How long it took to decide and write the operations that were applied together.";
        APPLIED_OPERATIONS = Counter, "holdfast_applied_operations_total" []
            "Operations that were applied here.";
        APPLIED_RECORDS = Counter, "holdfast_applied_records_total" ["tenant" "endpoint" "change"]
            "What applied entries did to records on this node. Every member of a group counts it. After a start, entries that were not flushed are applied again, and count again. The number of label sets is limited.";
        APPLIED_ENVELOPE_BYTES = Counter, "holdfast_applied_envelope_bytes_total" ["tenant" "endpoint"]
            "Bytes of response envelopes that applied entries stored on this node. It counts as holdfast_applied_records_total does.";
        SNAPSHOTS = Counter, "holdfast_snapshots_total" ["direction" "outcome"]
            "Snapshots of a group that were sent to or received from another node.";
        SNAPSHOT_BYTES = Counter, "holdfast_snapshot_bytes_total" ["direction"]
            "Bytes of such snapshots, those of broken transfers included.";
        SNAPSHOT_DURATION = Histogram(LONG), "holdfast_snapshot_duration_seconds" ["direction"]
            "How long a snapshot was on its way, from the first byte until it was installed or given up.";
    }
    "Storage" {
        PARTITION_SERVING = Gauge, "holdfast_partition_serving" ["partition"]
            "1 while the partition serves, 0 once it has stopped for good on this node.";
        CLOCK_HELD = Gauge, "holdfast_clock_held" ["partition"]
            "1 while the clock is over an hour ahead of log time and nobody has accepted it: nothing expires.";
        LOG_TIME = Gauge, "holdfast_log_time_seconds" ["partition"]
            "Log time, since the Unix epoch.";
        STORE_KEYS = Gauge, "holdfast_store_keys" ["partition"]
            "RocksDB's estimate of the keys in the group's column family. A completed record has three: the record, its envelope and its place in the index of expiry; a held one has two. Until compaction, what was replaced counts too, and what marked a key as held takes one off.";
        STORE_LIVE_BYTES = Gauge, "holdfast_store_live_bytes" ["partition"]
            "RocksDB's estimate of the bytes of live data in the group's tables, envelopes of 4 KiB and more not included.";
        STORE_TABLE_BYTES = Gauge, "holdfast_store_table_bytes" ["partition"]
            "Bytes of the group's table files, until compaction also of what was replaced.";
        STORE_BLOB_BYTES = Gauge, "holdfast_store_blob_bytes" ["partition"]
            "Bytes of the group's files of envelopes of 4 KiB and more.";
        STORE_MEMORY_BYTES = Gauge, "holdfast_store_memory_bytes" ["partition"]
            "Bytes of the group's writes that are in memory and in the log, and not in tables yet.";
        FREE_DISK_BYTES = Gauge, "holdfast_free_disk_bytes" []
            "Free bytes on the data disk.";
        MIN_FREE_DISK_BYTES = Gauge, "holdfast_min_free_disk_bytes" []
            "Free bytes on the data disk under which no new grant is made.";
    }
    "Process" {
        NODE_INFO = Gauge, "holdfast_node_info" ["version" "cluster_id" "region" "node_id"]
            "Always 1: which program runs as which node.";
        PROCESS_CPU = Counter, "process_cpu_seconds_total" []
            "Processor time of all threads, in user and system mode.";
        PROCESS_RSS = Gauge, "process_resident_memory_bytes" []
            "Resident memory.";
        PROCESS_VIRTUAL = Gauge, "process_virtual_memory_bytes" []
            "Virtual memory.";
        PROCESS_THREADS = Gauge, "process_threads" []
            "Threads.";
        PROCESS_OPEN_FDS = Gauge, "process_open_fds" []
            "Open file descriptors.";
        PROCESS_MAX_FDS = Gauge, "process_max_fds" []
            "File descriptors that the process may open.";
        PROCESS_START = Gauge, "process_start_time_seconds" []
            "When the process started, since the Unix epoch.";
    }
}

/// Every metric, in the order of the reference page.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    SECTIONS.iter().flat_map(|section| section.metrics.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_prefixed_and_end_in_their_unit() {
        let mut names: Vec<&str> = all().map(|metric| metric.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|two| two[0] != two[1]), "{names:?}");
        for metric in all() {
            let name = metric.name;
            assert!(name.starts_with("holdfast_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Counter, "{name}");
            if let Histogram(Buckets::Durations(_)) = metric.kind {
                assert!(name.ends_with("_duration_seconds"), "{name}");
            }
            assert!(metric.help.ends_with('.') && metric.help.len() > 5, "{name}: {}", metric.help);
        }
    }

    #[test]
    fn bounds_ascend() {
        for buckets in [LATENCIES, LONG, COUNTS, BYTES] {
            assert!(buckets.bounds().windows(2).all(|two| two[0] < two[1]), "{buckets:?}");
        }
        assert_eq!(LATENCIES.bounds().first(), Some(&50_000));
        assert_eq!(LATENCIES.bounds().last(), Some(&10_000_000_000));
    }
}
