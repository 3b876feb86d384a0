//! Two real groups, a leader's and an empty one, with a connection between them that can be told to break.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt as _;
use openraft::async_runtime::WatchReceiver as _;
use openraft::vote::RaftLeaderId as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::codec::batch::Operation;
use crate::codec::{self, pb};
use crate::ids::{Digest, Epoch, IdempotencyKey, PartitionCount, RecordKey, RegionName, TenantId};
use crate::peers::PROTOCOL;
use crate::raft::log_store::GroupLog;
use crate::raft::{Group, GroupSettings, Hooks, LogThread};
use crate::store::{GroupBatch, LogBatch, Store, StoreSettings};
use crate::wire::v1::peer_server::{Peer, PeerServer};
use crate::wire::v1::{self, SnapshotProgress};

const PARTITION: PartitionId = PartitionId(0);
const WAIT: Duration = Duration::from_secs(20);

struct Node {
    store: Arc<Store>,
    group: Group,
    log: LogThread,
    tasks: JoinSet<()>,
    replaced: Arc<AtomicUsize>,
}

fn peers(node_id: NodeId) -> Arc<Peers> {
    let me = v1::Node { node_id, disk: format!("d{node_id}"), ..v1::Node::default() };
    Peers::new(me, v1::Facts { cluster_id: "c".to_owned(), protocol: PROTOCOL, ..v1::Facts::default() })
}

fn open(path: &Path, node_id: NodeId) -> Store {
    let identity = pb::Identity { cluster_id: "c".to_owned(), node_id, partitions: 1, ..pb::Identity::default() };
    let settings = StoreSettings { block_cache_bytes: 8 << 20, write_buffer_bytes: 8 << 20 };
    Store::open(path, &settings, PartitionCount::new(1).unwrap(), identity).unwrap().0
}

async fn try_node(path: &Path, peers: Arc<Peers>, founds: bool) -> Result<Node, StoreError> {
    let node_id = peers.me().node_id;
    let store = Arc::new(open(path, node_id));
    let (log, handle) = LogThread::start(store.log()).unwrap();
    let replaced: Arc<AtomicUsize> = Arc::default();
    let told = Arc::clone(&replaced);
    let hooks = Hooks {
        before: Box::new(|_| {}),
        after: Box::new(|_| {}),
        replaced: Box::new(move || {
            told.fetch_add(1, Ordering::Relaxed);
        }),
    };
    let founders = founds.then(|| (node_id, Address { disk: format!("d{node_id}"), ..Address::default() }));
    let settings = GroupSettings { node_id, cluster_id: "c".to_owned(), founders: founders.into_iter().collect() };
    let mut tasks = JoinSet::new();
    let group = Group::start(PARTITION, &settings, store.group(PARTITION), handle, hooks, peers, &mut tasks).await?;
    Ok(Node { store, group, log, tasks, replaced })
}

async fn node(path: &Path, peers: Arc<Peers>, founds: bool) -> Node {
    let node = try_node(path, peers, founds).await.unwrap();
    if founds {
        let mut leadership = node.group.leadership();
        timeout(WAIT, leadership.wait_for(|now| now.leads)).await.unwrap().unwrap();
    }
    node
}

impl Node {
    async fn end(mut self) {
        self.group.shutdown().await;
        self.tasks.shutdown().await;
        drop(self.group);
        tokio::task::spawn_blocking(move || self.log.join()).await.unwrap();
        assert_eq!(Arc::strong_count(&self.store), 1);
    }
}

/// What the connection does to parts that come in.
#[derive(Default)]
struct Way {
    /// Ends after so many parts.
    ends_after: Option<usize>,
    /// Flips a bit of so manieth part.
    flips: Option<usize>,
    /// From where the receiver wanted it, each time.
    from: Vec<(u32, u64)>,
    parts: usize,
    /// Who receives, until the end.
    group: Option<Group>,
}

#[derive(Clone)]
struct Service {
    way: Arc<Mutex<Way>>,
}

