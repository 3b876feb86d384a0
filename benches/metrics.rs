//! What measuring costs a call: the clock, the counters of the call, and those of whose it was.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use holdfast::clock;
use holdfast::ids::{EndpointName, TenantId};
use holdfast::telemetry::metrics::{self, Change, Method, Outcome, Whose};

fn measure(criterion: &mut Criterion) {
    let tenant = TenantId::parse("acme").expect("a tenant");
    let endpoint = EndpointName::parse("POST /v1/charges").expect("an endpoint");
    let whose = |client_version| Whose { tenant: &tenant, endpoint: &endpoint, severity: "high", client_version };

    criterion.bench_function("metrics/clock", |bencher| bencher.iter(clock::monotonic));
    criterion.bench_function("metrics/reserve", |bencher| {
        bencher.iter(|| {
            let begun = clock::monotonic();
            metrics::call(Method::Reserve, false, Outcome::Granted, clock::monotonic().since(begun));
            metrics::reserve(black_box(whose("acme-pay/2.3.1")), Outcome::Granted);
        });
    });
    criterion.bench_function("metrics/applied", |bencher| {
        bencher.iter(|| metrics::changed(&tenant, &endpoint, black_box(&[Change::Created]), 0));
    });
    // Beyond the limit: each version is a new one.
    let versions: Vec<String> = (0..10_000).map(|number| format!("made-up/{number}")).collect();
    let mut next = versions.iter().cycle();
    criterion.bench_function("metrics/reserve-beyond-the-limit", |bencher| {
        bencher.iter(|| metrics::reserve(whose(next.next().map_or("", String::as_str)), Outcome::Granted));
    });
}

criterion_group!(benches, measure);
criterion_main!(benches);
