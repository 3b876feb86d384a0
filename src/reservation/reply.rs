//! What may be answered, and what a decision changes.

use crate::ids::{Digest, EndpointName, Epoch, FencingToken, Fingerprint};
use crate::reservation::record::{Answer, Checkpoint, Record, State};
use crate::time::LogTime;

/// A grant as the decision makes it; the region adds the token's text and what is left of the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The fencing token.
    pub token: FencingToken,
    /// The lease in milliseconds.
    pub lease_ms: u32,
    /// Which lease of the grant.
    pub lease_revision: u32,
    /// Which attempt of the key, from 1.
    pub attempt: u32,
    /// What an earlier attempt left.
    pub checkpoint: Option<Checkpoint>,
    /// An earlier attempt may have executed.
    pub possible_duplicate: bool,
    /// It repeats a grant that the same nonce was given before.
    pub repeated: bool,
    /// The request it is for.
    pub fingerprint: Fingerprint,
    /// The endpoint it is for.
    pub endpoint: EndpointName,
    /// The policy revision it was made under.
    pub policy_revision: u32,
}

/// How a completion was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It is the answer that every retry gets.
    Answer,
    /// The same token and envelope were recorded before.
    Repeated,
    /// Another completion was known: this one is evidence, and is kept as long as its token has under
    /// [`crate::limits::MAX_ENVELOPES_PER_TOKEN`].
    Late,
}

/// Which limit refused a new grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The key has [`crate::limits::MAX_ATTEMPTS`] grants that may have executed.
    Attempts,
    /// The tenant has as many keys as it may.
    TenantKeys,
    /// The tenant's keys take up as many bytes as they may.
    TenantBytes,
    /// The tenant has as many keys of the endpoint as its policy allows.
    EndpointKeys,
    /// The tenant's keys of the endpoint take up as many bytes as its policy allows.
    EndpointBytes,
    /// The tenant has keys of as many endpoints as are counted.
    Endpoints,
    /// New keys of the tenant come faster than they may.
    TenantRate,
    /// New keys of one client of the tenant come faster than they may.
    ClientRate,
    /// New keys of the endpoint come faster than its policy allows.
    EndpointRate,
    /// New keys of one client come faster than the endpoint's policy allows.
    EndpointClientRate,
}

impl Limit {
    /// Every limit.
    pub const ALL: [Self; 10] = [
        Self::Attempts,
        Self::TenantKeys,
        Self::TenantBytes,
        Self::EndpointKeys,
        Self::EndpointBytes,
        Self::Endpoints,
        Self::TenantRate,
        Self::ClientRate,
        Self::EndpointRate,
        Self::EndpointClientRate,
    ];
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Execute.
    Granted(Box<Grant>),
    /// It was done; this is the answer.
    Replay(Answer),
    /// The key was used for another request.
    Mismatch,
    /// The key's fingerprint was taken under another selection: take it under that one, and ask again.
    OtherSelection {
        /// Its number.
        selection: u32,
    },
    /// Another attempt is being executed.
    InProgress,
    /// An attempt's lease ran out and the policy holds the key.
    OutcomeUnknown {
        /// Which attempt.
        attempt: u32,
        /// What it left.
        checkpoint: Option<Checkpoint>,
    },
    /// An unsettled epoch may have granted the key.
    InDoubt,
    /// The key was made in an epoch that this region has not reached.
    Superseded {
        /// The region's epoch.
        epoch: Epoch,
    },
    /// The key is older than its endpoint remembers.
    Expired,
    /// A limit refuses new grants.
    Limited(Limit),
    /// Another command of the key came first: read again and propose anew.
    Raced,
    /// The epoch is not open here: definitely not done.
    Void {
        /// The open epoch, if one is.
        open: Option<Epoch>,
    },
    /// The outcome is recorded.
    Completed {
        /// How.
        recorded: Recorded,
        /// When the record may go.
        expires_at: LogTime,
    },
    /// The grant was given back.
    Released,
    /// The lease starts anew.
    Extended {
        /// Its length in milliseconds.
        lease_ms: u32,
    },
    /// The recovery point is stored.
    Checkpointed,
    /// The key was taken over.
    Claimed(Box<Grant>),
    /// The key's outcome is not unknown.
    NotClaimable(State),
    /// The verdict is recorded.
    Resolved(State),
    /// The token is not the key's current one.
    StaleToken(State),
    /// A lapse took place.
    Lapsed,
    /// A grant that nobody was told of was taken back.
    Voided,
    /// An internal command came too late and changed nothing.
    Ignored,
}

/// What a command comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub reply: Reply,
    /// The record as it stands from now on, if it changed.
    pub record: Option<Record>,
    /// The envelope to store beside the record, if this decision brought one.
    pub envelope: Option<Digest>,
}

impl Decision {
    /// An answer that changes nothing.
    #[must_use]
    pub const fn unchanged(reply: Reply) -> Self {
        Self { reply, record: None, envelope: None }
    }

    /// An answer and the record as it stands from now on.
    #[must_use]
    pub const fn changed(reply: Reply, record: Record) -> Self {
        Self { reply, record: Some(record), envelope: None }
    }
}
