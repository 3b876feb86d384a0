//! A session's messages without their insides: calls come in as the bytes of each, so that one that cannot be decoded is
//! answered alone, and answers go out as frames that were encoded when they were made.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use holdfast_client::proto::v1;
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::limits;

/// The tag of `SessionResponse.answers`.
const ANSWERS: u32 = 1;

/// A `SessionRequest`, its calls undecoded.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Calls {
    /// The bytes of each `SessionCall`.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(super) calls: Vec<Bytes>,
}

/// What is read of a `SessionCall` whose other fields cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct CallId {
    /// `SessionCall.id`.
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
}

/// Encoded `SessionResponse`s under construction.
#[derive(Debug, Default)]
pub(super) struct Frames {
    full: Vec<BytesMut>,
    last: BytesMut,
}

impl Frames {
    /// The first message of a session.
    pub(super) fn greeting() -> Self {
        let hello = v1::SessionResponse { answers: Vec::new(), max_in_flight: limits::MAX_CALLS_PER_SESSION };
        Self { full: Vec::new(), last: BytesMut::from(hello.encode_to_vec().as_slice()) }
    }

    /// Adds an answer, to a new frame if the last one is full.
    pub(super) fn push(&mut self, answer: &v1::SessionAnswer) {
        let bytes = answer.encoded_len();
        if !self.last.is_empty() && self.last.len().saturating_add(bytes) > limits::SESSION_FRAME_BYTES {
            self.full.push(std::mem::take(&mut self.last));
        }
        // The tag and the length take less than the reserve.
        self.last.reserve(bytes.saturating_add(16));
        prost::encoding::message::encode(ANSWERS, answer, &mut self.last);
    }

    /// The frames, in order.
    pub(super) fn take(&mut self) -> impl Iterator<Item = BytesMut> {
        let last = std::mem::take(&mut self.last);
        std::mem::take(&mut self.full).into_iter().chain((!last.is_empty()).then_some(last))
    }
}

/// Reads [`Calls`] and writes frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionCodec;

impl Codec for SessionCodec {
    type Encode = BytesMut;
    type Decode = Calls;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for SessionCodec {
    type Item = BytesMut;
    type Error = Status;

    fn encode(&mut self, frame: BytesMut, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(frame);
        Ok(())
    }
}

impl Decoder for SessionCodec {
    type Item = Calls;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Calls>, Status> {
        // One slice of what was received, so that the calls in it are slices too.
        let bytes = from.copy_to_bytes(from.remaining());
        Calls::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_session_responses_and_none_is_too_large() {
        let answer = |id, bytes: usize| {
            let failure = v1::Failure { message: "m".repeat(bytes), ..v1::Failure::default() };
            v1::SessionAnswer { id, answer: Some(v1::session_answer::Answer::Failure(failure)) }
        };
        let mut frames = Frames::greeting();
        let sizes =
            [10, limits::SESSION_FRAME_BYTES / 2, limits::SESSION_FRAME_BYTES / 2, limits::SESSION_FRAME_BYTES * 2, 1];
        for (id, bytes) in (1..).zip(sizes) {
            frames.push(&answer(id, bytes));
        }
        let encoded: Vec<BytesMut> = frames.take().collect();
        assert_eq!(frames.take().count(), 0);
        let decoded: Vec<v1::SessionResponse> =
            encoded.iter().map(|frame| v1::SessionResponse::decode(frame.as_ref()).expect("a frame decodes")).collect();
        assert_eq!(decoded.first().map(|first| first.max_in_flight), Some(limits::MAX_CALLS_PER_SESSION));
        let ids: Vec<Vec<u64>> =
            decoded.iter().map(|frame| frame.answers.iter().map(|answer| answer.id).collect()).collect();
        assert_eq!(ids, [vec![1, 2], vec![3], vec![4], vec![5]]);
        assert_eq!(decoded.into_iter().flat_map(|frame| frame.answers).next(), Some(answer(1, 10)));
    }

    #[test]
    fn a_call_is_taken_apart_without_being_understood() {
        let call = v1::SessionCall {
            id: 7,
            timeout_ms: 9,
            call: Some(v1::session_call::Call::Lookup(v1::LookupRequest::default())),
        };
        let request = v1::SessionRequest { calls: vec![call.clone(), v1::SessionCall::default()] };
        let calls = Calls::decode(request.encode_to_vec().as_slice()).expect("the calls decode").calls;
        assert_eq!(v1::SessionCall::decode(calls[0].clone()), Ok(call));
        assert_eq!(calls.len(), 2);
        // A tenant that is no UTF-8 in a lookup.
        let garbage = Bytes::from_static(b"\x08\x2a\x7a\x04\x0a\x02\xff\xfe");
        assert!(v1::SessionCall::decode(garbage.clone()).is_err());
        assert_eq!(CallId::decode(garbage), Ok(CallId { id: 42 }));
    }
}
