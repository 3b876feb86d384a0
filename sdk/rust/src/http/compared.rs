//! What a request is compared by: fingerprint v1 of it, or of as much of it as was held back.

use http::{HeaderMap, Method};
use sha2::{Digest as _, Sha256};

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
}
