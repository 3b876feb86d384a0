//! Frozen bytes of every persisted format, in `tests/golden`: what was written once is read for ever.
//!
//! A file that is missing is written under `REWRITE=1`. One that is there is never rewritten: a format that changes gets a
//! new format byte and a new file beside the old one, which must still decode.

use std::fmt::{Debug, Write as _};
use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use holdfast::codec::token::{ClusterKey, TokenError, mint, verify};
use holdfast::codec::{batch, control, keys, open, pb, record, seal};
use holdfast::control::command::{LimitChanges, TenantLimits};
use holdfast::control::usage::Usage;
use holdfast::ids::{Digest, PartitionId};
use holdfast::time::LogTime;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::samples;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The text of a golden file; under `REWRITE=1` a missing one is written first.
fn frozen_text(name: &str, now: &str) -> String {
    let path = path(name);
    if !path.exists() && std::env::var_os("REWRITE").is_some() {
        fs::write(&path, now).expect("a golden file can be written");
    }
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}; REWRITE=1 writes it", path.display()))
}

/// 32 bytes a line, in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2 + bytes.len() / 32 + 1);
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| {
            let _ = write!(text, "{byte:02x}");
        });
        text.push('\n');
    }
    text
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).expect("hex")).collect();
    let byte = |pair: &[u32]| pair.iter().fold(0, |byte, digit| byte << 4 | digit);
    digits.chunks(2).map(|pair| u8::try_from(byte(pair)).expect("two digits")).collect()
}

/// Checks that a value has the frozen bytes, that they are the value, and that no damage to them is a panic or goes by.
fn frozen<T: PartialEq + Debug, E: Debug>(name: &str, value: &T, bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, E>) {
    let file = format!("{name}.hex");
    let frozen = unhex(&frozen_text(&file, &hex(bytes)));
    assert_eq!(hex(bytes), hex(&frozen), "{file}: the format changed; a changed format needs a new version");
    assert_eq!(decode(&frozen).as_ref().ok(), Some(value), "{file} does not decode to what was written");
    for length in 0..frozen.len() {
        let cut = frozen.get(..length).unwrap_or_default();
        assert!(decode(cut).ok().as_ref() != Some(value), "{file}: {length} bytes of it are taken for all");
    }
    for (at, bit) in (0..frozen.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let _ = decode(&flipped(&frozen, at, bit));
    }
}

fn flipped(bytes: &[u8], at: usize, bit: u32) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    if let Some(byte) = flipped.get_mut(at) {
        *byte ^= 1 << bit;
    }
    flipped
}

/// Checks that no other format byte is read, and nothing without one.
fn versioned<T: Debug, E: Debug>(name: &str, bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, E>) {
    assert!(decode(&[]).is_err(), "{name}: nothing is taken for something");
    for bit in 0..8 {
        let other = flipped(bytes, 0, bit);
        assert!(decode(&other).is_err(), "{name}: the format byte {:?} is read", other.first());
    }
}

#[test]
fn records() {
    for (name, value) in [
        ("record-v1", samples::full_record()),
        ("record-v1-minimal", samples::minimal_record()),
        ("record-v1-counted", samples::counted_record()),
    ] {
        let bytes = record::encode(&value);
        frozen(name, &value, &bytes, record::decode);
        versioned(name, &bytes, record::decode);
    }
}

#[test]
fn batches() {
    let decode = |bytes: &[u8]| batch::decode(Bytes::copy_from_slice(bytes));
    let full = samples::full_batch();
    frozen("batch-v1", &full, &batch::encode(&full), decode);
    for operation in &full.operations {
        let one = batch::Batch { clock_unix_ms: 0, operations: vec![operation.clone()] };
        assert_eq!(decode(&batch::encode(&one)).ok(), Some(one));
    }
    // Nothing is a batch without operations at the time 0, so that no file is needed for it.
    let minimal = batch::Batch { clock_unix_ms: 0, operations: Vec::new() };
    assert_eq!(decode(&batch::encode(&minimal)).ok(), Some(minimal));
}

