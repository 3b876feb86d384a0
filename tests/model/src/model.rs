//! The transitions: what each action does.

use stateright::{Model, Property};

use crate::global::Entry;
use crate::heal;
use crate::record::{Nonce, Phase, Token};
use crate::region::Command;
use crate::reserve::{self, Outcome};
use crate::rule::Rule;
use crate::scenario::Config;
use crate::state::{Message, Process, Run, Running, State};

/// One step. Regions, nodes and processes are named by number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Ask {
        process: u8,
        region: u8,
        fresh: bool,
    },
    Commit {
        region: u8,
        at: usize,
    },
    Apply {
        region: u8,
        node: usize,
    },
    Answer {
        region: u8,
        at: usize,
    },
    Deliver {
        message: usize,
        process: u8,
    },
    Complete {
        process: u8,
        region: u8,
    },
    Release {
        process: u8,
        region: u8,
    },
    Remint {
        process: u8,
    },
    Learn {
        region: u8,
        node: usize,
    },
    Renew {
        region: u8,
    },
    HomeLeaseRunsOut,
    Propose {
        entry: Entry,
    },
    CommitProposal {
        at: usize,
    },
    Append {
        entry: Entry,
    },
    /// Entries that the leader proposes and commits at once.
    Lead {
        region: u8,
        command: Command,
    },
    LeaseRunsOut {
        token: Token,
    },
    ChangeLeader {
        region: u8,
    },
    Destroy {
        region: u8,
    },
    Backup {
        region: u8,
    },
    Restore {
        region: u8,
    },
}

impl Config {
    pub(crate) fn nonce(&self, process: u8, number: u8) -> Nonce {
        let process = if self.rules.on(Rule::R9Fresh) { process } else { 0 };
        Nonce { process, number }
    }

    fn ask(&self, state: &mut State, process: u8, region: u8, fresh: bool) -> Option<()> {
        let holder = &mut state.processes[usize::from(process)];
        holder.asks += 1;
        holder.number += u8::from(fresh);
        let nonce = self.nonce(process, holder.number);
        let view = state.view(region, state.regions[usize::from(region)].leader, self);
        let holder = &mut state.processes[usize::from(process)];
        let here = &mut state.regions[usize::from(region)];
        let (leader, own) = (here.leader, &here.leading().state);
        let epoch = if self.local { 0 } else { own.open };
        let propose = |flagged| {
            let (command, waiter) = reserve::propose(leader, nonce, flagged, epoch, reserve::named(own, &view));
            (command, waiter)
        };
        let proposed = match reserve::reserve(own, &view, region, nonce, self) {
            Outcome::Replay(envelope) => {
                holder.done = true;
                holder.live = false;
                if !state.replayed.contains(&envelope) {
                    state.replayed.push(envelope);
                }
                return Some(());
            }
            Outcome::Again(token) => {
                if here.leading().voiding.contains(&token) {
                    return None;
                }
                let waiter = reserve::again(leader, nonce, token, own, &view, self);
                if here.waiters.contains(&waiter) {
                    return None;
                }
                here.waiters.push(waiter);
                holder.live = true;
                holder.indefinite = true;
                return Some(());
            }
            Outcome::Unknown if state.left.claims > 0 => {
                state.left.claims -= 1;
                propose(self.rules.on(Rule::LapseFlag))
            }
            Outcome::Propose { flagged } => propose(flagged),
            Outcome::Expired | Outcome::InProgress(_) | Outcome::Unknown | Outcome::InDoubt | Outcome::Refused => {
                // Nothing changes but what a re-minting client remembers.
                let news = state.left.remints > 0 && !holder.refused;
                holder.refused = true;
                return news.then_some(());
            }
        };
        here.waiters.push(proposed.1);
        holder.live = true;
        holder.indefinite = true;
        self.propose(state, region, proposed.0);
        Some(())
    }

    fn propose(&self, state: &mut State, region: u8, command: Command) {
        match self.slow.entries {
            true => state.regions[usize::from(region)].pending.push(command),
            false => self.commit(state, region, command),
        }
    }

    /// Commits an entry; a region of one node applies it at once.
    pub(crate) fn commit(&self, state: &mut State, region: u8, command: Command) {
        let views: Vec<_> = (0..usize::from(self.nodes)).map(|node| state.view(region, node, self)).collect();
        let here = &mut state.regions[usize::from(region)];
        here.log.push(command);
        if let [view] = &views[..] {
            here.apply_next(0, region, self.rules, view);
        }
    }

