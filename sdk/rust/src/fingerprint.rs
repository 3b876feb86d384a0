//! Fingerprint v1: the digest that says whether two requests with one idempotency key are the same request.
//!
//! The rule behind every choice: the same bytes always give the same fingerprint, no two requests that differ in what
//! the selection covers ever share one, and no request is refused for what it looks like. Where a body cannot be
//! compared by its meaning without risk it is compared by its bytes; the worst of that is a retry that is told it differs.
//!
//! # Definition
//!
//! The fingerprint is SHA-256 over these, one after the other. `count` is 8 bytes, big endian, and `field(x)` is the
//! length of x in bytes as a `count`, then x.
//!
//! ```text
//! "holdfast-fingerprint-v1"          23 ASCII bytes
//! field(method)                      as it was sent: methods are case-sensitive
//! field(endpoint name)               the policy's name of the endpoint
//! count(selected headers)
//!   for each, in the byte order of the names, each name once:
//!   field(name)                      in lower case
//!   count(lines)                     0 if absent, which differs from an empty value
//!   field(value) …                   of every line with that name, in the order of the request
//! body kind                          1 byte
//! field(body)                        what the kind says
//! ```
//!
//! A header value loses blanks (space, tab) at its ends. Of `content-type` only the essence counts: what stands before the
//! first `;`, without blanks at its ends, ASCII letters in lower case.
//!
//! | kind | when | body |
//! |---|---|---|
//! | 0 | the body is empty, whatever its type | nothing |
//! | 1 | its type is not JSON | its bytes |
//! | 2 | JSON | canonical form (RFC 8785) of what the selection takes |
//! | 3 | JSON by its type, and without a safe canonical form | its bytes, whole |
//! | 4 | JSON, and the selection names the members to keep alone, of which it has none | canonical form of all of it |
//!
//! The type is JSON if the request has exactly one `content-type` line and its essence is `application/json`, or has a `/`
//! and ends with `+json`; whether `content-type` is a selected header does not matter. A body has no safe canonical form if
//!
//! * it is not one JSON text (RFC 8259) in UTF-8 without byte order mark, or an escape in it is half a surrogate pair;
//! * an object in it has two members of one name: readers disagree on which counts;
//! * its arrays and objects are nested more than 64 deep (`[]` is 1 deep);
//! * a number that the selection takes does not survive IEEE 754 double precision: the canonical text does not have exactly
//!   the value that was sent. RFC 8785 alone would make 9007199254740993 equal to 9007199254740992, and both a
//!   payment's amount. `1`, `1.0`, `1e0` are one number, and so are `0` and `-0`. `0.1` survives, and so does every number of
//!   up to 15 significant digits between 1e-300 and 1e300.
//!
//! # Selected members
//!
//! JSON Pointers (RFC 6901) name them: see [`Members`]. Each pointer is matched from the root: in an object, a token is a
//! member's name; in an array, a decimal index. A pointer that leads nowhere names nothing.
//!
//! * `Without`: every named value is left out, as if it were not there; all else stays.
//! * `Only`: every named value stays whole. An object or array on the way to a named value stays, without what is not named
//!   in it; any other value on the way stays as it is. All else is left out. If no pointer leads anywhere, kind 4 applies,
//!   so that a misspelt pointer does not make all requests equal.
//!
//! `vectors/fingerprint-v1.json` holds examples with every byte that is hashed, for other implementations.
//!
//! Deliberately absent: what is stored with a fingerprint (its version and the selection's revision), the limit on a body's
//! size (the caller's; time and memory here are linear in it), and content codings (a compressed body is its bytes, with
//! `content-encoding` a header to select).

mod json;
mod selection;

use sha2::{Digest, Sha256};

use crate::keys::trim_blanks;

pub use self::selection::{FingerprintError, MAX_HEADERS, MAX_MEMBERS, Members, Pointer, Selection};

/// The version of fingerprint that this module computes, as it is stored with it.
pub const FINGERPRINT_VERSION: u32 = 1;

