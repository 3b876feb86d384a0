//! The leases of running grants, counted on this leader's own monotonic clock: from when it applied the grant, or since
//! it leads, whichever is later. A lease that ran out is proposed as a Lapse entry; nothing lapses by itself. A grant whose
//! caller went away before it was answered is taken back instead: nobody can be executing it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Monotonic;
use crate::ids::{FencingToken, RecordKey};
use crate::reservation::record::Holding;

/// Order among leases that end at the same moment.
type Due = (Monotonic, u64);

struct Lease {
    holding: Holding,
    /// When it runs out.
    deadline: Monotonic,
    /// Where it stands among those to propose: at its deadline first, later when the proposal is due again.
    due: Due,
    /// Somebody may know of the grant, so it cannot be taken back.
    told: bool,
    /// It is being taken back, so nobody may be told.
    voided: bool,
}

#[derive(Default)]
struct Table {
    held: HashMap<RecordKey, Lease>,
    due: BTreeMap<Due, RecordKey>,
    next: u64,
}

/// The leases of one partition.
#[derive(Default)]
pub(super) struct Leases {
    table: Mutex<Table>,
    /// The earliest lease may have changed.
    pub(super) changed: Notify,
}

/// Whether a grant may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmation {
    /// It may: so much of its lease is left, counted from when the request was received.
    Valid(Duration),
    /// Its lease ran out before anybody was told: take it back.
    Void,
    /// It is no longer the running grant, or may no longer start.
    Gone,
}

/// A lease that ran out.
#[derive(Clone, Debug)]
pub(super) struct Lapsed {
    pub(super) key: RecordKey,
    pub(super) token: FencingToken,
    pub(super) lease_revision: u32,
    /// Nobody was told of the grant, and nobody will be: it did not execute.
    pub(super) untold: bool,
}

impl Table {
    fn place(&mut self, at: Monotonic) -> Due {
        self.next = self.next.wrapping_add(1);
        (at, self.next)
    }

    /// Starts a lease in place of the one that the key had.
    fn start(&mut self, key: RecordKey, holding: Holding, now: Monotonic, told: bool) {
        self.end(&key);
        let deadline = now.plus(Duration::from_millis(u64::from(holding.lease_ms)));
        let due = self.place(deadline);
        self.due.insert(due, key.clone());
        self.held.insert(key, Lease { holding, deadline, due, told, voided: false });
    }

    /// Ends the lease of a key, if it has one: no proposal of it stays due.
    fn end(&mut self, key: &RecordKey) {
        if let Some(lease) = self.held.remove(key) {
            self.due.remove(&lease.due);
        }
    }
}

impl Leases {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows a change of a key: starts, restarts or ends its lease.
    pub(super) fn follow(&self, key: &RecordKey, holding: Option<Holding>, now: Monotonic) {
        let mut table = self.table();
        let before = table.held.get(key).map(|lease| (lease.holding, lease.told));
        if before.map(|(known, _)| known) == holding {
            return;
        }
        let Some(holding) = holding else { return table.end(key) };
        // Whoever extended it knows of it.
        let told =
            holding.lease_revision > 0 || before.is_some_and(|(known, told)| told && known.token == holding.token);
        table.start(key.clone(), holding, now, told);
        drop(table);
        self.changed.notify_one();
    }

    /// Starts the lease of a grant that was made before this node led: somebody may know of it.
    pub(super) fn inherit(&self, key: RecordKey, holding: Holding, now: Monotonic) {
        self.table().start(key, holding, now, true);
        self.changed.notify_one();
    }

    /// The last look before a grant is answered.
    pub(super) fn confirm(
        &self,
        key: &RecordKey,
        token: FencingToken,
        received: Monotonic,
        now: Monotonic,
    ) -> Confirmation {
        let mut table = self.table();
        let Some(lease) = table.held.get_mut(key).filter(|lease| lease.holding.token == token) else {
            return Confirmation::Gone;
        };
        if lease.voided {
            return Confirmation::Gone;
        }
        if now < lease.deadline {
            lease.told = true;
            let whole = Duration::from_millis(u64::from(lease.holding.lease_ms));
            return Confirmation::Valid(lease.deadline.since(received).min(whole));
        }
        if lease.told {
            return Confirmation::Gone;
        }
        lease.voided = true;
        Confirmation::Void
    }

    /// What is left of the lease of a key, if it is held.
    pub(super) fn left(&self, key: &RecordKey, now: Monotonic) -> Option<Duration> {
        self.table().held.get(key).map(|lease| lease.deadline.since(now))
    }

