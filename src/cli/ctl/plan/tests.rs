//! What the command prints, as golden files in tests/output; pages of metrics that nodes might have; and how it ends.

use std::fmt::Display;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::ExitCode;

use super::pages::Look;
use super::scrape::Page;
use super::*;
use crate::cli::golden;
use crate::telemetry::metrics::{Page as Written, table};

const EXAMPLE: &str = include_str!("../../../../deploy/capacity/payments.toml");
const START_S: u64 = 1_795_000_000;

/// A page that a node might have.
#[derive(Clone)]
struct Node {
    id: u64,
    cluster: &'static str,
    started_s: u64,
    /// When the page was written.
    at_s: u64,
    keys: u64,
    replays: u64,
    endpoint: &'static str,
    severity: &'static str,
}

impl Default for Node {
    fn default() -> Self {
        let (cluster, endpoint, severity) = ("pay", "POST /v1/charges", "critical");
        Self { id: 1, cluster, started_s: START_S, at_s: START_S + 100, keys: 1_000, replays: 50, endpoint, severity }
    }
}

impl Node {
    fn text(&self) -> String {
        let mut page = Written::default();
        let none: [&dyn Display; 0] = [];
        page.metric(&table::NODE_INFO).value(&[&"0.1.0", &self.cluster, &"eu", &self.id], 1);
        page.metric(&table::PROCESS_START).value(&none, self.started_s);
        page.metric(&table::PROCESS_RSS).value(&none, 300 << 20);
        let mut created = page.metric(&table::APPLIED_RECORDS);
        for tenant in ["acme", "bolt"] {
            // Half of the keys are each tenant's, and all but four in a hundred are completed.
            let half = self.keys / 2;
            for (change, count) in [("created", half), ("completed", half * 96 / 100), ("removed", 0)] {
                created.value(&[&tenant, &self.endpoint, &change], count);
            }
        }
        let bytes = self.keys / 2 * 96 / 100 * 700;
        let mut envelopes = page.metric(&table::APPLIED_ENVELOPE_BYTES);
        for tenant in ["acme", "bolt"] {
            envelopes.value(&[&tenant, &self.endpoint], bytes);
        }
        let mut reserves = page.metric(&table::RESERVES);
        for (outcome, count) in [("granted", self.keys), ("replay", self.replays), ("mismatch", 3)] {
            reserves.value(&[&"acme", &self.endpoint, &self.severity, &"c/1", &outcome], count);
        }
        for (metric, value) in [
            (&table::PARTITION_SERVING, 1),
            (&table::RAFT_VOTERS, 3),
            (&table::LOG_TIME, self.at_s),
            (&table::STORE_KEYS, 3_000),
            (&table::STORE_TABLE_BYTES, 900_000),
            (&table::STORE_BLOB_BYTES, 100_000),
        ] {
            let mut samples = page.metric(metric);
            for partition in 0..16 {
                samples.value(&[&partition], value);
            }
        }
        page.finish()
    }

    fn look(&self) -> Look {
        Look { place: format!("page-{}", self.id), at_unix_ms: None, page: Page::parse(&self.text()).unwrap() }
    }
}

const ASSUMED: Assumed = Assumed { peak_factor: 4.0, retention_ms: None };

fn observed(nodes: &[Node]) -> Result<Observed, String> {
    Observed::of(&nodes.iter().map(Node::look).collect::<Vec<_>>(), ASSUMED)
}

/// Both ways of writing a plan, one after the other.
fn check(name: &str, workload: &Workload, observed: Option<&Observed>) -> anyhow::Result<()> {
    let plan = plan::Plan::of(workload);
    let (text, document) = (report::text(workload, &plan, observed), report::document(workload, &plan, observed));
    golden::check(&format!("tests/output/plan-{name}.txt"), &format!("{text}\n{document:#}\n"))
}

