//! What a node acknowledged, in the order it did, and how a node that started again answers for it.

use std::net::SocketAddr;

use anyhow::bail;
use futures_util::StreamExt as _;
use holdfast_client::proto::v1 as api;

use crate::client::Client;
use crate::failure::Failure;
use crate::history::{Envelope, Request};
use crate::payload;

const TENANT: &str = "kept";
/// Calls at a time.
const AT_ONCE: usize = 32;
/// A lease that outlives every test.
const LEASE_MS: u32 = 3_600_000;

/// One key and what was acknowledged of it.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) key: String,
    number: u64,
    pub(crate) grant: api::Granted,
    /// The digest of the envelope, once the completion was acknowledged.
    pub(crate) completed: Option<Envelope>,
}

impl Kept {
    /// Which key it is.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

/// How a node answers for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// As it was acknowledged.
    Right,
    /// The node does not serve it, and says why.
    Unserved(Failure),
    /// The node knows nothing of the key: it granted it anew.
    Forgotten,
    /// The key is held, and its acknowledged completion is not there.
    Unfinished,
    /// Anything else, such as other bytes.
    Wrong(String),
}

fn key(number: u64) -> String {
    format!("kept-{number:06}")
}

fn reserve(number: u64, nonce: u64) -> api::ReserveRequest {
    api::ReserveRequest {
        tenant: TENANT.to_owned(),
        key: key(number),
        endpoint: payload::ENDPOINT.to_owned(),
        fingerprint: Some(payload::fingerprint(Request(0))),
        nonce: nonce.to_be_bytes().to_vec().into(),
        client_version: String::new(),
        lease_ms: Some(LEASE_MS),
        wait_ms: None,
        seen: None,
    }
}

/// Reserves a key. The failure, if it was refused.
pub(crate) async fn grant(client: &Client, number: u64) -> anyhow::Result<Result<Kept, Failure>> {
    match client.reserve(reserve(number, number)).await {
        Ok(api::ReserveResponse { outcome: Some(api::reserve_response::Outcome::Granted(grant)), .. }) => {
            Ok(Ok(Kept { key: key(number), number, grant, completed: None }))
        }
        Ok(other) => bail!("{} is not granted: {other:?}", key(number)),
        Err(failure) => Ok(Err(failure)),
    }
}

/// Completes a granted key with a body of that many bytes. The failure, if it was refused; the key then stays as it was.
pub(crate) async fn complete(client: &Client, kept: &mut Kept, bytes: usize) -> anyhow::Result<Result<(), Failure>> {
    let envelope = payload::envelope(kept.number, bytes);
    let digest = payload::digest(&envelope);
    let request = api::CompleteRequest {
        tenant: TENANT.to_owned(),
        key: kept.key.clone(),
        token: kept.grant.token.clone(),
        envelope: Some(envelope),
        retention_ms: None,
    };
    match client.complete(request).await {
        Ok(_) => {
            kept.completed = Some(digest);
            Ok(Ok(()))
        }
        Err(failure) => Ok(Err(failure)),
    }
}

/// Grants and completes keys, with bodies from `sizes` in turn; in the order of their acknowledgement.
pub(crate) async fn fill(client: &Client, numbers: std::ops::Range<u64>, sizes: &[usize]) -> anyhow::Result<Vec<Kept>> {
    let calls = numbers.map(|number| async move {
        let mut kept = grant(client, number).await?.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
        let size = usize::try_from(number)? % sizes.len().max(1);
        let bytes = sizes.get(size).copied().unwrap_or_default();
        complete(client, &mut kept, bytes).await?.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
        anyhow::Ok(kept)
    });
    let kept: Vec<anyhow::Result<Kept>> = futures_util::stream::iter(calls).buffer_unordered(AT_ONCE).collect().await;
    kept.into_iter().collect()
}

/// Grants keys and leaves them held.
pub(crate) async fn hold(client: &Client, numbers: std::ops::Range<u64>) -> anyhow::Result<Vec<Kept>> {
    let mut kept = Vec::new();
    for number in numbers {
        kept.push(grant(client, number).await?.map_err(|failure| anyhow::anyhow!("{failure:?}"))?);
    }
    Ok(kept)
}

/// Asks a node for every key, over gRPC.
pub(crate) async fn ask(address: SocketAddr, kept: &[Kept]) -> anyhow::Result<Vec<Finding>> {
    let client = &Client::grpc(address)?;
    let calls = kept.iter().map(|kept| find(client, kept));
    Ok(futures_util::stream::iter(calls).buffered(AT_ONCE).collect().await)
}

async fn find(client: &Client, kept: &Kept) -> Finding {
    use api::reserve_response::Outcome;
    // A completed key is asked for as a retry does, a held one as the same attempt does.
    let nonce = if kept.completed.is_some() { kept.number + 1_000_000 } else { kept.number };
    let outcome = match client.reserve(reserve(kept.number, nonce)).await {
        Ok(answer) => answer.outcome,
        Err(failure) => return Finding::Unserved(failure),
    };
    let right = match (&outcome, kept.completed) {
        (Some(Outcome::Replay(replay)), Some(digest)) => {
            replay.envelope.as_ref().is_some_and(|envelope| payload::digest(envelope) == digest)
        }
        (Some(Outcome::Granted(grant)), None) => grant.fencing == kept.grant.fencing && grant.repeated,
        _ => false,
    };
    if right {
        return Finding::Right;
    }
    match outcome {
        Some(Outcome::Granted(grant)) if !grant.repeated => Finding::Forgotten,
        Some(Outcome::InProgress(_)) if kept.completed.is_some() => Finding::Unfinished,
        // The body is left out: it is random.
        Some(Outcome::Replay(_)) => Finding::Wrong(format!("{}: another replay", kept.key)),
        other => Finding::Wrong(format!("{}: {other:?}", kept.key)),
    }
}

/// Checks that a node answers for every key as it was acknowledged.
///
/// # Errors
/// With the first key that it does not.
pub(crate) async fn all_there(address: SocketAddr, kept: &[Kept]) -> anyhow::Result<()> {
    let findings = ask(address, kept).await?;
    let wrong: Vec<_> = kept.iter().zip(&findings).filter(|(_, finding)| **finding != Finding::Right).collect();
    match wrong.first() {
        None => Ok(()),
        Some((first, finding)) => bail!(
            "{} of {} acknowledged keys are not there, the first: {} is {finding:?}",
            wrong.len(),
            kept.len(),
            first.key
        ),
    }
}
