//! Applies committed entries: each command is decided by `reservation`, and everything that a run of entries changes is
//! written in one batch with the applied position. Then, and only then, the replies go out.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::{Stream, TryStreamExt as _};
use holdfast_client::keys::KeyKind;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, StoredMembership};

use crate::clock::{self, Monotonic};
use crate::codec::batch::{Batch, KeyOperation, Operation};
use crate::codec::{CodecError, pb};
use crate::control::usage::Size;
use crate::control::{self, audit};
use crate::ids::{Epoch, RecordKey};
use crate::limits;
use crate::raft::exports::{Exports, Meta, Outgoing};
use crate::raft::kept::{self, Counted, Seen};
use crate::raft::log_store::GroupLog;
use crate::raft::receive::Arrived;
use crate::raft::types::{
    Address, EntryId, Leader, LoggedBatch, NodeId, OperationReply, Replies, StoredMembers, Types, entry_id_from,
    entry_id_to, stored_members_from, stored_members_to,
};
use crate::reservation::command::{KeyFacts, Kind, Verdict};
use crate::reservation::record::Holding;
use crate::reservation::sweep::{Sweep, sweep};
use crate::reservation::{Context, Record, Reply, decide};
use crate::store::{GroupBatch, GroupFamily, StoreError};
use crate::telemetry::metrics;
use crate::time::{Advance, LogTime, advance};

/// Bytes after which a run of entries is written, so that the first replies do not wait for the last.
const CHUNK_BYTES: usize = 1024 * 1024;

/// What a batch did to one key.
#[derive(Clone, Debug)]
pub struct Change {
    /// The key.
    pub key: RecordKey,
    /// The running grant from now on, if there is one.
    pub holding: Option<Holding>,
}

/// Who is told of changes, on the applying task: both must be quick and must not wait.
pub struct Hooks {
    /// Before the changes become visible: leases start here.
    pub before: Hook,
    /// After they are visible: whoever waits for a key looks again.
    pub after: Hook,
    /// After a snapshot took the place of everything: whoever waits for any key looks again.
    pub replaced: ReplacedHook,
}

/// Told of changes.
pub type Hook = Box<dyn Fn(&[Change]) + Send + Sync>;

/// Told that any key may have changed.
pub type ReplacedHook = Box<dyn Fn() + Send + Sync>;

/// What readers see of a group's state beside its records: as of the last written batch.
pub(super) type View = Arc<RwLock<Arc<pb::GroupState>>>;

/// One group's state machine.
pub(super) struct Machine {
    family: GroupFamily,
    state: pb::GroupState,
    view: View,
    seen: Seen,
    hooks: Arc<Hooks>,
    log: GroupLog,
    swept: Arc<AtomicU64>,
    exports: Arc<Exports>,
    /// As it was on the disk when this process began.
    at_start: Meta,
}

/// Changes that are not written yet.
#[derive(Default)]
struct Chunk {
    batch: GroupBatch,
    records: HashMap<RecordKey, Option<(Record, Size)>>,
    counted: Vec<Counted>,
    /// What is the same for all partitions, if that changes.
    control: Option<Arc<control::State>>,
    changes: Vec<Change>,
    replies: Vec<(Option<openraft::storage::ApplyResponder<Types>>, Replies)>,
    /// How many operations are in it, and when the first was begun.
    operations: usize,
    begun: Option<Monotonic>,
}

/// What a key's own bytes say.
pub(super) fn key_facts(key: &RecordKey) -> KeyFacts {
    KeyFacts {
        mint_epoch: Epoch(key.key.mint_epoch()),
        time_ms: match key.key.kind() {
            KeyKind::Tagged(tagged) => Some(tagged.unix_ms()),
            KeyKind::Opaque => None,
        },
    }
}

impl Machine {
    pub(super) fn open(family: GroupFamily, hooks: Arc<Hooks>, log: GroupLog) -> Result<Self, StoreError> {
        let seen = Seen::default();
        let state = seen.load(&family)?;
        let view = Arc::new(RwLock::new(Arc::new(state.clone())));
        let exports = Exports::new(family.clone());
        let mut machine =
            Self { family, state, view, seen, hooks, log, swept: Arc::default(), exports, at_start: Meta::default() };
        machine.at_start = machine.meta()?;
        Ok(machine)
    }

