//! One partition at work: answers what the applied state can answer, proposes the rest, and looks once more before a
//! grant leaves the house.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::clock::{self, Monotonic};
use crate::codec::batch::{KeyOperation, Operation};
use crate::control;
use crate::ids::{Epoch, PartitionId, RecordKey, RegionName};
use crate::limits;
use crate::raft::{Change, Group, Hooks, OperationReply, ProposeError};
use crate::region::admission::Admitted;
use crate::region::calls::{Certainty, Envelope, Failure, Found, Place, Replay, ReserveCall, ReserveOutcome};
use crate::region::gate::Gate;
use crate::region::homes::Homes;
use crate::region::leases::{Confirmation, Lapsed, Leases};
use crate::region::wakers::Wakers;
use crate::reservation::command::{Command, Doubt, Kind, Reserve};
use crate::reservation::record::{Answer, Terms};
use crate::reservation::reply::Grant;
use crate::reservation::{Record, Reply};
use crate::store::StoreError;
use crate::telemetry::metrics::{self, Overload};

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
    pub(super) leases: Arc<Leases>,
    pub(super) wakers: Arc<Wakers>,
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
                wakers.applied.notify_waiters();
            }),
            replaced: Box::new(move || {
                all_wakers.ring_all();
                all_wakers.applied.notify_waiters();
            }),
        }
    }
}

/// One partition of the region. Cheap to clone.
#[derive(Clone)]
pub(super) struct Partition {
    pub(super) group: Group,
    pub(super) following: Following,
    pub(super) gate: Arc<Gate>,
    waiting: Arc<Semaphore>,
    homes: Arc<Homes>,
}

