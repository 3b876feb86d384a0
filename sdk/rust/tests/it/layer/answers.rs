//! Every answer that a client can get, with its headers.

use std::time::Duration;

use anyhow::ensure;
use holdfast_client::http::{Fate, InFlight, OnLapse, Profile, Rules, Severity, Stage};
use holdfast_client::proto::v1;
use holdfast_client::proto::v1::reserve_response::Outcome;
use http::Request;

use super::{Bench, answer, count, counting, full, post, ran};
use crate::fake::Fault;

const MARKS: &str = "holdfast-epoch: eu/0=3 | idempotency-expires: 1994-11-06T08:49:37Z | idempotency-key: k | ";

fn high() -> Rules {
    Rules::of(Severity::High).with_wait(Duration::from_millis(20))
}

#[tokio::test]
async fn the_first_run_and_its_replays() -> anyhow::Result<()> {
    let bench = Bench::new(high()).await?;
    let count = count();
    let first = bench.send(counting(&count, 201), post("k", r#"{"amount":1}"#)).await?;
    ensure!(first.head() == format!("201 | {MARKS}idempotency-status: executed | x-run: 1"), "{}", first.head());
    ensure!(first.body == "run 1");
    for body in [r#"{"amount":1}"#, r#"{ "amount": 1.0 }"#] {
        let replay = bench.send(counting(&count, 500), post("k", body)).await?;
        let head = format!("201 | {MARKS}idempotency-status: replayed | idempotent-replayed: true");
        ensure!(replay.head() == head, "{}", replay.head());
        ensure!(replay.body == first.body && replay.header("content-type") == Some("text/plain"));
    }
    ensure!(ran(&count) == 1);
    ensure!(bench.heard().await == "executed replayed replayed");
    // Both spellings are one key, echoed as it was sent.
    let quoted = bench.send(counting(&count, 201), post("\"k\"", r#"{"amount":1}"#)).await?;
    ensure!(quoted.header("idempotency-key") == Some("\"k\"") && quoted.header("idempotent-replayed") == Some("true"));
    Ok(())
}

#[tokio::test]
async fn a_key_that_is_missing_or_none() -> anyhow::Result<()> {
    let bench =
        Bench::with(high().with_stage(Stage::Required), |builder| builder.pages("https://pay.example/e/")).await?;
    let count = count();
    let missing = bench.send(counting(&count, 201), post("", "{}")).await?;
    let head = "400 | link: <https://pay.example/e/key-missing>; rel=\"describedby\"";
    ensure!(missing.head() == head && missing.code() == "key-missing", "{}", missing.head());
    ensure!(missing.header("content-type") == Some("application/problem+json"));
    let mut twice = post("a", "{}");
    twice.headers_mut().append("idempotency-key", "a".parse()?);
    for request in [post("a b", "{}"), post(&"k".repeat(256), "{}"), post("\"open", "{}"), twice] {
        let invalid = bench.send(counting(&count, 201), request).await?;
        ensure!(invalid.head() == "400" && invalid.code() == "key-invalid", "{}", invalid.head());
    }
    ensure!(ran(&count) == 0 && bench.region.arrived().is_empty(), "nobody was asked");
    // What only the store can see of a key.
    bench.region.fault(1, Fault::Refuses);
    let invalid = bench.send(counting(&count, 201), post("hf1.mars.0.x", "{}")).await?;
    ensure!((invalid.status, invalid.code()) == (400, "key-invalid".to_owned()));
    let invalid = bench.send(counting(&count, 201), post("k", "{}")).await?;
    ensure!((invalid.status, invalid.code()) == (400, "key-invalid".to_owned()) && ran(&count) == 0);
    Ok(())
}

#[tokio::test]
async fn another_request_under_the_same_key() -> anyhow::Result<()> {
    for (profile, status) in [(Profile::Default, 409), (Profile::Ietf, 422), (Profile::Stripe, 400)] {
        let bench = Bench::new(high().with_profile(profile)).await?;
        let count = count();
        bench.send(counting(&count, 201), post("k", r#"{"amount":1}"#)).await?;
        let query = Request::post("/v1/charges?account=2").header("idempotency-key", "k");
        let query = query.header("content-type", "application/json").body(full(r#"{"amount":1}"#))?;
        for request in [post("k", r#"{"amount":2}"#), post("k", ""), query] {
            let reused = bench.send(counting(&count, 201), request).await?;
            let head = format!("{status} | holdfast-epoch: eu/0=3 | stripe-should-retry: false");
            ensure!(reused.head() == head && reused.code() == "key-reused", "{profile:?}: {}", reused.head());
        }
        ensure!(ran(&count) == 1);
    }
    Ok(())
}

#[tokio::test]
async fn a_key_in_flight_elsewhere() -> anyhow::Result<()> {
    for (in_flight, status) in [(InFlight::Conflict, 409), (InFlight::Locked, 423)] {
        let bench = Bench::new(high().with_in_flight(in_flight)).await?;
        bench.region.hold("k");
        let count = count();
        let busy = bench.send(counting(&count, 201), post("k", "{}")).await?;
        let head = format!("{status} | holdfast-epoch: eu/0=3 | retry-after: 1 | stripe-should-retry: true");
        ensure!(busy.head() == head && busy.code() == "in-progress" && ran(&count) == 0, "{}", busy.head());
    }
    Ok(())
}

#[tokio::test]
async fn every_other_outcome_of_the_store() -> anyhow::Result<()> {
    let bench = Bench::new(high()).await?;
    let limited = |limit: &str| Outcome::Limited(v1::Limited { limit: limit.to_owned(), retry_after_ms: 1_500 });
    let epoch = "holdfast-epoch: eu/0=3";
    for (outcome, code, head) in [
        (
            Outcome::OutcomeUnknown(v1::OutcomeUnknown { attempt: 1, checkpoint: None }),
            "outcome-unknown",
            format!("409 | {epoch} | stripe-should-retry: false"),
        ),
        (
            Outcome::InDoubt(v1::InDoubt { retry_after_ms: 2_000 }),
            "in-doubt",
            format!("503 | {epoch} | retry-after: 2"),
        ),
        (Outcome::Superseded(v1::Superseded { epoch: 3 }), "superseded", format!("503 | {epoch} | retry-after: 0")),
        (Outcome::Expired(v1::Expired {}), "key-expired", format!("400 | {epoch}")),
        (
            limited("endpoint-rate"),
            "rate-limited",
            format!("429 | {epoch} | ratelimit: \"endpoint-rate\";r=0;t=2 | retry-after: 2"),
        ),
        (
            limited("tenant-keys"),
            "quota-exceeded",
            format!("429 | {epoch} | ratelimit: \"tenant-keys\";r=0;t=2 | retry-after: 2"),
        ),
    ] {
        bench.region.say("k", outcome);
        let count = count();
        let refused = bench.send(counting(&count, 201), post("k", "{}")).await?;
        ensure!(refused.head() == head && refused.code() == code && ran(&count) == 0, "{code}: {}", refused.head());
        ensure!(bench.heard().await == code);
    }
    Ok(())
}

#[tokio::test]
async fn the_store_is_not_there() -> anyhow::Result<()> {
    for (severity, stage, runs) in [
        (Severity::High, Stage::Optional, false),
        (Severity::Medium, Stage::Optional, true),
        (Severity::Medium, Stage::Strict, false),
    ] {
        let bench = Bench::new(Rules::of(severity).with_stage(stage)).await?;
        bench.region.fault(1, Fault::Unavailable);
        let count = count();
        let seen = bench.send(counting(&count, 201), post("k", "{}")).await?;
        if runs {
            ensure!(seen.head() == "201 | idempotency-status: unprotected | x-run: 1", "{}", seen.head());
            ensure!(seen.body == "run 1" && bench.heard().await == "unprotected");
        } else {
            ensure!(seen.head() == "503 | retry-after: 1" && seen.code() == "store-unavailable", "{}", seen.head());
            ensure!(bench.heard().await == "store-unavailable");
        }
        ensure!(ran(&count) == usize::from(runs));
        // It was not executed, or unprotected: either way the key is as new.
        bench.region.fault(1, Fault::None);
        let after = bench.send(counting(&count, 201), post("k", "{}")).await?;
        ensure!(after.header("idempotency-status") == Some("executed"));
    }
    Ok(())
}

#[tokio::test]
async fn failures_of_the_application_follow_the_rules() -> anyhow::Result<()> {
    // Released: a retry runs it.
    let bench = Bench::new(high()).await?;
    let runs = count();
    let failed = bench.send(counting(&runs, 500), post("k", "{}")).await?;
    let head = "500 | holdfast-epoch: eu/0=3 | idempotency-key: k | idempotency-status: released | x-run: 1";
    ensure!(failed.head() == head && failed.body == "run 1", "{}", failed.head());
    let again = bench.send(counting(&runs, 201), post("k", "{}")).await?;
    ensure!(again.status == 201 && again.body == "run 2");

    // Held: nobody may run it until its outcome is known.
    let bench = Bench::new(high().with_on_lapse(OnLapse::Hold)).await?;
    let runs = count();
    let failed = bench.send(counting(&runs, 503), post("k", "{}")).await?;
    let head = "503 | holdfast-epoch: eu/0=3 | idempotency-key: k | idempotency-status: unknown | x-run: 1";
    ensure!(failed.head() == head, "{}", failed.head());
    ensure!(bench.region.holds("k") && bench.region.releases() == 0);
    let again = bench.send(counting(&runs, 201), post("k", "{}")).await?;
    ensure!(again.code() == "in-progress" && ran(&runs) == 1);

    // Stored, since it had begun.
    let bench = Bench::new(high().with_profile(Profile::Stripe)).await?;
    let runs = count();
    bench.send(counting(&runs, 500), post("k", "{}")).await?;
    let again = bench.send(counting(&runs, 201), post("k", "{}")).await?;
    ensure!((again.status, again.header("idempotent-replayed")) == (500, Some("true")) && ran(&runs) == 1);
    Ok(())
}

#[tokio::test]
async fn refusals_of_the_application_are_stored_but_those_that_may_be_sent_again() -> anyhow::Result<()> {
    for status in [400, 402, 404, 422] {
        let bench = Bench::new(high()).await?;
        let runs = count();
        bench.send(counting(&runs, status), post("k", "{}")).await?;
        let again = bench.send(counting(&runs, 201), post("k", "{}")).await?;
        ensure!((again.status, ran(&runs)) == (status, 1), "{status}");
    }
    for status in [401, 403, 408, 409, 425, 429] {
        let bench = Bench::new(high().with_on_lapse(OnLapse::Hold)).await?;
        let runs = count();
        let refused = bench.send(counting(&runs, status), post("k", "{}")).await?;
        ensure!((refused.status, refused.header("idempotency-status")) == (status, Some("released")), "{status}");
        let again = bench.send(counting(&runs, 201), post("k", "{}")).await?;
        ensure!((again.status, ran(&runs)) == (201, 2), "{status}");
    }
    Ok(())
}

/// What only the application can know: whether a failure of something behind it came before anything was done.
#[tokio::test]
async fn the_application_may_say_what_becomes_of_its_key() -> anyhow::Result<()> {
    for (status, fate, said) in [
        (502, Fate::Released, "released"),
        (502, Fate::Stored, "executed"),
        (201, Fate::Lapses, "unknown"),
        (201, Fate::Released, "released"),
    ] {
        let bench = Bench::new(high().with_on_lapse(OnLapse::Hold)).await?;
        let app = move |_| {
            let mut response = answer(status, &[], full("said"));
            response.extensions_mut().insert(fate);
            std::future::ready(response)
        };
        let seen = bench.send(app, post("k", "{}")).await?;
        ensure!(seen.header("idempotency-status") == Some(said), "{status} {fate:?}: {}", seen.head());
        ensure!(bench.region.holds("k") == (fate == Fate::Lapses));
        ensure!(bench.region.stored("k").is_some() == (fate == Fate::Stored));
    }
    Ok(())
}

#[tokio::test]
async fn oasis_clients_are_answered_in_their_words() -> anyhow::Result<()> {
    let bench =
        Bench::new(high().with_profile(Profile::Oasis).with_retention(Duration::from_secs(400 * 24 * 3_600))).await?;
    let runs = count();
    let request = |method: &str, sent: &str, body: &'static str| {
        let request = Request::builder().method(method).uri("/v1/charges").header("repeatability-request-id", "7b7d");
        let request = if sent.is_empty() { request } else { request.header("repeatability-first-sent", sent) };
        request.body(full(body))
    };
    // Out of every window.
    let long_ago = "Sun, 06 Nov 1994 08:49:37 GMT";
    for (method, sent, code, status) in [
        ("POST", "", "key-invalid", 400),
        ("POST", "now", "key-invalid", 400),
        ("POST", long_ago, "key-expired", 412),
        ("DELETE", long_ago, "repeatability-unsupported", 501),
    ] {
        let refused = bench.send(counting(&runs, 201), request(method, sent, "{}")?).await?;
        ensure!((refused.code(), refused.status) == (code.to_owned(), status), "{}", refused.head());
        ensure!(refused.header("repeatability-result") == Some("rejected"));
    }
    ensure!(ran(&runs) == 0);
    let recent = recently();
    let first = bench.send(counting(&runs, 201), request("POST", &recent, "{}")?).await?;
    let marks = "201 | holdfast-epoch: eu/0=3 | idempotency-expires: 1994-11-06T08:49:37Z | idempotency-status: executed | \
                 repeatability-request-id: 7b7d | repeatability-result: accepted | x-run: 1";
    ensure!(first.head() == marks, "{}", first.head());
    let again = bench.send(counting(&runs, 201), request("POST", &recent, "{}")?).await?;
    ensure!(again.body == "run 1" && again.header("repeatability-result") == Some("accepted"));
    let reused = bench.send(counting(&runs, 201), request("POST", &recent, "{\"a\":1}")?).await?;
    ensure!((reused.code(), reused.status) == ("key-reused".to_owned(), 400));
    Ok(())
}

/// Midnight of today as an IMF-fixdate, counted the slow way.
fn recently() -> String {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let days = now.tv_sec / 86_400;
    let weekdays = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"].into_iter().cycle();
    let weekday = weekdays.zip(0..=days).map(|(weekday, _)| weekday).last().unwrap_or_default();
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let (mut year, mut left) = (1970, days);
    loop {
        let february = if is_leap(year) { 29 } else { 28 };
        let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        for (name, length) in names.into_iter().zip([31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
            if left < length {
                return format!("{weekday}, {:02} {name} {year:04} 00:00:00 GMT", left + 1);
            }
            left -= length;
        }
        year += 1;
    }
}

/// It would refuse it again and again, and the request would run each time.
#[tokio::test]
async fn what_the_store_refuses_runs_under_no_severity() -> anyhow::Result<()> {
    for severity in [Severity::Critical, Severity::Low] {
        let bench = Bench::new(Rules::of(severity)).await?;
        bench.region.fault(1, Fault::KnowsNoTenant);
        let count = count();
        let seen = bench.send(counting(&count, 201), post("k", "{}")).await?;
        ensure!(seen.code() == "store-refused" && ran(&count) == 0, "{}", seen.head());
        ensure!(bench.heard().await == "store-refused");
    }
    Ok(())
}
