//! One group's log: the newest entries in memory, all of them on the disk.
//!
//! An appended entry is readable at once and durable later; replication and apply read from memory. What is not yet
//! durable or not yet applied is never dropped from memory.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::{Notify, oneshot};

use crate::codec::{self, pb};
use crate::ids::PartitionId;
use crate::limits;
use crate::raft::log_thread::{Done, Durable, LogHandle, Write};
use crate::raft::purge::LogBytes;
use crate::raft::types::{
    EntryId, LogEntry, Types, Vote, entry_from, entry_id_from, entry_id_of, entry_id_to, entry_to, vote_from, vote_to,
};
use crate::store::{LogFamily, StoreError};

/// Bytes of entries returned in one limited read: a message to a follower must stay under its transport's limit.
const READ_BYTES: usize = 1024 * 1024;
/// Entries that are read from the disk at a time: few enough that those past a limited read's end cost little.
const READ_ENTRIES: u64 = 16;

/// The newest entries.
#[derive(Default)]
struct Tail {
    /// Consecutive entries and their written sizes. The last one is the log's last.
    entries: VecDeque<(LogEntry, usize)>,
    bytes: usize,
    /// Every entry before this index is on the disk.
    durable: u64,
    /// Every entry before this index was applied.
    applied: u64,
    vote: Option<Vote>,
    purged: Option<EntryId>,
    /// The first index that the log has, or may have.
    first: u64,
    last: Option<EntryId>,
    /// How often entries were cut off at either end. What was read from the disk meanwhile may not fit what is in memory.
    cuts: u64,
    size: LogBytes,
}

impl Tail {
    /// The index behind the log's last.
    fn end(&self) -> u64 {
        self.last.map_or(0, |id| id.index.saturating_add(1))
    }

    /// The first index in memory, or the end.
    fn in_memory(&self) -> u64 {
        self.entries.front().map_or_else(|| self.end(), |(entry, _)| entry.log_id.index)
    }

    fn evict(&mut self) {
        while self.bytes > limits::LOG_TAIL_BYTES {
            let droppable = self.durable.min(self.applied);
            match self.entries.front() {
                Some((entry, _)) if entry.log_id.index < droppable => {}
                Some(_) | None => return,
            }
            if let Some((_, size)) = self.entries.pop_front() {
                self.bytes = self.bytes.saturating_sub(size);
            }
        }
    }

    fn drop_from(&mut self, from: u64) {
        while self.entries.back().is_some_and(|(entry, _)| entry.log_id.index >= from) {
            if let Some((_, size)) = self.entries.pop_back() {
                self.bytes = self.bytes.saturating_sub(size);
            }
        }
    }

    fn drop_until(&mut self, index: u64) {
        while self.entries.front().is_some_and(|(entry, _)| entry.log_id.index <= index) {
            if let Some((_, size)) = self.entries.pop_front() {
                self.bytes = self.bytes.saturating_sub(size);
            }
        }
    }
}

/// What a read takes from memory, and what it still needs.
struct Glance {
    from_disk: Range<u64>,
    from_memory: Vec<(LogEntry, usize)>,
    cuts: u64,
}

/// One group's log. Cheap to clone: all clones are the same log.
#[derive(Clone)]
pub(super) struct GroupLog {
    partition: PartitionId,
    log: LogHandle,
    tail: Arc<Mutex<Tail>>,
    /// Rung when more of the log is on the disk, or never will be.
    reported: Arc<Notify>,
}

