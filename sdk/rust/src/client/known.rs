//! What a client has learned of its cluster: nodes, leaders, positions, epochs. All of it is a hint but the positions,
//! which only grow and keep a client from being answered with less than it has seen.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::Settings;
use super::clock::Moment;
use super::node::Node;
use super::retry::Budget;
use super::routing::{Candidate, choose};
use crate::proto::v1;

/// Nodes that a client knows at the most: a region has a handful, and an answer must not make it hold more.
const MAX_NODES: usize = 64;
/// Homes whose epochs are remembered at the most.
const MAX_HOMES: usize = 1_024;
/// How long a node that could not be reached is asked only if no other is left.
const SUSPICION: std::time::Duration = std::time::Duration::from_secs(1);

/// What was learned, and what is drawn from.
#[derive(Debug)]
pub(super) struct Known {
    partitions: Option<NonZeroU16>,
    members: Vec<Member>,
    /// The node that leads each partition; 0 where it is not known.
    leaders: Vec<u64>,
    /// The largest position that was seen of each partition.
    positions: Vec<u64>,
    /// The largest epoch of each home, by partition.
    epochs: HashMap<String, Vec<u64>>,
    /// Numbers for members: a call remembers by them where it went.
    serials: u32,
    pub(super) budget: Budget,
    pub(super) random: StdRng,
}

#[derive(Debug)]
struct Member {
    serial: u32,
    node: Arc<Node>,
    /// It was named by the application, and stays.
    given: bool,
    node_id: Option<u64>,
    suspect_until: Option<Moment>,
}

/// Where a call goes.
#[derive(Clone, Debug)]
pub(super) struct Picked {
    pub(super) serial: u32,
    pub(super) node: Arc<Node>,
}

impl Known {
    pub(super) fn new(nodes: Vec<Node>, budget: Budget) -> Self {
        let mut known = Self {
            partitions: None,
            members: Vec::new(),
            leaders: Vec::new(),
            positions: Vec::new(),
            epochs: HashMap::new(),
            serials: 0,
            budget,
            random: StdRng::from_os_rng(),
        };
        for node in nodes {
            known.add(node, true);
        }
        known
    }

    fn add(&mut self, node: Node, given: bool) {
        self.serials = self.serials.wrapping_add(1);
        let serial = self.serials;
        self.members.push(Member { serial, node: Arc::new(node), given, node_id: None, suspect_until: None });
    }

    /// Every node, in the order in which they were named; those that failed a moment ago are last.
    pub(super) fn nodes(&self, now: Moment) -> Vec<Picked> {
        let (suspects, others): (Vec<_>, Vec<_>) = self.members.iter().partition(|member| member.is_suspect(now));
        let members = others.into_iter().chain(suspects);
        members.map(|member| Picked { serial: member.serial, node: Arc::clone(&member.node) }).collect()
    }

    /// The partition of a key, once their number is known.
    pub(super) fn partition(&self, tenant: &str, key: &str) -> Option<u16> {
        let key = crate::keys::IdempotencyKey::parse(key).ok()?;
        Some(crate::keys::partition(tenant, &key, self.partitions?))
    }

    /// The largest position that was seen of a partition.
    pub(super) fn position(&self, partition: u16) -> Option<u64> {
        self.positions.get(usize::from(partition)).copied().filter(|position| *position > 0)
    }

    /// The epoch of a home in a partition; 0 where none is known.
    pub(super) fn epoch(&self, home: &str, partition: u16) -> u64 {
        self.epochs.get(home).and_then(|epochs| epochs.get(usize::from(partition))).copied().unwrap_or_default()
    }

    /// Where a call goes that went to `tried` already.
    pub(super) fn pick(&mut self, partition: Option<u16>, tried: &[u32], now: Moment) -> Option<Picked> {
        let leader = partition.and_then(|partition| self.leaders.get(usize::from(partition)).copied());
        let random = self.random.random();
        let candidates: Vec<Candidate> = self.members.iter().map(|member| member.candidate(tried)).collect();
        let member = self.members.get(choose(&candidates, leader.filter(|id| *id != 0), now, random)?)?;
        Some(Picked { serial: member.serial, node: Arc::clone(&member.node) })
    }

