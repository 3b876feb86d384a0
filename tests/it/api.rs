//! The public API as a caller meets it: what describes it, and what it says to everything that is wrong.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::api_hostile::at;
use crate::harness::{Place, beside_another};
use crate::{api_garbage, api_grpc, api_hostile, clock, http};

/// Everything here, against one node.
async fn all(address: SocketAddr) -> anyhow::Result<()> {
    every_documented_path_is_there(address).await?;
    every_error_has_its_page(address).await?;
    api_hostile::all(address).await?;
    api_grpc::all(address).await?;
    api_garbage::all(address).await
}

#[tokio::test]
async fn process_api_survives_hostile_input() -> anyhow::Result<()> {
    let _machine = beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let result = all(node.address()).await;
    node.no_panic()?;
    result?;
    node.stop().await
}

#[tokio::test]
async fn process_api_answers_what_is_in_flight_before_it_ends() -> anyhow::Result<()> {
    let _machine = beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let address = node.address();
    let reserve = |wait_ms: u32| json!({"tenant": "acme", "key": "k", "fingerprint": "00", "wait_ms": wait_ms});
    let granted = http::post(address, "/v1/reserve", &reserve(0)).await?.json()?;
    ensure!(at(&granted, "outcome") == "granted", "{granted}");

    let watching = api_grpc::watch_health(address).await?;
    let waiting = reserve(4_000);
    let in_flight = http::post(address, "/v1/reserve", &waiting);
    let stopped = async {
        // That a call waits shows nowhere before it is answered, so there is nothing to poll for.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begun = clock::now();
        node.stop().await?;
        anyhow::Ok(clock::now() - begun)
    };
    let (answer, stopped_after) = tokio::try_join!(in_flight, stopped)?;
    let answer = answer.json()?;
    ensure!(at(&answer, "outcome") == "in_progress", "{answer}");
    ensure!(stopped_after < Duration::from_secs(8), "an idle stream held the node up: {stopped_after:?}");
    api_grpc::watched_the_end(watching).await
}

/// What `/openapi.json` lists is served with the methods that it lists.
async fn every_documented_path_is_there(address: SocketAddr) -> anyhow::Result<()> {
    let document = http::get(address, "/openapi.json").await?;
    ensure!(document.header("content-type") == Some("application/json"), "another type");
    let document = document.json()?;
    let paths = at(&document, "paths").as_object().context("no paths")?;
    ensure!(paths.len() >= 16, "only {} paths", paths.len());
    for (path, operations) in paths {
        let target = path.replace("{tenant}", "acme").replace("{key}", "k").replace("{code}", "key-invalid");
        for method in operations.as_object().context("no operations")?.keys() {
            let method = method.to_ascii_uppercase();
            let request = format!(
                "{method} {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            );
            let answer = http::exchange(address, request.as_bytes(), http::DEADLINE).await?;
            let problem = answer.json().unwrap_or_default();
            let code = at(&problem, "code");
            ensure!(code != "path-unknown" && code != "method-not-allowed", "{method} {path}: {code}");
        }
    }
    no_reference_dangles(&document, &document)
}

fn no_reference_dangles(document: &Value, part: &Value) -> anyhow::Result<()> {
    match part {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                let pointer = reference.strip_prefix('#').context("a reference to elsewhere")?;
                ensure!(document.pointer(pointer).is_some(), "{reference} is not there");
            }
            members.values().try_for_each(|member| no_reference_dangles(document, member))
        }
        Value::Array(items) => items.iter().try_for_each(|item| no_reference_dangles(document, item)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

/// The index names every page, and every page is served.
async fn every_error_has_its_page(address: SocketAddr) -> anyhow::Result<()> {
    let index = String::from_utf8(http::get(address, "/errors").await?.body)?;
    let codes: Vec<&str> =
        index.split("](").skip(1).filter_map(|rest| rest.split_once(".md)")).map(|(code, _)| code).collect();
    // Other pages than those of codes are linked too.
    let codes: Vec<&str> = codes.into_iter().filter(|code| !code.contains(['/', '.', '#'])).collect();
    ensure!(codes.len() >= 40, "only {} codes in the index", codes.len());
    for code in codes {
        let page = http::get(address, &format!("/errors/{code}")).await?;
        ensure!(page.status == 200, "{code}: {}", page.status);
        ensure!(page.header("content-type") == Some("text/markdown; charset=utf-8"), "{code}: another type");
    }
    Ok(())
}
