use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::{Cap, Caps, Exceeded, Most, Rate, Rates, SHARDS, Share, Who, shard};
use crate::clock::Monotonic;
use crate::ids::{EndpointName, PartitionCount, TenantId};

const SECOND: u64 = 1_000_000_000;
const FEW: Most = Most { tenants: 20, names: 40, endpoints_per_tenant: 3, clients_per_tenant: 10 };

fn share(led: u16, of: u16) -> Share {
    Share { led, of: PartitionCount::new(of).unwrap() }
}

/// Any time of a machine's clock.
fn at(nanos: u64) -> Monotonic {
    Monotonic::at(Duration::from_secs(12_345) + Duration::from_nanos(nanos))
}

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

fn endpoint(name: &str) -> EndpointName {
    EndpointName::parse(name).unwrap()
}

fn of_tenant(keys_per_second: u64) -> Caps {
    Caps { tenant: Rate { keys_per_second: Some(keys_per_second), per_client: None }, endpoint: Rate::default() }
}

fn each_client(per_client: u64) -> Caps {
    Caps { tenant: Rate { keys_per_second: None, per_client: Some(per_client) }, endpoint: Rate::default() }
}

/// More than any cap here allows.
const UNLIMITED: usize = 20_000;

struct Asking {
    rates: Rates,
    share: Share,
}

impl Asking {
    fn alone(most: Most) -> Self {
        Self { rates: Rates::with(most), share: share(1, 1) }
    }

    fn ask(&self, who: (&str, &str, &str), caps: &Caps, nanos: u64) -> Result<(), Exceeded> {
        let (tenant, endpoint) = (tenant(who.0), endpoint(who.1));
        self.rates.admit(Who { tenant: &tenant, endpoint: &endpoint, client: who.2 }, caps, self.share, at(nanos))
    }

    /// How many keys in a row are admitted at one time, at most [`UNLIMITED`].
    fn fill(&self, who: (&str, &str, &str), caps: &Caps, nanos: u64) -> usize {
        (0..UNLIMITED).take_while(|_| self.ask(who, caps, nanos).is_ok()).count()
    }
}

const WHO: (&str, &str, &str) = ("acme", "POST /v1/charges", "a");

#[test]
fn a_second_of_keys_at_once_and_then_one_each_period() {
    let asking = Asking::alone(super::MOST);
    let caps = of_tenant(10);
    assert_eq!(asking.fill(WHO, &caps, 0), 10);
    let refused = Exceeded {
        cap: Cap::Tenant,
        keys_per_second: 10,
        retry_after: Duration::from_millis(100),
        reset: Duration::from_secs(1),
    };
    assert_eq!(asking.ask(WHO, &caps, 0), Err(refused));
    let (retry_after, reset) = (Duration::from_nanos(1), Duration::from_nanos(900_000_001));
    let refused = Exceeded { retry_after, reset, ..refused };
    assert_eq!(asking.ask(WHO, &caps, SECOND / 10 - 1), Err(refused));
    assert_eq!(asking.fill(WHO, &caps, SECOND / 10), 1, "after what retry_after said");
    assert_eq!(asking.fill(WHO, &caps, 10 * SECOND), 10, "no more than one burst is saved up");
}

#[test]
fn each_cap_refuses_its_own_and_nobody_elses() {
    let one = |keys_per_second, per_client| Rate { keys_per_second, per_client };
    let (free, one_key) = (one(None, None), Some(1));
    let cases = [
        (Cap::Tenant, Caps { tenant: one(one_key, None), endpoint: free }, ("acme", "other", "other")),
        (Cap::TenantClient, Caps { tenant: one(None, one_key), endpoint: free }, ("acme", "other", "a")),
        (Cap::Endpoint, Caps { tenant: free, endpoint: one(one_key, None) }, ("acme", WHO.1, "other")),
        (Cap::EndpointClient, Caps { tenant: free, endpoint: one(None, one_key) }, WHO),
    ];
    let everybody = |same: (&'static str, &'static str, &'static str)| {
        [("other", WHO.1, "a"), ("acme", "other", "other"), ("acme", "other", "a"), ("acme", WHO.1, "other"), WHO]
            .into_iter()
            .filter(move |who| {
                // Whoever has all of the names that the cap counts by is held by it.
                (who.0 == same.0) && (same.1 == "other" || who.1 == same.1) && (same.2 == "other" || who.2 == same.2)
            })
    };
    for (cap, caps, counts) in cases {
        let held: Vec<_> = everybody(counts).collect();
        for who in [("other", WHO.1, "a"), ("acme", "other", "other"), ("acme", "other", "a"), ("acme", WHO.1, "other")]
        {
            let asking = Asking::alone(super::MOST);
            assert_eq!(asking.ask(WHO, &caps, 0), Ok(()));
            let expected = held.contains(&who).then_some(cap);
            assert_eq!(asking.ask(who, &caps, 0).err().map(|exceeded| exceeded.cap), expected, "{cap:?} {who:?}");
        }
    }
}

