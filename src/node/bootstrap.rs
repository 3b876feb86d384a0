//! How a region is made: once, by the nodes of its region file, when all of them are there and none has been in one.
//!
//! Every new node asks all others. The one with the lowest number makes the groups with all of them as voters; the others
//! wait until its messages make them members. Whoever finds that the region is made without its data directory refuses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::clock;
use crate::node::NodeError;
use crate::node::settings::Founder;
use crate::peers::Peers;
use crate::raft::{Address, NodeId};
use crate::region::policies::Tenants;
use crate::router::cluster::Cluster;
use crate::router::rules::lost_disk;
use crate::wire::v1::{Facts, HelloReply, HelloRequest, Node};

/// How often the others are asked.
const ASK_PERIOD: Duration = Duration::from_millis(500);
/// How long one answer may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is told who is waited for.
const NOTICE_PERIOD: Duration = Duration::from_secs(5);

/// What a new node does next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Decision {
    /// Asks again: these nodes have not said enough, or, with none, another node makes the region.
    Wait(Vec<NodeId>),
    /// Makes the groups with these voters.
    Found(Vec<Node>),
    /// Waits for the messages of a region that has it as a member.
    Member,
    /// Ends: why, and what to do.
    Refuse(String),
}

/// What a new node, without any Raft state, does after `answers` of the other founders, by their number.
pub(super) fn decide(me: &Node, founders: &[Founder], answers: &BTreeMap<NodeId, HelloReply>) -> Decision {
    let others = || founders.iter().filter(|founder| founder.node_id != me.node_id);
    let made = answers.values().filter(|answer| answer.made && !answer.members.is_empty());
    let known: Vec<Option<&Node>> =
        made.map(|answer| answer.members.iter().find(|node| node.node_id == me.node_id)).collect();
    if known.iter().flatten().any(|node| node.disk != me.disk) {
        return Decision::Refuse(lost_disk(me.node_id));
    }
    if known.iter().any(Option::is_none) {
        return Decision::Refuse(format!(
            "the region is made, and node {id} is no member of it: start it with --join and a node_id that was never used",
            id = me.node_id
        ));
    }
    if !known.is_empty() {
        return Decision::Member;
    }
    let ready = |founder: &&Founder| answers.get(&founder.node_id).is_none_or(|answer| answer.made);
    let missing: Vec<NodeId> = others().filter(ready).map(|founder| founder.node_id).collect();
    let first = founders.iter().map(|founder| founder.node_id).min();
    if !missing.is_empty() || first != Some(me.node_id) {
        return Decision::Wait(missing);
    }
    let nodes = answers.values().filter_map(|answer| answer.node.clone());
    Decision::Found(nodes.chain([me.clone()]).collect())
}

fn tenants(registered: bool) -> String {
    Tenants::of(registered).to_string()
}

/// Why a node that answers does not fit: the first fact that is not equal here and there.
pub(super) fn misfit(ours: &Facts, theirs: &Facts) -> Option<(&'static str, String, String)> {
    let pairs = [
        ("protocol", ours.protocol.to_string(), theirs.protocol.to_string()),
        ("cluster_id", ours.cluster_id.clone(), theirs.cluster_id.clone()),
        ("region", ours.region.clone(), theirs.region.clone()),
        ("partitions", ours.partitions.to_string(), theirs.partitions.to_string()),
        ("homes", ours.homes.join(","), theirs.homes.join(",")),
        ("tenants", tenants(ours.registered_tenants), tenants(theirs.registered_tenants)),
    ];
    pairs.into_iter().find(|(_, here, there)| here != there)
}