#[test]
fn the_example_prints() -> anyhow::Result<()> {
    check("file", &plan_file::parse(EXAMPLE).map_err(|wrong| anyhow!("{wrong:?}"))?, None)
}

/// The guide's example is most of what the command prints: `REWRITE=1` writes it into the page.
#[test]
fn the_guide_shows_what_the_example_prints() -> anyhow::Result<()> {
    const FENCES: [&str; 2] = ["```text\n", "```\n"];
    let guide = include_str!("../../../../docs/guides/capacity.md");
    let (before, rest) = guide.split_once(FENCES[0]).ok_or_else(|| anyhow!("no example"))?;
    let (_, after) = rest.split_once(FENCES[1]).ok_or_else(|| anyhow!("no end of the example"))?;
    let workload = plan_file::parse(EXAMPLE).map_err(|wrong| anyhow!("{wrong:?}"))?;
    let printed = report::text(&workload, &plan::Plan::of(&workload), None);
    let place = |start: &str| printed.lines().position(|line| line.starts_with(start));
    let (disk, memory) = (place("disk").unwrap_or_default(), place("memory").unwrap_or_default());
    let top = printed.lines().take(disk + 5).chain(["…", ""]);
    let shown: String = top.chain(printed.lines().skip(memory).take(1)).map(|line| format!("{line}\n")).collect();
    golden::check("docs/guides/capacity.md", &format!("{before}{}{shown}…\n{}{after}", FENCES[0], FENCES[1]))
}

#[test]
fn a_plan_that_fails_prints() -> anyhow::Result<()> {
    let text = EXAMPLE.replace("keys_per_day = 3_000_000", "keys_per_day = 80_000_000_000");
    let text = text.replace("nodes = 3 ", "nodes = 1 ");
    check("file-failed", &plan_file::parse(&text).map_err(|wrong| anyhow!("{wrong:?}"))?, None)
}

#[test]
fn what_nodes_show_prints() -> anyhow::Result<()> {
    let before = Node::default();
    let after = Node { at_s: START_S + 160, keys: 1_600, replays: 110, ..Node::default() };
    let observed = observed(&[before, after]).map_err(|why| anyhow!(why))?;
    check("metrics", &observed.workload, Some(&observed))
}

#[test]
fn rates_are_read_from_two_looks_or_since_the_start() {
    let alone = observed(&[Node::default()]).unwrap();
    let [endpoint] = alone.workload.endpoints.as_slice() else { panic!("{alone:?}") };
    assert_eq!((endpoint.keys_per_day, endpoint.replays_per_key), (864_000.0, 0.05), "1,000 keys in 100 s");
    assert_eq!((endpoint.envelope_bytes, endpoint.retention_ms, endpoint.peak_factor), (700, 7 * 86_400_000, 4.0));
    assert_eq!(alone.workload.nodes, 3);
    assert_eq!(alone.workload.partitions.map(|count| count.get().get()), Some(16));
    let now = alone.now;
    assert_eq!((now.records_at_least, now.records_at_most, now.stored_bytes), (16_000, 24_000, 16_000_000));
    // In any order.
    let after = Node { at_s: START_S + 160, keys: 1_600, replays: 110, ..Node::default() };
    let twice = observed(&[after, Node::default()]).unwrap();
    let [endpoint] = twice.workload.endpoints.as_slice() else { panic!("{twice:?}") };
    assert_eq!((endpoint.keys_per_day, endpoint.replays_per_key), (864_000.0, 0.1), "600 keys in 60 s");
}

#[test]
fn what_nodes_apply_is_the_same_and_what_they_answer_adds_up() {
    let node = |id, keys, replays| Node { id, keys, replays, ..Node::default() };
    let three = observed(&[node(1, 1_000, 50), node(2, 996, 70), node(3, 1_000, 80)]).unwrap();
    let [endpoint] = three.workload.endpoints.as_slice() else { panic!("{three:?}") };
    assert_eq!((endpoint.keys_per_day, endpoint.replays_per_key), (864_000.0, 0.2));
    assert!(!three.notes.iter().any(|note| note.contains("not counted")), "{:?}", three.notes);
    let two = observed(&[node(1, 1_000, 50), node(2, 996, 70)]).unwrap();
    assert!(two.notes.iter().any(|note| note.contains("the region has 3 nodes, and the pages are of 2")));
}

