//! How long a partition granted nothing to anybody, from what the clients were told.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::calls::TENANT;
use crate::history::{Answer, History, KeyId, Op};
use crate::workload;

/// The partition of a key, by its documented rule: the first 8 bytes of SHA-256 over tenant, 0x00 and key.
pub(crate) fn partition(tenant: &str, key: &str, partitions: u16) -> u16 {
    let digest = Sha256::new().chain_update(tenant).chain_update([0]).chain_update(key).finalize();
    let first = digest.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    u16::try_from(first % u64::from(partitions)).unwrap_or_default()
}

/// The longest time between two new grants of a partition, of all partitions.
pub(crate) fn longest(history: &History, partitions: u16) -> Duration {
    let mut granted: BTreeMap<u16, Vec<u64>> = BTreeMap::new();
    for op in history.ops.iter().filter(|op| is_new_grant(op)) {
        granted.entry(of(op.key, partitions)).or_default().push(op.returned_ns);
    }
    let mut longest_ns = 0;
    for times in granted.values_mut() {
        times.sort_unstable();
        let gaps = times.iter().zip(times.iter().skip(1)).map(|(before, next)| next - before);
        longest_ns = longest_ns.max(gaps.max().unwrap_or_default());
    }
    Duration::from_nanos(longest_ns)
}

fn of(key: KeyId, partitions: u16) -> u16 {
    partition(TENANT, &workload::name(key), partitions)
}

fn is_new_grant(op: &Op) -> bool {
    matches!(op.answer, Answer::Granted { repeated: false, .. })
}

#[test]
fn a_gap_is_one_of_a_partition() {
    use crate::history::{Call, Nonce, Request, Token};
    let granted = |key: u32, at_ms: u64| Op {
        key: KeyId(key),
        call: Call::Reserve { nonce: Nonce(1), request: Request(0), lease_ms: 1_000 },
        answer: Answer::Granted {
            token: Token { epoch: 1, sequence: at_ms },
            repeated: false,
            flagged: false,
            checkpoint: None,
        },
        invoked_ns: 0,
        returned_ns: at_ms * 1_000_000,
        node: 1,
        seen: None,
        position: None,
    };
    let mut keys: BTreeMap<u16, u32> = BTreeMap::new();
    for key in 0..64 {
        keys.entry(of(KeyId(key), 2)).or_insert(key);
    }
    let (one, other) = (keys[&0], keys[&1]);
    let ops = vec![granted(one, 10), granted(other, 20), granted(other, 400), granted(one, 310)];
    let history = History { ops, ..History::default() };
    assert_eq!(longest(&history, 2), Duration::from_millis(380));
}
