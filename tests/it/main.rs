//! Black-box tests over the real binary: what a service may rely on, while the machine under it misbehaves.
//!
//! Reading order: `harness` (a node as a process), `client` (both of its APIs), `history` and `checker` (what happened,
//! and whether it may), `workload` (who makes it happen); then the tests: `life`, `hold`, `keys` and `leases` (one key at a
//! time), `crash` and `power` (a process, a machine that ends), `faults` and `corruption` (a bad disk), `overload`, `api…`
//! (hostile input), `policies` (with tenants and quotas), `metrics` (with logs) and `soak`. The proxy before a service: `gateway`;
//! before an `upstream` that misbehaves (a `stage` has all three), `foreign` and `foreign_clients` (programs that we did not write), `gateway_crash` (a
//! `gate` dies at every step), `gateway_figures`. A region of three nodes: `cluster` (they as processes, in networks of
//! `netns`), `nemesis` (what befalls them), and `cluster_…`. Tests of pure code stand in `tests/core` and beside the code.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test that expects one outcome takes every other one for the failure it is"
)]

mod api;
mod api_garbage;
mod api_grpc;
mod api_hostile;
mod calls;
mod checker;
mod client;
mod clock;
mod cluster;
mod cluster_faults;
mod cluster_life;
mod cluster_refused;
mod cluster_soak;
mod corruption;
mod crash;
mod damage;
mod failure;
mod faults;
mod foreign;
mod foreign_clients;
mod gap;
mod gate;
mod gateway;
mod gateway_crash;
mod gateway_figures;
mod harness;
mod history;
mod hold;
mod http;
mod json;
mod kept;
mod keys;
mod leases;
mod life;
mod limits_soak;
mod metrics;
mod nemesis;
mod netns;
mod overload;
mod payload;
mod policies;
mod power;
mod random;
mod session;
mod soak;
mod stage;
mod strace;
mod talk;
mod tap;
mod upstream;
mod workload;
