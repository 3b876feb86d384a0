//! `holdfast ctl`: what an operator asks of one node.

mod cluster;
mod groups;
mod key;
mod members;
mod resolve;
mod status;
#[cfg(test)]
mod tests;
mod view;

use std::time::Duration;

use anyhow::Context as _;

use crate::cli::client::{ANSWER_TIMEOUT, Asking};
use crate::cli::exit::{Exit, Problem};

/// How long a change of all partitions may take: the node itself gives up before.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(300);

/// Flags of `holdfast ctl`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  holdfast ctl status
  holdfast ctl members
  holdfast ctl members replace 2 --with 4
  holdfast ctl key show demo order-1
  holdfast ctl key show demo order-1 --output json | jq .record.state
  holdfast ctl --address http://10.0.0.7:7400 status")]
pub(crate) struct Ctl {
    #[command(flatten)]
    asking: Asking,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show how the node and its partitions are; ends with 1 unless all of them serve and new grants are made
    Status,
    /// Look at a key, or decide about one
    #[command(subcommand)]
    Key(Key),
    /// Show the nodes of the region, or change who they are
    Members(members::Members),
    /// Hand the leadership of partitions to another voter
    Transfer(groups::Transfer),
    /// Make the node's partitions durable up to now, and purge their logs behind that
    Snapshot(groups::Snapshot),
    /// Make a new key for the MACs of tokens; the one before stays valid until the next rotation
    RotateClusterKey,
    /// Log time, which decides when completed records may go
    #[command(subcommand)]
    Clock(Clock),
}

#[derive(Debug, clap::Subcommand)]
enum Key {
    /// Show what the store knows of a key; ends with 4 if it has no record
    Show(key::Name),
    /// Show what happened to a key, oldest first; ends with 4 if there is no record
    History(key::Name),
    /// Decide about a key whose outcome is unknown: it ran, with this answer, or it did not
    Resolve(resolve::Resolve),
}

#[derive(Debug, clap::Subcommand)]
enum Clock {
    /// Let log time follow a clock that is over an hour ahead of it. Check the clock first: records expire by log time
    Accept,
}

/// Asks the node, and shows what it answers.
pub(crate) fn run(ctl: Ctl) -> Result<Exit, Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let asking = &ctl.asking;
        let patience = match ctl.command {
            // Every partition is changed, and a learner that becomes a voter has the last entries to catch up with.
            Command::Members(_) | Command::Transfer(_) | Command::Snapshot(_) => CHANGE_TIMEOUT,
            Command::Status | Command::Key(_) | Command::RotateClusterKey | Command::Clock(_) => ANSWER_TIMEOUT,
        };
        let channel = asking.address.connect(patience).await?;
        match ctl.command {
            Command::Status => status::run(asking, channel).await,
            Command::Members(members) => members::run(asking, channel, members).await,
            Command::Transfer(transfer) => groups::transfer(asking, channel, transfer).await,
            Command::Snapshot(snapshot) => groups::snapshot(asking, channel, snapshot).await,
            Command::Key(Key::Show(name)) => key::show(asking, channel, name).await,
            Command::Key(Key::History(name)) => key::history(asking, channel, name).await,
            Command::Key(Key::Resolve(resolve)) => resolve::run(asking, channel, resolve).await,
            Command::RotateClusterKey => cluster::rotate(asking, channel).await,
            Command::Clock(Clock::Accept) => cluster::accept_clock(asking, channel).await,
        }
    })
}
