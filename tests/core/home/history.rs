//! Random lives of one home: three regions that write streams, and a global group that hears of them in pieces, again, late and
//! out of turn.
//!
//! Regions keep to their rules: they write only into an epoch that they opened and did not seal. What the global group is
//! told may be anything that was ever said.

use std::collections::{BTreeMap, BTreeSet};

use holdfast::control::Signature;
use holdfast::home::command::{
    Acknowledge, Adopt, Cause, Change, KeyChange, Mutation, RenewLease, Restored, Ship, Sweep, TakeOver,
};
use holdfast::home::evidence::{Attempt, Commit, Completion, LOCAL, Phase, Token};
use holdfast::home::ledger::{TaskId, Verdict};
use holdfast::home::state::{StreamId, chained};
use holdfast::home::{Command, Context, Decision, Limits, Record};
use holdfast::ids::{Digest, Epoch, FencingToken, RecordKey, RegionName};
use holdfast::policy::Consistency;
use holdfast::time::LogTime;
use holdfast_client::keys::TaggedKey;
use proptest::prelude::{Strategy, any, prop_oneof};
use sha2::{Digest as _, Sha256};

use crate::home::world::{Core, World, attempt, record_key, region};
use crate::world::{endpoint, envelope};

/// The regions; the home is that of the first.
pub(crate) const REGIONS: [&str; 3] = ["eu", "us", "ap"];

/// What a region does to a key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Grant,
    Lapse,
    Release,
    Complete,
}

/// One step of a life. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Write { region: usize, local: bool, key: usize, what: What, pick: usize, flagged: bool },
    Seal { region: usize },
    Open { region: usize },
    Ship { stream: usize, back: u64, skip: bool, count: usize },
    Again { message: usize },
    Renew { region: usize, lease_ms: u32 },
    TakeOver { region: usize, stale: u64, how: u8, global: bool },
    Settle { epoch: u64 },
    Lost { epoch: u64 },
    Retire { epoch: u64 },
    Restore { region: usize },
    Sweep { region: usize },
    Take { task: usize, worker: usize },
    Close { task: usize, worker: usize, undone: bool },
    Prune,
    Pass { ms: u64 },
}

pub(crate) fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let what = prop_oneof![
        3 => proptest::strategy::Just(What::Grant),
        1 => proptest::strategy::Just(What::Lapse),
        1 => proptest::strategy::Just(What::Release),
        2 => proptest::strategy::Just(What::Complete),
    ];
    let region = 0..REGIONS.len();
    let epoch = 1..5_u64;
    let write = (region.clone(), proptest::bool::weighted(0.2), 0..3_usize, what, 0..8_usize, any::<bool>())
        .prop_map(|(region, local, key, what, pick, flagged)| Step::Write { region, local, key, what, pick, flagged });
    let ship = (0..6_usize, 0..4_u64, proptest::bool::weighted(0.05), 1..6_usize)
        .prop_map(|(stream, back, skip, count)| Step::Ship { stream, back, skip, count });
    let take_over = (region.clone(), 0..2_u64, 0..4_u8, any::<bool>())
        .prop_map(|(region, stale, how, global)| Step::TakeOver { region, stale, how, global });
    let long = 36_000_000_000_u64;
    let step = prop_oneof![
        10 => write,
        10 => ship,
        3 => region.clone().prop_map(|region| Step::Seal { region }),
        4 => region.clone().prop_map(|region| Step::Open { region }),
        3 => any::<usize>().prop_map(|message| Step::Again { message }),
        2 => (region.clone(), 1_000..5_000_u32).prop_map(|(region, lease_ms)| Step::Renew { region, lease_ms }),
        4 => take_over,
        3 => epoch.clone().prop_map(|epoch| Step::Settle { epoch }),
        1 => epoch.clone().prop_map(|epoch| Step::Lost { epoch }),
        1 => epoch.prop_map(|epoch| Step::Retire { epoch }),
        1 => region.prop_map(|region| Step::Restore { region }),
        4 => (0..4 * REGIONS.len()).prop_map(|region| Step::Sweep { region }),
        1 => (0..9_usize, 0..2_usize).prop_map(|(task, worker)| Step::Take { task, worker }),
        2 => (0..9_usize, 0..2_usize, any::<bool>())
            .prop_map(|(task, worker, undone)| Step::Close { task, worker, undone }),
        1 => proptest::strategy::Just(Step::Prune),
        2 => prop_oneof![3 => 1..2_000_u64, 1 => long..long + 2].prop_map(|ms| Step::Pass { ms }),
    ];
    proptest::collection::vec(step, 1..most)
}

