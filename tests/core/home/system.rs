//! Two regions and the global group together, with the cores of both sides: of one key at most one grant is executed without a
//! warning (P1), and of two executions the later is flagged or the ledger names one (P2), whatever is late, lost or paused.
//!
//! There are no leases here: nothing of this rests on clocks. What a leader does between its log and its replica (R6, R8) is
//! written here from the rules, since that part is not pure.

use std::collections::BTreeMap;

use holdfast::control::Signature;
use holdfast::home::command::{Adopt, Cause, Change, Mutation, TakeOver};
use holdfast::home::evidence::{Commit, Token};
use holdfast::home::ledger::Subject;
use holdfast::home::outbox::told;
use holdfast::home::regional::{self, Regional, news};
use holdfast::home::state::{Home, Past, StreamId};
use holdfast::home::{Command, Context, Limits, Record};
use holdfast::ids::{Digest, Epoch, FencingToken, RecordKey};
use holdfast::reservation::command::{Complete, Doubt, Reserve};
use holdfast::reservation::import::import;
use holdfast::reservation::record::{OnLapse, Terms};
use holdfast::reservation::{self, Kind, Reply};
use holdfast::time::LogTime;
use proptest::prelude::{Strategy, prop_oneof};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use sha2::{Digest as _, Sha256};

use crate::home::history::{home, part};
use crate::home::world::{World, core, record_key, region};
use crate::world::{OPAQUE, endpoint, envelope, fingerprint, nonce};

const REGIONS: [&str; 2] = ["eu", "us"];

/// A rule that is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// R6: a grant needs a settled past.
    Gate,
    /// R6: what the replica shows counts.
    Replica,
    /// R5: after the seal nothing commits.
    Seal,
    /// R7: a grant is a compare-and-set.
    Named,
    /// R4: after a lost epoch a grant is flagged.
    Flag,
    /// R11: the ledger names losers.
    Ledger,
}

