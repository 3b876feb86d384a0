//! One partition's Raft group in this node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::{Config, Raft, RaftMetrics, SnapshotPolicy};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::codec::batch::Operation;
use crate::codec::pb;
use crate::control;
use crate::control::usage::Usages;
use crate::ids::{EndpointName, Epoch, PartitionId, RecordKey, RegionName};
use crate::limits;
use crate::peers::Peers;
use crate::raft::batcher::Batcher;
use crate::raft::exports::Exports;
use crate::raft::kept::Seen;
use crate::raft::log_store::GroupLog;
use crate::raft::members;
use crate::raft::network::Network;
use crate::raft::reads::Reads;
use crate::raft::state_machine::{Hooks, Machine, View, key_facts};
use crate::raft::types::{Address, EntryId, NodeId, OperationReply, Types, entry_id_from};
use crate::raft::{LogHandle, ProposeError};
use crate::reservation::{Command, Context, Record, Reply, decide};
use crate::store::{GroupFamily, StoreError};
use crate::time::LogTime;

/// Log entries that openraft leaves when a snapshot was taken: all, since `purge` counts what is to stay by its bytes.
const KEPT_ENTRIES: u64 = u64::MAX;

/// How often a leader says that it is there, in milliseconds. A follower that was heard of within this time is not asked.
const HEARTBEAT_MS: u64 = 250;
/// How long a follower waits before it stands for election, in milliseconds: at least, and at most. It starts to wait when
/// the leader's lease has run out, which is the longer of the two after it was last heard of: a leader that dies is followed
/// by another after 2 to 2.4 seconds, and four heartbeats may be late before anybody takes one for dead.
const ELECTION_MS: (u64, u64) = (800, 1_200);
/// Log entries in one message to a follower, however small: what their bytes allow is usually less.
const MESSAGE_ENTRIES: u64 = 1_000;
/// How long a snapshot may take to be sent and installed, in milliseconds.
const SNAPSHOT_MS: u64 = 30 * 60_000;
/// How long a peer that is not reached is left alone: a node that starts again is missed for half a second at the most.
const BACKOFF: &str = "50ms 100ms 200ms ...500ms";

/// What a group needs to know.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// This node.
    pub node_id: NodeId,
    /// The cluster's name.
    pub cluster_id: String,
    /// The voters that the group is made with, this node among them. Empty: it waits until it is taken in.
    pub founders: BTreeMap<NodeId, Address>,
}

/// Who leads a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// In which term.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// Whether this node is it.
    pub leads: bool,
}

/// The members of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Who votes. During a change, whoever votes in either set.
    pub voters: BTreeSet<NodeId>,
    /// Everybody, voters and learners.
    pub nodes: BTreeMap<NodeId, Address>,
    /// Whether a change is under way.
    pub changing: bool,
}

/// One partition's group. Cheap to clone.
#[derive(Clone)]
pub struct Group {
    partition: PartitionId,
    pub(super) raft: Raft<Types, Machine>,
    pub(super) batcher: Batcher,
    family: GroupFamily,
    view: View,
    seen: Seen,
    swept: Arc<AtomicU64>,
    /// How many log bytes there were when the last snapshot was taken.
    snapshot_at: Arc<AtomicU64>,
    /// The snapshot behind which the log was purged last, by its last entry.
    purged_behind: Arc<AtomicU64>,
    pub(super) exports: Arc<Exports>,
    receiving: Arc<Semaphore>,
    stopped: Arc<OnceLock<String>>,
    stops: Arc<Notify>,
    log: GroupLog,
    reads: Reads,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) membership: watch::Receiver<Membership>,
}

/// Where a group's log stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// The Raft term.
    pub term: u64,
    /// The last entry.
    pub last_log_index: u64,
    /// The last applied entry.
    pub applied_index: u64,
    /// The last entry in a snapshot.
    pub snapshot_index: u64,
    /// The last purged entry.
    pub purged_index: u64,
}

fn broken(error: impl std::fmt::Display) -> StoreError {
    StoreError::Disk(error.to_string())
}

