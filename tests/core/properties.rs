//! Random lives: the core agrees with the reference, and no invariant breaks.
//!
//! The seed is fixed, so the same code gives the same run; `SEED` and `CASES` choose others, and a failure prints the line
//! that repeats it.

use holdfast::ids::Epoch;
use holdfast::reservation::record::{Phase, Record};
use holdfast::reservation::reply::Reply;
use holdfast::reservation::sweep::Sweep;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::invariants::Witness;
use crate::reference::{Fate, Opinion, Reference};
use crate::render;
use crate::steps::{Issued, KEYS, Step, command, lives};
use crate::world::{Applied, CORE, Core, World, endpoint};

/// Steps of one life at the most.
const STEPS: usize = 60;

/// What a run is checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Invariants,
    Reference,
}

#[test]
fn invariants_hold() {
    explore(CORE, Check::Invariants, cases(20_000), "invariants_hold");
}

#[test]
fn the_reference_agrees() {
    explore(CORE, Check::Reference, cases(20_000), "the_reference_agrees");
}

fn explore(core: Core, check: Check, cases: u32, test: &str) {
    let seed = number("SEED").unwrap_or(1);
    if let Some((why, steps)) = search(core, check, cases, seed, 10_000) {
        panic!(
            "{why}\n{}\nrepeat it: SEED={seed} CASES={cases} cargo nextest run --release --test core {test}",
            story(core, &steps)
        );
    }
}

fn cases(usual: u32) -> u32 {
    number("CASES").map_or(usual, |cases| u32::try_from(cases).unwrap_or(u32::MAX))
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("SEED and CASES are numbers"))
}

