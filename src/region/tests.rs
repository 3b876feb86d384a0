use std::time::Duration;

use super::calls::{
    Certainty, CompleteCall, Envelope, ExtendCall, Failure, GrantCall, Invalid, LookupCall, ReleaseCall, ReserveCall,
    ReserveOutcome,
};
use super::fixture::{Fixture, LEADER, completed, envelope, fingerprint, granted, in_ms, key, late, open, reserve};
use super::partition::{Basis, Partition};
use crate::clock;
use crate::codec::batch::Operation;
use crate::codec::pb;
use crate::control;
use crate::control::command::{LimitChanges, TenantLimits};
use crate::ids::{EndpointName, Epoch, Fingerprint, Nonce};
use crate::reservation::record::{Record, State};
use crate::reservation::reply::Grant;
use crate::telemetry::metrics::{self, Page};

fn first(fixture: &Fixture) -> &Partition {
    fixture.region.partitions.first().unwrap()
}

fn term(fixture: &Fixture) -> u64 {
    first(fixture).gate.served().unwrap()
}

fn token(outcome: &ReserveOutcome) -> String {
    let ReserveOutcome::Granted(grant) = outcome else { panic!("{outcome:?}") };
    grant.token.clone()
}

fn indefinite(failure: &Failure) -> bool {
    matches!(failure, Failure::Unavailable { certainty: Certainty::Indefinite, .. })
}

/// The grant that a key has, as its decision made it.
fn grant_of(fixture: &Fixture, name: &str) -> Grant {
    let record: Record = first(fixture).group.record(&key(name)).unwrap().unwrap();
    let holding = record.holding().unwrap();
    Grant {
        token: holding.token,
        lease_ms: holding.lease_ms,
        lease_revision: holding.lease_revision,
        attempt: 1,
        checkpoint: None,
        possible_duplicate: false,
        repeated: false,
        fingerprint: fingerprint(7),
        endpoint: record.endpoint,
        policy_revision: 0,
    }
}

fn basis(fixture: &Fixture, term: u64) -> Basis {
    Basis { home: fixture.region.homes.all().first().unwrap().clone(), epoch: Epoch::FIRST, term }
}

/// It counts from when it sent its call: of a grant that is told after longer than its lease, nothing would be left.
#[tokio::test]
async fn a_call_that_waited_longer_than_its_lease_gets_a_whole_one() {
    let node = Fixture::alone().await;
    let short = ReserveCall { lease_ms: Some(500), ..reserve("a") };
    token(&node.region.reserve(&short, late()).await.unwrap().outcome);
    let received = clock::monotonic();
    let second = Nonce::parse(b"n2").unwrap();
    let waits = ReserveCall { nonce: Some(second), wait: Duration::from_secs(20), received, ..short };
    let outcome = node.region.reserve(&waits, late()).await.unwrap().outcome;
    let told = clock::monotonic();
    let ReserveOutcome::Granted(grant) = outcome else { panic!("{outcome:?}") };
    assert_eq!(grant.start_within_ms, grant.lease_ms);
    let until = received.plus(Duration::from_millis(u64::from(grant.start_within_ms)));
    // It was granted when the first lease had run out, 500 ms after the first grant at the earliest.
    assert!(until > received.plus(Duration::from_millis(500)), "{grant:?}");
    assert!(until <= told.plus(Duration::from_millis(500)), "never longer than its lease runs: {grant:?}");
}

#[tokio::test]
async fn a_node_alone_serves_and_says_how_far_it_is() {
    let node = Fixture::alone().await;
    let placed = node.region.reserve(&reserve("a"), late()).await.unwrap();
    let call = CompleteCall { key: key("a"), token: token(&placed.outcome), envelope: envelope(), retention_ms: None };
    let told = node.region.complete(&call, late()).await.unwrap();
    assert!(told.place.position > placed.place.position);
    assert_eq!(told.place.leader, Some(1));
    let seen = Some(told.place.position);
    let replay = node.region.reserve(&ReserveCall { seen, ..reserve("a") }, late()).await.unwrap();
    assert!(matches!(&replay.outcome, ReserveOutcome::Replay(replay) if replay.envelope == envelope()));
    let found = node.region.lookup(&LookupCall(key("a")), late()).await.unwrap().outcome.unwrap();
    assert_eq!((found.state, found.envelope), (State::Completed, Some(envelope())));
    assert_eq!(node.region.unwell(), None);
}

