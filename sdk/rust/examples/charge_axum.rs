//! An axum service whose charges run once: one line protects its routes.
//!
//! ```sh
//! cargo run --release -p holdfast-client --features tower --example charge_axum -- 127.0.0.1:7400 127.0.0.1:8080
//! curl -i -H 'idempotency-key: invoice-7' --json '{"cents":1999}' http://127.0.0.1:8080/v1/accounts/acme/charges
//! ```

mod serving;

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Extension, MatchedPath, Path, State};
use axum::http::{StatusCode, request::Parts};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use holdfast_client::client::Client;
use holdfast_client::http::{Rules, Severity, Stage, endpoint_name};
use holdfast_client::layer::{Execution, IdempotencyLayer};

/// What the provider was asked to charge.
#[derive(Debug, Default)]
pub(crate) struct Provider(pub(crate) Mutex<Vec<(String, u64)>>);

#[derive(serde::Deserialize)]
struct Charge {
    cents: u64,
}

#[derive(serde::Serialize)]
struct Charged {
    charge: String,
}

/// The layer: whose keys they are, what endpoints are called, and what they are promised.
pub(crate) fn layer(client: Client) -> IdempotencyLayer {
    // Nobody charges without a key; a request whose key is held, or that cannot be recorded, does not run.
    let rules = Rules::of(Severity::Critical).with_stage(Stage::Required);
    IdempotencyLayer::builder(client).tenant("shop").endpoint_of(route).rules(rules).build()
}

/// `POST /v1/accounts/{account}/charges`, whatever the account.
fn route(parts: &Parts) -> String {
    let matched = parts.extensions.get::<MatchedPath>().map_or_else(|| parts.uri.path(), MatchedPath::as_str);
    endpoint_name(parts.method.as_str(), matched)
}

/// The service.
pub(crate) fn router(layer: IdempotencyLayer, provider: Arc<Provider>) -> Router {
    let charges = Router::new().route("/v1/accounts/{account}/charges", post(charge));
    charges.layer(layer).with_state(provider)
}

async fn charge(
    State(provider): State<Arc<Provider>>,
    Path(account): Path<String>,
    Extension(execution): Extension<Execution>,
    Json(Charge { cents }): Json<Charge>,
) -> Response {
    if execution.possible_duplicate() {
        // An earlier attempt may have charged: a real service asks its provider first.
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if cents > 10_000 {
        return (StatusCode::PAYMENT_REQUIRED, "too much").into_response();
    }
    // The effect. A real provider gets the fencing token, or the key as its own.
    let mut charges = provider.0.lock().unwrap_or_else(PoisonError::into_inner);
    charges.push((account, cents));
    let charge = format!("charge-{}", charges.len());
    (StatusCode::CREATED, Json(Charged { charge })).into_response()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    serving::serve(layer, |layer| router(layer, Arc::default())).await
}
