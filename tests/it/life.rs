//! A key's whole life over the real process and both APIs, with everything that one region can answer.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use holdfast_client::proto::v1 as api;
use holdfast_client::proto::v1::reserve_response::Outcome;
use rustix::process::Signal;
use tokio::time::sleep;

use crate::client::Client;
use crate::clock;
use crate::harness::{self, Place};
use crate::http;
use crate::payload;
use crate::talk::{Ask, LONG_MS, SOON, checkpoint, complete, extend, fencing, release, replayed_by_both, step};

const SHORT_MS: u32 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn granted_once_answered_once_and_replayed_for_ever() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let clients = Client::both(node.address())?;
    for client in &clients {
        let key = &format!("first-{}", client.name());
        let sent = clock::now();
        let grant = Ask::new(key, 1).granted(client).await?;
        // Counted from when it was sent: the lease began before the answer came.
        let most_ms = u128::from(LONG_MS) + (clock::now() - sent).as_millis();
        ensure!(grant.attempt == 1 && !grant.possible_duplicate && !grant.repeated, "{grant:?}");
        ensure!(u128::from(grant.lease_ms) <= most_ms && grant.lease_ms > LONG_MS / 2, "{grant:?}");
        ensure!(grant.start_within_ms > 0 && grant.start_within_ms <= grant.lease_ms, "{grant:?}");
        let (epoch, sequence) = fencing(&grant);
        ensure!(grant.token.starts_with(&format!("{epoch}.{sequence}.")), "{grant:?}");
        let again = Ask::new(key, 1).granted(client).await?;
        ensure!(again.token == grant.token && again.repeated && again.attempt == 1, "{again:?}");

        let other = Ask::new(key, 2).outcome(client).await?;
        ensure!(matches!(&other, Outcome::InProgress(wait) if wait.retry_after_ms > 0), "{other:?}");
        let mismatch = Ask::new(key, 2).another_request().outcome(client).await?;
        ensure!(matches!(mismatch, Outcome::Mismatch(_)), "{mismatch:?}");

        let answer = payload::envelope(1, 5_000);
        ensure!(complete(client, key, &grant, &answer).await? == api::Recorded::Answer);
        ensure!(complete(client, key, &grant, &answer).await? == api::Recorded::Repeated);
        let second = payload::envelope(2, 10);
        ensure!(complete(client, key, &grant, &second).await? == api::Recorded::Late);
        ensure!(replayed_by_both(&clients, &Ask::new(key, 3)).await? == answer, "another answer is replayed");
        let mismatch = Ask::new(key, 4).another_request().outcome(client).await?;
        ensure!(matches!(mismatch, Outcome::Mismatch(_)), "a mismatch was replayed: {mismatch:?}");
        ensure!(release(client, key, &grant.token).await == Ok(Err(api::KeyState::Completed)));
        ensure!(extend(client, key, &grant.token, LONG_MS).await == Ok(Err(api::KeyState::Completed)));
        ensure!(checkpoint(client, key, &grant.token).await == Ok(Err(api::KeyState::Completed)));
    }
    node.stop().await?;
    let node = place.start().run().await?;
    let clients = Client::both(node.address())?;
    for name in ["grpc", "http"] {
        let replayed = replayed_by_both(&clients, &Ask::new(&format!("first-{name}"), 9)).await?;
        ensure!(replayed == payload::envelope(1, 5_000), "after a restart another answer is replayed");
    }
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_of_every_envelope_comes_back() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let clients = Client::both(node.address())?;
    let header = |name: &str, value: &[u8]| api::Header { name: name.to_owned(), value: Bytes::copy_from_slice(value) };
    let every_byte: Vec<u8> = (0..=255).collect();
    let envelopes = [
        api::Envelope { status: 204, headers: Vec::new(), body: Bytes::new() },
        api::Envelope { status: 599, headers: vec![header("x-empty", b"")], body: every_byte.into() },
        api::Envelope {
            status: 100,
            headers: vec![header("x-latin", b"gr\xfc\xdfe"), header("x-tab", b"a\tb"), header("x-latin", b"again")],
            body: Bytes::from_static(b"{\"amount\": 1.0, \"note\": \"\xf0\x9f\x92\xb6\"}\r\n"),
        },
        payload::envelope(5, 256 * 1024),
    ];
    for (number, envelope) in envelopes.iter().enumerate() {
        for client in &clients {
            let key = &format!("bytes-{number}-{}", client.name());
            let grant = Ask::new(key, 1).granted(client).await?;
            complete(client, key, &grant, envelope).await?;
            let replayed = replayed_by_both(&clients, &Ask::new(key, 2)).await?;
            ensure!(replayed == *envelope, "envelope {number} sent over {} came back changed", client.name());
        }
    }
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_gets_the_answer_or_the_next_grant() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let clients = Client::both(node.address())?;
    for client in &clients {
        let key = &format!("wait-{}", client.name());
        let grant = Ask::new(key, 1).granted(client).await?;
        let began = clock::now();
        let out = Ask::new(key, 2).wait_ms(300).outcome(client).await?;
        ensure!(matches!(out, Outcome::InProgress(_)), "{out:?}");
        let waited = clock::now() - began;
        ensure!(waited >= Duration::from_millis(300) && waited < SOON, "waited {waited:?} of 300 ms");

        let ask = Ask::new(key, 3).wait_ms(30_000);
        let answer = payload::envelope(3, 100);
        let began = clock::now();
        let (waited, completed) = tokio::join!(ask.replayed(client), async {
            sleep(Duration::from_millis(100)).await;
            complete(client, key, &grant, &answer).await
        });
        ensure!(completed? == api::Recorded::Answer && waited? == answer, "who waited got another answer");
        ensure!(clock::now() - began < SOON, "the answer did not end the waiting");

        let key = &format!("wait-released-{}", client.name());
        let grant = Ask::new(key, 1).granted(client).await?;
        let ask = Ask::new(key, 2).wait_ms(30_000);
        let (next, released) = tokio::join!(ask.granted(client), async {
            sleep(Duration::from_millis(100)).await;
            release(client, key, &grant.token).await
        });
        let next = next?;
        ensure!(released == Ok(Ok(())) && fencing(&next) > fencing(&grant) && next.attempt == 2, "{next:?}");
    }
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_back_extended_and_continued() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    for client in &Client::both(node.address())? {
        let key = &format!("back-{}", client.name());
        let first = Ask::new(key, 1).granted(client).await?;
        for _ in 0..2 {
            ensure!(release(client, key, &first.token).await == Ok(Ok(())), "a release, sent twice");
        }
        ensure!(extend(client, key, &first.token, LONG_MS).await == Ok(Err(api::KeyState::Released)));
        // What was given back did not run: another request may have the key.
        let second = Ask::new(key, 2).another_request().granted(client).await?;
        ensure!(second.attempt == 2 && fencing(&second) > fencing(&first), "{second:?}");
        ensure!(!second.possible_duplicate && second.checkpoint.is_none(), "{second:?}");
        ensure!(extend(client, key, &first.token, LONG_MS).await == Ok(Err(api::KeyState::Held)));
        ensure!(checkpoint(client, key, &first.token).await == Ok(Err(api::KeyState::Held)));
        ensure!(release(client, key, &first.token).await == Ok(Err(api::KeyState::Held)));
        ensure!(extend(client, key, &second.token, LONG_MS).await == Ok(Ok(())));

        // A part of it ran: the key keeps its request, and the next attempt goes on from there.
        ensure!(checkpoint(client, key, &second.token).await == Ok(Ok(())));
        ensure!(release(client, key, &second.token).await == Ok(Ok(())));
        let mismatch = Ask::new(key, 3).outcome(client).await?;
        ensure!(matches!(mismatch, Outcome::Mismatch(_)), "{mismatch:?}");
        let third = Ask::new(key, 3).another_request().granted(client).await?;
        ensure!(third.attempt == 3 && third.checkpoint == Some(step()) && !third.possible_duplicate, "{third:?}");

        // Nothing ran after all, though the lease is over: the next grant is no duplicate.
        let key = &format!("back-late-{}", client.name());
        let late = Ask::new(key, 1).lease_ms(SHORT_MS).granted(client).await?;
        harness::until("the lease ran out", SOON, async || {
            Ok((history(&node, key).await? == ["granted", "lapsed"]).then_some(()))
        })
        .await?;
        ensure!(release(client, key, &late.token).await == Ok(Ok(())));
        let next = Ask::new(key, 2).granted(client).await?;
        ensure!(next.attempt == 2 && !next.possible_duplicate && !next.repeated, "{next:?}");

        let key = &format!("extended-{}", client.name());
        let grant = Ask::new(key, 1).lease_ms(2_000).granted(client).await?;
        ensure!(extend(client, key, &grant.token, LONG_MS).await == Ok(Ok(())));
        sleep(Duration::from_millis(2_500)).await;
        let other = Ask::new(key, 2).outcome(client).await?;
        ensure!(matches!(other, Outcome::InProgress(_)), "an extended lease ran out: {other:?}");
    }
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lapsed_key_is_granted_again_as_a_possible_duplicate() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let clients = Client::both(node.address())?;
    for client in &clients {
        let key = &format!("lapsed-{}", client.name());
        let first = Ask::new(key, 1).lease_ms(SHORT_MS).granted(client).await?;
        let ask = Ask::new(key, 2);
        let second = ask
            .until(client, "granted again", |outcome| match outcome {
                Outcome::Granted(grant) => Some(grant),
                _ => None,
            })
            .await?;
        ensure!(second.possible_duplicate && second.attempt == 2, "{second:?}");
        ensure!(fencing(&second) > fencing(&first) && !second.repeated, "{second:?}");
        ensure!(extend(client, key, &first.token, LONG_MS).await == Ok(Err(api::KeyState::Held)));
        // Both ran. The completion that came first is the answer, the other one is kept as evidence.
        let (one, two) = (payload::envelope(1, 10), payload::envelope(2, 10));
        ensure!(complete(client, key, &first, &one).await? == api::Recorded::Answer);
        ensure!(complete(client, key, &second, &two).await? == api::Recorded::Late);
        ensure!(replayed_by_both(&clients, &Ask::new(key, 3)).await? == one);
        let history = history(&node, key).await?;
        ensure!(history == ["granted", "lapsed", "granted", "completed", "late"], "{history:?}");
    }
    node.stop().await
}

