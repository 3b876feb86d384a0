//! One function a rule: what a field may be, and what its error says.

use std::time::Duration;

use bytes::Bytes;
use holdfast_client::proto::v1;

use super::super::error::{ApiError, Code};
use crate::ids::{EndpointName, Fingerprint, IdError, IdempotencyKey, Nonce, RecordKey, TenantId};
use crate::limits;
use crate::region::calls::Envelope;
use crate::reservation::record::Checkpoint;

/// HTTP statuses (RFC 9110 section 15).
const STATUSES: std::ops::RangeInclusive<u32> = 100..=599;

/// Which headers: their field's name, the codes of their errors, and whether a name may be one of HTTP/2's pseudo-headers.
#[derive(Clone, Copy)]
struct HeaderRules {
    field: &'static str,
    malformed: Code,
    too_large: Code,
    pseudo: bool,
}

const ENVELOPE_HEADERS: HeaderRules = HeaderRules {
    field: "envelope.headers",
    malformed: Code::EnvelopeInvalid,
    too_large: Code::EnvelopeTooLarge,
    pseudo: false,
};

const REQUEST_HEADERS: HeaderRules = HeaderRules {
    field: "request.headers",
    malformed: Code::FingerprintInvalid,
    too_large: Code::FingerprintInvalid,
    pseudo: true,
};

pub(super) fn invalid(code: Code, field: &'static str, detail: impl Into<String>) -> ApiError {
    ApiError::Input { code, field, detail: detail.into() }
}

fn id(code: Code, field: &'static str) -> impl Fn(IdError) -> ApiError {
    move |error| invalid(code, field, error.to_string())
}

pub(super) fn tenant(name: &str) -> Result<TenantId, ApiError> {
    TenantId::parse(name).map_err(id(Code::TenantInvalid, "tenant"))
}

pub(super) fn record_key(tenant: &str, key: &str) -> Result<RecordKey, ApiError> {
    let tenant = self::tenant(tenant)?;
    let key = IdempotencyKey::parse(key).map_err(|error| invalid(Code::KeyInvalid, "key", error.to_string()))?;
    Ok(RecordKey { tenant, key })
}

pub(super) fn endpoint(name: &str) -> Result<EndpointName, ApiError> {
    EndpointName::parse(name).map_err(id(Code::EndpointInvalid, "endpoint"))
}

/// The attempt's name; none if there are no bytes.
pub(super) fn nonce(bytes: &[u8]) -> Result<Option<Nonce>, ApiError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    Nonce::parse(bytes).map(Some).map_err(id(Code::NonceInvalid, "nonce"))
}

/// The digest that the caller made.
pub(super) fn own_fingerprint(digest: &Bytes) -> Result<Fingerprint, ApiError> {
    if digest.is_empty() || digest.len() > limits::MAX_FINGERPRINT_BYTES {
        let most = limits::MAX_FINGERPRINT_BYTES;
        let detail = format!("fingerprint has {} bytes: send 1 to {most}", digest.len());
        return Err(invalid(Code::FingerprintInvalid, "fingerprint", detail));
    }
    Ok(Fingerprint { version: 0, selection: 0, digest: digest.as_ref().into() })
}

/// A token's text, which the store reads.
pub(super) fn token(text: String) -> Result<String, ApiError> {
    if text.is_empty() || text.len() > limits::MAX_TOKEN_BYTES {
        let most = limits::MAX_TOKEN_BYTES;
        let detail = format!("token has {} bytes: send the 1 to {most} that reserve answered with", text.len());
        return Err(invalid(Code::TokenInvalid, "token", detail));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let detail = "token has a byte that no token has: send it as reserve answered it";
        return Err(invalid(Code::TokenInvalid, "token", detail));
    }
    Ok(text)
}

pub(super) fn lease_ms(lease_ms: u32) -> Result<u32, ApiError> {
    if limits::LEASE_MS.contains(&lease_ms) {
        return Ok(lease_ms);
    }
    let (least, most) = (limits::LEASE_MS.start(), limits::LEASE_MS.end());
    let detail = format!("lease_ms is {lease_ms}: send {least} to {most}");
    Err(invalid(Code::LeaseInvalid, "lease_ms", detail))
}

pub(super) fn wait(wait_ms: u32) -> Result<Duration, ApiError> {
    if wait_ms <= limits::MAX_WAIT_MS {
        return Ok(Duration::from_millis(u64::from(wait_ms)));
    }
    let detail = format!("wait_ms is {wait_ms}: send 0 to {}", limits::MAX_WAIT_MS);
    Err(invalid(Code::WaitInvalid, "wait_ms", detail))
}

pub(super) fn retention_ms(retention_ms: u64) -> Result<u64, ApiError> {
    if limits::RETENTION_MS.contains(&retention_ms) {
        return Ok(retention_ms);
    }
    let (least, most) = (limits::RETENTION_MS.start(), limits::RETENTION_MS.end());
    let detail = format!("retention_ms is {retention_ms}: send {least} to {most}");
    Err(invalid(Code::RetentionInvalid, "retention_ms", detail))
}

pub(super) fn client_version(text: &str) -> Result<(), ApiError> {
    if text.len() > limits::MAX_CLIENT_VERSION_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let most = limits::MAX_CLIENT_VERSION_BYTES;
        let detail = format!("client_version is not 0 to {most} visible ascii characters, like acme-pay/2.3.1");
        return Err(invalid(Code::InputInvalid, "client_version", detail));
    }
    Ok(())
}

