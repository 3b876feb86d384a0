//! Sends a snapshot to a follower: a header, the answer from where on, the parts from there, the answer that it is
//! installed. HTTP/2 holds the parts back while the follower writes; either end gives up when the other falls silent.
//!
//! A transfer that broke off is made again by openraft, which asks for the snapshot again and gets the same one
//! (`exports`), so that the follower goes on with what it has.

#[cfg(test)]
mod tests;

use std::future::Future;
use std::os::unix::fs::FileExt as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{Stream, stream};
use openraft::StorageError;
use openraft::alias::ErrorSourceOf;
use openraft::errors::{ErrorSource as _, ReplicationClosed, StreamingError, Unreachable};
use openraft::raft::SnapshotResponse;
use openraft::storage::Snapshot;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::clock;
use crate::ids::PartitionId;
use crate::limits;
use crate::peers::{Client, Peers};
use crate::raft::exports::Outgoing;
use crate::raft::state_machine::SnapshotData;
use crate::raft::types::{Address, Leader, NodeId, Types, Vote, entry_id_to, stored_members_to, vote_message, vote_of};
use crate::store::{Export, Position, StoreError};
use crate::telemetry::metrics::{self, Direction};
use crate::wire::v1::snapshot_part::Part;
use crate::wire::v1::snapshot_progress::Progress;
use crate::wire::v1::{HelloRequest, SnapshotChunk, SnapshotFile, SnapshotHeader, SnapshotPart};

const STALL: Duration = Duration::from_millis(limits::SNAPSHOT_STALL_MS);
const INSTALL: Duration = Duration::from_millis(limits::SNAPSHOT_INSTALL_MS);

type Failed = StreamingError<Types>;

/// Every failure but the end of the group is tried again after a while: it may be the network, the follower, or a disk that
/// is full for now.
fn unreachable(why: impl std::fmt::Display) -> Failed {
    StreamingError::Unreachable(Unreachable::from_string(why.to_string()))
}

/// Sends a snapshot to `target`, until it is installed there or `cancel` ends it.
pub(super) async fn send(
    peers: &Peers,
    target: NodeId,
    partition: PartitionId,
    vote: Vote,
    snapshot: Snapshot<Leader, NodeId, Address, SnapshotData>,
    cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
) -> Result<SnapshotResponse<Types>, Failed> {
    let sent = async {
        let SnapshotData::Outgoing(outgoing) = snapshot.snapshot else {
            return Err(unreachable("the group has only just started: it has no snapshot to send yet"));
        };
        let begun = clock::monotonic();
        let sent = transfer(peers, target, partition, vote, &outgoing).await;
        metrics::snapshot(Direction::Sent, sent.is_ok(), clock::monotonic().since(begun));
        if let Err(error) = &sent {
            tracing::info!(%partition, target, snapshot = outgoing.id(), %error, "a snapshot was not sent: it is tried again");
        }
        sent
    };
    tokio::select! {
        closed = pin!(cancel) => Err(StreamingError::Closed(closed)),
        sent = sent => sent,
    }
}

async fn transfer(
    peers: &Peers,
    target: NodeId,
    partition: PartitionId,
    vote: Vote,
    outgoing: &Arc<Outgoing>,
) -> Result<SnapshotResponse<Types>, Failed> {
    let client = || peers.bulk_client(target).ok_or_else(|| unreachable(format!("node {target} has no address")));
    // Nothing is written for a node that is not there.
    let mut greeted = client()?;
    let hello = timeout(STALL, greeted.hello(HelloRequest {})).await;
    hello.map_err(|_| unreachable("it does not answer"))?.map_err(unreachable)?;
    let _sending = outgoing.sending().ok_or_else(|| unreachable("the group ends"))?;
    let export = outgoing.export().await.map_err(|error| match error {
        StoreError::Damaged(_) => {
            StreamingError::StorageError(StorageError::read_snapshot(None, ErrorSourceOf::<Types>::from_error(&error)))
        }
        StoreError::Disk(_) | StoreError::InUse { .. } | StoreError::Identity { .. } => unreachable(error),
    })?;
    let meta = outgoing.meta();
    let header = SnapshotHeader {
        partition: u32::from(partition.0),
        vote: Some(vote_message(&vote)),
        last: meta.last_log_id.as_ref().map(entry_id_to),
        membership: Some(stored_members_to(&meta.last_membership)),
        snapshot_id: format!("{}-{}", peers.me().node_id, outgoing.id()),
        files: export.files().iter().map(|file| SnapshotFile { bytes: file.bytes, crc32c: file.crc32c }).collect(),
    };
    talk(client()?, header, export).await.map_err(unreachable).map(SnapshotResponse::new)
}

