//! Client libraries that we did not write, as their users set them up, against a gateway and an upstream that misbehaves:
//! however often they retry, there is one effect; a retry gets the first answer, byte for byte; and a key that is used for
//! another request is refused once, not again and again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::foreign::{self, program};
use crate::gate::{beside, joined};
use crate::harness::{self, until};
use crate::http;
use crate::stage::{Stage, route};
use crate::tap::Tap;
use crate::upstream::Upstream;

/// What the endpoints promise. Short leases, so that a lapse comes within a test.
const POLICIES: &str = r#"
    [policy.orders]
    endpoints = ["POST /v1/orders"]
    severity = "high"
    stage = "required"

    [policy.charges]
    endpoints = ["POST /v1/charges", "POST /v1/payment_intents"]
    severity = "critical"
    stage = "required"
    lease = "1s"
"#;

/// The stage, and a tap for clients to connect to.
struct Tapped {
    tap: Tap,
    stage: Stage,
}

impl Tapped {
    async fn set() -> anyhow::Result<Self> {
        let routes = |upstream| {
            [
                // Longer than a client's patience: one that never retries a 409 retries its own timeout.
                route("/v1/orders", upstream, "wait = \"2s\""),
                route("/v1/charges", upstream, "wait = \"500ms\""),
                route("/v1/payment_intents", upstream, "wait = \"500ms\"\nprofile = \"stripe\""),
            ]
            .concat()
        };
        let stage = Stage::set(POLICIES, routes).await?;
        Ok(Self { tap: Tap::on(stage.gate.address()).await?, stage })
    }

    /// Every effect of every key is one.
    fn check_effects(&self, none: &[&str]) -> anyhow::Result<()> {
        for (key, effects) in self.stage.upstream.all_effects() {
            ensure!(effects.len() == 1 && !effects.iter().any(|effect| effect.is_flagged), "{key}: {effects:?}");
        }
        for key in none {
            ensure!(self.stage.upstream.effects(key).is_empty(), "{key} has an effect");
        }
        Ok(())
    }

    async fn over(self) -> anyhow::Result<()> {
        self.stage.over().await
    }
}

/// What a library gave its caller.
#[derive(Clone, Debug, Deserialize)]
struct Told {
    case: String,
    key: String,
    status: Option<u16>,
    body: String,
    #[serde(rename = "idempotency-status")]
    done: Option<String>,
    #[serde(rename = "idempotent-replayed")]
    replayed: Option<String>,
}

/// Runs a library through its calls: what it was told, by case.
async fn calls(address: SocketAddr, client: &str) -> anyhow::Result<BTreeMap<String, Vec<Told>>> {
    let mut running = program(foreign::python().await?);
    running.arg(foreign::file("clients.py")).arg(client).arg(format!("http://{address}"));
    let ran = foreign::run(running).await?;
    let text = String::from_utf8_lossy(&ran.stdout);
    ensure!(ran.status.success(), "{text}\n{}", String::from_utf8_lossy(&ran.stderr));
    let mut told: BTreeMap<String, Vec<Told>> = BTreeMap::new();
    for line in text.lines() {
        let call: Told = serde_json::from_str(line)?;
        told.entry(call.case.clone()).or_default().push(call);
    }
    Ok(told)
}

/// The key's last calls all got the one answer.
fn check_same(stage: &Stage, told: &[Told]) -> anyhow::Result<()> {
    let key = &told.first().context("no call")?.key;
    let effects = stage.upstream.effects(key);
    let answer = effects.first().context("no effect")?.answer.as_str();
    for call in told {
        ensure!(call.status == Some(201) && call.body == answer, "{call:?} is not {answer}");
    }
    Ok(())
}

/// A key whose upstream was cut off comes to its end: nobody knows what was done, and nothing is done again.
async fn check_unknown(stage: &Stage, path: &str, key: &str, body: &str, kind: &str) -> anyhow::Result<()> {
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\nidempotency-key: {key}\r\n{kind}content-length: \
         {}\r\n\r\n{body}",
        body.len()
    );
    let answer = until("the key's outcome is unknown", Duration::from_secs(30), async || {
        let answer = http::exchange(stage.gate.address(), request.as_bytes(), http::DEADLINE).await?;
        let code = answer.code();
        ensure!(["in-progress", "outcome-unknown"].contains(&code.as_str()), "{code} {answer:?}");
        Ok((code == "outcome-unknown").then_some(answer))
    })
    .await?;
    ensure!(answer.header("stripe-should-retry") == Some("false"), "{answer:?}");
    Ok(())
}

