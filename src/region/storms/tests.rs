use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::detect::{FINGERPRINTS, MODIFIED, STORM_KEYS, Storms, WINDOW};
use super::{Alarm, Kind, Seen, Watch};
use crate::clock::Monotonic;
use crate::ids::{EndpointName, Epoch, FencingToken, Fingerprint, TenantId};
use crate::region::calls::{Granted, ReserveOutcome};
use crate::region::rates::Who;
use crate::reservation::reply::Limit;
use crate::telemetry::metrics::{self, Page};

fn request(number: u64) -> Fingerprint {
    Fingerprint { version: 1, selection: 1, digest: number.to_be_bytes().into() }
}

fn at(millis: u64) -> Monotonic {
    Monotonic::at(Duration::from_secs(777) + Duration::from_millis(millis))
}

const MINUTE: u64 = 60_000;

/// What one client does, and the alarms about it.
struct Client {
    storms: Storms,
    tenant: TenantId,
    endpoint: EndpointName,
    millis: u64,
    next: u64,
    alarms: Vec<Alarm>,
}

impl Client {
    fn new() -> Self {
        let (tenant, endpoint) = (TenantId::parse("acme").unwrap(), EndpointName::parse("POST /v1/charges").unwrap());
        Self { storms: Storms::new(8), tenant, endpoint, millis: 0, next: 0, alarms: Vec::new() }
    }

    fn observe(&mut self, what: Seen<'_>) {
        let who = Who { tenant: &self.tenant, endpoint: &self.endpoint, client: "pay/1.0" };
        self.alarms.extend(self.storms.observe(who, what, at(self.millis)));
    }

    fn fresh(&mut self, number: u64) {
        self.observe(Seen::Fresh(&request(number)));
    }

    /// Keys for requests that nobody had before.
    fn requests(&mut self, keys: u64) {
        for _ in 0..keys {
            self.next += 1;
            self.fresh(self.next);
        }
    }

    fn replays(&mut self, replays: u64) {
        (0..replays).for_each(|_| self.observe(Seen::Replay));
    }

    /// To the next window. The kinds of the alarms until then.
    fn window(&mut self) -> Vec<Kind> {
        self.millis += MINUTE;
        std::mem::take(&mut self.alarms).into_iter().map(|alarm| alarm.kind).collect()
    }
}

#[test]
fn outcomes_say_what_was_seen() {
    let request = request(1);
    let of = |outcome: &ReserveOutcome| {
        Seen::of(&request, outcome).map(|seen| match seen {
            Seen::Fresh(fingerprint) => {
                assert_eq!(*fingerprint, request);
                "fresh"
            }
            Seen::Replay => "replay",
            Seen::ModifiedPayload => "modified",
        })
    };
    let granted = |attempt, repeated| {
        let fencing = FencingToken { epoch: Epoch::FIRST, sequence: 1 };
        let endpoint = EndpointName::parse("e").unwrap();
        ReserveOutcome::Granted(Box::new(Granted {
            token: String::new(),
            fencing,
            start_within_ms: 1,
            lease_ms: 1,
            attempt,
            checkpoint: None,
            possible_duplicate: attempt > 1,
            repeated,
            fingerprint: request.clone(),
            endpoint,
        }))
    };
    assert_eq!(of(&granted(1, false)), Some("fresh"));
    assert_eq!(of(&granted(1, true)), Some("replay"), "a lost answer, asked for again");
    assert_eq!(of(&granted(2, false)), Some("replay"), "the key of an attempt that lapsed");
    let retry_after = Duration::ZERO;
    assert_eq!(of(&ReserveOutcome::InProgress { retry_after }), Some("replay"));
    assert_eq!(of(&ReserveOutcome::OutcomeUnknown { attempt: 1, checkpoint: None }), Some("replay"));
    assert_eq!(of(&ReserveOutcome::Mismatch), Some("modified"));
    assert_eq!(of(&ReserveOutcome::Limited { limit: Limit::TenantRate, retry_after }), None, "nothing was granted");
    assert_eq!(of(&ReserveOutcome::Expired), None);
}

