//! Real stores in temporary directories: what one exports another installs, however often it is interrupted.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rocksdb::IteratorMode;

use super::*;
use crate::ids::{PartitionCount, PartitionId};
use crate::store::{Export, GroupBatch, LogBatch, Store, StoreSettings};

const PARTITION: PartitionId = PartitionId(1);

fn settings() -> StoreSettings {
    StoreSettings { block_cache_bytes: 8 << 20, write_buffer_bytes: 8 << 20 }
}

pub(super) fn open(path: &Path) -> Result<Store, StoreError> {
    let identity = pb::Identity { cluster_id: "c".to_owned(), partitions: 3, ..pb::Identity::default() };
    Store::open(path, &settings(), PartitionCount::new(3).unwrap(), identity).map(|(store, _)| store)
}

pub(super) fn id(index: u64) -> pb::LogId {
    pb::LogId { term: 2, node_id: 1, index }
}

fn state(index: u64) -> pb::GroupState {
    pb::GroupState { applied: Some(id(index)), log_time_unix_ms: index, ..pb::GroupState::default() }
}

/// Bytes that do not compress, and differ by their seed.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(step).take(bytes).collect()
}

fn put(group: &GroupFamily, key: &[u8], value: &[u8]) {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    let db = &group.inner.db;
    db.put_cf_opt(&group.current.family(db).unwrap(), key, value, &options).unwrap();
}

/// Rows of all sizes, blobs among them, some on the disk and some in memory, and the state at `index`.
pub(super) fn fill(group: &GroupFamily, seed: u64, rows: u64, index: u64) {
    for row in 0..rows {
        let bytes = [0, 40, 700, 5_000, 70_000][usize::try_from(row % 5).unwrap()];
        put(group, &[&[0x20][..], &row.to_be_bytes()].concat(), &noise(seed + row, bytes));
        if row == rows / 2 {
            group.flush().unwrap();
        }
    }
    let mut batch = GroupBatch::default();
    batch.put_state(&state(index));
    group.write(batch).unwrap();
}

type Rows = Vec<(Box<[u8]>, Box<[u8]>)>;

fn rows(group: &GroupFamily) -> Rows {
    let db = &group.inner.db;
    db.iterator_cf(&group.current.family(db).unwrap(), IteratorMode::Start).map(Result::unwrap).collect()
}

fn export(group: &GroupFamily) -> Export {
    let pinned = group.pin().unwrap().unwrap();
    pinned.export(Arc::new(AtomicBool::new(false))).unwrap()
}

/// Sends what the receiver lacks, in parts of `part` bytes, at most so many of them.
fn send(export: &Export, incoming: &mut Incoming, part: usize, most: usize) -> Result<(), Refused> {
    for _ in 0..most {
        let Some(at) = incoming.position() else { return Ok(()) };
        let rest = usize::try_from(export.files()[at.file].bytes - at.offset).unwrap();
        let mut bytes = vec![0; part.min(rest)];
        File::open(export.path(at.file)).unwrap().read_exact_at(&mut bytes, at.offset).unwrap();
        incoming.take(at, &bytes)?;
    }
    Ok(())
}

fn receive(group: &GroupFamily, export: &Export) -> Received {
    let mut incoming = group.receive("a-1", export.files().to_vec()).unwrap();
    send(export, &mut incoming, 100_000, usize::MAX).unwrap();
    incoming.finish().unwrap()
}

fn families(store: &Store, path: &Path) -> Vec<String> {
    let mut names = super::super::Database::list_cf(&store.inner.options.database(), path.join("db")).unwrap();
    names.sort();
    names
}

