//! The load: threads that share nothing, each with its own connections, clients and counters. A thread's clients are tasks
//! of one single-threaded runtime, so that an answer wakes its client without crossing cores: the machine's cores are
//! mostly the node's.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use holdfast_client::client::Client;
use tokio::task::{JoinSet, LocalSet};

use crate::cli::bench::cycle::{self, Ended, Shared, Start};
use crate::cli::bench::pace::Pacer;
use crate::cli::bench::source::Source;
use crate::cli::bench::tally::{Operation, Tally};
use crate::cli::bench::{Pacing, Plan};
use crate::cli::exit::Problem;
use crate::clock::{Monotonic, monotonic};

/// How long a client of a closed loop waits after a failure: a node that is down is asked, not flooded.
const PAUSE: Duration = Duration::from_millis(10);
/// How long no answer at all may come while some are due. A node answers or refuses within ten seconds.
const SILENCE: Duration = Duration::from_secs(30);
/// How long one answer is waited for: longer than it takes to see that none comes any more.
const PATIENCE: Duration = Duration::from_secs(60);
/// A thread's number stands above these bits of its keys' numbers.
const NUMBER_BITS: u32 = 48;

/// What a run measured.
#[derive(Debug)]
pub(super) struct Measured {
    /// What was counted.
    pub(super) tally: Tally,
    /// From the end of the warm-up to the last measured answer, of the thread that took longest.
    pub(super) elapsed: Duration,
    /// Measured cycles per second, over all threads.
    pub(super) cycles_per_s: f64,
}

/// Runs the load to its end.
///
/// # Errors
/// When the node cannot be reached, or no answer comes any more.
pub(super) fn run(plan: &Plan) -> Result<Measured, Problem> {
    let threads = std::thread::scope(|scope| {
        let started: Vec<_> = (0..plan.threads)
            .map(|index| {
                let builder = std::thread::Builder::new().name(format!("bench-{index}"));
                builder.spawn_scoped(scope, move || thread(plan, index))
            })
            .collect();
        let joined = started.into_iter().map(|started| {
            let thread = started.context("cannot start a thread")?;
            thread.join().map_err(|_| anyhow!("a thread of the load panicked"))?
        });
        joined.collect::<Result<Vec<_>, Problem>>()
    })?;
    let mut measured = Measured { tally: Tally::new(), elapsed: Duration::ZERO, cycles_per_s: 0.0 };
    for (tally, elapsed) in threads {
        let cycles = tally.latencies(Operation::Cycle).len();
        if cycles > 0 {
            measured.cycles_per_s += cycles as f64 / elapsed.as_secs_f64().max(1e-6);
        }
        measured.elapsed = measured.elapsed.max(elapsed);
        measured.tally.add(tally);
    }
    Ok(measured)
}

/// One thread's part of a whole that is spread evenly.
fn part(whole: u64, index: usize, threads: usize) -> u64 {
    let (index, threads) = (index as u64, threads.max(1) as u64);
    whole / threads + u64::from(index < whole % threads)
}

fn thread(plan: &Plan, index: usize) -> Result<(Tally, Duration), Problem> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    LocalSet::new().block_on(&runtime, async {
        let clients = connect(plan, index).await?;
        let shared = shared(plan, index);
        tokio::select! {
            ended = load(plan, index, clients, &shared) => ended?,
            () = silence(&shared) => return Err(Problem::unavailable(anyhow!(
                "{} gave no answer for {} s: look with `holdfast ctl status`", plan.targets(), SILENCE.as_secs()
            ))),
        }
        let elapsed = shared.last_end.get().since(shared.measure_from);
        Ok((shared.tally.replace(Tally::new()), elapsed))
    })
}

/// What a thread's clients share; the warm-up begins now.
fn shared(plan: &Plan, index: usize) -> Rc<Shared> {
    let begun = monotonic();
    let measure_from = begun.plus(plan.warmup);
    Rc::new(Shared {
        source: Source::new(plan.tenant.as_str(), plan.seed, plan.body_bytes),
        replay_share: plan.replay_share,
        begun,
        measure_from,
        tally: RefCell::new(Tally::new()),
        last_end: Cell::new(measure_from),
        answers: Cell::new(0),
        in_flight: Cell::new(0),
        next: Cell::new((index as u64) << NUMBER_BITS),
    })
}

