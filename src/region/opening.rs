//! How this node begins to serve a partition that it leads: it catches up, does what a first leader has to, and takes the
//! running leases over, each anew.

use std::sync::Arc;

use crate::clock;
use crate::codec::batch::Operation;
use crate::ids::{Epoch, PartitionId};
use crate::raft::ProposeError;
use crate::region::Region;
use crate::region::gate::Opened;
use crate::region::partition::Partition;
use crate::reservation::Record;
use crate::store::StoreError;

/// Why a partition is not served yet.
#[derive(Debug, thiserror::Error)]
enum NotOpened {
    /// It passes.
    #[error(transparent)]
    Proposing(#[from] ProposeError),
    /// A new log's time is not known yet: no majority of clocks has been heard.
    #[error("log time is not known yet: no majority of the voters' clocks has been heard")]
    NoTime,
    /// There is no randomness for a cluster key.
    #[error("no cluster key could be made: {0}")]
    Secret(std::io::Error),
    /// What is stored cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Region {
    /// Serves a partition whenever this node leads it, for as long as the node runs.
    pub(super) async fn serve_when_leading(self: Arc<Self>, partition: Partition) {
        let leadership = partition.group.leadership();
        let open = |term| {
            let (region, partition) = (&self, &partition);
            async move {
                match region.open(partition, term).await {
                    Ok(()) => {
                        tracing::info!(partition = %partition.id(), term, held = partition.held(), "serving a partition");
                        Opened::Yes
                    }
                    Err(NotOpened::Store(error)) => {
                        partition.group.stop_serving(&error.to_string());
                        Opened::Never
                    }
                    Err(error @ (NotOpened::Proposing(_) | NotOpened::NoTime | NotOpened::Secret(_))) => {
                        tracing::debug!(partition = %partition.id(), term, %error, "a partition is not served yet");
                        if partition.group.stopped().is_some() { Opened::Never } else { Opened::NotYet }
                    }
                }
            }
        };
        partition.gate.follow(leadership, open, || partition.close()).await;
    }

    async fn open(&self, partition: &Partition, term: u64) -> Result<(), NotOpened> {
        partition.catch_up().await?;
        partition.know_the_time().await?;
        for home in self.homes.all() {
            if partition.group.open_epoch(home).is_none() {
                let open = Operation::Open { home: home.clone(), epoch: Epoch::FIRST, incarnation: 1 };
                partition.group.propose(open).await?;
            }
        }
        if partition.id() == PartitionId(0) {
            if partition.group.state().cluster_keys.is_empty() {
                let secret = (self.settings.secret)().map_err(NotOpened::Secret)?;
                partition.group.propose(Operation::RotateClusterKey { key_id: 1, secret, signature: None }).await?;
            }
            self.tokens.follow(&partition.group.state().cluster_keys);
        }
        partition.following.leases.begin(term);
        let inheriting = partition.clone();
        let inherited = tokio::task::spawn_blocking(move || inheriting.inherit(term)).await;
        inherited.map_err(|error| StoreError::Disk(error.to_string()))??;
        Ok(())
    }
}

impl Partition {
    /// Waits until everything that was committed before this node led is applied: what stands before an entry of its own is
    /// when the entry is.
    ///
    /// A confirmed read does not do. A leader that was started again before anybody stood for election leads on in its old
    /// term, without an entry that is new, and believes only that to be committed which its disk has as applied.
    async fn catch_up(&self) -> Result<(), ProposeError> {
        self.group.propose(Operation::Tick).await?;
        Ok(())
    }

    /// Makes sure that log time has begun. What is completed before would be due for removal as soon as it does.
    async fn know_the_time(&self) -> Result<(), NotOpened> {
        if self.group.state().log_time_unix_ms == 0 {
            self.group.propose(Operation::Tick).await?;
        }
        if self.group.state().log_time_unix_ms == 0 { Err(NotOpened::NoTime) } else { Ok(()) }
    }

    /// Starts the leases of the grants that were made before this node led.
    fn inherit(&self, term: u64) -> Result<(), StoreError> {
        let now = clock::monotonic();
        for key in self.group.family().held()? {
            if let Some(holding) = self.group.record(&key)?.as_ref().and_then(Record::holding) {
                self.following.leases.inherit(term, key, holding, now);
            }
        }
        self.following.leases.inherited(term);
        Ok(())
    }

    /// Ends what belonged to the term that was served: whoever waits looks again, and is sent to the leader.
    fn close(&self) {
        self.following.leases.clear();
        self.following.wakers.ring_all();
    }
}
