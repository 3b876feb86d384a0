//! The calls that a router takes: how each is served here, how it is passed on to another node, and how that node's answer
//! is read.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use holdfast_client::proto::v1;
use holdfast_client::proto::v1::session_answer::Answer;
use holdfast_client::proto::v1::session_call::Call as Message;

use super::measured;
use super::messages::{
    checkpoint, checkpoint_from, envelope, fencing, fingerprint_from, found_from, granted_from, key_state_from,
    limit_from, place_from, replay_from,
};
use crate::clock::{self, Monotonic};
use crate::ids::{EndpointName, Epoch, PartitionId, RecordKey, TenantId};
use crate::region::Region;
use crate::region::calls::{
    CheckpointCall, ClaimCall, ClaimOutcome, CompleteCall, Completed, Envelope, ExtendCall, Failure, Found,
    GrantOutcome, LookupCall, Placed, ReleaseCall, ReserveCall, ReserveOutcome, ResolveCall, ResolveOutcome, Verdict,
};
use crate::reservation::reply::Recorded;
use crate::telemetry::metrics::{self, Method};
use crate::time::LogTime;
use crate::wire::v1::{ForwardAnswer, ForwardCall};

/// What a message's frame takes beside its body, roughly, in bytes.
const FRAME_BYTES: usize = 1024;

/// A call on one key, or on one partition.
pub trait Call: Send + Sync {
    /// What it comes to.
    type Answer: Send;
    /// Done twice it is as if it were done once, whatever comes between: sent and not answered, it is sent again.
    const REPEATABLE: bool;
    /// What it is counted as. Nothing: an operator's call, which is not counted.
    const METHOD: Option<Method> = None;

    /// What an answer is counted as.
    fn came_to(_answer: &Self::Answer) -> metrics::Outcome {
        metrics::Outcome::Done
    }

    /// Itself, if it asks to execute: those are counted by whose they are.
    fn reserve(&self) -> Option<&ReserveCall> {
        None
    }

    /// Whose key it is on, if it is on one.
    fn tenant(&self) -> Option<&TenantId> {
        None
    }

    /// Whose leader serves it.
    fn partition(&self, region: &Region) -> PartitionId;

    /// Serves it in this node's part of the region.
    fn here(&self, region: &Region, until: Monotonic) -> impl Future<Output = Result<Self::Answer, Failure>> + Send;

    /// The call as it is passed on, without its number and its patience.
    fn forward(&self) -> ForwardCall;

    /// Reads the answer. Nothing if it is none to this call.
    fn read(&self, answer: ForwardAnswer) -> Option<Self::Answer>;

    /// Counts what the answer counts from when it was `sent` on from when it was received here: whoever asked has waited that
    /// long already.
    fn count_from_receipt(&self, _answer: &mut Self::Answer, _sent: Monotonic) {}

    /// Bytes of the message, roughly.
    fn bytes(&self) -> usize {
        FRAME_BYTES
    }
}

fn message(call: Message) -> ForwardCall {
    let call = v1::SessionCall { call: Some(call), ..v1::SessionCall::default() };
    ForwardCall { call: Some(call), ..ForwardCall::default() }
}

fn names(key: &RecordKey) -> (String, String) {
    (key.tenant.as_str().to_owned(), key.key.as_str().to_owned())
}

fn envelope_bytes(envelope: &Envelope) -> usize {
    let headers = envelope.headers.iter().map(|(name, value)| name.len().saturating_add(value.len()));
    headers.fold(envelope.body.len().saturating_add(FRAME_BYTES), usize::saturating_add)
}

fn session(answer: ForwardAnswer) -> Option<Answer> {
    answer.answer?.answer
}

fn placed<T>(outcome: Option<T>, epoch: Option<v1::Epoch>) -> Option<Placed<T>> {
    Some(Placed { outcome: outcome?, place: place_from(epoch?)? })
}

