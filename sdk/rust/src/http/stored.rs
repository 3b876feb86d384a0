//! A response as it is stored, and as it comes back. What an envelope has no place for (trailers, and that a body was not
//! stored) stands among its headers, under names that no application's header is stored under.

use core::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::grpc;
use super::hex;
use super::rules::{Rules, is_never_stored};
use crate::client::Envelope;

/// A response, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers; repeated names stay repeated.
    pub headers: HeaderMap,
    /// The body, as it was sent: compressed, if it was.
    pub body: Bytes,
    /// The trailers of a gRPC call.
    pub trailers: Option<HeaderMap>,
}

/// Why the body of a response is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unavailable {
    /// It was larger than what is stored, or the request was larger than what is compared.
    SizeExceeded,
    /// It was sent as it came: there was no whole of it.
    Streaming,
}

/// What an envelope holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The response.
    Whole(Box<Response>),
    /// That it was executed, and how it ended.
    Outcome {
        /// The status of the response.
        status: StatusCode,
        /// Why there is no more.
        why: Unavailable,
        /// SHA-256 of the body in lower-case hex, where the whole of it was seen.
        sha256: Option<String>,
    },
}

const TRAILER_PREFIX: &str = "holdfast-trailer-";
const UNAVAILABLE: &str = "holdfast-replay-unavailable";
const SHA256: &str = "holdfast-body-sha256";

impl Unavailable {
    /// As the header `Idempotency-Replay-Unavailable` says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SizeExceeded => "size-exceeded",
            Self::Streaming => "streaming",
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        [Self::SizeExceeded, Self::Streaming].into_iter().find(|why| why.as_str().as_bytes() == text)
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The envelope of a response: its status, the headers that the rules store, its body and, of a gRPC call, its trailers.
#[must_use]
pub fn store(response: &Response, rules: &Rules) -> Envelope {
    let is_call = grpc::is_grpc(&response.headers);
    let kept = |name: &HeaderName, of_calls: &[&str]| {
        let name_is_kept = rules.stores_header(name) || (is_call && of_calls.contains(&name.as_str()));
        name_is_kept && !is_never_stored(name.as_str())
    };
    let mut envelope = Envelope::new(response.status.as_u16(), response.body.clone());
    for (name, value) in &response.headers {
        // The status of a call that failed at once stands among the headers.
        if kept(name, &grpc::STORED_HEADERS) || kept(name, &grpc::STORED_TRAILERS) {
            envelope.headers.push((name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes())));
        }
    }
    for (name, value) in response.trailers.iter().flatten() {
        if kept(name, &grpc::STORED_TRAILERS) {
            envelope.headers.push((format!("{TRAILER_PREFIX}{name}"), Bytes::copy_from_slice(value.as_bytes())));
        }
    }
    envelope
}

/// The envelope of a response whose body is not stored. `sha256` is of the body, if the whole of it was seen.
#[must_use]
pub fn store_outcome(status: StatusCode, why: Unavailable, sha256: Option<[u8; 32]>) -> Envelope {
    let mut envelope = Envelope::new(status.as_u16(), Bytes::new()).header(UNAVAILABLE, why.as_str());
    if let Some(sha256) = sha256 {
        envelope = envelope.header(SHA256, hex(&sha256));
    }
    envelope
}