#[test]
fn of_several_that_refuse_the_longest_is_told() {
    let asking = Asking::alone(super::MOST);
    let caps = Caps {
        tenant: Rate { keys_per_second: Some(2), per_client: Some(1) },
        endpoint: Rate { keys_per_second: Some(2), per_client: Some(2) },
    };
    assert_eq!(asking.ask(WHO, &caps, 0), Ok(()));
    assert_eq!(asking.ask(("acme", WHO.1, "b"), &caps, 0), Ok(()));
    let refused = asking.ask(WHO, &caps, 0).unwrap_err();
    assert_eq!((refused.cap, refused.keys_per_second), (Cap::TenantClient, 1));
    assert_eq!(refused.retry_after, Duration::from_secs(1));
}

#[test]
fn without_caps_nothing_is_kept_and_after_a_refusal_nothing_new() {
    let asking = Asking::alone(super::MOST);
    for _ in 0..10 {
        assert_eq!(asking.ask(WHO, &Caps::default(), 0), Ok(()));
    }
    assert_eq!(asking.rates.kept(), 0);
    let caps = Caps { endpoint: Rate { keys_per_second: None, per_client: Some(5) }, ..of_tenant(1) };
    assert_eq!(asking.ask(WHO, &caps, 0), Ok(()));
    assert_eq!(asking.rates.kept(), 3, "tenant, endpoint, its client");
    for client in ["b", "c", "d"] {
        assert!(asking.ask(("acme", client, client), &caps, 0).is_err());
    }
    assert_eq!(asking.rates.kept(), 3);
}

#[test]
fn threads_admit_exactly_what_is_allowed() {
    const THREADS: u64 = 8;
    const CALLS: u64 = 5_000;
    let asking = Asking { rates: Rates::default(), share: share(1, 1) };
    let caps = Caps { endpoint: Rate { keys_per_second: None, per_client: Some(40) }, ..of_tenant(100) };
    let clock = AtomicU64::new(0);
    let admitted: [AtomicUsize; 2] = Default::default();
    let ask = |nanos| {
        for (client, admitted) in ["a", "b"].into_iter().zip(&admitted) {
            admitted
                .fetch_add(usize::from(asking.ask(("acme", WHO.1, client), &caps, nanos).is_ok()), Ordering::Relaxed);
        }
    };
    let used_up = |nanos| (0..100).for_each(|_| ask(nanos));
    used_up(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            // Somebody else may come first with a later time.
            let work = || (0..CALLS).for_each(|_| ask(clock.fetch_add(100_000, Ordering::Relaxed)));
            std::thread::Builder::new().spawn_scoped(scope, work).unwrap();
        }
    });
    let took = clock.load(Ordering::Relaxed);
    used_up(took);
    let seconds = usize::try_from(took / SECOND).unwrap();
    let [a, b] = admitted.map(AtomicUsize::into_inner);
    assert_eq!((took, seconds), (THREADS * CALLS * 100_000, 4));
    assert_eq!((a, b), (40 + 40 * seconds, 40 + 40 * seconds), "each client, and the tenant would allow more");
}

