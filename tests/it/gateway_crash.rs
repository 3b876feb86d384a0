//! A gateway that is killed at every step of a request, and an upstream that is: nothing is executed twice under a policy that
//! holds, what nobody knows is said to be unknown until it is resolved, and every answer to a key is its first one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rand::{Rng as _, RngCore as _};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::gate::{Gate, beside, joined};
use crate::harness::{self, Place, report, seed, until};
use crate::http::{self, Answer};
use crate::random::Random;
use crate::stage::{Stage, route};
use crate::upstream::Upstream;
use crate::{clock, soak};

const POLICIES: &str = r#"
    [policy.charges]
    endpoints = ["POST /v1/charges"]
    severity = "critical"
    stage = "required"
    lease = "1s"

    [policy.orders]
    endpoints = ["POST /v1/orders"]
    severity = "high"
    stage = "required"
    lease = "1s"
"#;
const BODY: &str = r#"{"amount":2000}"#;
/// How long a client asks before it gives up: far longer than a lease and a restart.
const PATIENCE: Duration = Duration::from_secs(40);

/// What a client comes to in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// It has an answer.
    Answered(String),
    /// It is told that nobody knows.
    Unknown,
}

fn request(path: &str, key: &str) -> Vec<u8> {
    let length = BODY.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\nidempotency-key: {key}\r\ncontent-type: \
         application/json\r\ncontent-length: {length}\r\n\r\n{BODY}"
    )
    .into_bytes()
}

/// Sends a request once: nothing if there was no answer.
async fn send(gateway: SocketAddr, path: &str, key: &str, patience: Duration) -> Option<Answer> {
    http::exchange(gateway, &request(path, key), patience).await.ok()
}

/// What an answer says in the end, if it does: the others ask to come again.
fn end_of(answer: &Answer) -> anyhow::Result<Option<End>> {
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    if answer.status < 300 {
        return Ok(Some(End::Answered(body)));
    }
    let code = answer.code();
    match code.as_str() {
        "outcome-unknown" => Ok(Some(End::Unknown)),
        "in-progress" | "store-unavailable" | "upstream-unreachable" | "upstream-broken" | "upstream-timeout" => {
            Ok(None)
        }
        _ => bail!("{code}: {answer:?}"),
    }
}

/// Sends a request until it comes to an end, as a client does that has to know.
async fn end(gateway: SocketAddr, path: &str, key: &str) -> anyhow::Result<End> {
    until(&format!("{key} comes to an end"), PATIENCE, async || {
        match send(gateway, path, key, Duration::from_secs(12)).await {
            Some(answer) => end_of(&answer),
            None => Ok(None),
        }
    })
    .await
}

/// A store that stays, a gateway that dies, and an upstream.
async fn staged() -> anyhow::Result<Stage> {
    let routes = |upstream| {
        ["/v1/charges", "/v1/orders"].map(|path| route(path, upstream, "wait = \"300ms\"\ngrace = \"1s\"\n")).concat()
    };
    Stage::set(POLICIES, routes).await
}

impl Stage {
    /// Kills the gateway while the first request of `key` waits at the upstream, and starts it again.
    async fn kill_at(&mut self, path: &'static str, key: &'static str, is_after_effect: bool) -> anyhow::Result<()> {
        let pause = match is_after_effect {
            true => self.upstream.pause_after(key),
            false => self.upstream.pause_before(key),
        };
        let gateway = self.gate.address();
        let client = beside(async move { send(gateway, path, key, http::DEADLINE).await });
        pause.reached().await?;
        self.gate.kill()?;
        ensure!(joined(client).await?.is_none(), "the gateway answered before it died");
        pause.go();
        self.gate.restart().await
    }

    /// An operator says what became of a key.
    fn resolve(&self, key: &str, verdict: &[&str]) -> anyhow::Result<()> {
        let resolved = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(["ctl", "--address", &format!("http://{}", self.node.address()), "key", "resolve", "shop", key])
            .args(["--actor", "oncall", "--reason", "looked it up at the upstream"])
            .args(verdict)
            .output()?;
        ensure!(resolved.status.success(), "{resolved:?}");
        Ok(())
    }

    fn check_effects(&self, key: &str, effects: usize) -> anyhow::Result<()> {
        let known = self.upstream.effects(key);
        ensure!(known.len() == effects, "{key} has not {effects} effects: {known:?}");
        Ok(())
    }
}

