//! Logs made by a small writer here are damaged and cut everywhere. One made by RocksDB shows that the format is the
//! same, and that RocksDB itself takes what is damaged for what was cut.

use std::fs;

use proptest::prelude::*;
use rocksdb::{ColumnFamilyDescriptor, DEFAULT_COLUMN_FAMILY_NAME, IteratorMode, WriteOptions};

use super::*;
use crate::codec::keys;
use crate::ids::PartitionCount;
use crate::store::{Database, StoreSettings, families, options};

fn fragment(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = masked(crc32c_append(crc32c(&[kind]), payload)).to_le_bytes().to_vec();
    bytes.extend(u16::try_from(payload.len()).unwrap().to_le_bytes());
    bytes.push(kind);
    bytes.extend(payload);
    bytes
}

/// A log of records with so many bytes, and where each of them ends.
fn log(lengths: &[usize]) -> (Vec<u8>, Vec<usize>) {
    let (mut log, mut ends) = (Vec::new(), Vec::new());
    for (number, length) in lengths.iter().enumerate() {
        let payload: Vec<u8> = (0..*length).map(|at| (at * 31 + number * 7) as u8).collect();
        let (mut rest, mut begins) = (&payload[..], true);
        loop {
            let room = BLOCK_BYTES - log.len() % BLOCK_BYTES;
            let Some(room) = room.checked_sub(HEADER_BYTES) else {
                log.resize(log.len() + room, 0);
                continue;
            };
            let (front, back) = rest.split_at(rest.len().min(room));
            let kind = match (begins, back.is_empty()) {
                (true, true) => 1,
                (true, false) => 2,
                (false, false) => 3,
                (false, true) => 4,
            };
            log.extend(fragment(kind, front));
            (rest, begins) = (back, false);
            if rest.is_empty() {
                break;
            }
        }
        ends.push(log.len());
    }
    (log, ends)
}

fn found(bytes: &[u8]) -> Option<Damage> {
    damage(bytes).expect("memory can be read")
}

#[track_caller]
fn finds(bytes: &[u8], offset: u64, what: &str) {
    let damage = found(bytes).expect("damage");
    assert_eq!(damage.offset, offset, "{damage:?}");
    assert!(damage.what.contains(what), "{damage:?}");
}

/// Flips bits one by one and says which flips were not found.
fn missed(log: &[u8], places: impl Iterator<Item = usize>) -> Vec<(usize, u8)> {
    let mut log = log.to_vec();
    let mut missed = Vec::new();
    for at in places {
        for bit in 0..8 {
            log[at] ^= 1 << bit;
            if found(&log).is_none() {
                missed.push((at, bit));
            }
            log[at] ^= 1 << bit;
        }
    }
    missed
}

#[test]
fn every_flip_in_a_small_file_is_found() {
    for lengths in [&[0][..], &[1], &[60, 12, 0, 200, 33], &[300]] {
        let (mut log, _) = log(lengths);
        assert_eq!(found(&log), None);
        assert_eq!(missed(&log, 0..log.len()), []);
        // Zeroes that follow stay zeroes, and do not hide what is in front of them.
        log.resize(log.len() + 40, 0);
        assert_eq!(found(&log), None);
        assert_eq!(missed(&log, 0..log.len()), []);
    }
}

#[test]
fn every_flip_in_a_long_file_is_found_but_in_padding() {
    // The second record leaves 5 bytes of the first block, the fourth goes over four blocks, the last ends in the
    // fifth.
    let (log, ends) = log(&[1_000, BLOCK_BYTES - 1_000 - 2 * HEADER_BYTES - 5, 9_000, 3 * BLOCK_BYTES, 700, 40]);
    assert_eq!(ends[1], BLOCK_BYTES - 5);
    assert_eq!(found(&log), None);
    let headers = [0, 1_007, BLOCK_BYTES, BLOCK_BYTES + 9_007, 2 * BLOCK_BYTES, 3 * BLOCK_BYTES, 4 * BLOCK_BYTES];
    assert_eq!(missed(&log, headers.into_iter().flat_map(|at| at..at + HEADER_BYTES)), []);
    assert_eq!(missed(&log, (0..ends[1]).step_by(997)), []);
    assert_eq!(missed(&log, (BLOCK_BYTES..ends[3]).step_by(997)), []);
    assert_eq!(missed(&log, ends[3]..log.len()), []);
    assert_eq!(missed(&log, ends[1]..BLOCK_BYTES).len(), 5 * 8, "nobody reads padding");
}

