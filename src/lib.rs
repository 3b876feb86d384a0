//! Holdfast, a multi-region replicated idempotency store.

pub mod amounts;
pub mod api;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod control;
pub mod gateway;
pub mod home;
pub mod ids;
pub mod limits;
pub mod node;
pub mod peers;
pub mod plan;
pub mod policy;
pub mod raft;
pub mod region;
pub mod reservation;
pub mod router;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod time;
pub mod wire;
