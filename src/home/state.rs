//! What the global group of one partition has on its homes and streams, row by row.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::control::Signature;
use crate::home::evidence::LOCAL;
use crate::ids::{Digest, Epoch, RegionName};
use crate::limits;
use crate::policy::Consistency;
use crate::time::LogTime;

/// A home. One row; what can grow in it is bounded by [`Limits`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// The current epoch.
    pub epoch: Epoch,
    /// The region that acts in it.
    pub acting: RegionName,
    /// The incarnation of that region whose stream the epoch's is (R16).
    pub incarnation: u64,
    /// The current epoch is lost: its region's data went back in time. Nothing but a takeover helps (R16).
    pub lost: Option<Lost>,
    /// The number of the last renewal, in whatever epoch. 0 before the first.
    pub renewal: u64,
    /// The epoch of the last renewal. In a later epoch the acting region has no lease yet.
    pub renewed_in: Option<Epoch>,
    /// How long a candidate waits after it saw the last renewal, in milliseconds before its margins (R1): the longest lease of
    /// that epoch. A shorter renewal does not shorten it, since whoever relied on the one before may not have heard.
    pub lease_ms: u32,
    /// Ended epochs that are not settled, lost ones too until they are retired. Ascending.
    pub ended: Vec<Ended>,
    /// Which regions may act, the preferred first.
    pub order: Vec<RegionName>,
    /// The incarnations of regions that were restored; of all others it is 0.
    pub incarnations: BTreeMap<RegionName, u64>,
}

/// An ended epoch of which the global group does not have the whole stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub epoch: Epoch,
    /// The region that acted.
    pub region: RegionName,
    /// The incarnation that its stream is of.
    pub incarnation: u64,
    /// When it ended, in global log time.
    pub ended_at: LogTime,
    /// It is lost.
    pub lost: Option<Lost>,
}

/// Since when an epoch is lost, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Global log time.
    pub at: LogTime,
    /// Why.
    pub cause: LossCause,
}

/// Why an epoch is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// An operator said so (R4).
    Declared(Signature),
    /// Its region was restored to an earlier state (R16).
    Restored {
        /// The region's incarnation since then.
        incarnation: u64,
    },
}

/// Whose stream an epoch's is, and how the epoch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner<'a> {
    /// The region that acted.
    pub region: &'a RegionName,
    /// Its incarnation.
    pub incarnation: u64,
    /// The epoch ended.
    pub ended: Option<LogTime>,
    /// It is lost.
    pub lost: Option<&'a Lost>,
}

impl Home {
    /// Whose stream an epoch's is. Nothing: it is settled, retired, or has not begun.
    #[must_use]
    pub fn owner(&self, epoch: Epoch) -> Option<Owner<'_>> {
        if epoch == self.epoch {
            let (region, incarnation, lost) = (&self.acting, self.incarnation, self.lost.as_ref());
            return Some(Owner { region, incarnation, ended: None, lost });
        }
        let Ended { region, incarnation, ended_at, lost, .. } = self.ended.iter().find(|ended| ended.epoch == epoch)?;
        Some(Owner { region, incarnation: *incarnation, ended: Some(*ended_at), lost: lost.as_ref() })
    }

    /// The incarnation of a region.
    #[must_use]
    pub fn incarnation_of(&self, region: &RegionName) -> u64 {
        self.incarnations.get(region).copied().unwrap_or_default()
    }

    /// Whether every epoch from `from` up to the current one is settled or retired (R15).
    #[must_use]
    pub fn is_settled_since(&self, from: Epoch) -> bool {
        self.ended.iter().all(|ended| ended.epoch < from)
    }

    /// What a key that was made at `mint` has to fear of the epochs before the current one (R4, R6). `trusts` says which of them
    /// its endpoint was wholly `global` in: those hide nothing.
    #[must_use]
    pub fn doubt(&self, mint: Epoch, trusts: impl Fn(Epoch) -> bool) -> Past {
        let open = || self.ended.iter().filter(|ended| ended.epoch >= mint && !trusts(ended.epoch));
        match (open().next(), open().all(|ended| ended.lost.is_some())) {
            (None, _) => Past::Settled,
            (Some(_), true) => Past::Lost,
            (Some(_), false) => Past::Unsettled,
        }
    }
}

/// How the epochs stand that may have granted a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// All are settled or retired.
    Settled,
    /// Those that are not, are lost.
    Lost,
    /// One is neither.
    Unsettled,
}

/// The name of a stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    /// The home.
    pub home: RegionName,
    /// The epoch; [`LOCAL`] for the stream of `local` grants.
    pub epoch: Epoch,
    /// The region that writes it.
    pub region: RegionName,
    /// Its incarnation.
    pub incarnation: u64,
}

impl StreamId {
    /// Whether it is the stream of `local` grants.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.epoch == LOCAL
    }

    /// The position before the first. An epoch's stream begins at 1. That of `local` goes on over all incarnations, and each
    /// begins above all that the ones before it can have written, so that no `local` token is ever granted twice.
    #[must_use]
    pub fn start(&self) -> u64 {
        if self.is_local() { self.incarnation.saturating_mul(limits::LOCAL_POSITIONS) } else { 0 }
    }

    /// The stream before anything was shipped.
    #[must_use]
    pub fn empty(&self) -> Stream {
        let mut digest = Sha256::new().chain_update(b"holdfast-stream-v1\0");
        for name in [&self.home, &self.region] {
            digest.update(name.as_str());
            digest.update([0]);
        }
        digest.update(self.incarnation.to_be_bytes());
        digest.update(self.epoch.0.to_be_bytes());
        Stream { watermark: self.start(), chain: Digest(digest.finalize().into()), sealed: false }
    }
}

