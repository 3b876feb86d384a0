//! Policies, tenants and quotas at work: what a change of them does to keys that are there, and what it must never do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, ensure};
use holdfast_client::proto::v1 as api;
use holdfast_client::proto::v1::reserve_response::Outcome;
use tokio::task::JoinSet;

use crate::client::{Client, admin};
use crate::cluster::{self, Founding, SERVING_DEADLINE};
use crate::failure::Failure;
use crate::harness::{self, Place};
use crate::metrics::Scraped;
use crate::payload;
use crate::talk::{self, Ask, TENANT, complete_at, fencing};

/// Leaves out of a fingerprint what a client sets anew on every attempt.
const LOOSE: &str = "[policy.charges]\nendpoints = [\"POST /v1/charges\"]\nseverity = \"high\"\nretention = \"7d\"\n\
                     [policy.charges.fingerprint]\nleave_out = [\"/sent_at\"]\n";
/// The same endpoint, promised less: nothing is left out, lapsed keys are granted again, and answers are kept for a second.
const TIGHT: &str =
    "[policy.charges]\nendpoints = [\"POST /v1/charges\"]\nseverity = \"high\"\nlease = \"1s\"\nretention = \"1s\"\n";

fn told(failure: Failure) -> anyhow::Error {
    anyhow::anyhow!("{failure:?}")
}

fn signature() -> Option<api::Signature> {
    Some(api::Signature { actor: "ada".to_owned(), reason: "a test".to_owned() })
}

/// Makes the policies those of a text.
pub(crate) async fn apply(address: SocketAddr, expected_revision: u32, text: &str) -> anyhow::Result<u32> {
    let sources = vec![api::PolicySource { name: "test.toml".to_owned(), text: text.to_owned() }];
    let request = api::ApplyPoliciesRequest { signature: signature(), expected_revision, sources, prune: true };
    Ok(admin(address)?.apply_policies(request).await?.into_inner().revision)
}

/// A Reserve whose fingerprint the store takes.
fn described(key: &str, nonce: u64, amount: u32, sent_at: u32) -> api::ReserveRequest {
    let body = format!("{{\"amount\":{amount},\"sent_at\":{sent_at}}}");
    let json = api::Header { name: "content-type".to_owned(), value: "application/json".into() };
    let request = api::Request {
        method: "POST".to_owned(),
        path: "/v1/charges".to_owned(),
        headers: vec![json],
        body: body.into_bytes().into(),
    };
    let fingerprint = Some(api::Fingerprint { kind: Some(api::fingerprint::Kind::Request(request)) });
    api::ReserveRequest { endpoint: String::new(), fingerprint, ..Ask::new(key, nonce).message() }
}

pub(crate) async fn outcome(client: &Client, request: api::ReserveRequest) -> anyhow::Result<Outcome> {
    let answer = client.reserve(request).await.map_err(told)?;
    answer.outcome.context("no outcome")
}

async fn granted(client: &Client, request: api::ReserveRequest) -> anyhow::Result<api::Granted> {
    match outcome(client, request).await? {
        Outcome::Granted(grant) => Ok(grant),
        other => anyhow::bail!("not granted: {other:?}"),
    }
}

