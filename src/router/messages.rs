//! What the messages of the API and of forwarding are made of, in both directions.

use bytes::Bytes;
use holdfast_client::proto::v1;

use crate::ids::{EndpointName, Epoch, FencingToken, Fingerprint, PartitionId, RegionName};
use crate::region::calls::{Envelope, Found, Granted, Place, Replay};
use crate::reservation::record::{Checkpoint, Event, EventKind, State};
use crate::reservation::reply::Limit;
use crate::time::LogTime;

pub(crate) fn envelope(envelope: Envelope) -> v1::Envelope {
    let headers = envelope.headers.into_iter().map(|(name, value)| v1::Header { name, value }).collect();
    v1::Envelope { status: u32::from(envelope.status), headers, body: envelope.body }
}

pub(crate) fn checkpoint(checkpoint: Checkpoint) -> v1::CheckpointData {
    v1::CheckpointData { name: checkpoint.name.into(), data: Bytes::from(checkpoint.data) }
}

pub(crate) fn fencing(token: FencingToken) -> v1::FencingToken {
    v1::FencingToken { epoch: token.epoch.0, sequence: token.sequence }
}

/// A limit's name.
pub(crate) const fn limit_name(limit: Limit) -> &'static str {
    match limit {
        Limit::Attempts => "attempts",
        Limit::TenantKeys => "tenant-keys",
        Limit::TenantBytes => "tenant-bytes",
        Limit::EndpointKeys => "endpoint-keys",
        Limit::EndpointBytes => "endpoint-bytes",
        Limit::Endpoints => "endpoints",
        Limit::TenantRate => "tenant-rate",
        Limit::ClientRate => "client-rate",
        Limit::EndpointRate => "endpoint-rate",
        Limit::EndpointClientRate => "endpoint-client-rate",
    }
}

/// An event's kind in a word.
pub(crate) const fn event_kind(kind: EventKind) -> &'static str {
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

pub(crate) const fn key_state(state: State) -> v1::KeyState {
    match state {
        State::Absent => v1::KeyState::Absent,
        State::Held => v1::KeyState::Held,
        State::Lapsed => v1::KeyState::Lapsed,
        State::OutcomeUnknown => v1::KeyState::OutcomeUnknown,
        State::Released => v1::KeyState::Released,
        State::Completed => v1::KeyState::Completed,
    }
}

pub(super) fn envelope_from(envelope: v1::Envelope) -> Option<Envelope> {
    let headers = envelope.headers.into_iter().map(|header| (header.name, header.value)).collect();
    Some(Envelope { status: u16::try_from(envelope.status).ok()?, headers, body: envelope.body })
}

pub(super) fn checkpoint_from(checkpoint: v1::CheckpointData) -> Checkpoint {
    Checkpoint { name: checkpoint.name.into(), data: checkpoint.data.as_ref().into() }
}

pub(super) fn fencing_from(token: v1::FencingToken) -> FencingToken {
    FencingToken { epoch: Epoch(token.epoch), sequence: token.sequence }
}

pub(super) fn limit_from(name: &str) -> Option<Limit> {
    Limit::ALL.into_iter().find(|limit| limit_name(*limit) == name)
}

pub(super) fn key_state_from(state: i32) -> Option<State> {
    match v1::KeyState::try_from(state).ok()? {
        v1::KeyState::Unspecified => None,
        v1::KeyState::Absent => Some(State::Absent),
        v1::KeyState::Held => Some(State::Held),
        v1::KeyState::Lapsed => Some(State::Lapsed),
        v1::KeyState::OutcomeUnknown => Some(State::OutcomeUnknown),
        v1::KeyState::Released => Some(State::Released),
        v1::KeyState::Completed => Some(State::Completed),
    }
}

fn event_kind_from(name: &str) -> Option<EventKind> {
    let kinds = [
        EventKind::Granted,
        EventKind::Completed,
        EventKind::Late,
        EventKind::Released,
        EventKind::Extended,
        EventKind::Checkpointed,
        EventKind::Lapsed,
        EventKind::Voided,
        EventKind::Claimed,
        EventKind::Resolved,
        EventKind::Adopted,
    ];
    kinds.into_iter().find(|kind| event_kind(*kind) == name)
}