#[test]
fn a_cut_anywhere_is_no_damage() {
    let (log, ends) = log(&[60, 12, 0, BLOCK_BYTES - 110, 9_000, 2 * BLOCK_BYTES, 700, 40]);
    let near = |length: usize| ends.iter().any(|end| end.abs_diff(length) < 20) || (length + 20) % BLOCK_BYTES < 40;
    for length in (0..=log.len()).filter(|length| length % 37 == 0 || near(*length)) {
        assert_eq!(found(&log[..length]), None, "{length}");
    }
    // Behind a whole record the space that was reserved may be any number of zeroes.
    for end in ends {
        for zeroes in [1, 6, 7, 8, 4_096, 3 * BLOCK_BYTES] {
            let mut log = log[..end].to_vec();
            log.resize(end + zeroes, 0);
            assert_eq!(found(&log), None, "{zeroes} zeroes behind {end}");
        }
    }
}

#[test]
fn damage_is_named() {
    let (log, ends) = log(&[100, 50, 30]);
    let second = ends[0] as u64;
    let changed = |changes: &[(usize, u8)]| {
        let mut log = log.clone();
        changes.iter().for_each(|(at, byte)| log[ends[0] + at] = *byte);
        log
    };
    finds(&changed(&[(5, 0x80)]), second, "a record of 32818 bytes and type 1 where its block has");
    finds(&changed(&[(5, 0x01)]), second, "a length of 306 bytes, which is past the end");
    finds(&changed(&[(4, 49)]), second, "checksum");
    finds(&changed(&[(6, 5)]), second, "a record of type 5");
    finds(&changed(&[(4, 0), (5, 0), (6, 0)]), second, "a record of type 0");
    finds(&changed(&[(6, 2)]), second, "a record of 50 bytes and type 2 where its block has");
    finds(&changed(&[(6, 3)]), second, "where its block has");
    finds(&changed(&[(6, 4)]), second, "has not begun");
    // A second damage hides the record itself, not those behind it.
    finds(&changed(&[(5, 0x01), (20, 0)]), second, "a length of 306 bytes, which is past the end");
    let zeroed: Vec<(usize, u8)> = (0..57).map(|at| (at, 0)).collect();
    finds(&changed(&zeroed), second, "a record of type 0");
    let mut zeroed = vec![0; BLOCK_BYTES];
    zeroed.extend(&log);
    finds(&zeroed, 0, "zeroes, and more behind them");
    // What one copy cannot tell: the last record's length and payload.
    let mut last = log.clone();
    last[ends[1] + 5] = 0x01;
    last[ends[1] + 20] ^= 1;
    assert_eq!(found(&last), None);
}

#[test]
fn fragments_follow_each_other() {
    let room = vec![7; BLOCK_BYTES - HEADER_BYTES];
    let chain = |kinds: &[u8], last: u8| -> Vec<u8> {
        kinds.iter().flat_map(|kind| fragment(*kind, &room)).chain(fragment(last, b"the last")).collect()
    };
    for (kinds, last) in [(&[2][..], 4), (&[2, 3, 3], 4), (&[1], 1), (&[2, 4, 2], 4)] {
        assert_eq!(found(&chain(kinds, last)), None, "{kinds:?} {last}");
    }
    let block = BLOCK_BYTES as u64;
    finds(&chain(&[2], 1), block, "inside one that has not ended");
    finds(&chain(&[2, 3, 2], 4), 2 * block, "inside one that has not ended");
    finds(&chain(&[1], 4), block, "has not begun");
    finds(&chain(&[3], 4), 0, "has not begun");
    finds(&chain(&[2, 4, 3], 4), 2 * block, "has not begun");
    finds(&chain(&[2], 3), block, "a record of 8 bytes and type 3");
}

proptest! {
    #[test]
    fn cuts_are_no_damage_and_flips_are(
        lengths in prop::collection::vec(prop_oneof![0..300_usize, 0..2 * BLOCK_BYTES], 1..8),
        cut in any::<prop::sample::Index>(),
        flip in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let (log, ends) = log(&lengths);
        prop_assert_eq!(found(&log), None);
        prop_assert_eq!(found(&log[..cut.index(log.len())]), None);
        let at = flip.index(log.len());
        let mut flipped = log.clone();
        flipped[at] ^= 1 << bit;
        // Padding is what no record covers: up to 6 bytes in front of a block's border.
        let in_padding = ends.iter().any(|end| {
            let border = end.next_multiple_of(BLOCK_BYTES);
            (*end..border).contains(&at) && border - end < HEADER_BYTES
        });
        prop_assert_eq!(found(&flipped).is_none(), in_padding, "at {} of {}", at, log.len());
    }

    #[test]
    fn anything_can_be_read(bytes in prop::collection::vec(prop_oneof![3 => 0..6_u8, 1 => any::<u8>()], 0..400)) {
        let _ = found(&bytes);
    }
}

fn settings() -> StoreSettings {
    StoreSettings { block_cache_bytes: 1 << 20, write_buffer_bytes: 16 << 20 }
}

fn open(directory: &Path) -> Result<Database, rocksdb::Error> {
    let shared = options::Shared::new(&settings());
    let mut families = vec![
        ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, shared.small()),
        ColumnFamilyDescriptor::new(keys::LOG_FAMILY, shared.log()),
    ];
    families.extend(partitions().all().map(|id| ColumnFamilyDescriptor::new(keys::family(id, 0), shared.state())));
    Database::open_cf_descriptors(&shared.database(), directory, families)
}

