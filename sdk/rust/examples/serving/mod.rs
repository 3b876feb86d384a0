//! How the services of the examples begin and end: a client of the store, a listener, and at the end a layer that settles.

use axum::Router;
use holdfast_client::client::{Client, OnDrop};
use holdfast_client::layer::IdempotencyLayer;

/// Serves what `router` makes of the layer. The program's arguments are the store's nodes and the address to listen on.
#[expect(clippy::print_stdout, reason = "it is what the example shows")]
pub(crate) async fn serve(
    layer: impl FnOnce(Client) -> IdempotencyLayer,
    router: impl FnOnce(IdempotencyLayer) -> Router,
) -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let nodes = arguments.next().unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let client = Client::builder().nodes(nodes.split(',')).on_drop(OnDrop::ReleaseUnstarted).connect().await?;
    let layer = layer(client);
    let listener = tokio::net::TcpListener::bind(&listen).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, router(layer.clone())).await?;
    // What runs without its caller gets to its end.
    layer.settle().await;
    Ok(())
}
