//! What may happen next in a state: what clients, regions and the global log have before them.

use crate::global::{Change, Entry};
use crate::model::Action;
use crate::record::{Attempt, Phase, Record};
use crate::region::Command;
use crate::rule::Rule;
use crate::scenario::Config;
use crate::state::State;

impl Config {
    pub(crate) fn client_actions(&self, state: &State, actions: &mut Vec<Action>) {
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

    pub(crate) fn region_actions(&self, state: &State, region: u8, actions: &mut Vec<Action>) {
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

    pub(crate) fn global_actions(&self, state: &State, actions: &mut Vec<Action>) {
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
}
