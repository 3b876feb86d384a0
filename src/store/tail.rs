//! A look at RocksDB's write-ahead logs and its MANIFEST, which share a format, before RocksDB opens them.
//!
//! RocksDB takes a record that goes on past the end of its file for one that was being written when the process died,
//! and drops it. Damage to the header of a *synced* record reads the same to it: a length that is too large, a type
//! that belongs to recycled files (they end the file, are skipped, or are read for ever), a type and a length of zero.
//! Acknowledged records would be gone without a word, and with the MANIFEST every table. This walks the same headers,
//! one block in memory at a time, and refuses whatever an unfinished write does not explain.
//!
//! *What is found.* Any one flipped bit, and any one damaged field, of a whole record: checksums cover type and
//! payload; a record has to fit its block, and one that is continued has to fill it; fragments follow each other as
//! first, middle, last; a record that goes on past the end of its file must not be whole under a shorter length, and
//! what follows its header must not be whole records up to the end; zeroes go on to the end. A missing `CURRENT` beside
//! tables or logs, with which RocksDB would begin anew and delete them.
//!
//! *What is not damage.* A file that ends inside a record or between two fragments: its write was never acknowledged.
//! Zeroes behind the last record, which a file system may leave of space that was reserved. The bytes at a block's end
//! that are too few for a header: nobody reads them.
//!
//! *What one copy cannot tell*, unless the node was stopped ([`super::closed`]). A file that was cut at a record's border or inside a record, or is zeroes from a border
//! on: nothing in it says that there was more. (RocksDB keeps the sizes of closed logs in the MANIFEST and refuses
//! shorter ones; the log in use has no such entry, and neither has the MANIFEST.) A last record with both its length
//! and its payload damaged reads as cut, and so does one before it when all that follows is damaged as well. A log that
//! is missing altogether, and an old copy of the directory, are not seen here. The other way round, a cut record whose
//! payload happens to end in whole records of this format reads as damaged: refusing is the safe side.
//!
//! Deliberately absent: what a record says, and every other file. Tables and blob files carry checksums that RocksDB
//! verifies when it reads them, and it refuses a `CURRENT` that is malformed or names a file that is not there.
//!
//! Format: <https://github.com/facebook/rocksdb/wiki/Write-Ahead-Log-File-Format>.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crc32c::{crc32c, crc32c_append};

use super::StoreError;

/// Records never cross the border of a block: a long one is cut into fragments.
const BLOCK_BYTES: usize = 32 * 1024;
/// Masked CRC-32C of type and payload (4 bytes), length of the payload (2), type (1).
const HEADER_BYTES: usize = 7;
/// More than `CURRENT` ever holds: the name of a MANIFEST and a line feed.
const MAX_CURRENT_BYTES: u64 = 64;

/// Checks the logs of the database in `directory`, which need not be there.
///
/// # Errors
/// [`StoreError::Damaged`] with file and offset for what an unfinished write does not explain; [`StoreError::Disk`] for
/// what cannot be read.
pub(super) fn check(directory: &Path) -> Result<(), StoreError> {
    for path in logs(directory)? {
        let found = match File::open(&path) {
            Ok(file) => damage(file).map_err(|error| unreadable(&path, &error))?,
            // It was obsolete and another process has the database open, or RocksDB will miss it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(unreadable(&path, &error)),
        };
        if let Some(Damage { offset, what }) = found {
            return Err(StoreError::Damaged(format!("{} at byte {offset}: {what}", path.display())));
        }
    }
    Ok(())
}

/// The MANIFEST that `CURRENT` names, and the newest log: the files that nothing else has the length of.
pub(super) fn in_use(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let is_log = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log");
    let (logs, manifest): (Vec<PathBuf>, Vec<PathBuf>) = logs(directory)?.into_iter().partition(is_log);
    let number = |path: &PathBuf| path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
    Ok(logs.into_iter().max_by_key(number).into_iter().chain(manifest).collect())
}

/// All write-ahead logs and the MANIFEST that `CURRENT` names.
fn logs(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| unreadable(directory, &error))?,
    };
    let mut logs = Vec::new();
    let mut has_tables = false;
    for entry in entries {
        let path = entry.map_err(|error| unreadable(directory, &error))?.path();
        let extension = path.extension().unwrap_or_default();
        has_tables |= extension == "sst" || extension == "blob";
        if extension == "log" {
            logs.push(path);
        }
    }
    logs.sort();
    let current = directory.join("CURRENT");
    let mut name = Vec::new();
    match File::open(&current).and_then(|file| file.take(MAX_CURRENT_BYTES).read_to_end(&mut name)) {
        Ok(_) => logs.extend(manifest(&name).map(|name| directory.join(name))),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unreadable(&current, &error)),
        // A MANIFEST alone is what is left of a database whose making was interrupted.
        Err(_) if logs.is_empty() && !has_tables => {}
        Err(_) => {
            return Err(StoreError::Damaged(format!("{} is missing, and logs or tables are there", current.display())));
        }
    }
    Ok(logs)
}

/// What `CURRENT` names. RocksDB refuses one that names nothing.
fn manifest(current: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(current).ok()?.strip_suffix('\n')?;
    let number = name.strip_prefix("MANIFEST-")?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some(name)
}

