use super::*;
use crate::ids::PartitionCount;
use crate::limits;
use findings::Level;

const EXAMPLE: &str = include_str!("../../deploy/capacity/payments.toml");

fn workload(text: &str) -> Workload {
    file::parse(text).unwrap()
}

/// One endpoint of so many keys a day, with further lines for the file and for the endpoint.
fn plan(keys_per_day: u64, file: &str, endpoint: &str) -> Plan {
    let text = format!(
        "{file}\n[[endpoint]]\nname = \"a\"\nkeys_per_day = {keys_per_day}\nenvelope_bytes = 500\nseverity = \"high\"\n{endpoint}"
    );
    Plan::of(&workload(&text))
}

fn codes(plan: &Plan) -> Vec<&'static str> {
    plan.findings.iter().map(|finding| finding.code).collect()
}

fn item(sum: &Sum, name: &str) -> u64 {
    sum.items.iter().find(|item| item.name == name).map_or(0, |item| item.bytes)
}

#[test]
fn the_example_is_carried_without_a_complaint() {
    let plan = Plan::of(&workload(EXAMPLE));
    assert!(plan.findings.iter().all(|finding| finding.level == Level::Warning), "{:?}", plan.findings);
    assert_eq!(plan.endpoints.len(), 4);
    assert_eq!(plan.endpoints.first().map(|charges| charges.records), Some(21_000_000));
    for sum in [&plan.disk, &plan.memory] {
        assert_eq!(sum.bytes, sum.items.iter().map(|item| item.bytes).sum::<u64>());
        assert!(sum.with_headroom_bytes > sum.bytes);
        assert!(sum.items.iter().all(|item| !item.why.is_empty() && !item.source.is_empty()), "{:?}", sum.items);
    }
}

#[test]
fn more_of_anything_never_asks_for_less() {
    let base = |from: &str, to: &str| Plan::of(&workload(&EXAMPLE.replace(from, to)));
    let plain = base("", "");
    let cases = [
        ("keys_per_day = 3_000_000", "keys_per_day = 6_000_000"),
        ("envelope_bytes = 1_400", "envelope_bytes = 3_000"),
        ("envelope_bytes = 48_000", "envelope_bytes = 90_000"),
        ("retention = \"5d\"", "retention = \"20d\""),
        ("headroom = 0.3 ", "headroom = 0.5 "),
        ("growth = 4 ", "growth = 40 "),
        ("lease = \"60s\"", "lease = \"600s\""),
        ("peak_factor = 6", "peak_factor = 60"),
        ("nodes = 3 ", "nodes = 9 "),
    ];
    for (from, to) in cases {
        assert!(EXAMPLE.contains(from), "{from}");
        let more = base(from, to);
        let sizes = |plan: &Plan| {
            let rate = (plan.rate.share * 1e6) as u64;
            [plan.disk.with_headroom_bytes, plan.memory.with_headroom_bytes, plan.partitions.count, rate]
        };
        let (before, after) = (sizes(&plain), sizes(&more));
        // Exports are spread over more leaders, where there are more nodes.
        let smaller = before.iter().zip(&after).any(|(before, after)| after < before);
        assert!(!smaller || to.starts_with("nodes"), "{from} -> {to}: {before:?} -> {after:?}");
        assert_ne!(before, after, "{from} -> {to}");
    }
}

#[test]
fn partitions_are_chosen_for_what_is_to_come() {
    let counts = |plan: Plan| (plan.partitions.count, plan.partitions.is_chosen);
    assert_eq!(counts(plan(1_000, "", "")), (16, true), "the default");
    assert_eq!(counts(plan(1_000, "nodes = 5", "")), (32, true), "20 for the leaders, and the next power of two");
    let grown = plan(30_000_000, "growth = 10", "");
    let need = grown.partitions.needs.iter().find(|need| need.name == "size").map(|need| need.count).unwrap();
    assert_eq!(grown.partitions.count, need.next_power_of_two(), "{:?}", grown.partitions);
    assert!(need > 32);
    let settled = plan(30_000_000, "growth = 10\npartitions = 16", "");
    assert_eq!((settled.partitions.count, settled.partitions.is_chosen), (16, false));
    assert!(codes(&settled).contains(&"partitions-few"), "{:?}", settled.findings);
    let fast = plan(4_000_000_000, "growth = 1", "retention = \"1s\"");
    let applying = fast.partitions.needs.iter().find(|need| need.name == "applying").map(|need| need.count);
    assert_eq!(applying, Some(5), "185,186 keys/s at the peak are 3.3 s of applying each second, and 30 % stay free");
}

