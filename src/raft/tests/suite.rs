//! openraft's own suite for what stores logs and states, over real databases. Its last part moves a snapshot from one state
//! to another; that is `snapshot`'s own test.

use std::io;
use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::cluster::open_store;
use crate::ids::PartitionId;
use crate::raft::log_store::GroupLog;
use crate::raft::state_machine::Machine;
use crate::raft::types::Types;
use crate::raft::{Hooks, LogThread};
use crate::store::Store;

struct Builder;

/// What a store stands on, until a test has ended.
struct Ground {
    thread: LogThread,
    _store: Store,
    _directory: TempDir,
}

impl StoreBuilder<Types, GroupLog, Machine, Ground> for Builder {
    async fn build(&self) -> Result<(Ground, GroupLog, Machine), StorageError<Types>> {
        let directory = TempDir::new().unwrap();
        let store = open_store(directory.path());
        let (thread, handle) = LogThread::start(store.log()).unwrap();
        let log = GroupLog::open(PartitionId(0), handle).unwrap();
        let hooks = Hooks { before: Box::new(|_| ()), after: Box::new(|_| ()), replaced: Box::new(|| ()) };
        let machine = Machine::open(store.group(PartitionId(0)), Arc::new(hooks), log.clone()).unwrap();
        Ok((Ground { thread, _store: store, _directory: directory }, log, machine))
    }
}

type Of = Suite<Types, GroupLog, Machine, Builder, Ground>;

async fn run<F, T>(test: F)
where
    F: Fn(GroupLog, Machine) -> T,
    T: Future<Output = Result<(), io::Error>>,
{
    let (ground, log, machine) = Builder.build().await.unwrap();
    test(log, machine).await.unwrap();
    // The thread has a handle of the database, which must be closed before the process ends.
    ground.thread.join();
}

#[tokio::test]
async fn a_log_and_a_state_are_what_openraft_takes_them_for() {
    run(Of::last_membership_in_log_initial).await;
    run(Of::last_membership_in_log).await;
    run(Of::last_membership_in_log_multi_step).await;
    run(Of::get_membership_initial).await;
    run(Of::get_membership_from_log_and_empty_sm).await;
    run(Of::get_membership_from_empty_log_and_sm).await;
    run(Of::get_membership_from_log_le_sm_last_applied).await;
    run(Of::get_membership_from_log_gt_sm_last_applied_1).await;
    run(Of::get_membership_from_log_gt_sm_last_applied_2).await;
    run(Of::get_initial_state_without_init).await;
    run(Of::get_initial_state_membership_from_empty_log_and_sm).await;
    run(Of::get_initial_state_membership_from_sm_inlog_is_smaller).await;
    run(Of::get_initial_state_membership_from_log_insm_is_smaller).await;
    run(Of::get_initial_state_with_state).await;
    run(Of::get_initial_state_last_log_gt_sm).await;
    run(Of::get_initial_state_last_log_lt_sm).await;
    run(Of::get_initial_state_inverted_log_order).await;
    run(Of::get_initial_state_conflict_at_same_index).await;
    run(Of::get_initial_state_log_ids).await;
    run(Of::get_initial_state_re_apply_committed).await;
}

#[tokio::test]
async fn a_log_does_what_openraft_asks() {
    run(Of::save_vote).await;
    run(Of::get_log_entries).await;
    run(Of::limited_get_log_entries).await;
    run(Of::leader_bounded_stream).await;
    run(Of::entries_stream).await;
    run(Of::try_get_log_entry).await;
    run(Of::log_reader_reads_new_entries).await;
    run(Of::initial_logs).await;
    run(Of::get_log_state).await;
    run(Of::get_log_id).await;
    run(Of::last_id_in_log).await;
    run(Of::purge_logs_upto_0).await;
    run(Of::purge_logs_upto_5).await;
    run(Of::purge_logs_upto_20).await;
    run(Of::delete_logs_after_11).await;
    run(Of::delete_logs_after_5).await;
    run(Of::delete_logs_after_0).await;
    run(Of::delete_logs_after_none).await;
    run(Of::append_to_log).await;
}

#[tokio::test]
async fn a_state_does_what_openraft_asks() {
    run(Of::last_applied_state).await;
    run(Of::snapshot_meta).await;
    run(Of::snapshot_meta_optional).await;
    run(Of::apply_single).await;
    run(Of::apply_multiple).await;
}
