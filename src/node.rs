//! Wires one node: the store, the log thread, the region, the API. Owns every task, and stops them in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::{self, ApiSettings};
use crate::codec::pb;
use crate::ids::{PartitionCount, RegionName};
use crate::peers::{self, Peers};
use crate::policy::Severity;
use crate::raft::{Address, GroupSettings, LogThread};
use crate::region::{Region, RegionSettings};
use crate::store::{Store, StoreError, StoreSettings};
use crate::wire::{self, v1::Facts};

/// How often it is looked whether every group has stopped.
const STOPPED_PERIOD: Duration = Duration::from_millis(250);

/// What a node needs to know. Made by `cli/settings`, where every bound is checked.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// The region's name.
    pub region: RegionName,
    /// This node, unique in the cluster for ever.
    pub node_id: u64,
    /// How many partitions the cluster has, for ever.
    pub partitions: PartitionCount,
    /// The homes that the cluster is made with.
    pub homes: Vec<RegionName>,
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
}

/// A running node.
pub struct Node {
    address: SocketAddr,
    region: Arc<Region>,
    store: Arc<Store>,
    partitions: PartitionCount,
    log: LogThread,
    tasks: JoinSet<()>,
    api: JoinSet<()>,
    stop_api: watch::Sender<bool>,
    api_ended: watch::Receiver<bool>,
}

impl Node {
    /// Starts a node: opens its data, applies what the log has beyond the state, leads its groups, and listens last.
    ///
    /// # Errors
    /// When the data directory does not open or is not this node's, or the address is taken.
    pub async fn start(settings: NodeSettings) -> Result<Self, NodeError> {
        let listening = |source| NodeError::Listen { address: settings.listen, source };
        // Bound first, so that a second start on the address fails before it recovers anything; served last.
        let listener = TcpListener::bind(settings.listen).await.map_err(listening)?;
        let address = listener.local_addr().map_err(listening)?;
        let (store, identity) = open_store(&settings).await?;
        let (log, handle) = LogThread::start(store.log()).map_err(NodeError::Thread)?;
        let mut tasks = JoinSet::new();
        let at = Address { peer: String::new(), api: address.to_string(), disk: identity.disk.clone() };
        let region_settings = RegionSettings {
            region: settings.region.clone(),
            homes: settings.homes.clone(),
            partitions: settings.partitions,
            severity: settings.severity,
            min_free_disk_bytes: settings.min_free_disk_bytes,
            accept_clock_jump: settings.accept_clock_jump,
            secret,
            group: GroupSettings {
                node_id: settings.node_id,
                cluster_id: identity.cluster_id.clone(),
                founders: BTreeMap::from([(settings.node_id, at)]),
            },
        };
        let facts = Facts {
            cluster_id: identity.cluster_id,
            region: identity.region,
            partitions: identity.partitions,
            homes: identity.homes,
            protocol: peers::PROTOCOL,
        };
        let me = wire::v1::Node {
            node_id: settings.node_id,
            peer: String::new(),
            api: address.to_string(),
            disk: identity.disk,
        };
        let peers = Peers::new(me, facts);
        let region = Region::start(region_settings, Arc::clone(&store), &handle, peers, &mut tasks).await?;
        drop(handle);
        let (stop_api, stop) = watch::channel(false);
        let api_settings = ApiSettings {
            max_envelope_body_bytes: settings.max_envelope_body_bytes,
            max_connections: settings.max_connections,
            drain: settings.drain,
        };
        let (ended, api_ended) = watch::channel(false);
        let mut api = JoinSet::new();
        let serve = api::serve(listener, Arc::clone(&region), api_settings, stop);
        api.spawn(async move {
            serve.await;
            // Dropped, it says the same: should the task panic, the node is not silent either.
            ended.send_replace(true);
        });
        let partitions = settings.partitions;
        Ok(Self { address, region, store, partitions, log, tasks, api, stop_api, api_ended })
    }

    /// Where the node listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Waits until every group has stopped for good, or nothing listens any more, and says why. While one group still
    /// serves, the node goes on.
    pub async fn stopped(&self) -> String {
        loop {
            if *self.api_ended.borrow() || self.api_ended.has_changed().is_err() {
                return "the API no longer listens".to_owned();
            }
            if let Some(reason) = self.region.stopped() {
                return reason;
            }
            tokio::time::sleep(STOPPED_PERIOD).await;
        }
    }

    /// Stops in order: no new requests, those in flight end; then upkeep, groups, the log thread; last the store is
    /// flushed, so that the next start has nothing to recover.
    pub async fn shutdown(mut self) {
        // The API is gone already when nobody receives this.
        let _ = self.stop_api.send(true);
        while self.api.join_next().await.is_some() {}
        self.tasks.shutdown().await;
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

/// The store, and the identity that its directory has or gets.
async fn open_store(settings: &NodeSettings) -> Result<(Arc<Store>, pb::Identity), StoreError> {
    let store_settings = StoreSettings {
        block_cache_bytes: settings.block_cache_bytes,
        write_buffer_bytes: settings.write_buffer_bytes,
    };
    let identity = pb::Identity {
        cluster_id: cluster_id()?,
        node_id: settings.node_id,
        partitions: u32::from(settings.partitions.get().get()),
        region: settings.region.as_str().to_owned(),
        homes: settings.homes.iter().map(|home| home.as_str().to_owned()).collect(),
        made: false,
        disk: cluster_id()?,
    };
    let (path, partitions) = (settings.data_dir.clone(), settings.partitions);
    let opened = tokio::task::spawn_blocking(move || Store::open(&path, &store_settings, partitions, identity));
    let (store, identity) = opened.await.map_err(|error| StoreError::Disk(error.to_string()))??;
    Ok((Arc::new(store), identity))
}

/// The name of a cluster that is made now.
fn cluster_id() -> Result<String, StoreError> {
    let random = secret().map_err(|error| StoreError::Disk(format!("no randomness: {error}")))?;
    let half = random.first_chunk::<16>().copied().unwrap_or_default();
    Ok(uuid::Builder::from_random_bytes(half).into_uuid().to_string())
}

/// A new cluster key's secret, from the operating system: with the clocks the only thing that a node is not told.
fn secret() -> std::io::Result<[u8; 32]> {
    use rand::TryRngCore as _;
    let mut secret = [0_u8; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut secret).map_err(std::io::Error::other)?;
    Ok(secret)
}
