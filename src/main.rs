//! The one binary: see `holdfast --help`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast::cli::main(std::env::args_os())
}