/// Before the store is asked: the gateway has a part of the request, and dies.
#[tokio::test]
async fn a_gateway_that_dies_before_it_asks_leaves_nothing() -> anyhow::Result<()> {
    let _place = harness::beside_another().await?;
    let mut stage = staged().await?;
    let mut stream = TcpStream::connect(stage.gate.address()).await?;
    let request =
        String::from_utf8(request("/v1/charges", "early"))?.replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n");
    let head = request.split_inclusive("\r\n\r\n").next().context("no head")?;
    stream.write_all(head.as_bytes()).await?;
    // It says so when it begins to read the body, which it has to have before it can ask.
    let mut continued = [0; 12];
    stream.read_exact(&mut continued).await?;
    ensure!(&continued == b"HTTP/1.1 100", "{}", String::from_utf8_lossy(&continued));
    stage.gate.kill()?;
    stage.gate.restart().await?;
    let End::Answered(answer) = end(stage.gate.address(), "/v1/charges", "early").await? else { bail!("unknown") };
    stage.check_effects("early", 1)?;
    ensure!(stage.upstream.effects("early").first().is_some_and(|effect| effect.answer == answer), "{answer}");
    stage.over().await
}

/// After the grant, before and after the effect. Held: nobody runs it again, and an operator decides.
#[tokio::test]
async fn a_gateway_that_dies_under_a_grant_leaves_the_key_unknown() -> anyhow::Result<()> {
    let _place = harness::beside_another().await?;
    let mut stage = staged().await?;
    for (key, is_after_effect) in [("before", false), ("after", true)] {
        stage.kill_at("/v1/charges", key, is_after_effect).await?;
        ensure!(end(stage.gate.address(), "/v1/charges", key).await? == End::Unknown, "{key}");
        stage.check_effects(key, 1)?;
        ensure!(stage.upstream.arrivals(key) == 1, "{key} came again");
    }
    // The upstream has it: every retry gets what the operator found there.
    let effects = stage.upstream.effects("after");
    let found = &effects.first().context("no effect")?.answer;
    let file = stage.place.root().join("found.json");
    std::fs::write(&file, found)?;
    let file = file.to_string_lossy();
    let kind = "content-type: application/json";
    stage.resolve("after", &["--executed-status", "201", "--header", kind, "--body-file", &file])?;
    for _ in 0..2 {
        let answer = send(stage.gate.address(), "/v1/charges", "after", http::DEADLINE).await.context("no answer")?;
        ensure!(answer.status == 201 && answer.body == found.as_bytes(), "{answer:?}");
        ensure!(answer.header("idempotent-replayed") == Some("true"), "{answer:?}");
    }
    stage.check_effects("after", 1)?;
    stage.over().await
}

/// The upstream never got to it, and the operator says so: the next attempt runs.
#[tokio::test]
async fn what_was_not_executed_runs_when_an_operator_says_so() -> anyhow::Result<()> {
    let _place = harness::beside_another().await?;
    let mut stage = staged().await?;
    let pause = stage.upstream.pause_before("never");
    let gateway = stage.gate.address();
    let client = beside(async move { send(gateway, "/v1/charges", "never", http::DEADLINE).await });
    pause.reached().await?;
    // Both die: the request is gone from the upstream as well.
    stage.gate.kill()?;
    stage.upstream.die().await;
    ensure!(joined(client).await?.is_none());
    stage.upstream.listen().await?;
    stage.gate.restart().await?;
    ensure!(end(gateway, "/v1/charges", "never").await? == End::Unknown);
    stage.check_effects("never", 0)?;
    stage.resolve("never", &["--not-executed"])?;
    let End::Answered(first) = end(gateway, "/v1/charges", "never").await? else { bail!("still unknown") };
    ensure!(end(gateway, "/v1/charges", "never").await? == End::Answered(first));
    stage.check_effects("never", 1)?;
    stage.over().await
}

