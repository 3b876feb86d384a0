//! The client against a region that misbehaves: what it asks whom, and what it says in the end.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use holdfast_client::client::{
    Builder, Certainty, Checkpoint, Claim, ClaimOutcome, Client, Envelope, Grant, Held, KeyState, OnDrop, Outcome,
    Recorded, Reserve, TooLate, Transport, codes,
};
use holdfast_client::proto::v1::session_call::Call;
use tokio::task::JoinSet;

use crate::fake::{Fault, MOST_IN_FLIGHT, Node, Region};

const TRANSPORTS: [Transport; 2] = [Transport::Session, Transport::Unary];
/// Longer than anything that a healthy machine needs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client of all these nodes that does not wait long.
fn builder(nodes: &[Node], transport: Transport) -> Builder {
    Client::builder()
        .nodes(nodes.iter().map(|node| node.address.to_string()))
        .transport(transport)
        .attempt_timeout(Duration::from_millis(300))
        .backoff(Duration::from_millis(5), Duration::from_millis(20))
}

fn question(key: &str) -> Reserve {
    Reserve::new("acme", key).digest("fingerprint")
}

async fn granted(client: &Client, key: &str) -> anyhow::Result<Grant> {
    match client.reserve(question(key)).await? {
        Outcome::Granted(grant) => Ok(grant),
        other => bail!("a grant was expected: {other:?}"),
    }
}

