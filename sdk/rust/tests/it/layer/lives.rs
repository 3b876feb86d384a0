//! What befalls an execution: its caller leaves, it dies, another comes at the same time, the store does not hear of it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::FutureExt as _;
use holdfast_client::client::Checkpoint;
use holdfast_client::http::{Rules, Severity};
use holdfast_client::layer::Execution;
use holdfast_client::proto::v1;
use holdfast_client::proto::v1::session_call::Call;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{Asked, Bench, PATIENCE, answer, count, counting, full, post, ran};
use crate::fake::{Fault, Region};

fn rules() -> Rules {
    Rules::of(Severity::High).with_wait(Duration::from_millis(20))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let watching = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, watching).await.with_context(|| what.to_owned())
}

#[tokio::test]
async fn two_at_the_same_time_run_once() -> anyhow::Result<()> {
    let bench = Arc::new(Bench::new(rules().with_wait(PATIENCE)).await?);
    let (runs, go) = (count(), Arc::new(Notify::new()));
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let (bench, runs, go) = (Arc::clone(&bench), Arc::clone(&runs), Arc::clone(&go));
        let app = move |_| {
            let (runs, go) = (Arc::clone(&runs), Arc::clone(&go));
            async move {
                let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
                go.notified().await;
                answer(201, &[], full(format!("run {run}")))
            }
        };
        callers.spawn(async move { bench.send(app, post("k", "{}")).await });
    }
    until("all have asked", || bench.region.reserves().len() == 8).await?;
    go.notify_one();
    let mut said = Vec::new();
    while let Some(seen) = callers.join_next().await {
        let seen = seen??;
        ensure!(seen.status == 201 && seen.body == "run 1", "{}", seen.head());
        said.push(seen.header("idempotency-status").map(str::to_owned));
    }
    ensure!(ran(&runs) == 1 && said.iter().filter(|said| said.as_deref() == Some("executed")).count() == 1);
    Ok(())
}

/// What was begun goes on without its caller, and is recorded.
#[tokio::test]
async fn the_caller_leaves_while_it_runs() -> anyhow::Result<()> {
    let bench = Arc::new(Bench::new(rules()).await?);
    let (runs, go) = (count(), Arc::new(Notify::new()));
    let app = {
        let (runs, go) = (Arc::clone(&runs), Arc::clone(&go));
        move |_| {
            let (runs, go) = (Arc::clone(&runs), Arc::clone(&go));
            async move {
                runs.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
                answer(201, &[], full("done"))
            }
        }
    };
    let mut caller = JoinSet::new();
    let (one, its) = (Arc::clone(&bench), app.clone());
    caller.spawn(async move { one.send(its, post("k", "{}")).await });
    until("it runs", || ran(&runs) == 1).await?;
    caller.shutdown().await;
    go.notify_one();
    ensure!(bench.heard().await == "executed");
    let replay = bench.send(app, post("k", "{}")).await?;
    ensure!((replay.status, replay.header("idempotent-replayed")) == (201, Some("true")) && replay.body == "done");
    ensure!(ran(&runs) == 1);
    Ok(())
}

/// A caller that leaves before anything was begun leaves nothing behind.
#[tokio::test]
async fn the_caller_leaves_before_it_runs() -> anyhow::Result<()> {
    let bench = Arc::new(Bench::new(rules()).await?);
    bench.region.fault(1, Fault::Slow(Duration::from_millis(50)));
    let runs = count();
    let mut caller = JoinSet::new();
    let (one, app) = (Arc::clone(&bench), counting(&runs, 201));
    caller.spawn(async move { one.send(app, post("k", "{}")).await });
    until("it was asked", || !bench.region.reserves().is_empty()).await?;
    caller.shutdown().await;
    ensure!(bench.heard().await == "caller-gone");
    ensure!(ran(&runs) == 0 && bench.region.releases() == 1 && !bench.region.holds("k"));
    let after = bench.send(counting(&runs, 201), post("k", "{}")).await?;
    ensure!(after.body == "run 1");
    Ok(())
}

/// A panic is its caller's, as without the layer, and its key is left to lapse: the effect may have happened.
#[tokio::test]
async fn the_application_dies_after_its_effect() -> anyhow::Result<()> {
    let bench = Bench::new(rules()).await?;
    let runs = count();
    let app = {
        let runs = Arc::clone(&runs);
        move |_: Asked| {
            runs.fetch_add(1, Ordering::SeqCst);
            async { panic!("after the effect") }
        }
    };
    let died = AssertUnwindSafe(bench.send(app, post("k", "{}"))).catch_unwind().await;
    let panic = died.err().context("it panicked")?;
    ensure!(panic.downcast_ref::<&str>() == Some(&"after the effect"));
    ensure!(bench.heard().await == "died" && bench.region.holds("k") && bench.region.releases() == 0);
    let again = bench.send(counting(&runs, 201), post("k", "{}")).await?;
    ensure!(again.code() == "in-progress" && ran(&runs) == 1);
    // The lease has run out, and the policy holds the key.
    let unknown = v1::OutcomeUnknown { attempt: 1, checkpoint: None };
    bench.region.say("k", v1::reserve_response::Outcome::OutcomeUnknown(unknown));
    let later = bench.send(counting(&runs, 201), post("k", "{}")).await?;
    ensure!(later.code() == "outcome-unknown" && ran(&runs) == 1);
    Ok(())
}

