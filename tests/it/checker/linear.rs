//! Looks for one order of a key's calls, each at a moment within its own interval, that explains every answer under the
//! documented life of a key (Wing and Gong's search, with the visited configurations remembered as Lowe does).
//!
//! The life is written down here a second time, from the docs and not from the server's code: absent, held, lapsed,
//! released, answered. A lapse is no call: it may happen at any moment after the lease can have run out. Nor is the
//! store's taking back of a grant that it told nobody of. Giving a grant back leaves the key where it stood before it.

use std::collections::HashSet;

use super::{OfKey, Rule};
use crate::history::{Answer, Call, Checkpoint, Envelope, Nonce, OnLapse, Op, Recorded, Request, Token};

/// Configurations after which the search of one key gives up.
const MOST_VISITED: usize = 400_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Held { lapses_from_ns: u64 },
    Lapsed,
    Released,
}

/// The last grant. Its token is not known while nobody was told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Last {
    nonce: Nonce,
    request: Request,
    token: Option<Token>,
    flagged: bool,
    phase: Phase,
}

/// What the store knows of the key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    last: Option<Last>,
    /// Earlier grants that may have executed: the request, and the token if it was told.
    lapsed: Vec<(Option<Token>, Request)>,
    /// Tokens that were given back since the last grant.
    given_back: Vec<Token>,
    /// The largest token that was told.
    newest: Option<Token>,
    checkpoint: Option<Checkpoint>,
    answer: Option<(Request, Envelope)>,
    /// What was recorded as completed, in order.
    completions: Vec<(Token, Envelope)>,
    /// Nothing that was over before this moment can come next: a lapse has happened.
    not_before_ns: u64,
}

/// The requests that tokens were granted for, as anybody was told: what the tokens' own claims say.
type Claims = Vec<(Token, Request)>;

/// Judges one key.
///
/// What was definitely refused has no place in the order: it says nothing of the key, and may have done nothing to it.
pub(crate) fn check(of_key: &OfKey<'_>) -> Vec<(Rule, String)> {
    let ops: Vec<Op> = of_key.ops.iter().filter(|op| op.answer != Answer::Refused).copied().collect();
    let of_key = &OfKey { ops: &ops, ..*of_key };
    let claims = claims(of_key.ops);
    let resends = resends(of_key);
    let mut search = Search { of_key, claims, resends, visited: HashSet::new(), longest: 0, stuck: None };
    let done = vec![false; of_key.ops.len()];
    match search.run(done) {
        Some(true) => Vec::new(),
        Some(false) => {
            let at = search.stuck.map(|op| format!("stuck before {:?} -> {:?}", op.call, op.answer));
            vec![(Rule::NotLinear, at.unwrap_or_default())]
        }
        None => vec![(Rule::TooManyCalls, format!("{} calls", of_key.ops.len()))],
    }
}

fn claims(ops: &[Op]) -> Claims {
    ops.iter()
        .filter_map(|op| match (op.call, op.answer) {
            (Call::Reserve { request, .. }, Answer::Granted { token, .. }) => Some((token, request)),
            _ => None,
        })
        .collect()
}

/// For each call without an answer: the one before it that says the same and may take effect until the same moment.
///
/// Such calls are alike, and whichever of them took effect can be taken for the first of them: the search looks at them in
/// their order only.
fn resends(of_key: &OfKey<'_>) -> Vec<Option<usize>> {
    let alike = |one: &Op, other: &Op| {
        one.call == other.call
            && other.answer == Answer::Unknown
            && of_key.history.ends_ns(one) == of_key.history.ends_ns(other)
    };
    let before = |at: usize, op: &Op| of_key.ops.iter().take(at).rposition(|earlier| alike(op, earlier));
    of_key.ops.iter().enumerate().map(|(at, op)| before(at, op).filter(|_| op.answer == Answer::Unknown)).collect()
}

struct Search<'a> {
    of_key: &'a OfKey<'a>,
    claims: Claims,
    resends: Vec<Option<usize>>,
    visited: HashSet<(Vec<bool>, State)>,
    /// How many calls the best order explained, and the first that it could not.
    longest: usize,
    stuck: Option<Op>,
}

