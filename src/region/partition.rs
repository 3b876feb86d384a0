//! One partition at work: answers what the applied state can answer, proposes the rest, and looks once more before a
//! grant leaves the house.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::clock::{self, Monotonic};
use crate::codec::batch::{KeyOperation, Operation};
use crate::ids::{Epoch, PartitionId, RecordKey, RegionName};
use crate::limits;
use crate::raft::{Change, Group, Hooks, OperationReply, ProposeError};
use crate::region::calls::{Certainty, Envelope, Failure, Found, Replay, ReserveCall, ReserveOutcome};
use crate::region::homes::Homes;
use crate::region::leases::{Confirmation, Lapsed, Leases};
use crate::region::wakers::Wakers;
use crate::reservation::command::{Command, Doubt, Kind, Reserve};
use crate::reservation::record::{Answer, Terms};
use crate::reservation::reply::Grant;
use crate::reservation::{Record, Reply};
use crate::store::StoreError;

/// When to ask again after a failure that may pass.
const RETRY: Duration = Duration::from_millis(500);
/// When to ask again at the latest while another attempt is in flight.
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// When a lapse is proposed again if nothing came of the last proposal.
const LAPSE_RETRY: Duration = Duration::from_millis(250);
/// Lapses proposed at a time.
const LAPSES: usize = 512;

/// Leases and bells: what the state machine tells of changes.
#[derive(Clone, Default)]
pub(super) struct Following {
    leases: Arc<Leases>,
    wakers: Arc<Wakers>,
}

impl Following {
    /// The hooks that keep it up to date.
    pub(super) fn hooks(&self) -> Hooks {
        let leases = Arc::clone(&self.leases);
        let wakers = Arc::clone(&self.wakers);
        let all_wakers = Arc::clone(&self.wakers);
        Hooks {
            before: Box::new(move |changes: &[Change]| {
                let now = clock::monotonic();
                for change in changes {
                    leases.follow(&change.key, change.holding, now);
                }
            }),
            after: Box::new(move |changes: &[Change]| {
                for change in changes {
                    wakers.ring(&change.key);
                }
            }),
            replaced: Box::new(move || all_wakers.ring_all()),
        }
    }
}

/// One partition of the region. Cheap to clone.
#[derive(Clone)]
pub(super) struct Partition {
    pub(super) group: Group,
    following: Following,
    waiting: Arc<Semaphore>,
    homes: Arc<Homes>,
}

/// A grant that may be answered, or the outcome that stands instead.
pub(super) enum Reserved {
    /// Execute: so much of the lease is left.
    Granted(Box<Grant>, Duration),
    /// Anything else.
    Other(ReserveOutcome),
}

fn failed(error: &StoreError) -> Failure {
    Failure::Unavailable { certainty: Certainty::Definite, reason: error.to_string(), retry_after: LONGEST_RETRY }
}

fn unproposed(error: ProposeError) -> Failure {
    match error {
        ProposeError::Overloaded => Failure::Overloaded { retry_after: RETRY },
        not_leader @ ProposeError::NotLeader { .. } => {
            Failure::Unavailable { certainty: Certainty::Definite, reason: not_leader.to_string(), retry_after: RETRY }
        }
        ProposeError::Definite(reason) => {
            Failure::Unavailable { certainty: Certainty::Definite, reason, retry_after: RETRY }
        }
        ProposeError::Indefinite(reason) => {
            Failure::Unavailable { certainty: Certainty::Indefinite, reason, retry_after: RETRY }
        }
    }
}

/// The state machine answered a key's command with something else: this program is broken, and says so.
pub(super) fn unexpected(reply: &impl std::fmt::Debug) -> Failure {
    tracing::error!(?reply, "a command got a reply of another kind");
    let reason = "the store's reply does not fit the request: please report this".to_owned();
    Failure::Unavailable { certainty: Certainty::Indefinite, reason, retry_after: LONGEST_RETRY }
}

/// The command is in the log, and nobody is told what came of it.
fn indefinite(reason: String) -> Failure {
    Failure::Unavailable { certainty: Certainty::Indefinite, reason, retry_after: Duration::from_millis(100) }
}

/// The epoch was closed while the command was on its way: nothing was done.
pub(super) fn void(open: Option<Epoch>) -> Failure {
    let open = open.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string());
    Failure::Unavailable {
        certainty: Certainty::Definite,
        reason: format!("the epoch of the key's home has changed here (open: {open})"),
        retry_after: RETRY,
    }
}

impl Partition {
    pub(super) fn new(group: Group, following: Following, waiting: Arc<Semaphore>, homes: Arc<Homes>) -> Self {
        Self { group, following, waiting, homes }
    }

    pub(super) fn id(&self) -> PartitionId {
        self.group.partition()
    }

    /// How many keys are held.
    pub(super) fn held(&self) -> usize {
        self.following.leases.held()
    }

    /// Starts the leases of the grants that were made before this node led.
    pub(super) fn inherit(&self) -> Result<(), StoreError> {
        let now = clock::monotonic();
        for key in self.group.family().held()? {
            if let Some(holding) = self.group.record(&key)?.as_ref().and_then(Record::holding) {
                self.following.leases.inherit(key, holding, now);
            }
        }
        Ok(())
    }