#[test]
fn threads_at_one_moment_admit_exactly_the_burst() {
    let asking = Asking { rates: Rates::default(), share: share(1, 1) };
    for (nanos, expected) in [(0, 100), (SECOND / 4, 25), (SECOND / 4, 0), (60 * SECOND, 100)] {
        let admitted = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for client in ["a", "b", "c", "d", "e", "f", "g", "h"] {
                let (asking, admitted) = (&asking, &admitted);
                let work = move || {
                    for _ in 0..500 {
                        let ok = asking.ask(("acme", client, client), &of_tenant(100), nanos).is_ok();
                        admitted.fetch_add(usize::from(ok), Ordering::Relaxed);
                    }
                };
                std::thread::Builder::new().spawn_scoped(scope, work).unwrap();
            }
        });
        assert_eq!(admitted.into_inner(), expected, "at {nanos}");
    }
}

#[test]
fn a_changed_cap_holds_for_the_next_key() {
    let asking = Asking::alone(super::MOST);
    assert_eq!(asking.fill(WHO, &of_tenant(1_000), 0), 1_000);
    assert_eq!(asking.fill(WHO, &of_tenant(10), 0), 0, "what is used up stays used up");
    assert_eq!(asking.fill(WHO, &of_tenant(10), SECOND), 10);
    assert_eq!(asking.fill(WHO, &of_tenant(1), SECOND), 0);
    assert_eq!(asking.fill(WHO, &of_tenant(1_000), SECOND + SECOND / 1_000), 1, "and fills at the new rate at once");
    assert_eq!(asking.fill(WHO, &Caps::default(), SECOND * 2), UNLIMITED, "without a cap");
}

#[test]
fn a_changed_share_holds_for_the_next_key() {
    let mut asking = Asking { rates: Rates::default(), share: share(1, 1_024) };
    assert_eq!(asking.fill(WHO, &of_tenant(1), 0), 1);
    let refused = asking.ask(WHO, &of_tenant(1), 0).unwrap_err();
    assert_eq!(refused.retry_after, Duration::from_secs(1_024), "one of 1,024 partitions");
    asking.share = share(1_024, 1_024);
    let refused = asking.ask(WHO, &of_tenant(1), 0).unwrap_err();
    assert_eq!(refused.retry_after, Duration::from_secs(1), "all of them: no longer than a key takes now");
    assert_eq!(asking.fill(WHO, &of_tenant(1), SECOND), 1);
    asking.share = share(0, 16);
    assert!(asking.ask(WHO, &of_tenant(1), SECOND).is_err(), "none is as one");
}

#[test]
fn what_is_full_again_is_dropped() {
    let asking = Asking::alone(super::MOST);
    let caps = Caps { endpoint: Rate { keys_per_second: Some(100), per_client: Some(10) }, ..each_client(10) };
    for client in 0..1_000 {
        // The endpoint's burst goes to a hundred clients.
        let _either = asking.ask(("acme", WHO.1, &client.to_string()), &caps, 0);
    }
    assert_eq!(asking.rates.kept(), 202, "tenant, endpoint, and each client twice");
    assert_eq!(asking.ask(("acme", WHO.1, "new"), &caps, 2 * SECOND), Ok(()));
    assert_eq!(asking.rates.kept(), 4, "making a bucket drops what is full");
}

#[test]
fn what_is_almost_full_is_kept() {
    let asking = Asking::alone(super::MOST);
    let caps = each_client(10);
    assert_eq!(asking.fill(WHO, &caps, 0), 10);
    let almost = SECOND - 1;
    assert_eq!(asking.ask(("acme", WHO.1, "new"), &caps, almost), Ok(()), "and makes a bucket");
    assert_eq!(asking.fill(WHO, &caps, almost), 9);
}

#[test]
fn clients_beyond_the_room_are_held_by_their_tenants_cap_and_cost_nobody_else() {
    let asking = Asking::alone(FEW);
    let caps = Caps { tenant: Rate { keys_per_second: Some(30), per_client: Some(1) }, endpoint: Rate::default() };
    let made_up: Vec<String> = (0..100).map(|number| format!("made-up-{number}")).collect();
    let admitted = made_up.iter().filter(|name| asking.ask(("greedy", "e", name), &caps, 0).is_ok()).count();
    assert_eq!(admitted, 30, "by the cap of all clients");
    assert_eq!(asking.rates.kept(), 11, "the tenant and ten clients");
    assert_eq!(asking.ask(("greedy", "e", &made_up[50]), &caps, 0).unwrap_err().cap, Cap::Tenant);
    assert_eq!(asking.fill(("modest", "e", "a"), &caps, 0), 1, "others have room, and are held");
    assert_eq!(asking.ask(("modest", "e", "a"), &caps, 0).unwrap_err().cap, Cap::TenantClient);
}

