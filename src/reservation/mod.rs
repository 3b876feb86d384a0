//! One key's life, as pure functions over values: `decide(record, command, context) -> decision`.
//!
//! Reading order: [`record`] (what is stored), [`command`] (what may be asked), [`reply`] (what may be answered),
//! [`decide`](mod@decide) (the reserve and its precedence), [`complete`] (how an outcome is recorded), [`settle`] (what
//! ends, extends or takes over a grant), [`import`] (what another region granted), [`sweep`] (when a record may go).
//!
//! Deliberately absent: clocks, randomness, storage, logging. Time and positions come in from the log entry; a refusal
//! is a value. Leases are not counted here: the region counts them and proposes a [`command::Kind::Lapse`].

pub mod command;
pub mod complete;
pub mod decide;
pub mod import;
pub mod record;
pub mod reply;
pub mod settle;
pub mod sweep;

pub use command::{Command, Context, Kind};
pub use decide::decide;
pub use record::Record;
pub use reply::{Decision, Reply};
