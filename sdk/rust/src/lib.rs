//! The Rust client of Holdfast, and what every client and the server itself agree on, byte for byte.
//!
//! * [`client`]: asks a region's nodes, and hands out grants.
//! * [`keys`]: idempotency keys, and which partition and home they belong to.
//! * [`fingerprint`]: the digest that says whether two requests are the same.
//! * [`http`]: what idempotency means in HTTP and gRPC.
//! * `layer` (feature `tower`): protects the requests of an axum, tonic or other tower service.
//!
//! `keys`, `fingerprint` and `http` are pure: no clock, no randomness, no I/O. Deliberately absent: storage, and anything that decides who may
//! execute.

#![forbid(unsafe_code)]

pub mod client;
pub mod fingerprint;
pub mod http;
pub mod keys;
#[cfg(feature = "tower")]
pub mod layer;
pub mod proto;
