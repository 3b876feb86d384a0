//! What must hold whatever the answers are: a witness follows what callers were told, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use holdfast::codec;
use holdfast::ids::{Digest, FencingToken, Fingerprint, Nonce};
use holdfast::limits;
use holdfast::reservation::Decision;
use holdfast::reservation::command::{Command, Context, Doubt, Kind, Verdict};
use holdfast::reservation::record::{Answer, Checkpoint, EventKind, OnLapse, Phase, Record, State};
use holdfast::reservation::reply::{Grant, Recorded, Reply};
use holdfast::reservation::sweep::Sweep;

use crate::render;
use crate::world::{Applied, Core, World};

/// What a caller was told of one grant.
struct Told {
    request: Fingerprint,
    nonce: Option<Nonce>,
    on_lapse: OnLapse,
    lease_ms: u32,
    extended: u32,
}

/// What callers were told of one key since it was last absent.
#[derive(Default)]
struct Life {
    told: BTreeMap<FencingToken, Told>,
    /// May execute now, for all its holder knows.
    valid: BTreeSet<FencingToken>,
    /// May have executed: every grant but those that were given back or ruled out.
    unclear: BTreeSet<FencingToken>,
    /// Ended under hold with a grant that may have executed, and neither completed nor ruled on.
    held_back: bool,
    answer: Option<(Fingerprint, Answer)>,
    /// The last recovery point, and whose request it is of.
    point: Option<(Checkpoint, Fingerprint)>,
    /// What was reported and acknowledged.
    reported: BTreeSet<(FencingToken, Digest)>,
}

/// Follows every key of a partition.
#[derive(Default)]
pub(crate) struct Witness {
    lives: BTreeMap<String, Life>,
    /// The newest token of each key, over all its lives.
    newest: BTreeMap<String, FencingToken>,
    horizon_ms: Option<u64>,
}

/// A broken invariant: what was expected and what is.
fn hold(kept: bool, what: &str) -> Result<(), String> {
    if kept { Ok(()) } else { Err(what.to_owned()) }
}

impl Witness {
    /// Checks one command and remembers what its caller was told.
    pub(crate) fn see(
        &mut self,
        core: Core,
        world: &World,
        key: &str,
        command: &Command,
        applied: &Applied,
    ) -> Result<(), String> {
        let Applied { before, context, decision, after } = applied;
        let again = (core.decide)(before.as_ref(), command, context);
        hold(again == *decision, "the same decision twice")?;
        shape(decision, context)?;
        if let Some(record) = after {
            well_formed(record)?;
            let stored = record.envelopes().all(|digest| world.is_stored(key, digest));
            hold(stored, "every envelope of a record stands beside it")?;
        }
        if let Some(changed) = &decision.record {
            let events = render::events_since(before.as_ref(), changed).count();
            hold(events > 0, "a change has an event")?;
        }
        fenced(command, context, decision)?;
        self.told(key, command, applied)?;
        idempotent(core, command, context, decision)?;
        self.remembers(key, after.as_ref())?;
        after.as_ref().map_or(Ok(()), reads_back)
    }

    /// Checks a sweep of one record.
    pub(crate) fn swept(&mut self, key: &str, world: &World, before: &Record, swept: Sweep) -> Result<(), String> {
        let facts = world.facts_of(key);
        let Sweep::Remove { raise_horizon_ms } = swept else {
            let over = before.expires_at().is_some_and(|at| at < world.now);
            return hold(!over, "a record whose time is over goes");
        };
        let ended = match before.state() {
            State::Completed | State::Released | State::Lapsed => true,
            State::Absent | State::Held | State::OutcomeUnknown => false,
        };
        hold(ended, "only what ended goes")?;
        let life = self.lives.remove(key).unwrap_or_default();
        hold(!life.held_back, "an unknown outcome never goes")?;
        hold(life.answer.is_some() || life.valid.is_empty(), "a running grant never goes")?;
        if let Some((_, answer)) = &life.answer {
            hold(answer.expires_at < world.now, "an answer stays until its time is over")?;
            let leases = life.valid.iter().filter_map(|token| life.told.get(token)).map(|told| told.lease_ms.into());
            let over = leases.map(|lease_ms| answer.completed_at.plus_ms(lease_ms)).all(|end| end < world.now);
            hold(over, "an answer stays while another grant of the key may run")?;
        }
        hold(raise_horizon_ms == facts.time_ms, "a tagged key raises the horizon to its time")?;
        self.horizon_ms = self.horizon_ms.max(facts.time_ms);
        if let Some(time) = facts.time_ms {
            hold(world.horizon(&before.endpoint) >= Some(time), "the horizon covers what went")?;
            let floor = before.answer.map(|answer| answer.completed_at);
            hold(floor.is_none_or(|at| at < world.now), "a tagged key outlives its completion")?;
            hold(time < world.now.unix_ms(), "a tagged key outlives its own time")?;
        }
        Ok(())
    }

