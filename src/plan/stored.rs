//! What is predicted of a disk, held against one: real records and envelopes go through the store into a real database.

use std::collections::VecDeque;
use std::time::Duration;

use tempfile::TempDir;

use crate::clock;
use crate::codec::pb;
use crate::ids::{EndpointName, IdempotencyKey, PartitionCount, PartitionId, RecordKey, RegionName, TenantId};
use crate::plan::carried::Stored;
use crate::plan::figures;
use crate::plan::life::{Life, Request};
use crate::plan::workload::Endpoint;
use crate::policy::Severity;
use crate::store::{GroupBatch, GroupFamily, Store, StoreSettings};

/// How far a prediction may be off: what docs/guides/capacity.md says.
const TOLERANCE: f64 = 0.25;
const TENANT: &str = "acme";
const AT_UNIX_MS: u64 = 1_795_000_000_000;

/// Numbers that do not compress, the same in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| (self.next() >> 20) as u8)
    }
}

/// How the keys of a case look, and their responses.
#[derive(Clone, Copy, Debug)]
enum Case {
    /// A random UUID, and a body that does not compress.
    Opaque,
    /// A tagged key, and a body that does not compress.
    Tagged,
    /// A random UUID, and a body that is all the same.
    Blank,
}

struct Writer {
    group: GroupFamily,
    noise: Noise,
    case: Case,
    body_bytes: usize,
    written: u64,
    _directory: TempDir,
    _store: Store,
}

impl Writer {
    fn new(case: Case, body_bytes: usize, write_buffer_bytes: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let identity = pb::Identity { cluster_id: "c".to_owned(), partitions: 1, ..pb::Identity::default() };
        let settings = StoreSettings { block_cache_bytes: 16 << 20, write_buffer_bytes };
        let partitions = PartitionCount::new(1).unwrap();
        let (store, _) = Store::open(directory.path(), &settings, partitions, identity).unwrap();
        let (group, noise) = (store.group(PartitionId(0)), Noise(0x9e37_79b9_7f4a_7c15));
        Self { group, noise, case, body_bytes, written: 0, _directory: directory, _store: store }
    }

    fn endpoint(&self, key_bytes: u64, envelope_bytes: u64) -> Endpoint {
        Endpoint {
            name: EndpointName::parse("POST /v1/charges").unwrap(),
            keys_per_day: 1.0,
            peak_factor: 1.0,
            replays_per_key: 0.0,
            key_bytes,
            envelope_bytes,
            compresses_to: 1.0,
            retention_ms: Severity::High.terms().retention_ms,
            lease_ms: 30_000,
        }
    }

    fn life(&mut self) -> Life {
        let at_unix_ms = AT_UNIX_MS + self.written * 3;
        let name = match self.case {
            Case::Opaque | Case::Blank => uuid::Builder::from_random_bytes(self.noise.bytes()).into_uuid().to_string(),
            Case::Tagged => {
                let key = holdfast_client::keys::TaggedKey::mint("eu", 1, at_unix_ms, self.noise.bytes()).unwrap();
                key.to_string()
            }
        };
        let body: Vec<u8> = match self.case {
            Case::Opaque | Case::Tagged => {
                std::iter::repeat_with(|| (self.noise.next() >> 20) as u8).take(self.body_bytes).collect()
            }
            Case::Blank => vec![b'a'; self.body_bytes],
        };
        let charge = format!("/v1/charges/ch_{:016x}", self.noise.next());
        let header = |name: &str, value: &[u8]| pb::Header { name: name.into(), value: value.to_vec().into() };
        Life::of(&Request {
            key: RecordKey { tenant: TenantId::parse(TENANT).unwrap(), key: IdempotencyKey::parse(&name).unwrap() },
            home: RegionName::parse("eu").unwrap(),
            endpoint: EndpointName::parse("POST /v1/charges").unwrap(),
            terms: Severity::High.terms(),
            fingerprint: self.noise.bytes(),
            nonce: self.noise.bytes(),
            envelope: pb::Envelope {
                status: 201,
                headers: vec![header("content-type", b"application/json"), header("location", charge.as_bytes())],
                body: body.into(),
            },
            position: self.written * 2 + 1,
            at_unix_ms,
        })
        .unwrap()
    }

    /// Stores a key's life as the state machine does: held first, completed then.
    fn write(&mut self) -> Life {
        let life = self.life();
        let mut batch = GroupBatch::default();
        batch.put_record(&life.key, None, &life.held);
        self.group.write(batch).unwrap();
        let mut batch = GroupBatch::default();
        batch.put_record(&life.key, Some(&life.held), &life.completed);
        batch.put_envelope(&life.key, &life.digest, life.envelope.clone());
        self.group.write(batch).unwrap();
        self.written += 1;
        life
    }

    /// Bytes of tables and of blob files.
    fn bytes(&self) -> (f64, f64) {
        let sizes = self.group.sizes().unwrap();
        (sizes.table_bytes as f64, sizes.blob_bytes as f64)
    }

    /// Waits until nothing is being merged.
    fn settle(&self) {
        let deadline = clock::monotonic().plus(Duration::from_secs(120));
        while self.group.merging() > 0 {
            assert!(clock::monotonic() < deadline, "compaction does not come to an end");
            std::thread::yield_now();
        }
    }
}

