//! A large group, exported and installed: `make soak` runs it, and writes what it measured.

use std::fmt::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::tests::{fill, id, open};
use super::*;
use crate::clock;
use crate::ids::PartitionId;

/// Bytes of the group; `SOAK_SNAPSHOT_BYTES` makes it smaller for a look at the test itself.
const BYTES: u64 = 1 << 30;
/// How much memory export and install may take beside what the filled store has, in KiB.
const MOST_KIB: u64 = 128 * 1024;
/// A row of [`fill`] on the average.
const ROW_BYTES: u64 = 15_148;

fn memory_kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs a part, and says how long it took and how much memory it took at its most.
fn measured<T>(figures: &mut String, what: &str, part: impl FnOnce() -> T) -> T {
    let before = memory_kib("VmRSS");
    // From now on the high-water mark counts anew.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let begun = clock::monotonic();
    let done = part();
    let (took, peak) = (clock::monotonic().since(begun), memory_kib("VmHWM"));
    let more = peak.saturating_sub(before);
    writeln!(figures, "{what}: {} ms, {before} KiB before, {more} KiB more at the most", took.as_millis()).unwrap();
    assert!(more < MOST_KIB, "over the bound of {MOST_KIB} KiB:\n{figures}");
    done
}

#[test]
fn soak_a_large_group_travels_in_bounded_memory() {
    let Some(out) = std::env::var_os("HOLDFAST_SOAK_OUT").map(PathBuf::from) else { return };
    let bytes = std::env::var("SOAK_SNAPSHOT_BYTES").map_or(BYTES, |text| text.parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (open(&place.path().join("from")).unwrap(), open(&place.path().join("to")).unwrap());
    let (source, target) = (from.group(PartitionId(1)), to.group(PartitionId(1)));
    fill(&source, 1, bytes / ROW_BYTES, 70);
    source.flush().unwrap();
    let mut figures = String::new();
    let pinned = source.pin().unwrap().unwrap();
    let export = measured(&mut figures, "export", || pinned.export(Arc::new(AtomicBool::new(false))).unwrap());
    let sent: u64 = export.files().iter().map(|file| file.bytes).sum();
    let received = measured(&mut figures, "receive", || {
        let mut incoming = target.receive("a-1", export.files().to_vec()).unwrap();
        let mut buffer = vec![0; limits::SNAPSHOT_CHUNK_BYTES];
        while let Some(at) = incoming.position() {
            let read = File::open(export.path(at.file)).unwrap().read_at(&mut buffer, at.offset).unwrap();
            incoming.take(at, &buffer[..read]).unwrap();
        }
        incoming.finish().unwrap()
    });
    let looked = measured(&mut figures, "look at what is there", || {
        target.receive("a-1", export.files().to_vec()).unwrap().position()
    });
    assert_eq!(looked, None);
    measured(&mut figures, "install", || target.install(received, id(70)).unwrap());
    assert_eq!(target.state().unwrap(), source.state().unwrap());
    writeln!(figures, "{sent} bytes in {} files", export.files().len()).unwrap();
    fs::write(out.join("snapshot.txt"), &figures).unwrap();
    println!("{figures}");
}