    /// What is kept in memory, for readers.
    pub(super) fn seen(&self) -> Seen {
        self.seen.clone()
    }

    /// What a snapshot of the state as it is now holds.
    fn meta(&self) -> Result<Meta, CodecError> {
        Ok(Meta { last_log_id: self.applied(), last_membership: self.members()? })
    }

    /// The snapshots for others.
    pub(super) fn exports(&self) -> Arc<Exports> {
        Arc::clone(&self.exports)
    }

    /// The expiry of the last record that a sweep removed since the start, in milliseconds since the Unix epoch: nothing
    /// is left before it, and nothing comes there any more.
    pub(super) fn swept(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.swept)
    }

    pub(super) fn view(&self) -> View {
        Arc::clone(&self.view)
    }

    /// The last applied entry that the disk knows of.
    pub(super) fn applied(&self) -> Option<EntryId> {
        self.state.applied.as_ref().map(entry_id_from)
    }

    fn members(&self) -> Result<StoredMembers, CodecError> {
        stored_members_from(self.state.membership.clone())
    }

    fn apply_batch(&mut self, batch: &Batch, chunk: &mut Chunk) -> Result<Replies, StoreError> {
        chunk.begun.get_or_insert_with(clock::monotonic);
        chunk.operations = chunk.operations.saturating_add(batch.operations.len());
        let accepted = batch.clock_unix_ms <= self.state.accepted_clock_unix_ms;
        match advance(self.now(), batch.clock_unix_ms, accepted) {
            Advance::To(now) => {
                self.state.log_time_unix_ms = now.unix_ms();
                self.state.clock_held = false;
            }
            Advance::Held => self.state.clock_held = true,
        }
        let mut replies = Vec::with_capacity(batch.operations.len());
        for operation in &batch.operations {
            replies.push(self.apply_operation(operation, chunk)?);
        }
        Ok(Replies(replies))
    }

    fn now(&self) -> LogTime {
        LogTime::from_unix_ms(self.state.log_time_unix_ms)
    }

    fn apply_operation(&mut self, operation: &Operation, chunk: &mut Chunk) -> Result<OperationReply, StoreError> {
        match operation {
            Operation::Key(operation) => self.apply_key(operation, chunk),
            Operation::Sweep { limit } => self.apply_sweep(*limit, chunk),
            Operation::Tick => Ok(OperationReply::Done),
            Operation::AcceptClock { up_to_unix_ms, signature } => {
                let accepted = self.state.accepted_clock_unix_ms.max(*up_to_unix_ms);
                self.state.accepted_clock_unix_ms = accepted;
                self.state.log_time_unix_ms = self.state.log_time_unix_ms.max(*up_to_unix_ms);
                self.state.clock_held = false;
                let target = format!("log time {accepted}");
                self.audit(signature.as_ref(), audit::Action::AcceptClock, target, String::new(), chunk);
                Ok(OperationReply::Done)
            }
            Operation::Open { home, epoch, incarnation } => {
                self.open_epoch(home.as_str(), *epoch, *incarnation);
                Ok(OperationReply::Done)
            }
            Operation::RotateClusterKey { key_id, secret, signature } => {
                self.rotate(*key_id, secret);
                let target = format!("cluster key {key_id}");
                self.audit(signature.as_ref(), audit::Action::RotateClusterKey, target, String::new(), chunk);
                Ok(OperationReply::Done)
            }
            Operation::Control(command) => Ok(OperationReply::Control(self.apply_control(command, chunk))),
        }
    }

    /// Opens a later epoch than the home had; anything else was done before.
    fn open_epoch(&mut self, name: &str, epoch: Epoch, incarnation: u64) {
        let opened = pb::Home { name: name.to_owned(), open_epoch: epoch.0, incarnation, next_position: 1 };
        match self.state.homes.iter_mut().find(|home| home.name == name) {
            Some(home) if home.open_epoch < epoch.0 => *home = opened,
            Some(_) => {}
            None => self.state.homes.push(opened),
        }
    }

    /// The new key first, the one before it second; older ones go.
    fn rotate(&mut self, key_id: u32, secret: &[u8; 32]) {
        let keys = &mut self.state.cluster_keys;
        if keys.iter().all(|key| key.key_id < key_id) {
            keys.insert(0, pb::ClusterKey { key_id, secret: bytes::Bytes::copy_from_slice(secret) });
            keys.truncate(2);
        }
    }

    fn apply_control(&mut self, command: &control::Command, chunk: &mut Chunk) -> control::Reply {
        let state = chunk.control.clone().unwrap_or_else(|| self.seen.control());
        let control::Decision { reply, state, writes, audited } = control::decide(&state, command, self.now());
        if let Some(next) = state {
            kept::store(&next, &writes, &mut chunk.batch);
            chunk.control = Some(Arc::new(next));
        }
        if let Some(audited) = audited {
            self.audit(Some(&command.signature), audited.action, audited.target, audited.detail, chunk);
        }
        reply
    }

    /// Adds to the group's audit what somebody decided.
    fn audit(
        &mut self,
        signature: Option<&control::Signature>,
        action: audit::Action,
        target: String,
        detail: String,
        chunk: &mut Chunk,
    ) {
        let Some(signature) = signature.cloned() else { return };
        let sequence = self.state.next_audit.max(1);
        self.state.next_audit = sequence.saturating_add(1);
        chunk.batch.put_audit(&audit::Entry { sequence, at: self.now(), signature, action, target, detail });
    }

    fn apply_key(&mut self, operation: &KeyOperation, chunk: &mut Chunk) -> Result<OperationReply, StoreError> {
        let key = &operation.key;
        let read;
        let record = match chunk.records.get(key) {
            Some(pending) => pending.as_ref(),
            None => {
                read = self.family.sized_record(key)?;
                read.as_ref()
            }
        };
        let (record, size) = record.map_or((None, None), |(record, size)| (Some(record), Some(*size)));
        let facts = key_facts(key);
        let now = self.now();
        let horizon_ms = match (record, facts.time_ms, reserve_endpoint(operation)) {
            (None, Some(_), Some(endpoint)) => self.family.horizon(&key.tenant, endpoint)?,
            (Some(_) | None, _, _) => None,
        };
        let home = self.state.homes.iter_mut().find(|home| home.name == operation.home.as_str());
        let (open_epoch, next_position) = home
            .as_ref()
            .map_or((None, 0), |home| ((home.open_epoch > 0).then_some(Epoch(home.open_epoch)), home.next_position));
        let context = Context { open_epoch, next_position, now, key: facts, horizon_ms };
        let decision = decide(record, &operation.command, &context);
        if let Some(mut next) = decision.record {
            if let Some(home) = home {
                home.next_position = home.next_position.saturating_add(1);
            }
            let mut new_bytes = 0;
            if let Some(digest) = &decision.envelope {
                chunk.batch.put_envelope(key, digest, operation.envelope.clone());
                // Under one digest stands one envelope, however many attempts told it.
                if record.is_none_or(|record| record.envelopes().all(|known| known != *digest)) {
                    new_bytes = operation.envelope.len();
                    let bytes = u64::try_from(new_bytes).unwrap_or(u64::MAX);
                    next.envelope_bytes = next.envelope_bytes.saturating_add(bytes);
                }
            }
            let now_size = chunk.batch.put_record(key, record, &next);
            let before = record.zip(size).map(|(record, size)| (record.endpoint.clone(), size));
            let after = Some((next.endpoint.clone(), now_size));
            chunk.counted.push(Counted { tenant: key.tenant.clone(), before, after });
            count(key, record, &next, new_bytes);
            chunk.changes.push(Change { key: key.clone(), holding: next.holding() });
            chunk.records.insert(key.clone(), Some((next, now_size)));
        }
        if let (Kind::Resolve { verdict, actor, reason, .. }, Reply::Resolved(_)) =
            (&operation.command.kind, &decision.reply)
        {
            let signature = control::Signature { actor: actor.clone(), reason: reason.clone() };
            let target = format!("key {key}");
            let detail = match verdict {
                Verdict::Executed(_) => "executed",
                Verdict::NotExecuted => "not executed",
            };
            self.audit(Some(&signature), audit::Action::ResolveKey, target, detail.to_owned(), chunk);
        }
        Ok(OperationReply::Key(decision.reply))
    }

    /// Removes ended records whose time has come, by the index of what is written: nothing else is pending here.
    fn apply_sweep(&mut self, limit: u32, chunk: &mut Chunk) -> Result<OperationReply, StoreError> {
        let now = self.now();
        let from = LogTime::from_unix_ms(self.swept.load(Ordering::Relaxed));
        let due = self.family.expired(from, now, usize::try_from(limit).unwrap_or(usize::MAX))?;
        let last = due.last().map(|(at, _)| *at);
        let mut horizons = HashMap::new();
        let mut removed = 0_u32;
        for (_, key) in due {
            let Some((record, size)) = self.family.sized_record(&key)? else {
                return Err(StoreError::Damaged(format!("the expiry index names {key}, which has no record")));
            };
            match sweep(&record, key_facts(&key), now) {
                Sweep::Keep => {}
                Sweep::Remove { raise_horizon_ms } => {
                    chunk.batch.remove_record(&key, &record);
                    let before = Some((record.endpoint.clone(), size));
                    chunk.counted.push(Counted { tenant: key.tenant.clone(), before, after: None });
                    metrics::changed(&key.tenant, &record.endpoint, &[metrics::Change::Removed], 0);
                    removed = removed.saturating_add(1);
                    if let Some(time) = raise_horizon_ms {
                        let place = horizons.entry((key.tenant, record.endpoint)).or_insert(0_u64);
                        *place = time.max(*place);
                    }
                }
            }
        }
        for ((tenant, endpoint), time) in horizons {
            let known = self.family.horizon(&tenant, &endpoint)?.unwrap_or_default();
            if time > known {
                chunk.batch.put_horizon(&tenant, &endpoint, time);
            }
        }
        if let Some(last) = last {
            self.swept.store(last.unix_ms(), Ordering::Relaxed);
        }
        Ok(OperationReply::Swept(removed))
    }

    /// Writes what is pending, with the applied position.
    fn write(&mut self, chunk: &mut Chunk) -> Result<(), StoreError> {
        let mut batch = std::mem::take(&mut chunk.batch);
        batch.put_state(&self.state);
        self.seen.count(&std::mem::take(&mut chunk.counted), &mut batch);
        let changes = std::mem::take(&mut chunk.changes);
        (self.hooks.before)(&changes);
        self.family.write(batch)?;
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(self.state.clone());
        if let Some(control) = chunk.control.take() {
            self.seen.set_control(control);
        }
        (self.hooks.after)(&changes);
        chunk.records.clear();
        Ok(())
    }

    /// Writes what is pending and lets the replies go. State never gets ahead of this node's own log: a majority may have
    /// committed an entry that is not on this disk yet, and state that was flushed before it would, after a crash, look as
    /// if the log had lost it.
    async fn commit(&mut self, chunk: &mut Chunk) -> io::Result<()> {
        if let Some(applied) = &self.state.applied {
            self.log.synced(applied.index).await?;
        }
        self.write(chunk).map_err(io::Error::other)?;
        if let Some(begun) = chunk.begun.take() {
            metrics::applied(std::mem::take(&mut chunk.operations), clock::monotonic().since(begun));
        }
        for (responder, replies) in chunk.replies.drain(..) {
            if let Some(responder) = responder {
                responder.send(replies);
            }
        }
        if let Some(applied) = &self.state.applied {
            self.log.applied(applied.index);
        }
        Ok(())
    }
}

