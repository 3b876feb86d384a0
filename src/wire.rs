//! The messages and services of `proto/internal/v1`: what the nodes of one region say to each other.

/// `holdfast.internal.v1`: peers.
#[allow(
    missing_docs,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated; the docs stand in the .proto file"
)]
pub mod v1 {
    tonic::include_proto!("holdfast.internal.v1");
}
