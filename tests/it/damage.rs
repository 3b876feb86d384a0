//! Damage to the files of a stopped node: which bytes to touch, and what one copy can know of it.
//!
//! A store that keeps one copy finds out by checksums. Three cases are not alike:
//!
//! * A byte that differs inside a record that was synced is damage: its checksum tells.
//! * A record that is cut short at the very end of the write-ahead log is what a power cut leaves of a write that was
//!   never acknowledged. It has to be dropped without a word.
//! * The end of the write-ahead log cut off, acknowledged records and all, reads the same as a log that never had them.
//!   One copy cannot know. The same holds for a record near the end whose *length* was changed so that it reaches past
//!   the end: it reads as the second case. A store may then forget a suffix of what it acknowledged, and nothing else:
//!   no hole, no other bytes. (Several copies can know: that is what replication is for.)

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rand::Rng as _;

use crate::random::Random;

/// RocksDB's logs are cut into blocks of this many bytes; no record's header crosses from one to the next.
const BLOCK: usize = 32 * 1024;
/// Bytes of a record's header: checksum (4), length (2), type (1).
const HEADER: usize = 7;

/// What is done to a file.
#[derive(Clone, Debug)]
pub(crate) enum Damage {
    /// One bit is another.
    Flip { at: u64, bit: u8 },
    /// The file ends here.
    Cut { to: u64 },
    /// Something follows the file's end.
    Append { bytes: Vec<u8> },
    /// The file is gone.
    Removed,
}

/// What a node that starts on it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// Refuse, or answer everything as it was acknowledged.
    RefuseOrRight,
    /// Only answer everything as it was acknowledged.
    Right,
    /// As [`Allowed::RefuseOrRight`], or forget a suffix.
    ForgetSuffix,
}

/// One thing to try.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub(crate) file: PathBuf,
    pub(crate) damage: Damage,
    pub(crate) allowed: Allowed,
}

/// A record, or a part of one, in a log of RocksDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) at: usize,
    /// Header and payload.
    pub(crate) bytes: usize,
}

impl Damage {
    /// Does it.
    pub(crate) fn apply(&self, path: &Path) -> anyhow::Result<()> {
        match self {
            Self::Removed => std::fs::remove_file(path)?,
            Self::Cut { to } => OpenOptions::new().write(true).open(path)?.set_len(*to)?,
            Self::Append { bytes } => {
                let file = OpenOptions::new().write(true).open(path)?;
                file.write_all_at(bytes, file.metadata()?.len())?;
            }
            Self::Flip { at, bit } => {
                let file = OpenOptions::new().read(true).write(true).open(path)?;
                let mut byte = [0];
                file.read_exact_at(&mut byte, *at)?;
                file.write_all_at(&[byte[0] ^ (1 << bit)], *at)?;
            }
        }
        Ok(())
    }
}

/// The records of a log of RocksDB, up to its end.
pub(crate) fn records(log: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    let mut at = 0;
    while let Some(header) = log.get(at..at + HEADER) {
        let left = BLOCK - at % BLOCK;
        let (length, kind) = match *header {
            [_, _, _, _, low, high, kind] => (usize::from(u16::from_le_bytes([low, high])), kind),
            _ => break,
        };
        if left < HEADER || (kind == 0 && length == 0) {
            at += left;
            continue;
        }
        let bytes = HEADER + recyclable(kind) + length;
        if bytes > left || at + bytes > log.len() {
            break;
        }
        records.push(Record { at, bytes });
        at += bytes;
        if BLOCK - at % BLOCK < HEADER {
            at += BLOCK - at % BLOCK;
        }
    }
    records
}

/// Bytes that a record of a recycled log has in its header besides: the log's number.
fn recyclable(kind: u8) -> usize {
    if matches!(kind, 5..=8 | 11 | 131) { 4 } else { 0 }
}

/// Flips of random bits anywhere in a file.
pub(crate) fn flips(file: &Path, count: usize, random: &mut Random) -> anyhow::Result<Vec<Trial>> {
    let length = std::fs::metadata(file)?.len();
    let flip =
        |random: &mut Random| Damage::Flip { at: random.random_range(0..length), bit: random.random_range(0..8) };
    let trial = |damage| Trial { file: file.to_owned(), damage, allowed: Allowed::RefuseOrRight };
    Ok((0..if length > 0 { count } else { 0 }).map(|_| trial(flip(random))).collect())
}

/// The file torn at random places.
pub(crate) fn cuts(file: &Path, count: usize, random: &mut Random) -> anyhow::Result<Vec<Trial>> {
    let length = std::fs::metadata(file)?.len();
    let trial = |to| Trial { file: file.to_owned(), damage: Damage::Cut { to }, allowed: Allowed::RefuseOrRight };
    Ok((0..if length > 0 { count } else { 0 }).map(|_| trial(random.random_range(0..length))).collect())
}

/// The file torn right behind one of its records, each of them but the last.
pub(crate) fn cuts_at_borders(file: &Path) -> anyhow::Result<Vec<Trial>> {
    let mut records = records(&std::fs::read(file)?);
    records.pop();
    let trial = |record: Record| {
        let to = (record.at + record.bytes) as u64;
        Trial { file: file.to_owned(), damage: Damage::Cut { to }, allowed: Allowed::RefuseOrRight }
    };
    Ok(records.into_iter().map(trial).collect())
}

