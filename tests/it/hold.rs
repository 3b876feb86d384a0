//! Critical keys: one whose lease ran out is held until somebody completes, claims or resolves it.

use anyhow::{Context as _, ensure};
use holdfast_client::proto::v1 as api;
use holdfast_client::proto::v1::claim_response::Outcome as ClaimOutcome;
use holdfast_client::proto::v1::reserve_response::Outcome;

use crate::client::Client;
use crate::harness::{self, Place};
use crate::http;
use crate::life::history;
use crate::payload;
use crate::talk::{Ask, checkpoint, claim, complete, fencing, replayed_by_both, resolve, step};

const SHORT_MS: u32 = 100;

/// A key whose lease ran out after a checkpoint.
async fn lapsed(client: &Client, key: &str) -> anyhow::Result<(api::Granted, api::OutcomeUnknown)> {
    let grant = Ask::new(key, 1).lease_ms(1_000).granted(client).await?;
    ensure!(checkpoint(client, key, &grant.token).await == Ok(Ok(())), "no checkpoint of {key}");
    let unknown = until_unknown(client, key).await?;
    Ok((grant, unknown))
}

async fn until_unknown(client: &Client, key: &str) -> anyhow::Result<api::OutcomeUnknown> {
    Ask::new(key, 2)
        .until(client, "unknown in its outcome", |outcome| match outcome {
            Outcome::OutcomeUnknown(unknown) => Some(unknown),
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_claims_what_lapsed_and_completes_it() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().critical().run().await?;
    let clients = Client::both(node.address())?;
    for client in &clients {
        let key = &format!("claimed-{}", client.name());
        let (first, unknown) = lapsed(client, key).await?;
        ensure!(unknown.attempt == 1 && unknown.checkpoint == Some(step()), "{unknown:?}");
        let ClaimOutcome::Claimed(claimed) = claim(client, key, 7).await? else {
            anyhow::bail!("{key} cannot be claimed");
        };
        ensure!(claimed.endpoint == payload::ENDPOINT && claimed.fingerprint_version == 0, "{claimed:?}");
        let sent = match payload::fingerprint(crate::history::Request(0)).kind {
            Some(api::fingerprint::Kind::Digest(digest)) => digest,
            other => anyhow::bail!("{other:?}"),
        };
        ensure!(claimed.fingerprint == sent, "{claimed:?}");
        let grant = claimed.grant.context("no grant")?;
        ensure!(grant.attempt == 2 && fencing(&grant) > fencing(&first), "{grant:?}");
        ensure!(grant.possible_duplicate && grant.checkpoint == Some(step()), "{grant:?}");

        let again = claim(client, key, 7).await?;
        let same = matches!(&again, ClaimOutcome::Claimed(again)
            if again.grant.as_ref().is_some_and(|again| again.token == grant.token && again.repeated));
        ensure!(same, "the same attempt claims again: {again:?}");
        let other = claim(client, key, 8).await?;
        ensure!(matches!(&other, ClaimOutcome::NotClaimable(not) if not.state() == api::KeyState::Held), "{other:?}");
        let outcome = Ask::new(key, 3).outcome(client).await?;
        ensure!(matches!(outcome, Outcome::InProgress(_)), "{outcome:?}");

        let answer = payload::envelope(1, 100);
        ensure!(complete(client, key, &grant, &answer).await? == api::Recorded::Answer);
        ensure!(replayed_by_both(&clients, &Ask::new(key, 4)).await? == answer);
        // The first attempt was not dead after all.
        ensure!(complete(client, key, &first, &payload::envelope(2, 100)).await? == api::Recorded::Late);
        ensure!(replayed_by_both(&clients, &Ask::new(key, 5)).await? == answer);
        let history = history(&node, key).await?;
        let expected = ["granted", "checkpointed", "lapsed", "claimed", "completed", "late"];
        ensure!(history == expected, "{history:?}");
    }
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_attempt_may_still_complete_what_lapsed() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().critical().run().await?;
    let clients = Client::both(node.address())?;
    for client in &clients {
        let key = &format!("late-{}", client.name());
        let grant = Ask::new(key, 1).lease_ms(SHORT_MS).granted(client).await?;
        until_unknown(client, key).await?;
        let outcome = Ask::new(key, 3).another_request().outcome(client).await?;
        ensure!(matches!(outcome, Outcome::OutcomeUnknown(_)), "{outcome:?}");
        let answer = payload::envelope(1, 100);
        ensure!(complete(client, key, &grant, &answer).await? == api::Recorded::Answer);
        ensure!(replayed_by_both(&clients, &Ask::new(key, 4)).await? == answer);
        let claimed = claim(client, key, 9).await?;
        let completed = matches!(&claimed, ClaimOutcome::NotClaimable(not) if not.state() == api::KeyState::Completed);
        ensure!(completed, "{claimed:?}");
    }
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_resolves_and_it_is_on_record() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let start = place.start().critical();
    let mut node = start.run().await?;
    for client in &Client::both(node.address())? {
        let key = &format!("executed-{}", client.name());
        let (first, _) = lapsed(client, key).await?;
        let wrong = first.fencing.map(|fencing| api::FencingToken { sequence: fencing.sequence + 1, ..fencing });
        let stale = resolve(client, key, wrong, None).await?;
        ensure!(stale == Err(api::KeyState::OutcomeUnknown), "another token was looked at: {stale:?}");
        let answer = payload::envelope(1, 6_000);
        let resolved = resolve(client, key, first.fencing, Some(answer.clone())).await?;
        ensure!(resolved == Ok(api::KeyState::Completed), "{resolved:?}");
        let twice = resolve(client, key, first.fencing, None).await?;
        ensure!(twice == Err(api::KeyState::Completed), "what is answered was resolved again: {twice:?}");

        let key = &format!("not-executed-{}", client.name());
        let (first, _) = lapsed(client, key).await?;
        let resolved = resolve(client, key, first.fencing, None).await?;
        ensure!(resolved == Ok(api::KeyState::Released), "{resolved:?}");
        let second = Ask::new(key, 3).granted(client).await?;
        ensure!(second.attempt == 2 && fencing(&second) > fencing(&first), "{second:?}");
        ensure!(!second.possible_duplicate, "an operator said that nothing ran: {second:?}");
        let held = resolve(client, key, second.fencing, None).await?;
        ensure!(held == Err(api::KeyState::Held), "a running grant was resolved: {held:?}");
    }
    node.kill()?;

    let node = start.run().await?;
    let clients = Client::both(node.address())?;
    for name in ["grpc", "http"] {
        let key = &format!("executed-{name}");
        ensure!(replayed_by_both(&clients, &Ask::new(key, 9)).await? == payload::envelope(1, 6_000));
        let expected = ["granted", "checkpointed", "lapsed", "resolved"];
        ensure!(history(&node, key).await? == expected, "{:?}", history(&node, key).await?);
        let found = http::get(node.address(), &format!("/v1/keys/acme/{key}")).await?;
        let text = String::from_utf8_lossy(&found.body).into_owned();
        ensure!(text.contains("ada@example.com") && text.contains("the bank's statement"), "who and why: {text}");
    }
    node.stop().await
}
