//! What must hold in every life of a home, whatever the answers are.

use std::collections::{BTreeMap, BTreeSet};

use holdfast::home::command::{Cause, Change, Ship};
use holdfast::home::evidence::{Attempt, LOCAL, Phase, Token};
use holdfast::home::ledger::{Conflict, Event, Loser, Subject, TaskState, Verdict};
use holdfast::home::reply::Swept;
use holdfast::home::state::{Home, StreamId};
use holdfast::home::{Command, Limits, Record, Refused, Reply};
use holdfast::ids::{Epoch, RecordKey, RegionName};
use holdfast::policy::Consistency;
use holdfast_client::keys::KeyKind;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::home::history::{Applied, Life, Step, home, steps};
use crate::home::merging::Opinion;
use crate::home::world::{Core, World, core};

/// Steps of one life at the most.
const STEPS: usize = 80;

/// Bounds that a life does not reach, and such that it does.
pub(crate) const AMPLE: Limits = Limits { ended: 6, mutations: 4, ..Limits::STANDARD };
pub(crate) const TIGHT: Limits = Limits { ended: 2, mutations: 4, attempts: 3, envelopes: 1, ..Limits::STANDARD };

/// What was seen of a life.
#[derive(Default)]
pub(crate) struct Witness {
    /// Whose an epoch is, since it began, and from when on `pay` is `global`.
    owners: BTreeMap<Epoch, (RegionName, u64)>,
    global_since: Option<Epoch>,
    incarnations: BTreeMap<RegionName, u64>,
    watermarks: BTreeMap<StreamId, u64>,
    evidence: BTreeMap<RecordKey, Vec<Attempt>>,
    /// What retries may have been told.
    answers: BTreeMap<RecordKey, BTreeSet<Loser>>,
    /// What stood in the ledger for want of room.
    not_kept: BTreeSet<(RecordKey, Token)>,
}

