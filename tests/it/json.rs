//! The JSON of the HTTP API, to and from the messages of the .proto files, by its documented contract.
//!
//! Reading is strict where it matters: a field that should be there and is not is an error, never a default.

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_client::proto::v1 as api;
use serde_json::{Value, json};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> anyhow::Result<Vec<u8>> {
    let digits: Vec<char> = text.chars().collect();
    digits.chunks(2).map(|two| Ok(u8::from_str_radix(&two.iter().collect::<String>(), 16)?)).collect()
}

/// Leaves out what is not set: the API refuses null where it expects a number.
fn without_nulls(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.retain(|_, field| !field.is_null());
    }
    value
}

fn headers(headers: &[api::Header]) -> Value {
    let latin1 = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
    headers.iter().map(|header| json!([header.name, latin1(&header.value)])).collect()
}

pub(crate) fn envelope(envelope: &api::Envelope) -> Value {
    json!({
        "status": envelope.status,
        "headers": headers(&envelope.headers),
        "body_base64": STANDARD.encode(&envelope.body),
    })
}

fn nonce(nonce: &[u8]) -> Value {
    if nonce.is_empty() { Value::Null } else { hex(nonce).into() }
}

pub(crate) fn reserve(request: &api::ReserveRequest) -> Value {
    let (mut digest, mut whole) = (Value::Null, Value::Null);
    match request.fingerprint.as_ref().and_then(|fingerprint| fingerprint.kind.as_ref()) {
        Some(api::fingerprint::Kind::Digest(bytes)) => digest = hex(bytes).into(),
        Some(api::fingerprint::Kind::Request(request)) => {
            whole = json!({
                "method": request.method,
                "path": request.path,
                "headers": headers(&request.headers),
                "body_base64": STANDARD.encode(&request.body),
            });
        }
        None => {}
    }
    let unless_empty = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    without_nulls(json!({
        "tenant": request.tenant,
        "key": request.key,
        "endpoint": unless_empty(&request.endpoint),
        "fingerprint": digest,
        "request": whole,
        "nonce": nonce(&request.nonce),
        "client_version": unless_empty(&request.client_version),
        "lease_ms": request.lease_ms,
        "wait_ms": request.wait_ms,
        "seen": request.seen,
    }))
}

pub(crate) fn complete(request: &api::CompleteRequest) -> Value {
    without_nulls(json!({
        "tenant": request.tenant,
        "key": request.key,
        "token": request.token,
        "envelope": request.envelope.as_ref().map(envelope),
        "retention_ms": request.retention_ms,
    }))
}

pub(crate) fn release(request: &api::ReleaseRequest) -> Value {
    json!({"tenant": request.tenant, "key": request.key, "token": request.token})
}

pub(crate) fn extend(request: &api::ExtendRequest) -> Value {
    json!({"tenant": request.tenant, "key": request.key, "token": request.token, "lease_ms": request.lease_ms})
}

pub(crate) fn checkpoint(request: &api::CheckpointRequest) -> Value {
    let checkpoint = request.checkpoint.clone().unwrap_or_default();
    let checkpoint = json!({"name": checkpoint.name, "data_base64": STANDARD.encode(&checkpoint.data)});
    json!({"tenant": request.tenant, "key": request.key, "token": request.token, "checkpoint": checkpoint})
}

pub(crate) fn claim(request: &api::ClaimRequest) -> Value {
    without_nulls(json!({
        "tenant": request.tenant,
        "key": request.key,
        "worker": request.worker,
        "nonce": nonce(&request.nonce),
        "lease_ms": request.lease_ms,
    }))
}

pub(crate) fn resolve(request: &api::ResolveRequest) -> Value {
    let fencing = request.fencing.unwrap_or_default();
    let (verdict, executed) = match &request.verdict {
        Some(api::resolve_request::Verdict::Executed(executed)) => ("executed", Some(envelope(executed))),
        Some(api::resolve_request::Verdict::NotExecuted(_)) => ("not_executed", None),
        None => ("", None),
    };
    without_nulls(json!({
        "tenant": request.tenant,
        "key": request.key,
        "fencing": {"epoch": fencing.epoch, "sequence": fencing.sequence},
        "verdict": verdict,
        "envelope": executed,
        "actor": request.actor,
        "reason": request.reason,
    }))
}

