//! What a request is compared by: fingerprint v1 of it, or of as much of it as was held back.

use bytes::Bytes;
use http::{HeaderMap, Method};
use sha2::{Digest as _, Sha256};

use super::rules::is_never_stored;
use crate::fingerprint::{Request, Selection, fingerprint_v1};

/// What is known of a body when the request is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared<'a> {
    /// All of it; of a gRPC call its first message, which is all that a unary call has.
    Whole(&'a [u8]),
    /// More than is held back: its first bytes, as many as the rules say. Requests that differ after them are the same
    /// request here, which is why their responses are not replayed.
    First(&'a [u8]),
}

/// Begins what is hashed where a body was not compared whole, so that it never equals a body that was.
const FIRST_DOMAIN: &[u8] = b"holdfast-compared-first-v1";

/// What a node takes of a request's headers: lines, bytes of a name, and bytes of names and values together.
const MAX_LINES: usize = 128;
const MAX_NAME_BYTES: usize = 256;
const MAX_BYTES: usize = 32 * 1024;

/// The headers of a request that the store compares itself: all but those of one connection, one moment or one trace, which
/// no selection means. None: there are more than it takes, and the request is digested here.
///
/// Credentials are among them: a policy may say that they count.
#[must_use]
pub fn described_headers(headers: &HeaderMap) -> Option<Vec<(String, Bytes)>> {
    let counts = |name: &str| !is_never_stored(name);
    let lines = headers.iter().filter(|(name, _)| counts(name.as_str()));
    let described: Vec<(String, Bytes)> =
        lines.map(|(name, value)| (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes()))).collect();
    let bytes: usize = described.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum();
    let is_named = described.iter().all(|(name, _)| name.len() <= MAX_NAME_BYTES);
    (is_named && described.len() <= MAX_LINES && bytes <= MAX_BYTES).then_some(described)
}

/// The digest of a request under `selection`, for the store to compare. `target` is path and query as they were sent: the
/// selection knows it as `:path`.
#[must_use]
pub fn request_digest(
    (method, target): (&Method, &str),
    endpoint: &str,
    headers: &HeaderMap,
    body: Compared<'_>,
    selection: &Selection,
) -> [u8; 32] {
    let lines = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let headers: Vec<(&str, &[u8])> = lines.chain([(":path", target.as_bytes())]).collect();
    let digest =
        |body| fingerprint_v1(&Request { method: method.as_str(), endpoint, headers: &headers, body }, selection);
    match body {
        Compared::Whole(body) => digest(body),
        Compared::First(first) => {
            Sha256::new().chain_update(FIRST_DOMAIN).chain_update(digest(first)).finalize().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::Rules;
    use super::*;

    fn of(target: &str, content_type: &'static str, body: Compared<'_>) -> [u8; 32] {
        let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
        request_digest((&Method::POST, target), "POST /v1/charges", &headers, body, Rules::default().selection())
    }

    #[test]
    fn what_a_node_would_refuse_is_compared_here() {
        let named = |length: usize| {
            let mut headers = HeaderMap::new();
            let name = http::HeaderName::try_from("x".repeat(length)).expect("a name");
            headers.insert(name, HeaderValue::from_static("1"));
            described_headers(&headers).is_some()
        };
        assert!(named(256) && !named(257));
    }

    #[test]
    fn the_same_request_is_the_same_and_another_is_not() {
        let json = "application/json";
        let base = of("/v1/charges", json, Compared::Whole(br#"{"a":1,"b":2}"#));
        assert_eq!(
            base,
            of("/v1/charges", "application/json; charset=utf-8", Compared::Whole(br#"{ "b":2.0, "a":1 }"#))
        );
        for other in [
            of("/v1/charges", json, Compared::Whole(br#"{"a":1,"b":3}"#)),
            of("/v1/charges?account=7", json, Compared::Whole(br#"{"a":1,"b":2}"#)),
            of("/v1/charges", "text/plain", Compared::Whole(br#"{"a":1,"b":2}"#)),
            of("/v1/charges", json, Compared::First(br#"{"a":1,"b":2}"#)),
            of("/v1/charges", json, Compared::Whole(b"")),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn what_the_store_compares_is_what_may_count_within_its_bounds() {
        let mut headers = HeaderMap::new();
        for name in ["content-type", "x-account", "authorization", "te", "traceparent", "idempotency-key"] {
            headers.insert(name, HeaderValue::from_static("v"));
        }
        let names = |headers: &HeaderMap| -> Option<Vec<String>> {
            Some(described_headers(headers)?.into_iter().map(|(name, _)| name).collect())
        };
        assert_eq!(names(&headers).unwrap_or_default(), ["content-type", "x-account", "authorization"]);
        headers.append("x-account", HeaderValue::from_static("w"));
        assert_eq!(names(&headers).map(|names| names.len()), Some(4), "a repeated header stays repeated");
        let large = HeaderValue::from_str(&"v".repeat(MAX_BYTES)).expect("a value");
        assert_eq!(names(&HeaderMap::from_iter([(http::header::ETAG, large)])), None);
        for _ in 0..MAX_LINES {
            headers.append("x-many", HeaderValue::from_static("v"));
        }
        assert_eq!(names(&headers), None);
    }
}
