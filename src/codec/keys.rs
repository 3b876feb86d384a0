//! Every RocksDB key, in one table.
//!
//! | column family | key | value |
//! |---|---|---|
//! | `default` | `identity` | [`pb::Identity`](super::pb::Identity) |
//! | `default` | `generation` partition (2 bytes) | [`pb::Generation`](super::pb::Generation): absent while it is 0 |
//! | `log` | partition (2 bytes) `00` `v` | [`pb::Vote`](super::pb::Vote) |
//! | `log` | partition `00` `p` | the last purged [`pb::LogId`](super::pb::LogId) |
//! | `log` | partition `01` index (8 bytes) | [`pb::Entry`](super::pb::Entry) |
//! | `pNNNN` | `00` | [`pb::GroupState`](super::pb::GroupState) |
//! | `pNNNN` | `10` tenant `00` key | [`pb::Record`](super::pb::Record) |
//! | `pNNNN` | `20` tenant `00` key `00` digest (32 bytes) | [`pb::Envelope`](super::pb::Envelope) |
//! | `pNNNN` | `30` expiry (8 bytes) tenant `00` key | nothing: the record may go after that log time |
//! | `pNNNN` | `40` tenant `00` key | nothing: the key is held |
//! | `pNNNN` | `50` tenant `00` endpoint | the horizon, 8 bytes |
//! | `pNNNN` | `60` tenant `00` endpoint | [`pb::Usage`](super::pb::Usage) |
//! | `pNNNN` | `70` sequence (8 bytes) | [`pb::AuditEntry`](super::pb::AuditEntry) |
//! | `p0000` | `80` revision (4 bytes) | [`pb::PolicyRevision`](super::pb::PolicyRevision) |
//! | `p0000` | `81` selection (4 bytes) | [`pb::StoredSelection`](super::pb::StoredSelection) |
//! | `p0000` | `82` tenant | [`pb::Tenant`](super::pb::Tenant) |
//!
//! `pNNNN` is the family of a group's generation 0. Of generation N, which a snapshot made, it is `pNNNN.gN`.
//!
//! Numbers are big endian, so that keys sort by them. Tenants, keys and endpoints never contain the byte 0.

use crate::ids::{Digest, EndpointName, IdempotencyKey, PartitionId, RecordKey, TenantId};
use crate::time::LogTime;

/// The column family of all groups' logs.
pub const LOG_FAMILY: &str = "log";
/// Where the data directory's identity stands, in the default family.
pub const IDENTITY: &[u8] = b"identity";
const GENERATION: &[u8] = b"generation";
/// Where a group's state stands, in its family.
pub const STATE: &[u8] = &[0x00];

const RECORD: u8 = 0x10;
const ENVELOPE: u8 = 0x20;
const EXPIRY: u8 = 0x30;
const HELD: u8 = 0x40;
const HORIZON: u8 = 0x50;
const USAGE: u8 = 0x60;
const AUDIT: u8 = 0x70;
const REVISION: u8 = 0x80;
const SELECTION: u8 = 0x81;
const TENANT: u8 = 0x82;

/// The column family of a group's state, by its generation: each installed snapshot makes another.
#[must_use]
pub fn family(partition: PartitionId, generation: u64) -> String {
    match generation {
        0 => format!("p{:04}", partition.0),
        _ => format!("p{:04}.g{generation}", partition.0),
    }
}

/// Whose state stands in a column family, and in which generation.
#[must_use]
pub fn parse_family(name: &str) -> Option<(PartitionId, u64)> {
    let (partition, generation) = match name.split_once(".g") {
        Some((partition, generation)) => (partition, generation.parse().ok()?),
        None => (name, 0),
    };
    let partition = PartitionId(partition.strip_prefix('p')?.parse().ok()?);
    (family(partition, generation) == name).then_some((partition, generation))
}

/// Where the generation of a group's state stands, in the default family.
#[must_use]
pub fn generation(partition: PartitionId) -> Vec<u8> {
    [GENERATION, &partition.0.to_be_bytes()].concat()
}

/// Where a group's vote stands.
#[must_use]
pub fn vote(partition: PartitionId) -> [u8; 4] {
    let [high, low] = partition.0.to_be_bytes();
    [high, low, 0x00, b'v']
}

/// Where the last purged log id of a group stands.
#[must_use]
pub fn purged(partition: PartitionId) -> [u8; 4] {
    let [high, low] = partition.0.to_be_bytes();
    [high, low, 0x00, b'p']
}

