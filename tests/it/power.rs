//! A power cut. SIGKILL leaves the page cache, so it cannot show that an answer waited for its sync; here what was
//! written and not synced is really gone.
//!
//! The node runs under strace, which notes every write and sync, and delays the syncs a little, so that the end often comes
//! between the two. After a SIGKILL each file is cut back to what its last successful sync covers, or, as the seed says, to
//! somewhere between that and its end, or everything after it reads as zeros. Then the node starts again, and the checker
//! judges.
//!
//! Deliberately absent: directory entries that were never synced, and blocks of one write that reach the disk in another
//! order than they were written, which would need a block device of our own. (A record of which the middle is missing
//! cannot be told from a damaged one by a single copy: the node refuses to start on it.)

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rand::Rng as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::corruption::all_files;
use crate::crash::{ask_for_every_key, judge_promises};
use crate::harness::{self, Place};
use crate::history::OnLapse;
use crate::random::Random;
use crate::strace::{Disk, Need, available, watching_writes};
use crate::workload::{Crowd, Target};

const WORKERS: u64 = 8;
const CUTS: u32 = 12;
/// How long a sync is delayed.
const SYNC: Duration = Duration::from_millis(4);
/// Syncs that each thread gets before the disk begins to lie: enough for a database to be made.
const TRUE_SYNCS: u32 = 30;
const UP_MS: std::ops::Range<u64> = 400..1_600;

/// How much of a file there is, and how much of it a power cut leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Length {
    written: u64,
    synced: u64,
}

/// What a trace tells of every file that was written.
#[derive(Debug, Default)]
struct Files {
    lengths: HashMap<PathBuf, Length>,
    /// Calls that a thread has begun: its name, its arguments, and the file's length then.
    begun: HashMap<String, (String, String, u64)>,
}

impl Files {
    fn read(trace: &str) -> anyhow::Result<Self> {
        let mut files = Self::default();
        for line in trace.lines() {
            files.line(line).with_context(|| format!("cannot read the line of strace: {line}"))?;
        }
        Ok(files)
    }

    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        let Some((thread, call)) = line.split_once(' ') else { return Ok(()) };
        let call = call.trim_start();
        if call.starts_with("+++") || call.starts_with("---") {
            return Ok(());
        }
        if let Some(resumed) = call.strip_prefix("<... ") {
            let (_, rest) = resumed.split_once(" resumed>").context("no end of what is resumed")?;
            let (name, begun, length) = self.begun.remove(thread).context("nothing had begun")?;
            return self.ended(&name, &format!("{begun}{rest}"), length);
        }
        let (name, rest) = call.split_once('(').context("no call")?;
        let length = file_of(rest).and_then(|path| self.lengths.get(path)).map_or(0, |length| length.written);
        match rest.strip_suffix("<unfinished ...>").or(rest.strip_suffix("<detached ...>")) {
            Some(arguments) => {
                self.begun.insert(thread.to_owned(), (name.to_owned(), arguments.to_owned(), length));
                Ok(())
            }
            None => self.ended(name, rest, length),
        }
    }

    /// A call is over. `length_before` is what was written of its file when it began.
    fn ended(&mut self, name: &str, rest: &str, length_before: u64) -> anyhow::Result<()> {
        let (arguments, result) = rest.rsplit_once(" = ").context("no result")?;
        if result.ends_with("(INJECTED)") {
            // What strace says in the place of the kernel was never done.
            return Ok(());
        }
        let Ok(result) = result.split(' ').next().unwrap_or_default().parse::<u64>() else { return Ok(()) };
        if name == "rename" {
            let mut names = arguments.split('"').skip(1).step_by(2).map(PathBuf::from);
            let (from, to) = (names.next().context("no name")?, names.next().context("no new name")?);
            if let Some(length) = self.lengths.remove(&from) {
                self.lengths.insert(to, length);
            }
            return Ok(());
        }
        let Some(path) = file_of(rest) else { return Ok(()) };
        let number = || -> anyhow::Result<u64> {
            let last = arguments.trim_end().trim_end_matches(')').rsplit(", ").next().unwrap_or_default();
            Ok(last.trim().parse()?)
        };
        let length = self.lengths.entry(path.to_owned()).or_default();
        match name {
            "write" => length.written += result,
            "pwrite64" => length.written = length.written.max(number()? + result),
            "ftruncate" => length.written = number()?,
            "fsync" | "fdatasync" => length.synced = length.synced.max(length_before),
            _ => {}
        }
        Ok(())
    }
}

/// The file of a call's first argument, as `strace -y` shows it.
fn file_of(arguments: &str) -> Option<&Path> {
    let (_, rest) = arguments.split_once('<')?;
    let (path, _) = rest.split_once('>')?;
    path.starts_with('/').then(|| Path::new(path))
}

/// Leaves of every file under `data` what a power cut might. Returns how many bytes of how many files are gone.
fn cut(files: &Files, data: &Path, random: &mut Random) -> anyhow::Result<(u64, usize)> {
    let mut lost = (0, 0);
    for path in all_files(data)? {
        let Some(length) = files.lengths.get(&path) else { continue };
        let there = std::fs::metadata(&path)?.len().min(length.written);
        // RocksDB's own log is for people, and is never synced.
        let for_people = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("LOG"));
        if there <= length.synced || for_people {
            continue;
        }
        let part = random.random_bool(0.4);
        let kept = if part { random.random_range(length.synced..there) } else { length.synced };
        let file = OpenOptions::new().write(true).open(&path)?;
        file.set_len(kept)?;
        if !part && random.random_bool(0.5) {
            file.set_len(there)?;
        }
        lost.0 += there - kept;
        lost.1 += 1;
    }
    Ok(lost)
}

