//! A store, a gateway in front of it, and an upstream behind that, each a process or a server of its own: what tests of a
//! gateway begin with.

use std::net::SocketAddr;

use crate::gate::Gate;
use crate::harness::{Node, Place};
use crate::policies;
use crate::upstream::Upstream;

/// All of it, running.
pub(crate) struct Stage {
    pub(crate) gate: Gate,
    pub(crate) upstream: Upstream,
    pub(crate) node: Node,
    pub(crate) place: Place,
}

/// A route to an upstream, with more lines of its own. What the upstream may take is short, so that a key that it was cut off
/// from comes to its end within a test, and longer than its late answers take.
pub(crate) fn route(path: &str, upstream: SocketAddr, more: &str) -> String {
    format!("[[route]]\npath = \"{path}\"\nupstream = [\"http://{upstream}\"]\nupstream_timeout = \"5s\"\n{more}\n")
}

impl Stage {
    /// With these policies, and the settings that `settings` makes of the upstream's address.
    pub(crate) async fn set(policies: &str, settings: impl Fn(SocketAddr) -> String) -> anyhow::Result<Self> {
        let place = Place::new()?;
        let node = place.start().critical().run().await?;
        policies::apply(node.address(), 0, policies).await?;
        let upstream = Upstream::start().await?;
        let gate = Gate::before(node.address(), place.root(), &settings(upstream.address())).await?;
        Ok(Self { gate, upstream, node, place })
    }

    /// Stops gateway and store, which have to end well.
    pub(crate) async fn over(mut self) -> anyhow::Result<()> {
        self.gate.stop().await?;
        self.node.stop().await
    }
}
