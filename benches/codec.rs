//! How long persisted bytes take to be written and read: a key's record, its envelope, a log entry's batch, a token.

mod subject;

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use holdfast::codec::batch::{self, Batch, KeyOperation, Operation};
use holdfast::codec::token::{self, Claims, ClusterKey};
use holdfast::codec::{pb, record};
use holdfast::ids::{IdempotencyKey, PartitionId, RecordKey, RegionName, TenantId};

/// Operations of the batch: what some hundred clients put into one log entry.
const BATCH_OPERATIONS: usize = 64;
/// Bytes of the envelope's body.
const BODY_BYTES: usize = 512;

fn home() -> RegionName {
    RegionName::parse("eu").expect("the region is valid")
}

fn key() -> RecordKey {
    RecordKey {
        tenant: TenantId::parse("acme-pay").expect("the tenant is valid"),
        key: IdempotencyKey::parse("hf1.eu.0.0190a8e2-7c5b-7f60-8a44-0123456789ab").expect("the key is valid"),
    }
}

fn records(criterion: &mut Criterion) {
    let completed = subject::completed();
    let bytes = record::encode(&completed);
    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode", |bencher| bencher.iter(|| record::encode(black_box(&completed))));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| record::decode(black_box(&bytes)).expect("what was encoded decodes"));
    });
    group.finish();
}

fn envelopes(criterion: &mut Criterion) {
    let envelope = pb::Envelope {
        status: 201,
        headers: vec![pb::Header { name: "content-type".to_owned(), value: Bytes::from_static(b"application/json") }],
        body: Bytes::from(vec![b'x'; BODY_BYTES]),
    };
    let (bytes, digest) = record::encode_envelope(&envelope);
    let mut group = criterion.benchmark_group("envelope");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode and digest", |bencher| bencher.iter(|| record::encode_envelope(black_box(&envelope))));
    group.bench_function("check and decode", |bencher| {
        bencher.iter(|| record::decode_envelope(black_box(bytes.clone()), &digest).expect("what was encoded decodes"));
    });
    group.finish();
}

fn batches(criterion: &mut Criterion) {
    let operation = |number: usize| {
        let (command, envelope) = match number % 2 {
            0 => (subject::reserve(), Bytes::new()),
            _ => (subject::complete(), Bytes::from(vec![b'x'; BODY_BYTES])),
        };
        Operation::Key(Box::new(KeyOperation { key: key(), home: home(), command, envelope }))
    };
    let batch = Batch { clock_unix_ms: 1_760_000_000_000, operations: (0..BATCH_OPERATIONS).map(operation).collect() };
    let bytes = batch::encode(&batch);
    let mut group = criterion.benchmark_group("batch of 64");
    group.throughput(Throughput::Elements(BATCH_OPERATIONS as u64));
    group.bench_function("encode", |bencher| bencher.iter(|| batch::encode(black_box(&batch))));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| batch::decode(black_box(bytes.clone())).expect("what was encoded decodes"));
    });
    group.finish();
}

fn tokens(criterion: &mut Criterion) {
    let keys = [ClusterKey { id: 1, secret: [3; 32] }];
    let claims = Claims {
        fencing: subject::TOKEN,
        tenant: key().tenant,
        key_hash: [4; 32],
        home: home(),
        region: home(),
        partition: PartitionId(3),
        fingerprint: subject::fingerprint(),
        endpoint: subject::endpoint(),
        policy_revision: 0,
        nonce: subject::nonce(),
    };
    let [key] = &keys;
    let text = token::mint(key, &claims);
    let mut group = criterion.benchmark_group("token");
    group.bench_function("mint", |bencher| bencher.iter(|| token::mint(key, black_box(&claims))));
    group.bench_function("verify", |bencher| {
        bencher.iter(|| token::verify(&keys, black_box(&text)).expect("what was minted verifies"));
    });
    group.finish();
}

criterion_group!(benches, records, envelopes, batches, tokens);
criterion_main!(benches);
