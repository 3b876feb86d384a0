//! A second opinion, written from the documents: a key's life as the list of what happened to it, and questions to that
//! list. It keeps no phases and changes nothing in place, so it cannot share a mistake with what it checks. What is answered
//! stands in [`answers`].

mod answers;

use std::collections::BTreeMap;

use holdfast::ids::{Digest, EndpointName, FencingToken, Fingerprint, Nonce};
use holdfast::limits;
use holdfast::reservation::command::{Command, Context, Verdict};
use holdfast::reservation::record::{Answer, Checkpoint, EventKind, OnLapse, State, Terms};
use holdfast::reservation::reply::Reply;
use holdfast::time::LogTime;

/// What a grant is, however it came about.
#[derive(Clone)]
struct Given {
    number: u32,
    request: Fingerprint,
    nonce: Option<Nonce>,
    flagged: bool,
    lease_ms: u32,
}

#[derive(Clone)]
enum What {
    Granted(Given, Terms, EndpointName),
    Claimed { given: Given, worker: Box<str> },
    Adopted(Given, Terms),
    Extended(u32),
    Checkpointed(Checkpoint),
    Lapsed,
    Released,
    Voided,
    Reported { envelope: Digest, retention_ms: Option<u64> },
    Ruled { verdict: Verdict, why: String },
}

#[derive(Clone)]
struct Fact {
    at: LogTime,
    token: FencingToken,
    what: What,
}

impl What {
    /// The grant that a fact makes known.
    fn introduces(&self) -> Option<&Given> {
        if let Self::Granted(given, ..) | Self::Claimed { given, .. } | Self::Adopted(given, _) = self {
            return Some(given);
        }
        None
    }

    /// The terms and the endpoint that a Reserve was granted under.
    fn granted_under(&self) -> Option<(Terms, &EndpointName)> {
        if let Self::Granted(_, terms, endpoint) = self {
            return Some((*terms, endpoint));
        }
        None
    }

    /// The terms that an adopted token is kept under.
    fn adopted_under(&self) -> Option<Terms> {
        if let Self::Adopted(_, terms) = self {
            return Some(*terms);
        }
        None
    }

    fn says_that_nothing_ran(&self) -> bool {
        matches!(self, Self::Ruled { verdict: Verdict::NotExecuted, .. })
    }

    fn checkpoint(&self) -> Option<&Checkpoint> {
        if let Self::Checkpointed(checkpoint) = self {
            return Some(checkpoint);
        }
        None
    }

    /// The lease that begins here, of the grant that the fact is about.
    fn lease_ms(&self) -> Option<u32> {
        if let Self::Granted(given, ..) | Self::Claimed { given, .. } = self {
            return Some(given.lease_ms);
        }
        if let Self::Extended(lease_ms) = self {
            return Some(*lease_ms);
        }
        None
    }
}

/// How one grant ended, if it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Running { lease_ms: u32, revision: u32 },
    Unknown,
    Back,
    Ran { envelopes: Vec<Digest> },
}

/// What the reference says of a key, to be compared with its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opinion {
    pub(crate) state: State,
    pub(crate) answer: Option<Answer>,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) expires_at: Option<LogTime>,
    /// The grants that may have executed, by ascending token.
    pub(crate) grants: Vec<(FencingToken, Fingerprint, bool, Fate)>,
    /// The newest events, oldest first, each with its detail, and how many there were in all.
    pub(crate) history: Vec<(LogTime, EventKind, FencingToken, String)>,
    pub(crate) events: usize,
}

/// Every key's life since it was last absent.
#[derive(Default)]
pub(crate) struct Reference {
    lives: BTreeMap<String, Life>,
}

impl Reference {
    /// What is answered, and the envelope to store.
    pub(crate) fn tell(&mut self, key: &str, command: &Command, context: &Context) -> (Reply, Option<Digest>) {
        let life = self.lives.entry(key.to_owned()).or_default();
        let reply = life.answer_to(command, context);
        let stores = life.remember(command, context, &reply);
        (reply, stores)
    }

    pub(crate) fn opinion(&self, key: &str, key_time_ms: Option<u64>) -> Option<Opinion> {
        let life = self.lives.get(key)?;
        (!life.facts.is_empty()).then(|| life.opinion(key_time_ms))
    }

