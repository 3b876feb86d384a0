//! A key's record and its envelopes, to bytes and back.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::codec::{CodecError, open, pb, required, seal};
use crate::ids::{Digest, EndpointName, Epoch, FencingToken, Fingerprint, Nonce};
use crate::reservation::record::{Answer, Attempt, Checkpoint, Event, EventKind, OnLapse, Phase, Record, Terms};
use crate::time::LogTime;

const WHAT: &str = "a record";

/// Writes a record.
#[must_use]
pub fn encode(record: &Record) -> Vec<u8> {
    seal(&pb::Record {
        endpoint: record.endpoint.as_str().to_owned(),
        terms: Some(terms_to(&record.terms)),
        attempts: record.attempts.iter().map(attempt_to).collect(),
        checkpoint: record.checkpoint.as_ref().map(checkpoint_to),
        answer: record.answer.as_ref().map(|answer| pb::Answer {
            token: Some(token_to(answer.token)),
            envelope_digest: digest_to(&answer.envelope),
            completed_at_unix_ms: answer.completed_at.unix_ms(),
            expires_at_unix_ms: answer.expires_at.unix_ms(),
        }),
        idle_expires_at_unix_ms: record.idle_expires_at.map(LogTime::unix_ms),
        history: record.history.iter().map(event_to).collect(),
        history_dropped: record.history_dropped,
        position: record.position,
        envelope_bytes: record.envelope_bytes,
    })
}

/// Reads a record.
///
/// # Errors
/// When the bytes are damaged or of a newer version, or are no record that a decision makes.
pub fn decode(bytes: &[u8]) -> Result<Record, CodecError> {
    let message: pb::Record = open(WHAT, Bytes::copy_from_slice(bytes))?;
    let record = Record {
        endpoint: endpoint_from(&message.endpoint, WHAT)?,
        terms: terms_from(message.terms, WHAT)?,
        attempts: message.attempts.into_iter().map(attempt_from).collect::<Result<_, _>>()?,
        checkpoint: message.checkpoint.map(checkpoint_from),
        answer: message.answer.map(answer_from).transpose()?,
        idle_expires_at: message.idle_expires_at_unix_ms.map(LogTime::from_unix_ms),
        history: message.history.into_iter().map(event_from).collect::<Result<_, _>>()?,
        history_dropped: message.history_dropped,
        position: message.position,
        envelope_bytes: message.envelope_bytes,
    };
    check(&record)?;
    Ok(record)
}

/// Refuses what no decision makes: a damaged record must not answer, nor be granted as if the key were new.
fn check(record: &Record) -> Result<(), CodecError> {
    let refused = |field| Err(CodecError::Field { what: WHAT, field });
    if record.attempts.is_empty() {
        return refused("attempts: there is none");
    }
    if !record.attempts.is_sorted_by(|one, next| one.token < next.token) {
        return refused("attempts: their tokens do not ascend");
    }
    if record.attempts.iter().any(|attempt| attempt.fingerprint.digest.is_empty()) {
        return refused("fingerprint: its digest is empty");
    }
    if record.attempts.iter().filter_map(envelopes).any(<[Digest]>::is_empty) {
        return refused("envelopes: a completed attempt has none");
    }
    let listed = |answer: &Answer| {
        let executed = record.attempts.iter().find(|attempt| attempt.token == answer.token);
        executed.and_then(envelopes).is_some_and(|envelopes| envelopes.contains(&answer.envelope))
    };
    match &record.answer {
        Some(answer) if !listed(answer) => refused("answer: its attempt did not complete with its envelope"),
        Some(_) | None => Ok(()),
    }
}

/// The envelopes of a completed attempt.
fn envelopes(attempt: &Attempt) -> Option<&[Digest]> {
    match &attempt.phase {
        Phase::Completed { envelopes, .. } => Some(envelopes),
        Phase::Held { .. } | Phase::Lapsed | Phase::Released => None,
    }
}

/// Writes an envelope, and says what it is called: SHA-256 over the bytes.
#[must_use]
pub fn encode_envelope(envelope: &pb::Envelope) -> (Bytes, Digest) {
    let bytes = seal(envelope);
    let digest = Digest(Sha256::digest(&bytes).into());
    (bytes.into(), digest)
}

