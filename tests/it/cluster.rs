//! A region as processes: `holdfast server` a node, each in a network namespace where the machine allows it, over one
//! region file, with its own data directory and the same address for as long as it lives.
//!
//! What is done to the nodes is written down with its time, and stands in a verdict beside the calls of the clients.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use holdfast_client::proto::v1 as api;
use holdfast_client::proto::v1::reservations_client::ReservationsClient;
use rustix::process::Signal;
use tokio::sync::watch;

use crate::client;
use crate::clock;
use crate::harness::{self, Node, Place, STOP_DEADLINE, Start};
use crate::http;
use crate::netns::{Network, Spot};
use crate::workload::Target;

/// Few enough that every one of them is hit often.
pub(crate) const PARTITIONS: u16 = 4;
/// How long a region may take until every partition has a leader that every running node knows: some elections, and what
/// a node that was away has to catch up on.
pub(crate) const SERVING_DEADLINE: Duration = Duration::from_secs(60);
/// How long one question to a node may take. A stopped one does not answer.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// How much of each node's output is printed when a test fails, in bytes from its end.
const PRINTED_BYTES: usize = 12 * 1024;
/// What every node of a test region is called by.
pub(crate) const CLUSTER_ID: &str = "it";

/// How a region is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Founding {
    /// Flags of every node.
    flags: Vec<(String, String)>,
    /// A program that one of the nodes runs under, by number.
    under: BTreeMap<u64, Vec<String>>,
}

impl Founding {
    /// Gives every node a flag.
    pub(crate) fn flag(mut self, name: &str, value: impl ToString) -> Self {
        self.flags.push((name.to_owned(), value.to_string()));
        self
    }

    /// Runs one of the nodes under another program. Its process must become the node's.
    pub(crate) fn under(mut self, node: u64, wrapper: Vec<String>) -> Self {
        self.under.insert(node, wrapper);
        self
    }
}

/// One node, running or not.
struct Member {
    spot: Spot,
    start: Start,
    process: Option<Node>,
    paused: bool,
}

/// A region. Dropped, its processes are killed and its network removed.
pub(crate) struct Cluster {
    members: BTreeMap<u64, Member>,
    founding: Founding,
    network: Network,
    target: watch::Sender<Target>,
    events: Vec<(u64, String)>,
    /// What the processes that are gone have printed.
    outputs: Vec<(u64, String)>,
    place: Place,
}

/// Lets a test work on a region of three nodes that has the machine to itself. When it fails, the nodes' output and what
/// was done to them is printed.
pub(crate) async fn with(
    founding: Founding,
    test: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let _machine = harness::alone().await?;
    let mut cluster = Cluster::found(founding)?;
    let mut verdict = cluster.until_serving(SERVING_DEADLINE).await;
    if verdict.is_ok() {
        verdict = test(&mut cluster).await;
    }
    verdict = verdict.and_then(|()| cluster.no_panic());
    if verdict.is_err() {
        cluster.tell();
    }
    verdict
}

impl Cluster {
    /// Starts nodes 1, 2 and 3.
    fn found(founding: Founding) -> anyhow::Result<Self> {
        let (target, _) = watch::channel(Target::new());
        let mut cluster = Self {
            members: BTreeMap::new(),
            founding,
            network: Network::new()?,
            target,
            events: Vec::new(),
            outputs: Vec::new(),
            place: Place::new()?,
        };
        let mut spots = BTreeMap::new();
        for node in 1..=3 {
            spots.insert(node, cluster.network.spot(node)?);
        }
        let file = region_file(CLUSTER_ID, PARTITIONS, &spots)?;
        std::fs::write(cluster.region_file(), file)?;
        for (node, spot) in spots {
            let start = cluster.start_of(node, spot, &cluster.region_file())?;
            cluster.members.insert(node, Member { spot, start, process: None, paused: false });
            cluster.start(node)?;
        }
        cluster.publish();
        Ok(cluster)
    }

    fn region_file(&self) -> PathBuf {
        self.place.root().join("region.toml")
    }

    /// Where a node's data is.
    pub(crate) fn data_dir(&self, node: u64) -> PathBuf {
        self.place.root().join(format!("node-{node}"))
    }

