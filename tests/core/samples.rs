//! One value of every persisted format with every field set, and the smallest ones.

use bytes::Bytes;
use holdfast::codec::batch::{Batch, KeyOperation, Operation};
use holdfast::codec::pb;
use holdfast::codec::token::Claims;
use holdfast::control;
use holdfast::control::Signature;
use holdfast::control::audit::{Action, Entry};
use holdfast::control::command::{Change, LimitChanges, Source, Summary, TenantLimits};
use holdfast::control::state::{Known, Revision, Tenant};
use holdfast::ids::{
    Digest, EndpointName, Epoch, FencingToken, Fingerprint, IdempotencyKey, Nonce, PartitionId, PolicyName, RecordKey,
    RegionName, TenantId,
};
use holdfast::reservation::command::{Command, Complete, Doubt, Kind, Reserve, Verdict};
use holdfast::reservation::record::{Answer, Attempt, Checkpoint, Event, EventKind, OnLapse, Phase, Record, Terms};
use holdfast::time::LogTime;

/// When everything here happens, in milliseconds since the Unix epoch.
pub(crate) const AT: u64 = 1_700_000_000_000;

pub(crate) fn token(sequence: u64) -> FencingToken {
    FencingToken { epoch: Epoch(3), sequence }
}

pub(crate) fn key() -> RecordKey {
    RecordKey { tenant: tenant(), key: IdempotencyKey::parse("order-1").expect("an opaque key") }
}

pub(crate) fn tenant() -> TenantId {
    TenantId::parse("acme").expect("a tenant")
}

pub(crate) fn endpoint() -> EndpointName {
    EndpointName::parse("POST /v1/charges").expect("an endpoint")
}

fn home() -> RegionName {
    RegionName::parse("eu-1").expect("a region")
}

fn digest(fill: u8) -> Digest {
    Digest([fill; 32])
}

fn nonce(fill: u8) -> Nonce {
    Nonce::parse(&[fill; 16]).expect("a nonce")
}

fn request() -> Fingerprint {
    Fingerprint { version: 1, selection: 2, digest: [0xf1; 32].into() }
}

fn terms(on_lapse: OnLapse) -> Terms {
    Terms { policy_revision: 7, lease_ms: 30_000, on_lapse, retention_ms: 86_400_000 }
}

fn point() -> Checkpoint {
    Checkpoint { name: "charged".into(), data: b"ch_1".as_slice().into() }
}

fn attempt(number: u32, nonce: Option<Nonce>, phase: Phase) -> Attempt {
    Attempt { token: token(u64::from(number) * 10), number, fingerprint: request(), nonce, flagged: number > 1, phase }
}

/// Every field, every phase and every event.
pub(crate) fn full_record() -> Record {
    let kinds = [
        EventKind::Granted,
        EventKind::Completed,
        EventKind::Late,
        EventKind::Released,
        EventKind::Extended,
        EventKind::Checkpointed,
        EventKind::Lapsed,
        EventKind::Voided,
        EventKind::Claimed,
        EventKind::Resolved,
        EventKind::Adopted,
    ];
    let completed = |late| Phase::Completed { envelopes: vec![digest(0xe1), digest(0xe2)], late };
    Record {
        endpoint: endpoint(),
        terms: terms(OnLapse::Hold),
        attempts: vec![
            attempt(1, Some(nonce(0x01)), completed(false)),
            attempt(2, None, completed(true)),
            attempt(3, Some(nonce(0x03)), Phase::Lapsed),
            attempt(4, None, Phase::Released),
            attempt(5, Some(nonce(0x05)), Phase::Held { lease_ms: 30_000, lease_revision: 2 }),
        ],
        checkpoint: Some(point()),
        answer: Some(Answer {
            token: token(10),
            envelope: digest(0xe1),
            completed_at: LogTime::from_unix_ms(AT),
            expires_at: LogTime::from_unix_ms(AT + 86_400_000),
        }),
        idle_expires_at: Some(LogTime::from_unix_ms(AT + 1)),
        history: kinds
            .into_iter()
            .zip(1..)
            .map(|(kind, place)| Event {
                at: LogTime::from_unix_ms(AT + place),
                kind,
                token: token(place),
                detail: if place % 2 == 0 { "ops: checked".into() } else { "".into() },
            })
            .collect(),
        history_dropped: 40,
        position: 51,
        envelope_bytes: 0,
    }
}

/// A record whose envelopes are counted, as since 2026-11-24.
pub(crate) fn counted_record() -> Record {
    Record { envelope_bytes: 4_096, ..minimal_record() }
}

