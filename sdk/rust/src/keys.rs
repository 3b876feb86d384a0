//! Idempotency keys: what is a valid one, what a tagged one says, and where a key belongs.
//!
//! Every language computes the same from the same bytes, for ever: `vectors/keys.json` holds examples for other
//! implementations. The rules:
//!
//! * A key is 1–255 visible ASCII characters (0x21–0x7E). Any such text is an *opaque* key.
//! * A key that starts with `hf1.` is a *tagged* key, `hf1.<home>.<mint epoch>.<uuid>`, and valid in its one
//!   canonical spelling only: home = 1–32 characters of `[a-z0-9-]` that begin and end with a letter or digit; mint
//!   epoch = a decimal `u64` without sign or leading zeros; uuid = version 7, RFC 9562 variant, lower case, hyphenated.
//! * The *slot* of a key is the first 8 bytes, big endian, of SHA-256 over `tenant 0x00 slot-text`. The slot text of an
//!   opaque key is the key; that of a tagged key is `hf1.<home>.<uuid>`: the mint epoch is learned per partition, so it
//!   cannot take part in picking one. No opaque key reads like this, since `hf1.` is reserved.
//! * Partition = slot modulo partitions. Home of an opaque key of a tenant without one = slot modulo homes.
//!
//! A key holds no 0x00, so the last 0x00 of `tenant 0x00 key` always ends the tenant.
//!
//! Deliberately absent: a clock and a random source (a caller brings both to [`TaggedKey::mint`]), the list of homes
//! (whether a home exists is the server's to say), and retention.

mod child;

use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use uuid::{Uuid, Variant};

pub(crate) use self::child::child_of_granted;

/// The longest key, in bytes: what one header line and one row of an index hold comfortably, and what other
/// idempotency APIs allow.
pub const MAX_KEY_BYTES: usize = 255;

/// The longest name of a home, in bytes: keeps a tagged key under 100.
pub const MAX_HOME_BYTES: usize = 32;

/// What every tagged key starts with, and no opaque key may.
pub const TAG_PREFIX: &str = "hf1.";

/// The first epoch of every home; what mint epoch 0 and opaque keys count as.
pub const FIRST_EPOCH: u64 = 1;

const UUID_BYTES: usize = 36;
const UUID_VERSION: usize = 7;
const MAX_UNIX_MS: u64 = (1 << 48) - 1;

/// Why a text is no idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no character at all.
    #[error("idempotency key is empty: send 1 to {MAX_KEY_BYTES} visible ascii characters")]
    Empty,
    /// The key has more than [`MAX_KEY_BYTES`] bytes.
    #[error("idempotency key has {bytes} bytes: send at most {MAX_KEY_BYTES}")]
    TooLong {
        /// The length that was sent.
        bytes: usize,
    },
    /// A byte is a space, a control character or not ASCII.
    #[error("idempotency key has byte 0x{byte:02x} at {at}: send visible ascii only (0x21 to 0x7e, no spaces)")]
    NotVisible {
        /// Where, counted in bytes from 0.
        at: usize,
        /// Which.
        byte: u8,
    },
    /// A header value began with `"` and is no RFC 8941 string, or something follows it.
    #[error(
        "idempotency key header is no quoted string: close the quote, escape only \\\" and \\\\, add nothing after"
    )]
    Quoting,
    /// It starts with `hf1.` and has not the four parts of a tagged key.
    #[error(
        "key starts with hf1. and is no hf1.<home>.<mint epoch>.<uuid v7>: use the sdk to mint it, or another prefix"
    )]
    TagParts,
    /// The home of a tagged key is no valid name.
    #[error(
        "home of a tagged key is not 1 to {MAX_HOME_BYTES} of a-z, 0-9 and inner hyphens: use the home's exact name"
    )]
    TagHome,
    /// The mint epoch of a tagged key is no canonical `u64`.
    #[error("mint epoch of a tagged key is no decimal u64 without sign and leading zeros: write 0 when it is unknown")]
    TagMintEpoch,
    /// The last part of a tagged key is no canonical UUID version 7.
    #[error("uuid of a tagged key is no lower-case hyphenated uuid of version 7: mint a new key")]
    TagUuid,
    /// The time to mint with does not fit the 48 bits of a UUID version 7.
    #[error("key time {unix_ms} ms is over {MAX_UNIX_MS}: check the clock that minted it")]
    MintTime {
        /// The time that was given.
        unix_ms: u64,
    },
}

/// A valid idempotency key: the client's name for one intended action, scoped by tenant.
///
/// A clone is a reference count; what a tagged key says was parsed once, when it was made. Keys compare as their text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdempotencyKey {
    text: Arc<str>,
    tag: Option<Tag>,
}

/// What was parsed of a tagged key. `prefix_bytes` is the length of `hf1.<home>.`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Tag {
    prefix_bytes: usize,
    mint_epoch: u64,
    uuid: Uuid,
}

/// Which of the two kinds a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind<'a> {
    /// Any text; it says nothing about its home or age.
    Opaque,
    /// A key that an SDK minted.
    Tagged(TaggedKey<'a>),
}

