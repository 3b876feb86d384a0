//! This node's part of a region for tests, over a real store: alone, or following a leader that the test plays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::clock::{self, Monotonic};
use crate::codec::batch::{Batch, KeyOperation, Operation};
use crate::codec::{self, pb};
use crate::ids::{
    EndpointName, Epoch, Fingerprint, IdempotencyKey, Nonce, PartitionCount, PartitionId, RecordKey, RegionName,
    TenantId,
};
use crate::peers::Peers;
use crate::policy::Severity;
use crate::raft::{Address, GroupSettings, LogThread};
use crate::region::calls::{Envelope, ReserveCall};
use crate::region::{Region, RegionSettings};
use crate::reservation::command::{Command, Complete, Doubt, Kind, Reserve};
use crate::store::{Store, StoreSettings};
use crate::wire::v1;

/// The node that the test plays.
pub(crate) const LEADER: u64 = 2;
/// Its term.
const TERM: u64 = 5;

/// A region's part, and what it stands on.
pub(crate) struct Fixture {
    pub(crate) region: Arc<Region>,
    pub(crate) peers: Arc<Peers>,
    _tasks: JoinSet<()>,
    _log: LogThread,
    _directory: TempDir,
}

pub(crate) fn eu() -> RegionName {
    RegionName::parse("eu").unwrap()
}

/// A key of partition 0 of one.
pub(crate) fn key(name: &str) -> RecordKey {
    RecordKey { tenant: TenantId::parse("acme").unwrap(), key: IdempotencyKey::parse(name).unwrap() }
}

pub(crate) fn envelope() -> Envelope {
    Envelope { status: 201, headers: vec![("location".into(), "/charges/1".into())], body: "{}".into() }
}

pub(crate) fn fingerprint(byte: u8) -> Fingerprint {
    Fingerprint { version: 1, selection: 1, digest: vec![byte; 32].into() }
}

pub(crate) fn reserve(name: &str) -> ReserveCall {
    ReserveCall {
        key: key(name),
        endpoint: EndpointName::parse("default").unwrap(),
        fingerprint: fingerprint(7),
        nonce: Some(Nonce::parse(b"n1").unwrap()),
        lease_ms: Some(60_000),
        wait: Duration::ZERO,
        received: clock::monotonic(),
        seen: None,
        client_version: String::new(),
    }
}

/// A deadline that only a broken test meets.
pub(crate) fn late() -> Monotonic {
    clock::monotonic().plus(Duration::from_secs(20))
}

pub(crate) fn in_ms(ms: u64) -> Monotonic {
    clock::monotonic().plus(Duration::from_millis(ms))
}

impl Fixture {
    /// A node that is its only partition's only voter, and serves it.
    pub(crate) async fn alone() -> Self {
        let fixture = Self::start(true).await;
        tokio::time::timeout(Duration::from_secs(20), fixture.region.ready()).await.unwrap().unwrap();
        fixture
    }

    /// A node that learns from [`LEADER`].
    pub(crate) async fn following(operations: Vec<Operation>) -> Self {
        let fixture = Self::start(false).await;
        fixture.lead(operations).await;
        fixture
    }

