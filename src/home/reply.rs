//! What the global group answers.

use crate::home::ledger::{TaskId, Withdrawn};
use crate::home::rows::Write;
use crate::home::state::StreamId;
use crate::ids::{Digest, Epoch, RecordKey, RegionName};
use crate::time::LogTime;

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The home is under the global group.
    Adopted,
    /// These regions may act, in this order.
    Ordered,
    /// The lease begins anew under this number.
    Renewed {
        /// The renewal's number.
        renewal: u64,
    },
    /// The region acts in this epoch. It has no lease before its first renewal.
    TookOver {
        /// The epoch.
        epoch: Epoch,
    },
    /// So much of the stream is there.
    Shipped {
        /// The position of the last mutation that is merged.
        watermark: u64,
        /// How many of this batch were not there before.
        merged: usize,
    },
    /// The epoch is settled.
    Settled,
    /// The epoch is lost.
    Lost,
    /// The epoch is retired.
    Retired,
    /// The region's incarnation is this, and these epochs of it are lost with it.
    Restored {
        /// The incarnation.
        incarnation: u64,
        /// The epochs that were not lost before.
        lost: Vec<Epoch>,
    },
    /// What became of each key.
    Swept(Vec<(RecordKey, Swept)>),
    /// So many entries went.
    Pruned(usize),
    /// What became of each task.
    Acknowledged(Vec<(TaskId, Result<(), TaskRefused>)>),
    /// The task is done.
    Closed,
    /// Nothing was done, and nothing will be.
    Refused(Refused),
}

/// What a sweep does with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swept {
    /// It goes.
    Removed,
    /// It stays.
    Kept(Kept),
}

