//! Long runs over the real binary: `make soak` runs them, and writes what they measured beside each other.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use crate::clock;
use crate::harness::{Node, Place, report};

/// Records of the memory test; `SOAK_RECORDS` makes it shorter for a look at the test itself.
const RECORDS: u32 = 10_000_000;
/// What a node may use at the most with them, in KiB.
const MOST_KIB: u64 = 512 * 1024;

/// Where figures go; nothing outside `make soak`, where this returns at once.
pub(crate) fn out() -> Option<PathBuf> {
    std::env::var_os("HOLDFAST_SOAK_OUT").map(PathBuf::from)
}

/// A field of the node's `/proc` status, in KiB.
pub(crate) fn memory_kib(node: &Node, field: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid()))?;
    let line = status.lines().find(|line| line.starts_with(field)).context("no such field")?;
    let number = line.split_whitespace().nth(1).context("no number")?;
    Ok(number.parse()?)
}

pub(crate) fn disk_bytes(place: &Place) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(place.data().join("db"))? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}

/// Ten million completed records: the node's memory stays bounded while they are made, and after a restart over them.
#[tokio::test(flavor = "multi_thread")]
async fn soak_memory_stays_bounded_with_ten_million_records() -> anyhow::Result<()> {
    let Some(out) = out() else { return Ok(()) };
    let records = crate::harness::number("SOAK_RECORDS", RECORDS)?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let begun = clock::now();
    let load = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["bench", "--address", &format!("http://{}", node.address()), "--concurrency", "256"])
        .args(["--cycles", &records.to_string(), "--body-bytes", "128", "--replay-share", "0.05", "--warmup", "1s"])
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&load.stdout).into_owned();
    if !load.status.success() {
        bail!("the load failed: {text}{}", String::from_utf8_lossy(&load.stderr));
    }
    let took = clock::now() - begun;
    let (peak, now) = (memory_kib(&node, "VmHWM")?, memory_kib(&node, "VmRSS")?);
    let disk = disk_bytes(&place)?;
    node.stop().await?;
    let begun = clock::now();
    let again = place.start().run().await?;
    let restart = clock::now() - begun;
    let after = memory_kib(&again, "VmHWM")?;
    again.stop().await?;
    let figures = format!(
        "{records} records of 128-byte bodies in {} s\nmemory: peak {peak} KiB, at the end {now} KiB, peak after a restart \
         {after} KiB (bound {MOST_KIB} KiB)\ndisk: {disk} bytes\nrestart: {} ms\n\n{text}",
        took.as_secs(),
        restart.as_millis()
    );
    std::fs::write(out.join("memory.txt"), &figures)?;
    report(&figures);
    ensure!(peak < MOST_KIB && after < MOST_KIB, "over the bound:\n{figures}");
    Ok(())
}
