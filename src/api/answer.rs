//! One call of many on a stream: parsed, served, and answered in a message with its number. Both streams that carry such
//! calls use it: a client's session, and what another node passes on.

use std::time::Duration;

use holdfast_client::proto::v1;
use holdfast_client::proto::v1::session_answer::Answer;
use holdfast_client::proto::v1::session_call::Call as Message;

use super::asking;
use super::convert;
use super::error::{ApiError, Code};
use super::grpc::Services;
use super::reply;
use crate::clock::Monotonic;
use crate::codec::control::{command_from, signature_from};
use crate::ids::PartitionId;
use crate::limits;
use crate::region::Region;
use crate::region::calls::{Failed, Failure};
use crate::router::call::Call;
use crate::router::control::{ControlCall, ControlPositionCall, reply_to};
use crate::router::operate::{AcceptClockCall, RotateCall};
use crate::router::{self, Router};
use crate::wire::v1::{
    AcceptClock, ControlPosition, ForwardAnswer, ForwardCall, NotLeader, Operate, Operated, RotateClusterKey, operate,
    operated,
};

/// Who serves a call.
#[derive(Clone, Copy)]
enum Server<'a> {
    /// Whoever leads.
    Any(&'a Router),
    /// This node or nobody.
    Here(&'a Region),
}

impl Server<'_> {
    async fn call<C: Call>(self, call: &C, until: Monotonic) -> Result<C::Answer, ApiError> {
        let served = match self {
            Self::Any(router) => router.call(call, until).await,
            Self::Here(region) => router::here(region, call, until).await,
        };
        served.map_err(ApiError::from)
    }
}

/// What a message says beside its call.
struct Frame {
    received: Monotonic,
    timeout: Option<Duration>,
    most_body_bytes: usize,
    /// Whose fingerprint it is, where another node took it: version and selection.
    fingerprint: Option<(u32, u32)>,
}

/// Answers a call of a session.
pub(super) async fn answer(services: &Services, call: v1::SessionCall, received: Monotonic) -> v1::SessionAnswer {
    let v1::SessionCall { id, timeout_ms, call } = call;
    let most_body_bytes = services.max_envelope_body_bytes;
    let frame = Frame { received, timeout: timeout(timeout_ms), most_body_bytes, fingerprint: None };
    let answer = serve(Server::Any(&services.router), call, frame).await;
    let answer = answer.unwrap_or_else(|error| {
        error.told();
        Answer::Failure(error.to_failure())
    });
    v1::SessionAnswer { id, answer: Some(answer) }
}

/// Answers a call that another node has passed on: by this node's part of the region alone.
pub(super) async fn answer_forwarded(region: &Region, call: ForwardCall, received: Monotonic) -> ForwardAnswer {
    let ForwardCall { call, fingerprint_version, fingerprint_selection, operate } = call;
    let v1::SessionCall { id, timeout_ms, call } = call.unwrap_or_default();
    let frame = Frame {
        received,
        timeout: timeout(timeout_ms),
        // The node that took it has held it to its own bound.
        most_body_bytes: limits::MAX_ENVELOPE_BODY_BYTES,
        fingerprint: Some((fingerprint_version, fingerprint_selection)),
    };
    let served = match operate {
        None => serve(Server::Here(region), call, frame).await.map(|answer| (Some(answer), None)),
        Some(operate) => {
            serve_operator(region, operate, frame).await.map(|done| (None, Some(Operated { what: Some(done) })))
        }
    };
    let mut other_selection = 0;
    let (answer, not_leader, operated) = match served {
        Ok((answer, operated)) => (answer, None, operated),
        Err(ApiError::Failure(Failed { failure: Failure::OtherSelection { selection }, .. })) => {
            other_selection = selection;
            (None, None, None)
        }
        Err(ApiError::Failure(Failed { failure: Failure::NotLeader { leader }, .. })) => {
            (None, Some(NotLeader { leader_node_id: leader.unwrap_or_default() }), None)
        }
        Err(error) => (Some(Answer::Failure(error.to_failure())), None, None),
    };
    ForwardAnswer { answer: Some(v1::SessionAnswer { id, answer }), not_leader, operated, other_selection }
}