fn unreadable(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Disk(format!("{} cannot be read: {error}", path.display()))
}

/// The first thing in a file that an unfinished write does not explain.
#[derive(Debug, PartialEq, Eq)]
struct Damage {
    /// In bytes, of the record.
    offset: u64,
    what: String,
}

/// Reads a file to its end, or to what is damaged.
fn damage(mut file: impl Read) -> io::Result<Option<Damage>> {
    let mut walk = Walk::default();
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    loop {
        block.clear();
        file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        if let Err(damage) = walk.block(&block) {
            return Ok(Some(damage));
        }
        if block.len() < BLOCK_BYTES {
            return Ok(None);
        }
    }
}

/// What has to be known of the blocks before.
#[derive(Default)]
struct Walk {
    bytes: u64,
    /// A record has begun and not ended.
    in_record: bool,
    /// Where zeroes began, which nothing may follow.
    zeroes_from: Option<u64>,
}

impl Walk {
    /// Takes the next block. Only a file's last one is shorter than [`BLOCK_BYTES`].
    fn block(&mut self, block: &[u8]) -> Result<(), Damage> {
        let mut rest = block;
        while !rest.is_empty() {
            let passed = block.len() - rest.len();
            let Some(room) = (BLOCK_BYTES - passed).checked_sub(HEADER_BYTES) else { break };
            let offset = self.bytes + passed as u64;
            if rest.iter().all(|byte| *byte == 0) {
                self.zeroes_from.get_or_insert(offset);
                break;
            }
            if let Some(offset) = self.zeroes_from {
                return Err(Damage { offset, what: "zeroes, and more behind them".to_owned() });
            }
            rest = self.record(rest, room).map_err(|what| Damage { offset, what })?;
        }
        self.bytes += block.len() as u64;
        Ok(())
    }

    /// Takes the record, or fragment of one, at the front. `room` is what its block has for its payload, in bytes.
    /// Returns what follows: nothing, where the file ends inside it.
    fn record<'a>(&mut self, bytes: &'a [u8], room: usize) -> Result<&'a [u8], String> {
        let Some((header, rest)) = Header::split(bytes) else { return Ok(&[]) };
        let (kind, length) = (header.kind, header.length);
        let Some((begins, ends)) = header.place() else { return Err(format!("a record of type {kind}")) };
        if length > room || (!ends && length < room) {
            return Err(format!("a record of {length} bytes and type {kind} where its block has {room}"));
        }
        match (begins, self.in_record) {
            (true, true) => return Err("a record inside one that has not ended".to_owned()),
            (false, false) => return Err("the continuation of a record that has not begun".to_owned()),
            (true, false) | (false, true) => {}
        }
        let Some((payload, rest)) = rest.split_at_checked(length) else {
            return match header.is_whole_shorter(rest) || (0..rest.len()).any(|from| are_whole(rest, from)) {
                true => Err(format!("a length of {length} bytes, which is past the end, and the record was whole")),
                false => Ok(&[]),
            };
        };
        let found = masked(crc32c_append(crc32c(&[kind]), payload));
        if found != header.checksum {
            return Err(format!("a record with checksum {:08x}, and its bytes have {found:08x}", header.checksum));
        }
        self.in_record = !ends;
        Ok(rest)
    }
}

struct Header {
    checksum: u32,
    length: usize,
    kind: u8,
}

impl Header {
    fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let [c0, c1, c2, c3, l0, l1, kind] = *header;
        let (checksum, length) = (u32::from_le_bytes([c0, c1, c2, c3]), u16::from_le_bytes([l0, l1]).into());
        Some((Self { checksum, length, kind }, rest))
    }

    /// Whether a record begins and whether it ends with this fragment. The other types belong to what is not used here:
    /// recycled files, compressed logs, timestamps, links between logs.
    fn place(&self) -> Option<(bool, bool)> {
        match self.kind {
            1 => Some((true, true)),
            2 => Some((true, false)),
            3 => Some((false, false)),
            4 => Some((false, true)),
            _ => None,
        }
    }

    /// Whether some front part of these bytes is what was written.
    fn is_whole_shorter(&self, bytes: &[u8]) -> bool {
        let mut crc = crc32c(&[self.kind]);
        let mut is_whole = masked(crc) == self.checksum;
        for byte in bytes {
            crc = crc32c_append(crc, &[*byte]);
            is_whole |= masked(crc) == self.checksum;
        }
        is_whole
    }
}

/// Whether the bytes from a place on are whole records to their end.
fn are_whole(bytes: &[u8], from: usize) -> bool {
    let mut rest = bytes.get(from..).unwrap_or_default();
    while let Some((header, after)) = Header::split(rest) {
        let Some((payload, after)) = after.split_at_checked(header.length) else { return false };
        if header.place().is_none() || masked(crc32c_append(crc32c(&[header.kind]), payload)) != header.checksum {
            return false;
        }
        rest = after;
        if rest.is_empty() {
            return true;
        }
    }
    false
}

/// RocksDB stores checksums rotated and shifted, so that a checksum of bytes that hold one is not weak.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}