    /// Whether a sweep takes the key, and forgets it then.
    pub(crate) fn sweep(&mut self, key: &str, key_time_ms: Option<u64>, now: LogTime) -> bool {
        let Some(life) = self.lives.get(key) else { return false };
        let over = life.expires_at(key_time_ms).is_some_and(|at| at < now);
        if over {
            self.lives.remove(key);
        }
        over
    }
}

#[derive(Default)]
struct Life {
    facts: Vec<Fact>,
}

impl Life {
    /// The place of the fact that made the token known, if it still is: a grant that was given back is forgotten when the
    /// next one is made.
    fn introduced(&self, token: FencingToken) -> Option<(usize, &Given)> {
        let mine = self.facts.iter().enumerate().rev().filter(|(_, fact)| fact.token == token);
        let (place, given) = mine.filter_map(|(place, fact)| Some((place, fact.what.introduces()?))).next()?;
        let back = self.facts.iter().enumerate().skip(place).position(|(place, _)| self.is_back_at(token, place));
        let forgotten = back.is_some_and(|back| {
            self.fate_at(token, place, self.facts.len()) == Fate::Back
                && self.facts.iter().skip(place + back).any(|fact| self.is_grant(fact))
        });
        (!forgotten).then_some((place, given))
    }

    fn is_grant(&self, fact: &Fact) -> bool {
        matches!(fact.what, What::Granted(..) | What::Claimed { .. })
    }

    /// Whether the fact at this place gives the token's grant back.
    fn is_back_at(&self, token: FencingToken, place: usize) -> bool {
        self.facts.get(place).is_some_and(|fact| {
            let own = fact.token == token && matches!(fact.what, What::Released | What::Voided);
            own || fact.what.says_that_nothing_ran()
        })
    }

    fn fate_at(&self, token: FencingToken, from: usize, until: usize) -> Fate {
        let span = || self.facts.iter().enumerate().take(until).skip(from);
        let envelopes = self.reported(token, from, until);
        if !envelopes.is_empty() {
            return Fate::Ran { envelopes };
        }
        if span().any(|(place, _)| self.is_back_at(token, place)) {
            return Fate::Back;
        }
        let mine = || span().filter(|(_, fact)| fact.token == token);
        if mine().any(|(_, fact)| matches!(fact.what, What::Lapsed | What::Adopted(..))) {
            return Fate::Unknown;
        }
        let leases: Vec<u32> = mine().filter_map(|(_, fact)| fact.what.lease_ms()).collect();
        Fate::Running {
            lease_ms: leases.last().copied().unwrap_or_default(),
            revision: u32::try_from(leases.len().saturating_sub(1)).unwrap_or(u32::MAX),
        }
    }

    /// The envelopes that were reported for the token, the first four that differ.
    fn reported(&self, token: FencingToken, from: usize, until: usize) -> Vec<Digest> {
        let mut envelopes = Vec::new();
        for fact in self.facts.iter().take(until).skip(from) {
            let Some((of, envelope, _)) = self.outcome(fact) else { continue };
            if of == token && !envelopes.contains(&envelope) && envelopes.len() < limits::MAX_ENVELOPES_PER_TOKEN {
                envelopes.push(envelope);
            }
        }
        envelopes
    }

