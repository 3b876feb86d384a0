//! What one key takes, by the code that stores it: a key is reserved and completed by the decisions themselves, and what that
//! leaves is written by the codec. Nothing here is estimated.
//!
//! Deliberately absent: what becomes of these bytes in tables ([`crate::plan::carried`]).

use bytes::Bytes;

use crate::codec::batch::{self, Batch, KeyOperation, Operation};
use crate::codec::{keys, pb, record};
use crate::ids::{Digest, EndpointName, Epoch, Fingerprint, Nonce, RecordKey, RegionName};
use crate::reservation::command::{Command, Complete, Context, Doubt, KeyFacts, Kind, Reserve};
use crate::reservation::decide;
use crate::reservation::record::{Record, Terms};
use crate::time::LogTime;

/// What is reserved, and answered.
#[derive(Clone, Debug)]
pub struct Request {
    /// The key.
    pub key: RecordKey,
    /// Its home.
    pub home: RegionName,
    /// The endpoint.
    pub endpoint: EndpointName,
    /// What the key is granted under.
    pub terms: Terms,
    /// The digest of the request.
    pub fingerprint: [u8; 32],
    /// The attempt's random name.
    pub nonce: [u8; 16],
    /// The response.
    pub envelope: pb::Envelope,
    /// The stream position of the grant.
    pub position: u64,
    /// Log time, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
}

/// A key from its grant to its answer.
#[derive(Clone, Debug)]
pub struct Life {
    /// The key.
    pub key: RecordKey,
    /// The record while it is held.
    pub held: Record,
    /// The record with its answer.
    pub completed: Record,
    /// What the response is called.
    pub digest: Digest,
    /// The response as it is stored.
    pub envelope: Bytes,
    /// The two commands, as they stand in the log.
    pub commands: [Operation; 2],
}

/// What one completed key takes, before anything is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The record with its key.
    pub record: u64,
    /// The envelope's key.
    pub envelope_key: u64,
    /// The envelope, which stands under it.
    pub envelope: u64,
    /// The entry in the index of expiry, which is a key alone.
    pub expiry: u64,
    /// The two commands in the log.
    pub log: u64,
}

impl Life {
    /// Reserves and completes a key. None if a decision refuses it, which it does not for a fresh key.
    #[must_use]
    pub fn of(request: &Request) -> Option<Self> {
        let fingerprint = Fingerprint { version: 1, selection: 1, digest: request.fingerprint.into() };
        let nonce = Nonce::parse(&request.nonce).ok();
        let context = |step: u64| Context {
            open_epoch: Some(Epoch::FIRST),
            next_position: request.position.saturating_add(step),
            now: LogTime::from_unix_ms(request.at_unix_ms.saturating_add(step)),
            key: KeyFacts { mint_epoch: Epoch::FIRST, time_ms: None },
            horizon_ms: None,
        };
        let reserve = Command {
            epoch: Epoch::FIRST,
            kind: Kind::Reserve(Box::new(Reserve {
                fingerprint: fingerprint.clone(),
                endpoint: request.endpoint.clone(),
                terms: request.terms,
                nonce: nonce.clone(),
                doubt: Doubt::Settled,
                known: None,
            })),
        };
        let held = decide(None, &reserve, &context(0)).record?;
        let (envelope, digest) = record::encode_envelope(&request.envelope);
        let complete = Command {
            epoch: Epoch::FIRST,
            kind: Kind::Complete(Box::new(Complete {
                token: held.last_token()?,
                fingerprint,
                endpoint: request.endpoint.clone(),
                nonce,
                terms: request.terms,
                envelope: digest,
                retention_ms: None,
            })),
        };
        let mut completed = decide(Some(&held), &complete, &context(1)).record?;
        completed.envelope_bytes = length(envelope.len());
        let operation = |command, envelope| {
            let (key, home) = (request.key.clone(), request.home.clone());
            Operation::Key(Box::new(KeyOperation { key, home, command, envelope }))
        };
        let commands = [operation(reserve, Bytes::new()), operation(complete, envelope.clone())];
        Some(Self { key: request.key.clone(), held, completed, digest, envelope, commands })
    }

    /// What it takes.
    #[must_use]
    pub fn written(&self) -> Written {
        let entry = Batch { clock_unix_ms: 0, operations: self.commands.to_vec() };
        let expiry = self.completed.expires_at().unwrap_or_default();
        Written {
            record: length(keys::record(&self.key).len() + record::encode(&self.completed).len()),
            envelope_key: length(keys::envelope(&self.key, &self.digest).len()),
            envelope: length(self.envelope.len()),
            expiry: length(keys::expiry(expiry, &self.key).len()),
            log: length(batch::encode(&entry).len()),
        }
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
