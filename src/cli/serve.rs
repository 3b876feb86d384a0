//! Runs a node until a signal or its own end: what `dev` and `server` have in common.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::exit::{Exit, Problem};
use crate::node::settings::NodeSettings;
use crate::node::{Node, NodeError};
use crate::store::StoreError;

/// Starts a node, tells `announce` of it, and serves.
///
/// The first SIGTERM or SIGINT ends it in order: requests in flight are answered first, within the settings' drain time.
/// A second one ends the process at once, with code 130; what was acknowledged is on disk either way.
///
/// # Errors
/// When the node cannot start, or stopped for good by itself.
pub(crate) fn serve(
    settings: NodeSettings,
    announce: impl FnOnce(&Node) -> Result<(), Problem>,
) -> Result<Exit, Problem> {
    let runtime = runtime()?;
    let ended = runtime.block_on(run(settings, announce));
    // A start that a signal ended may still be opening the store: what it does is safe to break off, and is not waited for.
    runtime.shutdown_background();
    ended
}

/// The threads of a server, and as many files as the system lets it have.
///
/// # Errors
/// When the system gives no threads.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Problem> {
    raise_open_files();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let builder = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("holdfast")
        .enable_all()
        .build();
    Ok(builder.context("cannot start the threads of the node")?)
}

/// The usual soft limit of 1,024 files is below what connections and tables take: go up to the hard limit.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open files stays where it is: connections may be refused before their own limit");
    }
}

async fn run(settings: NodeSettings, announce: impl FnOnce(&Node) -> Result<(), Problem>) -> Result<Exit, Problem> {
    let mut signals = Signals::new()?;
    let node = tokio::select! {
        started = Node::start(settings) => started.map_err(not_started)?,
        name = signals.next() => {
            tracing::info!(signal = name, "stopped before the node had started");
            return Ok(Exit::Ok);
        }
    };
    announce(&node)?;
    let stopped = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "shutting down: requests in flight are answered first");
            None
        }
        why = node.stopped() => {
            tracing::error!(why, "the node stopped for good");
            Some(why)
        }
    };
    tokio::select! {
        () = node.shutdown() => {}
        name = signals.next() => interrupt(name),
    }
    match stopped {
        None => {
            tracing::info!("shut down");
            Ok(Exit::Ok)
        }
        Some(why) => Err(anyhow::anyhow!("the node stopped for good: {why}").into()),
    }
}

/// A directory or a region that was made with other settings is a wrong setting; every other reason is a failure.
pub(crate) fn not_started(error: NodeError) -> Problem {
    let exit = match &error {
        NodeError::Store(StoreError::Identity { .. }) | NodeError::Misfit { .. } => Exit::Usage,
        NodeError::Store(StoreError::InUse { .. } | StoreError::Damaged(_) | StoreError::Disk(_))
        | NodeError::Listen { .. }
        | NodeError::Thread(_)
        | NodeError::Refused(_) => Exit::Failed,
    };
    Problem { exit, error: error.into() }
}

/// Ends the process at once.
#[expect(clippy::exit, reason = "the operator asked twice: nothing that still runs is waited for")]
pub(crate) fn interrupt(signal: &str) {
    tracing::warn!(signal, "second signal: ending at once");
    std::process::exit(i32::from(Exit::Interrupted.code()));
}

/// The signals that end a server.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens for them.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn new() -> Result<Self, Problem> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// The next one's name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
