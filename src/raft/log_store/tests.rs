//! What a log says while it is being written, cut and purged.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use futures_util::stream;
use openraft::EntryPayload;
use openraft::storage::RaftStateMachine as _;
use openraft::vote::RaftLeaderId as _;
use tempfile::TempDir;

use super::*;
use crate::codec::batch::{Batch, Operation};
use crate::ids::{Epoch, RegionName};
use crate::raft::log_thread::ByHand;
use crate::raft::state_machine::{Hooks, Machine};
use crate::raft::tests::cluster::open_store;
use crate::raft::types::{Leader, LoggedBatch};
use crate::store::LogBatch;

const PARTITION: PartitionId = PartitionId(0);

fn id(term: u64, index: u64) -> EntryId {
    EntryId::new(Leader::new(term, 1).to_committed(), index)
}

fn blank(term: u64, index: u64) -> LogEntry {
    LogEntry { log_id: id(term, index), payload: EntryPayload::Blank }
}

/// An entry of about so many bytes.
fn large(term: u64, index: u64, bytes: usize) -> LogEntry {
    let home = RegionName::parse("a-home-of-a-long-name").unwrap();
    let open = Operation::Open { home, epoch: Epoch(1), incarnation: 1 };
    let operations = vec![open; bytes / 29];
    LogEntry {
        log_id: id(term, index),
        payload: EntryPayload::Normal(LoggedBatch::new(Batch { clock_unix_ms: 1, operations })),
    }
}

fn ids(entries: &[LogEntry]) -> Vec<(u64, u64)> {
    entries.iter().map(|entry| (entry.log_id.leader_id.term, entry.log_id.index)).collect()
}

/// Runs what does not wait for the disk.
fn now<F: Future>(future: F) -> F::Output {
    let Poll::Ready(output) = poll_once(&mut pin!(future)) else { panic!("it waits") };
    output
}