/// Under a policy that grants again, the second attempt is told that it may be one, and no client gets two answers.
#[tokio::test]
async fn a_second_execution_under_regrant_is_flagged() -> anyhow::Result<()> {
    let _place = harness::beside_another().await?;
    let mut stage = staged().await?;
    stage.kill_at("/v1/orders", "again", true).await?;
    let first = end(stage.gate.address(), "/v1/orders", "again").await?;
    let effects = stage.upstream.effects("again");
    let [earlier, later] = effects.as_slice() else { bail!("{effects:?}") };
    ensure!(!earlier.is_flagged && later.is_flagged, "{effects:?}");
    let fencing = |text: &Option<String>| {
        let text = text.as_deref().context("no fencing token")?;
        text.parse::<holdfast_client::client::FencingToken>().map_err(anyhow::Error::from)
    };
    ensure!(fencing(&earlier.fencing)? < fencing(&later.fencing)?, "the target could tell them apart: {effects:?}");
    ensure!(first == End::Answered(later.answer.clone()), "{first:?}");
    ensure!(end(stage.gate.address(), "/v1/orders", "again").await? == first, "the replay differs");
    stage.over().await
}

/// After the upstream's answer, while the store cannot be told: the client has the answer, and no retry gets another.
#[tokio::test]
async fn a_gateway_that_dies_before_it_has_recorded_an_answer_gives_no_other() -> anyhow::Result<()> {
    let _place = harness::beside_another().await?;
    let mut stage = staged().await?;
    let pause = stage.upstream.pause_after("untold");
    let gateway = stage.gate.address();
    let client = beside(async move { send(gateway, "/v1/charges", "untold", http::DEADLINE).await });
    pause.reached().await?;
    let node = Pid::from_raw(i32::try_from(stage.node.pid())?).context("no pid")?;
    kill_process(node, Signal::STOP)?;
    pause.go();
    let answer = joined(client).await;
    stage.gate.kill()?;
    kill_process(node, Signal::CONT)?;
    let answer = answer?.context("the client has no answer")?;
    ensure!(answer.status == 201 && answer.header("idempotency-status") == Some("unrecorded"), "{answer:?}");
    stage.gate.restart().await?;
    match end(gateway, "/v1/charges", "untold").await? {
        // The store may have got the outcome before the gateway died.
        End::Answered(again) => ensure!(again.as_bytes() == answer.body, "another answer: {again}"),
        End::Unknown => {}
    }
    stage.check_effects("untold", 1)?;
    stage.over().await
}

/// After everything: a new process knows what the old one did.
#[tokio::test]
async fn a_gateway_that_dies_after_it_has_answered_replays() -> anyhow::Result<()> {
    let _place = harness::beside_another().await?;
    let mut stage = staged().await?;
    let first = end(stage.gate.address(), "/v1/charges", "done").await?;
    stage.gate.kill()?;
    stage.gate.restart().await?;
    let again = send(stage.gate.address(), "/v1/charges", "done", http::DEADLINE).await.context("no answer")?;
    ensure!(again.header("idempotent-replayed") == Some("true"), "{again:?}");
    ensure!(end_of(&again)? == Some(first), "{again:?}");
    stage.check_effects("done", 1)?;
    stage.over().await
}

/// The upstream's connection is cut after its effect and before its answer.
#[tokio::test]
async fn an_upstream_that_dies_after_its_effect_is_not_asked_again() -> anyhow::Result<()> {
    let _place = harness::beside_another().await?;
    let mut stage = staged().await?;
    let pause = stage.upstream.pause_after("cut-off");
    let gateway = stage.gate.address();
    let client = beside(async move { send(gateway, "/v1/charges", "cut-off", http::DEADLINE).await });
    pause.reached().await?;
    stage.upstream.die().await;
    let answer = joined(client).await?.context("no answer")?;
    ensure!(answer.status == 502 && answer.code() == "upstream-broken", "{answer:?}");
    ensure!(answer.header("stripe-should-retry") == Some("true"), "{answer:?}");
    stage.upstream.listen().await?;
    ensure!(end(gateway, "/v1/charges", "cut-off").await? == End::Unknown);
    stage.check_effects("cut-off", 1)?;

    // One that is not there has done nothing: the retry runs.
    stage.upstream.die().await;
    let answer = send(gateway, "/v1/charges", "refused", http::DEADLINE).await.context("no answer")?;
    ensure!(answer.status == 502 && answer.code() == "upstream-unreachable", "{answer:?}");
    stage.upstream.listen().await?;
    ensure!(matches!(end(gateway, "/v1/charges", "refused").await?, End::Answered(_)));
    stage.check_effects("refused", 1)?;
    stage.over().await
}