#[test]
fn a_busy_client_without_replays_is_no_storm_from_its_first_window_on() {
    let mut client = Client::new();
    for keys in [100_000, 50_000, 150_000, 100_000, 0, 100_000, 20_000, 200_000] {
        client.requests(keys);
        assert_eq!(client.window(), []);
    }
}

#[test]
fn retries_under_their_old_keys_are_no_storm() {
    let mut client = Client::new();
    for _ in 0..10 {
        client.requests(40);
        client.window();
    }
    // An outage: every request of ten times as many callers comes again, three times, with its key.
    client.requests(2_000);
    client.replays(6_000);
    assert_eq!(client.window(), [Kind::Surge], "until the first of them comes back, it is one");
    client.replays(1);
    for _ in 0..5_000 {
        client.requests(1);
        client.replays(3);
    }
    assert_eq!(client.window(), []);
}

#[test]
fn one_request_that_comes_again_and_again_makes_no_storm_of_the_others() {
    let mut client = Client::new();
    for _ in 0..1_000 {
        client.requests(100);
        // The same each time, by nature: a probe.
        client.fresh(u64::MAX);
    }
    assert_eq!(client.window(), []);
}

#[test]
fn a_new_key_for_each_retry_is_a_storm_once_a_window() {
    let mut client = Client::new();
    for window in 0..10 {
        for number in 0..2_000 {
            let number = window * 1_000_000 + number;
            client.fresh(number);
            client.fresh(number);
            let keys = u32::try_from(number % 1_000_000 + 1).unwrap() * 2;
            assert_eq!(client.alarms.len(), usize::from(keys >= STORM_KEYS), "at {keys} keys");
        }
        let [alarm] = client.alarms[..] else { panic!("{:?}", client.alarms) };
        let remembered = u32::try_from(FINGERPRINTS).unwrap();
        assert_eq!((alarm.kind, alarm.fresh), (Kind::RepeatedRequests, STORM_KEYS));
        assert_eq!((alarm.repeated, alarm.replays, alarm.modified), (remembered, 0, 0));
        assert_eq!(alarm.usual, if window == 0 { 0 } else { 4_000 });
        client.window();
    }
}

#[test]
fn one_request_again_and_again_is_a_storm() {
    let mut client = Client::new();
    client.requests(20_000);
    assert_eq!(client.window(), []);
    client.requests(200);
    (0..2_000).for_each(|_| client.fresh(7));
    assert_eq!(client.window(), [Kind::RepeatedRequests]);
}

#[test]
fn each_of_three_nodes_finds_a_storm_of_single_retries() {
    let mut nodes = [(); 3].map(|()| Client::new());
    let mut random = 1_u64;
    let mut node = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from((random >> 33) % 3).unwrap()
    };
    for number in 0..3_000 {
        nodes[node()].fresh(number);
        nodes[node()].fresh(number);
    }
    for mut node in nodes {
        assert_eq!(node.window(), [Kind::RepeatedRequests]);
    }
}

#[test]
fn few_replays_of_a_proxy_hide_no_storm_and_many_say_that_it_is_none() {
    for (requests_for_replay, expected) in [(50, vec![Kind::RepeatedRequests]), (5, vec![])] {
        let mut client = Client::new();
        for number in 0..2_000 {
            client.fresh(number);
            client.fresh(number);
            client.replays(u64::from(number % requests_for_replay == 0));
        }
        // Only 256 requests are remembered, and the replays of all count.
        assert_eq!(client.window(), expected, "a replay for {requests_for_replay} requests");
    }
}

#[test]
fn requests_that_are_alike_by_nature_are_usual_after_a_while() {
    let mut client = Client::new();
    let told: Vec<usize> = (0..120)
        .map(|_| {
            (0..1_200).for_each(|_| client.fresh(7));
            client.window().len()
        })
        .collect();
    let first_quiet = told.iter().position(|alarms| *alarms == 0).unwrap();
    assert!((40..50).contains(&first_quiet), "{told:?}");
    assert!(told[first_quiet..].iter().all(|alarms| *alarms == 0), "{told:?}");
}

