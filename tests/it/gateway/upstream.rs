//! An upstream over a bare socket: it keeps what arrived byte for byte, counts its effects, and is as rude as a test wants.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Arrived {
    /// Up to the empty line.
    pub(super) head: String,
    /// Without the chunks' sizes.
    pub(super) body: Vec<u8>,
    /// What stood after the last chunk.
    pub(super) trailers: String,
}

impl Arrived {
    /// The value of a header that stands there once.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.head.lines().filter_map(|line| line.split_once(": ")).filter(|(known, _)| *known == name);
        let (_, value) = found.next()?;
        found.next().is_none().then_some(value)
    }
}

/// What it does with a request.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Sends these bytes, and waits for the next request.
    Answer(Vec<u8>),
    /// Sends these bytes, and closes.
    AnswerAndClose(Vec<u8>),
    /// Sends these bytes once it may, and waits for the next request.
    AnswerWhen(Arc<Semaphore>, Vec<u8>),
    /// Says nothing more.
    Hang,
    /// Sends these bytes, and then everything that comes back.
    Echo(Vec<u8>),
}

type Acts = Arc<dyn Fn(usize, &Arrived) -> Act + Send + Sync>;

/// A running one. Dropped, it is gone with its connections.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    effects: Arc<AtomicUsize>,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    _task: JoinSet<()>,
}

/// An answer with a body.
pub(super) fn answer(status: &str, lines: &[&str], body: &str) -> Vec<u8> {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    format!("HTTP/1.1 {status}\r\n{lines}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

impl Upstream {
    /// Executes every request, and answers 201 with how often it has.
    pub(super) async fn counting() -> anyhow::Result<Self> {
        Self::start(|effects, _| {
            let body = format!("effect {effects}");
            Act::Answer(answer("201 Created", &["content-type: text/plain", "location: /v1/charges/1"], &body))
        })
        .await
    }

    /// Does with each request, the first of which has number 1, what `act` says.
    pub(super) async fn start(act: impl Fn(usize, &Arrived) -> Act + Send + Sync + 'static) -> anyhow::Result<Self> {
        Self::listen(TcpListener::bind("127.0.0.1:0").await?, act)
    }

    /// The same, where somebody has to have listened before.
    pub(super) fn listen(
        listener: TcpListener,
        act: impl Fn(usize, &Arrived) -> Act + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let address = listener.local_addr()?;
        let (effects, arrived) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<Arrived>>>::default());
        let (counting, keeping, act): (_, _, Acts) = (Arc::clone(&effects), Arc::clone(&arrived), Arc::new(act));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (counting, keeping, act) = (Arc::clone(&counting), Arc::clone(&keeping), Arc::clone(&act));
                connections.spawn(async move {
                    let _ended = serve(stream, &counting, &keeping, &act).await;
                });
            }
        });
        Ok(Self { address, effects, arrived, _task: task })
    }

    /// How many requests it executed.
    pub(super) fn effects(&self) -> usize {
        self.effects.load(Ordering::SeqCst)
    }

    /// What arrived.
    pub(super) fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    effects: &AtomicUsize,
    arrived: &Mutex<Vec<Arrived>>,
    act: &Acts,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let Some(request) = read(&mut stream, &mut bytes).await? else { return Ok(()) };
        let number = effects.fetch_add(1, Ordering::SeqCst) + 1;
        arrived.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        match act(number, &request) {
            Act::Answer(answer) => stream.write_all(&answer).await?,
            Act::AnswerAndClose(answer) => return stream.write_all(&answer).await,
            Act::AnswerWhen(may, answer) => {
                let _may = may.acquire().await;
                stream.write_all(&answer).await?;
            }
            Act::Hang => std::future::pending().await,
            Act::Echo(answer) => {
                stream.write_all(&answer).await?;
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await?;
                return Ok(());
            }
        }
    }
}

/// The next request; none at the end of the connection.
async fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> std::io::Result<Option<Arrived>> {
    let Some(end) = fill(stream, bytes, |bytes| find(bytes, b"\r\n\r\n")).await? else { return Ok(None) };
    let head: Vec<u8> = bytes.drain(..end + 4).take(end).collect();
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut request = Arrived { head, body: Vec::new(), trailers: String::new() };
    if request.header("transfer-encoding").is_some() {
        loop {
            let Some(end) = fill(stream, bytes, |bytes| find(bytes, b"\r\n")).await? else { return Ok(None) };
            let line: Vec<u8> = bytes.drain(..end + 2).collect();
            let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).unwrap_or_default();
            if size == 0 {
                break;
            }
            let whole = |bytes: &[u8]| (bytes.len() >= size + 2).then_some(size);
            let Some(size) = fill(stream, bytes, whole).await? else { return Ok(None) };
            request.body.extend(bytes.drain(..size + 2).take(size));
        }
        loop {
            let Some(end) = fill(stream, bytes, |bytes| find(bytes, b"\r\n")).await? else { return Ok(None) };
            let line: Vec<u8> = bytes.drain(..end + 2).collect();
            if end == 0 {
                return Ok(Some(request));
            }
            request.trailers.push_str(&String::from_utf8_lossy(&line));
        }
    }
    let length: usize = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or_default();
    let whole = |bytes: &[u8]| (bytes.len() >= length).then_some(length);
    let Some(length) = fill(stream, bytes, whole).await? else { return Ok(None) };
    request.body.extend(bytes.drain(..length));
    Ok(Some(request))
}

/// Reads until something is there.
async fn fill(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
    there: impl Fn(&[u8]) -> Option<usize>,
) -> std::io::Result<Option<usize>> {
    loop {
        if let Some(at) = there(bytes) {
            return Ok(Some(at));
        }
        if stream.read_buf(bytes).await? == 0 {
            return Ok(None);
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
