//! What changes while a gateway runs: its file, and the store's policies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::ensure;
use holdfast_client::proto::v1;
use rustix::process::Signal;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::process::Gateway;
use super::upstream::{Act, Upstream, answer};
use super::{code, file};
use crate::client;
use crate::harness::{self, Place, until};
use crate::http::{self, DEADLINE};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_is_followed_and_a_bad_one_is_not() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let (one, other) = (Upstream::counting().await?, Upstream::counting().await?);
    let gateway = Gateway::configured(&place, &file(one.address, ""), &[]).await?;
    ensure!(gateway.charge("1", "{}").await?.status == 201 && one.effects() == 1);
    let path = place.root().join("gateway.toml");

    std::fs::write(&path, file(other.address, "stage = \"required\""))?;
    let followed = async || Ok((gateway.send("POST /", &[], "{}").await?.status == 400).then_some(()));
    until("a key is required", DEADLINE, followed).await?;
    ensure!(gateway.charge("2", "{}").await?.status == 201 && other.effects() == 1);

    for (bad, told) in [("stage = \"on\"", "unknown variant `on`"), ("statuses = [\"9xx\"]", "is no status")] {
        std::fs::write(&path, file(one.address, bad))?;
        gateway.signal(Signal::HUP)?;
        until("it says why", DEADLINE, async || Ok(gateway.output().contains(told).then_some(()))).await?;
        let keyless = gateway.send("POST /", &[], "{}").await?;
        ensure!(keyless.status == 400 && code(&keyless) == "key-missing", "the one before holds: {keyless:?}");
    }
    std::fs::write(&path, format!("tenant = \"other\"\n{}", file(one.address, "")))?;
    let told = async || Ok(gateway.output().contains("tenant cannot change").then_some(()));
    until("it says that it takes a restart", DEADLINE, told).await?;
    gateway.stop().await
}

/// The gateway's own store is not one that operators reach: here it is a node beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_s_policies_reach_a_gateway() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let (place, upstream) = (Place::new()?, Upstream::counting().await?);
    let node = place.start().run().await?;
    let text = format!(
        "nodes = [\"{}\"]\ntenant = \"acme\"\npolicies_every = \"50ms\"\n[[route]]\npath = \"/v1/charges\"\nupstream = \
         [\"http://{}\"]\n",
        node.address(),
        upstream.address
    );
    let path = place.root().join("gateway.toml");
    std::fs::write(&path, text)?;
    let gateway = Gateway::start(&place, &["--config", &path.to_string_lossy()]).await?;
    let before = gateway.charge("before", r#"{"amount":1,"sent_at":1}"#).await?;
    ensure!(before.header("idempotency-status") == Some("executed"), "{before:?}");

    let policy = "[policy.charges]\nendpoints = [\"POST /v1/charges\"]\ntenants = [\"acme\"]\nseverity = \"critical\"\n\
                  stage = \"required\"\n[policy.charges.fingerprint]\nleave_out = [\"/sent_at\"]\n";
    let sources = vec![v1::PolicySource { name: "charges.toml".to_owned(), text: policy.to_owned() }];
    let request = v1::ApplyPoliciesRequest {
        sources,
        signature: Some(v1::Signature { actor: "test".to_owned(), reason: "a test".to_owned() }),
        ..v1::ApplyPoliciesRequest::default()
    };
    client::admin(node.address())?.apply_policies(request).await?;
    let required = async || Ok((gateway.send("POST /v1/charges", &[], "{}").await?.status == 400).then_some(()));
    until("the policy has reached it", DEADLINE, required).await?;

    // A key from before the change is compared as it was then, and one from after it as the policy says now.
    let again = gateway.charge("before", r#"{"amount":1,"sent_at":1}"#).await?;
    ensure!(again.header("idempotent-replayed") == Some("true"), "{again:?}");
    ensure!(code(&gateway.charge("before", r#"{"amount":1,"sent_at":2}"#).await?) == "key-reused");
    ensure!(gateway.charge("after", r#"{"amount":1,"sent_at":1}"#).await?.status == 201);
    let later = gateway.charge("after", r#"{"amount":1,"sent_at":2}"#).await?;
    ensure!(later.header("idempotent-replayed") == Some("true"), "{later:?}");
    let health = http::get(gateway.admin, "/healthz").await?.json()?;
    ensure!(health["store"] == serde_json::json!({ "reachable": true, "policy_revision": 1 }), "{health}");
    gateway.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_is_answered_before_it_ends() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let may = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&may);
    let upstream =
        Upstream::start(move |_, _| Act::AnswerWhen(Arc::clone(&waits), answer("201 Created", &[], "done"))).await?;
    let data = place.root().join("kept");
    let kept = data.to_string_lossy().into_owned();
    let gateway = Arc::new(Gateway::embedded(&place, upstream.address, &["--data-dir", &kept]).await?);
    let calling = Arc::clone(&gateway);
    let mut call = JoinSet::new();
    call.spawn(async move { calling.charge("order-1", "{}").await });
    until("it arrived", DEADLINE, async || Ok((upstream.effects() == 1).then_some(()))).await?;
    gateway.signal(Signal::TERM)?;
    let told = async || Ok(gateway.output().contains("shutting down").then_some(()));
    until("it heard the signal", DEADLINE, told).await?;
    may.add_permits(1);
    let Some(first) = call.join_next().await else { anyhow::bail!("no call") };
    let first = first??;
    ensure!(first.status == 201 && first.header("idempotency-status") == Some("executed"), "{first:?}");
    let Some(mut gateway) = Arc::into_inner(gateway) else { anyhow::bail!("somebody has it still") };
    ensure!(gateway.ended().await?.success(), "{}", gateway.output());

    // What it stored is there for the next one.
    let gateway = Gateway::embedded(&place, upstream.address, &["--data-dir", &kept]).await?;
    let again = gateway.charge("order-1", "{}").await?;
    ensure!(again.body == b"done" && again.header("idempotent-replayed") == Some("true"), "{again:?}");
    ensure!(upstream.effects() == 1);
    gateway.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_unwell_gets_nothing_until_it_is_well() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let well = Arc::new(AtomicBool::new(false));
    let says = Arc::clone(&well);
    let sick = Upstream::start(move |_, arrived| {
        let status = match arrived.head.starts_with("GET /healthz ") && !says.load(Ordering::SeqCst) {
            true => "503 Service Unavailable",
            false => "200 OK",
        };
        Act::Answer(answer(status, &[], "of the sick one"))
    })
    .await?;
    let other = Upstream::counting().await?;
    let text = format!(
        "health_every = \"50ms\"\n[[route]]\npath = \"/{{*path}}\"\nhealth_path = \"/healthz\"\nupstream = \
         [\"http://{}\", \"http://{}\"]\n",
        sick.address, other.address
    );
    let gateway = Gateway::configured(&place, &text, &[]).await?;
    let serves = async |expected: bool| {
        let health = http::get(gateway.admin, "/healthz").await?.json()?;
        Ok((health["routes"][0]["addresses"][0]["serves"] == expected).then_some(()))
    };
    until("it is known to be unwell", DEADLINE, async || serves(false).await).await?;
    for _ in 0..6 {
        ensure!(gateway.send("GET /a", &[], "").await?.status == 201);
    }
    well.store(true, Ordering::SeqCst);
    until("it is known to be well", DEADLINE, async || serves(true).await).await?;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(gateway.send("GET /a", &[], "").await?.status);
    }
    ensure!(statuses.contains(&200) && statuses.contains(&201), "each has its turn: {statuses:?}");
    Ok(())
}
