//! One key's record as the global layer merges it (R11): tokens, their phases, the winner, the ledger.

use crate::rule::{Rule, Rules};

/// A fencing token. Epoch 0 is that of `local` grants.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) struct Token {
    pub(crate) epoch: u8,
    pub(crate) sequence: u8,
    pub(crate) region: u8,
}

/// The name of one attempt: a process, and how many it made before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) struct Nonce {
    pub(crate) process: u8,
    pub(crate) number: u8,
}

/// A completion: its envelope, and where it committed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) struct Completion {
    pub(crate) epoch: u8,
    pub(crate) sequence: u8,
    pub(crate) region: u8,
    pub(crate) envelope: u8,
    pub(crate) late: bool,
}

/// How far a token is. The order is that of the merge.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) enum Phase {
    Held,
    Lapsed,
    Released,
    Completed(Vec<Completion>),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) struct Attempt {
    pub(crate) token: Token,
    pub(crate) nonce: Nonce,
    pub(crate) flagged: bool,
    pub(crate) phase: Phase,
}

/// All attempts of one key, by token.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub(crate) struct Record(pub(crate) Vec<Attempt>);

/// Which attempt stands, and its envelope if it completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Winner {
    pub(crate) token: Token,
    pub(crate) envelope: Option<u8>,
}

impl Record {
    pub(crate) fn get(&self, token: Token) -> Option<&Attempt> {
        self.0.iter().find(|attempt| attempt.token == token)
    }

    pub(crate) fn tokens(&self) -> impl Iterator<Item = Token> {
        self.0.iter().map(|attempt| attempt.token)
    }

    pub(crate) fn merge(&mut self, other: &Record, rules: Rules) {
        for attempt in &other.0 {
            self.add(attempt.clone(), rules);
        }
    }

    /// Merges one attempt.
    pub(crate) fn add(&mut self, attempt: Attempt, rules: Rules) {
        match self.0.iter_mut().find(|known| known.token == attempt.token) {
            Some(known) => {
                known.flagged &= attempt.flagged;
                let phase = std::mem::replace(&mut known.phase, Phase::Held);
                known.phase = join(phase, attempt.phase, rules);
            }
            None => {
                self.0.push(attempt);
                self.0.sort();
            }
        }
        if !rules.on(Rule::R11Keep)
            && let Some(winner) = self.winner()
        {
            self.0.retain(|attempt| attempt.token == winner.token);
        }
    }

    fn completions(&self) -> impl Iterator<Item = (Token, Completion)> {
        self.0.iter().flat_map(|attempt| {
            let completions: &[Completion] = match &attempt.phase {
                Phase::Completed(completions) => completions,
                Phase::Held | Phase::Lapsed | Phase::Released => &[],
            };
            completions.iter().map(|completion| (attempt.token, *completion))
        })
    }

    /// The winner: among completions not late, that of the highest epoch and in it the lowest sequence of its own commit;
    /// else the highest held.
    pub(crate) fn winner(&self) -> Option<Winner> {
        let completed = self
            .completions()
            .filter(|(_, completion)| !completion.late)
            .min_by_key(|(_, at)| (u8::MAX - at.epoch, at.sequence, at.region, at.envelope));
        if let Some((token, completion)) = completed {
            return Some(Winner { token, envelope: Some(completion.envelope) });
        }
        let held = self.0.iter().rev().find(|attempt| attempt.phase == Phase::Held)?;
        Some(Winner { token: held.token, envelope: None })
    }

    /// What the ledger names: each completion that is not the winner's, each unflagged held loser.
    ///
    /// A flagged held loser is named too if the winner's token is lower: without home leases it may have run first.
    pub(crate) fn ledger(&self, rules: Rules) -> Vec<(Token, Option<u8>)> {
        let Some(winner) = self.winner() else { return Vec::new() };
        let completed = self.completions().map(|(token, completion)| (token, Some(completion.envelope)));
        let others = completed.filter(|(token, envelope)| *token != winner.token || *envelope != winner.envelope);
        let higher = |attempt: &Attempt| attempt.token > winner.token && rules.on(Rule::R11HigherHeld);
        let held = self.0.iter().filter(|attempt| attempt.phase == Phase::Held);
        let held = held.filter(|attempt| !attempt.flagged || higher(attempt));
        others.chain(held.map(|attempt| (attempt.token, None)).filter(|(token, _)| *token != winner.token)).collect()
    }

    pub(crate) fn has_completed(&self) -> bool {
        self.completions().next().is_some()
    }
}

fn join(a: Phase, b: Phase, rules: Rules) -> Phase {
    match (a, b) {
        (Phase::Completed(mut all), Phase::Completed(more)) => {
            for completion in more {
                if !all.contains(&completion) && (rules.on(Rule::R11Envelopes) || all.is_empty()) {
                    all.push(completion);
                }
            }
            all.sort();
            Phase::Completed(all)
        }
        (a, b) => a.max(b),
    }
}
