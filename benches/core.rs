//! How long the pure core needs for one decision. A node makes one for each operation of a log entry, one after another:
//! what they take together bounds a partition.

mod subject;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use holdfast::reservation::{Reply, decide};

fn decisions(criterion: &mut Criterion) {
    let (reserve, complete, context) = (subject::reserve(), subject::complete(), subject::context());
    let (held, completed) = (subject::held(), subject::completed());
    let is_replay = matches!(decide(Some(&completed), &reserve, &context).reply, Reply::Replay(_));
    assert!(is_replay, "the benchmark must measure a replay");

    let mut group = criterion.benchmark_group("decide");
    group.bench_function("reserve of a fresh key", |bencher| {
        bencher.iter(|| decide(None, black_box(&reserve), black_box(&context)));
    });
    group.bench_function("complete", |bencher| {
        bencher.iter(|| decide(black_box(Some(&held)), black_box(&complete), black_box(&context)));
    });
    group.bench_function("replay", |bencher| {
        bencher.iter(|| decide(black_box(Some(&completed)), black_box(&reserve), black_box(&context)));
    });
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
