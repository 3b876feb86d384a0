//! Groups on several nodes of one process: each node has a runtime, a data directory and a listener of its own, so that it
//! can be killed at once and started again.

mod catch_up;
pub(super) mod cluster;
mod failover;
mod membership;
mod suite;
mod wire;
