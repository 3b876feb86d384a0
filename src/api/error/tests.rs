use std::collections::BTreeSet;
use std::path::Path;

use tonic_types::StatusExt as _;

use super::*;

const README: &str = include_str!("../../../docs/reference/errors/README.md");

/// A failure with each code, as the wire shows it.
fn examples() -> Vec<ApiError> {
    let input = |code| ApiError::Input { code, field: "field", detail: "detail".to_owned() };
    let unavailable = |certainty| Failure::Unavailable {
        certainty,
        reason: "reason".to_owned(),
        retry_after: Duration::from_millis(1_200),
    };
    vec![
        input(Code::TenantInvalid),
        input(Code::EndpointInvalid),
        input(Code::FingerprintInvalid),
        input(Code::NonceInvalid),
        input(Code::LeaseInvalid),
        input(Code::WaitInvalid),
        input(Code::RetentionInvalid),
        input(Code::EnvelopeInvalid),
        input(Code::EnvelopeTooLarge),
        input(Code::CheckpointInvalid),
        input(Code::VerdictInvalid),
        input(Code::InputInvalid),
        ApiError::Body("detail".to_owned()),
        ApiError::BodyTooLarge { most_bytes: 1 },
        ApiError::BodyTimeout,
        ApiError::Reading,
        ApiError::ContentType { got: "text/plain".to_owned() },
        ApiError::Encoding { got: "gzip".to_owned() },
        ApiError::PathUnknown { path: "/".to_owned() },
        ApiError::MethodNotAllowed { method: "PUT".to_owned() },
        ApiError::KeyUnknown,
        ChangeError::Refused("node 4 does not answer".to_owned()).into(),
        ChangeError::NotLeader { leader: None }.into(),
        ChangeError::Unknown("no majority answered in time".to_owned()).into(),
        Failure::Invalid(Invalid::Token("cut".to_owned())).into(),
        Failure::Invalid(Invalid::TokenForAnotherKey).into(),
        Failure::Invalid(Invalid::UnknownHome { home: "mars".to_owned(), known: "eu".to_owned() }).into(),
        Failure::Invalid(Invalid::KeyTimeAhead { ahead_ms: 2, most_ms: 1 }).into(),
        Failure::Invalid(Invalid::TenantUnknown { tenant: "acne".to_owned() }).into(),
        Failure::Invalid(Invalid::TenantClosed { tenant: "acme".to_owned() }).into(),
        Failure::Invalid(Invalid::Tenant("there is no home mars".to_owned())).into(),
        Failure::Invalid(Invalid::Policies("charges would go".to_owned())).into(),
        Failure::OtherSelection { selection: 2 }.into(),
        Failure::Overloaded { retry_after: Duration::from_millis(20) }.into(),
        Failure::DiskLow { free_bytes: 1, least_bytes: 2 }.into(),
        unavailable(Certainty::Definite).into(),
        unavailable(Certainty::Indefinite).into(),
        Failure::NotLeader { leader: Some(2) }.into(),
        elsewhere("token-invalid", Certainty::Definite, None),
        elsewhere("disk-low", Certainty::Definite, Some(Duration::from_secs(10))),
        elsewhere("outcome-indefinite", Certainty::Indefinite, Some(Duration::from_millis(100))),
    ]
}

fn elsewhere(code: &str, certainty: Certainty, retry_after: Option<Duration>) -> ApiError {
    let failure =
        Failure::Elsewhere { code: code.to_owned(), message: "as it said".to_owned(), certainty, retry_after };
    ApiError::Failure(Failed { failure, leader: Some(Leader { node_id: 2, api: "10.0.0.2:7400".to_owned() }) })
}

fn yes(holds: bool) -> &'static str {
    if holds { "yes" } else { "no" }
}

/// A gRPC code as its specification spells it.
fn spelt(code: Grpc) -> String {
    let mut spelt = String::new();
    for character in format!("{code:?}").chars() {
        if character.is_uppercase() && !spelt.is_empty() {
            spelt.push('_');
        }
        spelt.extend(character.to_uppercase());
    }
    spelt
}

