//! How RocksDB is set up, and why.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Options, WriteBufferManager,
};

use super::StoreSettings;
use crate::limits;

/// Open files at a time: tables beyond it are opened when they are read.
const OPEN_FILES: i32 = 512;
/// Background threads: one for flushes, one for compaction. Two cores are the smallest machine.
const JOBS: i32 = 2;
/// RocksDB's own log: kept small, it is for a developer.
const INFO_LOG_BYTES: usize = 4 * 1024 * 1024;

/// The part of a table's entries from which on its deletions are merged soon.
const MOSTLY_DELETIONS: f64 = 0.75;

/// What all column families share.
pub(super) struct Shared {
    blocks: Cache,
    buffers: WriteBufferManager,
    buffer_bytes: usize,
}

impl Shared {
    pub(super) fn new(settings: &StoreSettings) -> Self {
        let buffers = WriteBufferManager::new_write_buffer_manager(settings.write_buffer_bytes, false);
        let blocks = Cache::new_lru_cache(settings.block_cache_bytes);
        Self { blocks, buffers, buffer_bytes: settings.write_buffer_bytes }
    }

    /// The database as a whole. A record that was torn at the end of the write-ahead log was never acknowledged and is
    /// dropped; damage anywhere else in it refuses to open. [`super::tail`] looks first, for damage that RocksDB takes for a
    /// torn record. It knows no recycled or compressed logs.
    pub(super) fn database(&self) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_paranoid_checks(true);
        options.set_write_buffer_manager(&self.buffers);
        options.set_max_open_files(OPEN_FILES);
        options.set_max_background_jobs(JOBS);
        options.set_max_log_file_size(INFO_LOG_BYTES);
        options.set_keep_log_file_num(2);
        options.set_bytes_per_sync(1024 * 1024);
        options
    }

    fn family(&self, buffer_bytes: usize) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.blocks);
        table.set_bloom_filter(limits::FILTER_BITS_PER_ENTRY, false);
        table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        table.set_partition_filters(true);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_top_level_index_and_filter(true);
        table.set_format_version(5);
        table.set_block_size(limits::BLOCK_BYTES);
        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        options.set_write_buffer_size(buffer_bytes);
        options.set_max_write_buffer_number(3);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_level_compaction_dynamic_level_bytes(true);
        options
    }

    /// The default family: the identity.
    pub(super) fn small(&self) -> Options {
        self.family(1024 * 1024)
    }

    /// The log: written once, read rarely, deleted from the front.
    pub(super) fn log(&self) -> Options {
        let mut options = self.family((self.buffer_bytes / limits::LOG_BUFFER_PART).max(4 * 1024 * 1024));
        options.set_compression_type(DBCompressionType::None);
        // Merging it would only copy what the next purge drops: rarely, then.
        options.set_level_zero_file_num_compaction_trigger(limits::LOG_TABLES);
        options.set_level_zero_slowdown_writes_trigger(48);
        options.set_level_zero_stop_writes_trigger(64);
        options
    }

    /// A group's state.
    pub(super) fn state(&self) -> Options {
        let mut options = self.family((self.buffer_bytes / 4).max(2 * 1024 * 1024));
        options.set_enable_blob_files(true);
        options.set_min_blob_size(limits::BLOB_BYTES);
        options.set_blob_compression_type(DBCompressionType::Lz4);
        options.set_enable_blob_gc(true);
        options.set_blob_gc_age_cutoff(0.5);
        options.set_blob_gc_force_threshold(0.5);
        // What a backlog of expired records leaves is nearly all deletions, small, and merged with the records that they take away
        // only when enough is written after them: their disk would come back late. Such a table is merged soon. Traffic that
        // removes as many records as it makes stays below.
        options.add_compact_on_deletion_collector_factory(0, 0, MOSTLY_DELETIONS);
        options
    }
}
