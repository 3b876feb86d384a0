//! The floor of a durable grant: how long the disk needs for one small append that is synced. A node cannot answer faster
//! than that, so its latency is read beside it.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::cli::bench::tally::{histogram, microseconds};
use crate::clock::monotonic;

/// Bytes of one append: a small batch of the log, in whole pages.
const APPEND_BYTES: usize = 4_096;
/// Appends at the most.
const MOST_APPENDS: usize = 2_000;
/// Time at the most; a slow disk makes fewer appends.
const MOST_TIME: Duration = Duration::from_secs(2);

/// What the disk needed, before and after the load.
#[derive(Debug)]
pub(super) struct Floor {
    /// Where it was measured.
    pub(super) dir: PathBuf,
    /// Microseconds of an append before the load.
    pub(super) before: Histogram<u64>,
    /// And after it.
    pub(super) after: Histogram<u64>,
}

impl Floor {
    /// The median of both measurements together, in microseconds.
    pub(super) fn p50_us(&self) -> u64 {
        let mut both = self.before.clone();
        both.add(&self.after).expect("histograms of one shape can be added");
        both.value_at_quantile(0.5)
    }
}

/// Why there is no floor.
#[derive(Debug, thiserror::Error)]
#[error("cannot measure fdatasync in --floor-dir {}: {why}", dir.display())]
pub(super) struct FloorError {
    dir: PathBuf,
    why: io::Error,
}

/// Appends and syncs, for up to two seconds, in a file of its own that is removed again.
pub(super) fn measure(dir: &Path) -> Result<Histogram<u64>, FloorError> {
    let path = dir.join(format!("holdfast-bench-floor-{}.tmp", std::process::id()));
    let measured = append(&path);
    let removed = std::fs::remove_file(&path);
    measured.and_then(|latencies| removed.map(|()| latencies)).map_err(|why| FloorError { dir: dir.to_owned(), why })
}

fn append(path: &Path) -> io::Result<Histogram<u64>> {
    let mut file = std::fs::OpenOptions::new().append(true).create_new(true).open(path)?;
    let page = [0x5a_u8; APPEND_BYTES];
    let mut latencies = histogram();
    let begun = monotonic();
    for _ in 0..MOST_APPENDS {
        let start = monotonic();
        file.write_all(&page)?;
        file.sync_data()?;
        let end = monotonic();
        latencies.saturating_record(microseconds(end.since(start)));
        if end.since(begun) > MOST_TIME {
            break;
        }
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_measures_and_leaves_nothing_behind() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let latencies = measure(dir.path())?;
        assert!(!latencies.is_empty());
        assert_eq!(std::fs::read_dir(dir.path())?.count(), 0);
        let missing = measure(&dir.path().join("missing")).map_err(|error| error.to_string());
        assert!(missing.is_err_and(|message| message.contains("--floor-dir") && message.contains("missing")));
        Ok(())
    }
}