/// Why a record stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// There is none.
    Absent,
    /// It is of another home.
    OtherHome,
    /// An epoch that may have granted the key is neither settled nor retired.
    Unsettled,
    /// A grant is held, or an outcome is unknown.
    Unended,
    /// A compensation task of it is not closed.
    OpenTask,
    /// Its time has not come.
    NotDue {
        /// When it comes.
        at: LogTime,
    },
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The home was never adopted.
    #[error("the home {0} is not known here: adopt it first")]
    UnknownHome(RegionName),
    /// The home was adopted before, and not like this.
    #[error("the home is here already, in epoch {epoch} of {acting}: use TakeOver to change who acts")]
    HomeKnown {
        /// Its epoch.
        epoch: Epoch,
        /// Its acting region.
        acting: RegionName,
    },
    /// Epochs begin at 1.
    #[error("a home's epochs begin at 1, and this is 0")]
    NoEpoch,
    /// The list of regions is empty, too long, or names one twice.
    #[error("a home's order names 1 to {most} regions, each once: this names {got}")]
    Order {
        /// How many it names.
        got: usize,
        /// How many it may.
        most: usize,
    },
    /// The region may not act for this home.
    #[error("the region {0} is not in the home's order: put it there first")]
    NotInOrder(RegionName),
    /// The region's data went back in time since, or its own number is not known here yet.
    #[error(
        "the region's incarnation is {known} here, and this is of {got}: a restored region reports itself first, and does nothing before it has read that entry"
    )]
    Incarnation {
        /// The one that is known.
        known: u64,
        /// The command's.
        got: u64,
    },
    /// The epoch is of another life of the region's data.
    #[error(
        "epoch {epoch} is of the region's incarnation {of}, and this is of {got}: take over for an epoch of this one"
    )]
    OtherIncarnation {
        /// The epoch.
        epoch: Epoch,
        /// The incarnation that its takeover named.
        of: u64,
        /// The command's.
        got: u64,
    },
    /// The number of a region's incarnation is too large.
    #[error("the incarnation {got} is above {most}: count a region's incarnations one by one")]
    TooManyRestores {
        /// The command's.
        got: u64,
        /// The largest.
        most: u64,
    },
    /// Another epoch holds.
    #[error("the epoch is {current}, and this is for {got}: read the home again")]
    OtherEpoch {
        /// The one that holds.
        current: Epoch,
        /// The command's.
        got: Epoch,
    },
    /// Another region acts.
    #[error("{acting} acts in this epoch: only it may do this")]
    NotActing {
        /// The region that acts.
        acting: RegionName,
    },
    /// The epoch is lost already while it is the current one.
    #[error("the epoch is lost, since its region was restored: it can only end, so take over")]
    EpochLost,
    /// A lease that is too short or too long.
    #[error("a home lease of {got} ms is outside {least} to {most} ms")]
    Lease {
        /// Asked for.
        got: u32,
        /// The shortest.
        least: u32,
        /// The longest.
        most: u32,
    },
    /// The home lease was renewed since.
    #[error("the home lease was renewed since (renewal {current}, this saw {seen}): the region acts, so wait anew")]
    RenewedSince {
        /// The last renewal.
        current: u64,
        /// The one that was waited for.
        seen: u64,
    },
    /// Too many epochs are open behind the home.
    #[error(
        "{most} ended epochs are neither settled nor retired: recover their regions, so that they settle, before another epoch"
    )]
    TooManyEnded {
        /// How many there may be.
        most: usize,
    },
    /// Before a planned switchover nothing may be in doubt.
    #[error("epoch {0} is neither settled nor lost: settle it, or declare it lost, before a planned switchover")]
    OlderUnsettled(Epoch),
    /// The stream's end is not here.
    #[error("the stream is here up to {watermark}{}, and its end is {end}: ship the rest first", if *.sealed { ", sealed there" } else { "" })]
    NotDrained {
        /// How far it is here.
        watermark: u64,
        /// It is sealed there.
        sealed: bool,
        /// Where the command says that it ends.
        end: u64,
    },
    /// Too much in one command.
    #[error("{got} {what} in one command, at most {most}: send less at a time")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How much.
        got: usize,
        /// The most.
        most: usize,
    },
    /// Mutations are missing in between.
    #[error("mutations are missing: the stream is here up to {watermark}, and this begins at {first}: ship from {}", .watermark + 1)]
    Gap {
        /// How far it is here.
        watermark: u64,
        /// Where the batch begins.
        first: u64,
    },
    /// What is here of the stream is not what the region has of it.
    #[error(
        "the stream's chain hash at {at} is {ours:?} here and {theirs:?} at the sender: its data was changed or restored behind the store's back, so report a restore"
    )]
    Diverged {
        /// At which position.
        at: u64,
        /// Ours.
        ours: Digest,
        /// The sender's.
        theirs: Digest,
    },
    /// There is something after the seal, or a seal where none can be.
    #[error("the stream ends with its seal at {end}, and this has more")]
    AfterSeal {
        /// The position of the seal.
        end: u64,
    },
    /// A mutation that no region writes.
    #[error("the mutation at {at} is none that a region writes: {why}")]
    Malformed {
        /// Its position.
        at: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The key is one of another home.
    #[error("the key {key} belongs to the home {home}: its home never changes, so one of the two streams is wrong")]
    OtherHome {
        /// The key.
        key: RecordKey,
        /// Its home.
        home: RegionName,
    },
    /// The epoch is settled or retired: nothing of it is missing, or nothing of it is wanted any more.
    #[error("epoch {0} is settled or retired: nothing of it is taken any more, and what is left of it may go")]
    Over(Epoch),
    /// The epoch has not ended.
    #[error("epoch {0} has not ended: only a takeover ends it")]
    NotEnded(Epoch),
    /// The stream of the epoch is not sealed.
    #[error("the stream is here up to {watermark}, without its seal: seal the epoch in its region and ship all of it")]
    NotSealed {
        /// How far it is here.
        watermark: u64,
    },
    /// The epoch is not lost, so it is settled and not retired.
    #[error("epoch {0} is not lost: it is to be settled, not retired")]
    NotLost(Epoch),
    /// A lost epoch may still hide something.
    #[error("the lost epoch may hide a key until log time {at}")]
    NotRetirable {
        /// Until when.
        at: LogTime,
    },
    /// Without a name and a reason nobody decides this.
    #[error("say who decides this, and why")]
    Unsigned,
    /// The region says that it removed keys further on than its stream is here.
    #[error("the stream {} is here up to {watermark}, and the keys were removed at {up_to}: ship first", .stream.epoch)]
    Behind {
        /// The stream.
        stream: Box<StreamId>,
        /// How far it is here.
        watermark: u64,
        /// Where the keys were removed.
        up_to: u64,
    },
    /// A task.
    #[error(transparent)]
    Task(#[from] TaskRefused),
}

/// Why a task is not taken on or closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskRefused {
    /// There is none.
    #[error("there is no such task: it went with its record, or never was")]
    Unknown,
    /// Another worker has it.
    #[error("{worker} has the task: name it as the one you act instead of, if it does not do it")]
    Taken {
        /// Who.
        worker: Box<str>,
    },
    /// It is done.
    #[error("the task is closed")]
    Closed,
    /// It was withdrawn.
    #[error("the task was withdrawn: {}", match .why { Withdrawn::Won => "its grant stands", Withdrawn::Released => "its grant did not run" })]
    Withdrawn {
        /// Why.
        why: Withdrawn,
    },
}

/// What a command comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub reply: Reply,
    /// The rows that change. None with a refusal.
    pub writes: Vec<Write>,
}
