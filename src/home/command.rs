//! What may be asked of the global group of a partition.

use crate::control::Signature;
use crate::home::evidence::{Attempt, Placed};
use crate::home::ledger::{TaskId, Verdict};
use crate::home::state::StreamId;
use crate::ids::{Digest, EndpointName, Epoch, RecordKey, RegionName};
use crate::policy::Consistency;

/// A home comes under the global group, as it is in the region that acts for it. All epochs before are settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopt {
    /// The home.
    pub home: RegionName,
    /// The region that acts.
    pub acting: RegionName,
    /// Its epoch there.
    pub epoch: Epoch,
    /// Which regions may act, the preferred first.
    pub order: Vec<RegionName>,
}

/// The acting region holds its home lease anew (R1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewLease {
    /// The home.
    pub home: RegionName,
    /// The region.
    pub region: RegionName,
    /// Its incarnation.
    pub incarnation: u64,
    /// The epoch that it acts in.
    pub epoch: Epoch,
    /// How long, in milliseconds, counted by the holder from before it sent this.
    pub lease_ms: u32,
}

/// A region acts from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeOver {
    /// The home.
    pub home: RegionName,
    /// The new epoch: the current one and one more.
    pub epoch: Epoch,
    /// The region.
    pub region: RegionName,
    /// Its incarnation.
    pub incarnation: u64,
    /// Why it may.
    pub cause: Cause,
}

/// Why a region may take over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its leader waited until the home lease of this renewal had run out (R1).
    RanOut {
        /// The last renewal that it had applied when it began to wait.
        renewal: u64,
    },
    /// An operator says that the region before it does not act any more.
    Vouched {
        /// The last renewal that the operator saw.
        renewal: u64,
        /// Who, and why.
        signature: Signature,
    },
    /// The region before it has drained, sealed and shipped everything (R14).
    Planned {
        /// The position of its seal.
        end: u64,
        /// Endpoints whose consistency is another from this epoch on.
        contracts: Vec<(EndpointName, Consistency)>,
    },
}

/// A part of a stream, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ship {
    /// Of which stream.
    pub stream: StreamId,
    /// The position of the first mutation.
    pub first: u64,
    /// The chain hash before it, as the sender has it.
    pub chain: Digest,
    /// The mutations.
    pub mutations: Vec<Mutation>,
}

/// One mutation of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    /// SHA-256 over its bytes. Whoever decodes it takes the digest of what it decodes, and believes nobody.
    pub digest: Digest,
    /// How many bytes it takes up, its envelopes included.
    pub bytes: usize,
    /// What it says.
    pub change: Change,
}

/// What a mutation says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key changed.
    Key(Box<KeyChange>),
    /// Nothing of this epoch commits in the region any more (R5). The stream's last.
    Seal,
}

/// What changed of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The key.
    pub key: RecordKey,
    /// Every grant that is new or further, as it stands now.
    pub attempts: Vec<Attempt>,
    /// A word on the recovery point, if one was said.
    pub placed: Option<Placed>,
}

/// A region's data went back in time: it was restored from a backup, or its quorum was forced (R16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The home. Every home is told, also one that the region never acted for.
    pub home: RegionName,
    /// The region.
    pub region: RegionName,
    /// Its incarnation from now on.
    pub incarnation: u64,
}

/// Records go whose time has come, after the acting region removed them from its own state (R15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// The home.
    pub home: RegionName,
    /// The acting region.
    pub region: RegionName,
    /// Its incarnation.
    pub incarnation: u64,
    /// Its epoch.
    pub epoch: Epoch,
    /// The position of its stream when it removed them. What was written before is merged first.
    pub up_to: u64,
    /// The keys.
    pub keys: Vec<RecordKey>,
}

/// A worker takes compensation tasks on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledge {
    /// Which.
    pub tasks: Vec<TaskId>,
    /// The worker.
    pub worker: Box<str>,
    /// Whoever had them before and does not do them. Nothing: nobody had.
    pub instead_of: Option<Box<str>>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A home comes under the global group.
    Adopt(Adopt),
    /// Other regions may act for a home from now on, or in another order.
    Order {
        /// The home.
        home: RegionName,
        /// Which regions, the preferred first.
        order: Vec<RegionName>,
    },
    /// A home lease begins anew.
    RenewLease(RenewLease),
    /// An epoch begins.
    TakeOver(TakeOver),
    /// Mutations arrive.
    Ship(Ship),
    /// An ended epoch is settled: the whole stream is there (R3).
    Settle {
        /// The home.
        home: RegionName,
        /// The epoch.
        epoch: Epoch,
    },
    /// An operator gives an ended epoch up (R4).
    DeclareLost {
        /// The home.
        home: RegionName,
        /// The epoch.
        epoch: Epoch,
        /// Who, and why.
        signature: Signature,
    },
    /// A lost epoch is too old to hide anything (R4).
    Retire {
        /// The home.
        home: RegionName,
        /// The epoch.
        epoch: Epoch,
    },
    /// A region's data went back in time.
    Restored(Restored),
    /// Records go.
    Sweep(Sweep),
    /// The oldest entries of the ledger go.
    Prune {
        /// At the most so many.
        count: usize,
    },
    /// A worker takes tasks on.
    Acknowledge(Acknowledge),
    /// A task is done.
    Close {
        /// Which.
        task: TaskId,
        /// What was found.
        verdict: Verdict,
        /// By whom, and why.
        signature: Signature,
    },
}
