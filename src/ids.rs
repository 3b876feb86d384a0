//! What things are called: newtypes that are parsed once, at the edge. Inside, a value of the type is valid.

use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;

pub use holdfast_client::keys::IdempotencyKey;

use crate::limits;

/// Why a name was refused, and what to send instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The name has no characters, or too many.
    #[error("{what} has {got} bytes: send 1 to {most}")]
    Length {
        /// Which name.
        what: &'static str,
        /// Its length in bytes.
        got: usize,
        /// The largest length in bytes.
        most: usize,
    },
    /// The name has a character that is not allowed there.
    #[error("{what} has the byte {byte:#04x} at offset {at}: {allowed}")]
    Character {
        /// Which name.
        what: &'static str,
        /// The offending byte.
        byte: u8,
        /// Its offset in bytes.
        at: usize,
        /// What is allowed.
        allowed: &'static str,
    },
}

fn check(
    what: &'static str,
    bytes: &[u8],
    most: usize,
    allowed: &'static str,
    fits: impl Fn(u8) -> bool,
) -> Result<(), IdError> {
    if bytes.is_empty() || bytes.len() > most {
        return Err(IdError::Length { what, got: bytes.len(), most });
    }
    match bytes.iter().position(|byte| !fits(*byte)) {
        None => Ok(()),
        Some(at) => Err(IdError::Character { what, byte: bytes.get(at).copied().unwrap_or_default(), at, allowed }),
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $most:expr, $allowed:literal, $fits:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses the name.
            ///
            /// # Errors
            /// When it is empty, too long, or has a character that is not allowed.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                check($what, text.as_bytes(), $most, $allowed, $fits)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

text_id!(
    /// Whose keys: 1-64 of `A-Z a-z 0-9 . _ -`. Keys of two tenants never meet.
    TenantId, "tenant", limits::MAX_TENANT_BYTES, "use A-Z a-z 0-9 . _ -",
    |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')
);

text_id!(
    /// An endpoint contract's name, such as `POST /v1/charges`: 1-256 printable ASCII characters, spaces included.
    EndpointName, "endpoint", limits::MAX_ENDPOINT_BYTES, "use printable ASCII",
    |b| (0x20..=0x7e).contains(&b)
);

text_id!(
    /// A deployment site, or the home that a key belongs to: 1-32 of `a-z 0-9 -`.
    RegionName, "region", 32, "use a-z 0-9 -",
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
);

text_id!(
    /// What a policy is called: 1-64 of `A-Z a-z 0-9 _ -`, which TOML takes as a table's name without quotes.
    PolicyName, "policy name", limits::MAX_POLICY_NAME_BYTES, "use A-Z a-z 0-9 _ -",
    |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')
);

/// The known name that a misspelt one is probably meant to be: a third of it may be wrong.
#[must_use]
pub fn nearest<'a, S: AsRef<str>>(name: &str, known: &'a [S]) -> Option<&'a str> {
    let distances = known.iter().map(|candidate| (distance(name, candidate.as_ref()), candidate.as_ref()));
    let (distance, near) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= name.chars().count().div_ceil(3)).then_some(near)
}

/// What a parser of a file says, in one line, with what was probably meant: it names the unknown name first, then those that
/// there are, in backticks.
#[must_use]
pub fn meant(message: &str) -> String {
    let message = message.split('\n').next().unwrap_or_default();
    let mut names = message.split('`').skip(1).step_by(2);
    let is_unknown = message.starts_with("unknown ");
    let near = match names.next() {
        Some(unknown) if is_unknown => nearest(unknown, &names.collect::<Vec<_>>()).map(str::to_owned),
        Some(_) | None => None,
    };
    match near {
        Some(near) => format!("{message}: did you mean `{near}`?"),
        None => message.to_owned(),
    }
}

/// A slice of the key space, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u16);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How many partitions the cluster has, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionCount(NonZeroU16);

impl PartitionCount {
    /// A count within [`limits::PARTITIONS`], or nothing.
    #[must_use]
    pub fn new(count: u16) -> Option<Self> {
        limits::PARTITIONS.contains(&count).then(|| NonZeroU16::new(count).map(Self)).flatten()
    }

    /// The count.
    #[must_use]
    pub const fn get(self) -> NonZeroU16 {
        self.0
    }

    /// Every partition, in order.
    pub fn all(self) -> impl Iterator<Item = PartitionId> {
        (0..self.0.get()).map(PartitionId)
    }
}

/// A period of one acting region for one (home, partition). The first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch that every home starts with.
    pub const FIRST: Self = Self(1);
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a side effect's sink compares: strictly increasing per key. Ordered by epoch, then sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken {
    /// The epoch of the key's home.
    pub epoch: Epoch,
    /// The position in the epoch's stream.
    pub sequence: u64,
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.sequence)
    }
}

/// The random name of one attempt: 1-64 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(Box<[u8]>);

impl Nonce {
    /// Takes the bytes as they are.
    ///
    /// # Errors
    /// When there are none, or over [`limits::MAX_NONCE_BYTES`].
    pub fn parse(bytes: &[u8]) -> Result<Self, IdError> {
        check("nonce", bytes, limits::MAX_NONCE_BYTES, "any byte", |_| true)?;
        Ok(Self(bytes.into()))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({} bytes)", self.0.len())
    }
}

/// Who fingerprinted a request, and how. Two fingerprints are equal only with the same version and selection revision.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint {
    /// 0: made by the caller, compared as it is; 1: fingerprint v1.
    pub version: u32,
    /// The revision of the selection of headers and members that it was made under; 0 for the caller's own.
    pub selection: u32,
    /// 1-64 bytes.
    pub digest: Box<[u8]>,
}

/// A SHA-256 digest, of an envelope or of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A record's name: the tenant and the key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub key: IdempotencyKey,
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.key.as_str())
    }
}

/// The Levenshtein distance: how many characters must be added, dropped or changed.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (to, above) in b.iter().zip(row.iter().skip(1)) {
            let changed = diagonal + usize::from(from != *to);
            left = changed.min(above + 1).min(left + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [("", "abc", 3), ("kitten", "sitting", 3), ("same", "same", 0), ("abc", "", 3)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
