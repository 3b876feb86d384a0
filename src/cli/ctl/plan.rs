//! `holdfast ctl plan capacity`: what a workload asks of disks, memory and partitions. The counting is `crate::plan`'s; here is
//! where the workload comes from, and how the result looks.

mod observed;
mod pages;
mod report;
mod scrape;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;

use crate::cli::exit::{Exit, Problem};
use crate::cli::output::{self, Output};
use crate::cli::parse;
use crate::cli::settings::file;
use crate::limits;
use crate::plan::findings::Level;
use crate::plan::workload::Workload;
use crate::plan::{self, file as plan_file};
use crate::time::Span;

use observed::{Assumed, Observed};
use pages::Place;

/// What is planned.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Plan {
    /// From keys a day to disk, memory, speed and partitions; ends with 1 if no region carries it
    #[command(after_help = "\
What it counts, and how far off it can be, is in docs/guides/capacity.md, with every field of the file.

Rates are read from two looks at a page (--over, or two files of each node), or from one and when the node started. Give the
page of every node of the region: each counts the replays that it answered.

Examples:
  holdfast ctl plan capacity --file deploy/capacity/payments.toml
  holdfast ctl plan capacity --metrics http://10.0.0.1:7400/metrics --over 10m --peak-factor 6
  holdfast ctl plan capacity --metrics before.txt --metrics after.txt --retention 7d
  holdfast ctl plan capacity --metrics http://127.0.0.1:7400 --print-file > plan.toml")]
    Capacity(Capacity),
}

/// Where the workload comes from.
#[derive(Debug, clap::Args)]
pub(super) struct Capacity {
    #[command(flatten)]
    origin: Origin,

    /// How long to look, between two looks at each page that is fetched; without it, a page counts since its node started
    #[arg(long, value_name = "DURATION", value_parser = over, conflicts_with = "file")]
    over: Option<Duration>,

    /// How much busier than what is seen the busiest moment is
    #[arg(long, value_name = "NUMBER", value_parser = peak_factor, conflicts_with = "file")]
    #[arg(default_value_t = plan_file::DEFAULT_PEAK_FACTOR)]
    peak_factor: f64,

    /// How long records are kept; without it, as long as the severity says that they were granted under
    #[arg(long, value_name = "DURATION", value_parser = retention, conflicts_with = "file")]
    retention: Option<Span>,

    /// Print the workload as a file for --file, to be completed by hand, in place of the plan
    #[arg(long, conflicts_with = "file")]
    print_file: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Origin {
    /// A workload that somebody wrote down, in TOML
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// A node's page of metrics: its address, or a file with the page; may be given several times
    #[arg(long, value_name = "URL|FILE")]
    metrics: Vec<Place>,
}

fn over(text: &str) -> Result<Duration, String> {
    let (over, least) = (parse::duration(text)?, Duration::from_millis(limits::MIN_RATE_WINDOW_MS));
    if over < least {
        return Err(format!("{text} is too short to read rates from: write 10s or more"));
    }
    Ok(over)
}

fn peak_factor(text: &str) -> Result<f64, String> {
    let (least, most) = (limits::PLANNED_PEAK.start(), limits::PLANNED_PEAK.end());
    match text.parse::<f64>() {
        Ok(factor) if limits::PLANNED_PEAK.contains(&factor) => Ok(factor),
        Ok(_) | Err(_) => Err(format!("{text:?} is no factor of a peak: write {least} to {most}")),
    }
}

fn retention(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    let (least, most) = (*limits::RETENTION_MS.start(), *limits::RETENTION_MS.end());
    match limits::RETENTION_MS.contains(&span.ms()) {
        true => Ok(span),
        false => Err(format!("{text} is out of bounds: write {} to {}", Span::from_ms(least), Span::from_ms(most))),
    }
}

/// Plans what was asked.
pub(super) fn run(plan: Plan, output: Output) -> Result<Exit, Problem> {
    let Plan::Capacity(capacity) = plan;
    let (workload, observed) = workload(&capacity)?;
    if capacity.print_file {
        output::emit(&report::file(&workload, observed.as_ref()))?;
        return Ok(Exit::Ok);
    }
    let plan = plan::Plan::of(&workload);
    match output {
        Output::Text => output::emit(&report::text(&workload, &plan, observed.as_ref()))?,
        Output::Json => output::emit_json(&report::document(&workload, &plan, observed.as_ref()))?,
    }
    let failed = plan.findings.iter().any(|finding| finding.level == Level::Error);
    Ok(if failed { Exit::Failed } else { Exit::Ok })
}

fn workload(capacity: &Capacity) -> Result<(Workload, Option<Observed>), Problem> {
    if let Some(path) = &capacity.origin.file {
        let text = file::text(path, limits::MAX_PLAN_FILE_BYTES).map_err(Problem::usage)?;
        let workload = plan_file::parse(&text);
        return workload.map(|workload| (workload, None)).map_err(|wrong| refused(&path.display().to_string(), &wrong));
    }
    let looks = pages::looks(&capacity.origin.metrics, capacity.over)?;
    let assumed = Assumed { peak_factor: capacity.peak_factor, retention_ms: capacity.retention.map(Span::ms) };
    let observed = Observed::of(&looks, assumed).map_err(|why| Problem::from(anyhow!(why)))?;
    Ok((observed.workload.clone(), Some(observed)))
}

/// All that is wrong with a file, on one line.
fn refused(name: &str, wrong: &[String]) -> Problem {
    Problem::usage(anyhow!("{name}: {}", wrong.join("; ")))
}
