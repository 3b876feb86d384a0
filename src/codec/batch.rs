//! The commands of a log entry, to their messages and back.

use bytes::Bytes;
use prost::Message as _;

use crate::codec::control::{command_from, command_to, signature_from, signature_to};
use crate::codec::record::{
    checkpoint_from, checkpoint_to, digest_from, digest_to, endpoint_from, fingerprint_from, fingerprint_to,
    nonce_from, nonce_to, terms_from, terms_to, token_from, token_to,
};
use crate::codec::{CodecError, pb, required};
use crate::control;
use crate::ids::{Epoch, FencingToken, IdempotencyKey, RecordKey, RegionName, TenantId};
use crate::reservation::command::{Command, Complete, Doubt, Kind, Reserve, Verdict};

const WHAT: &str = "a log entry";

/// Many operations in one log entry, decided in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The leader's wall clock, in milliseconds since the Unix epoch.
    pub clock_unix_ms: u64,
    /// What is asked.
    pub operations: Vec<Operation>,
}

/// One operation of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A command to one key.
    Key(Box<KeyOperation>),
    /// Removes ended records, a bounded number.
    Sweep {
        /// At most this many.
        limit: u32,
    },
    /// Moves log time on.
    Tick,
    /// An operator vouches for a clock that jumped.
    AcceptClock {
        /// Up to this reading, in milliseconds since the Unix epoch.
        up_to_unix_ms: u64,
        /// Who, and why; nothing in what was written before there was an audit.
        signature: Option<control::Signature>,
    },
    /// Opens an epoch of a home.
    Open {
        /// The home.
        home: RegionName,
        /// The epoch.
        epoch: Epoch,
        /// The region incarnation whose stream starts here.
        incarnation: u64,
    },
    /// Makes a cluster key current.
    RotateClusterKey {
        /// Its number.
        key_id: u32,
        /// Its secret.
        secret: [u8; 32],
        /// Who, and why; nothing for the first, which nobody asks for.
        signature: Option<control::Signature>,
    },
    /// Decides about what is the same for all partitions.
    Control(Box<control::Command>),
}

/// A command to one key, and the envelope that it brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyOperation {
    /// The key.
    pub key: RecordKey,
    /// Its home.
    pub home: RegionName,
    /// What is asked.
    pub command: Command,
    /// A stored envelope's bytes; empty if the command brings none.
    pub envelope: Bytes,
}

impl Operation {
    /// Whether it is a sweep, which has a log entry of its own.
    #[must_use]
    pub fn is_sweep(&self) -> bool {
        match self {
            Self::Sweep { .. } => true,
            Self::Key(_)
            | Self::Tick
            | Self::AcceptClock { .. }
            | Self::Open { .. }
            | Self::RotateClusterKey { .. }
            | Self::Control(_) => false,
        }
    }

    /// About how many bytes the operation takes in a log entry.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Key(operation) => operation.envelope.len() + checkpoint_bytes(&operation.command.kind) + 256,
            Self::Sweep { .. }
            | Self::Tick
            | Self::AcceptClock { .. }
            | Self::Open { .. }
            | Self::RotateClusterKey { .. } => 64 + 1024,
            Self::Control(command) => command.weight(),
        }
    }
}

fn checkpoint_bytes(kind: &Kind) -> usize {
    match kind {
        Kind::Checkpoint { checkpoint, .. } => checkpoint.data.len(),
        Kind::Reserve(_)
        | Kind::Complete(_)
        | Kind::Release { .. }
        | Kind::Extend { .. }
        | Kind::Claim { .. }
        | Kind::Resolve { .. }
        | Kind::Lapse { .. }
        | Kind::Void { .. } => 0,
    }
}

/// Writes a batch: the message alone, since the entry around it bears the format byte.
#[must_use]
pub fn encode(batch: &Batch) -> Bytes {
    let message = pb::Batch {
        clock_unix_ms: batch.clock_unix_ms,
        operations: batch.operations.iter().map(operation_to).collect(),
    };
    message.encode_to_vec().into()
}

/// Reads a batch.
///
/// # Errors
/// When the bytes are damaged or of a newer version.
pub fn decode(bytes: Bytes) -> Result<Batch, CodecError> {
    let message = pb::Batch::decode(bytes).map_err(|source| CodecError::Message { what: WHAT, source })?;
    Ok(Batch {
        clock_unix_ms: message.clock_unix_ms,
        operations: message.operations.into_iter().map(operation_from).collect::<Result<_, _>>()?,
    })
}

