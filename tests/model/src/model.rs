//! The transitions: everything that may happen next.

use stateright::{Model, Property};

use crate::global::{Change, Entry};
use crate::heal;
use crate::record::{Attempt, Nonce, Phase, Record, Token};
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
    fn nonce(&self, process: u8, number: u8) -> Nonce {
        let process = if self.rules.on(Rule::R9Fresh) { process } else { 0 };
        Nonce { process, number }
    }

    fn client_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (process, holder) in (0..).zip(&state.processes) {
            let others = || (0..).zip(&state.processes).filter(|(other, _)| *other != process);
            let sole = others().all(|(_, other)| other.asks == 0);
            let may_remint = if self.rules.on(Rule::R13Remint) { sole && !holder.indefinite } else { true };
            let idle = holder.running.is_none() && !holder.done;
            if idle && holder.refused && may_remint && state.left.remints > 0 {
                actions.push(Action::Remint { process });
            }
            let holds_key = !state.reminted || !self.rules.on(Rule::R13Remint);
            // Processes are alike, so they begin in order.
            let in_turn = (0..).zip(&state.processes).all(|(other, before)| other >= process || before.asks > 0);
            for region in self.living(state) {
                let stays = self.roam || region == process % self.regions;
                if idle
                    && in_turn
                    && stays
                    && holds_key
                    && holder.asks < self.asks
                    && state.latest(self).epoch >= self.mint
                {
                    let again = holder.live.then_some(Action::Ask { process, region, fresh: false });
                    actions.extend(again);
                    actions.push(Action::Ask { process, region, fresh: true });
                }
                if holder.running.is_some() && holder.completes < self.completes {
                    actions.push(Action::Complete { process, region });
                }
                if holder.running.is_some() && holder.completes == 0 && state.left.releases > 0 {
                    actions.push(Action::Release { process, region });
                }
            }
            for (message, sent) in state.wire.iter().enumerate() {
                if idle && holder.live && self.nonce(process, holder.number) == sent.nonce {
                    actions.push(Action::Deliver { message, process });
                }
            }
        }
    }

    pub(crate) fn living<'a>(&self, state: &'a State) -> impl Iterator<Item = u8> + 'a {
        (0..self.regions).filter(|region| !state.regions[usize::from(*region)].destroyed)
    }

    fn region_actions(&self, state: &State, region: u8, actions: &mut Vec<Action>) {
        let here = &state.regions[usize::from(region)];
        actions.extend((0..here.pending.len()).map(|at| Action::Commit { region, at }));
        let ready = here.waiters.iter().enumerate().filter(|(_, waiter)| waiter.token.is_some());
        actions.extend(ready.map(|(at, _)| Action::Answer { region, at }));
        for (node, replica) in here.nodes.iter().enumerate() {
            if replica.applied < here.log.len() {
                actions.push(Action::Apply { region, node });
            }
            if replica.seen < state.log.len() {
                actions.push(Action::Learn { region, node });
            }
        }
        actions.extend(self.lead(state, region).into_iter().map(|command| Action::Lead { region, command }));
        if here.nodes.len() > 1 && state.left.leaders > 0 {
            actions.push(Action::ChangeLeader { region });
        }
        if state.left.destroyed > 0 {
            actions.push(Action::Destroy { region });
        }
        if state.left.restores > 0 && region == 0 {
            match &here.backup {
                None => actions.push(Action::Backup { region }),
                Some(backup) if *backup != here.leading().state => actions.push(Action::Restore { region }),
                Some(_) => {}
            }
        }
    }

    /// What the leader of a region has to do: seal, open, import, lapse, forget.
    pub(crate) fn lead(&self, state: &State, region: u8) -> Vec<Command> {
        let here = &state.regions[usize::from(region)];
        let own = &here.leading().state;
        let view = state.view(region, here.leader, self);
        let mut commands = Vec::new();
        // What the region has not, if it is held, and what went further elsewhere.
        let is_news = |attempt: &&Attempt| match own.record.get(attempt.token) {
            None => attempt.phase == Phase::Held,
            Some(known) => {
                let further = known.phase < attempt.phase && !matches!(attempt.phase, Phase::Completed(_));
                further && self.rules.on(Rule::R7ImportEnds)
            }
        };
        let held = || {
            let ended = view.record.0.iter().filter(|attempt| (1..view.epoch).contains(&attempt.token.epoch));
            let in_log = |at| self.scope().is_global(at) && self.rules.on(Rule::R12Trust);
            let settled = ended.filter(|attempt| view.is_settled(attempt.token.epoch) || in_log(attempt.token.epoch));
            Record(settled.filter(is_news).filter(|_| self.rules.on(Rule::R7Import)).cloned().collect())
        };
        // An epoch that the region never opened is sealed too, so that it can be settled.
        let ended = (1..view.epoch).filter(|epoch| view.acts(region, *epoch) && !own.sealed[usize::from(*epoch)]);
        let mine = ended.filter(|epoch| here.incarnation == 0 || !view.is_lost(*epoch));
        let mine = mine.filter(|epoch| *epoch == own.open || self.rules.on(Rule::R5Unopened));
        if self.rules.on(Rule::R5Seal) {
            commands.extend(mine.map(Command::Seal));
        }
        let acts = view.acts(region, view.epoch) && here.incarnation == view.incarnation[usize::from(region)];
        if acts
            && own.open < view.epoch
            && !view.is_lost(view.epoch)
            && (!own.is_open() || !self.rules.on(Rule::R5Seal))
        {
            commands.push(Command::Open { epoch: view.epoch, records: held() });
        }
        if acts && own.open == view.epoch && !held().0.is_empty() {
            commands.push(Command::Import(held()));
        }
        for token in &state.out {
            if own.record.get(*token).is_some_and(|attempt| attempt.phase == Phase::Held)
                && (token.epoch == 0 || own.is_open())
            {
                commands.push(Command::Lapse(*token));
            }
        }
        if view.swept && !own.forgot && !own.record.0.is_empty() {
            commands.push(Command::Forget);
        }
        let settled = (1..own.open).all(|epoch| view.is_settled(epoch));
        let past = settled || !self.rules.on(Rule::R15Settled);
        let holds = own.record.0.iter().any(|attempt| attempt.phase == Phase::Held);
        let ripe = state.left.sweeps > 0 && view.record.has_completed() && !own.forgot && !holds;
        if self.rules.on(Rule::R15Held) && acts && own.is_open() && past && ripe {
            commands.push(Command::Forget);
        }
        if state.left.switchovers > 0 && own.is_open() && acts && (settled || !self.rules.on(Rule::R14Settled)) {
            commands.push(Command::Seal(own.open));
        }
        commands.dedup();
        commands
    }

    fn global_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let latest = state.latest(self);
        actions.extend((0..state.proposals.len()).map(|at| Action::CommitProposal { at }));
        if self.takeovers && !self.manual && state.expired < latest.renewal {
            actions.push(Action::HomeLeaseRunsOut);
        }
        for region in self.living(state) {
            let here = &state.regions[usize::from(region)];
            let view = state.view(region, here.leader, self);
            if view.acts(region, view.epoch) && state.left.renewals > 0 {
                actions.push(Action::Renew { region });
            }
            self.take_overs(state, region, actions);
            actions.extend(self.ship(state, region).into_iter().map(|entry| Action::Append { entry }));
        }
        actions.extend(self.settle(state).into_iter().map(|entry| Action::Append { entry }));
        if state.left.lost > 0 {
            let open = (1..latest.epoch).filter(|epoch| !latest.is_settled(*epoch) && !latest.is_lost(*epoch));
            actions.extend(open.map(|epoch| Action::Append { entry: Entry::DeclareLost { epoch } }));
        }
        let acting = &state.regions[usize::from(latest.acting[usize::from(latest.epoch)])].leading().state;
        let forgot = acting.forgot && acting.open == latest.epoch;
        if state.left.sweeps > 0 && (forgot || !self.rules.on(Rule::R15Held)) {
            actions.push(Action::Append { entry: Entry::Sweep });
        }
    }

    fn take_overs(&self, state: &State, region: u8, actions: &mut Vec<Action>) {
        let here = &state.regions[usize::from(region)];
        let view = state.view(region, here.leader, self);
        let epoch = view.epoch + 1;
        if epoch > self.epochs {
            return;
        }
        let waited = self.manual || view.renewal <= state.expired || !self.rules.on(Rule::R1Wait);
        let mut entries = Vec::new();
        if self.takeovers && waited && !view.acts(region, view.epoch) {
            entries.push(Entry::TakeOver { epoch, region, renewal: view.renewal, planned: None });
        }
        let own = &here.leading().state;
        let sealed = own.open == view.epoch && own.sealed[usize::from(own.open)];
        if sealed && state.left.switchovers > 0 && view.acts(region, view.epoch) {
            let end = Some(own.streams[usize::from(own.open)].len() as u8);
            let to =
                self.living(state).map(|to| Entry::TakeOver { epoch, region: to, renewal: view.renewal, planned: end });
            entries.extend(to);
        }
        entries.retain(|entry| !state.proposals.contains(entry));
        actions.extend(entries.into_iter().map(|entry| Action::Propose { entry }));
    }

    /// What a region may ship next, of each of its streams.
    pub(crate) fn ship(&self, state: &State, region: u8) -> Vec<Entry> {
        let latest = state.latest(self);
        let here = &state.regions[usize::from(region)];
        let mut entries = Vec::new();
        for (stream, changes) in (0..).zip(&here.leading().state.streams) {
            let mark = match stream {
                0 => latest.local_watermark[usize::from(region)],
                epoch if latest.acts(region, epoch) && latest.stream_of[usize::from(epoch)] == here.incarnation => {
                    latest.watermark[usize::from(epoch)]
                }
                _ => continue,
            };
            let ahead = u8::from(!self.rules.on(Rule::R2Gap));
            for at in mark..=mark + ahead {
                if let Some(change) = changes.get(usize::from(at)) {
                    let (change, incarnation) = (Change::clone(change), here.incarnation);
                    entries.push(Entry::Ship { stream, region, incarnation, at, change });
                }
            }
        }
        entries
    }

    pub(crate) fn settle(&self, state: &State) -> Vec<Entry> {
        let latest = state.latest(self);
        let may = |epoch: &u8| {
            let at = usize::from(*epoch);
            let region = &state.regions[usize::from(latest.acting[at])];
            let shipped = region.leading().state.streams[at].len() == usize::from(latest.watermark[at]);
            let at_end = if self.rules.on(Rule::R5Seal) { latest.closed[at] } else { shipped };
            !latest.is_settled(*epoch) && (at_end || !self.rules.on(Rule::R3End))
        };
        (1..latest.epoch).filter(may).map(|epoch| Entry::Settle { epoch }).collect()
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
