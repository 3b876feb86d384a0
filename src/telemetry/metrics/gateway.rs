//! What a gateway counts, and its page. A node shows nothing of it, and a gateway nothing of a node.

use std::fmt::Display;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::cells::{Counter, Histogram};
use super::page::Page;
use super::process;
use super::sets::{MOST, Sets};
use super::table::Kind::{Counter as CounterKind, Gauge, Histogram as HistogramKind};
use super::table::{LATENCIES, Metric, Section};

super::table::table! {
    "Requests" {
        REQUESTS = CounterKind, "holdfast_gateway_requests_total" ["route" "verdict"]
            "Requests that had a route, by what they came to: what the layer says became of them, passed for those that it had no part in, the code of the gateway's own answer, or caller-gone. The number of label sets is limited.";
        CLIENT_REQUESTS = CounterKind, "holdfast_gateway_client_requests_total" ["client_version" "verdict"]
            "The same, by the first product of the client's User-Agent. The number of label sets is limited.";
        REFUSED = CounterKind, "holdfast_gateway_refused_total" ["code"]
            "Requests that were refused before they had a route, by the code.";
        DURATION = HistogramKind(LATENCIES), "holdfast_gateway_request_duration_seconds" []
            "How long requests that had a route took, from their head until that of their answer.";
        IN_FLIGHT = Gauge, "holdfast_gateway_in_flight" []
            "Requests that wait for the head of their answer.";
        HELD_BYTES = Gauge, "holdfast_gateway_held_bytes" []
            "Bytes of the bodies of protected requests that are held. There is room for max_held_bytes; requests that find none count with the verdict gateway-overloaded.";
        TUNNELS = Gauge, "holdfast_gateway_tunnels" []
            "WebSockets that are open, or about to be. There is room for max_tunnels.";
        OBSERVED = CounterKind, "holdfast_gateway_observed_total" ["verdict"]
            "Requests in the stage observe, by what would have become of them; unseen, where as many were observed already as may be, or the service did not read the request.";
        RETRY_SUCCEEDED = CounterKind, "holdfast_gateway_retry_success_after_timeout_total" []
            "Responses that were given to a key whose earlier call at this gateway ended without one: its caller was gone, or the upstream timed out or broke off. The last 16,384 such keys are remembered.";
    }
    "Upstreams" {
        TRIES = CounterKind, "holdfast_gateway_upstream_tries_total" ["route" "try"]
            "Requests that were sent to an upstream, the first time or again.";
        FAILURES = CounterKind, "holdfast_gateway_upstream_failures_total" ["route" "failure"]
            "Tries that failed: unsent (nothing was written), broken, timed-out, answered with a 502, 503 or 504 that may be tried again, or request, where the client's body broke off.";
        EXHAUSTED = CounterKind, "holdfast_gateway_retry_budget_exhausted_total" ["route"]
            "Failed tries that could have been sent again, had the route's retry budget not been used up.";
        UPSTREAM_IN_FLIGHT = Gauge, "holdfast_gateway_upstream_in_flight" ["route"]
            "Requests and responses that an upstream has under way.";
        UPSTREAM_SERVES = Gauge, "holdfast_gateway_upstream_serves" ["route" "address"]
            "1 for an address that gets requests, 0 for one that took no connection or is unwell.";
    }
    "Store" {
        STORE_REACHABLE = Gauge, "holdfast_gateway_store_reachable" []
            "1 if the store told its policies when it was asked last, else 0.";
        POLICY_REVISION = Gauge, "holdfast_gateway_policy_revision" []
            "The revision of the store's policies that the gateway goes by. Not shown while it knows none.";
    }
}

/// What a route has under way.
#[derive(Debug)]
pub struct RouteGauges {
    /// What it is called.
    pub route: String,
    /// Its requests in flight.
    pub in_flight: usize,
    /// Its addresses, and whether they serve.
    pub addresses: Vec<(String, bool)>,
}

/// What a gauge of the page is read from.
#[derive(Debug)]
pub struct GatewayGauges {
    /// Every route.
    pub routes: Vec<RouteGauges>,
    /// Bytes of requests that are held.
    pub held_bytes: usize,
    /// WebSockets that are open.
    pub tunnels: usize,
    /// The store answered.
    pub store_reachable: bool,
    /// The policies' revision, if there are any.
    pub policy_revision: Option<u32>,
}

static SPREAD: Histogram = Histogram::new(LATENCIES);
static UNDER_WAY: AtomicI64 = AtomicI64::new(0);
static SUCCEEDED: Counter = Counter::new();

/// Two labels, the first of which is what a tenant is elsewhere.
type Pairs = LazyLock<Sets<2, 1>>;

static BY_ROUTE: Pairs = LazyLock::new(|| Sets::new(REQUESTS.name, [true, false], MOST));
static BY_CLIENT: Pairs = LazyLock::new(|| Sets::new(CLIENT_REQUESTS.name, [true, false], MOST));
static BY_TRY: Pairs = LazyLock::new(|| Sets::new(TRIES.name, [true, false], MOST));
static BY_FAILURE: Pairs = LazyLock::new(|| Sets::new(FAILURES.name, [true, false], MOST));
static BY_EXHAUSTED: LazyLock<Sets<1, 1>> = LazyLock::new(|| Sets::new(EXHAUSTED.name, [true], MOST));
static BY_OBSERVED: LazyLock<Sets<1, 1>> = LazyLock::new(|| Sets::new(OBSERVED.name, [false], MOST));
static BY_CODE: LazyLock<Sets<1, 1>> = LazyLock::new(|| Sets::new(REFUSED.name, [false], MOST));

