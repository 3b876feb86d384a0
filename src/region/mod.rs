//! This node's part of a region: its partitions, the leases they count, the tokens they sign, and their upkeep.
//!
//! [`calls`] is the vocabulary; `partition` the work on one key; `leases` and `wakers` what follows the state machine;
//! `upkeep` what happens unasked.

pub mod calls;
mod gauges;
mod homes;
mod leases;
mod partition;
pub mod status;
mod tokens;
mod upkeep;
mod wakers;

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::clock::{self, Monotonic};
use crate::codec;
use crate::codec::batch::Operation;
use crate::codec::token::Claims;
use crate::ids::{Epoch, FencingToken, Nonce, PartitionCount, PartitionId, RecordKey, RegionName};
use crate::limits;
use crate::peers::Peers;
use crate::policy::Severity;
use crate::raft::{Group, GroupSettings, LogHandle};
use crate::region::calls::{
    ClaimOutcome, Completed, Envelope, Failure, Found, GrantOutcome, Granted, Invalid, Place, Placed, ReserveCall,
    ReserveOutcome, ResolveOutcome, Verdict,
};
use crate::region::homes::Homes;
use crate::region::partition::{Following, Partition, Reserved, unexpected, void};
use crate::region::status::{GroupState, GroupStatus, Status};
use crate::region::tokens::{Granting, Tokens};
use crate::reservation::Reply;
use crate::reservation::command::{self, Command, Complete, Kind};
use crate::reservation::record::{Checkpoint, Terms};
use crate::reservation::reply::Grant;
use crate::store::{Store, StoreError};
use crate::telemetry::metrics;
use crate::time::LogTime;

/// What a region needs to know.
#[derive(Clone, Debug)]
pub struct RegionSettings {
    /// The region's name.
    pub region: RegionName,
    /// The homes that the cluster was made with.
    pub homes: Vec<RegionName>,
    /// How many partitions the cluster has.
    pub partitions: PartitionCount,
    /// What keys are granted under, since no policy names an endpoint yet.
    pub severity: Severity,
    /// Free bytes on the data disk under which no grant is made.
    pub min_free_disk_bytes: u64,
    /// Follow a clock that jumped by over an hour without asking.
    pub accept_clock_jump: bool,
    /// Makes a cluster key's secret: randomness comes from outside.
    pub secret: fn() -> std::io::Result<[u8; 32]>,
    /// What the groups need to know.
    pub group: GroupSettings,
}

/// This node's part of a region.
pub struct Region {
    settings: RegionSettings,
    homes: Arc<Homes>,
    terms: Terms,
    partitions: Vec<Partition>,
    tokens: Tokens,
    store: Arc<Store>,
    free_disk_bytes: AtomicU64,
    peers: Arc<Peers>,
}

/// A key's place and the partition that serves it.
struct Served<'a> {
    partition: &'a Partition,
    place: Place,
}

