//! What a leader makes of a Reserve (R6, R9, R13, R15), and the last look before the answer (R8, R12).

use crate::global::Global;
use crate::record::{Nonce, Phase, Record, Token};
use crate::region::{Command, Regional, Waiter};
use crate::rule::Rule;
use crate::scenario::Config;

/// What a leader comes to, from its own state and its replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Replay(u8),
    Expired,
    InProgress(Token),
    /// Under `hold`, after a lapse: a worker claims it.
    Unknown,
    InDoubt,
    /// Not the acting region, sealed, behind, or minted later than its epoch.
    Refused,
    /// The standing grant, once more.
    Again(Token),
    Propose {
        flagged: bool,
    },
}

/// What is known of the key: the region's own record and what may be trusted of the replica's.
fn known(state: &Regional, view: &Global, config: &Config) -> Record {
    let (rules, epoch) = (config.rules, state.open);
    let mut known = state.record.clone();
    if config.scope().is_global(epoch) && rules.on(Rule::R12Own) {
        known.0.retain(|attempt| attempt.token.epoch == epoch || view.record.get(attempt.token).is_some());
    }
    if !rules.on(Rule::R6Replica) {
        return known;
    }
    for attempt in &view.record.0 {
        let at = attempt.token.epoch;
        let in_log = config.scope().is_global(at) && rules.on(Rule::R12Trust);
        let trusted = at == 0 || at >= epoch || in_log || view.is_settled(at) || is_completed(&attempt.phase);
        if trusted || !rules.on(Rule::R6Trust) {
            known.add(attempt.clone(), rules);
        }
    }
    known
}

/// Nobody else can end a `local` grant of another region, so for others it counts as one whose lease ran out.
fn of_others(known: &mut Record, region: u8) {
    for attempt in &mut known.0 {
        let local = attempt.token.epoch == 0 && attempt.token.region != region;
        if local && attempt.phase == Phase::Held {
            attempt.phase = Phase::Lapsed;
        }
    }
}

fn is_completed(phase: &Phase) -> bool {
    matches!(phase, Phase::Completed(_))
}

/// Every token that the leader read.
pub(crate) fn named(state: &Regional, view: &Global) -> Vec<Token> {
    let mut named: Vec<Token> = state.record.tokens().chain(view.record.tokens()).collect();
    named.sort();
    named.dedup();
    named
}

enum Past {
    Settled,
    Lost,
    Unsettled,
}

fn past(view: &Global, epoch: u8, config: &Config) -> Past {
    let skips = |at: u8| match config.rules.on(Rule::R12Wholly) {
        true => config.scope().is_global(at),
        false => config.scope().is_global(epoch),
    };
    let open = || (config.mint.max(1)..epoch).filter(|at| !view.is_settled(*at) && !skips(*at));
    match (open().next(), open().all(|at| view.is_lost(at))) {
        (None, _) => Past::Settled,
        (Some(_), true) => Past::Lost,
        (Some(_), false) => Past::Unsettled,
    }
}

/// The precedence of Reserve. `epoch` is the region's open one, 0 for a `local` key.
pub(crate) fn reserve(state: &Regional, view: &Global, region: u8, nonce: Nonce, config: &Config) -> Outcome {
    let rules = config.rules;
    let epoch = if config.local { 0 } else { state.open };
    let mut known = known(state, view, config);
    if rules.on(Rule::R17Others) && rules.on(Rule::R17Region) {
        of_others(&mut known, region);
    }
    let global = config.scope().is_global(epoch);
    let winner = known.winner();
    if let Some(envelope) = winner.and_then(|winner| winner.envelope) {
        let shown = view.record.winner().is_some_and(|shown| shown.envelope == Some(envelope));
        return match global && rules.on(Rule::R12Wait) && !shown {
            true => Outcome::Refused,
            false => Outcome::Replay(envelope),
        };
    }
    let acts = config.local || (state.is_open() && view.epoch >= epoch && view.acts(region, epoch));
    if !acts || (config.mint > epoch && rules.on(Rule::R13Superseded) && !config.local) {
        return Outcome::Refused;
    }
    if known.0.is_empty() && (view.swept || state.forgot) && rules.on(Rule::R15Horizon) {
        return Outcome::Expired;
    }
    if let Some(winner) = winner {
        let same = known.get(winner.token).is_some_and(|attempt| attempt.nonce == nonce);
        return match same && rules.on(Rule::R9Same) {
            true => Outcome::Again(winner.token),
            false => Outcome::InProgress(winner.token),
        };
    }
    let lapsed = known.0.iter().any(|attempt| attempt.phase == Phase::Lapsed);
    if lapsed && config.hold {
        return Outcome::Unknown;
    }
    let past = if config.local { Past::Settled } else { past(view, epoch, config) };
    let doubtful = match past {
        Past::Settled => false,
        Past::Lost => rules.on(Rule::R4Flag),
        Past::Unsettled if config.fail_open => true,
        Past::Unsettled if rules.on(Rule::R6Gate) => return Outcome::InDoubt,
        Past::Unsettled => false,
    };
    let ran = known.0.iter().any(|attempt| attempt.phase != Phase::Released);
    Outcome::Propose { flagged: doubtful || (ran && rules.on(Rule::LapseFlag)) }
}

/// The entry and the waiting call of a grant.
pub(crate) fn propose(node: usize, nonce: Nonce, flagged: bool, epoch: u8, named: Vec<Token>) -> (Command, Waiter) {
    let command = Command::Reserve { epoch, nonce, flagged, named: named.clone() };
    (command, Waiter { node, nonce, epoch, named, flagged, token: None, repeated: false })
}

/// A standing grant, asked for again: the flag of R9.
pub(crate) fn again(
    node: usize,
    nonce: Nonce,
    token: Token,
    state: &Regional,
    view: &Global,
    config: &Config,
) -> Waiter {
    let known = known(state, view, config);
    let granted = known.get(token).is_some_and(|attempt| attempt.flagged);
    let epoch = token.epoch.min(1) * state.open;
    let doubtful = match past(view, epoch, config) {
        Past::Settled => !known.ledger(config.rules).is_empty(),
        Past::Lost => true,
        Past::Unsettled => config.fail_open || !config.hold,
    };
    let flagged = granted || (doubtful && config.rules.on(Rule::R9Flag));
    Waiter { node, nonce, epoch, named: named(state, view), flagged, token: Some(token), repeated: true }
}

/// The last look: whether a grant may be answered, as the node sees it now.
pub(crate) fn may_answer(
    waiter: &Waiter,
    token: Token,
    state: &Regional,
    view: &Global,
    is_out: bool,
    config: &Config,
) -> bool {
    let rules = config.rules;
    let epoch = waiter.epoch;
    let in_epoch = epoch == 0 || (state.open == epoch && state.is_open());
    let mut record = state.record.clone();
    record.merge(&view.record, rules);
    let stands = record.winner().is_some_and(|winner| winner.token == token && winner.envelope.is_none());
    let unnamed = view.record.tokens().any(|shown| shown != token && !waiter.named.contains(&shown));
    let shown = view.record.get(token).is_some_and(|attempt| attempt.phase == Phase::Held);
    let global = config.scope().is_global(epoch);
    (in_epoch || !rules.on(Rule::R8Epoch))
        && ((stands && !is_out) || !rules.on(Rule::R8Winner))
        && (!unnamed || !rules.on(Rule::R8Replica))
        && (!global || shown || !rules.on(Rule::R12Wait))
        && (!global || view.epoch == epoch || !rules.on(Rule::R12Epoch))
}