    fn told(&mut self, key: &str, command: &Command, applied: &Applied) -> Result<(), String> {
        let Applied { before, context, decision, .. } = applied;
        let life = self.lives.entry(key.to_owned()).or_default();
        match (&command.kind, &decision.reply) {
            (Kind::Reserve(reserve), Reply::Granted(grant)) => {
                hold(life.answer.is_none(), "what is answered is never granted")?;
                hold(grant.fingerprint == reserve.fingerprint, "a grant is for the request that asks")?;
                life.points(grant)?;
                hold(context.open_epoch >= Some(context.key.mint_epoch), "no grant before the key's epoch")?;
                if grant.repeated {
                    return life.repeated(grant, reserve.nonce.as_ref());
                }
                hold(!life.held_back, "an unknown outcome is never granted by Reserve")?;
                hold(reserve.doubt != Doubt::UnsettledFailClosed, "a doubt that fails closed grants nothing")?;
                hold(reserve.doubt == Doubt::Settled || grant.possible_duplicate, "a doubt flags its grant")?;
                let known = before.as_ref().and_then(Record::last_token);
                hold(known == reserve.known, "a grant is a compare-and-set on the token that was known")?;
                let expired =
                    before.is_none() && context.key.time_ms.is_some() && context.key.time_ms <= self.horizon_ms;
                hold(!expired, "what is at or below the horizon is never new")?;
                let other = life
                    .unclear
                    .iter()
                    .filter_map(|token| life.told.get(token))
                    .any(|told| told.request != reserve.fingerprint);
                hold(!other, "what may have executed keeps its request")?;
                life.granted(grant, reserve.nonce.clone(), reserve.terms.on_lapse)?;
                newer(&mut self.newest, key, grant.token)
            }
            (Kind::Claim { nonce, .. }, Reply::Claimed(grant)) => {
                hold(life.answer.is_none(), "what is answered is never claimed")?;
                life.points(grant)?;
                if grant.repeated {
                    return life.repeated(grant, nonce.as_ref());
                }
                hold(life.held_back, "only an unknown outcome is claimed")?;
                life.granted(grant, nonce.clone(), OnLapse::Hold)?;
                newer(&mut self.newest, key, grant.token)
            }
            (kind, reply) => life.ended(kind, reply, decision),
        }
    }

    /// Whether the record still has what callers were told.
    fn remembers(&self, key: &str, record: Option<&Record>) -> Result<(), String> {
        let (Some(life), Some(record)) = (self.lives.get(key), record) else { return Ok(()) };
        let attempt = |token: &FencingToken| record.attempts.iter().find(|attempt| attempt.token == *token);
        hold(life.unclear.iter().all(|token| attempt(token).is_some()), "no grant that may have run is forgotten")?;
        let back = life.unclear.iter().filter_map(attempt).any(|attempt| attempt.phase == Phase::Released);
        hold(!back, "no grant that may have run is taken for one that did not")?;
        let kept = |token: &FencingToken, digest: &Digest| match attempt(token).map(|attempt| &attempt.phase) {
            Some(Phase::Completed { envelopes, .. }) => {
                envelopes.contains(digest) || envelopes.len() >= limits::MAX_ENVELOPES_PER_TOKEN
            }
            Some(Phase::Held { .. } | Phase::Lapsed | Phase::Released) | None => false,
        };
        hold(life.reported.iter().all(|(token, digest)| kept(token, digest)), "no reported outcome vanishes")?;
        hold(record.answer == life.answer.as_ref().map(|(_, answer)| *answer), "the first answer stays the answer")?;
        let running = record.answer.is_none().then(|| life.valid.first().copied()).flatten();
        let held = record.holding().map(|holding| holding.token);
        hold(held == running, "the grant that is held is the one that was told")
    }
}