impl GroupLog {
    /// Reads where the log stands on the disk.
    pub(super) fn open(partition: PartitionId, log: LogHandle) -> Result<Self, StoreError> {
        let family: &LogFamily = &log.family;
        let vote = family.vote(partition)?.map(vote_from).transpose()?;
        let purged = match family.purged(partition)? {
            Some(bytes) => Some(entry_id_from(&codec::open::<pb::LogId>("the last purged entry's id", bytes)?)),
            None => None,
        };
        let last = family.last_entry(partition)?.map(entry_id_of).transpose()?;
        // Entries that a snapshot covers may have been written once more while it was installed: the purge behind it, which
        // would have removed them, did not come.
        let last = last.filter(|last| purged.is_none_or(|purged: EntryId| purged.index < last.index)).or(purged);
        let first = purged.map_or(0, |id| id.index.saturating_add(1));
        let mut tail = Tail { vote, purged, first, last, ..Tail::default() };
        tail.durable = tail.end();
        tail.size = LogBytes::of(first, tail.end(), family.bytes(partition));
        Ok(Self { partition, log, tail: Arc::new(Mutex::new(tail)), reported: Arc::default() })
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing is written any more, if so.
    pub(super) fn broken(&self) -> Option<&str> {
        self.log.broken()
    }

    /// The last entry's id.
    pub(super) fn last(&self) -> Option<EntryId> {
        self.tail().last
    }

    /// The index of the last purged entry.
    pub(super) fn purged_index(&self) -> u64 {
        self.tail().purged.map_or(0, |id| id.index)
    }

    /// How many bytes were appended so far, how many of them the log has, and up to where it may be purged if `keep` are to
    /// stay.
    pub(super) fn bytes(&self, keep: u64) -> (u64, u64, Option<u64>) {
        let tail = self.tail();
        (tail.size.total(), tail.size.kept(), tail.size.purgeable(keep))
    }

    /// Says that entries up to an index were applied.
    pub(super) fn applied(&self, index: u64) {
        let mut tail = self.tail();
        tail.applied = tail.applied.max(index.saturating_add(1));
        tail.evict();
    }

    /// Waits until an entry that the log has is on the disk. A majority may have it before this node does.
    pub(super) async fn synced(&self, index: u64) -> io::Result<()> {
        loop {
            let mut reported = std::pin::pin!(self.reported.notified());
            // Armed before the look, so that a report in between is not missed.
            reported.as_mut().enable();
            {
                let tail = self.tail();
                if index < tail.durable || index >= tail.end() {
                    return Ok(());
                }
            }
            if let Some(reason) = self.broken() {
                return Err(io::Error::other(reason.to_owned()));
            }
            reported.await;
        }
    }

    async fn write(&self, write: impl FnOnce(Done) -> Write) -> io::Result<()> {
        let (done, told) = oneshot::channel();
        self.log.send(self.partition, write(done)).await?;
        told.await.map_err(|_| io::Error::other("the log thread has stopped"))?
    }

    /// Takes note that the entries before an index are on the disk, unless the log was cut since they were sent there: then
    /// some of those indexes may have other entries now, which are not. A later report covers the rest.
    fn durable(&self, before: u64, cuts: u64) -> Durable {
        let (shared, reported) = (Arc::clone(&self.tail), Arc::clone(&self.reported));
        Box::new(move |written| {
            if written {
                let mut tail = shared.lock().unwrap_or_else(PoisonError::into_inner);
                if tail.cuts == cuts {
                    tail.durable = tail.durable.max(before);
                    tail.evict();
                }
            }
            reported.notify_waiters();
        })
    }

    /// Looks at the part of a range that the log has.
    fn glance(&self, start: u64, end: u64) -> Glance {
        let tail = self.tail();
        let (start, end) = (start.max(tail.first), end.min(tail.end()));
        let in_memory = tail.in_memory().min(end);
        let skipped = usize::try_from(start.saturating_sub(in_memory)).unwrap_or(usize::MAX);
        let from_memory = tail.entries.iter().skip(skipped).take_while(|(entry, _)| entry.log_id.index < end);
        Glance { from_disk: start..in_memory, from_memory: from_memory.cloned().collect(), cuts: tail.cuts }
    }

    /// The entries from `start` up to `end`, exclusive, that the log has, stopping after `most` bytes but never before the
    /// first. All of them stood in the log at one moment.
    fn read(&self, start: u64, end: u64, most: usize) -> io::Result<Vec<LogEntry>> {
        self.read_around(start, end, most, || ())
    }

    /// The same, where `meanwhile` happens between the looks at memory and at the disk.
    fn read_around(&self, start: u64, end: u64, most: usize, mut meanwhile: impl FnMut()) -> io::Result<Vec<LogEntry>> {
        loop {
            let glance = self.glance(start, end);
            let cuts = glance.cuts;
            meanwhile();
            let read = self.collect(glance, most);
            // Cut meanwhile, it may be of two minds, or look damaged.
            if self.tail().cuts == cuts {
                return read;
            }
        }
    }

    fn collect(&self, glance: Glance, most: usize) -> io::Result<Vec<LogEntry>> {
        let mut entries = Vec::new();
        let mut bytes = 0_usize;
        let Range { start: mut next, end } = glance.from_disk;
        while next < end {
            let until = next.saturating_add(READ_ENTRIES).min(end);
            for (index, stored) in self.log.family.entries(self.partition, next, until).map_err(io::Error::other)? {
                if index != next {
                    break;
                }
                if bytes > most {
                    return Ok(entries);
                }
                next = next.saturating_add(1);
                bytes = bytes.saturating_add(stored.len());
                entries.push(entry_from(stored).map_err(io::Error::other)?);
            }
            if next < until {
                return Err(io::Error::other(format!("the log has no entry {next}, and has some after it")));
            }
        }
        for (entry, size) in glance.from_memory {
            if bytes > most {
                break;
            }
            bytes = bytes.saturating_add(size);
            entries.push(entry);
        }
        Ok(entries)
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<Types> for GroupLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<LogEntry>> {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.tail().vote)
    }

    /// As many of the entries as one message takes, at least one. Nothing if the log was cut before `start`: who asks does
    /// not lead any more.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<LogEntry>> {
        let entries = self.read(start, end, READ_BYTES)?;
        let first = self.tail().first;
        if start < first && start < end {
            let text = format!("entry {start} was purged, the log starts at {first}: who needs it needs a snapshot");
            return Err(io::Error::other(text));
        }
        Ok(entries)
    }
}

