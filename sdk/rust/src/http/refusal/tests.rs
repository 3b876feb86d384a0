use std::collections::BTreeSet;
use std::path::Path;

use tonic::Code;

use super::super::{InFlight, Severity};
use super::*;

const README: &str = include_str!("../../../../../docs/reference/errors/README.md");
const PAGES: &str = "https://pay.example/errors/";

/// Every refusal, some in several ways.
fn examples() -> Vec<Refusal> {
    let quota = |amount, window_s| Some(Quota { amount, window_s });
    let limit = |name: &str, quota| Limit { name: name.to_owned(), quota, retry_after_ms: 1_001 };
    let sha256 = Some("00ff".to_owned());
    vec![
        Refusal::KeyMissing,
        Refusal::KeyInvalid { detail: "key \"a\\b\"\n".to_owned() },
        Refusal::TenantMissing,
        Refusal::RequestUnreadable,
        Refusal::RequestTimeout { limit_ms: 30_000 },
        Refusal::Unsupported,
        Refusal::KeyReused,
        Refusal::InProgress { retry_after_ms: 250 },
        Refusal::OutcomeUnknown { attempt: 2 },
        Refusal::InDoubt { retry_after_ms: 2_000 },
        Refusal::Superseded { epoch: 4 },
        Refusal::StoreUnavailable { detail: "no node answers".to_owned(), retry_after_ms: 1_000 },
        Refusal::StoreRefused { detail: "endpoint-invalid".to_owned() },
        Refusal::KeyExpired,
        Refusal::RateLimited(limit("endpoint-rate", quota(100, Some(1)))),
        Refusal::QuotaExceeded(limit("tenant-keys", quota(1_000, None))),
        Refusal::limited("attempts".to_owned(), 1_001),
        Refusal::limited("tenant-bytes".to_owned(), 1_001),
        Refusal::ReplayUnavailable { why: Unavailable::SizeExceeded, status: StatusCode::CREATED, sha256 },
        Refusal::ReplayUnavailable { why: Unavailable::Streaming, status: StatusCode::OK, sha256: None },
        Refusal::RouteUnknown,
        Refusal::RequestRefused { detail: "the request has no host".to_owned() },
        Refusal::TunnelRefused,
        Refusal::UpstreamUnreachable { retry_after_ms: 1_000 },
        Refusal::UpstreamTimeout { limit_ms: 60_000 },
        Refusal::UpstreamBroken,
        Refusal::GatewayOverloaded { retry_after_ms: 1_000 },
    ]
}

/// The status and every header but the content type, sorted.
fn shown(refusal: &Refusal, rules: &Rules) -> String {
    let Answer { status, mut headers, .. } = refusal.answer(&About { rules, epoch: None, pages: PAGES });
    assert_eq!(headers.remove(header::CONTENT_TYPE), Some(HeaderValue::from_static("application/problem+json")));
    let mut lines: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("ascii"))).collect();
    lines.sort();
    lines.insert(0, format!("{} {}", refusal.code(), status.as_u16()));
    lines.join(" | ")
}