fn operation_to(operation: &Operation) -> pb::Operation {
    use pb::operation::Kind as To;
    pb::Operation {
        kind: Some(match operation {
            Operation::Key(operation) => To::Key(key_to(operation)),
            Operation::Sweep { limit } => To::Sweep(pb::Sweep { limit: *limit }),
            Operation::Tick => To::Tick(pb::Tick {}),
            Operation::AcceptClock { up_to_unix_ms, signature } => {
                let signature = signature.as_ref().map(signature_to);
                To::AcceptClock(pb::AcceptClock { up_to_unix_ms: *up_to_unix_ms, signature })
            }
            Operation::Open { home, epoch, incarnation } => {
                To::Open(pb::Open { home: home.as_str().to_owned(), epoch: epoch.0, incarnation: *incarnation })
            }
            Operation::RotateClusterKey { key_id, secret, signature } => To::RotateClusterKey(pb::RotateClusterKey {
                key_id: *key_id,
                secret: Bytes::copy_from_slice(secret),
                signature: signature.as_ref().map(signature_to),
            }),
            Operation::Control(command) => To::Control(command_to(command)),
        }),
    }
}

fn operation_from(operation: pb::Operation) -> Result<Operation, CodecError> {
    use pb::operation::Kind as From;
    Ok(match required(operation.kind, WHAT, "operation")? {
        From::Key(command) => Operation::Key(Box::new(key_from(command)?)),
        From::Sweep(sweep) => Operation::Sweep { limit: sweep.limit },
        From::Tick(_) => Operation::Tick,
        From::AcceptClock(accept) => Operation::AcceptClock {
            up_to_unix_ms: accept.up_to_unix_ms,
            signature: accept.signature.map(signature_from),
        },
        From::Open(open) => {
            Operation::Open { home: home_from(&open.home)?, epoch: Epoch(open.epoch), incarnation: open.incarnation }
        }
        From::RotateClusterKey(rotate) => Operation::RotateClusterKey {
            key_id: rotate.key_id,
            secret: rotate.secret.as_ref().try_into().map_err(|_| CodecError::Field { what: WHAT, field: "secret" })?,
            signature: rotate.signature.map(signature_from),
        },
        From::Control(command) => Operation::Control(Box::new(command_from(command)?)),
    })
}

fn home_from(text: &str) -> Result<RegionName, CodecError> {
    RegionName::parse(text).map_err(|_| CodecError::Field { what: WHAT, field: "home" })
}

fn key_to(operation: &KeyOperation) -> pb::KeyCommand {
    pb::KeyCommand {
        tenant: operation.key.tenant.as_str().to_owned(),
        key: operation.key.key.as_str().to_owned(),
        home: operation.home.as_str().to_owned(),
        epoch: operation.command.epoch.0,
        kind: Some(kind_to(&operation.command.kind, &operation.envelope)),
    }
}

fn kind_to(kind: &Kind, envelope: &Bytes) -> pb::key_command::Kind {
    use pb::key_command::Kind as To;
    match kind {
        Kind::Reserve(reserve) => To::Reserve(reserve_to(reserve)),
        Kind::Complete(complete) => To::Complete(complete_to(complete, envelope)),
        Kind::Release { token } => To::Release(token_to(*token)),
        Kind::Extend { token, lease_ms } => {
            To::Extend(pb::Extend { token: Some(token_to(*token)), lease_ms: *lease_ms })
        }
        Kind::Checkpoint { token, checkpoint } => To::Checkpoint(pb::CheckpointAt {
            token: Some(token_to(*token)),
            checkpoint: Some(checkpoint_to(checkpoint)),
        }),
        Kind::Claim { nonce, lease_ms, worker } => {
            To::Claim(pb::Claim { nonce: nonce_to(nonce.as_ref()), lease_ms: *lease_ms, worker: worker.to_string() })
        }
        Kind::Resolve { token, verdict, actor, reason } => To::Resolve(pb::Resolve {
            token: Some(token_to(*token)),
            actor: actor.to_string(),
            reason: reason.to_string(),
            envelope_digest: match verdict {
                Verdict::Executed(digest) => digest_to(digest),
                Verdict::NotExecuted => Bytes::new(),
            },
            envelope: envelope.clone(),
        }),
        Kind::Lapse { token, lease_revision } => {
            To::Lapse(pb::Lapse { token: Some(token_to(*token)), lease_revision: *lease_revision })
        }
        Kind::Void { token } => To::Void(token_to(*token)),
    }
}

fn reserve_to(reserve: &Reserve) -> pb::Reserve {
    pb::Reserve {
        fingerprint: Some(fingerprint_to(&reserve.fingerprint)),
        endpoint: reserve.endpoint.as_str().to_owned(),
        terms: Some(terms_to(&reserve.terms)),
        nonce: nonce_to(reserve.nonce.as_ref()),
        doubt: match reserve.doubt {
            Doubt::Settled => pb::Doubt::Settled,
            Doubt::Lost => pb::Doubt::Lost,
            Doubt::UnsettledFailClosed => pb::Doubt::UnsettledFailClosed,
            Doubt::UnsettledFailOpen => pb::Doubt::UnsettledFailOpen,
        }
        .into(),
        known: reserve.known.map(token_to),
    }
}

