//! One call of the workload over either API, and its answer in the history's words.

use holdfast_client::proto::v1 as api;

use crate::client::Client;
use crate::failure::Failure;
use crate::history::{Answer, Call, Checkpoint, Recorded, Token};
use crate::payload;

/// The tenant of the workload's keys.
pub(crate) const TENANT: &str = "crowd";

/// The whole of one grant, as its worker knows it.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) token: Token,
    pub(crate) text: String,
}

/// What is sent beside the call itself.
#[derive(Clone, Debug)]
pub(crate) struct Sent<'a> {
    pub(crate) key: String,
    pub(crate) call: Call,
    /// The text of the token that the call names.
    pub(crate) token: String,
    pub(crate) envelope: Option<&'a api::Envelope>,
    /// The position that the answer may not be older than.
    pub(crate) seen: Option<u64>,
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    pub(crate) grant: Option<Grant>,
    /// How far the partition's log was applied where this was answered, if the API says it.
    pub(crate) position: Option<u64>,
}

impl From<Answer> for Answered {
    fn from(answer: Answer) -> Self {
        Self { answer, grant: None, position: None }
    }
}

impl Answered {
    fn at(self, epoch: Option<api::Epoch>) -> Self {
        Self { position: epoch.map(|epoch| epoch.position), ..self }
    }
}

/// Sends one call and reads its answer.
pub(crate) async fn exchange(client: &Client, sent: Sent<'_>) -> Result<Answered, Failure> {
    let tenant = TENANT.to_owned();
    let Sent { key, call, token, envelope, seen } = sent;
    match call {
        Call::Reserve { nonce, request, lease_ms } => client
            .reserve(api::ReserveRequest {
                tenant,
                key,
                endpoint: payload::ENDPOINT.to_owned(),
                fingerprint: Some(payload::fingerprint(request)),
                nonce: nonce.0.to_be_bytes().to_vec().into(),
                client_version: "it/1".to_owned(),
                lease_ms: Some(lease_ms),
                wait_ms: None,
                seen,
            })
            .await
            .and_then(reserved),
        Call::Complete { .. } => client
            .complete(api::CompleteRequest { tenant, key, token, envelope: envelope.cloned(), retention_ms: None })
            .await
            .and_then(|answer| completed(&answer)),
        Call::Release { .. } => {
            use api::release_response::Outcome;
            let answer = client.release(api::ReleaseRequest { tenant, key, token }).await?;
            let outcome = match &answer.outcome {
                Some(Outcome::Released(_)) => Answer::Released,
                Some(Outcome::StaleToken(_)) => Answer::StaleToken,
                None => return Err(no_outcome(&answer)),
            };
            Ok(Answered::from(outcome).at(answer.epoch))
        }
        Call::Extend { lease_ms, .. } => {
            use api::extend_response::Outcome;
            let answer = client.extend(api::ExtendRequest { tenant, key, token, lease_ms }).await?;
            let outcome = match &answer.outcome {
                Some(Outcome::Extended(_)) => Answer::Extended,
                Some(Outcome::StaleToken(_)) => Answer::StaleToken,
                None => return Err(no_outcome(&answer)),
            };
            Ok(Answered::from(outcome).at(answer.epoch))
        }
        Call::Checkpoint { checkpoint, .. } => {
            use api::checkpoint_response::Outcome;
            let data = checkpoint.0.to_be_bytes().to_vec().into();
            let checkpoint = Some(api::CheckpointData { name: "step".to_owned(), data });
            let answer = client.checkpoint(api::CheckpointRequest { tenant, key, token, checkpoint }).await?;
            let outcome = match &answer.outcome {
                Some(Outcome::Checkpointed(_)) => Answer::Checkpointed,
                Some(Outcome::StaleToken(_)) => Answer::StaleToken,
                None => return Err(no_outcome(&answer)),
            };
            Ok(Answered::from(outcome).at(answer.epoch))
        }
        Call::Claim { nonce, lease_ms } => client
            .claim(api::ClaimRequest {
                tenant,
                key,
                worker: "recovery".to_owned(),
                nonce: nonce.0.to_be_bytes().to_vec().into(),
                lease_ms: Some(lease_ms),
            })
            .await
            .and_then(claimed),
    }
}

/// An answer that cannot be one here: the contract has a place for it, this node has not.
fn no_outcome(answer: &impl std::fmt::Debug) -> Failure {
    Failure::unreadable(&anyhow::anyhow!("{answer:?}"))
}

fn reserved(answer: api::ReserveResponse) -> Result<Answered, Failure> {
    use api::reserve_response::Outcome;
    let epoch = answer.epoch.clone();
    let answered = match answer.outcome {
        Some(Outcome::Granted(grant)) => granted(grant)?,
        Some(Outcome::Replay(replay)) => Answer::Replay(payload::digest(&replay.envelope.unwrap_or_default())).into(),
        Some(Outcome::Mismatch(_)) => Answer::Mismatch.into(),
        Some(Outcome::InProgress(_)) => Answer::InProgress.into(),
        Some(Outcome::OutcomeUnknown(_)) => Answer::OutcomeUnknown.into(),
        Some(Outcome::Limited(_)) => Answer::Refused.into(),
        Some(Outcome::InDoubt(_) | Outcome::Superseded(_) | Outcome::Expired(_)) | None => {
            return Err(no_outcome(&answer));
        }
    };
    Ok(answered.at(epoch))
}

fn granted(grant: api::Granted) -> Result<Answered, Failure> {
    let Some(fencing) = grant.fencing else { return Err(no_outcome(&grant)) };
    let token = Token { epoch: fencing.epoch, sequence: fencing.sequence };
    let checkpoint = grant.checkpoint.map(|checkpoint| {
        let number = <[u8; 8]>::try_from(checkpoint.data.as_ref()).map(u64::from_be_bytes);
        Checkpoint(number.unwrap_or_default())
    });
    let answer = Answer::Granted { token, repeated: grant.repeated, flagged: grant.possible_duplicate, checkpoint };
    Ok(Answered { grant: Some(Grant { token, text: grant.token }), ..answer.into() })
}

fn claimed(answer: api::ClaimResponse) -> Result<Answered, Failure> {
    use api::claim_response::Outcome;
    let epoch = answer.epoch.clone();
    let answered = match answer.outcome {
        Some(Outcome::Claimed(claimed)) => granted(claimed.grant.unwrap_or_default())?,
        Some(Outcome::NotClaimable(_)) => Answer::NotClaimable.into(),
        Some(Outcome::Limited(_)) => Answer::Refused.into(),
        None => return Err(no_outcome(&answer)),
    };
    Ok(answered.at(epoch))
}

fn completed(answer: &api::CompleteResponse) -> Result<Answered, Failure> {
    let Some(api::complete_response::Outcome::Completed(completed)) = &answer.outcome else {
        return Err(no_outcome(answer));
    };
    let recorded = match completed.recorded() {
        api::Recorded::Answer => Recorded::Answer,
        api::Recorded::Repeated => Recorded::Repeated,
        api::Recorded::Late => Recorded::Late,
        api::Recorded::Unspecified => return Err(no_outcome(answer)),
    };
    Ok(Answered::from(Answer::Completed(recorded)).at(answer.epoch.clone()))
}