impl Search<'_> {
    /// Whether an order exists; nothing when the search gave up.
    fn run(&mut self, done: Vec<bool>) -> Option<bool> {
        let mut stack = vec![(done, State::default())];
        while let Some((done, state)) = stack.pop() {
            if self.visited.len() > MOST_VISITED {
                return None;
            }
            let ends_ns = |op: &Op| self.of_key.history.ends_ns(op);
            let open = || self.of_key.ops.iter().enumerate().filter(|(at, _)| done.get(*at) == Some(&false));
            let due = open().filter(|(_, op)| op.answer != Answer::Unknown).min_by_key(|(_, op)| ends_ns(op));
            let Some((_, due)) = due else { return Some(true) };
            let explained = done.iter().filter(|done| **done).count();
            if explained >= self.longest {
                (self.longest, self.stuck) = (explained, Some(*due));
            }
            let first_end_ns = ends_ns(due);
            let may_be_next = |at: &usize, op: &Op| op.invoked_ns <= first_end_ns && self.in_turn(&done, *at);
            let mut candidates: Vec<(usize, &Op)> = open().filter(|(at, op)| may_be_next(at, op)).collect();
            // The one that must come soonest is looked at first: it is pushed last.
            candidates.sort_by_key(|(_, op)| std::cmp::Reverse(ends_ns(op)));
            for (at, op) in candidates {
                for next in self.after(&state, op) {
                    let mut done = done.clone();
                    if let Some(done) = done.get_mut(at) {
                        *done = true;
                    }
                    if self.visited.insert((done.clone(), next.clone())) {
                        stack.push((done, next));
                    }
                }
            }
        }
        Some(false)
    }

    /// Whether the call that it resends comes before it.
    fn in_turn(&self, done: &[bool], at: usize) -> bool {
        let before = self.resends.get(at).copied().flatten();
        before.is_none_or(|before| done.get(before) == Some(&true))
    }

    /// Every state that the call may leave, given its answer; none if the answer is wrong here.
    ///
    /// A call without an answer that changed nothing needs no place in the order. Neither does such an Extend: a lease
    /// may always last longer than it has to, so a later end of it explains nothing more.
    fn after(&self, state: &State, op: &Op) -> Vec<State> {
        let ends_ns = self.of_key.history.ends_ns(op);
        if ends_ns < state.not_before_ns {
            return Vec::new();
        }
        let mut after = Vec::new();
        let not_before_ns = state.not_before_ns.max(op.invoked_ns);
        let state = State { not_before_ns, ..state.clone() };
        for state in [lapse(&state, ends_ns), void(&state), Some(state.clone())].into_iter().flatten() {
            match (op.answer, op.call) {
                (Answer::Refused, _) => {}
                (Answer::Unknown, Call::Extend { .. }) => {}
                (Answer::Unknown, _) => after.extend(self.step(&state, op, None).filter(|next| *next != state)),
                (answer, _) => after.extend(self.step(&state, op, Some(answer))),
            }
        }
        after
    }

    /// The state after the call took effect, if the answer (when there is one) is right.
    fn step(&self, state: &State, op: &Op, answer: Option<Answer>) -> Option<State> {
        match op.call {
            Call::Reserve { nonce, request, lease_ms } => {
                self.reserve(state, op, &Attempt { nonce, request, lease_ms }, answer)
            }
            Call::Claim { nonce, lease_ms } => self.claim(state, op, nonce, lease_ms, answer),
            Call::Complete { token, envelope } => self.complete(state, token, envelope, answer),
            Call::Release { token } => release(state, token, answer),
            Call::Extend { token, lease_ms } => of_current(state, token, answer, Answer::Extended, |next, last| {
                next.last = Some(Last { phase: held(op, lease_ms), ..last });
            }),
            Call::Checkpoint { token, checkpoint } => {
                of_current(state, token, answer, Answer::Checkpointed, |next, _| next.checkpoint = Some(checkpoint))
            }
        }
    }

    fn reserve(&self, state: &State, op: &Op, attempt: &Attempt, answer: Option<Answer>) -> Option<State> {
        let unchanged = |right: Answer| answer.is_none_or(|answer| answer == right).then(|| state.clone());
        if let Some((request, envelope)) = state.answer {
            let right = if request == attempt.request { Answer::Replay(envelope) } else { Answer::Mismatch };
            return unchanged(right);
        }
        let Some(last) = state.last else { return granted(state, op, attempt, answer) };
        match last.phase {
            Phase::Held { .. } if last.request != attempt.request => unchanged(Answer::Mismatch),
            Phase::Held { .. } if last.nonce == attempt.nonce => repeated(state, last, answer),
            Phase::Held { .. } => unchanged(Answer::InProgress),
            Phase::Lapsed if self.of_key.on_lapse == OnLapse::Hold => unchanged(Answer::OutcomeUnknown),
            Phase::Lapsed if last.request != attempt.request => unchanged(Answer::Mismatch),
            Phase::Released if state.checkpoint.is_some() && last.request != attempt.request => {
                unchanged(Answer::Mismatch)
            }
            Phase::Lapsed | Phase::Released => granted(state, op, attempt, answer),
        }
    }

    fn claim(&self, state: &State, op: &Op, nonce: Nonce, lease_ms: u32, answer: Option<Answer>) -> Option<State> {
        let refused = || answer.is_none_or(|answer| answer == Answer::NotClaimable).then(|| state.clone());
        let (Some(last), None) = (state.last, state.answer) else { return refused() };
        match last.phase {
            Phase::Held { .. } if last.nonce == nonce => repeated(state, last, answer),
            Phase::Lapsed if self.of_key.on_lapse == OnLapse::Hold => {
                granted(state, op, &Attempt { nonce, request: last.request, lease_ms }, answer)
            }
            Phase::Held { .. } | Phase::Lapsed | Phase::Released => refused(),
        }
    }

    fn complete(&self, state: &State, token: Token, envelope: Envelope, answer: Option<Answer>) -> Option<State> {
        let of_last = state.last.filter(|last| last.token == Some(token)).map(|last| last.request);
        let told = || self.claims.iter().find(|(known, _)| *known == token).map(|(_, request)| *request);
        let of_lapsed = || state.lapsed.iter().find(|(known, _)| *known == Some(token)).map(|(_, request)| *request);
        let request = of_last.or_else(of_lapsed).or_else(told)?;
        let mut next = state.clone();
        let recorded = if state.completions.contains(&(token, envelope)) {
            Recorded::Repeated
        } else {
            next.completions.push((token, envelope));
            if state.answer.is_some() { Recorded::Late } else { Recorded::Answer }
        };
        if recorded == Recorded::Answer {
            next.answer = Some((request, envelope));
        }
        answer.is_none_or(|answer| answer == Answer::Completed(recorded)).then_some(next)
    }
}

