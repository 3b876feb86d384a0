use std::collections::BTreeMap;
use std::num::NonZeroU16;

use holdfast_client::keys::{IdempotencyKey, KeyError, KeyKind, TaggedKey, home_index, key_hash, partition, slot};
use proptest::prelude::*;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{from_hex, hex};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    #[serde(rename = "about")]
    _about: String,
    valid: Vec<Valid>,
    invalid: Vec<Invalid>,
    header_values: Vec<HeaderValue>,
    minted: Vec<Minted>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Valid {
    #[serde(rename = "note")]
    _note: Option<String>,
    tenant: String,
    key: String,
    slot_text: String,
    mint_epoch: u64,
    slot_hex: String,
    key_hash: String,
    partitions: BTreeMap<NonZeroU16, u16>,
    homes: BTreeMap<NonZeroU16, u16>,
    tag: Option<TagParts>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TagParts {
    home: String,
    mint_epoch: u64,
    uuid: String,
    unix_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Invalid {
    key: String,
    error: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderValue {
    value_hex: String,
    key: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Minted {
    home: String,
    mint_epoch: u64,
    unix_ms: u64,
    random_hex: String,
    key: String,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../../vectors/keys.json")).expect("vectors/keys.json")
}

fn name(error: &KeyError) -> &'static str {
    match error {
        KeyError::Empty => "empty",
        KeyError::TooLong { .. } => "too_long",
        KeyError::NotVisible { .. } => "not_visible",
        KeyError::Quoting => "quoting",
        KeyError::TagParts => "tag_parts",
        KeyError::TagHome => "tag_home",
        KeyError::TagMintEpoch => "tag_mint_epoch",
        KeyError::TagUuid => "tag_uuid",
        KeyError::MintTime { .. } => "mint_time",
    }
}

#[test]
fn valid_keys_are_placed_as_the_vectors_say() {
    for vector in vectors().valid {
        let key = IdempotencyKey::parse(&vector.key).expect(&vector.key);
        let tenant = vector.tenant.as_str();
        assert_eq!(key.as_str(), vector.key);
        assert_eq!(key.mint_epoch(), vector.mint_epoch, "{key}");
        assert_eq!(format!("{:016x}", slot(tenant, &key)), vector.slot_hex, "{key}");
        assert_eq!(hex(&key_hash(tenant, &key)), vector.key_hash, "{key}");
        let slot_text_hash = hex(&Sha256::digest([tenant.as_bytes(), &[0], vector.slot_text.as_bytes()].concat()));
        assert!(slot_text_hash.starts_with(&vector.slot_hex), "{key}");
        for (partitions, expected) in vector.partitions {
            assert_eq!(partition(tenant, &key, partitions), expected, "{key} in {partitions} partitions");
        }
        for (homes, expected) in vector.homes {
            assert_eq!(home_index(tenant, &key, homes), expected, "{key} in {homes} homes");
        }
        match (key.kind(), vector.tag) {
            (KeyKind::Opaque, None) => {}
            (KeyKind::Tagged(tagged), Some(tag)) => {
                assert_eq!(tagged.home(), tag.home);
                assert_eq!(tagged.mint_epoch(), tag.mint_epoch);
                assert_eq!(tagged.uuid().to_string(), tag.uuid);
                assert_eq!(tagged.unix_ms(), tag.unix_ms);
                assert_eq!(IdempotencyKey::from(tagged), key);
            }
            (kind, _) => panic!("{key} is not {kind:?}"),
        }
    }
}

#[test]
fn invalid_keys_are_refused_as_the_vectors_say() {
    for vector in vectors().invalid {
        let error = IdempotencyKey::parse(&vector.key).expect_err(&vector.key);
        assert_eq!(name(&error), vector.error, "{:?}: {error}", vector.key);
    }
}

#[test]
fn header_values_are_read_as_the_vectors_say() {
    for vector in vectors().header_values {
        match (IdempotencyKey::from_header_value(&from_hex(&vector.value_hex)), vector.key, vector.error) {
            (Ok(key), Some(expected), None) => assert_eq!(key.as_str(), expected),
            (Err(error), None, Some(expected)) => assert_eq!(name(&error), expected, "{}: {error}", vector.value_hex),
            (outcome, _, _) => panic!("{} gives {outcome:?}", vector.value_hex),
        }
    }
}

#[test]
fn keys_are_minted_as_the_vectors_say() {
    for vector in vectors().minted {
        let random = from_hex(&vector.random_hex).try_into().expect("10 random bytes");
        let minted = TaggedKey::mint(&vector.home, vector.mint_epoch, vector.unix_ms, random).expect(&vector.key);
        assert_eq!(minted.to_string(), vector.key);
        assert_eq!(minted.unix_ms(), vector.unix_ms);
        assert_eq!(IdempotencyKey::from(minted), IdempotencyKey::parse(&vector.key).expect(&vector.key));
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Children {
    #[serde(rename = "about")]
    _about: String,
    children: Vec<Child>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Child {
    #[serde(rename = "note")]
    _note: Option<String>,
    parent: String,
    step: String,
    digest_hex: String,
    child: String,
}

#[test]
fn children_are_named_as_the_vectors_say() {
    let vectors: Children = serde_json::from_str(include_str!("../../vectors/child.json")).expect("vectors/child.json");
    for Child { _note: _, parent, step, digest_hex, child } in vectors.children {
        let (parent_bytes, step_bytes) = (parent.as_bytes(), step.as_bytes());
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_be_bytes();
        let lengths = (length(parent_bytes), length(step_bytes));
        let read = [b"holdfast child key v1\0", &lengths.0[..], parent_bytes, &lengths.1[..], step_bytes].concat();
        assert_eq!(hex(&Sha256::digest(read)), digest_hex, "{parent} {step}");
        let key = IdempotencyKey::parse(&parent).expect("a parent").child(&step);
        assert_eq!(key.as_str(), child, "{parent} {step}");
        assert_eq!(IdempotencyKey::parse(&child), Ok(key), "a child is a key, in its one spelling");
    }
}

#[test]
fn nothing_is_minted_for_a_bad_home_or_time() {
    assert_eq!(TaggedKey::mint("EU", 0, 0, [0; 10]), Err(KeyError::TagHome));
    assert_eq!(TaggedKey::mint("eu", 0, 1 << 48, [0; 10]), Err(KeyError::MintTime { unix_ms: 1 << 48 }));
}

proptest! {
    #[test]
    fn a_minted_key_parses_to_itself_and_keeps_its_partition_in_every_epoch(
        home in "[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", mint_epoch: u64, later: u64, unix_ms in 0_u64..1 << 48,
        random: [u8; 10], partitions: NonZeroU16,
    ) {
        let minted = TaggedKey::mint(&home, mint_epoch, unix_ms, random).expect("valid parts");
        let key = IdempotencyKey::from(minted);
        prop_assert_eq!(IdempotencyKey::parse(key.as_str()), Ok(key.clone()));
        prop_assert_eq!(key.kind(), KeyKind::Tagged(minted));
        let again = IdempotencyKey::from(minted.with_mint_epoch(later));
        let place = partition("acme", &key, partitions);
        prop_assert!(place < partitions.get());
        prop_assert_eq!(partition("acme", &again, partitions), place);
        prop_assert_eq!(key_hash("acme", &again) == key_hash("acme", &key), later == mint_epoch);
    }

    #[test]
    fn the_child_of_a_tagged_key_has_its_home_and_time(
        home in "[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", mint_epoch: u64, unix_ms in 0_u64..1 << 48, random: [u8; 10],
        step: String, other: String,
    ) {
        let parent = IdempotencyKey::from(TaggedKey::mint(&home, mint_epoch, unix_ms, random).expect("valid parts"));
        let child = parent.child(&step);
        prop_assert_eq!(IdempotencyKey::parse(child.as_str()), Ok(child.clone()));
        let KeyKind::Tagged(tag) = child.kind() else { panic!("{child} is opaque") };
        prop_assert_eq!((tag.home(), tag.unix_ms(), tag.mint_epoch()), (home.as_str(), unix_ms, 0));
        prop_assert_eq!(parent.child(&other) == child, step == other);
    }

    #[test]
    fn the_child_of_an_opaque_key_is_opaque(text in "[!-~]{1,255}", step: String) {
        prop_assume!(!text.starts_with("hf1."));
        let child = IdempotencyKey::parse(&text).expect("visible ascii").child(&step);
        prop_assert_eq!(child.kind(), KeyKind::Opaque);
        prop_assert_eq!(IdempotencyKey::parse(child.as_str()), Ok(child));
    }

    #[test]
    fn any_visible_ascii_is_a_key_in_both_header_forms(text in "[!-~]{1,255}") {
        prop_assume!(!text.starts_with("hf1."));
        let key = IdempotencyKey::parse(&text).expect("visible ascii");
        let quoted = format!("\"{}\"", text.replace('\\', r"\\").replace('"', r#"\""#));
        prop_assert_eq!(IdempotencyKey::from_header_value(quoted.as_bytes()), Ok(key.clone()));
        if !text.starts_with('"') {
            prop_assert_eq!(IdempotencyKey::from_header_value(text.as_bytes()), Ok(key));
        }
    }

    #[test]
    fn no_bytes_in_a_header_panic(value: Vec<u8>) {
        if let Ok(key) = IdempotencyKey::from_header_value(&value) {
            prop_assert!((1..=255).contains(&key.as_str().len()));
        }
    }
}