    fn answer(&self, state: &mut State, region: u8, at: usize) -> Option<()> {
        let waiter = state.regions[usize::from(region)].waiters.remove(at);
        let token = waiter.token?;
        let view = state.view(region, waiter.node, self);
        let latest = state.latest(self);
        let is_out = state.out.contains(&token);
        let here = &mut state.regions[usize::from(region)];
        let is_leader = here.leader == waiter.node;
        let node = &mut here.nodes[waiter.node];
        let renewal = match waiter.epoch {
            0 => u8::MAX,
            _ if self.manual || !self.rules.on(Rule::R8Lease) => u8::MAX,
            epoch if view.renewed_in == epoch && view.acts(region, epoch) => view.renewal,
            _ => 0,
        };
        let leased = renewal > state.expired;
        let voiding = node.voiding.contains(&token);
        if leased && !voiding && reserve::may_answer(&waiter, token, &node.state, &view, is_out, self) {
            if is_leader && !node.told.contains(&token) {
                node.told.push(token);
            }
            let global = self.scope().is_global(waiter.epoch);
            state.unknown_told |= global && latest.record.get(token).is_none();
            state.wire.push(Message { nonce: waiter.nonce, token, flagged: waiter.flagged, renewal });
            if !self.slow.answers {
                let message = state.wire.len() - 1;
                let waits = |(process, holder): &(u8, &Process)| {
                    let idle = holder.live && holder.running.is_none() && !holder.done;
                    idle && self.nonce(*process, holder.number) == waiter.nonce
                };
                match (0..).zip(&state.processes).find(waits).map(|(process, _)| process) {
                    Some(process) => self.deliver(state, message, process),
                    None => drop(state.wire.pop()),
                }
            }
            return Some(());
        }
        let untold = is_leader && !waiter.repeated && !node.told.contains(&token);
        if untold || !self.rules.on(Rule::R8VoidUntold) {
            if self.rules.on(Rule::R8VoidUntold) {
                node.voiding.push(token);
            }
            self.propose(state, region, Command::Void(token));
        }
        Some(())
    }

    fn deliver(&self, state: &mut State, message: usize, process: u8) {
        let sent = state.wire.remove(message);
        let in_time = !state.out.contains(&sent.token) && (sent.renewal > state.expired);
        if in_time || !self.rules.on(Rule::R13Start) {
            let holder = &mut state.processes[usize::from(process)];
            holder.live = false;
            holder.running = Some(Running { token: sent.token, nonce: sent.nonce, flagged: sent.flagged });
            state.runs.push(Run { token: sent.token, process, flagged: sent.flagged, given_back: false });
        }
    }

    fn complete(&self, state: &mut State, process: u8, region: u8) -> Option<()> {
        let view = state.view(region, state.regions[usize::from(region)].leader, self);
        let holder = &mut state.processes[usize::from(process)];
        let running = holder.running?;
        let here = &mut state.regions[usize::from(region)];
        let own = &here.leading().state;
        if running.token.epoch != 0 && !own.is_open() {
            return None;
        }
        let envelope = process * 4 + holder.completes;
        holder.completes += 1;
        let Running { token, nonce, flagged } = running;
        let known = view.record.has_completed();
        self.propose(state, region, Command::Complete { token, nonce, flagged, envelope, known });
        Some(())
    }

    fn release(&self, state: &mut State, process: u8, region: u8) -> Option<()> {
        let holder = &mut state.processes[usize::from(process)];
        let running = holder.running.take()?;
        for run in state.runs.iter_mut().filter(|run| run.process == process && run.token == running.token) {
            run.given_back = true;
        }
        state.left.releases -= 1;
        self.propose(state, region, Command::Release(running.token));
        Some(())
    }

    fn change_leader(&self, state: &mut State, region: u8) {
        let here = &state.regions[usize::from(region)];
        let next = (here.leader + 1) % here.nodes.len();
        let view = state.view(region, next, self);
        let here = &mut state.regions[usize::from(region)];
        here.leader = next;
        // What the old leader proposed and did not commit by now never commits; the new one applies all that did.
        here.pending.clear();
        while here.nodes[next].applied < here.log.len() {
            here.apply_next(next, region, self.rules, &view);
        }
        here.nodes[next].told.clear();
        here.nodes[next].voiding.clear();
        state.left.leaders -= 1;
    }

    fn restore(&self, state: &mut State, region: u8) {
        state.left.restores -= 1;
        let here = &mut state.regions[usize::from(region)];
        let Some(mut backup) = here.backup.clone() else { return };
        here.pending.clear();
        here.waiters.clear();
        here.log.clear();
        if self.rules.on(Rule::R16Incarnation) {
            here.incarnation += 1;
            backup.open = 0;
            backup.streams = Default::default();
            state.log.push(Entry::Restored { region });
        }
        for node in &mut here.nodes {
            node.state = backup.clone();
        }
    }