/// What an envelope holds, without what is never stored, whoever stored it; `None` if it is no response that HTTP can carry, which no layer has stored.
#[must_use]
pub fn open(envelope: Envelope) -> Option<Stored> {
    let Envelope { status, headers, body } = envelope;
    let status = StatusCode::from_u16(status).ok()?;
    let named = |name: &str| headers.iter().find(|(header, _)| header == name).map(|(_, value)| value);
    if let Some(why) = named(UNAVAILABLE) {
        let why = Unavailable::parse(why)?;
        let sha256 = named(SHA256).map(|text| String::from_utf8_lossy(text).into_owned());
        return Some(Stored::Outcome { status, why, sha256 });
    }
    let mut fields = HeaderMap::new();
    let mut trailers = HeaderMap::new();
    for (name, value) in headers {
        let (into, name) = match name.strip_prefix(TRAILER_PREFIX) {
            Some(trailer) => (&mut trailers, trailer),
            None => (&mut fields, name.as_str()),
        };
        if is_never_stored(name) {
            continue;
        }
        into.append(HeaderName::try_from(name).ok()?, HeaderValue::from_maybe_shared(value).ok()?);
    }
    let trailers = (!trailers.is_empty()).then_some(trailers);
    Some(Stored::Whole(Box::new(Response { status, headers: fields, body, trailers })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    fn back(response: &Response, rules: &Rules) -> Response {
        match open(store(response, rules)) {
            Some(Stored::Whole(response)) => *response,
            other => panic!("a response was expected: {other:?}"),
        }
    }

    #[test]
    fn what_is_stored_comes_back_and_nothing_else() {
        let headers = fields(&[
            ("content-type", "application/json"),
            ("link", "</a>; rel=next"),
            ("set-cookie", "session=1"),
            ("link", "</b>; rel=last"),
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("content-encoding", "gzip"),
            ("x-charge", "7"),
            ("holdfast-replay-unavailable", "streaming"),
        ]);
        let body = Bytes::from_static(&[0x1f, 0x8b, 0, 0xff]);
        let response =
            Response { status: StatusCode::CREATED, headers, body, trailers: Some(fields(&[("x-sum", "1")])) };
        let kept = fields(&[
            ("content-type", "application/json"),
            ("link", "</a>; rel=next"),
            ("link", "</b>; rel=last"),
            ("content-encoding", "gzip"),
        ]);
        let replayed = back(&response, &Rules::default());
        assert_eq!(replayed, Response { headers: kept, trailers: None, ..response.clone() });
        let rules = Rules::default().with_headers(["x-charge", "x-sum"]).expect("headers of the application's");
        let replayed = back(&response, &rules);
        // Without its type and its encoding nobody could read it.
        let named = [("content-type", "application/json"), ("content-encoding", "gzip"), ("x-charge", "7")];
        assert_eq!(replayed.headers, fields(&named));
        assert_eq!(replayed.trailers, Some(fields(&[("x-sum", "1")])));
    }

    #[test]
    fn a_call_keeps_its_status_wherever_that_stands() {
        let headers = fields(&[("content-type", "application/grpc"), ("x-trace", "7")]);
        let trailers = fields(&[("grpc-status", "5"), ("grpc-message", "no%20charge"), ("x-other", "1")]);
        let body = Bytes::from_static(&[0, 0, 0, 0, 0]);
        let response = Response { status: StatusCode::OK, headers, body, trailers: Some(trailers) };
        let replayed = back(&response, &Rules::default());
        assert_eq!(replayed.headers, fields(&[("content-type", "application/grpc")]));
        assert_eq!(replayed.trailers, Some(fields(&[("grpc-status", "5"), ("grpc-message", "no%20charge")])));

        let headers = fields(&[("content-type", "application/grpc"), ("grpc-status", "3")]);
        let at_once = Response { headers, body: Bytes::new(), trailers: None, ..response };
        assert_eq!(back(&at_once, &Rules::default()), at_once);
        let no_call = Response { headers: fields(&[("grpc-status", "3")]), ..at_once };
        assert!(back(&no_call, &Rules::default()).headers.is_empty());
    }

    #[test]
    fn an_outcome_comes_back_as_one() {
        for why in [Unavailable::SizeExceeded, Unavailable::Streaming] {
            for sha256 in [None, Some([7; 32])] {
                let outcome = open(store_outcome(StatusCode::ACCEPTED, why, sha256));
                let sha256 = sha256.map(|sha256| hex(&sha256));
                assert_eq!(outcome, Some(Stored::Outcome { status: StatusCode::ACCEPTED, why, sha256 }));
            }
        }
    }

    #[test]
    fn what_no_layer_stored_is_not_made_up() {
        assert_eq!(open(Envelope::new(99, "")), None);
        assert_eq!(open(Envelope::new(200, "").header("a b", "")), None);
        assert_eq!(open(Envelope::new(200, "").header("a", "\n")), None);
        assert_eq!(open(Envelope::new(200, "").header(UNAVAILABLE, "later")), None);
    }
}
