//! How a node comes into a cluster that is there, and how the members learn that one of them has moved.
//!
//! The node asks any member, which has the leaders of all groups take it in as a learner. It asks until all have.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::clock;
use crate::node::NodeError;
use crate::node::bootstrap::misfit;
use crate::node::settings::Join;
use crate::peers::{self, Peers};
use crate::raft::{Address, NodeId};
use crate::region::policies::Tenants;
use crate::router::cluster::Cluster;
use crate::router::rules::lost_disk;
use crate::wire::v1::{Facts, HelloReply, HelloRequest, JoinRequest, Node};

/// How often it is asked again.
const ASK_PERIOD: Duration = Duration::from_secs(1);
/// How long a member may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a member may take to have all leaders take a node in.
const JOIN_TIMEOUT: Duration = Duration::from_secs(120);
/// How often it is told that nobody takes the node in.
const NOTICE_PERIOD: Duration = Duration::from_secs(5);

/// What must be equal everywhere, as the members that `join` names have it, for a node without a data directory. Asks until
/// one of them answers.
///
/// # Errors
/// When it is not what was expected, or the node's number is another's.
pub(super) async fn learn(join: &Join, node_id: NodeId) -> Result<Facts, NodeError> {
    let stranger = Peers::new(Node::default(), Facts::default());
    let mut noticed = None;
    loop {
        for address in &join.addresses {
            match hello(&stranger, address).await {
                Ok(reply) if reply.members.iter().any(|member| member.node_id == node_id) => {
                    return Err(NodeError::Refused(lost_disk(node_id)));
                }
                Ok(HelloReply { facts: Some(facts), made: true, .. }) => return expected(join, facts, address),
                Ok(_) => notice(&mut noticed, address, "it is in no cluster yet"),
                Err(why) => notice(&mut noticed, address, &why),
            }
        }
        tokio::time::sleep(ASK_PERIOD).await;
    }
}

/// Compares what a member says with what this node was told.
fn expected(join: &Join, theirs: Facts, address: &str) -> Result<Facts, NodeError> {
    let said = Facts {
        cluster_id: join.cluster_id.clone().unwrap_or_else(|| theirs.cluster_id.clone()),
        region: join.region.clone().unwrap_or_else(|| theirs.region.clone()),
        partitions: join.partitions.unwrap_or(theirs.partitions),
        homes: join.homes.clone().unwrap_or_else(|| theirs.homes.clone()),
        protocol: peers::PROTOCOL,
        registered_tenants: join.tenants.map_or(theirs.registered_tenants, Tenants::registered),
    };
    match misfit(&said, &theirs) {
        None => Ok(theirs),
        Some((what, here, there)) => Err(NodeError::Misfit { what, here, there, peer: address.to_owned() }),
    }
}

/// Has the node taken in by every group. Ends when it is a member of all. Returns why it never will be.
pub(super) async fn enter(cluster: Arc<Cluster>, addresses: Vec<String>) -> Option<String> {
    let mut noticed = None;
    loop {
        if is_member(&cluster) {
            return None;
        }
        for address in &addresses {
            match ask(&cluster, address).await {
                Asked::Done => {
                    tracing::info!(
                        member = address,
                        "a member of every partition: `holdfast ctl members` shows whether it votes"
                    );
                    return None;
                }
                Asked::Never(why) => return Some(why),
                Asked::NotYet(why) => notice(&mut noticed, address, &why),
            }
        }
        tokio::time::sleep(ASK_PERIOD).await;
    }
}

/// Whether every group has this node as a member, as far as it knows.
fn is_member(cluster: &Cluster) -> bool {
    let me = cluster.peers().me().node_id;
    cluster.region().is_some_and(|region| region.groups().all(|group| group.members().nodes.contains_key(&me)))
}