#[test]
fn what_is_exported_is_installed_byte_for_byte() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (open(&place.path().join("from")).unwrap(), open(&place.path().join("to")).unwrap());
    let source = from.group(PARTITION);
    // Over one file.
    fill(&source, 1, 5_000, 70);
    let pinned = source.pin().unwrap().unwrap();
    assert_eq!(pinned.state(), &state(70));
    let expected = rows(&source);
    // What comes later is not in it: overwritten, deleted, added, and flushed.
    fill(&source, 2, 500, 99);
    source.flush().unwrap();
    let export = pinned.export(Arc::new(AtomicBool::new(false))).unwrap();
    assert!(export.files().len() > 1, "{:?}", export.files());
    assert!(export.files().iter().all(|file| file.bytes < 2 * limits::SNAPSHOT_FILE_BYTES));

    let target = to.group(PARTITION);
    fill(&target, 3, 50, 20);
    let mut log = LogBatch::default();
    (15..=75).for_each(|index| log.put_entry(PARTITION, index, vec![1]));
    log.put_entry(PartitionId(2), 1, vec![2]);
    to.log().write(log).unwrap();
    let reader = target.clone();
    target.install(receive(&target, &export), id(70)).unwrap();
    assert!(rows(&reader) == expected, "every clone reads the new state");
    assert_eq!(families(&to, &place.path().join("to")), ["default", "log", "p0000", "p0001.g1", "p0002"]);
    let left: Vec<u64> = to.log().entries(PARTITION, 0, 1_000).unwrap().into_iter().map(|(index, _)| index).collect();
    assert_eq!(left, [71, 72, 73, 74, 75], "the log goes on behind the snapshot");
    assert_eq!(to.log().purged(PARTITION).unwrap(), Some(codec::seal(&id(70))));
    assert_eq!(to.log().entries(PartitionId(2), 0, 1_000).unwrap().len(), 1);

    // A second time, over the first, and after a restart.
    put(&target, b"later", b"x");
    let again = self::export(&source);
    target.install(receive(&target, &again), id(99)).unwrap();
    let expected = rows(&source);
    assert!(rows(&target) == expected);
    drop((reader, target, to));
    let to = open(&place.path().join("to")).unwrap();
    assert!(rows(&to.group(PARTITION)) == expected);
    assert_eq!(families(&to, &place.path().join("to")), ["default", "log", "p0000", "p0001.g2", "p0002"]);
    assert_eq!(fs::read_dir(place.path().join("to/snapshots/in")).unwrap().count(), 0);
    drop((export, again));
    assert_eq!(fs::read_dir(place.path().join("from/snapshots/out")).unwrap().count(), 0);
}

/// The steps up to each, then a process that ends: the old state or the new one, wholly, and the install goes through when
/// it is tried again.
#[test]
fn an_install_that_is_cut_anywhere_leaves_the_old_or_the_new() {
    let place = tempfile::tempdir().unwrap();
    let from = open(&place.path().join("from")).unwrap();
    let source = from.group(PARTITION);
    fill(&source, 1, 500, 70);
    let export = export(&source);
    let new = rows(&source);
    let commit = STEPS.iter().position(|(name, _)| *name == "commit").unwrap();
    for done in 0..=STEPS.len() {
        let path = place.path().join(done.to_string());
        let store = open(&path).unwrap();
        let target = store.group(PARTITION);
        fill(&target, 3, 50, 20);
        target.flush().unwrap();
        let old = rows(&target);
        let mut log = LogBatch::default();
        (18..=30).for_each(|index| log.put_entry(PARTITION, index, vec![1]));
        store.log().write(log).unwrap();
        let mut install = Install::new(target.clone(), receive(&target, &export), id(70));
        STEPS.iter().take(done).for_each(|(name, step)| step(&mut install).expect(name));
        drop((install, target, store));

        let store = open(&path).unwrap();
        let target = store.group(PARTITION);
        let is_new = done > commit;
        assert!(rows(&target) == if is_new { new.clone() } else { old }, "after {done} steps");
        let (entries, purged) =
            (store.log().entries(PARTITION, 0, 1_000).unwrap(), store.log().purged(PARTITION).unwrap());
        assert_eq!(
            (entries.len(), purged.is_some()),
            if is_new { (0, true) } else { (13, false) },
            "after {done} steps"
        );
        let generation = if is_new { "p0001.g1" } else { "p0001" };
        assert_eq!(families(&store, &path), ["default", "log", "p0000", generation, "p0002"], "after {done} steps");
        // What was received is still there until it was moved into the database.
        let there = target.receive("a-1", export.files().to_vec()).unwrap().position();
        assert_eq!(there.is_none(), done < 2, "after {done} steps");
        target.install(receive(&target, &export), id(70)).unwrap();
        assert!(rows(&target) == new, "after {done} steps and once more");
        drop((target, store));
        assert!(rows(&open(&path).unwrap().group(PARTITION)) == new, "after {done} steps, once more, and a restart");
    }
}

