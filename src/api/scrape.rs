//! `GET /metrics`: everything that this node measures, for Prometheus.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use tokio::sync::Mutex;

use super::error;
use crate::router::Router;
use crate::telemetry::metrics::{self, Page};

/// One page is made at a time: whoever else asks waits for it.
static ONE: Mutex<()> = Mutex::const_new(());

/// The page.
pub(super) async fn page(router: Router) -> Response {
    let _turn = ONE.lock().await;
    // On a thread of its own: it reads /proc, and asks RocksDB for every group's size.
    let written = tokio::task::spawn_blocking(move || {
        let mut page = Page::default();
        metrics::write(&mut page);
        error::write_metrics(&mut page);
        router.region().write_metrics(&mut page);
        page.finish()
    });
    match written.await {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], Body::from(text)).into_response(),
        Err(ended) => {
            tracing::error!(error = %ended, "the metrics were not written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
