//! What a run found: for people, and as JSON with stable names that bear their units.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use holdfast_client::client::Transport;
use serde_json::{Value, json};

use crate::cli::bench::floor::Floor;
use crate::cli::bench::load::Measured;
use crate::cli::bench::tally::Operation;
use crate::cli::bench::{Pacing, Plan};
use crate::cli::exit::Exit;
use crate::cli::output::{self, count};

/// The quantiles that are reported, and their names.
const QUANTILES: [(f64, &str); 4] = [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9")];

/// A run and what it found.
#[derive(Debug)]
pub(super) struct Report<'a> {
    /// What was run.
    pub(super) plan: &'a Plan,
    /// What was measured.
    pub(super) measured: &'a Measured,
    /// What the disk needed, if it was asked.
    pub(super) floor: Option<Floor>,
}

impl Report<'_> {
    /// How the command ends.
    pub(super) fn exit(&self) -> Exit {
        if self.measured.tally.wrong > 0 {
            return Exit::Failed;
        }
        if self.cycles() == 0 {
            return Exit::Unavailable;
        }
        Exit::Ok
    }

    /// How calls travelled: for people, and its name.
    fn transport(&self) -> (&'static str, &'static str) {
        match self.plan.transport {
            Transport::Unary => ("single requests", "unary"),
            Transport::Session => ("sessions", "session"),
        }
    }

    fn cycles(&self) -> u64 {
        self.measured.tally.latencies(Operation::Cycle).len()
    }

    fn operations(&self) -> u64 {
        let calls = [Operation::Reserve, Operation::Complete, Operation::Replay];
        calls.into_iter().map(|operation| self.measured.tally.latencies(operation).len()).sum()
    }

    fn operations_per_s(&self) -> f64 {
        match self.cycles() {
            0 => 0.0,
            cycles => self.measured.cycles_per_s * self.operations() as f64 / cycles as f64,
        }
    }

    /// The median of reserve over that of the floor.
    fn ratio(&self, floor: &Floor) -> Option<f64> {
        let reserve = self.measured.tally.latencies(Operation::Reserve);
        (!reserve.is_empty()).then(|| reserve.value_at_quantile(0.5) as f64 / floor.p50_us().max(1) as f64)
    }

    /// The report for people.
    pub(super) fn text(&self) -> String {
        let plan = self.plan;
        let tally = &self.measured.tally;
        let mut text = String::new();
        let pacing = match plan.pacing {
            Pacing::ClosedFor(_) | Pacing::ClosedCount(_) => {
                format!("closed loop, {}", some(plan.concurrency, "client"))
            }
            Pacing::Open { per_second, .. } => {
                format!("open loop, {per_second} cycles/s, at most {} in flight", plan.concurrency)
            }
        };
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        line(format!("holdfast bench of {} over {}", plan.targets(), self.transport().0));
        line(format!(
            "{pacing}, {}, {}, {}-byte bodies, {} of the keys replayed",
            some(plan.connections, "connection"),
            some(plan.threads, "thread"),
            plan.body_bytes,
            plan.replay_share
        ));
        line(String::new());
        line(format!(
            "{} cycles/s  ({} cycles in {:.2} s after {:.1} s of warm-up; {} operations/s)",
            count(self.measured.cycles_per_s as u64),
            count(self.cycles()),
            self.measured.elapsed.as_secs_f64(),
            plan.warmup.as_secs_f64(),
            count(self.operations_per_s() as u64),
        ));
        line(String::new());
        let mut heads = vec!["latency in us".to_owned(), "count".to_owned()];
        heads.extend(QUANTILES.map(|(_, name)| name.to_owned()));
        heads.push("max".to_owned());
        let mut rows = vec![heads];
        rows.extend(Operation::ALL.map(|operation| row(operation.name(), tally.latencies(operation))));
        if !tally.lag.is_empty() {
            rows.push(row("start lag", &tally.lag));
        }
        line(output::table(&rows));
        for line_of in [self.failures_text(), self.wrong_text(), self.floor_text()] {
            line(line_of);
        }
        text.trim_end().to_owned() + "\n"
    }

    fn failures_text(&self) -> String {
        let tally = &self.measured.tally;
        let mut text = match tally.errors.is_empty() {
            true => "failed calls   none".to_owned(),
            false => "failed calls".to_owned(),
        };
        for ((operation, code), number) in &tally.errors {
            let _infallible = write!(text, "\n  {} of {}: {code}", count(*number), operation.name());
        }
        if tally.not_started > 0 {
            let _infallible =
                write!(text, "\nnot started    {} cycles: as many as allowed were in flight", count(tally.not_started));
        }
        text
    }

    fn wrong_text(&self) -> String {
        let tally = &self.measured.tally;
        let compared = count(tally.compared);
        let mut text = match tally.wrong {
            0 => format!("wrong answers  none ({compared} replays compared byte for byte)"),
            wrong => format!("wrong answers  {} ({compared} replays compared)", count(wrong)),
        };
        for named in &tally.named {
            let _infallible = write!(text, "\n  {named}");
        }
        text
    }

    fn floor_text(&self) -> String {
        let Some(floor) = &self.floor else { return String::new() };
        let quantiles = |latencies: &Histogram<u64>| {
            format!("p50 {} us, p99 {} us", latencies.value_at_quantile(0.5), latencies.value_at_quantile(0.99))
        };
        let ratio = match self.ratio(floor) {
            Some(ratio) => format!("; reserve p50 is {ratio:.2} times the floor's"),
            None => String::new(),
        };
        format!(
            "disk floor     4 KiB append and fdatasync in {}: {} before, {} after{ratio}",
            floor.dir.display(),
            quantiles(&floor.before),
            quantiles(&floor.after),
        )
    }

    /// The report for programs.
    pub(super) fn document(&self) -> Value {
        let plan = self.plan;
        let tally = &self.measured.tally;
        let (mode, rate) = match plan.pacing {
            Pacing::ClosedFor(_) | Pacing::ClosedCount(_) => ("closed", None),
            Pacing::Open { per_second, .. } => ("open", Some(per_second)),
        };
        let operations: serde_json::Map<String, Value> = Operation::ALL
            .into_iter()
            .map(|operation| (operation.name().to_owned(), latencies_document(tally.latencies(operation))))
            .collect();
        let errors: Vec<Value> = tally
            .errors
            .iter()
            .map(|((operation, code), number)| json!({"operation": operation.name(), "code": code, "count": number}))
            .collect();
        json!({
            "address": plan.targets(),
            "transport": self.transport().1,
            "mode": mode,
            "rate_per_s": rate,
            "concurrency": plan.concurrency,
            "connections": plan.connections,
            "threads": plan.threads,
            "body_bytes": plan.body_bytes,
            "replay_share": plan.replay_share,
            "warmup_s": plan.warmup.as_secs_f64(),
            "elapsed_s": self.measured.elapsed.as_secs_f64(),
            "cycles": self.cycles(),
            "cycles_per_s": self.measured.cycles_per_s,
            "operations_per_s": self.operations_per_s(),
            "not_started": tally.not_started,
            "operations": operations,
            "start_lag": (!tally.lag.is_empty()).then(|| latencies_document(&tally.lag)),
            "errors": errors,
            "wrong": {"count": tally.wrong, "first": tally.named, "replays_compared": tally.compared},
            "floor": self.floor.as_ref().map(|floor| json!({
                "dir": floor.dir.display().to_string(),
                "append_bytes": 4_096,
                "before": latencies_document(&floor.before),
                "after": latencies_document(&floor.after),
                "p50_us": floor.p50_us(),
                "reserve_p50_ratio": self.ratio(floor),
            })),
        })
    }
}

/// A number of things, such as `1 client` or `2 clients`.
fn some(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

fn row(name: &str, latencies: &Histogram<u64>) -> Vec<String> {
    let mut row = vec![name.to_owned(), count(latencies.len())];
    row.extend(QUANTILES.map(|(quantile, _)| count(latencies.value_at_quantile(quantile))));
    row.push(count(latencies.max()));
    row
}

fn latencies_document(latencies: &Histogram<u64>) -> Value {
    json!({
        "count": latencies.len(),
        "mean_us": latencies.mean(),
        "p50_us": latencies.value_at_quantile(0.5),
        "p90_us": latencies.value_at_quantile(0.9),
        "p99_us": latencies.value_at_quantile(0.99),
        "p99_9_us": latencies.value_at_quantile(0.999),
        "max_us": latencies.max(),
    })
}
