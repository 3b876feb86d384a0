//! A gateway as a process: its settings as a file, the store beside it or inside it, and the address stays over restarts.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;

use crate::{harness, http};

/// How long a gateway may take to listen, a store inside it included.
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// A gateway that can be killed and started again.
#[derive(Debug)]
pub(crate) struct Gate {
    address: SocketAddr,
    arguments: Vec<String>,
    output: PathBuf,
    child: Option<Child>,
}

/// An address that is free: what is to be found again after a restart cannot take any.
fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

impl Gate {
    /// In front of a store, with these routes: TOML of everything but the addresses.
    pub(crate) async fn before(store: SocketAddr, place: &Path, routes: &str) -> anyhow::Result<Self> {
        Self::configured(place, &format!("nodes = [\"{store}\"]\npolicies_every = \"200ms\"\n{routes}"), &[]).await
    }

    /// With the store inside it, which keeps its data in `place`.
    pub(crate) async fn embedded(place: &Path, routes: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let data = format!("--data-dir={}", place.join("data").display());
        Self::configured(place, routes, &[&["--embedded", data.as_str()], flags].concat()).await
    }

    async fn configured(place: &Path, text: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let (address, admin) = (free()?, free()?);
        let file = place.join("gateway.toml");
        let addresses = format!("listen = \"{address}\"\nadmin_listen = \"{admin}\"\ntenant = \"shop\"\n");
        std::fs::write(&file, addresses + text)?;
        let file = file.to_string_lossy();
        let arguments = ["gateway", "--config", &file].iter().chain(flags).map(|word| (*word).to_owned()).collect();
        Self::start(address, arguments, place).await
    }

    async fn start(address: SocketAddr, arguments: Vec<String>, place: &Path) -> anyhow::Result<Self> {
        let mut gate = Self { address, arguments, output: place.join("gateway.log"), child: None };
        gate.restart().await?;
        Ok(gate)
    }

    /// Starts it (again), and waits until it answers.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        let output = File::options().create(true).append(true).open(&self.output)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(&self.arguments).env("NO_COLOR", "1").stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        self.child = Some(command.spawn().with_context(|| format!("cannot start {command:?}"))?);
        harness::until("the gateway answers", START_DEADLINE, async || {
            if let Some(status) = self.child.as_mut().context("no process")?.try_wait()? {
                bail!("the gateway ended with {status}:\n{}", self.output());
            }
            // Any answer will do: the upstream may be away.
            Ok(http::get(self.address, "/").await.ok().map(|_| ()))
        })
        .await
    }

    /// Where clients connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A field of the process's `/proc` status, in KiB.
    pub(crate) fn memory_kib(&self, field: &str) -> anyhow::Result<u64> {
        let pid = self.child.as_ref().context("no process")?.id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find(|line| line.starts_with(field)).context("no such field")?;
        Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("no process")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM, and it has to end well.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("no process")?;
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        let ended = harness::until("the gateway ends", STOP_DEADLINE, async || Ok(child.try_wait()?)).await;
        if ended.is_err() {
            child.kill()?;
        }
        let status = ended?;
        let output = self.output();
        ensure!(status.success() && !harness::panicked(&output), "the gateway ended with {status}:\n{output}");
        Ok(())
    }

    /// Everything that it printed.
    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if self.child.is_some() {
            drop(self.kill());
        }
        if std::thread::panicking() {
            harness::report(&format!("--- the gateway's output:\n{}", self.output()));
        }
    }
}

/// Runs something beside a test, until it is [`joined`] or the test ends.
pub(crate) fn beside<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinSet<T> {
    let mut set = JoinSet::new();
    set.spawn(work);
    set
}

/// What it came to.
pub(crate) async fn joined<T: 'static>(mut work: JoinSet<T>) -> anyhow::Result<T> {
    Ok(work.join_next().await.context("nothing runs")??)
}
