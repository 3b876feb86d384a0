//! `holdfast bench`: load on a running node, with every answer checked.
//!
//! One cycle is what a service does: reserve a fresh key, complete it, and for a share of the keys ask again, which must
//! replay the response byte for byte. Closed loop: each client starts its next cycle when its last one ended. Open loop
//! (`--rate`): cycles start on a fixed schedule, and latency counts from the scheduled start, so that a stall of the node
//! shows in every cycle that it delayed and not only in those that were under way (coordinated omission).
//!
//! It asks through the client that services use, over sessions or with a request for each call.
//!
//! Deliberately absent: retries. What fails is counted by its code, and the next cycle has another key.

mod cycle;
mod floor;
mod load;
mod pace;
mod report;
mod source;
mod tally;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use holdfast_client::client::Transport;

use crate::cli::client::{Address, Asking};
use crate::cli::exit::{Exit, Problem};
use crate::cli::output::{self, Output};
use crate::cli::parse;
use crate::ids::TenantId;
use crate::limits;

/// Clients that share a connection unless told otherwise: enough to fill its frames, few enough to share its flow control.
const CLIENTS_PER_CONNECTION: usize = 64;
/// Clients that share a session unless told otherwise: the more there are, the more calls go together.
const CLIENTS_PER_SESSION: usize = 256;
/// Connections at the most unless told otherwise.
const DEFAULT_MOST_CONNECTIONS: usize = 8;
/// Clients of one run: beyond it the machine of the clients is what is measured.
const MAX_CONCURRENCY: u64 = 16_384;
/// Connections of one run.
const MAX_CONNECTIONS: u64 = 256;
/// Threads of one run.
const MAX_THREADS: u64 = 64;

/// Flags of `holdfast bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  holdfast bench --concurrency 256 --duration 30s
  holdfast bench --concurrency 256 --session
  holdfast bench --session --target 10.0.0.1:7400,10.0.0.2:7400,10.0.0.3:7400
  holdfast bench --concurrency 1 --floor-dir ./holdfast-data
  holdfast bench --rate 5000 --concurrency 512 --output json | jq .operations.reserve.p99_us

Latencies are in microseconds; `cycle` is from reserve to the answer of complete. With --rate, latency counts from the \
scheduled start, --concurrency bounds the cycles in flight, and what could not start in time is counted as not started.

Ends with 1 if any answer was wrong: a replayed byte, a second grant, an unexpected outcome. Ends with 3 if no cycle could \
be completed, or no answer came for 30 s. Calls that failed (overload, say) are counted by their code and are no reason to \
end with 1.")]
pub(crate) struct Bench {
    #[command(flatten)]
    asking: Asking,

    /// Nodes of a region, instead of --address: the client finds out which of them leads what. Calls that fail are not sent
    /// again elsewhere
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    target: Vec<Address>,

    /// Send calls over sessions: many on one stream. Without it each call is a request of its own
    #[arg(long)]
    session: bool,

    /// Clients at a time; with --rate the most cycles in flight
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=MAX_CONCURRENCY))]
    concurrency: u64,

    /// How long to measure, after the warm-up
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse::duration)]
    duration: Duration,

    /// Measure this many cycles instead of a time
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["duration", "rate"], value_parser = clap::value_parser!(u64).range(1..))]
    cycles: Option<u64>,

    /// Load before measuring starts: checked, not measured
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse::duration)]
    warmup: Duration,

    /// Open loop: start this many cycles per second, such as 5000. Without it: closed loop
    #[arg(long, value_name = "PER_SECOND", value_parser = parse::rate)]
    rate: Option<f64>,

    /// Bytes of each response's body
    #[arg(long, value_name = "BYTES", default_value_t = 512)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=limits::MAX_ENVELOPE_BODY_BYTES as u64))]
    body_bytes: u64,

    /// Share of the completed keys that are asked again, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.2, value_parser = parse::share)]
    replay_share: f64,

    /// HTTP/2 connections to each node [default: one for 64 clients, with --session one for 256; 1 to 8]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=MAX_CONNECTIONS))]
    connections: Option<u64>,

    /// Threads of the clients [default: half of the cores, at most one for a connection]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=MAX_THREADS))]
    threads: Option<u64>,

    /// Whose keys
    #[arg(long, value_name = "TENANT", default_value = "bench", value_parser = TenantId::parse)]
    tenant: TenantId,

    /// Measure also how long appending 4 KiB and fdatasync take in this directory, before and after the load, and compare.
    /// Choose one on the disk of the node's data directory
    #[arg(long, value_name = "DIR")]
    floor_dir: Option<PathBuf>,
}

