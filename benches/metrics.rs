//! What measuring costs a call: the clock, the counters of the call, and those of whose it was. Counted in the thread's
//! processor time, so that a busy machine does not matter.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use holdfast::clock;
use holdfast::ids::{EndpointName, TenantId};
use holdfast::telemetry::metrics::{self, Change, Method, Outcome, Whose};

fn measure(criterion: &mut Criterion) {
    let tenant = TenantId::parse("acme").expect("a tenant");
    let endpoint = EndpointName::parse("POST /v1/charges").expect("an endpoint");
    let whose = |client_version| Whose { tenant: &tenant, endpoint: &endpoint, severity: "high", client_version };

    bench(criterion, "clock", || {
        let _now = black_box(clock::monotonic());
    });
    bench(criterion, "reserve", || {
        let begun = clock::monotonic();
        metrics::call(Method::Reserve, false, Outcome::Granted, clock::monotonic().since(begun));
        metrics::reserve(black_box(whose("acme-pay/2.3.1")), Outcome::Granted);
    });
    bench(criterion, "applied", || metrics::changed(&tenant, &endpoint, black_box(&[Change::Created]), 0));
    // Beyond the limit: each version is a new one.
    let versions: Vec<String> = (0..10_000).map(|number| format!("made-up/{number}")).collect();
    let mut next = versions.iter().cycle();
    bench(criterion, "reserve beyond the limit", || {
        metrics::reserve(whose(next.next().map_or("", String::as_str)), Outcome::Granted);
    });
}

fn bench(criterion: &mut Criterion, name: &str, mut what: impl FnMut()) {
    criterion.benchmark_group("metrics").bench_function(name, |bencher| {
        bencher.iter_custom(|times| {
            let begun = processor_time();
            for _ in 0..times {
                what();
            }
            processor_time().saturating_sub(begun)
        });
    });
}

fn processor_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or_default(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

criterion_group!(benches, measure);
criterion_main!(benches);