#[test]
fn clients_leave_room_for_endpoints() {
    let asking = Asking::alone(FEW);
    let caps = Caps { tenant: Rate { keys_per_second: None, per_client: Some(1) }, endpoint: Rate::default() };
    for client in 0..100 {
        assert_eq!(asking.ask(("greedy", "e", &client.to_string()), &caps, 0), Ok(()));
    }
    let caps = Caps { tenant: Rate::default(), endpoint: Rate { keys_per_second: Some(7), per_client: None } };
    assert_eq!(asking.fill(("greedy", "e", "a"), &caps, 0), 7);
}

#[test]
fn room_that_idle_tenants_take_is_found_again() {
    let asking = Asking::alone(FEW);
    for number in 0..20 {
        assert_eq!(asking.ask((&format!("t{number}"), "e", "a"), &of_tenant(1), 0), Ok(()));
    }
    assert_eq!(
        asking.fill(("late", "e", "a"), &of_tenant(1), 1).min(100),
        100,
        "not held: there is no room for tenants"
    );
    assert_eq!(asking.rates.kept(), 20);
    // All of them are full now, in shards that nobody asks. Each key that finds no room sweeps one.
    let now = 2 * SECOND;
    let not_held = asking.fill(("late", "e", "a"), &of_tenant(1), now);
    assert!(not_held <= SHARDS + 1, "{not_held}");
}

#[test]
fn many_tenants_are_counted_right() {
    let asking = Asking::alone(super::MOST);
    let mut nanos = 0;
    for round in 0..20_u64 {
        for number in 0..200 {
            let name = format!("t{round}-{number}");
            assert_eq!(asking.ask((&name, "e", "a"), &each_client(10), nanos), Ok(()));
        }
        nanos += u64::try_from(shard::SWEEP_EVERY.as_nanos()).unwrap();
        assert!(asking.rates.kept() <= 4 * 400, "round {round}: {}", asking.rates.kept());
    }
}

/// The largest number of keys beyond rate × t in any time t, times the rate's period in nanoseconds to keep it whole.
fn most_at_once(admitted: &[u64], period: u64) -> u64 {
    let (mut lead, mut most) = (0_u64, 0_u64);
    let mut before = admitted.first().copied().unwrap_or_default();
    for nanos in admitted {
        // The lead over an even pace shrinks with time, never below nothing, and grows by a period with each key.
        lead = lead.saturating_sub(nanos - before) + period;
        before = *nanos;
        most = most.max(lead);
    }
    most
}

#[test]
fn the_checker_finds_one_key_too_many() {
    let paced: Vec<u64> = (0..50).map(|key| key * 100).collect();
    assert_eq!(most_at_once(&paced, 100), 100, "one at once");
    let mut planted = paced.clone();
    planted.insert(20, 1_950);
    assert!(most_at_once(&planted, 100) > 100);
    assert_eq!(most_at_once(&[5, 5, 5], 100), 300);
}

/// A region of three nodes that lead 6, 5 and 5 of 16 partitions.
struct Region {
    nodes: [Asking; 3],
    random: u64,
}

impl Region {
    fn new() -> Self {
        let nodes = [6, 5, 5].map(|led| Asking { rates: Rates::default(), share: share(led, 16) });
        Self { nodes, random: 7 }
    }

    fn bursts(&self, rate: u64) -> u64 {
        self.nodes.iter().map(|node| node.share.burst(rate)).sum()
    }