/// Counts what becomes of a record.
fn count(key: &RecordKey, before: Option<&Record>, after: &Record, envelope_bytes: usize) {
    use metrics::Change::{Completed, Created};
    let completed = before.is_none_or(|before| before.answer.is_none()) && after.answer.is_some();
    let changes: &[metrics::Change] = match (before.is_none(), completed) {
        (true, true) => &[Created, Completed],
        (true, false) => &[Created],
        (false, true) => &[Completed],
        (false, false) => &[],
    };
    if !changes.is_empty() || envelope_bytes > 0 {
        metrics::changed(&key.tenant, &after.endpoint, changes, envelope_bytes);
    }
}

/// A sweep reads indexes that only show what is written, so it has an entry and a write of its own.
fn is_sweep(payload: &EntryPayload<LoggedBatch, NodeId, Address>) -> bool {
    match payload {
        EntryPayload::Normal(logged) => logged.batch.operations.iter().any(Operation::is_sweep),
        EntryPayload::Blank | EntryPayload::Membership(_) => false,
    }
}

fn reserve_endpoint(operation: &KeyOperation) -> Option<&crate::ids::EndpointName> {
    match &operation.command.kind {
        Kind::Reserve(reserve) => Some(&reserve.endpoint),
        Kind::Complete(_)
        | Kind::Release { .. }
        | Kind::Extend { .. }
        | Kind::Checkpoint { .. }
        | Kind::Claim { .. }
        | Kind::Resolve { .. }
        | Kind::Lapse { .. }
        | Kind::Void { .. } => None,
    }
}