fn after(retry_after_ms: u32) -> Duration {
    Duration::from_millis(u64::from(retry_after_ms))
}

fn done_or_stale(stale: Option<v1::StaleToken>) -> Option<GrantOutcome> {
    match stale {
        None => Some(GrantOutcome::Done),
        Some(stale) => key_state_from(stale.state).map(GrantOutcome::StaleToken),
    }
}

impl Call for ReserveCall {
    type Answer = Placed<ReserveOutcome>;
    const REPEATABLE: bool = false;
    const METHOD: Option<Method> = Some(Method::Reserve);

    fn came_to(answer: &Self::Answer) -> metrics::Outcome {
        measured::reserved(&answer.outcome)
    }

    fn reserve(&self) -> Option<&ReserveCall> {
        Some(self)
    }

    fn tenant(&self) -> Option<&TenantId> {
        Some(&self.key.tenant)
    }

    fn partition(&self, region: &Region) -> PartitionId {
        region.partition_of(&self.key)
    }

    async fn here(&self, region: &Region, until: Monotonic) -> Result<Placed<ReserveOutcome>, Failure> {
        region.reserve(self, until).await
    }

    fn forward(&self) -> ForwardCall {
        let (tenant, key) = names(&self.key);
        let waited = clock::monotonic().since(self.received);
        let wait_ms = u32::try_from(self.wait.saturating_sub(waited).as_millis()).unwrap_or(u32::MAX);
        let digest = Bytes::copy_from_slice(&self.fingerprint.digest);
        let request = v1::ReserveRequest {
            tenant,
            key,
            endpoint: self.endpoint.as_str().to_owned(),
            fingerprint: Some(v1::Fingerprint { kind: Some(v1::fingerprint::Kind::Digest(digest)) }),
            nonce: self.nonce.as_ref().map_or_else(Bytes::new, |nonce| Bytes::copy_from_slice(nonce.as_bytes())),
            client_version: self.client_version.clone(),
            lease_ms: self.lease_ms,
            wait_ms: Some(wait_ms),
            seen: self.seen,
        };
        ForwardCall {
            fingerprint_version: self.fingerprint.version,
            fingerprint_selection: self.fingerprint.selection,
            ..message(Message::Reserve(request))
        }
    }

    fn count_from_receipt(&self, answer: &mut Placed<ReserveOutcome>, sent: Monotonic) {
        if let ReserveOutcome::Granted(granted) = &mut answer.outcome {
            granted.after(sent.since(self.received));
        }
    }

    fn read(&self, answer: ForwardAnswer) -> Option<Placed<ReserveOutcome>> {
        use v1::reserve_response::Outcome;
        let Some(Answer::Reserve(response)) = session(answer) else { return None };
        let outcome = match response.outcome? {
            Outcome::Granted(grant) => {
                let granted = granted_from(grant, self.endpoint.clone(), self.fingerprint.clone())?;
                ReserveOutcome::Granted(Box::new(granted))
            }
            Outcome::Replay(replay) => ReserveOutcome::Replay(Box::new(replay_from(replay)?)),
            Outcome::Mismatch(v1::Mismatch {}) => ReserveOutcome::Mismatch,
            Outcome::InProgress(held) => ReserveOutcome::InProgress { retry_after: after(held.retry_after_ms) },
            Outcome::OutcomeUnknown(unknown) => ReserveOutcome::OutcomeUnknown {
                attempt: unknown.attempt,
                checkpoint: unknown.checkpoint.map(checkpoint_from),
            },
            Outcome::InDoubt(doubt) => ReserveOutcome::InDoubt { retry_after: after(doubt.retry_after_ms) },
            Outcome::Superseded(superseded) => ReserveOutcome::Superseded { epoch: Epoch(superseded.epoch) },
            Outcome::Expired(v1::Expired {}) => ReserveOutcome::Expired,
            Outcome::Limited(limited) => ReserveOutcome::Limited {
                limit: limit_from(&limited.limit)?,
                retry_after: after(limited.retry_after_ms),
            },
        };
        placed(Some(outcome), response.epoch)
    }
}

