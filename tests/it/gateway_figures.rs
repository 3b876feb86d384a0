//! What a gateway costs: time over a direct call of the upstream, and memory of connections that wait. `make soak` measures.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::harness::{self, report};
use crate::stage::{Stage, route};
use crate::{clock, soak};

const POLICIES: &str = r#"
    [policy.charges]
    endpoints = ["POST /v1/charges"]
    severity = "critical"
    stage = "required"

    [policy.off]
    endpoints = ["POST /v1/off"]
    severity = "low"
    stage = "off"
"#;
/// Requests of each kind; the first tenth of them warms up.
const REQUESTS: usize = 2_000;
/// Idle connections.
const IDLE: usize = 10_000;

/// A connection that is kept, and one request after the other on it.
struct Kept(BufReader<TcpStream>);

impl Kept {
    async fn to(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::with_capacity(2 * 1024, stream)))
    }

    /// The status of the answer, which is read whole.
    async fn post(&mut self, path: &str, key: &str) -> anyhow::Result<u16> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: shop\r\nidempotency-key: {key}\r\ncontent-type: application/json\r\n\
             content-length: 15\r\n\r\n{{\"amount\":2000}}"
        );
        self.0.write_all(request.as_bytes()).await?;
        let mut line = String::new();
        self.0.read_line(&mut line).await?;
        let status = line.split(' ').nth(1).context("no status")?.parse()?;
        let mut length = 0;
        loop {
            line.clear();
            self.0.read_line(&mut line).await?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        Ok(status)
    }
}

/// The middle and the 99th percentile, in microseconds.
fn percentiles(mut times: Vec<Duration>) -> (u128, u128) {
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default().as_micros();
    (at(50), at(99))
}

/// Times the kinds in turn, so that what else the machine does meets all of them.
async fn latencies(direct: SocketAddr, gateway: SocketAddr, store: SocketAddr) -> anyhow::Result<[(u128, u128); 4]> {
    let mut upstream = Kept::to(direct).await?;
    let mut through = Kept::to(gateway).await?;
    let store = Client::grpc(store)?;
    let mut times: [Vec<Duration>; 4] = Default::default();
    for number in 0..REQUESTS {
        let key = format!("k-{number}");
        let begun = clock::now();
        let status = upstream.post("/v1/charges", &format!("direct-{number}")).await?;
        let after_direct = clock::now();
        ensure!(status == 201, "{status}");
        let status = through.post("/v1/off", &format!("off-{number}")).await?;
        let after_passed = clock::now();
        ensure!(status == 201, "{status}");
        let status = through.post("/v1/charges", &key).await?;
        let after_protected = clock::now();
        ensure!(status == 201, "{status}");
        store_writes(&store, &key).await?;
        let after_store = clock::now();
        if number < REQUESTS / 10 {
            continue;
        }
        let spans = [
            after_direct - begun,
            after_passed - after_direct,
            after_protected - after_passed,
            after_store - after_protected,
        ];
        for (times, span) in times.iter_mut().zip(spans) {
            times.push(span);
        }
    }
    Ok(times.map(percentiles))
}

/// What a protected request asks of the store: a Reserve, and a Complete.
async fn store_writes(store: &Client, key: &str) -> anyhow::Result<()> {
    use holdfast_client::proto::v1 as api;
    let (tenant, key) = ("shop".to_owned(), format!("store-{key}"));
    let kind = Some(api::fingerprint::Kind::Digest(vec![7; 32].into()));
    let reserve = api::ReserveRequest {
        tenant: tenant.clone(),
        key: key.clone(),
        endpoint: "POST /v1/charges".to_owned(),
        fingerprint: Some(api::Fingerprint { kind }),
        ..api::ReserveRequest::default()
    };
    let reserved = store.reserve(reserve).await.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
    let Some(api::reserve_response::Outcome::Granted(granted)) = reserved.outcome else {
        anyhow::bail!("{reserved:?}")
    };
    let envelope = Some(api::Envelope { status: 201, headers: Vec::new(), body: vec![b'x'; 120].into() });
    let complete = api::CompleteRequest { tenant, key, token: granted.token, envelope, retention_ms: None };
    store.complete(complete).await.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
    Ok(())
}

/// The figures of docs/reference/performance.md.
#[tokio::test(flavor = "multi_thread")]
async fn soak_a_gateway_costs_little_time_and_memory() -> anyhow::Result<()> {
    let Some(out) = soak::out() else { return Ok(()) };
    let _place = harness::alone().await?;
    let settings = |upstream| {
        let routes = ["/v1/charges", "/v1/off"].map(|path| route(path, upstream, "")).concat();
        format!("max_connections = {}\n{routes}", IDLE + 100)
    };
    let Stage { gate, upstream, node, place: _kept } = Stage::set(POLICIES, settings).await?;

    let [direct, passed, protected, store] = latencies(upstream.address(), gate.address(), node.address()).await?;
    let (own, over) = (passed.0.saturating_sub(direct.0), protected.0.saturating_sub(direct.0 + store.0));

    let before = gate.memory_kib("VmRSS")?;
    let mut idle = Vec::with_capacity(IDLE);
    for _ in 0..IDLE {
        let mut connection = Kept::to(gate.address()).await?;
        // One request, so that the connection is as a client's that it keeps.
        ensure!(connection.post("/v1/off", "idle").await? == 201);
        idle.push(connection);
    }
    ensure!(Kept::to(gate.address()).await?.post("/v1/off", "beside").await? == 201, "it serves beside them");
    let after = gate.memory_kib("VmRSS")?;
    let each = after.saturating_sub(before) * 1024 / IDLE as u64;
    drop(idle);

    let line = |what: &str, (p50, p99): (u128, u128)| format!("{what:<42} {p50:>7} {p99:>7}\n");
    let figures = format!(
        "{:<42} {:>7} {:>7}\n{}{}{}{}over the upstream, p50: {own} us to pass it; protected, {over} us beside the store's writes\n\
         {IDLE} idle connections: {} KiB more ({before} KiB before), {each} bytes each\n",
        "in us, one client, calls in turn",
        "p50",
        "p99",
        line("the upstream, directly", direct),
        line("through the gateway, stage off", passed),
        line("through the gateway, protected", protected),
        line("the store's two writes, gRPC", store),
        after.saturating_sub(before),
    );
    std::fs::write(out.join("gateway.txt"), &figures)?;
    report(&figures);
    ensure!(over <= 1_000, "the gateway costs more than a millisecond beside the store:\n{figures}");
    Ok(())
}
