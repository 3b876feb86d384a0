use std::collections::HashMap;

use holdfast_client::fingerprint::{
    FingerprintError, MAX_MEMBERS, Members, Pointer, Request, Selection, fingerprint_v1,
};
use proptest::prelude::*;
use proptest::sample::Index;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{from_hex, hex};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    #[serde(rename = "about")]
    _about: String,
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    method: String,
    endpoint: String,
    headers: Vec<(String, String)>,
    body_hex: String,
    body_text: Option<String>,
    selection: SelectionText,
    #[serde(rename = "body_kind")]
    _body_kind: String,
    canonical: Option<String>,
    hashed_hex: String,
    fingerprint: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SelectionText {
    headers: Vec<String>,
    without: Option<Vec<String>>,
    only: Option<Vec<String>>,
}

fn pointers(texts: &[String]) -> Vec<Pointer> {
    texts.iter().map(|text| Pointer::parse(text).expect(text)).collect()
}

fn selection(text: &SelectionText) -> Selection {
    let members = match (&text.without, &text.only) {
        (None, None) => Members::All,
        (Some(without), None) => Members::Without(pointers(without)),
        (None, Some(only)) => Members::Only(pointers(only)),
        (Some(_), Some(_)) => panic!("a vector selects both ways"),
    };
    Selection::new(&text.headers, members).expect("selection of a vector")
}

fn of_json(body: &str, members: Members) -> [u8; 32] {
    let selection = Selection::new(&["content-type"], members).expect("selection");
    let headers: &[(&str, &[u8])] = &[("content-type", b"application/json")];
    fingerprint_v1(&Request { method: "POST", endpoint: "e", headers, body: body.as_bytes() }, &selection)
}

#[test]
fn fingerprints_are_as_the_vectors_say() {
    let vectors: Vectors =
        serde_json::from_str(include_str!("../../vectors/fingerprint-v1.json")).expect("vectors/fingerprint-v1.json");
    for vector in vectors.vectors {
        let body = from_hex(&vector.body_hex);
        assert!(vector.body_text.is_none_or(|text| text.as_bytes() == body), "{}", vector.name);
        let values: Vec<(String, Vec<u8>)> =
            vector.headers.into_iter().map(|(name, value)| (name, from_hex(&value))).collect();
        let headers: Vec<(&str, &[u8])> =
            values.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let request = Request { method: &vector.method, endpoint: &vector.endpoint, headers: &headers, body: &body };
        let hashed = from_hex(&vector.hashed_hex);
        assert!(vector.canonical.is_none_or(|text| hashed.ends_with(text.as_bytes())), "{}", vector.name);
        assert_eq!(hex(&Sha256::digest(&hashed)), vector.fingerprint, "{}", vector.name);
        assert_eq!(
            hex(&fingerprint_v1(&request, &selection(&vector.selection))),
            vector.fingerprint,
            "{}",
            vector.name
        );
    }
}

#[test]
fn a_selection_says_what_is_wrong_with_it() {
    let pointer = |text: &str| Pointer::parse(text);
    for text in ["", "a", "a/b", "/a~", "/a~2b", "#/a"] {
        assert_eq!(pointer(text), Err(FingerprintError::Pointer { pointer: text.to_owned() }));
    }
    assert_eq!(pointer(&"/a".repeat(65)), Err(FingerprintError::PointerDepth { depth: 65 }));
    for name in ["", ":", "a b", "x:", "é"] {
        let refusal = FingerprintError::HeaderName { name: name.to_owned() };
        assert_eq!(Selection::new(&[name], Members::All), Err(refusal));
    }
    assert_eq!(Selection::new(&["a"; 33], Members::All), Err(FingerprintError::TooManyHeaders { count: 33 }));
    let none: [&str; 0] = [];
    assert_eq!(Selection::new(&none, Members::Only(Vec::new())), Err(FingerprintError::NoMembers));
    let one = pointer("/a").expect("/a");
    let many = Members::Without(vec![one.clone(); MAX_MEMBERS + 1]);
    assert_eq!(Selection::new(&none, many), Err(FingerprintError::TooManyMembers { count: MAX_MEMBERS + 1 }));
    assert!(Selection::new(&none, Members::Only(vec![one; MAX_MEMBERS])).is_ok());
}