/// Where a group's log entry stands.
#[must_use]
pub fn entry(partition: PartitionId, index: u64) -> [u8; 11] {
    let [high, low] = partition.0.to_be_bytes();
    let [a, b, c, d, e, f, g, h] = index.to_be_bytes();
    [high, low, 0x01, a, b, c, d, e, f, g, h]
}

/// The first key after all entries of a group.
#[must_use]
pub fn entries_end(partition: PartitionId) -> [u8; 3] {
    let [high, low] = partition.0.to_be_bytes();
    [high, low, 0x02]
}

/// The index in an entry's key.
#[must_use]
pub fn entry_index(key: &[u8]) -> Option<u64> {
    let index: [u8; 8] = key.get(3..11)?.try_into().ok()?;
    Some(u64::from_be_bytes(index))
}

fn named(tag: u8, key: &RecordKey) -> Vec<u8> {
    let (tenant, name) = (key.tenant.as_str().as_bytes(), key.key.as_str().as_bytes());
    let mut bytes = Vec::with_capacity(tenant.len() + name.len() + 2);
    bytes.push(tag);
    bytes.extend_from_slice(tenant);
    bytes.push(0);
    bytes.extend_from_slice(name);
    bytes
}

/// Where a record stands.
#[must_use]
pub fn record(key: &RecordKey) -> Vec<u8> {
    named(RECORD, key)
}

/// Where the mark of a held key stands.
#[must_use]
pub fn held(key: &RecordKey) -> Vec<u8> {
    named(HELD, key)
}

/// Where an envelope stands.
#[must_use]
pub fn envelope(key: &RecordKey, digest: &Digest) -> Vec<u8> {
    let mut bytes = named(ENVELOPE, key);
    bytes.push(0);
    bytes.extend_from_slice(&digest.0);
    bytes
}

/// Where a record's expiry stands.
#[must_use]
pub fn expiry(at: LogTime, key: &RecordKey) -> Vec<u8> {
    let name = named(EXPIRY, key);
    let mut bytes = Vec::with_capacity(name.len() + 8);
    bytes.push(EXPIRY);
    bytes.extend_from_slice(&at.unix_ms().to_be_bytes());
    bytes.extend_from_slice(name.get(1..).unwrap_or_default());
    bytes
}

/// Where an endpoint's horizon stands.
#[must_use]
pub fn horizon(tenant: &TenantId, endpoint: &EndpointName) -> Vec<u8> {
    of_endpoint(HORIZON, tenant, endpoint)
}

/// Where an endpoint's usage stands.
#[must_use]
pub fn usage(tenant: &TenantId, endpoint: &EndpointName) -> Vec<u8> {
    of_endpoint(USAGE, tenant, endpoint)
}

fn of_endpoint(tag: u8, tenant: &TenantId, endpoint: &EndpointName) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(tenant.as_str().len() + endpoint.as_str().len() + 2);
    bytes.push(tag);
    bytes.extend_from_slice(tenant.as_str().as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(endpoint.as_str().as_bytes());
    bytes
}

/// Where an entry of the audit stands.
#[must_use]
pub fn audit(sequence: u64) -> Vec<u8> {
    [&[AUDIT][..], &sequence.to_be_bytes()].concat()
}

/// Where a revision of the policies stands.
#[must_use]
pub fn revision(number: u32) -> Vec<u8> {
    [&[REVISION][..], &number.to_be_bytes()].concat()
}

/// Where a selection stands.
#[must_use]
pub fn selection(number: u32) -> Vec<u8> {
    [&[SELECTION][..], &number.to_be_bytes()].concat()
}

/// Where a tenant stands.
#[must_use]
pub fn tenant(name: &TenantId) -> Vec<u8> {
    [&[TENANT][..], name.as_str().as_bytes()].concat()
}

/// What stands under one tag, all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Records.
    Records,
    /// Usage of endpoints.
    Usages,
    /// Revisions of the policies.
    Revisions,
    /// Selections.
    Selections,
    /// Tenants.
    Tenants,
}

/// The range of all keys of a kind.
#[must_use]
pub fn all(kind: Kind) -> (Vec<u8>, Vec<u8>) {
    let tag = match kind {
        Kind::Records => RECORD,
        Kind::Usages => USAGE,
        Kind::Revisions => REVISION,
        Kind::Selections => SELECTION,
        Kind::Tenants => TENANT,
    };
    (vec![tag], vec![tag + 1])
}