#[test]
fn a_broken_transfer_goes_on_where_it_ended() {
    let place = tempfile::tempdir().unwrap();
    let (from, path) = (open(&place.path().join("from")).unwrap(), place.path().join("to"));
    let source = from.group(PARTITION);
    fill(&source, 1, 5_000, 70);
    let export = export(&source);
    let files = export.files().to_vec();
    assert!(files.len() > 1);
    let store = open(&path).unwrap();
    let target = store.group(PARTITION);
    let mut incoming = target.receive("a-1", files.clone()).unwrap();
    send(&export, &mut incoming, 100_000, 20).unwrap();
    drop(incoming);
    let mut incoming = target.receive("a-1", files.clone()).unwrap();
    assert_eq!(incoming.position(), Some(Position { file: 0, offset: 2_000_000 }));
    // In the middle of the second file, and a process later.
    let first = usize::try_from(files[0].bytes).unwrap();
    send(&export, &mut incoming, 100_000, (first - 2_000_000).div_ceil(100_000) + 3).unwrap();
    drop((incoming, target, store));
    let store = open(&path).unwrap();
    let target = store.group(PARTITION);
    let incoming = target.receive("a-1", files.clone()).unwrap();
    assert_eq!(incoming.position(), Some(Position { file: 1, offset: 300_000 }));
    assert!(matches!(incoming.finish(), Err(Refused::Header(_))), "not all of it is there");
    let mut incoming = target.receive("a-1", files.clone()).unwrap();
    send(&export, &mut incoming, 77_777, usize::MAX).unwrap();
    target.install(incoming.finish().unwrap(), id(70)).unwrap();
    assert!(rows(&target) == rows(&source));
    // Another snapshot begins anew, and what is left of the one before goes.
    let mut incoming = target.receive("a-2", files.clone()).unwrap();
    send(&export, &mut incoming, 100_000, 5).unwrap();
    drop(incoming);
    let incoming = target.receive("b-1", files).unwrap();
    assert_eq!(incoming.position(), Some(Position { file: 0, offset: 0 }));
    assert_eq!(fs::read_dir(path.join("snapshots/in")).unwrap().count(), 1);
    target.forget_received().unwrap();
    assert_eq!(fs::read_dir(path.join("snapshots/in")).unwrap().count(), 0);
}