fn field<'a>(json: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    json.get(name).with_context(|| format!("no {name} in {json}"))
}

fn text(json: &Value, name: &str) -> anyhow::Result<String> {
    Ok(field(json, name)?.as_str().with_context(|| format!("{name} is no text in {json}"))?.to_owned())
}

fn number<T: TryFrom<u64>>(json: &Value, name: &str) -> anyhow::Result<T> {
    let number = field(json, name)?.as_u64().and_then(|number| T::try_from(number).ok());
    number.with_context(|| format!("{name} is no such number in {json}"))
}

fn flag(json: &Value, name: &str) -> anyhow::Result<bool> {
    field(json, name)?.as_bool().with_context(|| format!("{name} is no boolean in {json}"))
}

fn bytes(json: &Value, name: &str) -> anyhow::Result<bytes::Bytes> {
    Ok(STANDARD.decode(text(json, name)?)?.into())
}

fn outcome(json: &Value) -> anyhow::Result<String> {
    text(json, "outcome")
}

fn fencing(json: &Value) -> anyhow::Result<api::FencingToken> {
    let fencing = field(json, "fencing")?;
    Ok(api::FencingToken { epoch: number(fencing, "epoch")?, sequence: number(fencing, "sequence")? })
}

fn read_checkpoint(json: &Value) -> anyhow::Result<Option<api::CheckpointData>> {
    let Some(checkpoint) = json.get("checkpoint") else { return Ok(None) };
    Ok(Some(api::CheckpointData { name: text(checkpoint, "name")?, data: bytes(checkpoint, "data_base64")? }))
}

pub(crate) fn read_envelope(json: &Value) -> anyhow::Result<api::Envelope> {
    let mut headers = Vec::new();
    for pair in field(json, "headers")?.as_array().context("headers are no list")? {
        let (name, value): (String, String) = serde_json::from_value(pair.clone())?;
        let value = value.chars().map(|c| u8::try_from(c).context("a header's character is no byte"));
        headers.push(api::Header { name, value: value.collect::<anyhow::Result<Vec<u8>>>()?.into() });
    }
    Ok(api::Envelope { status: number(json, "status")?, headers, body: bytes(json, "body_base64")? })
}

fn granted(json: &Value) -> anyhow::Result<api::Granted> {
    Ok(api::Granted {
        token: text(json, "token")?,
        fencing: Some(fencing(json)?),
        start_within_ms: number(json, "start_within_ms")?,
        lease_ms: number(json, "lease_ms")?,
        attempt: number(json, "attempt")?,
        checkpoint: read_checkpoint(json)?,
        possible_duplicate: flag(json, "possible_duplicate")?,
        repeated: flag(json, "repeated")?,
    })
}

fn state(json: &Value) -> anyhow::Result<i32> {
    let name = format!("KEY_STATE_{}", text(json, "state")?.to_ascii_uppercase());
    let state = api::KeyState::from_str_name(&name).with_context(|| format!("no state {name}"))?;
    Ok(state.into())
}

fn stale(json: &Value) -> anyhow::Result<api::StaleToken> {
    Ok(api::StaleToken { state: state(json)? })
}

/// An answer of Reserve. The epoch stands in a header over HTTP, and is not read here.
pub(crate) fn reserved(json: &Value) -> anyhow::Result<api::ReserveResponse> {
    use api::reserve_response::Outcome;
    let retry_after_ms = || number(json, "retry_after_ms");
    let outcome = match outcome(json)?.as_str() {
        "granted" => Outcome::Granted(granted(json)?),
        "replay" => Outcome::Replay(api::Replay {
            envelope: Some(read_envelope(field(json, "envelope")?)?),
            completed_at_unix_ms: number(json, "completed_at_unix_ms")?,
            expires_at_unix_ms: number(json, "expires_at_unix_ms")?,
            fencing: Some(fencing(json)?),
        }),
        "mismatch" => Outcome::Mismatch(api::Mismatch {}),
        "in_progress" => Outcome::InProgress(api::InProgress { retry_after_ms: retry_after_ms()? }),
        "outcome_unknown" => Outcome::OutcomeUnknown(api::OutcomeUnknown {
            attempt: number(json, "attempt")?,
            checkpoint: read_checkpoint(json)?,
        }),
        "in_doubt" => Outcome::InDoubt(api::InDoubt { retry_after_ms: retry_after_ms()? }),
        "superseded" => Outcome::Superseded(api::Superseded { epoch: number(json, "epoch")? }),
        "expired" => Outcome::Expired(api::Expired {}),
        "limited" => Outcome::Limited(api::Limited { limit: text(json, "limit")?, retry_after_ms: retry_after_ms()? }),
        other => bail!("no outcome of reserve: {other}"),
    };
    Ok(api::ReserveResponse { outcome: Some(outcome), epoch: None })
}

