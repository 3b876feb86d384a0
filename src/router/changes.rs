//! Changes of every group's members: each is passed to the node that leads the group, all groups are checked before the
//! first is changed, and a repeated call goes on where one that failed has stopped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::clock;
use crate::ids::PartitionId;
use crate::raft::{Group, Leadership, Membership};
use crate::router::cluster::{Change, ChangeError, Cluster, VoterChange};
use crate::wire::v1;
use crate::wire::v1::change_members_reply::Outcome;

/// How long a group's leader is looked for: two elections.
const LEADER_TIMEOUT: Duration = Duration::from_secs(6);
/// How long until it is looked again.
const LEADER_PERIOD: Duration = Duration::from_millis(200);
/// How long one change may take at its leader, which itself gives up before.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(70);
/// How long a member may take to say how it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// Groups that are changed at a time: each change writes a few entries.
const AT_A_TIME: usize = 16;

/// A member of the region, over all groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub node_id: u64,
    /// Where its public API is reached.
    pub api: String,
    /// Where its peers reach it.
    pub peer: String,
    /// Groups in which it votes.
    pub voter_of: u32,
    /// Groups in which it learns.
    pub learner_of: u32,
    /// Groups that it leads.
    pub leader_of: u32,
    /// How many entries it is behind a leader, at the most. Nothing: no leader of one of its groups has said.
    pub behind: Option<u64>,
    /// Whether it answers this node.
    pub reachable: bool,
}

impl Cluster {
    /// The members, as this node has them; how far they are is asked of the leaders.
    pub async fn members(&self) -> Vec<Member> {
        let groups: Vec<(Membership, Leadership)> = match self.region() {
            None => Vec::new(),
            Some(region) => region.groups().map(|group| (group.members(), group.leader())).collect(),
        };
        let nodes: std::collections::BTreeSet<u64> =
            groups.iter().flat_map(|(members, _)| members.nodes.keys().copied()).collect();
        let mut asked = JoinSet::new();
        for node_id in nodes.iter().copied().filter(|id| *id != self.peers().me().node_id) {
            let client = self.peers().client(node_id);
            asked.spawn(async move {
                let reply = timeout(HELLO_TIMEOUT, client?.hello(v1::HelloRequest {})).await;
                Some((node_id, reply.ok()?.ok()?.into_inner()))
            });
        }
        let mut hellos = BTreeMap::from([(self.peers().me().node_id, self.hello())]);
        while let Some(answered) = asked.join_next().await {
            hellos.extend(answered.ok().flatten());
        }
        nodes.into_iter().map(|node_id| member(node_id, &groups, &hellos)).collect()
    }

    /// Takes a node in as a learner of every group.
    ///
    /// # Errors
    /// Why one of the groups has not taken it in yet. A repeated call goes on.
    pub async fn take_in(self: &Arc<Self>, node: &v1::Node) -> Result<(), ChangeError> {
        if node.node_id == 0 || node.peer.is_empty() || node.disk.is_empty() {
            return Err(ChangeError::Refused("a node that joins says its number, its address and its disk".to_owned()));
        }
        self.everywhere(|_, _| vec![Change::AddLearner(node.clone())]).await
    }

    /// Makes a learner a voter of every group, takes a member out of every group, or both at once.
    ///
    /// # Errors
    /// Why not. When a check refuses, no group was changed; else a repeated call goes on.
    pub async fn change_voters(self: &Arc<Self>, promote: Option<u64>, remove: Option<u64>) -> Result<(), ChangeError> {
        if promote == remove {
            let why = match promote {
                None => "name a node to promote, one to remove, or both".to_owned(),
                Some(node) => format!("node {node} is to be promoted and removed: name two nodes"),
            };
            return Err(ChangeError::Refused(why));
        }
        let change = VoterChange { promote, remove, check_only: false };
        self.everywhere(|_, _| vec![Change::Voters(VoterChange { check_only: true, ..change })]).await?;
        self.everywhere(|members, leader| {
            // A leader that leaves hands over first: the group need not wait for an election.
            let heir = remove.filter(|leaving| leader.leader == Some(*leaving));
            let heir = heir.and_then(|leaving| members.voters.iter().copied().find(|voter| *voter != leaving));
            heir.map(Change::Transfer).into_iter().chain([Change::Voters(change)]).collect()
        })
        .await
    }

    /// Hands groups over to a voter: one, or all. Returns those that it leads then.
    ///
    /// # Errors
    /// Why one was not handed over. The others may have been.
    pub async fn transfer(
        self: &Arc<Self>,
        partition: Option<PartitionId>,
        to: u64,
    ) -> Result<Vec<PartitionId>, ChangeError> {
        let wanted: Vec<PartitionId> = self.wanted(partition)?.iter().map(Group::partition).collect();
        self.each(wanted.iter().map(|id| (*id, vec![Change::Transfer(to)])).collect()).await?;
        Ok(wanted)
    }