impl Region {
    /// Starts every partition. `tasks` owns what runs on.
    ///
    /// # Errors
    /// When the disk refuses, stored data is damaged, or a group does not come up.
    pub async fn start(
        settings: RegionSettings,
        store: Arc<Store>,
        log: &LogHandle,
        peers: Arc<Peers>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Arc<Self>, StoreError> {
        let homes = Homes::new(settings.homes.clone())
            .ok_or_else(|| StoreError::Damaged("a cluster needs at least one home".to_owned()))?;
        let homes = Arc::new(homes);
        let waiting = Arc::new(Semaphore::new(limits::MAX_WAITERS));
        let mut partitions = Vec::new();
        for id in settings.partitions.all() {
            let following = Following::default();
            let group = Group::start(
                id,
                &settings.group,
                store.group(id),
                log.clone(),
                following.hooks(),
                Arc::clone(&peers),
                tasks,
            )
            .await?;
            partitions.push(Partition::new(group, following, Arc::clone(&waiting), Arc::clone(&homes)));
        }
        let terms = settings.severity.terms();
        let free_disk_bytes = AtomicU64::new(u64::MAX);
        let tokens = Tokens::default();
        let region =
            Arc::new(Self { settings, homes, terms, partitions, tokens, store, free_disk_bytes, peers });
        region.open().await?;
        for partition in &region.partitions {
            tasks.spawn(partition.clone().lapse_leases());
            tasks.spawn(upkeep::keep(partition.clone(), region.settings.accept_clock_jump));
        }
        tasks.spawn(upkeep::watch(Arc::clone(&region)));
        Ok(region)
    }

    /// Opens the first epoch of every home, makes the cluster key if there is none, and starts inherited leases.
    async fn open(&self) -> Result<(), StoreError> {
        let broken = |error: crate::raft::ProposeError| StoreError::Disk(error.to_string());
        for partition in &self.partitions {
            let mut leadership = partition.group.leadership();
            leadership.wait_for(|now| now.leads).await.map_err(|error| StoreError::Disk(error.to_string()))?;
            partition.group.propose(Operation::Tick).await.map_err(broken)?;
            for home in self.homes.all() {
                if partition.group.open_epoch(home).is_none() {
                    let open = Operation::Open { home: home.clone(), epoch: Epoch::FIRST, incarnation: 1 };
                    partition.group.propose(open).await.map_err(broken)?;
                }
            }
            partition.inherit()?;
        }
        if let Some(first) = self.partitions.first() {
            if first.group.state().cluster_keys.is_empty() {
                let secret = (self.settings.secret)().map_err(|error| StoreError::Disk(error.to_string()))?;
                let rotate = Operation::RotateClusterKey { key_id: 1, secret };
                first.group.propose(rotate).await.map_err(broken)?;
            }
            self.tokens.follow(&first.group.state().cluster_keys);
        }
        self.look_at_disk();
        Ok(())
    }

    fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    fn look_at_disk(&self) {
        // A file system that does not say is no reason to refuse: a write that fails still stops the node.
        let free = self.store.free_bytes().unwrap_or(u64::MAX);
        self.free_disk_bytes.store(free, Ordering::Relaxed);
    }

    /// How many partitions the cluster has.
    #[must_use]
    pub fn partition_count(&self) -> PartitionCount {
        self.settings.partitions
    }

    fn served(&self, key: &RecordKey) -> Result<Served<'_>, Failure> {
        let count: NonZeroU16 = self.settings.partitions.get();
        let id = PartitionId(holdfast_client::keys::partition(key.tenant.as_str(), &key.key, count));
        let partition = self.partitions.get(usize::from(id.0)).ok_or_else(|| unexpected(&id))?;
        let home = self.homes.of(key)?;
        let epoch = partition.group.open_epoch(&home).ok_or_else(|| void(None))?;
        Ok(Served { partition, place: Place { home, partition: id, epoch } })
    }

    /// What refuses new grants, and only those.
    fn admit(&self, partition: &Partition) -> Result<(), Failure> {
        let free_bytes = self.free_disk_bytes.load(Ordering::Relaxed);
        let least_bytes = self.settings.min_free_disk_bytes;
        if free_bytes < least_bytes {
            return Err(Failure::DiskLow { free_bytes, least_bytes });
        }
        if partition.held() >= limits::MAX_HELD_KEYS / self.partitions.len().max(1) {
            metrics::overloaded(metrics::Overload::HeldKeys);
            return Err(Failure::Overloaded { retry_after: Duration::from_secs(1) });
        }
        Ok(())
    }

