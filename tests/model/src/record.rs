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

#[cfg(test)]
mod tests {
    use super::{Attempt, Completion, Nonce, Phase, Record, Token};
    use crate::rule::{Rule, Rules};

    fn completion(envelope: u8, late: bool) -> Completion {
        Completion { epoch: 1 + u8::from(late), sequence: 1, region: 0, envelope, late }
    }

    /// Every record of two tokens, each absent or in one of these phases.
    fn records() -> Vec<Record> {
        let (a, b) = (completion(1, false), completion(2, true));
        let phases = [Phase::Held, Phase::Lapsed, Phase::Released]
            .into_iter()
            .chain([vec![a], vec![b], vec![a, b]].map(Phase::Completed))
            .map(Some)
            .chain([None]);
        let attempts = |sequence: u8| {
            phases.clone().map(move |phase| {
                let token = Token { epoch: sequence, sequence, region: 0 };
                phase.map(|phase| Attempt {
                    token,
                    nonce: Nonce { process: 0, number: 1 },
                    flagged: sequence > 1,
                    phase,
                })
            })
        };
        attempts(1)
            .flat_map(|first| attempts(2).map(move |second| Record(first.clone().into_iter().chain(second).collect())))
            .collect()
    }

    fn merged(a: &Record, b: &Record, rules: Rules) -> Record {
        let mut merged = a.clone();
        merged.merge(b, rules);
        merged
    }

    fn is_an_algebra(rules: Rules) -> bool {
        let all = records();
        let same = |a: &Record| merged(a, a, rules) == *a;
        let commutes = |a: &Record, b: &Record| merged(a, b, rules) == merged(b, a, rules);
        let associates = |a: &Record, b: &Record, c: &Record| {
            merged(&merged(a, b, rules), c, rules) == merged(a, &merged(b, c, rules), rules)
        };
        all.iter().all(same)
            && all.iter().all(|a| all.iter().all(|b| commutes(a, b)))
            && all.iter().all(|a| all.iter().all(|b| all.iter().all(|c| associates(a, b, c))))
    }

    #[test]
    fn merge_is_commutative_associative_and_idempotent() {
        assert!(is_an_algebra(Rules::all()));
    }

    #[test]
    fn merge_is_not_without_every_envelope() {
        assert!(!is_an_algebra(Rules::all().without(Rule::R11Envelopes)));
    }
}
