//! The bodies of HTTP/JSON requests, and the messages that they stand for. Only their text is decoded here (hex, base64,
//! header values); what a field may be is `convert`'s to say.
//!
//! A field that is not known is refused: a misspelt `lease_ms` must not become a default.

#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use holdfast_client::proto::v1;
use serde::Deserialize;
use utoipa::ToSchema;

use super::shapes::{
    Actor, Base64, CheckpointName, ClientVersion, EndpointName, FingerprintHex, Key, Method, NonceHex, Reason,
    RequestHeader, ResponseHeader, Tenant, Token, Unsigned,
};
use super::strict::{Object, Whole};
use crate::api::error::{ApiError, Code};

/// Asks to execute.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReserveRequest {
    /// Whose key: 1-64 of `A-Z a-z 0-9 . _ -`.
    #[schema(value_type = Tenant, example = "acme")]
    tenant: String,
    /// The idempotency key: 1-255 visible ASCII characters.
    #[schema(value_type = Key, example = "order-4711")]
    key: String,
    /// The endpoint contract's name. Absent: method and path of `request`, else `default`.
    #[schema(value_type = Option<EndpointName>, example = "POST /v1/charges")]
    endpoint: Option<String>,
    /// The caller's own digest of the request: 1-64 bytes in hex. Either this or `request`.
    #[schema(value_type = Option<FingerprintHex>, example = "9f86d081884c7d65")]
    fingerprint: Option<String>,
    /// The request, for the store to digest (fingerprint v1). Either this or `fingerprint`.
    #[schema(value_type = Option<FingerprintedRequest>)]
    request: Option<Object<FingerprintedRequest>>,
    /// 1-64 random bytes in hex that name this attempt. Without one, a lost answer is not given again.
    #[schema(value_type = Option<NonceHex>, example = "0102030405060708090a0b0c0d0e0f10")]
    nonce: Option<String>,
    /// Such as `acme-pay/2.3.1`, for metrics.
    #[schema(value_type = Option<ClientVersion>)]
    client_version: Option<String>,
    /// The grant's lease. Absent: the policy's.
    #[schema(value_type = Option<u32>, minimum = 50, maximum = 3_600_000)]
    lease_ms: Option<Whole<u32>>,
    /// How long to wait while another attempt is in flight. Absent: 0.
    #[schema(value_type = Option<u32>, maximum = 60_000)]
    wait_ms: Option<Whole<u32>>,
    /// The largest `position` that the caller has seen of the key's partition: the answer is no older.
    #[schema(value_type = Option<Unsigned>)]
    seen: Option<Whole<u64>>,
}

/// A request for the store to digest.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FingerprintedRequest {
    /// The method as it was sent.
    #[schema(value_type = Method, example = "POST")]
    method: String,
    /// The path as it was sent, query included: part of the fingerprint. Without its query it is also in the default of
    /// `endpoint`.
    #[schema(example = "/v1/charges")]
    path: String,
    /// `[name, value]` pairs. One character of a value is one byte (ISO 8859-1).
    #[schema(value_type = Vec<RequestHeader>)]
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// The body, base64 with padding (RFC 4648 section 4).
    #[schema(value_type = Base64)]
    #[serde(default)]
    body_base64: String,
}

/// The response to store.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EnvelopeInput)]
pub(super) struct Envelope {
    /// The HTTP status.
    #[schema(value_type = u32, minimum = 100, maximum = 599, example = 201)]
    status: Whole<u32>,
    /// `[name, value]` pairs in the order they were sent. One character of a value is one byte (ISO 8859-1).
    #[schema(value_type = Vec<ResponseHeader>)]
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// The body, base64 with padding (RFC 4648 section 4).
    #[schema(value_type = Base64)]
    #[serde(default)]
    body_base64: String,
}

/// Tells the outcome.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CompleteRequest {
    /// Whose key.
    #[schema(value_type = Tenant)]
    tenant: String,
    /// The idempotency key.
    #[schema(value_type = Key)]
    key: String,
    /// The grant's token, as `granted` had it.
    #[schema(value_type = Token)]
    token: String,
    /// The response that every retry gets.
    #[schema(value_type = Envelope)]
    envelope: Object<Envelope>,
    /// How long to keep it. Absent: the policy's.
    #[schema(value_type = Option<u64>, minimum = 1_000, maximum = 34_560_000_000_u64)]
    retention_ms: Option<Whole<u64>>,
}

/// Gives a grant back: nothing ran.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReleaseRequest {
    /// Whose key.
    #[schema(value_type = Tenant)]
    tenant: String,
    /// The idempotency key.
    #[schema(value_type = Key)]
    key: String,
    /// The grant's token.
    #[schema(value_type = Token)]
    token: String,
}