/// What a retry is told of keys that were reserved under another selection, while they are held and once they are completed.
async fn retries_stand(client: &Client, held: &str, completed: &str, least_expiry: u64) -> anyhow::Result<()> {
    let name = client.name();
    let retry = outcome(client, described(held, 2, 5, 99)).await?;
    ensure!(matches!(retry, Outcome::InProgress(_)), "{held} over {name}, sent again with another time: {retry:?}");
    let other = outcome(client, described(held, 3, 6, 1)).await?;
    ensure!(matches!(other, Outcome::Mismatch(_)), "{held} over {name}, another amount: {other:?}");
    let retry = outcome(client, described(completed, 2, 5, 99)).await?;
    let Outcome::Replay(replay) = retry else { anyhow::bail!("{completed} over {name} is not replayed: {retry:?}") };
    ensure!(replay.envelope == Some(payload::envelope(7, 10)), "another answer over {name}");
    ensure!(replay.expires_at_unix_ms >= least_expiry, "the promise is shorter: {replay:?}");
    let other = outcome(client, described(completed, 3, 6, 1)).await?;
    ensure!(matches!(other, Outcome::Mismatch(_)), "{completed} over {name}, another amount: {other:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_policies_changes_no_key_that_is_there() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let client = Client::grpc(node.address())?;
    ensure!(apply(node.address(), 0, LOOSE).await? == 1);
    granted(&client, described("held", 1, 5, 1)).await?;
    let grant = granted(&client, described("done", 1, 5, 1)).await?;
    let expires = complete_at(&client, "done", &grant, &payload::envelope(7, 10)).await?;
    let back = granted(&client, described("back", 1, 5, 1)).await?;
    ensure!(apply(node.address(), 1, TIGHT).await? == 2);
    for client in &Client::both(node.address())? {
        retries_stand(client, "held", "done", expires).await?;
    }
    // A grant of the old policy that is completed now is kept as long as it was promised.
    let held = granted(&client, described("held", 1, 5, 1)).await?;
    let kept = complete_at(&client, "held", &held, &payload::envelope(7, 10)).await?;
    ensure!(kept + 60_000 >= expires, "kept until {kept}, and the other until {expires}");
    // A key that was given back is granted as the policy says now, and no shorter than it was promised.
    talk::release(&client, "back", &back.token).await.map_err(told)?.map_err(|state| anyhow::anyhow!("{state:?}"))?;
    let again = granted(&client, described("back", 2, 5, 2)).await?;
    let kept = complete_at(&client, "back", &again, &payload::envelope(1, 10)).await?;
    ensure!(kept + 60_000 >= expires, "kept until {kept}, and the other until {expires}");
    let strict = outcome(&client, described("back", 3, 5, 3)).await?;
    ensure!(matches!(strict, Outcome::Mismatch(_)), "under the new policy the time counts: {strict:?}");
    // What is new is promised less, and swept.
    let fresh = granted(&client, described("fresh", 1, 5, 1)).await?;
    complete_at(&client, "fresh", &fresh, &payload::envelope(1, 10)).await?;
    harness::until("the new key's answer is gone", talk::SOON, async || {
        let again = outcome(&client, described("fresh", 2, 5, 1)).await?;
        Ok(matches!(again, Outcome::Granted(_)).then_some(()))
    })
    .await?;
    retries_stand(&client, "held2", "done", expires).await.expect_err("the check can fail");
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_and_another_leader_know_the_policies_and_the_usage() -> anyhow::Result<()> {
    cluster::with(Founding::default(), async |cluster| {
        let address = |node, cluster: &cluster::Cluster| anyhow::Ok(cluster.spot(node)?.api);
        apply(address(1, cluster)?, 0, LOOSE).await?;
        // The others hear of it with their next entries.
        cluster.until_caught_up().await?;
        let client = Client::grpc(address(2, cluster)?)?;
        let mut expires = u64::MAX;
        for number in 0..8 {
            granted(&client, described(&format!("held-{number}"), 1, 5, 1)).await?;
            let key = format!("done-{number}");
            let grant = granted(&client, described(&key, 1, 5, 1)).await?;
            expires = expires.min(complete_at(&client, &key, &grant, &payload::envelope(7, 10)).await?);
        }
        // The change, and whoever leads dies with it.
        let first = cluster.leader(0).await?;
        apply(address(first, cluster)?, 1, TIGHT).await?;
        cluster.kill(first)?;
        cluster.until_serving(SERVING_DEADLINE).await?;
        for node in cluster.awake() {
            let client = Client::grpc(address(node, cluster)?)?;
            for number in 0..8 {
                retries_stand(&client, &format!("held-{number}"), &format!("done-{number}"), expires).await?;
            }
            let mut admin = admin(address(node, cluster)?)?;
            let policies = admin.get_policies(api::GetPoliciesRequest { revision: None }).await?.into_inner();
            ensure!(policies.revision.map(|one| one.revision) == Some(2), "node {node} knows another revision");
        }
        cluster.start(first)?;
        cluster.until_serving(SERVING_DEADLINE).await?;
        retries_stand(&Client::grpc(address(first, cluster)?)?, "held-3", "done-3", expires).await
    })
    .await
}

/// Asks for new keys from many tasks at once, and says how many were granted and how many a limit refused.
async fn rush(address: SocketAddr, tenant: &'static str, count: u32) -> anyhow::Result<(u32, BTreeLimits)> {
    rush_from(address, tenant, 0, count).await
}

/// The same, for keys that no other place asks for.
async fn rush_from(
    address: SocketAddr,
    tenant: &'static str,
    place: u64,
    count: u32,
) -> anyhow::Result<(u32, BTreeLimits)> {
    let client = Arc::new(Client::grpc(address)?);
    let next = Arc::new(AtomicU32::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..CALLERS {
        let (client, next) = (Arc::clone(&client), Arc::clone(&next));
        tasks.spawn(async move {
            let mut seen = (0, BTreeLimits::new());
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(seen);
                }
                let key = if place == 0 { format!("rush-{number}") } else { format!("rush-{place}-{number}") };
                let request = api::ReserveRequest { tenant: tenant.to_owned(), ..Ask::new(&key, 1).message() };
                match outcome(&client, request).await? {
                    Outcome::Granted(_) => seen.0 += 1,
                    Outcome::Limited(limited) => *seen.1.entry(limited.limit).or_default() += 1,
                    other => anyhow::bail!("{key}: {other:?}"),
                }
            }
        });
    }
    let mut sum = (0, BTreeLimits::new());
    while let Some(done) = tasks.join_next().await {
        let (granted, limited) = done??;
        sum.0 += granted;
        for (limit, times) in limited {
            *sum.1.entry(limit).or_default() += times;
        }
    }
    Ok(sum)
}

type BTreeLimits = std::collections::BTreeMap<String, u32>;

pub(crate) async fn create(address: SocketAddr, tenant: &str, limits: api::TenantLimits) -> anyhow::Result<()> {
    let (tenant, limits) = (tenant.to_owned(), Some(limits));
    let request = api::CreateTenantRequest { signature: signature(), tenant, home: String::new(), limits };
    admin(address)?.create_tenant(request).await?;
    Ok(())
}

pub(crate) async fn tenant(address: SocketAddr, tenant: &str) -> anyhow::Result<api::Tenant> {
    let request = api::ListTenantsRequest { tenant: tenant.to_owned() };
    let tenants = admin(address)?.list_tenants(request).await?.into_inner().tenants;
    tenants.into_iter().next().context("no tenant")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_is_exact_on_one_node_under_concurrent_load() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let address = node.address();
    create(address, "small", api::TenantLimits { max_keys: Some(100), ..Default::default() }).await?;
    let (granted, limited) = rush(address, "small", 400).await?;
    ensure!(granted == 100, "{granted} of 100 were granted, refused: {limited:?}");
    ensure!(limited == BTreeLimits::from([("tenant-keys".to_owned(), 300)]), "{limited:?}");
    let usage = tenant(address, "small").await?;
    ensure!((usage.keys, usage.endpoints.len()) == (100, 1), "{usage:?}");
    let page = Scraped::of(address).await?;
    let shown = ["keys", "max_keys"].map(|name| page.value(&format!("holdfast_tenant_{name}{{tenant=\"small\"}}")));
    ensure!(shown == [100.0, 100.0], "{shown:?}");
    let refused = page.value("holdfast_limited_total{tenant=\"small\",limit=\"tenant_keys\"}");
    ensure!(refused == 300.0, "{refused} refused calls are counted");
    // What is there is never refused: replays, completions, another attempt.
    let client = Client::grpc(address)?;
    let ask = |nonce| api::ReserveRequest { tenant: "small".to_owned(), ..Ask::new("rush-0", nonce).message() };
    let again = outcome(&client, ask(1)).await?;
    ensure!(matches!(&again, Outcome::Granted(grant) if grant.repeated), "{again:?}");
    // Another tenant has all of its own room.
    let (granted, _) = rush(address, "large", 200).await?;
    ensure!(granted == 200, "{granted}");
    let before = usage.bytes;
    node.stop().await?;
    let node = place.start().run().await?;
    let usage = tenant(node.address(), "small").await?;
    ensure!((usage.keys, usage.bytes) == (100, before), "after a restart: {usage:?}, before {before} bytes");
    node.stop().await
}

/// Callers that [`rush`] asks with at once.
const CALLERS: u32 = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_pass_a_quota_by_no_more_than_what_is_on_the_way_and_agree_on_it() -> anyhow::Result<()> {
    const MOST: u32 = 300;
    cluster::with(Founding::default(), async |cluster| {
        let nodes = cluster.nodes();
        let address = |node, cluster: &cluster::Cluster| anyhow::Ok(cluster.spot(node)?.api);
        let addresses = nodes.iter().map(|node| address(*node, cluster)).collect::<anyhow::Result<Vec<_>>>()?;
        let first = *addresses.first().context("no node")?;
        create(first, "shared", api::TenantLimits { max_keys: Some(u64::from(MOST)), ..Default::default() }).await?;
        cluster.until_caught_up().await?;
        let mut rushes = JoinSet::new();
        for (at, place) in addresses.iter().zip(1..) {
            rushes.spawn(rush_from(*at, "shared", place, 400));
        }
        let mut granted = 0;
        while let Some(ended) = rushes.join_next().await {
            granted += ended??.0;
        }
        let callers = CALLERS * u32::try_from(nodes.len())?;
        harness::report(&format!(
            "{callers} callers at {} nodes were granted {granted} keys of a quota of {MOST}",
            nodes.len()
        ));
        // Each leads some partitions, and hears of what the others granted with their next entry: about a round of all callers.
        ensure!((MOST..=MOST + 3 * callers).contains(&granted), "{granted} of {MOST}");
        cluster.until_caught_up().await?;
        let mut usages = Vec::new();
        for at in &addresses {
            usages.push(tenant(*at, "shared").await?);
        }
        ensure!(usages.iter().all(|usage| usage.keys == u64::from(granted)), "{granted} were granted: {usages:?}");
        let died = cluster.leader(0).await?;
        cluster.kill(died)?;
        let left = nodes.iter().find(|node| **node != died).context("no other node")?;
        cluster.start(died)?;
        cluster.until_serving(SERVING_DEADLINE).await?;
        cluster.until_caught_up().await?;
        let after = tenant(address(*left, cluster)?, "shared").await?;
        ensure!(
            usages.first().is_some_and(|usage| (usage.keys, usage.bytes) == (after.keys, after.bytes)),
            "{after:?}"
        );
        let (more, refused) = rush_from(address(*left, cluster)?, "shared", 9, 50).await?;
        ensure!(more == 0 && refused.keys().eq(["tenant-keys"]), "{more} more, {refused:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policys_quota_and_its_bytes_count_and_room_comes_back() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let policy = "[policy.few]\nendpoints = [\"POST /v1/charges\"]\nseverity = \"low\"\nlease = \"1s\"\nretention = \"1s\"\n\
                  [policy.few.limits]\nmax_keys = 5\n\
                  [policy.big]\nendpoints = [\"big\"]\nseverity = \"high\"\n[policy.big.limits]\nmax_bytes = 20000\n";
    apply(node.address(), 0, policy).await?;
    let client = Client::grpc(node.address())?;
    let mut grants = Vec::new();
    for number in 0..5 {
        grants.push((format!("few-{number}"), Ask::new(&format!("few-{number}"), 1).granted(&client).await?));
    }
    let over = Ask::new("few-5", 1).outcome(&client).await?;
    ensure!(matches!(&over, Outcome::Limited(limited) if limited.limit == "endpoint-keys"), "{over:?}");
    Ask::new("else", 1).endpoint("POST /other").granted(&client).await?;
    for (key, grant) in &grants {
        talk::complete(&client, key, grant, &payload::envelope(1, 10)).await?;
    }
    let taken = |outcome| if let Outcome::Granted(grant) = outcome { Some(grant) } else { None };
    Ask::new("few-5", 1).until(&client, "granted once others have expired", taken).await?;
    let big = Ask::new("big-0", 1).endpoint("big");
    let grant = big.granted(&client).await?;
    talk::complete(&client, "big-0", &grant, &payload::envelope(1, 25_000)).await?;
    let over = Ask::new("big-1", 1).endpoint("big").outcome(&client).await?;
    ensure!(matches!(&over, Outcome::Limited(limited) if limited.limit == "endpoint-bytes"), "{over:?}");
    let kept = big.outcome(&client).await?;
    ensure!(matches!(kept, Outcome::Replay(_)), "{kept:?}");
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_holds_under_concurrent_load_and_only_for_new_keys() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let address = node.address();
    create(address, "slow", api::TenantLimits { keys_per_second: Some(50), ..Default::default() }).await?;
    let begun = holdfast::clock::monotonic();
    let (granted, limited) = rush(address, "slow", 1_000).await?;
    let took = holdfast::clock::monotonic().since(begun);
    // A second's keys at once, and those that came in meanwhile: time runs on until the last answer.
    let most = 50 + u32::try_from(took.as_millis() * 50 / 1_000)? + 1;
    ensure!((50..=most).contains(&granted), "{granted} in {took:?}, at most {most}");
    ensure!(limited.keys().eq(["tenant-rate"]), "{limited:?}");
    let client = Client::grpc(address)?;
    for nonce in 1..200 {
        let again = api::ReserveRequest { tenant: "slow".to_owned(), ..Ask::new("rush-0", nonce).message() };
        let again = outcome(&client, again).await?;
        ensure!(matches!(again, Outcome::Granted(_) | Outcome::InProgress(_)), "a key that is there: {again:?}");
    }
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_tenants_that_were_made_are_served_and_who_made_them_is_known() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let start = place.start().server().flag("--tenants", "registered").flag("--homes", "local,other");
    let node = start.run().await?;
    let address = node.address();
    for client in &Client::both(address)? {
        let refused = Ask::new("a", 1).refused(client).await?;
        ensure!(refused.code == "tenant-unknown" && refused.definite, "{refused:?}");
    }
    let make = |home: &str| api::CreateTenantRequest {
        signature: signature(),
        tenant: TENANT.to_owned(),
        home: home.to_owned(),
        limits: None,
    };
    let nowhere = admin(address)?.create_tenant(make("mars")).await;
    ensure!(nowhere.is_err_and(|status| status.message().contains("local, other")));
    admin(address)?.create_tenant(make("other")).await?;
    let moved = admin(address)?.create_tenant(make("local")).await;
    ensure!(moved.is_err_and(|status| status.message().contains("another home")), "a home never changes");
    let client = Client::grpc(address)?;
    let answer = client.reserve(Ask::new("a", 1).message()).await.map_err(told)?;
    ensure!(answer.epoch.is_some_and(|epoch| epoch.home == "other"), "its keys are at home there");
    let Some(Outcome::Granted(grant)) = answer.outcome else { anyhow::bail!("not granted") };
    let close = |closed| api::ChangeTenantRequest {
        signature: signature(),
        tenant: TENANT.to_owned(),
        limits: None,
        closed: Some(closed),
    };
    admin(address)?.change_tenant(close(true)).await?;
    let refused = Ask::new("b", 1).refused(&client).await?;
    ensure!(refused.code == "tenant-closed" && refused.definite, "{refused:?}");
    talk::complete(&client, "a", &grant, &payload::envelope(1, 10)).await?;
    Ask::new("a", 2).replayed(&client).await?;
    admin(address)?.change_tenant(close(false)).await?;
    let again = Ask::new("b", 1).granted(&client).await?;
    ensure!(fencing(&again) > (0, 0));
    let audit = admin(address)?.audit(api::AuditRequest { partition: 0, from: 0 }).await?.into_inner();
    let said: Vec<String> = audit
        .entries
        .iter()
        .map(|entry| format!("{} {} {} {}", entry.sequence, entry.actor, entry.action, entry.target))
        .collect();
    let expected =
        ["1 ada create-tenant tenant acme", "2 ada close-tenant tenant acme", "3 ada reopen-tenant tenant acme"];
    ensure!(said == expected, "{said:?}");
    let unsigned = api::CreateTenantRequest { signature: None, ..make("local") };
    ensure!(admin(address)?.create_tenant(unsigned).await.is_err(), "nobody has signed it");
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_that_cannot_hold_are_refused_and_those_before_hold_on() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let address = node.address();
    apply(address, 0, LOOSE).await?;
    let critical = "[policy.c]\nendpoints = [\"c\"]\nseverity = \"critical\"\nfail = \"open\"\n";
    let wrong =
        [(1, "[policy.c]\nendpoints = [\"c\"]\n", "severity"), (1, critical, "critical"), (0, TIGHT, "revision 1")];
    for (expected, text, word) in wrong {
        let refused = apply(address, expected, text).await;
        ensure!(refused.as_ref().is_err_and(|error| format!("{error:?}").contains(word)), "{word}: {refused:?}");
    }
    let sources = vec![api::PolicySource { name: "other.toml".to_owned(), text: critical.replace("open", "closed") }];
    let unpruned = api::ApplyPoliciesRequest { signature: signature(), expected_revision: 1, sources, prune: false };
    let refused = admin(address)?.apply_policies(unpruned).await;
    ensure!(refused.is_err_and(|status| status.message().contains("charges would go")));
    let policies = admin(address)?.get_policies(api::GetPoliciesRequest { revision: None }).await?.into_inner();
    ensure!(policies.sources.first().is_some_and(|source| source.text == LOOSE), "{policies:?}");
    node.stop().await
}