    /// Refuses when the group has stopped: nothing was done, nothing is read.
    fn serving(&self) -> Result<(), Failure> {
        match self.group.stopped() {
            None => Ok(()),
            Some(reason) => Err(Failure::Unavailable {
                certainty: Certainty::Definite,
                reason: format!("partition {} has stopped: {reason}", self.id()),
                retry_after: LONGEST_RETRY,
            }),
        }
    }

    /// A read that fails stops the group: what the disk says is not believed any more.
    fn read<T>(&self, result: Result<T, StoreError>) -> Result<T, Failure> {
        result.map_err(|error| {
            self.group.stop_serving(&error.to_string());
            failed(&error)
        })
    }

    /// Proposes a command and gives its reply.
    pub(super) async fn command(
        &self,
        key: &RecordKey,
        home: &RegionName,
        command: Command,
        envelope: bytes::Bytes,
    ) -> Result<Reply, Failure> {
        self.serving()?;
        let operation = KeyOperation { key: key.clone(), home: home.clone(), command, envelope };
        match self.group.propose(Operation::Key(Box::new(operation))).await.map_err(unproposed)? {
            OperationReply::Key(reply) => Ok(reply),
            other @ (OperationReply::Swept(_) | OperationReply::Done) => Err(unexpected(&other)),
        }
    }

    /// Proposes an operation of the group itself.
    pub(super) async fn operate(&self, operation: Operation) -> Result<(), Failure> {
        self.serving()?;
        self.group.propose(operation).await.map_err(unproposed)?;
        Ok(())
    }

    /// Reserves a key; while another attempt is in flight it waits as long as the call allows.
    pub(super) async fn reserve(
        &self,
        call: &ReserveCall,
        home: &RegionName,
        epoch: Epoch,
        terms: Terms,
        admitted: impl Fn(&Self) -> Result<(), Failure>,
    ) -> Result<Reserved, Failure> {
        if call.wait.is_zero() {
            return self.reserve_now(call, home, epoch, terms, &admitted).await;
        }
        let until = call.received.plus(call.wait);
        let place = Arc::clone(&self.waiting).try_acquire_owned();
        let _place = place.map_err(|_| Failure::Overloaded { retry_after: RETRY })?;
        loop {
            let mut rung = std::pin::pin!(self.following.wakers.bell(&call.key).notified());
            // Armed before the look, so that a change in between is not missed.
            rung.as_mut().enable();
            let reserved = self.reserve_now(call, home, epoch, terms, &admitted).await?;
            let left = until.since(clock::monotonic());
            match &reserved {
                Reserved::Other(ReserveOutcome::InProgress { .. }) if !left.is_zero() => {}
                Reserved::Other(_) | Reserved::Granted(..) => return Ok(reserved),
            }
            // Whether the bell rang or the time is over: look again.
            let _ = tokio::time::timeout(left, rung).await;
        }
    }

    async fn reserve_now(
        &self,
        call: &ReserveCall,
        home: &RegionName,
        epoch: Epoch,
        terms: Terms,
        admitted: &impl Fn(&Self) -> Result<(), Failure>,
    ) -> Result<Reserved, Failure> {
        for _ in 0..limits::MAX_RACES {
            self.serving()?;
            let record = self.read(self.group.record(&call.key))?;
            let command = Command {
                epoch,
                kind: Kind::Reserve(Box::new(Reserve {
                    fingerprint: call.fingerprint.clone(),
                    endpoint: call.endpoint.clone(),
                    terms,
                    nonce: call.nonce.clone(),
                    doubt: Doubt::Settled,
                    known: record.as_ref().and_then(Record::last_token),
                })),
            };
            let known = self.read(self.group.preview(&call.key, &call.endpoint, record.as_ref(), &command))?;
            let reply = match known {
                Some(reply) => reply,
                None => {
                    admitted(self)?;
                    self.command(&call.key, home, command, bytes::Bytes::new()).await?
                }
            };
            if let Some(reserved) = self.outcome(call, home, epoch, reply).await? {
                return Ok(reserved);
            }
        }
        Err(Failure::Overloaded { retry_after: RETRY })
    }