#[derive(Clone, Debug)]
enum Step {
    Ask {
        of: usize,
    },
    Commit {
        pending: usize,
    },
    Answer {
        waiting: usize,
    },
    Complete {
        run: usize,
        of: usize,
    },
    Lapse {
        of: usize,
    },
    Seal {
        of: usize,
        current: bool,
    },
    Open {
        of: usize,
    },
    Import {
        of: usize,
    },
    Learn {
        of: usize,
    },
    /// All that a region has to do, at once.
    Tend {
        of: usize,
    },
    Ship {
        of: usize,
        stream: usize,
        count: usize,
    },
    TakeOver {
        of: usize,
        planned: bool,
    },
    Settle {
        epoch: u64,
    },
    Lost {
        epoch: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let of = 0..REGIONS.len();
    prop_oneof![
        4 => of.clone().prop_map(|of| Step::Ask { of }),
        4 => (0..4_usize).prop_map(|pending| Step::Commit { pending }),
        3 => (0..4_usize).prop_map(|waiting| Step::Answer { waiting }),
        2 => (0..4_usize, of.clone()).prop_map(|(run, of)| Step::Complete { run, of }),
        2 => of.clone().prop_map(|of| Step::Lapse { of }),
        2 => (of.clone(), proptest::bool::weighted(0.2)).prop_map(|(of, current)| Step::Seal { of, current }),
        4 => of.clone().prop_map(|of| Step::Tend { of }),
        3 => of.clone().prop_map(|of| Step::Open { of }),
        2 => of.clone().prop_map(|of| Step::Import { of }),
        3 => of.clone().prop_map(|of| Step::Learn { of }),
        5 => (of.clone(), 0..3_usize, 1..4_usize).prop_map(|(of, stream, count)| Step::Ship { of, stream, count }),
        2 => (of, proptest::bool::weighted(0.2)).prop_map(|(of, planned)| Step::TakeOver { of, planned }),
        3 => (1..4_u64).prop_map(|epoch| Step::Settle { epoch }),
        1 => (1..4_u64).prop_map(|epoch| Step::Lost { epoch }),
    ]
}

/// A region: its log's state, its streams, and what its replica of the global group shows.
#[derive(Clone, Default)]
struct Region {
    state: Regional,
    record: Option<reservation::Record>,
    /// The same as the global group would say it.
    known: Option<Record>,
    streams: BTreeMap<StreamId, Vec<Mutation>>,
    view: World,
}

/// A Reserve that was proposed and commits at any time, or a grant that waits for the last look.
#[derive(Clone)]
struct Call {
    of: usize,
    epoch: Epoch,
    named: Vec<Token>,
    command: reservation::Command,
    granted: Option<(Token, bool)>,
}

struct System {
    without: Without,
    on_lapse: OnLapse,
    world: World,
    regions: Vec<Region>,
    pending: Vec<Call>,
    waiting: Vec<Call>,
    runs: Vec<(Token, bool)>,
    calls: u32,
}

const CONTEXT: Context = Context { now: LogTime::from_unix_ms(5), limits: Limits::STANDARD };

fn key() -> RecordKey {
    record_key("k")
}

fn row(world: &World) -> &Home {
    &world.homes[&home()]
}

impl System {
    fn new(without: Without, on_lapse: OnLapse) -> Self {
        let mut world = World::default();
        let order = REGIONS.iter().map(|name| region(name)).collect();
        world.apply(core, &Command::Adopt(Adopt { home: home(), acting: home(), epoch: Epoch(1), order }), &CONTEXT);
        let mut regions = vec![Region { view: world.clone(), ..Region::default() }; REGIONS.len()];
        let open = regional::Command::Open { epoch: Epoch(1), incarnation: 0 };
        regions[0].state = regional::decide(&Regional::default(), open).1.expect("it opens");
        let (pending, waiting, runs) = (Vec::new(), Vec::new(), Vec::new());
        Self { without, on_lapse, world, regions, pending, waiting, runs, calls: 0 }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Ask { of } => self.ask(*of),
            Step::Commit { pending } if !self.pending.is_empty() => {
                let call = self.pending.remove(*pending % self.pending.len());
                self.commit(call);
            }
            Step::Answer { waiting } if !self.waiting.is_empty() => {
                let call = self.waiting.remove(*waiting % self.waiting.len());
                self.answer(&call);
            }
            Step::Commit { .. } | Step::Answer { .. } => {}
            Step::Complete { run, of } => self.complete(*run, *of),
            Step::Lapse { of } => {
                let holding = self.regions[*of].record.as_ref().and_then(reservation::Record::holding);
                if let Some(holding) = holding {
                    let (token, lease_revision) = (holding.token, holding.lease_revision);
                    self.decide(*of, &Kind::Lapse { token, lease_revision });
                }
            }
            Step::Seal { of, current } => self.seal(*of, *current),
            Step::Open { of } => self.open(*of),
            Step::Import { of } => self.import(*of, false),
            Step::Learn { of } => self.regions[*of].view = self.world.clone(),
            Step::Tend { of } => self.tend(*of),
            Step::Ship { of, stream, count } => self.ship(*of, *stream, *count),
            Step::TakeOver { of, planned } => self.take_over(*of, *planned),
            Step::Settle { epoch } => self.tell(&Command::Settle { home: home(), epoch: Epoch(*epoch) }),
            Step::Lost { epoch } => {
                let signature = Signature { actor: "ops".into(), reason: "gone".into() };
                self.tell(&Command::DeclareLost { home: home(), epoch: Epoch(*epoch), signature });
            }
        }
    }

    fn tell(&mut self, command: &Command) {
        self.world.apply(core, command, &CONTEXT);
    }

    /// The open epoch and position of a region; without the seal, also of an epoch that is sealed.
    fn place(&self, of: usize) -> Option<(Epoch, u64)> {
        let state = &self.regions[of].state;
        let last = state.streams.last_key_value().map(|(epoch, written)| (*epoch, written.next));
        state.place().or(last.filter(|_| self.without == Without::Seal))
    }

    /// R6: what the leader makes of a Reserve, from its log's state and its replica.
    fn ask(&mut self, of: usize) {
        let Some((epoch, _)) = self.place(of) else { return };
        let here = &self.regions[of];
        let view = row(&here.view);
        if view.epoch < epoch || (view.epoch == epoch && view.acting != region(REGIONS[of])) {
            return;
        }
        let mut known = here.known.clone().unwrap_or_else(|| Record::new(home()));
        let shown = here.view.records.get(&key()).map_or(&[][..], |record| &record.attempts);
        for attempt in shown.iter().filter(|_| self.without != Without::Replica) {
            let at = attempt.token.fencing.epoch;
            let settled = at < view.epoch && view.owner(at).is_none();
            if at >= epoch || settled || !attempt.completions().is_empty() {
                drop(known.admit(attempt.clone(), &Limits::STANDARD));
            }
        }
        let lapsed = known.attempts.iter().any(|one| one.may_have_run());
        if known.winner().is_some() || (lapsed && self.on_lapse == OnLapse::Hold) {
            return;
        }
        let doubt = match view.doubt(Epoch::FIRST, |at| at >= epoch) {
            Past::Settled if lapsed => Doubt::Lost,
            Past::Settled => Doubt::Settled,
            Past::Lost if self.without == Without::Flag => Doubt::Settled,
            Past::Lost => Doubt::Lost,
            Past::Unsettled if self.without == Without::Gate => Doubt::Settled,
            Past::Unsettled => return,
        };
        let named = known.attempts.iter().chain(shown).map(|attempt| attempt.token.clone()).collect();
        self.calls += 1;
        let reserve = Reserve {
            fingerprint: fingerprint("A"),
            endpoint: endpoint("pay"),
            terms: self.terms(),
            nonce: Some(nonce(&format!("n{}", self.calls))),
            doubt,
            known: here.record.as_ref().and_then(reservation::Record::last_token),
        };
        let command = reservation::Command { epoch, kind: Kind::Reserve(Box::new(reserve)) };
        self.pending.push(Call { of, epoch, named, command, granted: None });
    }