/// How deep arrays and objects may be nested in a JSON body that is compared by its meaning; deeper ones are compared by
/// their bytes. Bounds the recursion, and no API comes near it.
pub const MAX_JSON_DEPTH: usize = 64;

const DOMAIN: &[u8; 23] = b"holdfast-fingerprint-v1";
const CONTENT_TYPE: &str = "content-type";

/// What a fingerprint is taken of.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The HTTP method as it was sent.
    pub method: &'a str,
    /// The policy's name of the endpoint. If requests of one endpoint differ in their path or query alone, hand the target in
    /// as a header `:path`, and select that.
    pub endpoint: &'a str,
    /// Every header line in the order it was sent, as (name in any case, value). Values are bytes: they need not be UTF-8.
    /// The caller may add pseudo-headers (`:path`, `:authority`) as HTTP/2 has them.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The whole body, empty if there is none.
    pub body: &'a [u8],
}

/// What the digest takes of the body. The discriminants are hashed and never change.
#[derive(Clone, Copy)]
enum BodyKind {
    Empty = 0,
    Bytes = 1,
    Json = 2,
    UnsafeJson = 3,
    JsonWhole = 4,
}

/// The fingerprint of `request` under `selection`, by the definition above. It never fails: what was wrong with a selection
/// was told when that was made.
#[must_use]
pub fn fingerprint_v1(request: &Request<'_>, selection: &Selection) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    hash_field(&mut hash, request.method.as_bytes());
    hash_field(&mut hash, request.endpoint.as_bytes());
    hash_count(&mut hash, selection.headers().len());
    for name in selection.headers() {
        hash_field(&mut hash, name.as_bytes());
        hash_count(&mut hash, lines(request, name).count());
        for value in lines(request, name) {
            if name == CONTENT_TYPE {
                hash_field(&mut hash, &essence(value));
            } else {
                hash_field(&mut hash, trim_blanks(value));
            }
        }
    }
    hash_body(&mut hash, request, selection.members());
    hash.finalize().into()
}

fn hash_body(hash: &mut Sha256, request: &Request<'_>, members: &Members) {
    let body = request.body;
    if body.is_empty() {
        return hash_kind_and_body(hash, BodyKind::Empty, body);
    }
    if !is_json(request) {
        return hash_kind_and_body(hash, BodyKind::Bytes, body);
    }
    match json::canonicalize(body, members) {
        Some(json::Canonical { text, whole: false }) => hash_kind_and_body(hash, BodyKind::Json, &text),
        Some(json::Canonical { text, whole: true }) => hash_kind_and_body(hash, BodyKind::JsonWhole, &text),
        None => hash_kind_and_body(hash, BodyKind::UnsafeJson, body),
    }
}

fn hash_kind_and_body(hash: &mut Sha256, kind: BodyKind, body: &[u8]) {
    hash.update([kind as u8]);
    hash_field(hash, body);
}

fn hash_field(hash: &mut Sha256, field: &[u8]) {
    hash_count(hash, field.len());
    hash.update(field);
}

fn hash_count(hash: &mut Sha256, count: usize) {
    hash.update((count as u64).to_be_bytes());
}

fn lines<'a>(request: &Request<'a>, name: &str) -> impl Iterator<Item = &'a [u8]> {
    request.headers.iter().filter(move |(line, _)| line.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
}

fn is_json(request: &Request<'_>) -> bool {
    let mut types = lines(request, CONTENT_TYPE);
    let (Some(only), None) = (types.next(), types.next()) else {
        return false;
    };
    let essence = essence(only);
    essence == b"application/json" || (essence.contains(&b'/') && essence.ends_with(b"+json"))
}

/// The media type without its parameters, in lower case.
fn essence(content_type: &[u8]) -> Vec<u8> {
    let end = content_type.iter().position(|byte| *byte == b';').unwrap_or(content_type.len());
    trim_blanks(content_type.get(..end).unwrap_or_default()).to_ascii_lowercase()
}