/// What is predicted of a record, and what was found, in bytes: tables, blob files, what finds it.
fn compare(case: Case, body_bytes: usize, records: u64) -> [(f64, f64); 3] {
    let mut writer = Writer::new(case, body_bytes, 96 << 20);
    let (mut keys, mut envelopes) = (0, 0);
    for _ in 0..records {
        let life = writer.write();
        keys += (TENANT.len() + life.key.key.as_str().len()) as u64;
        // As a person counts them: headers and body, not their frame.
        envelopes += (body_bytes + "content-typeapplication/jsonlocation/v1/charges/ch_0123456789abcdef".len()) as u64;
    }
    writer.group.flush().unwrap();
    writer.group.compact();
    let (tables, blobs) = writer.bytes();
    let finding = writer.group.finding_bytes() as f64;
    let predicted = Stored::of(&writer.endpoint(keys / records, envelopes / records));
    let each = |bytes: f64| bytes / records as f64;
    let found = [(predicted.table, each(tables)), (predicted.blob, each(blobs)), (predicted.finding, each(finding))];
    println!(
        "{case:?}, bodies of {body_bytes} bytes, {records} records: predicted and found, in bytes each: {found:.1?}"
    );
    found
}

fn is_near(predicted: f64, found: f64) -> bool {
    (predicted - found).abs() <= found * TOLERANCE
}

#[test]
fn fifty_thousand_records_take_what_is_predicted() {
    let [(table, tables), (blob, blobs), (finding, found)] = compare(Case::Opaque, 512, 50_000);
    assert!(is_near(table, tables), "predicted {table:.0} bytes a record, found {tables:.0}");
    assert_eq!((blob, blobs), (0.0, 0.0));
    assert!(is_near(finding, found), "predicted {finding:.1} bytes of filters and indexes, found {found:.1}");
}

#[test]
fn tagged_keys_take_what_is_predicted() {
    let [(table, tables), _, (finding, found)] = compare(Case::Tagged, 256, 20_000);
    assert!(is_near(table, tables), "predicted {table:.0} bytes a record, found {tables:.0}");
    assert!(is_near(finding, found), "predicted {finding:.1} bytes of filters and indexes, found {found:.1}");
}

#[test]
fn large_responses_take_what_is_predicted() {
    let [(table, tables), (blob, blobs), _] = compare(Case::Opaque, 8_192, 5_000);
    assert!(is_near(table, tables), "predicted {table:.0} bytes a record in tables, found {tables:.0}");
    assert!(is_near(blob, blobs), "predicted {blob:.0} bytes a record in blob files, found {blobs:.0}");
}

#[test]
fn a_prediction_that_is_off_is_seen() {
    // Bodies that compress to nothing, and a plan that does not say so.
    let [(table, tables), _, _] = compare(Case::Blank, 2_048, 2_000);
    assert!(table > tables && !is_near(table, tables), "predicted {table:.0} bytes a record, found {tables:.0}");
}

/// The bytes of tables and blob files while records come and go and compaction keeps up.
struct Space {
    /// When nothing is left of what went.
    live: f64,
    /// At the most.
    most: f64,
    /// Predicted.
    predicted: f64,
}

/// Each record is kept until so many others have come.
fn turnover(body_bytes: usize, records: usize, turns: usize, write_buffer_bytes: usize) -> Space {
    let mut writer = Writer::new(Case::Opaque, body_bytes, write_buffer_bytes);
    let mut kept = VecDeque::new();
    let mut most = 0.0_f64;
    for number in 0..records * turns {
        let life = writer.write();
        kept.push_back((life.key, life.completed));
        if kept.len() > records
            && let Some((key, record)) = kept.pop_front()
        {
            let mut batch = GroupBatch::default();
            batch.remove_record(&key, &record);
            writer.group.write(batch).unwrap();
        }
        if number.is_multiple_of(records / 100) {
            writer.settle();
            let (tables, blobs) = writer.bytes();
            if number > records {
                most = most.max(tables + blobs);
            }
        }
    }
    writer.group.flush().unwrap();
    writer.group.compact();
    let (tables, blobs) = writer.bytes();
    let (live, factor) = (tables + blobs, most / (tables + blobs));
    println!(
        "bodies of {body_bytes} bytes, {records} records, {turns} times: {live} bytes live, at most {factor:.2} times"
    );
    // A family's buffer, as `store/options.rs` cuts it.
    let table = (write_buffer_bytes / 4).max(2 << 20) as f64;
    Space { live, most, predicted: live * figures::SPACE + figures::NEW_TABLES as f64 * table }
}

#[test]
fn records_that_come_and_go_take_no_more_than_is_predicted() {
    for (body_bytes, records) in [(256, 20_000), (8_192, 2_000)] {
        let Space { live, most, predicted } = turnover(body_bytes, records, 3, 4 << 20);
        assert!((live..=predicted).contains(&most), "bodies of {body_bytes}: {live} live, {most} of {predicted}");
    }
}

/// The same with several levels of tables, which takes minutes.
#[test]
fn soak_records_that_come_and_go_over_several_levels() {
    let Some(out) = std::env::var_os("HOLDFAST_SOAK_OUT") else { return };
    let Space { live, most, predicted } = turnover(700, 600_000, 4, 32 << 20);
    let text = format!(
        "600,000 records of 700-byte bodies, four times over: {live} bytes live, at most {:.2} times that, {:.2} predicted\n",
        most / live,
        predicted / live
    );
    std::fs::write(std::path::Path::new(&out).join("space.txt"), text).unwrap();
    assert!((live..=predicted).contains(&most), "{live} live, {most} of {predicted}");
}
