//! `/openapi.json`, generated from the handlers and their types.

use bytes::Bytes;
use serde_json::{Value, json};
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Holdfast",
        description = "A multi-region replicated idempotency store: may I execute the request with this key, and what came of it?",
    ),
    tags(
        (name = "reservations", description = "The life of a key"),
        (name = "admin", description = "What an operator asks of one node"),
        (name = "docs", description = "What describes the API"),
    ),
    paths(
        super::reserve,
        super::complete,
        super::release,
        super::extend,
        super::checkpoint,
        super::claim,
        super::resolve,
        super::lookup,
        super::epochs,
        super::topology,
        super::status,
        super::rotate_cluster_key,
        super::accept_clock,
        super::healthz,
        super::metrics,
        super::document,
        super::error_index,
        super::error_page,
    ),
)]
struct Document;

/// The document as JSON.
pub(super) fn document() -> Bytes {
    let mut document = serde_json::to_value(Document::openapi()).unwrap_or_default();
    for (name, choices) in choices() {
        let schema = document.pointer_mut(&format!("/components/schemas/{name}")).and_then(Value::as_object_mut);
        if let Some(schema) = schema {
            schema.insert("oneOf".to_owned(), choices);
        }
    }
    document.to_string().into()
}

/// What the types cannot say: which fields of a request exclude each other. One that is null is absent.
fn choices() -> [(&'static str, Value); 2] {
    let absent = json!({ "type": "null" });
    let fingerprinted = json!([
        { "required": ["fingerprint"], "properties": { "fingerprint": { "type": "string" }, "request": absent } },
        { "required": ["request"], "properties": { "request": { "type": "object" }, "fingerprint": absent } },
    ]);
    let executed = json!({ "verdict": { "const": "executed" }, "envelope": { "type": "object" } });
    let not_executed = json!({ "verdict": { "const": "not_executed" }, "envelope": absent });
    let resolved = json!([{ "required": ["envelope"], "properties": executed }, { "properties": not_executed }]);
    [("ReserveRequest", fingerprinted), ("ResolveRequest", resolved)]
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use crate::limits;

    fn document() -> Value {
        serde_json::from_slice(&super::document()).expect("json")
    }

    #[test]
    fn every_operation_has_a_tag_a_summary_and_an_answer() {
        let document = document();
        let paths = document["paths"].as_object().expect("paths");
        assert_eq!(paths.len(), 18);
        for (path, operations) in paths {
            for (method, operation) in operations.as_object().expect("operations") {
                let name = format!("{method} {path}");
                assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{name}");
                assert!(operation["tags"][0].is_string(), "{name}");
                assert!(operation["responses"]["200"]["content"].is_object(), "{name}");
                assert_eq!(method == "post", operation["requestBody"].is_object(), "{name}");
            }
        }
    }

    /// What a request may not have together is said where a schema has it, and every schema that is said of is there.
    #[test]
    fn choices_are_said_of_schemas_that_there_are() {
        let document = document();
        for (name, choices) in super::choices() {
            assert_eq!(document["components"]["schemas"][name]["oneOf"], choices, "{name}");
        }
    }

    #[test]
    fn the_bounds_that_it_states_are_those_of_the_store() {
        let document = document();
        let of = |schema: &str, field: &str, bound: &str| {
            let value = &document["components"]["schemas"][schema]["properties"][field][bound];
            value.as_u64().unwrap_or_else(|| panic!("{schema}.{field} has no {bound}"))
        };
        for schema in ["ReserveRequest", "ExtendRequest", "ClaimRequest"] {
            assert_eq!(of(schema, "lease_ms", "minimum"), u64::from(*limits::LEASE_MS.start()), "{schema}");
            assert_eq!(of(schema, "lease_ms", "maximum"), u64::from(*limits::LEASE_MS.end()), "{schema}");
        }
        assert_eq!(of("ReserveRequest", "wait_ms", "maximum"), u64::from(limits::MAX_WAIT_MS));
        assert_eq!(of("CompleteRequest", "retention_ms", "minimum"), *limits::RETENTION_MS.start());
        assert_eq!(of("CompleteRequest", "retention_ms", "maximum"), *limits::RETENTION_MS.end());
    }
}