#[tokio::test]
async fn a_grant_is_not_answered_in_another_term_than_it_was_proposed_in() {
    let node = Fixture::alone().await;
    node.region.reserve(&reserve("a"), late()).await.unwrap();
    let (partition, grant) = (first(&node), grant_of(&node, "a"));
    let now = clock::monotonic();
    let same = partition.confirm(&key("a"), &basis(&node, term(&node)), &grant, now).await;
    assert!(same.is_ok(), "{same:?}");
    let earlier = basis(&node, term(&node) - 1);
    let failure = partition.confirm(&key("a"), &earlier, &grant, now).await.unwrap_err();
    assert!(indefinite(&failure), "proposed in a term that is over: {failure:?}");
    let current = basis(&node, term(&node));
    partition.following.leases.begin(current.term + 1);
    let failure = partition.confirm(&key("a"), &current, &grant, now).await.unwrap_err();
    assert!(indefinite(&failure), "its lease is counted in a later term: {failure:?}");
    partition.gate.force(None);
    let failure = partition.confirm(&key("a"), &current, &grant, now).await.unwrap_err();
    assert!(indefinite(&failure), "committed, and this node serves no more: {failure:?}");
}

#[tokio::test]
async fn a_follower_never_confirms_a_grant_that_it_has_applied() {
    let node = Fixture::following(vec![open(), granted("a")]).await;
    assert_eq!(first(&node).held(), 0, "a follower counts no leases");
    let failure = first(&node).confirm(&key("a"), &basis(&node, 5), &grant_of(&node, "a"), clock::monotonic()).await;
    assert!(indefinite(&failure.unwrap_err()));
}

#[tokio::test]
async fn who_waits_is_told_when_this_node_serves_no_more() {
    let node = Fixture::alone().await;
    node.region.reserve(&reserve("a"), late()).await.unwrap();
    let wait = Duration::from_secs(30);
    let another = Some(Nonce::parse(b"n2").unwrap());
    let call = ReserveCall { nonce: another, wait, ..reserve("a") };
    let waiting = node.region.reserve(&call, late());
    let closing = async {
        // The call is on the bell once it has looked; rung again until it is.
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            first(&node).gate.force(None);
            first(&node).following.wakers.ring_all();
        }
    };
    let ended = tokio::select! {
        ended = waiting => ended,
        () = closing => panic!("it rings for ever"),
        () = tokio::time::sleep(Duration::from_secs(20)) => panic!("it waits on"),
    };
    assert!(matches!(ended, Err(Failure::NotLeader { .. } | Failure::Unavailable { .. })), "{ended:?}");
    assert!(!ended.is_err_and(|failure| indefinite(&failure)), "nothing was proposed");
}

#[tokio::test]
async fn a_node_that_is_taking_over_is_waited_for() {
    let node = Fixture::alone().await;
    let served = term(&node);
    first(&node).gate.force(None);
    let failure = node.region.reserve(&reserve("a"), in_ms(30)).await.unwrap_err();
    assert!(matches!(failure, Failure::Unavailable { certainty: Certainty::Definite, .. }), "{failure:?}");
    let call = reserve("a");
    let (granted, ()) = tokio::join!(node.region.reserve(&call, late()), async {
        tokio::task::yield_now().await;
        first(&node).gate.force(Some(served));
    });
    assert!(matches!(granted.unwrap().outcome, ReserveOutcome::Granted(_)));
}

#[tokio::test]
async fn a_follower_replays_what_is_completed_if_the_caller_has_not_seen_more() {
    let node = Fixture::following(vec![open(), granted("a"), completed("a"), granted("b")]).await;
    let placed = node.region.reserve(&reserve("a"), late()).await.unwrap();
    assert!(matches!(&placed.outcome, ReserveOutcome::Replay(replay) if replay.envelope == envelope()));
    assert_eq!((placed.place.position, placed.place.leader), (1, Some(LEADER)));
    let other = ReserveCall { fingerprint: fingerprint(8), seen: Some(1), ..reserve("a") };
    assert_eq!(node.region.reserve(&other, late()).await.unwrap().outcome, ReserveOutcome::Mismatch);

    let not_leader = Err(Failure::NotLeader { leader: Some(LEADER) });
    let ahead = ReserveCall { seen: Some(2), ..reserve("a") };
    assert_eq!(node.region.reserve(&ahead, late()).await, not_leader, "the caller has seen a later state");
    assert_eq!(
        node.region.reserve(&reserve("b"), late()).await,
        not_leader,
        "held: only the leader knows for how long"
    );
    assert_eq!(node.region.reserve(&reserve("c"), late()).await, not_leader, "absent here");
    let lookup = node.region.lookup(&LookupCall(key("a")), late()).await;
    assert_eq!(lookup.unwrap_err(), Failure::NotLeader { leader: Some(LEADER) });
    let grant = GrantCall { key: key("b"), token: "1.1.x".into() };
    let extend = node.region.extend(&ExtendCall { grant: grant.clone(), lease_ms: 100 }, late()).await;
    assert_eq!(extend.unwrap_err(), Failure::NotLeader { leader: Some(LEADER) }, "it does not judge tokens");
}

