//! A network of a test's own: each node in a network namespace, all joined by a bridge whose other end is this machine.
//!
//! A direction between two nodes is cut by a neighbour entry that names nobody: what the one sends to the other's address
//! goes to a link address that no interface has, and is lost without anybody being told, as on a broken link. It needs
//! `ip` and root, and no firewall. Where these are not to be had the nodes listen on the loopback, and nothing is cut.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use crate::harness;

/// The ports of every node in its namespace.
const API_PORT: u16 = 7000;
const PEER_PORT: u16 = 7001;
/// Networks of 32 addresses in 198.18.0.0/15, which is set apart for tests of networks (RFC 2544).
const SLOTS: u32 = 4_096;
const FIRST: u32 = u32::from_be_bytes([198, 18, 0, 0]);
/// Nodes of one network.
const MOST_NODES: u64 = 29;
/// A link address that no interface has.
const NOBODY: &str = "02:00:00:00:00:01";
/// What a bridge of ours says of itself, with its owner's process id.
const ALIAS: &str = "holdfast-it-";

/// Where a node is reached, as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) api: SocketAddr,
    pub(crate) peer: SocketAddr,
}

/// Where the nodes of one test are.
#[derive(Debug)]
pub(crate) enum Network {
    Namespaces(Bridge),
    Loopback,
}

/// A bridge, and the namespaces at it. Dropped, all of it goes.
#[derive(Debug)]
pub(crate) struct Bridge {
    slot: u32,
    nodes: Vec<u64>,
    cuts: Vec<(u64, u64)>,
}

/// Whether nodes can be cut off from each other on this machine. In CI they must; elsewhere the test says why not, and
/// passes.
///
/// # Errors
/// When they can not and `CI` is set to `true`.
pub(crate) fn available() -> anyhow::Result<bool> {
    let Err(why) = namespaces() else { return Ok(true) };
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        bail!("CI must be able to run this: {why:#}");
    }
    harness::report(&format!("SKIPPED, and counted as passed on a developer's machine: {why:#}"));
    Ok(false)
}

fn namespaces() -> anyhow::Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "network namespaces need root");
    ip(&["netns", "list"]).context("`ip` does not run: install iproute2")?;
    Ok(())
}

impl Network {
    /// A network for one test.
    ///
    /// # Errors
    /// When `ip` and root are there and yet it cannot be made.
    pub(crate) fn new() -> anyhow::Result<Self> {
        if namespaces().is_err() {
            return Ok(Self::Loopback);
        }
        clean_up_after_the_dead()?;
        Ok(Self::Namespaces(Bridge::new()?))
    }

    /// Makes a place for one more node.
    pub(crate) fn spot(&mut self, node: u64) -> anyhow::Result<Spot> {
        match self {
            Self::Namespaces(bridge) => {
                bridge.join(node)?;
                let address = IpAddr::V4(address(bridge.slot, node));
                Ok(Spot { api: SocketAddr::new(address, API_PORT), peer: SocketAddr::new(address, PEER_PORT) })
            }
            Self::Loopback => {
                // Both are bound before either is given up, so they differ.
                let (api, peer) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
                Ok(Spot { api: api.local_addr()?, peer: peer.local_addr()? })
            }
        }
    }

    /// The program that runs a node's process where its network is; it becomes that process.
    pub(crate) fn wrapper(&self, node: u64) -> Vec<String> {
        match self {
            Self::Namespaces(bridge) => {
                ["ip", "netns", "exec", &namespace(bridge.slot, node)].map(str::to_owned).into()
            }
            Self::Loopback => Vec::new(),
        }
    }

    /// What `from` sends to `to` is lost from now on.
    pub(crate) fn cut(&mut self, from: u64, to: u64) -> anyhow::Result<()> {
        match self {
            Self::Namespaces(bridge) => bridge.cut(from, to),
            Self::Loopback => bail!("nothing can be cut on the loopback"),
        }
    }