#[tokio::test]
async fn a_key_is_granted_completed_and_replayed() -> anyhow::Result<()> {
    for transport in TRANSPORTS {
        let (_region, nodes) = Region::start(1)?;
        let client = builder(&nodes, transport).client_version("test/1").connect().await?;
        let grant = granted(&client, "k").await?;
        ensure!((grant.attempt(), grant.repeated(), grant.possible_duplicate()) == (1, false, false));
        ensure!((grant.fencing().epoch, grant.fencing().sequence) == (3, 1));
        ensure!(grant.remaining() > Duration::from_secs(5) && grant.remaining() <= Duration::from_secs(10));
        grant.start()?;
        ensure!(grant.remaining() > Duration::from_secs(25), "started, the lease counts");
        ensure!(grant.extend(Duration::from_secs(60)).await? == Held::Done);
        ensure!(grant.remaining() > Duration::from_secs(55));
        let stale = grant.checkpoint(Checkpoint { name: "charged".to_owned(), data: "id".into() }).await?;
        ensure!(stale == Held::Stale(KeyState::Released));
        let response = Envelope::new(201, "done").header("content-type", "text/plain");
        ensure!(grant.complete(response.clone()).await?.recorded == Recorded::Answer);
        match client.reserve(question("k")).await? {
            Outcome::Replay(replay) => ensure!(replay.envelope == response),
            other => bail!("{other:?}"),
        }
        ensure!(client.lookup("acme", "k").await?.is_none());
        let claimed = client.claim(Claim::new("acme", "k2", "worker-7")).await?;
        match claimed {
            ClaimOutcome::Claimed(claimed) => {
                ensure!(claimed.fingerprint == "worker-7" && claimed.grant.attempt() == 2)
            }
            other => bail!("{other:?}"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_client_may_be_made_before_its_region() -> anyhow::Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let nobody = listener.local_addr()?.to_string();
    drop(listener);
    let without = || Client::builder().nodes([nobody.as_str()]).attempts(1);
    ensure!(without().connect().await.is_err());
    let Err(error) = without().connect_lazy()?.reserve(question("k")).await else { bail!("nobody is there") };
    ensure!((error.code(), error.certainty()) == (codes::UNREACHABLE, Certainty::Definite), "{error:?}");
    for transport in TRANSPORTS {
        let (_region, nodes) = Region::start(1)?;
        let client = builder(&nodes, transport).nodes([nobody.as_str()]).connect_lazy()?;
        granted(&client, "k").await?.start()?;
    }
    Ok(())
}

/// R13: the resends of an attempt bear its nonce, another question bears another.
#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_nonce() -> anyhow::Result<()> {
    for (transport, fault) in
        TRANSPORTS.into_iter().flat_map(|one| [(one, Fault::LosesAnswers), (one, Fault::BreaksOff)])
    {
        let (region, nodes) = Region::start(3)?;
        let client = builder(&nodes, transport).connect().await?;
        region.fault(1, fault);
        let grant = granted(&client, "k").await?;
        ensure!(grant.repeated(), "{transport:?} {fault:?}: the first send was carried out");
        let sent = region.reserves();
        let nodes: Vec<u64> = sent.iter().map(|(node, _)| *node).collect();
        ensure!(nodes.len() == 2 && nodes.first() == Some(&1) && nodes.last() != Some(&1), "{transport:?}: {nodes:?}");
        ensure!(sent.first().map(|(_, nonce)| nonce) == sent.last().map(|(_, nonce)| nonce));
        ensure!(sent.iter().all(|(_, nonce)| nonce.len() == 16));
        let again = client.reserve(question("k")).await?;
        ensure!(matches!(again, Outcome::InProgress { .. }), "another question is another attempt: {again:?}");
        ensure!(region.reserves().last().map(|(_, nonce)| nonce) != sent.last().map(|(_, nonce)| nonce));
    }
    Ok(())
}

#[tokio::test]
async fn an_unknown_outcome_is_never_told_as_a_no() -> anyhow::Result<()> {
    for transport in TRANSPORTS {
        let (region, nodes) = Region::start(2)?;
        let client = builder(&nodes, transport).attempts(3).connect().await?;
        region.fault(1, Fault::LosesAnswers);
        region.fault(2, Fault::LosesAnswers);
        let error = client.reserve(question("lost")).await.err().context("nobody answered")?;
        ensure!(error.certainty() == Certainty::Indefinite && error.code() == codes::DEADLINE, "{error}");
        ensure!(region.reserves().len() == 3, "{transport:?}");

        // The first send may have been carried out, whatever the second node says.
        region.fault(2, Fault::Refuses);
        let error = loop {
            let error = client.reserve(question("refused")).await.err().context("nobody answered")?;
            // While both are suspects either may be first.
            if region.reserves().iter().rev().nth(1).is_some_and(|(node, _)| *node == 1) {
                break error;
            }
        };
        ensure!(error.code() == "key-invalid", "{error}");
        ensure!(error.certainty() == Certainty::Indefinite, "{transport:?}: {error}");

        region.fault(1, Fault::Refuses);
        let error = client.reserve(question("wrong")).await.err().context("nobody answered")?;
        ensure!(error.certainty() == Certainty::Definite && error.retry_after().is_none(), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn what_was_not_sent_is_definite() -> anyhow::Result<()> {
    for transport in TRANSPORTS {
        let (_region, mut nodes) = Region::start(1)?;
        let client = builder(&nodes, transport).connect().await?;
        let addresses: Vec<String> = nodes.iter().map(|node| node.address.to_string()).collect();
        nodes.clear();
        let gone = async {
            loop {
                let error = client.reserve(question("k")).await.err().context("nobody is there")?;
                // Until the connection's end is noticed a call may be lost on it.
                match (error.code(), error.certainty()) {
                    (codes::UNREACHABLE, Certainty::Definite) => return anyhow::Ok(()),
                    (_, Certainty::Indefinite) => tokio::task::yield_now().await,
                    (code, Certainty::Definite) => bail!("{code} is definite: {error}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.context("the dead node was never noticed")??;
        let error = Client::builder().nodes(addresses).connect().await.err().context("nobody is there")?;
        ensure!((error.code(), error.certainty()) == (codes::UNREACHABLE, Certainty::Definite), "{error}");
    }
    let error = Client::builder().nodes(["https://127.0.0.1:1"]).connect().await.err().context("no such address")?;
    ensure!(error.to_string().contains("http://HOST:PORT"), "{error}");
    Ok(())
}

#[tokio::test]
async fn the_leader_is_asked_and_hints_are_followed() -> anyhow::Result<()> {
    for transport in TRANSPORTS {
        let (region, nodes) = Region::start(3)?;
        region.leader(3);
        // One is named; the others are in its topology.
        let client = builder(nodes.get(..1).context("no node")?, transport).connect().await?;
        granted(&client, "a").await?.complete(Envelope::new(200, "")).await?;
        ensure!(region.arrived().iter().all(|arrived| arrived.node == 3), "{transport:?}: {:?}", region.arrived());

        region.fault(3, Fault::NotLeader(2));
        region.leader(2);
        drop(granted(&client, "b").await?);
        let asked: Vec<u64> = region.reserves().iter().map(|(node, _)| *node).collect();
        ensure!(asked == [3, 3, 2], "{transport:?}: {asked:?}");
        drop(granted(&client, "c").await?);
        let asked: Vec<u64> = region.reserves().iter().map(|(node, _)| *node).collect();
        ensure!(asked == [3, 3, 2, 2], "{transport:?}: it remembers: {asked:?}");
    }
    Ok(())
}

#[tokio::test]
async fn dead_and_slow_nodes_are_left_aside() -> anyhow::Result<()> {
    for transport in TRANSPORTS {
        let (region, mut nodes) = Region::start(3)?;
        let client = builder(&nodes, transport).connect().await?;
        drop(granted(&client, "before").await?);
        // The leader dies.
        drop(nodes.remove(0));
        drop(granted(&client, "dead").await?);
        drop(granted(&client, "dead too").await?);

        // The next one is slow.
        region.leader(2);
        region.fault(2, Fault::Slow(PATIENCE));
        let started = region.arrived().len();
        drop(tokio::time::timeout(PATIENCE / 4, granted(&client, "slow")).await.context("nobody else was asked")??);
        let asked: Vec<u64> = region.arrived().iter().skip(started).map(|arrived| arrived.node).collect();
        ensure!(asked.last() == Some(&3), "{transport:?}: {asked:?}");
    }
    Ok(())
}

/// A node that shuts down says when it may be asked again; another one need not be waited for.
#[tokio::test]
async fn a_node_that_takes_no_session_is_left_aside() -> anyhow::Result<()> {
    let (region, nodes) = Region::start(2)?;
    region.fault(1, Fault::Closes);
    let client = builder(&nodes, Transport::Session);
    // The topology is asked over the same connection, so that the second node tells it.
    let client = client.connect().await?;
    let asking = granted(&client, "k");
    drop(tokio::time::timeout(PATIENCE, asking).await.context("it waited for the node that shuts down")??);
    ensure!(region.reserves().iter().all(|(node, _)| *node == 2), "{:?}", region.reserves());
    Ok(())
}

#[tokio::test]
async fn a_broken_session_is_opened_anew() -> anyhow::Result<()> {
    let (region, nodes) = Region::start(1)?;
    let client = builder(&nodes, Transport::Session).connect().await?;
    region.fault(1, Fault::BreaksOff);
    let error = client.reserve(question("k")).await.err().context("every session broke")?;
    ensure!((error.code(), error.certainty()) == (codes::CONNECTION_LOST, Certainty::Indefinite), "{error}");
    ensure!(region.reserves().len() == 4, "the first send and three resends");
    region.fault(1, Fault::None);
    let outcome = client.reserve(question("k")).await?;
    ensure!(matches!(outcome, Outcome::InProgress { retry_after } if retry_after == Duration::from_millis(40)));
    Ok(())
}

#[tokio::test]
async fn resends_stay_within_the_budget() -> anyhow::Result<()> {
    for transport in TRANSPORTS {
        let (region, nodes) = Region::start(1)?;
        region.fault(1, Fault::Overloaded);
        let client = builder(&nodes, transport).retry_budget(0.0, 0.0).connect().await?;
        let error = client.reserve(question("k")).await.err().context("it is overloaded")?;
        ensure!((error.code(), error.certainty()) == ("overloaded", Certainty::Definite), "{error}");
        ensure!(error.retry_after() == Some(Duration::from_millis(10)));
        ensure!(region.reserves().len() == 1, "{transport:?}");
        let client = builder(&nodes, transport).connect().await?;
        client.reserve(question("k")).await.err().context("it is overloaded")?;
        ensure!(region.reserves().len() == 5, "{transport:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_late_grant_is_never_handed_out() -> anyhow::Result<()> {
    for transport in TRANSPORTS {
        let (region, nodes) = Region::start(1)?;
        region.start_within(50);
        region.fault(1, Fault::Slow(Duration::from_millis(60)));
        let client = builder(&nodes, transport).on_drop(OnDrop::ReleaseUnstarted).connect().await?;
        let error = client.reserve(question("k")).await.err().context("it came too late")?;
        ensure!((error.code(), error.certainty()) == (codes::GRANT_LATE, Certainty::Indefinite), "{error}");
        client.settle().await;
        ensure!(region.releases() == 1, "{transport:?}: nothing was started, so it was given back");

        region.fault(1, Fault::None);
        region.start_within(120);
        let grant = granted(&client, "k").await?;
        while !grant.remaining().is_zero() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        ensure!(grant.start() == Err(TooLate) && !grant.is_started(), "{transport:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_dropped_grant_does_what_was_chosen() -> anyhow::Result<()> {
    for transport in TRANSPORTS {
        for (on_drop, started, releases) in [
            (OnDrop::Lapse, false, 0),
            (OnDrop::Lapse, true, 0),
            (OnDrop::ReleaseUnstarted, false, 1),
            (OnDrop::ReleaseUnstarted, true, 0),
        ] {
            let (region, nodes) = Region::start(1)?;
            let client = builder(&nodes, transport).on_drop(on_drop).connect().await?;
            let grant = granted(&client, "k").await?;
            if started {
                grant.start()?;
            }
            drop(grant);
            client.settle().await;
            ensure!(region.releases() == releases, "{transport:?} {on_drop:?} started {started}");
            let released = granted(&client, "done").await?;
            ensure!(released.release().await? == Held::Done);
            drop(released);
            client.settle().await;
            ensure!(region.releases() == releases + 1, "{transport:?}: it is released once");
        }
    }
    Ok(())
}

/// A caller that goes away while its question is on the way may have been granted the key, and never hears of it.
#[tokio::test]
async fn a_cancelled_question_leaves_no_grant_behind() -> anyhow::Result<()> {
    for transport in TRANSPORTS {
        for (on_drop, releases) in [(OnDrop::Lapse, 0), (OnDrop::ReleaseUnstarted, 1)] {
            let (region, nodes) = Region::start(1)?;
            region.fault(1, Fault::Slow(Duration::from_millis(100)));
            let client = builder(&nodes, transport).on_drop(on_drop).connect().await?;
            let mut asking = JoinSet::new();
            let asker = client.clone();
            asking.spawn(async move { asker.reserve(question("k")).await.map(drop) });
            while region.reserves().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            asking.shutdown().await;
            client.settle().await;
            ensure!(region.releases() == releases, "{transport:?} {on_drop:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn no_more_calls_are_in_flight_than_a_node_takes() -> anyhow::Result<()> {
    let (region, nodes) = Region::start(1)?;
    region.fault(1, Fault::Slow(Duration::from_millis(5)));
    let client = builder(&nodes, Transport::Session).attempt_timeout(PATIENCE).connect().await?;
    let mut asking = JoinSet::new();
    for number in 0..200 {
        let client = client.clone();
        asking.spawn(async move { granted(&client, &format!("k{number}")).await.map(drop) });
    }
    while let Some(asked) = asking.join_next().await {
        asked??;
    }
    ensure!((2..=MOST_IN_FLIGHT).contains(&region.most_in_flight()), "{}", region.most_in_flight());
    ensure!(region.reserves().len() == 200);
    Ok(())
}

#[tokio::test]
async fn positions_go_along_and_only_grow() -> anyhow::Result<()> {
    for transport in TRANSPORTS {
        let (region, nodes) = Region::start(1)?;
        let client = builder(&nodes, transport).connect().await?;
        for (number, position) in [7, 5, 9, 0].into_iter().enumerate() {
            region.position(position);
            drop(granted(&client, &format!("k{number}")).await?);
        }
        let seen: Vec<Option<u64>> = region
            .arrived()
            .into_iter()
            .filter_map(|arrived| match arrived.call {
                Call::Reserve(reserve) => Some(reserve.seen),
                _ => None,
            })
            .collect();
        ensure!(seen == [None, Some(7), Some(7), Some(9)], "{transport:?}: {seen:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_wait_is_passed_on_and_shrinks_with_every_send() -> anyhow::Result<()> {
    let (region, nodes) = Region::start(2)?;
    region.fault(1, Fault::Slow(PATIENCE));
    region.hold("k");
    let client = builder(&nodes, Transport::Session).attempt_timeout(Duration::from_millis(50)).connect().await?;
    let wait = Duration::from_millis(400);
    let outcome = client.reserve(question("k").wait(wait)).await?;
    ensure!(matches!(outcome, Outcome::InProgress { .. }), "{outcome:?}");
    let waits: Vec<u32> = region
        .arrived()
        .into_iter()
        .filter_map(|arrived| match arrived.call {
            Call::Reserve(reserve) => Some(reserve.wait_ms.unwrap_or_default()),
            _ => None,
        })
        .collect();
    // The first node was waited for as long as the wait and an answer take.
    ensure!(waits.len() == 2 && waits.first() == Some(&400) && waits.last() == Some(&0), "{waits:?}");
    Ok(())
}

#[tokio::test]
async fn minted_keys_bear_the_newest_epoch() -> anyhow::Result<()> {
    let (_region, nodes) = Region::start(1)?;
    let client = builder(&nodes, Transport::Session).connect().await?;
    let key = client.mint_key("acme", "eu")?;
    ensure!(key.as_str().starts_with("hf1.eu.0."), "nothing is known yet: {key:?}");
    drop(granted(&client, key.as_str()).await?);
    let key = client.mint_key("acme", "eu")?;
    ensure!(key.as_str().starts_with("hf1.eu.3."), "{key:?}");
    ensure!(client.mint_key("acme", "EU").is_err());
    Ok(())
}