#[test]
fn statuses_and_headers_of_every_refusal() {
    let rules = Rules::of(Severity::High);
    let expected = [
        "key-missing 400 | link: <https://pay.example/errors/key-missing>; rel=\"describedby\"",
        "key-invalid 400",
        "tenant-missing 401",
        "request-unreadable 400",
        "request-timeout 408",
        "repeatability-unsupported 501",
        "key-reused 409 | stripe-should-retry: false",
        "in-progress 409 | retry-after: 1 | stripe-should-retry: true",
        "outcome-unknown 409 | stripe-should-retry: false",
        "in-doubt 503 | retry-after: 2",
        "superseded 503 | retry-after: 0",
        "store-unavailable 503 | retry-after: 1",
        "store-refused 500 | stripe-should-retry: false",
        "key-expired 400",
        "rate-limited 429 | ratelimit-policy: \"endpoint-rate\";q=100;w=1 | ratelimit: \"endpoint-rate\";r=0;t=2 | retry-after: 2",
        "quota-exceeded 429 | ratelimit-policy: \"tenant-keys\";q=1000 | ratelimit: \"tenant-keys\";r=0;t=2 | retry-after: 2",
        "rate-limited 429 | ratelimit: \"attempts\";r=0;t=2 | retry-after: 2",
        "quota-exceeded 429 | ratelimit: \"tenant-bytes\";r=0;t=2 | retry-after: 2",
        "replay-unavailable 409 | stripe-should-retry: false",
        "replay-unavailable 409 | stripe-should-retry: false",
        "route-unknown 404",
        "request-refused 400",
        "tunnel-refused 405",
        "upstream-unreachable 502 | retry-after: 1 | stripe-should-retry: true",
        "upstream-timeout 504 | stripe-should-retry: true",
        "upstream-broken 502 | stripe-should-retry: true",
        "gateway-overloaded 503 | retry-after: 1",
    ];
    let shown: Vec<String> = examples().iter().map(|refusal| shown(refusal, &rules)).collect();
    assert_eq!(shown, expected);
}

#[test]
fn profiles_change_some_statuses_and_nothing_else() {
    let mismatch = |profile| Refusal::KeyReused.status(&Rules::default().with_profile(profile)).as_u16();
    assert_eq!(Profile::ALL.map(mismatch), [409, 422, 400, 400]);
    let expired = |profile| Refusal::KeyExpired.status(&Rules::default().with_profile(profile)).as_u16();
    assert_eq!(Profile::ALL.map(expired), [400, 400, 400, 412]);
    let locked = Rules::default().with_in_flight(InFlight::Locked);
    assert_eq!(
        shown(&Refusal::InProgress { retry_after_ms: 0 }, &locked),
        "in-progress 423 | retry-after: 0 | stripe-should-retry: true"
    );
    assert_eq!(
        shown(&Refusal::KeyReused, &Rules::default().with_profile(Profile::Stripe)),
        "key-reused 400 | stripe-should-retry: false"
    );
    let oasis = Rules::default().with_profile(Profile::Oasis);
    let rejected: Vec<&str> = examples()
        .iter()
        .filter(|refusal| shown(refusal, &oasis).contains("repeatability-result: rejected"))
        .map(Refusal::code)
        .collect();
    assert_eq!(rejected, ["key-missing", "key-invalid", "repeatability-unsupported", "key-reused", "key-expired"]);
}

#[test]
fn the_epoch_is_told_where_it_is_known() {
    let about = About { rules: &Rules::default(), epoch: Some("eu/3=7"), pages: PAGES };
    let answer = Refusal::InDoubt { retry_after_ms: 0 }.answer(&about);
    assert_eq!(answer.headers.get("holdfast-epoch"), Some(&HeaderValue::from_static("eu/3=7")));
}

#[test]
fn every_problem_says_the_same_as_its_headers_and_what_to_do() {
    let rules = Rules::of(Severity::High);
    for refusal in examples() {
        let facts = refusal.facts();
        let answer = refusal.answer(&About { rules: &rules, epoch: None, pages: PAGES });
        let mut problem: serde_json::Value = serde_json::from_slice(&answer.body).expect("json");
        let members = problem.as_object_mut().expect("an object");
        let (reason, response) = (members.remove("reason"), members.remove("response"));
        let expected = serde_json::json!({
            "type": format!("{PAGES}{}", facts.code),
            "title": facts.title,
            "status": answer.status.as_u16(),
            "detail": refusal.detail(),
            "code": facts.code,
            "retryable": facts.retryable,
        });
        assert_eq!(problem, expected);
        if let Refusal::ReplayUnavailable { why, status, sha256 } = refusal {
            assert_eq!(reason, Some(why.as_str().into()));
            assert_eq!(response, Some(serde_json::json!({ "status": status.as_u16(), "sha256": sha256 })));
        } else {
            assert_eq!((reason, response), (None, None));
        }
        assert!(facts.should_retry.is_none_or(|should_retry| should_retry == facts.retryable));
    }
}