    /// Nothing is lost any more.
    pub(crate) fn mend(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Namespaces(bridge) => bridge.mend(),
            Self::Loopback => Ok(()),
        }
    }
}

impl Bridge {
    fn new() -> anyhow::Result<Self> {
        let pid = std::process::id();
        for attempt in 0..SLOTS {
            let slot = (pid + attempt) % SLOTS;
            // Making it is also what claims the slot: of two that try, one fails.
            let made = ip(&["link", "add", "name", &bridge(slot), "alias", &format!("{ALIAS}{pid}"), "type", "bridge"]);
            match made {
                Ok(_) => {}
                Err(error) if format!("{error:#}").contains("File exists") => continue,
                Err(error) => return Err(error),
            }
            let this = Self { slot, nodes: Vec::new(), cuts: Vec::new() };
            let own = format!("{}/27", address(slot, 0));
            ip(&["addr", "add", &own, "dev", &bridge(slot)])?;
            ip(&["link", "set", &bridge(slot), "up"])?;
            return Ok(this);
        }
        bail!("all {SLOTS} test networks are taken")
    }

    fn join(&mut self, node: u64) -> anyhow::Result<()> {
        ensure!((1..=MOST_NODES).contains(&node), "node {node} is none of 1 to {MOST_NODES}");
        ensure!(!self.nodes.contains(&node), "node {node} has a place already");
        let (bridge, port, space) = (bridge(self.slot), port(self.slot, node), namespace(self.slot, node));
        self.nodes.push(node);
        ip(&["netns", "add", &space])?;
        let own = address(self.slot, node);
        ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
        ip(&["link", "set", &port, concat!("mas", "ter"), &bridge, "up"])?;
        inside(&space, &format!("link set lo up\naddr add {own}/27 dev eth0\nlink set eth0 up\n"))
    }

    fn cut(&mut self, from: u64, to: u64) -> anyhow::Result<()> {
        let to_address = address(self.slot, to);
        self.cuts.push((from, to));
        let entry = format!("neigh replace {to_address} lladdr {NOBODY} nud permanent dev eth0\n");
        inside(&namespace(self.slot, from), &entry)
    }

    fn mend(&mut self) -> anyhow::Result<()> {
        self.cuts.sort_unstable();
        self.cuts.dedup();
        for from in self.nodes.clone() {
            let mut lines = String::new();
            for (_, to) in self.cuts.iter().filter(|(cut, _)| *cut == from) {
                writeln!(lines, "neigh del {} dev eth0", address(self.slot, *to))?;
            }
            if !lines.is_empty() {
                inside(&namespace(self.slot, from), &lines)?;
            }
        }
        self.cuts.clear();
        Ok(())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if let Err(error) = remove(self.slot) {
            harness::report(&format!("the test's network is left over: {error:#}"));
        }
    }
}

/// Removes the networks of test processes that did not live to do it, with what still runs in them.
fn clean_up_after_the_dead() -> anyhow::Result<()> {
    let links = ip(&["-o", "link", "show", "type", "bridge"])?;
    for line in links.lines() {
        let Some((_, alias)) = line.split_once(&format!("alias {ALIAS}")) else { continue };
        let owner: String = alias.chars().take_while(char::is_ascii_digit).collect();
        let name = line.split(' ').nth(1).and_then(|name| name.trim_end_matches(':').strip_prefix("hf"));
        let Some(slot) = name.and_then(|slot| slot.parse().ok()) else { continue };
        let lives = std::fs::read_to_string(format!("/proc/{owner}/comm")).is_ok_and(|name| name.starts_with("it-"));
        if !lives {
            harness::report(&format!("removing network {slot} of test process {owner}, which is gone"));
            remove(slot)?;
        }
    }
    Ok(())
}