/// Restarts the grant's lease.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExtendRequest {
    /// Whose key.
    #[schema(value_type = Tenant)]
    tenant: String,
    /// The idempotency key.
    #[schema(value_type = Key)]
    key: String,
    /// The grant's token.
    #[schema(value_type = Token)]
    token: String,
    /// The new lease.
    #[schema(value_type = u32, minimum = 50, maximum = 3_600_000)]
    lease_ms: Whole<u32>,
}

/// Stores a recovery point with a grant.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckpointRequest {
    /// Whose key.
    #[schema(value_type = Tenant)]
    tenant: String,
    /// The idempotency key.
    #[schema(value_type = Key)]
    key: String,
    /// The grant's token.
    #[schema(value_type = Token)]
    token: String,
    /// The recovery point.
    #[schema(value_type = Checkpoint)]
    checkpoint: Object<Checkpoint>,
}

/// A named recovery point.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CheckpointInput)]
pub(super) struct Checkpoint {
    /// Which step is done.
    #[schema(value_type = CheckpointName, example = "card-charged")]
    name: String,
    /// What the next attempt needs to go on: up to 8 KiB, base64 with padding.
    #[schema(value_type = Base64)]
    #[serde(default)]
    data_base64: String,
}

/// Takes over a key whose outcome is unknown.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ClaimRequest {
    /// Whose key.
    #[schema(value_type = Tenant)]
    tenant: String,
    /// The idempotency key.
    #[schema(value_type = Key)]
    key: String,
    /// Who takes over.
    #[schema(value_type = Actor, example = "recovery-1")]
    worker: String,
    /// 1-64 random bytes in hex that name this attempt.
    #[schema(value_type = Option<NonceHex>)]
    nonce: Option<String>,
    /// The lease. Absent: the one that the key was granted under.
    #[schema(value_type = Option<u32>, minimum = 50, maximum = 3_600_000)]
    lease_ms: Option<Whole<u32>>,
}

/// An operator's verdict on a key whose outcome is unknown.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResolveRequest {
    /// Whose key.
    #[schema(value_type = Tenant)]
    tenant: String,
    /// The idempotency key.
    #[schema(value_type = Key)]
    key: String,
    /// The fencing token that was looked at.
    #[schema(value_type = FencingToken)]
    fencing: Object<FencingToken>,
    /// What happened.
    verdict: Verdict,
    /// The response that every retry gets: with `executed` only.
    #[schema(value_type = Option<Envelope>)]
    envelope: Option<Object<Envelope>>,
    /// Who decided.
    #[schema(value_type = Actor)]
    actor: String,
    /// Why.
    #[schema(value_type = Reason)]
    reason: String,
}

/// A fencing token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FencingTokenInput)]
pub(super) struct FencingToken {
    /// The epoch of the key's home.
    #[schema(value_type = Unsigned)]
    epoch: Whole<u64>,
    /// The position in the epoch's stream.
    #[schema(value_type = Unsigned)]
    sequence: Whole<u64>,
}

/// What happened.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// It ran.
    Executed,
    /// Nothing ran.
    NotExecuted,
}

/// A request without fields: `{}`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Empty {}

impl ReserveRequest {
    pub(super) fn into_message(self) -> Result<v1::ReserveRequest, ApiError> {
        let kind = match (self.fingerprint, self.request) {
            (Some(_), Some(_)) => {
                let detail = "there are both fingerprint and request: send one of them";
                return Err(input(Code::FingerprintInvalid, "fingerprint", detail.to_owned()));
            }
            (None, None) => None,
            (Some(digest), None) => {
                Some(v1::fingerprint::Kind::Digest(hex(&digest, Code::FingerprintInvalid, "fingerprint")?))
            }
            (None, Some(Object(request))) => Some(v1::fingerprint::Kind::Request(request.into_message()?)),
        };
        Ok(v1::ReserveRequest {
            tenant: self.tenant,
            key: self.key,
            endpoint: self.endpoint.unwrap_or_default(),
            fingerprint: Some(v1::Fingerprint { kind }),
            nonce: nonce(self.nonce.as_deref())?,
            client_version: self.client_version.unwrap_or_default(),
            lease_ms: self.lease_ms.map(whole),
            wait_ms: self.wait_ms.map(whole),
            seen: self.seen.map(whole),
        })
    }
}

impl FingerprintedRequest {
    fn into_message(self) -> Result<v1::Request, ApiError> {
        Ok(v1::Request {
            method: self.method,
            path: self.path,
            headers: headers(self.headers, Code::FingerprintInvalid, "request.headers")?,
            body: base64(&self.body_base64, Code::FingerprintInvalid, "request.body_base64")?,
        })
    }
}

impl Envelope {
    fn into_message(self) -> Result<v1::Envelope, ApiError> {
        Ok(v1::Envelope {
            status: self.status.0,
            headers: headers(self.headers, Code::EnvelopeInvalid, "envelope.headers")?,
            body: base64(&self.body_base64, Code::EnvelopeInvalid, "envelope.body_base64")?,
        })
    }
}