#[test]
fn a_surge_is_told_when_it_begins_and_known_from_then_on() {
    let mut client = Client::new();
    for _ in 0..10 {
        client.requests(50);
        assert_eq!(client.window(), []);
    }
    client.requests(999);
    assert_eq!(client.alarms, []);
    client.requests(1);
    let alarm = Alarm { kind: Kind::Surge, fresh: 1_000, repeated: 0, replays: 0, modified: 0, usual: 50 };
    assert_eq!(client.alarms, [alarm]);
    client.requests(2_000);
    assert_eq!(client.window(), [Kind::Surge], "once");
    // The same batch in each of the next six nights, among the days' usual windows.
    for night in 0..6 {
        for _ in 0..200 {
            client.requests(50);
            assert_eq!(client.window(), [], "night {night}");
        }
        client.millis += 20 * 60 * MINUTE;
        client.requests(3_000);
        assert_eq!(client.window(), [], "night {night}");
    }
    for _ in 0..200 {
        client.requests(50);
        client.window();
    }
    client.requests(6_000);
    assert_eq!(client.window(), [Kind::Surge], "twice as many as ever");
    client.millis += 30 * 24 * 60 * MINUTE;
    for _ in 0..200 {
        client.requests(50);
        client.millis += 60 * MINUTE;
        assert_eq!(client.window(), []);
    }
    client.requests(3_000);
    assert_eq!(client.window(), [Kind::Surge], "what was weeks ago is forgotten");
}

#[test]
fn no_surge_without_earlier_windows_or_with_replays() {
    let mut client = Client::new();
    for _ in 0..4 {
        client.requests(1);
        client.window();
    }
    client.requests(50_000);
    assert_eq!(client.window(), [], "four windows are too few");
    let mut client = Client::new();
    for _ in 0..10 {
        client.requests(50);
        client.window();
    }
    client.requests(500);
    client.replays(3);
    client.requests(2_500);
    assert_eq!(client.window(), [], "one replay in a thousand keys");
}

#[test]
fn modified_payloads_are_told_at_the_twentieth_once_a_window() {
    let mut client = Client::new();
    for _ in 0..3 {
        client.requests(5);
        client.replays(2);
        for number in 1..=100 {
            client.observe(Seen::ModifiedPayload);
            assert_eq!(client.alarms.len(), usize::from(number >= MODIFIED), "at {number}");
        }
        let [alarm] = client.alarms[..] else { panic!("{:?}", client.alarms) };
        let counts = (alarm.fresh, alarm.replays, alarm.modified);
        assert_eq!((alarm.kind, counts), (Kind::ModifiedPayloads, (5, 2, MODIFIED)));
        client.window();
    }
    for _ in 0..5 {
        (0..MODIFIED - 1).for_each(|_| client.observe(Seen::ModifiedPayload));
        assert_eq!(client.window(), [], "one too few in each window");
    }
}

#[test]
fn a_reading_from_before_belongs_to_the_window_that_runs() {
    let mut client = Client::new();
    client.millis = 10 * MINUTE;
    (0..MODIFIED / 2).for_each(|_| client.observe(Seen::ModifiedPayload));
    client.millis = 0;
    (0..MODIFIED / 2).for_each(|_| client.observe(Seen::ModifiedPayload));
    assert_eq!(client.alarms.len(), 1);
}

#[test]
fn clients_endpoints_and_tenants_are_counted_apart() {
    let mut storms = Storms::new(1_000);
    let mut alarms = 0;
    for times in 1..=2 {
        for number in 0..100 {
            let tenant = TenantId::parse(&format!("t{}", number % 4)).unwrap();
            let endpoint = EndpointName::parse(&format!("e{}", number / 4 % 5)).unwrap();
            let client = format!("c{}", number / 20);
            let who = Who { tenant: &tenant, endpoint: &endpoint, client: &client };
            for _ in 0..MODIFIED / 2 {
                alarms += usize::from(storms.observe(who, Seen::ModifiedPayload, at(0)).is_some());
            }
        }
        assert_eq!(alarms, if times == 1 { 0 } else { 100 });
    }
    assert_eq!(storms.len(), 100);
}

