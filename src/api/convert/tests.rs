use bytes::Bytes;

use std::time::Duration;

use super::*;

const BODY: usize = limits::DEFAULT_ENVELOPE_BODY_BYTES;

fn now() -> Monotonic {
    Monotonic::at(Duration::ZERO)
}

fn text(length: usize) -> String {
    "a".repeat(length)
}

fn digest(length: usize) -> Option<v1::Fingerprint> {
    Some(v1::Fingerprint { kind: Some(v1::fingerprint::Kind::Digest(vec![7; length].into())) })
}

fn request() -> v1::Request {
    v1::Request {
        method: "POST".to_owned(),
        path: "/v1/charges?trace=1".to_owned(),
        headers: vec![header("Content-Type", b"application/json; charset=utf-8")],
        body: Bytes::from_static(b"{\"amount\": 1.0}"),
    }
}

fn of_request(request: v1::Request) -> Option<v1::Fingerprint> {
    Some(v1::Fingerprint { kind: Some(v1::fingerprint::Kind::Request(request)) })
}

fn header(name: &str, value: &[u8]) -> v1::Header {
    v1::Header { name: name.to_owned(), value: Bytes::copy_from_slice(value) }
}

fn valid() -> v1::ReserveRequest {
    v1::ReserveRequest {
        tenant: "acme".to_owned(),
        key: "order-1".to_owned(),
        fingerprint: digest(32),
        ..v1::ReserveRequest::default()
    }
}

fn envelope() -> v1::Envelope {
    v1::Envelope { status: 201, headers: vec![header("location", b"/charges/1")], body: Bytes::from_static(b"{}") }
}

fn completion(envelope: v1::Envelope) -> v1::CompleteRequest {
    v1::CompleteRequest {
        tenant: "acme".to_owned(),
        key: "order-1".to_owned(),
        token: "1.1.abc".to_owned(),
        envelope: Some(envelope),
        retention_ms: None,
    }
}

fn resolution() -> v1::ResolveRequest {
    v1::ResolveRequest {
        tenant: "acme".to_owned(),
        key: "order-1".to_owned(),
        fencing: Some(v1::FencingToken { epoch: 1, sequence: 2 }),
        verdict: Some(v1::resolve_request::Verdict::NotExecuted(v1::NotExecuted {})),
        actor: "ada".to_owned(),
        reason: "no charge at the processor".to_owned(),
    }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, ApiError>) -> Option<(Code, &'static str)> {
    result.err().map(|error| (error.code(), error.field().expect("a field")))
}

fn built_in() -> Selection {
    crate::control::selection::Spec::built_in().selection().unwrap()
}

/// Changes a valid message and says what it is refused for.
fn reserve_with(change: impl FnOnce(&mut v1::ReserveRequest)) -> Option<(Code, &'static str)> {
    let mut message = valid();
    change(&mut message);
    refusal(reserve(message, now()))
}

fn complete_with(change: impl FnOnce(&mut v1::Envelope)) -> Option<(Code, &'static str)> {
    let mut message = envelope();
    change(&mut message);
    refusal(complete(completion(message), BODY))
}

#[test]
fn a_plain_reserve_has_the_defaults() {
    let Asked::Digested(call) = reserve(valid(), now()).expect("valid") else { panic!("it has a digest") };
    assert_eq!(call.key.to_string(), "acme/order-1");
    assert_eq!(call.endpoint.as_str(), "default");
    assert_eq!((call.fingerprint.version, call.fingerprint.selection, call.fingerprint.digest.len()), (0, 0, 32));
    assert_eq!((call.nonce, call.lease_ms, call.wait), (None, None, Duration::ZERO));
}

