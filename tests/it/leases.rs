//! Leases over a restart: the new process counts them anew, and each ends its own grant and no later one. And a lease that
//! began only after its request had waited.

use std::time::Duration;

use anyhow::ensure;
use futures_util::StreamExt as _;
use holdfast_client::proto::v1 as api;
use holdfast_client::proto::v1::reserve_response::Outcome;
use tokio::time::sleep;

use crate::client::Client;
use crate::clock;
use crate::harness::{self, Place};
use crate::talk::{Ask, LONG_MS, SOON, fencing};

const KEYS: u32 = 60;
const LEASE_MS: u32 = 5_000;
/// Grants that stand behind them in the log: while these are applied again at the start, time passes.
const BEHIND: u32 = 6_000;
const AT_ONCE: usize = 64;

fn key(number: u32) -> String {
    format!("inherited-{number}")
}

/// Asks until the lease before has run out. An indefinite answer is asked for again, as the same attempt.
async fn granted_next(client: &Client, number: u32) -> anyhow::Result<api::Granted> {
    let ask = Ask::new(&key(number), 2);
    harness::until("the next grant", SOON, async || match ask.of(client).await {
        Ok(Outcome::Granted(grant)) => Ok(Some(grant)),
        Ok(Outcome::InProgress(_)) => Ok(None),
        Err(failure) if failure.is_unavailable() => Ok(None),
        other => anyhow::bail!("{}: {other:?}", key(number)),
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inherited_lease_ends_its_own_grant_only() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let mut node = place.start().run().await?;
    let client = &Client::grpc(node.address())?;
    for number in 0..KEYS {
        Ask::new(&key(number), 1).lease_ms(LEASE_MS).granted(client).await?;
    }
    let behind =
        (0..BEHIND).map(|number| async move { Ask::new(&format!("behind-{number}"), 1).granted(client).await });
    let behind: Vec<_> = futures_util::stream::iter(behind).buffer_unordered(AT_ONCE).collect().await;
    behind.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    node.kill()?;

    let node = place.start().run().await?;
    let client = &Client::grpc(node.address())?;
    let again = futures_util::future::join_all((0..KEYS).map(|number| granted_next(client, number))).await;
    let again = again.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    // Longer than what is left of any lease of before, and far shorter than the new ones.
    sleep(Duration::from_secs(2)).await;
    for (number, grant) in (0..KEYS).zip(&again) {
        ensure!(grant.possible_duplicate && grant.attempt == 2, "{grant:?}");
        let other = Ask::new(&key(number), 3).outcome(client).await?;
        ensure!(matches!(other, Outcome::InProgress(_)), "{} is held for {LONG_MS} ms, and: {other:?}", key(number));
        let same = Ask::new(&key(number), 2).granted(client).await?;
        ensure!(same.repeated && fencing(&same) == fencing(grant), "{same:?}");
    }
    node.stop().await
}

/// Time is counted from when the request was sent: what it waited for is added, or a grant would be over before it is heard of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_was_waited_for_longer_than_its_lease_may_be_started() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    for client in [Client::grpc(node.address())?, Client::http(node.address())] {
        let key = format!("waited-for-{}", client.name());
        Ask::new(&key, 1).lease_ms(1_500).granted(&client).await?;
        let sent = clock::now();
        let grant = Ask::new(&key, 2).lease_ms(500).wait_ms(20_000).granted(&client).await?;
        let waited = clock::now() - sent;
        ensure!(grant.attempt == 2 && waited > Duration::from_millis(1_000), "it waited for {waited:?}: {grant:?}");
        let left = Duration::from_millis(grant.start_within_ms.into());
        ensure!(left > waited, "{left:?} from the request on, and it waited for {waited:?}");
        ensure!(left <= waited + Duration::from_millis(500), "more than its lease: {left:?} after {waited:?}");
        ensure!(grant.lease_ms == grant.start_within_ms, "{grant:?}");
    }
    node.stop().await
}