#[tokio::test]
async fn a_token_is_invalid_only_by_whoever_knows_every_cluster_key() {
    let node = Fixture::alone().await;
    let placed = node.region.reserve(&reserve("a"), late()).await.unwrap();
    let release = ReleaseCall(GrantCall { key: key("a"), token: token(&placed.outcome) });
    // As if the key had been made after this node last heard of one.
    node.region.tokens.follow(&[pb::ClusterKey { key_id: 0, secret: vec![1; 32].into() }]);
    let verified = node.region.release(&release, late()).await;
    assert!(verified.is_ok(), "what is applied here is looked at first: {verified:?}");

    let ahead = super::tokens::Tokens::default();
    ahead.follow(&[pb::ClusterKey { key_id: 9, secret: vec![1; 32].into() }]);
    let granting = super::tokens::Granting {
        home: node.region.homes.all().first().unwrap(),
        region: &node.region.settings.region,
        partition: crate::ids::PartitionId(0),
    };
    node.region.reserve(&reserve("b"), late()).await.unwrap();
    let text = ahead.mint(&key("b"), &grant_of(&node, "b"), None, &granting).unwrap();
    let release = ReleaseCall(GrantCall { key: key("b"), token: text });
    let refused = node.region.release(&release, late()).await.unwrap_err();
    assert!(matches!(refused, Failure::Invalid(Invalid::Token(_))), "it leads the first partition: {refused:?}");
}

#[tokio::test]
async fn a_follower_knows_its_leader_and_says_when_it_does_not_hear_of_it() {
    let node = Fixture::following(vec![open()]).await;
    let topology = node.region.topology();
    assert_eq!(topology.leaders, vec![Some(LEADER)]);
    assert_eq!(topology.nodes.keys().copied().collect::<Vec<_>>(), vec![1, LEADER]);
    let unwell = node.region.unwell().unwrap();
    assert!(unwell.contains("node 2"), "{unwell}");
    let known = crate::wire::v1::Node { node_id: LEADER, peer: "127.0.0.1:9".into(), ..Default::default() };
    node.peers.know(&known);
    node.peers.heard(LEADER, clock::wall_unix_ms());
    assert_eq!(node.region.unwell(), None);
}

#[tokio::test]
async fn what_keys_take_up_is_counted_as_it_would_be_from_the_records() {
    let node = Fixture::alone().await;
    for name in ["a", "b", "c"] {
        let placed = node.region.reserve(&reserve(name), late()).await.unwrap();
        if name != "c" {
            let token = token(&placed.outcome);
            let call = CompleteCall { key: key(name), token, envelope: envelope(), retention_ms: None };
            node.region.complete(&call, late()).await.unwrap();
        }
    }
    let group = &first(&node).group;
    let seen = group.usages(Clone::clone);
    assert_eq!(seen.of_tenant(&key("a").tenant).keys, 3);
    assert!(seen.of_tenant(&key("a").tenant).bytes > 2 * u64::try_from(envelope().body.len()).unwrap());
    assert_eq!(group.family().usages().unwrap(), seen, "as it is stored");
    assert_eq!(group.family().count_usages().unwrap(), seen, "as a state from before they were counted is read");
}

#[tokio::test]
async fn an_envelope_that_two_attempts_tell_stands_once_and_is_counted_once() {
    let node = Fixture::alone().await;
    let first_token = token(&node.region.reserve(&reserve("a"), late()).await.unwrap().outcome);
    let back = ReleaseCall(GrantCall { key: key("a"), token: first_token.clone() });
    node.region.release(&back, late()).await.unwrap();
    let second_token = token(&node.region.reserve(&reserve("a"), late()).await.unwrap().outcome);
    let told = Envelope { body: vec![7; 10_000].into(), ..envelope() };
    let bytes = || first(&node).group.usages(|usages| usages.of_tenant(&key("a").tenant).bytes);
    for token in [second_token, first_token] {
        let call = CompleteCall { key: key("a"), token, envelope: told.clone(), retention_ms: None };
        node.region.complete(&call, late()).await.unwrap();
    }
    assert!((10_000..12_000).contains(&bytes()), "{}", bytes());
}

