//! The regional group: what an entry does to a region's state (R5, R7, R10), and what stands around it.

use crate::global::{Change, EPOCHS, Global};
use crate::record::{Attempt, Completion, Nonce, Phase, Record, Token};
use crate::rule::{Rule, Rules};

/// An entry of the regional log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Command {
    Reserve { epoch: u8, nonce: Nonce, flagged: bool, named: Vec<Token> },
    Complete { token: Token, nonce: Nonce, flagged: bool, envelope: u8, known: bool },
    Release(Token),
    Lapse(Token),
    Void(Token),
    Seal(u8),
    Open { epoch: u8, records: Record },
    Import(Record),
    Forget,
}

/// What a region's replicas make of its log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Regional {
    /// The open epoch, 0 for none.
    pub(crate) open: u8,
    pub(crate) sealed: [bool; EPOCHS],
    pub(crate) record: Record,
    /// Stream 0 is that of `local`.
    pub(crate) streams: [Vec<Change>; EPOCHS],
    pub(crate) sequence: u8,
    pub(crate) forgot: bool,
}

/// A node: its state of the region, how much of the regional log it applied and of the global log it saw, and what it
/// remembers of answers as long as it leads.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Node {
    pub(crate) state: Regional,
    pub(crate) applied: usize,
    pub(crate) seen: usize,
    pub(crate) told: Vec<Token>,
    pub(crate) voiding: Vec<Token>,
}

/// A call that waits for its entry, or has it and was not answered yet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Waiter {
    pub(crate) node: usize,
    pub(crate) nonce: Nonce,
    pub(crate) epoch: u8,
    pub(crate) named: Vec<Token>,
    pub(crate) flagged: bool,
    pub(crate) token: Option<Token>,
    /// The token stood already, and the call asked for it again.
    pub(crate) repeated: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Region {
    pub(crate) nodes: Vec<Node>,
    pub(crate) leader: usize,
    /// Committed entries that not every node applied.
    pub(crate) log: Vec<Command>,
    /// What was proposed, and commits at any time or never.
    pub(crate) pending: Vec<Command>,
    pub(crate) waiters: Vec<Waiter>,
    pub(crate) destroyed: bool,
    pub(crate) incarnation: u8,
    pub(crate) backup: Option<Regional>,
}

impl Region {
    pub(crate) fn new(index: u8, nodes: usize) -> Region {
        let state = Regional {
            open: u8::from(index == 0),
            sealed: [false; EPOCHS],
            record: Record::default(),
            streams: Default::default(),
            sequence: 0,
            forgot: false,
        };
        let node = Node { state, applied: 0, seen: 0, told: Vec::new(), voiding: Vec::new() };
        Region {
            nodes: vec![node; nodes],
            leader: 0,
            log: Vec::new(),
            pending: Vec::new(),
            waiters: Vec::new(),
            destroyed: false,
            incarnation: 0,
            backup: None,
        }
    }

    pub(crate) fn leading(&self) -> &Node {
        &self.nodes[self.leader]
    }

    /// Applies the next entry on a node, and tells the call that waits for it there.
    pub(crate) fn apply_next(&mut self, node: usize, index: u8, rules: Rules, view: &Global) {
        let at = self.nodes[node].applied;
        let Some(command) = self.log.get(at).cloned() else { return };
        let granted = self.nodes[node].state.apply(&command, index, rules, view);
        self.nodes[node].applied += 1;
        if let Command::Reserve { nonce, named, .. } = &command {
            let is_for = |waiter: &Waiter| {
                waiter.node == node && waiter.token.is_none() && waiter.nonce == *nonce && waiter.named == *named
            };
            if let Some(at) = self.waiters.iter().position(is_for) {
                match granted {
                    Some(token) => self.waiters[at].token = Some(token),
                    None => drop(self.waiters.remove(at)),
                }
            }
        }
        while !self.log.is_empty() && self.nodes.iter().all(|node| node.applied > 0) {
            self.log.remove(0);
            self.nodes.iter_mut().for_each(|node| node.applied -= 1);
        }
    }
}