    /// When the earliest lease runs out.
    pub(super) fn earliest(&self) -> Option<Monotonic> {
        self.table().due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Leases that have run out, at most `limit`. Each comes again after `retry`, unless its key has changed by then.
    pub(super) fn take_due(&self, now: Monotonic, limit: usize, retry: Duration) -> Vec<Lapsed> {
        let mut table = self.table();
        let mut lapsed = Vec::new();
        while lapsed.len() < limit {
            let Some(entry) = table.due.first_entry().filter(|entry| entry.key().0 <= now) else { break };
            let (popped, key) = entry.remove_entry();
            let again = table.place(now.plus(retry));
            // Only the lease that this entry was made for: a key may have another one by now.
            let Some(lease) = table.held.get_mut(&key).filter(|lease| lease.due == popped) else { continue };
            lease.due = again;
            lease.voided |= !lease.told;
            let Holding { token, lease_revision, .. } = lease.holding;
            let untold = lease.voided;
            table.due.insert(again, key.clone());
            lapsed.push(Lapsed { key, token, lease_revision, untold });
        }
        lapsed
    }

    /// How many keys are held.
    pub(super) fn held(&self) -> usize {
        self.table().held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, IdempotencyKey, TenantId};

    fn key(name: &str) -> RecordKey {
        RecordKey { tenant: TenantId::parse("acme").unwrap(), key: IdempotencyKey::parse(name).unwrap() }
    }

    fn holding(sequence: u64, lease_ms: u32, lease_revision: u32) -> Holding {
        Holding { token: FencingToken { epoch: Epoch(1), sequence }, lease_ms, lease_revision }
    }

    fn at(ms: u64) -> Monotonic {
        Monotonic::at(Duration::from_millis(ms))
    }

    const RETRY: Duration = Duration::from_millis(100);

    #[test]
    fn a_grant_is_answered_only_while_its_lease_runs() {
        let leases = Leases::default();
        let grant = holding(1, 1_000, 0);
        leases.follow(&key("a"), Some(grant), at(10));
        assert_eq!(leases.confirm(&key("a"), grant.token, at(5), at(20)), Confirmation::Valid(Duration::from_secs(1)));
        assert_eq!(
            leases.confirm(&key("a"), grant.token, at(410), at(420)),
            Confirmation::Valid(Duration::from_millis(600)),
            "a resend has less time left"
        );
        assert_eq!(leases.confirm(&key("a"), grant.token, at(1_000), at(1_010)), Confirmation::Gone, "told before");
        assert_eq!(leases.confirm(&key("a"), holding(2, 1, 0).token, at(5), at(20)), Confirmation::Gone);
        assert!(!leases.take_due(at(1_010), 9, RETRY)[0].untold);
    }

    #[test]
    fn a_grant_that_nobody_was_told_of_is_voided_once() {
        let leases = Leases::default();
        let grant = holding(1, 50, 0);
        leases.follow(&key("a"), Some(grant), at(0));
        assert_eq!(leases.confirm(&key("a"), grant.token, at(0), at(50)), Confirmation::Void);
        assert_eq!(leases.confirm(&key("a"), grant.token, at(0), at(50)), Confirmation::Gone);
        leases.inherit(key("b"), grant, at(0));
        assert_eq!(leases.confirm(&key("b"), grant.token, at(0), at(50)), Confirmation::Gone, "may be known");
    }

    #[test]
    fn a_lease_that_is_inherited_or_extended_is_not_ended_by_the_one_before() {
        let leases = Leases::default();
        leases.follow(&key("a"), Some(holding(1, 100, 0)), at(0));
        leases.inherit(key("a"), holding(1, 100, 0), at(50));
        leases.follow(&key("a"), Some(holding(1, 100, 1)), at(60));
        assert_eq!(leases.earliest(), Some(at(160)));
        assert!(leases.take_due(at(159), 9, RETRY).is_empty(), "applied again from the log, inherited, then extended");
        assert_eq!(leases.take_due(at(160), 9, RETRY).len(), 1);
    }

    #[test]
    fn a_new_grant_is_not_ended_by_the_lease_of_the_one_before() {
        let leases = Leases::default();
        leases.follow(&key("a"), Some(holding(1, 100, 0)), at(0));
        leases.follow(&key("a"), None, at(10));
        leases.follow(&key("a"), Some(holding(2, 100, 0)), at(20));
        assert!(leases.take_due(at(119), 9, RETRY).is_empty());
        assert_eq!(leases.take_due(at(120), 9, RETRY)[0].token, holding(2, 100, 0).token);
    }

    #[test]
    fn a_grant_whose_caller_went_away_is_taken_back_when_its_lease_ends() {
        let leases = Leases::default();
        let grant = holding(1, 100, 0);
        leases.follow(&key("a"), Some(grant), at(0));
        assert!(leases.take_due(at(100), 9, RETRY)[0].untold);
        assert_eq!(
            leases.confirm(&key("a"), grant.token, at(0), at(99)),
            Confirmation::Gone,
            "nobody is told any more"
        );
    }

    #[test]
    fn an_extension_moves_the_lapse_and_a_checkpoint_does_not() {
        let leases = Leases::default();
        leases.follow(&key("a"), Some(holding(1, 100, 0)), at(0));
        leases.follow(&key("a"), Some(holding(1, 100, 0)), at(90));
        assert_eq!(leases.earliest(), Some(at(100)), "the same lease goes on");
        leases.follow(&key("a"), Some(holding(1, 100, 1)), at(90));
        assert!(leases.take_due(at(189), 9, RETRY).is_empty());
        let due = leases.take_due(at(190), 9, RETRY);
        assert_eq!(due.len(), 1);
        assert_eq!(due[0].lease_revision, 1);
        assert!(!due[0].untold, "whoever extended it knows of it");
        assert!(leases.take_due(at(289), 9, RETRY).is_empty(), "proposed already");
        assert_eq!(leases.take_due(at(290), 9, RETRY).len(), 1, "and again if nothing came of it");
        leases.follow(&key("a"), None, at(300));
        assert_eq!(leases.earliest(), None);
        assert_eq!(leases.held(), 0);
    }
}