/// How far the global group has a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The position of the last mutation that was merged.
    pub watermark: u64,
    /// The chain hash up to there: what was shipped, and in which order.
    pub chain: Digest,
    /// The last one was the region's seal: the stream ends here (R3).
    pub sealed: bool,
}

/// The chain hash after one more mutation.
#[must_use]
pub fn chained(chain: Digest, mutation: Digest) -> Digest {
    Digest(Sha256::new().chain_update(chain.0).chain_update(mutation.0).finalize().into())
}

/// An endpoint's consistency in a home. It is one for all tenants of the endpoint: where their policies differ, the weakest
/// is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contract {
    /// What holds.
    pub consistency: Consistency,
    /// The first epoch that is wholly under it.
    pub since: Epoch,
}

impl Contract {
    /// Whether an epoch was wholly under `global`. What held before `since` is not remembered, and counts as not (R12).
    #[must_use]
    pub fn is_wholly_global(self, epoch: Epoch) -> bool {
        match self.consistency {
            Consistency::Global => epoch >= self.since,
            Consistency::Local | Consistency::Home => false,
        }
    }
}

/// What is one for the whole group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// The number of the oldest entry of the ledger that is kept.
    pub ledger_first: u64,
    /// The number of the next one.
    pub ledger_next: u64,
}

impl Default for Group {
    fn default() -> Self {
        Self { ledger_first: 1, ledger_next: 1 }
    }
}

/// How much there may be. The same on all replicas: a change is a change of version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Ended epochs of one home that are neither settled nor retired.
    pub ended: usize,
    /// Regions that may act for one home.
    pub regions: usize,
    /// Changes of consistency with one takeover.
    pub contracts: usize,
    /// Mutations of one Ship.
    pub mutations: usize,
    /// Bytes of them, unless one alone is larger.
    pub bytes: usize,
    /// Grants of one key.
    pub attempts: usize,
    /// Envelopes of one grant.
    pub envelopes: usize,
    /// Records of one Sweep, or entries of one Prune.
    pub swept: usize,
    /// Tasks of one page.
    pub tasks: usize,
}

impl Limits {
    /// Those that hold.
    pub const STANDARD: Self = Self {
        ended: limits::MAX_ENDED_EPOCHS,
        regions: limits::MAX_HOME_REGIONS,
        contracts: limits::MAX_CONTRACT_CHANGES,
        mutations: limits::MAX_SHIPPED_MUTATIONS,
        bytes: limits::MAX_SHIPPED_BYTES,
        attempts: limits::MAX_MERGED_ATTEMPTS,
        envelopes: limits::MAX_MERGED_ENVELOPES,
        swept: limits::MAX_SWEPT_RECORDS as usize,
        tasks: limits::MAX_TASK_PAGE,
    };
}

/// What the log entry says about the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Global log time.
    pub now: LogTime,
    /// How much there may be.
    pub limits: Limits,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(epoch: u64, is_lost: bool) -> Ended {
        let region = RegionName::parse("eu").unwrap();
        let lost = is_lost.then(|| Lost { at: LogTime::default(), cause: LossCause::Restored { incarnation: 1 } });
        Ended { epoch: Epoch(epoch), region, incarnation: 0, ended_at: LogTime::default(), lost }
    }

    #[test]
    fn a_key_fears_the_epochs_since_it_was_made() {
        let eu = RegionName::parse("eu").unwrap();
        let home = Home {
            epoch: Epoch(9),
            acting: eu.clone(),
            incarnation: 0,
            lost: None,
            renewal: 0,
            renewed_in: None,
            lease_ms: 0,
            ended: vec![ended(3, false), ended(5, true), ended(7, false)],
            order: vec![eu],
            incarnations: BTreeMap::new(),
        };
        let none = |_| false;
        let cases =
            [(1, Past::Unsettled), (4, Past::Unsettled), (7, Past::Unsettled), (8, Past::Settled), (9, Past::Settled)];
        for (mint, past) in cases {
            assert_eq!(home.doubt(Epoch(mint), none), past, "minted in {mint}");
        }
        assert_eq!(home.doubt(Epoch(4), |epoch| epoch == Epoch(7)), Past::Lost, "a wholly global epoch hides nothing");
        assert_eq!(home.doubt(Epoch(4), |epoch| epoch >= Epoch(5)), Past::Settled);
        assert!(home.is_settled_since(Epoch(8)) && !home.is_settled_since(Epoch(7)));
    }

    #[test]
    fn an_epoch_is_wholly_global_from_the_change_on() {
        let of = |consistency| Contract { consistency, since: Epoch(4) };
        let wholly = |contract: Contract| [3, 4, 5].map(|epoch| contract.is_wholly_global(Epoch(epoch)));
        assert_eq!(wholly(of(Consistency::Global)), [false, true, true]);
        assert_eq!(wholly(of(Consistency::Home)), [false; 3]);
        assert_eq!(wholly(of(Consistency::Local)), [false; 3]);
    }
}