/// The parts of a tagged key, each valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaggedKey<'a> {
    home: &'a str,
    mint_epoch: u64,
    uuid: Uuid,
}

impl IdempotencyKey {
    /// Takes `text`, byte for byte, as a key.
    ///
    /// # Errors
    /// [`KeyError`], for a text that is no key, or starts with `hf1.` and is no canonical tagged key.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > MAX_KEY_BYTES {
            return Err(KeyError::TooLong { bytes: text.len() });
        }
        if let Some((at, byte)) = text.bytes().enumerate().find(|(_, byte)| !byte.is_ascii_graphic()) {
            return Err(KeyError::NotVisible { at, byte });
        }
        let tag = text.strip_prefix(TAG_PREFIX).map(Tag::parse).transpose()?;
        Ok(Self { text: Arc::from(text), tag })
    }

    /// Takes the value of an `Idempotency-Key` header: an RFC 8941 string (`"…"`, with `\"` and `\\` as its only
    /// escapes, as draft-ietf-httpapi-idempotency-key-header has it), or the bare key. Both forms of a text are one key.
    ///
    /// Blanks around the value are no part of it. A value that starts with `"` must be a whole string: parameters after
    /// it are refused, as no one defined any.
    ///
    /// # Errors
    /// [`KeyError::Quoting`] for a broken string; else as [`IdempotencyKey::parse`].
    pub fn from_header_value(value: &[u8]) -> Result<Self, KeyError> {
        let value = trim_blanks(value);
        if value.len() > 2 * MAX_KEY_BYTES + 2 {
            return Err(KeyError::TooLong { bytes: value.len() });
        }
        let value = std::str::from_utf8(value).map_err(|error| {
            let at = error.valid_up_to();
            KeyError::NotVisible { at, byte: value.get(at).copied().unwrap_or_default() }
        })?;
        match value.strip_prefix('"') {
            None => Self::parse(value),
            Some(rest) => match rest.strip_suffix('"') {
                Some(inner) if !inner.contains(['"', '\\']) => Self::parse(inner),
                Some(_) | None => Self::parse(&unquote(rest)?),
            },
        }
    }

    /// The key's text, as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Which kind of key it is, with the parts of a tagged one.
    #[must_use]
    pub fn kind(&self) -> KeyKind<'_> {
        match self.tag {
            None => KeyKind::Opaque,
            Some(tag) => {
                let home = self.text.get(TAG_PREFIX.len()..tag.prefix_bytes.saturating_sub(1)).unwrap_or_default();
                KeyKind::Tagged(TaggedKey { home, mint_epoch: tag.mint_epoch, uuid: tag.uuid })
            }
        }
    }

    /// The first epoch that may have granted this key: the mint epoch of a tagged key, and [`FIRST_EPOCH`] for an opaque
    /// key or where the client knew none (0).
    #[must_use]
    pub fn mint_epoch(&self) -> u64 {
        self.tag.map_or(FIRST_EPOCH, |tag| tag.mint_epoch.max(FIRST_EPOCH))
    }

    /// Two pieces that make up the slot text: the key, without the mint epoch if it is tagged.
    fn slot_text(&self) -> (&str, &str) {
        let pieces = self.tag.and_then(|tag| {
            let prefix = self.text.get(..tag.prefix_bytes)?;
            let uuid = self.text.get(self.text.len().checked_sub(UUID_BYTES)?..)?;
            Some((prefix, uuid))
        });
        pieces.unwrap_or((&self.text, ""))
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdempotencyKey({})", self.text)
    }
}

impl From<TaggedKey<'_>> for IdempotencyKey {
    fn from(key: TaggedKey<'_>) -> Self {
        let tag =
            Tag { prefix_bytes: TAG_PREFIX.len() + key.home.len() + 1, mint_epoch: key.mint_epoch, uuid: key.uuid };
        Self { text: Arc::from(key.to_string()), tag: Some(tag) }
    }
}

impl<'a> TaggedKey<'a> {
    /// Makes the key of a new operation; turn it into an [`IdempotencyKey`] with `into()`.
    ///
    /// `mint_epoch` is the epoch of (home, partition of this key) that the client knows, 0 for none. To mint with the
    /// epoch of the right partition, mint with 0, take its [`partition`], and call
    /// [`TaggedKey::with_mint_epoch`]: the partition stays. `unix_ms` is the wall clock's time in milliseconds; `random`
    /// must be fresh random bytes, of which version and variant overwrite 6 bits (74 remain).
    ///
    /// # Errors
    /// [`KeyError::TagHome`] for a name that is none, [`KeyError::MintTime`] for a time over 48 bits.
    pub fn mint(home: &'a str, mint_epoch: u64, unix_ms: u64, random: [u8; 10]) -> Result<Self, KeyError> {
        if !is_home(home) {
            return Err(KeyError::TagHome);
        }
        if unix_ms > MAX_UNIX_MS {
            return Err(KeyError::MintTime { unix_ms });
        }
        let uuid = uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid();
        Ok(Self { home, mint_epoch, uuid })
    }