#[test]
fn the_stalest_client_goes_and_a_tenant_that_makes_up_clients_takes_its_own_places() {
    let mut storms = Storms::new(16);
    let endpoint = EndpointName::parse("e").unwrap();
    let mut seen = |tenant: &str, client: &str, times: u32, millis| {
        let tenant = TenantId::parse(tenant).unwrap();
        let who = Who { tenant: &tenant, endpoint: &endpoint, client };
        let alarms = (0..times).filter_map(|_| storms.observe(who, Seen::ModifiedPayload, at(millis))).count();
        assert!(storms.len() <= 16);
        alarms
    };
    for client in ["a", "b", "c"] {
        assert_eq!(seen("modest", client, MODIFIED - 1, 1), 0);
    }
    // The stalest of all goes until the greedy tenant has its quarter and one, and then its own.
    for number in 0..1_000 {
        seen("greedy", &number.to_string(), 1, 2 + number);
    }
    assert_eq!(seen("greedy", "0", MODIFIED - 1, 1_100), 0, "long forgotten");
    for client in ["a", "b", "c"] {
        assert_eq!(seen("modest", client, 1, 1_200), 1, "{client} is still counted");
    }
    for tenant in 0..40 {
        seen(&format!("t{tenant}"), "x", 1, 1_300 + tenant);
    }
    assert_eq!(seen("modest", "a", MODIFIED, 1_400), 1, "forgotten, so counted from the start");
}

#[test]
fn many_tasks_get_one_alarm_a_window_and_the_page_counts_it() {
    let watch = Watch::default();
    let tenant = TenantId::parse("storms-test").unwrap();
    let endpoint = EndpointName::parse("POST /v1/charges").unwrap();
    let who = Who { tenant: &tenant, endpoint: &endpoint, client: "pay\n1" };
    let lines = Lines::default();
    let writer = lines.clone();
    let dispatch =
        tracing::Dispatch::new(tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish());
    for window in 0..2 {
        let alarms = AtomicUsize::new(0);
        let all = || {
            tracing::dispatcher::with_default(&dispatch, || {
                for number in 0..500 {
                    let now = at(window * MINUTE);
                    let fresh = watch.observe(who, Seen::Fresh(&request(number)), now);
                    let modified = watch.observe(who, Seen::ModifiedPayload, now);
                    alarms.fetch_add(usize::from(fresh.is_some()) + usize::from(modified.is_some()), Ordering::Relaxed);
                }
            });
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                std::thread::Builder::new().spawn_scoped(scope, all).unwrap();
            }
        });
        assert_eq!(alarms.into_inner(), 2, "a storm, and modified payloads");
    }
    let mut page = Page::default();
    metrics::write(&mut page);
    let page = page.finish();
    for name in ["holdfast_key_storms_total", "holdfast_modified_replay_alarms_total"] {
        let sample = format!("{name}{{tenant=\"storms-test\",endpoint=\"POST /v1/charges\"}} 2\n");
        assert!(page.contains(&sample), "{sample}");
    }
    let lines = lines.text();
    assert_eq!(lines.lines().count(), 4, "{lines}");
    let fields = "tenant=storms-test endpoint=POST /v1/charges client=\"pay\\n1\"";
    assert!(lines.lines().all(|line| line.contains("WARN") && line.contains(fields)), "{lines}");
    assert_eq!(lines.matches("kind=repeated_requests fresh=1000").count(), 2, "{lines}");
    assert_eq!(lines.matches("modified=20").count(), 2, "{lines}");
}

/// What was logged.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// So many calls of one client, each some time after the one before.
#[derive(Clone, Debug)]
struct Calls {
    client: u8,
    apart: u64,
    what: What,
    times: u32,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// New keys for so many requests by turns.
    Fresh(u64),
    Replay,
    Modified,
}

fn calls() -> impl Strategy<Value = Calls> {
    let fresh = prop_oneof![Just(1), 100..400_u64, Just(u64::MAX)].prop_map(What::Fresh);
    let what = prop_oneof![3 => fresh, 1 => Just(What::Replay), 1 => Just(What::Modified)];
    let times = prop_oneof![1..30_u32, 900..2_500_u32];
    let apart = prop_oneof![Just(0), 0..40_u64, 30_000..90_000_u64];
    (0..2_u8, apart, what, times).prop_map(|(client, apart, what, times)| {
        // Long pauses are between few calls.
        let times = if apart >= 30_000 { times.min(12) } else { times };
        Calls { client, apart, what, times }
    })
}