#[test]
fn a_request_is_fingerprinted_under_the_endpoint_it_names_or_is() {
    let of = |endpoint: &str, request: v1::Request| {
        let message = v1::ReserveRequest { endpoint: endpoint.to_owned(), fingerprint: of_request(request), ..valid() };
        let Asked::Described { mut call, request } = reserve(message, now()).expect("valid") else {
            panic!("it has a request")
        };
        call.fingerprint = fingerprint_of(&request, &call.endpoint, 1, &built_in());
        call
    };
    let call = of("", request());
    assert_eq!(call.endpoint.as_str(), "POST /v1/charges", "without the query");
    assert_eq!((call.fingerprint.version, call.fingerprint.selection), (1, 1));

    let same = v1::Request {
        headers: vec![header("x-trace", b"2"), header("content-type", b"application/json")],
        body: Bytes::from_static(b"{ \"amount\":1 }"),
        ..request()
    };
    assert_eq!(of("", same.clone()).fingerprint, call.fingerprint, "the same by its meaning");
    assert_eq!(of("POST /v1/charges", same.clone()).fingerprint, call.fingerprint, "the default spelt out");
    assert_ne!(of("charges", same).fingerprint, call.fingerprint, "the endpoint counts");

    let other = v1::Request { body: Bytes::from_static(b"{\"amount\":2}"), ..request() };
    assert_ne!(of("", other).fingerprint, call.fingerprint);
    let elsewhere = v1::Request { path: "/v1/charges?trace=2".to_owned(), ..request() };
    assert_ne!(of("", elsewhere).fingerprint, call.fingerprint, "the query counts, though the endpoint is the same");
}

#[test]
fn exactly_one_kind_of_fingerprint_is_needed() {
    let none = Some((Code::FingerprintInvalid, "fingerprint"));
    assert_eq!(reserve_with(|message| message.fingerprint = None), none);
    assert_eq!(reserve_with(|message| message.fingerprint = Some(v1::Fingerprint { kind: None })), none);
    assert_eq!(reserve_with(|message| message.fingerprint = digest(0)), none);
    assert_eq!(reserve_with(|message| message.fingerprint = digest(1)), None);
    assert_eq!(reserve_with(|message| message.fingerprint = digest(limits::MAX_FINGERPRINT_BYTES)), None);
    assert_eq!(reserve_with(|message| message.fingerprint = digest(limits::MAX_FINGERPRINT_BYTES + 1)), none);
}

#[test]
fn names_are_taken_to_their_limit_and_no_further() {
    let tenant = Some((Code::TenantInvalid, "tenant"));
    assert_eq!(reserve_with(|message| message.tenant = text(limits::MAX_TENANT_BYTES)), None);
    assert_eq!(reserve_with(|message| message.tenant = text(limits::MAX_TENANT_BYTES + 1)), tenant);
    assert_eq!(reserve_with(|message| message.tenant.clear()), tenant);
    assert_eq!(reserve_with(|message| message.tenant = "a/b".to_owned()), tenant);
    assert_eq!(reserve_with(|message| message.tenant = "ü".to_owned()), tenant);

    let key = Some((Code::KeyInvalid, "key"));
    assert_eq!(reserve_with(|message| message.key = text(255)), None);
    assert_eq!(reserve_with(|message| message.key = text(256)), key);
    assert_eq!(reserve_with(|message| message.key.clear()), key);
    assert_eq!(reserve_with(|message| message.key = "a b".to_owned()), key);
    assert_eq!(reserve_with(|message| message.key = "a\0b".to_owned()), key);
    assert_eq!(reserve_with(|message| message.key = "hf1.anything".to_owned()), key);

    let endpoint = Some((Code::EndpointInvalid, "endpoint"));
    assert_eq!(reserve_with(|message| message.endpoint = text(limits::MAX_ENDPOINT_BYTES)), None);
    assert_eq!(reserve_with(|message| message.endpoint = text(limits::MAX_ENDPOINT_BYTES + 1)), endpoint);
    assert_eq!(reserve_with(|message| message.endpoint = "a\nb".to_owned()), endpoint);

    let nonce = Some((Code::NonceInvalid, "nonce"));
    assert_eq!(reserve_with(|message| message.nonce = vec![0; limits::MAX_NONCE_BYTES].into()), None);
    assert_eq!(reserve_with(|message| message.nonce = vec![0; limits::MAX_NONCE_BYTES + 1].into()), nonce);

    let version = Some((Code::InputInvalid, "client_version"));
    assert_eq!(reserve_with(|message| message.client_version = text(limits::MAX_CLIENT_VERSION_BYTES)), None);
    assert_eq!(reserve_with(|message| message.client_version = text(limits::MAX_CLIENT_VERSION_BYTES + 1)), version);
    assert_eq!(reserve_with(|message| message.client_version = "a\"b c".to_owned()), version);
}