    fn start_of(&self, node: u64, spot: Spot, region_file: &Path) -> anyhow::Result<Start> {
        let data_dir = self.data_dir(node);
        if !data_dir.is_dir() {
            std::fs::create_dir(&data_dir)?;
        }
        let mut wrapper = self.network.wrapper(node);
        wrapper.extend(self.founding.under.get(&node).cloned().unwrap_or_default());
        let mut start = Start::member(&data_dir, spot.api)
            .flag("--region-file", region_file.display())
            .flag("--node-id", node)
            .flag("--peer-listen", spot.peer)
            .bare("--insecure")
            .under(wrapper);
        for (name, value) in &self.founding.flags {
            start = start.flag(name, value);
        }
        Ok(start)
    }

    /// Makes a place for one more node, which is to join; it is not started.
    pub(crate) fn add(&mut self, node: u64) -> anyhow::Result<()> {
        self.add_over(node, &self.region_file())
    }

    /// As [`Cluster::add`], over a region file of its own.
    pub(crate) fn add_over(&mut self, node: u64, region_file: &Path) -> anyhow::Result<()> {
        let members: Vec<String> = self.members.values().map(|member| member.spot.peer.to_string()).collect();
        let spot = self.network.spot(node)?;
        let start = self.start_of(node, spot, region_file)?.flag("--join", members.join(","));
        self.members.insert(node, Member { spot, start, process: None, paused: false });
        Ok(())
    }

    /// How a node is started, to be changed by a test that starts it otherwise.
    pub(crate) fn how(&self, node: u64) -> anyhow::Result<Start> {
        Ok(self.member(node)?.start.clone())
    }

    /// The nodes that clients know of: all that run or will again.
    pub(crate) fn target(&self) -> watch::Receiver<Target> {
        self.target.subscribe()
    }

    fn publish(&self) {
        self.target.send_replace(self.members.iter().map(|(node, member)| (*node, member.spot.api)).collect());
    }

    /// Clients ask this node no more.
    pub(crate) fn forget(&mut self, node: u64) -> anyhow::Result<()> {
        ensure!(self.member(node)?.process.is_none(), "node {node} still runs");
        self.members.remove(&node);
        self.publish();
        Ok(())
    }

    /// What was done to the nodes so far, and when.
    pub(crate) fn events(&self) -> &[(u64, String)] {
        &self.events
    }

    /// Writes down what is done to the nodes.
    pub(crate) fn note(&mut self, event: String) {
        self.events.push((clock::now_ns(), event));
    }

    fn member(&self, node: u64) -> anyhow::Result<&Member> {
        self.members.get(&node).with_context(|| format!("there is no node {node}"))
    }

    fn member_mut(&mut self, node: u64) -> anyhow::Result<&mut Member> {
        self.members.get_mut(&node).with_context(|| format!("there is no node {node}"))
    }

    /// A node's process.
    pub(crate) fn process(&self, node: u64) -> anyhow::Result<&Node> {
        self.member(node)?.process.as_ref().with_context(|| format!("node {node} does not run"))
    }

    /// Where a node is reached.
    pub(crate) fn spot(&self, node: u64) -> anyhow::Result<Spot> {
        Ok(self.member(node)?.spot)
    }

    /// Starts a node, and does not wait for it: alone it may have nobody to serve with.
    pub(crate) fn start(&mut self, node: u64) -> anyhow::Result<()> {
        self.note(format!("node {node} is started"));
        let member = self.member_mut(node)?;
        ensure!(member.process.is_none(), "node {node} runs already");
        member.process = Some(member.start.spawn()?);
        self.publish();
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, node: u64) -> anyhow::Result<()> {
        self.still_runs(node)?;
        let member = self.member_mut(node)?;
        let mut process = member.process.take().with_context(|| format!("node {node} does not run"))?;
        member.paused = false;
        process.kill()?;
        self.outputs.push((node, process.output()));
        self.note(format!("node {node} is dead"));
        Ok(())
    }

    /// SIGTERM, and waits until the node has ended by itself.
    pub(crate) async fn terminate(&mut self, node: u64) -> anyhow::Result<()> {
        self.still_runs(node)?;
        self.note(format!("node {node} is asked to stop"));
        let process = self.member_mut(node)?.process.as_mut().with_context(|| format!("node {node} does not run"))?;
        process.signal(Signal::TERM)?;
        let status = process.wait(STOP_DEADLINE).await?;
        let output = process.output();
        ensure!(status.success(), "node {node} ended with {status} after SIGTERM");
        self.member_mut(node)?.process = None;
        self.outputs.push((node, output));
        self.note(format!("node {node} has stopped"));
        Ok(())
    }

    /// SIGSTOP: the process stands still, its connections stay.
    pub(crate) fn pause(&mut self, node: u64) -> anyhow::Result<()> {
        self.still_runs(node)?;
        self.process(node)?.signal(Signal::STOP)?;
        self.member_mut(node)?.paused = true;
        self.note(format!("node {node} stands still"));
        Ok(())
    }