/// Asks the others until this node may make the groups, or need not. Returns the voters to make them with. Who is no
/// founder makes nothing.
pub(super) async fn found(peers: &Peers, founders: &[Founder]) -> Result<BTreeMap<NodeId, Address>, NodeError> {
    if !founders.iter().any(|founder| founder.node_id == peers.me().node_id) {
        return Ok(BTreeMap::new());
    }
    let mut noticed = None;
    loop {
        let answers = ask(peers, founders).await?;
        match decide(peers.me(), founders, &answers) {
            Decision::Found(nodes) => return Ok(nodes.into_iter().map(voter).collect()),
            Decision::Member => return Ok(BTreeMap::new()),
            Decision::Refuse(why) => return Err(NodeError::Refused(why)),
            // Whoever makes the region needs this node's groups to be there.
            Decision::Wait(missing) if !is_first(peers.me(), founders) => {
                tracing::info!(?missing, "the region is not made yet: its first node makes it once all are there");
                return Ok(BTreeMap::new());
            }
            Decision::Wait(missing) => {
                if noticed.is_none_or(|at| clock::monotonic().since(at) > NOTICE_PERIOD) {
                    noticed = Some(clock::monotonic());
                    tracing::info!(?missing, "the region is made once all of its nodes are there: waiting for these");
                }
            }
        }
        tokio::time::sleep(ASK_PERIOD).await;
    }
}

/// Asks on, beside a new node's groups, until it is a member. Returns why it never will be.
pub(super) async fn watch(cluster: Arc<Cluster>, founders: Vec<Founder>) -> Option<String> {
    while !cluster.made() {
        tokio::time::sleep(ASK_PERIOD).await;
        match ask(cluster.peers(), &founders).await {
            Err(error) => return Some(error.to_string()),
            Ok(answers) => match decide(cluster.peers().me(), &founders, &answers) {
                Decision::Refuse(why) => return Some(why),
                Decision::Wait(_) | Decision::Found(_) | Decision::Member => {}
            },
        }
    }
    None
}

fn is_first(me: &Node, founders: &[Founder]) -> bool {
    founders.iter().all(|founder| founder.node_id >= me.node_id)
}

fn voter(node: Node) -> (NodeId, Address) {
    (node.node_id, Address { peer: node.peer, api: node.api, disk: node.disk })
}

/// What the other founders say now. Who does not answer in time is left out.
async fn ask(peers: &Peers, founders: &[Founder]) -> Result<BTreeMap<NodeId, HelloReply>, NodeError> {
    let mut asked = JoinSet::new();
    for founder in founders.iter().filter(|founder| founder.node_id != peers.me().node_id) {
        let (founder, client) = (founder.clone(), peers.stranger(&founder.peer));
        asked.spawn(async move {
            let reply = timeout(ASK_TIMEOUT, client?.hello(HelloRequest {})).await;
            Some((founder, reply.ok()?.ok()?.into_inner()))
        });
    }
    let mut answers = BTreeMap::new();
    while let Some(answered) = asked.join_next().await {
        let Some((founder, reply)) = answered.ok().flatten() else { continue };
        check(peers.facts(), &founder, &reply)?;
        answers.insert(founder.node_id, reply);
    }
    Ok(answers)
}