fn config(partition: PartitionId, settings: &GroupSettings) -> Config {
    Config {
        cluster_name: format!("{}/{partition}", settings.cluster_id),
        heartbeat_interval: HEARTBEAT_MS,
        heartbeat_min_interval: Some(HEARTBEAT_MS),
        election_timeout_min: ELECTION_MS.0,
        election_timeout_max: ELECTION_MS.1,
        max_payload_entries: MESSAGE_ENTRIES,
        install_snapshot_timeout: SNAPSHOT_MS,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        backoff: BACKOFF.to_owned(),
        enable_pre_vote: Some(true),
        // A leader sends entries before its own disk has them, and followers may commit them without it. Started again
        // after a crash it may lack them: leading on in its old term it would write others under the same ids.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
}

impl Group {
    /// Starts the group over what it has on the disk. It does not wait for a leader: see [`Group::leadership`]. `tasks` owns
    /// what runs on.
    ///
    /// # Errors
    /// When the disk refuses, or stored data is damaged.
    pub async fn start(
        partition: PartitionId,
        settings: &GroupSettings,
        family: GroupFamily,
        log: LogHandle,
        hooks: Hooks,
        peers: Arc<Peers>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, StoreError> {
        let log = GroupLog::open(partition, log)?;
        let machine = Machine::open(family.clone(), Arc::new(hooks), log.clone())?;
        check_order(partition, &log, &machine)?;
        let view = machine.view();
        let seen = machine.seen();
        let swept = machine.swept();
        let exports = machine.exports();
        let config = Arc::new(config(partition, settings).validate().map_err(broken)?);
        let network = Network::new(partition, Arc::clone(&peers));
        let raft = Raft::new(settings.node_id, config, network, log.clone(), machine).await.map_err(broken)?;
        exports.start();
        let (tell_leader, leadership) = watch::channel(Leadership::default());
        let (batcher, serve) = Batcher::new(raft.clone(), Arc::clone(&peers), leadership.clone());
        tasks.spawn(serve);
        let (reads, serve) = Reads::new(raft.clone());
        tasks.spawn(serve);
        let (tell_members, membership) = watch::channel(Membership::default());
        tasks.spawn(members::follow(partition, raft.clone(), peers, tell_leader, tell_members));
        let stops: Arc<Notify> = Arc::default();
        tasks.spawn(resign(raft.clone(), Arc::clone(&stops)));
        let group = Self {
            partition,
            raft,
            batcher,
            family,
            view,
            seen,
            swept,
            snapshot_at: Arc::default(),
            purged_behind: Arc::default(),
            exports,
            receiving: Arc::new(Semaphore::new(1)),
            stopped: Arc::default(),
            stops,
            log,
            reads,
            leadership,
            membership,
        };
        group.found(settings).await?;
        Ok(group)
    }

    /// Makes the group if it has to be made here. A sole voter leads without waiting for an election's time.
    async fn found(&self, settings: &GroupSettings) -> Result<(), StoreError> {
        if !self.raft.is_initialized().await.map_err(broken)? && !settings.founders.is_empty() {
            self.raft.initialize(settings.founders.clone()).await.map_err(broken)?;
        }
        if self.raft.voter_ids().eq([settings.node_id]) && !self.raft.is_leader() {
            self.raft.trigger().elect(false).await.map_err(broken)?;
        }
        Ok(())
    }

    /// Waits until the applied state is as new as this call: every operation that was answered before is in it. Only the
    /// leader can say so.
    ///
    /// # Errors
    /// When this node does not lead, or no majority answers. Nothing was done.
    pub async fn confirm_read(&self) -> Result<(), ProposeError> {
        if self.is_alone() { Ok(()) } else { self.reads.confirm().await }
    }

    /// Whether nobody else can lead the group, and what was answered is applied: what this leader answered it had applied,
    /// and what was answered before it led stands before its own first entry.
    fn is_alone(&self) -> bool {
        let members = self.membership.borrow();
        let now = self.leader();
        let is_own = |id: &pb::LogId| id.term == now.term;
        members.voters.len() == 1 && !members.changing && now.leads && self.state().applied.as_ref().is_some_and(is_own)
    }

    /// How far the log is applied here.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.state().applied.as_ref().map_or(0, |id| id.index)
    }

    /// Proposes an operation and waits until it is committed and applied.
    ///
    /// # Errors
    /// With the certainty in its type: see [`ProposeError`].
    pub async fn propose(&self, operation: Operation) -> Result<OperationReply, ProposeError> {
        let outcome = self.batcher.propose(operation).await;
        if outcome.is_err() {
            self.check();
        }
        outcome
    }

    /// The partition.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// A key's record, as applied.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn record(&self, key: &RecordKey) -> Result<Option<Record>, StoreError> {
        self.family.record(key)
    }

    /// The group's records and envelopes.
    #[must_use]
    pub fn family(&self) -> &GroupFamily {
        &self.family
    }

    /// What the group knows besides its records, as applied.
    #[must_use]
    pub fn state(&self) -> Arc<pb::GroupState> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is the same for all partitions, as applied: in partition 0.
    #[must_use]
    pub fn control(&self) -> Arc<control::State> {
        self.seen.control()
    }

    /// Reads what keys take up, as applied.
    pub fn usages<T>(&self, read: impl FnOnce(&Usages) -> T) -> T {
        self.seen.usages(read)
    }

    /// The open epoch of a home here.
    #[must_use]
    pub fn open_epoch(&self, home: &RegionName) -> Option<Epoch> {
        let state = self.state();
        let home = state.homes.iter().find(|known| known.name == home.as_str())?;
        (home.open_epoch > 0).then_some(Epoch(home.open_epoch))
    }

    /// What a command would come to now, from the applied state alone. Changes nothing: if the reply changes something,
    /// it has to be proposed.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn preview(
        &self,
        key: &RecordKey,
        endpoint: &EndpointName,
        record: Option<&Record>,
        command: &Command,
    ) -> Result<Option<Reply>, StoreError> {
        let state = self.state();
        let facts = key_facts(key);
        let horizon_ms = match (record, facts.time_ms) {
            (None, Some(_)) => self.family.horizon(&key.tenant, endpoint)?,
            (Some(_), _) | (None, None) => None,
        };
        let context = Context {
            open_epoch: Some(command.epoch),
            next_position: 0,
            now: LogTime::from_unix_ms(state.log_time_unix_ms),
            key: facts,
            horizon_ms,
        };
        let decision = decide(record, command, &context);
        Ok(decision.record.is_none().then_some(decision.reply))
    }

    /// Since when a record's time is over at `now`, if there is one.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn oldest_expired(&self, now: LogTime) -> Result<Option<LogTime>, StoreError> {
        let from = LogTime::from_unix_ms(self.swept.load(Ordering::Relaxed));
        Ok(self.family.expired(from, now, 1)?.first().map(|(at, _)| *at))
    }

    /// Why the group serves no more, if it stopped.
    #[must_use]
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }

    /// Stops serving for good, and takes no more part in consensus: a leader that does not serve would keep others from
    /// leading. The first reason stays.
    pub fn stop_serving(&self, reason: &str) {
        if self.stopped.set(reason.to_owned()).is_ok() {
            tracing::error!(partition = %self.partition, reason, "the partition stops serving");
            self.stops.notify_one();
        }
    }

    /// Looks whether consensus has stopped or the log is broken, and stops serving then.
    pub fn check(&self) {
        if let Some(reason) = self.log.broken() {
            return self.stop_serving(reason);
        }
        let metrics = self.raft.metrics();
        let running = metrics.borrow_watched().running_state.clone();
        if let Err(fatal) = running {
            self.stop_serving(&fatal.to_string());
        }
    }

    /// Where the log stands.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        Progress {
            term: metrics.current_term,
            last_log_index: metrics.last_log_index.unwrap_or_default(),
            applied_index: metrics.last_applied.map_or(0, |id| id.index),
            snapshot_index: metrics.snapshot.map_or(0, |id| id.index),
            purged_index: metrics.purged.map_or(0, |id| id.index),
        }
    }

    /// How many bytes the log has had since the last snapshot.
    pub(super) fn log_grown(&self) -> u64 {
        let (total, _, _) = self.log.bytes(0);
        total.saturating_sub(self.snapshot_at.load(Ordering::Relaxed))
    }

    /// How many bytes the log has, and up to where it may be purged if `keep` of them are to stay.
    pub(super) fn log_bytes(&self, keep: u64) -> (u64, Option<u64>) {
        let (_, kept, purgeable) = self.log.bytes(keep);
        (kept, purgeable)
    }

    pub(super) fn purged_behind(&self) -> u64 {
        self.purged_behind.load(Ordering::Relaxed)
    }

    pub(super) fn set_purged_behind(&self, snapshot_index: u64) {
        self.purged_behind.store(snapshot_index, Ordering::Relaxed);
    }

    /// Has a snapshot taken. The log goes behind it later: see `purge`.
    pub(super) async fn trigger_snapshot(&self) -> Result<(), ProposeError> {
        let (total, _, _) = self.log.bytes(0);
        self.snapshot_at.store(total, Ordering::Relaxed);
        self.raft.trigger().snapshot().await.map_err(|fatal| ProposeError::Definite(fatal.to_string()))
    }

    /// Takes the group's only place for a snapshot that comes in.
    pub(super) fn receives(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.receiving).try_acquire_owned().ok()
    }

    /// The last applied entry.
    pub(super) fn applied(&self) -> Option<EntryId> {
        self.state().applied.as_ref().map(entry_id_from)
    }

    /// Takes a snapshot of what is applied now, behind which the log is purged soon. Returns the last entry in it.
    ///
    /// # Errors
    /// When the group has stopped, or the snapshot is not there in time. Then it may come later.
    pub async fn snapshot(&self) -> Result<u64, ProposeError> {
        let wanted = self.progress().applied_index;
        self.trigger_snapshot().await?;
        let patience = Some(Duration::from_millis(limits::SNAPSHOT_TIMEOUT_MS));
        let taken = |metrics: &RaftMetrics<Types>| metrics.snapshot.is_some_and(|id| id.index >= wanted);
        let waited = self.raft.wait(patience).metrics(taken, "a snapshot").await;
        let metrics = waited.map_err(|error| ProposeError::Indefinite(error.to_string()))?;
        Ok(metrics.snapshot.map_or(0, |id| id.index))
    }

    /// Stops the group. What was acknowledged is on the disk already.
    pub async fn shutdown(&self) {
        self.exports.close();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(partition = %self.partition, %error, "a group did not shut down cleanly");
        }
    }
}

/// Ends the part that a group takes in consensus once it has stopped serving.
async fn resign(raft: Raft<Types, Machine>, stops: Arc<Notify>) {
    stops.notified().await;
    // What consensus ended with was told to whoever waited for it.
    let _ended = raft.shutdown().await;
}

/// The state is flushed only after its entries were synced: a log that ends before it has lost entries. The log is purged
/// only after the state behind it was flushed, or together with the install of a snapshot: one that begins after the state
/// has lost what is between.
fn check_order(partition: PartitionId, log: &GroupLog, machine: &Machine) -> Result<(), StoreError> {
    let (last, applied, purged) = (log.last(), machine.applied(), log.purged_index());
    let index = |id: Option<EntryId>| id.map_or(0, |id| id.index);
    if applied > last {
        return Err(StoreError::Damaged(format!(
            "partition {partition}: the log ends at entry {}, but entry {} was applied: acknowledged entries are gone",
            index(last),
            index(applied)
        )));
    }
    if purged > index(applied) {
        return Err(StoreError::Damaged(format!(
            "partition {partition}: the log begins after entry {purged}, but the state ends at {}: what is between is gone",
            index(applied)
        )));
    }
    Ok(())
}
