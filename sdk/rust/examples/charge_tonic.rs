//! A tonic service whose charges run once: one line protects its calls. The key is the metadata `idempotency-key`.
//!
//! ```sh
//! cargo run --release -p holdfast-client --features tower --example charge_tonic -- 127.0.0.1:7400 127.0.0.1:8081
//! ```
//!
//! The messages and the service are written out here; a real one has them from its .proto file.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use holdfast_client::client::{Client, OnDrop};
use holdfast_client::http::{Rules, Severity, Stage};
use holdfast_client::layer::{Execution, IdempotencyLayer};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// `shop.v1.ChargeRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ChargeRequest {
    #[prost(string, tag = "1")]
    pub(crate) account: String,
    #[prost(uint64, tag = "2")]
    pub(crate) cents: u64,
}

/// `shop.v1.ChargeReply`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ChargeReply {
    #[prost(string, tag = "1")]
    pub(crate) charge: String,
}

/// What the provider was asked to charge.
#[derive(Clone, Debug, Default)]
pub(crate) struct Charges(pub(crate) Arc<Mutex<Vec<(String, u64)>>>);

impl Charges {
    fn charge(&self, request: &Request<ChargeRequest>) -> Result<ChargeReply, Status> {
        let duplicate = request.extensions().get::<Execution>().is_some_and(Execution::possible_duplicate);
        if duplicate {
            // An earlier attempt may have charged: a real service asks its provider first.
            return Err(Status::unavailable("it is being looked into"));
        }
        let ChargeRequest { account, cents } = request.get_ref();
        if *cents > 10_000 {
            return Err(Status::failed_precondition("too much"));
        }
        let mut charges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        charges.push((account.clone(), *cents));
        Ok(ChargeReply { charge: format!("charge-{}", charges.len()) })
    }
}

impl UnaryService<ChargeRequest> for Charges {
    type Response = ChargeReply;
    type Future = std::future::Ready<Result<Response<ChargeReply>, Status>>;

    fn call(&mut self, request: Request<ChargeRequest>) -> Self::Future {
        std::future::ready(self.charge(&request).map(Response::new))
    }
}

/// As generated code has it.
impl NamedService for Charges {
    const NAME: &'static str = "shop.v1.Charges";
}

impl Service<http::Request<Body>> for Charges {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let charges = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<ChargeReply, ChargeRequest>::default();
            Ok(Grpc::new(codec).unary(charges, request).await)
        })
    }
}

/// The layer: whose keys they are, and what the calls are promised.
pub(crate) fn layer(client: Client) -> IdempotencyLayer {
    let rules = Rules::of(Severity::Critical).with_stage(Stage::Required);
    IdempotencyLayer::builder(client).tenant("shop").rules(rules).build()
}

/// Serves until its connections end.
pub(crate) async fn serve(layer: IdempotencyLayer, charges: Charges, incoming: TcpIncoming) -> anyhow::Result<()> {
    Ok(Server::builder().layer(layer).add_service(charges).serve_with_incoming(incoming).await?)
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "it is what the example shows")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let nodes = arguments.next().unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:8081".to_owned());
    let client = Client::builder().nodes(nodes.split(',')).on_drop(OnDrop::ReleaseUnstarted).connect().await?;
    let layer = layer(client);
    let incoming = TcpIncoming::bind(listen.parse()?)?;
    println!("listening on {}", incoming.local_addr()?);
    serve(layer.clone(), Charges::default(), incoming).await?;
    // What runs without its caller gets to its end.
    layer.settle().await;
    Ok(())
}
