//! The order of deliveries does not matter: streams that come in any interleaving, in any pieces, and again, with takeovers,
//! settlements and losses in between, end in the same state.

use std::collections::BTreeSet;

use holdfast::control::Signature;
use holdfast::home::command::{Adopt, Cause, Change, KeyChange, Mutation, TakeOver};
use holdfast::home::evidence::{Attempt, LOCAL, Phase};
use holdfast::home::ledger::Subject;
use holdfast::home::state::StreamId;
use holdfast::home::{Command, Context, Limits, Reply};
use holdfast::ids::{Digest, Epoch, RegionName};
use holdfast::time::LogTime;
use proptest::prelude::{Strategy, any};
use sha2::{Digest as _, Sha256};

use crate::home::history::{home, part};
use crate::home::merging::{evidence, hold};
use crate::home::world::{World, core, record_key, region};

/// The streams of a history: three epochs that ended, and two of `local`.
const STREAMS: [(u64, &str); 5] = [(1, "eu"), (2, "us"), (3, "eu"), (0, "eu"), (0, "us")];

/// One thing that happens to the global group.
#[derive(Clone, Debug)]
enum Happening {
    Delivery { stream: usize, back: u64, count: usize },
    TakeOver,
    Settle(u64),
    Lost(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    (0..20_u8, 0..5_usize, 0..3_u64, 1..4_usize, 1..4_u64).prop_map(|(kind, stream, back, count, epoch)| match kind {
        0..=14 => Happening::Delivery { stream, back, count },
        15 | 16 => Happening::TakeOver,
        17 | 18 => Happening::Settle(epoch),
        _ => Happening::Lost(epoch),
    })
}

type Written = Vec<(StreamId, Vec<Mutation>)>;

/// Streams of this evidence.
fn written(evidence: &[(usize, usize, Attempt)]) -> Written {
    let streams = STREAMS.iter().enumerate().map(|(place, (epoch, name))| {
        let id = StreamId { home: home(), epoch: Epoch(*epoch), region: region(name), incarnation: 0 };
        let here = evidence.iter().filter(|(stream, _, _)| *stream == place);
        let keys = here.map(|(_, key, attempt)| {
            let (key, attempts) = (record_key(["a", "b"][*key]), vec![attempt.clone()]);
            Change::Key(Box::new(KeyChange { key, attempts, placed: None }))
        });
        let seal = (id.epoch != LOCAL).then_some(Change::Seal);
        let mutation = |(at, change): (usize, Change)| Mutation {
            digest: Digest(Sha256::digest(format!("{at} {change:?}")).into()),
            bytes: 100,
            change,
        };
        let changes: Vec<Change> = keys.chain(seal).collect();
        (id, changes.into_iter().enumerate().map(mutation).collect())
    });
    streams.collect()
}

struct Group {
    world: World,
    written: Written,
}

impl Group {
    fn tell(&mut self, command: &Command) -> Reply {
        let context = Context { now: LogTime::from_unix_ms(5), limits: Limits::STANDARD };
        self.world.apply(core, command, &context).reply
    }

    fn deliver(&mut self, stream: usize, back: u64, count: usize) {
        let (id, written) = &self.written[stream];
        let watermark = self.world.streams.get(id).map_or(id.start(), |stream| stream.watermark);
        let first = (watermark + 1).saturating_sub(back).max(1);
        if let Some(ship) = part(id, written, first, count) {
            self.tell(&Command::Ship(ship));
        }
    }

    fn take_over(&mut self) {
        let epoch = self.world.homes[&home()].epoch.0 + 1;
        let acting: RegionName = region(if epoch == 2 { "us" } else { "eu" });
        let cause = Cause::RanOut { renewal: 0 };
        self.tell(&Command::TakeOver(TakeOver {
            home: home(),
            epoch: Epoch(epoch),
            region: acting,
            incarnation: 0,
            cause,
        }));
    }

    fn epoch(&self) -> u64 {
        self.world.homes[&home()].epoch.0
    }
}

/// Lets everything of a plan happen, and then what is left of the history.
fn lived(written: &Written, plan: &[Happening]) -> World {
    let mut group = Group { world: World::default(), written: written.clone() };
    let order = vec![region("eu"), region("us")];
    group.tell(&Command::Adopt(Adopt { home: home(), acting: home(), epoch: Epoch(1), order }));
    for happening in plan {
        match happening {
            Happening::Delivery { stream, back, count } => group.deliver(*stream, *back, *count),
            Happening::TakeOver if group.epoch() < 4 => group.take_over(),
            Happening::TakeOver => {}
            Happening::Settle(epoch) => drop(group.tell(&Command::Settle { home: home(), epoch: Epoch(*epoch) })),
            Happening::Lost(epoch) => {
                let signature = Signature { actor: "ops".into(), reason: "gone".into() };
                group.tell(&Command::DeclareLost { home: home(), epoch: Epoch(*epoch), signature });
            }
        }
    }
    while group.epoch() < 4 {
        group.take_over();
    }
    for stream in 0..STREAMS.len() {
        group.deliver(stream, 0, usize::MAX);
    }
    for epoch in 1..4 {
        let reply = group.tell(&Command::Settle { home: home(), epoch: Epoch(epoch) });
        assert!(matches!(reply, Reply::Settled | Reply::Refused(_)), "{reply:?}");
    }
    group.world
}

#[test]
fn any_order_of_deliveries_ends_in_the_same_state() {
    let told = proptest::collection::vec((0..5_usize, 0..2_usize, evidence()), 1..14);
    let plan = || proptest::collection::vec(happening(), 0..40);
    hold(5_000, (told, plan(), plan(), any::<bool>()), |(told, one, other, _)| {
        let written = written(&told);
        let (one, other) = (lived(&written, &one), lived(&written, &other));
        proptest::prop_assert_eq!(&one.homes, &other.homes);
        proptest::prop_assert!(one.homes[&home()].ended.is_empty());
        proptest::prop_assert_eq!(&one.streams, &other.streams);
        proptest::prop_assert_eq!(&one.envelopes, &other.envelopes);
        proptest::prop_assert_eq!(one.records.keys().collect::<Vec<_>>(), other.records.keys().collect::<Vec<_>>());
        for (key, record) in &one.records {
            let twin = &other.records[key];
            proptest::prop_assert_eq!(&record.attempts, &twin.attempts);
            proptest::prop_assert_eq!(record.winner(), twin.winner());
            let standing = [record, twin].map(|record| {
                let subjects = record.conflicts.iter().filter(|one| !one.withdrawn).map(|one| one.subject.clone());
                subjects.collect::<BTreeSet<Subject>>()
            });
            // What was named while it was held stays named, in whatever order that was: see the module `ledger`.
            let differ = standing[0].symmetric_difference(&standing[1]);
            for subject in differ {
                let Subject::Loser(loser) = subject else { panic!("{subject:?}") };
                let may_have_run = record.get(&loser.token).is_some_and(Attempt::may_have_run);
                let is_open =
                    record.get(&loser.token).is_some_and(|one| matches!(one.phase, Phase::Lapsed | Phase::Held { .. }));
                proptest::prop_assert!(may_have_run && is_open && loser.envelope.is_none(), "{:?}", loser);
                proptest::prop_assert!(!record.losers().contains(loser));
            }
        }
        Ok(())
    });
}
