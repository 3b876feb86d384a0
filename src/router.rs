//! Where a call goes: key → partition → the node that leads it. It is served here if this node leads, or if the key is
//! completed and that is applied here; else it is passed on to the leader. A call that was passed on is served there or
//! nowhere: it never goes a second way.
//!
//! Deliberately absent: what a call does (`region`), and home → acting region: there is one region so far.

pub mod call;
pub mod changes;
pub mod cluster;
pub mod control;
mod link;
mod measured;
pub(crate) mod messages;
pub mod operate;
mod pursuit;
pub(crate) mod rules;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use holdfast_client::proto::v1;

use self::call::Call;
use self::cluster::some;
use self::link::{Links, Unanswered};
use self::pursuit::Pursuit;
use crate::clock::{self, Monotonic};
use crate::ids::PartitionId;
use crate::limits;
use crate::peers::Peers;
use crate::raft::NodeId;
use crate::region::Region;
use crate::region::calls::{Certainty, Failed, Failure};
use crate::wire::v1::ForwardAnswer;

/// When to ask again after a failure that may pass.
const RETRY: Duration = Duration::from_millis(500);

/// The store as its callers see it. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    region: Arc<Region>,
    links: Arc<Links>,
}

/// How one attempt ended without an answer for the caller.
enum Setback {
    /// Nothing was done, and the call may go to another node: to this one, if one was named.
    Elsewhere(Option<NodeId>),
    /// It is over: as this says, by the node that is named, if one is.
    Final(Failure, Option<NodeId>),
}

/// Until when a call may take: as long as its caller asks, at most the node's own bound, which is also the default. `wait` is
/// what the call itself asks to wait for another attempt.
#[must_use]
pub fn until(received: Monotonic, asked: Option<Duration>, wait: Duration) -> Monotonic {
    let bound = Duration::from_millis(limits::CALL_TIMEOUT_MS).saturating_add(wait);
    received.plus(asked.map_or(bound, |asked| asked.min(bound)))
}

impl Router {
    /// A router in front of this node's part of the region.
    #[must_use]
    pub fn new(region: Arc<Region>, peers: Arc<Peers>) -> Self {
        Self { region, links: Arc::new(Links::new(peers)) }
    }

    /// This node's part of the region.
    #[must_use]
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Has a call served by whoever leads its key's partition.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite, and who leads.
    pub async fn call<C: Call>(&self, call: &C, until: Monotonic) -> Result<C::Answer, Failed> {
        let begun = clock::monotonic();
        let answered = match call.tenant() {
            Some(tenant) if !self.region.knows_tenant(tenant) => match self.known_tenant(tenant, until).await {
                Ok(()) => self.route(call, until).await,
                Err(failed) => Err(failed),
            },
            Some(_) | None => self.route(call, until).await,
        };
        measured::call(&self.region, call, begun, &answered);
        answered
    }

    async fn route<C: Call>(&self, call: &C, until: Monotonic) -> Result<C::Answer, Failed> {
        let failure = match call.here(&self.region, until).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let partition = call.partition(&self.region);
        let told = match self.here_failed(partition, failure) {
            Setback::Elsewhere(told) => told,
            Setback::Final(failure, named) => return Err(self.failed(partition, failure, named)),
        };
        self.pursue(call, partition, told, until).await
    }

    fn failed(&self, partition: PartitionId, failure: Failure, named: Option<NodeId>) -> Failed {
        failed(&self.region, partition, failure, named)
    }

    fn here_failed(&self, partition: PartitionId, failure: Failure) -> Setback {
        match failure {
            Failure::NotLeader { leader } => Setback::Elsewhere(leader),
            // What has stopped here may be served elsewhere.
            Failure::Unavailable { certainty: Certainty::Definite, .. } if self.others(partition).is_some() => {
                Setback::Elsewhere(None)
            }
            final_one @ (Failure::Invalid(_)
            | Failure::Overloaded { .. }
            | Failure::DiskLow { .. }
            | Failure::OtherSelection { .. }
            | Failure::Elsewhere { .. }
            | Failure::Unavailable { .. }) => Setback::Final(final_one, None),
        }
    }

    /// The other voters of a group that has stopped here. Nothing if it has not, or has none.
    fn others(&self, partition: PartitionId) -> Option<Vec<NodeId>> {
        let group = self.region.group(partition)?;
        group.stopped()?;
        let me = self.region.node_id();
        let others: Vec<NodeId> = group.members().voters.into_iter().filter(|voter| *voter != me).collect();
        (!others.is_empty()).then_some(others)
    }