    fn terms(&self) -> Terms {
        Terms { policy_revision: 0, lease_ms: 500, on_lapse: self.on_lapse, retention_ms: 1_000 }
    }

    fn commit(&mut self, mut call: Call) {
        if self.without == Without::Named
            && let Kind::Reserve(reserve) = &mut call.command.kind
            && let Some(record) = &mut self.regions[call.of].record
        {
            // As if what came in between were not there.
            record.attempts.retain(|attempt| Some(attempt.token) <= reserve.known);
            record.answer = record.answer.filter(|answer| Some(answer.token) <= reserve.known);
            if record.attempts.is_empty() {
                self.regions[call.of].record = None;
            }
        }
        if let Some(Reply::Granted(grant)) = self.apply(call.of, &call.command) {
            let token = Token { fencing: grant.token, region: None };
            call.granted = Some((token, grant.possible_duplicate));
            self.waiting.push(call);
        }
    }

    fn decide(&mut self, of: usize, kind: &Kind) {
        if let Some((epoch, _)) = self.place(of) {
            self.apply(of, &reservation::Command { epoch, kind: kind.clone() });
        }
    }

    /// An entry of a region's log commits.
    fn apply(&mut self, of: usize, command: &reservation::Command) -> Option<Reply> {
        let (epoch, next_position) = self.place(of)?;
        let here = &mut self.regions[of];
        let context = reservation::Context {
            open_epoch: Some(epoch),
            next_position,
            now: CONTEXT.now,
            key: OPAQUE,
            horizon_ms: None,
        };
        let decision = reservation::decide(here.record.as_ref(), command, &context);
        if let Some(after) = decision.record {
            let commit = Commit { epoch, position: next_position, region: region(REGIONS[of]) };
            let change = told(&key(), here.record.as_ref(), &after, &commit, CONTEXT.now);
            let change = change.expect("a record that changed has something to tell");
            let known = here.known.get_or_insert_with(|| Record::new(home()));
            change.attempts.iter().for_each(|attempt| drop(known.admit(attempt.clone(), &Limits::STANDARD)));
            here.record = Some(after);
            if let Some(written) = here.state.streams.get_mut(&epoch) {
                written.next += 1;
            }
            push(here, of, epoch, Change::Key(Box::new(change)));
        }
        Some(decision.reply)
    }

    /// R8: the last look before the answer. Then the process runs.
    fn answer(&mut self, call: &Call) {
        let Some((token, flagged)) = call.granted.clone() else { return };
        let here = &self.regions[call.of];
        let in_epoch = self.place(call.of).is_some_and(|(epoch, _)| epoch == call.epoch);
        let held = here.record.as_ref().and_then(reservation::Record::holding);
        let stands = held.is_some_and(|holding| holding.token == token.fencing);
        let shown = here.view.records.get(&key()).map_or(&[][..], |record| &record.attempts);
        let unnamed = shown.iter().any(|one| one.token != token && !call.named.contains(&one.token));
        if in_epoch && stands && (!unnamed || self.without == Without::Replica) {
            self.runs.push((token, flagged));
        }
    }

    fn complete(&mut self, run: usize, of: usize) {
        let Some((token, _)) = self.runs.get(run).cloned() else { return };
        let fencing: FencingToken = token.fencing;
        let complete = Complete {
            token: fencing,
            fingerprint: fingerprint("A"),
            endpoint: endpoint("pay"),
            nonce: None,
            terms: self.terms(),
            envelope: envelope(["e1", "e2"][of]),
            retention_ms: None,
        };
        self.decide(of, &Kind::Complete(Box::new(complete)));
    }

