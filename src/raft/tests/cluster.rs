//! Nodes with one group each.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::wire::{Faults, Service};
use crate::codec::batch::Operation;
use crate::codec::pb;
use crate::ids::{Epoch, PartitionCount, PartitionId, RegionName};
use crate::peers::Peers;
use crate::raft::{Address, Group, GroupSettings, Hooks, LogThread, OperationReply, ProposeError};
use crate::store::{Store, StoreSettings};
use crate::wire::v1;
use crate::wire::v1::peer_server::PeerServer;

const PARTITION: PartitionId = PartitionId(0);
/// Longer than anything takes on a machine with other work: a test that fails may take this long, no other does.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A node, running or not.
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) at: Address,
    directory: TempDir,
    running: Option<Running>,
}

struct Running {
    runtime: Runtime,
    group: Group,
    log: LogThread,
}

/// Nodes of one cluster.
pub(super) struct Cluster {
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) faults: Faults,
    /// Where the tests themselves wait.
    waits: Runtime,
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(in crate::raft) fn open_store(directory: &Path) -> Store {
    let settings = StoreSettings { block_cache_bytes: 1024 * 1024, write_buffer_bytes: 4 * 1024 * 1024 };
    let identity = pb::Identity { cluster_id: "c".into(), node_id: 1, partitions: 1, ..pb::Identity::default() };
    Store::open(directory, &settings, PartitionCount::new(1).unwrap(), identity).unwrap().0
}

impl Node {
    fn new(id: u64) -> Self {
        let at = Address { peer: free_address().to_string(), api: String::new(), disk: format!("disk{id}") };
        Self { id, at, directory: TempDir::new().unwrap(), running: None }
    }

    pub(super) fn group(&self) -> &Group {
        &self.running.as_ref().expect("the node runs").group
    }

    fn start(&mut self, founders: BTreeMap<u64, Address>, faults: &Faults) {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let node =
            v1::Node { node_id: self.id, peer: self.at.peer.clone(), api: String::new(), disk: self.at.disk.clone() };
        let peers = Peers::new(node, v1::Facts { cluster_id: "c".into(), ..v1::Facts::default() });
        let store = open_store(self.directory.path());
        let (log, handle) = LogThread::start(store.log()).unwrap();
        let settings = GroupSettings { node_id: self.id, cluster_id: "c".into(), founders };
        let hooks = Hooks { before: Box::new(|_| ()), after: Box::new(|_| ()), replaced: Box::new(|| ()) };
        let faults = faults.subscribe();
        let address: SocketAddr = self.at.peer.parse().unwrap();
        let group = runtime.block_on(async {
            let mut tasks = JoinSet::new();
            let family = store.group(PARTITION);
            let started = Group::start(PARTITION, &settings, family, handle, hooks, Arc::clone(&peers), &mut tasks);
            let group = started.await.unwrap();
            let listener = tokio::net::TcpListener::bind(address).await.unwrap();
            let service = PeerServer::new(Service { peers, group: group.clone(), faults });
            tasks.spawn(async move {
                let served = Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
                served.await.unwrap();
            });
            tasks.detach_all();
            group
        });
        self.running = Some(Running { runtime, group, log });
    }

    /// Ends everything that the node does, at once and without a word to anybody.
    fn kill(&mut self) {
        let Running { runtime, group, log } = self.running.take().expect("the node runs");
        runtime.shutdown_timeout(PATIENCE);
        drop(group);
        log.join();
    }
}

impl Drop for Node {
    /// The database must be closed before the process ends.
    fn drop(&mut self) {
        if self.running.is_some() && !std::thread::panicking() {
            self.kill();
        }
    }
}

impl Cluster {
    /// Nodes 1 to `founders`, which have made a cluster.
    pub(super) fn found(founders: u64) -> Self {
        let faults = Faults::default();
        let mut nodes: BTreeMap<u64, Node> = (1..=founders).map(|id| (id, Node::new(id))).collect();
        let members: BTreeMap<u64, Address> = nodes.iter().map(|(id, node)| (*id, node.at.clone())).collect();
        for (id, node) in &mut nodes {
            // One makes the cluster; the others are told.
            node.start(if *id == 1 { members.clone() } else { BTreeMap::new() }, &faults);
        }
        Self { nodes, faults, waits: Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap() }
    }

