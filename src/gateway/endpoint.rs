//! The name of an endpoint that nobody has named: method and path, with what looks like an identifier replaced.
//!
//! It only groups requests under a policy and in metrics: a request is compared by its path as it was sent, so two that share a
//! name by mistake are still two.

use holdfast_client::http::endpoint_name;

/// What stands for an identifier.
const ID: &str = "{id}";
/// Hexadecimal digits from which a segment is an identifier.
const LEAST_HEX: usize = 16;
/// Characters after the prefix of such as `ch_3MxyzAbc`.
const LEAST_AFTER_PREFIX: usize = 8;
/// Characters of a ULID.
const ULID: usize = 26;

/// The name of `method` on `path`.
pub(super) fn named(method: &str, path: &str) -> String {
    let segments: Vec<&str> = path.split('/').map(|segment| if is_id(segment) { ID } else { segment }).collect();
    endpoint_name(method, &segments.join("/"))
}

/// Whether a segment of a path looks like an identifier: a number, a UUID, a ULID, much hexadecimal, or a prefixed one.
fn is_id(segment: &str) -> bool {
    let all = |test: fn(&u8) -> bool| !segment.is_empty() && segment.as_bytes().iter().all(test);
    let has_digit = segment.bytes().any(|byte| byte.is_ascii_digit());
    if all(u8::is_ascii_digit) || is_uuid(segment) {
        return true;
    }
    if segment.len() >= LEAST_HEX && all(u8::is_ascii_hexdigit) && has_digit {
        return true;
    }
    (segment.len() == ULID && all(u8::is_ascii_alphanumeric) && has_digit) || is_prefixed(segment)
}

/// 8-4-4-4-12 hexadecimal digits (RFC 9562).
fn is_uuid(segment: &str) -> bool {
    let parts: Vec<&str> = segment.split('-').collect();
    let hex = |part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]) && parts.iter().all(hex)
}

/// A short word, an underscore, then letters and digits, both of them.
fn is_prefixed(segment: &str) -> bool {
    let Some((prefix, rest)) = segment.rsplit_once('_') else { return false };
    let is_word = (1..=24).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let is_random = rest.len() >= LEAST_AFTER_PREFIX && rest.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_word && is_random && rest.bytes().any(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_replaced_and_words_are_not() {
        for id in [
            "7",
            "0123456789",
            "2a97516c-354b-6884-8cdb-d8f54a226a0a",
            "2A97516C-354B-6884-8CDB-D8F54A226A0A",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "2a97516c354b6884",
            "ch_3MxyzAbc",
            "acct_live_1Mqj9zQ8aB",
        ] {
            assert!(is_id(id), "{id}");
        }
        for word in [
            "",
            "v1",
            "charges",
            "2a97516c",
            "deadbeefdeadbeef",
            "payment_intents",
            "line_items2",
            "a_b",
            "x-7",
            "2a97516c-354b-6884-8cdb",
            "Ch_3MxyzAbc",
            "%7Bid%7D",
            "abcdefghijklmnopqrstuvwxyz",
        ] {
            assert!(!is_id(word), "{word}");
        }
    }

    #[test]
    fn a_name_is_method_and_path() {
        for (path, expected) in [
            ("/v1/charges", "POST /v1/charges"),
            ("/v1/accounts/42/charges/ch_3MxyzAbc/", "POST /v1/accounts/{id}/charges/{id}/"),
            ("/", "POST /"),
            ("//7", "POST //{id}"),
        ] {
            assert_eq!(named("POST", path), expected);
        }
        assert!(named("POST", &format!("/{}", "long/".repeat(200))).len() <= crate::limits::MAX_ENDPOINT_BYTES);
    }
}
