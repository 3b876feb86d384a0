//! Nodes die, are cut off, fall silent, and come back.

use super::cluster::Cluster;
use crate::raft::ProposeError;

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
fn a_follower_that_falls_silent_is_asked_anew() {
    let cluster = Cluster::found(3);
    let leader = cluster.write(&[1, 2, 3], 1);
    let silent = if leader == 3 { 2 } else { 3 };
    [1, 2, 3].into_iter().for_each(|id| cluster.applied(id, 1));
    // The stream that runs is cut, and the next one is taken in silence, for ever.
    cluster.faults.send_modify(|faults| faults.extend([(silent, silent), (leader, silent)]));
    cluster.faults.send_modify(|faults| faults.retain(|link| *link == (silent, silent)));
    let leader = cluster.write(&[leader], 2);
    cluster.write(&[leader], 3);
    cluster.heal();
    // What was sent on the silent stream arrives on another.
    cluster.applied(silent, 3);
}
