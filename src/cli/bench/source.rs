//! The keys and responses of a run, and the check of what is replayed. Everything of a key follows from its number, so
//! that nothing has to be remembered, and bodies are slices of one buffer, so that nothing has to be copied.

use bytes::Bytes;
use holdfast_client::proto::v1;

/// Where a body may start: so many different bodies there are. The header with the key tells responses apart that share one.
const WINDOW: usize = 64 * 1024;
/// Bytes of a fingerprint, as of SHA-256.
const FINGERPRINT_BYTES: usize = 32;
/// Bytes of a nonce.
const NONCE_BYTES: usize = 16;
/// The header that bears the key.
const KEY_HEADER: &str = "bench-key";
/// The header that every response bears.
const TYPE_HEADER: (&str, &[u8]) = ("content-type", b"application/octet-stream");

/// Makes the keys and responses of a run.
#[derive(Debug)]
pub(super) struct Source {
    tenant: String,
    prefix: String,
    seed: u64,
    noise: Bytes,
    body_bytes: usize,
}

/// What is wrong with a replayed response.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    #[error("the replay has no envelope")]
    NoEnvelope,
    #[error("the replayed status is {got}, and {sent} was sent")]
    Status { got: u32, sent: u32 },
    #[error("the replay has {got} headers, and {sent} were sent")]
    HeaderCount { got: usize, sent: usize },
    #[error("the replayed header {at} is {got}, and {sent} was sent")]
    Header { at: usize, got: String, sent: String },
    #[error("the replayed body has {got} bytes, and {sent} were sent")]
    BodyLength { got: usize, sent: usize },
    #[error("the replayed body has {got:#04x} at offset {at}, and {sent:#04x} was sent")]
    BodyByte { at: usize, got: u8, sent: u8 },
}

impl Source {
    /// A source of keys of a tenant. Two seeds have no key in common.
    pub(super) fn new(tenant: &str, seed: u64, body_bytes: usize) -> Self {
        let length = WINDOW + body_bytes.max(FINGERPRINT_BYTES);
        let mut noise = Vec::with_capacity(length + 8);
        let mut word = seed;
        while noise.len() < length {
            word = mix(word);
            noise.extend_from_slice(&word.to_le_bytes());
        }
        Self { tenant: tenant.to_owned(), prefix: format!("bench-{seed:016x}-"), seed, noise: noise.into(), body_bytes }
    }

    /// The key of a number.
    pub(super) fn key(&self, number: u64) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut key = String::with_capacity(self.prefix.len() + 16);
        key.push_str(&self.prefix);
        for shift in (0..16).rev() {
            // Four bits always find their digit.
            let digit = DIGITS.get((number >> (shift * 4)) as usize & 0xf).copied().unwrap_or_default();
            key.push(char::from(digit));
        }
        key
    }

    /// Asks for a number's key, as the `attempt`-th attempt: each has another nonce.
    pub(super) fn reserve(&self, number: u64, attempt: u64) -> v1::ReserveRequest {
        let digest = self.slice(number, 1, FINGERPRINT_BYTES);
        v1::ReserveRequest {
            tenant: self.tenant.clone(),
            key: self.key(number),
            endpoint: "POST /bench".to_owned(),
            fingerprint: Some(v1::Fingerprint { kind: Some(v1::fingerprint::Kind::Digest(digest)) }),
            nonce: self.slice(number, 2 + attempt, NONCE_BYTES),
            client_version: String::new(),
            lease_ms: None,
            wait_ms: None,
            seen: None,
        }
    }

    /// Completes a number's key.
    pub(super) fn complete(&self, number: u64, token: String) -> v1::CompleteRequest {
        let key = self.key(number);
        let envelope = v1::Envelope {
            status: status(number),
            headers: vec![
                v1::Header { name: TYPE_HEADER.0.to_owned(), value: Bytes::from_static(TYPE_HEADER.1) },
                v1::Header { name: KEY_HEADER.to_owned(), value: Bytes::copy_from_slice(key.as_bytes()) },
            ],
            body: self.body(number),
        };
        v1::CompleteRequest { tenant: self.tenant.clone(), key, token, envelope: Some(envelope), retention_ms: None }
    }

    /// Compares a replay with what was sent for its number, byte for byte.
    pub(super) fn check(&self, number: u64, replay: &v1::Replay) -> Result<(), Wrong> {
        let envelope = replay.envelope.as_ref().ok_or(Wrong::NoEnvelope)?;
        if envelope.status != status(number) {
            return Err(Wrong::Status { got: envelope.status, sent: status(number) });
        }
        let key = self.key(number);
        let sent = [TYPE_HEADER, (KEY_HEADER, key.as_bytes())];
        if envelope.headers.len() != sent.len() {
            return Err(Wrong::HeaderCount { got: envelope.headers.len(), sent: sent.len() });
        }
        for (at, (header, (name, value))) in envelope.headers.iter().zip(sent).enumerate() {
            if header.name != name || header.value != value {
                let line = |name: &str, value: &[u8]| format!("{name}: {}", value.escape_ascii());
                return Err(Wrong::Header { at, got: line(&header.name, &header.value), sent: line(name, value) });
            }
        }
        check_body(&envelope.body, &self.body(number))
    }

    fn body(&self, number: u64) -> Bytes {
        self.slice(number, 0, self.body_bytes)
    }

    /// Bytes that look random and follow from the number and their purpose.
    fn slice(&self, number: u64, purpose: u64, length: usize) -> Bytes {
        let start = mix(self.seed ^ number.rotate_left(8) ^ purpose) as usize % WINDOW;
        self.noise.slice(start..start + length)
    }
}

