//! Every reply, refusal, event, doubt and sweep occurs in the scripts, and nearly all in the random lives.
//!
//! The lists below are matches without a wildcard: a new variant does not compile until it stands here.

use std::collections::BTreeSet;

use holdfast::reservation::command::Doubt;
use holdfast::reservation::record::{EventKind, OnLapse, Phase, Record, State};
use holdfast::reservation::reply::{Grant, Recorded, Reply};
use holdfast::reservation::sweep::Sweep;

use crate::scripts::traces;

/// A function that names each variant, and the list of all names.
macro_rules! every {
    ($all:ident, $name:ident: $type:ty, { $($pattern:pat => $text:literal,)+ }) => {
        const $all: &[&str] = &[$($text),+];

        fn $name(value: &$type) -> &'static str {
            match value {
                $($pattern => $text,)+
            }
        }
    };
}
pub(crate) use every;

every!(REPLIES, reply: Reply, {
    Reply::Granted(_) => "granted",
    Reply::Replay(_) => "replay",
    Reply::Mismatch => "mismatch",
    Reply::OtherSelection { selection: _ } => "other selection",
    Reply::InProgress => "in progress",
    Reply::OutcomeUnknown { attempt: _, checkpoint: None } => "outcome unknown",
    Reply::OutcomeUnknown { attempt: _, checkpoint: Some(_) } => "outcome unknown, checkpoint",
    Reply::InDoubt => "in doubt",
    Reply::Superseded { epoch: _ } => "superseded",
    Reply::Expired => "expired",
    // The other limits stand before the log: no decision names them.
    Reply::Limited(_) => "limited: attempts",
    Reply::Raced => "raced",
    Reply::Void { open: None } => "void, nothing open",
    Reply::Void { open: Some(_) } => "void, another epoch open",
    Reply::Completed { recorded: Recorded::Answer, expires_at: _ } => "completed: answer",
    Reply::Completed { recorded: Recorded::Repeated, expires_at: _ } => "completed: repeated",
    Reply::Completed { recorded: Recorded::Late, expires_at: _ } => "completed: late",
    Reply::Released => "released",
    Reply::Extended { lease_ms: _ } => "extended",
    Reply::Checkpointed => "checkpointed",
    Reply::Claimed(_) => "claimed",
    Reply::NotClaimable(State::Absent) => "not claimable: absent",
    Reply::NotClaimable(State::Held) => "not claimable: held",
    Reply::NotClaimable(State::Lapsed) => "not claimable: lapsed",
    Reply::NotClaimable(State::OutcomeUnknown) => "not claimable: outcome unknown",
    Reply::NotClaimable(State::Released) => "not claimable: released",
    Reply::NotClaimable(State::Completed) => "not claimable: completed",
    Reply::Resolved(State::Absent) => "resolved: absent",
    Reply::Resolved(State::Held) => "resolved: held",
    Reply::Resolved(State::Lapsed) => "resolved: lapsed",
    Reply::Resolved(State::OutcomeUnknown) => "resolved: outcome unknown",
    Reply::Resolved(State::Released) => "resolved: released",
    Reply::Resolved(State::Completed) => "resolved: completed",
    Reply::StaleToken(State::Absent) => "stale token: absent",
    Reply::StaleToken(State::Held) => "stale token: held",
    Reply::StaleToken(State::Lapsed) => "stale token: lapsed",
    Reply::StaleToken(State::OutcomeUnknown) => "stale token: outcome unknown",
    Reply::StaleToken(State::Released) => "stale token: released",
    Reply::StaleToken(State::Completed) => "stale token: completed",
    Reply::Lapsed => "lapsed",
    Reply::Voided => "voided",
    Reply::Ignored => "ignored",
});

/// Never answered: an unknown outcome is claimable, and a verdict ends in one of two states.
const NEVER: &[&str] = &[
    "not claimable: outcome unknown",
    "resolved: absent",
    "resolved: held",
    "resolved: lapsed",
    "resolved: outcome unknown",
];

every!(EVENTS, event: EventKind, {
    EventKind::Granted => "granted",
    EventKind::Completed => "completed",
    EventKind::Late => "late",
    EventKind::Released => "released",
    EventKind::Extended => "extended",
    EventKind::Checkpointed => "checkpointed",
    EventKind::Lapsed => "lapsed",
    EventKind::Voided => "voided",
    EventKind::Claimed => "claimed",
    EventKind::Resolved => "resolved",
    EventKind::Adopted => "adopted",
});