    /// A key of some partition comes to the node that leads it.
    fn ask(&mut self, caps: &Caps, nanos: u64) -> bool {
        let partition = splitmix(&mut self.random) % 16;
        let node = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2][usize::try_from(partition).unwrap()];
        self.nodes[node].ask(WHO, caps, nanos).is_ok()
    }
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn a_region_admits_its_rate_and_its_bursts_and_not_one_more() {
    for (rate, seconds) in [(1, 2_000), (2, 1_000), (10, 500), (100, 100), (1_000, 20)] {
        let (mut region, caps) = (Region::new(), of_tenant(rate));
        let period = SECOND / rate;
        let mut admitted = Vec::new();
        // Five times as many keys come as are allowed, the first ones at once.
        let first = (0..rate * 20).map(|_| 0);
        for nanos in first.chain((0..seconds * rate * 5).map(|key| key * period / 5)) {
            if region.ask(&caps, nanos) {
                admitted.push(nanos);
            }
        }
        let bound = region.bursts(rate) * period;
        assert!(most_at_once(&admitted, period) <= bound, "{rate}/s: {admitted:?}");
        let (got, allowed) = (u64::try_from(admitted.len()).unwrap(), rate * seconds);
        assert!(got >= allowed * 97 / 100, "{rate}/s: {got} of {allowed}");
    }
}

#[test]
fn a_tenant_below_its_rate_is_seldom_refused() {
    for (rate, seldom) in [(1, 15), (10, 6), (100, 2), (1_000, 1)] {
        let (mut region, caps) = (Region::new(), of_tenant(rate));
        let keys = 20_000;
        // Four fifths of what is allowed, evenly in time, spread by hash.
        let refused = (0..keys).filter(|key| !region.ask(&caps, key * SECOND / rate * 5 / 4)).count();
        assert!(refused <= usize::try_from(keys).unwrap() * seldom / 100, "{rate}/s: {refused} of {keys}");
    }
}

#[test]
fn the_table_of_bursts_is_as_the_module_says() {
    let page = include_str!("../rates.rs");
    for rate in [1, 10, 100, 1_000] {
        let three = Region::new().bursts(rate);
        let thousands = |number: u64| match number {
            0..1_000 => number.to_string(),
            _ => format!("{},{:03}", number / 1_000, number % 1_000),
        };
        let row =
            format!("//! | {} | {} | {} |", thousands(rate), thousands(share(16, 16).burst(rate)), thousands(three));
        assert!(page.contains(&row), "the module's page lacks: {row}");
    }
}

#[test]
fn bounds_of_rates_and_shares_are_met() {
    for rate in [0, 1, 999_999, 1_000_000, u64::MAX] {
        for share in [share(1, 1), share(1, 1_024), share(512, 1_024), share(1_024, 1_024), share(u16::MAX, 3)] {
            let asking = Asking { rates: Rates::default(), share };
            let burst = usize::try_from(share.burst(rate)).unwrap();
            if burst <= 10_000 {
                assert_eq!(asking.fill(WHO, &of_tenant(rate), 0), burst, "{rate} {share:?}");
            }
            assert_eq!(asking.ask(WHO, &of_tenant(rate), u64::MAX / 2), Ok(()));
        }
    }
}

/// One call of a random life.
#[derive(Clone, Debug)]
struct Call {
    later: u64,
    tenant: usize,
    endpoint: usize,
    client: usize,
    caps: usize,
}

const TENANTS: [&str; 2] = ["acme", "other"];
const NAMES: [&str; 3] = ["a", "b", "c"];

impl Call {
    fn who(&self) -> (&'static str, &'static str, &'static str) {
        (TENANTS[self.tenant], NAMES[self.endpoint], NAMES[self.client])
    }

    /// Caps stay those of one tenant and endpoint, unless `caps` says that a policy changed.
    fn caps(&self) -> Caps {
        let some = |rate: u64| (!(self.caps as u64 + rate).is_multiple_of(5)).then_some(rate);
        Caps {
            tenant: Rate { keys_per_second: some(8), per_client: some(3) },
            endpoint: Rate { keys_per_second: some(5), per_client: some(2) },
        }
    }
}

fn calls(most: usize) -> impl Strategy<Value = Vec<Call>> {
    let later = prop_oneof![Just(0), 0..SECOND / 10, 0..3 * SECOND];
    let call = (later, 0..2_usize, 0..3_usize, 0..3_usize, 0..5_usize)
        .prop_map(|(later, tenant, endpoint, client, caps)| Call { later, tenant, endpoint, client, caps });
    proptest::collection::vec(call, 1..most)
}