    /// Reserves a key.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn reserve(&self, call: ReserveCall) -> Result<Placed<ReserveOutcome>, Failure> {
        let Served { partition, place } = self.served(&call.key)?;
        let log_time = LogTime::from_unix_ms(partition.group.state().log_time_unix_ms);
        check_key_time(&call.key, log_time)?;
        let lease_ms = call.lease_ms.unwrap_or(self.terms.lease_ms);
        let terms = Terms { lease_ms, ..self.terms };
        let admitted = |partition: &Partition| self.admit(partition);
        let outcome = match partition.reserve(&call, &place.home, place.epoch, terms, admitted).await? {
            Reserved::Other(outcome) => outcome,
            Reserved::Granted(grant, left) => {
                let granted = self.granted(&call.key, *grant, call.nonce.as_ref(), left, &place)?;
                ReserveOutcome::Granted(Box::new(granted))
            }
        };
        Ok(Placed { outcome, place })
    }

    fn granted(
        &self,
        key: &RecordKey,
        grant: Grant,
        nonce: Option<&Nonce>,
        left: Duration,
        place: &Place,
    ) -> Result<Granted, Failure> {
        let granting = Granting { home: &place.home, region: &self.settings.region, partition: place.partition };
        let token = self.tokens.mint(key, &grant, nonce, &granting).ok_or_else(|| unexpected(&"no cluster key"))?;
        let left_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        Ok(Granted {
            token,
            fencing: grant.token,
            start_within_ms: left_ms,
            lease_ms: left_ms,
            attempt: grant.attempt,
            checkpoint: grant.checkpoint,
            possible_duplicate: grant.possible_duplicate,
            repeated: grant.repeated,
            fingerprint: grant.fingerprint,
            endpoint: grant.endpoint,
        })
    }

    /// Records an outcome.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn complete(
        &self,
        key: RecordKey,
        token: &str,
        envelope: Envelope,
        retention_ms: Option<u64>,
    ) -> Result<Placed<Completed>, Failure> {
        let Served { partition, place } = self.served(&key)?;
        let claims = self.tokens.verify(&key, token)?;
        let (bytes, digest) = codec::record::encode_envelope(&envelope.to_stored());
        let Claims { fencing, fingerprint, endpoint, policy_revision, nonce, .. } = claims;
        let terms = Terms { policy_revision, ..self.terms };
        let complete = Complete { token: fencing, fingerprint, endpoint, nonce, terms, envelope: digest, retention_ms };
        let command = Command { epoch: place.epoch, kind: Kind::Complete(Box::new(complete)) };
        let reply = partition.command(&key, &place.home, command, bytes).await?;
        let Reply::Completed { recorded, expires_at } = reply else { return Err(refused(&reply)) };
        Ok(Placed { outcome: Completed { recorded, expires_at }, place })
    }

    async fn on_grant(
        &self,
        key: RecordKey,
        token: &str,
        kind: impl FnOnce(FencingToken) -> Kind,
    ) -> Result<Placed<GrantOutcome>, Failure> {
        let Served { partition, place } = self.served(&key)?;
        let claims = self.tokens.verify(&key, token)?;
        let command = Command { epoch: place.epoch, kind: kind(claims.fencing) };
        let reply = partition.command(&key, &place.home, command, Bytes::new()).await?;
        let outcome = if let Reply::StaleToken(state) = reply {
            GrantOutcome::StaleToken(state)
        } else if matches!(reply, Reply::Released | Reply::Extended { .. } | Reply::Checkpointed) {
            GrantOutcome::Done
        } else {
            return Err(refused(&reply));
        };
        Ok(Placed { outcome, place })
    }

    /// Gives a grant back.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn release(&self, key: RecordKey, token: &str) -> Result<Placed<GrantOutcome>, Failure> {
        self.on_grant(key, token, |token| Kind::Release { token }).await
    }

    /// Restarts a grant's lease.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn extend(&self, key: RecordKey, token: &str, lease_ms: u32) -> Result<Placed<GrantOutcome>, Failure> {
        self.on_grant(key, token, |token| Kind::Extend { token, lease_ms }).await
    }

    /// Stores a recovery point.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn checkpoint(
        &self,
        key: RecordKey,
        token: &str,
        checkpoint: Checkpoint,
    ) -> Result<Placed<GrantOutcome>, Failure> {
        self.on_grant(key, token, |token| Kind::Checkpoint { token, checkpoint }).await
    }

    /// Takes over a key whose outcome is unknown.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn claim(
        &self,
        key: RecordKey,
        worker: &str,
        nonce: Option<Nonce>,
        lease_ms: Option<u32>,
        received: Monotonic,
    ) -> Result<Placed<ClaimOutcome>, Failure> {
        let Served { partition, place } = self.served(&key)?;
        self.admit(partition)?;
        let kind = Kind::Claim { nonce: nonce.clone(), lease_ms, worker: worker.into() };
        let command = Command { epoch: place.epoch, kind };
        let reply = partition.command(&key, &place.home, command, Bytes::new()).await?;
        let outcome = if let Reply::Claimed(grant) = reply {
            let left = partition.confirm(&key, &place.home, place.epoch, &grant, received).await?;
            ClaimOutcome::Claimed(Box::new(self.granted(&key, *grant, nonce.as_ref(), left, &place)?))
        } else if let Reply::NotClaimable(state) = reply {
            ClaimOutcome::NotClaimable(state)
        } else if let Reply::Limited(limit) = reply {
            ClaimOutcome::Limited(limit)
        } else {
            return Err(refused(&reply));
        };
        Ok(Placed { outcome, place })
    }

    /// Records an operator's verdict.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn resolve(
        &self,
        key: RecordKey,
        fencing: FencingToken,
        verdict: Verdict,
        actor: &str,
        reason: &str,
    ) -> Result<Placed<ResolveOutcome>, Failure> {
        let Served { partition, place } = self.served(&key)?;
        let (verdict, bytes) = match verdict {
            Verdict::NotExecuted => (command::Verdict::NotExecuted, Bytes::new()),
            Verdict::Executed(envelope) => {
                let (bytes, digest) = codec::record::encode_envelope(&envelope.to_stored());
                (command::Verdict::Executed(digest), bytes)
            }
        };
        let kind = Kind::Resolve { token: fencing, verdict, actor: actor.into(), reason: reason.into() };
        let command = Command { epoch: place.epoch, kind };
        let reply = partition.command(&key, &place.home, command, bytes).await?;
        let outcome = if let Reply::Resolved(state) = reply {
            ResolveOutcome::Resolved(state)
        } else if let Reply::StaleToken(state) = reply {
            ResolveOutcome::StaleToken(state)
        } else {
            return Err(refused(&reply));
        };
        Ok(Placed { outcome, place })
    }

    /// What is known of a key.
    ///
    /// # Errors
    /// When the partition does not serve.
    pub fn lookup(&self, key: &RecordKey) -> Result<Placed<Option<Found>>, Failure> {
        let Served { partition, place } = self.served(key)?;
        Ok(Placed { outcome: partition.lookup(key)?, place })
    }

    /// The epoch of every home in every partition.
    #[must_use]
    pub fn epochs(&self) -> Vec<Place> {
        let places = self.partitions.iter().flat_map(|partition| {
            self.homes.all().iter().filter_map(|home| {
                let epoch = partition.group.open_epoch(home)?;
                Some(Place { home: home.clone(), partition: partition.id(), epoch })
            })
        });
        places.collect()
    }

    /// How this node is.
    #[must_use]
    pub fn status(&self) -> Status {
        let free_disk_bytes = self.free_disk_bytes.load(Ordering::Relaxed);
        let least = self.settings.min_free_disk_bytes;
        Status {
            cluster_id: self.settings.group.cluster_id.clone(),
            node_id: self.settings.group.node_id,
            region: self.settings.region.clone(),
            partitions: self.settings.partitions.get().get(),
            groups: self.partitions.iter().map(group_status).collect(),
            free_disk_bytes,
            refusing: (free_disk_bytes < least)
                .then(|| Failure::DiskLow { free_bytes: free_disk_bytes, least_bytes: least }.to_string()),
        }
    }

    /// Why the node serves nothing more, once every partition has stopped.
    #[must_use]
    pub fn stopped(&self) -> Option<String> {
        let reasons: Option<Vec<&str>> = self.partitions.iter().map(|partition| partition.group.stopped()).collect();
        reasons?.first().map(|reason| (*reason).to_owned())
    }

    /// Makes a new cluster key current.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn rotate_cluster_key(&self) -> Result<u32, Failure> {
        let first = self.partitions.first().ok_or_else(|| unexpected(&"no partition"))?;
        let key_id = self.tokens.current().unwrap_or_default().saturating_add(1);
        let secret = (self.settings.secret)().map_err(|error| unexpected(&error))?;
        first.operate(Operation::RotateClusterKey { key_id, secret }).await?;
        self.tokens.follow(&first.group.state().cluster_keys);
        Ok(key_id)
    }

    /// Lets log time follow the clock, in every partition.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn accept_clock(&self) -> Result<Vec<LogTime>, Failure> {
        let mut accepted = Vec::new();
        for partition in &self.partitions {
            partition.operate(Operation::AcceptClock { up_to_unix_ms: clock::wall_unix_ms() }).await?;
            accepted.push(LogTime::from_unix_ms(partition.group.state().log_time_unix_ms));
        }
        Ok(accepted)
    }

    /// Stops every group. What was acknowledged is on the disk already.
    pub async fn shutdown(&self) {
        for partition in &self.partitions {
            partition.group.shutdown().await;
        }
    }
}

