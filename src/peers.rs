//! The other nodes of the region: who they are, where they are reached, one connection to each for everything but bulk
//! data, and what their clocks said last.
//!
//! Deliberately absent: what is said (`raft`, `router`, `node`), and who is a member (the groups' logs say so, and tell
//! [`Peers::know`]).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::clock::{self, Monotonic};
use crate::limits;
use crate::wire::v1::peer_client::PeerClient;
use crate::wire::v1::{Facts, Node};

/// The version of the protocol between nodes.
pub const PROTOCOL: u32 = 2;

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a silent connection is tried, and how long the answer may take: a host that is gone is seen in their sum.
const KEEPALIVE: Duration = Duration::from_secs(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes in flight to or from a peer, a stream and a connection.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// A peer that was heard of within this time is reachable: three of the questions that any two nodes ask each other.
const REACHABLE: Duration = Duration::from_secs(3);

const CLUSTER: &str = "holdfast-cluster";
const FROM: &str = "holdfast-from";
const TO: &str = "holdfast-to";

/// A client of one peer. Cheap to clone.
pub type Client = PeerClient<InterceptedService<Channel, Identify>>;

/// Says with every call who calls, and whom it means.
#[derive(Clone)]
pub struct Identify {
    cluster: MetadataValue<Ascii>,
    from: MetadataValue<Ascii>,
    to: MetadataValue<Ascii>,
}

impl Interceptor for Identify {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert(CLUSTER, self.cluster.clone());
        metadata.insert(FROM, self.from.clone());
        metadata.insert(TO, self.to.clone());
        Ok(request)
    }
}

/// What is known of one peer.
struct Known {
    node: Node,
    calls: Option<Client>,
    bulk: Option<Client>,
    /// When it was last heard of.
    heard: Option<Monotonic>,
    /// How far its wall clock was ahead of ours when it last said, in milliseconds.
    ahead_ms: Option<i64>,
}

/// The other nodes of the region, and this one.
pub struct Peers {
    me: Node,
    facts: Facts,
    known: RwLock<HashMap<u64, Known>>,
}

/// Why a call of a peer is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is of another cluster.
    #[error("this node belongs to cluster {here}, the caller to {caller}: check the region file of both")]
    Cluster {
        /// Ours.
        here: String,
        /// Theirs.
        caller: String,
    },
    /// It means another node, or the data directory that this node had before.
    #[error(
        "this is node {here}, and the caller means {meant}: a node that lost its data directory gets a new number, see `holdfast ctl members`"
    )]
    Node {
        /// Number and data directory of this node.
        here: String,
        /// Whom the caller means.
        meant: String,
    },
    /// It does not say who it is.
    #[error("the call does not say who calls, and whom it means: is it a client's? The public API has another port")]
    Nobody,
}

fn text(node: &Node) -> String {
    format!("{}/{}", node.node_id, node.disk)
}

fn metadata(text: &str) -> Option<MetadataValue<Ascii>> {
    text.parse().ok()
}

impl Peers {
    /// This node, which knows nobody yet.
    #[must_use]
    pub fn new(me: Node, facts: Facts) -> Arc<Self> {
        Arc::new(Self { me, facts, known: RwLock::default() })
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> &Node {
        &self.me
    }

    /// What has to be equal everywhere.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Takes note of a node. One that moved, or has another data directory, gets new connections.
    pub fn know(&self, node: &Node) {
        if node.node_id == self.me.node_id || node.peer.is_empty() {
            return;
        }
        let unchanged = |known: &HashMap<u64, Known>| known.get(&node.node_id).is_some_and(|peer| peer.node == *node);
        if unchanged(&self.known.read().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let known = Known {
            node: node.clone(),
            calls: self.connect(node),
            bulk: self.connect(node),
            heard: None,
            ahead_ms: None,
        };
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(node.node_id, known);
    }

    /// Forgets nodes that are members no more.
    pub fn keep(&self, members: &[u64]) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).retain(|id, _| members.contains(id));
    }

    /// What is known of a node.
    #[must_use]
    pub fn node(&self, node_id: u64) -> Option<Node> {
        if node_id == self.me.node_id {
            return Some(self.me.clone());
        }
        self.of(node_id, |peer| Some(peer.node.clone()))
    }

    /// A client for everything that is small. The connection is made when it is first used, and made again when it broke.
    #[must_use]
    pub fn client(&self, node_id: u64) -> Option<Client> {
        self.of(node_id, |peer| peer.calls.clone())
    }

    /// A client for bulk data, on a connection of its own: what is small does not wait behind it.
    #[must_use]
    pub fn bulk_client(&self, node_id: u64) -> Option<Client> {
        self.of(node_id, |peer| peer.bulk.clone())
    }

