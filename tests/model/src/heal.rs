//! The properties. Those that speak of the end look at a state after everything healed: what was proposed is dropped,
//! everybody hears everything, tails are shipped, ended epochs are settled or declared lost, and somebody acts.

use crate::global::{EPOCHS, Entry};
use crate::record::{Nonce, Token};
use crate::region::Command;
use crate::reserve::{self, Outcome};
use crate::scenario::Config;
use crate::state::{Budget, Run, State};

/// More rounds than any healing takes.
const ROUNDS: usize = 200;

fn heal(config: &Config, state: &State) -> State {
    let mut healed = state.clone();
    healed.proposals.clear();
    healed.left = Budget::default();
    for region in &mut healed.regions {
        region.pending.clear();
        region.waiters.clear();
    }
    for _ in 0..ROUNDS {
        if !heal_once(config, &mut healed) {
            return healed;
        }
    }
    panic!("healing does not end: {healed:#?}");
}

fn catch_up(config: &Config, state: &mut State) {
    let end = state.log.len();
    for region in config.living(state).collect::<Vec<u8>>() {
        for node in 0..usize::from(config.nodes) {
            state.regions[usize::from(region)].nodes[node].seen = end;
            let view = state.view(region, node, config);
            let here = &mut state.regions[usize::from(region)];
            // Applied entries leave the log once every node applied them.
            while here.nodes[node].applied < here.log.len() {
                here.apply_next(node, region, config.rules, &view);
            }
        }
    }
    state.tidy(config);
}

/// One step of healing; whether there was one.
fn heal_once(config: &Config, state: &mut State) -> bool {
    catch_up(config, state);
    let living: Vec<u8> = config.living(state).collect();
    for region in &living {
        if let Some(command) = config.lead(state, *region).into_iter().next() {
            config.commit(state, *region, command);
            return true;
        }
    }
    let shipped = living.iter().find_map(|region| config.ship(state, *region).into_iter().next());
    if let Some(entry) = shipped.or_else(|| config.settle(state).into_iter().next()) {
        state.log.push(entry);
        return true;
    }
    let latest = state.latest(config);
    let is_gone = |epoch: u8| {
        let region = latest.acting[usize::from(epoch)];
        !living.contains(&region)
    };
    let forsaken =
        (1..latest.epoch).find(|epoch| is_gone(*epoch) && !latest.is_settled(*epoch) && !latest.is_lost(*epoch));
    if let Some(epoch) = forsaken {
        state.log.push(Entry::DeclareLost { epoch });
        return true;
    }
    let acting = &state.regions[usize::from(latest.acting[usize::from(latest.epoch)])];
    let own = &acting.leading().state;
    let serves = !is_gone(latest.epoch) && own.open == latest.epoch && own.is_open();
    let next = latest.epoch + 1;
    if let (false, Some(region)) = (serves || usize::from(next) >= EPOCHS, living.first()) {
        let entry = Entry::TakeOver { epoch: next, region: *region, renewal: latest.renewal, planned: None };
        state.log.push(entry);
        return true;
    }
    false
}

fn effective(state: &State) -> impl Iterator<Item = &Run> {
    state.runs.iter().filter(|run| !run.given_back)
}

/// P1: at most one execution of the operation was granted without a flag.
pub(crate) fn one_valid_grant(state: &State) -> bool {
    effective(state).filter(|run| !run.flagged).count() <= 1
}

/// The part of P2 that leases carry: of two executions the one that began later is flagged.
pub(crate) fn second_is_flagged(state: &State) -> bool {
    effective(state).skip(1).all(|run| run.flagged)
}

