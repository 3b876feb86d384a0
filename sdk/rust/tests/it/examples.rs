//! The examples do what they say, against a region that is not one.

use std::collections::BTreeMap;

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use holdfast_client::client::{Client, Envelope, KeyState, OnDrop};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Status};

use crate::fake::{Node, Region};

#[allow(dead_code, reason = "its `main` is for people")]
#[path = "../../examples/charge.rs"]
mod charge;
#[allow(dead_code, clippy::duplicate_mod, reason = "its `main` is for people, and so is how the two of axum serve")]
#[path = "../../examples/charge_axum.rs"]
mod charge_axum;
#[allow(dead_code, reason = "its `main` is for people")]
#[path = "../../examples/charge_tonic.rs"]
mod charge_tonic;
#[allow(dead_code, clippy::duplicate_mod, reason = "its `main` is for people, and so is how the two of axum serve")]
#[path = "../../examples/order_axum.rs"]
mod order_axum;
#[allow(dead_code, reason = "its `main` is for people")]
#[path = "../../examples/recover.rs"]
mod recover;

#[derive(Debug, Default)]
struct Provider(BTreeMap<String, u32>);

impl charge::Provider for Provider {
    fn charge(&mut self, invoice: &str, cents: u64) -> anyhow::Result<String> {
        *self.0.entry(invoice.to_owned()).or_default() += 1;
        ensure!(cents < 10_000, "too much");
        Ok(format!("charge-of-{invoice}"))
    }
}

impl recover::Records for Provider {
    fn charge_of(&self, invoice: &str) -> Option<String> {
        self.0.contains_key(invoice).then(|| format!("charge-of-{invoice}"))
    }
}

async fn client(nodes: &[Node]) -> anyhow::Result<Client> {
    let nodes = nodes.iter().map(|node| node.address.to_string());
    Ok(Client::builder().nodes(nodes).on_drop(OnDrop::ReleaseUnstarted).connect().await?)
}

#[tokio::test]
async fn a_card_is_charged_once() -> anyhow::Result<()> {
    let (_region, nodes) = Region::start(2)?;
    let client = client(&nodes).await?;
    let mut provider = Provider::default();
    let first = charge::charge(&client, &mut provider, "a", 100).await?;
    ensure!(first.status == 201 && first.body == "{\"charge\":\"charge-of-a\"}", "{first:?}");
    ensure!(charge::charge(&client, &mut provider, "a", 100).await? == first, "the retry gets the first response");
    let refused = charge::charge(&client, &mut provider, "b", 20_000).await?;
    ensure!(refused.status == 402, "a refusal is an outcome too: {refused:?}");
    ensure!(charge::charge(&client, &mut provider, "b", 20_000).await? == refused);
    ensure!(provider.0.values().all(|charges| *charges == 1), "{provider:?}");
    Ok(())
}

#[tokio::test]
async fn unknown_outcomes_are_found_out() -> anyhow::Result<()> {
    let (region, nodes) = Region::start(1)?;
    let client = client(&nodes).await?;
    let records = Provider(BTreeMap::from([("charged".to_owned(), 1)]));
    for invoice in ["charged", "lost"] {
        region.lapse(invoice);
    }
    ensure!(recover::recover(&client, &records, "charged").await? == recover::Recovered::Completed);
    ensure!(region.envelope("charged") == Some(Envelope::new(201, "{\"charge\":\"charge-of-charged\"}").body));
    ensure!(recover::recover(&client, &records, "lost").await? == recover::Recovered::Released);
    let nothing = recover::Recovered::Nothing(KeyState::Completed);
    ensure!(recover::recover(&client, &records, "charged").await? == nothing);
    Ok(())
}

/// A request over a connection of its own: the head's lines, sorted and without its date, and the body.
async fn curl(to: std::net::SocketAddr, key: &str, body: &str) -> anyhow::Result<(String, String)> {
    post(to, "/v1/accounts/acme/charges", key, body).await
}

async fn post(to: std::net::SocketAddr, path: &str, key: &str, body: &str) -> anyhow::Result<(String, String)> {
    let mut stream = TcpStream::connect(to).await?;
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n{key}content-type: \
         application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let (head, body) = response.split_once("\r\n\r\n").context("no head")?;
    let mut lines: Vec<&str> = head.split("\r\n").filter(|line| !line.starts_with("date:")).collect();
    lines.sort_unstable();
    Ok((lines.join(" | "), body.to_owned()))
}

