//! What was measured, and where it is written down. Tests hold it: those of the pages against the pages, those of the store
//! against a store.

const MIB: u64 = 1024 * 1024;

/// Where most of these figures are written down.
pub const GUIDE: &str = "docs/guides/capacity.md";
/// Where those of speed are.
pub const PERFORMANCE: &str = "docs/reference/performance.md";

/// The part that compression leaves of a record, the keys and the index: names repeat, digests and nonces do not.
pub const RECORD_SHARE: f64 = 0.75;
/// Bytes of an envelope's entry in the tables when the envelope itself is in a blob file: where it is.
pub const BLOB_PLACE_BYTES: u64 = 16;
/// Bytes in front of each value in a blob file, beside its key.
pub const BLOB_HEADER_BYTES: u64 = 32;
/// Bytes of tables and blob files over those of live data, while records come and go and compaction keeps up.
pub const SPACE: f64 = 1.4;
/// Tables of new writes that wait before they are merged into the others, of all partitions together as large as the write
/// buffers each (RocksDB's `level0_file_num_compaction_trigger`).
pub const NEW_TABLES: u64 = 4;
/// Bytes over those of live data while a node writes as fast as it can, so that compaction falls behind.
pub const SPACE_AT_FULL_SPEED: f64 = 2.5;
/// Bytes that one compaction takes in at the most: 25 tables of 64 MiB (RocksDB's `max_compaction_bytes`).
pub const COMPACTION_BYTES: u64 = 25 * 64 * MIB;
/// Bytes of a block's entry in the index of its table: as much of a key as tells it from the next, and where it is.
pub const INDEX_ENTRY_BYTES: f64 = 28.0;

/// Resident bytes of a node that does nothing, without its partitions.
pub const IDLE_NODE_BYTES: u64 = 80 * MIB;
/// Resident bytes of a partition that does nothing: consensus, its tasks, its column family.
pub const IDLE_PARTITION_BYTES: u64 = 9 * MIB / 4;
/// Bytes of what is being worked on, and of what the allocator keeps: what remains of a busy node's peak with ten million
/// records when everything else here is taken off.
pub const WORK_BYTES: u64 = 128 * MIB;

/// Seconds that a partition needs to apply one cycle, one after another: 30 % of a cycle's 60 us of processor time.
pub const APPLY_S: f64 = 60e-6 * 0.3;
/// Bytes of a snapshot that go from one node to another in a second: 1 GiB took 7.1 s.
pub const SNAPSHOT_BYTES_PER_S: f64 = 1_073_741_824.0 / 7.1;
/// Bytes that a partition should have at the most: a snapshot of it travels in under a minute, and is installed within
/// [`crate::limits::SNAPSHOT_INSTALL_MS`].
pub const PARTITION_BYTES: u64 = 8 * 1024 * MIB;
/// Partitions that each node should lead at least: what a node that dies led is then spread over the others.
pub const LED_BY_EACH: u64 = 4;
/// Bytes of write buffers that a partition should have at least: smaller tables are merged more often.
pub const BUFFER_BYTES: u64 = 3 * MIB;

/// Bytes of the bodies that the speeds below were measured with.
pub const MEASURED_BODY_BYTES: u64 = 512;
/// Calls of a cycle that was measured: Reserve, Complete, and a replay for a fifth of the keys.
pub const MEASURED_CALLS: f64 = 2.2;

/// How fast a node, or a region of three, is: 256 clients on the same 2 cores and one disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Nodes.
    pub nodes: u64,
    /// Whether clients called over sessions.
    pub sessions: bool,
    /// The row of the page.
    pub row: &'static str,
    /// Cycles a second.
    pub cycles_per_s: u64,
}

/// What was measured.
pub const SPEEDS: [Speed; 4] = [
    Speed { nodes: 1, sessions: true, row: "one node, sessions, 256 clients", cycles_per_s: 18_580 },
    Speed { nodes: 1, sessions: false, row: "one node, single requests, 256 clients", cycles_per_s: 10_419 },
    Speed { nodes: 3, sessions: true, row: "three nodes, sessions, 256 clients", cycles_per_s: 8_076 },
    Speed { nodes: 3, sessions: false, row: "three nodes, single requests, 256 clients", cycles_per_s: 4_178 },
];

