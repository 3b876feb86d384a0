//! What a node says to input that is wrong, oversized or hostile over HTTP/JSON, and that it is there afterwards.
//!
//! Every refusal is checked for its status, its code, and that the code's page is served; every limit at the limit, and
//! one over. `api_garbage` does the same below HTTP, `api_grpc` over gRPC.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::clock;
use crate::http::{self, Answer};

/// Bytes of one HTTP/JSON request, as documented.
const MOST_BODY_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of an envelope's body unless configured, as documented.
const MOST_ENVELOPE_BYTES: usize = 256 * 1024;
const JSON: (&str, &str) = ("content-type", "application/json");

/// Runs every case against a node that was started without configuration.
pub(crate) async fn all(address: SocketAddr) -> anyhow::Result<()> {
    bodies(address).await?;
    heads(address).await?;
    reserve_fields(address).await?;
    other_fields(address).await?;
    envelopes(address).await?;
    keys(address).await?;
    still_there(address).await
}

/// The node is healthy and grants.
pub(crate) async fn still_there(address: SocketAddr) -> anyhow::Result<()> {
    let health = http::get(address, "/healthz").await?;
    ensure!(health.status == 200, "unhealthy: {}", String::from_utf8_lossy(&health.body));
    granted(address, &key()).await.map(drop)
}

/// A member of an object; null if it is not there.
pub(crate) fn at<'a>(json: &'a Value, name: &str) -> &'a Value {
    json.get(name).unwrap_or(&Value::Null)
}

/// A key that no other case uses, nor one of an earlier run against the same node.
pub(crate) fn key() -> String {
    static KEYS: AtomicU64 = AtomicU64::new(0);
    format!("hostile-{}-{}", clock::wall_unix_ms(), KEYS.fetch_add(1, Ordering::Relaxed))
}

