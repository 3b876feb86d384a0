//! How a client is put together. Every default is the one of the design: change one with a reason.

use std::time::Duration;

use super::clock::Moment;
use super::error::{Certainty, Error, Failed, codes};
use super::known::{Known, url};
use super::node::Node;
use super::retry::{Backoff, Budget, BudgetRules};
use super::{Client, OnDrop, Settings, Transport};

/// Connections to one node at the most.
const MAX_CONNECTIONS: usize = 64;

/// Builds a [`Client`].
#[derive(Clone, Debug)]
#[must_use = "a builder connects to nothing"]
pub struct Builder {
    nodes: Vec<String>,
    settings: Settings,
    budget: BudgetRules,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            settings: Settings {
                transport: Transport::Session,
                connections: 1,
                connect_timeout: Duration::from_secs(2),
                attempt_timeout: Duration::from_secs(3),
                deadline: Duration::from_secs(15),
                attempts: 4,
                backoff: Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(5) },
                on_drop: OnDrop::Lapse,
                client_version: String::new(),
            },
            budget: BudgetRules { share: 0.2, per_second: 10.0 },
        }
    }
}

impl Builder {
    /// Adds nodes, as `http://HOST:PORT` or `HOST:PORT`. One is enough to find the others; several are needed to find one
    /// that works.
    pub fn nodes(mut self, nodes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.nodes.extend(nodes.into_iter().map(Into::into));
        self
    }

    /// How calls travel. Default: sessions.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.settings.transport = transport;
        self
    }

    /// Connections to each node. Default: 1, which bears a thousand calls at a time.
    pub fn connections(mut self, connections: usize) -> Self {
        self.settings.connections = connections.clamp(1, MAX_CONNECTIONS);
        self
    }

    /// How long a connection may take to be made. Default: 2 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// How long one send may take before the next node is asked. A wait comes on top. Default: 3 s.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.settings.attempt_timeout = timeout;
        self
    }

    /// How long a call may take with all its resends. A wait comes on top. Default: 15 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = deadline;
        self
    }

    /// Sends of one call, the first included. Default: 4.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.settings.attempts = attempts.max(1);
        self
    }

    /// Pauses before resends: at random up to `base`, doubled each time, up to `cap`. Default: 100 ms and 5 s.
    pub fn backoff(mut self, base: Duration, cap: Duration) -> Self {
        self.settings.backoff = Backoff { base, cap };
        self
    }

    /// Resends that all calls together may make: a share of the calls, and some a second. Default: 0.2 and 10.
    pub fn retry_budget(mut self, share: f64, per_second: f64) -> Self {
        self.budget = BudgetRules { share, per_second };
        self
    }

    /// What becomes of grants that are dropped before they were started. Default: they lapse.
    pub fn on_drop(mut self, on_drop: OnDrop) -> Self {
        self.settings.on_drop = on_drop;
        self
    }

    /// What the store's metrics show of this client, such as `acme-pay/2.3.1`.
    pub fn client_version(mut self, version: impl Into<String>) -> Self {
        self.settings.client_version = version.into();
        self
    }

    /// Connects to the first node that answers, and learns of the others.
    ///
    /// # Errors
    /// When an address is none, or no node answers.
    pub async fn connect(self) -> Result<Client, Error> {
        let client = self.connect_lazy()?;
        client.refresh().await?;
        Ok(client)
    }

    /// A client that learns of the nodes when it is first used, or when one answers: for a program that starts before its store.
    /// Called within a Tokio runtime.
    ///
    /// # Errors
    /// When an address is none.
    pub fn connect_lazy(self) -> Result<Client, Error> {
        let Self { nodes, settings, budget } = self;
        let nodes = nodes.iter().map(|address| Node::new(&url(address), &settings)).collect::<Result<Vec<_>, _>>();
        let nodes = nodes.map_err(|message| {
            Failed::for_good(codes::UNREACHABLE, Certainty::Definite, message).end(Certainty::Definite)
        })?;
        Ok(Client::new(settings, Known::new(nodes, Budget::new(budget, Moment::now()))))
    }
}