/// The first broken rule and the shortest life found that breaks it.
pub(crate) fn search(core: Core, check: Check, cases: u32, seed: u64, shrinks: u32) -> Option<(String, Vec<Step>)> {
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(seed.to_le_bytes()).for_each(|(to, from)| *to = from);
    let config = Config { cases, max_shrink_iters: shrinks, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let result = runner.run(&lives(STEPS), |steps| live(core, check, &steps).map_err(TestCaseError::fail));
    match result {
        Ok(()) => None,
        Err(TestError::Fail(why, steps)) => Some((why.to_string(), steps)),
        Err(TestError::Abort(why)) => panic!("the search itself stopped: {why}"),
    }
}

/// The replies that so many random lives meet.
pub(crate) fn replies(cases: u32) -> Vec<Reply> {
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let mut replies = Vec::new();
    for _ in 0..cases {
        let steps = lives(STEPS).new_tree(&mut runner).expect("a life can be made").current();
        let mut partition = partition(CORE, Check::Reference);
        for step in &steps {
            partition.take(step).expect("the reference agrees");
        }
        replies.append(&mut partition.replies);
    }
    replies
}

/// A partition at work, with everything that watches it.
struct Partition {
    core: Core,
    check: Check,
    world: World,
    witness: Witness,
    reference: Reference,
    issued: Issued,
    epoch: Epoch,
    replies: Vec<Reply>,
}

fn partition(core: Core, check: Check) -> Partition {
    let mut world = World::new(core);
    world.facts = KEYS.iter().map(|(key, facts)| ((*key).to_owned(), *facts)).collect();
    let witness = Witness::default();
    let reference = Reference::default();
    Partition {
        core,
        check,
        world,
        witness,
        reference,
        issued: Issued::new(),
        epoch: Epoch::FIRST,
        replies: Vec::new(),
    }
}

/// Lives one life.
///
/// # Errors
/// The first rule that broke.
fn live(core: Core, check: Check, steps: &[Step]) -> Result<(), String> {
    let mut partition = partition(core, check);
    steps.iter().try_for_each(|step| partition.take(step).map(|_| ()))
}

impl Partition {
    /// Takes a step; the text tells of it.
    fn take(&mut self, step: &Step) -> Result<String, String> {
        match step {
            Step::Pass { ms } => self.world.now = self.world.now.plus_ms(*ms),
            Step::Seal => self.world.open = None,
            Step::Open => {
                self.epoch = Epoch(self.epoch.0 + 1);
                self.world.open = Some(self.epoch);
            }
            Step::Sweep { key } => return self.sweep(name(*key)),
            Step::Ask { key, behind, ask } => {
                let command = command(&self.world, &self.issued, name(*key), *behind, ask);
                let applied = self.world.apply(name(*key), &endpoint("pay"), &command);
                if let Reply::Granted(grant) | Reply::Claimed(grant) = &applied.decision.reply
                    && !grant.repeated
                {
                    self.issued
                        .entry(name(*key).to_owned())
                        .or_default()
                        .push((grant.token, grant.fingerprint.clone()));
                }
                self.replies.push(applied.decision.reply.clone());
                let text = format!("{}: {:?}\n{}", name(*key), command.kind, render::applied(&applied));
                return self.judge(name(*key), &command, &applied).map(|()| text);
            }
        }
        Ok(format!("{step:?}\n"))
    }

    fn judge(&mut self, key: &str, command: &holdfast::reservation::Command, applied: &Applied) -> Result<(), String> {
        match self.check {
            Check::Invariants => self.witness.see(self.core, &self.world, key, command, applied),
            Check::Reference => {
                let (reply, stores) = self.reference.tell(key, command, &applied.context);
                let opinion = self.reference.opinion(key, self.world.facts_of(key).time_ms);
                same("reply", &applied.decision.reply, &reply)?;
                same("envelope to store", &applied.decision.envelope, &stores)?;
                same("record", &applied.after.as_ref().map(view), &opinion)
            }
        }
    }

    fn sweep(&mut self, key: &str) -> Result<String, String> {
        let Some(before) = self.world.records.get(key).cloned() else { return Ok(String::new()) };
        let Some(swept) = self.world.sweep(key) else { return Ok(String::new()) };
        match self.check {
            Check::Invariants => self.witness.swept(key, &self.world, &before, swept)?,
            Check::Reference => {
                let time_ms = self.world.facts_of(key).time_ms;
                let gone = match swept {
                    Sweep::Keep => false,
                    Sweep::Remove { .. } => true,
                };
                same("sweep", &gone, &self.reference.sweep(key, time_ms, self.world.now))?;
            }
        }
        Ok(format!("sweep {key}: {}\n", render::swept(swept)))
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: &T, reference: &T) -> Result<(), String> {
    if is == reference { Ok(()) } else { Err(format!("{what}: the core says {is:?}, the reference {reference:?}")) }
}

fn name(key: usize) -> &'static str {
    KEYS.get(key).map_or("opaque", |(name, _)| name)
}

/// A record as the reference sees one.
fn view(record: &Record) -> Opinion {
    let fate = |phase: &Phase| match phase {
        Phase::Held { lease_ms, lease_revision } => Fate::Running { lease_ms: *lease_ms, revision: *lease_revision },
        Phase::Lapsed => Fate::Unknown,
        Phase::Released => Fate::Back,
        Phase::Completed { envelopes, .. } => Fate::Ran { envelopes: envelopes.clone() },
    };
    let grants = record
        .attempts
        .iter()
        .map(|attempt| (attempt.token, attempt.fingerprint.clone(), attempt.flagged, fate(&attempt.phase)));
    let dropped = usize::try_from(record.history_dropped).unwrap_or(usize::MAX);
    Opinion {
        state: record.state(),
        answer: record.answer,
        checkpoint: record.checkpoint.clone(),
        expires_at: record.expires_at(),
        grants: grants.filter(|(_, _, _, fate)| *fate != Fate::Back).collect(),
        history: record
            .history
            .iter()
            .map(|event| (event.at, event.kind, event.token, event.detail.to_string()))
            .collect(),
        events: dropped + record.history.len(),
    }
}

/// A failing life, step by step.
fn story(core: Core, steps: &[Step]) -> String {
    let mut partition = partition(core, Check::Invariants);
    steps.iter().map(|step| partition.take(step).unwrap_or_else(|why| format!("{step:?}\n  broke: {why}\n"))).collect()
}
