//! RFC 8785's own examples, and the canonical form against `serde_json`'s reading of it.

use proptest::prelude::*;

use super::{Decimal, canonicalize};
use crate::fingerprint::Members;

fn canonical(text: &str) -> Option<String> {
    let canonical = canonicalize(text.as_bytes(), &Members::All)?;
    Some(String::from_utf8(canonical.text).unwrap())
}

/// RFC 8785 appendix B: the bits of a double and how it is written.
#[test]
fn numbers_are_written_as_in_appendix_b() {
    let rows: [(u64, &str); 25] = [
        (0x0000000000000000, "0"),
        (0x8000000000000000, "0"),
        (0x0000000000000001, "5e-324"),
        (0x8000000000000001, "-5e-324"),
        (0x7fefffffffffffff, "1.7976931348623157e+308"),
        (0xffefffffffffffff, "-1.7976931348623157e+308"),
        (0x4340000000000000, "9007199254740992"),
        (0xc340000000000000, "-9007199254740992"),
        (0x4430000000000000, "295147905179352830000"),
        (0x44b52d02c7e14af5, "9.999999999999997e+22"),
        (0x44b52d02c7e14af6, "1e+23"),
        (0x44b52d02c7e14af7, "1.0000000000000001e+23"),
        (0x444b1ae4d6e2ef4e, "999999999999999700000"),
        (0x444b1ae4d6e2ef4f, "999999999999999900000"),
        (0x444b1ae4d6e2ef50, "1e+21"),
        (0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"),
        (0x3eb0c6f7a0b5ed8d, "0.000001"),
        (0x41b3de4355555553, "333333333.3333332"),
        (0x41b3de4355555554, "333333333.33333325"),
        (0x41b3de4355555555, "333333333.3333333"),
        (0x41b3de4355555556, "333333333.3333334"),
        (0x41b3de4355555557, "333333333.33333343"),
        (0xbecbf647612f3696, "-0.0000033333333333333333"),
        (0x43143ff3c1cb0959, "1424953923781206.2"),
        (0x3ff0000000000000, "1"),
    ];
    for (bits, expected) in rows {
        assert_eq!(expected.parse(), Ok(f64::from_bits(bits)), "{bits:016x}");
        assert_eq!(canonical(expected).as_deref(), Some(expected), "{bits:016x}");
    }
}

/// RFC 8785 section 3.2.2, with the number that a double rounds (`333333333.33333329`) in a digit less.
#[test]
fn the_rfc_sample_is_canonical() {
    let input = r#"{
        "numbers": [333333333.3333333, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
        "literals": [null, true, false]
    }"#;
    let expected = concat!(
        r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"#,
        r#""string":"€$\u000f\nA'B\"\\\\\"/"}"#
    );
    assert_eq!(canonical(input).as_deref(), Some(expected));
    assert_eq!(canonical(&input.replace("3333333,", "33333329,")), None);
}

/// RFC 8785 section 3.2.3: by UTF-16 code units, so the emoji (D83D DE00) stands before U+FB33.
#[test]
fn members_are_sorted_as_in_the_rfc() {
    let input = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh",
        "1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#;
    let expected = concat!(
        r#"{"\r":"Carriage Return","1":"One",""#,
        "\u{80}",
        r#"":"Control","ö":"Latin Small Letter O With Diaeresis","€":"Euro Sign","#,
        r#""😀":"Emoji: Grinning Face",""#,
        "\u{fb33}",
        r#"":"Hebrew Letter Dalet With Dagesh"}"#
    );
    assert_eq!(canonical(input).as_deref(), Some(expected));
}

#[test]
fn a_number_is_written_only_if_its_value_stays() {
    for (text, expected) in [
        ("1e0000000000000000000000000000001", Some("10")),
        ("0e99999999999999999999999999999", Some("0")),
        ("100000000000000000000000e-23", Some("1")),
        ("0.00000000000000000000001E23", Some("1")),
        ("999999999999999", Some("999999999999999")),
        ("18446744073709551616", Some("18446744073709552000")),
    ] {
        let exact = Decimal::parse(text) == expected.and_then(Decimal::parse);
        let written = canonical(text);
        assert_eq!(written.as_deref(), expected.filter(|_| exact), "{text}");
    }
    // Between two shortest texts of one double (this one is 1424953923781206.25) only ECMAScript's choice is canonical.
    assert_eq!(canonical("1424953923781206.3"), None);
    for text in ["1e99999999999999999999999999999", "1e-99999999999999999999999999999", "4.9e-324", "9007199254740993"]
    {
        assert_eq!(canonical(text), None, "{text}");
    }
}

#[test]
fn what_is_no_json_has_no_canonical_form() {
    for text in [
        "",
        " ",
        "nul",
        "nulll",
        "True",
        "-",
        "+1",
        ".5",
        "1.",
        "1.e1",
        "1e",
        "1e+",
        "0x1",
        "00",
        "-01",
        "1 1",
        "[",
        "]",
        "[1",
        "[,]",
        "[1,]",
        "[1 2]",
        "{",
        "}",
        "{a:1}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{\"a\" 1}",
        "{1:1}",
        "\"",
        "\"\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u+123\"",
        "\"\\u00e\u{e9}\"",
        "\"\\ud800\"",
        "\"\\ud800\\u0041\"",
        "\"\\udc00\"",
        "'a'",
        "\u{feff}1",
        "1\u{a0}",
        "\"\n\"",
        "[1]//",
        "/**/1",
        "\u{b}1",
    ] {
        assert_eq!(canonical(text), None, "{text:?}");
    }
}

proptest! {
    #[test]
    fn every_finite_double_survives_as_ecmascript_writes_it(bits: u64) {
        let double = f64::from_bits(bits);
        prop_assume!(double.is_finite());
        let text = ryu_js::Buffer::new().format_finite(double).to_owned();
        prop_assert_eq!(canonical(&text), Some(text.clone()));
        prop_assert_eq!(text.parse(), Ok(double));
    }

    #[test]
    fn fifteen_digits_survive(digits in -999_999_999_999_999_i64..=999_999_999_999_999, exponent in -300..=280) {
        let text = format!("{digits}e{exponent}");
        let written = canonical(&text).unwrap();
        prop_assert!(Decimal::parse(&written) == Decimal::parse(&text));
    }

    #[test]
    fn integers_of_any_size_are_written_exactly_or_not_at_all(integer: i128) {
        let text = integer.to_string();
        if let Some(written) = canonical(&text) {
            prop_assert!(Decimal::parse(&written) == Decimal::parse(&text));
        }
    }

    /// On texts made of JSON's own pieces, valid or broken, `serde_json` and this reader agree on what is JSON.
    #[test]
    fn accepts_what_serde_json_accepts(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", " ", "\n", "\"a\"", "\"b\"", "\"\\n\"", "\"\\u0061\"", "0", "-", "1", ".", "5", "e", "+",
            "true", "null", "\"", "\\", "é", "\u{1}",
        ]), 0..12),
    ) {
        let text = pieces.concat();
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        match (canonical(&text), theirs) {
            (Some(ours), Ok(value)) => {
                let again: serde_json::Value = serde_json::from_str(&ours).unwrap();
                prop_assert_eq!(canonical(&value.to_string()), canonical(&again.to_string()));
                prop_assert_eq!(canonical(&ours), Some(ours));
            }
            (Some(ours), Err(error)) => prop_assert!(false, "{text:?} became {ours:?}, but: {error}"),
            // It refuses more: names that come twice, and numbers that a double rounds.
            (None, Ok(_)) => prop_assert!(text.contains("\"") || text.contains(['e', '.'])),
            (None, Err(_)) => {}
        }
    }
}
