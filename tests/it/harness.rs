//! Starts, stops and kills the real binary: `holdfast dev` on a free port, with its own data directory, its output kept
//! in files that are printed when a test fails.
//!
//! Nothing here sleeps in the hope that something is done by then: [`until`] asks again and again up to a deadline.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::clock;
use crate::http;

/// How long a node may take from its start to its first healthy answer, recovery included.
pub(crate) const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long a node may take to end after SIGTERM.
pub(crate) const STOP_DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);
/// How much of each log is printed when a test fails, in bytes from the end.
const PRINTED_LOG_BYTES: usize = 16 * 1024;

static PLACES: Semaphore = Semaphore::const_new(2);

/// Waits for one of the two places on the machine: for a test whose verdict does not depend on how fast it goes.
pub(crate) async fn beside_another() -> anyhow::Result<SemaphorePermit<'static>> {
    Ok(PLACES.acquire().await?)
}

/// Waits for the whole machine: for a test that measures latency or loads both cores.
pub(crate) async fn alone() -> anyhow::Result<SemaphorePermit<'static>> {
    Ok(PLACES.acquire_many(2).await?)
}

/// Asks `poll` until it has a value, for at most `deadline`. An error from `poll` ends the waiting.
pub(crate) async fn until<T>(
    what: &str,
    deadline: Duration,
    mut poll: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = clock::now() + deadline;
    loop {
        if let Some(value) = poll().await? {
            return Ok(value);
        }
        if clock::now() > end {
            bail!("not within {deadline:?}: {what}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// How to start a node.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    mode: Mode,
    data_dir: PathBuf,
    /// Where it is to listen; port 0 for any that is free.
    listen: SocketAddr,
    /// Where the output goes; beside the data directory if it is not said.
    logs: Option<PathBuf>,
    flags: Vec<String>,
    /// A program and its arguments that run the node in their own process, such as `strace -D`.
    wrapper: Vec<String>,
}

/// Which subcommand runs the node.
#[derive(Clone, Copy, Debug)]
enum Mode {
    /// Without configuration.
    Dev,
    /// With every setting as a flag.
    Server,
}

/// Why a node did not come up.
#[derive(Debug)]
pub(crate) struct Refused {
    /// How the process ended; nothing if it still ran at the deadline and was killed.
    pub(crate) status: Option<ExitStatus>,
    /// Everything it printed.
    pub(crate) output: String,
}

/// A running node. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Node {
    child: Child,
    address: SocketAddr,
    logs: Logs,
}

#[derive(Clone, Debug)]
struct Logs {
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Start {
    /// A node over `data_dir`.
    pub(crate) fn new(data_dir: &Path) -> Self {
        let (data_dir, listen) = (data_dir.to_owned(), SocketAddr::from(([127, 0, 0, 1], 0)));
        Self { mode: Mode::Dev, data_dir, listen, logs: None, flags: Vec::new(), wrapper: Vec::new() }
    }

    /// A node of a region over `data_dir`: `holdfast server`, which takes the rest as flags.
    pub(crate) fn member(data_dir: &Path, listen: SocketAddr) -> Self {
        Self { mode: Mode::Server, listen, ..Self::new(data_dir) }.flag("--log", "warn,holdfast=info")
    }

    /// Keeps the output somewhere else than beside the data directory.
    pub(crate) fn logs_in(mut self, dir: &Path) -> Self {
        self.logs = Some(dir.to_owned());
        self
    }

    /// Runs `holdfast server` in place of `holdfast dev`: it takes every setting as a flag.
    pub(crate) fn server(mut self) -> Self {
        self.mode = Mode::Server;
        self.flag("--region", "local").flag("--log", "warn,holdfast::cli=info")
    }

    /// Adds a flag and its value.
    pub(crate) fn flag(mut self, name: &str, value: impl ToString) -> Self {
        self.flags.extend([name.to_owned(), value.to_string()]);
        self
    }

    /// What is logged, in place of what was said before.
    pub(crate) fn log(mut self, filter: &str) -> Self {
        while let Some(at) = self.flags.iter().position(|flag| flag == "--log") {
            self.flags.drain(at..at + 2);
        }
        self.flag("--log", filter)
    }

    /// Adds a flag that has no value.
    pub(crate) fn bare(mut self, name: &str) -> Self {
        self.flags.push(name.to_owned());
        self
    }

    /// Every key is critical: a lapsed one is held until it is claimed or resolved.
    pub(crate) fn critical(self) -> Self {
        self.flag("--severity", "critical")
    }

    /// Runs the node under another program. Its process must become the node's, so that signals reach the node.
    pub(crate) fn under(mut self, wrapper: Vec<String>) -> Self {
        self.wrapper = wrapper;
        self
    }

    /// Starts the process and waits until it is healthy.
    ///
    /// # Errors
    /// When it ends instead, or is not healthy within [`START_DEADLINE`].
    pub(crate) async fn run(&self) -> anyhow::Result<Node> {
        match self.try_run().await? {
            Ok(node) => Ok(node),
            Err(refused) => bail!("the node did not start ({:?}):\n{}", refused.status, refused.output),
        }
    }

    /// As [`Start::run`], for a node that may refuse to start.
    pub(crate) async fn try_run(&self) -> anyhow::Result<Result<Node, Refused>> {
        self.wait_for(|status| status == 200).await
    }

    /// As [`Start::try_run`], and a node that listens but is not healthy counts as started.
    pub(crate) async fn run_unhealthy(&self) -> anyhow::Result<Result<Node, Refused>> {
        self.wait_for(|_| true).await
    }

    async fn wait_for(&self, health: impl Fn(u16) -> bool) -> anyhow::Result<Result<Node, Refused>> {
        let mut process = self.spawn()?;
        let end = clock::now() + START_DEADLINE;
        loop {
            if let Some(status) = process.child.try_wait()? {
                return Ok(Err(Refused { status: Some(status), output: process.logs.all() }));
            }
            if let Some(address) = process.listens()
                && http::get(address, "/healthz").await.is_ok_and(|answer| health(answer.status))
            {
                process.address = address;
                return Ok(Ok(process));
            }
            if clock::now() > end {
                let output = process.logs.all();
                process.kill()?;
                return Ok(Err(Refused { status: None, output }));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Starts the process, and does not wait for it.
    pub(crate) fn spawn(&self) -> anyhow::Result<Node> {
        static STARTS: AtomicU32 = AtomicU32::new(0);
        let number = STARTS.fetch_add(1, Ordering::Relaxed);
        let beside = self.data_dir.parent().context("the data directory has no parent")?;
        let place = self.logs.as_deref().unwrap_or(beside);
        let logs = Logs {
            stdout: place.join(format!("stdout-{number}.log")),
            stderr: place.join(format!("stderr-{number}.log")),
        };
        let binary = env!("CARGO_BIN_EXE_holdfast").to_owned();
        let mut words = self.wrapper.iter().chain([&binary]);
        let mut command = Command::new(words.next().context("no program")?);
        command.args(words);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HOLDFAST_") {
                command.env_remove(name);
            }
        }
        let subcommand = match self.mode {
            Mode::Dev => "dev",
            Mode::Server => "server",
        };
        command.args([subcommand, "--listen", &self.listen.to_string(), "--data-dir"]);
        command.arg(&self.data_dir).args(&self.flags);
        command.env("NO_COLOR", "1").env("HOLDFAST_TENANTS", "any").stdin(Stdio::null());
        command.stdout(File::create(&logs.stdout)?).stderr(File::create(&logs.stderr)?);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Node { child, address: self.listen, logs })
    }
}

impl Node {
    /// Where it listens, once that is known.
    fn listens(&self) -> Option<SocketAddr> {
        if self.address.port() == 0 { self.logs.address() } else { Some(self.address) }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it printed so far.
    pub(crate) fn output(&self) -> String {
        self.logs.all()
    }

    /// How the process ended, if it did.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to {pid:?}"))
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits until the process ended by itself.
    ///
    /// # Errors
    /// When it ends with a failure, or not within [`STOP_DEADLINE`], or a thread of it panicked.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.wait(STOP_DEADLINE).await?;
        if !status.success() {
            bail!("the node ended with {status} after SIGTERM:\n{}", self.output());
        }
        self.no_panic()
    }

    /// Waits until the process ended.
    pub(crate) async fn wait(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        let end = clock::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if clock::now() > end {
                bail!("the node still runs after {deadline:?}:\n{}", self.output());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// # Errors
    /// When a thread of the node panicked.
    pub(crate) fn no_panic(&self) -> anyhow::Result<()> {
        let output = self.output();
        if panicked(&output) {
            bail!("the node panicked:\n{output}");
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            drop(self.kill());
        }
        if std::thread::panicking() {
            self.logs.print();
        }
    }
}

impl Logs {
    fn all(&self) -> String {
        let text = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        format!("{}{}", text(&self.stdout), text(&self.stderr))
    }

    fn address(&self) -> Option<SocketAddr> {
        // `dev` says it on stdout and `server` in its log, as text or as JSON; other addresses may stand before it.
        let output = self.all();
        let ways = ["HTTP/JSON on 127.0.0.1:", "address=127.0.0.1:", "\"address\":\"127.0.0.1:"];
        let (_, rest) = ways.iter().find_map(|way| output.split_once(way))?;
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let port = rest.get(..end)?.parse().ok()?;
        Some(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn print(&self) {
        let output = self.all();
        let start = output.len().saturating_sub(PRINTED_LOG_BYTES);
        let start = (start..output.len()).find(|at| output.is_char_boundary(*at)).unwrap_or(output.len());
        report(&format!("--- the node's output, its end:\n{}", output.get(start..).unwrap_or_default()));
    }
}

/// Whether a process's output tells of a panic.
pub(crate) fn panicked(output: &str) -> bool {
    output.contains("panicked at") || output.contains("stack backtrace")
}

/// Prints a line that libtest shows when the test fails.
#[expect(clippy::print_stderr, reason = "libtest captures it and shows it with a failure")]
pub(crate) fn report(text: &str) {
    eprintln!("{text}");
}

/// The seed of a randomized test: `SEED` from the environment, else `default`; printed, so that a failure can be repeated.
pub(crate) fn seed(default: u64) -> anyhow::Result<u64> {
    let seed = match std::env::var("SEED") {
        Ok(text) => text.parse().with_context(|| format!("SEED={text} is no u64"))?,
        Err(_) => default,
    };
    report(&format!("SEED={seed}"));
    Ok(seed)
}

/// A number from the environment, for soak runs.
pub(crate) fn number(name: &str, default: u32) -> anyhow::Result<u32> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is no number")),
        Err(_) => Ok(default),
    }
}

/// A directory for one test: `data` for the node in it, logs beside it. It goes with the test, unless `KEEP` is set.
#[derive(Debug)]
pub(crate) struct Place {
    root: tempfile::TempDir,
    data: PathBuf,
}

impl Place {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let root =
            tempfile::Builder::new().prefix("holdfast-it-").disable_cleanup(std::env::var("KEEP").is_ok()).tempdir()?;
        let data = root.path().join("data");
        std::fs::create_dir(&data)?;
        Ok(Self { root, data })
    }

    /// The node's data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Where everything of the test is.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// Starts a node over the data directory.
    pub(crate) fn start(&self) -> Start {
        Start::new(&self.data)
    }
}
