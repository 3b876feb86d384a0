//! The region's side of a home's epochs: Seal, Open, Confirm, as a region's own log decides them (R5, R16), and what a region
//! takes over from what all regions know of a key (R7).
//!
//! A region's log decides from the region's state and the entry alone. What the leader read of the global group, it writes
//! into the entry: [`news`] picks it, and [`import`](crate::reservation::import) applies it.

use std::collections::BTreeMap;

use crate::home::evidence::{Attempt, Phase};
use crate::home::merge;
use crate::ids::Epoch;
use crate::reservation::import::Import;
use crate::reservation::record::{self, Record};

/// What a region has on a home.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regional {
    /// The incarnation of the region's data.
    pub incarnation: u64,
    /// The data went back in time, and the region has not read of it in the global log: until then it opens, seals and
    /// ships nothing (R16).
    pub is_unconfirmed: bool,
    /// The epoch in which it grants.
    pub open: Option<Epoch>,
    /// The streams that it still has, by epoch.
    pub streams: BTreeMap<Epoch, Written>,
}

impl Regional {
    /// The open epoch and the next position of its stream: what a decision on a key is made with. Nothing: whatever was
    /// proposed is void, Reserve and Complete alike (R5).
    #[must_use]
    pub fn place(&self) -> Option<(Epoch, u64)> {
        let open = self.open?;
        self.streams.get(&open).filter(|written| !written.sealed).map(|written| (open, written.next))
    }

    /// A decision changed a key and took the next position.
    pub fn wrote(&mut self) {
        if let Some(written) = self.open.and_then(|open| self.streams.get_mut(&open)) {
            written.next = written.next.saturating_add(1);
        }
    }
}

/// How far a region wrote a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The next position.
    pub next: u64,
    /// The last one was the seal.
    pub sealed: bool,
}

/// What is asked of a region's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Nothing of the epoch commits here from now on, also what was proposed before.
    Seal {
        /// The epoch. It may be one that was never opened here.
        epoch: Epoch,
    },
    /// The region grants in this epoch from now on.
    Open {
        /// The epoch.
        epoch: Epoch,
        /// The incarnation that its takeover names.
        incarnation: u64,
    },
    /// The region read in the global log that it was restored.
    Confirm {
        /// Its incarnation there.
        incarnation: u64,
    },
    /// The global group has the whole stream, or wants no more of it.
    Forget {
        /// The stream's epoch.
        epoch: Epoch,
    },
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The stream ends at this position. Once all of it is shipped the epoch can be settled.
    Sealed {
        /// The position of the seal.
        end: u64,
    },
    /// The epoch is open.
    Opened,
    /// The incarnation is known in all regions.
    Confirmed,
    /// The stream is gone here.
    Forgotten,
    /// Nothing was done, and nothing will be.
    Refused(Refused),
}

/// Why a region's log refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The restore is not known everywhere.
    #[error(
        "this region was restored as incarnation {incarnation} and has not read of it in the global log: wait for that entry"
    )]
    Unconfirmed {
        /// The incarnation.
        incarnation: u64,
    },
    /// The epoch was taken over by another life of this region's data.
    #[error("the takeover names incarnation {named}, and this is {own}: take over anew")]
    Incarnation {
        /// The takeover's.
        named: u64,
        /// The region's.
        own: u64,
    },
    /// Epochs open in ascending order, each once, and never after their seal.
    #[error("epoch {last} was open or sealed here: an older one, or the same again, is not opened")]
    NotLater {
        /// The last one.
        last: Epoch,
    },
    /// The epoch before is not sealed.
    #[error("epoch {open} is open here: seal it first")]
    StillOpen {
        /// The open one.
        open: Epoch,
    },
    /// The stream is still written.
    #[error("epoch {epoch} is not sealed here: its stream is still written")]
    NotSealed {
        /// The epoch.
        epoch: Epoch,
    },
}

/// Decides a command; nothing but the answer if nothing changes.
#[must_use]
pub fn decide(state: &Regional, command: Command) -> (Reply, Option<Regional>) {
    let result = match command {
        Command::Seal { epoch } => seal(state, epoch),
        Command::Open { epoch, incarnation } => open(state, epoch, incarnation),
        Command::Confirm { incarnation } => confirm(state, incarnation),
        Command::Forget { epoch } => forget(state, epoch),
    };
    match result {
        Ok((reply, next)) => (reply, (next != *state).then_some(next)),
        Err(refused) => (Reply::Refused(refused), None),
    }
}

const fn confirmed(state: &Regional) -> Result<(), Refused> {
    if state.is_unconfirmed { Err(Refused::Unconfirmed { incarnation: state.incarnation }) } else { Ok(()) }
}

/// The seal takes the stream's next position, the first of a stream that was never opened. Sealed again, it is where it was.
fn seal(state: &Regional, epoch: Epoch) -> Result<(Reply, Regional), Refused> {
    confirmed(state)?;
    let mut next = state.clone();
    let written = next.streams.entry(epoch).or_insert(Written { next: 1, sealed: false });
    if !written.sealed {
        *written = Written { next: written.next.saturating_add(1), sealed: true };
    }
    let end = written.next.saturating_sub(1);
    next.open = next.open.filter(|open| *open != epoch);
    Ok((Reply::Sealed { end }, next))
}