fn partitions() -> PartitionCount {
    PartitionCount::new(1).expect("one partition")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Synced writes to the log's family of a database that is then left as a crash leaves it.
fn database(directory: &Path, lengths: &[usize]) {
    let db = open(directory).unwrap();
    let family = db.cf_handle(keys::LOG_FAMILY).unwrap();
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    for (number, length) in lengths.iter().enumerate() {
        db.put_cf_opt(&family, [number as u8], vec![b'v'; *length], &synced).unwrap();
    }
}

fn count(db: &Database) -> usize {
    db.iterator_cf(&db.cf_handle(keys::LOG_FAMILY).unwrap(), IteratorMode::Start).map(Result::unwrap).count()
}

#[test]
fn what_rocksdb_forgets_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    let lengths = [100, 60_000, 90, 3_000, 32_700, 5_000, 80, 70, 60, 50];
    database(&source, &lengths);
    check(&source).unwrap();
    let paths = logs(&source).unwrap();
    assert_eq!(paths.len(), 2, "a log and the MANIFEST: {paths:?}");
    let wal = fs::read(&paths[0]).unwrap();
    let manifest = fs::read(&paths[1]).unwrap();
    assert_eq!(missed(&manifest, 0..manifest.len()), []);
    let third = headers(&wal).into_iter().rev().nth(2).unwrap();
    let file = paths[0].file_name().unwrap();
    let cases = [("length", third + 5, 0x80), ("length", third + 5, 0x08), ("type", third + 6, 0x81)];
    for (number, (field, at, flip)) in cases.into_iter().enumerate() {
        let directory = place.path().join(number.to_string());
        copy(&source, &directory);
        let mut bytes = wal.clone();
        bytes[at] ^= flip;
        fs::write(directory.join(file), &bytes).unwrap();
        let refused =
            families::open(&directory, &options::Shared::new(&settings()), partitions()).map(|_| ()).unwrap_err();
        let StoreError::Damaged(text) = &refused else { panic!("{refused}") };
        assert!(text.contains(&format!("{} at byte {third}: ", file.display())), "{text}");
        if field == "length" {
            assert_eq!(count(&open(&directory).unwrap()), lengths.len() - 3, "RocksDB itself sees it: take this out");
        }
    }
    // A cut is no damage, for RocksDB and here.
    let directory = place.path().join("cut");
    copy(&source, &directory);
    fs::write(directory.join(file), &wal[..wal.len() - 1]).unwrap();
    assert_eq!(
        count(&families::open(&directory, &options::Shared::new(&settings()), partitions()).unwrap()),
        lengths.len() - 1
    );
}

/// Where records and fragments begin.
fn headers(log: &[u8]) -> Vec<usize> {
    let (mut at, mut headers) = (0, Vec::new());
    while let Some((header, _)) = log.get(at..).and_then(Header::split) {
        headers.push(at);
        at += HEADER_BYTES + header.length;
        let room = BLOCK_BYTES - at % BLOCK_BYTES;
        at += if room < HEADER_BYTES { room } else { 0 };
    }
    headers
}

#[test]
fn a_database_without_current_is_not_made_anew() {
    let place = tempfile::tempdir().unwrap();
    check(&place.path().join("none")).unwrap();
    check(place.path()).unwrap();
    let directory = place.path().join("db");
    database(&directory, &[10]);
    fs::remove_file(directory.join("CURRENT")).unwrap();
    let refused = families::open(&directory, &options::Shared::new(&settings()), partitions()).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, StoreError::Damaged(text) if text.contains("CURRENT is missing")), "{refused}");
    for path in logs_of(&directory) {
        fs::remove_file(path).unwrap();
    }
    check(&directory).expect("a MANIFEST alone is a database whose making was interrupted");
}

fn logs_of(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect()
}

#[test]
fn a_malformed_current_is_left_to_rocksdb() {
    assert_eq!(manifest(b"MANIFEST-000005\n"), Some("MANIFEST-000005"));
    for current in [&b"MANIFEST-000005"[..], b"MANIFEST-../x\n", b"NANIFEST-000005\n", b"\xff\n", b""] {
        assert_eq!(manifest(current), None);
    }
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    database(&source, &[10]);
    let current = fs::read(source.join("CURRENT")).unwrap();
    let directory = place.path().join("damaged");
    copy(&source, &directory);
    for at in 0..current.len() {
        for bit in 0..8 {
            let mut damaged = current.clone();
            damaged[at] ^= 1 << bit;
            fs::write(directory.join("CURRENT"), &damaged).unwrap();
            let refused = families::open(&directory, &options::Shared::new(&settings()), partitions()).map(|_| ());
            assert!(matches!(refused, Err(StoreError::Damaged(_))), "byte {at}, bit {bit}: {refused:?}");
        }
    }
}
