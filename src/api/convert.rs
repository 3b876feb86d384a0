//! From messages to calls: everything that can be wrong with one is found here, once, at the edge. HTTP/JSON decodes its
//! hex and base64 into the same messages as gRPC has, so that both obey the same rules.
//!
//! Deliberately absent: what only the store can see (whether a token's MAC is right, whether a home exists).

mod rules;
#[cfg(test)]
mod tests;

use holdfast_client::fingerprint::{FINGERPRINT_VERSION, Request, Selection, fingerprint_v1};
use holdfast_client::proto::v1;

use self::rules::invalid;
use super::error::{ApiError, Code};
use crate::clock::Monotonic;
use crate::control::Signature;
use crate::ids::{EndpointName, FencingToken, Fingerprint, TenantId};
use crate::limits;
use crate::region::calls::{
    CheckpointCall, ClaimCall, CompleteCall, ExtendCall, GrantCall, LookupCall, ReleaseCall, ReserveCall, ResolveCall,
    Verdict,
};

/// The endpoint of a call that names none and brings no request.
const DEFAULT_ENDPOINT: &str = "default";

/// A Reserve: with its fingerprint, or with the request that it is to be taken of.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// The caller made the digest.
    Digested(Box<ReserveCall>),
    /// The store takes the fingerprint, as policies say: the call's own is none yet.
    Described { call: Box<ReserveCall>, request: Box<v1::Request> },
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

/// Parses who decides, and why.
pub(super) fn signature(actor: String, reason: String) -> Result<Signature, ApiError> {
    Ok(Signature {
        actor: rules::note("actor", actor, limits::MAX_ACTOR_BYTES)?.into(),
        reason: rules::note("reason", reason, limits::MAX_REASON_BYTES)?.into(),
    })
}

/// Parses a tenant's name.
pub(super) fn tenant(name: &str) -> Result<TenantId, ApiError> {
    rules::tenant(name)
}

fn grant(tenant: &str, key: &str, token: String) -> Result<GrantCall, ApiError> {
    Ok(GrantCall { key: rules::record_key(tenant, key)?, token: rules::token(token)? })
}

/// Parses a Reserve.
pub(super) fn reserve(request: v1::ReserveRequest, received: Monotonic) -> Result<Asked, ApiError> {
    let v1::ReserveRequest { tenant, key, endpoint, fingerprint, nonce, client_version, lease_ms, wait_ms, seen } =
        request;
    let key = rules::record_key(&tenant, &key)?;
    rules::client_version(&client_version)?;
    let (endpoint, fingerprint, request) = match fingerprint.and_then(|fingerprint| fingerprint.kind) {
        None => {
            let detail = "send a fingerprint of 1 to 64 bytes, or the request for the store to digest";
            return Err(invalid(Code::FingerprintInvalid, "fingerprint", detail));
        }
        Some(v1::fingerprint::Kind::Digest(digest)) => {
            let endpoint = if endpoint.is_empty() { DEFAULT_ENDPOINT } else { &endpoint };
            (rules::endpoint(endpoint)?, rules::own_fingerprint(&digest)?, None)
        }
        Some(v1::fingerprint::Kind::Request(request)) => {
            let endpoint = endpoint_of(&endpoint, &request)?;
            let none_yet = Fingerprint { version: FINGERPRINT_VERSION, selection: 0, digest: Box::default() };
            (endpoint, none_yet, Some(Box::new(request)))
        }
    };
    let call = Box::new(ReserveCall {
        key,
        endpoint,
        fingerprint,
        nonce: rules::nonce(&nonce)?,
        lease_ms: lease_ms.map(rules::lease_ms).transpose()?,
        wait: wait_ms.map(rules::wait).transpose()?.unwrap_or_default(),
        received,
        seen,
        client_version,
    });
    Ok(match request {
        None => Asked::Digested(call),
        Some(request) => Asked::Described { call, request },
    })
}

/// The endpoint of a request that can be fingerprinted. Its default is the method and the path without its query.
fn endpoint_of(endpoint: &str, request: &v1::Request) -> Result<EndpointName, ApiError> {
    rules::method(&request.method)?;
    rules::request_headers(&request.headers)?;
    rules::fingerprinted_body(&request.body)?;
    match endpoint.is_empty() {
        true => rules::endpoint(&format!("{} {}", request.method, rules::path(&request.path)?)),
        false => rules::endpoint(endpoint),
    }
}

/// The fingerprint v1 of a request that was parsed, under a selection.
pub(super) fn fingerprint_of(
    request: &v1::Request,
    endpoint: &EndpointName,
    number: u32,
    selection: &Selection,
) -> Fingerprint {
    // The target as it was sent: two accounts of one endpoint are two requests, though the endpoint's name is the same.
    let target = (!request.path.is_empty()).then_some((":path", request.path.as_bytes()));
    let named = request.headers.iter().map(|header| (header.name.as_str(), header.value.as_ref()));
    let headers: Vec<(&str, &[u8])> = named.chain(target).collect();
    let described =
        Request { method: &request.method, endpoint: endpoint.as_str(), headers: &headers, body: &request.body };
    let digest = fingerprint_v1(&described, selection);
    Fingerprint { version: FINGERPRINT_VERSION, selection: number, digest: Box::new(digest) }
}