/// Whether who answers at a founder's address is that founder, of the same region.
fn check(ours: &Facts, founder: &Founder, reply: &HelloReply) -> Result<(), NodeError> {
    let there = reply.node.as_ref().map_or(0, |node| node.node_id);
    if there != founder.node_id {
        return Err(NodeError::Refused(format!(
            "the region file says that node {} is at {}, where node {there} answers: correct one of them",
            founder.node_id, founder.peer
        )));
    }
    let theirs = reply.facts.clone().unwrap_or_default();
    match misfit(ours, &theirs) {
        None => Ok(()),
        Some((what, here, there)) => Err(NodeError::Misfit { what, here, there, peer: founder.peer.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node_id: NodeId, disk: &str) -> Node {
        Node { node_id, peer: format!("127.0.0.1:{node_id}"), api: String::new(), disk: disk.to_owned() }
    }

    fn founders() -> Vec<Founder> {
        [1, 2, 3].map(|id| Founder { node_id: id, peer: format!("127.0.0.1:{id}"), api: String::new() }).to_vec()
    }

    /// A node with disk `d<id>` that has not been in a cluster.
    fn fresh(id: NodeId) -> (NodeId, HelloReply) {
        (id, HelloReply { node: Some(node(id, &format!("d{id}"))), ..HelloReply::default() })
    }

    /// A node of a cluster that was made with these members.
    fn made(id: NodeId, members: &[Node]) -> (NodeId, HelloReply) {
        let (id, reply) = fresh(id);
        (id, HelloReply { made: true, members: members.to_vec(), ..reply })
    }

    #[test]
    fn a_region_is_made_once_and_by_its_first_node() {
        let all = [node(1, "d1"), node(2, "d2"), node(3, "d3")];
        let lost = [node(1, "d1"), node(2, "old"), node(3, "d3")];
        let without_two = [node(1, "d1"), node(3, "d3")];
        let found = |ids: &[NodeId]| Decision::Found(ids.iter().map(|id| node(*id, &format!("d{id}"))).collect());
        let cases = [
            ("nobody answers", 1, vec![], Decision::Wait(vec![2, 3])),
            ("one does not answer", 1, vec![fresh(2)], Decision::Wait(vec![3])),
            ("all are new", 1, vec![fresh(2), fresh(3)], found(&[2, 3, 1])),
            ("all are new, but another is first", 2, vec![fresh(1), fresh(3)], Decision::Wait(vec![])),
            ("the first does not answer", 2, vec![fresh(3)], Decision::Wait(vec![1])),
            ("made, and it is starting", 1, vec![made(2, &[]), fresh(3)], Decision::Wait(vec![2])),
            ("being made with this node", 2, vec![made(1, &all), fresh(3)], Decision::Member),
            ("made with this node, the others are silent", 2, vec![made(3, &all)], Decision::Member),
            ("made with another disk", 2, vec![made(1, &lost), made(3, &lost)], Decision::Refuse(lost_disk(2))),
            ("made with another disk, one is new", 2, vec![made(1, &lost), fresh(3)], Decision::Refuse(lost_disk(2))),
            ("made, the first lost its disk", 1, vec![made(2, &[node(1, "x")])], Decision::Refuse(lost_disk(1))),
        ];
        for (what, me, answers, expected) in cases {
            let me = node(me, &format!("d{me}"));
            assert_eq!(decide(&me, &founders(), &answers.into_iter().collect()), expected, "{what}");
        }
        let removed = decide(&node(2, "d2"), &founders(), &BTreeMap::from([made(1, &without_two)]));
        assert!(matches!(removed, Decision::Refuse(why) if why.contains("--join")));
    }

    #[test]
    fn a_founder_alone_makes_its_region_at_once() {
        let me = node(1, "d1");
        let alone: Vec<Founder> = founders().into_iter().take(1).collect();
        assert_eq!(decide(&me, &alone, &BTreeMap::new()), Decision::Found(vec![me.clone()]));
        assert_eq!(decide(&me, &[], &BTreeMap::new()), Decision::Wait(vec![]), "who is no founder makes nothing");
        assert_eq!(decide(&node(4, "d4"), &alone, &BTreeMap::from([fresh(1)])), Decision::Wait(vec![]));
    }

    #[test]
    fn what_is_not_equal_is_named_with_both_values() {
        let ours = Facts { cluster_id: "a".to_owned(), partitions: 4, ..Facts::default() };
        assert_eq!(misfit(&ours, &ours), None);
        let theirs = Facts { partitions: 16, ..ours.clone() };
        assert_eq!(misfit(&ours, &theirs), Some(("partitions", "4".to_owned(), "16".to_owned())));
        let (_, mut reply) = fresh(2);
        reply.facts = Some(theirs);
        let [_, second, third] =
            [1, 2, 3].map(|id| Founder { node_id: id, peer: "p:1".to_owned(), api: String::new() });
        let refused = check(&ours, &second, &reply).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.contains("partitions = 4") && refused.contains("p:1 has 16"), "{refused}");
        let elsewhere = check(&ours, &third, &reply).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(elsewhere.contains("node 3 is at p:1, where node 2 answers"), "{elsewhere}");
    }
}
