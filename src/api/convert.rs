//! From messages to calls: everything that can be wrong with one is found here, once, at the edge. HTTP/JSON decodes its
//! hex and base64 into the same messages as gRPC has, so that both obey the same rules.
//!
//! Deliberately absent: what only the store can see (whether a token's MAC is right, whether a home exists).

mod rules;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;
use std::time::Duration;

use holdfast_client::fingerprint::{FINGERPRINT_VERSION, Members, Request, Selection, fingerprint_v1};
use holdfast_client::proto::v1;

use self::rules::invalid;
use super::error::{ApiError, Code};
use crate::clock::Monotonic;
use crate::ids::{EndpointName, FencingToken, Fingerprint};
use crate::limits;
use crate::region::calls::{
    Certainty, CheckpointCall, ClaimCall, CompleteCall, ExtendCall, Failure, GrantCall, LookupCall, ReleaseCall,
    ReserveCall, ResolveCall, Verdict,
};

/// The endpoint of a call that names none and brings no request.
const DEFAULT_ENDPOINT: &str = "default";

/// The revision of the selection that requests are fingerprinted under: the built-in one.
const DEFAULT_SELECTION: u32 = 1;

/// Bytes of a body over which a fingerprint is made on a thread of its own: at about 100 MB/s this is half a millisecond,
/// which the calls beside it may well wait.
const INLINE_FINGERPRINT_BYTES: usize = 64 * 1024;

static SELECTION: LazyLock<Selection> =
    LazyLock::new(|| Selection::new(&["content-type", ":path"], Members::All).unwrap_or_default());

/// Parses a Reserve, away from the other calls if its body is large.
pub(super) async fn reserve(request: v1::ReserveRequest, received: Monotonic) -> Result<ReserveCall, ApiError> {
    if fingerprinted_bytes(&request) <= INLINE_FINGERPRINT_BYTES {
        return parse_reserve(request, received);
    }
    match tokio::task::spawn_blocking(move || parse_reserve(request, received)).await {
        Ok(parsed) => parsed,
        Err(ended) => Err(ApiError::from(Failure::Unavailable {
            certainty: Certainty::Definite,
            reason: format!("the request was not fingerprinted: {ended}"),
            retry_after: Duration::from_secs(1),
        })),
    }
}

/// Parses a Complete.
pub(super) fn complete(request: v1::CompleteRequest, most_body_bytes: usize) -> Result<CompleteCall, ApiError> {
    let v1::CompleteRequest { tenant, key, token, envelope, retention_ms } = request;
    let Some(envelope) = envelope else {
        return Err(invalid(Code::EnvelopeInvalid, "envelope", "envelope is missing: send the response to store"));
    };
    Ok(CompleteCall {
        key: rules::record_key(&tenant, &key)?,
        token: rules::token(token)?,
        envelope: rules::envelope(envelope, most_body_bytes)?,
        retention_ms: retention_ms.map(rules::retention_ms).transpose()?,
    })
}

/// Parses a Release.
pub(super) fn release(request: v1::ReleaseRequest) -> Result<ReleaseCall, ApiError> {
    let v1::ReleaseRequest { tenant, key, token } = request;
    Ok(ReleaseCall(grant(&tenant, &key, token)?))
}

/// Parses an Extend.
pub(super) fn extend(request: v1::ExtendRequest) -> Result<ExtendCall, ApiError> {
    let v1::ExtendRequest { tenant, key, token, lease_ms } = request;
    Ok(ExtendCall { grant: grant(&tenant, &key, token)?, lease_ms: rules::lease_ms(lease_ms)? })
}

/// Parses a Checkpoint.
pub(super) fn checkpoint(request: v1::CheckpointRequest) -> Result<CheckpointCall, ApiError> {
    let v1::CheckpointRequest { tenant, key, token, checkpoint } = request;
    let Some(checkpoint) = checkpoint else {
        return Err(invalid(Code::CheckpointInvalid, "checkpoint", "checkpoint is missing: send its name and data"));
    };
    Ok(CheckpointCall { grant: grant(&tenant, &key, token)?, checkpoint: rules::checkpoint(checkpoint)? })
}

/// Parses a Lookup.
pub(super) fn lookup(request: &v1::LookupRequest) -> Result<LookupCall, ApiError> {
    rules::record_key(&request.tenant, &request.key).map(LookupCall)
}

/// Parses a Claim.
pub(super) fn claim(request: v1::ClaimRequest, received: Monotonic) -> Result<ClaimCall, ApiError> {
    let v1::ClaimRequest { tenant, key, worker, nonce, lease_ms } = request;
    Ok(ClaimCall {
        key: rules::record_key(&tenant, &key)?,
        worker: rules::note("worker", worker, limits::MAX_ACTOR_BYTES)?,
        nonce: rules::nonce(&nonce)?,
        lease_ms: lease_ms.map(rules::lease_ms).transpose()?,
        received,
    })
}

