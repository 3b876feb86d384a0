//! The wire types of the public API, generated from `proto/holdfast/v1`.

/// `holdfast.v1`: reservations and one node's administration.
#[allow(
    missing_docs,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated; the docs stand in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("holdfast.v1");

    /// The descriptors of this package, for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/holdfast_v1.bin"));
}