fn reserve_from(reserve: pb::Reserve) -> Result<Reserve, CodecError> {
    Ok(Reserve {
        fingerprint: fingerprint_from(reserve.fingerprint, WHAT)?,
        endpoint: endpoint_from(&reserve.endpoint, WHAT)?,
        terms: terms_from(reserve.terms, WHAT)?,
        nonce: nonce_from(&reserve.nonce, WHAT)?,
        doubt: match pb::Doubt::try_from(reserve.doubt) {
            Ok(pb::Doubt::Settled) => Doubt::Settled,
            Ok(pb::Doubt::Lost) => Doubt::Lost,
            Ok(pb::Doubt::UnsettledFailClosed) => Doubt::UnsettledFailClosed,
            Ok(pb::Doubt::UnsettledFailOpen) => Doubt::UnsettledFailOpen,
            Ok(pb::Doubt::Unspecified) | Err(_) => return Err(CodecError::Field { what: WHAT, field: "doubt" }),
        },
        known: reserve.known.map(|token| FencingToken { epoch: Epoch(token.epoch), sequence: token.sequence }),
    })
}

fn complete_to(complete: &Complete, envelope: &Bytes) -> pb::Complete {
    pb::Complete {
        token: Some(token_to(complete.token)),
        fingerprint: Some(fingerprint_to(&complete.fingerprint)),
        endpoint: complete.endpoint.as_str().to_owned(),
        nonce: nonce_to(complete.nonce.as_ref()),
        terms: Some(terms_to(&complete.terms)),
        envelope_digest: digest_to(&complete.envelope),
        envelope: envelope.clone(),
        retention_ms: complete.retention_ms,
    }
}

fn complete_from(complete: pb::Complete) -> Result<Complete, CodecError> {
    Ok(Complete {
        token: token_from(complete.token, WHAT)?,
        fingerprint: fingerprint_from(complete.fingerprint, WHAT)?,
        endpoint: endpoint_from(&complete.endpoint, WHAT)?,
        nonce: nonce_from(&complete.nonce, WHAT)?,
        terms: terms_from(complete.terms, WHAT)?,
        envelope: digest_from(&complete.envelope_digest, WHAT)?,
        retention_ms: complete.retention_ms,
    })
}

fn key_from(message: pb::KeyCommand) -> Result<KeyOperation, CodecError> {
    let tenant = TenantId::parse(&message.tenant).map_err(|_| CodecError::Field { what: WHAT, field: "tenant" })?;
    let key = IdempotencyKey::parse(&message.key).map_err(|_| CodecError::Field { what: WHAT, field: "key" })?;
    let (kind, envelope) = kind_from(required(message.kind, WHAT, "command")?)?;
    Ok(KeyOperation {
        key: RecordKey { tenant, key },
        home: home_from(&message.home)?,
        command: Command { epoch: Epoch(message.epoch), kind },
        envelope,
    })
}

fn kind_from(kind: pb::key_command::Kind) -> Result<(Kind, Bytes), CodecError> {
    use pb::key_command::Kind as From;
    let plain = |kind| (kind, Bytes::new());
    Ok(match kind {
        From::Reserve(reserve) => plain(Kind::Reserve(Box::new(reserve_from(reserve)?))),
        From::Complete(mut complete) => {
            let envelope = std::mem::take(&mut complete.envelope);
            (Kind::Complete(Box::new(complete_from(complete)?)), envelope)
        }
        From::Release(token) => plain(Kind::Release { token: token_from(Some(token), WHAT)? }),
        From::Extend(extend) => {
            plain(Kind::Extend { token: token_from(extend.token, WHAT)?, lease_ms: extend.lease_ms })
        }
        From::Checkpoint(at) => plain(Kind::Checkpoint {
            token: token_from(at.token, WHAT)?,
            checkpoint: checkpoint_from(required(at.checkpoint, WHAT, "checkpoint")?),
        }),
        From::Claim(claim) => plain(Kind::Claim {
            nonce: nonce_from(&claim.nonce, WHAT)?,
            lease_ms: claim.lease_ms,
            worker: claim.worker.into(),
        }),
        From::Resolve(resolve) => {
            let verdict = match resolve.envelope_digest.is_empty() {
                true => Verdict::NotExecuted,
                false => Verdict::Executed(digest_from(&resolve.envelope_digest, WHAT)?),
            };
            let kind = Kind::Resolve {
                token: token_from(resolve.token, WHAT)?,
                verdict,
                actor: resolve.actor.into(),
                reason: resolve.reason.into(),
            };
            (kind, resolve.envelope)
        }
        From::Lapse(lapse) => {
            plain(Kind::Lapse { token: token_from(lapse.token, WHAT)?, lease_revision: lapse.lease_revision })
        }
        From::Void(token) => plain(Kind::Void { token: token_from(Some(token), WHAT)? }),
    })
}