    fn tend(&mut self, of: usize) {
        self.take(&Step::Learn { of });
        self.seal(of, false);
        (0..5).for_each(|stream| self.ship(of, stream, usize::MAX));
        (1..5).for_each(|epoch| self.take(&Step::Settle { epoch }));
        self.take(&Step::Learn { of });
        self.open(of);
        self.import(of, false);
    }

    /// A region seals the first ended epoch of its own, or for a switchover the current one.
    fn seal(&mut self, of: usize, current: bool) {
        let (name, view) = (region(REGIONS[of]), row(&self.regions[of].view).clone());
        let epochs = view.ended.iter().map(|ended| ended.epoch).chain(current.then_some(view.epoch));
        let here = &mut self.regions[of];
        let sealed = |epoch: &Epoch| here.state.streams.get(epoch).is_some_and(|written| written.sealed);
        let mut mine = epochs.filter(|epoch| view.owner(*epoch).is_some_and(|owner| *owner.region == name));
        let Some(epoch) = mine.find(|epoch| !sealed(epoch)) else { return };
        if let (regional::Reply::Sealed { .. }, Some(next)) =
            regional::decide(&here.state, regional::Command::Seal { epoch })
        {
            here.state = next;
            push(here, of, epoch, Change::Seal);
        }
    }

    fn open(&mut self, of: usize) {
        let here = &mut self.regions[of];
        let view = row(&here.view);
        if view.acting != region(REGIONS[of]) {
            return;
        }
        let open = regional::Command::Open { epoch: view.epoch, incarnation: view.incarnation };
        if let (regional::Reply::Opened, Some(next)) = regional::decide(&here.state, open) {
            here.state = next;
            self.import(of, true);
        }
    }

    /// R7: what the replica shows of settled epochs is taken over.
    fn import(&mut self, of: usize, opens: bool) {
        let Some((epoch, next_position)) = self.regions[of].state.place() else { return };
        let here = &mut self.regions[of];
        let view = row(&here.view);
        let Some(shown) = here.view.records.get(&key()) else { return };
        let settled = |at: Epoch| at < view.epoch && view.owner(at).is_none();
        let Some(found) = news(here.record.as_ref(), shown, opens, settled) else { return };
        let context = reservation::Context {
            open_epoch: Some(epoch),
            next_position,
            now: CONTEXT.now,
            key: OPAQUE,
            horizon_ms: None,
        };
        if let Some(record) = import(here.record.as_ref(), &found, &context) {
            let known = here.known.get_or_insert_with(|| Record::new(home()));
            for attempt in &found.attempts {
                let token = Token { fencing: attempt.token, region: None };
                let told = shown.get(&token).cloned();
                told.into_iter().for_each(|attempt| drop(known.admit(attempt, &Limits::STANDARD)));
            }
            here.record = Some(record);
        }
    }

    fn ship(&mut self, of: usize, stream: usize, count: usize) {
        let Some((id, written)) = self.regions[of].streams.iter().nth(stream) else { return };
        let watermark = self.world.streams.get(id).map_or(0, |stream| stream.watermark);
        if let Some(ship) = part(id, written, watermark + 1, count) {
            self.tell(&Command::Ship(ship));
        }
    }

    fn take_over(&mut self, of: usize, planned: bool) {
        let view = row(&self.regions[of].view);
        let epoch = Epoch(view.epoch.0 + 1);
        if epoch > Epoch(4) {
            return;
        }
        let acting = REGIONS.iter().position(|name| region(name) == view.acting).unwrap_or(0);
        let id = StreamId { home: home(), epoch: view.epoch, region: view.acting.clone(), incarnation: 0 };
        let end = self.regions[acting].streams.get(&id).map_or(0, Vec::len) as u64;
        let cause = match planned {
            true => Cause::Planned { end, contracts: Vec::new() },
            false => Cause::RanOut { renewal: view.renewal },
        };
        let (name, incarnation) = (region(REGIONS[of]), 0);
        self.tell(&Command::TakeOver(TakeOver { home: home(), epoch, region: name, incarnation, cause }));
    }

    /// Everything that was written arrives, and every ended epoch is sealed and settled.
    fn heal(&mut self) {
        for _ in 0..5 {
            for of in 0..REGIONS.len() {
                self.tend(of);
            }
        }
    }

    fn one_unwarned(&self) -> bool {
        self.runs.iter().filter(|(_, flagged)| !flagged).count() <= 1
    }