fn open(state: &Regional, epoch: Epoch, incarnation: u64) -> Result<(Reply, Regional), Refused> {
    confirmed(state)?;
    if state.open == Some(epoch) {
        return Ok((Reply::Opened, state.clone()));
    }
    if incarnation != state.incarnation {
        return Err(Refused::Incarnation { named: incarnation, own: state.incarnation });
    }
    if let Some(open) = state.open {
        return Err(Refused::StillOpen { open });
    }
    if let Some((last, _)) = state.streams.last_key_value().filter(|(last, _)| **last >= epoch) {
        return Err(Refused::NotLater { last: *last });
    }
    let mut next = state.clone();
    next.open = Some(epoch);
    next.streams.insert(epoch, Written { next: 1, sealed: false });
    Ok((Reply::Opened, next))
}

fn confirm(state: &Regional, incarnation: u64) -> Result<(Reply, Regional), Refused> {
    if incarnation != state.incarnation {
        return Err(Refused::Incarnation { named: incarnation, own: state.incarnation });
    }
    Ok((Reply::Confirmed, Regional { is_unconfirmed: false, ..state.clone() }))
}

/// The last stream stays, empty as it may be: it says which epochs were here.
fn forget(state: &Regional, epoch: Epoch) -> Result<(Reply, Regional), Refused> {
    let is_last = state.streams.last_key_value().is_some_and(|(last, _)| *last == epoch);
    match state.streams.get(&epoch) {
        Some(written) if !written.sealed => Err(Refused::NotSealed { epoch }),
        Some(_) if !is_last => {
            let mut next = state.clone();
            next.streams.remove(&epoch);
            Ok((Reply::Forgotten, next))
        }
        Some(_) | None => Ok((Reply::Forgotten, state.clone())),
    }
}

/// What of a merged record is new to a region. Nothing: it has all of it.
///
/// It is held grants that the region does not have, and of those that it has every phase that is further, completions
/// excepted. `trusts` says of which epochs what is known counts: settled ones, and those that the endpoint was wholly `global`
/// in. What another region's `local` stream holds, this one cannot end, so it is left out (R17).
///
/// The recovery point goes with it at an Open, when the region cannot have a later one, or if the region has no record.
#[must_use]
pub fn news(
    own: Option<&Record>,
    merged: &merge::Record,
    opens: bool,
    trusts: impl Fn(Epoch) -> bool,
) -> Option<Import> {
    let counts = |attempt: &&Attempt| {
        let epoch = attempt.token.fencing.epoch;
        epoch >= Epoch::FIRST && trusts(epoch)
    };
    let attempts: Vec<record::Attempt> = merged.attempts.iter().filter(counts).filter_map(taken_over).collect();
    let known =
        |attempt: &record::Attempt| own.and_then(|own| own.attempts.iter().find(|one| one.token == attempt.token));
    let attempts: Vec<record::Attempt> = attempts
        .into_iter()
        .filter(|attempt| match (known(attempt).map(|known| &known.phase), &attempt.phase) {
            (None, phase) => is_held(phase),
            (Some(known), phase) => {
                is_held(known) && !is_held(phase) || *known == record::Phase::Lapsed && is_back(phase)
            }
        })
        .collect();
    if attempts.is_empty() {
        return None;
    }
    let checkpoint = merged.placed.as_ref().filter(|_| opens || own.is_none());
    Some(Import {
        endpoint: merged.endpoint()?.clone(),
        terms: merged.terms()?,
        attempts,
        checkpoint: checkpoint.and_then(|placed| placed.checkpoint.clone()),
    })
}

/// A grant in a region's own form; nothing if it completed.
fn taken_over(attempt: &Attempt) -> Option<record::Attempt> {
    let phase = match attempt.phase {
        Phase::Held { lease_ms, lease_revision } => record::Phase::Held { lease_ms, lease_revision },
        Phase::Lapsed => record::Phase::Lapsed,
        Phase::Released => record::Phase::Released,
        Phase::Completed(_) => return None,
    };
    Some(record::Attempt {
        token: attempt.token.fencing,
        number: attempt.number,
        fingerprint: attempt.fingerprint.clone(),
        nonce: attempt.nonce.clone(),
        flagged: attempt.flagged,
        phase,
    })
}

const fn is_held(phase: &record::Phase) -> bool {
    match phase {
        record::Phase::Held { .. } => true,
        record::Phase::Lapsed | record::Phase::Released | record::Phase::Completed { .. } => false,
    }
}

const fn is_back(phase: &record::Phase) -> bool {
    match phase {
        record::Phase::Released => true,
        record::Phase::Held { .. } | record::Phase::Lapsed | record::Phase::Completed { .. } => false,
    }
}

#[cfg(test)]
mod tests;