#[test]
fn times_are_taken_to_their_bounds_and_no_further() {
    let lease = Some((Code::LeaseInvalid, "lease_ms"));
    assert_eq!(reserve_with(|message| message.lease_ms = Some(50)), None);
    assert_eq!(reserve_with(|message| message.lease_ms = Some(49)), lease);
    assert_eq!(reserve_with(|message| message.lease_ms = Some(3_600_000)), None);
    assert_eq!(reserve_with(|message| message.lease_ms = Some(3_600_001)), lease);
    assert_eq!(reserve_with(|message| message.lease_ms = Some(u32::MAX)), lease);
    let wait = Some((Code::WaitInvalid, "wait_ms"));
    assert_eq!(reserve_with(|message| message.wait_ms = Some(60_000)), None);
    assert_eq!(reserve_with(|message| message.wait_ms = Some(60_001)), wait);

    let retained = |retention_ms| {
        let message = v1::CompleteRequest { retention_ms: Some(retention_ms), ..completion(envelope()) };
        refusal(complete(message, BODY))
    };
    let retention = Some((Code::RetentionInvalid, "retention_ms"));
    assert_eq!(retained(1_000), None);
    assert_eq!(retained(999), retention);
    assert_eq!(retained(34_560_000_000), None);
    assert_eq!(retained(34_560_000_001), retention);
    assert_eq!(retained(u64::MAX), retention);
}

#[test]
fn a_request_to_fingerprint_is_checked() {
    let with = |change: fn(&mut v1::Request)| {
        let mut request = request();
        change(&mut request);
        reserve_with(|message| message.fingerprint = of_request(request))
    };
    let of = |field| Some((Code::FingerprintInvalid, field));
    assert_eq!(with(|request| request.method.clear()), of("request.method"));
    assert_eq!(with(|request| request.method = "PO ST".to_owned()), of("request.method"));
    assert_eq!(with(|request| request.path.clear()), of("request.path"));
    assert_eq!(with(|request| request.path = "https://host/".to_owned()), of("request.path"));
    assert_eq!(with(|request| request.path = format!("/{}", text(300))), Some((Code::EndpointInvalid, "endpoint")));
    assert_eq!(with(|request| request.headers.push(header(":path", b"/v1/charges"))), None, "a pseudo-header");
    assert_eq!(with(|request| request.headers.push(header("::path", b""))), of("request.headers"));
    assert_eq!(with(|request| request.body = vec![0; limits::MAX_FINGERPRINTED_BODY_BYTES].into()), None);
    assert_eq!(
        with(|request| request.body = vec![0; limits::MAX_FINGERPRINTED_BODY_BYTES + 1].into()),
        of("request.body")
    );
}

#[test]
fn another_target_is_another_request_though_the_endpoint_is_the_same() {
    let digest = |path: &str| {
        let request = v1::Request { path: path.to_owned(), ..request() };
        let endpoint = endpoint_of("charges", &request).unwrap();
        assert_eq!(endpoint.as_str(), "charges");
        fingerprint_of(&request, &endpoint, 1, &built_in()).digest
    };
    assert_eq!(digest("/accounts/7/charges"), digest("/accounts/7/charges"));
    assert_ne!(digest("/accounts/7/charges"), digest("/accounts/8/charges"));
    assert_ne!(digest("/charges?amount=5"), digest("/charges?amount=6"));
}

#[test]
fn a_path_may_be_missing_where_the_endpoint_is_named() {
    let request = v1::Request { path: String::new(), ..request() };
    let message = v1::ReserveRequest { endpoint: "charges".to_owned(), fingerprint: of_request(request), ..valid() };
    assert_eq!(refusal(reserve(message, now())), None);
}