    /// P2, once everything is known.
    fn second_is_known(&self) -> bool {
        let conflicts = self.world.records.get(&key()).map_or(&[][..], |record| &record.conflicts);
        let named = |token: &Token| {
            conflicts
                .iter()
                .filter(|_| self.without != Without::Ledger)
                .any(|one| !one.withdrawn && matches!(&one.subject, Subject::Loser(loser) if loser.token == *token))
        };
        self.runs.iter().enumerate().all(|(at, (later, flagged))| {
            *flagged || self.runs.iter().take(at).all(|(earlier, _)| named(earlier) || named(later))
        })
    }
}

fn push(here: &mut Region, of: usize, epoch: Epoch, change: Change) {
    let id = StreamId { home: home(), epoch, region: region(REGIONS[of]), incarnation: 0 };
    let written = here.streams.entry(id).or_default();
    let digest = Digest(Sha256::digest(format!("{} {change:?}", written.len())).into());
    written.push(Mutation { digest, bytes: 100, change });
}

/// The first life that breaks something, and what it breaks.
fn search(without: Without, cases: u32, shrinks: u32) -> Option<(String, Vec<Step>)> {
    let config = Config { cases, max_shrink_iters: shrinks, failure_persistence: None, ..Config::default() };
    let seed = std::env::var("SEED").map_or(1, |seed| seed.parse().expect("SEED is a number"));
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]));
    let lives = proptest::collection::vec(step(), 1..60);
    let result = runner.run(&lives, |steps| {
        for on_lapse in [OnLapse::Hold, OnLapse::Regrant] {
            let mut system = System::new(without, on_lapse);
            for step in &steps {
                system.take(step);
                if !system.one_unwarned() {
                    return Err(TestCaseError::fail("P1: two ran without a warning"));
                }
            }
            system.heal();
            if !system.second_is_known() {
                return Err(TestCaseError::fail("P2: nobody knows of the second"));
            }
        }
        Ok(())
    });
    match result {
        Ok(()) => None,
        Err(TestError::Fail(why, steps)) => Some((why.to_string(), steps)),
        Err(TestError::Abort(why)) => panic!("the search itself stopped: {why}"),
    }
}

#[test]
fn one_runs_without_a_warning_and_the_second_is_known() {
    if let Some((why, steps)) = search(Without::Nothing, 10_000, 20_000) {
        panic!("{why}\n{steps:#?}");
    }
}

/// Each rule that is off breaks what it is for, so the search sees it.
#[test]
fn without_a_rule_it_breaks() {
    for without in [Without::Gate, Without::Replica, Without::Seal, Without::Named, Without::Flag] {
        match search(without, 100_000, 0) {
            Some((why, _)) => assert_eq!(why, "P1: two ran without a warning", "{without:?}"),
            None => panic!("without {without:?} nothing broke"),
        }
    }
}

/// The region that was declared lost answers its grant after the flagged one ran: only the ledger knows of it.
#[test]
fn an_answer_of_a_lost_epoch_that_comes_late_is_in_the_ledger() {
    let steps = [
        Step::Ask { of: 0 },
        Step::Commit { pending: 0 },
        Step::TakeOver { of: 1, planned: false },
        Step::Lost { epoch: 1 },
        Step::Tend { of: 1 },
        Step::Ask { of: 1 },
        Step::Commit { pending: 0 },
        Step::Answer { waiting: 1 },
        Step::Answer { waiting: 0 },
    ];
    for (without, is_known) in [(Without::Nothing, true), (Without::Ledger, false)] {
        let mut system = System::new(without, OnLapse::Hold);
        steps.iter().for_each(|step| system.take(step));
        let flags: Vec<bool> = system.runs.iter().map(|(_, flagged)| *flagged).collect();
        assert_eq!(flags, [true, false], "the later one was not warned");
        system.heal();
        assert_eq!(system.second_is_known(), is_known, "{without:?}");
    }
}

/// Lives come far enough to be about something.
#[test]
fn lives_have_takeovers_and_runs_in_several_epochs() {
    use proptest::strategy::ValueTree as _;
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let lives = proptest::collection::vec(step(), 1..60);
    let (mut later, mut two) = (0, 0);
    for _ in 0..5_000 {
        let steps = lives.new_tree(&mut runner).expect("a life can be made").current();
        let mut system = System::new(Without::Nothing, OnLapse::Regrant);
        steps.iter().for_each(|step| system.take(step));
        later += usize::from(system.runs.iter().any(|(token, _)| token.fencing.epoch > Epoch(1)));
        two += usize::from(system.runs.len() > 1);
    }
    assert!(later > 50 && two > 5, "{later} {two}");
}
