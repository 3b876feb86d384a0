//! Unary gRPC over HTTP/2 with as little of the machine as possible: the load shares its cores with the node, and a
//! general client costs about as much as the node's own part of a call. A call is one HEADERS and one DATA frame out, and
//! HEADERS, DATA and trailers back (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
//!
//! Deliberately absent: streaming, compression, deadlines, reconnecting. A connection that broke fails every later call.

use std::future::poll_fn;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use http::{Method, Request, Uri, Version};
use prost::Message;
use tonic::{Code, Status};

use crate::limits;

/// Bytes in front of a message: not compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// One of the clients that share a connection.
#[derive(Clone)]
pub(super) struct Client {
    send: SendRequest<Bytes>,
    methods: Methods,
}

/// The addresses of the two methods of a cycle.
#[derive(Clone)]
struct Methods {
    reserve: Uri,
    complete: Uri,
}
