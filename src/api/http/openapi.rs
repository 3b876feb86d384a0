//! `/openapi.json`, generated from the handlers and their types.

use bytes::Bytes;
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
        super::status,
        super::rotate_cluster_key,
        super::accept_clock,
        super::healthz,
        super::document,
        super::error_index,
        super::error_page,
    ),
)]
struct Document;

/// The document as JSON.
pub(super) fn document() -> Bytes {
    Document::openapi().to_json().unwrap_or_default().into()
}