/// A reply that is no outcome of the command: the epoch was closed, or this program is broken.
fn refused(reply: &Reply) -> Failure {
    if let Reply::Void { open } = reply { void(*open) } else { unexpected(reply) }
}

fn check_key_time(key: &RecordKey, log_time: LogTime) -> Result<(), Invalid> {
    let holdfast_client::keys::KeyKind::Tagged(tagged) = key.key.kind() else { return Ok(()) };
    let ahead_ms = tagged.unix_ms().saturating_sub(log_time.unix_ms());
    let most_ms = limits::MAX_KEY_TIME_AHEAD_MS;
    if ahead_ms > most_ms { Err(Invalid::KeyTimeAhead { ahead_ms, most_ms }) } else { Ok(()) }
}

fn group_status(partition: &Partition) -> GroupStatus {
    let progress = partition.group.progress();
    let state = partition.group.state();
    GroupStatus {
        partition: partition.id(),
        state: partition.group.stopped().map_or(GroupState::Serving, |reason| GroupState::Stopped(reason.to_owned())),
        term: progress.term,
        last_log_index: progress.last_log_index,
        applied_index: progress.applied_index,
        snapshot_index: progress.snapshot_index,
        purged_index: progress.purged_index,
        log_time: LogTime::from_unix_ms(state.log_time_unix_ms),
        clock_held: state.clock_held,
        held_keys: u64::try_from(partition.held()).unwrap_or(u64::MAX),
    }
}
