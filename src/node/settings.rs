//! What a node needs to know. Made by `cli/settings`, where every bound is checked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::ids::{PartitionCount, RegionName};
use crate::policy::Severity;
use crate::region::policies::Tenants;

/// What a node needs to know.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where to listen for peers. Nothing: there are none.
    pub peer_listen: Option<SocketAddr>,
    /// host:port under which clients reach `listen`. Nothing: as it listens.
    pub advertise: Option<String>,
    /// host:port under which peers reach `peer_listen`. Nothing: as it listens.
    pub peer_advertise: Option<String>,
    /// This node, unique in the cluster for ever.
    pub node_id: u64,
    /// Where the node's cluster comes from.
    pub origin: Origin,
    /// What keys are granted under, since no policy names an endpoint yet.
    pub severity: Severity,
    /// Bytes of an envelope's body at the most.
    pub max_envelope_body_bytes: usize,
    /// Connections at a time.
    pub max_connections: usize,
    /// How long requests in flight get at a shutdown.
    pub drain: Duration,
    /// Free bytes on the data disk under which no grant is made.
    pub min_free_disk_bytes: u64,
    /// Follow a clock that jumped by over an hour without asking.
    pub accept_clock_jump: bool,
    /// Bytes of blocks, indexes and filters kept in memory.
    pub block_cache_bytes: usize,
    /// Bytes of writes kept in memory before they are flushed.
    pub write_buffer_bytes: usize,
}

/// Where a node's cluster comes from, while its data directory does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This node makes it, alone.
    Alone(Shape),
    /// The nodes of a region file make it together, once.
    Region(Plan),
    /// It is there, and takes this node in.
    Join(Join),
}

/// What a cluster is made with, for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The region's name.
    pub region: RegionName,
    /// How many partitions the cluster has.
    pub partitions: PartitionCount,
    /// The homes that keys belong to.
    pub homes: Vec<RegionName>,
    /// Which tenants may have keys.
    pub tenants: Tenants,
}

/// What a region file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The cluster's name.
    pub cluster_id: String,
    /// What it is made with.
    pub shape: Shape,
    /// The nodes that make it.
    pub founders: Vec<Founder>,
}

/// A node that makes a region, with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founder {
    /// Its number.
    pub node_id: u64,
    /// host:port where its peers reach it.
    pub peer: String,
    /// host:port of its public API.
    pub api: String,
}

/// Whom a new node asks to be taken in, and what it expects of the cluster: nothing where nothing was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Join {
    /// host:port of members' peer services.
    pub addresses: Vec<String>,
    /// The cluster's name.
    pub cluster_id: Option<String>,
    /// The region's name.
    pub region: Option<String>,
    /// How many partitions it has.
    pub partitions: Option<u32>,
    /// The homes.
    pub homes: Option<Vec<String>>,
    /// Which tenants may have keys.
    pub tenants: Option<Tenants>,
}

impl NodeSettings {
    /// How many nodes make the cluster, if its data directory does not say that it is made.
    #[must_use]
    pub fn founders(&self) -> &[Founder] {
        match &self.origin {
            Origin::Region(plan) => &plan.founders,
            Origin::Alone(_) | Origin::Join(_) => &[],
        }
    }
}