#[test]
fn what_makes_no_sense_is_told() {
    let node = Node::default;
    let without = |name: &str| {
        let lines = node()
            .text()
            .lines()
            .filter(|line| !line.contains(name))
            .map(|line| format!("{line}\n"))
            .collect::<String>();
        let page = Page::parse(&lines).unwrap();
        Observed::of(&[Look { place: "page".to_owned(), at_unix_ms: None, page }], ASSUMED).map(|_| ())
    };
    let told = |nodes: &[Node]| observed(nodes).map(|_| ());
    let later = || Node { at_s: START_S + 160, ..node() };
    let cases = [
        (without("holdfast_node_info"), "page has no holdfast_node_info: it is no page of a Holdfast node"),
        (without("process_start_time_seconds"), "page has no process_start_time_seconds: save the whole page"),
        (without("holdfast_log_time_seconds"), "page has no holdfast_log_time_seconds: save the whole page"),
        (without("holdfast_applied_records_total"), "no key was granted in the 100s since node 1 started"),
        (told(&[node(), Node { id: 2, cluster: "other", ..node() }]), "page-1 is of cluster pay, and page-2 of other"),
        (
            told(&[node(), Node { started_s: START_S + 50, ..later() }]),
            "node 1 was started anew between page-1 and page-1",
        ),
        (told(&[node(), node()]), "the looks at node 1 are 0 s apart: rates need 10 s or more"),
        (told(&[Node { at_s: START_S + 5, ..node() }]), "node 1 started 5 s ago: rates need 10 s or more"),
        (told(&[node(), later()]), "no key was granted in the 1m between two looks at node 1"),
        (told(&[Node { keys: 2, ..node() }]), "no key of POST /v1/charges was completed in that time"),
        (told(&[Node { endpoint: "", ..node() }]), "the endpoint \"\" of a page: endpoint has 0 bytes"),
        (told(&[]), "no page was given"),
    ];
    for (told, expected) in cases {
        let message = told.err().unwrap_or_default();
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn a_node_with_little_in_tables_says_no_size() {
    let mut observed = observed(&[Node::default()]).unwrap();
    let text =
        |observed: &Observed| report::text(&observed.workload, &plan::Plan::of(&observed.workload), Some(observed));
    assert!(text(&observed).contains("about 16,000 to 24,000 records: 666 to 1,000 bytes each, where the plan counts"));
    observed.now.unwritten_bytes = observed.now.stored_bytes;
    assert!(text(&observed).contains("records: too few of them are in tables to say how large they are\n"));
}

#[test]
fn what_is_assumed_is_told() {
    let unknown = observed(&[Node { severity: "", endpoint: "(other)", ..Node::default() }]).unwrap();
    for expected in ["labels of metrics", "it is taken for high", "kept for 3d (high)", "4 times that: --peak-factor"] {
        assert!(unknown.notes.iter().any(|note| note.contains(expected)), "{expected}: {:?}", unknown.notes);
    }
    let said = Assumed { peak_factor: 9.0, retention_ms: Some(3_600_000) };
    let said = Observed::of(&[Node::default().look()], said).unwrap();
    assert!(!said.notes.iter().any(|note| note.contains("--retention")), "{:?}", said.notes);
    assert!(said.workload.endpoints.iter().all(|endpoint| endpoint.retention_ms == 3_600_000));
}

#[test]
fn a_workload_that_is_printed_is_read_back() {
    let mut observed = observed(&[Node { endpoint: "POST \"\\v1\"", ..Node::default() }]).unwrap();
    let read = plan_file::parse(&report::file(&observed.workload, Some(&observed)));
    assert_eq!(read.as_ref(), Ok(&observed.workload));
    observed.workload.partitions = None;
    assert_eq!(plan_file::parse(&report::file(&observed.workload, None)), Ok(observed.workload));
}

/// Answers one request after another with what it is given, as long as the test runs.
fn serve(status: &'static str, body: String) -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let serving = move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 4_096];
            let _read = stream.read(&mut head);
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            let _written = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        }
    };
    drop(std::thread::Builder::new().name("pages".to_owned()).spawn(serving)?);
    Ok(format!("http://{address}/metrics"))
}