#[tokio::test]
async fn a_state_from_before_usage_was_counted_is_counted_and_nothing_is_left_of_an_earlier_count() {
    let node = Fixture::alone().await;
    node.region.reserve(&reserve("a"), late()).await.unwrap();
    let group = &first(&node).group;
    let family = group.family().clone();
    let seen = group.usages(Clone::clone);
    // As a version that does not count would have left it: a count that is not kept up, and a state that says nothing.
    let mut batch = crate::store::GroupBatch::default();
    let gone = EndpointName::parse("gone").unwrap();
    batch.put_usage(&key("a").tenant, &gone, control::usage::Usage { keys: 9, bytes: 9 });
    let state = family.state().unwrap().unwrap();
    batch.put_state(&pb::GroupState { usage_counted: false, ..state });
    family.write(batch).unwrap();
    assert_ne!(family.usages().unwrap(), seen);
    node.region.shutdown().await;
    let opened = crate::raft::reload(&family).unwrap();
    assert!(opened.usage_counted);
    assert_eq!(family.usages().unwrap(), seen);
    assert!(family.state().unwrap().unwrap().usage_counted, "and it is not counted again");
}

#[tokio::test]
async fn a_leader_that_was_deposed_unknowingly_refuses_no_key_for_a_limit() {
    let tenant = key("a").tenant;
    let signed = |kind| {
        let signature = control::Signature { actor: "ada".into(), reason: "a test".into() };
        Operation::Control(Box::new(control::Command { signature, kind }))
    };
    let none = TenantLimits { max_keys: Some(0), ..TenantLimits::default() };
    let full = control::Kind::CreateTenant { name: tenant.clone(), home: None, limits: none };
    let closed = control::Kind::ChangeTenant { name: tenant, closed: Some(true), limits: LimitChanges::default() };
    let rotate = Operation::RotateClusterKey { key_id: 1, secret: [7; 32], signature: None };
    for operations in [vec![signed(full.clone())], vec![signed(full), signed(closed)]] {
        let operations = [vec![open(), rotate.clone()], operations].concat();
        let node = Fixture::following(operations).await;
        node.region.tokens.follow(&first(&node).group.state().cluster_keys);
        first(&node).gate.force(Some(1));
        let told = node.region.reserve(&reserve("a"), in_ms(500)).await;
        assert!(matches!(told, Err(Failure::NotLeader { .. })), "it is the leader's to say no: {told:?}");
    }
}

#[tokio::test]
async fn keys_that_come_with_other_requests_are_told() {
    let node = Fixture::alone().await;
    let endpoint = EndpointName::parse("alarms-test").unwrap();
    let call = |name: &str, byte| ReserveCall {
        endpoint: endpoint.clone(),
        fingerprint: fingerprint(byte),
        client_version: "pay/1".to_owned(),
        ..reserve(name)
    };
    let alarms = |name: &str| {
        let mut page = Page::default();
        metrics::write(&mut page);
        let sample = format!("{name}{{tenant=\"acme\",endpoint=\"alarms-test\"}} ");
        let page = page.finish();
        page.lines().find_map(|line| line.strip_prefix(&sample)).map(|count| count.parse::<u64>().unwrap())
    };
    node.region.reserve(&call("a", 1), late()).await.unwrap();
    for times in 1..=40 {
        let placed = node.region.reserve(&call("a", 2), late()).await.unwrap();
        assert_eq!(placed.outcome, ReserveOutcome::Mismatch);
        let expected = (times >= 20).then_some(1);
        assert_eq!(alarms("holdfast_modified_replay_alarms_total"), expected, "after {times}");
    }
    assert_eq!(alarms("holdfast_key_storms_total"), Some(0));
}

#[tokio::test]
async fn a_new_key_for_each_retry_is_told() {
    let node = Fixture::alone().await;
    let endpoint = EndpointName::parse("storms-test").unwrap();
    for number in 0..1_000 {
        // Each request comes twice, with another key.
        let call = ReserveCall {
            endpoint: endpoint.clone(),
            fingerprint: Fingerprint { digest: u32::to_be_bytes(number / 2).into(), ..fingerprint(0) },
            ..reserve(&number.to_string())
        };
        let placed = node.region.reserve(&call, late()).await.unwrap();
        assert!(matches!(placed.outcome, ReserveOutcome::Granted(_)));
    }
    let mut page = Page::default();
    metrics::write(&mut page);
    let sample = "holdfast_key_storms_total{tenant=\"acme\",endpoint=\"storms-test\"} 1\n";
    assert!(page.finish().contains(sample));
}