/// The store inside the gateway dies with it, and comes back from its disk.
#[tokio::test]
async fn a_gateway_with_its_store_dies_and_knows_what_it_knew() -> anyhow::Result<()> {
    let _place = harness::beside_another().await?;
    let place = Place::new()?;
    let upstream = Upstream::start().await?;
    let routes = route("/v1/charges", upstream.address(), "");
    let mut gate = Gate::embedded(place.root(), &routes, &[]).await?;
    let done = end(gate.address(), "/v1/charges", "done").await?;
    let pause = upstream.pause_after("half");
    let gateway = gate.address();
    let client = beside(async move { send(gateway, "/v1/charges", "half", http::DEADLINE).await });
    pause.reached().await?;
    gate.kill()?;
    ensure!(joined(client).await?.is_none());
    pause.go();
    gate.restart().await?;
    ensure!(end(gateway, "/v1/charges", "done").await? == done, "the replay differs after the store came back");
    ensure!(upstream.effects("done").len() == 1);
    // Its grant stands on the disk: nobody runs it beside the first attempt while the lease lasts.
    let answer = send(gateway, "/v1/charges", "half", http::DEADLINE).await.context("no answer")?;
    ensure!(answer.status == 409 && answer.code() == "in-progress", "{answer:?}");
    ensure!(upstream.effects("half").len() == 1);
    gate.stop().await
}

/// What happened to one operation of the random test.
#[derive(Debug, Default)]
struct Seen {
    answers: Vec<String>,
    is_unknown: bool,
}

/// Clients that retry until they know, a gateway that is killed at random, an upstream that is late, cuts off and answers: for
/// as many kills as `rounds` says, with as much time in between as `pause_ms`. What every operation came to.
async fn kill_at_random(
    gate: &mut Gate,
    rounds: u32,
    pause_ms: std::ops::Range<u64>,
) -> anyhow::Result<BTreeMap<String, Seen>> {
    let mut random = Random::new(seed(0x6a7e_0001)?);
    let gateway = gate.address();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut clients = JoinSet::new();
    for client in 0..8_u32 {
        let mut random = Random::new(random.next_u64());
        let stopped = stopped.clone();
        clients.spawn(async move {
            let mut seen = BTreeMap::new();
            let mut number = 0_u32;
            while !*stopped.borrow() {
                let act = ["answer", "answer", "late", "cut"].get(random.random_range(0..4_usize)).context("no act")?;
                let key = format!("{act}.{client}-{number}");
                number += 1;
                seen.insert(key.clone(), one(gateway, &key, &mut random).await?);
            }
            anyhow::Ok(seen)
        });
    }
    for _ in 0..rounds {
        tokio::time::sleep(Duration::from_millis(random.random_range(pause_ms.clone()))).await;
        gate.kill()?;
        gate.restart().await?;
    }
    stop.send(true)?;
    let mut seen = BTreeMap::new();
    while let Some(ended) = clients.join_next().await {
        seen.extend(ended??);
    }
    ensure!(seen.len() > usize::try_from(rounds)?, "only {} operations", seen.len());
    Ok(seen)
}

/// The store stays where it is; what is unknown is resolved in the end.
async fn kill_before_a_store(rounds: u32) -> anyhow::Result<()> {
    let mut stage = staged().await?;
    let begun = clock::now();
    let seen = kill_at_random(&mut stage.gate, rounds, 5..400).await?;
    let unknown = check_all(stage.gate.address(), &stage.upstream, &seen).await?;
    for key in &unknown {
        resolved(&stage, key).await?;
    }
    let took = clock::now() - begun;
    report(&format!(
        "{rounds} kills, {} operations, {} of them unknown and resolved, in {took:?}",
        seen.len(),
        unknown.len()
    ));
    stage.over().await
}

/// The store is in the process that is killed, and comes back from its disk each time; what is unknown stays so.
async fn kill_with_its_store(rounds: u32) -> anyhow::Result<()> {
    let place = Place::new()?;
    let upstream = Upstream::start().await?;
    // Leases are counted anew at each start: they have to run out between two kills.
    let routes = route("/v1/charges", upstream.address(), "stage = \"required\"\nlease = \"300ms\"\nwait = \"300ms\"");
    let mut gate = Gate::embedded(place.root(), &routes, &["--severity=critical"]).await?;
    let begun = clock::now();
    let seen = kill_at_random(&mut gate, rounds, 5..900).await?;
    let unknown = check_all(gate.address(), &upstream, &seen).await?;
    for key in &unknown {
        ensure!(end(gate.address(), "/v1/charges", key).await? == End::Unknown, "{key} was unknown");
        ensure!(upstream.effects(key).len() <= 1, "{key}: {:?}", upstream.effects(key));
    }
    let took = clock::now() - begun;
    report(&format!("{rounds} kills, {} operations, {} of them unknown, in {took:?}", seen.len(), unknown.len()));
    gate.stop().await
}

