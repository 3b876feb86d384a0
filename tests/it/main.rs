//! Black-box tests over the real binary: what a service may rely on, while the machine under it misbehaves.
//!
//! Reading order: `harness` (a node as a process), `client` (both of its APIs), `history` and `checker` (what happened,
//! and whether it may), `workload` (who makes it happen); then the tests: `life`, `crash`, `faults`, `corruption`, `power`,
//! `overload`. Tests of pure code stand in `tests/core` and beside the code.

mod checker;
mod client;
mod clock;
mod corruption;
mod crash;
mod damage;
mod failure;
mod faults;
mod harness;
mod history;
mod hold;
mod http;
mod json;
mod kept;
mod keys;
mod life;
mod payload;
mod power;
mod strace;
mod talk;
mod workload;