/// What a new grant is asked with.
struct Attempt {
    nonce: Nonce,
    request: Request,
    lease_ms: u32,
}

fn held(op: &Op, lease_ms: u32) -> Phase {
    Phase::Held { lapses_from_ns: op.invoked_ns.saturating_add(u64::from(lease_ms) * 1_000_000) }
}

/// The state after the lease ran out, if that can have happened by `until_ns`.
fn lapse(state: &State, until_ns: u64) -> Option<State> {
    let last = state.last.filter(|_| state.answer.is_none())?;
    let Phase::Held { lapses_from_ns } = last.phase else { return None };
    (lapses_from_ns <= until_ns).then(|| State {
        last: Some(Last { phase: Phase::Lapsed, ..last }),
        not_before_ns: state.not_before_ns.max(lapses_from_ns),
        ..state.clone()
    })
}

/// The state after the store took back a grant that nobody was told of, if there is one.
fn void(state: &State) -> Option<State> {
    let last = state.last.filter(|last| state.answer.is_none() && last.token.is_none())?;
    matches!(last.phase, Phase::Held { .. }).then(|| {
        let mut next = state.clone();
        given_back(&mut next, last);
        next
    })
}

/// Gives the last grant back: the key stands where it stood before it.
fn given_back(next: &mut State, last: Last) {
    next.given_back.extend(last.token);
    let before = next.lapsed.pop().map(|(token, request)| Last { token, request, phase: Phase::Lapsed, ..last });
    next.last = before.or(Some(Last { phase: Phase::Released, ..last }));
}

/// A release: of the last grant, though its lease has run out, or of one that was given back already.
fn release(state: &State, token: Token, answer: Option<Answer>) -> Option<State> {
    let mut next = state.clone();
    let right = match state.last.filter(|last| last.token == Some(token)) {
        _ if state.answer.is_some() => Answer::StaleToken,
        _ if state.given_back.contains(&token) => Answer::Released,
        Some(last) => {
            given_back(&mut next, last);
            Answer::Released
        }
        None => Answer::StaleToken,
    };
    answer.is_none_or(|answer| answer == right).then_some(next)
}

/// A new grant.
fn granted(state: &State, op: &Op, attempt: &Attempt, answer: Option<Answer>) -> Option<State> {
    let mut next = state.clone();
    if let Some(last) = state.last.filter(|last| last.phase == Phase::Lapsed) {
        next.lapsed.push((last.token, last.request));
    }
    next.given_back.clear();
    let flagged = !next.lapsed.is_empty();
    let mut last = Last {
        nonce: attempt.nonce,
        request: attempt.request,
        token: None,
        flagged,
        phase: held(op, attempt.lease_ms),
    };
    if let Some(answer) = answer {
        let Answer::Granted { token, repeated: false, flagged: told, checkpoint } = answer else { return None };
        if told != flagged || checkpoint != state.checkpoint || state.newest >= Some(token) {
            return None;
        }
        last.token = Some(token);
        next.newest = Some(token);
    }
    next.last = Some(last);
    Some(next)
}

/// The running grant once more, for its own nonce.
fn repeated(state: &State, last: Last, answer: Option<Answer>) -> Option<State> {
    let Some(answer) = answer else { return Some(state.clone()) };
    let Answer::Granted { token, repeated: true, flagged, checkpoint } = answer else { return None };
    let known = last.token.map_or(state.newest < Some(token), |known| known == token);
    if !known || flagged != last.flagged || checkpoint != state.checkpoint {
        return None;
    }
    let mut next = state.clone();
    next.last = Some(Last { token: Some(token), ..last });
    next.newest = state.newest.max(Some(token));
    Some(next)
}

/// A call that names the running grant: done, or the token is stale.
fn of_current(
    state: &State,
    token: Token,
    answer: Option<Answer>,
    done: Answer,
    change: impl FnOnce(&mut State, Last),
) -> Option<State> {
    let current = state
        .last
        .filter(|last| state.answer.is_none() && last.token == Some(token) && matches!(last.phase, Phase::Held { .. }));
    match current {
        Some(last) if answer.is_none_or(|answer| answer == done) => {
            let mut next = state.clone();
            change(&mut next, last);
            Some(next)
        }
        None if answer.is_none_or(|answer| answer == Answer::StaleToken) => Some(state.clone()),
        Some(_) | None => None,
    }
}
