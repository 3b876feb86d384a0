//! Judges a history. Pure: no clock, no randomness, no I/O.
//!
//! Two judges look at every key's calls. [`rules`] holds the promises one by one, so that a broken one is named:
//! nothing acknowledged is lost, no key is granted twice, tokens grow, a mismatch never replays, a replay is byte-exact.
//! [`linear`] then asks whether *some* order of the calls, each within its own interval, explains every single answer
//! under the documented life of a key: what no rule names is caught there (an `in_progress` without a holder, a stale
//! token that was current, a lost checkpoint, a completion that vanishes and comes back).
//!
//! An answer that never came is indefinite: the call may have taken effect at any time until its process died (in a region
//! at any time at all: what one node took in, another may commit long after), or not at all, and no verdict depends on
//! which. A definite refusal took no effect, at no time.
//!
//! Time is used in one direction only. A lease can't have run out before it was asked for, plus its length; how long after
//! that the store notices is its own affair, and a restart starts the lease anew.

pub(crate) mod linear;
mod planted;
pub(crate) mod rules;

use std::collections::BTreeMap;
use std::fmt;

use crate::history::{History, KeyId, OnLapse, Op};

/// A promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// A second token was granted while the first could neither have lapsed nor been given back.
    GrantedTwice,
    /// A key that was answered was granted or held again, or its answer was not there.
    CompletionLost,
    /// Two attempts were given the same token.
    TokenShared,
    /// A later grant has no larger token.
    TokenOrder,
    /// A request got the answer of another one.
    MismatchReplayed,
    /// Two replays of a key differ, or differ from what was acknowledged as the answer.
    ReplayDiffers,
    /// A replay that nobody completed the key with.
    ReplayInvented,
    /// A second grant that does not say that the first may have executed.
    DuplicateHidden,
    /// An answer from a state that is older than what the caller had seen.
    SeenIgnored,
    /// No order of the calls explains the answers.
    NotLinear,
    /// The search for an order gave up: the workload put too many calls on one key.
    TooManyCalls,
}

/// A broken promise, with the calls of its key.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    pub(crate) key: KeyId,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} on {:?}: {}", self.rule, self.key, self.what)
    }
}

/// Every broken promise in a history; at most one a key and rule.
pub(crate) fn check(history: &History, on_lapse: OnLapse) -> Vec<Violation> {
    let mut keys: BTreeMap<KeyId, Vec<Op>> = BTreeMap::new();
    for op in &history.ops {
        keys.entry(op.key).or_default().push(*op);
    }
    let mut violations = Vec::new();
    for (key, mut ops) in keys {
        ops.sort_by_key(|op| op.invoked_ns);
        let of_key = OfKey { history, ops: &ops, on_lapse };
        let mut found = rules::check(&of_key);
        if found.is_empty() {
            found.extend(linear::check(&of_key));
        }
        let told = tell(&of_key);
        violations.extend(found.into_iter().map(|(rule, what)| Violation {
            rule,
            key,
            what: format!("{what}\n{told}"),
        }));
    }
    violations
}

/// The calls of one key, by their start.
pub(crate) struct OfKey<'a> {
    pub(crate) history: &'a History,
    pub(crate) ops: &'a [Op],
    pub(crate) on_lapse: OnLapse,
}

/// The calls of a key, a line each, in milliseconds.
fn tell(of_key: &OfKey<'_>) -> String {
    let ms = |ns: u64| ns / 1_000_000;
    let lines = of_key.ops.iter().map(|op| {
        let (from, to, node) = (ms(op.invoked_ns), ms(op.returned_ns), op.node);
        format!("  {from:>9}..{to:<9} {node}: {:?} -> {:?}", op.call, op.answer)
    });
    let deaths = of_key.history.deaths_ns.iter().map(|death| format!("  {:>9} the process is dead", ms(*death)));
    let events = of_key.history.events.iter().map(|(at, event)| format!("  {:>9} {event}", ms(*at)));
    let (first, last) = (of_key.ops.first(), of_key.ops.last());
    let shown = |line: &String| {
        let at: u64 = line.trim_start().split(['.', ' ']).next().and_then(|at| at.parse().ok()).unwrap_or_default();
        first.is_some_and(|op| ms(op.invoked_ns) <= at) && last.is_some_and(|op| at <= ms(op.returned_ns))
    };
    let mut all: Vec<String> = lines.chain(deaths.chain(events).filter(shown)).collect();
    all.sort_by_key(|line| {
        line.trim_start().split(['.', ' ']).next().and_then(|at| at.parse::<u64>().ok()).unwrap_or_default()
    });
    all.join("\n")
}