fn must(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn home_of(world: &World) -> Option<&Home> {
    world.homes.get(&home())
}

impl Witness {
    /// Looks at a command and what it did.
    ///
    /// # Errors
    /// What does not hold.
    pub(crate) fn see(&mut self, life: &Life, applied: &Applied) -> Result<(), String> {
        let (reply, after) = (&applied.decision.reply, &life.world);
        if let Reply::Refused(_) = reply {
            return must(applied.before == *after, "a refusal changes nothing");
        }
        self.epochs(life, applied)?;
        if let Command::Ship(ship) = &applied.command {
            self.shipped(applied, ship, after)?;
        }
        self.swept(applied, after)?;
        records(&life.context.limits, after)?;
        self.kept(&life.context.limits, after)?;
        self.answers(after)?;
        ledger(applied, after)
    }

    fn epochs(&mut self, life: &Life, applied: &Applied) -> Result<(), String> {
        let Some(now) = home_of(&life.world) else { return Ok(()) };
        if let Command::Restored(restored) = &applied.command {
            self.incarnations.insert(restored.region.clone(), restored.incarnation);
        }
        let owners = now.ended.iter().map(|ended| (ended.epoch, (ended.region.clone(), ended.incarnation)));
        for (epoch, owner) in owners.chain([(now.epoch, (now.acting.clone(), now.incarnation))]) {
            let known = self.owners.entry(epoch).or_insert_with(|| owner.clone());
            must(*known == owner, "an epoch keeps its region")?;
        }
        must(now.ended.len() <= life.context.limits.ended, "the ended epochs have their bound")?;
        let Some(was) = home_of(&applied.before) else { return Ok(()) };
        if now.epoch != was.epoch {
            self.took_over(life, applied, was, now)?;
        } else if was.renewed_in == now.renewed_in {
            must(now.lease_ms >= was.lease_ms, "the longest lease is waited for")?;
        }
        if now.renewal != was.renewal {
            let acts = if let Command::RenewLease(renew) = &applied.command {
                renew.region == was.acting && renew.epoch == was.epoch && was.lost.is_none()
            } else {
                false
            };
            must(acts, "only the acting region renews")?;
        }
        for ended in &was.ended {
            let gone = now.ended.iter().all(|one| one.epoch != ended.epoch);
            let stays_lost = now.ended.iter().any(|one| one.epoch == ended.epoch && one.lost.is_some());
            let retires = matches!(applied.command, Command::Retire { .. });
            must(gone || ended.lost.is_none() || stays_lost, "lost is not forgotten")?;
            if gone && retires {
                let long = ended.ended_at.plus_ms(400 * 24 * 3_600_000 + 24 * 3_600_000);
                must(ended.lost.is_some() && applied.context.now > long, "only what is too old is retired")?;
            } else if gone {
                let id = stream_id(ended.epoch, &ended.region, ended.incarnation);
                must(self.is_whole(life, &id), "an epoch is settled only when its whole stream is merged")?;
            }
        }
        Ok(())
    }

    fn took_over(&mut self, life: &Life, applied: &Applied, was: &Home, now: &Home) -> Result<(), String> {
        must(now.epoch.0 == was.epoch.0 + 1, "an epoch grows by one")?;
        let Command::TakeOver(take) = &applied.command else {
            return Err("only a takeover changes the epoch".to_owned());
        };
        let known = self.incarnations.get(&now.acting).copied().unwrap_or_default();
        must(now.incarnation == known, "an epoch is of the region's last incarnation")?;
        match &take.cause {
            Cause::RanOut { renewal } | Cause::Vouched { renewal, .. } => {
                must(*renewal == was.renewal, "nobody takes over a home that was renewed since")?;
                must(now.ended.iter().any(|ended| ended.epoch == was.epoch), "an ended epoch is open")
            }
            Cause::Planned { contracts, .. } => {
                let id = stream_id(was.epoch, &was.acting, was.incarnation);
                let sure = was.ended.iter().all(|ended| ended.lost.is_some()) && was.lost.is_none();
                must(sure && self.is_whole(life, &id), "a planned switchover puts no key in doubt")?;
                for (_, consistency) in contracts {
                    self.global_since = match consistency {
                        Consistency::Global => self.global_since.or(Some(now.epoch)),
                        Consistency::Local | Consistency::Home => None,
                    };
                }
                Ok(())
            }
        }
    }

    /// Whether all that was ever written of a sealed stream has been merged.
    fn is_whole(&self, life: &Life, id: &StreamId) -> bool {
        let written = life.streams.get(id).map_or(&[][..], Vec::as_slice);
        let sealed = written.last().is_some_and(|last| last.change == Change::Seal);
        sealed && self.watermarks.get(id).copied() == Some(id.start() + written.len() as u64)
    }

    fn shipped(&mut self, applied: &Applied, ship: &Ship, after: &World) -> Result<(), String> {
        let id = &ship.stream;
        let known = self.watermarks.get(id).copied().unwrap_or(id.start());
        must(ship.first <= known + 1, "a gap in a stream is refused")?;
        let last = ship.first + ship.mutations.len() as u64 - 1;
        let (watermark, new) = (known.max(last), last.saturating_sub(known));
        let told = applied.decision.reply == Reply::Shipped { watermark, merged: usize::try_from(new).unwrap_or(0) };
        must(told, "each mutation is merged once, in its order")?;
        let known_as = self.incarnations.get(&id.region).copied().unwrap_or_default();
        must(id.incarnation == known_as, "a former incarnation ships nothing")?;
        let epoch = home_of(after).map_or(LOCAL, |home| home.epoch);
        let is_tail = id.epoch != LOCAL && id.epoch < epoch;
        for (at, mutation) in (ship.first..).zip(&ship.mutations) {
            let Change::Key(change) = &mutation.change else { continue };
            let told = self.evidence.entry(change.key.clone()).or_default();
            for attempt in change.attempts.iter().filter(|_| at > known) {
                let untold = is_tail && self.global_since.is_some_and(|since| id.epoch >= since);
                let first =
                    attempt.token.fencing.epoch == id.epoch && told.iter().all(|one| one.token != attempt.token);
                let void = untold && first && attempt.is_held();
                let phase = if void { Phase::Released } else { attempt.phase.clone() };
                told.push(Attempt { phase, ..attempt.clone() });
            }
        }
        self.watermarks.insert(id.clone(), watermark);
        Ok(())
    }

    fn swept(&mut self, applied: &Applied, after: &World) -> Result<(), String> {
        let gone: Vec<&RecordKey> =
            applied.before.records.keys().filter(|key| !after.records.contains_key(*key)).collect();
        if let Reply::Swept(keys) = &applied.decision.reply {
            let removed = keys.iter().filter(|(_, swept)| *swept == Swept::Removed).map(|(key, _)| key);
            let told = removed.collect::<BTreeSet<_>>() == gone.iter().copied().collect();
            must(told, "a sweep says what it removed")?;
        }
        for key in gone {
            let record = &applied.before.records[key];
            let lapsed = record.attempts.iter().any(|attempt| attempt.phase == Phase::Lapsed);
            let ran = record.completions().next().is_some();
            let ended = record.attempts.iter().all(|attempt| !attempt.is_held()) && (ran || !lapsed);
            let home = home_of(after).ok_or("a record without a home")?;
            let settled = home.ended.iter().all(|ended| ended.epoch.0 < key.key.mint_epoch());
            let told = record.completions().map(|(_, one)| one.completed_at).max().unwrap_or_default();
            let time = match key.key.kind() {
                KeyKind::Tagged(tagged) => Some(tagged.unix_ms()),
                KeyKind::Opaque => None,
            };
            let due = record.changed_at.max(told).unix_ms().max(time.unwrap_or_default()) + 1_000;
            let done = record.conflicts.iter().all(|conflict| !is_open(&applied.before, conflict));
            let may = ended && settled && done && applied.context.now.unix_ms() > due;
            must(may, "a record goes only when it may")?;
            let horizon = after.horizons.values().max().copied();
            must(time.is_none() || horizon >= time, "a tagged key that went is at or below the horizon")?;
            self.evidence.remove(key);
            self.not_kept.retain(|(of, _)| of != key);
        }
        Ok(())
    }

    /// P3: what retries were once told and are not told any more is in the ledger.
    fn answers(&mut self, after: &World) -> Result<(), String> {
        for (key, record) in &after.records {
            let told = self.answers.entry(key.clone()).or_default();
            if let Some((token, completion)) = record.answer() {
                told.insert(Loser { token: token.clone(), envelope: Some(completion.envelope) });
            }
            let now = record.winner().map(|winner| Loser { token: winner.token, envelope: winner.envelope });
            for before in told.iter().filter(|told| now.as_ref() != Some(told)) {
                let stands = |conflict: &Conflict| match &conflict.subject {
                    Subject::Loser(loser) => loser == before && !conflict.withdrawn,
                    Subject::NotKept => true,
                };
                must(
                    record.conflicts.iter().any(stands),
                    "another answer than the one that was told is in the ledger",
                )?;
            }
        }
        self.answers.retain(|key, _| after.records.contains_key(key));
        Ok(())
    }

    /// Whatever was merged is in the record as the second opinion has it, or in the ledger.
    fn kept(&mut self, limits: &Limits, after: &World) -> Result<(), String> {
        for entry in after.entries.values() {
            if let Event::NotKept(attempt) = &entry.event {
                self.not_kept.insert((entry.key.clone(), attempt.token.clone()));
            }
        }
        for (key, evidence) in &self.evidence {
            let Some(record) = after.records.get(key) else {
                must(evidence.is_empty(), "no evidence is lost")?;
                continue;
            };
            if limits.attempts >= AMPLE.attempts {
                let opinion = Opinion::of(evidence);
                let same = record.winner() == opinion.winner() && record.losers() == opinion.losers();
                must(same && record.not_kept == 0, "a record is what its evidence comes to")?;
            }
            for told in evidence {
                let known = record.get(&told.token);
                let has = |attempt: &Attempt| match &told.phase {
                    Phase::Completed(all) => {
                        all.iter().all(|one| attempt.completions().iter().any(|known| known.envelope == one.envelope))
                    }
                    Phase::Held { .. } => true,
                    Phase::Lapsed | Phase::Released => !attempt.is_held(),
                };
                let in_ledger = self.not_kept.contains(&(key.clone(), told.token.clone()));
                must(known.is_some_and(has) || in_ledger, "no evidence is lost")?;
            }
        }
        Ok(())
    }
}

fn stream_id(epoch: Epoch, region: &RegionName, incarnation: u64) -> StreamId {
    StreamId { home: home(), epoch, region: region.clone(), incarnation }
}

fn is_open(world: &World, conflict: &Conflict) -> bool {
    world.tasks.get(&conflict.task).is_some_and(|task| task.state.is_open())
}

fn records(limits: &Limits, world: &World) -> Result<(), String> {
    for (key, record) in &world.records {
        let few = record.attempts.iter().all(|attempt| attempt.completions().len() <= limits.envelopes);
        must(few && record.attempts.len() <= limits.attempts, "a record has its bounds")?;
        let stored = |envelope| world.envelopes.contains(&(key.clone(), envelope));
        must(record.completions().all(|(_, one)| stored(one.envelope)), "an envelope stands beside its record")?;
        conflicts(world, key, record)?;
    }
    let of_records = world.records.values().map(|record| record.conflicts.len()).sum::<usize>();
    must(of_records == world.tasks.len(), "every task is of one conflict")
}

fn conflicts(world: &World, key: &RecordKey, record: &Record) -> Result<(), String> {
    let standing = || record.conflicts.iter().filter(|conflict| !conflict.withdrawn);
    for loser in record.losers() {
        let subject = Subject::Loser(loser);
        must(standing().filter(|one| one.subject == subject).count() == 1, "every loser has one task")?;
    }
    for conflict in &record.conflicts {
        let task = world.tasks.get(&conflict.task);
        let same = task.is_some_and(|task| task.key == *key && task.subject == conflict.subject);
        must(same, "every conflict has its task")?;
        must(!(conflict.withdrawn && is_open(world, conflict)), "what is withdrawn is not asked for")?;
        let Subject::Loser(loser) = &conflict.subject else { continue };
        let still = conflict.withdrawn || record.losers().contains(loser) || may_have_run(record, loser);
        must(still, "what stands in the ledger may have run")?;
    }
    let unwarned = record.attempts.iter().filter(|attempt| attempt.may_have_run() && !attempt.flagged);
    let named = |attempt: &Attempt| {
        standing().any(|one| matches!(&one.subject, Subject::Loser(loser) if loser.token == attempt.token))
    };
    must(unwarned.filter(|attempt| !named(attempt)).count() <= 1, "of two unwarned runs one is in the ledger")
}

/// A loser that merge does not find any more, and that was not shown to have done nothing.
fn may_have_run(record: &Record, loser: &Loser) -> bool {
    let winner = record.winner();
    let won = winner.is_some_and(|winner| winner.token == loser.token && winner.envelope == loser.envelope);
    !won && record.get(&loser.token).is_some_and(Attempt::may_have_run)
}

fn ledger(applied: &Applied, after: &World) -> Result<(), String> {
    let numbers: Vec<u64> = after.entries.keys().copied().collect();
    let all: Vec<u64> = (after.group.ledger_first..after.group.ledger_next).collect();
    must(numbers == all, "the ledger has no gaps")?;
    for entry in applied.before.entries.values().filter(|entry| !after.entries.contains_key(&entry.sequence)) {
        let open = applied.before.tasks.get(&entry.task).is_some_and(|task| task.state.is_open());
        must(!open, "what an open task is about stays in the ledger")?;
    }
    for (id, was) in &applied.before.tasks {
        let done = matches!(was.state, TaskState::Closed { verdict: Verdict::Compensated, .. });
        let now = after.tasks.get(id).map(|task| &task.state);
        let again = now.is_some_and(TaskState::is_open);
        must(!(done && again && was.subject != Subject::NotKept), "what was compensated is not asked for again")?;
        must(now.is_some() || !was.state.is_open(), "no open task is forgotten")?;
    }
    Ok(())
}

/// The first that does not hold and the shortest life found for it.
pub(crate) fn search(core: Core, limits: Limits, cases: u32, shrinks: u32) -> Option<(String, Vec<Step>)> {
    let config = Config { cases, max_shrink_iters: shrinks, failure_persistence: None, ..Config::default() };
    let seed = std::env::var("SEED").map_or(1, |seed| seed.parse().expect("SEED is a number"));
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]));
    let result = runner.run(&steps(STEPS), |steps| live(core, limits, &steps).map(drop).map_err(TestCaseError::fail));
    match result {
        Ok(()) => None,
        Err(TestError::Fail(why, steps)) => Some((why.to_string(), steps)),
        Err(TestError::Abort(why)) => panic!("the search itself stopped: {why}"),
    }
}

