//! Flipped bits and torn tails in the files of a stopped node. It may refuse to start or stop serving, loudly; or the
//! damage is not hit and every acknowledged answer is right. What one copy cannot know stands in `damage`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rand::Rng as _;
use tokio::time::sleep;

use crate::client::Client;
use crate::clock;
use crate::damage::{self, Allowed, Damage, Trial};
use crate::faults::says_what_to_do;
use crate::harness::{self, Node, Place, Start};
use crate::kept::{self, Finding, Kept};
use crate::random::Random;

/// How long a node on damaged files may take to say that it does not serve.
const DEADLINE: Duration = Duration::from_secs(20);
/// What a message about damage calls it.
const NAMES: &[&str] = &["damaged", "corrupt", "checksum", "does not open", "No such file"];

/// How the node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Everything is in tables and blob files.
    Stopped,
    /// What came last is in the write-ahead log only.
    Killed,
}

/// The files of a node that ended, and what it had acknowledged.
struct Specimen {
    data: PathBuf,
    /// Acknowledged before a clean stop: in tables and blob files.
    old: Vec<Kept>,
    /// Acknowledged one after another since the last start: in the write-ahead log.
    new: Vec<Kept>,
}

fn server(data: &Path, logs: &Path) -> Start {
    let start = Start::new(data).logs_in(logs).server().flag("--partitions", 4);
    // Small buffers, so that there are many files of each kind.
    start.flag("--write-buffer-bytes", 4 * 1024 * 1024)
}

async fn specimen(place: &Place, end: End) -> anyhow::Result<Specimen> {
    let start = server(place.data(), place.root());
    let sizes = [0, 100, 2_000, 9_000, 60_000];
    let mut old = Vec::new();
    for from in [0, 200] {
        let node = start.run().await?;
        let client = Client::grpc(node.address())?;
        old.extend(kept::fill(&client, from..from + 150, &sizes).await?);
        old.extend(kept::hold(&client, from + 150..from + 160).await?);
        node.stop().await?;
    }
    if end == End::Stopped {
        return Ok(Specimen { data: place.data().to_owned(), old, new: Vec::new() });
    }
    let mut node = start.run().await?;
    let client = Client::grpc(node.address())?;
    let mut new = Vec::new();
    for number in 1_000..1_080 {
        new.extend(kept::fill(&client, number..number + 1, &sizes[..4]).await?);
    }
    new.extend(kept::hold(&client, 1_080..1_090).await?);
    node.kill()?;
    Ok(Specimen { data: place.data().to_owned(), old, new })
}

/// Every file under a directory.
pub(crate) fn all_files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { directories.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    Ok(files)
}

impl Specimen {
    /// The files of a kind, by their names in the data directory, the largest first.
    fn files(&self, is: impl Fn(&str) -> bool) -> anyhow::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for path in all_files(&self.data)? {
            let bytes = std::fs::metadata(&path)?.len();
            if bytes > 0 && path.file_name().is_some_and(|name| is(&name.to_string_lossy())) {
                files.push((std::cmp::Reverse(bytes), path));
            }
        }
        files.sort();
        Ok(files.into_iter().map(|(_, path)| path).collect())
    }

    fn trials(&self, random: &mut Random) -> anyhow::Result<Vec<Trial>> {
        let mut trials = Vec::new();
        let mut logs = self.files(|name| name.ends_with(".log"))?;
        logs.sort();
        if !self.new.is_empty() {
            let live = logs.pop().context("there is no write-ahead log")?;
            trials.extend(damage::of_live_log(&live, random)?);
        }
        for older in &logs {
            trials.extend(damage::cuts(older, 2, random)?);
            trials.extend(damage::flips(older, 4, random)?);
        }
        for (kind, flips, cuts) in [
            (".sst", 40, 12),
            (".blob", 24, 8),
            ("MANIFEST", 40, 12),
            ("CURRENT", 12, 4),
            ("identity", 12, 4),
            ("OPTIONS", 2, 1),
        ] {
            let files = self.files(|name| name.starts_with(kind) || name.ends_with(kind))?;
            ensure!(!files.is_empty(), "there is no {kind} to damage");
            for number in 0..flips + cuts {
                let file = files.get(random.random_range(0..files.len())).context("no file")?;
                let trial = if number < flips { damage::flips } else { damage::cuts };
                trials.extend(trial(file, 1, random)?);
            }
            if kind == "MANIFEST" {
                trials.extend(damage::cuts_at_borders(files.first().context("no file")?)?);
            }
            if matches!(kind, ".sst" | ".blob" | "MANIFEST") {
                let file = files.get(random.random_range(0..files.len())).context("no file")?.clone();
                trials.push(Trial { file, damage: Damage::Removed, allowed: Allowed::RefuseOrRight });
            }
        }
        Ok(trials)
    }
}

