//! The keys and responses of a run, and the check of what is replayed. Everything of a key follows from its number, so
//! that nothing has to be remembered, and bodies are slices of one buffer, so that nothing has to be copied.

use bytes::Bytes;
use holdfast_client::client::{Envelope, Replay, Reserve};

/// Where a body may start: so many different bodies there are. The header with the key tells responses apart that share one.
const WINDOW: usize = 64 * 1024;
/// Bytes of a fingerprint, as of SHA-256.
const FINGERPRINT_BYTES: usize = 32;
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
    #[error("the replayed status is {got}, and {sent} was sent")]
    Status { got: u16, sent: u16 },
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

    /// Asks for a number's key.
    pub(super) fn reserve(&self, number: u64) -> Reserve {
        let digest = self.slice(number, 1, FINGERPRINT_BYTES);
        Reserve::new(self.tenant.as_str(), self.key(number)).digest(digest).endpoint("POST /bench")
    }

    /// The response that a number's key is completed with.
    pub(super) fn envelope(&self, number: u64) -> Envelope {
        Envelope::new(status(number), self.body(number))
            .header(TYPE_HEADER.0, TYPE_HEADER.1)
            .header(KEY_HEADER, self.key(number))
    }

    /// Compares a replay with what was sent for its number, byte for byte.
    pub(super) fn check(&self, number: u64, replay: &Replay) -> Result<(), Wrong> {
        let got = &replay.envelope;
        if got.status != status(number) {
            return Err(Wrong::Status { got: got.status, sent: status(number) });
        }
        let key = self.key(number);
        let sent = [TYPE_HEADER, (KEY_HEADER, key.as_bytes())];
        if got.headers.len() != sent.len() {
            return Err(Wrong::HeaderCount { got: got.headers.len(), sent: sent.len() });
        }
        for (at, ((got_name, got_value), (name, value))) in got.headers.iter().zip(sent).enumerate() {
            if got_name != name || got_value != value {
                let line = |name: &str, value: &[u8]| format!("{name}: {}", value.escape_ascii());
                return Err(Wrong::Header { at, got: line(got_name, got_value), sent: line(name, value) });
            }
        }
        check_body(&got.body, &self.body(number))
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
fn status(number: u64) -> u16 {
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

    fn replay(source: &Source, number: u64) -> Replay {
        Replay { envelope: source.envelope(number), ..Replay::default() }
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
        type Plant = fn(&mut Envelope);
        let source = Source::new("bench", 7, 512);
        let plants: [(Plant, &str); 8] = [
            (|envelope| envelope.status = 500, "status is 500, and 201 was sent"),
            (|envelope| envelope.headers.truncate(1), "has 1 headers, and 2"),
            (|envelope| envelope.headers.reverse(), "header 0 is bench-key:"),
            (|envelope| envelope.headers[0].0 = "Content-Type".to_owned(), "header 0 is Content-Type:"),
            (
                |envelope| envelope.headers[1].1 = Bytes::from_static(b"x"),
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
            plant(&mut answer.envelope);
            let message = source.check(1, &answer).map_or_else(|wrong| wrong.to_string(), |()| "passed".to_owned());
            assert!(message.contains(expected), "{message}, expected: {expected}");
        }
        assert!(source.check(1, &Replay::default()).is_err(), "nothing at all");
        assert!(source.check(1, &replay(&source, 4)).is_err(), "another key's response");
        assert!(source.check(1, &replay(&Source::new("bench", 8, 512), 1)).is_err(), "another run's response");
    }

    #[test]
    fn keys_are_valid_and_numbers_have_their_own_responses() {
        let source = Source::new("bench", u64::MAX, 8);
        assert_eq!(source.key(0x1f), "bench-ffffffffffffffff-000000000000001f");
        assert!(crate::ids::IdempotencyKey::parse(&source.key(u64::MAX)).is_ok());
        assert_ne!(source.body(1), source.body(2));
    }
}
