//! Short sentences for the tests of one key's life: each asks once, and expects an outcome or says what came instead.

use std::time::Duration;

use anyhow::{bail, ensure};
use holdfast_client::proto::v1 as api;
use holdfast_client::proto::v1::reserve_response::Outcome;

use crate::client::Client;
use crate::failure::Failure;
use crate::harness;
use crate::history::Request;
use crate::payload;

/// The tenant of these tests.
pub(crate) const TENANT: &str = "acme";
/// A lease that no test outlives.
pub(crate) const LONG_MS: u32 = 60_000;
/// How long a lapse or a sweep may take to be noticed.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// One Reserve, with what most of them have in common.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    key: String,
    nonce: u64,
    request: u32,
    lease_ms: u32,
    wait_ms: Option<u32>,
    endpoint: String,
    client_version: String,
}

impl Ask {
    /// For a key, as its attempt number `nonce`.
    pub(crate) fn new(key: &str, nonce: u64) -> Self {
        let endpoint = payload::ENDPOINT.to_owned();
        let client_version = "it/1".to_owned();
        Self { key: key.to_owned(), nonce, request: 0, lease_ms: LONG_MS, wait_ms: None, endpoint, client_version }
    }

    pub(crate) fn lease_ms(self, lease_ms: u32) -> Self {
        Self { lease_ms, ..self }
    }

    pub(crate) fn wait_ms(self, wait_ms: u32) -> Self {
        Self { wait_ms: Some(wait_ms), ..self }
    }

    /// The same key for another request.
    pub(crate) fn another_request(self) -> Self {
        Self { request: 1, ..self }
    }

    pub(crate) fn endpoint(self, endpoint: &str) -> Self {
        Self { endpoint: endpoint.to_owned(), ..self }
    }

    pub(crate) fn client_version(self, version: &str) -> Self {
        Self { client_version: version.to_owned(), ..self }
    }

    pub(crate) fn message(&self) -> api::ReserveRequest {
        api::ReserveRequest {
            tenant: TENANT.to_owned(),
            key: self.key.clone(),
            endpoint: self.endpoint.clone(),
            fingerprint: Some(payload::fingerprint(Request(self.request))),
            nonce: self.nonce.to_be_bytes().to_vec().into(),
            client_version: self.client_version.clone(),
            lease_ms: Some(self.lease_ms),
            wait_ms: self.wait_ms,
            seen: None,
        }
    }

    /// Whatever comes.
    pub(crate) async fn of(&self, client: &Client) -> Result<Outcome, Failure> {
        let answer = client.reserve(self.message()).await?;
        answer.outcome.ok_or_else(|| Failure::unreadable(&anyhow::anyhow!("no outcome")))
    }

    /// An outcome, not a failure.
    pub(crate) async fn outcome(&self, client: &Client) -> anyhow::Result<Outcome> {
        match self.of(client).await {
            Ok(outcome) => Ok(outcome),
            Err(failure) => bail!("{} over {}: {failure:?}", self.key, client.name()),
        }
    }

    pub(crate) async fn granted(&self, client: &Client) -> anyhow::Result<api::Granted> {
        match self.outcome(client).await? {
            Outcome::Granted(grant) => Ok(grant),
            other => bail!("{} is not granted: {other:?}", self.key),
        }
    }

    pub(crate) async fn replayed(&self, client: &Client) -> anyhow::Result<api::Envelope> {
        match self.outcome(client).await? {
            Outcome::Replay(replay) => Ok(replay.envelope.unwrap_or_default()),
            other => bail!("{} is not replayed: {other:?}", self.key),
        }
    }

    pub(crate) async fn refused(&self, client: &Client) -> anyhow::Result<Failure> {
        match self.of(client).await {
            Err(failure) => Ok(failure),
            Ok(outcome) => bail!("{} is not refused: {outcome:?}", self.key),
        }
    }

    /// Asks again and again until the outcome is one that `is` takes.
    pub(crate) async fn until<T>(
        &self,
        client: &Client,
        what: &str,
        is: impl Fn(Outcome) -> Option<T>,
    ) -> anyhow::Result<T> {
        let what = format!("{} is {what}", self.key);
        harness::until(&what, SOON, async || Ok(is(self.outcome(client).await?))).await
    }
}

/// The fencing token of a grant, comparable.
pub(crate) fn fencing(grant: &api::Granted) -> (u64, u64) {
    let fencing = grant.fencing.unwrap_or_default();
    (fencing.epoch, fencing.sequence)
}

pub(crate) async fn complete(
    client: &Client,
    key: &str,
    grant: &api::Granted,
    envelope: &api::Envelope,
) -> anyhow::Result<api::Recorded> {
    Ok(completed(client, key, grant, envelope).await?.recorded())
}

/// Completes a key, and says until when its answer is kept.
pub(crate) async fn complete_at(
    client: &Client,
    key: &str,
    grant: &api::Granted,
    envelope: &api::Envelope,
) -> anyhow::Result<u64> {
    Ok(completed(client, key, grant, envelope).await?.expires_at_unix_ms)
}