    /// Runs one action; nothing if it changes nothing.
    pub(crate) fn step(&self, last: &State, action: Action) -> Option<State> {
        let mut next = last.clone();
        let state = &mut next;
        match action {
            Action::Ask { process, region, fresh } => self.ask(state, process, region, fresh)?,
            Action::Commit { region, at } => {
                let command = state.regions[usize::from(region)].pending.remove(at);
                self.commit(state, region, command);
            }
            Action::Apply { region, node } => {
                let view = state.view(region, node, self);
                state.regions[usize::from(region)].apply_next(node, region, self.rules, &view);
            }
            Action::Answer { region, at } => self.answer(state, region, at)?,
            Action::Deliver { message, process } => self.deliver(state, message, process),
            Action::Complete { process, region } => self.complete(state, process, region)?,
            Action::Release { process, region } => self.release(state, process, region)?,
            Action::Remint { process } => {
                let token = Token { epoch: u8::MAX, sequence: process, region: 0 };
                state.runs.push(Run { token, process, flagged: false, given_back: false });
                let holder = &mut state.processes[usize::from(process)];
                holder.done = true;
                holder.live = false;
                state.left.remints -= 1;
                state.reminted = true;
            }
            Action::Learn { region, node } => state.regions[usize::from(region)].nodes[node].seen += 1,
            Action::Renew { region } => {
                let here = &state.regions[usize::from(region)];
                let epoch = state.view(region, here.leader, self).epoch;
                state.log.push(Entry::Renew { epoch, region });
                state.left.renewals -= 1;
            }
            Action::HomeLeaseRunsOut => state.expired = state.latest(self).renewal,
            Action::Propose { entry } => {
                let is_planned = matches!(entry, Entry::TakeOver { planned: Some(_), .. });
                state.left.switchovers -= u8::from(is_planned);
                match self.slow.proposals {
                    true => state.proposals.push(entry),
                    false => state.log.push(entry),
                }
            }
            Action::CommitProposal { at } => {
                let entry = state.proposals.remove(at);
                state.log.push(entry);
            }
            Action::Append { entry } => self.append(state, entry)?,
            Action::Lead { region, command } => self.commit(state, region, command),
            Action::LeaseRunsOut { token } => {
                state.out.push(token);
                state.left.lapses -= 1;
            }
            Action::ChangeLeader { region } => self.change_leader(state, region),
            Action::Destroy { region } => {
                let here = &mut state.regions[usize::from(region)];
                here.destroyed = true;
                here.pending.clear();
                here.waiters.clear();
                state.left.destroyed -= 1;
            }
            Action::Backup { region } => {
                let here = &mut state.regions[usize::from(region)];
                here.backup = Some(here.leading().state.clone());
            }
            Action::Restore { region } => self.restore(state, region),
        }
        next.tidy(self);
        (next != *last).then_some(next)
    }

    fn append(&self, state: &mut State, entry: Entry) -> Option<()> {
        match &entry {
            Entry::DeclareLost { .. } => state.left.lost -= 1,
            Entry::Sweep => {
                let mut latest = state.latest(self);
                latest.apply(&entry, self.scope());
                if latest.swept == state.latest(self).swept {
                    return None;
                }
                state.left.sweeps -= 1;
            }
            Entry::TakeOver { .. }
            | Entry::Renew { .. }
            | Entry::Ship { .. }
            | Entry::Settle { .. }
            | Entry::Restored { .. } => {}
        }
        state.log.push(entry);
        Some(())
    }
}

impl Model for Config {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.client_actions(state, actions);
        for region in self.living(state) {
            self.region_actions(state, region, actions);
        }
        self.global_actions(state, actions);
        if state.left.lapses > 0 {
            let mut tokens: Vec<Token> = state
                .regions
                .iter()
                .flat_map(|region| region.leading().state.record.0.iter())
                .filter(|attempt| attempt.phase == Phase::Held)
                .map(|attempt| attempt.token)
                .filter(|token| !state.out.contains(token))
                .collect();
            tokens.sort();
            tokens.dedup();
            actions.extend(tokens.into_iter().map(|token| Action::LeaseRunsOut { token }));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        self.step(last, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("P1", |config: &Config, state: &State| config.local || heal::one_valid_grant(state)),
            Property::always("P2", heal::second_is_known),
            Property::always("P2 flag", |config: &Config, state: &State| {
                config.manual || config.local || heal::second_is_flagged(state)
            }),
            Property::always("P3", heal::replays_agree),
            Property::always("P4", |_: &Config, state: &State| !state.unknown_told),
            Property::always("P5", heal::every_retry_ends),
            Property::always("P7", heal::switchover_leaves_no_doubt),
        ]
    }
}
