use super::*;

fn parse(json: &str) -> Result<v1::ReserveRequest, String> {
    let request: ReserveRequest = serde_json::from_str(json).map_err(|error| error.to_string())?;
    request.into_message().map_err(|error| error.to_string())
}

fn refusal<T: std::fmt::Debug>(result: Result<T, ApiError>) -> (Code, &'static str) {
    let error = result.expect_err("a refusal");
    (error.code(), error.field().expect("a field"))
}

#[test]
fn json_becomes_the_message_that_grpc_has() {
    let json = r#"{"tenant":"acme","key":"k","fingerprint":"00fF","nonce":"0A","lease_ms":50,"wait_ms":0}"#;
    let message = parse(json).expect("valid");
    assert_eq!(
        message,
        v1::ReserveRequest {
            tenant: "acme".to_owned(),
            key: "k".to_owned(),
            fingerprint: Some(v1::Fingerprint {
                kind: Some(v1::fingerprint::Kind::Digest(Bytes::from_static(&[0x00, 0xff])))
            }),
            nonce: Bytes::from_static(&[0x0a]),
            lease_ms: Some(50),
            wait_ms: Some(0),
            ..v1::ReserveRequest::default()
        }
    );
}

#[test]
fn a_request_is_decoded() {
    let json = r#"{"tenant":"acme","key":"k","request":
        {"method":"POST","path":"/a","headers":[["a","1"],["A","é"]],"body_base64":"AAH/"}}"#;
    let message = parse(json).expect("valid");
    let Some(v1::Fingerprint { kind: Some(v1::fingerprint::Kind::Request(request)) }) = message.fingerprint else {
        panic!("no request");
    };
    assert_eq!(request.body, Bytes::from_static(&[0, 1, 255]));
    let header = |name: &str, value: &'static [u8]| v1::Header { name: name.to_owned(), value: value.into() };
    assert_eq!(request.headers, [header("a", b"1"), header("A", b"\xe9")], "a character is a byte");
}

#[test]
fn what_is_not_known_twice_or_of_another_type_is_named() {
    let of = |members: &str| parse(&format!(r#"{{"tenant":"a","key":"k",{members}}}"#)).expect_err("refused");
    assert!(of(r#""fingerprnt":"00""#).contains("unknown field `fingerprnt`"));
    assert!(of(r#""fingerprint":"00","fingerprint":"01""#).contains("duplicate field `fingerprint`"));
    assert!(of(r#""fingerprint":7"#).contains("expected a string"));
    assert!(of(r#""lease_ms":-1"#).contains("invalid value"));
    assert!(of(r#""lease_ms":1e99"#).contains("whole number of at most 32 bits"));
    assert!(of(r#""lease_ms":4294967296"#).contains("whole number of at most 32 bits"));
    assert!(of(r#""wait_ms":"5""#).contains("whole number of at most 32 bits"));
    assert!(of(r#""request":{"method":"POST","path":"/","headers":{"a":"b"}}"#).contains("expected a sequence"));
    assert!(of(r#""request":{"method":"POST","path":"/","headers":[["a"]]}"#).contains("tuple"));
    assert!(of(r#""request":{"path":"/"}"#).contains("missing field `method`"));
}

/// An array in an object's place would give its fields by their order, and a new field would change what it says.
#[test]
fn an_array_is_no_object() {
    let request = r#"{"tenant":"a","key":"k","request":["POST","/",[],""]}"#;
    assert!(parse(request).expect_err("refused").contains("expected an object"));
    let read = serde_json::from_str::<Object<Empty>>;
    assert!(read("{}").is_ok());
    assert!(read("[]").expect_err("refused").to_string().contains("expected an object"));
    let resolve = r#"{"tenant":"a","key":"k","fencing":[1,2],"verdict":"not_executed","actor":"a","reason":"r"}"#;
    assert!(serde_json::from_str::<ResolveRequest>(resolve).expect_err("refused").to_string().contains("an object"));
}

/// JSON has one kind of number, and 50.0 is the whole one.
#[test]
fn a_whole_number_may_be_written_with_a_fraction_of_zero() {
    let of = |number: &str| {
        let json = format!(r#"{{"tenant":"a","key":"k","fingerprint":"00","seen":{number}}}"#);
        parse(&json).map(|message| message.seen.expect("there"))
    };
    assert_eq!(of("50.0"), Ok(50));
    assert_eq!(of("5e1"), Ok(50));
    assert_eq!(of("18446744073709551615"), Ok(u64::MAX));
    for refused in ["50.5", "-0.5", "-1.0", "18446744073709551616", "1e300"] {
        assert!(of(refused).expect_err(refused).contains("invalid value"), "{refused}");
    }
}

#[test]
fn both_kinds_of_fingerprint_are_one_too_many() {
    let json = r#"{"tenant":"a","key":"k","fingerprint":"00","request":{"method":"GET","path":"/"}}"#;
    assert!(parse(json).expect_err("refused").contains("both"));
}

#[test]
fn hex_is_pairs_of_digits_in_any_case() {
    let of = |text: &str| hex(text, Code::NonceInvalid, "nonce");
    assert_eq!(of("").expect("no bytes"), Bytes::new());
    assert_eq!(of("09aFAf").expect("hex"), Bytes::from_static(&[0x09, 0xaf, 0xaf]));
    for text in ["0", "0g", "0x00", " 00", "00 ", "+1", "éé", "0\0"] {
        assert_eq!(refusal(of(text)), (Code::NonceInvalid, "nonce"), "{text:?}");
    }
    assert_eq!(refusal(nonce(Some(""))), (Code::NonceInvalid, "nonce"), "there and empty");
    assert_eq!(nonce(None).expect("absent"), Bytes::new());
}

#[test]
fn base64_is_standard_with_padding() {
    let of = |text: &str| base64(text, Code::EnvelopeInvalid, "envelope.body_base64");
    assert_eq!(of("").expect("no bytes"), Bytes::new());
    assert_eq!(of("+/8=").expect("base64"), Bytes::from_static(&[0xfb, 0xff]));
    for text in ["+/8", "-_8=", "+/9=", "+/8=\n", "+ /8=", "====", "é"] {
        assert_eq!(refusal(of(text)), (Code::EnvelopeInvalid, "envelope.body_base64"), "{text:?}");
    }
}

#[test]
fn a_header_value_is_one_byte_a_character() {
    assert_eq!(latin1("a\u{ff}").expect("latin 1"), Bytes::from_static(b"a\xff"));
    assert_eq!(latin1("\u{100}"), None);
    let pairs = vec![("a".to_owned(), "€".to_owned())];
    let refused = headers(pairs, Code::EnvelopeInvalid, "envelope.headers");
    assert_eq!(refusal(refused), (Code::EnvelopeInvalid, "envelope.headers"));
}

#[test]
fn a_verdict_and_its_envelope_belong_together() {
    let of = |members: &str| {
        let json = format!(
            r#"{{"tenant":"a","key":"k","fencing":{{"epoch":1,"sequence":2}},"actor":"x","reason":"y",{members}}}"#
        );
        serde_json::from_str::<ResolveRequest>(&json).expect("json").into_message()
    };
    assert!(of(r#""verdict":"not_executed""#).is_ok());
    assert!(of(r#""verdict":"executed","envelope":{"status":200}"#).is_ok());
    assert_eq!(refusal(of(r#""verdict":"executed""#)), (Code::VerdictInvalid, "envelope"));
    let both = of(r#""verdict":"not_executed","envelope":{"status":200}"#);
    assert_eq!(refusal(both), (Code::VerdictInvalid, "envelope"));
}