    /// What a reply means for the caller; nothing if the key has to be looked at again.
    async fn outcome(
        &self,
        call: &ReserveCall,
        home: &RegionName,
        epoch: Epoch,
        reply: Reply,
    ) -> Result<Option<Reserved>, Failure> {
        let outcome = match reply {
            Reply::Granted(grant) => {
                let left = self.confirm(&call.key, home, epoch, &grant, call.received).await?;
                return Ok(Some(Reserved::Granted(grant, left)));
            }
            Reply::Replay(answer) => match self.envelope(&call.key, &answer)? {
                None => return Ok(None),
                Some(envelope) => ReserveOutcome::Replay(Box::new(Replay {
                    envelope,
                    completed_at: answer.completed_at,
                    expires_at: answer.expires_at,
                    fencing: answer.token,
                })),
            },
            Reply::Mismatch => ReserveOutcome::Mismatch,
            Reply::InProgress => ReserveOutcome::InProgress { retry_after: self.retry_after(&call.key) },
            Reply::OutcomeUnknown { attempt, checkpoint } => ReserveOutcome::OutcomeUnknown { attempt, checkpoint },
            Reply::InDoubt => ReserveOutcome::InDoubt { retry_after: RETRY },
            Reply::Superseded { epoch } => ReserveOutcome::Superseded { epoch },
            Reply::Expired => ReserveOutcome::Expired,
            Reply::Limited(limit) => ReserveOutcome::Limited { limit, retry_after: LONGEST_RETRY },
            Reply::Raced => return Ok(None),
            Reply::Void { open } => return Err(void(open)),
            other @ (Reply::Completed { .. }
            | Reply::Released
            | Reply::Extended { .. }
            | Reply::Checkpointed
            | Reply::Claimed(_)
            | Reply::NotClaimable(_)
            | Reply::Resolved(_)
            | Reply::StaleToken(_)
            | Reply::Lapsed
            | Reply::Voided
            | Reply::Ignored) => return Err(unexpected(&other)),
        };
        Ok(Some(Reserved::Other(outcome)))
    }

    fn retry_after(&self, key: &RecordKey) -> Duration {
        let left = self.following.leases.left(key, clock::monotonic()).unwrap_or(RETRY);
        left.clamp(Duration::from_millis(50), LONGEST_RETRY)
    }

    /// After the commit and right before answering: the grant leaves only while its own lease runs. If nobody can have
    /// been told of it, it is taken back.
    pub(super) async fn confirm(
        &self,
        key: &RecordKey,
        home: &RegionName,
        epoch: Epoch,
        grant: &Grant,
        received: Monotonic,
    ) -> Result<Duration, Failure> {
        if let Some(reason) = self.group.stopped() {
            return Err(indefinite(format!("partition {} has stopped: {reason}", self.id())));
        }
        let late = match self.following.leases.confirm(key, grant.token, received, clock::monotonic()) {
            Confirmation::Valid(left) => return Ok(left),
            Confirmation::Gone => "the grant is no longer the key's current one",
            Confirmation::Void => {
                let command = Command { epoch, kind: Kind::Void { token: grant.token } };
                if let Err(failure) = self.command(key, home, command, bytes::Bytes::new()).await {
                    // It is proposed again when the lease is due; what this caller must not hear is a definite no.
                    tracing::debug!(%failure, "a grant was not taken back yet");
                }
                "the grant's lease ran out before it could be answered"
            }
        };
        Err(indefinite(format!("{late}: ask again with the same key")))
    }

    /// The stored envelope of an answer; nothing if a sweep removed it meanwhile.
    fn envelope(&self, key: &RecordKey, answer: &Answer) -> Result<Option<Envelope>, Failure> {
        if let Some(stored) = self.read(self.group.family().envelope(key, &answer.envelope))? {
            return Ok(Some(Envelope::from_stored(stored)));
        }
        let record = self.read(self.group.record(key))?;
        if record.and_then(|record| record.answer).as_ref() == Some(answer) {
            let error = StoreError::Damaged(format!("the answer of {key} is recorded, but not its envelope"));
            return self.read(Err(error));
        }
        Ok(None)
    }

    /// What is known of a key.
    pub(super) fn lookup(&self, key: &RecordKey) -> Result<Option<Found>, Failure> {
        for _ in 0..limits::MAX_RACES {
            self.serving()?;
            let Some(record) = self.read(self.group.record(key))? else { return Ok(None) };
            let Some(answer) = record.answer else { return Ok(Some(Found { record, envelope: None })) };
            if let Some(envelope) = self.envelope(key, &answer)? {
                return Ok(Some(Found { record, envelope: Some(envelope) }));
            }
        }
        Err(Failure::Overloaded { retry_after: RETRY })
    }

    /// Proposes a lapse for every lease that runs out, for as long as the node runs.
    pub(super) async fn lapse_leases(self) {
        let leases = Arc::clone(&self.following.leases);
        loop {
            let now = clock::monotonic();
            let pause = leases.earliest().map_or(LONGEST_RETRY, |at| at.since(now));
            // A new lease may end before the one that is waited for.
            let _ = tokio::time::timeout(pause, leases.changed.notified()).await;
            let due = leases.take_due(clock::monotonic(), LAPSES, LAPSE_RETRY);
            let proposals = due.into_iter().map(|lapsed| self.lapse(lapsed));
            futures_util::future::join_all(proposals).await;
        }
    }

    async fn lapse(&self, lapsed: Lapsed) {
        let Ok(home) = self.homes.of(&lapsed.key) else { return };
        let Some(epoch) = self.group.open_epoch(&home) else { return };
        let kind = match lapsed.untold {
            true => Kind::Void { token: lapsed.token },
            false => Kind::Lapse { token: lapsed.token, lease_revision: lapsed.lease_revision },
        };
        let outcome = self.command(&lapsed.key, &home, Command { epoch, kind }, bytes::Bytes::new()).await;
        if let Err(error) = outcome {
            tracing::debug!(%error, "a lapse was not recorded: it is proposed again");
        }
    }
}
