//! What a node notices about the other members: that one does not answer, that one does not fit, and that this node itself
//! is a member no more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::node::NodeError;
use crate::node::bootstrap::misfit;
use crate::raft::{Group, Membership, NodeId};
use crate::router::cluster::Cluster;
use crate::wire::v1::{HelloReply, HelloRequest};

/// How often the others are asked.
const PERIOD: Duration = Duration::from_secs(1);
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Rounds in a row in which the leaders of all groups say that this node is no member, before it believes them.
const ROUNDS: u32 = 6;

/// Watches the other members for as long as the node runs. Returns why it has to stop, if it has to.
pub(super) async fn members(cluster: Arc<Cluster>) -> String {
    let mut silent: BTreeSet<NodeId> = BTreeSet::new();
    let mut met: BTreeSet<NodeId> = BTreeSet::new();
    let mut without_us = 0_u32;
    loop {
        tokio::time::sleep(PERIOD).await;
        let me = cluster.peers().me().node_id;
        let memberships = memberships(&cluster);
        let others = others(me, &memberships);
        let hellos = ask(&cluster, &others).await;
        for (node_id, hello) in hellos.iter().filter(|(id, _)| !met.contains(id)) {
            if let Some((what, here, there)) = misfit(cluster.peers().facts(), &hello.facts.clone().unwrap_or_default())
            {
                let peer = cluster.peers().node(*node_id).unwrap_or_default().peer;
                return NodeError::Misfit { what, here, there, peer }.to_string();
            }
        }
        met.extend(hellos.keys());
        let now: BTreeSet<NodeId> = others.iter().copied().filter(|id| !hellos.contains_key(id)).collect();
        for node_id in now.difference(&silent) {
            tracing::warn!(node_id, "a member does not answer");
        }
        for node_id in silent.intersection(&others).filter(|id| !now.contains(id)) {
            tracing::info!(node_id, "a member answers again");
        }
        silent = now;
        without_us = if removed(me, &memberships, &hellos) { without_us.saturating_add(1) } else { 0 };
        if without_us >= ROUNDS {
            return format!(
                "node {me} is a member of the region no more: stop it for good, and delete its data directory"
            );
        }
    }
}

/// Whether this node, by what it has, is a member, and the leaders of all groups say that it is none.
fn removed(me: NodeId, memberships: &[Membership], hellos: &BTreeMap<NodeId, HelloReply>) -> bool {
    let excludes = |partition: usize| {
        let mut leads = hellos.values().flat_map(|hello| &hello.leads);
        let lead = leads.find(|lead| usize::try_from(lead.partition) == Ok(partition));
        lead.is_some_and(|lead| lead.matched.iter().all(|matched| matched.node_id != me))
    };
    let knows_itself = memberships.iter().any(|members| members.nodes.contains_key(&me));
    knows_itself && (0..memberships.len()).all(excludes)
}

/// Whether no other member takes a group over: each stops, or does not answer.
pub(super) async fn all_others_stop(cluster: &Cluster) -> bool {
    let others = others(cluster.peers().me().node_id, &memberships(cluster));
    ask(cluster, &others).await.values().all(|hello| hello.stopping)
}

fn memberships(cluster: &Cluster) -> Vec<Membership> {
    match cluster.region() {
        Some(region) => region.groups().map(Group::members).collect(),
        None => Vec::new(),
    }
}

fn others(me: NodeId, memberships: &[Membership]) -> BTreeSet<NodeId> {
    memberships.iter().flat_map(|members| members.nodes.keys().copied()).filter(|id| *id != me).collect()
}

async fn ask(cluster: &Cluster, others: &BTreeSet<NodeId>) -> BTreeMap<NodeId, HelloReply> {
    let mut asked = JoinSet::new();
    for node_id in others.iter().copied() {
        let client = cluster.peers().client(node_id);
        asked.spawn(async move {
            let reply = timeout(TIMEOUT, client?.hello(HelloRequest {})).await;
            Some((node_id, reply.ok()?.ok()?.into_inner()))
        });
    }
    let mut hellos = BTreeMap::new();
    while let Some(answered) = asked.join_next().await {
        if let Some((node_id, hello)) = answered.ok().flatten() {
            // Two followers say nothing else to each other.
            cluster.peers().seen(node_id);
            hellos.insert(node_id, hello);
        }
    }
    hellos
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Address;
    use crate::wire::v1::{Lead, Matched};

    fn leads(partition: u32, members: &[NodeId]) -> HelloReply {
        let matched = members.iter().map(|node_id| Matched { node_id: *node_id, index: 1 }).collect();
        HelloReply { leads: vec![Lead { partition, last: 1, matched }], ..HelloReply::default() }
    }

    #[test]
    fn a_node_is_removed_when_all_leaders_say_so() {
        let nodes = BTreeMap::from([1, 2, 3].map(|id| (id, Address::default())));
        let ours = vec![Membership { voters: [1, 2, 3].into(), nodes, changing: false }; 2];
        let both = |second: &[NodeId]| BTreeMap::from([(1, leads(0, &[1, 2])), (2, leads(1, second))]);
        assert!(removed(3, &ours, &both(&[1, 2])));
        assert!(!removed(3, &ours, &both(&[1, 2, 3])), "it is a member of one group still");
        assert!(!removed(3, &ours, &BTreeMap::from([(1, leads(0, &[1, 2]))])), "nobody speaks for partition 1");
        assert!(!removed(4, &ours, &both(&[1, 2])), "it has not been taken in yet");
    }
}