impl Service {
    fn way(&self) -> std::sync::MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Answers<A> = Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>;

fn no<A>() -> Result<Response<A>, Status> {
    Err(Status::unimplemented("not in this test"))
}

#[tonic::async_trait]
impl Peer for Service {
    type AppendStream = Answers<v1::AppendReply>;
    type InstallSnapshotStream = Answers<SnapshotProgress>;
    type ForwardStream = Answers<v1::ForwardReply>;

    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<v1::HelloReply>, Status> {
        Ok(Response::new(v1::HelloReply::default()))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<Self::InstallSnapshotStream>, Status> {
        let mut parts = request.into_inner();
        let Some(Part::Header(header)) = parts.message().await?.and_then(|part| part.part) else {
            return Err(Status::invalid_argument("no header"));
        };
        self.way().parts = 0;
        let service = self.clone();
        let parts = parts.map(move |part| {
            let mut way = service.way();
            way.parts += 1;
            let mut part = part?;
            if way.ends_after.is_some_and(|most| way.parts > most) {
                return Err(Status::unavailable("the connection broke"));
            }
            if way.flips == Some(way.parts)
                && let Some(Part::Chunk(chunk)) = &mut part.part
            {
                let mut data = chunk.data.to_vec();
                data[100] ^= 1;
                chunk.data = data.into();
            }
            Ok(part)
        });
        let service = self.clone();
        let group = self.way().group.clone().ok_or_else(|| Status::unavailable("the test ends"))?;
        let answers = group.peer_snapshot(header, parts).inspect(move |answer| {
            if let Ok(SnapshotProgress { progress: Some(Progress::From(position)) }) = answer {
                service.way().from.push((position.file, position.offset));
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn append(&self, _: Request<Streaming<v1::AppendRequest>>) -> Result<Response<Self::AppendStream>, Status> {
        no()
    }
    async fn vote(&self, _: Request<v1::VoteRequest>) -> Result<Response<v1::VoteReply>, Status> {
        no()
    }
    async fn transfer_leader(
        &self,
        _: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderReply>, Status> {
        no()
    }
    async fn forward(
        &self,
        _: Request<Streaming<v1::ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        no()
    }
    async fn change_members(
        &self,
        _: Request<v1::ChangeMembersRequest>,
    ) -> Result<Response<v1::ChangeMembersReply>, Status> {
        no()
    }
    async fn join(&self, _: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        no()
    }
}

/// A leader with much to tell, and a follower that knows nothing.
struct Pair {
    place: tempfile::TempDir,
    peers: Arc<Peers>,
    leader: Node,
    follower: Node,
    way: Arc<Mutex<Way>>,
    serving: JoinSet<()>,
}

fn key(number: u64) -> RecordKey {
    RecordKey {
        tenant: TenantId::parse("acme").unwrap(),
        key: IdempotencyKey::parse(&format!("order-{number}")).unwrap(),
    }
}

fn envelope(number: u64) -> (Bytes, Digest) {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    let body: Vec<u8> = noise.take(50_000).collect();
    codec::record::encode_envelope(&pb::Envelope { status: 200, body: body.into(), ..pb::Envelope::default() })
}

const ENVELOPES: u64 = 200;

async fn pair() -> Pair {
    let place = tempfile::tempdir().unwrap();
    let peers = peers(1);
    let leader = node(&place.path().join("leader"), Arc::clone(&peers), true).await;
    let home = RegionName::parse("eu").unwrap();
    leader.group.propose(Operation::Open { home, epoch: Epoch::FIRST, incarnation: 1 }).await.unwrap();
    let mut batch = GroupBatch::default();
    for number in 0..ENVELOPES {
        let (bytes, digest) = envelope(number);
        batch.put_envelope(&key(number), &digest, bytes);
    }
    leader.store.group(PARTITION).write(batch).unwrap();
    let follower = node(&place.path().join("follower"), self::peers(2), false).await;
    let way: Arc<Mutex<Way>> = Arc::default();
    let mut serving = JoinSet::new();
    let at = serve(&follower, &way, &mut serving).await;
    peers.know(&v1::Node { node_id: 2, peer: at.to_string(), disk: "d2".to_owned(), ..v1::Node::default() });
    Pair { place, peers, leader, follower, way, serving }
}

async fn serve(follower: &Node, way: &Arc<Mutex<Way>>, serving: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    way.lock().unwrap().group = Some(follower.group.clone());
    let service = Service { way: Arc::clone(way) };
    let server = tonic::transport::Server::builder().add_service(PeerServer::new(service));
    serving.spawn(async move { server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap() });
    at
}

impl Pair {
    fn way(&self) -> std::sync::MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn outgoing(&self) -> Snapshot<Leader, NodeId, Address, SnapshotData> {
        self.leader.group.raft.get_snapshot().await.unwrap().unwrap()
    }

    fn vote(&self) -> Vote {
        self.leader.group.raft.server_metrics().borrow_watched().vote
    }

    async fn send(&self, vote: Vote) -> Result<SnapshotResponse<Types>, Failed> {
        let snapshot = self.outgoing().await;
        send(&self.peers, 2, PARTITION, vote, snapshot, std::future::pending()).await
    }

    async fn end(mut self) -> tempfile::TempDir {
        self.serving.shutdown().await;
        // Connections may outlive the server.
        self.way().group = None;
        self.leader.end().await;
        self.follower.end().await;
        self.place
    }
}

fn has_all(node: &Node) {
    for number in 0..ENVELOPES {
        let (_, digest) = envelope(number);
        let found = node.group.family().envelope(&key(number), &digest).unwrap();
        assert!(found.is_some(), "envelope {number} is missing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_gets_everything_and_starts_again_with_it() {
    let pair = pair().await;
    let before = pair.leader.group.state();
    let outgoing = pair.outgoing().await;
    // What is committed while it is pinned is not in it.
    pair.leader.group.propose(Operation::Tick).await.unwrap();
    let sent = send(&pair.peers, 2, PARTITION, pair.vote(), outgoing, std::future::pending()).await.unwrap();
    assert_eq!(sent.vote, pair.vote());
    assert_eq!(*pair.follower.group.state(), *before, "readers see the new state");
    assert_eq!(pair.follower.group.position(), before.applied.unwrap().index);
    assert_eq!(pair.follower.replaced.load(Ordering::Relaxed), 1, "whoever waits was told");
    has_all(&pair.follower);
    // The same bytes once more: nothing is needed.
    pair.send(pair.vote()).await.unwrap();
    assert_eq!(pair.way().from.len(), 1);
    // Newer ones, over the first: the export before is not what the log goes on from any more.
    pair.leader.group.exports.tidy(u64::MAX).await;
    pair.send(pair.vote()).await.unwrap();
    let last = pair.leader.group.position();
    assert_eq!((pair.follower.group.position(), pair.way().from.len()), (last, 2));
    let place = pair.end().await;
    let again = node(&place.path().join("follower"), peers(2), false).await;
    assert_eq!(again.group.position(), last);
    has_all(&again);
    let progress = again.group.progress();
    assert_eq!((progress.applied_index, progress.last_log_index, progress.purged_index), (last, last, last));
    again.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_broke_off_goes_on_with_the_same_bytes() {
    let pair = pair().await;
    pair.way().ends_after = Some(7);
    let broken = pair.send(pair.vote()).await.unwrap_err();
    assert!(matches!(broken, StreamingError::Unreachable(_)), "{broken}");
    pair.leader.group.propose(Operation::Tick).await.unwrap();
    pair.way().ends_after = Some(9);
    pair.send(pair.vote()).await.unwrap_err();
    pair.way().ends_after = None;
    pair.send(pair.vote()).await.unwrap();
    let part = limits::SNAPSHOT_CHUNK_BYTES as u64;
    assert_eq!(pair.way().from, [(0, 0), (0, 7 * part), (0, 16 * part)]);
    has_all(&pair.follower);
    // Kept for a while, and deleted once the log does not go on from it.
    let out = pair.place.path().join("leader/snapshots/out");
    pair.leader.group.exports.tidy(pair.leader.group.position() - 1).await;
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
    pair.leader.group.exports.tidy(pair.leader.group.position()).await;
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_part_is_not_installed() {
    let pair = pair().await;
    pair.way().flips = Some(3);
    let refused = pair.send(pair.vote()).await.unwrap_err();
    assert!(refused.to_string().contains("sent again"), "{refused}");
    assert_eq!(pair.follower.group.position(), 0);
    pair.way().flips = None;
    pair.send(pair.vote()).await.unwrap();
    assert_eq!(pair.way().from, [(0, 0), (0, 0)], "the file is sent anew");
    has_all(&pair.follower);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_better_says_so() {
    let pair = pair().await;
    let vote = pair.vote();
    let later = Vote { leader_id: Leader::new(vote.leader_id.term + 5, 2), committed: false };
    let request = openraft::raft::VoteRequest::new(later, Some(pair.outgoing().await.meta.last_log_id.unwrap()));
    pair.follower.group.raft.vote(request).await.unwrap();
    let sent = pair.send(vote).await.unwrap();
    assert_eq!((sent.vote, pair.follower.group.position()), (later, 0), "a leader that was deposed installs nothing");
    // A leader that its own snapshot contradicts.
    let forged = Vote { leader_id: Leader::new(later.leader_id.term + 1, 1), committed: false };
    let refused = pair.send(forged).await.unwrap_err();
    assert!(refused.to_string().contains("contradicts"), "{refused}");
    // While one comes in, no second one does.
    let place = pair.follower.group.receives().unwrap();
    let now = Vote { leader_id: Leader::new(later.leader_id.term + 1, 1), committed: true };
    let busy = pair.send(now).await.unwrap_err();
    assert!(busy.to_string().contains("try again later"), "{busy}");
    drop(place);
    pair.send(now).await.unwrap();
    has_all(&pair.follower);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_ends_cancels_what_it_sends() {
    let pair = pair().await;
    // Nobody reads what this follower is sent.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    pair.peers.know(&v1::Node { node_id: 3, peer: at, disk: "d3".to_owned(), ..v1::Node::default() });
    let (cancel, cancelled) = oneshot::channel::<()>();
    let closed = async move {
        let _ = cancelled.await;
        ReplicationClosed::new("the test ends it")
    };
    let snapshot = pair.outgoing().await;
    let sending = send(&pair.peers, 3, PARTITION, pair.vote(), snapshot, closed);
    let (sent, _silent) = tokio::join!(sending, async {
        let (silent, _) = listener.accept().await.unwrap();
        cancel.send(()).unwrap();
        // It stays open: an end of the connection would race with the cancellation.
        silent
    });
    assert!(matches!(sent.unwrap_err(), StreamingError::Closed(_)));
    assert!(!pair.leader.group.exports.is_sending());
    let out = pair.place.path().join("leader/snapshots/out");
    assert_eq!(std::fs::read_dir(out).unwrap().count(), 0, "nothing was written for a node that does not answer");
    pair.end().await;
}

/// A log that was purged further than the state goes has lost what is between; entries behind a purge are none.
#[tokio::test]
async fn a_log_that_begins_after_the_state_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let leader = node(place.path(), peers(1), true).await;
    leader.group.propose(Operation::Tick).await.unwrap();
    let position = leader.group.position();
    leader.store.close(PartitionCount::new(1).unwrap()).unwrap();
    leader.end().await;
    let store = open(place.path(), 1);
    let purged = |index| codec::seal(&pb::LogId { term: 9, node_id: 1, index });
    let mut batch = LogBatch::default();
    batch.purge(PARTITION, position + 3, purged(position + 3));
    // Written once more by whoever did not know of the purge yet.
    let entry = pb::Entry {
        log_id: Some(pb::LogId { term: 8, node_id: 1, index: position + 1 }),
        payload: Some(pb::entry::Payload::Blank(pb::Blank {})),
    };
    batch.put_entry(PARTITION, position + 1, codec::seal(&entry));
    store.log().write(batch).unwrap();
    let (log, handle) = LogThread::start(store.log()).unwrap();
    let group_log = GroupLog::open(PARTITION, handle).unwrap();
    assert_eq!(group_log.last().map(|id| id.index), Some(position + 3), "the log ends where it was purged");
    drop(group_log);
    log.join();
    drop(store);
    let refused = try_node(place.path(), peers(1), true).await.map(|_| ()).unwrap_err();
    let StoreError::Damaged(text) = refused else { panic!("{refused}") };
    assert!(text.contains("what is between is gone"), "{text}");
}
