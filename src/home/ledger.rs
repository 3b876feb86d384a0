//! The conflict ledger: who lost, in the order in which it was found, and one compensation task for each (R11).
//!
//! `name` compares the losers that merge finds with those that a record knows, and writes the difference. Its entries are
//! numbered without gaps, so that a watcher goes on where it was.
//!
//! * A loser has one task for ever. A held grant that loses, and is found to have completed later, keeps its task.
//! * A task is withdrawn only if the grant is shown to have won, or not to have run. A lapse shows neither, so a loser that
//!   was handed to a worker while it was held stays one when its lease runs out.
//! * A task that was closed as not needed is open again once it is known that the grant ran.
//! * A task's name follows from what it is about, not from the log: a worker that takes it as its own idempotency key
//!   compensates once, whatever becomes of the global group.
//!
//! The losers that stand are those that merge finds, in whatever order the evidence came, and beside them only lapsed grants
//! that had been named before. Entries and their numbers are in the order of the global log.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::control::Signature;
use crate::home::evidence::{Attempt, Phase, Token};
use crate::home::merge::{Record, Winner};
use crate::home::rows::{Draft, Rows};
use crate::ids::{Digest, RecordKey, RegionName};
use crate::time::LogTime;

/// A grant that lost, with one of its envelopes if it completed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Loser {
    /// The grant.
    pub token: Token,
    /// What was reported for it; nothing as long as nobody knows whether it ran.
    pub envelope: Option<Digest>,
}

/// What a task is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A loser.
    Loser(Loser),
    /// Evidence that the record had no room for. It stands in the ledger, and a person has to look.
    NotKept,
}

/// A task's name: the first 16 bytes of a digest of its key and of what it was first about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub [u8; 16]);

impl TaskId {
    /// The name of a task.
    #[must_use]
    pub fn of(key: &RecordKey, subject: &Subject) -> Self {
        let mut digest = Sha256::new().chain_update(b"holdfast-task-v1\0");
        digest.update(key.tenant.as_str());
        digest.update([0]);
        digest.update(key.key.as_str());
        digest.update([0]);
        if let Subject::Loser(Loser { token, envelope }) = subject {
            digest.update(token.fencing.epoch.0.to_be_bytes());
            digest.update(token.fencing.sequence.to_be_bytes());
            digest.update(token.region.as_ref().map_or("", RegionName::as_str));
            digest.update([0]);
            if let Some(envelope) = envelope {
                digest.update(envelope.0);
            }
        }
        let mut name = [0; 16];
        name.iter_mut().zip(digest.finalize()).for_each(|(to, from)| *to = from);
        Self(name)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A conflict of a key, as its record names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What it is about now.
    pub subject: Subject,
    /// Its task.
    pub task: TaskId,
    /// The task was withdrawn.
    pub withdrawn: bool,
}

/// What whoever did the work found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The effect was undone, or made good.
    Compensated,
    /// There was nothing to undo.
    NotNeeded,
}

/// Why a task was withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// What it was about is the key's answer now, or the grant that stands.
    Won,
    /// The grant was given back: it did not run.
    Released,
}

/// Where a task stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Nobody has it.
    Open,
    /// A worker has it.
    Acknowledged {
        /// Which.
        worker: Box<str>,
        /// Since when.
        at: LogTime,
    },
    /// It is done.
    Closed {
        /// What was found.
        verdict: Verdict,
        /// By whom, and why.
        signature: Signature,
        /// When.
        at: LogTime,
    },
    /// There is nothing to do any more.
    Withdrawn {
        /// Why.
        why: Withdrawn,
        /// When.
        at: LogTime,
    },
}

impl TaskState {
    /// Whether somebody still has something to do.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        match self {
            Self::Open | Self::Acknowledged { .. } => true,
            Self::Closed { .. } | Self::Withdrawn { .. } => false,
        }
    }
}

/// A compensation task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The key.
    pub key: RecordKey,
    /// What it is about now.
    pub subject: Subject,
    /// When it was found, in global log time.
    pub found_at: LogTime,
    /// Where it stands.
    pub state: TaskState,
}

/// What happened to a conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was found, or it is one again. This stands in its place.
    Found {
        /// The winner.
        winner: Option<Winner>,
    },
    /// The grant is known to have run now.
    Ran,
    /// It is none any more.
    Withdrawn(Withdrawn),
    /// The record had no room for this.
    NotKept(Box<Attempt>),
    /// A worker has it.
    Acknowledged {
        /// Which.
        worker: Box<str>,
    },
    /// It is done.
    Closed(Verdict),
}

/// A line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number: from 1, without gaps.
    pub sequence: u64,
    /// Global log time.
    pub at: LogTime,
    /// The key.
    pub key: RecordKey,
    /// The task.
    pub task: TaskId,
    /// What the task is about, as of now.
    pub subject: Subject,
    /// What happened.
    pub event: Event,
}

