//! Persisted bytes: every format stands behind one format byte, every key in one table.
//!
//! [`keys`] is the table of RocksDB keys; [`batch`] the log's commands; [`record`] a key's record and its envelopes;
//! [`token`] the claims in a grant's token. The protobuf messages stand in `proto/log/v1`, their frozen bytes in
//! `tests/golden`. Raft's own types and the group's state are used as their messages, through [`seal`] and [`open`].
//!
//! Deliberately absent: anything that reads or writes a disk.

pub mod batch;
pub mod control;
pub mod keys;
pub mod record;
pub mod token;

use prost::Message;

/// The generated messages of `proto/log/v1`.
#[allow(
    missing_docs,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated; the docs stand in the .proto file"
)]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/holdfast.log.v1.rs"));
}

/// The format that everything is written in now.
pub const FORMAT: u8 = 1;

/// Why bytes could not be read. They were written by this program, so each of these is damage or a newer version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// There are no bytes at all.
    #[error("{what} is empty")]
    Empty {
        /// Which format.
        what: &'static str,
    },
    /// The format byte is not one that this version knows.
    #[error("{what} has format {found}; this version reads {FORMAT}: was it written by a newer one?")]
    Format {
        /// Which format.
        what: &'static str,
        /// The format byte.
        found: u8,
    },
    /// The message does not decode.
    #[error("{what} does not decode: {source}")]
    Message {
        /// Which format.
        what: &'static str,
        /// What protobuf says.
        source: prost::DecodeError,
    },
    /// A field is absent or has a value that is never written.
    #[error("{what} has no valid {field}")]
    Field {
        /// Which format.
        what: &'static str,
        /// Which field.
        field: &'static str,
    },
}

/// Writes a message behind its format byte.
#[must_use]
pub fn seal(message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(message.encoded_len().saturating_add(1));
    bytes.push(FORMAT);
    message.encode_raw(&mut bytes);
    bytes
}

/// Reads a message from behind its format byte.
///
/// # Errors
/// When the bytes are empty, of another format, or do not decode.
pub fn open<M: Message + Default>(what: &'static str, bytes: impl Into<bytes::Bytes>) -> Result<M, CodecError> {
    let mut bytes: bytes::Bytes = bytes.into();
    match bytes.first().copied() {
        None => Err(CodecError::Empty { what }),
        Some(FORMAT) => {
            let body = bytes.split_off(1);
            M::decode(body).map_err(|source| CodecError::Message { what, source })
        }
        Some(found) => Err(CodecError::Format { what, found }),
    }
}

/// A field that is always written.
fn required<T>(value: Option<T>, what: &'static str, field: &'static str) -> Result<T, CodecError> {
    value.ok_or(CodecError::Field { what, field })
}
