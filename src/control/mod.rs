//! What is the same for all partitions, as pure functions over values: the revisions of the policies, what fingerprints take of
//! a request, the tenants. Decided in one group, which every node of the region has applied.
//!
//! [`state`] is what is known, [`command`] what may be asked, [`decide`](mod@decide) what it comes to; [`usage`] counts what keys
//! take up, and [`audit`] says who decided what.
//!
//! Deliberately absent: storage, clocks, and what a policy means (`policy`).

pub mod audit;
pub mod command;
pub mod decide;
pub mod selection;
pub mod state;
pub mod usage;

pub use command::{Command, Kind, Signature};
pub use decide::{Decision, Reply, Write, decide};
pub use state::State;