#[test]
fn what_is_the_same_for_all_partitions() {
    let bytes = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    let batch = samples::control_batch(samples::limit_changes());
    frozen("batch-v1-control-3", &batch, &batch::encode(&batch), |from| batch::decode(bytes(from)));
    // As a change of a tenant was written before: all of it, then all of its limits.
    let all = samples::control_batch(LimitChanges::to(TenantLimits::default()));
    for before in ["batch-v1-control.hex", "batch-v1-control-2.hex"] {
        let written = unhex(&fs::read_to_string(path(before)).expect("a golden file"));
        assert_eq!(batch::decode(bytes(&written)).ok().as_ref(), Some(&all), "{before}");
    }
    let revision = samples::revision();
    let encoded = control::encode_revision(revision.0, &revision.1, &revision.2);
    frozen("revision-v1", &revision, &encoded, |from| control::decode_revision(bytes(from)));
    versioned("revision-v1", &encoded, |from| control::decode_revision(bytes(from)));
    let tenant = samples::kept_tenant();
    let encoded = control::encode_tenant(&tenant.0, &tenant.1);
    frozen("tenant-v1", &tenant, &encoded, |from| control::decode_tenant(bytes(from)));
    versioned("tenant-v1", &encoded, |from| control::decode_tenant(bytes(from)));
    let selection = (2, r#"{"headers":[":path"]}"#.to_owned());
    let encoded = control::encode_selection(selection.0, &selection.1);
    frozen("selection-v1", &selection, &encoded, |from| control::decode_selection(bytes(from)));
    versioned("selection-v1", &encoded, |from| control::decode_selection(bytes(from)));
    let entry = samples::audit();
    let encoded = control::encode_audit(&entry);
    frozen("audit-v1", &entry, &encoded, |from| control::decode_audit(bytes(from)));
    versioned("audit-v1", &encoded, |from| control::decode_audit(bytes(from)));
    let usage = Usage { keys: 12, bytes: 34_567 };
    let encoded = control::encode_usage(usage);
    frozen("usage-v1", &usage, &encoded, |from| control::decode_usage(bytes(from)));
    versioned("usage-v1", &encoded, |from| control::decode_usage(bytes(from)));
}

#[test]
fn envelopes() {
    for (name, value) in [("envelope-v1", samples::full_envelope()), ("envelope-v1-minimal", pb::Envelope::default())] {
        let (bytes, digest) = record::encode_envelope(&value);
        let decode = |bytes: &[u8]| record::decode_envelope(Bytes::copy_from_slice(bytes), &digest);
        frozen(name, &value, &bytes, decode);
        versioned(name, &bytes, decode);
        // An envelope answers for money, so any damage is an error and not another answer.
        for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            assert!(decode(&flipped(&bytes, at, bit)).is_err(), "{name}: bit {bit} of byte {at} goes by");
        }
        for length in 0..bytes.len() {
            assert!(decode(bytes.get(..length).unwrap_or_default()).is_err(), "{name}: cut at {length} goes by");
        }
        assert!(record::decode_envelope(bytes, &Digest([0; 32])).is_err(), "{name}: a wrong digest goes by");
    }
}

#[test]
fn tokens() {
    let key = ClusterKey { id: 2, secret: [0x5e; 32] };
    for (name, claims) in [("token-v1", samples::full_claims()), ("token-v1-minimal", samples::minimal_claims())] {
        let text = mint(&key, &claims);
        let frozen = frozen_text(&format!("{name}.txt"), &format!("{text}\n"));
        assert_eq!(text, frozen.trim_end(), "{name}: a granted token must stay valid");
        assert_eq!(verify(std::slice::from_ref(&key), frozen.trim_end()), Ok(claims));
        for length in 0..text.len() {
            let cut = text.get(..length).unwrap_or_default();
            assert!(verify(std::slice::from_ref(&key), cut).is_err(), "{name}: cut at {length} goes by");
        }
        let other = ClusterKey { id: 2, secret: [0x5f; 32] };
        assert_eq!(verify(&[other], &text), Err(TokenError::Mac));
    }
}

#[test]
fn rows() {
    let (key, partition) = (samples::key(), PartitionId(513));
    let (from, until) = keys::expiries(LogTime::from_unix_ms(1), LogTime::from_unix_ms(samples::AT));
    let (held_from, held_until) = keys::all_held();
    let digest = Digest([0xe1; 32]);
    let table: [(&str, Vec<u8>); 18] = [
        ("family", keys::family(partition, 0).into_bytes()),
        ("log-family", keys::LOG_FAMILY.as_bytes().to_vec()),
        ("identity", keys::IDENTITY.to_vec()),
        ("state", keys::STATE.to_vec()),
        ("vote", keys::vote(partition).to_vec()),
        ("purged", keys::purged(partition).to_vec()),
        ("entry", keys::entry(partition, 0x0102_0304_0506_0708).to_vec()),
        ("entries-end", keys::entries_end(partition).to_vec()),
        ("record", keys::record(&key)),
        ("envelope", keys::envelope(&key, &digest)),
        ("expiry", keys::expiry(LogTime::from_unix_ms(samples::AT), &key)),
        ("expiries-from", from),
        ("expiries-until", until),
        ("held", keys::held(&key)),
        ("all-held", [held_from, held_until].concat()),
        ("horizon", keys::horizon(&samples::tenant(), &samples::endpoint())),
        ("later-family", keys::family(partition, 7).into_bytes()),
        ("generation", keys::generation(partition)),
    ];
    let mut text = String::new();
    for (name, bytes) in &table {
        let _ = writeln!(text, "{name} {}", hex(bytes).replace('\n', ""));
    }
    assert_eq!(text, frozen_text("keys-v1.hex", &text), "keys-v1.hex: where things stand must not move");
    let entry = keys::entry(partition, u64::MAX);
    assert_eq!(keys::entry_index(&entry), Some(u64::MAX));
    assert!(entry.as_slice() < keys::entries_end(partition).as_slice());
}