fn check_body(got: &[u8], sent: &[u8]) -> Result<(), Wrong> {
    if got == sent {
        return Ok(());
    }
    let different = got.iter().zip(sent).enumerate().find(|(_, (got, sent))| got != sent);
    Err(match different {
        Some((at, (got, sent))) => Wrong::BodyByte { at, got: *got, sent: *sent },
        None => Wrong::BodyLength { got: got.len(), sent: sent.len() },
    })
}

/// One of three, so that a status that is made up does not pass.
fn status(number: u64) -> u32 {
    match number % 3 {
        0 => 200,
        1 => 201,
        _ => 422,
    }
}

/// The output function of SplitMix64 (Steele, Lea and Flood, 2014): every bit of the input changes half of the output's.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(source: &Source, number: u64) -> v1::Replay {
        let envelope = source.complete(number, String::new()).envelope;
        v1::Replay { envelope, ..v1::Replay::default() }
    }

    #[test]
    fn what_was_sent_passes() {
        for body_bytes in [0, 1, 512, 100_000] {
            let source = Source::new("bench", 7, body_bytes);
            for number in [0, 1, 2, 1 << 40, u64::MAX] {
                assert_eq!(source.check(number, &replay(&source, number)), Ok(()));
            }
        }
    }

    /// Each planted difference is caught, and named.
    #[test]
    fn what_was_not_sent_is_caught() {
        type Plant = fn(&mut v1::Envelope);
        let source = Source::new("bench", 7, 512);
        let plants: [(Plant, &str); 8] = [
            (|envelope| envelope.status = 500, "status is 500, and 201 was sent"),
            (|envelope| envelope.headers.truncate(1), "has 1 headers, and 2"),
            (|envelope| envelope.headers.reverse(), "header 0 is bench-key:"),
            (|envelope| envelope.headers[0].name = "Content-Type".to_owned(), "header 0 is Content-Type:"),
            (
                |envelope| envelope.headers[1].value = Bytes::from_static(b"x"),
                "header 1 is bench-key: x, and bench-key: bench-",
            ),
            (|envelope| envelope.body.truncate(511), "has 511 bytes, and 512 were sent"),
            (|envelope| envelope.body = [&envelope.body[..], b"x"].concat().into(), "has 513 bytes"),
            (
                |envelope| {
                    let mut body = envelope.body.to_vec();
                    body[400] ^= 1;
                    envelope.body = body.into();
                },
                "at offset 400",
            ),
        ];
        for (plant, expected) in plants {
            let mut answer = replay(&source, 1);
            answer.envelope.as_mut().map(plant);
            let message = source.check(1, &answer).map_or_else(|wrong| wrong.to_string(), |()| "passed".to_owned());
            assert!(message.contains(expected), "{message}, expected: {expected}");
        }
        assert_eq!(source.check(1, &v1::Replay::default()), Err(Wrong::NoEnvelope));
        assert!(source.check(1, &replay(&source, 4)).is_err(), "another key's response");
        assert!(source.check(1, &replay(&Source::new("bench", 8, 512), 1)).is_err(), "another run's response");
    }

    #[test]
    fn keys_are_valid_and_attempts_have_their_own_nonce() {
        let source = Source::new("bench", u64::MAX, 8);
        assert_eq!(source.key(0x1f), "bench-ffffffffffffffff-000000000000001f");
        assert!(crate::ids::IdempotencyKey::parse(&source.key(u64::MAX)).is_ok());
        let (first, second) = (source.reserve(5, 0), source.reserve(5, 1));
        assert_eq!(first.fingerprint, second.fingerprint);
        assert_ne!(first.nonce, second.nonce);
        assert_ne!(source.body(1), source.body(2));
    }
}
