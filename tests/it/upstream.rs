//! An upstream that executes whatever reaches it, writes down each effect under its key, and misbehaves as a test says. It
//! does nothing to keep effects single: that is what is tested.
//!
//! What it does to the first request of a key stands in the key's first word, so that programs that know nothing of the
//! test can ask for it: `late.…` answers after the effect and too late, and so on ([`Act::of`]). A [`Pause`] stops a
//! request of one key before or after its effect until the test lets it go.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How late a late answer comes: later than the clients of the tests wait.
pub(crate) const LATE: Duration = Duration::from_millis(1_500);
/// How long a slow answer takes, in ten pieces.
const DRIP: Duration = Duration::from_millis(1_000);

/// What happens to a request.
#[derive(Clone, Debug)]
enum Act {
    /// The effect, and its answer.
    Answer,
    /// The effect, and its answer after [`LATE`].
    Late,
    /// The effect, and the end of the connection.
    Cut,
    /// 500 without an effect.
    Fail,
    /// 503 with `Retry-After: 1`, without an effect.
    Busy,
    /// The effect, and its answer piece by piece.
    Drip,
    /// A stop before or after the effect.
    Pause(Pause),
}

/// Where a request stops, and how it goes on.
#[derive(Clone, Debug)]
pub(crate) struct Pause {
    is_after_effect: bool,
    reached: Arc<Semaphore>,
    go: Arc<Semaphore>,
}

/// One execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    /// What the gateway said of the grant.
    pub(crate) fencing: Option<String>,
    /// Whether it said that an earlier attempt may have executed.
    pub(crate) is_flagged: bool,
    /// The answer's body: no two are the same.
    pub(crate) answer: String,
}

#[derive(Debug, Default)]
struct Ledger {
    arrivals: BTreeMap<String, u32>,
    effects: BTreeMap<String, Vec<Effect>>,
    pauses: BTreeMap<String, Pause>,
    answers: u64,
}

/// The upstream. Dropped, it refuses connections and cuts those it has.
#[derive(Debug)]
pub(crate) struct Upstream {
    address: SocketAddr,
    ledger: Arc<Mutex<Ledger>>,
    serving: JoinSet<()>,
}

impl Act {
    /// What a key's first word asks for.
    fn of(key: &str) -> Self {
        match key.split('.').next().unwrap_or_default() {
            "late" => Self::Late,
            "cut" => Self::Cut,
            "fail" => Self::Fail,
            "busy" => Self::Busy,
            "drip" => Self::Drip,
            _ => Self::Answer,
        }
    }
}

impl Pause {
    /// Waits until a request has stopped here.
    pub(crate) async fn reached(&self) -> anyhow::Result<()> {
        let waiting = tokio::time::timeout(Duration::from_secs(20), self.reached.acquire());
        waiting.await.context("no request came to the pause")??.forget();
        Ok(())
    }

    /// Lets it go on.
    pub(crate) fn go(&self) {
        self.go.add_permits(1);
    }

    async fn here(&self) {
        self.reached.add_permits(1);
        if let Ok(permit) = self.go.acquire().await {
            permit.forget();
        }
    }
}

