//! The state of the world: the logs, the regions, the processes that hold the key, what is on the wire, what ran.

use crate::global::{Entry, Global};
use crate::record::{Nonce, Token};
use crate::region::Region;
use crate::scenario::Config;

/// A process that wants the operation done.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Process {
    /// The attempt in flight, if any; 0 before the first.
    pub(crate) number: u8,
    pub(crate) asks: u8,
    /// The process waits for the answer of its latest attempt.
    pub(crate) live: bool,
    pub(crate) running: Option<Running>,
    /// A send whose answer was no definite refusal.
    pub(crate) indefinite: bool,
    pub(crate) refused: bool,
    pub(crate) completes: u8,
    pub(crate) done: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Running {
    pub(crate) token: Token,
    pub(crate) nonce: Nonce,
    pub(crate) flagged: bool,
}

/// An execution that began.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Run {
    pub(crate) token: Token,
    pub(crate) process: u8,
    pub(crate) flagged: bool,
    /// The process gave the grant back: it had no effect.
    pub(crate) given_back: bool,
}

/// A grant on its way to the process. `renewal` is that of the home lease that it was answered under.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Message {
    pub(crate) nonce: Nonce,
    pub(crate) token: Token,
    pub(crate) flagged: bool,
    pub(crate) renewal: u8,
}

/// What of the bounded events is left.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Budget {
    pub(crate) renewals: u8,
    pub(crate) lost: u8,
    pub(crate) destroyed: u8,
    pub(crate) switchovers: u8,
    pub(crate) leaders: u8,
    pub(crate) restores: u8,
    pub(crate) sweeps: u8,
    pub(crate) lapses: u8,
    pub(crate) releases: u8,
    pub(crate) claims: u8,
    pub(crate) remints: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    /// What every replica applied.
    pub(crate) base: Global,
    /// The global log after it.
    pub(crate) log: Vec<Entry>,
    /// TakeOvers that were proposed, and commit at any time or never.
    pub(crate) proposals: Vec<Entry>,
    pub(crate) regions: Vec<Region>,
    pub(crate) processes: Vec<Process>,
    pub(crate) wire: Vec<Message>,
    /// Grants whose own lease ran out.
    pub(crate) out: Vec<Token>,
    /// The home leases up to this renewal ran out.
    pub(crate) expired: u8,
    pub(crate) runs: Vec<Run>,
    /// Envelopes that a replay told.
    pub(crate) replayed: Vec<u8>,
    /// Grants that were answered under `global` while the global log did not have them: P4.
    pub(crate) unknown_told: bool,
    pub(crate) reminted: bool,
    pub(crate) left: Budget,
}

impl State {
    pub(crate) fn new(config: &Config) -> State {
        let regions = (0..config.regions).map(|index| Region::new(index, usize::from(config.nodes))).collect();
        State {
            base: Global::new(),
            log: Vec::new(),
            proposals: Vec::new(),
            regions,
            processes: vec![Process::default(); usize::from(config.processes)],
            wire: Vec::new(),
            out: Vec::new(),
            expired: 0,
            runs: Vec::new(),
            replayed: Vec::new(),
            unknown_told: false,
            reminted: false,
            left: config.budget,
        }
    }

    /// What a node's replica shows.
    pub(crate) fn view(&self, region: u8, node: usize, config: &Config) -> Global {
        self.at(self.regions[usize::from(region)].nodes[node].seen, config)
    }

    /// What the whole global log comes to.
    pub(crate) fn latest(&self, config: &Config) -> Global {
        self.at(self.log.len(), config)
    }

    fn at(&self, position: usize, config: &Config) -> Global {
        let mut global = self.base.clone();
        self.log.iter().take(position).for_each(|entry| global.apply(entry, config.scope()));
        global
    }

    /// Moves what every replica applied into the base, and puts what has no order in order.
    pub(crate) fn tidy(&mut self, config: &Config) {
        let nodes = || self.regions.iter().filter(|region| !region.destroyed).flat_map(|region| &region.nodes);
        let all = nodes().map(|node| node.seen).min().unwrap_or(self.log.len());
        for entry in self.log.drain(..all) {
            self.base.apply(&entry, config.scope());
        }
        for region in &mut self.regions {
            region.nodes.iter_mut().for_each(|node| node.seen = node.seen.saturating_sub(all));
        }
        self.out.sort();
    }
}