/// Reads an envelope.
///
/// # Errors
/// When the bytes are damaged: they no longer have the digest that they are stored under, or do not decode.
pub fn decode_envelope(bytes: Bytes, digest: &Digest) -> Result<pb::Envelope, CodecError> {
    if Sha256::digest(&bytes).as_slice() != digest.0 {
        return Err(CodecError::Field {
            what: "an envelope",
            field: "digest: the stored bytes are not those recorded",
        });
    }
    open("an envelope", bytes)
}

pub(super) fn token_to(token: FencingToken) -> pb::Token {
    pb::Token { epoch: token.epoch.0, sequence: token.sequence }
}

pub(super) fn token_from(token: Option<pb::Token>, what: &'static str) -> Result<FencingToken, CodecError> {
    let token = required(token, what, "token")?;
    Ok(FencingToken { epoch: Epoch(token.epoch), sequence: token.sequence })
}

pub(super) fn fingerprint_to(fingerprint: &Fingerprint) -> pb::Fingerprint {
    pb::Fingerprint {
        version: fingerprint.version,
        selection: fingerprint.selection,
        digest: Bytes::copy_from_slice(&fingerprint.digest),
    }
}

pub(super) fn fingerprint_from(
    fingerprint: Option<pb::Fingerprint>,
    what: &'static str,
) -> Result<Fingerprint, CodecError> {
    let fingerprint = required(fingerprint, what, "fingerprint")?;
    Ok(Fingerprint {
        version: fingerprint.version,
        selection: fingerprint.selection,
        digest: fingerprint.digest.as_ref().into(),
    })
}

pub(super) fn nonce_to(nonce: Option<&Nonce>) -> Bytes {
    nonce.map(|nonce| Bytes::copy_from_slice(nonce.as_bytes())).unwrap_or_default()
}

pub(super) fn nonce_from(bytes: &[u8], what: &'static str) -> Result<Option<Nonce>, CodecError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    Nonce::parse(bytes).map(Some).map_err(|_| CodecError::Field { what, field: "nonce" })
}

pub(super) fn digest_to(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(&digest.0)
}

pub(super) fn digest_from(bytes: &[u8], what: &'static str) -> Result<Digest, CodecError> {
    bytes.try_into().map(Digest).map_err(|_| CodecError::Field { what, field: "digest" })
}

pub(super) fn endpoint_from(text: &str, what: &'static str) -> Result<EndpointName, CodecError> {
    EndpointName::parse(text).map_err(|_| CodecError::Field { what, field: "endpoint" })
}

pub(super) fn checkpoint_to(checkpoint: &Checkpoint) -> pb::Checkpoint {
    pb::Checkpoint { name: checkpoint.name.to_string(), data: Bytes::copy_from_slice(&checkpoint.data) }
}

pub(super) fn checkpoint_from(checkpoint: pb::Checkpoint) -> Checkpoint {
    Checkpoint { name: checkpoint.name.into(), data: checkpoint.data.as_ref().into() }
}

pub(super) fn terms_to(terms: &Terms) -> pb::Terms {
    pb::Terms {
        policy_revision: terms.policy_revision,
        lease_ms: terms.lease_ms,
        on_lapse: match terms.on_lapse {
            OnLapse::Regrant => pb::OnLapse::Regrant,
            OnLapse::Hold => pb::OnLapse::Hold,
        }
        .into(),
        retention_ms: terms.retention_ms,
    }
}

pub(super) fn terms_from(terms: Option<pb::Terms>, what: &'static str) -> Result<Terms, CodecError> {
    let terms = required(terms, what, "terms")?;
    let on_lapse = match pb::OnLapse::try_from(terms.on_lapse) {
        Ok(pb::OnLapse::Regrant) => OnLapse::Regrant,
        Ok(pb::OnLapse::Hold) => OnLapse::Hold,
        Ok(pb::OnLapse::Unspecified) | Err(_) => return Err(CodecError::Field { what, field: "on_lapse" }),
    };
    Ok(Terms {
        policy_revision: terms.policy_revision,
        lease_ms: terms.lease_ms,
        on_lapse,
        retention_ms: terms.retention_ms,
    })
}

