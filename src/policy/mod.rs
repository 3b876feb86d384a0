//! Endpoint contracts: what an endpoint's idempotency keys are promised, as an organisation writes it down in TOML files.
//!
//! [`document`] is a policy as it is written, with the defaults of each severity; [`contract`] the same, complete and
//! checked; [`matching`] says which endpoints a policy is for, and [`set`] which policy an endpoint gets. [`lint`] finds
//! what is allowed and unwise, [`diff`] what a change does to endpoints.
//!
//! A [`document::Document`] is what can be stored and sent: everything else is made from it, the same on every node.
//! Deliberately absent: files, and the revisions that a running cluster keeps of a policy.

mod classes;
pub mod contract;
pub mod diff;
pub mod document;
mod index;
pub mod lint;
pub mod matching;
#[cfg(test)]
mod reference;
pub mod schema;
pub mod set;

pub use classes::{Consistency, FailMode, Severity, Stage};