#[test]
fn what_no_region_carries_is_an_error() {
    let huge = plan(80_000_000_000, "", "retention = \"400d\"");
    assert_eq!(huge.partitions.count, u64::from(*limits::PARTITIONS.end()));
    let errors: Vec<_> = huge.findings.iter().filter(|finding| finding.level == Level::Error).collect();
    assert_eq!(errors.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["too-large", "partition-too-large"]);
}

#[test]
fn what_may_not_go_well_is_a_warning() {
    assert_eq!(codes(&plan(100_000, "", "")), [""; 0]);
    let cases = [
        (plan(100_000, "nodes = 1", ""), "one-node"),
        (plan(100_000, "nodes = 4", ""), "even-nodes"),
        (plan(100_000_000, "", ""), "faster-than-measured"),
        (plan(20_000_000, "", "lease = \"1h\""), "held-keys"),
        (plan(100_000, "partitions = 256\nwrite_buffer_bytes = 100_663_296", ""), "write-buffers-small"),
        (plan(50_000_000, "block_cache_bytes = 134_217_728", ""), "block-cache-small"),
    ];
    for (plan, code) in cases {
        assert!(codes(&plan).contains(&code), "{code}: {:?}", plan.findings);
    }
    let large = format!(
        "{EXAMPLE}\n[[endpoint]]\nname = \"z\"\nseverity = \"low\"\nkeys_per_day = 1\nenvelope_bytes = 1_000_000\n"
    );
    let finding = Plan::of(&workload(&large)).findings.into_iter().find(|finding| finding.code == "large-responses");
    assert!(finding.is_some_and(|finding| finding.text.contains("--body-bytes 1000000")));
}

#[test]
fn what_is_advised_is_enough() {
    let cases = [plan(50_000_000, "", ""), plan(100_000, "partitions = 1_000", "")];
    for plan in cases {
        let (cache, buffers) = (plan.machines.block_cache_bytes, plan.machines.write_buffer_bytes);
        assert!(limits::BLOCK_CACHE_BYTES.contains(&cache) && limits::WRITE_BUFFER_BYTES.contains(&buffers));
        assert!(!codes(&plan).iter().any(|code| code.ends_with("-small")), "{:?}", plan.findings);
    }
}

#[test]
fn one_node_sends_nothing_and_keeps_no_log_for_others() {
    let (alone, three) = (plan(1_000_000, "nodes = 1", ""), plan(1_000_000, "", ""));
    assert_eq!(item(&alone.disk, "snapshots sent") + item(&alone.disk, "snapshots received"), 0);
    assert!(item(&three.disk, "snapshots sent") > 0 && item(&three.disk, "snapshots received") > 0);
    assert_eq!(item(&alone.disk, "log"), 16 * limits::SNAPSHOT_LOG_BYTES);
    assert_eq!(item(&three.disk, "log"), 16 * (limits::SNAPSHOT_LOG_BYTES + limits::KEPT_LOG_BYTES));
    assert_eq!(item(&alone.disk, "records"), item(&three.disk, "records"), "every node has everything");
}

#[test]
fn ten_million_records_take_the_memory_that_was_measured() {
    // What the page says of a node with the default settings and 256 clients.
    let page = include_str!("../../docs/reference/performance.md");
    let peak =
        page.split("memory: peak ").nth(1).and_then(|rest| rest.split(' ').next()).and_then(|kib| kib.parse().ok());
    let peak: u64 = peak.map(|kib: u64| kib * 1024).unwrap();
    let settings =
        "nodes = 1\nconnections = 4\npartitions = 4\nblock_cache_bytes = 134_217_728\nwrite_buffer_bytes = 100_663_296";
    let plan = plan(10_000_000, settings, "retention = \"1d\"\npeak_factor = 1\nlease = \"1s\"");
    let off = plan.memory.bytes as f64 / peak as f64;
    assert!((0.85..=1.25).contains(&off), "predicted {} bytes, measured {peak}", plan.memory.bytes);
}

#[test]
fn settings_that_are_given_are_kept() {
    let plan = plan(1_000, "partitions = 64\nblock_cache_bytes = 1_048_576\nwrite_buffer_bytes = 4_194_304", "");
    assert_eq!(plan.machines.block_cache_bytes, 1 << 20);
    assert_eq!(plan.machines.write_buffer_bytes, 4 << 20);
    assert_eq!(plan.machines.partitions, PartitionCount::new(64).map_or(0, |count| u64::from(count.get().get())));
}