#[test]
fn an_envelope_is_checked() {
    assert_eq!(complete_with(|_| {}), None);
    let status = Some((Code::EnvelopeInvalid, "envelope.status"));
    assert_eq!(complete_with(|envelope| envelope.status = 100), None);
    assert_eq!(complete_with(|envelope| envelope.status = 599), None);
    assert_eq!(complete_with(|envelope| envelope.status = 99), status);
    assert_eq!(complete_with(|envelope| envelope.status = 600), status);
    assert_eq!(complete_with(|envelope| envelope.status = 65_536 + 200), status, "not cut to 16 bits");
    assert_eq!(complete_with(|envelope| envelope.body = vec![0; BODY].into()), None);
    assert_eq!(
        complete_with(|envelope| envelope.body = vec![0; BODY + 1].into()),
        Some((Code::EnvelopeTooLarge, "envelope.body"))
    );
    let message = v1::CompleteRequest { envelope: None, ..completion(envelope()) };
    assert_eq!(refusal(complete(message, BODY)), Some((Code::EnvelopeInvalid, "envelope")));
}

#[test]
fn headers_cannot_smuggle_others_in() {
    let malformed = Some((Code::EnvelopeInvalid, "envelope.headers"));
    for name in ["", "a b", "a:b", ":status", "a\r\nb", "a\0", "ü", "(a)"] {
        assert_eq!(complete_with(|envelope| envelope.headers.push(header(name, b"v"))), malformed, "{name:?}");
    }
    for value in [&b"a\r\nset-cookie: b"[..], b"a\nb", b"a\rb", b"a\0b", b"\x7f", b"\x1b[31m"] {
        assert_eq!(complete_with(|envelope| envelope.headers.push(header("a", value))), malformed, "{value:?}");
    }
    for value in [&b""[..], b"a\tb c", b"\"quoted\"", b"\xff\x80", "ü".as_bytes()] {
        assert_eq!(complete_with(|envelope| envelope.headers.push(header("A-b_c~1", value))), None, "{value:?}");
    }
}

#[test]
fn headers_are_taken_to_their_limits_and_no_further() {
    let too_large = Some((Code::EnvelopeTooLarge, "envelope.headers"));
    let many = |count| vec![header("a", b""); count];
    assert_eq!(complete_with(|envelope| envelope.headers = many(limits::MAX_HEADERS)), None);
    assert_eq!(complete_with(|envelope| envelope.headers = many(limits::MAX_HEADERS + 1)), too_large);
    let named = |length| vec![header(&text(length), b"")];
    assert_eq!(complete_with(|envelope| envelope.headers = named(limits::MAX_HEADER_NAME_BYTES)), None);
    assert_eq!(complete_with(|envelope| envelope.headers = named(limits::MAX_HEADER_NAME_BYTES + 1)), too_large);
    let valued = |length: usize| vec![header("a", text(length).as_bytes())];
    assert_eq!(complete_with(|envelope| envelope.headers = valued(limits::MAX_HEADER_BYTES - 1)), None);
    assert_eq!(complete_with(|envelope| envelope.headers = valued(limits::MAX_HEADER_BYTES)), too_large);
}

#[test]
fn an_envelope_goes_through_byte_for_byte() {
    let headers = vec![header("Set-Thing", b"1"), header("set-thing", b"\xfe"), header("A", b"")];
    let body = Bytes::from_static(b"\0\xff{}");
    let call = complete(completion(v1::Envelope { status: 404, headers, body: body.clone() }), BODY).expect("valid");
    assert_eq!(call.envelope.status, 404);
    assert_eq!(call.envelope.body, body);
    let names: Vec<(&str, &[u8])> =
        call.envelope.headers.iter().map(|(name, value)| (name.as_str(), value.as_ref())).collect();
    assert_eq!(names, [("Set-Thing", &b"1"[..]), ("set-thing", b"\xfe"), ("A", b"")]);
}

#[test]
fn a_token_is_short_visible_text() {
    let with = |token: &str| {
        refusal(release(v1::ReleaseRequest { tenant: "a".to_owned(), key: "k".to_owned(), token: token.to_owned() }))
    };
    let invalid = Some((Code::TokenInvalid, "token"));
    assert_eq!(with(&text(limits::MAX_TOKEN_BYTES)), None);
    assert_eq!(with(&text(limits::MAX_TOKEN_BYTES + 1)), invalid);
    assert_eq!(with(""), invalid);
    assert_eq!(with("1.1.a b"), invalid);
    assert_eq!(with("1.1.ä"), invalid);
}