/// Lets a crowd work on a node whose power is cut again and again, and judges.
async fn cut_again_and_again(cuts: u32, disk: Disk, seed: u64) -> anyhow::Result<()> {
    let mut random = Random::new(seed);
    let place = Place::new()?;
    let (target, seen) = watch::channel(Target::new());
    let (end, over) = watch::channel(false);
    let crowd = Crowd::new(seed, OnLapse::Regrant, seen, over);
    let mut workers = JoinSet::new();
    for number in 0..WORKERS {
        workers.spawn(crowd.worker(number).live());
    }
    let mut lost = (0, 0);
    for round in 0..cuts {
        let trace = place.root().join(format!("trace-{round}"));
        let mut node = place.start().under(watching_writes(&trace, disk)).run().await?;
        target.send(vec![(u64::from(round), node.address())])?;
        sleep(Duration::from_millis(random.random_range(UP_MS))).await;
        let tracer = tracer_of(node.pid())?;
        node.kill()?;
        crowd.died();
        target.send(Vec::new())?;
        let trace = whole(&trace, tracer).await?;
        let more = cut(&Files::read(&trace)?, place.data(), &mut random)?;
        lost = (lost.0 + more.0, lost.1 + more.1);
    }
    harness::report(&format!("{} unsynced bytes of {} files were lost", lost.0, lost.1));
    ensure!(lost.0 > 0, "no cut lost anything: nothing was shown");
    let node = place.start().run().await?;
    end.send(true)?;
    target.send(vec![(u64::MAX, node.address())])?;
    while let Some(ended) = workers.join_next().await {
        ended?;
    }
    ask_for_every_key(&crowd).await?;
    node.stop().await?;
    judge_promises(&crowd, seed)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_loses_nothing_that_was_acknowledged() -> anyhow::Result<()> {
    if !available(&[Need::Strace])? {
        return Ok(());
    }
    let _machine = harness::beside_another().await?;
    cut_again_and_again(harness::number("POWER_CUTS", CUTS)?, Disk::Slow(SYNC), harness::seed(7)?).await
}

/// The planted bug: answers that do not wait for the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_lies_is_found_out() -> anyhow::Result<()> {
    if !available(&[Need::Strace])? {
        return Ok(());
    }
    let _machine = harness::beside_another().await?;
    match cut_again_and_again(1, Disk::LiesAfter(TRUE_SYNCS), harness::seed(7)?).await {
        Err(error) if format!("{error:#}").contains("broken promises") => Ok(()),
        other => bail!("syncs that did nothing went unnoticed: {other:?}"),
    }
}

/// The process that traces another one.
fn tracer_of(pid: u32) -> anyhow::Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).context("no tracer is named")?;
    let tracer = tracer.trim().parse()?;
    ensure!(tracer != 0, "nobody traces the node");
    Ok(tracer)
}

/// The trace of a killed process, once its tracer has written all of it and ended.
async fn whole(path: &Path, tracer: u32) -> anyhow::Result<String> {
    harness::until("strace ended", Duration::from_secs(20), async || {
        let status = std::fs::read_to_string(format!("/proc/{tracer}/status")).unwrap_or_default();
        let runs = status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'));
        Ok((!runs).then_some(()))
    })
    .await?;
    Ok(std::fs::read_to_string(path)?)
}

#[test]
fn a_trace_says_what_is_synced() -> anyhow::Result<()> {
    let trace = r#"10  write(5</d/1.log>, ""..., 100) = 100
10  fdatasync(5</d/1.log> <unfinished ...>
11  write(5</d/1.log>, ""..., 50) = 50
10  <... fdatasync resumed>) = 0
11  write(9<socket:[1]>, ""..., 7) = 7
11  fdatasync(5</d/1.log>) = -1 EIO (Input/output error) (INJECTED)
11  fdatasync(5</d/1.log>) = 0 (INJECTED)
12  write(6</d/CURRENT.tmp>, ""..., 16 <unfinished ...>
12  <... write resumed>) = 16
12  fsync(6</d/CURRENT.tmp>) = 0
12  rename("/d/CURRENT.tmp", "/d/CURRENT") = 0
13  pwrite64(7</d/2.sst>, ""..., 10, 90) = 10
13  ftruncate(7</d/2.sst>, 80 <unfinished ...>
13  <... ftruncate resumed>)          = 0
13  fdatasync(7</d/2.sst> <unfinished ...>
14  write(5</d/1.log>, ""..., 8 <detached ...>
10  +++ killed by SIGKILL +++"#;
    let files = Files::read(trace)?;
    let length = |path: &str| files.lengths.get(Path::new(path)).copied();
    assert_eq!(length("/d/1.log"), Some(Length { written: 150, synced: 100 }));
    assert_eq!(length("/d/CURRENT"), Some(Length { written: 16, synced: 16 }));
    assert_eq!(length("/d/2.sst"), Some(Length { written: 80, synced: 0 }));
    if Files::read("10  <... write resumed>) = 1").is_ok() {
        bail!("a call that never began was taken");
    }
    Ok(())
}