/// What one region has.
#[derive(Clone, Default)]
struct Regional {
    incarnation: u64,
    open: Option<Epoch>,
    sealed: BTreeSet<Epoch>,
    records: BTreeMap<RecordKey, Record>,
}

/// A command as it was applied.
pub(crate) struct Applied {
    pub(crate) before: World,
    pub(crate) command: Command,
    pub(crate) context: Context,
    pub(crate) decision: Decision,
}

/// The regions and the global group.
pub(crate) struct Life {
    core: Core,
    pub(crate) world: World,
    pub(crate) context: Context,
    /// What was written, whoever has heard of it.
    pub(crate) streams: BTreeMap<StreamId, Vec<Mutation>>,
    regions: Vec<Regional>,
    said: Vec<Command>,
    keys: Vec<RecordKey>,
}

/// The home that lives.
pub(crate) fn home() -> RegionName {
    region(REGIONS[0])
}

fn signature(actor: &str) -> Signature {
    Signature { actor: actor.into(), reason: "it is so".into() }
}

impl Life {
    pub(crate) fn new(core: Core, limits: Limits) -> Self {
        let context = Context { now: LogTime::from_unix_ms(1_000), limits };
        let tagged =
            |mint, time| record_key(&TaggedKey::mint("eu", mint, time, [1; 10]).expect("a tagged key").to_string());
        let mut life = Self {
            core,
            world: World::default(),
            context,
            streams: BTreeMap::new(),
            regions: vec![Regional::default(); REGIONS.len()],
            said: Vec::new(),
            keys: vec![record_key("opaque"), tagged(1, 1_000), tagged(2, 1_500)],
        };
        let order = REGIONS.iter().map(|name| region(name)).collect();
        let adopt = Adopt { home: home(), acting: home(), epoch: Epoch(1), order };
        life.tell(Command::Adopt(adopt));
        life.regions[0].open = Some(Epoch(1));
        life
    }

    /// Takes a step; what was applied, if anything was.
    pub(crate) fn take(&mut self, step: &Step) -> Option<Applied> {
        let command = match step {
            Step::Write { region, local, key, what, pick, flagged } => {
                let key = self.keys[*key].clone();
                self.write(*region, *local, &key, *what, *pick, *flagged);
                return None;
            }
            Step::Seal { region } => {
                self.seal(*region);
                return None;
            }
            Step::Open { region } => {
                self.open(*region);
                return None;
            }
            Step::Pass { ms } => {
                self.context.now = self.context.now.plus_ms(*ms);
                return None;
            }
            Step::Ship { stream, back, skip, count } => self.ship(*stream, *back, *skip, *count)?,
            Step::Again { message } => self.said[*message % self.said.len()].clone(),
            Step::Renew { region: of, lease_ms } => Command::RenewLease(RenewLease {
                home: home(),
                region: region(REGIONS[*of]),
                incarnation: self.regions[*of].incarnation,
                epoch: self.home_row().epoch,
                lease_ms: *lease_ms,
            }),
            Step::TakeOver { region, stale, how, global } => self.take_over(*region, *stale, *how, *global),
            Step::Settle { epoch } => Command::Settle { home: home(), epoch: Epoch(*epoch) },
            Step::Lost { epoch } => {
                Command::DeclareLost { home: home(), epoch: Epoch(*epoch), signature: signature("ops") }
            }
            Step::Retire { epoch } => Command::Retire { home: home(), epoch: Epoch(*epoch) },
            Step::Restore { region: of } => {
                let regional = &mut self.regions[*of];
                regional.incarnation += 1;
                regional.open = None;
                let incarnation = regional.incarnation;
                Command::Restored(Restored { home: home(), region: region(REGIONS[*of]), incarnation })
            }
            Step::Sweep { region: of } => {
                let acting = REGIONS.iter().position(|name| region(name) == self.home_row().acting);
                self.sweep(if *of < REGIONS.len() { *of } else { acting? })
            }
            Step::Take { task, worker } => {
                let tasks = self.task(*task).into_iter().collect();
                Command::Acknowledge(Acknowledge { tasks, worker: worker_name(*worker).into(), instead_of: None })
            }
            Step::Close { task, worker, undone } => Command::Close {
                task: self.task(*task)?,
                verdict: if *undone { Verdict::Compensated } else { Verdict::NotNeeded },
                signature: signature(worker_name(*worker)),
            },
            Step::Prune => Command::Prune { count: 2 },
        };
        Some(self.tell(command))
    }

