//! When a group takes a snapshot, and how much of its log stays: so much that a follower which is a little behind gets
//! entries, and never more because of one that is gone.

use std::collections::VecDeque;

use crate::limits;
use crate::raft::ProposeError;
use crate::raft::group::Group;

/// How exactly a log's bytes are known by their entries.
const STEP_BYTES: u64 = 1024 * 1024;

/// How many bytes a log has had so far, and about where in it they are.
#[derive(Debug, Default)]
pub(super) struct LogBytes {
    total: u64,
    /// Indexes, ascending, and what came before each.
    marks: VecDeque<(u64, u64)>,
}

impl LogBytes {
    /// Of a log that has `bytes` from `first` on and before `end`: evenly, for want of anything better.
    pub(super) fn of(first: u64, end: u64, bytes: u64) -> Self {
        let entries = end.saturating_sub(first);
        let steps = bytes.div_euclid(STEP_BYTES).min(entries).max(1);
        let share = |of: u64, step: u64| u64::try_from(u128::from(of) * u128::from(step) / u128::from(steps));
        let mark = |step| Some((first.saturating_add(share(entries, step).ok()?), share(bytes, step).ok()?));
        Self { total: bytes, marks: (0..steps).filter_map(mark).collect() }
    }

    /// Counts an appended entry.
    pub(super) fn add(&mut self, index: u64, bytes: usize) {
        if self.marks.back().is_none_or(|(_, before)| self.total.saturating_sub(*before) >= STEP_BYTES) {
            self.marks.push_back((index, self.total));
        }
        self.total = self.total.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Forgets where entries are that were cut off.
    pub(super) fn cut(&mut self, from: u64) {
        while self.marks.back().is_some_and(|(index, _)| *index >= from) {
            self.marks.pop_back();
        }
    }

    /// Forgets where entries were that were purged, up to and with `upto`.
    pub(super) fn purge(&mut self, upto: u64) {
        while self.marks.get(1).is_some_and(|(index, _)| index.saturating_sub(1) <= upto) {
            self.marks.pop_front();
        }
    }

    /// All that was appended, purged or not: it only grows.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// About what the log has now.
    pub(super) fn kept(&self) -> u64 {
        self.marks.front().map_or(0, |(_, before)| self.total.saturating_sub(*before))
    }

    /// The last entry behind which there are at least so many bytes.
    pub(super) fn purgeable(&self, keep: u64) -> Option<u64> {
        let enough = |(_, before): &&(u64, u64)| self.total.saturating_sub(*before) >= keep;
        self.marks.iter().rev().find(enough).and_then(|(index, _)| index.checked_sub(1))
    }
}

impl Group {
    /// Takes a snapshot if the log has grown enough since the last, and purges the log behind one that was taken.
    ///
    /// # Errors
    /// When the group has stopped.
    pub async fn snapshot_if_due(&self) -> Result<(), ProposeError> {
        let progress = self.progress();
        self.exports.tidy(progress.purged_index).await;
        self.purge().await?;
        let entries = progress.applied_index.saturating_sub(progress.snapshot_index);
        if self.log_grown() < limits::SNAPSHOT_LOG_BYTES && entries < limits::SNAPSHOT_LOG_ENTRIES {
            return Ok(());
        }
        self.forget_received().await;
        self.trigger_snapshot().await
    }

    /// Purges what a snapshot has, once for each, but for what a follower may still need.
    async fn purge(&self) -> Result<(), ProposeError> {
        let progress = self.progress();
        if progress.snapshot_index <= self.purged_behind() {
            return Ok(());
        }
        let has_followers = self.members().nodes.len() > 1;
        let (kept, purgeable) = self.log_bytes(if has_followers { limits::KEPT_LOG_BYTES } else { 0 });
        if self.exports.is_sending() && kept < limits::SENDING_LOG_BYTES {
            return Ok(());
        }
        self.set_purged_behind(progress.snapshot_index);
        let upto = match has_followers {
            true => purgeable.unwrap_or(0).min(progress.snapshot_index),
            false => progress.snapshot_index,
        };
        if upto <= progress.purged_index {
            return Ok(());
        }
        self.raft.trigger().purge_log(upto).await.map_err(|fatal| ProposeError::Definite(fatal.to_string()))
    }

    /// A group whose log grows this much follows it, and has no use for a snapshot that never came in whole.
    async fn forget_received(&self) {
        let Some(place) = self.receives() else { return };
        let family = self.family().clone();
        let forgot = tokio::task::spawn_blocking(move || {
            let _place = place;
            family.forget_received()
        });
        if let Ok(Err(error)) = forgot.await {
            tracing::warn!(partition = %self.partition(), %error, "a part of a snapshot was not deleted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    #[test]
    fn so_much_stays_behind() {
        let mut bytes = LogBytes::default();
        assert_eq!((bytes.purgeable(0), bytes.kept()), (None, 0));
        // Entries 10 to 109, of a quarter of a step each.
        (10..110).for_each(|index| bytes.add(index, MIB / 4));
        assert_eq!((bytes.total(), bytes.kept()), (25 * MIB as u64, 25 * MIB as u64));
        assert_eq!(bytes.purgeable(25 * MIB as u64), Some(9), "all of it");
        assert_eq!(bytes.purgeable(24 * MIB as u64), Some(13));
        assert_eq!(bytes.purgeable(10 * MIB as u64 + 1), Some(65), "never less than what is to stay");
        assert_eq!(bytes.purgeable(26 * MIB as u64), None);
        bytes.purge(65);
        assert_eq!((bytes.kept(), bytes.purgeable(11 * MIB as u64)), (11 * MIB as u64, Some(65)));
        bytes.cut(100);
        assert_eq!(bytes.purgeable(0), Some(97), "the last mark that stands");
        bytes.add(100, 1);
        assert_eq!(bytes.purgeable(0), Some(99));
        assert_eq!(bytes.total(), 25 * MIB as u64 + 1, "it only grows");
    }

    #[test]
    fn a_log_that_was_there_counts_too() {
        let small = LogBytes::of(7, 9, 300);
        assert_eq!((small.kept(), small.purgeable(300), small.purgeable(301)), (300, Some(6), None));
        assert_eq!(LogBytes::of(0, 9, 5).purgeable(0), None, "nothing is before the first entry");
        let mut large = LogBytes::of(1_000, 2_000, 100 * MIB as u64);
        assert_eq!((large.kept(), large.purgeable(32 * MIB as u64)), (100 * MIB as u64, Some(1_679)));
        large.add(2_000, MIB);
        assert_eq!(large.purgeable(32 * MIB as u64), Some(1_689));
        large.purge(1_689);
        assert_eq!(large.kept(), 32 * MIB as u64);
        let (few, none) = (LogBytes::of(5, 7, 100 * MIB as u64), LogBytes::of(5, 5, 0));
        assert_eq!((few.purgeable(50 * MIB as u64), few.purgeable(51 * MIB as u64)), (Some(5), Some(4)));
        assert_eq!((none.kept(), none.purgeable(0)), (0, Some(4)));
    }
}