async fn completed(
    client: &Client,
    key: &str,
    grant: &api::Granted,
    envelope: &api::Envelope,
) -> anyhow::Result<api::Completed> {
    let request = api::CompleteRequest {
        tenant: TENANT.to_owned(),
        key: key.to_owned(),
        token: grant.token.clone(),
        envelope: Some(envelope.clone()),
        retention_ms: None,
    };
    match client.complete(request).await {
        Ok(api::CompleteResponse { outcome: Some(api::complete_response::Outcome::Completed(completed)), .. }) => {
            Ok(completed)
        }
        other => bail!("{key} is not completed: {other:?}"),
    }
}

/// Done, or the state of the key for a stale token.
pub(crate) type Named = Result<Result<(), api::KeyState>, Failure>;

pub(crate) async fn release(client: &Client, key: &str, token: &str) -> Named {
    use api::release_response::Outcome;
    let request = api::ReleaseRequest { tenant: TENANT.to_owned(), key: key.to_owned(), token: token.to_owned() };
    match client.release(request).await?.outcome {
        Some(Outcome::Released(_)) => Ok(Ok(())),
        Some(Outcome::StaleToken(stale)) => Ok(Err(stale.state())),
        None => Ok(Err(api::KeyState::Unspecified)),
    }
}

pub(crate) async fn extend(client: &Client, key: &str, token: &str, lease_ms: u32) -> Named {
    use api::extend_response::Outcome;
    let (tenant, key, token) = (TENANT.to_owned(), key.to_owned(), token.to_owned());
    match client.extend(api::ExtendRequest { tenant, key, token, lease_ms }).await?.outcome {
        Some(Outcome::Extended(_)) => Ok(Ok(())),
        Some(Outcome::StaleToken(stale)) => Ok(Err(stale.state())),
        None => Ok(Err(api::KeyState::Unspecified)),
    }
}

/// The recovery point that these tests store.
pub(crate) fn step() -> api::CheckpointData {
    api::CheckpointData { name: "card-charged".to_owned(), data: payload::body(3, 300) }
}

pub(crate) async fn checkpoint(client: &Client, key: &str, token: &str) -> Named {
    use api::checkpoint_response::Outcome;
    let (tenant, key, token) = (TENANT.to_owned(), key.to_owned(), token.to_owned());
    match client.checkpoint(api::CheckpointRequest { tenant, key, token, checkpoint: Some(step()) }).await?.outcome {
        Some(Outcome::Checkpointed(_)) => Ok(Ok(())),
        Some(Outcome::StaleToken(stale)) => Ok(Err(stale.state())),
        None => Ok(Err(api::KeyState::Unspecified)),
    }
}

pub(crate) async fn claim(client: &Client, key: &str, nonce: u64) -> anyhow::Result<api::claim_response::Outcome> {
    let request = api::ClaimRequest {
        tenant: TENANT.to_owned(),
        key: key.to_owned(),
        worker: "recovery-1".to_owned(),
        nonce: nonce.to_be_bytes().to_vec().into(),
        lease_ms: Some(LONG_MS),
    };
    match client.claim(request).await {
        Ok(api::ClaimResponse { outcome: Some(outcome), .. }) => Ok(outcome),
        other => bail!("{key}: {other:?}"),
    }
}

/// An operator's verdict: an envelope for what ran, nothing for what did not. The key's state, or that of a stale token.
pub(crate) async fn resolve(
    client: &Client,
    key: &str,
    fencing: Option<api::FencingToken>,
    executed: Option<api::Envelope>,
) -> anyhow::Result<Result<api::KeyState, api::KeyState>> {
    use api::resolve_request::Verdict;
    use api::resolve_response::Outcome;
    let request = api::ResolveRequest {
        tenant: TENANT.to_owned(),
        key: key.to_owned(),
        fencing,
        verdict: Some(executed.map_or(Verdict::NotExecuted(api::NotExecuted {}), Verdict::Executed)),
        actor: "ada@example.com".to_owned(),
        reason: "the bank's statement of that day".to_owned(),
    };
    match client.resolve(request).await {
        Ok(api::ResolveResponse { outcome: Some(Outcome::Resolved(resolved)), .. }) => Ok(Ok(resolved.state())),
        Ok(api::ResolveResponse { outcome: Some(Outcome::StaleToken(stale)), .. }) => Ok(Err(stale.state())),
        other => bail!("{key}: {other:?}"),
    }
}

/// What both APIs replay, once it is certain that it is the same.
pub(crate) async fn replayed_by_both(clients: &[Client; 2], ask: &Ask) -> anyhow::Result<api::Envelope> {
    let [first, second] = clients;
    let (first, second) = (ask.replayed(first).await?, ask.replayed(second).await?);
    ensure!(first == second, "gRPC and HTTP replay {} differently", ask.key);
    Ok(first)
}