#[test]
fn grpc_gets_the_same_in_a_status() {
    let rules = Rules::of(Severity::High);
    for refusal in examples() {
        let facts = refusal.facts();
        let about = About { rules: &rules, epoch: None, pages: PAGES };
        let Answer { status, headers, body } = refusal.grpc_answer(&about);
        assert_eq!((status, body.len()), (StatusCode::OK, 0));
        assert_eq!(headers.get(header::CONTENT_TYPE), Some(&HeaderValue::from_static("application/grpc")));
        let status = Status::from_header_map(&headers).expect("a status");
        assert_eq!((status.code(), status.message()), (facts.grpc, refusal.detail().as_str()));
        let details = status.get_error_details();
        let info = details.error_info().expect("error info");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (facts.code, "holdfast"));
        assert_eq!(details.retry_info().is_some(), refusal.retry_after_ms().is_some(), "{refusal:?}");
        assert!(facts.grpc != Code::Ok && facts.grpc != Code::Unknown);
    }
}

#[test]
fn every_code_has_a_page_and_a_row_in_the_index() {
    let seen: BTreeSet<&str> = examples().iter().map(Refusal::code).collect();
    assert_eq!(seen, BTreeSet::from(Refusal::CODES));
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/errors");
    let mut rows = String::new();
    let mut told = BTreeSet::new();
    for refusal in examples() {
        let Facts { code, title, status, grpc, retryable, .. } = refusal.facts();
        if !told.insert(code) {
            continue;
        }
        let (status, grpc, retryable) = (status, spelt(grpc), if retryable { "yes" } else { "no" });
        rows.push_str(&format!("| [{code}]({code}.md) | {title} | {} | {grpc} | {retryable} |\n", status.as_u16()));
        let page = std::fs::read_to_string(directory.join(format!("{code}.md"))).unwrap_or_default();
        let shared = ["key-invalid", "store-unavailable"].contains(&code);
        let (more, end) = if shared { (" definite |", " yes |") } else { ("", "") };
        let rule = if shared { "---|---|---|---" } else { "---|---|---" };
        let head = format!(
            "# {code}\n\n{title}.\n\n| HTTP | gRPC | retryable |{more}\n|{rule}|\n| {status} | {grpc} | {retryable} |{end}\n\n\
             ## What it means\n\n"
        );
        assert!(page.starts_with(&head), "docs/reference/errors/{code}.md must begin with:\n{head}");
        for section in ["## Was anything done?", "## What to do"] {
            assert!(page.contains(&format!("\n{section}\n\n")), "{code}.md has no {section}");
        }
    }
    assert!(README.contains(&rows), "docs/reference/errors/README.md must have:\n{rows}");
}

/// A gRPC code as its specification spells it.
fn spelt(code: Code) -> String {
    let mut spelt = String::new();
    for character in format!("{code:?}").chars() {
        if character.is_uppercase() && !spelt.is_empty() {
            spelt.push('_');
        }
        spelt.extend(character.to_uppercase());
    }
    spelt
}

/// Stripe's libraries look for `error`, and for nothing else.
#[test]
fn problems_of_the_stripe_profile_are_errors_of_stripe_too() {
    let rules = Rules::default().with_profile(Profile::Stripe);
    for refusal in examples() {
        let answer = refusal.answer(&About { rules: &rules, epoch: None, pages: PAGES });
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).expect("json");
        let (kind, code) = match refusal.code() {
            "key-reused" => ("idempotency_error", "key-reused"),
            "in-progress" => ("invalid_request_error", "idempotency_key_in_use"),
            code if answer.status.is_server_error() => ("api_error", code),
            code => ("invalid_request_error", code),
        };
        let error = serde_json::json!({ "type": kind, "code": code, "message": problem["detail"] });
        assert_eq!(problem["error"], error, "{refusal:?}");
        let ours = refusal.answer(&About { rules: &Rules::default(), epoch: None, pages: PAGES });
        assert!(!String::from_utf8_lossy(&ours.body).contains("\"error\":"), "{refusal:?}");
    }
}
