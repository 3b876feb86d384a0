//! The one binary: see `holdfast --help`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

/// A fifth of a busy node's time goes to the system's allocator: small values that one thread makes and another drops.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    holdfast::cli::main(std::env::args_os())
}
