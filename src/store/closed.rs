//! How long the MANIFEST and the log in use were when the node stopped: said in a file of its own, in one step and synced.
//!
//! Neither file says how long it should be, so one that was cut at a record's border looks whole ([`super::tail`]). After a clean
//! stop the next start compares them with this file, and removes it before anything is opened. After a crash there is none.
//!
//! Deliberately absent: other files. Closed logs and tables are named in the MANIFEST, and RocksDB misses them.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use super::{StoreError, tail};

const FILE: &str = "closed";
/// More than the file ever has.
const MAX_BYTES: u64 = 4_096;

fn disk(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Disk(format!("{}: {error}", path.display()))
}

/// Says how long the files of a database are that was closed.
///
/// # Errors
/// When the disk refuses.
pub(super) fn write(path: &Path, database: &Path) -> Result<(), StoreError> {
    let mut text = String::new();
    for file in tail::in_use(database)? {
        let bytes = std::fs::metadata(&file).map_err(|error| disk(&file, &error))?.len();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        text.push_str(&format!("{bytes} {name}\n"));
    }
    text.push_str(&format!("{:08x}\n", crc32c::crc32c(text.as_bytes())));
    let (file, fresh) = (path.join(FILE), path.join("closed.new"));
    let written = || -> io::Result<()> {
        let mut out = File::create(&fresh)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        std::fs::rename(&fresh, &file)?;
        File::open(path)?.sync_all()
    };
    written().map_err(|error| disk(&file, &error))
}

/// Compares the files of a database with what was said when it was closed, if anything was, and forgets that.
///
/// # Errors
/// [`StoreError::Damaged`] when one has another length, or what was said is damaged.
pub(super) fn compare(path: &Path, database: &Path) -> Result<(), StoreError> {
    let file = path.join(FILE);
    match std::fs::metadata(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(disk(&file, &error)),
        Ok(found) if found.len() > MAX_BYTES => return Err(damaged(&file)),
        Ok(_) => {}
    }
    let text = std::fs::read(&file).map_err(|error| disk(&file, &error))?;
    let lines = String::from_utf8(text).ok().and_then(|text| said(&text)).ok_or_else(|| damaged(&file))?;
    for (bytes, name) in lines {
        let named = database.join(&name);
        let found = match std::fs::metadata(&named) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Damaged(format!("{} is missing since the last stop", named.display())));
            }
            Err(error) => return Err(disk(&named, &error)),
        };
        if found != bytes {
            let text = format!("{} has {found} bytes, and had {bytes} when the node stopped", named.display());
            return Err(StoreError::Damaged(text));
        }
    }
    forget(path)
}

/// Forgets what was said by another process that closed the database while this one waited for it.
///
/// # Errors
/// When the disk refuses.
pub(super) fn forget(path: &Path) -> Result<(), StoreError> {
    let file = path.join(FILE);
    match std::fs::remove_file(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        forgotten => forgotten.and_then(|()| File::open(path)?.sync_all()).map_err(|error| disk(&file, &error)),
    }
}

fn damaged(file: &Path) -> StoreError {
    StoreError::Damaged(format!("{} is damaged", file.display()))
}

/// Lengths and names, if the checksum is right.
fn said(text: &str) -> Option<Vec<(u64, String)>> {
    let (body, sum) = text.strip_suffix('\n')?.rsplit_once('\n').unwrap_or(("", text.strip_suffix('\n')?));
    let body = if body.is_empty() { String::new() } else { format!("{body}\n") };
    if u32::from_str_radix(sum, 16).ok()? != crc32c::crc32c(body.as_bytes()) {
        return None;
    }
    let line = |line: &str| line.split_once(' ').and_then(|(bytes, name)| Some((bytes.parse().ok()?, name.to_owned())));
    body.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_or_lost_since_the_stop_is_found() {
        let place = tempfile::tempdir().expect("a directory");
        let (path, database) = (place.path(), place.path().join("db"));
        std::fs::create_dir(&database).expect("a directory");
        let put = |name: &str, bytes: usize| std::fs::write(database.join(name), vec![0; bytes]).expect("a file");
        std::fs::write(database.join("CURRENT"), "MANIFEST-000007\n").expect("a file");
        let whole = || {
            put("MANIFEST-000007", 300);
            put("000008.log", 9);
            put("000012.log", 0);
            write(path, &database).expect("it is written");
        };
        let text = |told: Result<(), StoreError>| told.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(compare(path, &database).is_ok(), "nothing was said");
        whole();
        assert!(compare(path, &database).is_ok());
        put("MANIFEST-000007", 299);
        assert!(compare(path, &database).is_ok(), "what was said was forgotten");
        whole();
        put("MANIFEST-000007", 299);
        assert!(text(compare(path, &database)).contains("has 299 bytes, and had 300"));
        assert!(text(compare(path, &database)).contains("has 299 bytes"), "and it is not forgotten");
        whole();
        put("000012.log", 1);
        assert!(text(compare(path, &database)).contains("000012.log has 1 bytes"));
        whole();
        put("000008.log", 8);
        assert!(compare(path, &database).is_ok(), "a closed log is RocksDB's to miss");
        whole();
        std::fs::remove_file(database.join("000012.log")).expect("it was there");
        assert!(text(compare(path, &database)).contains("missing since the last stop"));
        whole();
        let file = path.join(FILE);
        let good = std::fs::read(&file).expect("it is there");
        for at in 0..good.len() {
            let mut bad = good.clone();
            if let Some(byte) = bad.get_mut(at) {
                *byte ^= 1;
            }
            std::fs::write(&file, &bad).expect("it is written");
            assert!(text(compare(path, &database)).contains("closed is damaged"), "byte {at}");
        }
    }
}