every!(STATES, state: State, {
    State::Absent => "absent",
    State::Held => "held",
    State::Lapsed => "lapsed",
    State::OutcomeUnknown => "outcome unknown",
    State::Released => "released",
    State::Completed => "completed",
});

every!(PHASES, phase: Phase, {
    Phase::Held { lease_ms: _, lease_revision: _ } => "held",
    Phase::Lapsed => "lapsed",
    Phase::Released => "released",
    Phase::Completed { envelopes: _, late: false } => "completed",
    Phase::Completed { envelopes: _, late: true } => "completed late",
});

every!(DOUBTS, doubt: Doubt, {
    Doubt::Settled => "settled",
    Doubt::Lost => "lost",
    Doubt::UnsettledFailClosed => "unsettled, fail closed",
    Doubt::UnsettledFailOpen => "unsettled, fail open",
});

every!(TERMS, on_lapse: OnLapse, {
    OnLapse::Regrant => "regrant",
    OnLapse::Hold => "hold",
});

every!(SWEEPS, swept: Sweep, {
    Sweep::Keep => "keep",
    Sweep::Remove { raise_horizon_ms: None } => "remove",
    Sweep::Remove { raise_horizon_ms: Some(_) } => "remove and raise the horizon",
});

every!(GRANTS, kind: (bool, bool, bool), {
    (false, false, false) => "plain",
    (false, false, true) => "with a checkpoint",
    (false, true, false) => "flagged",
    (false, true, true) => "flagged, with a checkpoint",
    (true, false, false) => "repeated",
    (true, false, true) => "repeated, with a checkpoint",
    (true, true, false) => "repeated, flagged",
    (true, true, true) => "repeated, flagged, with a checkpoint",
});

fn granted(reply: &Reply) -> Option<&Grant> {
    if let Reply::Granted(grant) = reply {
        return Some(grant);
    }
    None
}

fn kind_of(grant: &Grant) -> (bool, bool, bool) {
    (grant.repeated, grant.possible_duplicate, grant.checkpoint.is_some())
}

pub(crate) fn complete(
    what: &str,
    all: &[&'static str],
    never: &[&'static str],
    seen: impl Iterator<Item = &'static str>,
) {
    let seen: BTreeSet<&str> = seen.collect();
    let missing: Vec<&&str> = all.iter().filter(|name| !seen.contains(**name) && !never.contains(name)).collect();
    let impossible: Vec<&&str> = never.iter().filter(|name| seen.contains(**name)).collect();
    assert!(missing.is_empty(), "no script has the {what} {missing:?}");
    assert!(impossible.is_empty(), "a script has the {what} {impossible:?}, which cannot be");
}

#[test]
fn the_scripts_have_every_answer() {
    let traces = traces();
    let applied = || traces.iter().flat_map(|trace| &trace.applied);
    let records = || applied().filter_map(|applied| applied.decision.record.as_ref());
    complete("reply", REPLIES, NEVER, applied().map(|applied| reply(&applied.decision.reply)));
    let grants = applied().filter_map(|applied| granted(&applied.decision.reply));
    complete("grant", GRANTS, &[], grants.map(|grant| kind(&kind_of(grant))));
    complete("event", EVENTS, &[], records().flat_map(|record| record.history.iter().map(|one| event(&one.kind))));
    complete(
        "state",
        STATES,
        &[],
        applied().map(|applied| state(&applied.after.as_ref().map_or(State::Absent, Record::state))),
    );
    complete("phase", PHASES, &[], records().flat_map(|record| record.attempts.iter().map(|one| phase(&one.phase))));
    complete("doubt", DOUBTS, &[], traces.iter().flat_map(|trace| &trace.doubts).map(doubt));
    complete("terms", TERMS, &[], records().map(|record| on_lapse(&record.terms.on_lapse)));
    complete("sweep", SWEEPS, &[], traces.iter().flat_map(|trace| &trace.swept).map(swept));
}

/// The random lives are not about the easy answers alone.
#[test]
fn random_lives_meet_every_answer() {
    let seen = crate::properties::replies(5_000);
    // 64 attempts of one key take longer than a random life.
    let too_long = "limited: attempts";
    let names = seen.iter().map(reply).chain([too_long]);
    complete("reply", REPLIES, NEVER, names);
}
