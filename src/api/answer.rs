//! One call of a session, from its message to its answer: what gRPC does for a call of its own, without the stream.
//!
//! Whatever goes wrong is an answer here too: a [`v1::Failure`] with the code that the call would have got.

use holdfast_client::proto::v1;
use holdfast_client::proto::v1::session_answer::Answer;
use holdfast_client::proto::v1::session_call::Call;

use super::error::ApiError;
use super::grpc::Services;
use super::{convert, reply};
use crate::clock::Monotonic;

/// Answers one call. `received` is when it reached this node.
pub(super) async fn answer(services: &Services, call: v1::SessionCall, received: Monotonic) -> v1::SessionAnswer {
    let v1::SessionCall { id, timeout_ms: _, call } = call;
    let answered = match call {
        Some(call) => outcome(services, call, received).await,
        None => Err(ApiError::Body("the call is missing, or of a kind that this version does not know".to_owned())),
    };
    let answer = answered.unwrap_or_else(|error| Answer::Failure(error.to_failure()));
    v1::SessionAnswer { id, answer: Some(answer) }
}

async fn outcome(services: &Services, call: Call, received: Monotonic) -> Result<Answer, ApiError> {
    let Services { router, max_envelope_body_bytes } = services;
    Ok(match call {
        Call::Reserve(request) => {
            let call = convert::reserve(request, received).await?;
            Answer::Reserve(reply::reserve(router.reserve(call).await?))
        }
        Call::Complete(request) => {
            let call = convert::complete(request, *max_envelope_body_bytes)?;
            let placed = router.complete(call.key, &call.token, call.envelope, call.retention_ms).await?;
            Answer::Complete(reply::complete(&placed))
        }
        Call::Release(request) => {
            let grant = convert::release(request)?;
            Answer::Release(reply::release(router.release(grant.key, &grant.token).await?))
        }
        Call::Extend(request) => {
            let (grant, lease_ms) = convert::extend(request)?;
            let placed = router.extend(grant.key, &grant.token, lease_ms).await?;
            Answer::Extend(reply::extend(placed, lease_ms))
        }
        Call::Checkpoint(request) => {
            let (grant, checkpoint) = convert::checkpoint(request)?;
            let placed = router.checkpoint(grant.key, &grant.token, checkpoint).await?;
            Answer::Checkpoint(reply::checkpointed(placed))
        }
        Call::Lookup(request) => Answer::Lookup(reply::lookup(router.lookup(&convert::lookup(&request)?)?)),
        Call::Claim(request) => {
            let call = convert::claim(request)?;
            let placed = router.claim(call.key, &call.worker, call.nonce, call.lease_ms, received).await?;
            Answer::Claim(reply::claim(placed))
        }
        Call::Resolve(request) => {
            let call = convert::resolve(request, *max_envelope_body_bytes)?;
            let placed = router.resolve(call.key, call.fencing, call.verdict, &call.actor, &call.reason).await?;
            Answer::Resolve(reply::resolve(placed))
        }
    })
}
