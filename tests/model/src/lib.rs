//! A model of the rules by which regions take over from each other, and what they promise: docs/reference/model.md.
//!
//! One key, one partition, one home. `global` is what the global log says, `region` what a region's log does, `reserve`
//! what a leader decides, `choices` everything that may happen next, `model` what it does, `heal` the properties. A [`Scenario`] bounds the
//! world, [`Rules`] switch parts of rules off. Absent: bytes, wall clocks, Raft itself, and rates of clocks (a lease runs
//! out in one step for everybody who counts it rightly).
#![expect(clippy::indexing_slicing, reason = "an index that is out of bounds is a mistake of the model, and must show")]

mod choices;
mod global;
mod heal;
mod model;
mod record;
mod region;
mod reserve;
mod rule;
mod scenario;
mod state;

pub use rule::{Rule, Rules};
pub use scenario::{Broken, Limits, Report, Scenario};
