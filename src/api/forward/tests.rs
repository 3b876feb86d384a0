use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use holdfast_client::proto::v1;
use holdfast_client::proto::v1::session_answer::Answer;

use super::*;
use crate::ids::FencingToken;
use crate::region::calls::{
    CheckpointCall, ClaimCall, ClaimOutcome, CompleteCall, ExtendCall, GrantCall, GrantOutcome, LookupCall, Placed,
    ReleaseCall, ReserveCall, ReserveOutcome, ResolveCall, ResolveOutcome, Verdict,
};
use crate::region::fixture::{Fixture, LEADER, completed, envelope, fingerprint, granted, key, late, open, reserve};
use crate::reservation::record::{Checkpoint, State};
use crate::reservation::reply::Recorded;
use crate::router::call::Call;
use crate::router::operate::{AcceptClockCall, RotateCall};
use crate::wire::v1::ForwardCall;

/// What a node answers to calls that came on one stream.
async fn answers(node: &Fixture, calls: Vec<ForwardCall>) -> Vec<ForwardAnswer> {
    let requests = stream::iter([Ok(ForwardRequest { calls })]);
    let replies: Vec<_> = answer_forwarded(Arc::clone(&node.region), requests).collect().await;
    replies.into_iter().flat_map(|reply| reply.unwrap().answers).collect()
}

async fn pass<C: Call>(node: &Fixture, call: &C) -> ForwardAnswer {
    let mut message = call.forward();
    if let Some(call) = &mut message.call {
        (call.id, call.timeout_ms) = (9, 20_000);
    }
    let mut answers = answers(node, vec![message]).await;
    assert_eq!(answers.len(), 1);
    let answer = answers.remove(0);
    assert_eq!(answer.answer.as_ref().map(|answer| answer.id), Some(9));
    answer
}

/// Passes a call on, and reads its answer as the node does that passed it on.
async fn served<C: Call>(node: &Fixture, call: &C) -> C::Answer {
    let answer = pass(node, call).await;
    let text = format!("{answer:?}");
    call.read(answer).unwrap_or_else(|| panic!("{text}"))
}