/// Everything that is tried on the write-ahead log that was in use when its node was killed.
pub(crate) fn of_live_log(file: &Path, random: &mut Random) -> anyhow::Result<Vec<Trial>> {
    let log = std::fs::read(file)?;
    let records = records(&log);
    let last = records.last().copied().context("the log in use is empty")?;
    let end = last.at + last.bytes;
    let mut trials = Vec::new();
    let mut push = |damage, allowed| trials.push(Trial { file: file.to_owned(), damage, allowed });
    let flip = |at: usize, bit: u8| (Damage::Flip { at: at as u64, bit }, allowed_of_flip(&log, &records, at, bit));
    for _ in 0..64 {
        let (damage, allowed) = flip(random.random_range(0..end), random.random_range(0..8));
        push(damage, allowed);
    }
    // Every field of a header, in records from the front to the back.
    for part in 0..8 {
        let from = records.len() * part / 8;
        let to = (records.len() * (part + 1) / 8).max(from + 1);
        let record = records.get(random.random_range(from..to)).copied().unwrap_or(last);
        let fields = [(0, 0), (3, 7), (4, 0), (4, 6), (5, 1), (5, 7), (6, 0), (6, 1), (6, 2), (6, 3), (6, 7)];
        for (field, bit) in fields {
            let (damage, allowed) = flip(record.at + field, bit);
            push(damage, allowed);
        }
    }
    for record in [last, records.get(records.len() * 2 / 3).copied().unwrap_or(last)] {
        for to in [
            record.at,
            record.at + random.random_range(1..HEADER),
            record.at + random.random_range(HEADER..record.bytes),
        ] {
            push(Damage::Cut { to: to as u64 }, Allowed::ForgetSuffix);
        }
    }
    // What a power cut leaves behind the last synced record: nothing but lengths, a part of a record, noise.
    push(Damage::Append { bytes: vec![0; 4096] }, Allowed::Right);
    let whole =
        records.iter().find(|record| record.bytes > 64).and_then(|record| log.get(record.at..record.at + record.bytes));
    let whole = whole.context("no record of 64 bytes")?;
    for part in [3, HEADER, whole.len() / 2, whole.len() - 1] {
        push(Damage::Append { bytes: whole.get(..part).unwrap_or_default().to_vec() }, Allowed::Right);
    }
    let noise: Vec<u8> = (0..512).map(|_| random.random()).collect();
    push(Damage::Append { bytes: noise }, Allowed::RefuseOrRight);
    Ok(trials)
}

/// A changed length that makes its record reach past the end of the log cannot be told from a torn record.
fn allowed_of_flip(log: &[u8], records: &[Record], at: usize, bit: u8) -> Allowed {
    let inside = records.iter().find(|record| record.at <= at && at < record.at + record.bytes);
    let Some(record) = inside else { return Allowed::RefuseOrRight };
    let shift = match at - record.at {
        4 => u32::from(bit),
        5 => 8 + u32::from(bit),
        _ => return Allowed::RefuseOrRight,
    };
    if (record.bytes ^ (1 << shift)) > 0 && reaches(log, record, shift) > log.len() {
        Allowed::ForgetSuffix
    } else {
        Allowed::RefuseOrRight
    }
}

/// Where a record ends when a bit of its length is another.
fn reaches(log: &[u8], record: &Record, shift: u32) -> usize {
    let length = match log.get(record.at + 4..record.at + 6) {
        Some([low, high]) => usize::from(u16::from_le_bytes([*low, *high])),
        Some(_) | None => 0,
    };
    record.at + record.bytes - length + (length ^ (1 << shift))
}

#[test]
fn records_of_a_log_are_found() {
    let record = |payload: usize, kind: u8| {
        let length = u16::try_from(payload).expect("a short record").to_le_bytes();
        let mut bytes = vec![1, 2, 3, 4, length[0], length[1], kind];
        bytes.extend(std::iter::repeat_n(9, payload));
        bytes
    };
    let mut log = record(10, 1);
    log.extend(record(BLOCK - 17 - 7 - 3, 1));
    log.extend([0; 3]);
    log.extend(record(20, 1));
    log.extend([1, 2, 3, 4, 50, 0, 1, 9]);
    let found = records(&log);
    let second = Record { at: 17, bytes: BLOCK - 17 - 3 };
    assert_eq!(found, [Record { at: 0, bytes: 17 }, second, Record { at: BLOCK, bytes: 27 }]);
    assert_eq!(allowed_of_flip(&log, &found, BLOCK + 5, 0), Allowed::ForgetSuffix, "256 bytes more are past the end");
    assert_eq!(allowed_of_flip(&log, &found, 5, 0), Allowed::RefuseOrRight, "256 bytes more are in the log");
    assert_eq!(allowed_of_flip(&log, &found, BLOCK + 6, 0), Allowed::RefuseOrRight, "a type is no length");
}
