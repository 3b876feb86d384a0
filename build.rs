//! Generates the types of what is persisted and of what nodes say to each other, without `protoc`.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("proto");
    let log = "log/v1/log.proto";
    let peer = "internal/v1/peer.proto";
    for file in [log, peer, "holdfast/v1/reservations.proto"] {
        println!("cargo:rerun-if-changed={}", root.join(file).display());
    }
    prost_build::Config::new().bytes(["."]).compile_fds(protox::compile([log], [&root])?)?;
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(".holdfast.log.v1", "crate::codec::pb")
        .extern_path(".holdfast.v1", "holdfast_client::proto::v1")
        .compile_fds(protox::compile([peer], [&root])?)?;
    Ok(())
}