/// A library that retries by itself.
async fn check_client(client: &str) -> anyhow::Result<()> {
    let _place = harness::beside_another().await?;
    let tapped = Tapped::set().await?;
    let stage = &tapped.stage;
    let told = calls(tapped.tap.address(), client).await?;
    let of = |case: &str| told.get(case).map(Vec::as_slice).with_context(|| format!("{client} did not do {case}"));

    for case in ["answer", "late", "drip"] {
        check_same(stage, of(case)?)?;
        let replay = of(case)?.last().context("no second call")?;
        ensure!(replay.done.as_deref() == Some("replayed") && replay.replayed.as_deref() == Some("true"), "{replay:?}");
    }
    ensure!(tapped.tap.requests(&format!("answer.{client}")) == 2, "a good answer is not asked for again");
    ensure!(tapped.tap.requests(&format!("late.{client}")) > 2, "the first attempt had no answer");
    ensure!(stage.upstream.arrivals(&format!("late.{client}")) == 1, "the second attempt did not get through");

    for case in ["fail", "busy"] {
        check_same(stage, of(case)?)?;
        let key = format!("{case}.{client}");
        ensure!(stage.upstream.arrivals(&key) == 2, "{case}: the first was no execution, the second was");
    }

    let [first, other] = of("mismatch")? else { anyhow::bail!("{told:?}") };
    ensure!(first.status == Some(201), "{first:?}");
    ensure!(other.status == Some(409) && other.body.contains("\"key-reused\""), "{other:?}");
    ensure!(tapped.tap.requests(&first.key) == 2, "another request under the key was sent more than once");

    let [cut] = of("cut")? else { anyhow::bail!("{told:?}") };
    ensure!(cut.status.is_some_and(|status| status >= 400), "nobody knows what was done: {cut:?}");
    let body = r#"{"amount": 2000, "currency": "usd"}"#;
    check_unknown(stage, "/v1/charges", &cut.key, body, "content-type: application/json\r\n").await?;

    tapped.check_effects(&[])?;
    tapped.over().await
}