pub(crate) fn completed(json: &Value) -> anyhow::Result<api::CompleteResponse> {
    use api::complete_response::Outcome;
    let name = format!("RECORDED_{}", text(json, "recorded")?.to_ascii_uppercase());
    let recorded = api::Recorded::from_str_name(&name).with_context(|| format!("no {name}"))?.into();
    match outcome(json)?.as_str() {
        "completed" => {
            let completed = api::Completed { recorded, expires_at_unix_ms: number(json, "expires_at_unix_ms")? };
            Ok(api::CompleteResponse { outcome: Some(Outcome::Completed(completed)), epoch: None })
        }
        other => bail!("no outcome of complete: {other}"),
    }
}

pub(crate) fn released(json: &Value) -> anyhow::Result<api::ReleaseResponse> {
    use api::release_response::Outcome;
    let outcome = match outcome(json)?.as_str() {
        "released" => Outcome::Released(api::Released {}),
        "stale_token" => Outcome::StaleToken(stale(json)?),
        other => bail!("no outcome of release: {other}"),
    };
    Ok(api::ReleaseResponse { outcome: Some(outcome), epoch: None })
}

pub(crate) fn extended(json: &Value) -> anyhow::Result<api::ExtendResponse> {
    use api::extend_response::Outcome;
    let outcome = match outcome(json)?.as_str() {
        "extended" => Outcome::Extended(api::Extended { lease_ms: number(json, "lease_ms")? }),
        "stale_token" => Outcome::StaleToken(stale(json)?),
        other => bail!("no outcome of extend: {other}"),
    };
    Ok(api::ExtendResponse { outcome: Some(outcome), epoch: None })
}

pub(crate) fn checkpointed(json: &Value) -> anyhow::Result<api::CheckpointResponse> {
    use api::checkpoint_response::Outcome;
    let outcome = match outcome(json)?.as_str() {
        "checkpointed" => Outcome::Checkpointed(api::Checkpointed {}),
        "stale_token" => Outcome::StaleToken(stale(json)?),
        other => bail!("no outcome of checkpoint: {other}"),
    };
    Ok(api::CheckpointResponse { outcome: Some(outcome), epoch: None })
}

pub(crate) fn claimed(json: &Value) -> anyhow::Result<api::ClaimResponse> {
    use api::claim_response::Outcome;
    let outcome = match outcome(json)?.as_str() {
        "claimed" => Outcome::Claimed(api::Claimed {
            grant: Some(granted(json)?),
            endpoint: text(json, "endpoint")?,
            fingerprint_version: number(json, "fingerprint_version")?,
            fingerprint: unhex(&text(json, "fingerprint")?)?.into(),
        }),
        "not_claimable" => Outcome::NotClaimable(api::NotClaimable { state: state(json)? }),
        "limited" => Outcome::Limited(api::Limited { limit: text(json, "limit")?, retry_after_ms: 0 }),
        other => bail!("no outcome of claim: {other}"),
    };
    Ok(api::ClaimResponse { outcome: Some(outcome), epoch: None })
}

pub(crate) fn resolved(json: &Value) -> anyhow::Result<api::ResolveResponse> {
    use api::resolve_response::Outcome;
    let outcome = match outcome(json)?.as_str() {
        "resolved" => Outcome::Resolved(api::Resolved { state: state(json)? }),
        "stale_token" => Outcome::StaleToken(stale(json)?),
        other => bail!("no outcome of resolve: {other}"),
    };
    Ok(api::ResolveResponse { outcome: Some(outcome), epoch: None })
}