/// What a proposal rests on.
#[derive(Clone, Debug)]
pub(super) struct Basis {
    /// The key's home.
    pub(super) home: RegionName,
    /// The home's epoch here.
    pub(super) epoch: Epoch,
    /// The term that this node serves the partition in.
    pub(super) term: u64,
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

pub(super) fn unproposed(error: ProposeError) -> Failure {
    match error {
        ProposeError::Overloaded => Failure::Overloaded { retry_after: RETRY },
        ProposeError::NotLeader { leader } => Failure::NotLeader { leader },
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

fn overloaded(limit: Overload) -> Failure {
    metrics::overloaded(limit);
    Failure::Overloaded { retry_after: RETRY }
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
        Self { group, following, gate: Arc::default(), waiting, homes }
    }

    pub(super) fn id(&self) -> PartitionId {
        self.group.partition()
    }

    /// How many keys are held.
    pub(super) fn held(&self) -> usize {
        self.following.leases.held()
    }

    /// Where a key belongs, as far as this node knows now.
    pub(super) fn place(&self, home: RegionName, epoch: Epoch) -> Place {
        let leader = self.group.leader().leader;
        Place { home, partition: self.id(), epoch, position: self.group.position(), leader }
    }

    /// Waits until this node serves the partition, if it leads it, and says in which term. `until` bounds the wait.
    pub(super) async fn serves(&self, until: Monotonic) -> Result<u64, Failure> {
        self.serving()?;
        if let Some(term) = self.gate.served() {
            return Ok(term);
        }
        let (mut served, mut leadership) = (self.gate.watch(), self.group.leadership());
        loop {
            if let Some(term) = *served.borrow_and_update() {
                return Ok(term);
            }
            let now = *leadership.borrow_and_update();
            if !now.leads {
                return Err(Failure::NotLeader { leader: now.leader });
            }
            let changed = async {
                tokio::select! {
                    _ = served.changed() => {}
                    _ = leadership.changed() => {}
                }
            };
            let left = until.since(clock::monotonic());
            let late = left.is_zero() || tokio::time::timeout(left, changed).await.is_err();
            self.serving()?;
            if late {
                return Err(Failure::Unavailable {
                    certainty: Certainty::Definite,
                    reason: format!("this node is taking partition {} over: ask again", self.id()),
                    retry_after: RETRY,
                });
            }
        }
    }

    /// Refuses when this node no longer serves the partition in a term.
    fn still(&self, term: u64) -> Result<(), Failure> {
        self.serving()?;
        if self.gate.served() == Some(term) {
            return Ok(());
        }
        Err(Failure::NotLeader { leader: self.group.leader().leader })
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
    pub(super) fn read<T>(&self, result: Result<T, StoreError>) -> Result<T, Failure> {
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
            other @ (OperationReply::Control(_) | OperationReply::Swept(_) | OperationReply::Done) => {
                Err(unexpected(&other))
            }
        }
    }

    /// Proposes a decision about what is the same for all partitions.
    pub(super) async fn control(&self, command: control::Command) -> Result<control::Reply, Failure> {
        self.serving()?;
        match self.group.propose(Operation::Control(Box::new(command))).await.map_err(unproposed)? {
            OperationReply::Control(reply) => Ok(reply),
            other @ (OperationReply::Key(_) | OperationReply::Swept(_) | OperationReply::Done) => {
                Err(unexpected(&other))
            }
        }
    }

    /// Proposes an operation of the group itself.
    pub(super) async fn operate(&self, operation: Operation) -> Result<(), Failure> {
        self.serving()?;
        self.group.propose(operation).await.map_err(unproposed)?;
        Ok(())
    }

    /// Reserves a key; while another attempt is in flight it waits as long as the call allows.
    pub(super) async fn reserve<'a>(
        &self,
        call: &ReserveCall,
        basis: &Basis,
        terms: Terms,
        admitted: impl Fn(&Self, bool) -> Result<Admitted<'a>, Failure>,
    ) -> Result<Reserved, Failure> {
        let mut confirmed = false;
        if call.wait.is_zero() {
            return self.reserve_now(call, basis, terms, &admitted, &mut confirmed).await;
        }
        let until = call.received.plus(call.wait);
        let place = Arc::clone(&self.waiting).try_acquire_owned();
        let _place = place.map_err(|_| overloaded(Overload::Waiters))?;
        loop {
            let mut rung = std::pin::pin!(self.following.wakers.bell(&call.key).notified());
            // Armed before the look, so that a change in between is not missed.
            rung.as_mut().enable();
            let reserved = self.reserve_now(call, basis, terms, &admitted, &mut confirmed).await?;
            let left = until.since(clock::monotonic());
            match &reserved {
                Reserved::Other(ReserveOutcome::InProgress { .. }) if !left.is_zero() => {}
                Reserved::Other(_) | Reserved::Granted(..) => return Ok(reserved),
            }
            // Whether the bell rang or the time is over: look again.
            let _ = tokio::time::timeout(left, rung).await;
        }
    }

    /// Reserves a key without waiting for anybody. `confirmed`: the state is known to be as new as the call.
    async fn reserve_now<'a>(
        &self,
        call: &ReserveCall,
        basis: &Basis,
        terms: Terms,
        admitted: &impl Fn(&Self, bool) -> Result<Admitted<'a>, Failure>,
        confirmed: &mut bool,
    ) -> Result<Reserved, Failure> {
        for _ in 0..limits::MAX_RACES {
            self.still(basis.term)?;
            let new_enough = *confirmed || call.seen.is_none_or(|seen| seen <= self.group.position());
            let record = self.read(self.group.record(&call.key))?;
            let command = reserve_command(call, record.as_ref(), basis.epoch, terms);
            let known = self.read(self.group.preview(&call.key, &call.endpoint, record.as_ref(), &command))?;
            // What is completed stays so; everything else may have changed under a leader that this one does not know of.
            let is_new = record.is_none();
            let lasting = new_enough && record.is_some_and(|record| record.answer.is_some());
            let reply = match known {
                Some(reply) if lasting || *confirmed => reply,
                Some(_) => {
                    self.group.confirm_read().await.map_err(unproposed)?;
                    *confirmed = true;
                    continue;
                }
                None => {
                    let admitted = admitted(self, is_new);
                    // Whoever leads without this node's knowledge may know the key, and then no limit refuses it.
                    if matches!(admitted, Ok(Admitted::No { .. }) | Err(Failure::Invalid(_))) && !*confirmed {
                        self.group.confirm_read().await.map_err(unproposed)?;
                        *confirmed = true;
                        continue;
                    }
                    // Counted until it is applied, and then with what is stored.
                    let _flying = match admitted? {
                        Admitted::Yes(flying) => flying,
                        Admitted::No { limit, retry_after } => {
                            return Ok(Reserved::Other(ReserveOutcome::Limited { limit, retry_after }));
                        }
                    };
                    self.command(&call.key, &basis.home, command, bytes::Bytes::new()).await?
                }
            };
            if let Some(reserved) = self.outcome(call, basis, reply).await? {
                return Ok(reserved);
            }
        }
        Err(overloaded(Overload::Races))
    }

