//! This node's part of a region: its partitions, the leases they count, the tokens they sign, and their upkeep.
//!
//! [`calls`] is the vocabulary; `gate` says whether this node serves a partition, and `opening` makes it so; `keys` and
//! `partition` are the work on one key; `leases` and `wakers` what follows the state machine; `upkeep` what happens unasked.

mod admission;
pub mod calls;
#[cfg(test)]
pub(crate) mod fixture;
mod gate;
mod gauges;
pub mod health;
mod homes;
mod keys;
mod leases;
mod opening;
mod partition;
mod policies;
mod rates;
pub mod status;
mod storms;
#[cfg(test)]
mod tests;
mod tokens;
mod upkeep;
mod wakers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::clock::{self, Monotonic};
use crate::codec::batch::Operation;
use crate::control::Signature;
use crate::control::state::Tenants;
use crate::ids::{PartitionCount, PartitionId, RegionName};
use crate::limits;
use crate::peers::Peers;
use crate::policy::Severity;
use crate::raft::{Group, GroupSettings, LogHandle, NodeId};
use crate::region::admission::Admission;
use crate::region::calls::{Failure, Place};
use crate::region::homes::Homes;
use crate::region::partition::{Following, Partition, unexpected};
use crate::region::policies::Policies;
use crate::region::rates::Rates;
use crate::region::status::{GroupState, GroupStatus, Role, Status};
use crate::region::storms::Watch;
use crate::region::tokens::Tokens;
use crate::store::{Store, StoreError};
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
    /// Which tenants may have keys.
    pub tenants: Tenants,
    /// What keys of an endpoint are granted under that no policy names.
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
    policies: Policies,
    admission: Admission,
    rates: Rates,
    watch: Watch,
    partitions: Vec<Partition>,
    tokens: Tokens,
    store: Arc<Store>,
    free_disk_bytes: AtomicU64,
    peers: Arc<Peers>,
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
        let homes = Homes::new(settings.homes.clone(), settings.tenants)
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
            if id == PartitionId(0) {
                homes.follow(&group);
            }
            partitions.push(Partition::new(group, following, Arc::clone(&waiting), Arc::clone(&homes)));
        }
        let policies = Policies::new(settings.severity);
        let free_disk_bytes = AtomicU64::new(u64::MAX);
        let region = Arc::new(Self {
            settings,
            homes,
            policies,
            admission: Admission::default(),
            rates: Rates::default(),
            watch: Watch::default(),
            partitions,
            tokens: Tokens::default(),
            store,
            free_disk_bytes,
            peers,
        });
        region.look_at_disk();
        let sweeps = Arc::new(Semaphore::new(1));
        for partition in &region.partitions {
            tasks.spawn(Arc::clone(&region).serve_when_leading(partition.clone()));
            tasks.spawn(partition.clone().lapse_leases());
            tasks.spawn(upkeep::keep(partition.clone(), region.settings.accept_clock_jump, Arc::clone(&sweeps)));
        }
        tasks.spawn(upkeep::watch(Arc::clone(&region)));
        Ok(region)
    }

    /// Waits until this node serves every partition: for a node that is its partitions' only voter.
    ///
    /// # Errors
    /// When a partition stops before it is served.
    pub async fn ready(&self) -> Result<(), StoreError> {
        for partition in &self.partitions {
            let mut served = partition.gate.watch();
            // A partition that stops does not ring: it is looked at again.
            while tokio::time::timeout(upkeep::WATCH, served.wait_for(Option::is_some)).await.is_err() {
                if let Some(reason) = partition.group.stopped() {
                    return Err(StoreError::Disk(reason.to_owned()));
                }
            }
        }
        Ok(())
    }

    fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// The groups of all partitions, by partition.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.partitions.iter().map(|partition| &partition.group)
    }

    /// One partition's group.
    #[must_use]
    pub fn group(&self, partition: PartitionId) -> Option<&Group> {
        self.partitions.get(usize::from(partition.0)).map(|partition| &partition.group)
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

    /// The epoch of every home in every partition.
    #[must_use]
    pub fn epochs(&self) -> Vec<Place> {
        let places = self.partitions.iter().flat_map(|partition| {
            self.homes.all().iter().filter_map(|home| {
                let epoch = partition.group.open_epoch(home)?;
                Some(partition.place(home.clone(), epoch))
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
            groups: self.partitions.iter().map(|one| group_status(self.settings.group.node_id, one)).collect(),
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

    /// Makes a new cluster key current, if this node leads the first partition; `until` bounds the wait for that.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn rotate_cluster_key(&self, signature: &Signature, until: Monotonic) -> Result<u32, Failure> {
        let first = self.partitions.first().ok_or_else(|| unexpected(&"no partition"))?;
        let _term = first.serves(until).await?;
        self.tokens.follow(&first.group.state().cluster_keys);
        let key_id = self.tokens.current().unwrap_or_default().saturating_add(1);
        let secret = (self.settings.secret)().map_err(|error| unexpected(&error))?;
        first.operate(Operation::RotateClusterKey { key_id, secret, signature: Some(signature.clone()) }).await?;
        self.tokens.follow(&first.group.state().cluster_keys);
        Ok(key_id)
    }

    /// Lets log time of a partition follow this node's clock, if it leads it; `until` bounds the wait for that.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn accept_clock(
        &self,
        partition: PartitionId,
        signature: &Signature,
        until: Monotonic,
    ) -> Result<LogTime, Failure> {
        let partition = self.partitions.get(usize::from(partition.0)).ok_or_else(|| unexpected(&partition))?;
        let _term = partition.serves(until).await?;
        let (up_to_unix_ms, signature) = (clock::wall_unix_ms(), Some(signature.clone()));
        partition.operate(Operation::AcceptClock { up_to_unix_ms, signature }).await?;
        Ok(LogTime::from_unix_ms(partition.group.state().log_time_unix_ms))
    }

    /// Stops every group. What was acknowledged is on the disk already.
    pub async fn shutdown(&self) {
        for partition in &self.partitions {
            partition.group.shutdown().await;
        }
    }
}

fn group_status(node_id: NodeId, partition: &Partition) -> GroupStatus {
    let progress = partition.group.progress();
    let (state, now) = (partition.group.state(), partition.group.leader());
    GroupStatus {
        partition: partition.id(),
        role: Role::of(node_id, now, &partition.group.members(), partition.group.stopped().is_some()),
        leader: now.leader,
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