    /// Makes this node's groups durable up to now, one or all, and purges their logs behind that. Returns the last entry
    /// in each snapshot.
    ///
    /// # Errors
    /// When one of them has stopped.
    pub async fn snapshot(&self, partition: Option<PartitionId>) -> Result<Vec<(PartitionId, u64)>, ChangeError> {
        let mut taken = Vec::new();
        for group in self.wanted(partition)? {
            taken.push((group.partition(), group.snapshot().await?));
        }
        Ok(taken)
    }

    /// One group, or all.
    fn wanted(&self, partition: Option<PartitionId>) -> Result<Vec<Group>, ChangeError> {
        let Some(region) = self.region() else { return Err(starting()) };
        let is_wanted = |group: &&Group| partition.is_none_or(|wanted| wanted == group.partition());
        let wanted: Vec<Group> = region.groups().filter(is_wanted).cloned().collect();
        if wanted.is_empty() {
            let last = region.groups().count().saturating_sub(1);
            return Err(ChangeError::Refused(format!("there is no such partition: they are 0 to {last}")));
        }
        Ok(wanted)
    }

    /// Changes every group, as its members and its leader ask for.
    async fn everywhere(
        self: &Arc<Self>,
        changes: impl Fn(&Membership, &Leadership) -> Vec<Change>,
    ) -> Result<(), ChangeError> {
        let Some(region) = self.region() else { return Err(starting()) };
        let groups = region.groups().map(|group| (group.partition(), changes(&group.members(), &group.leader())));
        self.each(groups.collect()).await
    }

    /// Changes groups, some at a time, each at its leader. All are tried; the first error is told.
    async fn each(self: &Arc<Self>, groups: Vec<(PartitionId, Vec<Change>)>) -> Result<(), ChangeError> {
        let mut running = JoinSet::new();
        let mut outcome = Ok(());
        let mut keep = |done: Result<Result<(), ChangeError>, tokio::task::JoinError>| {
            let done = done.unwrap_or_else(|error| Err(ChangeError::Unknown(error.to_string())));
            if outcome.is_ok() {
                outcome = done;
            }
        };
        for (partition, changes) in groups {
            if running.len() >= AT_A_TIME
                && let Some(done) = running.join_next().await
            {
                keep(done);
            }
            let cluster = Arc::clone(self);
            running.spawn(async move { cluster.in_turn(partition, &changes).await });
        }
        while let Some(done) = running.join_next().await {
            keep(done);
        }
        outcome
    }

    async fn in_turn(&self, partition: PartitionId, changes: &[Change]) -> Result<(), ChangeError> {
        for (at, change) in changes.iter().enumerate() {
            let done = self.at_leader(partition, change).await;
            // What comes before the last only makes it smoother.
            if at + 1 == changes.len() {
                return done;
            }
            if let Err(error) = done {
                tracing::info!(%partition, %error, "a leader that leaves did not hand over first");
            }
        }
        Ok(())
    }

    /// Changes a group at its leader, wherever that is.
    async fn at_leader(&self, partition: PartitionId, change: &Change) -> Result<(), ChangeError> {
        let start = clock::monotonic();
        let mut hint = None;
        loop {
            let known = self.group(u32::from(partition.0)).and_then(|group| group.leader().leader);
            let outcome = match hint.take().or(known) {
                None => Err(ChangeError::NotLeader { leader: None }),
                Some(leader) if leader == self.peers().me().node_id => self.change_here(partition, change).await,
                Some(leader) => self.at_peer(leader, partition, change).await,
            };
            let late = clock::monotonic().since(start) > LEADER_TIMEOUT;
            match outcome {
                Ok(()) | Err(ChangeError::Refused(_)) => return outcome,
                // What is done already is left as it is, so it can be asked again.
                Err(ChangeError::Unknown(_)) if late => return outcome,
                Err(ChangeError::Unknown(_)) => {}
                Err(ChangeError::NotLeader { .. }) if late => {
                    return Err(ChangeError::Refused(format!(
                        "partition {partition} has no leader that answers: see `holdfast ctl members`, and ask again"
                    )));
                }
                Err(ChangeError::NotLeader { leader }) => hint = leader,
            }
            tokio::time::sleep(LEADER_PERIOD).await;
        }
    }