fn attempt_to(attempt: &Attempt) -> pb::Attempt {
    pb::Attempt {
        token: Some(token_to(attempt.token)),
        number: attempt.number,
        fingerprint: Some(fingerprint_to(&attempt.fingerprint)),
        nonce: nonce_to(attempt.nonce.as_ref()),
        flagged: attempt.flagged,
        phase: Some(match &attempt.phase {
            Phase::Held { lease_ms, lease_revision } => {
                pb::attempt::Phase::Held(pb::Held { lease_ms: *lease_ms, lease_revision: *lease_revision })
            }
            Phase::Lapsed => pb::attempt::Phase::Lapsed(pb::Blank {}),
            Phase::Released => pb::attempt::Phase::Released(pb::Blank {}),
            Phase::Completed { envelopes, late } => pb::attempt::Phase::Completed(pb::CompletedPhase {
                envelope_digests: envelopes.iter().map(digest_to).collect(),
                late: *late,
            }),
        }),
    }
}

fn attempt_from(attempt: pb::Attempt) -> Result<Attempt, CodecError> {
    Ok(Attempt {
        token: token_from(attempt.token, WHAT)?,
        number: attempt.number,
        fingerprint: fingerprint_from(attempt.fingerprint, WHAT)?,
        nonce: nonce_from(&attempt.nonce, WHAT)?,
        flagged: attempt.flagged,
        phase: match required(attempt.phase, WHAT, "phase")? {
            pb::attempt::Phase::Held(held) => {
                Phase::Held { lease_ms: held.lease_ms, lease_revision: held.lease_revision }
            }
            pb::attempt::Phase::Lapsed(_) => Phase::Lapsed,
            pb::attempt::Phase::Released(_) => Phase::Released,
            pb::attempt::Phase::Completed(completed) => Phase::Completed {
                envelopes: completed
                    .envelope_digests
                    .iter()
                    .map(|digest| digest_from(digest, WHAT))
                    .collect::<Result<_, _>>()?,
                late: completed.late,
            },
        },
    })
}

fn answer_from(answer: pb::Answer) -> Result<Answer, CodecError> {
    Ok(Answer {
        token: token_from(answer.token, WHAT)?,
        envelope: digest_from(&answer.envelope_digest, WHAT)?,
        completed_at: LogTime::from_unix_ms(answer.completed_at_unix_ms),
        expires_at: LogTime::from_unix_ms(answer.expires_at_unix_ms),
    })
}

fn event_to(event: &Event) -> pb::Event {
    pb::Event {
        at_unix_ms: event.at.unix_ms(),
        kind: match event.kind {
            EventKind::Granted => pb::EventKind::Granted,
            EventKind::Completed => pb::EventKind::Completed,
            EventKind::Late => pb::EventKind::Late,
            EventKind::Released => pb::EventKind::Released,
            EventKind::Extended => pb::EventKind::Extended,
            EventKind::Checkpointed => pb::EventKind::Checkpointed,
            EventKind::Lapsed => pb::EventKind::Lapsed,
            EventKind::Voided => pb::EventKind::Voided,
            EventKind::Claimed => pb::EventKind::Claimed,
            EventKind::Resolved => pb::EventKind::Resolved,
            EventKind::Adopted => pb::EventKind::Adopted,
        }
        .into(),
        token: Some(token_to(event.token)),
        detail: event.detail.to_string(),
    }
}

fn event_from(event: pb::Event) -> Result<Event, CodecError> {
    let kind = match pb::EventKind::try_from(event.kind) {
        Ok(pb::EventKind::Granted) => EventKind::Granted,
        Ok(pb::EventKind::Completed) => EventKind::Completed,
        Ok(pb::EventKind::Late) => EventKind::Late,
        Ok(pb::EventKind::Released) => EventKind::Released,
        Ok(pb::EventKind::Extended) => EventKind::Extended,
        Ok(pb::EventKind::Checkpointed) => EventKind::Checkpointed,
        Ok(pb::EventKind::Lapsed) => EventKind::Lapsed,
        Ok(pb::EventKind::Voided) => EventKind::Voided,
        Ok(pb::EventKind::Claimed) => EventKind::Claimed,
        Ok(pb::EventKind::Resolved) => EventKind::Resolved,
        Ok(pb::EventKind::Adopted) => EventKind::Adopted,
        Ok(pb::EventKind::Unspecified) | Err(_) => return Err(CodecError::Field { what: WHAT, field: "event" }),
    };
    Ok(Event {
        at: LogTime::from_unix_ms(event.at_unix_ms),
        kind,
        token: token_from(event.token, WHAT)?,
        detail: event.detail.into(),
    })
}
