//! One thread writes the logs of all groups: it takes a request, drains what else waits, writes it all in one batch,
//! syncs once, and tells everybody. No timer: what gathers while the last write syncs goes together.
//!
//! The order of requests is the order on the disk, which Raft needs of votes and entries. After the first error
//! nothing is ever written again: what is on the disk is unknown then.

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use crate::clock;
use crate::ids::PartitionId;
use crate::limits;
use crate::raft::types::Types;
use crate::store::{LogBatch, LogFamily};
use crate::telemetry::metrics;

/// Requests that may wait for the log thread: far more than all groups have in flight together.
const QUEUE: usize = 16_384;

/// What a group wants written.
pub(super) enum Write {
    Entries { entries: Vec<(u64, Vec<u8>)>, flushed: IOFlushed<Types>, durable: Durable },
    Vote { bytes: Vec<u8>, done: Done },
    Truncate { from: u64, done: Done },
    Purge { index: u64, log_id: Vec<u8>, done: Done },
}

/// Told whether entries are on the disk now, once it is known.
pub(super) type Durable = Box<dyn FnOnce(bool) + Send>;
/// Told once a request is on the disk, or never will be.
pub(super) type Done = oneshot::Sender<io::Result<()>>;

/// A request of one group.
pub(super) struct Request {
    partition: PartitionId,
    write: Write,
}

/// Takes requests for the log thread. Cheap to clone.
#[derive(Clone)]
pub struct LogHandle {
    requests: mpsc::Sender<Request>,
    /// For reading what was written.
    pub(super) family: LogFamily,
    broken: Arc<OnceLock<String>>,
}

impl LogHandle {
    /// Why nothing is written any more, if so: it concerns every group of the node.
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }

    pub(super) async fn send(&self, partition: PartitionId, write: Write) -> io::Result<()> {
        self.requests.send(Request { partition, write }).await.map_err(|_| stopped())
    }
}

fn stopped() -> io::Error {
    io::Error::other("the log thread has stopped")
}

/// The running thread. It ends when every handle is gone.
pub struct LogThread {
    thread: Option<JoinHandle<()>>,
}

impl LogThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the machine gives no thread.
    pub fn start(family: LogFamily) -> io::Result<(Self, LogHandle)> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let writer = family.clone();
        let broken: Arc<OnceLock<String>> = Arc::default();
        let breaks = Arc::clone(&broken);
        let thread =
            std::thread::Builder::new().name("holdfast-log".to_owned()).spawn(move || run(&writer, queue, &breaks))?;
        Ok((Self { thread: Some(thread) }, LogHandle { requests, family, broken }))
    }

    /// Waits until the thread has written what it was given. Every [`LogHandle`] must be gone.
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log thread panicked");
        }
    }
}

/// What is told once a batch is on the disk.
enum Told {
    Entries { count: usize, flushed: IOFlushed<Types>, durable: Durable },
    Done(Done),
}

/// How many log entries are among what is told.
fn entries(told: &[Told]) -> usize {
    let counts = told.iter().map(|told| match told {
        Told::Entries { count, .. } => *count,
        Told::Done(_) => 0,
    });
    counts.sum()
}

fn run(family: &LogFamily, mut queue: mpsc::Receiver<Request>, broken: &OnceLock<String>) {
    while let Some(first) = queue.blocking_recv() {
        let mut batch = LogBatch::default();
        let mut told = Vec::new();
        let mut bytes = gather(first, &mut batch, &mut told);
        while bytes < limits::MAX_SYNC_BYTES {
            let Ok(next) = queue.try_recv() else { break };
            bytes = bytes.saturating_add(gather(next, &mut batch, &mut told));
        }
        write(family, batch, bytes, told, broken);
    }
}

/// Writes a batch and tells everybody whose request is in it.
fn write(family: &LogFamily, batch: LogBatch, bytes: usize, told: Vec<Told>, broken: &OnceLock<String>) {
    if broken.get().is_none() {
        let begun = clock::monotonic();
        match family.write(batch) {
            Ok(()) => metrics::log_sync(entries(&told), bytes, clock::monotonic().since(begun)),
            Err(error) => {
                tracing::error!(%error, "the log cannot be written: this node stops serving");
                // Set once: the first error is the one that counts.
                let _ = broken.set(error.to_string());
            }
        }
    }
    for one in told {
        tell(one, broken.get().map(String::as_str));
    }
}

/// Adds a request to the batch; returns its bytes.
fn gather(request: Request, batch: &mut LogBatch, told: &mut Vec<Told>) -> usize {
    let partition = request.partition;
    match request.write {
        Write::Entries { entries, flushed, durable } => {
            let (count, mut bytes) = (entries.len(), 0_usize);
            for (index, entry) in entries {
                bytes = bytes.saturating_add(entry.len());
                batch.put_entry(partition, index, entry);
            }
            told.push(Told::Entries { count, flushed, durable });
            bytes
        }
        Write::Vote { bytes, done } => {
            let len = bytes.len();
            batch.put_vote(partition, bytes);
            told.push(Told::Done(done));
            len
        }
        Write::Truncate { from, done } => {
            batch.truncate(partition, from);
            told.push(Told::Done(done));
            0
        }
        Write::Purge { index, log_id, done } => {
            batch.purge(partition, index, log_id);
            told.push(Told::Done(done));
            0
        }
    }
}

fn tell(told: Told, broken: Option<&str>) {
    let result = || broken.map_or(Ok(()), |reason| Err(io::Error::other(reason.to_owned())));
    match told {
        Told::Entries { flushed, durable, .. } => {
            durable(broken.is_none());
            flushed.io_completed(result());
        }
        Told::Done(done) => {
            // Whoever asked may have gone: then nobody needs to know.
            let _ = done.send(result());
        }
    }
}

/// The thread's work, one request at a time and only when told to.
#[cfg(test)]
pub(super) struct ByHand {
    handle: LogHandle,
    queue: mpsc::Receiver<Request>,
}

#[cfg(test)]
impl ByHand {
    pub(super) fn new(family: LogFamily) -> (Self, LogHandle) {
        let (requests, queue) = mpsc::channel(QUEUE);
        let handle = LogHandle { requests, family, broken: Arc::default() };
        (Self { handle: handle.clone(), queue }, handle)
    }

    /// Writes the oldest request, and tells whoever waits for it.
    pub(super) fn write_one(&mut self) {
        let request = self.queue.try_recv().expect("a request");
        let (mut batch, mut told) = (LogBatch::default(), Vec::new());
        let bytes = gather(request, &mut batch, &mut told);
        write(&self.handle.family, batch, bytes, told, &self.handle.broken);
    }
}