#[test]
fn extending_needs_a_lease() {
    let with = |lease_ms| {
        let token = "1.1.abc".to_owned();
        refusal(extend(v1::ExtendRequest { tenant: "a".to_owned(), key: "k".to_owned(), token, lease_ms }))
    };
    assert_eq!(with(0), Some((Code::LeaseInvalid, "lease_ms")));
    assert_eq!(with(50), None);
}

#[test]
fn a_checkpoint_is_small_and_named() {
    let with = |name: &str, bytes: usize| {
        let data = vec![0; bytes].into();
        refusal(checkpoint(v1::CheckpointRequest {
            tenant: "a".to_owned(),
            key: "k".to_owned(),
            token: "1.1.abc".to_owned(),
            checkpoint: Some(v1::CheckpointData { name: name.to_owned(), data }),
        }))
    };
    let name = Some((Code::CheckpointInvalid, "checkpoint.name"));
    assert_eq!(with(&text(limits::MAX_CHECKPOINT_NAME_BYTES), limits::MAX_CHECKPOINT_DATA_BYTES), None);
    assert_eq!(with(&text(limits::MAX_CHECKPOINT_NAME_BYTES + 1), 0), name);
    assert_eq!(with("", 0), name);
    assert_eq!(with("a\nb", 0), name);
    let data = Some((Code::CheckpointInvalid, "checkpoint.data"));
    assert_eq!(with("a", limits::MAX_CHECKPOINT_DATA_BYTES + 1), data);
    let message =
        v1::CheckpointRequest { tenant: "a".to_owned(), key: "k".to_owned(), token: "t".to_owned(), checkpoint: None };
    assert_eq!(refusal(checkpoint(message)), Some((Code::CheckpointInvalid, "checkpoint")));
}

#[test]
fn a_claim_names_its_worker() {
    let with = |worker: &str| {
        let message = v1::ClaimRequest {
            tenant: "a".to_owned(),
            key: "k".to_owned(),
            worker: worker.to_owned(),
            nonce: Bytes::new(),
            lease_ms: None,
        };
        refusal(claim(message, now()))
    };
    let worker = Some((Code::InputInvalid, "worker"));
    assert_eq!(with("recovery-1"), None);
    assert_eq!(with(&text(limits::MAX_ACTOR_BYTES)), None);
    assert_eq!(with(&text(limits::MAX_ACTOR_BYTES + 1)), worker);
    assert_eq!(with(""), worker);
    assert_eq!(with("  "), worker);
    assert_eq!(with("a\u{85}b"), worker, "a control character beyond ascii");
}

#[test]
fn a_verdict_is_whole() {
    let with = |change: fn(&mut v1::ResolveRequest)| {
        let mut message = resolution();
        change(&mut message);
        refusal(resolve(message, BODY))
    };
    assert_eq!(with(|_| {}), None);
    assert_eq!(with(|message| message.fencing = None), Some((Code::VerdictInvalid, "fencing")));
    assert_eq!(with(|message| message.verdict = None), Some((Code::VerdictInvalid, "verdict")));
    assert_eq!(with(|message| message.actor.clear()), Some((Code::InputInvalid, "actor")));
    assert_eq!(with(|message| message.reason = text(limits::MAX_REASON_BYTES)), None);
    assert_eq!(
        with(|message| message.reason = text(limits::MAX_REASON_BYTES + 1)),
        Some((Code::InputInvalid, "reason"))
    );
    let executed = |envelope| {
        let verdict = Some(v1::resolve_request::Verdict::Executed(envelope));
        refusal(resolve(v1::ResolveRequest { verdict, ..resolution() }, BODY))
    };
    assert_eq!(executed(envelope()), None);
    let wrong = v1::Envelope { status: 0, ..envelope() };
    assert_eq!(executed(wrong), Some((Code::EnvelopeInvalid, "envelope.status")));
}