    /// One more node, which is no member yet.
    pub(super) fn add(&mut self, id: u64) -> Address {
        let mut node = Node::new(id);
        node.start(BTreeMap::new(), &self.faults);
        let at = node.at.clone();
        self.nodes.insert(id, node);
        at
    }

    pub(super) fn kill(&mut self, id: u64) {
        self.nodes.get_mut(&id).unwrap().kill();
    }

    pub(super) fn start(&mut self, id: u64) {
        self.nodes.get_mut(&id).unwrap().start(BTreeMap::new(), &self.faults);
    }

    pub(super) fn group(&self, id: u64) -> &Group {
        self.nodes[&id].group()
    }

    /// Cuts every link between these nodes and the others.
    pub(super) fn isolate(&self, alone: &[u64]) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        let pairs = ids.iter().flat_map(|from| ids.iter().map(|to| (*from, *to)));
        let cut = pairs.filter(|(from, to)| alone.contains(from) != alone.contains(to)).collect();
        self.faults.send_replace(cut);
    }

    pub(super) fn heal(&self) {
        self.faults.send_replace(std::collections::BTreeSet::new());
    }

    /// Waits for something, at the most as long as [`PATIENCE`].
    pub(super) fn wait<F: Future>(&self, what: &str, future: F) -> F::Output {
        self.waits.block_on(async { timeout(PATIENCE, future).await }).unwrap_or_else(|_| panic!("not in time: {what}"))
    }

    /// Waits until one of the nodes leads.
    pub(super) fn leader(&self, among: &[u64]) -> u64 {
        self.wait("a leader", async {
            let waiting = among.iter().map(|id| {
                let mut leadership = self.group(*id).leadership();
                Box::pin(async move {
                    leadership.wait_for(|now| now.leads).await.unwrap();
                    *id
                })
            });
            select_all(waiting).await.0
        })
    }

    /// Opens an epoch of a home at whichever of the nodes leads. Returns who did.
    pub(super) fn write(&self, among: &[u64], epoch: u64) -> u64 {
        loop {
            let leader = self.leader(among);
            match self.propose(leader, epoch) {
                Ok(reply) => {
                    assert_eq!(reply, OperationReply::Done);
                    return leader;
                }
                Err(ProposeError::NotLeader { .. } | ProposeError::Indefinite(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(super) fn propose(&self, id: u64, epoch: u64) -> Result<OperationReply, ProposeError> {
        self.wait("an outcome", self.group(id).propose(open(epoch)))
    }

    /// Waits until a node has applied an epoch of the home.
    pub(super) fn applied(&self, id: u64, epoch: u64) {
        let group = self.group(id);
        self.wait(&format!("epoch {epoch} at node {id}"), async {
            let mut applied = group.raft.watch_apply_progress();
            while group.open_epoch(&home()) < Some(Epoch(epoch)) {
                applied.changed().await.unwrap();
            }
        });
        self.has_applied(id, epoch);
    }

    pub(super) fn has_applied(&self, id: u64, epoch: u64) {
        assert_eq!(self.group(id).open_epoch(&home()), Some(Epoch(epoch)), "node {id}");
    }

    /// What would be on the disk if a node that does nothing at the moment ended now.
    pub(super) fn crashed_copy(&self, id: u64) -> TempDir {
        let copy = TempDir::new().unwrap();
        copy_all(self.nodes[&id].directory.path(), copy.path());
        copy
    }

    /// Starts a node anew on another directory.
    pub(super) fn restart_from(&mut self, id: u64, directory: TempDir) {
        self.kill(id);
        self.nodes.get_mut(&id).unwrap().directory = directory;
        self.start(id);
    }
}

fn copy_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy_all(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

fn home() -> RegionName {
    RegionName::parse("eu").unwrap()
}

pub(super) fn open(epoch: u64) -> Operation {
    Operation::Open { home: home(), epoch: Epoch(epoch), incarnation: 1 }
}
