//! What was exported before: the last entry of each partition, from the exported lines themselves.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use crate::cli::exit::Problem;

/// Bytes of a line: an entry's texts are a few thousand bytes, and JSON writes some characters as six.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// What a line has to have.
#[derive(serde::Deserialize)]
struct Line {
    partition: u32,
    sequence: u64,
}

/// The last sequence of each partition in some files.
///
/// # Errors
/// When one cannot be read, or has a line that is no whole entry.
pub(super) fn last_sequences(files: &[PathBuf]) -> Result<BTreeMap<u32, u64>, Problem> {
    let mut last = BTreeMap::new();
    for file in files {
        read(file, &mut last).map_err(Problem::usage)?;
    }
    Ok(last)
}

fn read(path: &Path, last: &mut BTreeMap<u32, u64>) -> anyhow::Result<()> {
    let unreadable = || format!("cannot read {}", path.display());
    let mut lines = BufReader::new(File::open(path).with_context(unreadable)?);
    let mut text = Vec::new();
    for number in 1_u64.. {
        text.clear();
        if lines.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut text).with_context(unreadable)? == 0 {
            break;
        }
        // A line without its end was cut off, also if what is there can be read: the next one would go on in it.
        let line = text.strip_suffix(b"\n").and_then(|line| serde_json::from_slice::<Line>(line).ok());
        let Line { partition, sequence } = line.ok_or_else(|| {
            anyhow!(
                "{}:{number} is no whole entry as `holdfast ctl audit --output json` writes it: remove the line, and the \
                 entry is exported again",
                path.display()
            )
        })?;
        let known = last.entry(partition).or_default();
        *known = sequence.max(*known);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> anyhow::Result<BTreeMap<u32, u64>> {
        let dir = tempfile::tempdir()?;
        let mut files = Vec::new();
        for (at, text) in texts.iter().enumerate() {
            let path = dir.path().join(at.to_string());
            std::fs::write(&path, text)?;
            files.push(path);
        }
        last_sequences(&files).map_err(|problem| problem.error)
    }

    #[test]
    fn the_last_of_each_partition_is_found() -> anyhow::Result<()> {
        let line =
            |partition, sequence| format!("{{\"partition\":{partition},\"sequence\":{sequence},\"actor\":\"a\"}}\n");
        let (one, other) = (line(0, 1) + &line(3, 7) + &line(0, 2), line(0, 1) + &line(3, 9));
        assert_eq!(of(&[])?, BTreeMap::new());
        assert_eq!(of(&[""])?, BTreeMap::new());
        assert_eq!(of(&[&one, &other])?, BTreeMap::from([(0, 2), (3, 9)]));
        let whole = line(0, 1);
        let long = format!("{}\n", "x".repeat(100_000));
        for bad in [whole.trim_end(), "{\"partition\":0}\n", "\n", "x\n", &long] {
            let text = format!("{whole}{bad}");
            let error = of(&[&text]).expect_err("it is no entry").to_string();
            assert!(error.contains(":2 is no whole entry"), "{error}");
        }
        assert!(last_sequences(&[PathBuf::from("/missing")]).is_err());
        Ok(())
    }
}