impl Call for CompleteCall {
    type Answer = Placed<Completed>;
    const REPEATABLE: bool = false;
    const METHOD: Option<Method> = Some(Method::Complete);

    fn came_to(answer: &Self::Answer) -> metrics::Outcome {
        measured::completed(&answer.outcome)
    }

    fn tenant(&self) -> Option<&TenantId> {
        Some(&self.key.tenant)
    }

    fn partition(&self, region: &Region) -> PartitionId {
        region.partition_of(&self.key)
    }

    async fn here(&self, region: &Region, until: Monotonic) -> Result<Placed<Completed>, Failure> {
        region.complete(self, until).await
    }

    fn forward(&self) -> ForwardCall {
        let (tenant, key) = names(&self.key);
        message(Message::Complete(v1::CompleteRequest {
            tenant,
            key,
            token: self.token.clone(),
            envelope: Some(envelope(self.envelope.clone())),
            retention_ms: self.retention_ms,
        }))
    }

    fn read(&self, answer: ForwardAnswer) -> Option<Placed<Completed>> {
        let Some(Answer::Complete(response)) = session(answer) else { return None };
        let v1::complete_response::Outcome::Completed(completed) = response.outcome?;
        let recorded = match v1::Recorded::try_from(completed.recorded).ok()? {
            v1::Recorded::Unspecified => return None,
            v1::Recorded::Answer => Recorded::Answer,
            v1::Recorded::Repeated => Recorded::Repeated,
            v1::Recorded::Late => Recorded::Late,
        };
        let expires_at = LogTime::from_unix_ms(completed.expires_at_unix_ms);
        placed(Some(Completed { recorded, expires_at }), response.epoch)
    }

    fn bytes(&self) -> usize {
        envelope_bytes(&self.envelope)
    }
}

impl Call for ReleaseCall {
    type Answer = Placed<GrantOutcome>;
    const REPEATABLE: bool = false;
    const METHOD: Option<Method> = Some(Method::Release);

    fn came_to(answer: &Self::Answer) -> metrics::Outcome {
        measured::on_grant(&answer.outcome)
    }

    fn tenant(&self) -> Option<&TenantId> {
        Some(&self.0.key.tenant)
    }

    fn partition(&self, region: &Region) -> PartitionId {
        region.partition_of(&self.0.key)
    }

    async fn here(&self, region: &Region, until: Monotonic) -> Result<Placed<GrantOutcome>, Failure> {
        region.release(self, until).await
    }

    fn forward(&self) -> ForwardCall {
        let (tenant, key) = names(&self.0.key);
        message(Message::Release(v1::ReleaseRequest { tenant, key, token: self.0.token.clone() }))
    }

    fn read(&self, answer: ForwardAnswer) -> Option<Placed<GrantOutcome>> {
        use v1::release_response::Outcome;
        let Some(Answer::Release(response)) = session(answer) else { return None };
        let stale = match response.outcome? {
            Outcome::Released(v1::Released {}) => None,
            Outcome::StaleToken(stale) => Some(stale),
        };
        placed(done_or_stale(stale), response.epoch)
    }
}

impl Call for ExtendCall {
    type Answer = Placed<GrantOutcome>;
    const REPEATABLE: bool = false;
    const METHOD: Option<Method> = Some(Method::Extend);

    fn came_to(answer: &Self::Answer) -> metrics::Outcome {
        measured::on_grant(&answer.outcome)
    }

    fn tenant(&self) -> Option<&TenantId> {
        Some(&self.grant.key.tenant)
    }

    fn partition(&self, region: &Region) -> PartitionId {
        region.partition_of(&self.grant.key)
    }

    async fn here(&self, region: &Region, until: Monotonic) -> Result<Placed<GrantOutcome>, Failure> {
        region.extend(self, until).await
    }

