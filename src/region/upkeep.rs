//! What a node does without being asked: moves log time on, sweeps, snapshots and purges, watches its disk and its
//! groups.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::clock::{self, Monotonic};
use crate::codec::batch::Operation;
use crate::limits;
use crate::raft::OperationReply;
use crate::region::Region;
use crate::region::partition::Partition;
use crate::time::LogTime;

/// How often groups and disk are looked at.
pub(super) const WATCH: Duration = Duration::from_millis(200);
/// How often a partition looks for work.
const WORK: Duration = Duration::from_millis(500);
/// Log time moves on at least this often while nothing else happens, in milliseconds.
const IDLE_TICK_MS: u64 = 60_000;
/// A partition sweeps for so long before it looks at its snapshots again.
const SWEEPING: Duration = Duration::from_secs(2);
/// Records that are overdue for longer are removed faster.
const LATE: Duration = Duration::from_secs(600);
/// A held clock is told of this often.
const HELD_CLOCK_NOTICE: Duration = Duration::from_secs(600);

/// Watches the disk and the groups, for as long as the node runs.
pub(super) async fn watch(region: Arc<Region>) {
    loop {
        region.look_at_disk();
        for partition in region.partitions() {
            partition.group.check();
        }
        if let Some(first) = region.partitions().first() {
            region.tokens.follow(&first.group.state().cluster_keys);
        }
        tokio::time::sleep(WATCH).await;
    }
}

/// Keeps one partition, for as long as the node runs. One of them sweeps at a time: who has the turn.
pub(super) async fn keep(partition: Partition, accept_clock_jump: bool, turn: Arc<Semaphore>) {
    let mut noticed = None;
    loop {
        tokio::time::sleep(WORK).await;
        if partition.group.stopped().is_some() {
            return;
        }
        if partition.gate.served().is_some() {
            lead(&partition, accept_clock_jump, &mut noticed, &turn).await;
        }
        if let Err(error) = partition.group.snapshot_if_due().await {
            tracing::debug!(%error, "no snapshot was taken");
        }
    }
}

/// What only the leader does: it proposes.
async fn lead(partition: &Partition, accept_clock_jump: bool, noticed: &mut Option<Monotonic>, turn: &Semaphore) {
    let state = partition.group.state();
    if state.clock_held {
        if accept_clock_jump {
            propose(partition, Operation::AcceptClock { up_to_unix_ms: clock::wall_unix_ms(), signature: None }).await;
        } else if noticed.is_none_or(|at| clock::monotonic().since(at) > HELD_CLOCK_NOTICE) {
            *noticed = Some(clock::monotonic());
            tracing::warn!(
                partition = %partition.id(),
                log_time_unix_ms = state.log_time_unix_ms,
                clock_unix_ms = clock::wall_unix_ms(),
                "the clock is over an hour ahead of log time, so nothing expires: check it, then `holdfast ctl clock accept`"
            );
        }
    }
    tick(partition, state.log_time_unix_ms).await;
    sweep(partition, state.log_time_unix_ms, turn).await;
}

/// Log time that stands still would hold the clock after an idle hour.
async fn tick(partition: &Partition, log_time_unix_ms: u64) {
    if clock::wall_unix_ms().saturating_sub(log_time_unix_ms) > IDLE_TICK_MS {
        propose(partition, Operation::Tick).await;
    }
}

/// Sweeps while something is due, up to a time; each sweep is one bounded entry among the live ones, and leaves them most of the
/// node's time.
async fn sweep(partition: &Partition, log_time_unix_ms: u64, turn: &Semaphore) {
    let clock_ms = clock::wall_unix_ms();
    let trusted = clock_ms.saturating_sub(log_time_unix_ms) <= limits::MAX_CLOCK_JUMP_MS;
    let now = LogTime::from_unix_ms(if trusted { clock_ms.max(log_time_unix_ms) } else { log_time_unix_ms });
    let end = clock::monotonic().plus(SWEEPING);
    while clock::monotonic() < end {
        let oldest = match partition.group.oldest_expired(now) {
            Ok(Some(oldest)) => oldest,
            Ok(None) => return,
            Err(error) => return partition.group.stop_serving(&error.to_string()),
        };
        let Ok(_turn) = turn.acquire().await else { return };
        let begun = clock::monotonic();
        match propose(partition, Operation::Sweep { limit: limits::MAX_SWEPT_RECORDS }).await {
            Some(OperationReply::Swept(removed)) if removed > 0 => {}
            Some(
                OperationReply::Swept(_) | OperationReply::Key(_) | OperationReply::Control(_) | OperationReply::Done,
            )
            | None => return,
        }
        let overdue = Duration::from_millis(now.unix_ms().saturating_sub(oldest.unix_ms()));
        tokio::time::sleep(pause(clock::monotonic().since(begun), overdue)).await;
    }
}

/// What a sweep that took so long leaves to others before the next one: four fifths of the time, or half of it once records are long
/// overdue, since a node must not make keys faster than it removes them.
fn pause(took: Duration, overdue: Duration) -> Duration {
    if overdue < LATE { took.saturating_mul(4) } else { took }
}

async fn propose(partition: &Partition, operation: Operation) -> Option<OperationReply> {
    match partition.group.propose(operation).await {
        Ok(reply) => Some(reply),
        Err(error) => {
            tracing::debug!(partition = %partition.id(), %error, "upkeep was not recorded: it is tried again");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_leaves_most_of_the_time_and_less_once_it_is_late() {
        let ms = Duration::from_millis;
        assert_eq!(pause(ms(5), ms(0)), ms(20));
        assert_eq!(pause(ms(5), LATE.saturating_sub(ms(1))), ms(20));
        assert_eq!(pause(ms(5), LATE), ms(5));
        assert_eq!(pause(Duration::MAX, ms(0)), Duration::MAX);
    }
}