/// The outcome of every call.
fn outcomes(calls: &[Call], admit: impl Fn(&Asking, &Call, u64) -> bool) -> Vec<bool> {
    let asking = Asking::alone(super::MOST);
    let mut now = 0;
    let ask = |call: &Call| {
        now += call.later;
        admit(&asking, call, now)
    };
    calls.iter().map(ask).collect()
}

/// Whether each call that was refused is refused as well when only the admitted ones came before it, and they are admitted.
fn refusals_leave_no_trace(calls: &[Call], admit: impl Fn(&Asking, &Call, u64) -> bool) -> bool {
    let mut kept: Vec<Call> = Vec::new();
    let mut later = 0;
    calls.iter().zip(outcomes(calls, &admit)).all(|(call, admitted)| {
        later += call.later;
        kept.push(Call { later, ..call.clone() });
        let again = outcomes(&kept, &admit);
        if admitted {
            later = 0;
        } else {
            kept.pop();
        }
        again.last() == Some(&admitted)
    })
}

fn admit(asking: &Asking, call: &Call, nanos: u64) -> bool {
    asking.ask(call.who(), &call.caps(), nanos).is_ok()
}

/// The planted bug: what the tenant's cap gave stays taken when the endpoint's refuses.
fn admit_one_after_another(asking: &Asking, call: &Call, nanos: u64) -> bool {
    let Caps { tenant, endpoint } = call.caps();
    asking.ask(call.who(), &Caps { tenant, endpoint: Rate::default() }, nanos).is_ok()
        && asking.ask(call.who(), &Caps { tenant: Rate::default(), endpoint }, nanos).is_ok()
}

#[test]
fn a_refusal_that_leaves_a_trace_is_found() {
    let call = |endpoint| Call { later: 0, tenant: 0, endpoint, client: 0, caps: 1 };
    // The endpoint allows a client two keys, the tenant three: the third is had at another endpoint.
    let calls = [0, 0, 0, 1].map(call);
    assert_eq!(outcomes(&calls, admit), [true, true, false, true]);
    assert!(refusals_leave_no_trace(&calls, admit));
    assert_eq!(outcomes(&calls, admit_one_after_another), [true, true, false, false]);
    assert!(!refusals_leave_no_trace(&calls, admit_one_after_another));
}

/// A reference that counts credit instead of time: each name has some nanoseconds of it, and a key costs a period.
#[derive(Default)]
struct Reference {
    now: u64,
    /// By tenant and, where the cap counts by them, endpoint and client; with the time that it is of.
    credits: BTreeMap<[&'static str; 3], (u64, u64)>,
}

impl Reference {
    fn admit(&mut self, call: &Call) -> bool {
        self.now += call.later;
        let (tenant, endpoint, client) = call.who();
        const ALL: &str = "";
        let Caps { tenant: all, endpoint: one } = call.caps();
        let caps = [
            ([tenant, ALL, ALL], all.keys_per_second),
            ([tenant, ALL, client], all.per_client),
            ([tenant, endpoint, ALL], one.keys_per_second),
            ([tenant, endpoint, client], one.per_client),
        ];
        let caps: Vec<_> =
            caps.into_iter().filter_map(|(name, rate)| Some((name, SECOND.div_ceil(rate?), rate?))).collect();
        let mut credit = |name, period: u64, rate: u64| {
            let (credit, at) = self.credits.entry(name).or_insert((period * rate, self.now));
            *credit = (period * rate).min(*credit + (self.now - *at));
            *at = self.now;
            *credit
        };
        let ok = caps.iter().fold(true, |ok, (name, period, rate)| credit(*name, *period, *rate) >= *period && ok);
        for (name, period, _) in caps.iter().filter(|_| ok) {
            self.credits.get_mut(name).unwrap().0 -= period;
        }
        ok
    }
}

proptest! {
    #[test]
    fn every_outcome_is_the_references(calls in calls(300)) {
        let mut reference = Reference::default();
        let expected: Vec<bool> = calls.iter().map(|call| reference.admit(call)).collect();
        prop_assert_eq!(outcomes(&calls, admit), expected);
    }

    #[test]
    fn refusals_leave_no_trace_at_all(calls in calls(60)) {
        prop_assert!(refusals_leave_no_trace(&calls, admit));
    }
}