/// Why one attempt ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Status(#[from] tonic::Status),
    #[error("it ended the transfer without an answer")]
    Ended,
    #[error("it answered out of turn")]
    Turn,
    #[error("nothing moved for too long")]
    Stalled,
    #[error("a file of the snapshot cannot be read: {0}")]
    File(String),
}

/// What the parts that were taken by the connection say to whoever waits for the answer.
#[derive(Default)]
struct Sent {
    parts: AtomicU64,
    /// All of them: what is missing is the install.
    all: std::sync::atomic::AtomicBool,
    failed: std::sync::OnceLock<String>,
}

async fn talk(mut client: Client, header: SnapshotHeader, export: Arc<Export>) -> Result<Vote, Broken> {
    let (start, from) = oneshot::channel();
    let sent = Arc::new(Sent::default());
    let parts = parts(header, export, from, Arc::clone(&sent));
    let answers = timeout(STALL, client.install_snapshot(parts)).await.map_err(|_| Broken::Stalled)??;
    let mut answers = answers.into_inner();
    let first = timeout(INSTALL, answers.message()).await.map_err(|_| Broken::Stalled)??;
    match first.and_then(|answer| answer.progress).ok_or(Broken::Ended)? {
        Progress::Installed(vote) => return Ok(vote_of(&vote)),
        Progress::From(position) => {
            let file = usize::try_from(position.file).unwrap_or(usize::MAX);
            // Who waits for it is gone only if the call has ended, which its answer says.
            let _ = start.send(Position { file, offset: position.offset });
        }
    }
    let mut seen = 0;
    loop {
        let all = sent.all.load(Ordering::Relaxed);
        let Ok(answer) = timeout(if all { INSTALL } else { STALL }, answers.message()).await else {
            let now = sent.parts.load(Ordering::Relaxed);
            // What was sent last gets its time too.
            if now == seen && all == sent.all.load(Ordering::Relaxed) {
                return Err(Broken::Stalled);
            }
            seen = now;
            continue;
        };
        if let Some(error) = sent.failed.get() {
            return Err(Broken::File(error.clone()));
        }
        return match answer?.and_then(|answer| answer.progress).ok_or(Broken::Ended)? {
            Progress::Installed(vote) => Ok(vote_of(&vote)),
            Progress::From(_) => Err(Broken::Turn),
        };
    }
}

/// Where the stream of parts stands.
enum Next {
    Header(Box<SnapshotHeader>, oneshot::Receiver<Position>),
    Wait(oneshot::Receiver<Position>),
    At(Position),
}

/// The header, and the parts from where the receiver says. Each is read when the connection has room for it.
fn parts(
    header: SnapshotHeader,
    export: Arc<Export>,
    from: oneshot::Receiver<Position>,
    sent: Arc<Sent>,
) -> impl Stream<Item = SnapshotPart> + Send + 'static {
    stream::unfold(Next::Header(Box::new(header), from), move |next| {
        let (export, sent) = (Arc::clone(&export), Arc::clone(&sent));
        async move {
            let at = match next {
                Next::Header(header, from) => {
                    return Some((SnapshotPart { part: Some(Part::Header(*header)) }, Next::Wait(from)));
                }
                Next::Wait(from) => from.await.ok()?,
                Next::At(position) => position,
            };
            sent.parts.fetch_add(1, Ordering::Relaxed);
            let Some(file) = export.files().get(at.file).copied() else {
                sent.all.store(true, Ordering::Relaxed);
                return None;
            };
            match read(export, at, file.bytes).await {
                Ok(data) => {
                    let offset = at.offset.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
                    let next = match offset < file.bytes {
                        true => Position { file: at.file, offset },
                        false => Position { file: at.file.saturating_add(1), offset: 0 },
                    };
                    metrics::snapshot_bytes(Direction::Sent, data.len());
                    let file = u32::try_from(at.file).unwrap_or(u32::MAX);
                    let chunk = SnapshotChunk { file, offset: at.offset, data: data.into() };
                    Some((SnapshotPart { part: Some(Part::Chunk(chunk)) }, Next::At(next)))
                }
                Err(error) => {
                    // The first error counts; there is no second.
                    let _ = sent.failed.set(error);
                    None
                }
            }
        }
    })
}

async fn read(export: Arc<Export>, at: Position, bytes: u64) -> Result<Vec<u8>, String> {
    let part = bytes.saturating_sub(at.offset).min(limits::SNAPSHOT_CHUNK_BYTES as u64);
    let read = tokio::task::spawn_blocking(move || {
        let mut data = vec![0; usize::try_from(part).unwrap_or_default()];
        std::fs::File::open(export.path(at.file))?.read_exact_at(&mut data, at.offset)?;
        Ok::<_, std::io::Error>(data)
    });
    read.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}