fn failure(answer: ForwardAnswer) -> v1::Failure {
    match answer.answer.and_then(|answer| answer.answer) {
        Some(Answer::Failure(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

fn grant(placed: Placed<ReserveOutcome>) -> (String, FencingToken) {
    let ReserveOutcome::Granted(grant) = placed.outcome else { panic!("{placed:?}") };
    (grant.token, grant.fencing)
}

fn signature() -> crate::control::Signature {
    crate::control::Signature { actor: "ada".into(), reason: "a test".into() }
}

#[tokio::test]
async fn a_grant_and_its_life_are_the_same_as_if_they_had_been_asked_for_here() {
    let node = Fixture::alone().await;
    let (token, fencing) = grant(served(&node, &reserve("a")).await);
    let again = node.region.reserve(&reserve("a"), late()).await.unwrap();
    assert_eq!(grant(again), (token.clone(), fencing), "the same request, selection and nonce included");
    let named = GrantCall { key: key("a"), token: token.clone() };
    let checkpoint = Checkpoint { name: "half".into(), data: Box::new([1, 2]) };
    let stored = served(&node, &CheckpointCall { grant: named.clone(), checkpoint: checkpoint.clone() }).await;
    assert_eq!(stored.outcome, GrantOutcome::Done);
    assert_eq!(served(&node, &ExtendCall { grant: named, lease_ms: 70_000 }).await.outcome, GrantOutcome::Done);
    let held = served(&node, &LookupCall(key("a"))).await;
    assert_eq!(held.outcome, node.region.lookup(&LookupCall(key("a")), late()).await.unwrap().outcome);
    assert_eq!(held.outcome.unwrap().checkpoint, Some(checkpoint));

    let complete = CompleteCall { key: key("a"), token, envelope: envelope(), retention_ms: Some(90_000) };
    assert_eq!(served(&node, &complete).await.outcome.recorded, Recorded::Answer);
    assert_eq!(served(&node, &complete).await.outcome.recorded, Recorded::Repeated);
    let replay = served(&node, &reserve("a")).await;
    assert_eq!(replay, node.region.reserve(&reserve("a"), late()).await.unwrap());
    assert!(matches!(&replay.outcome, ReserveOutcome::Replay(replay) if replay.envelope == envelope()));
    assert_eq!((replay.place.position > 0, replay.place.leader), (true, Some(1)));
    let found = served(&node, &LookupCall(key("a"))).await;
    assert_eq!(found.outcome, node.region.lookup(&LookupCall(key("a")), late()).await.unwrap().outcome);
    assert_eq!(served(&node, &LookupCall(key("never"))).await.outcome, None);
}

#[tokio::test]
async fn every_other_outcome_comes_through() {
    let node = Fixture::alone().await;
    let (token, fencing) = grant(served(&node, &reserve("a")).await);
    let other = ReserveCall { fingerprint: fingerprint(9), ..reserve("a") };
    assert_eq!(served(&node, &other).await.outcome, ReserveOutcome::Mismatch);
    let second = ReserveCall { nonce: None, ..reserve("a") };
    assert!(matches!(served(&node, &second).await.outcome, ReserveOutcome::InProgress { .. }));
    let received = clock::monotonic();
    let claim = ClaimCall { key: key("a"), worker: "w".into(), nonce: None, lease_ms: None, received };
    assert_eq!(served(&node, &claim).await.outcome, ClaimOutcome::NotClaimable(State::Held));
    let (actor, reason) = ("ada".to_owned(), "looked".to_owned());
    let resolve = ResolveCall { key: key("a"), fencing, verdict: Verdict::Executed(envelope()), actor, reason };
    assert_eq!(served(&node, &resolve).await.outcome, ResolveOutcome::StaleToken(State::Held));
    let release = ReleaseCall(GrantCall { key: key("a"), token });
    assert_eq!(served(&node, &release).await.outcome, GrantOutcome::Done);
    assert_eq!(served(&node, &reserve("b")).await.place.partition, crate::ids::PartitionId(0));
    assert_eq!(served(&node, &RotateCall(signature())).await, 2);
    assert!(served(&node, &AcceptClockCall(crate::ids::PartitionId(0), signature())).await.unix_ms() > 0);
}

#[tokio::test]
async fn a_failure_says_how_certain_it_is() {
    let node = Fixture::alone().await;
    let release = ReleaseCall(GrantCall { key: key("a"), token: "1.1.none".into() });
    let told = failure(pass(&node, &release).await);
    assert_eq!((told.code.as_str(), told.definite, told.retry_after_ms), ("token-invalid", true, 0));
    let told = failure(pass(&node, &AcceptClockCall(crate::ids::PartitionId(900), signature())).await);
    assert!(!told.definite, "{told:?}");
    let told = answers(&node, vec![ForwardCall::default()]).await.remove(0);
    assert_eq!(failure(told).code, "input-invalid");
}

#[tokio::test]
async fn a_node_that_does_not_lead_says_who_does_and_passes_nothing_on() {
    let node = Fixture::following(vec![open(), granted("done"), completed("done")]).await;
    let leader = |answer: ForwardAnswer| answer.not_leader.map(|not| not.leader_node_id);
    assert_eq!(leader(pass(&node, &reserve("a")).await), Some(LEADER));
    assert_eq!(leader(pass(&node, &LookupCall(key("done"))).await), Some(LEADER));
    assert_eq!(leader(pass(&node, &RotateCall(signature())).await), Some(LEADER));
    let replay = served(&node, &reserve("done")).await;
    assert!(matches!(replay.outcome, ReserveOutcome::Replay(_)), "what it has, it answers");
}

#[tokio::test]
async fn many_calls_are_served_at_a_time_and_the_stream_ends_with_the_last_answer() {
    let node = Fixture::alone().await;
    served(&node, &reserve("held")).await;
    // One waits for the key that is held; it keeps nobody up.
    let waits = ReserveCall { nonce: None, wait: Duration::from_millis(300), ..reserve("held") };
    let mut calls: Vec<_> = (0..600).map(|at| reserve(&format!("k{at}")).forward()).collect();
    calls.insert(0, waits.forward());
    for (id, call) in (1..).zip(&mut calls) {
        if let Some(call) = &mut call.call {
            call.id = id;
        }
    }
    let answers = answers(&node, calls).await;
    assert_eq!(answers.len(), 601);
    let last = answers.last().and_then(|answer| answer.answer.clone()).unwrap();
    assert_eq!(last.id, 1, "who waits is answered last");
    let granted = |answer: &&ForwardAnswer| match answer.answer.as_ref().and_then(|answer| answer.answer.as_ref()) {
        Some(Answer::Reserve(response)) => matches!(response.outcome, Some(v1::reserve_response::Outcome::Granted(_))),
        _ => false,
    };
    assert_eq!(answers.iter().filter(granted).count(), 600);
}
