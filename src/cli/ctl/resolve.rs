//! `holdfast ctl key resolve`: an operator's audited verdict.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use holdfast_client::proto::v1;
use serde_json::json;
use tonic::transport::Channel;

use crate::cli::client::Asking;
use crate::cli::ctl::key::{self, Name};
use crate::cli::ctl::view;
use crate::cli::exit::{Exit, Problem};
use crate::cli::output::{self, Output};
use crate::cli::parse;
use crate::limits;

/// Flags of `holdfast ctl key resolve`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("verdict").required(true))]
#[command(after_help = "\
Examples:
  holdfast ctl key resolve demo order-1 --not-executed \\
      --actor ada --reason 'the bank has no charge, ticket 812'
  holdfast ctl key resolve demo order-1 --executed-status 201 \\
      --body-file answer.json --header content-type:application/json \\
      --actor ada --reason 'the bank has charge ch_7, ticket 812'

The verdict holds only while the fencing token that was looked at is still the key's last; else this ends with 1.")]
pub(super) struct Resolve {
    #[command(flatten)]
    name: Name,

    /// It ran, and every retry gets an answer with this HTTP status from now on
    #[arg(long, value_name = "STATUS", group = "verdict", value_parser = clap::value_parser!(u16).range(100..=599))]
    executed_status: Option<u16>,

    /// It did not run: the next attempt may
    #[arg(long, group = "verdict")]
    not_executed: bool,

    /// File with the body of the answer; without it the body is empty
    #[arg(long, value_name = "FILE", conflicts_with = "not_executed")]
    body_file: Option<PathBuf>,

    /// Header of the answer. May be given again
    #[arg(long, value_name = "NAME:VALUE", conflicts_with = "not_executed", value_parser = parse::header)]
    header: Vec<v1::Header>,

    /// Who decides; kept in the key's history
    #[arg(long, value_name = "NAME")]
    actor: String,

    /// Why; kept in the key's history
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// The key's last fencing token, as `key show` gave it. Without it, it is looked up and shown first
    #[arg(long, value_name = "EPOCH.SEQUENCE", value_parser = parse::fencing)]
    fencing: Option<v1::FencingToken>,
}

/// Sends the verdict.
pub(super) async fn run(asking: &Asking, channel: Channel, resolve: Resolve) -> Result<Exit, Problem> {
    let verdict = verdict(&resolve)?;
    let fencing = match resolve.fencing {
        Some(given) => given,
        None => last_fencing(asking, channel.clone(), &resolve.name).await?,
    };
    let request = v1::ResolveRequest {
        tenant: resolve.name.tenant.clone(),
        key: resolve.name.key.clone(),
        fencing: Some(fencing),
        verdict: Some(verdict),
        actor: resolve.actor,
        reason: resolve.reason,
    };
    let answer = key::reservations(channel).resolve(request).await;
    let outcome = answer.map_err(|status| asking.address.failed(&status))?.into_inner().outcome;
    report(asking.output, &resolve.name, fencing, outcome)
}

fn verdict(resolve: &Resolve) -> Result<v1::resolve_request::Verdict, Problem> {
    match resolve.executed_status {
        // The flags' group has one of the two, so this one stands for `--not-executed`.
        None => Ok(v1::resolve_request::Verdict::NotExecuted(v1::NotExecuted {})),
        Some(status) => Ok(v1::resolve_request::Verdict::Executed(v1::Envelope {
            status: u32::from(status),
            headers: resolve.header.clone(),
            body: resolve.body_file.as_deref().map_or_else(|| Ok(Vec::new()), body)?.into(),
        })),
    }
}

fn body(path: &Path) -> Result<Vec<u8>, Problem> {
    use std::io::Read as _;
    let most = u64::try_from(limits::MAX_ENVELOPE_BODY_BYTES).unwrap_or(u64::MAX);
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().with_context(|| format!("cannot read {}", path.display())).map_err(Problem::usage)?;
    if bytes.len() > limits::MAX_ENVELOPE_BODY_BYTES {
        return Err(Problem::usage(anyhow!("{} is larger than the {most} bytes that a body may have", path.display())));
    }
    Ok(bytes)
}

/// Looks the key up and says on stderr what the verdict will be about.
async fn last_fencing(asking: &Asking, channel: Channel, name: &Name) -> Result<v1::FencingToken, Problem> {
    let found = key::lookup(asking, channel, name).await?;
    let record = key::record(name, &found)?;
    let state = view::state(record.state);
    let fencing =
        record.fencing.ok_or_else(|| anyhow!("the key is {state} and was never granted: nothing to resolve"))?;
    output::complain(&format!(
        "the key is {state}: attempt {}, fencing token {}, {}",
        record.attempt,
        view::fencing(Some(&fencing)),
        record.endpoint,
    ));
    Ok(fencing)
}

fn report(
    output: Output,
    name: &Name,
    fencing: v1::FencingToken,
    outcome: Option<v1::resolve_response::Outcome>,
) -> Result<Exit, Problem> {
    let (exit, outcome, state) = match outcome {
        Some(v1::resolve_response::Outcome::Resolved(resolved)) => (Exit::Ok, "resolved", resolved.state),
        Some(v1::resolve_response::Outcome::StaleToken(stale)) => (Exit::Failed, "stale_token", stale.state),
        None => return Err(anyhow!("the node's answer has no outcome that this version of holdfast knows").into()),
    };
    let state = view::state(state);
    let token = view::fencing(Some(&fencing));
    match output {
        Output::Json => output::emit_json(&json!({
            "tenant": name.tenant,
            "key": name.key,
            "fencing": {"epoch": fencing.epoch, "sequence": fencing.sequence},
            "outcome": outcome,
            "state": state,
        }))?,
        Output::Text if exit == Exit::Ok => output::emit(&format!("resolved: the key is {state} now\n"))?,
        Output::Text => {
            return Err(anyhow!(
                "nothing was changed: {token} is not the key's last fencing token, or its outcome is not unknown; it is \
                 {state}: look with `holdfast ctl key show`"
            )
            .into());
        }
    }
    Ok(exit)
}