    fn of<T>(&self, node_id: u64, get: impl FnOnce(&Known) -> Option<T>) -> Option<T> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(&node_id).and_then(get)
    }

    /// A client of whoever listens at an address: for a node that is not known yet.
    #[must_use]
    pub fn stranger(&self, peer: &str) -> Option<Client> {
        self.connect(&Node { peer: peer.to_owned(), ..Node::default() })
    }

    fn connect(&self, node: &Node) -> Option<Client> {
        let endpoint = Endpoint::from_shared(format!("http://{}", node.peer)).ok()?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .connect_lazy();
        let identify = Identify {
            cluster: metadata(&self.facts.cluster_id)?,
            from: metadata(&text(&self.me))?,
            to: metadata(&text(node))?,
        };
        let client = PeerClient::with_interceptor(channel, identify);
        Some(
            client
                .max_decoding_message_size(limits::MAX_PEER_MESSAGE_BYTES)
                .max_encoding_message_size(limits::MAX_PEER_MESSAGE_BYTES),
        )
    }

    /// Who calls, if the call is of this cluster and means this node with this data directory.
    ///
    /// # Errors
    /// When it is not, or does not.
    pub fn check(&self, metadata: &MetadataMap) -> Result<u64, Unfit> {
        let value = |name| metadata.get(name).and_then(|value| value.to_str().ok()).ok_or(Unfit::Nobody);
        let (cluster, from, to) = (value(CLUSTER)?, value(FROM)?, value(TO)?);
        if cluster != self.facts.cluster_id {
            return Err(Unfit::Cluster { here: self.facts.cluster_id.clone(), caller: cluster.to_owned() });
        }
        let here = text(&self.me);
        if to != here {
            return Err(Unfit::Node { here, meant: to.to_owned() });
        }
        from.split_once('/').and_then(|(id, _)| id.parse().ok()).ok_or(Unfit::Nobody)
    }

    /// Takes note that a peer was heard of, and what its wall clock said.
    pub fn heard(&self, node_id: u64, clock_unix_ms: u64) {
        let ours = clock::wall_unix_ms();
        let ahead_ms = i64::try_from(i128::from(clock_unix_ms) - i128::from(ours)).unwrap_or_default();
        self.note(node_id, |peer| peer.ahead_ms = Some(ahead_ms));
    }

    /// Takes note that a peer was heard of: of a leader its followers hear no clock.
    pub fn seen(&self, node_id: u64) {
        self.note(node_id, |_| {});
    }

    fn note(&self, node_id: u64, also: impl FnOnce(&mut Known)) {
        let now = clock::monotonic();
        if let Some(peer) = self.known.write().unwrap_or_else(PoisonError::into_inner).get_mut(&node_id) {
            peer.heard = Some(now);
            also(peer);
        }
    }

    /// Whether a peer was heard of just now.
    #[must_use]
    pub fn reachable(&self, node_id: u64) -> bool {
        let now = clock::monotonic();
        let heard = |peer: &Known| peer.heard.filter(|at| now.since(*at) < REACHABLE);
        node_id == self.me.node_id || self.of(node_id, heard).is_some()
    }

    /// This node's wall clock, but never above the median of what the given voters said last (this node among them); of an
    /// even number the lower middle counts. 0 as long as fewer than a majority have said anything: a clock that nobody
    /// confirms moves nothing.
    #[must_use]
    pub fn bounded_clock_unix_ms(&self, voters: &[u64]) -> u64 {
        let others = voters.iter().filter(|id| **id != self.me.node_id);
        let ahead = others.filter_map(|id| self.of(*id, |peer| peer.ahead_ms));
        match bound(ahead.collect(), voters.len()) {
            Some(ahead_ms) => clock::wall_unix_ms().saturating_add_signed(ahead_ms),
            None => 0,
        }
    }
}

/// How far log time may be from our clock, given how far the others' clocks are ahead of it, in milliseconds: at most 0.
/// Nothing if fewer than a majority of the voters are known.
fn bound(mut ahead_ms: Vec<i64>, voters: usize) -> Option<i64> {
    ahead_ms.push(0);
    if ahead_ms.len() <= voters / 2 {
        return None;
    }
    ahead_ms.sort_unstable();
    ahead_ms.get(ahead_ms.len().saturating_sub(1) / 2).map(|median| (*median).min(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Arc<Peers> {
        let me = Node { node_id: 1, peer: "127.0.0.1:1".into(), api: "127.0.0.1:2".into(), disk: "d1".into() };
        Peers::new(me, Facts { cluster_id: "c".into(), ..Facts::default() })
    }

    fn said(values: [&'static str; 3]) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        for (name, value) in [CLUSTER, FROM, TO].into_iter().zip(values) {
            metadata.insert(name, MetadataValue::from_static(value));
        }
        metadata
    }

    #[test]
    fn only_a_call_that_fits_is_taken() {
        let peers = peers();
        assert_eq!(peers.check(&said(["c", "2/d2", "1/d1"])), Ok(2));
        assert!(matches!(peers.check(&said(["x", "2/d2", "1/d1"])), Err(Unfit::Cluster { .. })));
        assert!(matches!(peers.check(&said(["c", "2/d2", "1/lost"])), Err(Unfit::Node { .. })), "another disk");
        assert!(matches!(peers.check(&said(["c", "2/d2", "3/d1"])), Err(Unfit::Node { .. })));
        assert_eq!(peers.check(&MetadataMap::new()), Err(Unfit::Nobody));
    }

    #[test]
    fn one_clock_that_is_ahead_moves_nothing() {
        assert_eq!(bound(vec![-5, 10_000], 3), Some(0), "ours is in the middle");
        assert_eq!(bound(vec![-5_000, -6_000], 3), Some(-5_000), "ours is the one that is ahead");
        assert_eq!(bound(vec![-5_000], 3), Some(-5_000), "of two the lower");
        assert_eq!(bound(vec![5_000], 3), Some(0), "never ahead of ours");
        assert_eq!(bound(vec![], 3), None, "nobody confirms it");
        assert_eq!(bound(vec![], 1), Some(0), "nobody has to");
    }
}
