//! From outcomes to the messages of gRPC. Every outcome is matched by name, so that a new one cannot go unsaid.

use std::time::Duration;

use bytes::Bytes;
use holdfast_client::proto::v1;

use crate::region::calls::{
    ClaimOutcome, Completed, Found, GrantOutcome, Granted, Place, Placed, Replay, ReserveOutcome, ResolveOutcome,
};
use crate::region::health::Topology;
use crate::region::status::{GroupState, GroupStatus, Status};
use crate::reservation::record::{Event, State};
use crate::reservation::reply::{Limit, Recorded};
use crate::router::messages::{checkpoint, envelope, event_kind, fencing, key_state, limit_name};
use crate::time::LogTime;

pub(super) fn reserve(placed: Placed<ReserveOutcome>) -> v1::ReserveResponse {
    use v1::reserve_response::Outcome;
    let outcome = match placed.outcome {
        ReserveOutcome::Granted(grant) => Outcome::Granted(granted(*grant)),
        ReserveOutcome::Replay(stored) => Outcome::Replay(replay(*stored)),
        ReserveOutcome::Mismatch => Outcome::Mismatch(v1::Mismatch {}),
        ReserveOutcome::InProgress { retry_after } => {
            Outcome::InProgress(v1::InProgress { retry_after_ms: millis(retry_after) })
        }
        ReserveOutcome::OutcomeUnknown { attempt, checkpoint: left } => {
            Outcome::OutcomeUnknown(v1::OutcomeUnknown { attempt, checkpoint: left.map(checkpoint) })
        }
        ReserveOutcome::InDoubt { retry_after } => {
            Outcome::InDoubt(v1::InDoubt { retry_after_ms: millis(retry_after) })
        }
        ReserveOutcome::Superseded { epoch } => Outcome::Superseded(v1::Superseded { epoch: epoch.0 }),
        ReserveOutcome::Expired => Outcome::Expired(v1::Expired {}),
        ReserveOutcome::Limited { limit, retry_after } => Outcome::Limited(limited(limit, retry_after)),
    };
    v1::ReserveResponse { outcome: Some(outcome), epoch: Some(epoch(&placed.place)) }
}

pub(super) fn complete(placed: &Placed<Completed>) -> v1::CompleteResponse {
    let recorded = match placed.outcome.recorded {
        Recorded::Answer => v1::Recorded::Answer,
        Recorded::Repeated => v1::Recorded::Repeated,
        Recorded::Late => v1::Recorded::Late,
    };
    let outcome = v1::complete_response::Outcome::Completed(v1::Completed {
        recorded: recorded.into(),
        expires_at_unix_ms: placed.outcome.expires_at.unix_ms(),
    });
    v1::CompleteResponse { outcome: Some(outcome), epoch: Some(epoch(&placed.place)) }
}

pub(super) fn release(placed: Placed<GrantOutcome>) -> v1::ReleaseResponse {
    use v1::release_response::Outcome;
    let outcome = match placed.outcome {
        GrantOutcome::Done => Outcome::Released(v1::Released {}),
        GrantOutcome::StaleToken(state) => Outcome::StaleToken(stale_token(state)),
    };
    v1::ReleaseResponse { outcome: Some(outcome), epoch: Some(epoch(&placed.place)) }
}

pub(super) fn extend(placed: Placed<GrantOutcome>, lease_ms: u32) -> v1::ExtendResponse {
    use v1::extend_response::Outcome;
    let outcome = match placed.outcome {
        GrantOutcome::Done => Outcome::Extended(v1::Extended { lease_ms }),
        GrantOutcome::StaleToken(state) => Outcome::StaleToken(stale_token(state)),
    };
    v1::ExtendResponse { outcome: Some(outcome), epoch: Some(epoch(&placed.place)) }
}

pub(super) fn checkpointed(placed: Placed<GrantOutcome>) -> v1::CheckpointResponse {
    use v1::checkpoint_response::Outcome;
    let outcome = match placed.outcome {
        GrantOutcome::Done => Outcome::Checkpointed(v1::Checkpointed {}),
        GrantOutcome::StaleToken(state) => Outcome::StaleToken(stale_token(state)),
    };
    v1::CheckpointResponse { outcome: Some(outcome), epoch: Some(epoch(&placed.place)) }
}

pub(super) fn lookup(placed: Placed<Option<Found>>) -> v1::LookupResponse {
    v1::LookupResponse { record: placed.outcome.map(record), epoch: Some(epoch(&placed.place)) }
}

pub(super) fn claim(placed: Placed<ClaimOutcome>) -> v1::ClaimResponse {
    use v1::claim_response::Outcome;
    let outcome = match placed.outcome {
        ClaimOutcome::Claimed(grant) => Outcome::Claimed(v1::Claimed {
            endpoint: grant.endpoint.as_str().to_owned(),
            fingerprint_version: grant.fingerprint.version,
            fingerprint: Bytes::copy_from_slice(&grant.fingerprint.digest),
            grant: Some(granted(*grant)),
        }),
        ClaimOutcome::NotClaimable(state) => Outcome::NotClaimable(v1::NotClaimable { state: key_state(state).into() }),
        ClaimOutcome::Limited(limit) => Outcome::Limited(limited(limit, Duration::ZERO)),
    };
    v1::ClaimResponse { outcome: Some(outcome), epoch: Some(epoch(&placed.place)) }
}

