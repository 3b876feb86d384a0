//! How far a rollout is, from a layer that does nothing to one that lets nothing through; and who names what.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::ensure;
use holdfast_client::http::{Rules, Severity, Stage};
use holdfast_client::layer::{Builder, Verdict};
use holdfast_client::proto::v1;
use holdfast_client::proto::v1::session_call::Call;
use http::{Method, Request};
use http_body_util::BodyExt as _;

use super::{Asked, Bench, answer, count, counting, full, post, ran};
use crate::fake::Fault;

fn rules(stage: Stage) -> Rules {
    Rules::of(Severity::High).with_stage(stage).with_wait(Duration::from_millis(20))
}

#[tokio::test]
async fn off_does_nothing() -> anyhow::Result<()> {
    let bench = Bench::new(rules(Stage::Off)).await?;
    let runs = count();
    for key in ["", "k", "k", "a b"] {
        let seen = bench.send(counting(&runs, 201), post(key, "{}")).await?;
        ensure!(seen.head() == "201 | x-run: 1", "{}", seen.head());
    }
    ensure!(ran(&runs) == 4 && bench.region.arrived().is_empty() && bench.heard().await.is_empty());
    Ok(())
}

#[tokio::test]
async fn observing_changes_nothing_and_tells_what_would_be() -> anyhow::Result<()> {
    let bench = Bench::new(rules(Stage::Observe)).await?;
    let runs = count();
    let app = {
        let runs = Arc::clone(&runs);
        move |request: Asked| {
            let runs = Arc::clone(&runs);
            async move {
                let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                runs.fetch_add(1, Ordering::SeqCst);
                answer(201, &[("x-run", "1")], full(body))
            }
        }
    };
    for (key, body, told) in [
        ("k", r#"{"a":1}"#, "executed"),
        ("k", r#"{"a":1.0}"#, "replayed"),
        ("k", r#"{"a":2}"#, "key-reused"),
        ("", "{}", "key-missing"),
        ("a b", "{}", "key-invalid"),
    ] {
        let seen = bench.send(app.clone(), post(key, body)).await?;
        ensure!(seen.head() == "201 | x-run: 1" && seen.body == body, "{}", seen.head());
        let heard = bench.heard().await;
        ensure!(heard == told, "{key} {body}: {heard}");
    }
    ensure!(ran(&runs) == 5, "every request runs");
    bench.region.fault(1, Fault::Unavailable);
    let seen = bench.send(app, post("k", "{}")).await?;
    ensure!(seen.head() == "201 | x-run: 1" && bench.heard().await == "store-unavailable");
    let keys = bench.region.arrived().into_iter().filter_map(|arrived| match arrived.call {
        Call::Reserve(reserve) => Some(reserve.key),
        Call::Complete(complete) => Some(complete.key),
        _ => None,
    });
    ensure!(keys.into_iter().all(|key| key.starts_with("observed.")), "the real key is untouched");
    Ok(())
}

/// The store is slow, the request is not.
#[tokio::test]
async fn observing_waits_for_nobody() -> anyhow::Result<()> {
    let bench = Bench::new(rules(Stage::Observe)).await?;
    bench.region.fault(1, Fault::LosesAnswers);
    let runs = count();
    let sending = bench.send(counting(&runs, 201), post("k", "{}"));
    let seen = tokio::time::timeout(Duration::from_secs(4), sending).await??;
    ensure!(seen.head() == "201 | x-run: 1" && ran(&runs) == 1);
    Ok(())
}

#[tokio::test]
async fn optional_lets_requests_without_a_key_pass_and_required_does_not() -> anyhow::Result<()> {
    for (stage, status) in [(Stage::Optional, 201), (Stage::Required, 400), (Stage::Strict, 400)] {
        let bench = Bench::new(rules(stage)).await?;
        let runs = count();
        let without = bench.send(counting(&runs, 201), post("", "{}")).await?;
        ensure!(without.status == status && bench.region.arrived().is_empty(), "{stage:?}");
        let told = bench.heard().await;
        ensure!(told == if status == 201 { "no-key" } else { "key-missing" }, "{told}");
        let with = bench.send(counting(&runs, 201), post("k", "{}")).await?;
        ensure!(with.header("idempotency-status") == Some("executed"));
    }
    Ok(())
}

#[tokio::test]
async fn other_methods_pass() -> anyhow::Result<()> {
    let bench = Bench::with(rules(Stage::Strict), |builder| builder.methods([Method::PUT])).await?;
    let runs = count();
    for (method, protected) in [("GET", false), ("POST", false), ("DELETE", false), ("PUT", true)] {
        let request = Request::builder().method(method).uri("/").header("idempotency-key", method).body(full(""))?;
        let seen = bench.send(counting(&runs, 200), request).await?;
        ensure!(seen.headers.contains_key("idempotency-status") == protected, "{method}");
    }
    Ok(())
}

#[tokio::test]
async fn tenant_endpoint_and_rules_are_told_from_the_request() -> anyhow::Result<()> {
    let strict = Arc::new(rules(Stage::Strict));
    let open = Arc::new(rules(Stage::Optional).with_lease(Duration::from_secs(7)));
    let bench = Bench::with(rules(Stage::Off), |builder| {
        builder
            .tenant_of(|parts| parts.headers.get("x-account")?.to_str().ok().map(str::to_owned))
            .endpoint_of(|parts| format!("{} {}", parts.method, parts.uri.path().trim_end_matches(char::is_numeric)))
            .rules_of(move |of| Arc::clone(if of.endpoint.ends_with("/charges/") { &strict } else { &open }))
    })
    .await?;
    let runs = count();
    let request = |path: &str, account: &str, key: &str| {
        let mut request = Request::post(path);
        for (name, value) in [("x-account", account), ("idempotency-key", key)] {
            request = if value.is_empty() { request } else { request.header(name, value) };
        }
        request.body(full("{}"))
    };
    let nobody = bench.send(counting(&runs, 201), request("/charges/7", "", "k")?).await?;
    ensure!((nobody.status, nobody.code()) == (401, "tenant-missing".to_owned()) && ran(&runs) == 0);
    let keyless = bench.send(counting(&runs, 201), request("/charges/7", "a", "")?).await?;
    ensure!(keyless.code() == "key-missing");
    ensure!(bench.send(counting(&runs, 201), request("/notes/7", "a", "")?).await?.status == 201);
    bench.send(counting(&runs, 201), request("/notes/7", "b", "k")?).await?;
    let asked = bench.region.arrived().into_iter().find_map(|arrived| match arrived.call {
        Call::Reserve(reserve) => Some((reserve.tenant, reserve.endpoint, reserve.lease_ms)),
        _ => None,
    });
    ensure!(asked == Some(("b".to_owned(), "POST /notes/".to_owned(), Some(7_000))), "{asked:?}");
    // The endpoint's name is one for both, the target is not.
    let other = bench.send(counting(&runs, 201), request("/notes/8", "b", "k")?).await?;
    ensure!(other.code() == "key-reused");
    Ok(())
}

/// What the first question about a key was compared by.
fn asked_by(bench: &Bench) -> Option<v1::fingerprint::Kind> {
    bench.region.arrived().into_iter().find_map(|arrived| match arrived.call {
        Call::Reserve(reserve) => reserve.fingerprint.and_then(|fingerprint| fingerprint.kind),
        _ => None,
    })
}

#[tokio::test]
async fn a_request_that_the_store_compares_is_sent_to_it_whole() -> anyhow::Result<()> {
    for stage in [Stage::Optional, Stage::Observe] {
        let bench = Bench::with(rules(stage), Builder::compare_in_store).await?;
        let runs = count();
        // It reads its request, without which nothing of it is observed.
        let counted_runs = Arc::clone(&runs);
        let app = move |asked: Asked| {
            let runs = Arc::clone(&counted_runs);
            async move {
                let _read = asked.into_body().collect().await;
                runs.fetch_add(1, Ordering::SeqCst);
                answer(201, &[], full(""))
            }
        };
        let request = |body: &'static str| {
            let request = Request::post("/v1/charges?account=7").header("idempotency-key", "k");
            let request = request.header("content-type", "application/json").header("authorization", "Bearer 1");
            request.header("te", "trailers").body(full(body))
        };
        ensure!(bench.send(app.clone(), request(r#"{"a":1}"#)?).await?.status == 201);
        bench.heard().await;
        let Some(v1::fingerprint::Kind::Request(asked)) = asked_by(&bench) else { anyhow::bail!("no request came") };
        let headers: Vec<(&str, &[u8])> =
            asked.headers.iter().map(|line| (line.name.as_str(), &line.value[..])).collect();
        ensure!(asked.method == "POST" && asked.path == "/v1/charges?account=7" && &asked.body[..] == br#"{"a":1}"#);
        let counted: [(&str, &[u8]); 2] = [("content-type", b"application/json"), ("authorization", b"Bearer 1")];
        ensure!(headers == counted, "{headers:?}");
        if stage == Stage::Optional {
            let again = bench.send(app.clone(), request(r#"{"a":1}"#)?).await?;
            ensure!(again.header("idempotency-status") == Some("replayed") && ran(&runs) == 1);
            ensure!(bench.send(app.clone(), request("{}")?).await?.code() == "key-reused");
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_the_store_does_not_take_whole_is_compared_by_a_digest() -> anyhow::Result<()> {
    let many = || {
        let request = Request::post("/").header("idempotency-key", "k");
        (0..200).fold(request, |request, number| request.header(format!("x-{number}"), "v"))
    };
    let requests = [Request::post("/").header("idempotency-key", "k").body(full("longer"))?, many().body(full(""))?];
    for request in requests {
        let bench = Bench::with(rules(Stage::Optional).with_most_request_bytes(3), Builder::compare_in_store).await?;
        ensure!(bench.send(counting(&count(), 201), request).await?.status == 201);
        ensure!(matches!(asked_by(&bench), Some(v1::fingerprint::Kind::Digest(_))));
    }
    Ok(())
}

#[tokio::test]
async fn what_became_of_a_request_is_left_with_its_response() -> anyhow::Result<()> {
    let bench = Bench::new(rules(Stage::Required)).await?;
    let runs = count();
    for (key, expected) in [("k", "executed"), ("k", "replayed"), ("", "key-missing")] {
        let response = bench.begin(counting(&runs, 201), post(key, "{}")).await?;
        let verdict = response.extensions().get::<Verdict>().map(|verdict| verdict.as_str());
        ensure!(verdict == Some(expected), "{verdict:?}");
    }
    Ok(())
}

/// What is only observed never takes room: neither that of its kind nor the store decides whether a request runs.
#[tokio::test]
async fn what_finds_no_room_to_be_observed_runs_and_is_counted() -> anyhow::Result<()> {
    let bench = Bench::with(Rules::default().with_stage(Stage::Observe), |builder| builder.most_observed(0)).await?;
    let runs = count();
    let seen = bench.send(counting(&runs, 201), post("k", "{}")).await?;
    ensure!(seen.status == 201 && ran(&runs) == 1 && bench.heard().await == "unseen", "{}", seen.head());
    ensure!(bench.region.reserves().is_empty(), "the store was not asked");

    let rules = Rules::default().with_stage(Stage::Optional);
    let bench = Bench::with(rules, |builder| builder.most_observed(0)).await?;
    let seen = bench.send(counting(&runs, 201), post("k", "{}")).await?;
    ensure!(
        seen.status == 201 && bench.heard().await == "executed",
        "a protected one has its own room: {}",
        seen.head()
    );
    Ok(())
}

#[tokio::test]
async fn a_request_that_finds_no_room_for_its_bytes_is_refused_before_the_store_is_asked() -> anyhow::Result<()> {
    let bench = Bench::with(Rules::default(), |builder| builder.most_held_bytes(8)).await?;
    let runs = count();
    let seen = bench.send(counting(&runs, 201), post("k", r#"{"amount":1}"#)).await?;
    ensure!(seen.status == 503 && seen.code() == "gateway-overloaded" && ran(&runs) == 0, "{}", seen.head());
    ensure!(seen.header("retry-after") == Some("1") && bench.region.reserves().is_empty(), "{}", seen.head());
    for key in ["a", "b"] {
        let seen = bench.send(counting(&runs, 201), post(key, r#"{"a":1}"#)).await?;
        ensure!(seen.status == 201, "what was held is given back: {}", seen.head());
    }
    ensure!(bench.heard().await == "gateway-overloaded executed executed" && bench.layer.held_bytes() == 0);
    Ok(())
}