impl CompleteRequest {
    pub(super) fn into_message(self) -> Result<v1::CompleteRequest, ApiError> {
        Ok(v1::CompleteRequest {
            tenant: self.tenant,
            key: self.key,
            token: self.token,
            envelope: Some(self.envelope.0.into_message()?),
            retention_ms: self.retention_ms.map(whole),
        })
    }
}

impl ReleaseRequest {
    pub(super) fn into_message(self) -> v1::ReleaseRequest {
        v1::ReleaseRequest { tenant: self.tenant, key: self.key, token: self.token }
    }
}

impl ExtendRequest {
    pub(super) fn into_message(self) -> v1::ExtendRequest {
        v1::ExtendRequest { tenant: self.tenant, key: self.key, token: self.token, lease_ms: self.lease_ms.0 }
    }
}

impl CheckpointRequest {
    pub(super) fn into_message(self) -> Result<v1::CheckpointRequest, ApiError> {
        let Object(Checkpoint { name, data_base64 }) = self.checkpoint;
        let data = base64(&data_base64, Code::CheckpointInvalid, "checkpoint.data_base64")?;
        Ok(v1::CheckpointRequest {
            tenant: self.tenant,
            key: self.key,
            token: self.token,
            checkpoint: Some(v1::CheckpointData { name, data }),
        })
    }
}

impl ClaimRequest {
    pub(super) fn into_message(self) -> Result<v1::ClaimRequest, ApiError> {
        Ok(v1::ClaimRequest {
            tenant: self.tenant,
            key: self.key,
            worker: self.worker,
            nonce: nonce(self.nonce.as_deref())?,
            lease_ms: self.lease_ms.map(whole),
        })
    }
}

impl ResolveRequest {
    pub(super) fn into_message(self) -> Result<v1::ResolveRequest, ApiError> {
        let verdict = match (self.verdict, self.envelope) {
            (Verdict::Executed, Some(Object(envelope))) => {
                v1::resolve_request::Verdict::Executed(envelope.into_message()?)
            }
            (Verdict::NotExecuted, None) => v1::resolve_request::Verdict::NotExecuted(v1::NotExecuted {}),
            (Verdict::Executed, None) => {
                let detail = "the verdict is executed and there is no envelope: send the response that retries get";
                return Err(input(Code::VerdictInvalid, "envelope", detail.to_owned()));
            }
            (Verdict::NotExecuted, Some(_)) => {
                let detail = "the verdict is not_executed and there is an envelope: leave it out, or say executed";
                return Err(input(Code::VerdictInvalid, "envelope", detail.to_owned()));
            }
        };
        let Object(FencingToken { epoch: Whole(epoch), sequence: Whole(sequence) }) = self.fencing;
        Ok(v1::ResolveRequest {
            tenant: self.tenant,
            key: self.key,
            fencing: Some(v1::FencingToken { epoch, sequence }),
            verdict: Some(verdict),
            actor: self.actor,
            reason: self.reason,
        })
    }
}

fn whole<T>(number: Whole<T>) -> T {
    number.0
}

fn input(code: Code, field: &'static str, detail: String) -> ApiError {
    ApiError::Input { code, field, detail }
}

/// Bytes of an attempt's name. One that is there and empty is an error here: absent is how to leave it out.
fn nonce(text: Option<&str>) -> Result<Bytes, ApiError> {
    match text {
        None => Ok(Bytes::new()),
        Some("") => Err(input(Code::NonceInvalid, "nonce", "nonce is empty: leave it out, or send hex".to_owned())),
        Some(text) => hex(text, Code::NonceInvalid, "nonce"),
    }
}

fn headers(pairs: Vec<(String, String)>, code: Code, field: &'static str) -> Result<Vec<v1::Header>, ApiError> {
    pairs
        .into_iter()
        .enumerate()
        .map(|(at, (name, value))| match latin1(&value) {
            Some(value) => Ok(v1::Header { name, value }),
            None => {
                let detail = format!("header {at} has a character over U+00FF: one character stands for one byte");
                Err(input(code, field, detail))
            }
        })
        .collect()
}

/// The bytes of a text whose characters each stand for one.
fn latin1(text: &str) -> Option<Bytes> {
    if text.is_ascii() {
        return Some(Bytes::copy_from_slice(text.as_bytes()));
    }
    text.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect()
}

fn base64(text: &str, code: Code, field: &'static str) -> Result<Bytes, ApiError> {
    STANDARD.decode(text).map(Bytes::from).map_err(|error| {
        let detail = format!("{field} is no base64 of the standard alphabet with padding: {error}");
        input(code, field, detail)
    })
}

fn hex(text: &str, code: Code, field: &'static str) -> Result<Bytes, ApiError> {
    let refuse = || input(code, field, format!("{field} is no hex: send two of 0-9 a-f A-F for each byte"));
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return Err(refuse());
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    pairs
        .iter()
        .map(|[high, low]| Some((digit(*high)? << 4) | digit(*low)?))
        .collect::<Option<Bytes>>()
        .ok_or_else(refuse)
}