/// The smallest record there is: granted, without a nonce.
pub(crate) fn minimal_record() -> Record {
    Record {
        endpoint: EndpointName::parse("p").expect("an endpoint"),
        terms: Terms { policy_revision: 0, lease_ms: 0, on_lapse: OnLapse::Regrant, retention_ms: 0 },
        attempts: vec![Attempt {
            token: FencingToken { epoch: Epoch(0), sequence: 0 },
            number: 0,
            fingerprint: Fingerprint { version: 0, selection: 0, digest: [0].into() },
            nonce: None,
            flagged: false,
            phase: Phase::Held { lease_ms: 0, lease_revision: 0 },
        }],
        checkpoint: None,
        answer: None,
        idle_expires_at: None,
        history: Vec::new(),
        history_dropped: 0,
        position: 0,
        envelope_bytes: 0,
    }
}

fn on_key(kind: Kind, envelope: &'static [u8]) -> Operation {
    Operation::Key(Box::new(KeyOperation {
        key: key(),
        home: home(),
        command: Command { epoch: Epoch(3), kind },
        envelope: Bytes::from_static(envelope),
    }))
}

fn reserve(doubt: Doubt, known: Option<FencingToken>, name: Option<Nonce>) -> Operation {
    let reserve = Reserve {
        fingerprint: request(),
        endpoint: endpoint(),
        terms: terms(OnLapse::Regrant),
        nonce: name,
        doubt,
        known,
    };
    on_key(Kind::Reserve(Box::new(reserve)), b"")
}

fn complete(name: Option<Nonce>, retention_ms: Option<u64>) -> Operation {
    let complete = Complete {
        token: token(10),
        fingerprint: request(),
        endpoint: endpoint(),
        nonce: name,
        terms: terms(OnLapse::Hold),
        envelope: digest(0xe1),
        retention_ms,
    };
    on_key(Kind::Complete(Box::new(complete)), b"\x01envelope")
}

fn resolve(verdict: Verdict, envelope: &'static [u8]) -> Operation {
    let kind = Kind::Resolve { token: token(10), verdict, actor: "ops".into(), reason: "checked".into() };
    on_key(kind, envelope)
}

/// Every operation, and every command with its optional fields set and not.
pub(crate) fn full_batch() -> Batch {
    Batch {
        clock_unix_ms: AT,
        operations: vec![
            reserve(Doubt::Settled, Some(token(9)), Some(nonce(0x01))),
            reserve(Doubt::Lost, None, None),
            reserve(Doubt::UnsettledFailClosed, None, None),
            reserve(Doubt::UnsettledFailOpen, None, None),
            complete(Some(nonce(0x01)), Some(1_000)),
            complete(None, None),
            on_key(Kind::Release { token: token(10) }, b""),
            on_key(Kind::Extend { token: token(10), lease_ms: 5_000 }, b""),
            on_key(Kind::Checkpoint { token: token(10), checkpoint: point() }, b""),
            on_key(Kind::Claim { nonce: Some(nonce(0x02)), lease_ms: Some(50), worker: "worker-1".into() }, b""),
            on_key(Kind::Claim { nonce: None, lease_ms: None, worker: "".into() }, b""),
            resolve(Verdict::Executed(digest(0xe2)), b"\x01verdict"),
            resolve(Verdict::NotExecuted, b""),
            on_key(Kind::Lapse { token: token(10), lease_revision: 4 }, b""),
            on_key(Kind::Void { token: token(10) }, b""),
            Operation::Sweep { limit: 512 },
            Operation::Tick,
            Operation::AcceptClock { up_to_unix_ms: AT + 3_600_001, signature: None },
            Operation::Open { home: home(), epoch: Epoch(4), incarnation: 2 },
            Operation::RotateClusterKey { key_id: 2, secret: [0x5e; 32], signature: None },
        ],
    }
}

pub(crate) fn full_envelope() -> pb::Envelope {
    let header =
        |name: &str, value: &'static [u8]| pb::Header { name: name.to_owned(), value: Bytes::from_static(value) };
    pb::Envelope {
        status: 201,
        headers: vec![header("content-type", b"application/json"), header("x-bytes", b"\xff\x00")],
        body: Bytes::from_static(b"{\"id\":\"ch_1\"}"),
    }
}

pub(crate) fn full_claims() -> Claims {
    Claims {
        fencing: token(10),
        tenant: tenant(),
        key_hash: [0x4a; 32],
        home: home(),
        region: RegionName::parse("us-2").expect("a region"),
        partition: PartitionId(513),
        fingerprint: request(),
        endpoint: endpoint(),
        policy_revision: 7,
        nonce: Some(nonce(0x01)),
    }
}

pub(crate) fn minimal_claims() -> Claims {
    Claims {
        fencing: FencingToken { epoch: Epoch(1), sequence: 1 },
        partition: PartitionId(0),
        policy_revision: 0,
        nonce: None,
        ..full_claims()
    }
}

fn log_id(index: u64) -> pb::LogId {
    pb::LogId { term: 2, node_id: 1, index }
}

fn membership() -> pb::Membership {
    pb::Membership {
        configs: vec![pb::VoterSet { node_ids: vec![1, 2, 3] }, pb::VoterSet { node_ids: vec![1, 2] }],
        nodes: vec![pb::NodeAddress { node_id: 1, address: "127.0.0.1:7400".to_owned(), ..Default::default() }],
    }
}