/// One operation, as a client sees it: it asks until it has an answer or hears that nobody knows, and once more for the same.
async fn one(gateway: SocketAddr, key: &str, random: &mut Random) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    let given_up = clock::now() + PATIENCE;
    let end = loop {
        let patience = Duration::from_millis(random.random_range(50..1_200));
        let answer = send(gateway, "/v1/charges", key, patience).await;
        if let Some(end) = answer.as_ref().map(end_of).transpose()?.flatten() {
            break end;
        }
        ensure!(clock::now() < given_up, "{key} comes to no end: {answer:?}");
        // A gateway that is not there refuses at once.
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    match end {
        End::Answered(answer) => seen.answers.push(answer),
        End::Unknown => seen.is_unknown = true,
    }
    let again = send(gateway, "/v1/charges", key, Duration::from_secs(1)).await;
    match again.as_ref().map(end_of).transpose()?.flatten() {
        Some(End::Answered(answer)) => seen.answers.push(answer),
        Some(End::Unknown) => seen.is_unknown = true,
        None => {}
    }
    Ok(seen)
}

/// Every operation has at most one effect and one answer, which is replayed. Returns the keys whose outcome is unknown.
async fn check_all(
    gateway: SocketAddr,
    upstream: &Upstream,
    seen: &BTreeMap<String, Seen>,
) -> anyhow::Result<Vec<String>> {
    let mut unknown = Vec::new();
    for (key, Seen { answers, is_unknown }) in seen {
        let effects = upstream.effects(key);
        ensure!(effects.len() <= 1, "{key} was executed twice: {effects:?}");
        ensure!(answers.is_empty() || !is_unknown, "{key} was answered, and then unknown: {answers:?}");
        for answer in answers {
            ensure!(effects.first().is_some_and(|effect| effect.answer == *answer), "{key}: {answer} of {effects:?}");
        }
        if *is_unknown {
            unknown.push(key.clone());
            continue;
        }
        let answer = answers.first().context("no end")?.clone();
        ensure!(end(gateway, "/v1/charges", key).await? == End::Answered(answer), "{key} is not replayed");
    }
    Ok(unknown)
}

/// Resolves a key by what the upstream has of it, and sends it again. If the upstream had never seen it, it may be cut off now:
/// then the upstream has it, and that is the answer.
async fn resolved(stage: &Stage, key: &str) -> anyhow::Result<()> {
    for _ in 0..2 {
        match stage.upstream.effects(key).first() {
            None => stage.resolve(key, &["--not-executed"])?,
            Some(effect) => {
                let file = stage.place.root().join("found.json");
                std::fs::write(&file, &effect.answer)?;
                stage.resolve(key, &["--executed-status", "201", "--body-file", &file.to_string_lossy()])?;
            }
        }
        let end = end(stage.gate.address(), "/v1/charges", key).await?;
        let effects = stage.upstream.effects(key);
        let [effect] = effects.as_slice() else { bail!("{key}: {effects:?}") };
        if let End::Answered(answer) = end {
            ensure!(effect.answer == answer, "{key}: {answer} of {effect:?}");
            return Ok(());
        }
    }
    bail!("{key} is still unknown")
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_at_random_double_nothing() -> anyhow::Result<()> {
    let _place = harness::alone().await?;
    kill_before_a_store(20).await
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_of_a_gateway_with_its_store_double_nothing() -> anyhow::Result<()> {
    let _place = harness::alone().await?;
    kill_with_its_store(20).await
}

/// Hundreds of kills; `SOAK_KILLS` says how many.
#[tokio::test(flavor = "multi_thread")]
async fn soak_hundreds_of_kills_double_nothing() -> anyhow::Result<()> {
    if soak::out().is_none() {
        return Ok(());
    }
    kill_before_a_store(harness::number("SOAK_KILLS", 500)?).await
}

/// The same with the store inside.
#[tokio::test(flavor = "multi_thread")]
async fn soak_hundreds_of_kills_with_the_store_double_nothing() -> anyhow::Result<()> {
    if soak::out().is_none() {
        return Ok(());
    }
    kill_with_its_store(harness::number("SOAK_KILLS", 500)?).await
}
