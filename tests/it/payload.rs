//! What the tests send: requests, envelopes and bodies, each a function of a number, so that nothing has to be kept to
//! know it again.

use bytes::Bytes;
use holdfast_client::proto::v1 as api;
use rand::RngCore as _;
use sha2::{Digest as _, Sha256};

use crate::history::{Envelope, Request};
use crate::random::Random;

/// The endpoint of every test request that does not care.
pub(crate) const ENDPOINT: &str = "POST /v1/charges";

/// A body of that many pseudo-random bytes, which no compression makes smaller.
pub(crate) fn body(number: u64, bytes: usize) -> Bytes {
    let mut body = vec![0; bytes];
    Random::new(number).fill_bytes(&mut body);
    body.into()
}

/// An envelope, with a status, headers and a body of its own.
pub(crate) fn envelope(number: u64, bytes: usize) -> api::Envelope {
    let header = |name: &str, value: String| api::Header { name: name.to_owned(), value: value.into_bytes().into() };
    let status = match number % 3 {
        0 => 200,
        1 => 201,
        _ => 422,
    };
    api::Envelope {
        status,
        headers: vec![
            header("content-type", "application/octet-stream".to_owned()),
            header("x-number", number.to_string()),
            header("x-number", format!("{number:x}")),
        ],
        body: body(number, bytes),
    }
}

/// A digest over everything an envelope says, lengths included, so that equal digests mean equal bytes.
pub(crate) fn digest(envelope: &api::Envelope) -> Envelope {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(&envelope.status.to_be_bytes());
    for header in &envelope.headers {
        part(header.name.as_bytes());
        part(&header.value);
    }
    part(&envelope.body);
    Envelope(hash.finalize().into())
}

/// The fingerprint of a request, made by the caller.
pub(crate) fn fingerprint(request: Request) -> api::Fingerprint {
    let digest = Sha256::digest(request.0.to_be_bytes());
    api::Fingerprint { kind: Some(api::fingerprint::Kind::Digest(Bytes::copy_from_slice(&digest))) }
}
