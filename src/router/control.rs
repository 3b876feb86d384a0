//! What is decided about all partitions: passed to the first partition's leader, and read no older than what was decided before.

use std::time::Duration;

use super::call::Call;
use super::operate::message;
use super::{Router, until};
use crate::clock::{self, Monotonic};
use crate::codec::control::command_to;
use crate::control::{Command, Reply};
use crate::ids::{PartitionId, TenantId};
use crate::region::Region;
use crate::region::calls::{Failed, Failure, Invalid};
use crate::wire::v1::control_reply::Reply as Wire;
use crate::wire::v1::operate::What;
use crate::wire::v1::operated::What as Done;
use crate::wire::v1::{ControlPosition, ControlReply, Empty, ForwardAnswer, ForwardCall, Full};

/// Decides about what is the same for all partitions.
#[derive(Clone, Debug)]
pub struct ControlCall(pub Command);

/// Asks how far whoever knows every decision has applied the first partition's log.
#[derive(Clone, Copy, Debug)]
pub struct ControlPositionCall;

impl Call for ControlCall {
    type Answer = Reply;
    // Each says what it was compared with, or what is to be in the end.
    const REPEATABLE: bool = false;

    fn partition(&self, _region: &Region) -> PartitionId {
        PartitionId(0)
    }

    async fn here(&self, region: &Region, until: Monotonic) -> Result<Reply, Failure> {
        region.decide_control(self.0.clone(), until).await
    }

    fn forward(&self) -> ForwardCall {
        message(What::Control(command_to(&self.0)))
    }

    fn bytes(&self) -> usize {
        self.0.weight()
    }

    fn read(&self, answer: ForwardAnswer) -> Option<Reply> {
        match answer.operated?.what? {
            Done::Control(reply) => reply_from(reply),
            Done::KeyId(_) | Done::LogTimeUnixMs(_) | Done::Position(_) => None,
        }
    }
}

impl Call for ControlPositionCall {
    type Answer = u64;
    const REPEATABLE: bool = true;

    fn partition(&self, _region: &Region) -> PartitionId {
        PartitionId(0)
    }

    async fn here(&self, region: &Region, until: Monotonic) -> Result<u64, Failure> {
        region.control_position(until).await
    }

    fn forward(&self) -> ForwardCall {
        message(What::ControlPosition(ControlPosition {}))
    }

    fn read(&self, answer: ForwardAnswer) -> Option<u64> {
        match answer.operated?.what? {
            Done::Position(position) => Some(position),
            Done::KeyId(_) | Done::LogTimeUnixMs(_) | Done::Control(_) => None,
        }
    }
}

/// As one node answers another.
pub(crate) fn reply_to(reply: Reply) -> ControlReply {
    let reply = match reply {
        Reply::OtherRevision { current } => Wire::OtherRevision(current),
        Reply::Policies { revision } => Wire::Revision(revision),
        Reply::Full { what, most } => Wire::Full(Full { what, most: u64::try_from(most).unwrap_or(u64::MAX) }),
        Reply::TenantExists => Wire::TenantExists(Empty {}),
        Reply::TenantUnknown => Wire::TenantUnknown(Empty {}),
        Reply::Tenant => Wire::Tenant(Empty {}),
        Reply::Noted => Wire::Noted(Empty {}),
    };
    ControlReply { reply: Some(reply) }
}

fn reply_from(reply: ControlReply) -> Option<Reply> {
    Some(match reply.reply? {
        Wire::OtherRevision(current) => Reply::OtherRevision { current },
        Wire::Revision(revision) => Reply::Policies { revision },
        Wire::Full(Full { what, most }) => Reply::Full { what, most: usize::try_from(most).unwrap_or(usize::MAX) },
        Wire::TenantExists(Empty {}) => Reply::TenantExists,
        Wire::TenantUnknown(Empty {}) => Reply::TenantUnknown,
        Wire::Tenant(Empty {}) => Reply::Tenant,
        Wire::Noted(Empty {}) => Reply::Noted,
    })
}

impl Router {
    /// Decides about what is the same for all partitions, and waits until this node has applied it too. With the reply: whether
    /// it has.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn decide_control(&self, command: Command) -> Result<(Reply, bool), Failed> {
        let until = until(clock::monotonic(), None, Duration::ZERO);
        let reply = self.call(&ControlCall(command), until).await?;
        // It is decided: that this node is behind is no failure of the call.
        let known = self.know_control(until).await;
        if let Err(failed) = &known {
            tracing::debug!(%failed, "what was decided is not applied here yet");
        }
        Ok((reply, known.is_ok()))
    }

    /// Waits until this node has applied every decision about all partitions that was made before.
    ///
    /// # Errors
    /// When that cannot be known, or takes too long. Nothing was done.
    pub async fn know_control(&self, until: Monotonic) -> Result<(), Failed> {
        // Not a key's call: it asks for nobody's tenant.
        let position = Box::pin(self.route(&ControlPositionCall, until)).await?;
        let applied = self.region.control_applied(position, until).await;
        applied.map_err(|failure| self.failed(PartitionId(0), failure, None))
    }

    /// Refuses a tenant that nobody made. One that this node has not heard of is asked after: only whoever knows every decision
    /// says no.
    ///
    /// # Errors
    /// When there is none, or when that cannot be known.
    pub async fn known_tenant(&self, tenant: &TenantId, until: Monotonic) -> Result<(), Failed> {
        if self.region.knows_tenant(tenant) {
            return Ok(());
        }
        self.know_control(until).await?;
        match self.region.knows_tenant(tenant) {
            true => Ok(()),
            false => {
                let unknown = Invalid::TenantUnknown { tenant: tenant.as_str().to_owned() };
                Err(Failed { failure: unknown.into(), leader: None })
            }
        }
    }
}