#[test]
fn every_one_of_the_most_members_is_followed() {
    let names: Vec<String> = (0..MAX_MEMBERS).map(|n| format!("/m{n}")).collect();
    for n in 0..MAX_MEMBERS {
        let with = format!("{{\"m{n}\":1}}");
        assert_eq!(of_json(&with, Members::Without(pointers(&names))), of_json("{}", Members::All));
        let noise = format!("{{\"m{n}\":1,\"noise\":2}}");
        assert_eq!(of_json(&noise, Members::Only(pointers(&names))), of_json(&with, Members::All));
    }
}

fn arb_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-(1_i64 << 53)..1 << 53).prop_map(Value::from),
        // Up to 15 significant digits: these survive as a double, however a serializer spells them.
        (-999_999_999_999_999_i64..=999_999_999_999_999, -300..=280)
            .prop_map(|(digits, exponent)| Value::from(format!("{digits}e{exponent}").parse::<f64>().expect("number"))),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..6)
                .prop_map(|members: HashMap<String, Value>| members.into_iter().collect()),
        ]
    })
}

/// Another spelling of `value`: blanks, members from the back, all strings in `\u` escapes, integers with an exponent.
fn respell(value: &Value) -> String {
    let string = |text: &str| text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect::<String>();
    match value {
        Value::Null | Value::Bool(_) => format!(" {value}\n"),
        Value::Number(number) => {
            if number.is_f64() {
                format!("\t{number}")
            } else {
                format!("{number}.00E+0\r")
            }
        }
        Value::String(text) => format!("\"{}\"", string(text)),
        Value::Array(values) => format!("[ {} ]", values.iter().map(respell).collect::<Vec<_>>().join(" ,")),
        Value::Object(members) => {
            let members =
                members.iter().rev().map(|(name, value)| format!("\"{}\" : {}", string(name), respell(value)));
            format!("{{ {} }}", members.collect::<Vec<_>>().join("\n, "))
        }
    }
}

fn leaves(value: &mut Value) -> Vec<&mut Value> {
    let is_leaf = match value {
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    };
    if is_leaf {
        return vec![value];
    }
    match value {
        Value::Array(values) => values.iter_mut().flat_map(leaves).collect(),
        Value::Object(members) => members.values_mut().flat_map(leaves).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

proptest! {
    #[test]
    fn another_spelling_is_the_same_request(value in arb_json()) {
        prop_assert_eq!(of_json(&respell(&value), Members::All), of_json(&value.to_string(), Members::All));
    }

    #[test]
    fn another_leaf_is_another_request(value in arb_json(), which: Index) {
        let mut changed = value.clone();
        let mut all = leaves(&mut changed);
        let count = all.len();
        if let Some(leaf) = all.get_mut(which.index(count)) {
            **leaf = match leaf {
                Value::Number(number) => json!(number.as_f64().map(|number| if number == 0.5 { 1.5 } else { 0.5 })),
                Value::String(text) => Value::String(format!("{text}x")),
                Value::Bool(truth) => Value::Bool(!*truth),
                Value::Null => json!(0),
                Value::Array(_) => json!({}),
                Value::Object(_) => json!([]),
            };
        }
        prop_assert_ne!(of_json(&changed.to_string(), Members::All), of_json(&value.to_string(), Members::All));
    }

    #[test]
    fn a_member_that_is_left_out_makes_no_difference(value in arb_json(), noise in arb_json(), other in arb_json()) {
        let body = |noise: Option<&Value>| {
            let mut body = json!({ "kept": value });
            if let (Some(members), Some(noise)) = (body.as_object_mut(), noise) {
                members.insert("noise".to_owned(), noise.clone());
            }
            body.to_string()
        };
        let without = || Members::Without(pointers(&["/noise".to_owned()]));
        let only = || Members::Only(pointers(&["/kept".to_owned()]));
        let expected = of_json(&body(None), Members::All);
        for noise in [None, Some(&noise), Some(&other)] {
            prop_assert_eq!(of_json(&body(noise), without()), expected);
            prop_assert_eq!(of_json(&body(noise), only()), expected);
        }
    }
}
