//! A service that calls two others: each step has a key of its own, made of the order's, so that a retry of the order repeats
//! no step; and what was done is undone, under a key of its own, when a later step is refused.
//!
//! ```sh
//! cargo run --release -p holdfast-client --features tower --example order_axum -- 127.0.0.1:7400 127.0.0.1:8080
//! curl -i -H 'idempotency-key: order-7' --json '{"item":"lamp","cents":1999}' http://127.0.0.1:8080/v1/orders
//! curl http://127.0.0.1:8080/v1/effects
//! ```

mod serving;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use holdfast_client::client::{Client, FencingToken};
use holdfast_client::http::{FENCING_TOKEN, Rules, Severity, Stage};
use holdfast_client::layer::{Execution, IdempotencyLayer};

static KEY: HeaderName = HeaderName::from_static("idempotency-key");
static CORRELATION: HeaderName = HeaderName::from_static("correlation-id");

/// The services of the next level. Here they are values; a real one is behind an HTTP client, which sends the headers.
#[derive(Debug, Default)]
pub(crate) struct Services {
    pub(crate) payments: Sink,
    pub(crate) warehouse: Sink,
}

#[derive(serde::Deserialize)]
struct Order {
    item: String,
    cents: u64,
}

/// The layer. With `regrant` an order whose first attempt died runs again, and its steps, with the same keys, do not.
pub(crate) fn layer(client: Client) -> IdempotencyLayer {
    let rules = Rules::of(Severity::High).with_stage(Stage::Required);
    IdempotencyLayer::builder(client).tenant("shop").rules(rules).build()
}

/// The service.
pub(crate) fn router(layer: IdempotencyLayer, services: Arc<Services>) -> Router {
    let orders = Router::new().route("/v1/orders", post(order)).layer(layer);
    orders.route("/v1/effects", get(effects)).with_state(services)
}

/// What was done at the other services, to look at.
async fn effects(State(services): State<Arc<Services>>) -> Json<[Vec<String>; 2]> {
    Json([services.payments.effects(), services.warehouse.effects()])
}

async fn order(
    State(services): State<Arc<Services>>,
    Extension(execution): Extension<Execution>,
    caller: HeaderMap,
    Json(Order { item, cents }): Json<Order>,
) -> StatusCode {
    let step = |name: &str| {
        let mut headers = HeaderMap::new();
        execution.propagate(name, &caller, &mut headers);
        headers
    };
    if !services.payments.take(&step("charge"), &format!("charge {cents}")).is_success() {
        // Not known to have been charged: the client retries the order, and with it this very step.
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let shipped = services.warehouse.take(&step("ship"), &format!("ship {item}"));
    if shipped == StatusCode::NOT_FOUND {
        // The compensation is a step like any other: it has a key, so that it happens once, and it is retried until it did.
        let refunded = services.payments.take(&step("refund"), &format!("refund {cents}"));
        return if refunded.is_success() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::SERVICE_UNAVAILABLE };
    }
    if shipped.is_success() { StatusCode::CREATED } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// An effect's target that protects itself: with a table, in the transaction of the effect.
#[derive(Debug, Default)]
pub(crate) struct Sink(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    newest: BTreeMap<String, FencingToken>,
    effects: Vec<String>,
}

impl Sink {
    /// Takes a request once for each key, and not from an attempt that a newer one has followed.
    pub(crate) fn take(&self, headers: &HeaderMap, effect: &str) -> StatusCode {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (key, token) = (text(&KEY), text(&FENCING_TOKEN));
        let Ok(token) = token.parse::<FencingToken>() else {
            return StatusCode::BAD_REQUEST;
        };
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.newest.get_mut(key) {
            // An attempt whose lease ran out while it slept: another one has gone on from here.
            Some(newest) if token < *newest => return StatusCode::PRECONDITION_FAILED,
            Some(newest) => {
                *newest = token;
                return StatusCode::OK;
            }
            None => {}
        }
        if effect == "ship moon" {
            return StatusCode::NOT_FOUND;
        }
        taken.newest.insert(key.to_owned(), token);
        let correlation = text(&CORRELATION);
        taken.effects.push(format!("{effect} ({correlation})"));
        StatusCode::CREATED
    }

    /// What was done, in order.
    pub(crate) fn effects(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).effects.clone()
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    serving::serve(layer, |layer| router(layer, Arc::default())).await
}