    async fn at_peer(&self, leader: u64, partition: PartitionId, change: &Change) -> Result<(), ChangeError> {
        let Some(mut client) = self.peers().client(leader) else {
            return Err(ChangeError::NotLeader { leader: None });
        };
        let asked = timeout(CHANGE_TIMEOUT, client.change_members(change.request(partition))).await;
        let reply = match asked {
            Err(_) => return Err(ChangeError::Unknown(format!("node {leader} did not answer in time"))),
            Ok(Err(status)) => {
                return Err(ChangeError::Unknown(format!("node {leader} did not answer: {}", status.message())));
            }
            Ok(Ok(reply)) => reply.into_inner(),
        };
        match reply.outcome {
            Some(Outcome::Changed(_)) => Ok(()),
            Some(Outcome::NotLeader(other)) => {
                Err(ChangeError::NotLeader { leader: (other.leader_node_id > 0).then_some(other.leader_node_id) })
            }
            Some(Outcome::Refused(reason)) => Err(ChangeError::Refused(reason)),
            Some(Outcome::Unknown(reason)) => Err(ChangeError::Unknown(reason)),
            None => Err(ChangeError::Unknown(format!("node {leader} answered with nothing that is known here"))),
        }
    }
}

fn starting() -> ChangeError {
    ChangeError::Refused("this node is still starting: ask again, or ask another".to_owned())
}

fn count(matching: impl Iterator<Item = bool>) -> u32 {
    u32::try_from(matching.filter(|matches| *matches).count()).unwrap_or(u32::MAX)
}

fn member(node_id: u64, groups: &[(Membership, Leadership)], hellos: &BTreeMap<u64, v1::HelloReply>) -> Member {
    let at = groups.iter().find_map(|(members, _)| members.nodes.get(&node_id)).cloned().unwrap_or_default();
    let votes = |members: &Membership| members.voters.contains(&node_id);
    let learns = |members: &Membership| !votes(members) && members.nodes.contains_key(&node_id);
    Member {
        node_id,
        api: at.api,
        peer: at.peer,
        voter_of: count(groups.iter().map(|(members, _)| votes(members))),
        learner_of: count(groups.iter().map(|(members, _)| learns(members))),
        leader_of: count(groups.iter().map(|(_, now)| now.leader == Some(node_id))),
        behind: behind(node_id, groups, hellos),
        reachable: hellos.contains_key(&node_id),
    }
}

/// How far a member is behind at the most, if every one of its groups has a leader that says so.
fn behind(node_id: u64, groups: &[(Membership, Leadership)], hellos: &BTreeMap<u64, v1::HelloReply>) -> Option<u64> {
    let of_group = |partition: usize| {
        let said = hellos.iter().find_map(|(leader, hello)| {
            let lead = hello.leads.iter().find(|lead| usize::try_from(lead.partition) == Ok(partition))?;
            Some((*leader, lead))
        });
        let (leader, lead) = said?;
        let matched = lead.matched.iter().find(|matched| matched.node_id == node_id).map_or(0, |matched| matched.index);
        Some(if leader == node_id { 0 } else { lead.last.saturating_sub(matched) })
    };
    let its = groups.iter().enumerate().filter(|(_, (members, _))| members.nodes.contains_key(&node_id));
    its.map(|(partition, _)| of_group(partition)).try_fold(0, |most: u64, behind| Some(most.max(behind?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Address;

    /// A node that leads one partition, and up to where it knows members to have it.
    fn hello(partition: u32, last: u64, matched: &[(u64, u64)]) -> v1::HelloReply {
        let matched = matched.iter().map(|(node_id, index)| v1::Matched { node_id: *node_id, index: *index }).collect();
        v1::HelloReply { leads: vec![v1::Lead { partition, last, matched }], ..v1::HelloReply::default() }
    }

    #[test]
    fn a_member_is_counted_over_all_groups() {
        let nodes = BTreeMap::from([(1, Address::default()), (2, Address::default()), (3, Address::default())]);
        let members = Membership { voters: [1, 2].into(), nodes, changing: false };
        let led = |leader| Leadership { term: 1, leader: Some(leader), leads: leader == 1 };
        let groups = vec![(members.clone(), led(1)), (members, led(2))];
        let mut hellos = BTreeMap::from([(1, hello(0, 100, &[(2, 90), (3, 40)]))]);
        let learner = member(3, &groups, &hellos);
        assert_eq!((learner.voter_of, learner.learner_of, learner.leader_of), (0, 2, 0));
        assert_eq!(learner.behind, None, "nobody speaks for partition 1");
        assert!(!learner.reachable);
        hellos.insert(2, hello(1, 50, &[(1, 50), (3, 50)]));
        assert_eq!(member(3, &groups, &hellos).behind, Some(60));
        let voter = member(2, &groups, &hellos);
        assert_eq!((voter.voter_of, voter.leader_of, voter.behind, voter.reachable), (2, 1, Some(10), true));
    }
}
