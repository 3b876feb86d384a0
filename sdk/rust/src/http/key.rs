//! The idempotency key of a request, as its header has it.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::keys::{IdempotencyKey, KeyError};

/// A key, and the header line that it came in: answers echo it as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLine {
    /// The key.
    pub key: IdempotencyKey,
    /// The value of its header.
    pub line: HeaderValue,
}

/// Why a request with a key's header has no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyHeaderError {
    /// The header came more than once.
    #[error("{name} was sent {lines} times: send one key with one request")]
    Repeated {
        /// The header.
        name: HeaderName,
        /// How often it came.
        lines: usize,
    },
    /// Its value is no key.
    #[error(transparent)]
    Malformed(#[from] KeyError),
}

/// Reads the key of a request: an RFC 8941 string or the bare text, 1 to 255 visible ASCII characters. `None` if the header
/// is not there.
///
/// # Errors
/// [`KeyHeaderError`] if it is there more than once, also with the same value, or is malformed.
pub fn read_key(headers: &HeaderMap, name: &HeaderName) -> Result<Option<KeyLine>, KeyHeaderError> {
    let mut lines = headers.get_all(name).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let more = lines.count();
    if more > 0 {
        return Err(KeyHeaderError::Repeated { name: name.clone(), lines: more.saturating_add(1) });
    }
    let key = IdempotencyKey::from_header_value(line.as_bytes())?;
    Ok(Some(KeyLine { key, line: line.clone() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: HeaderName = HeaderName::from_static("idempotency-key");

    fn read(lines: &[&[u8]]) -> Result<Option<String>, KeyHeaderError> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(NAME, HeaderValue::from_bytes(line).expect("a header value"));
        }
        Ok(read_key(&headers, &NAME)?.map(|read| read.key.to_string()))
    }

    #[test]
    fn both_spellings_are_one_key() {
        assert_eq!(read(&[]), Ok(None));
        for line in [&b"invoice-7"[..], b"\"invoice-7\"", b"  invoice-7 "] {
            assert_eq!(read(&[line]), Ok(Some("invoice-7".to_owned())));
        }
        assert_eq!(read(&[b"\"a\\\"b\""]), Ok(Some("a\"b".to_owned())));
        let longest = "k".repeat(255);
        assert_eq!(read(&[longest.as_bytes()]), Ok(Some(longest.clone())));
    }

    #[test]
    fn what_is_no_key_is_told_apart_from_no_key() {
        let twice = KeyHeaderError::Repeated { name: NAME, lines: 2 };
        assert_eq!(read(&[b"a", b"b"]), Err(twice.clone()));
        assert_eq!(read(&[b"a", b"a"]), Err(twice), "a proxy that doubles it may change it too");
        assert_eq!(read(&[b""]), Err(KeyError::Empty.into()));
        assert_eq!(read(&[b"\"\""]), Err(KeyError::Empty.into()));
        assert_eq!(read(&[b"a, b"]), Err(KeyError::NotVisible { at: 2, byte: b' ' }.into()), "two, joined by a proxy");
        assert_eq!(read(&["k".repeat(256).as_bytes()]), Err(KeyError::TooLong { bytes: 256 }.into()));
        for line in [&b"\"open"[..], b"\"a\"b", b"\"a\";p=1", b"\"a\\b\""] {
            assert_eq!(read(&[line]), Err(KeyError::Quoting.into()));
        }
        assert!(matches!(read(&[&[b'k', 0xe4]]), Err(KeyHeaderError::Malformed(_))), "not ascii");
    }
}