/// Sends a request with exactly these headers and this body.
async fn send(address: SocketAddr, target: &str, headers: &[(&str, &str)], body: &[u8]) -> anyhow::Result<Answer> {
    let mut request = format!("{target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n").into_bytes();
    for (name, value) in headers {
        request.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    request.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    request.extend_from_slice(body);
    http::exchange(address, &request, http::DEADLINE).await
}

/// Checks that an answer is a problem with this status and code, and that its page is served.
pub(crate) async fn is_problem(
    address: SocketAddr,
    what: &str,
    answer: &Answer,
    status: u16,
    code: &str,
) -> anyhow::Result<Value> {
    let problem = answer.json().with_context(|| what.to_owned())?;
    ensure!(
        answer.status == status && at(&problem, "code") == code,
        "{what}: {status} {code} expected, {problem} came"
    );
    ensure!(answer.header("content-type") == Some("application/problem+json"), "{what}: another type");
    ensure!(at(&problem, "status") == status && at(&problem, "definite") == true, "{what}: {problem}");
    ensure!(!at(&problem, "detail").as_str().unwrap_or_default().is_empty(), "{what}: no detail in {problem}");
    let page = http::get(address, at(&problem, "type").as_str().context("no type")?).await?;
    ensure!(page.status == 200 && page.body.starts_with(format!("# {code}\n").as_bytes()), "{what}: no page of {code}");
    Ok(problem)
}

async fn refused(address: SocketAddr, path: &str, body: &[u8], status: u16, code: &str) -> anyhow::Result<Value> {
    let answer = send(address, &format!("POST {path}"), &[JSON], body).await?;
    let shown = String::from_utf8_lossy(body.get(..120).unwrap_or(body)).into_owned();
    is_problem(address, &format!("{path} {shown:?}"), &answer, status, code).await
}

/// Expects the refusal of a field, which is named.
async fn field_refused(address: SocketAddr, path: &str, body: &Value, code: &str, field: &str) -> anyhow::Result<()> {
    let status = if code == "envelope-too-large" { 413 } else { 400 };
    let problem = refused(address, path, body.to_string().as_bytes(), status, code).await?;
    ensure!(at(&problem, "field") == field, "{field} expected: {problem}");
    Ok(())
}

async fn taken(address: SocketAddr, path: &str, body: &Value, outcome: &str) -> anyhow::Result<Value> {
    let answer = http::post(address, path, body).await?;
    let json = answer.json()?;
    ensure!(answer.status == 200 && at(&json, "outcome") == outcome, "{outcome} expected: {json}");
    Ok(json)
}

/// A reserve of `key` with further members, or others in their place.
fn reserve(key: &str, members: &Value) -> Value {
    let mut body = json!({"tenant": "acme", "key": key, "fingerprint": "00ff"});
    merge(&mut body, members);
    body
}

fn merge(body: &mut Value, members: &Value) {
    for (name, value) in members.as_object().into_iter().flatten() {
        if let Some(object) = body.as_object_mut() {
            object.insert(name.clone(), value.clone());
        }
    }
}

/// Reserves a key and returns the grant's token.
async fn granted(address: SocketAddr, key: &str) -> anyhow::Result<String> {
    let answer = taken(address, "/v1/reserve", &reserve(key, &json!({})), "granted").await?;
    Ok(at(&answer, "token").as_str().context("no token")?.to_owned())
}

/// Bodies that are no request, whatever they say.
async fn bodies(address: SocketAddr) -> anyhow::Result<()> {
    let deep = |open: &str| format!(r#"{{"tenant":"a","key":"k","request":{}"#, open.repeat(100_000));
    let long = format!(r#"{{"{}":1}}"#, "x".repeat(1_000_000));
    let invalid: &[(&str, &[u8])] = &[
        ("nothing", b""),
        ("blanks", b"  \n"),
        ("truncated", br#"{"tenant":"acme","key":"#),
        ("cut in a string", br#"{"tenant":"ac"#),
        ("not json", b"tenant=acme&key=k"),
        ("binary", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\x01\x02"),
        ("not utf-8", b"{\"tenant\":\"a\xff\",\"key\":\"k\",\"fingerprint\":\"00\"}"),
        ("half a surrogate pair", br#"{"tenant":"\ud800","key":"k","fingerprint":"00"}"#),
        ("a byte order mark", b"\xef\xbb\xbf{}"),
        ("another type", b"[]"),
        ("null", b"null"),
        ("more after it", br#"{"tenant":"a","key":"k","fingerprint":"00"} {}"#),
        ("a comment", br#"{"tenant":"a" /* b */,"key":"k"}"#),
        ("a missing field", br#"{"key":"k","fingerprint":"00"}"#),
        ("an unknown field", br#"{"tenant":"a","key":"k","fingerprint":"00","leas_ms":50}"#),
        ("an unknown field inside", br#"{"tenant":"a","key":"k","request":{"method":"GET","path":"/","x":1}}"#),
        ("a duplicate field", br#"{"tenant":"a","tenant":"b","key":"k","fingerprint":"00"}"#),
        ("a duplicate by escapes", br#"{"tenant":"a","t\u0065nant":"b","key":"k","fingerprint":"00"}"#),
        ("a number for text", br#"{"tenant":7,"key":"k","fingerprint":"00"}"#),
        ("null for text", br#"{"tenant":null,"key":"k","fingerprint":"00"}"#),
        ("a negative number", br#"{"tenant":"a","key":"k","fingerprint":"00","lease_ms":-1}"#),
        ("a huge number", br#"{"tenant":"a","key":"k","fingerprint":"00","lease_ms":99999999999999999999}"#),
        ("a number without end", br#"{"tenant":"a","key":"k","fingerprint":"00","lease_ms":1e999}"#),
        ("a fraction", br#"{"tenant":"a","key":"k","fingerprint":"00","lease_ms":50.5}"#),
        ("not a number", br#"{"tenant":"a","key":"k","fingerprint":"00","lease_ms":NaN}"#),
        ("an object for headers", br#"{"tenant":"a","key":"k","request":{"method":"GET","path":"/","headers":{}}}"#),
        (
            "three in a pair",
            br#"{"tenant":"a","key":"k","request":{"method":"G","path":"/","headers":[["a","b","c"]]}}"#,
        ),
    ];
    for (what, body) in invalid {
        let answer = send(address, "POST /v1/reserve", &[JSON], body).await?;
        is_problem(address, what, &answer, 400, "body-invalid").await?;
    }
    for (field, body) in [("leas_ms", r#""leas_ms":1"#), ("key", r#""key":"l""#)] {
        let body = format!(r#"{{"tenant":"a","key":"k","fingerprint":"00",{body}}}"#);
        let problem = refused(address, "/v1/reserve", body.as_bytes(), 400, "body-invalid").await?;
        ensure!(
            at(&problem, "detail").as_str().is_some_and(|detail| detail.contains(&format!("`{field}`"))),
            "{problem}"
        );
    }
    for body in [deep("["), deep(r#"{"method":"#), deep(r#"{"headers":[["#), long] {
        let problem = refused(address, "/v1/reserve", body.as_bytes(), 400, "body-invalid").await?;
        ensure!(problem.to_string().len() < 2_000, "the answer repeats the input");
    }

    let mut padded = reserve(&key(), &json!({})).to_string();
    padded.push_str(&" ".repeat(MOST_BODY_BYTES - padded.len()));
    let answer = send(address, "POST /v1/reserve", &[JSON], padded.as_bytes()).await?;
    ensure!(answer.status == 200, "a body of exactly {MOST_BODY_BYTES} bytes: {}", answer.status);
    padded.push(' ');
    refused(address, "/v1/reserve", padded.as_bytes(), 413, "body-too-large").await?;
    let larger = vec![b' '; 2 * MOST_BODY_BYTES];
    for (target, status, code) in [("POST /", 404, "path-unknown"), ("PUT /v1/reserve", 405, "method-not-allowed")] {
        let answer = send(address, target, &[JSON], &larger).await?;
        is_problem(address, "a large body for nobody", &answer, status, code).await?;
    }
    refused(address, "/v1/reserve", &larger, 413, "body-too-large").await?;
    chunked(address, &padded).await
}

/// A body that is too large and does not say so in advance.
async fn chunked(address: SocketAddr, body: &str) -> anyhow::Result<()> {
    let head = format!(
        "POST /v1/reserve HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n{:x}\r\n",
        body.len()
    );
    let request = [head.as_bytes(), body.as_bytes(), b"\r\n0\r\n\r\n"].concat();
    let answer = http::exchange(address, &request, http::DEADLINE).await?;
    is_problem(address, "a large chunk", &answer, 413, "body-too-large").await.map(drop)
}

/// Methods, paths, types and codings.
async fn heads(address: SocketAddr) -> anyhow::Result<()> {
    let body = reserve("k", &json!({})).to_string();
    let body = body.as_bytes();
    for of in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "application/json+x", ""] {
        let answer = send(address, "POST /v1/reserve", &[("content-type", of)], body).await?;
        is_problem(address, of, &answer, 415, "content-type-unsupported").await?;
    }
    let answer = send(address, "POST /v1/reserve", &[], body).await?;
    is_problem(address, "no content type", &answer, 415, "content-type-unsupported").await?;
    for of in ["application/json; charset=utf-8", "Application/JSON"] {
        let body = reserve(&key(), &json!({})).to_string();
        let answer = send(address, "POST /v1/reserve", &[("content-type", of)], body.as_bytes()).await?;
        ensure!(answer.status == 200, "{of}: {}", answer.status);
    }

    // A gigabyte of zeros once it is unpacked, says its head; nobody unpacks it.
    let bomb = [b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff".to_vec(), vec![0xaa; 100_000]].concat();
    for coding in ["gzip", "GZIP", "deflate", "br", "zstd", "identity, gzip"] {
        let headers = [JSON, ("content-encoding", coding)];
        let answer = send(address, "POST /v1/reserve", &headers, &bomb).await?;
        is_problem(address, coding, &answer, 415, "unsupported-encoding").await?;
    }
    let plain = reserve(&key(), &json!({})).to_string();
    let headers = [JSON, ("content-encoding", "identity")];
    let answer = send(address, "POST /v1/reserve", &headers, plain.as_bytes()).await?;
    ensure!(answer.status == 200, "identity: {}", answer.status);

    let unknown =
        ["/", "/v1", "/v1/reserv", "/v1/reserve/", "/v1//reserve", "/V1/reserve", "/../v1/reserve", "/errors/x"];
    let unknown = unknown.into_iter().chain(["/v1/keys/a", "/v1/keys/a/b/c", "/%2e%2e/etc/passwd", "/errors/../../x"]);
    for path in unknown {
        let answer = send(address, &format!("GET {path}"), &[], b"").await?;
        is_problem(address, path, &answer, 404, "path-unknown").await?;
    }
    let allowed = [
        ("GET /v1/reserve", "POST"),
        ("DELETE /v1/complete", "POST"),
        ("POST /v1/keys/a/b", "GET,HEAD"),
        ("PUT /v1/epochs", "GET,HEAD"),
        ("GET /v1/admin/rotate-cluster-key", "POST"),
        ("BREW /healthz", "GET,HEAD"),
    ];
    for (target, allow) in allowed {
        let answer = send(address, target, &[JSON], b"{}").await?;
        is_problem(address, target, &answer, 405, "method-not-allowed").await?;
        ensure!(answer.header("allow") == Some(allow), "{target}: allow is {:?}", answer.header("allow"));
    }
    Ok(())
}

/// The fields of Reserve, at their limits and over.
async fn reserve_fields(address: SocketAddr) -> anyhow::Result<()> {
    let text = |length: usize| "a".repeat(length);
    let at_the_limit = [
        json!({"tenant": text(64)}),
        json!({"key": format!("{}{}", key(), text(255)).get(..255)}),
        json!({"endpoint": text(256)}),
        json!({"endpoint": ""}),
        json!({"fingerprint": text(128)}),
        json!({"fingerprint": "aB"}),
        json!({"nonce": text(128)}),
        json!({"client_version": text(64)}),
        json!({"lease_ms": 50}),
        json!({"lease_ms": 3_600_000}),
        json!({"wait_ms": 60_000}),
        json!({"wait_ms": null, "endpoint": null, "nonce": null}),
    ];
    for members in at_the_limit {
        taken(address, "/v1/reserve", &reserve(&key(), &members), "granted").await?;
    }
    let over = [
        (json!({"tenant": text(65)}), "tenant-invalid", "tenant"),
        (json!({"tenant": ""}), "tenant-invalid", "tenant"),
        (json!({"tenant": "a/b"}), "tenant-invalid", "tenant"),
        (json!({"tenant": "a\u{0}"}), "tenant-invalid", "tenant"),
        (json!({"tenant": "ä"}), "tenant-invalid", "tenant"),
        (json!({"key": text(256)}), "key-invalid", "key"),
        (json!({"key": ""}), "key-invalid", "key"),
        (json!({"key": "a b"}), "key-invalid", "key"),
        (json!({"key": "a\r\nb"}), "key-invalid", "key"),
        (json!({"key": "schlüssel"}), "key-invalid", "key"),
        (json!({"key": "hf1.eu.1"}), "key-invalid", "key"),
        (json!({"key": "hf1.mars.1.0190163d-8694-739b-aea5-966c26f8ad90"}), "key-invalid", "key"),
        (json!({"endpoint": text(257)}), "endpoint-invalid", "endpoint"),
        (json!({"endpoint": "a\nb"}), "endpoint-invalid", "endpoint"),
        (json!({"fingerprint": text(130)}), "fingerprint-invalid", "fingerprint"),
        (json!({"fingerprint": ""}), "fingerprint-invalid", "fingerprint"),
        (json!({"fingerprint": "abc"}), "fingerprint-invalid", "fingerprint"),
        (json!({"fingerprint": "0x12"}), "fingerprint-invalid", "fingerprint"),
        (json!({"fingerprint": null}), "fingerprint-invalid", "fingerprint"),
        (json!({"nonce": text(130)}), "nonce-invalid", "nonce"),
        (json!({"nonce": ""}), "nonce-invalid", "nonce"),
        (json!({"nonce": "zz"}), "nonce-invalid", "nonce"),
        (json!({"client_version": text(65)}), "input-invalid", "client_version"),
        (json!({"client_version": "a\nb"}), "input-invalid", "client_version"),
        (json!({"lease_ms": 49}), "lease-invalid", "lease_ms"),
        (json!({"lease_ms": 3_600_001}), "lease-invalid", "lease_ms"),
        (json!({"wait_ms": 60_001}), "wait-invalid", "wait_ms"),
        (json!({"request": {"method": "GET", "path": "/"}}), "fingerprint-invalid", "fingerprint"),
    ];
    for (members, code, field) in over {
        field_refused(address, "/v1/reserve", &reserve(&key(), &members), code, field).await?;
    }
    request_fields(address).await
}

/// The fields of a request to fingerprint.
async fn request_fields(address: SocketAddr) -> anyhow::Result<()> {
    let with = |members: Value| {
        let mut request = json!({"method": "POST", "path": "/v1/charges"});
        merge(&mut request, &members);
        json!({"tenant": "acme", "key": key(), "request": request})
    };
    let body = |bytes: usize| "AAAA".repeat(bytes / 3);
    let largest = 1024 * 1024 - 1;
    let good = [
        json!({}),
        json!({"headers": [["Content-Type", "application/json"], [":path", "/"]], "body_base64": "e30="}),
        json!({"headers": vec![("a", "é"); 128]}),
        json!({"body_base64": body(largest)}),
    ];
    for members in good {
        taken(address, "/v1/reserve", &with(members), "granted").await?;
    }
    let bad = [
        (json!({"method": ""}), "fingerprint-invalid", "request.method"),
        (json!({"method": "GET /"}), "fingerprint-invalid", "request.method"),
        (json!({"path": "no"}), "fingerprint-invalid", "request.path"),
        (json!({"path": format!("/{}", "a".repeat(300))}), "endpoint-invalid", "endpoint"),
        (json!({"path": "/ä"}), "endpoint-invalid", "endpoint"),
        (json!({"headers": vec![("a", "b"); 129]}), "fingerprint-invalid", "request.headers"),
        (json!({"headers": [["a b", "c"]]}), "fingerprint-invalid", "request.headers"),
        (json!({"headers": [["a", "b\u{0}"]]}), "fingerprint-invalid", "request.headers"),
        (json!({"headers": [["a", "€"]]}), "fingerprint-invalid", "request.headers"),
        (json!({"body_base64": "e30"}), "fingerprint-invalid", "request.body_base64"),
        (json!({"body_base64": "e3-_"}), "fingerprint-invalid", "request.body_base64"),
        (json!({"body_base64": body(largest + 3)}), "fingerprint-invalid", "request.body"),
    ];
    for (members, code, field) in bad {
        field_refused(address, "/v1/reserve", &with(members), code, field).await?;
    }
    Ok(())
}

/// The fields of the other calls.
async fn other_fields(address: SocketAddr) -> anyhow::Result<()> {
    let name = key();
    let token = granted(address, &name).await?;
    let grant = |members: Value| {
        let mut body = json!({"tenant": "acme", "key": name, "token": token});
        merge(&mut body, &members);
        body
    };
    let other = granted(address, &key()).await?;
    for wrong in ["", "1.1", "1.1.AAAA", "1.1.e30", "x", &"a".repeat(1_024), &"a".repeat(1_025), "a b", "ä", &other] {
        field_refused(address, "/v1/release", &grant(json!({"token": wrong})), "token-invalid", "token").await?;
    }
    let cut = token.get(..token.len() - 1).context("a short token")?;
    field_refused(address, "/v1/release", &grant(json!({"token": cut})), "token-invalid", "token").await?;

    for lease_ms in [0, 49, 3_600_001] {
        let body = grant(json!({"lease_ms": lease_ms}));
        field_refused(address, "/v1/extend", &body, "lease-invalid", "lease_ms").await?;
    }
    let checkpoint = |name: &str, bytes: usize| {
        grant(json!({"checkpoint": {"name": name, "data_base64": "AAAA".repeat(bytes / 3)}}))
    };
    let invalid = "checkpoint-invalid";
    field_refused(address, "/v1/checkpoint", &checkpoint("", 0), invalid, "checkpoint.name").await?;
    field_refused(address, "/v1/checkpoint", &checkpoint(&"a".repeat(65), 0), invalid, "checkpoint.name").await?;
    field_refused(address, "/v1/checkpoint", &checkpoint("a", 8_193), invalid, "checkpoint.data").await?;
    let body = grant(json!({"checkpoint": {"name": "a", "data_base64": "="}}));
    field_refused(address, "/v1/checkpoint", &body, invalid, "checkpoint.data_base64").await?;
    taken(address, "/v1/checkpoint", &checkpoint(&"a".repeat(64), 8_190), "checkpointed").await?;

    let claim = |worker: &str| json!({"tenant": "acme", "key": name, "worker": worker});
    for worker in ["", " ", "a\nb", &"a".repeat(129)] {
        field_refused(address, "/v1/claim", &claim(worker), "input-invalid", "worker").await?;
    }
    taken(address, "/v1/claim", &claim(&"a".repeat(128)), "not_claimable").await?;

    let resolve = |members: Value| {
        let fencing = json!({"epoch": 1, "sequence": 1});
        let mut body = json!({"tenant": "acme", "key": name, "fencing": fencing, "verdict": "not_executed",
            "actor": "ada", "reason": "seen"});
        merge(&mut body, &members);
        body
    };
    let bad = [
        (json!({"verdict": "executed"}), "verdict-invalid", "envelope"),
        (json!({"envelope": {"status": 200}}), "verdict-invalid", "envelope"),
        (json!({"verdict": "executed", "envelope": {"status": 99}}), "envelope-invalid", "envelope.status"),
        (json!({"actor": ""}), "input-invalid", "actor"),
        (json!({"reason": "a".repeat(513)}), "input-invalid", "reason"),
        (json!({"reason": "a\u{1b}[2Jb"}), "input-invalid", "reason"),
    ];
    for (members, code, field) in bad {
        field_refused(address, "/v1/resolve", &resolve(members), code, field).await?;
    }
    for body in [json!({"verdict": "perhaps"}), json!({"fencing": {"epoch": -1, "sequence": 0}}), json!({"x": 1})] {
        refused(address, "/v1/resolve", resolve(body).to_string().as_bytes(), 400, "body-invalid").await?;
    }
    for path in ["/v1/admin/rotate-cluster-key", "/v1/admin/accept-clock"] {
        refused(address, path, b"", 400, "body-invalid").await?;
        refused(address, path, br#"{"x":1}"#, 400, "body-invalid").await?;
    }
    taken(address, "/v1/release", &grant(json!({})), "released").await.map(drop)
}

/// Envelopes, at their limits and over, and what is stored of those that are taken.
async fn envelopes(address: SocketAddr) -> anyhow::Result<()> {
    let name = key();
    let token = granted(address, &name).await?;
    let complete = |members: Value| {
        let mut body = json!({"tenant": "acme", "key": name, "token": token, "envelope": {"status": 200}});
        merge(&mut body, &members);
        body
    };
    let envelope = |members: Value| complete(json!({"envelope": members}));
    let text = |length: usize| "a".repeat(length);
    let header = |name: &str, value: &str| envelope(json!({"status": 200, "headers": [[name, value]]}));
    for name in ["", "a b", "a:b", ":status", "a\r\nset-cookie", "a\u{0}", "ä"] {
        field_refused(address, "/v1/complete", &header(name, ""), "envelope-invalid", "envelope.headers").await?;
    }
    for value in ["/a\r\nset-cookie: b=c", "a\nb", "a\rb", "a\u{0}b", "a\u{7f}", "€"] {
        field_refused(address, "/v1/complete", &header("a", value), "envelope-invalid", "envelope.headers").await?;
    }
    let large = [header(&text(257), ""), header("a", &text(32 * 1024)), {
        envelope(json!({"status": 200, "headers": vec![("a", "b"); 129]}))
    }];
    for body in large {
        field_refused(address, "/v1/complete", &body, "envelope-too-large", "envelope.headers").await?;
    }
    for status in [0, 99, 600, 65_736] {
        let body = envelope(json!({"status": status}));
        field_refused(address, "/v1/complete", &body, "envelope-invalid", "envelope.status").await?;
    }
    let body = envelope(json!({"status": 200, "body_base64": "AAA"}));
    field_refused(address, "/v1/complete", &body, "envelope-invalid", "envelope.body_base64").await?;
    let zeros = |bytes: usize| "AAAA".repeat(bytes / 3);
    let body = envelope(json!({"status": 200, "body_base64": zeros(MOST_ENVELOPE_BYTES + 2)}));
    field_refused(address, "/v1/complete", &body, "envelope-too-large", "envelope.body").await?;
    for retention_ms in [json!(999), json!(34_560_000_001_u64)] {
        let body = complete(json!({"retention_ms": retention_ms}));
        field_refused(address, "/v1/complete", &body, "retention-invalid", "retention_ms").await?;
    }

    // 256 KiB is one byte more than a multiple of 3.
    let largest = format!("{}/w==", zeros(MOST_ENVELOPE_BYTES - 1));
    let headers = json!([["Set-Thing", "1"], ["set-thing", "é\u{ff}\t"], [text(256), ""], ["b", text(30_000)]]);
    let stored = json!({"status": 599, "headers": headers, "body_base64": largest});
    taken(address, "/v1/complete", &envelope(stored.clone()), "completed").await?;
    let replay = taken(address, "/v1/reserve", &reserve(&name, &json!({})), "replay").await?;
    ensure!(*at(&replay, "envelope") == stored, "the replay differs from what was stored");
    Ok(())
}

/// Keys in paths.
async fn keys(address: SocketAddr) -> anyhow::Result<()> {
    let awkward = format!("{}/a%?#&=+\"\\'{{}}..", key());
    granted(address, &awkward).await?;
    let encoded: String = awkward.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answer = http::get(address, &format!("/v1/keys/acme/{encoded}")).await?;
    let record = answer.json()?;
    ensure!(answer.status == 200 && *at(&record, "key") == *awkward && at(&record, "state") == "held", "{record}");
    ensure!(answer.header("holdfast-epoch").is_some_and(|epoch| epoch.ends_with("=1")), "no holdfast-epoch");

    let never = format!("/v1/keys/acme/{}", key());
    let problems = [
        (never.as_str(), 404, "key-unknown"),
        ("/v1/keys/acme/a%20b", 400, "key-invalid"),
        ("/v1/keys/acme/a%0d%0ab", 400, "key-invalid"),
        ("/v1/keys/acme/%ff", 400, "key-invalid"),
        ("/v1/keys/a%2fb/k", 400, "tenant-invalid"),
        ("/v1/keys/acme/hf1.x", 400, "key-invalid"),
    ];
    for (path, status, code) in problems {
        let answer = http::get(address, path).await?;
        is_problem(address, path, &answer, status, code).await?;
    }
    let long = format!("/v1/keys/acme/{}", "a".repeat(256));
    let answer = http::get(address, &long).await?;
    is_problem(address, "a long key", &answer, 400, "key-invalid").await.map(drop)
}