    /// SIGCONT.
    pub(crate) fn resume(&mut self, node: u64) -> anyhow::Result<()> {
        self.process(node)?.signal(Signal::CONT)?;
        self.member_mut(node)?.paused = false;
        self.note(format!("node {node} goes on"));
        Ok(())
    }

    /// What `from` sends to `to` is lost from now on.
    pub(crate) fn cut(&mut self, from: u64, to: u64) -> anyhow::Result<()> {
        self.network.cut(from, to)?;
        self.note(format!("what node {from} sends to node {to} is lost"));
        Ok(())
    }

    /// Nothing is lost between nodes any more.
    pub(crate) fn mend(&mut self) -> anyhow::Result<()> {
        self.network.mend()?;
        self.note("the network is whole".to_owned());
        Ok(())
    }

    /// All nodes, running or not.
    pub(crate) fn nodes(&self) -> Vec<u64> {
        self.members.keys().copied().collect()
    }

    /// The nodes that run and do not stand still.
    pub(crate) fn awake(&self) -> Vec<u64> {
        let awake = |(node, member): (&u64, &Member)| (member.process.is_some() && !member.paused).then_some(*node);
        self.members.iter().filter_map(awake).collect()
    }

    /// # Errors
    /// When the node's process ended though nobody ended it.
    fn still_runs(&mut self, node: u64) -> anyhow::Result<()> {
        if let Some(process) = self.member_mut(node)?.process.as_mut()
            && let Some(status) = process.ended()?
        {
            bail!("node {node} ended by itself with {status}:\n{}", process.output());
        }
        Ok(())
    }

    /// # Errors
    /// When a thread of any node that ran or runs panicked.
    fn no_panic(&self) -> anyhow::Result<()> {
        let running = self.members.iter().filter_map(|(node, member)| Some((*node, member.process.as_ref()?.output())));
        for (node, output) in running.chain(self.outputs.iter().cloned()) {
            ensure!(!harness::panicked(&output), "a thread of node {node} panicked:\n{output}");
        }
        Ok(())
    }