pub(super) fn place_from(epoch: v1::Epoch) -> Option<Place> {
    Some(Place {
        home: RegionName::parse(&epoch.home).ok()?,
        partition: PartitionId(u16::try_from(epoch.partition).ok()?),
        epoch: Epoch(epoch.epoch),
        position: epoch.position,
        leader: super::cluster::some(epoch.leader),
    })
}

pub(super) fn replay_from(replay: v1::Replay) -> Option<Replay> {
    Some(Replay {
        envelope: envelope_from(replay.envelope?)?,
        completed_at: LogTime::from_unix_ms(replay.completed_at_unix_ms),
        expires_at: LogTime::from_unix_ms(replay.expires_at_unix_ms),
        fencing: fencing_from(replay.fencing?),
    })
}

/// A grant, with the request that it is for.
pub(super) fn granted_from(grant: v1::Granted, endpoint: EndpointName, fingerprint: Fingerprint) -> Option<Granted> {
    Some(Granted {
        token: grant.token,
        fencing: fencing_from(grant.fencing?),
        start_within_ms: grant.start_within_ms,
        lease_ms: grant.lease_ms,
        attempt: grant.attempt,
        checkpoint: grant.checkpoint.map(checkpoint_from),
        possible_duplicate: grant.possible_duplicate,
        repeated: grant.repeated,
        fingerprint,
        endpoint,
    })
}

/// A fingerprint as a record or a claim shows it, which leaves out the selection that it was made under.
pub(super) fn fingerprint_from(version: u32, digest: &Bytes) -> Fingerprint {
    Fingerprint { version, selection: 0, digest: digest.as_ref().into() }
}

fn event_from(event: v1::Event) -> Option<Event> {
    Some(Event {
        at: LogTime::from_unix_ms(event.at_unix_ms),
        kind: event_kind_from(&event.kind)?,
        token: fencing_from(event.fencing?),
        detail: event.detail.into(),
    })
}

/// A time that is 0 where there is none.
fn time_from(unix_ms: u64) -> Option<LogTime> {
    (unix_ms > 0).then(|| LogTime::from_unix_ms(unix_ms))
}

pub(super) fn found_from(record: v1::Record) -> Option<Found> {
    let envelope = match record.envelope {
        None => None,
        Some(envelope) => Some(envelope_from(envelope)?),
    };
    Some(Found {
        state: key_state_from(record.state)?,
        endpoint: EndpointName::parse(&record.endpoint).ok()?,
        fingerprint_version: record.fingerprint_version,
        fingerprint: record.fingerprint,
        fencing: record.fencing.map(fencing_from),
        attempt: record.attempt,
        lease_ms: record.lease_ms,
        retention_ms: record.retention_ms,
        checkpoint: record.checkpoint.map(checkpoint_from),
        envelope,
        completed_at: time_from(record.completed_at_unix_ms),
        expires_at: time_from(record.expires_at_unix_ms),
        history: record.history.into_iter().map(event_from).collect::<Option<_>>()?,
        history_dropped: record.history_dropped,
    })
}

#[cfg(test)]
mod tests {
    use holdfast_client::http::Refusal;

    use super::*;

    /// The layer tells rates and quotas apart by their names alone.
    #[test]
    fn clients_of_a_layer_are_told_whether_a_limit_is_a_rate_or_a_quota() {
        for limit in Limit::ALL {
            let expected = match limit {
                Limit::TenantKeys
                | Limit::TenantBytes
                | Limit::EndpointKeys
                | Limit::EndpointBytes
                | Limit::Endpoints => "quota-exceeded",
                Limit::Attempts
                | Limit::TenantRate
                | Limit::ClientRate
                | Limit::EndpointRate
                | Limit::EndpointClientRate => "rate-limited",
            };
            assert_eq!(Refusal::limited(limit_name(limit).to_owned(), 0).code(), expected);
        }
    }
}