/// Everything that a client did in one window, counted plainly.
#[derive(Default)]
struct Plain {
    begun: u64,
    windows_before: u32,
    fresh: u32,
    replays: u32,
    modified: u32,
    requests: HashSet<u64>,
    repeated: u32,
    told: HashSet<&'static str>,
}

impl Plain {
    fn count(&mut self, what: What, number: u64, millis: u64) {
        let over = (millis - self.begun) / MINUTE;
        if over > 0 {
            let windows_before = self.windows_before + u32::from(self.fresh > 0);
            *self = Self { begun: self.begun + over * MINUTE, windows_before, ..Self::default() };
        }
        match what {
            What::Fresh(_) => {
                self.fresh += 1;
                self.repeated += u32::from(!self.requests.insert(number));
            }
            What::Replay => self.replays += 1,
            What::Modified => self.modified += 1,
        }
    }

    /// What holds for every alarm.
    fn check(&mut self, alarm: Alarm) -> Result<(), TestCaseError> {
        let Alarm { kind, fresh, repeated, replays, modified, usual } = alarm;
        prop_assert_eq!((fresh, replays, modified), (self.fresh, self.replays, self.modified));
        prop_assert!(repeated <= self.repeated);
        let family = match kind {
            Kind::RepeatedRequests | Kind::Surge => "storm",
            Kind::ModifiedPayloads => "modified",
        };
        prop_assert!(self.told.insert(family), "twice in a window: {:?}", alarm);
        match kind {
            Kind::RepeatedRequests => {
                prop_assert!(fresh >= STORM_KEYS && replays * 20 <= self.repeated && repeated > 30)
            }
            Kind::Surge => prop_assert!(
                fresh >= STORM_KEYS && replays * 1_000 < fresh && fresh / 20 >= usual && self.windows_before >= 5
            ),
            Kind::ModifiedPayloads => prop_assert_eq!(modified, MODIFIED),
        }
        Ok(())
    }

    /// What has been told for certain by now.
    fn owes(&self) -> Option<&'static str> {
        (self.modified >= MODIFIED && !self.told.contains("modified")).then_some("modified")
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn alarms_are_true_and_once_a_window(lives in proptest::collection::vec(calls(), 1..25)) {
        let mut storms = Storms::new(4);
        let (tenant, endpoint) = (TenantId::parse("t").unwrap(), EndpointName::parse("e").unwrap());
        let mut plain: HashMap<u8, Plain> = HashMap::new();
        let (mut millis, mut next) = (0, 0_u64);
        for Calls { client, apart, what, times } in lives {
            let name = client.to_string();
            let who = Who { tenant: &tenant, endpoint: &endpoint, client: &name };
            for _ in 0..times {
                millis += apart;
                next += 1;
                let number = match what {
                    What::Fresh(requests) => next % requests,
                    What::Replay | What::Modified => 0,
                };
                let fingerprint = request(number);
                let seen = match what {
                    What::Fresh(_) => Seen::Fresh(&fingerprint),
                    What::Replay => Seen::Replay,
                    What::Modified => Seen::ModifiedPayload,
                };
                let alarm = storms.observe(who, seen, at(millis));
                let plain = plain.entry(client).or_insert_with(|| Plain { begun: millis, ..Plain::default() });
                plain.count(what, number, millis);
                if let Some(alarm) = alarm {
                    plain.check(alarm)?;
                }
                prop_assert_eq!(plain.owes(), None);
            }
        }
    }
}

#[test]
fn the_reference_page_says_how_many_and_how_long() {
    let help = metrics::table::MODIFIED_REPLAYS.help;
    assert!(help.contains(&format!("{MODIFIED} times or more in a minute")), "{help}");
    assert_eq!(WINDOW, Duration::from_millis(MINUTE));
}
