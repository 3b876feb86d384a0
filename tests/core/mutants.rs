//! Planted bugs: the core with one rule broken, and the check that has to notice. A mutant that survives means that a
//! check has gone blind.

use holdfast::ids::Epoch;
use holdfast::reservation::command::{Command, Context, Doubt, KeyFacts, Kind};
use holdfast::reservation::decide;
use holdfast::reservation::record::{EventKind, OnLapse, Phase, Record, State};
use holdfast::reservation::reply::{Decision, Recorded, Reply};
use holdfast::reservation::sweep::{Sweep, sweep};
use holdfast::time::LogTime;

use crate::properties::{Check, search};
use crate::world::{CORE, Core};

type Decide = fn(Option<&Record>, &Command, &Context) -> Decision;

/// Lives in which a mutant has to be caught.
const CASES: u32 = 20_000;

/// Checks that the invariant of this wording notices, and that the reference does.
fn assert_caught(name: &str, core: Core, invariant: &str) {
    match search(core, Check::Invariants, CASES, 1, 0) {
        Some((why, _)) => assert_eq!(why, invariant, "{name} was caught by another invariant"),
        None => panic!("{name} was not caught by any invariant"),
    }
    assert!(search(core, Check::Reference, CASES, 1, 0).is_some(), "{name} was not caught by the reference");
}