    /// Whether there is a node that this call has not been sent to, and that has not failed a moment ago.
    pub(super) fn has_another(&self, tried: &[u32], now: Moment) -> bool {
        let fresh =
            |member: &Member| !tried.contains(&member.serial) && member.suspect_until.is_none_or(|until| now >= until);
        self.members.iter().any(fresh)
    }

    /// The node cannot be reached, or does not answer.
    pub(super) fn suspect(&mut self, serial: u32, now: Moment) {
        if let Some(member) = self.members.iter_mut().find(|member| member.serial == serial) {
            member.suspect_until = Some(now.plus(SUSPICION));
        }
    }

    /// Another node leads a partition. Whether its address is known.
    pub(super) fn leads(&mut self, partition: u16, leader: u64) -> bool {
        if let Some(slot) = self.leaders.get_mut(usize::from(partition)) {
            *slot = leader;
        }
        self.members.iter().any(|member| member.node_id == Some(leader))
    }

    /// What stands beside an answer. Whether the leader's address is known, if one is named.
    pub(super) fn learn(&mut self, epoch: &v1::Epoch) -> bool {
        let Ok(partition) = u16::try_from(epoch.partition) else { return true };
        let index = usize::from(partition);
        if self.partitions.is_none_or(|partitions| partition >= partitions.get()) {
            return true;
        }
        if let Some(position) = self.positions.get_mut(index) {
            *position = epoch.position.max(*position);
        }
        if let Some(epochs) = self.epochs.get_mut(epoch.home.as_str()) {
            if let Some(known) = epochs.get_mut(index) {
                *known = epoch.epoch.max(*known);
            }
        } else if self.epochs.len() < MAX_HOMES {
            let mut epochs = vec![0; self.positions.len()];
            if let Some(known) = epochs.get_mut(index) {
                *known = epoch.epoch;
            }
            self.epochs.insert(epoch.home.clone(), epochs);
        }
        epoch.leader == 0 || self.leads(partition, epoch.leader)
    }

    /// The nodes of the region, and who leads. Those that the application named stay; of the others, those that are gone
    /// are forgotten.
    pub(super) fn apply(&mut self, topology: v1::TopologyResponse, settings: &Settings) {
        let v1::TopologyResponse { partitions, nodes, leaders } = topology;
        let Some(partitions) = u16::try_from(partitions).ok().and_then(NonZeroU16::new) else { return };
        if self.partitions != Some(partitions) {
            self.partitions = Some(partitions);
            self.positions = vec![0; usize::from(partitions.get())];
            self.epochs.clear();
        }
        self.leaders = leaders;
        self.leaders.resize(usize::from(partitions.get()), 0);
        let named: Vec<(u64, String)> = nodes
            .into_iter()
            .filter(|node| !node.address.is_empty())
            .take(MAX_NODES)
            .map(|node| (node.node_id, url(&node.address)))
            .collect();
        self.members.retain(|member| member.given || named.iter().any(|(_, address)| address == member.node.address()));
        for member in &mut self.members {
            let own = named.iter().find(|(_, address)| address == member.node.address());
            member.node_id = own.map(|(node_id, _)| *node_id);
        }
        for (node_id, address) in named {
            if self.members.iter().any(|member| member.node.address() == address) {
                continue;
            }
            // An address that is none is the node's mistake; the others serve.
            let Ok(node) = Node::new(&address, settings) else { continue };
            self.add(node, false);
            if let Some(added) = self.members.last_mut() {
                added.node_id = Some(node_id);
            }
        }
    }
}

impl Member {
    fn is_suspect(&self, now: Moment) -> bool {
        self.suspect_until.is_some_and(|until| now < until)
    }

    fn candidate(&self, tried: &[u32]) -> Candidate {
        Candidate { node_id: self.node_id, suspect_until: self.suspect_until, tried: tried.contains(&self.serial) }
    }
}

/// An address as nodes and applications write it, in one form: `http://HOST:PORT`.
pub(super) fn url(address: &str) -> String {
    let address = address.trim_end_matches('/');
    if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
}
