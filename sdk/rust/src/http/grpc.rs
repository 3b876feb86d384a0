//! gRPC over HTTP/2, as far as the layer has to understand it: which requests are calls, where a message ends, and what a
//! call's status means for its key.

use http::{HeaderMap, HeaderValue, header};
use tonic::Code;

use super::fate::Fate;

/// The header or trailer that has a call's status.
pub const STATUS: &str = "grpc-status";

/// Bytes in front of every message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// Trailers that are stored of every call, beside those that the rules name.
pub(super) const STORED_TRAILERS: [&str; 3] = ["grpc-message", STATUS, "grpc-status-details-bin"];
/// Headers that are stored of every call: a message cannot be read without them.
pub(super) const STORED_HEADERS: [&str; 2] = ["content-type", "grpc-encoding"];

/// Whether these are the headers of a gRPC call, or of the answer to one.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let is_call = |value: &HeaderValue| {
        let rest = value.as_bytes().strip_prefix(b"application/grpc");
        // Not gRPC-Web, which puts its trailers into the body.
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
    };
    headers.get(header::CONTENT_TYPE).is_some_and(is_call)
}

/// Where the first message ends in what has come of a body, prefix included; none if it has not come whole.
#[must_use]
pub fn first_message(body: &[u8]) -> Option<usize> {
    let [_, a, b, c, d, ..] = body else { return None };
    let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok()?;
    let end = PREFIX_BYTES.checked_add(length)?;
    (body.len() >= end).then_some(end)
}

/// The status of a call, where headers or trailers have one.
#[must_use]
pub fn status(fields: &HeaderMap) -> Option<Code> {
    fields.get(STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

/// What a code says by itself: `None` where the rules for the application's own failures decide.
pub(super) fn fate_of(code: Code) -> Option<Fate> {
    match code {
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange => Some(Fate::Stored),
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Unimplemented => Some(Fate::Released),
        Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_known_by_their_content_type() {
        let is = |value: &'static str| {
            is_grpc(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))]))
        };
        assert!(is("application/grpc") && is("application/grpc+proto") && is("application/grpc;charset=utf-8"));
        assert!(!is("application/grpc-web") && !is("application/json") && !is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn a_message_ends_where_its_prefix_says() {
        assert_eq!(first_message(b""), None);
        assert_eq!(first_message(&[0, 0, 0, 0]), None);
        assert_eq!(first_message(&[0, 0, 0, 0, 0]), Some(5), "an empty message");
        assert_eq!(first_message(&[0, 0, 0, 0, 2, 7]), None);
        assert_eq!(first_message(&[1, 0, 0, 0, 2, 7, 8, 9]), Some(7));
        assert_eq!(first_message(&[0, 0xff, 0xff, 0xff, 0xff, 0]), None);
    }
}