/// What a person or a worker says, kept in a key's history: one line of text.
pub(super) fn note(field: &'static str, text: String, most: usize) -> Result<String, ApiError> {
    if text.trim().is_empty() || text.len() > most {
        let detail = format!("{field} has {} bytes: send 1 to {most} that are not all blank", text.len());
        return Err(invalid(Code::InputInvalid, field, detail));
    }
    if text.chars().any(char::is_control) {
        let detail = format!("{field} has a control character: send one line of text");
        return Err(invalid(Code::InputInvalid, field, detail));
    }
    Ok(text)
}

pub(super) fn checkpoint(checkpoint: v1::CheckpointData) -> Result<Checkpoint, ApiError> {
    let v1::CheckpointData { name, data } = checkpoint;
    let refuse = |field, detail: String| Err(invalid(Code::CheckpointInvalid, field, detail));
    if name.is_empty() || name.len() > limits::MAX_CHECKPOINT_NAME_BYTES {
        let most = limits::MAX_CHECKPOINT_NAME_BYTES;
        return refuse("checkpoint.name", format!("checkpoint name has {} bytes: send 1 to {most}", name.len()));
    }
    if name.chars().any(char::is_control) {
        return refuse("checkpoint.name", "checkpoint name has a control character: send one line of text".to_owned());
    }
    if data.len() > limits::MAX_CHECKPOINT_DATA_BYTES {
        let most = limits::MAX_CHECKPOINT_DATA_BYTES;
        return refuse("checkpoint.data", format!("checkpoint data has {} bytes: send at most {most}", data.len()));
    }
    Ok(Checkpoint { name: name.into(), data: data.as_ref().into() })
}

pub(super) fn envelope(envelope: v1::Envelope, most_body_bytes: usize) -> Result<Envelope, ApiError> {
    let v1::Envelope { status, headers, body } = envelope;
    let status = if STATUSES.contains(&status) { u16::try_from(status).ok() } else { None };
    let Some(status) = status else {
        let detail = "envelope status is no http status: send 100 to 599";
        return Err(invalid(Code::EnvelopeInvalid, "envelope.status", detail));
    };
    if body.len() > most_body_bytes {
        let detail = format!("envelope body has {} bytes: this node takes {most_body_bytes}", body.len());
        return Err(invalid(Code::EnvelopeTooLarge, "envelope.body", detail));
    }
    check_headers(&headers, ENVELOPE_HEADERS)?;
    let headers = headers.into_iter().map(|header| (header.name, header.value)).collect();
    Ok(Envelope { status, headers, body })
}

pub(super) fn request_headers(headers: &[v1::Header]) -> Result<(), ApiError> {
    check_headers(headers, REQUEST_HEADERS)
}

pub(super) fn fingerprinted_body(body: &[u8]) -> Result<(), ApiError> {
    if body.len() <= limits::MAX_FINGERPRINTED_BODY_BYTES {
        return Ok(());
    }
    let most = limits::MAX_FINGERPRINTED_BODY_BYTES;
    let detail = format!("request body has {} bytes: send at most {most}, or a fingerprint of your own", body.len());
    Err(invalid(Code::FingerprintInvalid, "request.body", detail))
}

pub(super) fn method(method: &str) -> Result<(), ApiError> {
    if is_token(method) && method.len() <= limits::MAX_ENDPOINT_BYTES {
        return Ok(());
    }
    let detail = "request method is no http token: send it as it was sent, like POST";
    Err(invalid(Code::FingerprintInvalid, "request.method", detail))
}

/// The path without its query, for the default name of an endpoint.
pub(super) fn path(target: &str) -> Result<&str, ApiError> {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    if path.starts_with('/') {
        return Ok(path);
    }
    let detail = "request path does not begin with /: send it, or name the endpoint";
    Err(invalid(Code::FingerprintInvalid, "request.path", detail))
}

fn check_headers(headers: &[v1::Header], rules: HeaderRules) -> Result<(), ApiError> {
    let HeaderRules { field, malformed, too_large, pseudo } = rules;
    if headers.len() > limits::MAX_HEADERS {
        let detail = format!("there are {} headers: send at most {}", headers.len(), limits::MAX_HEADERS);
        return Err(invalid(too_large, field, detail));
    }
    let bytes = headers.iter().map(|header| header.name.len().saturating_add(header.value.len()));
    let bytes = bytes.fold(0, usize::saturating_add);
    if bytes > limits::MAX_HEADER_BYTES {
        let most = limits::MAX_HEADER_BYTES;
        return Err(invalid(too_large, field, format!("headers have {bytes} bytes together: send at most {most}")));
    }
    for (at, header) in headers.iter().enumerate() {
        if header.name.len() > limits::MAX_HEADER_NAME_BYTES {
            let most = limits::MAX_HEADER_NAME_BYTES;
            let detail = format!("header {at} has a name of {} bytes: send at most {most}", header.name.len());
            return Err(invalid(too_large, field, detail));
        }
        let name = if pseudo { header.name.strip_prefix(':').unwrap_or(&header.name) } else { &header.name };
        if !is_token(name) {
            let detail = format!("header {at} has a name that is no http token (rfc 9110 section 5.6.2)");
            return Err(invalid(malformed, field, detail));
        }
        if !header.value.iter().all(|byte| is_field_byte(*byte)) {
            let detail = format!("header {at} has a control character in its value (cr, lf, nul or the like)");
            return Err(invalid(malformed, field, detail));
        }
    }
    Ok(())
}

/// A token of RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// What a field value is made of (RFC 9110 section 5.5): visible ASCII, space, tab and obs-text.
fn is_field_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
