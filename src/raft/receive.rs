//! Takes a snapshot in from the leader: what is there of it already is verified, the rest is asked for, and what is whole
//! is installed. The receiving side of `snapshot`.
//!
//! Deliberately absent: who may call (`api` has checked it), and the bytes on the disk (`store`).

use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _, stream};
use openraft::async_runtime::WatchReceiver as _;
use openraft::storage::Snapshot;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tonic::Status;

use crate::clock;
use crate::codec::CodecError;
use crate::limits;
use crate::raft::exports::Meta;
use crate::raft::group::Group;
use crate::raft::state_machine::SnapshotData;
use crate::raft::types::{EntryId, Vote, entry_id_from, stored_members_from, vote_message, vote_of};
use crate::store::{Incoming, Position, Received, Refused, SnapshotFile};
use crate::telemetry::metrics::{self, Direction};
use crate::wire::v1::snapshot_part::Part;
use crate::wire::v1::snapshot_progress::Progress;
use crate::wire::v1::{SnapshotHeader, SnapshotPart, SnapshotPosition, SnapshotProgress};

const STALL: Duration = Duration::from_millis(limits::SNAPSHOT_STALL_MS);

/// A snapshot that came in whole. Until it is installed, or found not to be needed, no other one comes in.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) received: Received,
    pub(super) place: Place,
}