impl Regional {
    /// Whether commands of the open epoch are taken.
    pub(crate) fn is_open(&self) -> bool {
        self.open != 0 && !self.sealed[usize::from(self.open)]
    }

    fn note(&mut self, stream: u8, attempt: &Attempt, rules: Rules) {
        self.record.add(attempt.clone(), rules);
        self.streams[usize::from(stream)].push(Change::Of(attempt.clone()));
    }

    /// A phase that an attempt comes to.
    fn turn(&mut self, token: Token, phase: Phase, rules: Rules) {
        let Some(attempt) = self.record.get(token).cloned() else { return };
        let stream = if token.epoch == 0 { 0 } else { self.open };
        if attempt.phase == Phase::Held && self.streams_open(stream) {
            self.note(stream, &Attempt { phase, ..attempt }, rules);
        }
    }

    fn streams_open(&self, stream: u8) -> bool {
        stream == 0 || self.is_open()
    }

    /// What an entry comes to; the token, if it grants one. `view` is the applying node's replica, which apply may not read.
    fn apply(&mut self, command: &Command, region: u8, rules: Rules, view: &Global) -> Option<Token> {
        match command {
            Command::Reserve { epoch, nonce, flagged, named } => {
                let is_void = *epoch != 0 && (self.open != *epoch || !self.is_open());
                let unnamed = self.record.tokens().any(|token| !named.contains(&token));
                let taken = rules.on(Rule::R7Named) && (unnamed || self.record.winner().is_some());
                let read = !rules.on(Rule::R7Entry) && view.record.tokens().any(|token| !named.contains(&token));
                let expired = self.forgot && rules.on(Rule::R15Apply);
                if is_void || taken || read || expired {
                    return None;
                }
                self.sequence += 1;
                let region = if rules.on(Rule::R17Region) { region } else { 0 };
                let token = Token { epoch: *epoch, sequence: self.sequence, region };
                let attempt = Attempt { token, nonce: *nonce, flagged: *flagged, phase: Phase::Held };
                self.note(*epoch, &attempt, rules);
                return Some(token);
            }
            Command::Complete { token, nonce, flagged, envelope, known } => {
                let stream = if token.epoch == 0 { 0 } else { self.open };
                if self.streams_open(stream) && (rules.on(Rule::R10Adopt) || self.record.get(*token).is_some()) {
                    self.sequence += 1;
                    let known = self.record.has_completed() || (*known && rules.on(Rule::R11LateReplica));
                    let completion = Completion {
                        epoch: stream,
                        sequence: self.sequence,
                        region,
                        envelope: *envelope,
                        late: known && rules.on(Rule::R11Late),
                    };
                    let phase = Phase::Completed(vec![completion]);
                    self.note(stream, &Attempt { token: *token, nonce: *nonce, flagged: *flagged, phase }, rules);
                }
            }
            Command::Release(token) => {
                let standing = self.record.winner().map(|winner| winner.token);
                if rules.on(Rule::StaleRelease) {
                    self.turn(*token, Phase::Released, rules);
                } else if let Some(standing) = standing {
                    self.turn(standing, Phase::Released, rules);
                }
            }
            Command::Lapse(token) => self.turn(*token, Phase::Lapsed, rules),
            Command::Void(token) => self.turn(*token, Phase::Released, rules),
            Command::Seal(epoch) => {
                if !self.sealed[usize::from(*epoch)] && rules.on(Rule::R5Seal) {
                    self.sealed[usize::from(*epoch)] = true;
                    self.streams[usize::from(*epoch)].push(Change::Seal);
                }
            }
            Command::Open { epoch, records } => {
                if self.open < *epoch && !self.sealed[usize::from(*epoch)] {
                    self.open = *epoch;
                }
                self.record.merge(records, rules);
            }
            Command::Import(records) => self.record.merge(records, rules),
            Command::Forget => {
                self.record = Record::default();
                self.forgot = true;
            }
        }
        None
    }
}