    async fn start(alone: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let partitions = PartitionCount::new(1).unwrap();
        let settings = StoreSettings { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20 };
        let identity = pb::Identity {
            cluster_id: "c".into(),
            node_id: 1,
            partitions: 1,
            region: "eu".into(),
            homes: vec!["eu".into()],
            disk: "d1".into(),
            ..pb::Identity::default()
        };
        let (store, _) = Store::open(directory.path(), &settings, partitions, identity).unwrap();
        let store = Arc::new(store);
        // Never closed: a database that closes on the log's thread while the process ends would abort it.
        std::mem::forget(Arc::clone(&store));
        let (log, handle) = LogThread::start(store.log()).unwrap();
        let me = v1::Node { node_id: 1, peer: "127.0.0.1:1".into(), api: "127.0.0.1:2".into(), disk: "d1".into() };
        let peers = Peers::new(me, v1::Facts { cluster_id: "c".into(), ..v1::Facts::default() });
        let founder = BTreeMap::from([(1, Address { disk: "d1".into(), ..Address::default() })]);
        let settings = RegionSettings {
            region: eu(),
            homes: vec![eu()],
            partitions,
            tenants: crate::control::state::Tenants::Any,
            severity: Severity::High,
            min_free_disk_bytes: 0,
            accept_clock_jump: false,
            secret: || Ok([7; 32]),
            group: GroupSettings {
                node_id: 1,
                cluster_id: "c".into(),
                founders: if alone { founder } else { BTreeMap::new() },
            },
        };
        let mut tasks = JoinSet::new();
        let region = Region::start(settings, store, &handle, Arc::clone(&peers), &mut tasks).await.unwrap();
        Self { region, peers, _tasks: tasks, _log: log, _directory: directory }
    }

    /// Plays the leader: makes this node a learner, has it apply the operations, and waits until it has.
    async fn lead(&self, operations: Vec<Operation>) {
        let node =
            |node_id: u64| pb::NodeAddress { node_id, disk: format!("d{node_id}"), ..pb::NodeAddress::default() };
        let membership = pb::Membership {
            configs: vec![pb::VoterSet { node_ids: vec![LEADER] }],
            nodes: vec![node(1), node(LEADER)],
        };
        let batch = Batch { clock_unix_ms: clock::wall_unix_ms(), operations };
        let payloads =
            [pb::entry::Payload::Membership(membership), pb::entry::Payload::Batch(codec::batch::encode(&batch))];
        let at = |index| pb::LogId { term: TERM, node_id: LEADER, index };
        let entries = (0..)
            .zip(payloads)
            .map(|(index, payload)| codec::seal(&pb::Entry { log_id: Some(at(index)), payload: Some(payload) }).into());
        let request = v1::AppendRequest {
            partition: 0,
            vote: Some(pb::Vote { term: TERM, node_id: LEADER, committed: true }),
            prev: None,
            entries: entries.collect(),
            committed: Some(at(1)),
        };
        let group = self.region.group(PartitionId(0)).unwrap();
        let answers: Vec<_> = group.peer_append(stream::iter([request])).collect().await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        let begun = clock::monotonic();
        while group.position() < 1 || group.leader().leader != Some(LEADER) {
            assert!(clock::monotonic().since(begun) < Duration::from_secs(20), "it does not follow");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Opens the home's first epoch.
pub(crate) fn open() -> Operation {
    Operation::Open { home: eu(), epoch: Epoch::FIRST, incarnation: 1 }
}

fn operation(name: &str, kind: Kind, envelope: bytes::Bytes) -> Operation {
    let command = Command { epoch: Epoch::FIRST, kind };
    Operation::Key(Box::new(KeyOperation { key: key(name), home: eu(), command, envelope }))
}

/// A grant of a key.
pub(crate) fn granted(name: &str) -> Operation {
    let call = reserve(name);
    let reserve = Reserve {
        fingerprint: call.fingerprint,
        endpoint: call.endpoint,
        terms: Severity::High.terms(),
        nonce: call.nonce,
        doubt: Doubt::Settled,
        known: None,
    };
    operation(name, Kind::Reserve(Box::new(reserve)), bytes::Bytes::new())
}

/// The completion of a key whose grant is the home's first.
pub(crate) fn completed(name: &str) -> Operation {
    let call = reserve(name);
    let (bytes, digest) = codec::record::encode_envelope(&envelope().to_stored());
    let complete = Complete {
        token: crate::ids::FencingToken { epoch: Epoch::FIRST, sequence: 1 },
        fingerprint: call.fingerprint,
        endpoint: call.endpoint,
        nonce: call.nonce,
        terms: Severity::High.terms(),
        envelope: digest,
        retention_ms: None,
    };
    operation(name, Kind::Complete(Box::new(complete)), bytes)
}