impl Upstream {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let mut upstream =
            Self { address: SocketAddr::from(([127, 0, 0, 1], 0)), ledger: Arc::default(), serving: JoinSet::new() };
        upstream.listen().await?;
        Ok(upstream)
    }

    /// Listens, at the address where it did before.
    pub(crate) async fn listen(&mut self) -> anyhow::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.address = listener.local_addr()?;
        let ledger = Arc::clone(&self.ledger);
        self.serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                // Or the second write of an answer waits for the acknowledgement of the first, 40 ms.
                if stream.set_nodelay(true).is_err() {
                    continue;
                }
                connections.spawn(serve(stream, Arc::clone(&ledger)));
            }
        });
        Ok(())
    }

    /// Cuts every connection and refuses new ones, as a process that died.
    pub(crate) async fn die(&mut self) {
        self.serving.shutdown().await;
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the next request of a key right before its effect.
    pub(crate) fn pause_before(&self, key: &str) -> Pause {
        self.pause(key, false)
    }

    /// Stops the next request of a key between its effect and its answer.
    pub(crate) fn pause_after(&self, key: &str) -> Pause {
        self.pause(key, true)
    }

    fn pause(&self, key: &str, is_after_effect: bool) -> Pause {
        let closed = || Arc::new(Semaphore::new(0));
        let pause = Pause { is_after_effect, reached: closed(), go: closed() };
        lock(&self.ledger).pauses.insert(key.to_owned(), pause.clone());
        pause
    }

    /// How often a key's requests came.
    pub(crate) fn arrivals(&self, key: &str) -> u32 {
        lock(&self.ledger).arrivals.get(key).copied().unwrap_or_default()
    }

    /// What was executed under a key.
    pub(crate) fn effects(&self, key: &str) -> Vec<Effect> {
        lock(&self.ledger).effects.get(key).cloned().unwrap_or_default()
    }

    /// What was executed, by key.
    pub(crate) fn all_effects(&self) -> BTreeMap<String, Vec<Effect>> {
        lock(&self.ledger).effects.clone()
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request as it came.
#[derive(Debug, Default)]
struct Request {
    headers: BTreeMap<String, String>,
    body: String,
}

async fn serve(stream: TcpStream, ledger: Arc<Mutex<Ledger>>) {
    let mut stream = BufReader::new(stream);
    // A peer that leaves is as good as one that is done.
    while let Ok(Some(request)) = read(&mut stream).await {
        if !answer(&mut stream, &request, &ledger).await.unwrap_or_default() {
            return;
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> anyhow::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut request = Request::default();
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = request.headers.get("content-length").map_or(Ok(0), |length| length.parse())?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    request.body = String::from_utf8(body)?;
    Ok(Some(request))
}

/// Executes and answers; whether the connection goes on.
async fn answer(stream: &mut BufReader<TcpStream>, request: &Request, ledger: &Mutex<Ledger>) -> anyhow::Result<bool> {
    let header = |name: &str| request.headers.get(name).map(|value| value.trim_matches('"').to_owned());
    let key = header("idempotency-key").unwrap_or_default();
    let act = {
        let mut ledger = lock(ledger);
        let arrivals = ledger.arrivals.entry(key.clone()).or_default();
        *arrivals += 1;
        let is_first = *arrivals == 1;
        let pause = ledger.pauses.remove(&key).map(Act::Pause);
        pause.unwrap_or_else(|| if is_first { Act::of(&key) } else { Act::Answer })
    };
    if let Act::Fail | Act::Busy = act {
        let (status, more) = match act {
            Act::Busy => ("503 Service Unavailable", "retry-after: 1\r\n"),
            _ => ("500 Internal Server Error", ""),
        };
        stream.write_all(format!("HTTP/1.1 {status}\r\n{more}content-length: 2\r\n\r\n{{}}").as_bytes()).await?;
        return Ok(true);
    }
    if let Act::Pause(pause) = &act
        && !pause.is_after_effect
    {
        pause.here().await;
    }
    let effect = execute(&key, request, ledger, header("holdfast-fencing-token"));
    match &act {
        Act::Late => tokio::time::sleep(LATE).await,
        Act::Cut => return Ok(false),
        Act::Pause(pause) if pause.is_after_effect => pause.here().await,
        _ => {}
    }
    let body = effect.answer.as_bytes();
    let head = format!(
        "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\nrequest-id: req_{}\r\ncontent-length: {}\r\n\r\n",
        key,
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    let pieces = if matches!(act, Act::Drip) { 10 } else { 1 };
    for piece in body.chunks(body.len().div_ceil(pieces)) {
        if pieces > 1 {
            tokio::time::sleep(DRIP / 10).await;
        }
        stream.write_all(piece).await?;
        stream.flush().await?;
    }
    Ok(true)
}

/// Does it, and writes it down. The answer is an object that Stripe's clients know as well.
fn execute(key: &str, request: &Request, ledger: &Mutex<Ledger>, fencing: Option<String>) -> Effect {
    let mut ledger = lock(ledger);
    ledger.answers += 1;
    let number = ledger.answers;
    let answer = serde_json::json!({
        "id": format!("pi_{number}"), "object": "payment_intent", "amount": 2_000, "currency": "usd",
        "status": "succeeded", "sent": request.body,
    });
    let is_flagged = request.headers.get("holdfast-possible-duplicate").is_some_and(|flag| flag == "true");
    let effect = Effect { fencing, is_flagged, answer: answer.to_string() };
    ledger.effects.entry(key.to_owned()).or_default().push(effect.clone());
    effect
}
