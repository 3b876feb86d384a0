//! Label sets that clients choose, within a limit: the first ones get counters of their own, whatever comes beyond the limit
//! is counted under [`OTHER`]. Counting what is known takes one hash and no allocation.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use crate::clock::{Monotonic, monotonic};
use crate::limits;

use super::cells::Counter;

/// The value of labels that have no set of their own. No tenant can be called so.
pub const OTHER: &str = "(other)";

/// Label sets are spread over this many maps, by tenant, so that counting threads rarely meet.
const SHARDS: usize = 16;

/// Bytes of the longest label set, with two bytes of length before each label.
const MAX_SET_BYTES: usize = 512;

/// A limit that was met is logged this often at the most.
const LOG_WINDOW: std::time::Duration = std::time::Duration::from_secs(60);

/// How many label sets there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    /// Together.
    pub(super) sets: usize,
    /// Of one tenant.
    pub(super) a_tenant: usize,
}

/// What each metric with such labels may have.
pub(super) const MOST: Most = Most { sets: limits::MAX_LABEL_SETS, a_tenant: limits::MAX_LABEL_SETS_PER_TENANT };

/// The counters of one label set.
#[derive(Debug)]
struct Set<const LABELS: usize, const COUNTERS: usize> {
    labels: [Box<str>; LABELS],
    counters: [Counter; COUNTERS],
}

type Shard<const LABELS: usize, const COUNTERS: usize> = HashMap<Box<[u8]>, Set<LABELS, COUNTERS>>;

/// The label sets of one metric. The first label is the tenant.
#[derive(Debug)]
pub(super) struct Sets<const LABELS: usize, const COUNTERS: usize> {
    /// What the metric is called in logs.
    name: &'static str,
    /// Which labels the client chooses: those become [`OTHER`].
    chosen: [bool; LABELS],
    most: Most,
    shards: [RwLock<Shard<LABELS, COUNTERS>>; SHARDS],
    /// How many sets each tenant has; and when the limit was last logged.
    made: Mutex<Made>,
    limited: Counter,
}

#[derive(Debug, Default)]
struct Made {
    together: usize,
    tenants: HashMap<Box<str>, usize>,
    logged: Option<Monotonic>,
}

/// A label set as the bytes that it is found by.
struct Key {
    bytes: [u8; MAX_SET_BYTES],
    len: usize,
}

impl Key {
    /// Nothing if the labels are longer than names can be.
    fn of(labels: &[&str]) -> Option<Self> {
        let mut key = Self { bytes: [0; MAX_SET_BYTES], len: 0 };
        for label in labels {
            let len = u16::try_from(label.len()).ok()?;
            key.push(&len.to_be_bytes())?;
            key.push(label.as_bytes())?;
        }
        Some(key)
    }

    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len.checked_add(bytes.len())?;
        self.bytes.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl<const LABELS: usize, const COUNTERS: usize> Sets<LABELS, COUNTERS> {
    pub(super) fn new(name: &'static str, chosen: [bool; LABELS], most: Most) -> Self {
        let shards = std::array::from_fn(|_| RwLock::default());
        Self { name, chosen, most, shards, made: Mutex::default(), limited: Counter::new() }
    }

    /// Adds to the counters of a label set.
    pub(super) fn add(&self, labels: [&str; LABELS], add: impl Fn(&[Counter; COUNTERS])) {
        if self.add_or_make(&labels, &add) {
            return;
        }
        self.limited.one();
        let _counted =
            self.add_or_make(&self.rest(&labels, true), &add) || self.add_or_make(&self.rest(&labels, false), &add);
    }

    fn add_or_make(&self, labels: &[&str; LABELS], add: &impl Fn(&[Counter; COUNTERS])) -> bool {
        self.add_known(labels, add) || (self.make(labels) && self.add_known(labels, add))
    }

    /// The label set that a set without a place of its own is counted under.
    fn rest<'a>(&self, labels: &[&'a str; LABELS], keep_tenant: bool) -> [&'a str; LABELS] {
        let mut rest = *labels;
        for (at, (label, chosen)) in rest.iter_mut().zip(self.chosen).enumerate() {
            if chosen && !(keep_tenant && at == 0) {
                *label = OTHER;
            }
        }
        rest
    }

    fn shard(&self, labels: &[&str; LABELS]) -> Option<&RwLock<Shard<LABELS, COUNTERS>>> {
        let tenant = labels.first().copied().unwrap_or_default();
        let mixed = tenant.bytes().fold(0_usize, |mixed, byte| mixed.wrapping_mul(31).wrapping_add(usize::from(byte)));
        self.shards.get(mixed % SHARDS)
    }

    fn add_known(&self, labels: &[&str; LABELS], add: &impl Fn(&[Counter; COUNTERS])) -> bool {
        let (Some(key), Some(shard)) = (Key::of(labels), self.shard(labels)) else { return false };
        let shard = read(shard);
        let Some(set) = shard.get(key.as_bytes()) else { return false };
        add(&set.counters);
        true
    }

    /// Makes a label set, if there is room for it.
    fn make(&self, labels: &[&str; LABELS]) -> bool {
        let (Some(key), Some(shard)) = (Key::of(labels), self.shard(labels)) else { return false };
        let tenant = labels.first().copied().unwrap_or_default();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let of_tenant = made.tenants.get(tenant).copied().unwrap_or_default();
        let rest = labels.iter().zip(self.chosen).all(|(label, chosen)| !chosen || *label == OTHER);
        let rest_of_tenant = labels.iter().zip(self.chosen).skip(1).all(|(label, chosen)| !chosen || *label == OTHER);
        // A tenant's own rest is made even if the tenant has as many sets as it may have.
        let room = made.together < self.most.sets && (of_tenant < self.most.a_tenant || rest_of_tenant);
        if !room && !rest {
            self.log(&mut made);
            return false;
        }
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        if !shard.contains_key(key.as_bytes()) {
            let set = Set { labels: labels.map(Box::from), counters: [const { Counter::new() }; COUNTERS] };
            shard.insert(key.as_bytes().into(), set);
            made.together = made.together.saturating_add(1);
            made.tenants.insert(tenant.into(), of_tenant.saturating_add(1));
        }
        true
    }

    fn log(&self, made: &mut Made) {
        let now = monotonic();
        if made.logged.is_none_or(|at| now.since(at) >= LOG_WINDOW) {
            made.logged = Some(now);
            let (sets, limited) = (made.together, self.limited.get());
            tracing::warn!(metric = self.name, sets, limited, "a metric has as many label sets as it may have");
        }
    }

    /// What the metric is called.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// How many label sets there are.
    pub(super) fn len(&self) -> usize {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).together
    }

    /// How many additions went to another set than their own.
    pub(super) fn limited(&self) -> u64 {
        self.limited.get()
    }

    /// Shows every label set and its counters.
    pub(super) fn each(&self, mut show: impl FnMut(&[Box<str>; LABELS], &[Counter; COUNTERS])) {
        for shard in &self.shards {
            for set in read(shard).values() {
                show(&set.labels, &set.counters);
            }
        }
    }
}

