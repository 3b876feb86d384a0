//! From outcomes to answers. Every outcome is matched by name, so that a new one cannot go unsaid.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{
    Checkpoint, CheckpointAnswer, ClaimAnswer, Claimed, CompleteAnswer, Envelope, Epoch, Event, ExtendAnswer,
    FencingToken, Granted, GroupStatus, KeyAnswer, KeyState, Recorded, ReleaseAnswer, ReserveAnswer, ResolveAnswer,
    StatusAnswer, TopologyAnswer, TopologyNode,
};
use crate::api::reply::{group_state, millis};
use crate::ids::RecordKey;
use crate::region::calls::{self, Found, GrantOutcome, Place};
use crate::region::health::Topology;
use crate::region::status;
use crate::reservation::{record, reply};
use crate::router::messages::{event_kind, limit_name};
use crate::time::LogTime;

impl From<calls::ReserveOutcome> for ReserveAnswer {
    fn from(outcome: calls::ReserveOutcome) -> Self {
        use calls::ReserveOutcome as Outcome;
        match outcome {
            Outcome::Granted(grant) => Self::Granted((*grant).into()),
            Outcome::Replay(replay) => Self::Replay {
                envelope: replay.envelope.into(),
                completed_at_unix_ms: replay.completed_at.unix_ms(),
                expires_at_unix_ms: replay.expires_at.unix_ms(),
                fencing: replay.fencing.into(),
            },
            Outcome::Mismatch => Self::Mismatch,
            Outcome::InProgress { retry_after } => Self::InProgress { retry_after_ms: millis(retry_after) },
            Outcome::OutcomeUnknown { attempt, checkpoint } => {
                Self::OutcomeUnknown { attempt, checkpoint: checkpoint.map(Checkpoint::from) }
            }
            Outcome::InDoubt { retry_after } => Self::InDoubt { retry_after_ms: millis(retry_after) },
            Outcome::Superseded { epoch } => Self::Superseded { epoch: epoch.0 },
            Outcome::Expired => Self::Expired,
            Outcome::Limited { limit, retry_after } => {
                Self::Limited { limit: limit_name(limit), retry_after_ms: millis(retry_after) }
            }
        }
    }
}

impl From<calls::Completed> for CompleteAnswer {
    fn from(completed: calls::Completed) -> Self {
        let recorded = match completed.recorded {
            reply::Recorded::Answer => Recorded::Answer,
            reply::Recorded::Repeated => Recorded::Repeated,
            reply::Recorded::Late => Recorded::Late,
        };
        Self::Completed { recorded, expires_at_unix_ms: completed.expires_at.unix_ms() }
    }
}

impl From<GrantOutcome> for ReleaseAnswer {
    fn from(outcome: GrantOutcome) -> Self {
        match outcome {
            GrantOutcome::Done => Self::Released,
            GrantOutcome::StaleToken(state) => Self::StaleToken { state: state.into() },
        }
    }
}

impl ExtendAnswer {
    pub(in crate::api::http) fn of(outcome: GrantOutcome, lease_ms: u32) -> Self {
        match outcome {
            GrantOutcome::Done => Self::Extended { lease_ms },
            GrantOutcome::StaleToken(state) => Self::StaleToken { state: state.into() },
        }
    }
}

impl From<GrantOutcome> for CheckpointAnswer {
    fn from(outcome: GrantOutcome) -> Self {
        match outcome {
            GrantOutcome::Done => Self::Checkpointed,
            GrantOutcome::StaleToken(state) => Self::StaleToken { state: state.into() },
        }
    }
}

impl From<calls::ClaimOutcome> for ClaimAnswer {
    fn from(outcome: calls::ClaimOutcome) -> Self {
        match outcome {
            calls::ClaimOutcome::Claimed(grant) => Self::Claimed(Claimed {
                endpoint: grant.endpoint.as_str().to_owned(),
                fingerprint_version: grant.fingerprint.version,
                fingerprint: hex(&grant.fingerprint.digest),
                grant: (*grant).into(),
            }),
            calls::ClaimOutcome::NotClaimable(state) => Self::NotClaimable { state: state.into() },
            calls::ClaimOutcome::Limited(limit) => Self::Limited { limit: limit_name(limit) },
        }
    }
}

impl From<calls::ResolveOutcome> for ResolveAnswer {
    fn from(outcome: calls::ResolveOutcome) -> Self {
        match outcome {
            calls::ResolveOutcome::Resolved(state) => Self::Resolved { state: state.into() },
            calls::ResolveOutcome::StaleToken(state) => Self::StaleToken { state: state.into() },
        }
    }
}