    pub(crate) fn tell(&mut self, command: Command) -> Applied {
        let before = self.world.clone();
        let decision = self.world.apply(self.core, &command, &self.context);
        self.said.push(command.clone());
        Applied { before, command, context: self.context, decision }
    }

    fn home_row(&self) -> &holdfast::home::state::Home {
        self.world.homes.get(&home()).expect("the home was adopted")
    }

    fn task(&self, pick: usize) -> Option<TaskId> {
        let count = self.world.tasks.len().max(1);
        self.world.tasks.keys().nth(pick % count).copied()
    }

    fn stream_of(&self, of: usize, epoch: Epoch) -> StreamId {
        let incarnation = self.regions[of].incarnation;
        StreamId { home: home(), epoch, region: region(REGIONS[of]), incarnation }
    }

    /// Tokens that anybody could complete: those of all regions.
    fn tokens(&self, key: &RecordKey) -> Vec<Attempt> {
        let records = self.regions.iter().filter_map(|regional| regional.records.get(key));
        records.flat_map(|record| record.attempts.clone()).collect()
    }

    fn write(&mut self, of: usize, local: bool, key: &RecordKey, what: What, pick: usize, flagged: bool) {
        let Some(epoch) = (if local { Some(LOCAL) } else { self.regions[of].open }) else { return };
        let stream = self.stream_of(of, epoch);
        let position = stream.start() + self.streams.get(&stream).map_or(0, Vec::len) as u64 + 1;
        let own = self.regions[of].records.entry(key.clone()).or_insert_with(|| Record::new(home())).clone();
        let held: Vec<&Attempt> = own.attempts.iter().filter(|attempt| attempt.is_held()).collect();
        let open: Vec<&Attempt> = own.attempts.iter().filter(|one| one.completions().is_empty()).collect();
        let all = self.tokens(key);
        let picked = |list: &[&Attempt]| list.get(pick % list.len().max(1)).map(|attempt| Attempt::clone(attempt));
        let changed = match what {
            What::Grant => {
                let fencing = FencingToken { epoch, sequence: position };
                let token = Token::new(fencing, &region(REGIONS[of]));
                Some(attempt(token, flagged, Phase::Held { lease_ms: 500, lease_revision: 0 }))
            }
            What::Lapse => picked(&held).map(|attempt| Attempt { phase: Phase::Lapsed, ..attempt }),
            What::Release => picked(&open).map(|attempt| Attempt { phase: Phase::Released, ..attempt }),
            What::Complete => picked(&all.iter().collect::<Vec<_>>()).map(|attempt| {
                let commit = Commit { epoch, position, region: region(REGIONS[of]) };
                let envelope = envelope(["e1", "e2", "e3"][pick % 3]);
                let (late, completed_at) = (own.answer().is_some(), self.context.now);
                let report = Completion { envelope, commit, late, completed_at };
                Attempt { phase: Phase::Completed(vec![report]), ..attempt }
            }),
        };
        let Some(changed) = changed else { return };
        let record = self.regions[of].records.entry(key.clone()).or_insert_with(|| Record::new(home()));
        drop(record.admit(changed.clone(), &Limits::STANDARD));
        let change = KeyChange { key: key.clone(), attempts: vec![changed], placed: None };
        self.push(stream, Change::Key(Box::new(change)));
    }

    fn push(&mut self, stream: StreamId, change: Change) {
        let written = self.streams.entry(stream).or_default();
        let digest = Digest(Sha256::digest(format!("{} {change:?}", written.len())).into());
        written.push(Mutation { digest, bytes: 100, change });
    }