    fn forward(&self) -> ForwardCall {
        let (tenant, key) = names(&self.grant.key);
        let (token, lease_ms) = (self.grant.token.clone(), self.lease_ms);
        message(Message::Extend(v1::ExtendRequest { tenant, key, token, lease_ms }))
    }

    fn read(&self, answer: ForwardAnswer) -> Option<Placed<GrantOutcome>> {
        use v1::extend_response::Outcome;
        let Some(Answer::Extend(response)) = session(answer) else { return None };
        let stale = match response.outcome? {
            Outcome::Extended(v1::Extended { lease_ms: _ }) => None,
            Outcome::StaleToken(stale) => Some(stale),
        };
        placed(done_or_stale(stale), response.epoch)
    }
}

impl Call for CheckpointCall {
    type Answer = Placed<GrantOutcome>;
    const REPEATABLE: bool = false;
    const METHOD: Option<Method> = Some(Method::Checkpoint);

    fn came_to(answer: &Self::Answer) -> metrics::Outcome {
        measured::on_grant(&answer.outcome)
    }

    fn tenant(&self) -> Option<&TenantId> {
        Some(&self.grant.key.tenant)
    }

    fn partition(&self, region: &Region) -> PartitionId {
        region.partition_of(&self.grant.key)
    }

    async fn here(&self, region: &Region, until: Monotonic) -> Result<Placed<GrantOutcome>, Failure> {
        region.checkpoint(self, until).await
    }

    fn forward(&self) -> ForwardCall {
        let (tenant, key) = names(&self.grant.key);
        let token = self.grant.token.clone();
        let checkpoint = Some(checkpoint(self.checkpoint.clone()));
        message(Message::Checkpoint(v1::CheckpointRequest { tenant, key, token, checkpoint }))
    }

    fn read(&self, answer: ForwardAnswer) -> Option<Placed<GrantOutcome>> {
        use v1::checkpoint_response::Outcome;
        let Some(Answer::Checkpoint(response)) = session(answer) else { return None };
        let stale = match response.outcome? {
            Outcome::Checkpointed(v1::Checkpointed {}) => None,
            Outcome::StaleToken(stale) => Some(stale),
        };
        placed(done_or_stale(stale), response.epoch)
    }

    fn bytes(&self) -> usize {
        self.checkpoint.data.len().saturating_add(FRAME_BYTES)
    }
}

impl Call for LookupCall {
    type Answer = Placed<Option<Found>>;
    const REPEATABLE: bool = true;
    const METHOD: Option<Method> = Some(Method::Lookup);

    fn came_to(answer: &Self::Answer) -> metrics::Outcome {
        measured::found(&answer.outcome)
    }

    fn tenant(&self) -> Option<&TenantId> {
        Some(&self.0.tenant)
    }

    fn partition(&self, region: &Region) -> PartitionId {
        region.partition_of(&self.0)
    }

    async fn here(&self, region: &Region, until: Monotonic) -> Result<Placed<Option<Found>>, Failure> {
        region.lookup(self, until).await
    }

    fn forward(&self) -> ForwardCall {
        let (tenant, key) = names(&self.0);
        message(Message::Lookup(v1::LookupRequest { tenant, key }))
    }

    fn read(&self, answer: ForwardAnswer) -> Option<Placed<Option<Found>>> {
        let Some(Answer::Lookup(response)) = session(answer) else { return None };
        let found = match response.record {
            None => None,
            Some(record) => Some(found_from(record)?),
        };
        placed(Some(found), response.epoch)
    }
}

impl Call for ClaimCall {
    type Answer = Placed<ClaimOutcome>;
    const REPEATABLE: bool = false;
    const METHOD: Option<Method> = Some(Method::Claim);

    fn came_to(answer: &Self::Answer) -> metrics::Outcome {
        measured::claimed(&answer.outcome)
    }

    fn tenant(&self) -> Option<&TenantId> {
        Some(&self.key.tenant)
    }