/// A message that is stored as it is.
fn message<M: prost::Message + Default + PartialEq + Debug>(name: &str, value: &M) {
    let decode = |bytes: &[u8]| open::<M>("a message", Bytes::copy_from_slice(bytes));
    let bytes = seal(value);
    frozen(name, value, &bytes, decode);
    versioned(name, &bytes, decode);
}

#[test]
fn messages() {
    message("vote-v1", &samples::vote());
    message("log-id-v1", &pb::LogId { term: 2, node_id: 1, index: 6 });
    let [blank, batch, membership] = samples::entries();
    message("entry-v1-blank", &blank);
    message("entry-v1-batch", &batch);
    message("entry-v1-membership", &membership);
    message("group-state-v1", &samples::group_state());
    message("identity-v1", &samples::identity());
    let snapshot = Some(pb::LogId { term: 2, node_id: 1, index: 6 });
    message("generation-v1", &pb::Generation { number: 7, snapshot });
}

/// No file of the directory is without a test.
#[test]
fn every_file_is_read() {
    let known = [
        "audit-v1.hex",
        "batch-v1-control-2.hex",
        "batch-v1-control-3.hex",
        "batch-v1-control.hex",
        "batch-v1.hex",
        "entry-v1-batch.hex",
        "entry-v1-blank.hex",
        "entry-v1-membership.hex",
        "envelope-v1-minimal.hex",
        "envelope-v1.hex",
        "generation-v1.hex",
        "group-state-v1.hex",
        "identity-v1.hex",
        "keys-v1.hex",
        "log-id-v1.hex",
        "record-v1-counted.hex",
        "record-v1-minimal.hex",
        "record-v1.hex",
        "revision-v1.hex",
        "selection-v1.hex",
        "tenant-v1.hex",
        "token-v1-minimal.txt",
        "token-v1.txt",
        "usage-v1.hex",
        "vote-v1.hex",
    ];
    let found = fs::read_dir(path("")).expect("tests/golden can be read");
    for entry in found {
        let name = entry.expect("an entry can be read").file_name().to_string_lossy().into_owned();
        assert!(known.contains(&name.as_str()), "{name} stands in tests/golden and no test here reads it");
    }
}

/// A batch or a record with some of its bytes changed: damage looks more like this than like noise.
fn damaged(bytes: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let length = bytes.len();
    prop::collection::vec((0..length, any::<u8>()), 1..8).prop_map(move |changes| {
        let mut damaged = bytes.clone();
        for (at, byte) in changes {
            if let Some(there) = damaged.get_mut(at) {
                *there = byte;
            }
        }
        damaged
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4_000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn noise_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "[0-9A-Za-z._-]{0,200}") {
        let shared = Bytes::from(bytes.clone());
        let _ = batch::decode(shared.clone());
        let _ = record::decode(&bytes);
        prop_assert!(record::decode_envelope(shared.clone(), &Digest([1; 32])).is_err());
        let _ = open::<pb::GroupState>("a state", shared.clone());
        let _ = open::<pb::Entry>("an entry", shared);
        let _ = (keys::parse_held(&bytes), keys::parse_expiry(&bytes), keys::entry_index(&bytes));
        let key = ClusterKey { id: 0, secret: [1; 32] };
        prop_assert!(verify(std::slice::from_ref(&key), &text).is_err());
        let numbered = format!("1.1.{text}");
        prop_assert!(verify(&[key], &numbered).is_err());
    }

    #[test]
    fn damage_is_no_panic(
        record_bytes in damaged(record::encode(&samples::full_record())),
        batch_bytes in damaged(batch::encode(&samples::full_batch()).to_vec()),
    ) {
        if let Ok(value) = record::decode(&record_bytes) {
            prop_assert_eq!(record::decode(&record::encode(&value)).ok(), Some(value));
        }
        if let Ok(value) = batch::decode(Bytes::from(batch_bytes)) {
            prop_assert_eq!(batch::decode(batch::encode(&value)).ok(), Some(value));
        }
    }
}