/// The kinds of a key's events, over HTTP.
pub(crate) async fn history(node: &harness::Node, key: &str) -> anyhow::Result<Vec<String>> {
    let found = http::get(node.address(), &format!("/v1/keys/acme/{key}")).await?.json()?;
    let events = found.get("history").and_then(|history| history.as_array()).context("no history")?;
    let kind = |event: &serde_json::Value| Some(event.get("kind")?.as_str()?.to_owned());
    events.iter().map(|event| kind(event).context("an event without a kind")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_in_between_changes_nothing() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let mut node = place.start().run().await?;
    let client = Client::grpc(node.address())?;
    let held = Ask::new("held", 1).granted(&client).await?;
    ensure!(checkpoint(&client, "held", &held.token).await == Ok(Ok(())));
    let back = Ask::new("back", 1).granted(&client).await?;
    ensure!(release(&client, "back", &back.token).await == Ok(Ok(())));
    node.kill()?;

    let mut node = place.start().run().await?;
    let client = Client::grpc(node.address())?;
    let again = Ask::new("held", 1).granted(&client).await?;
    ensure!(again.token == held.token && again.repeated && again.checkpoint == Some(step()), "{again:?}");
    let next = Ask::new("back", 2).granted(&client).await?;
    ensure!(next.attempt == 2 && fencing(&next) > fencing(&back), "{next:?}");
    ensure!(complete(&client, "held", &held, &payload::envelope(1, 70_000)).await? == api::Recorded::Answer);
    node.kill()?;

    let node = place.start().run().await?;
    let clients = Client::both(node.address())?;
    ensure!(replayed_by_both(&clients, &Ask::new("held", 2)).await? == payload::envelope(1, 70_000));
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_answers_what_is_in_flight_first() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let mut node = place.start().run().await?;
    let [grpc, http] = Client::both(node.address())?;
    let grant = Ask::new("waited-for", 1).granted(&grpc).await?;
    let waiting = Ask::new("waited-for", 2).wait_ms(2_000);
    let (over_grpc, over_http, signalled) = tokio::join!(waiting.of(&grpc), waiting.of(&http), async {
        sleep(Duration::from_millis(500)).await;
        node.signal(Signal::TERM)
    });
    signalled?;
    for answered in [over_grpc, over_http] {
        let in_order = match &answered {
            Ok(Outcome::InProgress(_)) => true,
            Ok(_) => false,
            Err(failure) => failure.is_unavailable(),
        };
        ensure!(in_order, "a call in flight ended with {answered:?}");
    }
    let status = node.wait(harness::STOP_DEADLINE).await?;
    ensure!(status.success(), "ended with {status}:\n{}", node.output());
    node.no_panic()?;
    let node = place.start().run().await?;
    let client = Client::grpc(node.address())?;
    ensure!(Ask::new("waited-for", 1).granted(&client).await?.token == grant.token);
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_a_directory_and_one_directory_for_ever_the_same() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let start = place.start().server().flag("--partitions", 4);
    let node = start.run().await?;
    let client = Client::grpc(node.address())?;
    let grant = Ask::new("kept", 1).granted(&client).await?;

    let refused = start.try_run().await?.err().context("two nodes have one data directory")?;
    let data_dir = place.data().display().to_string();
    ensure!(refused.status.is_some_and(|status| !status.success()), "{refused:?}");
    ensure!(refused.output.contains("in use") && refused.output.contains(&data_dir), "{}", refused.output);
    ensure!(!harness::panicked(&refused.output), "{}", refused.output);
    ensure!(Ask::new("kept", 1).granted(&client).await?.token == grant.token, "the first node was disturbed");
    node.stop().await?;

    let other = place.start().server().flag("--partitions", 8);
    let refused = other.try_run().await?.err().context("a directory of 4 partitions was opened with 8")?;
    ensure!(refused.status.is_some_and(|status| !status.success()), "{refused:?}");
    let names_both =
        refused.output.contains("partitions") && refused.output.contains('4') && refused.output.contains('8');
    ensure!(names_both && !harness::panicked(&refused.output), "{}", refused.output);

    let node = start.run().await?;
    let client = Client::grpc(node.address())?;
    ensure!(Ask::new("kept", 1).granted(&client).await?.token == grant.token, "the refused start changed something");
    node.stop().await
}