/// A request that has a route came (1) or went (-1).
pub fn gateway_in_flight(more: i64) {
    UNDER_WAY.fetch_add(more, Ordering::Relaxed);
}

/// A request that had a route came to this.
pub fn gateway_answered(route: &str, client_version: &str, verdict: &str, took: Duration) {
    SPREAD.took(took);
    BY_ROUTE.add([route, verdict], |[count]| count.one());
    BY_CLIENT.add([client_version, verdict], |[count]| count.one());
}

/// A request was refused before it had a route.
pub fn gateway_refused(code: &str) {
    BY_CODE.add([code], |[count]| count.one());
}

/// What would have become of an observed request.
pub fn gateway_observed(verdict: &str) {
    BY_OBSERVED.add([verdict], |[count]| count.one());
}

/// A key got its response whose earlier call got none.
pub fn gateway_retry_succeeded() {
    SUCCEEDED.one();
}

/// A request was sent to an upstream.
pub fn gateway_try(route: &str, again: bool) {
    BY_TRY.add([route, if again { "again" } else { "first" }], |[count]| count.one());
}

/// A try failed.
pub fn gateway_failure(route: &str, failure: &str) {
    BY_FAILURE.add([route, failure], |[count]| count.one());
}

/// A retry was not made for want of budget.
pub fn gateway_exhausted(route: &str) {
    BY_EXHAUSTED.add([route], |[count]| count.one());
}

/// Writes a gateway's page.
pub fn write_gateway(page: &mut Page, gauges: &GatewayGauges) {
    let pairs: [(&'static Metric, &Pairs); 4] =
        [(&REQUESTS, &BY_ROUTE), (&CLIENT_REQUESTS, &BY_CLIENT), (&TRIES, &BY_TRY), (&FAILURES, &BY_FAILURE)];
    for (metric, sets) in pairs {
        let mut samples = page.metric(metric);
        sets.each(|[one, other], [count]| {
            let labels: [&dyn Display; 2] = [one, other];
            samples.value(&labels, count.get());
        });
    }
    for (metric, sets) in [(&REFUSED, &BY_CODE), (&OBSERVED, &BY_OBSERVED), (&EXHAUSTED, &BY_EXHAUSTED)] {
        let mut samples = page.metric(metric);
        sets.each(|[label], [count]| samples.value(&[label], count.get()));
    }
    page.metric(&DURATION).histogram(&[], &SPREAD);
    page.single(&IN_FLIGHT, UNDER_WAY.load(Ordering::Relaxed));
    page.single(&HELD_BYTES, gauges.held_bytes);
    page.single(&TUNNELS, gauges.tunnels);
    page.single(&RETRY_SUCCEEDED, SUCCEEDED.get());
    let mut samples = page.metric(&UPSTREAM_IN_FLIGHT);
    for RouteGauges { route, in_flight, .. } in &gauges.routes {
        samples.value(&[route], in_flight);
    }
    let mut samples = page.metric(&UPSTREAM_SERVES);
    for RouteGauges { route, addresses, .. } in &gauges.routes {
        for (address, serves) in addresses {
            samples.value(&[route, address], u8::from(*serves));
        }
    }
    page.single(&STORE_REACHABLE, u8::from(gauges.store_reachable));
    let mut samples = page.metric(&POLICY_REVISION);
    if let Some(revision) = gauges.policy_revision {
        samples.value(&[], revision);
    }
    process::write(page);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_a_gateway_has_every_metric_of_its_table_once() {
        gateway_answered("POST /a", "acme/1", "executed", Duration::from_millis(3));
        gateway_refused("route-unknown");
        gateway_try("POST /a", false);
        gateway_failure("POST /a", "unsent");
        gateway_exhausted("POST /a");
        gateway_observed("executed");
        let mut page = Page::default();
        let addresses = vec![("127.0.0.1:1".to_owned(), false)];
        let gauges = GatewayGauges {
            routes: vec![RouteGauges { route: "POST /a".to_owned(), in_flight: 2, addresses }],
            held_bytes: 3,
            tunnels: 1,
            store_reachable: true,
            policy_revision: Some(7),
        };
        write_gateway(&mut page, &gauges);
        let text = page.finish();
        for metric in SECTIONS.iter().flat_map(|section| section.metrics) {
            assert_eq!(text.matches(&format!("# TYPE {} ", metric.name)).count(), 1, "{}", metric.name);
            let name = if metric.kind.name() == "histogram" {
                format!("\n{}_count", metric.name)
            } else {
                format!("\n{}", metric.name)
            };
            assert!(text.contains(&name), "{} has no sample", metric.name);
        }
        assert!(
            text.contains("holdfast_gateway_upstream_serves{route=\"POST /a\",address=\"127.0.0.1:1\"} 0\n"),
            "{text}"
        );
    }
}
