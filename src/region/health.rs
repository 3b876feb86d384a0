//! Whether a node can answer for every partition: it serves it, or reaches whoever leads it.

use std::collections::BTreeMap;

use crate::region::Region;
use crate::region::calls::Leader;
use crate::region::partition::Partition;

/// The nodes of the region, and who leads what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Every member, by number, and where its public API is reached.
    pub nodes: BTreeMap<u64, String>,
    /// The leader of every partition, in their order, as far as this node knows.
    pub leaders: Vec<Option<u64>>,
}

impl Region {
    /// Why this node cannot answer for some partitions, a line for each; nothing if it can for all.
    #[must_use]
    pub fn unwell(&self) -> Option<String> {
        let lines: Vec<String> = self.partitions.iter().filter_map(|partition| self.ailment(partition)).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    fn ailment(&self, partition: &Partition) -> Option<String> {
        let id = partition.id();
        if let Some(reason) = partition.group.stopped() {
            return Some(format!("partition {id}: stopped: {reason}"));
        }
        let leader = partition.group.leader();
        if leader.leads {
            return self.ailment_of_led(partition).map(|why| format!("partition {id}: {why}"));
        }
        match leader.leader {
            None => Some(format!("partition {id}: no leader is known")),
            Some(node_id) if self.peers.reachable(node_id) => None,
            Some(node_id) => Some(format!("partition {id}: its leader, node {node_id}, was not heard of lately")),
        }
    }

    fn ailment_of_led(&self, partition: &Partition) -> Option<String> {
        if partition.gate.served().is_none() {
            return Some("this node is taking it over".to_owned());
        }
        let voters = partition.group.members().voters;
        let reached = voters.iter().filter(|voter| self.peers.reachable(**voter)).count();
        let few = reached <= voters.len() / 2;
        few.then(|| {
            format!("this node leads it and heard of {reached} of {} voters lately: it commits nothing", voters.len())
        })
    }

    /// The nodes of the region, and who leads what.
    #[must_use]
    pub fn topology(&self) -> Topology {
        let mut nodes = BTreeMap::new();
        for partition in &self.partitions {
            nodes.extend(partition.group.members().nodes.into_iter().map(|(id, at)| (id, at.api)));
        }
        Topology { nodes, leaders: self.partitions.iter().map(|partition| partition.group.leader().leader).collect() }
    }

    /// A node, as a client has to know it.
    #[must_use]
    pub fn as_leader(&self, node_id: u64) -> Leader {
        Leader { node_id, api: self.peers.node(node_id).map(|node| node.api).unwrap_or_default() }
    }

    /// This node's number.
    #[must_use]
    pub fn node_id(&self) -> u64 {
        self.settings.group.node_id
    }
}