fn live(core: Core, limits: Limits, steps: &[Step]) -> Result<Vec<Reply>, String> {
    let mut life = Life::new(core, limits);
    let mut witness = Witness::default();
    let mut replies = Vec::new();
    for step in steps {
        if let Some(applied) = life.take(step) {
            witness.see(&life, &applied)?;
            replies.push(applied.decision.reply);
        }
    }
    Ok(replies)
}

#[test]
fn they_hold() {
    for limits in [AMPLE, TIGHT] {
        if let Some((why, steps)) = search(core, limits, 8_000, 20_000) {
            panic!("{why}\n{limits:?}\n{steps:#?}");
        }
    }
}

/// The random lives are about more than the easy answers.
#[test]
fn random_lives_come_far() {
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..4_000 {
        let steps = steps(STEPS).new_tree(&mut runner).expect("a life can be made").current();
        for reply in live(core, TIGHT, &steps).expect("a life holds") {
            let names = FAR.iter().filter(|(_, is)| is(&reply)).map(|(name, _)| *name);
            names.for_each(|name| *seen.entry(name).or_default() += 1);
        }
    }
    for (name, _) in FAR {
        assert!(seen.get(name).is_some_and(|count| *count > 5), "{name}: {seen:?}");
    }
}

/// An answer, and how to know it.
type Far = (&'static str, fn(&Reply) -> bool);

/// Answers that a life comes to.
const FAR: &[Far] = &[
    ("took over", |reply| matches!(reply, Reply::TookOver { .. })),
    ("settled", |reply| *reply == Reply::Settled),
    ("lost", |reply| *reply == Reply::Lost),
    ("retired", |reply| *reply == Reply::Retired),
    ("pruned", |reply| matches!(reply, Reply::Pruned(1..))),
    ("closed", |reply| *reply == Reply::Closed),
    ("swept", |reply| matches!(reply, Reply::Swept(keys) if keys.iter().any(|(_, one)| *one == Swept::Removed))),
    ("taken", |reply| matches!(reply, Reply::Acknowledged(told) if told.iter().any(|(_, told)| told.is_ok()))),
    ("epoch lost", |reply| *reply == Reply::Refused(Refused::EpochLost)),
    ("renewed since", |reply| matches!(reply, Reply::Refused(Refused::RenewedSince { .. }))),
    ("incarnation", |reply| matches!(reply, Reply::Refused(Refused::Incarnation { .. }))),
    ("gap", |reply| matches!(reply, Reply::Refused(Refused::Gap { .. }))),
    ("over", |reply| matches!(reply, Reply::Refused(Refused::Over(_)))),
    ("not sealed", |reply| matches!(reply, Reply::Refused(Refused::NotSealed { .. }))),
    ("older unsettled", |reply| matches!(reply, Reply::Refused(Refused::OlderUnsettled(_)))),
    ("not drained", |reply| matches!(reply, Reply::Refused(Refused::NotDrained { .. }))),
    ("too many", |reply| matches!(reply, Reply::Refused(Refused::TooManyEnded { .. }))),
    ("behind", |reply| matches!(reply, Reply::Refused(Refused::Behind { .. }))),
];
