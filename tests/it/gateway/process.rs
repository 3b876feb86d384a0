//! `holdfast gateway` as a process, on free ports, and what is sent to it.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{self, Place, START_DEADLINE, STOP_DEADLINE, panicked, until};
use crate::http::{self, Answer, DEADLINE};

/// A running gateway. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Gateway {
    child: Child,
    pub(super) address: SocketAddr,
    pub(super) admin: SocketAddr,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Gateway {
    /// In front of these addresses, with a store of its own and no configuration.
    pub(super) async fn embedded(place: &Place, upstream: SocketAddr, more: &[&str]) -> anyhow::Result<Self> {
        let upstream = format!("http://{upstream}");
        let flags = [&["--embedded", "--upstream", upstream.as_str()], more].concat();
        Self::start(place, &flags).await
    }

    /// With a store of its own, as this file says. The file is `gateway.toml` beside the data.
    pub(super) async fn configured(place: &Place, text: &str, more: &[&str]) -> anyhow::Result<Self> {
        let file = place.root().join("gateway.toml");
        std::fs::write(&file, text)?;
        let file = file.to_string_lossy().into_owned();
        let flags = [&["--embedded", "--config", file.as_str()], more].concat();
        Self::start(place, &flags).await
    }

    /// With these flags.
    pub(super) async fn start(place: &Place, flags: &[&str]) -> anyhow::Result<Self> {
        let name = format!("gateway-{}", std::fs::read_dir(place.root())?.count());
        let (stdout, stderr) =
            (place.root().join(format!("{name}.stdout")), place.root().join(format!("{name}.stderr")));
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(["gateway", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]).args(flags);
        command.env_remove("HOLDFAST_GATEWAY_CONFIG").env("NO_COLOR", "1").stdin(Stdio::null());
        command.stdout(File::create(&stdout)?).stderr(File::create(&stderr)?);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut gateway = Self { child, address: unknown, admin: unknown, stdout, stderr };
        let said = until("the gateway listens", START_DEADLINE, async || {
            if let Some(status) = gateway.child.try_wait()? {
                bail!("the gateway ended with {status}:\n{}", gateway.output());
            }
            let said = std::fs::read_to_string(&gateway.stdout)?;
            let address = |after: &str| said.split_once(after)?.1.lines().next()?.parse::<SocketAddr>().ok();
            Ok(address("HTTP/2 on ").zip(address("metrics on ")))
        });
        let (address, admin) = said.await?;
        (gateway.address, gateway.admin) = (address, admin);
        Ok(gateway)
    }

    /// Everything it printed so far.
    pub(super) fn output(&self) -> String {
        let text = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        format!("{}{}", text(&self.stdout), text(&self.stderr))
    }

    /// Sends a signal.
    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Waits until it ended.
    pub(super) async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        until("the gateway ends", STOP_DEADLINE, async || Ok(self.child.try_wait()?)).await
    }

    /// SIGTERM, and waits until it ended by itself.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.ended().await?;
        let output = self.output();
        anyhow::ensure!(status.success() && !panicked(&output), "it ended with {status}:\n{output}");
        Ok(())
    }

    /// Sends a request with these lines after the first, and a body with its length.
    pub(super) async fn send(&self, first: &str, lines: &[&str], body: &str) -> anyhow::Result<Answer> {
        let mut head = format!("{first} HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n");
        for line in lines {
            head.push_str(line);
            head.push_str("\r\n");
        }
        if !body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        let request = format!("{head}\r\n{body}");
        http::exchange(self.address, request.as_bytes(), DEADLINE).await
    }

    /// A charge under a key.
    pub(super) async fn charge(&self, key: &str, body: &str) -> anyhow::Result<Answer> {
        let key = format!("idempotency-key: {key}");
        self.send("POST /v1/charges", &[&key, "content-type: application/json"], body).await
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _killed = self.child.kill();
            let _reaped = self.child.wait();
        }
        if std::thread::panicking() {
            harness::report(&format!("--- the gateway's output:\n{}", self.output()));
        }
    }
}
