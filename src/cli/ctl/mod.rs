//! `holdfast ctl`: what an operator asks of one node, and of files.

mod audit;
mod cluster;
mod groups;
mod key;
mod members;
mod plan;
mod policy;
mod resolve;
mod signature;
mod status;
mod tenant;
#[cfg(test)]
mod tests;
mod view;

use std::time::Duration;

use anyhow::Context as _;
use tonic::transport::Channel;

use crate::cli::client::{ANSWER_TIMEOUT, Asking};
use crate::cli::exit::{Exit, Problem};

use signature::PerhapsSigned;

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
  holdfast ctl policy lint payments.toml
  holdfast ctl policy apply payments.toml --reason 'refunds are required, ticket 812'
  holdfast ctl tenant create acme --max-keys 5000000 --reason 'contract 17'
  holdfast ctl audit --since 1d
  holdfast ctl plan capacity --file payments.toml
  holdfast ctl --address http://10.0.0.7:7400 status")]
pub(crate) struct Ctl {
    #[command(flatten)]
    asking: Asking,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    #[command(flatten)]
    Ask(Question),
    /// Check, explain and compare policies, apply them, and show which hold
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Make tenants, limit them, close them, and show what their keys take up
    #[command(subcommand)]
    Tenant(tenant::Tenant),
    /// Plan the machines of a region
    #[command(subcommand)]
    Plan(plan::Plan),
}

#[derive(Debug, clap::Subcommand)]
enum Question {
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
    RotateClusterKey(PerhapsSigned),
    /// Show who decided what, when and why
    Audit(audit::Audit),
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
    Accept(PerhapsSigned),
}

/// Does what the command says, and shows what comes of it.
pub(crate) fn run(ctl: Ctl) -> Result<Exit, Problem> {
    match ctl.command {
        Command::Ask(question) => ask(&ctl.asking, question),
        Command::Policy(policy) => policy::run(&ctl.asking, policy),
        Command::Tenant(tenant) => tenant::run(&ctl.asking, tenant),
        Command::Plan(plan) => plan::run(plan, ctl.asking.output),
    }
}

/// Asks the node, and shows what it answers.
fn ask(asking: &Asking, question: Question) -> Result<Exit, Problem> {
    let patience = match question {
        // Every partition is changed, and a learner that becomes a voter has the last entries to catch up with.
        Question::Members(_) | Question::Transfer(_) | Question::Snapshot(_) => CHANGE_TIMEOUT,
        Question::Status
        | Question::Key(_)
        | Question::RotateClusterKey(_)
        | Question::Audit(_)
        | Question::Clock(_) => ANSWER_TIMEOUT,
    };
    with_node(asking, patience, async move |channel| match question {
        Question::Status => status::run(asking, channel).await,
        Question::Members(members) => members::run(asking, channel, members).await,
        Question::Transfer(transfer) => groups::transfer(asking, channel, transfer).await,
        Question::Snapshot(snapshot) => groups::snapshot(asking, channel, snapshot).await,
        Question::Key(Key::Show(name)) => key::show(asking, channel, name).await,
        Question::Key(Key::History(name)) => key::history(asking, channel, name).await,
        Question::Key(Key::Resolve(resolve)) => resolve::run(asking, channel, resolve).await,
        Question::RotateClusterKey(signed) => cluster::rotate(asking, channel, signed).await,
        Question::Audit(audit) => audit::run(asking, channel, audit).await,
        Question::Clock(Clock::Accept(signed)) => cluster::accept_clock(asking, channel, signed).await,
    })
}

/// Connects to the node, and asks it.
fn with_node(
    asking: &Asking,
    patience: Duration,
    ask: impl AsyncFnOnce(Channel) -> Result<Exit, Problem>,
) -> Result<Exit, Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async { ask(asking.address.connect(patience).await?).await })
}
