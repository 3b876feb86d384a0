//! Nodes die, are cut off, fall silent, and come back.

use std::collections::BTreeSet;

use super::cluster::Cluster;
use crate::raft::types::entry_to;
use crate::raft::{ProposeError, Refused};
use crate::wire::v1;

#[test]
fn any_one_node_may_die_and_comes_back() {
    let mut cluster = Cluster::found(3);
    let mut epoch = 1;
    cluster.write(&[1, 2, 3], epoch);
    for _ in 0..2 {
        let leader = cluster.leader(&[1, 2, 3]);
        cluster.kill(leader);
        let rest: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
        epoch += 1;
        cluster.write(&rest, epoch);
        rest.iter().for_each(|id| cluster.applied(*id, epoch));
        cluster.start(leader);
        cluster.applied(leader, epoch);
        epoch += 1;
        cluster.write(&[1, 2, 3], epoch);
        [1, 2, 3].into_iter().for_each(|id| cluster.applied(id, epoch));
    }
}

#[test]
fn a_leader_that_was_cut_off_gives_up_what_nobody_else_has() {
    let cluster = Cluster::found(3);
    let old = cluster.write(&[1, 2, 3], 1);
    let rest: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != old).collect();
    [1, 2, 3].into_iter().for_each(|id| cluster.applied(id, 1));
    let term = cluster.group(old).leader().term;
    cluster.isolate(&[old]);
    let before = cluster.group(old).progress().last_log_index;
    std::thread::scope(|scope| {
        // In its log at once, and in nobody else's.
        let lost = scope.spawn(|| cluster.propose(old, 100));
        cluster.write(&rest, 2);
        assert!(cluster.group(rest[0]).leader().term > term);
        cluster.heal();
        // It may not know that its entry is gone, but it must never say that it is there.
        let lost = lost.join().unwrap();
        assert!(matches!(lost, Err(ProposeError::Indefinite(_))), "{lost:?}");
    });
    assert!(cluster.group(old).progress().last_log_index > before);
    [1, 2, 3].into_iter().for_each(|id| cluster.applied(id, 2));
    cluster.write(&[1, 2, 3], 3);
    [1, 2, 3].into_iter().for_each(|id| cluster.applied(id, 3));
}

#[test]
fn a_leader_whose_disk_lacks_what_it_sent_leads_on_in_no_old_term() {
    let mut cluster = Cluster::found(3);
    let old = cluster.write(&[1, 2, 3], 1);
    [1, 2, 3].into_iter().for_each(|id| cluster.applied(id, 1));
    let term = cluster.group(old).leader().term;
    let before = cluster.crashed_copy(old);
    assert_eq!(cluster.write(&[old], 2), old);
    [1, 2, 3].into_iter().for_each(|id| cluster.applied(id, 2));
    // The others committed the entry from what it sent. In its old term it would now write another under the same id.
    cluster.restart_from(old, before);
    let next = cluster.write(&[1, 2, 3], 3);
    assert!(cluster.group(next).leader().term > term, "node {next} leads in term {term}");
    [1, 2, 3].into_iter().for_each(|id| cluster.applied(id, 3));
    let logs = [1, 2, 3].map(|id| cluster.group(id).progress().last_log_index);
    assert!(logs.iter().all(|last| *last == logs[0]), "{logs:?}");
}

#[test]
fn a_follower_that_falls_silent_is_asked_anew() {
    let cluster = Cluster::found(3);
    let leader = cluster.write(&[1, 2, 3], 1);
    let silent = if leader == 3 { 2 } else { 3 };
    [1, 2, 3].into_iter().for_each(|id| cluster.applied(id, 1));
    cluster.faults.send_replace(BTreeSet::from([(silent, silent)]));
    let leader = cluster.write(&[leader], 2);
    cluster.write(&[leader], 3);
    cluster.heal();
    // What was sent on the silent stream, which is still silent, arrives on another.
    cluster.applied(silent, 3);
}

#[test]
fn a_leader_that_stops_serving_leaves_the_lead_to_others() {
    let cluster = Cluster::found(3);
    let old = cluster.write(&[1, 2, 3], 1);
    let rest: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != old).collect();
    cluster.group(old).stop_serving("the disk shows damage");
    cluster.write(&rest, 2);
    rest.iter().for_each(|id| cluster.applied(*id, 2));
    assert!(matches!(cluster.propose(old, 3), Err(ProposeError::Indefinite(_) | ProposeError::NotLeader { .. })));
    let vote = v1::VoteRequest { vote: Some(crate::codec::pb::Vote::default()), ..v1::VoteRequest::default() };
    let refused = cluster.wait("an answer", cluster.group(old).peer_vote(vote));
    assert_eq!(refused, Err(Refused::Stopped("the disk shows damage".to_owned())));
}

#[test]
fn what_a_peer_says_is_checked() {
    use futures_util::{StreamExt as _, stream};

    let cluster = Cluster::found(3);
    let leader = cluster.write(&[1, 2, 3], 1);
    let follower = leader % 3 + 1;
    cluster.applied(follower, 1);
    let group = cluster.group(follower);
    let term = group.leader().term;
    let vote = Some(crate::codec::pb::Vote { term, node_id: leader, committed: true });
    let heartbeat = v1::AppendRequest { vote, ..v1::AppendRequest::default() };
    let damaged = v1::AppendRequest { entries: vec![vec![1, 255].into()], ..heartbeat.clone() };
    let newer = v1::AppendRequest { entries: vec![vec![9].into()], ..heartbeat.clone() };
    let gap = crate::codec::pb::LogId { term, node_id: leader, index: 7 };
    let blank = crate::raft::types::LogEntry {
        log_id: crate::raft::types::entry_id_from(&gap),
        payload: openraft::EntryPayload::Blank,
    };
    let apart = v1::AppendRequest { entries: vec![entry_to(&blank).into()], ..heartbeat.clone() };
    let nobody = v1::AppendRequest { vote: None, ..heartbeat.clone() };
    for (bad, text) in [
        (damaged, "a log entry does not decode"),
        (newer, "a log entry has format 9"),
        (apart, "entry 7 stands where 0 should"),
        (nobody, "no vote"),
    ] {
        // What came before it is answered, what comes after it is not read.
        let requests = stream::iter([heartbeat.clone(), bad, heartbeat.clone()]);
        let answers = cluster.wait("answers", async { group.peer_append(requests).collect::<Vec<_>>().await });
        let [Ok(_), Err(Refused::NotUnderstood(why))] = answers.as_slice() else { panic!("{answers:?}") };
        assert!(why.contains(text), "{why}");
    }
    let refused = cluster.wait("an answer", group.peer_vote(v1::VoteRequest::default()));
    assert!(matches!(refused, Err(Refused::NotUnderstood(_))), "{refused:?}");
    cluster.write(&[1, 2, 3], 2);
    cluster.applied(follower, 2);
}
