//! The homes of one partition over all regions, as pure functions over values: `decide(rows, command, context) -> decision`. It
//! is what a *global group* decides, one Raft log over all regions for each partition: who acts for a home and in which epoch,
//! how far each region's stream is known, what all regions together know of a key, which executions conflict, and who
//! makes up for them.
//!
//! Reading order: [`evidence`] (what streams tell of a key), [`merge`] (what it comes to, in any order), [`state`] (homes,
//! epochs, streams), [`command`] (what may be asked), [`reply`] (what may be answered); then what is decided: `epochs`
//! (takeovers, leases, settled and lost), `ship` (streams), [`ledger`] (conflicts), `tasks`, `sweep`. [`rows`] is the interface
//! to what stores it: which rows a decision reads, and which it changes. [`regional`] and [`outbox`] are the other side: when a region
//! opens and seals an epoch, what it takes over, and what its decisions tell all regions.
//!
//! The rules are R1 to R17 of the design as docs/reference/model.md corrects them.
//!
//! Deliberately absent: clocks, randomness, storage, logging; the wait of a candidate, which is its own clock's, and the check of
//! a lease before an answer, which is its region's. Which home a
//! key belongs to is not checked against its tenant, which another group knows: a key stays with the home of the stream that
//! first told of it.

pub mod command;
mod epochs;
pub mod evidence;
pub mod ledger;
pub mod merge;
pub mod outbox;
pub mod regional;
pub mod reply;
pub mod rows;
mod ship;
pub mod state;
mod sweep;
mod tasks;

pub use command::Command;
pub use merge::Record;
pub use reply::{Decision, Refused, Reply};
pub use rows::{Rows, Write};
pub use state::{Context, Limits};

use crate::home::rows::Draft;

/// Decides a committed command from the rows that it names, the same on every replica, for ever. A refusal changes nothing.
///
/// # Errors
/// When a row cannot be read: then nothing is decided.
pub fn decide<R: Rows>(rows: &R, command: &Command, context: &Context) -> Result<Decision, R::Error> {
    let mut draft = Draft::new(rows, *context);
    let reply = match command {
        Command::Adopt(adopt) => epochs::adopt(&mut draft, adopt),
        Command::Order { home, order } => epochs::order(&mut draft, home, order),
        Command::RenewLease(renew) => epochs::renew(&mut draft, renew),
        Command::TakeOver(take) => epochs::take_over(&mut draft, take),
        Command::Ship(batch) => ship::ship(&mut draft, batch),
        Command::Settle { home, epoch } => epochs::settle(&mut draft, home, *epoch),
        Command::DeclareLost { home, epoch, signature } => epochs::declare_lost(&mut draft, home, *epoch, signature),
        Command::Retire { home, epoch } => epochs::retire(&mut draft, home, *epoch),
        Command::Restored(restored) => epochs::restored(&mut draft, restored),
        Command::Sweep(records) => sweep::sweep(&mut draft, records),
        Command::Prune { count } => sweep::prune(&mut draft, *count),
        Command::Acknowledge(ask) => tasks::acknowledge(&mut draft, ask),
        Command::Close { task, verdict, signature } => tasks::close(&mut draft, *task, *verdict, signature),
    }?;
    let writes = match &reply {
        Reply::Refused(_) => Vec::new(),
        Reply::Adopted
        | Reply::Ordered
        | Reply::Renewed { .. }
        | Reply::TookOver { .. }
        | Reply::Shipped { .. }
        | Reply::Settled
        | Reply::Lost
        | Reply::Retired
        | Reply::Restored { .. }
        | Reply::Swept(_)
        | Reply::Pruned(_)
        | Reply::Acknowledged(_)
        | Reply::Closed => draft.writes(),
    };
    Ok(Decision { reply, writes })
}