pub(super) fn resolve(placed: Placed<ResolveOutcome>) -> v1::ResolveResponse {
    use v1::resolve_response::Outcome;
    let outcome = match placed.outcome {
        ResolveOutcome::Resolved(state) => Outcome::Resolved(v1::Resolved { state: key_state(state).into() }),
        ResolveOutcome::StaleToken(state) => Outcome::StaleToken(stale_token(state)),
    };
    v1::ResolveResponse { outcome: Some(outcome), epoch: Some(epoch(&placed.place)) }
}

pub(super) fn epoch(place: &Place) -> v1::Epoch {
    v1::Epoch {
        home: place.home.as_str().to_owned(),
        partition: u32::from(place.partition.0),
        epoch: place.epoch.0,
        position: place.position,
        leader: place.leader.unwrap_or_default(),
    }
}

pub(super) fn status(status: Status) -> v1::StatusResponse {
    v1::StatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster_id: status.cluster_id,
        node_id: status.node_id,
        region: status.region.as_str().to_owned(),
        partitions: u32::from(status.partitions),
        groups: status.groups.into_iter().map(group).collect(),
        free_disk_bytes: status.free_disk_bytes,
        refusing: status.refusing.unwrap_or_default(),
    }
}

/// A group's state in a word, and why it stopped if it did.
pub(super) fn group_state(state: &GroupState) -> (&'static str, &str) {
    match state {
        GroupState::Serving => ("serving", ""),
        GroupState::Stopped(reason) => ("stopped", reason),
    }
}

/// A duration in whole milliseconds, never less than it is.
pub(super) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros().div_ceil(1_000)).unwrap_or(u32::MAX)
}

/// The nodes of the region, and who leads what.
pub(super) fn topology(topology: Topology) -> v1::TopologyResponse {
    let nodes = topology.nodes.into_iter().map(|(node_id, address)| v1::TopologyNode { node_id, address });
    v1::TopologyResponse {
        partitions: u32::try_from(topology.leaders.len()).unwrap_or(u32::MAX),
        nodes: nodes.collect(),
        leaders: topology.leaders.into_iter().map(Option::unwrap_or_default).collect(),
    }
}

fn record(found: Found) -> v1::Record {
    v1::Record {
        state: key_state(found.state).into(),
        endpoint: found.endpoint.as_str().to_owned(),
        fingerprint_version: found.fingerprint_version,
        fingerprint: found.fingerprint,
        fencing: found.fencing.map(fencing),
        attempt: found.attempt,
        lease_ms: found.lease_ms,
        retention_ms: found.retention_ms,
        completed_at_unix_ms: found.completed_at.map_or(0, LogTime::unix_ms),
        expires_at_unix_ms: found.expires_at.map_or(0, LogTime::unix_ms),
        checkpoint: found.checkpoint.map(checkpoint),
        envelope: found.envelope.map(envelope),
        history: found.history.into_iter().map(event).collect(),
        history_dropped: found.history_dropped,
    }
}

fn granted(grant: Granted) -> v1::Granted {
    v1::Granted {
        token: grant.token,
        fencing: Some(fencing(grant.fencing)),
        start_within_ms: grant.start_within_ms,
        lease_ms: grant.lease_ms,
        attempt: grant.attempt,
        checkpoint: grant.checkpoint.map(checkpoint),
        possible_duplicate: grant.possible_duplicate,
        repeated: grant.repeated,
    }
}

fn replay(replay: Replay) -> v1::Replay {
    v1::Replay {
        envelope: Some(envelope(replay.envelope)),
        completed_at_unix_ms: replay.completed_at.unix_ms(),
        expires_at_unix_ms: replay.expires_at.unix_ms(),
        fencing: Some(fencing(replay.fencing)),
    }
}

fn event(event: Event) -> v1::Event {
    v1::Event {
        at_unix_ms: event.at.unix_ms(),
        kind: event_kind(event.kind).to_owned(),
        fencing: Some(fencing(event.token)),
        detail: event.detail.into(),
    }
}

fn limited(limit: Limit, retry_after: Duration) -> v1::Limited {
    v1::Limited { limit: limit_name(limit).to_owned(), retry_after_ms: millis(retry_after) }
}

fn stale_token(state: State) -> v1::StaleToken {
    v1::StaleToken { state: key_state(state).into() }
}

fn group(group: GroupStatus) -> v1::GroupStatus {
    let (state, reason) = group_state(&group.state);
    v1::GroupStatus {
        partition: u32::from(group.partition.0),
        state: state.to_owned(),
        reason: reason.to_owned(),
        term: group.term,
        last_log_index: group.last_log_index,
        applied_index: group.applied_index,
        snapshot_index: group.snapshot_index,
        purged_index: group.purged_index,
        log_time_unix_ms: group.log_time.unix_ms(),
        clock_held: group.clock_held,
        held_keys: group.held_keys,
        role: group.role.name().to_owned(),
        leader_node_id: group.leader.unwrap_or_default(),
    }
}