/// Runs the first thread's load and gives up after a time, with what was counted until then.
#[cfg(test)]
pub(super) async fn for_test(plan: &Plan, give_up: Duration) -> anyhow::Result<Tally> {
    let clients = connect(plan, 0).await.map_err(|problem| problem.error)?;
    let shared = shared(plan, 0);
    if let Ok(ended) = tokio::time::timeout(give_up, load(plan, 0, clients, &shared)).await {
        ended.map_err(|problem| problem.error)?;
    }
    Ok(shared.tally.replace(Tally::new()))
}

/// A thread's clients, over its connections. Nothing is sent twice: what fails is counted.
async fn connect(plan: &Plan, index: usize) -> Result<Vec<Client>, Problem> {
    let connections = part(plan.connections as u64, index, plan.threads).max(1);
    let concurrency = part(plan.concurrency as u64, index, plan.threads);
    let client = Client::builder()
        .nodes(plan.targets.iter().map(ToString::to_string))
        .transport(plan.transport)
        .connections(usize::try_from(connections).unwrap_or(usize::MAX))
        .attempts(1)
        .attempt_timeout(PATIENCE)
        .deadline(PATIENCE)
        .connect();
    let client = client
        .await
        .map_err(|error| Problem::unavailable(anyhow!("{}: start a node, or give its --address", error.message())))?;
    Ok((0..concurrency).map(|_| client.clone()).collect())
}

async fn load(plan: &Plan, index: usize, clients: Vec<Client>, shared: &Rc<Shared>) -> Result<(), Problem> {
    match plan.pacing {
        Pacing::ClosedFor(duration) => closed(clients, shared, Until::Time(shared.measure_from.plus(duration))).await,
        Pacing::ClosedCount(cycles) => {
            closed(clients, shared, Until::Count(Cell::new(part(cycles, index, plan.threads)))).await
        }
        Pacing::Open { per_second, duration } => {
            let schedule = Schedule {
                first: shared.begun,
                measure_from: shared.measure_from,
                gap_s: plan.threads as f64 / per_second,
                end: shared.measure_from.plus(duration),
            };
            open(clients, shared, schedule).await
        }
    }
}

/// When a closed loop ends.
enum Until {
    /// At a moment.
    Time(Monotonic),
    /// When so many measured cycles were started.
    Count(Cell<u64>),
}

impl Until {
    /// Whether one more cycle may start, and counts it if so.
    fn admits(&self, start: Start) -> bool {
        match self {
            Self::Time(end) => start.at < *end,
            Self::Count(left) if start.measured => {
                let admitted = left.get() > 0;
                left.set(left.get().saturating_sub(1));
                admitted
            }
            Self::Count(_) => true,
        }
    }
}

async fn closed(clients: Vec<Client>, shared: &Rc<Shared>, until: Until) -> Result<(), Problem> {
    let until = Rc::new(until);
    let mut tasks = JoinSet::new();
    for client in clients {
        let (shared, until) = (Rc::clone(shared), Rc::clone(&until));
        tasks.spawn_local(async move {
            loop {
                let at = monotonic();
                let start = Start { at, measured: at >= shared.measure_from };
                if !until.admits(start) {
                    break;
                }
                match cycle::run(&client, &shared, start).await {
                    Ended::Answered => {}
                    Ended::Failed => tokio::time::sleep(PAUSE).await,
                }
            }
        });
    }
    while let Some(joined) = tasks.join_next().await {
        joined.context("a client of the load panicked")?;
    }
    Ok(())
}

/// When the cycles of an open loop start.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    /// The first.
    first: Monotonic,
    /// Those from then on are measured.
    measure_from: Monotonic,
    /// Seconds between two.
    gap_s: f64,
    /// None starts from then on.
    end: Monotonic,
}

impl Schedule {
    /// When the `nth` cycle starts, counted from 0: computed anew for each, so that errors do not add up.
    fn at(&self, nth: u64) -> Monotonic {
        let after = Duration::try_from_secs_f64(nth as f64 * self.gap_s).unwrap_or(Duration::MAX);
        self.first.plus(after)
    }