/// Removes the network of a slot. The bridge, which claims it, goes last.
fn remove(slot: u32) -> anyhow::Result<()> {
    let spaces = ip(&["netns", "list"])?;
    let ours = format!("hf{slot}n");
    for space in spaces.lines().filter_map(|line| line.split(' ').next()).filter(|space| space.starts_with(&ours)) {
        for process in ip(&["netns", "pids", space])?.lines() {
            if let Some(pid) = process.trim().parse().ok().and_then(rustix::process::Pid::from_raw) {
                // It may have ended by itself since.
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap_or_default();
            }
        }
        ip(&["netns", "del", space])?;
    }
    ip(&["link", "del", &bridge(slot)])?;
    Ok(())
}

/// Whether a connection from a node's place to an address comes up within a second.
#[cfg(test)]
fn reaches(network: &Network, node: u64, to: SocketAddr) -> anyhow::Result<bool> {
    let connect = format!("exec 3<>/dev/tcp/{}/{}", to.ip(), to.port());
    let words = network.wrapper(node).into_iter().chain(["timeout", "1", "bash", "-c", &connect].map(str::to_owned));
    let words: Vec<String> = words.collect();
    let (program, words) = words.split_first().context("no program")?;
    Ok(Command::new(program).args(words).stderr(Stdio::null()).status()?.success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_is_lost_in_that_direction_until_it_is_mended() -> anyhow::Result<()> {
    if !available()? {
        return Ok(());
    }
    let _machine = harness::beside_another().await?;
    let place = harness::Place::new()?;
    let mut network = Network::new()?;
    let mut nodes = Vec::new();
    for number in 1..=3 {
        let (data, spot) = (place.root().join(number.to_string()), network.spot(number)?);
        std::fs::create_dir(&data)?;
        // Any program that listens there would do.
        let start = harness::Start::member(&data, spot.api).flag("--region", "local").flag("--partitions", 1);
        nodes.push((start.bare("--insecure").under(network.wrapper(number)).run().await?, spot.api));
    }
    let [(_, first), (_, second), (_, third)] = nodes.as_slice() else { bail!("not three nodes") };
    let (first, second, third) = (*first, *second, *third);
    ensure!(reaches(&network, 1, second)? && reaches(&network, 2, first)?, "nothing is cut yet");
    // A connection needs both directions.
    for (from, to) in [(1, 2), (2, 1)] {
        network.cut(from, to)?;
        ensure!(!reaches(&network, 1, second)? && !reaches(&network, 2, first)?, "{from} to {to} is cut");
        ensure!(reaches(&network, 1, third)? && reaches(&network, 2, third)?, "the others are not");
        crate::http::get(second, "/healthz").await.context("nor is the test")?;
        network.mend()?;
        ensure!(reaches(&network, 1, second)? && reaches(&network, 2, first)?, "it is mended");
    }
    Ok(())
}

fn bridge(slot: u32) -> String {
    format!("hf{slot}")
}

fn namespace(slot: u32, node: u64) -> String {
    format!("hf{slot}n{node}")
}

fn port(slot: u32, node: u64) -> String {
    format!("hf{slot}p{node}")
}

/// The address of a node; of the bridge, where the test is, for 0.
fn address(slot: u32, node: u64) -> Ipv4Addr {
    Ipv4Addr::from(FIRST + slot * 32 + 1 + u32::try_from(node).unwrap_or_default())
}

/// Runs `ip` and returns what it printed.
fn ip(words: &[&str]) -> anyhow::Result<String> {
    let run = Command::new("ip").args(words).stdin(Stdio::null()).output()?;
    ensure!(run.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&run.stderr).trim());
    Ok(String::from_utf8_lossy(&run.stdout).into_owned())
}

/// Runs lines of `ip` commands in a namespace.
fn inside(space: &str, lines: &str) -> anyhow::Result<()> {
    let mut run = Command::new("ip")
        .args(["-n", space, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    run.stdin.take().context("no stdin")?.write_all(lines.as_bytes())?;
    let run = run.wait_with_output()?;
    ensure!(run.status.success(), "ip -n {space}: {lines}{}", String::from_utf8_lossy(&run.stderr).trim());
    Ok(())
}