/// The group's place for a snapshot that comes in, and one of the node's.
#[derive(Debug)]
pub(super) struct Place(#[expect(dead_code, reason = "held, not read")] [OwnedSemaphorePermit; 2]);

/// A snapshot on its way in.
struct Coming<S> {
    group: Group,
    vote: Vote,
    meta: Meta,
    incoming: Incoming,
    place: Place,
    parts: S,
}

enum Phase<S> {
    Begin(Box<Group>, Box<SnapshotHeader>, S),
    Take(Box<Coming<S>>),
    End,
}

type Answer = Result<SnapshotProgress, Status>;

fn answer(progress: Progress) -> SnapshotProgress {
    SnapshotProgress { progress: Some(progress) }
}

fn not_understood(error: CodecError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn refused(refused: Refused) -> Status {
    match &refused {
        Refused::Header(_) | Refused::Place { .. } => Status::invalid_argument(refused.to_string()),
        Refused::Damaged { .. } => Status::data_loss(refused.to_string()),
        Refused::Store(_) => Status::resource_exhausted(refused.to_string()),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refused> + Send + 'static) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Status::internal(error.to_string()))?.map_err(refused)
}

impl Group {
    /// Takes a snapshot in, whose header came already. The first answer says from where on `parts` are to come, or that
    /// nothing is needed; the last one that it is installed. Dropping the answers breaks the transfer off; a later call for
    /// the same snapshot goes on where this one ended.
    pub fn peer_snapshot<S>(&self, header: SnapshotHeader, parts: S) -> BoxStream<'static, Answer>
    where
        S: Stream<Item = Result<SnapshotPart, Status>> + Send + Unpin + 'static,
    {
        let begin = Phase::Begin(Box::new(self.clone()), Box::new(header), parts);
        let answers = stream::unfold(begin, async |phase| match phase {
            Phase::Begin(group, header, parts) => Some(match begin_with(*group, *header, parts).await {
                Ok((first, next)) => (Ok(first), next),
                Err(status) => (Err(status), Phase::End),
            }),
            Phase::Take(coming) => Some((coming.take().await, Phase::End)),
            Phase::End => None,
        });
        Box::pin(answers)
    }

    fn my_vote(&self) -> Vote {
        self.raft.server_metrics().borrow_watched().vote
    }
}

async fn begin_with<S>(group: Group, header: SnapshotHeader, parts: S) -> Result<(SnapshotProgress, Phase<S>), Status> {
    if let Some(reason) = group.stopped() {
        return Err(Status::unavailable(format!("the partition has stopped: {reason}")));
    }
    let vote = vote_of(&header.vote.ok_or_else(|| Status::invalid_argument("a snapshot without a vote"))?);
    let last = header.last.as_ref().map(entry_id_from);
    let last = last.ok_or_else(|| Status::invalid_argument("a snapshot without its last entry"))?;
    let mine = group.my_vote();
    if mine > vote || group.applied() >= Some(last) {
        return Ok((answer(Progress::Installed(vote_message(&mine))), Phase::End));
    }
    fits(&group, vote, last)?;
    let last_membership = stored_members_from(header.membership).map_err(not_understood)?;
    let meta = Meta { last_log_id: Some(last), last_membership };
    let busy =
        |what| Status::resource_exhausted(format!("{what} takes in as many snapshots as it may: try again later"));
    let place = Place([
        group.receives().ok_or_else(|| busy("the partition"))?,
        group.family().may_install().ok_or_else(|| busy("the node"))?,
    ]);
    let files = header.files.iter().map(|file| SnapshotFile { bytes: file.bytes, crc32c: file.crc32c }).collect();
    let (family, id) = (group.family().clone(), header.snapshot_id);
    let incoming = blocking(move || family.receive(&id, files)).await?;
    // Everything is there: what comes next is behind the last file.
    let at = incoming.position().unwrap_or(Position { file: header.files.len(), offset: 0 });
    let file = u32::try_from(at.file).unwrap_or(u32::MAX);
    let from = answer(Progress::From(SnapshotPosition { file, offset: at.offset }));
    Ok((from, Phase::Take(Box::new(Coming { group, vote, meta, incoming, place, parts }))))
}

/// openraft takes a snapshot that contradicts what is committed here, or its own leader, for the end of the world.
fn fits(group: &Group, vote: Vote, last: EntryId) -> Result<(), Status> {
    let by = (last.leader_id.term, last.leader_id.node_id);
    let leads = (vote.leader_id.term, vote.leader_id.node_id);
    let contradicts = group.applied().is_some_and(|applied| last.index <= applied.index);
    match vote.committed && by <= leads && !contradicts {
        true => Ok(()),
        false => Err(Status::failed_precondition(format!("a snapshot up to {last} of {vote} contradicts this node"))),
    }
}

impl<S> Coming<S>
where
    S: Stream<Item = Result<SnapshotPart, Status>> + Send + Unpin + 'static,
{
    /// Takes the parts, installs, and answers with the vote of this node.
    async fn take(self: Box<Self>) -> Answer {
        let begun = clock::monotonic();
        let answer = self.install().await;
        metrics::snapshot(Direction::Received, answer.is_ok(), clock::monotonic().since(begun));
        answer
    }

    async fn install(self: Box<Self>) -> Answer {
        let Self { group, vote, meta, mut incoming, place, mut parts } = *self;
        while incoming.position().is_some() {
            let part = timeout(STALL, parts.next()).await;
            let part = part.map_err(|_| Status::deadline_exceeded("nothing came for too long"))?;
            let part = part.ok_or_else(|| Status::aborted("the snapshot ended before its last part"))??;
            let Some(Part::Chunk(chunk)) = part.part else {
                return Err(Status::invalid_argument("a part of a snapshot is not one"));
            };
            let at = Position { file: usize::try_from(chunk.file).unwrap_or(usize::MAX), offset: chunk.offset };
            metrics::snapshot_bytes(Direction::Received, chunk.data.len());
            incoming = blocking(move || incoming.take(at, &chunk.data).map(|()| incoming)).await?;
        }
        let received = blocking(move || incoming.finish()).await?;
        let snapshot = SnapshotData::Received(Box::new(Arrived { received, place }));
        let installed = group.raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
        let response = installed.map_err(|fatal| {
            group.check();
            Status::unavailable(fatal.to_string())
        })?;
        Ok(answer(Progress::Installed(vote_message(&response.vote))))
    }
}
