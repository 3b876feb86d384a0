//! Wires one node: the store, the log thread, the peers, the region, the API. Owns every task, and stops them in order.
//!
//! [`settings`] is what it needs to know; `bootstrap` and `join` how it comes into a cluster; `balance` where leaders are.

mod balance;
mod bootstrap;
mod identity;
mod join;
pub mod settings;
mod watch;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch as signal;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::api::{self, ApiSettings};
use crate::codec::pb;
use crate::ids::{PartitionCount, RegionName};
use crate::node::settings::{Founder, NodeSettings, Origin};
use crate::peers::Peers;
use crate::raft::{Address, GroupSettings, LogThread, NodeId};
use crate::region::policies::Tenants;
use crate::region::{Region, RegionSettings};
use crate::router::Router;
use crate::router::cluster::Cluster;
use crate::store::{self, Store, StoreError, StoreSettings};
use crate::wire::v1;

/// How long a group may take to say who its members are, by what it has on the disk.
const MEMBERS_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is looked whether every group has stopped.
const STOPPED_PERIOD: Duration = Duration::from_millis(250);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address.
    #[error("cannot listen on {address}: {source}: stop what listens there, or name another address")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The machine gives no thread.
    #[error("the log thread does not start: {0}")]
    Thread(std::io::Error),
    /// What must be equal on all nodes of a region is not.
    #[error("this node has {what} = {here}, and the one at {peer} has {there}: correct the settings of one of them")]
    Misfit {
        /// Which setting.
        what: &'static str,
        /// Here.
        here: String,
        /// There.
        there: String,
        /// Where the other node is.
        peer: String,
    },
    /// The region does not have this node.
    #[error("{0}")]
    Refused(String),
}

/// A running node.
pub struct Node {
    address: SocketAddr,
    name: RegionName,
    cluster: Arc<Cluster>,
    region: Arc<Region>,
    store: Arc<Store>,
    partitions: PartitionCount,
    log: LogThread,
    tasks: JoinSet<()>,
    api: JoinSet<()>,
    peer_service: JoinSet<()>,
    stop_api: signal::Sender<bool>,
    stop_peers: signal::Sender<bool>,
    api_ended: signal::Receiver<bool>,
    refused: signal::Receiver<Option<String>>,
}

/// A node that its peers can ask, before it has groups.
struct Begun {
    listener: TcpListener,
    address: SocketAddr,
    identity: pb::Identity,
    store: Arc<Store>,
    cluster: Arc<Cluster>,
    peer_service: JoinSet<()>,
    stop_peers: signal::Sender<bool>,
    /// The voters that this node makes the groups with, if it is known already.
    founders: Option<BTreeMap<NodeId, Address>>,
}

impl Node {
    /// Starts a node: opens its data, answers its peers, finds or makes its cluster, applies what the log has beyond the
    /// state, and serves clients last.
    ///
    /// # Errors
    /// When the data directory does not open or is not this node's, an address is taken, or the region does not have it.
    pub async fn start(settings: NodeSettings) -> Result<Self, NodeError> {
        let Begun { listener, address, identity, store, cluster, peer_service, stop_peers, founders } =
            Begun::begin(&settings).await?;
        let new = !cluster.made() && founders.is_none();
        let founders = match founders {
            Some(founders) => founders,
            None if new => bootstrap::found(cluster.peers(), settings.founders()).await?,
            None => BTreeMap::new(),
        };
        remember(&settings, &founders).await?;
        let (log, handle) = LogThread::start(store.log()).map_err(NodeError::Thread)?;
        let mut tasks = JoinSet::new();
        let region_settings = region_settings(&settings, &identity, founders)?;
        let (name, partitions) = (region_settings.region.clone(), region_settings.partitions);
        let peers = Arc::clone(cluster.peers());
        let region = Region::start(region_settings, Arc::clone(&store), &handle, peers, &mut tasks).await?;
        drop(handle);
        cluster.open(&region);
        remember(&settings, &BTreeMap::new()).await?;
        let refused = follow(&cluster, &settings, new, &mut tasks);
        if is_alone(&region, settings.node_id).await {
            region.ready().await?;
        }

        let (stop_api, stop) = signal::channel(false);
        let api_settings = ApiSettings {
            max_envelope_body_bytes: settings.max_envelope_body_bytes,
            max_connections: settings.max_connections,
            drain: settings.drain,
        };
        let (ended, api_ended) = signal::channel(false);
        let mut api = JoinSet::new();
        let router = Router::new(Arc::clone(&region), Arc::clone(cluster.peers()));
        let serve = api::serve(listener, router, Arc::clone(&cluster), api_settings, stop);
        api.spawn(async move {
            serve.await;
            // Dropped, it says the same: should the task panic, the node is not silent either.
            ended.send_replace(true);
        });
        Ok(Self {
            address,
            name,
            cluster,
            region,
            store,
            partitions,
            log,
            tasks,
            api,
            peer_service,
            stop_api,
            stop_peers,
            api_ended,
            refused,
        })
    }