macro_rules! caught {
    ($($(#[$doc:meta])* $name:ident, $invariant:literal: $decide:expr;)+) => {
        $($(#[$doc])* #[test] fn $name() {
            assert_caught(stringify!($name), Core { decide: $decide as Decide, ..CORE }, $invariant);
        })+
    };
}

caught! {
    /// A lost answer is handed to whoever asks.
    ignores_the_nonce, "same nonce, same token": |record, command, context| {
        let nonce = record.and_then(Record::last).and_then(|last| last.nonce.clone());
        decide(record, &reserving(command, |reserve| reserve.nonce = nonce.clone().or(reserve.nonce.take())), context)
    };

    /// The same nonce is no grant again.
    forgets_the_nonce, "the same nonce is the same grant": |record, command, context| {
        decide(record, &reserving(command, |reserve| reserve.nonce = None), context)
    };

    /// Another request is taken for the same.
    ignores_the_request, "a replay is of the same request": |record, command, context| {
        let request = record.and_then(Record::last).map(|last| last.fingerprint.clone());
        decide(record, &reserving(command, |reserve| {
            if let Some(request) = &request {
                reserve.fingerprint = request.clone();
            }
        }), context)
    };

    /// The lapse of an older lease ends a grant that was extended.
    drops_the_lease_revision, "only the lease that runs can lapse": |record, command, context| {
        let mut command = command.clone();
        if let (Kind::Lapse { lease_revision, .. }, Some(holding)) = (&mut command.kind, record.and_then(Record::holding)) {
            *lease_revision = holding.lease_revision;
        }
        decide(record, &command, context)
    };

    /// A second execution is not flagged.
    forgets_the_flag, "a possible second execution is flagged": |record, command, context| {
        let mut decision = decide(record, command, context);
        let settled = matches!(&command.kind, Kind::Reserve(reserve) if reserve.doubt == Doubt::Settled);
        if let (true, Reply::Granted(grant), Some(record)) = (settled, &mut decision.reply, &mut decision.record) {
            grant.possible_duplicate = false;
            if let Some(last) = record.attempts.last_mut() {
                last.flagged = false;
            }
        }
        decision
    };

    /// A doubt that fails closed is taken for a settled epoch.
    ignores_the_doubt, "a doubt flags its grant": |record, command, context| {
        decide(record, &reserving(command, |reserve| reserve.doubt = Doubt::Settled), context)
    };

    /// Two proposals of one key are both granted.
    drops_the_compare_and_set, "a grant is a compare-and-set on the token that was known": |record, command, context| {
        let last = record.and_then(Record::last_token);
        decide(record, &reserving(command, |reserve| reserve.known = last), context)
    };

    /// What lapsed under hold is granted as under regrant.
    grants_what_is_held_back, "an unknown outcome is never granted by Reserve": |record, command, context| {
        let lapsed = record.filter(|record| record.state() == State::OutcomeUnknown).cloned().map(|mut record| {
            record.terms.on_lapse = OnLapse::Regrant;
            record
        });
        let reserves = matches!(command.kind, Kind::Reserve(_));
        decide(lapsed.as_ref().filter(|_| reserves).or(record), command, context)
    };

    /// A claim that is given back settles the outcome that it was to find out.
    forgets_the_unknown_outcome, "an unknown outcome is never granted by Reserve": |record, command, context| {
        let given_back = record.and_then(Record::last).is_some_and(|last| last.phase == Phase::Released);
        let free = record.filter(|record| given_back && record.state() == State::OutcomeUnknown).cloned();
        let free = free.map(|mut record| {
            record.terms.on_lapse = OnLapse::Regrant;
            record
        });
        let reserves = matches!(command.kind, Kind::Reserve(_));
        decide(free.as_ref().filter(|_| reserves).or(record), command, context)
    };

    /// An attempt that may have run is forgotten with the next grant.
    forgets_an_attempt, "no grant that may have run is forgotten": |record, command, context| {
        let mut decision = decide(record, command, context);
        if let (Reply::Granted(_), Some(record)) = (&decision.reply, &mut decision.record) {
            let last = record.attempts.split_off(record.attempts.len() - 1);
            record.attempts = last;
        }
        decision
    };

    /// The answer is replaced by the last completion.
    replays_the_last, "the first answer stays the answer": |record, command, context| {
        let mut decision = decide(record, command, context);
        if let (Kind::Complete(complete), Some(record)) = (&command.kind, &mut decision.record)
            && let Some(answer) = &mut record.answer
        {
            answer.envelope = complete.envelope;
            answer.token = complete.token;
        }
        decision
    };

    /// A replay answers with another envelope than the record's.
    replays_another, "a replay is the first answer": |record, command, context| {
        let mut decision = decide(record, command, context);
        if let (Reply::Replay(answer), Some(record)) = (&mut decision.reply, record)
            && let Some(other) = record.envelopes().last()
        {
            answer.envelope = other;
        }
        decision
    };

    /// A late completion is acknowledged and dropped.
    drops_what_is_late, "no reported outcome vanishes": |record, command, context| {
        let decision = decide(record, command, context);
        let late = matches!(decision.reply, Reply::Completed { recorded: Recorded::Late, .. });
        if late { Decision::unchanged(decision.reply) } else { decision }
    };

    /// An outcome is recorded, and its envelope is not stored.
    stores_no_envelope, "every envelope of a record stands beside it": |record, command, context| {
        Decision { envelope: None, ..decide(record, command, context) }
    };

    /// A completion that is sent again is recorded again.
    completes_twice, "a completion that is repeated changes nothing": |record, command, context| {
        let decision = decide(record, command, context);
        match (&decision.reply, record) {
            (Reply::Completed { recorded: Recorded::Repeated, .. }, Some(record)) => {
                let mut record = Record { position: context.next_position, ..record.clone() };
                if let Kind::Complete(complete) = &command.kind {
                    record.note(context.now, EventKind::Late, complete.token, "");
                }
                Decision { record: Some(record), ..decision }
            }
            (_, _) => decision,
        }
    };

    /// What was proposed in an ended epoch is done in the next.
    ignores_the_epoch, "a command of an epoch that is not open is void": |record, command, context| {
        let epoch = context.open_epoch.unwrap_or(Epoch::FIRST);
        let context = Context { open_epoch: Some(epoch), ..*context };
        decide(record, &Command { epoch, ..command.clone() }, &context)
    };

    /// A region that is behind grants a key of a later epoch.
    ignores_the_mint_epoch, "no grant before the key's epoch": |record, command, context| {
        let key = KeyFacts { mint_epoch: Epoch::FIRST, ..context.key };
        decide(record, command, &Context { key, ..*context })
    };

    /// What a sweep removed is granted as new.
    ignores_the_horizon, "what is at or below the horizon is never new": |record, command, context| {
        decide(record, command, &Context { horizon_ms: None, ..*context })
    };

    /// A token is smaller than one before it.
    repeats_tokens, "a key's fencing tokens increase": |record, command, context| {
        let mut decision = decide(record, command, context);
        if let (Reply::Granted(grant), Some(next)) = (&mut decision.reply, &mut decision.record)
            && let (None, Some(last)) = (record, next.attempts.last_mut())
        {
            last.token.sequence = 0;
            grant.token.sequence = 0;
        }
        decision
    };

    /// A second grant is made while the first one runs.
    grants_what_is_held, "at most one valid grant at a time": |record, command, context| {
        let mut lapsed = record.filter(|record| record.state() == State::Held).cloned();
        if let Some(last) = lapsed.as_mut().and_then(|record| record.attempts.last_mut()) {
            last.phase = Phase::Lapsed;
        }
        if let Some(record) = &mut lapsed {
            record.terms.on_lapse = OnLapse::Regrant;
        }
        let reserves = matches!(command.kind, Kind::Reserve(_));
        decide(lapsed.as_ref().filter(|_| reserves).or(record), command, context)
    };

    /// A stale token gives the running grant back.
    releases_with_any_token, "only the last grant that may have run is given back": |record, command, context| {
        let mut command = command.clone();
        if let (Kind::Release { token }, Some(holding)) = (&mut command.kind, record.and_then(Record::holding)) {
            *token = holding.token;
        }
        decide(record, &command, context)
    };

    /// A grant whose lease ran out is given back while a later one runs.
    releases_what_lapsed_before, "only the last grant that may have run is given back": |record, command, context| {
        let decision = decide(record, command, context);
        let (Kind::Release { token }, Reply::StaleToken(_), Some(record)) = (&command.kind, &decision.reply, record) else {
            return decision;
        };
        let mut next = Record { position: context.next_position, ..record.clone() };
        let lapsed = next.attempts.iter_mut().find(|one| one.token == *token && one.phase == Phase::Lapsed);
        let Some(lapsed) = lapsed.filter(|_| record.answer.is_none()) else { return decision };
        lapsed.phase = Phase::Released;
        next.note(context.now, EventKind::Released, *token, "");
        Decision::changed(Reply::Released, next)
    };

    /// The holder of the last grant speaks for those before it.
    releases_all_that_lapsed, "no grant that may have run is taken for one that did not": |record, command, context| {
        let mut decision = decide(record, command, context);
        if let (Reply::Released, Some(record)) = (&decision.reply, &mut decision.record) {
            record.attempts.iter_mut().for_each(|attempt| attempt.phase = Phase::Released);
            record.idle_expires_at = Some(context.now.plus_ms(record.terms.retention_ms));
        }
        decision
    };

    /// A release that is sent again is refused.
    releases_once, "a release that is repeated changes nothing": |record, command, context| {
        let decision = decide(record, command, context);
        match (&decision.reply, &decision.record) {
            (Reply::Released, None) => Decision::unchanged(Reply::StaleToken(State::Released)),
            (_, _) => decision,
        }
    };

    /// A release of another's grant is taken for a resend.
    releases_nothing, "only what was given back is given back without a change": |record, command, context| {
        let decision = decide(record, command, context);
        match (&command.kind, &decision.reply) {
            (Kind::Release { .. }, Reply::StaleToken(_)) => Decision::unchanged(Reply::Released),
            (_, _) => decision,
        }
    };

    /// A grant whose lease ran out is taken back as if nobody had been told of it.
    voids_what_lapsed, "only a valid grant is voided": |record, command, context| {
        let decision = decide(record, command, context);
        let (Kind::Void { token }, Reply::Ignored, None) = (&command.kind, &decision.reply, record.and_then(Record::holding))
        else {
            return decision;
        };
        let release = Command { kind: Kind::Release { token: *token }, ..command.clone() };
        let released = decide(record, &release, context);
        if released.record.is_some() { Decision { reply: Reply::Voided, ..released } } else { decision }
    };

    /// A grant that somebody was told of, and extended, is taken back.
    voids_what_was_extended, "a grant that was extended is never voided": |record, command, context| {
        let mut first = record.filter(|_| matches!(command.kind, Kind::Void { .. })).cloned();
        first.iter_mut().flat_map(|record| &mut record.attempts).for_each(|attempt| {
            if let Phase::Held { lease_revision, .. } = &mut attempt.phase {
                *lease_revision = 0;
            }
        });
        decide(first.as_ref().or(record), command, context)
    };

    /// An answer is kept for its retention only, while another grant runs.
    forgets_who_still_runs, "an answer stays while another grant of the key may run": |record, command, context| {
        let mut decision = decide(record, command, context);
        let (Kind::Complete(complete), Reply::Completed { recorded: Recorded::Answer, expires_at }) =
            (&command.kind, &mut decision.reply)
        else {
            return decision;
        };
        let Some(Record { answer: Some(answer), terms, .. }) = &mut decision.record else { return decision };
        let from = context.key.time_ms.map_or(context.now, |time| context.now.max(LogTime::from_unix_ms(time)));
        answer.expires_at = from.plus_ms(complete.retention_ms.unwrap_or(terms.retention_ms));
        *expires_at = answer.expires_at;
        decision
    };

    /// Ever new envelopes of one token push the history out.
    notes_what_is_not_kept, "an outcome beyond those that are kept changes nothing": |record, command, context| {
        let mut decision = decide(record, command, context);
        let late = matches!(decision.reply, Reply::Completed { recorded: Recorded::Late, .. });
        if let (true, None, Kind::Complete(complete)) = (late, &decision.record, &command.kind) {
            decision.record = record.cloned().map(|mut next| {
                next.position = context.next_position;
                next.note(context.now, EventKind::Late, complete.token, "");
                next
            });
        }
        decision
    };

    /// A late event does not say what came.
    names_no_late_envelope, "a late event names its envelope": |record, command, context| {
        let mut decision = decide(record, command, context);
        if let Some(event) = decision.record.as_mut().and_then(|record| record.history.last_mut())
            && event.kind == EventKind::Late
        {
            event.detail = "".into();
        }
        decision
    };

    /// A stale token extends the running grant.
    extends_with_any_token, "only a valid grant is extended": |record, command, context| {
        let mut command = command.clone();
        if let (Kind::Extend { token, .. }, Some(holding)) = (&mut command.kind, record.and_then(Record::holding)) {
            *token = holding.token;
        }
        decide(record, &command, context)
    };

    /// An adopted grant stands last, whatever its token.
    adopts_out_of_order, "attempts are in the order of their tokens": |record, command, context| {
        let mut decision = decide(record, command, context);
        if let (Kind::Complete(complete), Some(record)) = (&command.kind, &mut decision.record)
            && let Some(place) = record.attempts.iter().position(|attempt| attempt.token == complete.token)
        {
            let adopted = record.attempts.remove(place);
            record.attempts.push(adopted);
        }
        decision
    };

    /// A late completion keeps the record for longer, or shorter.
    moves_the_expiry, "the first answer stays the answer": |record, command, context| {
        let mut decision = decide(record, command, context);
        let late = matches!(decision.reply, Reply::Completed { recorded: Recorded::Late, .. });
        if let (true, Some(answer)) = (late, decision.record.as_mut().and_then(|record| record.answer.as_mut())) {
            answer.expires_at = answer.expires_at.plus_ms(1);
        }
        decision
    };

    /// A record is written that is refused when it is read.
    writes_what_is_not_read, "a record is read as it was written": |record, command, context| {
        let mut decision = decide(record, command, context);
        if let (Reply::Granted(_), Some(last)) =
            (&decision.reply, decision.record.as_mut().and_then(|record| record.attempts.last_mut()))
        {
            last.fingerprint.digest = Box::default();
        }
        decision
    };

    /// The history is not kept.
    keeps_no_history, "a change has an event": |record, command, context| {
        let mut decision = decide(record, command, context);
        if let Some(record) = &mut decision.record {
            record.history.clear();
        }
        decision
    };

    /// Another request gets the recovery point that was given back.
    hands_on_the_recovery_point, "a recovery point stays with its request": |record, command, context| {
        let given_back = record.filter(|record| record.state() == State::Released).cloned();
        let Some(Record { checkpoint: Some(point), .. }) = given_back.clone() else {
            return decide(record, command, context);
        };
        let hidden = given_back.map(|record| Record { checkpoint: None, ..record });
        let mut decision = decide(hidden.as_ref(), command, context);
        if let (Reply::Granted(grant), Some(next)) = (&mut decision.reply, &mut decision.record) {
            grant.checkpoint = Some(point.clone());
            next.checkpoint = Some(point);
        }
        decision
    };
}

/// The command with its Reserve changed.
fn reserving(command: &Command, change: impl Fn(&mut holdfast::reservation::command::Reserve)) -> Command {
    let mut command = command.clone();
    if let Kind::Reserve(reserve) = &mut command.kind {
        change(reserve);
    }
    command
}

macro_rules! caught_sweeps {
    ($($(#[$doc:meta])* $name:ident, $invariant:literal: $sweep:expr;)+) => {
        $($(#[$doc])* #[test] fn $name() {
            let sweep: fn(&Record, KeyFacts, LogTime) -> Sweep = $sweep;
            assert_caught(stringify!($name), Core { sweep, ..CORE }, $invariant);
        })+
    };
}

caught_sweeps! {
    /// A record goes at its time instead of after it.
    goes_too_early, "an answer stays until its time is over": |record, key, now| sweep(record, key, now.plus_ms(1));

    /// A record goes a millisecond late.
    goes_too_late, "a record whose time is over goes": |record, key, now| sweep(record, key, LogTime::from_unix_ms(now.unix_ms().saturating_sub(1)));

    /// A record goes that is held or whose outcome is unknown.
    takes_what_is_unclear, "only what ended goes": |record, key, now| match record.expires_at() {
        None if now.unix_ms() > 0 => Sweep::Remove { raise_horizon_ms: key.time_ms },
        Some(_) | None => sweep(record, key, now),
    };
}

/// The horizon stays where it was: granting the next key is right then, so the reference does not see it.
#[test]
fn leaves_the_horizon() {
    let sweep: fn(&Record, KeyFacts, LogTime) -> Sweep = |record, key, now| match sweep(record, key, now) {
        Sweep::Remove { .. } => Sweep::Remove { raise_horizon_ms: None },
        Sweep::Keep => Sweep::Keep,
    };
    let caught = search(Core { sweep, ..CORE }, Check::Invariants, CASES, 1, 0);
    assert_eq!(caught.map(|(why, _)| why).as_deref(), Some("a tagged key raises the horizon to its time"));
}