/// What a run does, checked.
#[derive(Clone, Debug)]
struct Plan {
    /// Where the nodes are.
    targets: Vec<Address>,
    /// How calls travel.
    transport: Transport,
    /// How cycles start.
    pacing: Pacing,
    /// Load before measuring starts.
    warmup: Duration,
    /// Cycles at a time, over all threads.
    concurrency: usize,
    /// Connections, over all threads.
    connections: usize,
    /// Threads.
    threads: usize,
    /// Bytes of a body.
    body_bytes: usize,
    /// Share of keys that are asked again.
    replay_share: f64,
    /// Whose keys.
    tenant: TenantId,
    /// Names the run's keys and picks its bytes.
    seed: u64,
}

/// How cycles start, and when it is enough.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pacing {
    /// Each client starts the next cycle when its last one ended, until the time is up.
    ClosedFor(Duration),
    /// The same, until this many were started.
    ClosedCount(u64),
    /// On a schedule, until the time is up.
    Open {
        /// Starts per second, over all threads.
        per_second: f64,
        /// For how long.
        duration: Duration,
    },
}

impl Bench {
    fn plan(&self, seed: u64) -> Result<Plan, Problem> {
        let concurrency = as_count(self.concurrency);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let transport = if self.session { Transport::Session } else { Transport::Unary };
        let connections = self.connections.map_or_else(|| default_connections(concurrency, transport), as_count);
        let connections = connections.min(concurrency);
        let threads = self.threads.map_or(cores / 2, as_count).clamp(1, connections);
        let per_connection = concurrency.div_ceil(connections);
        let most = usize::try_from(limits::MAX_STREAMS_PER_CONNECTION).unwrap_or(usize::MAX);
        if per_connection > most {
            return Err(Problem::usage(anyhow!(
                "--concurrency {concurrency} over --connections {connections} is {per_connection} requests at a time on \
                 one connection, and a node takes {most}: use at least {} connections",
                concurrency.div_ceil(most)
            )));
        }
        let pacing = match (self.rate, self.cycles) {
            (Some(per_second), _) => Pacing::Open { per_second, duration: self.duration },
            (None, Some(cycles)) => Pacing::ClosedCount(cycles),
            (None, None) => Pacing::ClosedFor(self.duration),
        };
        let targets = match self.target.as_slice() {
            [] => vec![self.asking.address.clone()],
            named => named.to_vec(),
        };
        Ok(Plan {
            targets,
            transport,
            pacing,
            warmup: self.warmup,
            concurrency,
            connections,
            threads,
            body_bytes: as_count(self.body_bytes),
            replay_share: self.replay_share,
            tenant: self.tenant.clone(),
            seed,
        })
    }
}

impl Plan {
    /// The nodes, in one line.
    fn targets(&self) -> String {
        self.targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

fn default_connections(concurrency: usize, transport: Transport) -> usize {
    let share = match transport {
        Transport::Unary => CLIENTS_PER_CONNECTION,
        Transport::Session => CLIENTS_PER_SESSION,
    };
    (concurrency / share).clamp(1, DEFAULT_MOST_CONNECTIONS).max(concurrency.div_ceil(1_024))
}

fn as_count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Puts the load on the node, and reports.
pub(crate) fn run(bench: Bench) -> Result<Exit, Problem> {
    let plan = bench.plan(random_seed())?;
    let floor = |dir: &PathBuf| floor::measure(dir).map_err(Problem::usage);
    let before = bench.floor_dir.as_ref().map(floor).transpose()?;
    let measured = load::run(&plan)?;
    let after = bench.floor_dir.as_ref().map(floor).transpose()?;
    let floor = bench.floor_dir.as_deref().zip(before).zip(after);
    let floor = floor.map(|((dir, before), after)| floor::Floor { dir: dir.to_owned(), before, after });
    let report = report::Report { plan: &plan, measured: &measured, floor };
    match bench.asking.output {
        Output::Text => output::emit(&report.text())?,
        Output::Json => output::emit_json(&report.document())?,
    }
    Ok(report.exit())
}

#[expect(clippy::disallowed_methods, reason = "a run's keys must differ from those of every earlier run")]
fn random_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}