/// The name in the key of a record.
#[must_use]
pub fn parse_record(bytes: &[u8]) -> Option<RecordKey> {
    parse_named(bytes.strip_prefix(&[RECORD])?)
}

/// The names in the key of a usage.
#[must_use]
pub fn parse_usage(bytes: &[u8]) -> Option<(TenantId, EndpointName)> {
    let rest = bytes.strip_prefix(&[USAGE])?;
    let at = rest.iter().position(|byte| *byte == 0)?;
    let tenant = std::str::from_utf8(rest.get(..at)?).ok()?;
    let endpoint = std::str::from_utf8(rest.get(at + 1..)?).ok()?;
    Some((TenantId::parse(tenant).ok()?, EndpointName::parse(endpoint).ok()?))
}

/// The range of all expiries from `from` on and before `until`.
#[must_use]
pub fn expiries(from: LogTime, until: LogTime) -> (Vec<u8>, Vec<u8>) {
    let at = |time: LogTime| {
        let [a, b, c, d, e, f, g, h] = time.unix_ms().to_be_bytes();
        vec![EXPIRY, a, b, c, d, e, f, g, h]
    };
    (at(from), at(until))
}

/// The range of all marks of held keys.
#[must_use]
pub fn all_held() -> (Vec<u8>, Vec<u8>) {
    (vec![HELD], vec![HELD + 1])
}

fn parse_named(bytes: &[u8]) -> Option<RecordKey> {
    let at = bytes.iter().position(|byte| *byte == 0)?;
    let tenant = std::str::from_utf8(bytes.get(..at)?).ok()?;
    let key = std::str::from_utf8(bytes.get(at + 1..)?).ok()?;
    Some(RecordKey { tenant: TenantId::parse(tenant).ok()?, key: IdempotencyKey::parse(key).ok()? })
}

/// The name in the key of a held mark.
#[must_use]
pub fn parse_held(bytes: &[u8]) -> Option<RecordKey> {
    parse_named(bytes.strip_prefix(&[HELD])?)
}

/// The time and the name in the key of an expiry.
#[must_use]
pub fn parse_expiry(bytes: &[u8]) -> Option<(LogTime, RecordKey)> {
    let rest = bytes.strip_prefix(&[EXPIRY])?;
    let at: [u8; 8] = rest.get(..8)?.try_into().ok()?;
    Some((LogTime::from_unix_ms(u64::from_be_bytes(at)), parse_named(rest.get(8..)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> RecordKey {
        RecordKey { tenant: TenantId::parse("acme").unwrap(), key: IdempotencyKey::parse("order-1").unwrap() }
    }

    #[test]
    fn names_come_back() {
        assert_eq!(parse_held(&held(&key())), Some(key()));
        let at = LogTime::from_unix_ms(77);
        assert_eq!(parse_expiry(&expiry(at, &key())), Some((at, key())));
        assert_eq!(entry_index(&entry(PartitionId(3), 99)), Some(99));
        assert_eq!(parse_held(&[HELD]), None);
        for (partition, generation) in [(PartitionId(3), 0), (PartitionId(12_345), 1), (PartitionId(0), u64::MAX)] {
            assert_eq!(parse_family(&family(partition, generation)), Some((partition, generation)));
        }
        for name in ["", "p", "p3", "p0003.g", "p0003.g0", "p0003.g01", "log", "default", "p0003.g1.g1", "p+003"] {
            assert_eq!(parse_family(name), None, "{name}");
        }
        assert_eq!(parse_expiry(&held(&key())), None);
        let endpoint = EndpointName::parse("POST /pay").unwrap();
        assert_eq!(parse_record(&record(&key())), Some(key()));
        assert_eq!(parse_usage(&usage(&key().tenant, &endpoint)), Some((key().tenant, endpoint)));
    }

    #[test]
    fn keys_sort_by_their_numbers() {
        assert!(expiry(LogTime::from_unix_ms(255), &key()) < expiry(LogTime::from_unix_ms(256), &key()));
        let (start, end) = expiries(LogTime::default(), LogTime::from_unix_ms(256));
        let inside = expiry(LogTime::from_unix_ms(255), &key());
        assert!(start < inside && inside < end);
        assert!(expiry(LogTime::from_unix_ms(256), &key()) > end);
        assert!(entry(PartitionId(1), u64::MAX).as_slice() < entries_end(PartitionId(1)).as_slice());
        assert!(entries_end(PartitionId(1)).as_slice() < vote(PartitionId(2)).as_slice());
    }
}
