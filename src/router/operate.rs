//! What an operator asks of partitions, passed to whoever leads them.

use std::time::Duration;

use super::call::Call;
use super::{Router, until};
use crate::clock::{self, Monotonic};
use crate::codec::control::signature_to;
use crate::control::Signature;
use crate::ids::PartitionId;
use crate::region::Region;
use crate::region::calls::{Failed, Failure};
use crate::time::LogTime;
use crate::wire::v1::operate::What;
use crate::wire::v1::operated::What as Done;
use crate::wire::v1::{AcceptClock, ForwardAnswer, ForwardCall, Operate, RotateClusterKey};

/// Makes a new cluster key current.
#[derive(Clone, Debug)]
pub struct RotateCall(pub Signature);

/// Lets log time of a partition follow its leader's clock.
#[derive(Clone, Debug)]
pub struct AcceptClockCall(pub PartitionId, pub Signature);

pub(super) fn message(what: What) -> ForwardCall {
    let call = Some(holdfast_client::proto::v1::SessionCall::default());
    ForwardCall { call, operate: Some(Operate { what: Some(what) }), ..ForwardCall::default() }
}

impl Call for RotateCall {
    type Answer = u32;
    const REPEATABLE: bool = false;

    fn partition(&self, _region: &Region) -> PartitionId {
        PartitionId(0)
    }

    async fn here(&self, region: &Region, until: Monotonic) -> Result<u32, Failure> {
        region.rotate_cluster_key(&self.0, until).await
    }

    fn forward(&self) -> ForwardCall {
        message(What::RotateClusterKey(RotateClusterKey { signature: Some(signature_to(&self.0)) }))
    }

    fn read(&self, answer: ForwardAnswer) -> Option<u32> {
        match answer.operated?.what? {
            Done::KeyId(key_id) => Some(key_id),
            Done::LogTimeUnixMs(_) | Done::Control(_) | Done::Position(_) => None,
        }
    }
}

impl Call for AcceptClockCall {
    type Answer = LogTime;
    const REPEATABLE: bool = true;

    fn partition(&self, _region: &Region) -> PartitionId {
        self.0
    }

    async fn here(&self, region: &Region, until: Monotonic) -> Result<LogTime, Failure> {
        region.accept_clock(self.0, &self.1, until).await
    }

    fn forward(&self) -> ForwardCall {
        message(What::AcceptClock(AcceptClock {
            partition: u32::from(self.0.0),
            signature: Some(signature_to(&self.1)),
        }))
    }

    fn read(&self, answer: ForwardAnswer) -> Option<LogTime> {
        match answer.operated?.what? {
            Done::LogTimeUnixMs(unix_ms) => Some(LogTime::from_unix_ms(unix_ms)),
            Done::KeyId(_) | Done::Control(_) | Done::Position(_) => None,
        }
    }
}

impl Router {
    /// Makes a new cluster key current.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn rotate_cluster_key(&self, signature: Signature) -> Result<u32, Failed> {
        self.call(&RotateCall(signature), until(clock::monotonic(), None, Duration::ZERO)).await
    }

    /// Lets log time follow the clock, in every partition.
    ///
    /// # Errors
    /// When a partition has no outcome. A repeated call does the rest.
    pub async fn accept_clock(&self, signature: &Signature) -> Result<Vec<LogTime>, Failed> {
        let until = until(clock::monotonic(), None, Duration::ZERO);
        let mut accepted = Vec::new();
        for partition in self.region().partition_count().all() {
            accepted.push(self.call(&AcceptClockCall(partition, signature.clone()), until).await?);
        }
        Ok(accepted)
    }
}