/// How a node took its damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Took {
    /// It did not start, and said why.
    Refused,
    /// It stopped serving some or all keys, and said why.
    Stopped,
    /// Everything was answered right.
    Right,
    /// It forgot a suffix, where it may.
    Forgot,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_after_a_kill_is_found_or_not_hit() -> anyhow::Result<()> {
    damage_again_and_again(End::Killed).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_after_a_clean_stop_is_found_or_not_hit() -> anyhow::Result<()> {
    damage_again_and_again(End::Stopped).await
}

async fn damage_again_and_again(end: End) -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let seed = harness::seed(4)?;
    let mut random = Random::new(seed);
    let place = Place::new()?;
    let specimen = specimen(&place, end).await?;
    let mut took = BTreeMap::new();
    let mut broken = Vec::new();
    for (number, trial) in specimen.trials(&mut random)?.iter().enumerate() {
        let name = trial.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let what = format!("{name} {:?}, {:?} allowed", trial.damage, trial.allowed);
        let kind = name.split(['-', '.']).next_back().unwrap_or_default().trim_matches(|c: char| c.is_ascii_digit());
        let kind = if kind.is_empty() { name.trim_matches(|c: char| c == '-' || c.is_ascii_digit()) } else { kind };
        match attempt(&specimen, &place, number, trial).await {
            Ok(how) => *took.entry((kind.to_owned(), how)).or_insert(0) += 1,
            Err(error) => broken.push(format!("{what}: {error:#}")),
        }
    }
    harness::report(&format!("{took:?}"));
    ensure!(broken.is_empty(), "SEED={seed}: {} damages were taken wrong:\n{}", broken.len(), broken.join("\n"));
    Ok(())
}

async fn attempt(specimen: &Specimen, place: &Place, number: usize, trial: &Trial) -> anyhow::Result<Took> {
    let data = place.root().join(format!("trial-{number}"));
    for file in all_files(&specimen.data)? {
        let copy = data.join(file.strip_prefix(&specimen.data)?);
        std::fs::create_dir_all(copy.parent().context("a file without a directory")?)?;
        std::fs::copy(&file, &copy)?;
    }
    trial.damage.apply(&data.join(trial.file.strip_prefix(&specimen.data)?))?;
    let logs = place.root().join(format!("logs-{number}"));
    std::fs::create_dir(&logs)?;
    let took = match server(&data, &logs).run_unhealthy().await? {
        Err(refused) => {
            ensure!(!harness::panicked(&refused.output), "it panicked:\n{}", refused.output);
            let status = refused.status.context("it neither started nor ended")?;
            ensure!(!status.success(), "it ended with {status}:\n{}", refused.output);
            says_what_to_do(&refused.output, NAMES)?;
            Took::Refused
        }
        Ok(node) => settled(node, specimen).await?,
    };
    std::fs::remove_dir_all(&data)?;
    let fits = match (trial.allowed, took) {
        (Allowed::ForgetSuffix, _) | (_, Took::Right) => true,
        (Allowed::RefuseOrRight, Took::Refused | Took::Stopped) => true,
        (Allowed::RefuseOrRight | Allowed::Right, Took::Forgot) => false,
        (Allowed::Right, Took::Refused | Took::Stopped) => false,
    };
    ensure!(fits, "the node {took:?}");
    Ok(took)
}

/// What a node that started says of every key.
async fn settled(mut node: Node, specimen: &Specimen) -> anyhow::Result<Took> {
    let end = clock::now() + DEADLINE;
    let (old, new) = loop {
        let old = kept::ask(node.address(), &specimen.old).await?;
        let new = kept::ask(node.address(), &specimen.new).await?;
        node.no_panic()?;
        let unserved = old.iter().chain(&new).find_map(|finding| match finding {
            Finding::Unserved(failure) => Some(failure),
            Finding::Right | Finding::Forgotten | Finding::Unfinished | Finding::Wrong(_) => None,
        });
        let Some(failure) = unserved else { break (old, new) };
        if let Some(status) = node.ended()? {
            ensure!(!status.success(), "it ended with {status}:\n{}", node.output());
            says_what_to_do(&node.output(), NAMES)?;
            break (old, new);
        }
        match says_what_to_do(&failure.text, NAMES) {
            Ok(()) => break (old, new),
            Err(_) if clock::now() < end => sleep(Duration::from_millis(50)).await,
            Err(error) => return Err(error.context("it does not serve, and does not say that it is damaged")),
        }
    };
    took(&old, &new)
}

/// Judges the findings: nothing old is forgotten, and of the new ones at most a suffix.
fn took(old: &[Finding], new: &[Finding]) -> anyhow::Result<Took> {
    let mut stopped = false;
    let mut forgot = false;
    for (number, finding) in old.iter().chain(new).enumerate() {
        match finding {
            Finding::Right if forgot => bail!("key {number} is there and one before it is not"),
            Finding::Right => {}
            Finding::Unserved(_) => stopped = true,
            Finding::Forgotten | Finding::Unfinished if number < old.len() => {
                bail!("key {number}, acknowledged before the last clean stop: {finding:?}")
            }
            Finding::Unfinished if forgot => bail!("key {number} is unfinished and one before it is forgotten"),
            Finding::Forgotten | Finding::Unfinished => forgot = true,
            Finding::Wrong(what) => bail!("{what}"),
        }
    }
    Ok(match (stopped, forgot) {
        (_, true) => Took::Forgot,
        (true, false) => Took::Stopped,
        (false, false) => Took::Right,
    })
}

#[test]
fn findings_are_judged() {
    use Finding::{Forgotten, Right, Unfinished};
    let judged = |old: &[Finding], new: &[Finding]| took(old, new).ok();
    assert_eq!(judged(&[Right], &[Right]), Some(Took::Right));
    assert_eq!(judged(&[Right], &[Right, Unfinished, Forgotten]), Some(Took::Forgot));
    assert_eq!(judged(&[Forgotten], &[Right]), None, "it was flushed");
    assert_eq!(judged(&[Right], &[Forgotten, Right]), None, "a hole");
    assert_eq!(judged(&[Right], &[Forgotten, Unfinished]), None, "a hole");
    assert_eq!(judged(&[Right], &[Finding::Wrong("other bytes".to_owned())]), None);
}
