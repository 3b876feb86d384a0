//! Makes the disk of a node slow or broken, and watches what it writes, with strace.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness;

/// What a test needs of the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// strace, and the right to trace another process.
    Strace,
    /// The right to mount a tmpfs.
    Mount,
    /// promtool, which comes with Prometheus.
    Promtool,
    /// faketime, which gives a process another wall clock.
    Faketime,
}

/// Whether the machine gives what a test needs. In CI it must; elsewhere the test says what is missing and passes.
///
/// # Errors
/// When something is missing and `CI` is set to `true`.
pub(crate) fn available(needs: &[Need]) -> anyhow::Result<bool> {
    for need in needs {
        let missing = match need {
            Need::Strace => Command::new("strace")
                .args(["-f", "-o", "/dev/null", "true"])
                .output()
                .map_or_else(
                    |error| Some(error.to_string()),
                    |run| (!run.status.success()).then(|| String::from_utf8_lossy(&run.stderr).into_owned()),
                )
                .map(|why| {
                    format!(
                        "strace does not run ({}): install it with `make setup`, and be allowed to ptrace",
                        why.trim()
                    )
                }),
            Need::Promtool => Command::new("promtool")
                .arg("--version")
                .output()
                .err()
                .map(|error| format!("promtool does not run ({error}): install it with `make setup`")),
            Need::Faketime => {
                let runs =
                    Command::new("faketime").args(["-f", "+1d", "true"]).output().is_ok_and(|run| run.status.success());
                (!runs).then(|| "faketime does not run: install it with `make setup`".to_owned())
            }
            Need::Mount => {
                (!rustix::process::geteuid().is_root()).then(|| "a tmpfs cannot be mounted: this needs root".to_owned())
            }
        };
        let Some(missing) = missing else { continue };
        if std::env::var("CI").is_ok_and(|ci| ci == "true") {
            bail!("CI must be able to run this: {missing}");
        }
        harness::report(&format!("SKIPPED, and counted as passed on a developer's machine: {missing}"));
        return Ok(false);
    }
    Ok(true)
}

/// What strace does to every sync.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sync {
    Delayed(Duration),
    Fails,
}

/// strace, attached to every thread of a running process. Dropped, it lets go.
#[derive(Debug)]
pub(crate) struct Strace {
    child: Child,
}

impl Strace {
    /// Attaches to a process, and returns when every sync that begins from now on is tampered with. The output goes to
    /// files under `place`.
    pub(crate) async fn attach(pid: u32, sync: Sync, place: &Path) -> anyhow::Result<Self> {
        let inject = match sync {
            Sync::Delayed(delay) => format!("inject=fdatasync,fsync:delay_enter={}", delay.as_micros()),
            Sync::Fails => "inject=fdatasync,fsync:error=EIO".to_owned(),
        };
        let messages = place.join("strace-messages.log");
        let child = Command::new("strace")
            .args(["-f", "-e", "trace=fdatasync,fsync", "-e", &inject, "-o"])
            .arg(place.join("strace.log"))
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&messages)?)
            .spawn()
            .context("cannot start strace")?;
        let mut strace = Self { child };
        harness::until("strace attached", Duration::from_secs(20), async || {
            if let Some(status) = strace.child.try_wait()? {
                bail!("strace ended with {status}: {}", std::fs::read_to_string(&messages)?);
            }
            Ok(std::fs::read_to_string(&messages)?.contains(" attached").then_some(()))
        })
        .await?;
        Ok(strace)
    }

    /// Lets go of the process.
    pub(crate) fn detach(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_none() {
            kill_process(Pid::from_child(&self.child), Signal::TERM)?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        drop(self.end());
    }
}

/// What a disk does with every sync, from a program's first instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Disk {
    /// It takes its time before it syncs.
    Slow(Duration),
    /// After so many syncs of a thread it says that it synced, and does nothing.
    LiesAfter(u32),
}

/// The arguments that run a program under strace, as a child of its own, with every write and sync of it and what it renames
/// noted in `trace`.
pub(crate) fn watching_writes(trace: &Path, disk: Disk) -> Vec<String> {
    let calls = "trace=write,pwrite64,ftruncate,fdatasync,fsync,rename";
    let inject = match disk {
        Disk::Slow(delay) => format!("inject=fdatasync,fsync:delay_enter={}", delay.as_micros()),
        Disk::LiesAfter(syncs) => format!("inject=fdatasync,fsync:retval=0:when={}+", syncs + 1),
    };
    let words = ["strace", "-D", "-f", "--seccomp-bpf", "-y", "-q", "-s", "0", "-e", "signal=none", "-e", calls];
    let rest = ["-e".to_owned(), inject, "-o".to_owned(), trace.display().to_string()];
    words.into_iter().map(str::to_owned).chain(rest).collect()
}

/// A small file system of its own. Dropped, it is unmounted.
#[derive(Debug)]
pub(crate) struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    /// Mounts one of that many bytes at `path`, which must be an empty directory.
    pub(crate) fn mount(path: &Path, bytes: u64) -> anyhow::Result<Self> {
        let options = format!("size={bytes},mode=700");
        let run = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(path).output()?;
        if !run.status.success() {
            bail!("cannot mount a tmpfs: {}", String::from_utf8_lossy(&run.stderr));
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Free bytes.
    pub(crate) fn free(&self) -> anyhow::Result<u64> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Makes a file so large that `free` bytes are left, or frees some of it again.
    pub(crate) fn leave_free(&self, free: u64) -> anyhow::Result<()> {
        let path = self.path.join("filler");
        drop(std::fs::remove_file(&path));
        let bytes = self.free()?.saturating_sub(free);
        let file = File::create(&path)?;
        if bytes > 0 {
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)
                .with_context(|| format!("cannot fill the tmpfs with {bytes} bytes"))?;
        }
        Ok(())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily, so that a node that is about to end does not keep it.
        drop(Command::new("umount").arg("-l").arg(&self.path).output());
    }
}