impl Life {
    fn granted(&mut self, grant: &Grant, nonce: Option<Nonce>, on_lapse: OnLapse) -> Result<(), String> {
        // What was to be held once is held, whatever later policies say.
        let held = self.told.values().any(|told| told.on_lapse == OnLapse::Hold);
        let on_lapse = if held { OnLapse::Hold } else { on_lapse };
        hold(self.valid.is_empty(), "at most one valid grant at a time")?;
        hold(self.unclear.is_empty() || grant.possible_duplicate, "a possible second execution is flagged")?;
        self.valid.insert(grant.token);
        self.unclear.insert(grant.token);
        let request = grant.fingerprint.clone();
        self.told.insert(grant.token, Told { request, nonce, on_lapse, lease_ms: grant.lease_ms, extended: 0 });
        Ok(())
    }

    fn points(&self, grant: &Grant) -> Result<(), String> {
        let (point, request) = self.point.clone().unzip();
        hold(request.is_none_or(|request| request == grant.fingerprint), "a recovery point stays with its request")?;
        hold(point == grant.checkpoint, "a grant has the last recovery point")
    }

    fn repeated(&self, grant: &Grant, nonce: Option<&Nonce>) -> Result<(), String> {
        let told = self.told.get(&grant.token);
        hold(self.valid.contains(&grant.token), "only a valid grant is repeated")?;
        hold(told.is_some_and(|told| told.nonce.is_some() && told.nonce.as_ref() == nonce), "same nonce, same token")?;
        hold(told.is_some_and(|told| told.request == grant.fingerprint), "a repeated grant is for its request")
    }