async fn serve_operator(region: &Region, operate: Operate, frame: Frame) -> Result<operated::What, ApiError> {
    let server = Server::Here(region);
    let until = router::until(frame.received, frame.timeout, Duration::ZERO);
    match operate.what {
        Some(operate::What::RotateClusterKey(RotateClusterKey { signature })) => {
            let signature = signature_from(signature.unwrap_or_default());
            Ok(operated::What::KeyId(server.call(&RotateCall(signature), until).await?))
        }
        Some(operate::What::AcceptClock(AcceptClock { partition, signature })) => match u16::try_from(partition) {
            Ok(partition) => {
                let log_time = {
                    let signature = signature_from(signature.unwrap_or_default());
                    server.call(&AcceptClockCall(PartitionId(partition), signature), until).await?
                };
                Ok(operated::What::LogTimeUnixMs(log_time.unix_ms()))
            }
            Err(_) => Err(unknown()),
        },
        Some(operate::What::Control(command)) => {
            let command = command_from(command).map_err(|_| unknown())?;
            Ok(operated::What::Control(reply_to(server.call(&ControlCall(command), until).await?)))
        }
        Some(operate::What::ControlPosition(ControlPosition {})) => {
            Ok(operated::What::Position(server.call(&ControlPositionCall, until).await?))
        }
        None => Err(unknown()),
    }
}

/// The message has no call that this node knows. Nothing was done.
fn unknown() -> ApiError {
    let detail = "the message has no call that this node knows: do both sides have the same version?";
    ApiError::Input { code: Code::InputInvalid, field: "call", detail: detail.to_owned() }
}

fn timeout(timeout_ms: u32) -> Option<Duration> {
    (timeout_ms > 0).then(|| Duration::from_millis(u64::from(timeout_ms)))
}

async fn serve(server: Server<'_>, message: Option<Message>, frame: Frame) -> Result<Answer, ApiError> {
    let Frame { received, timeout, most_body_bytes, fingerprint } = frame;
    let until = router::until(received, timeout, Duration::ZERO);
    Ok(match message {
        None => return Err(unknown()),
        Some(Message::Reserve(request)) => {
            let asked = convert::reserve(request, received)?;
            Answer::Reserve(reply::reserve(match server {
                Server::Any(router) => asking::reserve(router, asked, timeout).await?,
                Server::Here(_) => {
                    let until = router::until(received, timeout, asked.wait());
                    server.call(&asked.forwarded(fingerprint).ok_or_else(unknown)?, until).await?
                }
            }))
        }
        Some(Message::Complete(request)) => {
            let call = convert::complete(request, most_body_bytes)?;
            Answer::Complete(reply::complete(&server.call(&call, until).await?))
        }
        Some(Message::Release(request)) => {
            let call = convert::release(request)?;
            Answer::Release(reply::release(server.call(&call, until).await?))
        }
        Some(Message::Extend(request)) => {
            let call = convert::extend(request)?;
            Answer::Extend(reply::extend(server.call(&call, until).await?, call.lease_ms))
        }
        Some(Message::Checkpoint(request)) => {
            let call = convert::checkpoint(request)?;
            Answer::Checkpoint(reply::checkpointed(server.call(&call, until).await?))
        }
        Some(Message::Lookup(request)) => {
            let call = convert::lookup(&request)?;
            Answer::Lookup(reply::lookup(server.call(&call, until).await?))
        }
        Some(Message::Claim(request)) => {
            let call = convert::claim(request, received)?;
            Answer::Claim(reply::claim(server.call(&call, until).await?))
        }
        Some(Message::Resolve(request)) => {
            let call = convert::resolve(request, most_body_bytes)?;
            Answer::Resolve(reply::resolve(server.call(&call, until).await?))
        }
    })
}