/// Writes what a record's losers are now, and what it had no room for.
///
/// # Errors
/// When a row cannot be read.
pub(super) fn name<R: Rows>(
    draft: &mut Draft<'_, R>,
    key: &RecordKey,
    record: &mut Record,
    not_kept: Vec<Attempt>,
) -> Result<(), R::Error> {
    let losers = record.losers();
    let winner = record.winner();
    let mut conflicts = std::mem::take(&mut record.conflicts);
    for conflict in &mut conflicts {
        let Subject::Loser(loser) = &conflict.subject else { continue };
        if conflict.withdrawn || losers.contains(loser) {
            continue;
        }
        match fate(record, winner.as_ref(), loser) {
            Fate::Stays => {}
            Fate::Ran(envelope) => {
                conflict.subject = Subject::Loser(Loser { token: loser.token.clone(), envelope: Some(envelope) });
                open(draft, key, conflict)?;
                draft.enter(key, conflict, Event::Ran)?;
            }
            Fate::Withdrawn(why) => withdraw(draft, key, conflict, why)?,
        }
    }
    for loser in losers {
        match place(&conflicts, &loser).and_then(|place| conflicts.get_mut(place)) {
            Some(conflict) if !conflict.withdrawn => {}
            Some(conflict) => {
                conflict.subject = Subject::Loser(loser);
                conflict.withdrawn = false;
                find(draft, key, conflict, winner.clone())?;
            }
            None => {
                let subject = Subject::Loser(loser);
                let conflict = Conflict { task: TaskId::of(key, &subject), subject, withdrawn: false };
                find(draft, key, &conflict, winner.clone())?;
                conflicts.push(conflict);
            }
        }
    }
    for attempt in not_kept {
        record.not_kept = record.not_kept.saturating_add(1);
        let place = conflicts.iter().position(|conflict| conflict.subject == Subject::NotKept);
        let conflict = match place.and_then(|place| conflicts.get(place)) {
            Some(conflict) => conflict.clone(),
            None => {
                let task = TaskId::of(key, &Subject::NotKept);
                let conflict = Conflict { subject: Subject::NotKept, task, withdrawn: false };
                conflicts.push(conflict.clone());
                conflict
            }
        };
        open(draft, key, &conflict)?;
        draft.enter(key, &conflict, Event::NotKept(Box::new(attempt)))?;
    }
    record.conflicts = conflicts;
    Ok(())
}

/// Where a loser stands among the conflicts: under its envelope, else as the grant that was withdrawn before it was known to
/// have run.
fn place(conflicts: &[Conflict], loser: &Loser) -> Option<usize> {
    let named = |loser: Loser| {
        let subject = Subject::Loser(loser);
        conflicts.iter().position(|conflict| conflict.subject == subject)
    };
    let unknown = || named(Loser { envelope: None, ..loser.clone() }).filter(|place| is_withdrawn(conflicts, *place));
    named(loser.clone()).or_else(unknown)
}

fn is_withdrawn(conflicts: &[Conflict], place: usize) -> bool {
    conflicts.get(place).is_some_and(|conflict| conflict.withdrawn)
}

/// What became of a loser that merge does not find any more.
enum Fate {
    /// It may still have run.
    Stays,
    /// It is known to have run, and lost with this envelope.
    Ran(Digest),
    Withdrawn(Withdrawn),
}

fn fate(record: &Record, winner: Option<&Winner>, loser: &Loser) -> Fate {
    let won = winner.is_some_and(|winner| winner.token == loser.token && winner.envelope == loser.envelope);
    if won {
        return Fate::Withdrawn(Withdrawn::Won);
    }
    if loser.envelope.is_some() {
        return Fate::Stays;
    }
    match record.get(&loser.token).map(|attempt| &attempt.phase) {
        None | Some(Phase::Held { .. } | Phase::Lapsed) => Fate::Stays,
        Some(Phase::Released) => Fate::Withdrawn(Withdrawn::Released),
        Some(Phase::Completed(completions)) => {
            let answered = winner.filter(|winner| winner.token == loser.token).and_then(|winner| winner.envelope);
            let lost = completions.iter().find(|completion| Some(completion.envelope) != answered);
            lost.map_or(Fate::Withdrawn(Withdrawn::Won), |completion| Fate::Ran(completion.envelope))
        }
    }
}

/// A loser is new, or one again.
fn find<R: Rows>(
    draft: &mut Draft<'_, R>,
    key: &RecordKey,
    conflict: &Conflict,
    winner: Option<Winner>,
) -> Result<(), R::Error> {
    open(draft, key, conflict)?;
    draft.enter(key, conflict, Event::Found { winner })
}

/// Makes the conflict's task one that somebody has to do. A worker that has it keeps it, and a loser that was compensated
/// needs it no second time.
fn open<R: Rows>(draft: &mut Draft<'_, R>, key: &RecordKey, conflict: &Conflict) -> Result<(), R::Error> {
    let known = draft.task(conflict.task)?;
    let state = match known.as_ref().map(|task| &task.state) {
        Some(state) if state.is_open() || (done(state) && conflict.subject != Subject::NotKept) => state.clone(),
        Some(_) | None => TaskState::Open,
    };
    let found_at = known.map_or(draft.context.now, |task| task.found_at);
    let task = Task { key: key.clone(), subject: conflict.subject.clone(), found_at, state };
    draft.put_task(conflict.task, Some(task));
    Ok(())
}

/// Whether the effect was made good.
fn done(state: &TaskState) -> bool {
    match state {
        TaskState::Closed { verdict: Verdict::Compensated, .. } => true,
        TaskState::Closed { verdict: Verdict::NotNeeded, .. }
        | TaskState::Open
        | TaskState::Acknowledged { .. }
        | TaskState::Withdrawn { .. } => false,
    }
}

/// Takes a task back. One that was done stays as it was closed, so that it can be seen what was done.
fn withdraw<R: Rows>(
    draft: &mut Draft<'_, R>,
    key: &RecordKey,
    conflict: &mut Conflict,
    why: Withdrawn,
) -> Result<(), R::Error> {
    conflict.withdrawn = true;
    if let Some(mut task) = draft.task(conflict.task)?
        && task.state.is_open()
    {
        task.state = TaskState::Withdrawn { why, at: draft.context.now };
        draft.put_task(conflict.task, Some(task));
    }
    draft.enter(key, conflict, Event::Withdrawn(why))
}
