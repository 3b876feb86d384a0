//! The global group of one partition: what its log holds, and what each replica makes of it (R1 to R4, R12, R14 to R16).

use crate::record::{Attempt, Phase, Record};
use crate::rule::{Rule, Rules};

/// Epochs are 1 to 4; stream 0 is that of `local`, one a region.
pub(crate) const EPOCHS: usize = 6;
pub(crate) const REGIONS: usize = 3;

/// An entry of the global log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Entry {
    TakeOver { epoch: u8, region: u8, renewal: u8, planned: Option<u8> },
    Renew { epoch: u8, region: u8 },
    Ship { stream: u8, region: u8, incarnation: u8, at: u8, change: Change },
    Settle { epoch: u8 },
    DeclareLost { epoch: u8 },
    Restored { region: u8 },
    Sweep,
}

/// One mutation of a stream.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Change {
    Of(Attempt),
    Seal,
}

/// What a replica knows.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Global {
    pub(crate) epoch: u8,
    pub(crate) acting: [u8; EPOCHS],
    pub(crate) watermark: [u8; EPOCHS],
    pub(crate) local_watermark: [u8; REGIONS],
    pub(crate) closed: [bool; EPOCHS],
    pub(crate) settled: [bool; EPOCHS],
    pub(crate) lost: [bool; EPOCHS],
    pub(crate) planned: [bool; EPOCHS],
    pub(crate) renewal: u8,
    pub(crate) renewed_in: u8,
    pub(crate) incarnation: [u8; REGIONS],
    /// The incarnation that an epoch's stream is of.
    pub(crate) stream_of: [u8; EPOCHS],
    pub(crate) record: Record,
    pub(crate) swept: bool,
}

/// What of a policy the global group knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Scope {
    pub(crate) rules: Rules,
    /// The first epoch that is wholly `global`; 0 for none.
    pub(crate) global_from: u8,
}

impl Scope {
    pub(crate) fn is_global(&self, epoch: u8) -> bool {
        self.global_from != 0 && epoch >= self.global_from
    }
}

impl Global {
    /// Region 0 acts in epoch 1 and holds the lease of renewal 1.
    pub(crate) fn new() -> Global {
        Global {
            epoch: 1,
            acting: [0; EPOCHS],
            watermark: [0; EPOCHS],
            local_watermark: [0; REGIONS],
            closed: [false; EPOCHS],
            settled: [false; EPOCHS],
            lost: [false; EPOCHS],
            planned: [false; EPOCHS],
            renewal: 1,
            renewed_in: 1,
            incarnation: [0; REGIONS],
            stream_of: [0; EPOCHS],
            record: Record::default(),
            swept: false,
        }
    }

    pub(crate) fn acts(&self, region: u8, epoch: u8) -> bool {
        self.acting[usize::from(epoch)] == region
    }

    pub(crate) fn is_settled(&self, epoch: u8) -> bool {
        self.settled[usize::from(epoch)]
    }

    pub(crate) fn is_lost(&self, epoch: u8) -> bool {
        self.lost[usize::from(epoch)]
    }

    pub(crate) fn apply(&mut self, entry: &Entry, scope: Scope) {
        let rules = scope.rules;
        match entry {
            Entry::TakeOver { epoch, region, renewal, planned } => {
                self.take_over(*epoch, *region, *renewal, *planned, rules);
            }
            Entry::Renew { epoch, region } => {
                if *epoch == self.epoch && self.acts(*region, *epoch) {
                    self.renewal += 1;
                    self.renewed_in = *epoch;
                }
            }
            Entry::Ship { stream, region, incarnation, at, change } => {
                let of = self.stream_of[usize::from(*stream)];
                let current = self.incarnation[usize::from(*region)] == *incarnation && of == *incarnation;
                if current || !rules.on(Rule::R16Incarnation) {
                    self.ship(*stream, *region, *at, change, scope);
                }
            }
            Entry::Settle { epoch } => {
                let at = usize::from(*epoch);
                if *epoch < self.epoch && (self.closed[at] || !rules.on(Rule::R3End) || !rules.on(Rule::R5Seal)) {
                    self.settled[at] = true;
                }
            }
            Entry::DeclareLost { epoch } => {
                if *epoch < self.epoch && !self.is_settled(*epoch) {
                    self.lost[usize::from(*epoch)] = true;
                }
            }
            Entry::Restored { region } => self.restored(*region),
            Entry::Sweep => self.sweep(rules),
        }
    }

    fn take_over(&mut self, epoch: u8, region: u8, renewal: u8, planned: Option<u8>, rules: Rules) {
        let at = usize::from(epoch);
        let epoch_fits = epoch == self.epoch + 1 || (!rules.on(Rule::R1Epoch) && epoch <= self.epoch);
        let ended = at - 1;
        let accepted = epoch_fits
            && match planned {
                Some(end) => !rules.on(Rule::R14End) || self.watermark[ended] == end,
                None => renewal == self.renewal || !rules.on(Rule::R1Renewal),
            };
        if !accepted {
            return;
        }
        self.epoch = self.epoch.max(epoch);
        self.acting[at] = region;
        self.stream_of[at] = self.incarnation[usize::from(region)];
        self.planned[at] = planned.is_some();
        if planned.is_some() && rules.on(Rule::R14Settles) {
            self.settled[ended] = true;
        }
    }

    fn ship(&mut self, stream: u8, region: u8, at: u8, change: &Change, scope: Scope) {
        let mark = match stream {
            0 => &mut self.local_watermark[usize::from(region)],
            epoch => &mut self.watermark[usize::from(epoch)],
        };
        if at < *mark || (at > *mark && scope.rules.on(Rule::R2Gap)) {
            return;
        }
        *mark = at + 1;
        match change {
            Change::Seal => self.closed[usize::from(stream)] = true,
            Change::Of(attempt) => {
                let mut attempt = attempt.clone();
                let is_tail = stream != 0 && stream < self.epoch;
                let void = is_tail && scope.is_global(stream) && scope.rules.on(Rule::R12Tail);
                if void && attempt.phase == Phase::Held {
                    attempt.phase = Phase::Released;
                }
                self.record.add(attempt, scope.rules);
            }
        }
    }

    /// A region's data went back in time: its unsettled epochs, the open one too, are lost.
    fn restored(&mut self, region: u8) {
        self.incarnation[usize::from(region)] += 1;
        for epoch in 1..=self.epoch {
            if self.acts(region, epoch) && !self.is_settled(epoch) {
                self.lost[usize::from(epoch)] = true;
            }
        }
    }

    fn sweep(&mut self, rules: Rules) {
        let settled = (1..self.epoch).all(|epoch| self.is_settled(epoch));
        let may_go = (settled || !rules.on(Rule::R15Settled))
            && (self.record.has_completed() || !rules.on(Rule::R15Completed))
            && !self.record.0.is_empty();
        if may_go {
            self.record = Record::default();
            self.swept = true;
        }
    }
}