#[test]
fn commands_end_as_documented() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> anyhow::Result<String> {
        let path = dir.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let good = file("good.toml", EXAMPLE)?;
    let failed = file("failed.toml", &EXAMPLE.replace("keys_per_day = 3_000_000", "keys_per_day = 80_000_000_000"))?;
    let misspelt = file("misspelt.toml", &EXAMPLE.replace("keys_per_day", "keys_pro_day"))?;
    let large = file("large.toml", &" ".repeat(limits::MAX_PLAN_FILE_BYTES as usize + 1))?;
    let before = file("before.txt", &Node::default().text())?;
    let after = file("after.txt", &Node { at_s: START_S + 160, keys: 1_600, ..Node::default() }.text())?;
    let html = file("html.txt", "<html>")?;
    // Since 1970: the wall clock is much later.
    let old = Node { started_s: 1, ..Node::default() }.text();
    let (node, missing) = (serve("200 OK", old)?, serve("404 Not Found", String::new())?);
    let endless = serve("200 OK", "a 1\n".repeat(limits::MAX_METRICS_PAGE_BYTES / 4 + 1))?;
    let cases: Vec<(Vec<&str>, Exit)> = vec![
        (vec!["--file", &good], Exit::Ok),
        (vec!["--file", &good, "--output", "json"], Exit::Ok),
        (vec!["--file", &failed], Exit::Failed),
        (vec!["--file", &misspelt], Exit::Usage),
        (vec!["--file", &large], Exit::Usage),
        (vec!["--file", "missing.toml"], Exit::Usage),
        (vec!["--metrics", &before], Exit::Ok),
        (vec!["--metrics", &before, "--metrics", &after, "--peak-factor", "9", "--retention", "7d"], Exit::Ok),
        (vec!["--metrics", &before, "--print-file"], Exit::Ok),
        (vec!["--metrics", &before, "--over", "10s"], Exit::Usage),
        (vec!["--metrics", &html], Exit::Failed),
        (vec!["--metrics", "missing.txt"], Exit::Usage),
        (vec!["--metrics", &node], Exit::Ok),
        (vec!["--metrics", &node, "--output", "json"], Exit::Ok),
        (vec!["--metrics", &missing], Exit::Failed),
        (vec!["--metrics", &endless], Exit::Failed),
        (vec!["--metrics", "http://127.0.0.1:1"], Exit::Unavailable),
        (vec!["--metrics", "https://127.0.0.1:1"], Exit::Usage),
        (vec![], Exit::Usage),
        (vec!["--file", &good, "--metrics", &before], Exit::Usage),
        (vec!["--file", &good, "--over", "60s"], Exit::Usage),
        (vec!["--metrics", &before, "--over", "5s"], Exit::Usage),
        (vec!["--metrics", &before, "--peak-factor", "0"], Exit::Usage),
        (vec!["--metrics", &before, "--retention", "0s"], Exit::Usage),
        ([["--metrics", &before]; limits::MAX_METRICS_PAGES + 1].concat(), Exit::Usage),
    ];
    for (arguments, exit) in cases {
        let line = [&["holdfast", "ctl", "plan", "capacity"][..], &arguments].concat();
        let code = crate::cli::main(line.iter().map(std::ffi::OsString::from));
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(exit)), "{arguments:?}");
    }
    Ok(())
}