    /// Where the node listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Its region's name.
    #[must_use]
    pub fn region(&self) -> &RegionName {
        &self.name
    }

    /// Waits until every group has stopped for good, nothing listens any more, or the region does not have this node, and
    /// says why. While one group still serves, the node goes on.
    pub async fn stopped(&self) -> String {
        loop {
            if *self.api_ended.borrow() || self.api_ended.has_changed().is_err() {
                return "the API no longer listens".to_owned();
            }
            if let Some(reason) = self.refused.borrow().clone().or_else(|| self.region.stopped()) {
                return reason;
            }
            tokio::time::sleep(STOPPED_PERIOD).await;
        }
    }

    /// Stops in order: the groups go to other nodes; no new requests, those in flight end; then upkeep, peers, groups, the
    /// log thread; last the store is flushed, so that the next start has nothing to recover.
    pub async fn shutdown(mut self) {
        self.cluster.stop();
        balance::hand_over(&self.cluster).await;
        // The API is gone already when nobody receives this.
        let _ = self.stop_api.send(true);
        while self.api.join_next().await.is_some() {}
        self.tasks.shutdown().await;
        // Before the groups: what a peer sends to one that has stopped is a failure there.
        let _ = self.stop_peers.send(true);
        while self.peer_service.join_next().await.is_some() {}
        let broken = self.region.stopped().is_some();
        self.region.shutdown().await;
        drop(self.region);
        let (log, store, partitions) = (self.log, self.store, self.partitions);
        let closed = tokio::task::spawn_blocking(move || {
            log.join();
            if broken { Ok(()) } else { store.close(partitions) }
        });
        match closed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the store was not flushed: the next start recovers from the log"),
            Err(error) => tracing::error!(%error, "closing the store panicked"),
        }
    }
}

impl Begun {
    async fn begin(settings: &NodeSettings) -> Result<Self, NodeError> {
        // Bound first, so that a second start on the address fails before it recovers anything; served last.
        let (listener, address) = bind(settings.listen).await?;
        let bound = match settings.peer_listen {
            Some(peer_listen) => Some(bind(peer_listen).await?),
            None => None,
        };
        let found = store::peek(&settings.data_dir)?;
        let learned = match (&settings.origin, &found) {
            (Origin::Join(join), None) => Some(join::learn(join, settings.node_id).await?),
            (Origin::Join(_), Some(_)) | (Origin::Alone(_) | Origin::Region(_), _) => None,
        };
        let asked = identity::asked(settings, found.as_ref(), learned.as_ref())?;
        let (store, identity) = open_store(settings, asked).await?;
        let me = v1::Node {
            node_id: settings.node_id,
            peer: advertised(settings.peer_advertise.as_ref(), bound.as_ref().map(|(_, address)| *address)),
            api: advertised(settings.advertise.as_ref(), Some(address)),
            disk: identity.disk.clone(),
        };
        let made = has_raft_state(&store, &identity)?;
        let founders = founders(&me, &settings.origin, found.as_ref(), made);
        let peers = Peers::new(me, identity::facts(&identity));
        let cluster = Cluster::new(peers, made || founders.is_some());
        let (stop_peers, stop) = signal::channel(false);
        let mut peer_service = JoinSet::new();
        if let Some((peer_listener, _)) = bound {
            peer_service.spawn(api::serve_peers(peer_listener, Arc::clone(&cluster), stop));
        }
        Ok(Self { listener, address, identity, store, cluster, peer_service, stop_peers, founders })
    }
}

/// The voters that this node makes the groups with, if its data directory or its settings say so by themselves.
fn founders(
    me: &v1::Node,
    origin: &Origin,
    found: Option<&pb::Identity>,
    made: bool,
) -> Option<BTreeMap<NodeId, Address>> {
    let begun = found.map(|found| found.founders.as_slice()).unwrap_or_default();
    if !begun.is_empty() {
        let address = |node: &pb::NodeAddress| Address {
            peer: node.address.clone(),
            api: node.api.clone(),
            disk: node.disk.clone(),
        };
        return Some(begun.iter().map(|node| (node.node_id, address(node))).collect());
    }
    // A directory without a name was made by a version that knew clusters of one only, and maybe not to the end.
    let nameless = found.is_some_and(|found| found.disk.is_empty());
    let alone = matches!(origin, Origin::Alone(_)) && (!made || nameless);
    let at = Address { peer: me.peer.clone(), api: me.api.clone(), disk: me.disk.clone() };
    alone.then(|| BTreeMap::from([(me.node_id, at)]))
}

/// Keeps on the disk with whom the groups are being made, so that a start after a crash goes on with the same.
async fn remember(settings: &NodeSettings, founders: &BTreeMap<NodeId, Address>) -> Result<(), NodeError> {
    let path = settings.data_dir.clone();
    let address = |(node_id, at): (&NodeId, &Address)| pb::NodeAddress {
        node_id: *node_id,
        address: at.peer.clone(),
        api: at.api.clone(),
        disk: at.disk.clone(),
    };
    let founders: Vec<pb::NodeAddress> = founders.iter().map(address).collect();
    let write = tokio::task::spawn_blocking(move || {
        if store::peek(&path)?.is_some_and(|identity| identity.founders == founders) {
            return Ok(());
        }
        store::set_founders(&path, founders)
    });
    Ok(write.await.map_err(|error| StoreError::Disk(error.to_string()))??)
}