    /// What a completed key answers, from what is applied here, whoever leads. Nothing if it is not completed, or the caller
    /// has seen a later state than is applied here.
    pub(super) fn replay(
        &self,
        call: &ReserveCall,
        epoch: Epoch,
        terms: Terms,
    ) -> Result<Option<ReserveOutcome>, Failure> {
        if self.group.stopped().is_some() || call.seen.is_some_and(|seen| seen > self.group.position()) {
            return Ok(None);
        }
        let Some(record) = self.read(self.group.record(&call.key))?.filter(|record| record.answer.is_some()) else {
            return Ok(None);
        };
        let command = reserve_command(call, Some(&record), epoch, terms);
        match self.read(self.group.preview(&call.key, &call.endpoint, Some(&record), &command))? {
            Some(Reply::Replay(answer)) => self.replayed(&call.key, &answer),
            Some(Reply::Mismatch) => Ok(Some(ReserveOutcome::Mismatch)),
            Some(Reply::OtherSelection { selection }) => Err(Failure::OtherSelection { selection }),
            Some(_) | None => Ok(None),
        }
    }

    /// A stored answer with its envelope; nothing if a sweep removed it meanwhile.
    fn replayed(&self, key: &RecordKey, answer: &Answer) -> Result<Option<ReserveOutcome>, Failure> {
        let replay = |envelope| Replay {
            envelope,
            completed_at: answer.completed_at,
            expires_at: answer.expires_at,
            fencing: answer.token,
        };
        Ok(self.envelope(key, answer)?.map(|envelope| ReserveOutcome::Replay(Box::new(replay(envelope)))))
    }

    /// What a reply means for the caller; nothing if the key has to be looked at again.
    async fn outcome(&self, call: &ReserveCall, basis: &Basis, reply: Reply) -> Result<Option<Reserved>, Failure> {
        let outcome = match reply {
            Reply::Granted(grant) => {
                let left = self.confirm(&call.key, basis, &grant, call.received).await?;
                return Ok(Some(Reserved::Granted(grant, left)));
            }
            Reply::Replay(answer) => match self.replayed(&call.key, &answer)? {
                None => return Ok(None),
                Some(replay) => replay,
            },
            Reply::Mismatch => ReserveOutcome::Mismatch,
            Reply::OtherSelection { selection } => return Err(Failure::OtherSelection { selection }),
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

    /// After the commit and right before answering: the grant leaves only in the term of serving that it was proposed in, and
    /// while its own lease runs. If nobody can have been told of it, it is taken back.
    pub(super) async fn confirm(
        &self,
        key: &RecordKey,
        basis: &Basis,
        grant: &Grant,
        received: Monotonic,
    ) -> Result<Duration, Failure> {
        if let Some(reason) = self.group.stopped() {
            return Err(indefinite(format!("partition {} has stopped: {reason}", self.id())));
        }
        let leader = self.group.leader();
        if !leader.leads || leader.term != basis.term || self.gate.served() != Some(basis.term) {
            let reason =
                "the partition's leader changed before the grant could be answered: ask again with the same key";
            return Err(indefinite(reason.to_owned()));
        }
        let late = match self.following.leases.confirm(basis.term, key, grant.token, received, clock::monotonic()) {
            Confirmation::Valid(left) => return Ok(left),
            Confirmation::Gone => "the grant is no longer the key's current one",
            Confirmation::Void => {
                let command = Command { epoch: basis.epoch, kind: Kind::Void { token: grant.token } };
                if let Err(failure) = self.command(key, &basis.home, command, bytes::Bytes::new()).await {
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

    /// What is known of a key, as new as the call.
    pub(super) async fn lookup(&self, key: &RecordKey, term: u64) -> Result<Option<Found>, Failure> {
        self.still(term)?;
        self.group.confirm_read().await.map_err(unproposed)?;
        for _ in 0..limits::MAX_RACES {
            self.still(term)?;
            let Some(record) = self.read(self.group.record(key))? else { return Ok(None) };
            let Some(answer) = record.answer else { return Ok(Some(Found::of(record, None))) };
            if let Some(envelope) = self.envelope(key, &answer)? {
                return Ok(Some(Found::of(record, Some(envelope))));
            }
        }
        Err(overloaded(Overload::Races))
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
        if self.gate.served() != Some(lapsed.term) || self.group.leader().term != lapsed.term {
            // Counted in a term that is over: whoever leads now counts anew.
            return;
        }
        let Ok(Some(home)) = self.homes.known(&lapsed.key) else { return };
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

fn reserve_command(call: &ReserveCall, record: Option<&Record>, epoch: Epoch, terms: Terms) -> Command {
    let reserve = Reserve {
        fingerprint: call.fingerprint.clone(),
        endpoint: call.endpoint.clone(),
        terms,
        nonce: call.nonce.clone(),
        doubt: Doubt::Settled,
        known: record.and_then(Record::last_token),
    };
    Command { epoch, kind: Kind::Reserve(Box::new(reserve)) }
}