#[tokio::test]
async fn an_axum_service_charges_once() -> anyhow::Result<()> {
    let (_region, nodes) = Region::start(1)?;
    let layer = charge_axum::layer(client(&nodes).await?);
    let provider = Arc::new(charge_axum::Provider::default());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut serving = JoinSet::new();
    let router = charge_axum::router(layer.clone(), Arc::clone(&provider));
    serving.spawn(async move { axum::serve(listener, router).await });

    let key = "idempotency-key: invoice-7\r\n";
    let (head, body) = curl(address, key, r#"{"cents":1999}"#).await?;
    let marks = "HTTP/1.1 201 Created | connection: close | content-length: 21 | content-type: application/json | \
                 holdfast-epoch: eu/0=3 | idempotency-expires: 1994-11-06T08:49:37Z | idempotency-key: invoice-7 | \
                 idempotency-status: ";
    ensure!(head == format!("{marks}executed") && body == r#"{"charge":"charge-1"}"#, "{head} {body}");
    let (head, again) = curl(address, key, r#"{ "cents": 1999 }"#).await?;
    ensure!(head == format!("{marks}replayed | idempotent-replayed: true") && again == body, "{head}");
    let (head, _) = curl(address, key, r#"{"cents":2000}"#).await?;
    ensure!(head.starts_with("HTTP/1.1 409 Conflict") && head.contains("stripe-should-retry: false"), "{head}");
    let (head, problem) = curl(address, "", r#"{"cents":1}"#).await?;
    ensure!(head.starts_with("HTTP/1.1 400") && problem.contains(r#""code":"key-missing""#), "{head} {problem}");
    for _ in 0..2 {
        let (head, _) = curl(address, "idempotency-key: invoice-8\r\n", r#"{"cents":20000}"#).await?;
        ensure!(head.starts_with("HTTP/1.1 402"), "a refusal is an outcome too: {head}");
    }
    let charges = provider.0.lock().map(|charges| charges.clone()).unwrap_or_default();
    ensure!(charges == [("acme".to_owned(), 1_999)], "{charges:?}");
    layer.settle().await;
    Ok(())
}

#[tokio::test]
async fn a_chain_of_services_does_each_step_once_and_undoes_what_it_cannot_finish() -> anyhow::Result<()> {
    let (_region, nodes) = Region::start(1)?;
    let layer = order_axum::layer(client(&nodes).await?);
    let services = Arc::new(order_axum::Services::default());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut serving = JoinSet::new();
    let router = order_axum::router(layer.clone(), Arc::clone(&services));
    serving.spawn(async move { axum::serve(listener, router).await });

    let order = async |key: &str, body| post(address, "/v1/orders", key, body).await;
    for _ in 0..2 {
        let (head, _) = order("idempotency-key: a\r\ncorrelation-id: c-1\r\n", r#"{"item":"lamp","cents":5}"#).await?;
        ensure!(head.starts_with("HTTP/1.1 201"), "{head}");
    }
    let (head, _) = order("idempotency-key: b\r\n", r#"{"item":"moon","cents":7}"#).await?;
    ensure!(head.starts_with("HTTP/1.1 422"), "{head}");
    let effects = |sink: &order_axum::Sink| sink.effects().join(", ");
    let paid = effects(&services.payments);
    ensure!(paid == "charge 5 (c-1), charge 7 (), refund 7 ()", "{paid}");
    ensure!(effects(&services.warehouse) == "ship lamp (c-1)", "{}", effects(&services.warehouse));
    Ok(())
}

#[test]
fn a_sink_refuses_an_older_attempt_and_answers_a_repeated_one() {
    let sink = order_axum::Sink::default();
    let send = |key: &'static str, token: &'static str| {
        let mut headers = http::HeaderMap::new();
        headers.insert("idempotency-key", http::HeaderValue::from_static(key));
        headers.insert("holdfast-fencing-token", http::HeaderValue::from_static(token));
        sink.take(&headers, "charge 5").as_u16()
    };
    let answers = [send("a", "1.9"), send("a", "1.9"), send("b", "1.10"), send("b", "1.9"), send("b", "2.1")];
    assert_eq!(answers, [201, 200, 201, 412, 200]);
    assert_eq!(send("c", "1"), 400, "what is no token is refused, not passed");
    assert_eq!(sink.effects(), ["charge 5 ()", "charge 5 ()"]);
}

#[tokio::test]
async fn a_tonic_service_charges_once() -> anyhow::Result<()> {
    let (_region, nodes) = Region::start(1)?;
    let layer = charge_tonic::layer(client(&nodes).await?);
    let charges = charge_tonic::Charges::default();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let address = incoming.local_addr()?;
    let mut serving = JoinSet::new();
    serving.spawn(charge_tonic::serve(layer, charges.clone(), incoming));
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
    let call = async |key: Option<&'static str>, cents| -> Result<(String, String), Status> {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let mut request = Request::new(charge_tonic::ChargeRequest { account: "acme".to_owned(), cents });
        if let Some(key) = key {
            request.metadata_mut().insert("idempotency-key", tonic::metadata::MetadataValue::from_static(key));
        }
        let codec = tonic_prost::ProstCodec::<charge_tonic::ChargeRequest, charge_tonic::ChargeReply>::default();
        let path = http::uri::PathAndQuery::from_static("/shop.v1.Charges/Charge");
        let reply = grpc.unary(request, path, codec).await?;
        let status = reply.metadata().get("idempotency-status").and_then(|status| status.to_str().ok());
        Ok((reply.get_ref().charge.clone(), status.unwrap_or_default().to_owned()))
    };
    for said in ["executed", "replayed"] {
        ensure!(call(Some("invoice-7"), 1_999).await? == ("charge-1".to_owned(), said.to_owned()));
    }
    for (key, cents, code) in [
        (Some("invoice-7"), 2_000, Code::InvalidArgument),
        (None, 1, Code::InvalidArgument),
        (Some("invoice-8"), 20_000, Code::FailedPrecondition),
        (Some("invoice-8"), 20_000, Code::FailedPrecondition),
    ] {
        let refused = call(key, cents).await.err().context("it was to be refused")?;
        ensure!(refused.code() == code, "{key:?} {cents}: {refused:?}");
    }
    let charged = charges.0.lock().map(|charges| charges.clone()).unwrap_or_default();
    ensure!(charged == [("acme".to_owned(), 1_999)], "{charged:?}");
    Ok(())
}