/// Whether this node is the only voter of all groups: then nobody has to be waited for until it serves them.
async fn is_alone(region: &Region, me: NodeId) -> bool {
    for group in region.groups() {
        let mut membership = group.membership();
        let known = timeout(MEMBERS_TIMEOUT, membership.wait_for(|members| !members.nodes.is_empty())).await;
        if !matches!(known, Ok(Ok(_))) || !group.members().voters.iter().eq([&me]) {
            return false;
        }
    }
    true
}

/// Starts what a node of a cluster does unasked. Says when the region turns out not to have it.
fn follow(
    cluster: &Arc<Cluster>,
    settings: &NodeSettings,
    new: bool,
    tasks: &mut JoinSet<()>,
) -> signal::Receiver<Option<String>> {
    let (refuse, refused) = signal::channel(None);
    tasks.spawn(balance::spread(Arc::clone(cluster)));
    if settings.peer_listen.is_some() {
        tasks.spawn(join::announce(Arc::clone(cluster)));
    }
    let (known, tell) = (Arc::clone(cluster), refuse.clone());
    tasks.spawn(async move {
        tell.send_replace(Some(watch::members(known).await));
    });
    let (known, founders): (_, Vec<Founder>) = (Arc::clone(cluster), settings.founders().to_vec());
    match &settings.origin {
        Origin::Join(join) => {
            let addresses = join.addresses.clone();
            tasks.spawn(async move {
                if let Some(why) = join::enter(known, addresses).await {
                    refuse.send_replace(Some(why));
                }
            });
        }
        Origin::Region(_) if new => {
            tasks.spawn(async move {
                if let Some(why) = bootstrap::watch(known, founders).await {
                    refuse.send_replace(Some(why));
                }
            });
        }
        Origin::Region(_) | Origin::Alone(_) => {}
    }
    refused
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), NodeError> {
    let listening = |source| NodeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listening)?;
    let local = listener.local_addr().map_err(listening)?;
    Ok((listener, local))
}

/// Where others reach what listens on `bound`: nothing if that is every address of the machine, and nobody said.
fn advertised(said: Option<&String>, bound: Option<SocketAddr>) -> String {
    let listens = bound.filter(|address| !address.ip().is_unspecified()).map(|address| address.to_string());
    said.cloned().or(listens).unwrap_or_default()
}

/// Whether the node has been in a cluster: any vote, entry or state of any group says so.
fn has_raft_state(store: &Store, identity: &pb::Identity) -> Result<bool, StoreError> {
    let log = store.log();
    for partition in partitions(identity)?.all() {
        let logged = log.vote(partition)?.is_some() || log.last_entry(partition)?.is_some();
        if logged || log.purged(partition)?.is_some() || store.group(partition).state()?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn partitions(identity: &pb::Identity) -> Result<PartitionCount, StoreError> {
    let count = u16::try_from(identity.partitions).ok().and_then(PartitionCount::new);
    count.ok_or_else(|| StoreError::Damaged(format!("the identity has {} partitions", identity.partitions)))
}

fn region_settings(
    settings: &NodeSettings,
    identity: &pb::Identity,
    founders: BTreeMap<NodeId, Address>,
) -> Result<RegionSettings, StoreError> {
    let name = |text: &String| RegionName::parse(text).map_err(|error| StoreError::Damaged(error.to_string()));
    Ok(RegionSettings {
        region: name(&identity.region)?,
        homes: identity.homes.iter().map(name).collect::<Result<_, _>>()?,
        partitions: partitions(identity)?,
        tenants: Tenants::of(identity.registered_tenants),
        severity: settings.severity,
        min_free_disk_bytes: settings.min_free_disk_bytes,
        accept_clock_jump: settings.accept_clock_jump,
        secret: identity::secret,
        group: GroupSettings { node_id: settings.node_id, cluster_id: identity.cluster_id.clone(), founders },
    })
}

/// The store, and the identity that its directory has or gets.
async fn open_store(settings: &NodeSettings, asked: pb::Identity) -> Result<(Arc<Store>, pb::Identity), StoreError> {
    let store_settings = StoreSettings {
        block_cache_bytes: settings.block_cache_bytes,
        write_buffer_bytes: settings.write_buffer_bytes,
    };
    let (path, partitions) = (settings.data_dir.clone(), partitions(&asked)?);
    let opened = tokio::task::spawn_blocking(move || Store::open(&path, &store_settings, partitions, asked));
    let (store, identity) = opened.await.map_err(|error| StoreError::Disk(error.to_string()))??;
    Ok((Arc::new(store), identity))
}