#[test]
fn damage_on_the_way_or_on_the_disk_is_sent_again() {
    let place = tempfile::tempdir().unwrap();
    let (from, path) = (open(&place.path().join("from")).unwrap(), place.path().join("to"));
    let source = from.group(PARTITION);
    fill(&source, 1, 300, 70);
    let export = export(&source);
    let files = export.files().to_vec();
    let store = open(&path).unwrap();
    let target = store.group(PARTITION);
    let bytes = fs::read(export.path(0)).unwrap();
    let mut incoming = target.receive("a-1", files.clone()).unwrap();
    let mut damaged = bytes.clone();
    damaged[1_000] ^= 4;
    let refused = incoming.take(Position { file: 0, offset: 0 }, &damaged).unwrap_err();
    assert!(matches!(refused, Refused::Damaged { file: 0, .. }), "{refused}");
    assert_eq!(incoming.position(), Some(Position { file: 0, offset: 0 }), "it is sent again");
    let skipped = incoming.take(Position { file: 0, offset: 7 }, &bytes[7..]).unwrap_err();
    assert!(matches!(skipped, Refused::Place { .. }), "{skipped}");
    let long = [&bytes[..], b"x"].concat();
    assert!(matches!(incoming.take(Position { file: 0, offset: 0 }, &long), Err(Refused::Header(_))));
    assert!(matches!(incoming.take(Position { file: 0, offset: 0 }, &[]), Err(Refused::Header(_))));
    incoming.take(Position { file: 0, offset: 0 }, &bytes).unwrap();
    // On the disk, before it is gone on with.
    let file = snapshots::file(&path.join("snapshots/in/1-a-1"), 0);
    fs::write(&file, &damaged).unwrap();
    let incoming = target.receive("a-1", files.clone()).unwrap();
    assert_eq!(incoming.position(), Some(Position { file: 0, offset: 0 }), "a damaged file is no file");
    assert!(!file.exists());
    // A snapshot that is whole, and is not what it says it is.
    let refused = target.install(receive(&target, &export), id(71)).unwrap_err();
    assert!(matches!(refused, StoreError::Damaged(_)), "{refused}");
    assert_eq!(target.state().unwrap(), None, "nothing was installed");
    target.install(receive(&target, &export), id(70)).unwrap();
    assert!(rows(&target) == rows(&source), "what failed before is in nobody's way");
    for name in ["", "../x", "a/b", "A", "a.b", &"a".repeat(limits::MAX_SNAPSHOT_ID_BYTES + 1)] {
        assert!(matches!(target.receive(name, files.clone()), Err(Refused::Header(_))), "{name}");
    }
    for files in [vec![], vec![NOTHING], vec![files[0]; limits::MAX_SNAPSHOT_FILES + 1]] {
        assert!(matches!(target.receive("a-1", files), Err(Refused::Header(_))));
    }
    let huge = SnapshotFile { bytes: 1 << 60, crc32c: 0 };
    assert!(matches!(target.receive("a-1", vec![huge]), Err(Refused::Store(StoreError::Disk(_)))), "no room");
}

#[test]
fn readers_and_a_flush_meet_a_switch() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (open(&place.path().join("from")).unwrap(), open(&place.path().join("to")).unwrap());
    let (source, target) = (from.group(PARTITION), to.group(PARTITION));
    assert!(source.pin().unwrap().is_none(), "nothing is applied yet");
    fill(&source, 1, 300, 70);
    let export = export(&source);
    fill(&target, 3, 50, 20);
    let pinned = target.pin().unwrap().unwrap();
    let old = rows(&target);
    let db = &target.inner.db;
    let before = target.current.family(db).unwrap();
    let mut reading = db.iterator_cf(&before, IteratorMode::Start);
    reading.next().unwrap().unwrap();
    target.install(receive(&target, &export), id(70)).unwrap();
    let rest: Rows = reading.map(Result::unwrap).collect();
    assert!(rest == old[1..], "who reads goes on with what it began");
    // A flush that took the family before the switch ends, whatever it says.
    let _ = db.flush_cf(&before);
    target.flush().unwrap();
    let exported = pinned.export(Arc::new(AtomicBool::new(false))).unwrap();
    let third = open(&place.path().join("third")).unwrap();
    third.group(PARTITION).install(receive(&third.group(PARTITION), &exported), id(20)).unwrap();
    assert!(rows(&third.group(PARTITION)) == old, "what was pinned before stays what it was");
    let pinned = source.pin().unwrap().unwrap();
    let given_up = pinned.export(Arc::new(AtomicBool::new(true)));
    assert!(given_up.is_ok(), "it was done before anybody looked");
}

#[test]
fn what_a_pointer_misses_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a");
    let store = open(&path).unwrap();
    let pointer = pb::Generation { number: 4, snapshot: Some(id(9)) };
    store.inner.db.put(keys::generation(PARTITION), codec::seal(&pointer)).unwrap();
    drop(store);
    let refused = open(&path).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, StoreError::Damaged(text) if text.contains("p0001.g4")), "{refused}");

    let path = place.path().join("b");
    let store = open(&path).unwrap();
    store.inner.db.drop_cf("p0002").unwrap();
    drop(store);
    let refused = open(&path).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, StoreError::Damaged(text) if text.contains("p0002")), "{refused}");

    let path = place.path().join("c");
    let store = open(&path).unwrap();
    store.inner.db.create_cf("other", &store.inner.options.state()).unwrap();
    drop(store);
    let refused = open(&path).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, StoreError::Damaged(text) if text.contains("other")), "{refused}");
}