impl KeyAnswer {
    pub(in crate::api::http) fn of(key: &RecordKey, found: Found) -> Self {
        Self {
            tenant: key.tenant.as_str().to_owned(),
            key: key.key.as_str().to_owned(),
            state: found.state.into(),
            endpoint: found.endpoint.as_str().to_owned(),
            fingerprint_version: found.fingerprint_version,
            fingerprint: hex(&found.fingerprint),
            fencing: found.fencing.map(FencingToken::from),
            attempt: found.attempt,
            lease_ms: found.lease_ms,
            retention_ms: found.retention_ms,
            envelope: found.envelope.map(Envelope::from),
            completed_at_unix_ms: found.completed_at.map(LogTime::unix_ms),
            expires_at_unix_ms: found.expires_at.map(LogTime::unix_ms),
            checkpoint: found.checkpoint.map(Checkpoint::from),
            history: found.history.into_iter().map(Event::from).collect(),
            history_dropped: found.history_dropped,
        }
    }
}

impl From<calls::Granted> for Granted {
    fn from(grant: calls::Granted) -> Self {
        Self {
            token: grant.token,
            fencing: grant.fencing.into(),
            start_within_ms: grant.start_within_ms,
            lease_ms: grant.lease_ms,
            attempt: grant.attempt,
            checkpoint: grant.checkpoint.map(Checkpoint::from),
            possible_duplicate: grant.possible_duplicate,
            repeated: grant.repeated,
        }
    }
}

impl From<calls::Envelope> for Envelope {
    fn from(envelope: calls::Envelope) -> Self {
        let headers = envelope.headers.into_iter().map(|(name, value)| (name, latin1(&value))).collect();
        Self { status: envelope.status, headers, body_base64: STANDARD.encode(&envelope.body) }
    }
}

impl From<crate::ids::FencingToken> for FencingToken {
    fn from(token: crate::ids::FencingToken) -> Self {
        Self { epoch: token.epoch.0, sequence: token.sequence }
    }
}

impl From<record::Checkpoint> for Checkpoint {
    fn from(checkpoint: record::Checkpoint) -> Self {
        Self { name: checkpoint.name.into(), data_base64: STANDARD.encode(&checkpoint.data) }
    }
}

impl From<record::State> for KeyState {
    fn from(state: record::State) -> Self {
        match state {
            record::State::Absent => Self::Absent,
            record::State::Held => Self::Held,
            record::State::Lapsed => Self::Lapsed,
            record::State::OutcomeUnknown => Self::OutcomeUnknown,
            record::State::Released => Self::Released,
            record::State::Completed => Self::Completed,
        }
    }
}

impl From<record::Event> for Event {
    fn from(event: record::Event) -> Self {
        Self {
            at_unix_ms: event.at.unix_ms(),
            kind: event_kind(event.kind),
            fencing: event.token.into(),
            detail: event.detail.into(),
        }
    }
}

impl From<&Place> for Epoch {
    fn from(place: &Place) -> Self {
        Self {
            home: place.home.as_str().to_owned(),
            partition: place.partition.0,
            epoch: place.epoch.0,
            position: place.position,
            leader: place.leader,
        }
    }
}

impl From<Topology> for TopologyAnswer {
    fn from(topology: Topology) -> Self {
        let nodes = topology.nodes.into_iter().map(|(node_id, address)| TopologyNode { node_id, address });
        Self { partitions: topology.leaders.len(), nodes: nodes.collect(), leaders: topology.leaders }
    }
}

impl From<status::Status> for StatusAnswer {
    fn from(status: status::Status) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            cluster_id: status.cluster_id,
            node_id: status.node_id,
            region: status.region.as_str().to_owned(),
            partitions: status.partitions,
            groups: status.groups.into_iter().map(GroupStatus::from).collect(),
            free_disk_bytes: status.free_disk_bytes,
            refusing: status.refusing,
        }
    }
}

impl From<status::GroupStatus> for GroupStatus {
    fn from(group: status::GroupStatus) -> Self {
        let (state, reason) = group_state(&group.state);
        Self {
            partition: group.partition.0,
            state,
            reason: reason.to_owned(),
            role: group.role.name(),
            leader_node_id: group.leader,
            term: group.term,
            last_log_index: group.last_log_index,
            applied_index: group.applied_index,
            snapshot_index: group.snapshot_index,
            purged_index: group.purged_index,
            log_time_unix_ms: group.log_time.unix_ms(),
            clock_held: group.clock_held,
            held_keys: group.held_keys,
        }
    }
}

/// A header's value, one character a byte, so that no byte is lost.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
