//! The leases of running grants, counted on this leader's own monotonic clock: from when it applied the grant, or since
//! it leads, whichever is later. A lease that ran out is proposed as a Lapse entry; nothing lapses by itself. A grant whose
//! caller went away before it was answered is taken back instead: nobody can be executing it.
//!
//! A table belongs to one term of leading. A follower has none, so that nothing of one leadership survives into the next.

use std::collections::{BTreeMap, HashMap, HashSet};
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
    /// The term that it is counted in; nothing while this node does not lead.
    term: Option<u64>,
    /// While leases are inherited: keys that have changed since, which are known better than what is inherited.
    changed: Option<HashSet<RecordKey>>,
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
    /// The term that it was counted in.
    pub(super) term: u64,
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

    /// Begins a table for a term, without a lease of any term before. Until [`Leases::inherited`] it takes leases over.
    pub(super) fn begin(&self, term: u64) {
        *self.table() = Table { term: Some(term), changed: Some(HashSet::new()), ..Table::default() };
        self.changed.notify_one();
    }

    /// Every lease that was running has been inherited.
    pub(super) fn inherited(&self, term: u64) {
        let mut table = self.table();
        if table.term == Some(term) {
            table.changed = None;
        }
    }

    /// Ends the table: this node counts no leases.
    pub(super) fn clear(&self) {
        *self.table() = Table::default();
        self.changed.notify_one();
    }

    /// Follows a change of a key, if this node leads: starts, restarts or ends its lease.
    pub(super) fn follow(&self, key: &RecordKey, holding: Option<Holding>, now: Monotonic) {
        let mut table = self.table();
        if table.term.is_none() {
            return;
        }
        if let Some(changed) = &mut table.changed {
            changed.insert(key.clone());
        }
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

    /// Starts the lease of a grant that was made before this node led in `term`: somebody may know of it. A key that has
    /// changed since keeps what it has.
    pub(super) fn inherit(&self, term: u64, key: RecordKey, holding: Holding, now: Monotonic) {
        let mut table = self.table();
        if table.term != Some(term) || table.changed.as_ref().is_none_or(|changed| changed.contains(&key)) {
            return;
        }
        table.start(key, holding, now, true);
        drop(table);
        self.changed.notify_one();
    }

    /// The last look before a grant is answered that was proposed in `term`.
    pub(super) fn confirm(
        &self,
        term: u64,
        key: &RecordKey,
        token: FencingToken,
        received: Monotonic,
        now: Monotonic,
    ) -> Confirmation {
        let mut table = self.table();
        if table.term != Some(term) {
            return Confirmation::Gone;
        }
        let Some(lease) = table.held.get_mut(key).filter(|lease| lease.holding.token == token) else {
            return Confirmation::Gone;
        };
        if lease.voided {
            return Confirmation::Gone;
        }
        if now < lease.deadline {
            lease.told = true;
            // Its caller counts from when it sent the request, which was earlier: so what is left is never more than this. A
            // request that waited has waited in it, or a grant that begins after a wait would be over before it is heard of.
            return Confirmation::Valid(lease.deadline.since(received));
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
        let Some(term) = table.term else { return lapsed };
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
            lapsed.push(Lapsed { key, token, lease_revision, term, untold });
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

    /// The leases of a leader that inherited none.
    fn leading(term: u64) -> Leases {
        let leases = Leases::default();
        leases.begin(term);
        leases
    }

    const RETRY: Duration = Duration::from_millis(100);

    #[test]
    fn a_grant_is_answered_only_while_its_lease_runs() {
        let leases = leading(1);
        let grant = holding(1, 1_000, 0);
        leases.follow(&key("a"), Some(grant), at(10));
        assert_eq!(
            leases.confirm(1, &key("a"), grant.token, at(5), at(20)),
            Confirmation::Valid(Duration::from_millis(1_005)),
            "the time until it was granted was none of its lease"
        );
        assert_eq!(
            leases.confirm(1, &key("a"), grant.token, at(410), at(420)),
            Confirmation::Valid(Duration::from_millis(600)),
            "a resend has less time left"
        );
        assert_eq!(leases.confirm(1, &key("a"), grant.token, at(1_000), at(1_010)), Confirmation::Gone, "told before");
        assert_eq!(leases.confirm(1, &key("a"), holding(2, 1, 0).token, at(5), at(20)), Confirmation::Gone);
        assert!(!leases.take_due(at(1_010), 9, RETRY)[0].untold);
    }

    #[test]
    fn what_was_waited_is_added_to_a_lease_and_no_more() {
        let leases = leading(1);
        let grant = holding(1, 500, 0);
        leases.follow(&key("a"), Some(grant), at(10_000));
        let left = |received, now| leases.confirm(1, &key("a"), grant.token, at(received), at(now));
        assert_eq!(left(0, 10_100), Confirmation::Valid(Duration::from_millis(10_500)), "from when it was received");
        assert_eq!(left(10_000, 10_100), Confirmation::Valid(Duration::from_millis(500)), "whoever did not wait");
    }

    #[test]
    fn a_grant_that_nobody_was_told_of_is_voided_once() {
        let leases = leading(1);
        let grant = holding(1, 50, 0);
        leases.follow(&key("a"), Some(grant), at(0));
        assert_eq!(leases.confirm(1, &key("a"), grant.token, at(0), at(50)), Confirmation::Void);
        assert_eq!(leases.confirm(1, &key("a"), grant.token, at(0), at(50)), Confirmation::Gone);
        leases.inherit(1, key("b"), grant, at(0));
        assert_eq!(leases.confirm(1, &key("b"), grant.token, at(0), at(50)), Confirmation::Gone, "may be known");
    }

    #[test]
    fn a_lease_that_is_inherited_or_extended_is_not_ended_by_the_one_before() {
        let leases = leading(1);
        leases.follow(&key("a"), Some(holding(1, 100, 0)), at(0));
        leases.inherit(1, key("a"), holding(1, 100, 0), at(50));
        leases.follow(&key("a"), Some(holding(1, 100, 1)), at(60));
        assert_eq!(leases.earliest(), Some(at(160)));
        assert!(leases.take_due(at(159), 9, RETRY).is_empty(), "applied again from the log, inherited, then extended");
        assert_eq!(leases.take_due(at(160), 9, RETRY).len(), 1);
    }

    #[test]
    fn a_new_grant_is_not_ended_by_the_lease_of_the_one_before() {
        let leases = leading(1);
        leases.follow(&key("a"), Some(holding(1, 100, 0)), at(0));
        leases.follow(&key("a"), None, at(10));
        leases.follow(&key("a"), Some(holding(2, 100, 0)), at(20));
        assert!(leases.take_due(at(119), 9, RETRY).is_empty());
        assert_eq!(leases.take_due(at(120), 9, RETRY)[0].token, holding(2, 100, 0).token);
    }

    #[test]
    fn a_grant_whose_caller_went_away_is_taken_back_when_its_lease_ends() {
        let leases = leading(1);
        let grant = holding(1, 100, 0);
        leases.follow(&key("a"), Some(grant), at(0));
        assert!(leases.take_due(at(100), 9, RETRY)[0].untold);
        assert_eq!(
            leases.confirm(1, &key("a"), grant.token, at(0), at(99)),
            Confirmation::Gone,
            "nobody is told any more"
        );
    }

    #[test]
    fn an_extension_moves_the_lapse_and_a_checkpoint_does_not() {
        let leases = leading(1);
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

    #[test]
    fn a_follower_counts_nothing() {
        let leases = Leases::default();
        leases.follow(&key("a"), Some(holding(1, 100, 0)), at(0));
        leases.inherit(1, key("b"), holding(2, 100, 0), at(0));
        assert_eq!((leases.held(), leases.earliest()), (0, None));
        assert_eq!(leases.confirm(1, &key("a"), holding(1, 100, 0).token, at(0), at(1)), Confirmation::Gone);
    }

    #[test]
    fn a_grant_of_one_term_is_not_answered_in_another() {
        let leases = leading(1);
        let grant = holding(1, 100, 0);
        leases.follow(&key("a"), Some(grant), at(0));
        leases.clear();
        assert_eq!(leases.confirm(1, &key("a"), grant.token, at(0), at(1)), Confirmation::Gone, "no longer leading");
        leases.begin(3);
        leases.inherit(3, key("a"), grant, at(5));
        assert_eq!(leases.confirm(1, &key("a"), grant.token, at(0), at(6)), Confirmation::Gone, "leading anew");
        assert!(matches!(leases.confirm(3, &key("a"), grant.token, at(0), at(6)), Confirmation::Valid(_)));
    }

    #[test]
    fn what_one_term_took_back_or_told_does_not_survive_it() {
        let leases = leading(1);
        let grant = holding(1, 100, 0);
        leases.follow(&key("a"), Some(grant), at(0));
        assert!(leases.take_due(at(100), 9, RETRY)[0].untold, "being taken back");
        leases.clear();
        leases.begin(2);
        leases.inherit(2, key("a"), grant, at(200));
        leases.inherited(2);
        assert_eq!(leases.earliest(), Some(at(300)), "a whole lease anew");
        let due = leases.take_due(at(300), 9, RETRY);
        assert!(!due[0].untold, "whoever led before may have told somebody");
    }

    #[test]
    fn what_changes_while_leases_are_inherited_is_not_overwritten() {
        let leases = leading(2);
        leases.follow(&key("ended"), None, at(10));
        leases.follow(&key("extended"), Some(holding(1, 100, 1)), at(10));
        leases.inherit(2, key("ended"), holding(7, 100, 0), at(20));
        leases.inherit(2, key("extended"), holding(1, 100, 0), at(20));
        leases.inherit(1, key("stale"), holding(1, 100, 0), at(20));
        leases.inherited(2);
        leases.inherit(2, key("late"), holding(1, 100, 0), at(20));
        assert_eq!(leases.held(), 1);
        assert_eq!(leases.take_due(at(110), 9, RETRY)[0].lease_revision, 1);
    }
    /// Resident bytes of this process.
    fn resident() -> u64 {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap() * 4_096
    }

    #[test]
    fn a_held_key_costs_what_the_limits_say() {
        const KEYS: u64 = 200_000;
        let leases = leading(1);
        let before = resident();
        for number in 0..KEYS {
            let name = format!("order-018f7a2e-4b7c-{number:012}-9c4e-5d6f7a8b9c0d");
            leases.follow(&key(&name), Some(holding(number, 30_000, 0)), at(number));
        }
        let (each, expected) = (resident().saturating_sub(before) / KEYS, crate::limits::HELD_KEY_BYTES);
        assert!((expected * 3 / 4..=expected * 5 / 4).contains(&each), "{each} bytes a held key");
    }
}