    /// Which grant an operator's "it ran" is about: the last one that was not given back before the verdict.
    fn ruled_on(&self, verdict: &Fact) -> Option<FencingToken> {
        let place = self.facts.iter().position(|fact| std::ptr::eq(fact, verdict))?;
        let before = self.facts.get(..place)?;
        let given_back = |token: FencingToken, from: usize| (from..place).any(|at| self.is_back_at(token, at));
        before
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, fact)| self.is_grant(fact))
            .map(|(at, fact)| (at, fact.token))
            .find(|(at, token)| !given_back(*token, *at))
            .map(|(_, token)| token)
    }

    /// Every known grant with its fate, by ascending token.
    fn grants(&self) -> Vec<(FencingToken, &Given, Fate)> {
        let mut tokens: Vec<FencingToken> = self.facts.iter().map(|fact| fact.token).collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
            .into_iter()
            .filter_map(|token| {
                let (place, given) = self.introduced(token)?;
                Some((token, given, self.fate_at(token, place, self.facts.len())))
            })
            .collect()
    }

    fn may_have_run(&self) -> Vec<(FencingToken, &Given, Fate)> {
        self.grants().into_iter().filter(|(_, _, fate)| *fate != Fate::Back).collect()
    }

    /// The outcome that a fact tells, if it tells one: of which grant, the envelope, and how long it is to be kept.
    fn outcome(&self, fact: &Fact) -> Option<(FencingToken, Digest, Option<u64>)> {
        if let What::Reported { envelope, retention_ms } = &fact.what {
            return Some((fact.token, *envelope, *retention_ms));
        }
        if let What::Ruled { verdict: Verdict::Executed(envelope), .. } = &fact.what {
            return Some((self.ruled_on(fact)?, *envelope, None));
        }
        None
    }

    /// The first outcome that was told: the answer.
    fn first_outcome(&self) -> Option<(&Fact, FencingToken, Digest, Option<u64>)> {
        let told = self.facts.iter().filter_map(|fact| Some((fact, self.outcome(fact)?)));
        told.map(|(fact, (token, envelope, retention_ms))| (fact, token, envelope, retention_ms)).next()
    }

    fn answer(&self, key_time_ms: Option<u64>) -> Option<Answer> {
        let (fact, token, envelope, retention_ms) = self.first_outcome()?;
        let retention_ms = retention_ms.unwrap_or(0).max(self.terms()?.retention_ms);
        let place = self.facts.iter().position(|other| std::ptr::eq(fact, other))?;
        let longest_ms = retention_ms.max(self.runs_on_ms(token, place));
        let expires_at = later_of(fact.at, key_time_ms).plus_ms(longest_ms);
        Some(Answer { token, envelope, completed_at: fact.at, expires_at })
    }

    /// The longest lease of a grant that ran before the fact at this place, other than the token's.
    fn runs_on_ms(&self, but: FencingToken, place: usize) -> u64 {
        let before = self.facts.iter().enumerate().take(place).filter(|(_, fact)| fact.token != but);
        let made = before.filter(|(_, fact)| self.is_grant(fact));
        let leases = made.map(|(from, fact)| match self.fate_at(fact.token, from, place) {
            Fate::Running { lease_ms, .. } => u64::from(lease_ms),
            Fate::Unknown | Fate::Back | Fate::Ran { .. } => 0,
        });
        leases.max().unwrap_or(0)
    }

    /// The grant that runs; none once the key is answered.
    fn runner(&self) -> Option<(FencingToken, Given, u32, u32)> {
        if self.first_outcome().is_some() {
            return None;
        }
        self.grants().into_iter().find_map(|(token, given, fate)| match fate {
            Fate::Running { lease_ms, revision } => Some((token, given.clone(), lease_ms, revision)),
            Fate::Unknown | Fate::Back | Fate::Ran { .. } => None,
        })
    }

    /// The terms of the last grant, or of the token that told of the key first. What was promised longer, or held once,
    /// stays so.
    fn terms(&self) -> Option<Terms> {
        let first = self.facts.first().and_then(|fact| fact.what.adopted_under());
        let granted = self.facts.iter().filter_map(|fact| fact.what.granted_under()).map(|(terms, _)| terms);
        first.into_iter().chain(granted).reduce(|before, now| Terms {
            retention_ms: before.retention_ms.max(now.retention_ms),
            on_lapse: if before.on_lapse == OnLapse::Hold { OnLapse::Hold } else { now.on_lapse },
            ..now
        })
    }

    fn endpoint(&self) -> Option<EndpointName> {
        self.facts.iter().rev().find_map(|fact| fact.what.granted_under()).map(|(_, endpoint)| endpoint.clone())
    }

    fn last_token(&self) -> Option<FencingToken> {
        self.grants().last().map(|(token, ..)| *token)
    }

    /// The last recovery point, and whose request it is of; a ruling that nothing ran makes it void.
    fn checkpoint(&self) -> Option<(Checkpoint, Fingerprint)> {
        let points = self.facts.iter().enumerate().rev();
        let (place, fact, checkpoint) =
            points.filter_map(|(place, fact)| Some((place, fact, fact.what.checkpoint()?.clone()))).next()?;
        let void = self.facts.iter().skip(place).any(|fact| fact.what.says_that_nothing_ran());
        let mut grants = self.facts.iter().filter(|other| other.token == fact.token);
        let request = grants.find_map(|grant| grant.what.introduces()).map(|given| given.request.clone())?;
        (!void).then_some((checkpoint, request))
    }

    fn state(&self) -> State {
        let unknown = self.grants().iter().any(|(_, _, fate)| *fate == Fate::Unknown);
        match (self.facts.is_empty(), self.first_outcome().is_some(), self.runner().is_some(), unknown) {
            (true, _, _, _) => State::Absent,
            (_, true, _, _) => State::Completed,
            (_, _, true, _) => State::Held,
            (_, _, _, true) if self.holds() => State::OutcomeUnknown,
            (_, _, _, true) => State::Lapsed,
            (_, _, _, false) => State::Released,
        }
    }

    fn holds(&self) -> bool {
        self.terms().is_some_and(|terms| terms.on_lapse == OnLapse::Hold)
    }

    fn expires_at(&self, key_time_ms: Option<u64>) -> Option<LogTime> {
        match self.state() {
            State::Absent | State::Held | State::OutcomeUnknown => None,
            State::Completed => self.answer(key_time_ms).map(|answer| answer.expires_at),
            State::Lapsed | State::Released => {
                let end = self.facts.iter().rev().find(|fact| {
                    matches!(fact.what, What::Lapsed | What::Released | What::Voided | What::Ruled { .. })
                })?;
                Some(later_of(end.at, key_time_ms).plus_ms(self.terms()?.retention_ms))
            }
        }
    }

    fn opinion(&self, key_time_ms: Option<u64>) -> Opinion {
        let event = |(place, fact): (usize, &Fact)| {
            let (kind, detail) = self.event(place, fact);
            (fact.at, kind, fact.token, detail)
        };
        let events: Vec<_> = self.facts.iter().enumerate().map(event).collect();
        let dropped = events.len().saturating_sub(limits::MAX_HISTORY);
        Opinion {
            state: self.state(),
            answer: self.answer(key_time_ms),
            checkpoint: self.checkpoint().map(|(checkpoint, _)| checkpoint),
            expires_at: self.expires_at(key_time_ms),
            grants: self
                .may_have_run()
                .into_iter()
                .map(|(token, given, fate)| (token, given.request.clone(), given.flagged, fate))
                .collect(),
            events: events.len(),
            history: events.into_iter().skip(dropped).collect(),
        }
    }

    /// What the history calls a fact, with who and why, or which.
    fn event(&self, place: usize, fact: &Fact) -> (EventKind, String) {
        let bare = |kind| (kind, String::new());
        match &fact.what {
            What::Granted(..) => bare(EventKind::Granted),
            What::Claimed { worker, .. } => (EventKind::Claimed, worker.to_string()),
            What::Adopted(..) => bare(EventKind::Adopted),
            What::Extended(_) => bare(EventKind::Extended),
            What::Checkpointed(checkpoint) => (EventKind::Checkpointed, checkpoint.name.to_string()),
            What::Lapsed => bare(EventKind::Lapsed),
            What::Released => bare(EventKind::Released),
            What::Voided => bare(EventKind::Voided),
            What::Ruled { why, .. } => (EventKind::Resolved, why.clone()),
            What::Reported { envelope, .. } => {
                let first = self.facts.iter().position(|fact| self.outcome(fact).is_some());
                let [a, b, c, d, e, f, g, h, ..] = envelope.0;
                let which = format!("{:016x}", u64::from_be_bytes([a, b, c, d, e, f, g, h]));
                if first == Some(place) { bare(EventKind::Completed) } else { (EventKind::Late, which) }
            }
        }
    }
}

fn later_of(at: LogTime, key_time_ms: Option<u64>) -> LogTime {
    key_time_ms.map_or(at, |time| at.max(LogTime::from_unix_ms(time)))
}