/// Has the members told where this node is now, if that is not what its groups say. Ends when they do.
pub(super) async fn announce(cluster: Arc<Cluster>) {
    let me = cluster.peers().me().clone();
    let at = Address { peer: me.peer.clone(), api: me.api.clone(), disk: me.disk.clone() };
    let mut noticed = None;
    loop {
        tokio::time::sleep(ASK_PERIOD).await;
        let Some(region) = cluster.region() else { return };
        let memberships: Vec<_> = region.groups().map(crate::raft::Group::members).collect();
        let moved = memberships.iter().any(|members| members.nodes.get(&me.node_id).is_some_and(|known| *known != at));
        if !moved {
            return;
        }
        let others: Vec<String> = memberships
            .iter()
            .flat_map(|members| members.nodes.iter())
            .filter(|(id, node)| **id != me.node_id && !node.peer.is_empty())
            .map(|(_, node)| node.peer.clone())
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        drop(region);
        if others.is_empty()
            && let Err(error) = cluster.take_in(&me).await
        {
            notice(&mut noticed, "this node", &error.to_string());
        }
        for address in &others {
            match ask(&cluster, address).await {
                Asked::Done => break,
                Asked::Never(why) | Asked::NotYet(why) => notice(&mut noticed, address, &why),
            }
        }
    }
}

/// What came of asking one member.
enum Asked {
    Done,
    NotYet(String),
    Never(String),
}

async fn ask(cluster: &Cluster, address: &str) -> Asked {
    let peers = cluster.peers();
    let reply = match hello(peers, address).await {
        Ok(reply) => reply,
        Err(why) => return Asked::NotYet(why),
    };
    let Some(member) = reply.node.filter(|node| node.node_id != peers.me().node_id) else {
        return Asked::NotYet("it is this node itself: name another member".to_owned());
    };
    if let Some((what, here, there)) = misfit(peers.facts(), &reply.facts.unwrap_or_default()) {
        return Asked::Never(NodeError::Misfit { what, here, there, peer: address.to_owned() }.to_string());
    }
    peers.know(&member);
    let Some(mut client) = peers.client(member.node_id) else {
        return Asked::NotYet("its address is not understood".to_owned());
    };
    let request = JoinRequest { node: Some(peers.me().clone()) };
    match timeout(JOIN_TIMEOUT, client.join(request)).await {
        Ok(Ok(answer)) if answer.get_ref().refused.is_empty() => Asked::Done,
        Ok(Ok(answer)) => Asked::NotYet(answer.into_inner().refused),
        Ok(Err(status)) => Asked::NotYet(status.message().to_owned()),
        Err(_) => Asked::NotYet("it does not answer in time".to_owned()),
    }
}

async fn hello(peers: &Peers, address: &str) -> Result<HelloReply, String> {
    let mut client = peers.stranger(address).ok_or("its address is not understood")?;
    match timeout(HELLO_TIMEOUT, client.hello(HelloRequest {})).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("it does not answer in time".to_owned()),
    }
}

fn notice(noticed: &mut Option<clock::Monotonic>, member: &str, why: &str) {
    if noticed.is_none_or(|at| clock::monotonic().since(at) > NOTICE_PERIOD) {
        *noticed = Some(clock::monotonic());
        tracing::info!(member, why, "not taken in yet");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_is_not_the_expected_one_is_refused_with_both_values() {
        let theirs = Facts {
            cluster_id: "prod".to_owned(),
            region: "eu".to_owned(),
            partitions: 16,
            homes: vec!["eu".to_owned()],
            registered_tenants: false,
            protocol: peers::PROTOCOL,
        };
        let refusal = |join: Join| {
            expected(&join, theirs.clone(), "n1:7500").err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(refusal(Join::default()), "");
        assert_eq!(refusal(Join { partitions: Some(16), region: Some("eu".to_owned()), ..Join::default() }), "");
        let other = refusal(Join { partitions: Some(4), ..Join::default() });
        assert!(other.contains("partitions = 4") && other.contains("n1:7500 has 16"), "{other}");
        let other = refusal(Join { homes: Some(vec!["us".to_owned()]), ..Join::default() });
        assert!(other.contains("homes = us") && other.contains("has eu"), "{other}");
    }
}
