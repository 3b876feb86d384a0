//! `holdfast ctl audit`: who decided what, over all partitions, by time.

mod exported;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use anyhow::anyhow;
use holdfast_client::proto::v1;
use holdfast_client::proto::v1::admin_client::AdminClient;
use serde_json::json;
use tonic::transport::Channel;

use super::view;
use crate::cli::client::{Asking, admin};
use crate::cli::exit::{Exit, Problem};
use crate::cli::output::{self, Output};
use crate::cli::parse;
use crate::control::audit::Action;

/// Which entries are shown.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each partition counts its entries from 1 and keeps the last 100,000. They are shown by time. With --output json each entry is one
line, a JSON document with its partition and its sequence.

To export it again and again, without gaps and without repeats, let it go on behind the lines that are there:
  holdfast ctl audit --output json --after audit.jsonl >> audit.jsonl
The file may be empty at first. It has to have the last line of each partition that was exported: to begin a new file, give the
old one too (--after may be given again). If entries went before they were exported, it exports the others, says which are missing,
and ends with 1. If the file's last line is cut off, because the machine failed, it exports nothing and says which line to remove.

The answering node shows what it has applied. One that is behind shows the rest next time.

Examples:
  holdfast ctl audit --since 1d
  holdfast ctl audit --since 2026-11-24T08:00:00Z --action set-policies
  holdfast ctl audit --output json | jq -r 'select(.target == \"acme\") | .reason'")]
pub(super) struct Audit {
    /// Entries of the last time, such as 2h or 7d, or since a time in UTC, such as 2026-11-24 or 2026-11-24T08:00:00Z
    #[arg(long, value_name = "DURATION|TIME", value_parser = parse::since, conflicts_with = "after")]
    since: Option<u64>,

    /// Entries of one action
    #[arg(long, value_name = "ACTION", value_parser = action)]
    action: Option<&'static str>,

    /// A file of exported lines: of each partition, go on behind its last entry there. May be given again
    #[arg(long, value_name = "FILE", conflicts_with = "action")]
    after: Vec<PathBuf>,
}

fn action(text: &str) -> Result<&'static str, String> {
    let names = || Action::ALL.map(Action::as_str).join(", ");
    Action::parse(text).map(Action::as_str).ok_or_else(|| format!("{text:?} is no action: write one of {}", names()))
}

/// Bytes that are collected before they are written.
const WRITTEN_BYTES: usize = 64 * 1024;

/// Shows the entries. Ends with 1 if some went before they were exported.
pub(super) async fn run(asking: &Asking, channel: Channel, audit: Audit) -> Result<Exit, Problem> {
    let after = exported::last_sequences(&audit.after)?;
    let mut merge = Merge::start(asking, channel, &after).await?;
    let mut text = String::new();
    while let Some(entry) = merge.next().await? {
        if !is_asked(&audit, &entry) {
            continue;
        }
        text.push_str(&match asking.output {
            Output::Text => line(&entry),
            Output::Json => json_line(&entry),
        });
        if text.len() >= WRITTEN_BYTES {
            output::emit(&std::mem::take(&mut text))?;
        }
    }
    output::emit(&text)?;
    match merge.missing.is_empty() {
        true => Ok(Exit::Ok),
        false => Err(anyhow!("these went before they were exported: {}", merge.missing.join("; ")).into()),
    }
}

fn is_asked(audit: &Audit, entry: &v1::AuditEntry) -> bool {
    audit.since.is_none_or(|since| entry.at_unix_ms >= since)
        && audit.action.is_none_or(|action| entry.action == action)
}

/// An entry for people.
fn line(entry: &v1::AuditEntry) -> String {
    let place = format!("{}:{}", entry.partition, entry.sequence);
    let what = format!("{} {}", entry.action, view::one_line(&entry.target));
    let detail = if entry.detail.is_empty() { String::new() } else { format!(" ({})", view::one_line(&entry.detail)) };
    let (actor, reason) = (view::one_line(&entry.actor), view::one_line(&entry.reason));
    format!("{}  {place:<8}  {actor}: {what}{detail}: {reason}\n", output::time(entry.at_unix_ms))
}

/// An entry for scripts.
fn json_line(entry: &v1::AuditEntry) -> String {
    let document = json!({
        "partition": entry.partition,
        "sequence": entry.sequence,
        "at_unix_ms": entry.at_unix_ms,
        "at": output::time(entry.at_unix_ms),
        "actor": entry.actor,
        "reason": entry.reason,
        "action": entry.action,
        "target": entry.target,
        "detail": entry.detail,
    });
    format!("{document}\n")
}

/// The entries of all partitions by time, with one page of each in memory.
struct Merge<'a> {
    asking: &'a Asking,
    client: AdminClient<Channel>,
    tails: Vec<Tail>,
    /// What the node no longer has of what was asked.
    missing: Vec<String>,
}

/// What is left of one partition.
struct Tail {
    partition: u32,
    page: VecDeque<v1::AuditEntry>,
    /// Where the next page begins. 0: there is none.
    next: u64,
}

impl<'a> Merge<'a> {
    /// Begins in each partition behind the sequence that is named for it.
    async fn start(asking: &'a Asking, channel: Channel, after: &BTreeMap<u32, u64>) -> Result<Self, Problem> {
        let mut client = admin(channel);
        let answer = client.status(v1::StatusRequest {}).await;
        let partitions = answer.map_err(|status| asking.address.failed(&status))?.into_inner().partitions;
        let mut merge = Self { asking, client, tails: Vec::new(), missing: Vec::new() };
        for partition in 0..partitions {
            let last = after.get(&partition).copied().unwrap_or_default();
            let mut tail = Tail { partition, page: VecDeque::new(), next: last.saturating_add(1) };
            // Where nothing was exported, what is kept is all that there is.
            merge.fill(&mut tail, last > 0).await?;
            merge.tails.push(tail);
        }
        Ok(merge)
    }

    /// Gets the next page of a partition that has none left. `goes_on`: it follows what was read before.
    async fn fill(&mut self, tail: &mut Tail, goes_on: bool) -> Result<(), Problem> {
        if !tail.page.is_empty() || tail.next == 0 {
            return Ok(());
        }
        let request = v1::AuditRequest { partition: tail.partition, from: tail.next };
        let answer = self.client.audit(request).await;
        let v1::AuditResponse { entries, next } =
            answer.map_err(|status| self.asking.address.failed(&status))?.into_inner();
        if next != 0 && (next <= tail.next || entries.is_empty()) {
            return Err(anyhow!(
                "partition {}: the node's answer goes back to {next}: please report this",
                tail.partition
            )
            .into());
        }
        let first = entries.first().map_or(0, |entry| entry.sequence);
        if goes_on && first > tail.next {
            self.missing.push(format!("partition {}, {} to {}", tail.partition, tail.next, first.saturating_sub(1)));
        }
        (tail.page, tail.next) = (entries.into(), next);
        Ok(())
    }

    /// The oldest entry of those that are left. Of one partition, their times never go back.
    async fn next(&mut self) -> Result<Option<v1::AuditEntry>, Problem> {
        let at = |tail: &Tail| tail.page.front().map(|entry| (entry.at_unix_ms, entry.partition));
        let oldest = self.tails.iter().enumerate().filter_map(|(index, tail)| Some((at(tail)?, index))).min();
        let Some((_, index)) = oldest else { return Ok(None) };
        let mut tail = self.tails.swap_remove(index);
        let entry = tail.page.pop_front();
        self.fill(&mut tail, true).await?;
        self.tails.push(tail);
        Ok(entry)
    }
}

#[cfg(test)]
mod tests;
