//! Holds a body back as far as it has to be seen: a request before it is compared, a response before it is stored.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};

use super::room::Taken;
use crate::http::grpc;

/// What was held back of a request.
pub(super) enum Request<B> {
    /// All of it.
    Whole { body: Bytes, trailers: Option<HeaderMap> },
    /// The first message of a gRPC call, and perhaps more.
    Message { held: Bytes, message: usize, rest: Pin<Box<B>> },
    /// It is longer than what is held back.
    Longer { held: Bytes, rest: Pin<Box<B>> },
    /// There is no room for more of it.
    NoRoom,
    /// It broke off.
    Broken,
}

/// What was held back of a response.
pub(super) enum Response<B: Body> {
    /// All of it.
    Whole { body: Bytes, trailers: Option<HeaderMap> },
    /// It is longer than what is stored.
    Longer { held: Bytes, rest: Pin<Box<B>> },
    /// It is a stream: there is no whole of it to wait for.
    Streaming { held: Bytes, rest: Pin<Box<B>> },
    /// It broke off.
    Broken { held: Bytes, error: B::Error },
}

/// How a response is held back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holding {
    /// Bytes that are held back at the most.
    pub(super) most: usize,
    /// How long a body of unknown length may be silent before it is a stream.
    pub(super) silence: Duration,
    /// It answers a gRPC call.
    pub(super) is_grpc: bool,
}

/// What has come of a body. One piece, as most bodies are, is not copied.
#[derive(Debug, Default)]
struct Held {
    one: Bytes,
    more: BytesMut,
}

impl Held {
    fn push(&mut self, data: Bytes) {
        if self.is_empty() {
            self.one = data;
            return;
        }
        if self.more.is_empty() {
            self.more.extend_from_slice(&self.one);
        }
        self.more.extend_from_slice(&data);
    }

    fn is_empty(&self) -> bool {
        self.one.is_empty()
    }

    fn bytes(&self) -> &[u8] {
        if self.more.is_empty() { &self.one } else { &self.more }
    }

    fn finish(self) -> Bytes {
        if self.more.is_empty() { self.one } else { self.more.freeze() }
    }
}

async fn frame<B: Body>(body: &mut Pin<Box<B>>) -> Option<Result<Frame<Bytes>, B::Error>> {
    let frame = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await?;
    Some(frame.map(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))))
}

/// Holds a request back: the whole of it, up to `most` bytes. Of a gRPC call the first message only, since a client may wait for
/// an answer to that before it sends more.
pub(super) async fn request<B: Body>(body: B, most: usize, is_grpc: bool, taken: &mut Taken) -> Request<B> {
    let mut rest = Box::pin(body);
    let mut held = Held::default();
    let mut trailers: Option<HeaderMap> = None;
    loop {
        if let Some(message) = grpc::first_message(held.bytes()).filter(|message| is_grpc && *message <= most) {
            return Request::Message { held: held.finish(), message, rest };
        }
        if held.bytes().len() > most {
            return Request::Longer { held: held.finish(), rest };
        }
        match frame(&mut rest).await {
            None => return Request::Whole { body: held.finish(), trailers },
            Some(Err(_)) => return Request::Broken,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if taken.more(data.len()) => held.push(data),
                Ok(_) => return Request::NoRoom,
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
        }
    }
}

/// Holds a response back until its end, unless it is too long or a stream.
///
/// A gRPC call that answers with a second message streams, and so does one that answers before its request is over: the
/// client may wait for this before it goes on. `request_is_over` says whether it is.
pub(super) async fn response<B: Body>(body: B, holding: Holding, request_is_over: impl Fn() -> bool) -> Response<B> {
    let Holding { most, silence, is_grpc } = holding;
    let is_longer = |bytes: u64| usize::try_from(bytes).map_or(true, |bytes| bytes > most);
    let has_a_length = body.size_hint().exact().is_some();
    let mut rest = Box::pin(body);
    if is_longer(rest.size_hint().lower()) {
        return Response::Longer { held: Bytes::new(), rest };
    }
    let mut held = Held::default();
    let mut trailers: Option<HeaderMap> = None;
    loop {
        if is_grpc && let Some(message) = grpc::first_message(held.bytes()) {
            let answers_early = trailers.is_none() && !rest.is_end_stream() && !request_is_over();
            if held.bytes().len() > message || answers_early {
                return Response::Streaming { held: held.finish(), rest };
            }
        }
        if held.bytes().len() > most {
            return Response::Longer { held: held.finish(), rest };
        }
        let next = match has_a_length {
            true => frame(&mut rest).await,
            false => match tokio::time::timeout(silence, frame(&mut rest)).await {
                Ok(next) => next,
                Err(_) => return Response::Streaming { held: held.finish(), rest },
            },
        };
        match next {
            None => return Response::Whole { body: held.finish(), trailers },
            Some(Err(error)) => return Response::Broken { held: held.finish(), error },
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => held.push(data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
        }
    }
}