fn poll_once<F: Future>(future: &mut std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn append(log: &mut GroupLog, entries: Vec<LogEntry>) {
    now(log.append(entries, IOFlushed::noop())).unwrap();
}

fn get(log: &mut GroupLog, range: Range<u64>) -> Vec<(u64, u64)> {
    ids(&now(log.try_get_log_entries(range)).unwrap())
}

struct Disk {
    _directory: TempDir,
    thread: ByHand,
    log: GroupLog,
}

/// A log whose disk is written only when a test says so.
fn by_hand() -> Disk {
    let directory = TempDir::new().unwrap();
    let (thread, handle) = ByHand::new(open_store(directory.path()).log());
    let log = GroupLog::open(PARTITION, handle).unwrap();
    Disk { _directory: directory, thread, log }
}

#[test]
fn a_report_from_before_a_cut_says_nothing_of_what_came_after() {
    let Disk { mut thread, mut log, _directory } = by_hand();
    append(&mut log, vec![blank(1, 0), blank(1, 1), blank(1, 2), blank(1, 3)]);
    let mut other = log.clone();
    let mut cutting = pin!(other.truncate_after(Some(id(1, 0))));
    assert!(poll_once(&mut cutting).is_pending());
    // Too large to stay in memory once it is durable and applied.
    append(&mut log, vec![large(2, 1, limits::LOG_TAIL_BYTES + 1_000)]);
    thread.write_one();
    // A majority had it: committed and applied before it is durable here.
    log.applied(1);
    assert_eq!(get(&mut log, 0..9), [(1, 0), (2, 1)], "on the disk stands another entry 1");
    thread.write_one();
    assert!(matches!(poll_once(&mut cutting), Poll::Ready(Ok(()))));
    assert_eq!(get(&mut log, 0..9), [(1, 0), (2, 1)], "on the disk stands no entry 1");
    thread.write_one();
    assert_eq!(log.tail().entries.len(), 0, "now it is on the disk");
    assert_eq!(get(&mut log, 0..9), [(1, 0), (2, 1)]);
}

#[test]
fn what_is_not_on_the_disk_yet_is_waited_for() {
    let Disk { mut thread, mut log, _directory } = by_hand();
    append(&mut log, vec![blank(1, 0)]);
    append(&mut log, vec![blank(1, 1)]);
    let other = log.clone();
    let (mut first, mut second) = (pin!(other.synced(0)), pin!(other.synced(1)));
    assert!(poll_once(&mut first).is_pending() && poll_once(&mut second).is_pending());
    thread.write_one();
    assert!(matches!(poll_once(&mut first), Poll::Ready(Ok(()))));
    assert!(poll_once(&mut second).is_pending());
    thread.write_one();
    assert!(matches!(poll_once(&mut second), Poll::Ready(Ok(()))));
    now(log.synced(7)).unwrap();
}

#[test]
fn state_never_gets_ahead_of_the_log_on_the_disk() {
    let directory = TempDir::new().unwrap();
    let store = open_store(directory.path());
    let (mut thread, handle) = ByHand::new(store.log());
    let mut log = GroupLog::open(PARTITION, handle).unwrap();
    let hooks = Hooks { before: Box::new(|_| ()), after: Box::new(|_| ()), replaced: Box::new(|| ()) };
    let family = store.group(PARTITION);
    let mut machine = Machine::open(family.clone(), Arc::new(hooks), log.clone()).unwrap();
    append(&mut log, vec![blank(1, 0)]);
    {
        // Two others have it, so it is committed.
        let mut applying = pin!(machine.apply(stream::iter([Ok((blank(1, 0), None))])));
        assert!(poll_once(&mut applying).is_pending());
        assert_eq!(family.state().unwrap(), None, "it is not on this disk");
        thread.write_one();
        assert!(matches!(poll_once(&mut applying), Poll::Ready(Ok(()))));
    }
    let applied = family.state().unwrap().and_then(|state| state.applied);
    assert_eq!(applied.as_ref().map(entry_id_from), Some(id(1, 0)));
}

#[test]
fn what_was_sent_to_the_disk_before_a_cut_or_a_purge_leaves_memory_after_it() {
    let Disk { mut thread, mut log, _directory } = by_hand();
    append(&mut log, vec![blank(1, 0), large(1, 1, limits::LOG_TAIL_BYTES + 1_000), blank(1, 2)]);
    log.applied(2);
    let mut other = log.clone();
    let mut cutting = pin!(other.truncate_after(Some(id(1, 1))));
    assert!(poll_once(&mut cutting).is_pending());
    thread.write_one();
    thread.write_one();
    assert!(matches!(poll_once(&mut cutting), Poll::Ready(Ok(()))));
    assert_eq!(log.tail().entries.len(), 0);
    append(&mut log, vec![large(2, 2, limits::LOG_TAIL_BYTES + 1_000)]);
    let mut other = log.clone();
    let mut purging = pin!(other.purge(id(1, 1)));
    assert!(poll_once(&mut purging).is_pending());
    thread.write_one();
    thread.write_one();
    assert!(matches!(poll_once(&mut purging), Poll::Ready(Ok(()))));
    assert_eq!(log.tail().entries.len(), 0);
    assert_eq!(get(&mut log, 0..9), [(2, 2)]);
}

#[test]
fn nothing_that_is_not_durable_leaves_memory() {
    let Disk { mut thread, mut log, _directory } = by_hand();
    append(&mut log, vec![large(1, 0, limits::LOG_TAIL_BYTES + 1_000)]);
    log.applied(0);
    assert_eq!(get(&mut log, 0..9), [(1, 0)], "it is nowhere else");
    thread.write_one();
    assert_eq!(log.tail().entries.len(), 0);
    assert_eq!(get(&mut log, 0..9), [(1, 0)]);
}

#[test]
fn a_limited_read_fits_a_message_and_is_never_empty() {
    let Disk { mut thread, mut log, _directory } = by_hand();
    let most = |log: &mut GroupLog, start, end| ids(&now(log.limited_get_log_entries(start, end)).unwrap());
    append(&mut log, (0..40).map(|index| large(1, index, 100_000)).chain([large(1, 40, 2 * READ_BYTES)]).collect());
    let from_memory = most(&mut log, 0, 41);
    thread.write_one();
    log.applied(40);
    assert_eq!(log.tail().entries.len(), 0);
    assert_eq!(most(&mut log, 0, 41), from_memory);
    let size = entry_to(&large(1, 0, 100_000)).len();
    assert_eq!(from_memory.len(), READ_BYTES / size + 1, "up to the first that reaches over the limit");
    assert_eq!(most(&mut log, 40, 41), [(1, 40)], "one that is larger goes alone");
    assert_eq!(most(&mut log, 39, 41), [(1, 39), (1, 40)]);
    assert_eq!(most(&mut log, 5, 6), [(1, 5)]);
    assert_eq!(most(&mut log, 5, 5), []);
}

#[test]
fn what_was_purged_is_an_error_to_who_needs_it() {
    let Disk { mut thread, mut log, _directory } = by_hand();
    append(&mut log, (0..10).map(|index| blank(1, index)).collect());
    let mut other = log.clone();
    let mut purging = pin!(other.purge(id(1, 4)));
    assert!(poll_once(&mut purging).is_pending());
    for _ in 0..2 {
        // As soon as it is asked for, and when it is done.
        let error = now(log.limited_get_log_entries(4, 7)).unwrap_err().to_string();
        assert!(error.contains("entry 4 was purged, the log starts at 5"), "{error}");
        assert_eq!(ids(&now(log.limited_get_log_entries(5, 7)).unwrap()), [(1, 5), (1, 6)]);
        assert_eq!(get(&mut log, 0..7), [(1, 5), (1, 6)]);
        thread.write_one();
    }
    assert!(matches!(poll_once(&mut purging), Poll::Ready(Ok(()))));
    let mut other = log.clone();
    let mut purging = pin!(other.purge(id(3, 20)));
    assert!(poll_once(&mut purging).is_pending());
    assert!(now(log.limited_get_log_entries(9, 10)).is_err());
    assert_eq!(log.last(), Some(id(3, 20)), "as after a snapshot that is ahead of the log");
    append(&mut log, vec![blank(3, 21)]);
    assert_eq!(get(&mut log, 0..100), [(3, 21)]);
}

#[test]
fn a_cut_behind_the_end_cuts_nothing() {
    let Disk { mut log, thread: _waits, _directory } = by_hand();
    append(&mut log, vec![blank(1, 0), blank(1, 1)]);
    now(log.truncate_after(Some(id(1, 5)))).unwrap();
    assert_eq!(log.last(), Some(id(1, 1)));
    assert_eq!(now(log.limited_get_log_entries(2, 4)).unwrap(), [], "there is nothing yet");
}

#[test]
fn a_hole_is_damage() {
    let directory = TempDir::new().unwrap();
    let family = open_store(directory.path()).log();
    let mut batch = LogBatch::default();
    for index in [0, 1, 3, 4] {
        batch.put_entry(PARTITION, index, entry_to(&blank(1, index)));
    }
    family.write(batch).unwrap();
    let (mut thread, handle) = ByHand::new(family);
    let mut log = GroupLog::open(PARTITION, handle).unwrap();
    let error = |log: &mut GroupLog, range| now(log.try_get_log_entries::<Range<u64>>(range)).unwrap_err().to_string();
    assert!(error(&mut log, 0..5).contains("no entry 2"));
    assert!(error(&mut log, 2..4).contains("no entry 2"), "it would be the first");
    assert!(error(&mut log, 1..3).contains("no entry 2"), "it would be the last");
    assert_eq!(get(&mut log, 3..9), [(1, 3), (1, 4)]);
    append(&mut log, vec![blank(1, 5)]);
    assert!(error(&mut log, 2..6).contains("no entry 2"), "memory has the rest");
    thread.write_one();
    assert!(error(&mut log, 2..6).contains("no entry 2"));
}

#[test]
fn a_vote_that_was_saved_is_read() {
    let Disk { mut thread, mut log, _directory } = by_hand();
    let vote = |term| Vote { leader_id: Leader::new(term, 1), committed: false };
    for term in [1, 2] {
        let mut other = log.clone();
        let vote = vote(term);
        let mut saving = pin!(other.save_vote(&vote));
        assert!(poll_once(&mut saving).is_pending(), "not before it is on the disk");
        thread.write_one();
        assert!(matches!(poll_once(&mut saving), Poll::Ready(Ok(()))));
        assert_eq!(now(log.read_vote()).unwrap(), Some(vote));
    }
    drop(log);
}

#[test]
fn a_read_is_of_one_moment() {
    let Disk { mut thread, mut log, _directory } = by_hand();
    append(&mut log, (0..6).map(|index| large(1, index, limits::LOG_TAIL_BYTES / 2)).collect());
    thread.write_one();
    log.applied(5);
    assert!(log.tail().in_memory() > 3, "some only on the disk, and some in memory");
    assert!(log.tail().in_memory() < 6);
    let reader = log.clone();
    // Cut and written anew between the looks: what was in memory does not fit what is on the disk.
    let mut times = 0;
    let read = reader.read_around(0, 9, usize::MAX, || {
        times += 1;
        if times > 1 {
            return;
        }
        let mut other = log.clone();
        let mut cutting = pin!(other.truncate_after(Some(id(1, 1))));
        assert!(poll_once(&mut cutting).is_pending());
        append(&mut log, (2..5).map(|index| blank(2, index)).collect());
        thread.write_one();
        thread.write_one();
        assert!(matches!(poll_once(&mut cutting), Poll::Ready(Ok(()))));
    });
    assert_eq!(ids(&read.unwrap()), [(1, 0), (1, 1), (2, 2), (2, 3), (2, 4)]);
    assert_eq!(times, 2);
    // Purged between the looks: what is gone is no hole.
    let mut times = 0;
    let read = reader.read_around(0, 9, usize::MAX, || {
        times += 1;
        if times > 1 {
            return;
        }
        let mut other = log.clone();
        let mut purging = pin!(other.purge(id(1, 0)));
        assert!(poll_once(&mut purging).is_pending());
        thread.write_one();
        assert!(matches!(poll_once(&mut purging), Poll::Ready(Ok(()))));
    });
    assert_eq!(ids(&read.unwrap()), [(1, 1), (2, 2), (2, 3), (2, 4)]);
    assert_eq!(times, 2);
}