/// P2: of two executions the later is flagged, or the ledger names one of them.
pub(crate) fn second_is_known(config: &Config, state: &State) -> bool {
    let runs: Vec<&Run> = effective(state).collect();
    if runs.iter().skip(1).all(|run| run.flagged) {
        return true;
    }
    let record = heal(config, state).latest(config).record;
    let ledger = record.ledger(config.rules);
    // What a destroyed region granted under `local` and never shipped is known to nobody.
    let destroyed = |token: Token| state.regions.get(usize::from(token.region)).is_some_and(|region| region.destroyed);
    let gone = |run: &Run| run.token.epoch == 0 && destroyed(run.token) && record.get(run.token).is_none();
    let named = |run: &Run| ledger.iter().any(|(token, _)| *token == run.token);
    runs.iter().enumerate().all(|(at, later)| {
        let conflicts = |earlier: &&Run| {
            earlier.token == later.token || !(named(earlier) || named(later) || gone(earlier) || gone(later))
        };
        later.flagged || !runs.iter().take(at).any(conflicts)
    })
}

/// P3: replays are the same, except where the ledger names what differs. What a destroyed region told and never shipped is
/// known to nobody.
pub(crate) fn replays_agree(config: &Config, state: &State) -> bool {
    if state.replayed.len() < 2 {
        return true;
    }
    let record = heal(config, state).latest(config).record;
    let standing = record.winner().and_then(|winner| winner.envelope);
    let named = |envelope: u8| record.ledger(config.rules).iter().any(|(_, other)| *other == Some(envelope));
    let destroyed = state.regions.iter().any(|region| region.destroyed || region.incarnation > 0);
    let is_known = |envelope: u8| Some(envelope) == standing || named(envelope);
    let unknown = state.replayed.iter().filter(|envelope| !is_known(**envelope)).count();
    unknown == 0 || (destroyed && unknown == 1)
}

/// P5: after everything healed, a retry ends: in a replay, a grant, or (under `hold`) in an outcome that a worker claims.
pub(crate) fn every_retry_ends(config: &Config, state: &State) -> bool {
    let mut healed = heal(config, state);
    let latest = healed.latest(config);
    let acting = latest.acting[usize::from(latest.epoch)];
    let last = usize::from(latest.epoch) + 1 >= EPOCHS;
    if latest.epoch < config.mint || last || healed.regions[usize::from(acting)].destroyed {
        return true;
    }
    let nonce = Nonce { process: u8::MAX, number: 0 };
    for _ in 0..=config.processes {
        let here = &healed.regions[usize::from(acting)];
        let view = healed.view(acting, here.leader, config);
        let own = &here.leading().state;
        match reserve::reserve(own, &view, acting, nonce, config) {
            Outcome::Replay(_) | Outcome::Expired | Outcome::Unknown => return true,
            Outcome::Propose { flagged } => {
                let epoch = if config.local { 0 } else { own.open };
                let named = reserve::named(own, &view);
                let (command, waiter) = reserve::propose(here.leader, nonce, flagged, epoch, named);
                healed.regions[usize::from(acting)].waiters.push(waiter);
                config.commit(&mut healed, acting, command);
                catch_up(config, &mut healed);
                return healed.regions[usize::from(acting)].waiters.iter().any(|waiter| waiter.token.is_some());
            }
            Outcome::InProgress(token) => {
                let living = config.living(&healed).any(|region| region == token.region);
                let by = if config.local && living { token.region } else { acting };
                config.commit(&mut healed, by, Command::Lapse(token));
                healed = heal(config, &healed);
                catch_up(config, &mut healed);
            }
            Outcome::InDoubt | Outcome::Refused | Outcome::Again(_) => return false,
        }
    }
    false
}

/// P7: after a planned switchover no older epoch leaves a key in doubt.
pub(crate) fn switchover_leaves_no_doubt(config: &Config, state: &State) -> bool {
    let latest = state.latest(config);
    let is_sure = |epoch: u8| latest.is_settled(epoch) || latest.is_lost(epoch);
    !(1..=latest.epoch).any(|epoch| latest.planned[usize::from(epoch)] && !(1..epoch).all(is_sure))
}