/// A snapshot of a group.
#[derive(Debug)]
pub(super) enum SnapshotData {
    /// The column family, flushed: the log before it may go, and nothing is copied.
    Flushed,
    /// For a follower that needs what the log has no more.
    Outgoing(Arc<Outgoing>),
    /// From the leader, whole.
    Received(Box<Arrived>),
}

/// Makes the state up to a position durable, so that the log before it may go.
pub(super) struct Flusher {
    family: GroupFamily,
    meta: Meta,
}

type GroupSnapshot = Snapshot<Leader, NodeId, Address, SnapshotData>;

impl RaftSnapshotBuilder<Types> for Flusher {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<GroupSnapshot> {
        let family = self.family.clone();
        tokio::task::spawn_blocking(move || family.flush())
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: SnapshotData::Flushed })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Flusher;

    async fn applied_state(&mut self) -> io::Result<(Option<EntryId>, StoredMembers)> {
        Ok((self.applied(), self.members().map_err(io::Error::other)?))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + Send,
    {
        let mut chunk = Chunk::default();
        while let Some((entry, responder)) = entries.try_next().await? {
            let sweeps = is_sweep(&entry.payload);
            if sweeps {
                self.commit(&mut chunk).await?;
            }
            let replies = match &entry.payload {
                EntryPayload::Blank => Replies::default(),
                EntryPayload::Normal(logged) => {
                    self.apply_batch(&logged.batch, &mut chunk).map_err(io::Error::other)?
                }
                EntryPayload::Membership(members) => {
                    let stored = StoredMembership::new(Some(entry.log_id), members.clone());
                    self.state.membership = Some(stored_members_to(&stored));
                    Replies::default()
                }
            };
            self.state.applied = Some(entry_id_to(&entry.log_id));
            chunk.replies.push((responder, replies));
            if sweeps || chunk.batch.bytes() > CHUNK_BYTES || chunk.records.len() > limits::MAX_BATCH_OPERATIONS {
                self.commit(&mut chunk).await?;
            }
        }
        self.commit(&mut chunk).await
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Flusher> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Flusher {
        let last_membership = self.members().unwrap_or_default();
        let meta = Meta { last_log_id: self.applied(), last_membership };
        Flusher { family: self.family.clone(), meta }
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: SnapshotData) -> io::Result<()> {
        let (SnapshotData::Received(arrived), Some(last)) = (snapshot, meta.last_log_id) else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "only what a leader sent is installed"));
        };
        let (family, seen) = (self.family.clone(), self.seen.clone());
        let id = entry_id_to(&last);
        let installed = tokio::task::spawn_blocking(move || {
            let Arrived { received, place } = *arrived;
            let installed = family.install(received, id);
            drop(place);
            installed.and_then(|()| seen.load(&family))
        });
        self.state = installed.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        if self.meta().map_err(io::Error::other)? != *meta {
            let text = format!("the snapshot up to {last} has other members than its leader says");
            return Err(io::Error::other(StoreError::Damaged(text)));
        }
        tracing::info!(partition = %self.family.partition(), %last, "a snapshot is installed");
        // What a sweep knew of the records before is not so of these.
        self.swept.store(0, Ordering::Relaxed);
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(self.state.clone());
        self.log.applied(last.index);
        (self.hooks.replaced)();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<GroupSnapshot>> {
        if !self.exports.started() {
            // openraft asks at its start how far the state is durable.
            let meta = self.at_start.clone();
            return Ok(meta.last_log_id.is_some().then_some(Snapshot { meta, snapshot: SnapshotData::Flushed }));
        }
        let outgoing = self.exports.current(self.log.purged_index()).await.map_err(io::Error::other)?;
        Ok(outgoing
            .map(|outgoing| Snapshot { meta: outgoing.meta().clone(), snapshot: SnapshotData::Outgoing(outgoing) }))
    }
}