fn read<T>(shard: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: Most = Most { sets: 10, a_tenant: 4 };

    fn sets() -> Sets<3, 2> {
        Sets::new("test", [true, false, true], FEW)
    }

    fn counted(sets: &Sets<3, 2>) -> Vec<(String, u64)> {
        let mut counted = Vec::new();
        sets.each(|labels, counters| counted.push((labels.join("/"), counters[1].get())));
        counted.sort();
        counted
    }

    #[test]
    fn a_tenant_with_many_versions_leaves_room_for_others() {
        let sets = sets();
        for version in 0..1_000 {
            sets.add(["greedy", "high", &format!("v{version}")], |counters| counters[1].add(1));
        }
        sets.add(["modest", "high", "v1"], |counters| counters[1].add(7));
        let expected = [
            ("greedy/high/(other)", 996),
            ("greedy/high/v0", 1),
            ("greedy/high/v1", 1),
            ("greedy/high/v2", 1),
            ("greedy/high/v3", 1),
            ("modest/high/v1", 7),
        ];
        assert_eq!(counted(&sets), expected.map(|(labels, count)| (labels.to_owned(), count)));
        assert_eq!(sets.limited(), 996);
    }

    #[test]
    fn beyond_all_room_nothing_is_lost_and_little_is_made() {
        let sets = sets();
        for number in 0..1_000_u64 {
            let severity = if number % 2 == 0 { "high" } else { "low" };
            sets.add([&format!("t{number}"), severity, &format!("v{number}")], |counters| counters[1].add(1));
        }
        assert_eq!(sets.len(), 12, "ten of their own, and one rest a severity");
        let counted = counted(&sets);
        assert_eq!(counted.iter().map(|(_, count)| count).sum::<u64>(), 1_000);
        assert!(counted.contains(&("(other)/high/(other)".to_owned(), 495)), "{counted:?}");
        assert_eq!(sets.limited(), 990);
    }

    #[test]
    fn labels_that_join_alike_are_different_sets() {
        let sets = sets();
        sets.add(["a", "high", "b"], |counters| counters[1].add(1));
        sets.add(["ah", "igh", "b"], |counters| counters[1].add(2));
        assert_eq!(counted(&sets).len(), 2);
    }

    #[test]
    fn labels_longer_than_any_name_are_counted_as_other() {
        let sets = sets();
        sets.add(["a", "high", &"v".repeat(MAX_SET_BYTES)], |counters| counters[1].add(1));
        assert_eq!(counted(&sets), [("a/high/(other)".to_owned(), 1)]);
    }

    #[test]
    fn every_valid_name_fits() {
        let most = limits::MAX_TENANT_BYTES + limits::MAX_ENDPOINT_BYTES + limits::MAX_CLIENT_VERSION_BYTES;
        assert!(most + "critical".len() + 4 * 2 <= MAX_SET_BYTES);
    }
}