#[test]
fn every_code_occurs_among_the_failures() {
    let seen: BTreeSet<&str> = examples().iter().map(|error| error.code().facts().code).collect();
    let all: BTreeSet<&str> = Code::ALL.iter().map(|code| code.facts().code).collect();
    assert_eq!(seen, all);
}

#[test]
fn only_an_indefinite_outcome_is_indefinite() {
    for code in Code::ALL {
        assert_eq!(code.facts().definite, *code != Code::OutcomeIndefinite, "{code:?}");
    }
}

#[test]
fn every_page_begins_with_what_the_table_says() {
    for code in Code::ALL {
        let facts = code.facts();
        let head = format!(
            "# {}\n\n{}.\n\n| HTTP | gRPC | retryable | definite |\n|---|---|---|---|\n| {} | {} | {} | {} |\n\n\
             ## What it means\n\n",
            facts.code,
            facts.title,
            facts.http,
            spelt(facts.grpc),
            yes(facts.retryable),
            yes(facts.definite),
        );
        let page = facts.page;
        assert!(page.starts_with(&head), "docs/reference/errors/{}.md must begin with:\n{head}", facts.code);
        for section in ["## Was anything done?", "## What to do", "## Example"] {
            assert!(page.contains(&format!("\n{section}\n\n")), "{}.md has no {section}", facts.code);
        }
    }
}

#[test]
fn the_example_of_every_page_is_a_problem_of_its_code() {
    for code in Code::ALL {
        let facts = code.facts();
        let (_, example) = facts.page.split_once("```json\n").expect("an example");
        let (example, _) = example.split_once("```").expect("its end");
        let mut example: serde_json::Value = serde_json::from_str(example).expect("json");
        let members = example.as_object_mut().expect("an object");
        members.remove("detail").expect("a detail");
        members.remove("field");
        let problem = serde_json::json!({
            "type": format!("/errors/{}", facts.code),
            "title": facts.title,
            "status": facts.http.as_u16(),
            "code": facts.code,
            "retryable": facts.retryable,
            "definite": facts.definite,
        });
        assert_eq!(example, problem, "{}.md", facts.code);
    }
}

#[test]
fn the_index_and_the_directory_have_every_page_and_no_other() {
    let rows: String = Code::ALL
        .iter()
        .map(|code| {
            let facts = code.facts();
            format!(
                "| [{code}]({code}.md) | {} | {} | {} | {} | {} |\n",
                facts.title,
                facts.http.as_u16(),
                spelt(facts.grpc),
                yes(facts.retryable),
                yes(facts.definite),
                code = facts.code,
            )
        })
        .collect();
    assert!(README.ends_with(&rows), "docs/reference/errors/README.md must end with:\n{rows}");

    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/errors");
    let found: BTreeSet<String> = std::fs::read_dir(directory)
        .expect("the directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    // The layer's answers are no failures of a node, and have their pages beside them.
    let codes = Code::ALL.iter().map(|code| code.facts().code).chain(holdfast_client::http::Refusal::CODES);
    assert_eq!(found, codes.map(|code| format!("{code}.md")).chain(["README.md".to_owned()]).collect());
}

#[test]
fn grpc_carries_the_code_the_certainty_the_field_and_when_to_retry() {
    for error in examples() {
        let facts = error.code().facts();
        let status = error.to_status();
        assert_eq!(status.code(), facts.grpc, "{error}");
        assert_eq!(status.message(), error.to_string());
        let details = status.get_error_details();
        let info = details.error_info().expect("error info");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (facts.code, "holdfast"));
        assert_eq!(
            info.metadata.get("definite").map(String::as_str),
            Some(if facts.definite { "true" } else { "false" })
        );
        assert_eq!(details.retry_info().is_some(), facts.retryable, "{error}");
        let field = details.bad_request().and_then(|request| request.field_violations.first());
        assert_eq!(field.map(|violation| violation.field.as_str()), error.field());
    }
}

