//! The snapshots that a group gives to followers: pinned when one is asked for, written when it is about to be sent, and
//! kept for a while, so that a transfer that broke off goes on with the same bytes.
//!
//! Deliberately absent: the way to the follower (`snapshot`), and the snapshot that only lets the log be purged: that is
//! a flush (`state_machine`).

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use openraft::storage::SnapshotMeta;

use crate::clock::{self, Monotonic};
use crate::limits;
use crate::raft::types::{Address, Leader, NodeId, entry_id_from, stored_members_from};
use crate::store::{Export, GroupFamily, Pinned, StoreError};

/// What openraft says of a snapshot.
pub(super) type Meta = SnapshotMeta<Leader, NodeId, Address>;

const IDLE: Duration = Duration::from_millis(limits::EXPORT_IDLE_MS);

/// One group's snapshots for others.
pub(super) struct Exports {
    family: GroupFamily,
    held: Mutex<Held>,
    /// Followers that are being sent to.
    sending: AtomicU64,
    started: AtomicBool,
}

#[derive(Default)]
struct Held {
    /// The newest that was pinned, for as long as somebody has it.
    newest: Weak<Outgoing>,
    /// The newest that was written, and when it was last asked for.
    written: Option<(Arc<Outgoing>, Monotonic)>,
}

/// A snapshot for others.
pub(super) struct Outgoing {
    meta: Meta,
    /// Names it among those of this node.
    id: String,
    exports: Weak<Exports>,
    stage: Mutex<Stage>,
    abandoned: Arc<AtomicBool>,
}

enum Stage {
    Pinned(Pinned),
    Written(Arc<Export>),
    Failed(StoreError),
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("id", &self.id).field("meta", &self.meta).finish_non_exhaustive()
    }
}

impl Outgoing {
    pub(super) fn meta(&self) -> &Meta {
        &self.meta
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Says that a follower is being sent to; none when the group ends.
    pub(super) fn sending(&self) -> Option<Sending> {
        self.exports.upgrade().map(|exports| {
            exports.sending.fetch_add(1, Ordering::Relaxed);
            Sending(exports)
        })
    }

    fn last_index(&self) -> u64 {
        self.meta.last_log_id.map_or(0, |id| id.index)
    }

    /// Its files, written if they were not yet: by one caller, while the others wait. It is finished, and kept, also when
    /// nobody waits any more.
    pub(super) async fn export(self: &Arc<Self>) -> Result<Arc<Export>, StoreError> {
        let stopping = || StoreError::Disk("the node stops".to_owned());
        let exports = self.exports.upgrade().ok_or_else(stopping)?;
        let turn = exports.family.may_export().await.ok_or_else(stopping)?;
        let outgoing = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let export = outgoing.write()?;
            exports.held().written = Some((outgoing, clock::monotonic()));
            Ok(export)
        });
        written.await.map_err(|error| StoreError::Disk(error.to_string()))?
    }

    fn write(&self) -> Result<Arc<Export>, StoreError> {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        // Should writing panic, this stands.
        let failed = Stage::Failed(StoreError::Disk("an export did not come to an end".to_owned()));
        let result = match std::mem::replace(&mut *stage, failed) {
            Stage::Pinned(pinned) => pinned.export(Arc::clone(&self.abandoned)).map(Arc::new),
            Stage::Written(export) => Ok(export),
            Stage::Failed(error) => Err(error),
        };
        *stage = match &result {
            Ok(export) => Stage::Written(Arc::clone(export)),
            Err(error) => Stage::Failed(error.clone()),
        };
        result
    }

    fn has_failed(&self) -> bool {
        // Whoever holds the lock is writing.
        self.stage.try_lock().is_ok_and(|stage| matches!(*stage, Stage::Failed(_)))
    }
}

/// For as long as this is there, the log is kept for whoever is sent to.
pub(super) struct Sending(Arc<Exports>);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.sending.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Exports {
    pub(super) fn new(family: GroupFamily) -> Arc<Self> {
        Arc::new(Self { family, held: Mutex::default(), sending: AtomicU64::new(0), started: AtomicBool::new(false) })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The group runs: from now on somebody may be sent to.
    pub(super) fn start(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    pub(super) fn started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    /// A snapshot from which the log goes on: one that is there, or the state as it is now. None before the first entry
    /// was applied. `purged` is the log's last purged entry.
    pub(super) async fn current(self: &Arc<Self>, purged: u64) -> Result<Option<Arc<Outgoing>>, StoreError> {
        if let Some(found) = self.usable(purged) {
            return Ok(Some(found));
        }
        let family = self.family.clone();
        let pinned = tokio::task::spawn_blocking(move || family.pin());
        let Some(pinned) = pinned.await.map_err(|error| StoreError::Disk(error.to_string()))?? else { return Ok(None) };
        let state = pinned.state();
        let last_log_id = state.applied.as_ref().map(entry_id_from);
        let Some(last) = last_log_id else { return Ok(None) };
        let last_membership = stored_members_from(state.membership.clone())?;
        let outgoing = Arc::new(Outgoing {
            meta: Meta { last_log_id, last_membership },
            id: format!("{}-{}-{}", last.leader_id.term, last.index, clock::wall_unix_ms()),
            exports: Arc::downgrade(self),
            stage: Mutex::new(Stage::Pinned(pinned)),
            abandoned: Arc::default(),
        });
        self.held().newest = Arc::downgrade(&outgoing);
        Ok(Some(outgoing))
    }

    fn usable(&self, purged: u64) -> Option<Arc<Outgoing>> {
        let goes_on = |outgoing: &Arc<Outgoing>| outgoing.last_index() >= purged && !outgoing.has_failed();
        let mut held = self.held();
        if let Some((written, used)) = held.written.as_mut().filter(|(written, _)| goes_on(written)) {
            *used = clock::monotonic();
            return Some(Arc::clone(written));
        }
        held.newest.upgrade().filter(goes_on)
    }

    pub(super) fn is_sending(&self) -> bool {
        self.sending.load(Ordering::Relaxed) > 0
    }

    /// Deletes a written snapshot that nobody asked for in a while, or from which the log does not go on any more.
    pub(super) async fn tidy(&self, purged: u64) {
        let old = {
            let mut held = self.held();
            let now = clock::monotonic();
            held.written.take_if(|(written, used)| {
                Arc::strong_count(written) == 1 && (written.last_index() < purged || now.since(*used) > IDLE)
            })
        };
        if let Some(old) = old {
            // Deleting files blocks. Its outcome is in the log.
            let _ = tokio::task::spawn_blocking(move || drop(old)).await;
        }
    }

    /// Gives up what is being written: the group ends.
    pub(super) fn close(&self) {
        let mut held = self.held();
        if let Some(newest) = held.newest.upgrade() {
            newest.abandoned.store(true, Ordering::Relaxed);
        }
        held.written = None;
    }
}