#[tokio::test]
async fn the_application_knows_its_execution() -> anyhow::Result<()> {
    let bench = Bench::new(rules()).await?;
    let checkpoint = v1::CheckpointData { name: "charged".to_owned(), data: "7".into() };
    let granted = v1::Granted {
        token: "3.9.x".to_owned(),
        fencing: Some(v1::FencingToken { epoch: 3, sequence: 9 }),
        start_within_ms: 10_000,
        lease_ms: 30_000,
        attempt: 2,
        checkpoint: Some(checkpoint),
        possible_duplicate: true,
        repeated: false,
    };
    bench.region.say("k", v1::reserve_response::Outcome::Granted(granted));
    let app = |request: Asked| async move {
        let Some(execution) = request.extensions().get::<Execution>().cloned() else {
            return answer(500, &[], full("unprotected"));
        };
        let told = execution.checkpoint(Checkpoint { name: "sent".to_owned(), data: "8".into() }).await;
        let left = execution.left_checkpoint().map(|left| left.name.clone());
        let known = format!(
            "{} {} {:?} {} {} {left:?} {} {}",
            execution.tenant(),
            execution.key(),
            execution.fencing(),
            execution.attempt(),
            execution.possible_duplicate(),
            told.is_ok(),
            execution.remaining() > Duration::from_secs(20),
        );
        answer(200, &[], full(known))
    };
    let seen = bench.send(app, post("k", "{}")).await?;
    let known = "acme k FencingToken { epoch: 3, sequence: 9 } 2 true Some(\"charged\") true true";
    ensure!(seen.body == known, "{:?}", seen.body);
    Ok(())
}

/// The lease is extended for as long as the application works, and no longer than the rules allow.
#[tokio::test]
async fn the_lease_is_kept_alive() -> anyhow::Result<()> {
    fn extends(region: &Region) -> usize {
        region.arrived().iter().filter(|arrived| matches!(arrived.call, Call::Extend(_))).count()
    }
    for (limit, expected) in [(PATIENCE, 3), (Duration::ZERO, 0)] {
        let bench = Bench::new(rules().with_work_limit(limit)).await?;
        bench.region.lease(900);
        let region = bench.region.clone();
        let app = move |_| {
            let region = region.clone();
            async move {
                let kept = until("it is extended", || extends(&region) >= expected).await;
                if expected == 0 {
                    // Past the moment at which it would be.
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                let exact = expected > 0 || extends(&region) == 0;
                answer(if kept.is_ok() && exact { 201 } else { 500 }, &[], full("done"))
            }
        };
        let seen = bench.send(app, post("k", "{}")).await?;
        ensure!((seen.status, seen.header("idempotency-status")) == (201, Some("executed")), "{}", seen.head());
    }
    Ok(())
}

/// The effect is done: its caller gets its answer, and the store hears of it when it can.
#[tokio::test]
async fn the_store_does_not_hear_of_it_in_time() -> anyhow::Result<()> {
    let bench = Bench::with(rules(), |builder| builder.record_limit(Duration::from_millis(50))).await?;
    bench.region.fault(1, Fault::HearsNoOutcome);
    let runs = count();
    let first = bench.send(counting(&runs, 201), post("k", "{}")).await?;
    let head = "201 | holdfast-epoch: eu/0=3 | idempotency-key: k | idempotency-status: unrecorded | x-run: 1";
    ensure!(first.head() == head && first.body == "run 1", "{}", first.head());
    let again = bench.send(counting(&runs, 201), post("k", "{}")).await?;
    ensure!(again.code() == "in-progress", "it is not run again: {}", again.head());
    bench.region.fault(1, Fault::None);
    until("it is told", || bench.region.stored("k").is_some()).await?;
    let replay = bench.send(counting(&runs, 201), post("k", "{}")).await?;
    ensure!(replay.body == "run 1" && ran(&runs) == 1);
    Ok(())
}

/// An attempt that outlived its lease, and another was executed meanwhile: what everybody else was told is told here too.
#[tokio::test]
async fn another_outcome_was_recorded_first() -> anyhow::Result<()> {
    let bench = Bench::new(rules()).await?;
    let region = bench.region.clone();
    let app = move |_| {
        let envelope = v1::Envelope { status: 202, headers: Vec::new(), body: "the other's".into() };
        region.complete("k", envelope);
        std::future::ready(answer(201, &[], full("this one's")))
    };
    let seen = bench.send(app, post("k", "{}")).await?;
    ensure!((seen.status, seen.header("idempotent-replayed")) == (202, Some("true")) && seen.body == "the other's");
    let completes = bench.region.arrived().iter().filter(|arrived| matches!(arrived.call, Call::Complete(_))).count();
    ensure!(completes == 1, "that this one ran is told, for whoever has to make up for it");
    Ok(())
}

#[tokio::test]
async fn a_grant_that_comes_too_late_is_not_begun() -> anyhow::Result<()> {
    let bench = Bench::new(rules()).await?;
    bench.region.start_within(20);
    bench.region.fault(1, Fault::Slow(Duration::from_millis(40)));
    let runs = count();
    let refused = bench.send(counting(&runs, 201), post("k", "{}")).await?;
    ensure!((refused.status, refused.code()) == (503, "store-unavailable".to_owned()) && ran(&runs) == 0);
    Ok(())
}