pub(crate) fn vote() -> pb::Vote {
    pb::Vote { term: 2, node_id: 1, committed: true }
}

/// An entry of each kind: blank, a batch, a membership.
pub(crate) fn entries() -> [pb::Entry; 3] {
    use pb::entry::Payload;
    let batch = holdfast::codec::batch::encode(&Batch { clock_unix_ms: AT, operations: vec![Operation::Tick] });
    let entry = |index, payload| pb::Entry { log_id: Some(log_id(index)), payload: Some(payload) };
    [
        entry(4, Payload::Blank(pb::Blank {})),
        entry(5, Payload::Batch(batch)),
        entry(6, Payload::Membership(membership())),
    ]
}

pub(crate) fn group_state() -> pb::GroupState {
    pb::GroupState {
        applied: Some(log_id(6)),
        membership: Some(pb::StoredMembership { log_id: Some(log_id(6)), membership: Some(membership()) }),
        log_time_unix_ms: AT,
        clock_held: true,
        homes: vec![pb::Home { name: "eu-1".to_owned(), open_epoch: 3, incarnation: 2, next_position: 52 }],
        cluster_keys: vec![pb::ClusterKey { key_id: 2, secret: Bytes::from_static(&[0x5e; 32]) }],
        accepted_clock_unix_ms: AT + 3_600_001,
        next_audit: 0,
        usage_counted: false,
    }
}

pub(crate) fn identity() -> pb::Identity {
    pb::Identity {
        cluster_id: "0190b2a4-6e5c-7d10-8a3f-2c4b6d8e0f12".to_owned(),
        node_id: 1,
        partitions: 16,
        region: "eu-1".to_owned(),
        homes: vec!["eu-1".to_owned(), "us-2".to_owned()],
        made: true,
        disk: String::new(),
        founders: Vec::new(),
        registered_tenants: false,
    }
}

fn signature() -> Signature {
    Signature { actor: "ada".into(), reason: "ticket 812".into() }
}

fn source() -> Source {
    Source { name: "payments.toml".to_owned(), text: "[policy.charges]\n".to_owned() }
}

fn tenant_limits() -> TenantLimits {
    TenantLimits {
        max_keys: Some(1_000),
        max_bytes: Some(1 << 30),
        keys_per_second: Some(50),
        keys_per_second_per_client: Some(5),
    }
}

pub(crate) fn limit_changes() -> LimitChanges {
    LimitChanges { max_keys: Change::Set(5), max_bytes: Change::Clear, ..LimitChanges::default() }
}

/// A batch of everything that is decided about all partitions.
pub(crate) fn control_batch(limits: LimitChanges) -> Batch {
    let (policy, tenant) = (PolicyName::parse("charges"), TenantId::parse("acme").expect("a tenant"));
    let home = RegionName::parse("eu-1").expect("a home");
    let selection = r#"{"headers":[":path","content-type","x-shop"]}"#.to_owned();
    let summary = Summary { name: policy.expect("a policy's name"), digest: digest(0xd1), selection };
    let kinds = [
        control::Kind::SetPolicies { expected: 3, sources: vec![source()], policies: vec![summary] },
        control::Kind::CreateTenant { name: tenant.clone(), home: Some(home), limits: tenant_limits() },
        control::Kind::ChangeTenant { name: tenant, closed: Some(true), limits },
        control::Kind::Note { action: Action::ChangeMembers, target: "promoted node 4".to_owned() },
    ];
    let signed = |kind| Operation::Control(Box::new(control::Command { signature: signature(), kind }));
    let mut operations: Vec<Operation> = kinds.into_iter().map(signed).collect();
    operations.push(Operation::AcceptClock { up_to_unix_ms: AT, signature: Some(signature()) });
    operations.push(Operation::RotateClusterKey { key_id: 3, secret: [0x5f; 32], signature: Some(signature()) });
    Batch { clock_unix_ms: AT, operations }
}

pub(crate) fn revision() -> (u32, Revision, Vec<Source>) {
    let known = Known { digest: digest(0xd1), selection: 2 };
    let policies = [(PolicyName::parse("charges").expect("a policy's name"), known)].into();
    let revision = Revision { made_at: LogTime::from_unix_ms(AT), signature: signature(), policies };
    (4, revision, vec![source()])
}

pub(crate) fn kept_tenant() -> (TenantId, Tenant) {
    let home = Some(RegionName::parse("eu-1").expect("a home"));
    let tenant = Tenant { home, made_at: LogTime::from_unix_ms(AT), closed: true, limits: tenant_limits() };
    (TenantId::parse("acme").expect("a tenant"), tenant)
}

pub(crate) fn audit() -> Entry {
    Entry {
        sequence: 7,
        at: LogTime::from_unix_ms(AT),
        signature: signature(),
        action: Action::SetPolicies,
        target: "revision 4".to_owned(),
        detail: "changed charges".to_owned(),
    }
}