#[test]
fn http_carries_the_same() {
    for error in examples() {
        let facts = error.code().facts();
        let problem = error.to_problem();
        assert_eq!((problem.status, problem.code.as_str()), (facts.http.as_u16(), facts.code));
        let response = error.clone().into_response();
        assert_eq!(response.status(), facts.http);
        assert_eq!(response.headers().get(header::CONTENT_TYPE).expect("a type"), "application/problem+json");
        assert_eq!(response.headers().contains_key(header::RETRY_AFTER), facts.retryable, "{error}");
    }
}

#[test]
fn retry_after_is_rounded_up_to_seconds() {
    let error = ApiError::from(Failure::Overloaded { retry_after: Duration::from_millis(1_001) });
    assert_eq!(error.into_response().headers().get(header::RETRY_AFTER).expect("retry-after"), "2");
}

#[test]
fn a_long_input_is_not_repeated_whole() {
    let error = ApiError::PathUnknown { path: "ä".repeat(10_000) };
    let detail = error.to_problem().detail;
    assert!(detail.len() <= MAX_MESSAGE_BYTES + '…'.len_utf8() && detail.ends_with('…'), "{} bytes", detail.len());
    assert!(error.to_status().message().len() < 600);
}

#[test]
fn what_the_library_blames_on_the_server_is_the_clients() {
    let of = |status: Status| of_undecodable(&status).map(|error| error.code());
    assert_eq!(of(Status::internal("failed to decode")), Some(Code::BodyInvalid));
    assert_eq!(of(Status::unknown("reset")), Some(Code::BodyInvalid));
    assert_eq!(of(Status::out_of_range("too large")), Some(Code::BodyTooLarge));
    assert_eq!(of(Status::unimplemented("gzip")), None, "the library's own answer to compression stands");
    for error in examples() {
        assert!(of(error.to_status()).is_none(), "{error} is an answer of ours");
    }
}

#[test]
fn what_another_node_said_keeps_its_code_and_never_becomes_more_certain() {
    let code = |code, certainty| elsewhere(code, certainty, None).code();
    for known in Code::ALL {
        let facts = known.facts();
        let certainty = if facts.definite { Certainty::Definite } else { Certainty::Indefinite };
        assert_eq!(code(facts.code, certainty), *known);
        assert_eq!(code(facts.code, Certainty::Indefinite), Code::OutcomeIndefinite);
    }
    assert_eq!(code("from-a-later-version", Certainty::Definite), Code::StoreUnavailable);
    assert_eq!(code("from-a-later-version", Certainty::Indefinite), Code::OutcomeIndefinite);
    assert_eq!(code("outcome-indefinite", Certainty::Definite), Code::StoreUnavailable);
}

#[test]
fn every_face_of_a_failure_names_the_leader_if_it_is_another_node() {
    let error = elsewhere("store-unavailable", Certainty::Definite, None);
    let status = error.to_status();
    let info = status.get_error_details().error_info().expect("error info").clone();
    assert_eq!(info.metadata.get("leader").map(String::as_str), Some("2"));
    assert_eq!(info.metadata.get("leader_address").map(String::as_str), Some("10.0.0.2:7400"));
    assert_eq!(error.to_failure().leader, 2);
    let response = error.into_response();
    assert_eq!(response.headers().get("holdfast-leader").expect("the leader"), "10.0.0.2:7400");

    let here = ApiError::from(Failure::Overloaded { retry_after: Duration::from_millis(20) });
    assert_eq!(here.to_failure().leader, 0);
    assert!(!here.into_response().headers().contains_key("holdfast-leader"));
}

#[test]
fn an_answer_on_a_stream_carries_the_same() {
    for error in examples() {
        let (facts, failure) = (error.code().facts(), error.to_failure());
        assert_eq!((failure.code.as_str(), failure.definite), (facts.code, facts.definite));
        assert_eq!(failure.message, error.to_string());
        assert_eq!(failure.grpc_code, facts.grpc as u32);
        assert_eq!(failure.retry_after_ms > 0, facts.retryable, "{error}");
    }
}
