//! Stands between clients and the gateway and counts what clients send: what a client library does by itself is seen by nobody
//! else.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// A tap on a gateway.
#[derive(Debug)]
pub(crate) struct Tap {
    address: SocketAddr,
    heard: Heard,
    _passing: JoinSet<()>,
}

impl Tap {
    pub(crate) async fn on(gateway: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let heard = Heard::default();
        let heard_here = Arc::clone(&heard);
        let mut passing = JoinSet::new();
        passing.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(pass(client, gateway, Arc::clone(&heard_here)));
            }
        });
        Ok(Self { address, heard, _passing: passing })
    }

    /// Where clients connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests with this key clients sent.
    pub(crate) fn requests(&self, key: &str) -> usize {
        let line = format!("\r\nidempotency-key: {}\r\n", key.to_ascii_lowercase());
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().map(|bytes| String::from_utf8_lossy(bytes).to_ascii_lowercase().matches(&line).count()).sum()
    }
}

async fn pass(client: TcpStream, gateway: SocketAddr, heard: Heard) {
    let Ok(gateway) = TcpStream::connect(gateway).await else { return };
    let (from_client, mut to_client) = client.into_split();
    let (mut from_gateway, mut to_gateway) = gateway.into_split();
    let place = {
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.push(Vec::new());
        heard.len() - 1
    };
    let asking = listen(from_client, &mut to_gateway, &heard, place);
    let answering = tokio::io::copy(&mut from_gateway, &mut to_client);
    // Whoever ends first ends both, as one connection would.
    tokio::select! {
        _ = asking => {}
        _ = answering => {}
    }
}

async fn listen(
    mut from: OwnedReadHalf,
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
    heard: &Heard,
    place: usize,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        let bytes = buffer.get(..length).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(known) = heard.lock().unwrap_or_else(PoisonError::into_inner).get_mut(place) {
            known.extend_from_slice(bytes);
        }
        to.write_all(bytes).await?;
    }
}