impl Speed {
    /// What was measured that is most like a region of so many nodes: several are like three.
    #[must_use]
    pub fn like(nodes: u64, sessions: bool) -> Self {
        let [alone_sessions, alone, three_sessions, three] = SPEEDS;
        match (nodes, sessions) {
            (0 | 1, true) => alone_sessions,
            (0 | 1, false) => alone,
            (_, true) => three_sessions,
            (_, false) => three,
        }
    }

    /// Calls a second.
    #[must_use]
    pub fn operations_per_s(&self) -> f64 {
        self.cycles_per_s as f64 * MEASURED_CALLS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amounts::count;

    const PAGE: &str = include_str!("../../docs/reference/performance.md");

    /// The number that a text of the page begins with.
    fn number(text: &str) -> f64 {
        text.split([' ', ',']).next().and_then(|number| number.parse().ok()).unwrap_or_default()
    }

    #[test]
    fn speeds_are_those_of_the_page() {
        for speed in SPEEDS {
            let row = format!("| {} | {} |", speed.row, count(speed.cycles_per_s));
            assert!(PAGE.contains(&row), "{PERFORMANCE} has no row {row}: write its figure into src/plan/figures.rs");
            assert_eq!(Speed::like(speed.nodes, speed.sessions), speed);
        }
        assert!(PAGE.contains("2.2 operations") && PAGE.contains("512-byte bodies"));
        assert_eq!(Speed::like(5, true), Speed::like(3, true));
    }

    #[test]
    fn figures_are_those_of_the_guide() {
        use crate::amounts::bytes;
        use crate::limits;
        let guide = include_str!("../../docs/guides/capacity.md");
        let rows = [
            ("part that compression leaves of records, keys and indexes", RECORD_SHARE.to_string()),
            ("tables and blob files, of their live data", SPACE.to_string()),
            ("the same at full speed", SPACE_AT_FULL_SPEED.to_string()),
            ("bytes of a merge at the most", bytes(COMPACTION_BYTES)),
            ("bytes of a block's entry in an index", INDEX_ENTRY_BYTES.to_string()),
            ("memory of a node that does nothing, without its partitions", bytes(IDLE_NODE_BYTES)),
            ("memory of a partition that does nothing", bytes(IDLE_PARTITION_BYTES)),
            ("memory of what is in flight, and of what the allocator keeps", bytes(WORK_BYTES)),
            ("memory of a held key", bytes(limits::HELD_KEY_BYTES)),
            ("memory of a connection under load", bytes(limits::CONNECTION_BYTES)),
            ("bytes of a partition at the most", bytes(PARTITION_BYTES)),
            ("partitions that each node leads at least", LED_BY_EACH.to_string()),
            ("write buffers of a partition at least", bytes(BUFFER_BYTES)),
        ];
        for (figure, value) in &rows {
            assert!(guide.contains(&format!("| {figure} | {value} |\n")), "{GUIDE} has no row | {figure} | {value} |");
        }
        let table = guide.split("| figure | value |").nth(1).unwrap_or_default();
        assert_eq!(table.lines().filter(|line| line.starts_with("| ")).count(), rows.len());
    }

    #[test]
    fn times_are_those_of_the_page() {
        let flat = PAGE.replace('\n', " ");
        let cycle = flat.split("The node takes about ").nth(1).map(number);
        let share = flat.split("applying ").nth(1).map(number);
        let applying = cycle.unwrap_or_default() * 1e-6 * share.unwrap_or_default() / 100.0;
        assert!((APPLY_S - applying).abs() < 1e-9, "{applying}");
        assert!(flat.contains("16384 records of 65536 bytes (1024 MiB)"));
        let took = flat.split("a fresh node had them after ").nth(1).map(number).unwrap_or_default();
        assert!((SNAPSHOT_BYTES_PER_S * took - 1_073_741_824.0).abs() < 1.0, "{took}");
    }
}
