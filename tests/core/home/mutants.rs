//! Planted bugs: the core with one rule broken, and the invariant that has to notice. A mutant that survives means that a check
//! has gone blind.

use holdfast::home::command::{Cause, Ship};
use holdfast::home::evidence::Phase;
use holdfast::home::ledger::{Event, TaskState, Verdict};
use holdfast::home::state::{Group, StreamId};
use holdfast::home::{Command, Context, Decision, Limits, Record, Refused, Reply, Write};
use holdfast::ids::Epoch;

use crate::home::history::home;
use crate::home::invariants::{AMPLE, TIGHT, search};
use crate::home::world::{Core, World, core};

/// Lives in which a mutant has to be caught.
const CASES: u32 = 20_000;

fn assert_caught(name: &str, mutant: Core, limits: Limits, invariant: &str) {
    match search(mutant, limits, CASES, 0) {
        Some((why, _)) => assert_eq!(why, invariant, "{name} was caught by another invariant"),
        None => panic!("{name} was not caught"),
    }
}

macro_rules! caught {
    ($($(#[$doc:meta])* $name:ident, $limits:ident, $invariant:literal: $decide:expr;)+) => {
        $($(#[$doc])* #[test] fn $name() {
            assert_caught(stringify!($name), $decide as Core, $limits, $invariant);
        })+
    };
}

/// Decides again with other rows or another command, if it was refused like this.
fn unless(
    world: &World,
    command: &Command,
    context: &Context,
    refused: fn(&Refused) -> bool,
    change: impl Fn(&mut World, &mut Command),
) -> Decision {
    let decision = core(world, command, context);
    if !matches!(&decision.reply, Reply::Refused(why) if refused(why)) {
        return decision;
    }
    let (mut world, mut command) = (world.clone(), command.clone());
    change(&mut world, &mut command);
    core(&world, &command, context)
}

/// Puts a stream where a batch begins.
fn rewind(world: &mut World, ship: &Ship) {
    let mut stream = world.streams.get(&ship.stream).copied().unwrap_or_else(|| ship.stream.empty());
    stream.watermark = ship.first - 1;
    stream.chain = ship.chain;
    world.streams.insert(ship.stream.clone(), stream);
}

/// Changes every record that is written.
fn records(mut decision: Decision, change: impl Fn(&mut Record)) -> Decision {
    for write in &mut decision.writes {
        if let Write::Record(_, Some(record)) = write {
            change(record);
        }
    }
    decision
}

/// Leaves out some of what is written.
fn without(mut decision: Decision, left_out: fn(&Write) -> bool) -> Decision {
    decision.writes.retain(|write| !left_out(write));
    decision
}

caught! {
    /// A candidate's TakeOver counts although the home was renewed since (R1).
    ignores_the_renewal, AMPLE, "nobody takes over a home that was renewed since": |world, command, context| {
        unless(world, command, context, |why| matches!(why, Refused::RenewedSince { .. }), |world, command| {
            if let Command::TakeOver(take) = command {
                take.cause = Cause::RanOut { renewal: world.homes[&home()].renewal };
            }
        })
    };

    /// A TakeOver of an epoch that is long over counts (R1).
    ignores_the_epoch, AMPLE, "an epoch keeps its region": |world, command, context| {
        unless(world, command, context, |why| matches!(why, Refused::OtherEpoch { .. }), |world, command| {
            if let (Command::TakeOver(take), Some(home)) = (command, world.homes.get_mut(&home())) {
                home.epoch = Epoch(take.epoch.0.saturating_sub(1));
                take.cause = Cause::RanOut { renewal: home.renewal };
            }
        })
    };

    /// Any region renews.
    renews_for_anybody, AMPLE, "only the acting region renews": |world, command, context| {
        let acting = |why: &Refused| matches!(why, Refused::NotActing { .. });
        unless(world, command, context, acting, |world, command| {
            if let (Command::RenewLease(renew), Some(home)) = (command, world.homes.get(&home())) {
                renew.region = home.acting.clone();
                renew.incarnation = home.incarnation;
            }
        })
    };

    /// A shorter renewal shortens the wait for whoever relied on a longer one.
    forgets_the_longer_lease, AMPLE, "the longest lease is waited for": |world, command, context| {
        let mut decision = core(world, command, context);
        if let (Command::RenewLease(renew), Some(Write::Home(_, home))) = (command, decision.writes.first_mut()) {
            home.lease_ms = renew.lease_ms;
        }
        decision
    };

    /// A gap in a stream is passed over (R2).
    takes_a_gap, AMPLE, "a gap in a stream is refused": |world, command, context| {
        unless(world, command, context, |why| matches!(why, Refused::Gap { .. }), |world, command| {
            if let Command::Ship(ship) = command {
                rewind(world, ship);
            }
        })
    };

    /// What was merged before is merged again (R2).
    merges_again, AMPLE, "each mutation is merged once, in its order": |world, command, context| {
        let mut world = world.clone();
        if let Command::Ship(ship) = command
            && world.streams.get(&ship.stream).is_some_and(|stream| stream.watermark >= ship.first && !stream.sealed)
        {
            rewind(&mut world, ship);
        }
        core(&world, command, context)
    };

    /// An epoch is settled before its end is there (R3).
    settles_early, AMPLE, "an epoch is settled only when its whole stream is merged": |world, command, context| {
        unless(world, command, context, |why| matches!(why, Refused::NotSealed { .. }), |world, _| {
            for ended in world.homes[&home()].ended.clone() {
                let (epoch, region, incarnation) = (ended.epoch, ended.region, ended.incarnation);
                let id = StreamId { home: home(), epoch, region, incarnation };
                let empty = id.empty();
                world.streams.entry(id).or_insert(empty).sealed = true;
            }
        })
    };

    /// A loss is forgotten with the next epoch (R4).
    forgets_a_loss, AMPLE, "lost is not forgotten": |world, command, context| {
        let mut decision = core(world, command, context);
        if let (Command::TakeOver(_), Some(Write::Home(_, home))) = (command, decision.writes.first_mut()) {
            home.ended.iter_mut().for_each(|ended| ended.lost = None);
        }
        decision
    };

    /// A lost epoch is forgotten while it may hide a key (R4).
    retires_early, AMPLE, "only what is too old is retired": |world, command, context| {
        let retires = matches!(command, Command::Retire { .. });
        let now = if retires { context.now.plus_ms(u64::MAX) } else { context.now };
        core(world, command, &Context { now, ..*context })
    };

    /// A switchover does not wait for the stream's end (R14).
    switches_over_early, AMPLE, "a planned switchover puts no key in doubt": |world, command, context| {
        unless(world, command, context, |why| matches!(why, Refused::NotDrained { .. }), |world, command| {
            let Some(row) = world.homes.get(&home()).cloned() else { return };
            let (region, incarnation) = (row.acting, row.incarnation);
            let id = StreamId { home: home(), epoch: row.epoch, region, incarnation };
            let mut stream = world.streams.get(&id).copied().unwrap_or_else(|| id.empty());
            stream.sealed = true;
            if let Command::TakeOver(take) = command
                && let Cause::Planned { end, .. } = &mut take.cause
            {
                *end = stream.watermark;
            }
            world.streams.insert(id, stream);
        })
    };

    /// A switchover does not mind what is unsettled behind it (R14).
    switches_over_in_doubt, AMPLE, "a planned switchover puts no key in doubt": |world, command, context| {
        let mut other = world.clone();
        if let (Command::TakeOver(take), Some(home)) = (command, other.homes.get_mut(&home()))
            && matches!(take.cause, Cause::Planned { .. })
        {
            home.ended.clear();
        }
        let mut decision = core(&other, command, context);
        for write in &mut decision.writes {
            if let (Write::Home(_, row), Some(was)) = (write, world.homes.get(&home()))
                && matches!(command, Command::TakeOver(_))
                && row.ended.is_empty()
            {
                row.ended = was.ended.clone();
            }
        }
        decision
    };

    /// A region that was restored goes on as it was before (R16).
    takes_a_former_incarnation, AMPLE, "a former incarnation ships nothing": |world, command, context| {
        unless(world, command, context, |why| matches!(why, Refused::Incarnation { .. }), |world, command| {
            if let (Command::Ship(ship), Some(home)) = (command, world.homes.get_mut(&home())) {
                home.incarnations.insert(ship.stream.region.clone(), ship.stream.incarnation);
            }
        })
    };

    /// A held grant that first arrives as tail of a `global` epoch counts (R12).
    keeps_the_void, AMPLE, "a record is what its evidence comes to": |world, command, context| {
        let mut world = world.clone();
        if matches!(command, Command::Ship(_)) {
            world.contracts.clear();
        }
        core(&world, command, context)
    };

    /// Only the winner is kept (R11).
    keeps_the_winner_alone, AMPLE, "no evidence is lost": |world, command, context| {
        records(core(world, command, context), |record| {
            let winner = record.winner();
            record.attempts.retain(|attempt| winner.as_ref().is_none_or(|winner| winner.token == attempt.token));
            record.conflicts.clear();
        })
    };

    /// A grant that lost is dropped (R11).
    drops_a_loser, AMPLE, "no evidence is lost": |world, command, context| {
        records(core(world, command, context), |record| {
            let losers = record.losers();
            record.attempts.retain(|attempt| {
                attempt.phase != Phase::Lapsed || losers.iter().any(|loser| loser.token == attempt.token)
            });
        })
    };

    /// A second envelope of a grant is dropped (R11).
    keeps_one_envelope, AMPLE, "a record is what its evidence comes to": |world, command, context| {
        records(core(world, command, context), |record| {
            for attempt in &mut record.attempts {
                if let Phase::Completed(all) = &mut attempt.phase {
                    all.truncate(1);
                }
            }
        })
    };

    /// Whoever was told without a warning counts as warned.
    believes_one_flag, AMPLE, "a record is what its evidence comes to": |world, command, context| {
        records(core(world, command, context), |record| {
            record.attempts.iter_mut().for_each(|attempt| attempt.flagged = true);
        })
    };

    /// A conflict is found, and nobody is asked to do anything.
    makes_no_task, AMPLE, "every conflict has its task": |world, command, context| {
        without(core(world, command, context), |write| matches!(write, Write::Task(_, Some(_))))
    };

    /// What was compensated is compensated again.
    asks_again, AMPLE, "what was compensated is not asked for again": |world, command, context| {
        let mut decision = core(world, command, context);
        let accepted = matches!(decision.reply, Reply::Shipped { .. });
        let done = |state: &TaskState| matches!(state, TaskState::Closed { verdict: Verdict::Compensated, .. });
        for (id, task) in world.tasks.iter().filter(|(_, task)| accepted && done(&task.state)) {
            let withdrawn = world.records.values().flat_map(|record| &record.conflicts).any(|one| {
                one.task == *id && one.withdrawn
            });
            if !withdrawn {
                let mut task = task.clone();
                task.state = TaskState::Open;
                decision.writes.push(Write::Task(*id, Some(Box::new(task))));
            }
        }
        decision
    };

    /// Two entries of the ledger have one number.
    numbers_twice, AMPLE, "the ledger has no gaps": |world, command, context| {
        without(core(world, command, context), |write| matches!(write, Write::Group(_)))
    };

    /// What a record has no room for is dropped.
    drops_what_is_too_much, TIGHT, "no evidence is lost": |world, command, context| {
        let mut decision = core(world, command, context);
        for write in &mut decision.writes {
            if let Write::Entry(_, Some(entry)) = write
                && matches!(entry.event, Event::NotKept(_))
            {
                entry.event = Event::Ran;
            }
        }
        decision
    };

    /// An envelope is not stored.
    stores_no_envelope, AMPLE, "an envelope stands beside its record": |world, command, context| {
        without(core(world, command, context), |write| matches!(write, Write::Envelope(..)))
    };

    /// A record goes while a grant is held (R15).
    sweeps_what_is_held, AMPLE, "a record goes only when it may": |world, command, context| {
        let mut world = world.clone();
        if matches!(command, Command::Sweep(_)) {
            let attempts = world.records.values_mut().flat_map(|record| &mut record.attempts);
            attempts.filter(|attempt| attempt.is_held()).for_each(|attempt| attempt.phase = Phase::Released);
        }
        core(&world, command, context)
    };

    /// A record goes while an epoch that may have granted it is open (R15).
    sweeps_what_is_in_doubt, AMPLE, "a record goes only when it may": |world, command, context| {
        let mut world = world.clone();
        if let (Command::Sweep(_), Some(home)) = (command, world.homes.get_mut(&home())) {
            home.ended.clear();
        }
        core(&world, command, context)
    };

    /// A record goes before its time (R15).
    sweeps_early, AMPLE, "a record goes only when it may": |world, command, context| {
        let sweeps = matches!(command, Command::Sweep(_));
        let now = if sweeps { context.now.plus_ms(u64::MAX) } else { context.now };
        core(world, command, &Context { now, ..*context })
    };

    /// A tagged key goes, and could be granted anew (R15).
    raises_no_horizon, AMPLE, "a tagged key that went is at or below the horizon": |world, command, context| {
        without(core(world, command, context), |write| matches!(write, Write::Horizon(..)))
    };

    /// What an open task is about goes from the ledger.
    prunes_what_is_open, TIGHT, "what an open task is about stays in the ledger": |world, command, context| {
        let mut world = world.clone();
        if matches!(command, Command::Prune { .. }) {
            world.tasks.clear();
        }
        core(&world, command, context)
    };

    /// A refusal that does something.
    changes_what_it_refuses, AMPLE, "a refusal changes nothing": |world, command, context| {
        let mut decision = core(world, command, context);
        if matches!(decision.reply, Reply::Refused(_)) {
            let next = world.group.ledger_next + 1;
            decision.writes.push(Write::Group(Group { ledger_next: next, ..world.group }));
        }
        decision
    };
}
