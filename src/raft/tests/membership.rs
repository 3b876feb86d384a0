//! Members come and go, the lead is handed over, and reads are confirmed.

use std::collections::BTreeSet;

use super::cluster::{Cluster, open};
use crate::codec::batch::Batch;
use crate::raft::ProposeError;
use crate::raft::types::LoggedBatch;

#[test]
fn a_node_joins_and_the_leader_leaves() {
    let mut cluster = Cluster::found(3);
    let leader = cluster.write(&[1, 2, 3], 1);
    let at = cluster.add(4);
    let group = cluster.group(leader);
    cluster.wait("a learner", group.add_learner(4, at.clone())).unwrap();
    cluster.wait("the same learner", group.add_learner(4, at.clone())).unwrap();
    cluster.applied(4, 1);
    assert_eq!(cluster.group(4).members().voters, BTreeSet::from([1, 2, 3]), "it listens");
    cluster.wait("a change", group.promote_and_remove(Some(4), Some(leader))).unwrap();
    let rest: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|id| *id != leader).collect();
    let next = cluster.leader(&rest);
    cluster.write(&rest, 2);
    rest.iter().for_each(|id| cluster.applied(*id, 2));
    let members = cluster.group(next).members();
    assert_eq!(members.voters, rest.iter().copied().collect());
    assert!(!members.changing && !members.nodes.contains_key(&leader), "{members:?}");
    assert_eq!(members.nodes[&4], at);
    // The new one counts: two of three that are left can write.
    let gone = rest.iter().copied().find(|id| ![4, next].contains(id)).unwrap();
    cluster.kill(gone);
    cluster.kill(leader);
    let two: Vec<u64> = rest.into_iter().filter(|id| *id != gone).collect();
    cluster.write(&two, 3);
}

#[test]
fn the_lead_is_handed_over() {
    let cluster = Cluster::found(3);
    let mut leader = cluster.write(&[1, 2, 3], 1);
    for epoch in 2..5 {
        let next = leader % 3 + 1;
        [1, 2, 3].into_iter().for_each(|id| cluster.applied(id, epoch - 1));
        let group = cluster.group(leader);
        let nobody = cluster.wait("a refusal", group.transfer_to(9));
        assert!(matches!(nobody, Err(ProposeError::Definite(_))), "{nobody:?}");
        cluster.wait("a handover", group.transfer_to(next)).unwrap();
        assert_eq!(
            cluster.wait("a refusal", group.transfer_to(leader)),
            Err(ProposeError::NotLeader { leader: Some(next) })
        );
        assert_eq!(cluster.leader(&[next]), next);
        assert_eq!(cluster.write(&[1, 2, 3], epoch), next);
        leader = next;
    }
}

#[test]
fn a_read_is_confirmed_by_a_majority_or_not_at_all() {
    let cluster = Cluster::found(3);
    let leader = cluster.write(&[1, 2, 3], 1);
    let confirm = |id| cluster.wait("an outcome", cluster.group(id).confirm_read());
    assert_eq!(confirm(leader), Ok(()));
    let other = leader % 3 + 1;
    cluster.applied(other, 1);
    assert_eq!(confirm(other), Err(ProposeError::NotLeader { leader: Some(leader) }));
    cluster.isolate(&[leader]);
    let alone = confirm(leader);
    assert!(matches!(alone, Err(ProposeError::Definite(_) | ProposeError::NotLeader { .. })), "{alone:?}");
    assert!(confirm(leader).is_err(), "and again");
    let lone = cluster.propose(leader, 9);
    assert!(matches!(lone, Err(ProposeError::NotLeader { leader: None })), "its lease has run out: {lone:?}");
    let rest: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    let next = cluster.write(&rest, 2);
    assert_eq!(confirm(next), Ok(()));
    cluster.heal();
    cluster.applied(leader, 2);
    assert_eq!(confirm(leader), Err(ProposeError::NotLeader { leader: Some(next) }));
}

#[test]
fn a_lone_node_confirms_nothing_before_its_log_is_applied_again() {
    let mut cluster = Cluster::found(1);
    cluster.write(&[1], 1);
    for epoch in 2..30 {
        let mut operations = vec![open(1); 20_000];
        operations.push(open(epoch));
        let batch = LoggedBatch::new(Batch { clock_unix_ms: 0, operations });
        cluster.wait("a large entry", cluster.group(1).raft.client_write(batch)).unwrap();
    }
    let crashed = cluster.crashed_copy(1);
    cluster.restart_from(1, crashed);
    cluster.leader(&[1]);
    assert_eq!(cluster.wait("a confirmation", cluster.group(1).confirm_read()), Ok(()));
    cluster.has_applied(1, 29);
}