    /// The same key under another mint epoch, for as long as it was never sent.
    #[must_use]
    pub fn with_mint_epoch(self, mint_epoch: u64) -> Self {
        Self { mint_epoch, ..self }
    }

    /// The region that the key belongs to.
    #[must_use]
    pub fn home(&self) -> &'a str {
        self.home
    }

    /// The mint epoch as it stands in the key: 0 where the client knew none. [`IdempotencyKey::mint_epoch`] is the one to
    /// decide with.
    #[must_use]
    pub fn mint_epoch(&self) -> u64 {
        self.mint_epoch
    }

    /// The UUID version 7 that makes the key unique.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The key time: when its client says that it was minted, in Unix milliseconds (RFC 9562 section 5.7).
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        let [a, b, c, d, e, f, ..] = *self.uuid.as_bytes();
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }
}

impl fmt::Display for TaggedKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TAG_PREFIX}{}.{}.{}", self.home, self.mint_epoch, self.uuid.as_hyphenated())
    }
}

impl Tag {
    /// Parses what follows `hf1.`.
    fn parse(rest: &str) -> Result<Self, KeyError> {
        let mut parts = rest.split('.');
        let (Some(home), Some(mint_epoch), Some(uuid), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(KeyError::TagParts);
        };
        if !is_home(home) {
            return Err(KeyError::TagHome);
        }
        Ok(Self {
            prefix_bytes: TAG_PREFIX.len() + home.len() + 1,
            mint_epoch: parse_mint_epoch(mint_epoch).ok_or(KeyError::TagMintEpoch)?,
            uuid: parse_uuid(uuid).ok_or(KeyError::TagUuid)?,
        })
    }
}

/// The number that places a key, equal in every language and version: see the module's rules.
///
/// Hash once and use [`partition`]'s and [`home_index`]'s modulo on it, where both are needed.
#[must_use]
pub fn slot(tenant: &str, key: &IdempotencyKey) -> u64 {
    let (first, second) = key.slot_text();
    let digest: [u8; 32] =
        Sha256::new().chain_update(tenant).chain_update([0]).chain_update(first).chain_update(second).finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The partition of a tenant's key, in `0..partitions`: its [`slot`] modulo their number, which a cluster never changes.
#[must_use]
pub fn partition(tenant: &str, key: &IdempotencyKey, partitions: NonZeroU16) -> u16 {
    slot_modulo(slot(tenant, key), partitions)
}

/// Which of the homes that the cluster was made with a key belongs to, in `0..homes`: its [`slot`] modulo their number.
/// For opaque keys of a tenant without a home only; the tag and the tenant's home come first.
#[must_use]
pub fn home_index(tenant: &str, key: &IdempotencyKey, homes: NonZeroU16) -> u16 {
    slot_modulo(slot(tenant, key), homes)
}

/// Identifies a tenant's key in tokens and indexes: SHA-256 over `tenant 0x00 key`, with every byte of the key.
#[must_use]
pub fn key_hash(tenant: &str, key: &IdempotencyKey) -> [u8; 32] {
    Sha256::new().chain_update(tenant).chain_update([0]).chain_update(key.as_str()).finalize().into()
}

/// Whether `text` can name a home: 1–32 characters of `[a-z0-9-]`, the first and the last no hyphen.
#[must_use]
pub fn is_home(text: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= MAX_HOME_BYTES
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
}

fn slot_modulo(slot: u64, count: NonZeroU16) -> u16 {
    // The remainder is below `count`, so it fits and the saturation never happens.
    u16::try_from(slot % u64::from(count.get())).unwrap_or(u16::MAX)
}

/// `str::parse` would also take a plus sign and leading zeros, which would give one operation two keys.
fn parse_mint_epoch(text: &str) -> Option<u64> {
    let canonical = text == "0" || text.starts_with(|first: char| matches!(first, '1'..='9'));
    if canonical { text.parse().ok() } else { None }
}

/// `Uuid::try_parse` takes several spellings; writing it again tells the canonical one.
fn parse_uuid(text: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(text).ok()?;
    let canonical = uuid.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text;
    let version_7 = uuid.get_version_num() == UUID_VERSION && uuid.get_variant() == Variant::RFC4122;
    (canonical && version_7).then_some(uuid)
}

/// A header value without the spaces and tabs around it, which are no part of it (RFC 9110 section 5.5).
pub(crate) fn trim_blanks(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Reads the rest of an RFC 8941 string after its opening quote, up to the closing quote that must end it.
fn unquote(rest: &str) -> Result<String, KeyError> {
    let mut text = String::with_capacity(rest.len());
    let mut chars = rest.chars();
    loop {
        match chars.next() {
            Some('\\') => match chars.next() {
                Some(escaped @ ('"' | '\\')) => text.push(escaped),
                Some(_) | None => return Err(KeyError::Quoting),
            },
            Some('"') if chars.as_str().is_empty() => return Ok(text),
            Some('"') | None => return Err(KeyError::Quoting),
            Some(plain) => text.push(plain),
        }
    }
}