    /// How many measured cycles stand in the schedule from the `nth` on.
    fn left(&self, nth: u64) -> u64 {
        let gaps = self.end.since(self.at(nth).max(self.measure_from)).as_secs_f64() / self.gap_s;
        // A cycle that would start exactly at the end does not, give or take what the division rounds.
        (gaps - 1e-6).ceil() as u64
    }
}

/// Starts cycles as the schedule says, each with a client that is free. While none is free the schedule waits, and what it
/// could not start when time is up is counted.
async fn open(mut idle: Vec<Client>, shared: &Rc<Shared>, schedule: Schedule) -> Result<(), Problem> {
    let pacer = Pacer::new().context("cannot make a timer")?;
    let mut tasks = JoinSet::new();
    let mut nth = 0_u64;
    loop {
        let due = schedule.at(nth);
        if due >= schedule.end {
            break;
        }
        pacer.until(due).await.context("cannot wait on a timer")?;
        let client = match idle.pop() {
            Some(client) => client,
            None => {
                let freed = tokio::select! {
                    joined = tasks.join_next() => joined,
                    waited = pacer.until(schedule.end) => {
                        waited.context("cannot wait on a timer")?;
                        break;
                    }
                };
                let Some(freed) = freed else { break };
                freed.context("a client of the load panicked")?
            }
        };
        let now = monotonic();
        if now >= schedule.end {
            break;
        }
        let start = Start { at: due, measured: due >= shared.measure_from };
        if start.measured {
            shared.tally.borrow_mut().late(now.since(due));
        }
        let shared = Rc::clone(shared);
        tasks.spawn_local(async move {
            cycle::run(&client, &shared, start).await;
            client
        });
        nth = nth.saturating_add(1);
        while let Some(freed) = tasks.try_join_next() {
            idle.push(freed.context("a client of the load panicked")?);
        }
    }
    shared.tally.borrow_mut().not_started = schedule.left(nth);
    while let Some(joined) = tasks.join_next().await {
        joined.context("a client of the load panicked")?;
    }
    Ok(())
}

/// Returns when no answer has come for too long although some are due.
async fn silence(shared: &Shared) {
    const LOOK: Duration = Duration::from_secs(1);
    let mut seen = shared.answers.get();
    let mut silent = Duration::ZERO;
    while silent < SILENCE {
        tokio::time::sleep(LOOK).await;
        let answers = shared.answers.get();
        let due = shared.in_flight.get() > 0;
        silent = if due && answers == seen { silent.saturating_add(LOOK) } else { Duration::ZERO };
        seen = answers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_the_whole() {
        for (whole, threads) in [(0, 1), (7, 3), (256, 2), (1, 4)] {
            let sum: u64 = (0..threads).map(|index| part(whole, index, threads)).sum();
            assert_eq!(sum, whole);
        }
        assert_eq!(part(7, 0, 3), 3);
        assert_eq!(part(7, 2, 3), 2);
    }

    #[test]
    fn a_schedule_is_even_and_knows_what_is_left() {
        let first = Monotonic::at(Duration::from_secs(100));
        let schedule = Schedule {
            first,
            measure_from: first.plus(Duration::from_secs(1)),
            gap_s: 0.001,
            end: first.plus(Duration::from_secs(3)),
        };
        assert_eq!(schedule.at(0), first);
        assert_eq!(schedule.at(500).since(first), Duration::from_millis(500));
        assert_eq!(schedule.left(0), 2_000, "the warm-up does not count");
        assert_eq!(schedule.left(1_500), 1_500);
        assert_eq!(schedule.left(2_999), 1);
        assert_eq!(schedule.left(3_000), 0);
    }

    #[test]
    fn a_count_is_of_measured_cycles() {
        let until = Until::Count(Cell::new(2));
        let start = |measured| Start { at: Monotonic::at(Duration::ZERO), measured };
        assert!(until.admits(start(false)) && until.admits(start(false)), "the warm-up is free");
        assert!(until.admits(start(true)) && until.admits(start(true)));
        assert!(!until.admits(start(true)));
    }
}