/// What the gateway is for, and a proof that these tests would see it fail: the same clients before the same upstream.
#[tokio::test]
async fn without_a_gateway_the_same_clients_execute_twice() -> anyhow::Result<()> {
    let _place = harness::beside_another().await?;
    for client in ["requests", "httpx", "aiohttp", "stripe"] {
        let upstream = Upstream::start().await?;
        let told = calls(upstream.address(), client).await?;
        ensure!(told.len() == if client == "stripe" { 5 } else { 7 }, "{told:?}");
        for case in ["answer", "late", "cut", "mismatch"] {
            let effects = upstream.effects(&format!("{case}.{client}"));
            ensure!(effects.len() > 1, "{client} {case}: {effects:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn requests_with_urllib3_retries_executes_once() -> anyhow::Result<()> {
    check_client("requests").await
}

#[tokio::test]
async fn httpx_with_a_retrying_transport_executes_once() -> anyhow::Result<()> {
    check_client("httpx").await
}

#[tokio::test]
async fn aiohttp_in_a_loop_executes_once() -> anyhow::Result<()> {
    check_client("aiohttp").await
}

/// Stripe's own library, with its own rules of what is retried, against a route of its profile.
#[tokio::test]
async fn the_stripe_sdk_executes_once() -> anyhow::Result<()> {
    let _place = harness::beside_another().await?;
    let tapped = Tapped::set().await?;
    let stage = &tapped.stage;
    let told = calls(tapped.tap.address(), "stripe").await?;
    let of = |case: &str| told.get(case).map(Vec::as_slice).with_context(|| format!("stripe did not do {case}"));
    for case in ["answer", "late"] {
        check_same(stage, of(case)?)?;
    }
    ensure!(tapped.tap.requests("answer.stripe") == 2 && tapped.tap.requests("late.stripe") > 2);

    // Stripe keeps a failure once the request had begun, and its library asks again four times for the same answer.
    for failed in of("fail")? {
        ensure!(failed.status == Some(500), "{failed:?}");
    }
    ensure!(stage.upstream.arrivals("fail.stripe") == 1, "a failure was executed again");

    let [first, other] = of("mismatch")? else { anyhow::bail!("{told:?}") };
    ensure!(first.status == Some(201) && other.status == Some(400), "{other:?}");
    ensure!(other.body.starts_with("IdempotencyError: "), "the library knows what it is: {other:?}");
    ensure!(tapped.tap.requests("mismatch.stripe") == 2, "another request under the key was sent more than once");

    let [cut] = of("cut")? else { anyhow::bail!("{told:?}") };
    ensure!(cut.status.is_none_or(|status| status >= 400), "nobody knows what was done: {cut:?}");
    let kind = "content-type: application/x-www-form-urlencoded\r\n";
    check_unknown(stage, "/v1/payment_intents", "cut.stripe", "amount=2000&currency=usd", kind).await?;

    tapped.check_effects(&["fail.stripe"])?;
    tapped.over().await
}

/// curl's own retries, by the time that an attempt may take and by the status.
#[tokio::test]
async fn curl_with_retry_executes_once() -> anyhow::Result<()> {
    let _place = harness::beside_another().await?;
    let tapped = Tapped::set().await?;
    let stage = &tapped.stage;
    for (key, status, requests) in
        [("late.curl", "201", 2..=8), ("fail.curl", "201", 2..=2), ("busy.curl", "201", 2..=2)]
    {
        let output = stage.place.root().join("curl");
        let mut curl = program("curl");
        curl.args(["--silent", "--show-error", "--retry", "7", "--retry-all-errors", "--max-time", "0.6"]);
        curl.args(["--write-out", "%{http_code}", "--json", r#"{"amount":1}"#]);
        curl.args(["--header", &format!("idempotency-key: {key}"), "--output"]).arg(&output);
        curl.arg(format!("http://{}/v1/orders", tapped.tap.address()));
        let ran = foreign::run(curl).await?;
        ensure!(String::from_utf8_lossy(&ran.stdout) == status, "{key}: {ran:?}");
        let body = std::fs::read_to_string(&output)?;
        let effects = stage.upstream.effects(key);
        ensure!(effects.first().is_some_and(|effect| effect.answer == body), "{key}: {body} of {effects:?}");
        let sent = tapped.tap.requests(key);
        ensure!(requests.contains(&sent), "{key}: {sent} requests");
    }
    tapped.check_effects(&[])?;
    tapped.over().await
}

/// A storm of one key: two hundred requests from twenty connections at once are one execution, and all get its answer.
#[tokio::test]
async fn a_storm_of_hey_on_one_key_executes_once() -> anyhow::Result<()> {
    let _place = harness::beside_another().await?;
    let tapped = Tapped::set().await?;
    let stage = &tapped.stage;
    let pause = stage.upstream.pause_after("storm.hey");
    let mut hey = program("hey");
    hey.args(["-n", "200", "-c", "20", "-m", "POST", "-T", "application/json", "-d", r#"{"amount":1}"#]);
    hey.args(["-t", "30", "-H", "idempotency-key: storm.hey"])
        .arg(format!("http://{}/v1/orders", stage.gate.address()));
    let storm = beside(foreign::run(hey));
    // They all come while the one runs.
    pause.reached().await?;
    pause.go();
    let said = String::from_utf8(joined(storm).await??.stdout)?;
    ensure!(said.contains("[201]\t200 responses"), "{said}");
    ensure!(stage.upstream.arrivals("storm.hey") == 1, "{said}");
    tapped.check_effects(&[])?;
    tapped.over().await
}

/// The same for two seconds without a pause: however many requests come, before and after the one is done, all get its bytes.
#[tokio::test]
async fn two_seconds_of_wrk_on_one_key_execute_once() -> anyhow::Result<()> {
    let _place = harness::beside_another().await?;
    let tapped = Tapped::set().await?;
    let stage = &tapped.stage;
    let mut wrk = program("wrk");
    wrk.args(["--threads", "2", "--connections", "20", "--duration", "2s", "--timeout", "10s", "--script"]);
    wrk.arg(foreign::file("storm.lua")).arg(format!("http://{}/v1/orders", stage.gate.address()));
    wrk.args(["--", "storm.wrk"]);
    let ran = foreign::run(wrk).await?;
    let said = String::from_utf8(ran.stdout)?;
    let told = said.lines().find_map(|line| line.strip_prefix("storm ")).with_context(|| said.clone())?;
    let told: serde_json::Value = serde_json::from_str(told)?;
    ensure!(told["requests"].as_u64().is_some_and(|requests| requests > 100), "{said}");
    for failed in ["status", "connect", "read", "write", "timeout", "differing"] {
        ensure!(told[failed] == 0, "{failed}: {said}");
    }
    let effects = stage.upstream.effects("storm.wrk");
    let effect = effects.first().context("no effect")?;
    ensure!(told["body"].as_str() == Some(effect.answer.as_str()), "{said} of {effect:?}");
    ensure!(stage.upstream.arrivals("storm.wrk") == 1, "{said}");
    tapped.check_effects(&[])?;
    tapped.over().await
}