impl RaftLogStorage<Types> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let tail = self.tail();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let bytes = vote_to(vote);
        self.write(|done| Write::Vote { bytes, done }).await?;
        self.tail().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + Send,
        I::IntoIter: Send,
    {
        let mut written = Vec::new();
        let durable = {
            let mut tail = self.tail();
            for entry in entries {
                let (id, bytes) = (entry.log_id, entry_to(&entry));
                if tail.last == tail.purged {
                    tail.first = id.index;
                }
                tail.bytes = tail.bytes.saturating_add(bytes.len());
                tail.size.add(id.index, bytes.len());
                tail.last = Some(id);
                tail.entries.push_back((entry, bytes.len()));
                written.push((id.index, bytes));
            }
            self.durable(tail.end(), tail.cuts)
        };
        self.log.send(self.partition, Write::Entries { entries: written, flushed, durable }).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<EntryId>) -> io::Result<()> {
        let from = last_log_id.map_or(0, |id| id.index.saturating_add(1));
        let cuts = {
            let mut tail = self.tail();
            if from >= tail.end() {
                return Ok(());
            }
            tail.drop_from(from);
            tail.size.cut(from);
            tail.durable = tail.durable.min(from);
            tail.last = last_log_id.or(tail.purged);
            tail.cuts = tail.cuts.saturating_add(1);
            tail.cuts
        };
        self.write(|done| Write::Truncate { from, done }).await?;
        // Whatever was sent to the disk before is there too.
        self.durable(from, cuts)(true);
        Ok(())
    }

    async fn purge(&mut self, log_id: EntryId) -> io::Result<()> {
        let bytes = codec::seal(&entry_id_to(&log_id));
        let (end, cuts) = {
            let mut tail = self.tail();
            tail.purged = Some(log_id);
            tail.first = log_id.index.saturating_add(1);
            if log_id.index >= tail.end() {
                tail.last = Some(log_id);
            }
            tail.drop_until(log_id.index);
            tail.size.purge(log_id.index);
            tail.cuts = tail.cuts.saturating_add(1);
            (tail.end(), tail.cuts)
        };
        self.write(|done| Write::Purge { index: log_id.index, log_id: bytes, done }).await?;
        // Whatever was sent to the disk before is there too.
        self.durable(end, cuts)(true);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