    fn partition(&self, region: &Region) -> PartitionId {
        region.partition_of(&self.key)
    }

    async fn here(&self, region: &Region, until: Monotonic) -> Result<Placed<ClaimOutcome>, Failure> {
        region.claim(self, until).await
    }

    fn forward(&self) -> ForwardCall {
        let (tenant, key) = names(&self.key);
        message(Message::Claim(v1::ClaimRequest {
            tenant,
            key,
            worker: self.worker.clone(),
            nonce: self.nonce.as_ref().map_or_else(Bytes::new, |nonce| Bytes::copy_from_slice(nonce.as_bytes())),
            lease_ms: self.lease_ms,
        }))
    }

    fn count_from_receipt(&self, answer: &mut Placed<ClaimOutcome>, sent: Monotonic) {
        if let ClaimOutcome::Claimed(granted) = &mut answer.outcome {
            granted.after(sent.since(self.received));
        }
    }

    fn read(&self, answer: ForwardAnswer) -> Option<Placed<ClaimOutcome>> {
        use v1::claim_response::Outcome;
        let Some(Answer::Claim(response)) = session(answer) else { return None };
        let outcome = match response.outcome? {
            Outcome::Claimed(claimed) => {
                let endpoint = EndpointName::parse(&claimed.endpoint).ok()?;
                let fingerprint = fingerprint_from(claimed.fingerprint_version, &claimed.fingerprint);
                ClaimOutcome::Claimed(Box::new(granted_from(claimed.grant?, endpoint, fingerprint)?))
            }
            Outcome::NotClaimable(not) => ClaimOutcome::NotClaimable(key_state_from(not.state)?),
            Outcome::Limited(limited) => ClaimOutcome::Limited(limit_from(&limited.limit)?),
        };
        placed(Some(outcome), response.epoch)
    }
}

impl Call for ResolveCall {
    type Answer = Placed<ResolveOutcome>;
    const REPEATABLE: bool = false;
    const METHOD: Option<Method> = Some(Method::Resolve);

    fn came_to(answer: &Self::Answer) -> metrics::Outcome {
        measured::resolved(&answer.outcome)
    }

    fn tenant(&self) -> Option<&TenantId> {
        Some(&self.key.tenant)
    }

    fn partition(&self, region: &Region) -> PartitionId {
        region.partition_of(&self.key)
    }

    async fn here(&self, region: &Region, until: Monotonic) -> Result<Placed<ResolveOutcome>, Failure> {
        region.resolve(self, until).await
    }

    fn forward(&self) -> ForwardCall {
        use v1::resolve_request::Verdict as Told;
        let (tenant, key) = names(&self.key);
        let verdict = match &self.verdict {
            Verdict::Executed(executed) => Told::Executed(envelope(executed.clone())),
            Verdict::NotExecuted => Told::NotExecuted(v1::NotExecuted {}),
        };
        message(Message::Resolve(v1::ResolveRequest {
            tenant,
            key,
            fencing: Some(fencing(self.fencing)),
            verdict: Some(verdict),
            actor: self.actor.clone(),
            reason: self.reason.clone(),
        }))
    }

    fn read(&self, answer: ForwardAnswer) -> Option<Placed<ResolveOutcome>> {
        use v1::resolve_response::Outcome;
        let Some(Answer::Resolve(response)) = session(answer) else { return None };
        let outcome = match response.outcome? {
            Outcome::Resolved(resolved) => ResolveOutcome::Resolved(key_state_from(resolved.state)?),
            Outcome::StaleToken(stale) => ResolveOutcome::StaleToken(key_state_from(stale.state)?),
        };
        placed(Some(outcome), response.epoch)
    }

    fn bytes(&self) -> usize {
        match &self.verdict {
            Verdict::Executed(envelope) => envelope_bytes(envelope),
            Verdict::NotExecuted => FRAME_BYTES,
        }
    }
}