/// Parses a Resolve.
pub(super) fn resolve(request: v1::ResolveRequest, most_body_bytes: usize) -> Result<ResolveCall, ApiError> {
    let v1::ResolveRequest { tenant, key, fencing, verdict, actor, reason } = request;
    let key = rules::record_key(&tenant, &key)?;
    let Some(fencing) = fencing else {
        let detail = "fencing is missing: send the fencing token that lookup shows, which the verdict is about";
        return Err(invalid(Code::VerdictInvalid, "fencing", detail));
    };
    let verdict = match verdict {
        None => {
            let detail = "verdict is missing: it is executed, with the envelope, or not_executed";
            return Err(invalid(Code::VerdictInvalid, "verdict", detail));
        }
        Some(v1::resolve_request::Verdict::Executed(envelope)) => {
            Verdict::Executed(rules::envelope(envelope, most_body_bytes)?)
        }
        Some(v1::resolve_request::Verdict::NotExecuted(v1::NotExecuted {})) => Verdict::NotExecuted,
    };
    Ok(ResolveCall {
        key,
        fencing: FencingToken { epoch: crate::ids::Epoch(fencing.epoch), sequence: fencing.sequence },
        verdict,
        actor: rules::note("actor", actor, limits::MAX_ACTOR_BYTES)?,
        reason: rules::note("reason", reason, limits::MAX_REASON_BYTES)?,
    })
}

fn grant(tenant: &str, key: &str, token: String) -> Result<GrantCall, ApiError> {
    Ok(GrantCall { key: rules::record_key(tenant, key)?, token: rules::token(token)? })
}

fn fingerprinted_bytes(request: &v1::ReserveRequest) -> usize {
    match request.fingerprint.as_ref().and_then(|fingerprint| fingerprint.kind.as_ref()) {
        None | Some(v1::fingerprint::Kind::Digest(_)) => 0,
        Some(v1::fingerprint::Kind::Request(request)) => request.body.len(),
    }
}

fn parse_reserve(request: v1::ReserveRequest, received: Monotonic) -> Result<ReserveCall, ApiError> {
    let v1::ReserveRequest { tenant, key, endpoint, fingerprint, nonce, client_version, lease_ms, wait_ms, seen } =
        request;
    let key = rules::record_key(&tenant, &key)?;
    rules::client_version(&client_version)?;
    let (endpoint, fingerprint) = match fingerprint.and_then(|fingerprint| fingerprint.kind) {
        None => {
            let detail = "send a fingerprint of 1 to 64 bytes, or the request for the store to digest";
            return Err(invalid(Code::FingerprintInvalid, "fingerprint", detail));
        }
        Some(v1::fingerprint::Kind::Digest(digest)) => {
            let endpoint = if endpoint.is_empty() { DEFAULT_ENDPOINT } else { &endpoint };
            (rules::endpoint(endpoint)?, rules::own_fingerprint(&digest)?)
        }
        Some(v1::fingerprint::Kind::Request(request)) => fingerprint_of(&endpoint, &request)?,
    };
    Ok(ReserveCall {
        key,
        endpoint,
        fingerprint,
        nonce: rules::nonce(&nonce)?,
        lease_ms: lease_ms.map(rules::lease_ms).transpose()?,
        wait: wait_ms.map(rules::wait).transpose()?.unwrap_or_default(),
        received,
        seen,
        client_version,
    })
}

/// The endpoint of a request and its fingerprint v1 under the built-in selection. The endpoint's default is the method and
/// the path without its query.
fn fingerprint_of(endpoint: &str, request: &v1::Request) -> Result<(EndpointName, Fingerprint), ApiError> {
    rules::method(&request.method)?;
    rules::request_headers(&request.headers)?;
    rules::fingerprinted_body(&request.body)?;
    let endpoint = if endpoint.is_empty() {
        rules::endpoint(&format!("{} {}", request.method, rules::path(&request.path)?))?
    } else {
        rules::endpoint(endpoint)?
    };
    // The target as it was sent: two accounts of one endpoint are two requests, though the endpoint's name is the same.
    let target = (!request.path.is_empty()).then_some((":path", request.path.as_bytes()));
    let named = request.headers.iter().map(|header| (header.name.as_str(), header.value.as_ref()));
    let headers: Vec<(&str, &[u8])> = named.chain(target).collect();
    let digest = fingerprint_v1(
        &Request { method: &request.method, endpoint: endpoint.as_str(), headers: &headers, body: &request.body },
        &SELECTION,
    );
    let fingerprint =
        Fingerprint { version: FINGERPRINT_VERSION, selection: DEFAULT_SELECTION, digest: Box::new(digest) };
    Ok((endpoint, fingerprint))
}