    fn ended(&mut self, kind: &Kind, reply: &Reply, decision: &Decision) -> Result<(), String> {
        match (kind, reply) {
            (Kind::Reserve(reserve), Reply::Replay(answer)) => {
                let first = self.answer.as_ref();
                hold(first.is_some_and(|(_, first)| first == answer), "a replay is the first answer")?;
                hold(
                    first.is_some_and(|(request, _)| *request == reserve.fingerprint),
                    "a replay is of the same request",
                )
            }
            (Kind::Reserve(reserve), Reply::Mismatch) => {
                let answered = self.answer.as_ref().is_some_and(|(request, _)| *request == reserve.fingerprint);
                hold(!answered, "an answered request is replayed")
            }
            (Kind::Reserve(reserve), Reply::OtherSelection { selection }) => {
                let asked = &reserve.fingerprint;
                let answered = self.answer.as_ref().is_none_or(|(request, _)| request.selection == *selection);
                hold(answered && asked.selection != *selection, "another selection is the one that was taken")
            }
            (Kind::Reserve(reserve), _) => {
                hold(self.answer.is_none(), "an answered key answers")?;
                let runs = self.valid.iter().filter_map(|token| self.told.get(token)).any(|told| {
                    told.nonce.is_some() && told.nonce == reserve.nonce && told.request == reserve.fingerprint
                });
                let in_progress = *reply == Reply::InProgress;
                hold(!(runs && in_progress), "the same nonce is the same grant")
            }
            (Kind::Release { token }, Reply::Released) if decision.record.is_none() => {
                let back = self.told.contains_key(token) && !self.unclear.contains(token);
                hold(back && self.answer.is_none(), "only what was given back is given back without a change")
            }
            (Kind::Release { token }, Reply::Released) => {
                let last = self.answer.is_none() && self.unclear.last() == Some(token);
                hold(last, "only the last grant that may have run is given back")?;
                self.given_back(token);
                Ok(())
            }
            (Kind::Void { token }, Reply::Voided) => {
                hold(self.valid.contains(token), "only a valid grant is voided")?;
                let first = self.told.get(token).is_some_and(|told| told.extended == 0);
                hold(first, "a grant that was extended is never voided")?;
                self.given_back(token);
                Ok(())
            }
            (Kind::Lapse { token, lease_revision }, Reply::Lapsed) => {
                hold(self.valid.remove(token), "only a valid grant lapses")?;
                let told = self.told.get(token);
                let same = told.is_some_and(|told| told.extended == *lease_revision);
                hold(same, "only the lease that runs can lapse")?;
                self.held_back |= told.is_some_and(|told| told.on_lapse == OnLapse::Hold);
                Ok(())
            }
            (Kind::Extend { token, .. }, Reply::Extended { lease_ms }) => {
                hold(self.answer.is_none() && self.valid.contains(token), "only a valid grant is extended")?;
                self.told.entry(*token).and_modify(|told| {
                    told.extended += 1;
                    told.lease_ms = *lease_ms;
                });
                Ok(())
            }
            (Kind::Checkpoint { token, checkpoint }, Reply::Checkpointed) => {
                let runs = self.answer.is_none() && self.valid.contains(token);
                let request = self.told.get(token).map(|told| told.request.clone());
                self.point = request.map(|request| (checkpoint.clone(), request));
                hold(runs, "only a valid grant sets a recovery point")
            }
            (Kind::Complete(complete), Reply::Completed { recorded, .. }) => {
                let told = self.reported.iter().filter(|(token, _)| *token == complete.token).count();
                let full = told >= limits::MAX_ENVELOPES_PER_TOKEN;
                hold(!full || decision.record.is_none(), "an outcome beyond those that are kept changes nothing")?;
                named_if_late(&complete.envelope, decision)?;
                self.valid.remove(&complete.token);
                self.unclear.insert(complete.token);
                self.reported.insert((complete.token, complete.envelope));
                self.held_back = false;
                let request = self.told.get(&complete.token).map_or(&complete.fingerprint, |told| &told.request);
                let request = request.clone();
                self.first(*recorded == Recorded::Answer, request, complete.envelope, Some(complete.token), decision)
            }
            (Kind::Resolve { verdict: Verdict::Executed(envelope), .. }, Reply::Resolved(_)) => {
                self.held_back = false;
                let ran = decision.record.as_ref().and_then(|record| record.answer).map(|answer| answer.token);
                let request = ran.and_then(|token| self.told.get(&token)).map(|told| told.request.clone());
                let Some(request) = request else { return Err("a verdict is about a grant that was told".to_owned()) };
                self.reported.extend(ran.map(|token| (token, *envelope)));
                self.first(true, request, *envelope, ran, decision)
            }
            (Kind::Resolve { verdict: Verdict::NotExecuted, .. }, Reply::Resolved(_)) => {
                hold(self.valid.is_empty(), "nothing that runs is ruled on")?;
                self.unclear.clear();
                self.point = None;
                self.held_back = false;
                Ok(())
            }
            (_, _) => hold(decision.record.is_none(), "a refusal changes nothing"),
        }
    }

    /// Nothing ran of this grant. What may have run before it keeps the outcome unknown, if it was unknown or the grant was
    /// under hold.
    fn given_back(&mut self, token: &FencingToken) {
        self.valid.remove(token);
        self.unclear.remove(token);
        let under_hold = self.told.get(token).is_some_and(|told| told.on_lapse == OnLapse::Hold);
        self.held_back = (self.held_back || under_hold) && !self.unclear.is_empty();
    }

    fn first(
        &mut self,
        is_first: bool,
        request: Fingerprint,
        envelope: Digest,
        token: Option<FencingToken>,
        decision: &Decision,
    ) -> Result<(), String> {
        hold(is_first == self.answer.is_none(), "the first completion known is the answer, and no other")?;
        if is_first {
            let answer = decision.record.as_ref().and_then(|record| record.answer);
            hold(answer.is_some_and(|answer| answer.envelope == envelope), "the answer is what was reported")?;
            hold(answer.map(|answer| answer.token) == token, "the answer is of the grant that reported")?;
            self.answer = answer.map(|answer| (request, answer));
        }
        Ok(())
    }
}