    /// Waits until every node that is awake is healthy, and all of them know the same leader of every partition, which is
    /// awake.
    pub(crate) async fn until_serving(&mut self, deadline: Duration) -> anyhow::Result<()> {
        let end = clock::now() + deadline;
        loop {
            for node in self.nodes() {
                self.still_runs(node)?;
            }
            let Err(why) = self.serving().await else { return Ok(()) };
            ensure!(clock::now() < end, "the region does not serve within {deadline:?}: {why:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Says why not, if not.
    async fn serving(&self) -> anyhow::Result<()> {
        let awake = self.awake();
        let mut leaders = None;
        for node in &awake {
            let address = self.spot(*node)?.api;
            let health = tokio::time::timeout(ASK_DEADLINE, http::get(address, "/healthz"))
                .await
                .with_context(|| format!("node {node} does not answer"))?
                .with_context(|| format!("node {node} is not reached"))?;
            ensure!(health.status == 200, "node {node} is not healthy: {}", String::from_utf8_lossy(&health.body));
            let known = self.topology(*node).await.with_context(|| format!("node {node}"))?.leaders;
            ensure!(known.len() == usize::from(PARTITIONS), "node {node} knows leaders {known:?}");
            ensure!(known.iter().all(|leader| awake.contains(leader)), "node {node} knows leaders {known:?}");
            let same = leaders.get_or_insert_with(|| known.clone());
            ensure!(*same == known, "node {node} knows leaders {known:?}, another {same:?}");
        }
        Ok(())
    }

    /// The nodes and leaders, as one node knows them.
    pub(crate) async fn topology(&self, node: u64) -> anyhow::Result<api::TopologyResponse> {
        let mut client = ReservationsClient::new(client::channel(self.spot(node)?.api)?);
        let answer = tokio::time::timeout(ASK_DEADLINE, client.topology(api::TopologyRequest {})).await;
        Ok(answer.with_context(|| format!("node {node} does not answer"))??.into_inner())
    }

    /// The members, as one node knows them.
    pub(crate) async fn members(&self, node: u64) -> anyhow::Result<Vec<api::Member>> {
        let mut admin = client::admin(self.spot(node)?.api)?;
        let answer = tokio::time::timeout(ASK_DEADLINE, admin.members(api::MembersRequest {})).await;
        Ok(answer.with_context(|| format!("node {node} does not answer"))??.into_inner().members)
    }

    /// The groups of a node.
    pub(crate) async fn groups(&self, node: u64) -> anyhow::Result<Vec<api::GroupStatus>> {
        let mut admin = client::admin(self.spot(node)?.api)?;
        let answer = tokio::time::timeout(ASK_DEADLINE, admin.status(api::StatusRequest {})).await;
        Ok(answer.with_context(|| format!("node {node} does not answer"))??.into_inner().groups)
    }

    /// The node that leads a partition, as any node that is awake knows.
    pub(crate) async fn leader(&self, partition: u16) -> anyhow::Result<u64> {
        harness::until("a leader", SERVING_DEADLINE, async || {
            for node in self.awake() {
                let Ok(topology) = self.topology(node).await else { continue };
                if let Some(leader) = topology.leaders.get(usize::from(partition))
                    && self.awake().contains(leader)
                {
                    return Ok(Some(*leader));
                }
            }
            Ok(None)
        })
        .await
    }

    /// Waits until every node that is awake has applied what its leaders had when this was called.
    pub(crate) async fn until_caught_up(&self) -> anyhow::Result<()> {
        let mut applied: BTreeMap<u32, u64> = BTreeMap::new();
        for node in self.awake() {
            for group in self.groups(node).await? {
                let most = applied.entry(group.partition).or_default();
                *most = group.applied_index.max(*most);
            }
        }
        harness::until("every node has caught up", SERVING_DEADLINE, async || {
            for node in self.awake() {
                let Ok(groups) = self.groups(node).await else { return Ok(None) };
                let behind = groups.iter().any(|group| applied.get(&group.partition) > Some(&group.applied_index));
                if behind {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await
    }

    /// Runs `holdfast ctl` against a node. Returns what it printed.
    ///
    /// # Errors
    /// When it fails, with what it printed.
    pub(crate) async fn ctl(&mut self, node: u64, words: &[&str]) -> anyhow::Result<String> {
        self.note(format!("ctl {}", words.join(" ")));
        let address = format!("http://{}", self.spot(node)?.api);
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(["ctl", "--address", &address]).args(words).env("NO_COLOR", "1").stdin(Stdio::null());
        let run = tokio::task::spawn_blocking(move || command.output()).await??;
        let text = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        ensure!(run.status.success(), "ctl {} ended with {}: {text}", words.join(" "), run.status);
        self.note(format!("ctl {} is done", words.join(" ")));
        Ok(text)
    }

    /// What each node answers to a GET.
    pub(crate) async fn what_nodes_know(&self, path: &str) -> anyhow::Result<String> {
        let mut text = String::new();
        for node in self.awake() {
            let answer = match http::get(self.spot(node)?.api, path).await {
                Ok(answer) => String::from_utf8_lossy(&answer.body).into_owned(),
                Err(error) => format!("{error:#}"),
            };
            writeln!(text, "--- node {node} knows of {path}: {answer}")?;
        }
        Ok(text)
    }

    /// Prints what was done to the nodes and the end of each one's output.
    fn tell(&self) {
        let mut text = String::from("--- what was done to the nodes\n");
        for (at_ns, event) in &self.events {
            writeln!(text, "  {:>9} {event}", at_ns / 1_000_000).unwrap_or_default();
        }
        harness::report(&text);
        let latest: BTreeSet<u64> = self.members.keys().copied().collect();
        for node in latest {
            let running = self.members.get(&node).and_then(|member| member.process.as_ref()).map(Node::output);
            let ended = self.outputs.iter().rev().find(|(of, _)| *of == node).map(|(_, output)| output.clone());
            for (name, output) in [("the process before", ended), ("the process that runs", running)] {
                let Some(output) = output else { continue };
                let from = output.len().saturating_sub(PRINTED_BYTES);
                let from = (from..output.len()).find(|at| output.is_char_boundary(*at)).unwrap_or(output.len());
                harness::report(&format!("--- node {node}, {name}:\n{}", output.get(from..).unwrap_or_default()));
            }
        }
    }
}

/// The region file of these nodes.
pub(crate) fn region_file(cluster_id: &str, partitions: u16, nodes: &BTreeMap<u64, Spot>) -> anyhow::Result<String> {
    let mut file =
        format!("cluster_id = \"{cluster_id}\"\nregion = \"local\"\npartitions = {partitions}\ntenants = \"any\"\n");
    for (node, spot) in nodes {
        write!(file, "\n[[node]]\nid = {node}\npeer = \"{}\"\napi = \"{}\"\n", spot.peer, spot.api)?;
    }
    Ok(file)
}