    /// Asks one node after another, as leaders are named and change.
    async fn pursue<C: Call>(
        &self,
        call: &C,
        partition: PartitionId,
        mut told: Option<NodeId>,
        until: Monotonic,
    ) -> Result<C::Answer, Failed> {
        let me = self.region.node_id();
        let nowhere = |asked| Err(self.failed(partition, unreached(partition, asked), None));
        let Some(group) = self.region.group(partition) else { return nowhere(None) };
        let mut pursuit = Pursuit::new(me, group.leadership(), until, self.others(partition));
        let mut asked = None;
        while let Some(next) = pursuit.next(told).await {
            let tried = if next == me {
                call.here(&self.region, until).await.map_err(|failure| self.here_failed(partition, failure))
            } else {
                asked = Some(next);
                let begun = clock::monotonic();
                let answer = self.links.ask(next, call.forward(), call.bytes(), until).await;
                measured::sent(begun, &answer);
                answer
                    .map_err(|why| unanswered(why, next, C::REPEATABLE))
                    .and_then(|answer| read(call, next, answer, begun))
            };
            told = match tried {
                Ok(answer) => return Ok(answer),
                Err(Setback::Elsewhere(told)) => told,
                Err(Setback::Final(failure, named)) => return Err(self.failed(partition, failure, named)),
            };
            if clock::monotonic() >= until {
                break;
            }
        }
        nowhere(asked)
    }
}

/// Serves a call that another node has passed on: here or nowhere.
///
/// # Errors
/// When there is no outcome; the failure says whether that is definite.
pub async fn here<C: Call>(region: &Region, call: &C, until: Monotonic) -> Result<C::Answer, Failed> {
    let begun = clock::monotonic();
    let served = call.here(region, until).await;
    measured::received(begun, &served);
    served.map_err(|failure| failed(region, call.partition(region), failure, None))
}

/// A failure, with whom to ask instead.
fn failed(region: &Region, partition: PartitionId, failure: Failure, named: Option<NodeId>) -> Failed {
    let leader = named.or_else(|| region.group(partition).and_then(|group| group.leader().leader));
    let leader = leader.filter(|leader| *leader != region.node_id());
    Failed { failure, leader: leader.map(|leader| region.as_leader(leader)) }
}

/// Nobody was reached who serves the partition: nothing was done.
fn unreached(partition: PartitionId, asked: Option<NodeId>) -> Failure {
    let reason = match asked {
        Some(node_id) => {
            format!("partition {partition} is not served by a node that this one reaches; it asked node {node_id} last")
        }
        None => format!("partition {partition} has no leader that this node knows of: is a majority of its voters up?"),
    };
    Failure::Unavailable { certainty: Certainty::Definite, reason, retry_after: RETRY }
}

fn unanswered(why: Unanswered, node_id: NodeId, repeatable: bool) -> Setback {
    match why {
        Unanswered::NotSent => Setback::Elsewhere(None),
        Unanswered::Full => Setback::Final(Failure::Overloaded { retry_after: RETRY }, Some(node_id)),
        Unanswered::Lost if repeatable => Setback::Elsewhere(None),
        Unanswered::Lost => Setback::Final(lost(node_id), Some(node_id)),
    }
}

/// The call was sent, and it is not known what came of it.
fn lost(node_id: NodeId) -> Failure {
    Failure::Unavailable {
        certainty: Certainty::Indefinite,
        reason: format!("node {node_id}, which leads the key's partition, did not answer: ask again with the same key"),
        retry_after: RETRY,
    }
}

/// What another node answered.
fn read<C: Call>(call: &C, node_id: NodeId, answer: ForwardAnswer, sent: Monotonic) -> Result<C::Answer, Setback> {
    if let Some(not_leader) = answer.not_leader {
        return Err(Setback::Elsewhere(some(not_leader.leader_node_id)));
    }
    if answer.other_selection > 0 {
        let failure = Failure::OtherSelection { selection: answer.other_selection };
        return Err(Setback::Final(failure, Some(node_id)));
    }
    if let Some(v1::session_answer::Answer::Failure(failure)) =
        answer.answer.as_ref().and_then(|one| one.answer.as_ref())
    {
        let named = some(failure.leader).unwrap_or(node_id);
        return Err(Setback::Final(failure_from(failure), Some(named)));
    }
    let mut answer = call.read(answer).ok_or_else(|| {
        tracing::error!(node_id, "a node's answer does not fit the call: do both run the same version?");
        Setback::Final(lost(node_id), Some(node_id))
    })?;
    call.count_from_receipt(&mut answer, sent);
    Ok(answer)
}

/// A failure as another node has it, word for word.
fn failure_from(failure: &v1::Failure) -> Failure {
    let v1::Failure { code, message, definite, retry_after_ms, .. } = failure;
    Failure::Elsewhere {
        code: code.clone(),
        message: message.clone(),
        certainty: if *definite { Certainty::Definite } else { Certainty::Indefinite },
        retry_after: (*retry_after_ms > 0).then(|| Duration::from_millis(u64::from(*retry_after_ms))),
    }
}