    /// Seals the first ended epoch of the region, or the current one.
    fn seal(&mut self, of: usize) {
        let (name, home) = (region(REGIONS[of]), self.home_row().clone());
        let epochs = home.ended.iter().map(|ended| ended.epoch).chain([home.epoch]);
        let regional = &self.regions[of];
        let mine = |epoch: &Epoch| {
            let owner = home.owner(*epoch);
            owner.is_some_and(|owner| *owner.region == name && owner.incarnation == regional.incarnation)
        };
        let Some(epoch) = epochs.filter(mine).find(|epoch| !regional.sealed.contains(epoch)) else { return };
        let regional = &mut self.regions[of];
        regional.sealed.insert(epoch);
        regional.open = regional.open.filter(|open| *open != epoch);
        let stream = self.stream_of(of, epoch);
        self.push(stream, Change::Seal);
    }

    fn open(&mut self, of: usize) {
        let home = self.home_row().clone();
        let acts = home.acting == region(REGIONS[of]) && home.lost.is_none();
        let regional = &mut self.regions[of];
        let may = acts && home.incarnation == regional.incarnation && !regional.sealed.contains(&home.epoch);
        if !may || regional.open.is_some() {
            return;
        }
        regional.open = Some(home.epoch);
        for (key, record) in &self.world.records {
            let own = regional.records.entry(key.clone()).or_insert_with(|| Record::new(record.home.clone()));
            for attempt in &record.attempts {
                drop(own.admit(attempt.clone(), &Limits::STANDARD));
            }
        }
    }

    fn ship(&self, stream: usize, back: u64, skip: bool, count: usize) -> Option<Command> {
        let (id, written) = self.streams.iter().nth(stream % self.streams.len().max(1))?;
        let watermark = self.world.streams.get(id).map_or(id.start(), |stream| stream.watermark);
        let first = (watermark + 1).saturating_sub(back).max(id.start() + 1) + u64::from(skip);
        Some(Command::Ship(part(id, written, first, count)?))
    }

    fn take_over(&self, of: usize, stale: u64, how: u8, global: bool) -> Command {
        let home_row = self.home_row();
        let renewal = home_row.renewal.saturating_sub(stale);
        let stream = StreamId {
            home: home(),
            epoch: home_row.epoch,
            region: home_row.acting.clone(),
            incarnation: home_row.incarnation,
        };
        let end = self.streams.get(&stream).map_or(0, Vec::len) as u64;
        let consistency = if global { Consistency::Global } else { Consistency::Home };
        let cause = match how {
            0 => Cause::RanOut { renewal },
            1 => Cause::Vouched { renewal, signature: signature("ops") },
            _ => Cause::Planned { end, contracts: vec![(endpoint("pay"), consistency)] },
        };
        Command::TakeOver(TakeOver {
            home: home(),
            epoch: Epoch(home_row.epoch.0 + 1),
            region: region(REGIONS[of]),
            incarnation: self.regions[of].incarnation,
            cause,
        })
    }

    /// The region removes what it holds no attempt of, and says so.
    fn sweep(&mut self, of: usize) -> Command {
        let epoch = self.home_row().epoch;
        let stream = self.stream_of(of, epoch);
        let up_to = self.streams.get(&stream).map_or(0, Vec::len) as u64;
        let regional = &mut self.regions[of];
        let ended = |record: &Record| record.attempts.iter().all(|attempt| !attempt.is_held());
        let keys: Vec<RecordKey> =
            self.keys.iter().filter(|key| regional.records.get(*key).is_none_or(ended)).cloned().collect();
        keys.iter().for_each(|key| drop(regional.records.remove(key)));
        let (incarnation, name) = (regional.incarnation, region(REGIONS[of]));
        Command::Sweep(Sweep { home: home(), region: name, incarnation, epoch, up_to, keys })
    }
}

fn worker_name(worker: usize) -> &'static str {
    ["ada", "bob"][worker]
}

/// A part of a stream as its region sends it. Nothing: it has nothing there.
pub(crate) fn part(id: &StreamId, written: &[Mutation], first: u64, count: usize) -> Option<Ship> {
    let before = usize::try_from(first - id.start() - 1).ok()?;
    let mutations: Vec<Mutation> = written.get(before..)?.iter().take(count).cloned().collect();
    if mutations.is_empty() {
        return None;
    }
    let chain = written.iter().take(before).fold(id.empty().chain, |chain, one| chained(chain, one.digest));
    Some(Ship { stream: id.clone(), first, chain, mutations })
}