fn newer(newest: &mut BTreeMap<String, FencingToken>, key: &str, token: FencingToken) -> Result<(), String> {
    let before = newest.insert(key.to_owned(), token);
    hold(before < Some(token), "a key's fencing tokens increase")
}

fn shape(decision: &Decision, context: &Context) -> Result<(), String> {
    match &decision.record {
        None => hold(decision.envelope.is_none(), "what changes nothing stores nothing"),
        Some(record) => hold(record.position == context.next_position, "a changed record is at the next position"),
    }
}

fn well_formed(record: &Record) -> Result<(), String> {
    hold(!record.attempts.is_empty(), "a record has an attempt")?;
    let sorted = record.attempts.is_sorted_by(|one, other| one.token < other.token);
    hold(sorted, "attempts are in the order of their tokens")?;
    hold(record.history.len() <= limits::MAX_HISTORY, "the history is bounded")?;
    hold(record.holding().is_some() == (record.state() == State::Held), "what is held is held")?;
    hold(record.answer.is_some() == (record.state() == State::Completed), "what is answered is completed")?;
    let ends = match record.state() {
        State::Completed | State::Released | State::Lapsed => true,
        State::Absent | State::Held | State::OutcomeUnknown => false,
    };
    hold(record.expires_at().is_some() == ends, "what ended has a time to go, and nothing else has")?;
    let answer = record.answer.is_none_or(|answer| record.envelopes().any(|digest| digest == answer.envelope));
    hold(answer, "the answer is one of the envelopes")
}

/// What is written is what is read: no decision makes a record that decoding refuses.
fn reads_back(record: &Record) -> Result<(), String> {
    let read = codec::record::decode(&codec::record::encode(record));
    hold(read.as_ref() == Ok(record), "a record is read as it was written")
}

/// A late event says which envelope it is about.
fn named_if_late(envelope: &Digest, decision: &Decision) -> Result<(), String> {
    let event = decision.record.as_ref().and_then(|record| record.history.last());
    let Some(event) = event.filter(|event| event.kind == EventKind::Late) else { return Ok(()) };
    let hex: String = envelope.0.iter().map(|byte| format!("{byte:02x}")).collect();
    hold(event.detail.len() == 16 && hex.starts_with(&*event.detail), "a late event names its envelope")
}

/// In an epoch that is not open nothing changes.
fn fenced(command: &Command, context: &Context, decision: &Decision) -> Result<(), String> {
    if context.open_epoch == Some(command.epoch) {
        return Ok(());
    }
    let told = matches!(decision.reply, Reply::Replay(_) | Reply::Mismatch | Reply::OtherSelection { .. });
    let replayed = told || matches!(decision.reply, Reply::Void { .. });
    hold(replayed && decision.record.is_none(), "a command of an epoch that is not open is void")
}

/// A completion that is sent again is the same completion, and a release the same release.
fn idempotent(core: Core, command: &Command, context: &Context, decision: &Decision) -> Result<(), String> {
    let Some(record) = &decision.record else { return Ok(()) };
    let later = Context { next_position: context.next_position + 1, now: context.now.plus_ms(7), ..*context };
    let again = || (core.decide)(Some(record), command, &later);
    if let Kind::Release { .. } = &command.kind {
        return hold(again() == Decision::unchanged(Reply::Released), "a release that is repeated changes nothing");
    }
    let Kind::Complete(complete) = &command.kind else { return Ok(()) };
    if !record.envelopes().any(|digest| digest == complete.envelope) {
        return Ok(());
    }
    let again = again();
    let repeated = matches!(again.reply, Reply::Completed { recorded: Recorded::Repeated, .. });
    let same = record.attempts.iter().any(|attempt| {
        attempt.token == complete.token
            && matches!(&attempt.phase, Phase::Completed { envelopes, .. } if envelopes.contains(&complete.envelope))
    });
    hold(!same || (repeated && again.record.is_none()), "a completion that is repeated changes nothing")
}
