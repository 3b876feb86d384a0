//! From outcomes to the messages of gRPC. Every outcome is matched by name, so that a new one cannot go unsaid.

use std::time::Duration;

use bytes::Bytes;
use holdfast_client::proto::v1;

use crate::ids::FencingToken;
use crate::region::calls::{
    ClaimOutcome, Completed, Envelope, Found, GrantOutcome, Granted, Place, Placed, Replay, ReserveOutcome,
    ResolveOutcome,
};
use crate::region::status::{GroupState, GroupStatus, Status};
use crate::reservation::record::{Checkpoint, Event, EventKind, State};
use crate::reservation::reply::{Limit, Recorded};

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
        position: 0,
        leader: 0,
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

/// A limit's name.
pub(super) const fn limit_name(limit: Limit) -> &'static str {
    match limit {
        Limit::Attempts => "attempts",
    }
}

/// An event's kind in a word.
pub(super) const fn event_kind(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Granted => "granted",
        EventKind::Completed => "completed",
        EventKind::Late => "late",
        EventKind::Released => "released",
        EventKind::Extended => "extended",
        EventKind::Checkpointed => "checkpointed",
        EventKind::Lapsed => "lapsed",
        EventKind::Voided => "voided",
        EventKind::Claimed => "claimed",
        EventKind::Resolved => "resolved",
        EventKind::Adopted => "adopted",
    }
}

/// A duration in whole milliseconds, never less than it is.
pub(super) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros().div_ceil(1_000)).unwrap_or(u32::MAX)
}

/// The fingerprint, the fencing token and so on that a record is shown with: of its answer if it has one, else of the last
/// grant.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) fencing: Option<FencingToken>,
    pub(super) attempt: u32,
    pub(super) fingerprint_version: u32,
    pub(super) fingerprint: Bytes,
    pub(super) lease_ms: u32,
}

impl Shown {
    pub(super) fn of(found: &Found) -> Self {
        let record = &found.record;
        let answered = record.answer.and_then(|answer| record.attempts.iter().find(|one| one.token == answer.token));
        let attempt = answered.or_else(|| record.last());
        Self {
            fencing: attempt.map(|attempt| attempt.token),
            attempt: attempt.map_or(0, |attempt| attempt.number),
            fingerprint_version: attempt.map_or(0, |attempt| attempt.fingerprint.version),
            fingerprint: attempt.map_or_else(Bytes::new, |attempt| Bytes::copy_from_slice(&attempt.fingerprint.digest)),
            lease_ms: record.holding().map_or(record.terms.lease_ms, |holding| holding.lease_ms),
        }
    }
}

fn record(found: Found) -> v1::Record {
    let shown = Shown::of(&found);
    let Found { record, envelope: answer } = found;
    v1::Record {
        state: key_state(record.state()).into(),
        endpoint: record.endpoint.as_str().to_owned(),
        fingerprint_version: shown.fingerprint_version,
        fingerprint: shown.fingerprint,
        fencing: shown.fencing.map(fencing),
        attempt: shown.attempt,
        lease_ms: shown.lease_ms,
        retention_ms: record.terms.retention_ms,
        completed_at_unix_ms: record.answer.map_or(0, |answer| answer.completed_at.unix_ms()),
        expires_at_unix_ms: record.expires_at().map_or(0, crate::time::LogTime::unix_ms),
        checkpoint: record.checkpoint.map(checkpoint),
        envelope: answer.map(envelope),
        history: record.history.into_iter().map(event).collect(),
        history_dropped: record.history_dropped,
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

fn envelope(envelope: Envelope) -> v1::Envelope {
    let headers = envelope.headers.into_iter().map(|(name, value)| v1::Header { name, value }).collect();
    v1::Envelope { status: u32::from(envelope.status), headers, body: envelope.body }
}

fn checkpoint(checkpoint: Checkpoint) -> v1::CheckpointData {
    v1::CheckpointData { name: checkpoint.name.into(), data: Bytes::from(checkpoint.data) }
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

fn fencing(token: FencingToken) -> v1::FencingToken {
    v1::FencingToken { epoch: token.epoch.0, sequence: token.sequence }
}

fn stale_token(state: State) -> v1::StaleToken {
    v1::StaleToken { state: key_state(state).into() }
}

const fn key_state(state: State) -> v1::KeyState {
    match state {
        State::Absent => v1::KeyState::Absent,
        State::Held => v1::KeyState::Held,
        State::Lapsed => v1::KeyState::Lapsed,
        State::OutcomeUnknown => v1::KeyState::OutcomeUnknown,
        State::Released => v1::KeyState::Released,
        State::Completed => v1::KeyState::Completed,
    }
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
        role: String::new(),
        leader_node_id: 0,
    }
}
