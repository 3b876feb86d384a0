//! A crowd of clients that live through many keys at a time and write down everything they ask and are told.
//!
//! Each worker has its own random sequence; the seed makes it repeatable as far as the store's answers are. Workers do
//! what services do: resend with the same nonce after a lost answer, sometimes start a new attempt instead, hold keys too
//! long, give up, meet each other on a key, and use a key for another request by mistake.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_client::proto::v1 as api;
use rand::Rng as _;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::calls::{Answered, Grant, Sent, exchange};
use crate::client::Client;
use crate::clock;
use crate::failure::Failure;
use crate::history::{Answer, Call, Checkpoint, History, KeyId, Nonce, OnLapse, Op, Request};
use crate::payload;
use crate::random::Random;

/// How long a worker waits for one answer before it takes it for lost.
const PATIENCE: Duration = Duration::from_secs(8);
/// As [`PATIENCE`], where it can ask another node.
const PATIENCE_AMONG_NODES: Duration = Duration::from_secs(3);
/// How long a worker rests after a key's life at the most, in microseconds.
const REST_BETWEEN_LIVES_US: u64 = 2_000;
/// As [`REST_BETWEEN_LIVES_US`], where three processes share the machine with the crowd: elections are not to be late.
const REST_BETWEEN_LIVES_AMONG_NODES_US: u64 = 20_000;
/// How long a worker rests after a call without an answer, unless the nodes change sooner.
const REST: Duration = Duration::from_millis(20);
/// As [`REST`], at the most, where an election may go on.
const REST_AMONG_NODES_MS: u64 = 200;
/// Keys that workers meet on: the last ones that were made.
const RECENT: usize = 64;
const LONG_LEASE_MS: u32 = 30_000;
const SHORT_LEASE_MS: u32 = 200;
/// Bodies, in bytes, and how often each is used.
const BODIES: &[(usize, u32)] =
    &[(0, 8), (1, 4), (180, 50), (3_000, 20), (16 * 1024, 12), (64 * 1024, 4), (256 * 1024, 2)];

/// Where the nodes are that clients know of. Of one node the number tells one process from the next; a node of a region
/// keeps its own, and may be down.
pub(crate) type Target = Vec<(u64, SocketAddr)>;

/// A key, as the crowd knows it.
#[derive(Clone, Copy, Debug)]
struct Known {
    lease_ms: u32,
    /// The largest position that anybody was told with an answer about it.
    seen: Option<u64>,
}

/// What all workers share.
pub(crate) struct Crowd {
    target: watch::Receiver<Target>,
    over: watch::Receiver<bool>,
    on_lapse: OnLapse,
    seed: u64,
    history: Mutex<History>,
    /// By number.
    keys: Mutex<Vec<Known>>,
    /// Answers that no node should give here.
    surprises: Mutex<Vec<String>>,
    numbers: AtomicU64,
}

/// One client.
pub(crate) struct Worker {
    crowd: Arc<Crowd>,
    random: Random,
    over_http: bool,
    clients: BTreeMap<u64, Client>,
    /// The node that it asks, until it has a reason to ask another.
    at: Option<u64>,
    /// It has no such reason.
    stays: bool,
}

impl Crowd {
    pub(crate) fn new(
        seed: u64,
        on_lapse: OnLapse,
        target: watch::Receiver<Target>,
        over: watch::Receiver<bool>,
    ) -> Arc<Self> {
        let (history, keys, surprises) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Self { target, over, on_lapse, seed, history, keys, surprises, numbers: AtomicU64::new(1) })
    }

    /// Notes that the only process is gone: no call sent to it takes effect later. Not for a node of a region, where what a
    /// dead process has passed on may yet be done.
    pub(crate) fn died(&self) {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).deaths_ns.push(clock::now_ns());
    }

    /// Adds what was done to the nodes, for whoever reads the verdict.
    pub(crate) fn tell(&self, events: &[(u64, String)]) {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).events.extend_from_slice(events);
    }

    /// Looks at what happened so far.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everything that happened so far.
    pub(crate) fn take_history(&self) -> History {
        std::mem::take(&mut *self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The first answers that no node should give here.
    pub(crate) fn surprises(&self) -> Vec<String> {
        self.surprises.lock().unwrap_or_else(PoisonError::into_inner).iter().take(5).cloned().collect()
    }

    fn surprise(&self, call: Call, what: String) {
        self.surprises.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{call:?}: {what}"));
    }

    /// What the store does with a lapsed key.
    pub(crate) fn on_lapse(&self) -> OnLapse {
        self.on_lapse
    }

    /// A worker; its number makes its random sequence.
    pub(crate) fn worker(self: &Arc<Self>, number: u64) -> Worker {
        Worker {
            crowd: Arc::clone(self),
            random: Random::new(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            over_http: number % 4 == 3,
            clients: BTreeMap::new(),
            at: None,
            stays: false,
        }
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether there is more than one node.
    fn many(&self) -> bool {
        self.target.borrow().len() > 1
    }

    fn over(&self) -> bool {
        *self.over.borrow()
    }

    fn new_key(&self, lease_ms: u32) -> KeyId {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.push(Known { lease_ms, seen: None });
        KeyId(u32::try_from(keys.len() - 1).unwrap_or(u32::MAX))
    }

    /// How many keys there are.
    pub(crate) fn keys(&self) -> u32 {
        u32::try_from(self.keys.lock().unwrap_or_else(PoisonError::into_inner).len()).unwrap_or(u32::MAX)
    }

    fn lease_of(&self, key: KeyId) -> u32 {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(key.0 as usize).map_or(LONG_LEASE_MS, |known| known.lease_ms)
    }

    fn seen(&self, key: KeyId) -> Option<u64> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(key.0 as usize).and_then(|known| known.seen)
    }

    fn see(&self, key: KeyId, position: Option<u64>) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = keys.get_mut(key.0 as usize) {
            known.seen = known.seen.max(position);
        }
    }

    fn note(&self, op: Op) {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).ops.push(op);
    }
}

/// The text of a key.
pub(crate) fn name(key: KeyId) -> String {
    format!("order-{:06}", key.0)
}

impl Worker {
    /// Lives until the crowd's time is over.
    pub(crate) async fn live(mut self) {
        while !self.crowd.over() {
            match self.random.random_range(0..100) {
                0..60 => self.new_life().await,
                60..85 => self.visit().await,
                _ => self.retry_an_old_one().await,
            }
            let most_us = if self.crowd.many() { REST_BETWEEN_LIVES_AMONG_NODES_US } else { REST_BETWEEN_LIVES_US };
            let rest_us = self.random.random_range(0..most_us);
            sleep(Duration::from_micros(rest_us)).await;
        }
    }

    /// Asks for a key once more, as a retry of its request does.
    pub(crate) async fn verify(&mut self, key: KeyId) {
        let lease_ms = self.crowd.lease_of(key);
        for _ in 0..5 {
            let nonce = Nonce(self.crowd.number());
            let (answer, _) = self.call(key, Call::Reserve { nonce, request: Request(0), lease_ms }, None).await;
            if answer != Answer::Unknown && answer != Answer::Refused {
                return;
            }
        }
    }

    /// As [`Worker::verify`], of every node.
    pub(crate) async fn verify_everywhere(&mut self, key: KeyId) {
        let nodes = self.crowd.target.borrow().clone();
        self.stays = true;
        for (node, _) in nodes {
            self.at = Some(node);
            self.verify(key).await;
        }
        self.stays = false;
    }

    /// A key from its first request to its answer, with what may come between.
    async fn new_life(&mut self) {
        let lease_ms = if self.random.random_bool(0.35) { SHORT_LEASE_MS } else { LONG_LEASE_MS };
        let key = self.crowd.new_key(lease_ms);
        let Some(mut grant) = self.obtain(key, Request(0)).await else { return };
        if self.random.random_bool(0.12) {
            if self.random.random_bool(0.3) {
                let checkpoint = Checkpoint(self.crowd.number());
                self.named(key, &grant, Call::Checkpoint { token: grant.token, checkpoint }).await;
            }
            self.named(key, &grant, Call::Release { token: grant.token }).await;
            match self.obtain(key, Request(0)).await {
                Some(next) => grant = next,
                None => return,
            }
        }
        self.work(key, &grant).await;
    }

    /// What a holder does between grant and answer.
    async fn work(&mut self, key: KeyId, grant: &Grant) {
        if self.random.random_bool(0.15) {
            let checkpoint = Checkpoint(self.crowd.number());
            self.named(key, grant, Call::Checkpoint { token: grant.token, checkpoint }).await;
        }
        if self.random.random_bool(0.15) {
            let lease_ms = self.crowd.lease_of(key);
            self.named(key, grant, Call::Extend { token: grant.token, lease_ms }).await;
        }
        if self.crowd.lease_of(key) == SHORT_LEASE_MS && self.random.random_bool(0.3) {
            sleep(Duration::from_millis(u64::from(SHORT_LEASE_MS) + self.random.random_range(0..200))).await;
            if self.crowd.on_lapse == OnLapse::Hold && self.random.random_bool(0.4) {
                return Box::pin(self.take_over(key)).await;
            }
            if self.random.random_bool(0.1) {
                self.named(key, grant, Call::Release { token: grant.token }).await;
                return;
            }
            if self.random.random_bool(0.3) {
                let late = self.named(key, grant, Call::Extend { token: grant.token, lease_ms: SHORT_LEASE_MS }).await;
                if late == Answer::StaleToken && self.random.random_bool(0.5) {
                    return;
                }
            }
        }
        if self.random.random_bool(0.07) {
            return;
        }
        self.complete(key, grant).await;
        if self.random.random_bool(0.06) {
            self.complete(key, grant).await;
        }
        if self.random.random_bool(0.3) {
            self.reserve_once(key, Request(0)).await;
        }
    }

    /// A key that another worker may be at.
    async fn visit(&mut self) {
        let keys = self.crowd.keys() as usize;
        if keys == 0 {
            return;
        }
        let from = keys.saturating_sub(RECENT);
        let key = KeyId(u32::try_from(self.random.random_range(from..keys)).unwrap_or_default());
        let request = Request(u32::from(self.random.random_bool(0.15)));
        let answer = self.reserve_once(key, request).await;
        match answer {
            (Answer::Granted { .. }, Some(grant)) => self.work(key, &grant).await,
            (Answer::OutcomeUnknown, _) if self.random.random_bool(0.6) => self.take_over(key).await,
            _ => {}
        }
    }

    async fn retry_an_old_one(&mut self) {
        let keys = self.crowd.keys();
        if keys > 0 {
            let key = KeyId(self.random.random_range(0..keys));
            let request = Request(u32::from(self.random.random_bool(0.1)));
            if let (Answer::Granted { .. }, Some(grant)) = self.reserve_once(key, request).await {
                self.work(key, &grant).await;
            }
        }
    }

    async fn take_over(&mut self, key: KeyId) {
        let nonce = Nonce(self.crowd.number());
        for _ in 0..3 {
            let (answer, grant) = self.call(key, Call::Claim { nonce, lease_ms: LONG_LEASE_MS }, None).await;
            match (answer, grant) {
                (Answer::Granted { .. }, Some(grant)) => return self.work(key, &grant).await,
                (Answer::Unknown | Answer::Refused, _) => {}
                _ => return,
            }
        }
    }

    async fn reserve_once(&mut self, key: KeyId, request: Request) -> (Answer, Option<Grant>) {
        let nonce = Nonce(self.crowd.number());
        let lease_ms = self.crowd.lease_of(key);
        self.call(key, Call::Reserve { nonce, request, lease_ms }, None).await
    }

    /// Reserves until there is a definite answer: mostly with the same nonce, sometimes as a new attempt.
    async fn obtain(&mut self, key: KeyId, request: Request) -> Option<Grant> {
        let lease_ms = self.crowd.lease_of(key);
        let mut nonce = Nonce(self.crowd.number());
        for _ in 0..8 {
            let (answer, grant) = self.call(key, Call::Reserve { nonce, request, lease_ms }, None).await;
            match answer {
                Answer::Granted { .. } => return grant,
                Answer::Unknown if self.random.random_bool(0.25) => nonce = Nonce(self.crowd.number()),
                Answer::Unknown | Answer::Refused => {}
                Answer::InProgress if self.crowd.lease_of(key) == SHORT_LEASE_MS => {
                    sleep(Duration::from_millis(u64::from(SHORT_LEASE_MS) / 2)).await;
                }
                _ => return None,
            }
            if self.crowd.over() {
                return None;
            }
        }
        None
    }

    /// A call that names a grant; a lost answer is asked for again.
    async fn named(&mut self, key: KeyId, grant: &Grant, call: Call) -> Answer {
        let mut answer = Answer::Unknown;
        for _ in 0..8 {
            answer = self.call(key, call, Some(grant)).await.0;
            let lost = matches!(answer, Answer::Unknown | Answer::Refused);
            if !lost || self.crowd.over() || self.random.random_bool(0.05) {
                break;
            }
        }
        answer
    }

    async fn complete(&mut self, key: KeyId, grant: &Grant) {
        let weights: u32 = BODIES.iter().map(|(_, weight)| weight).sum();
        let mut pick = self.random.random_range(0..weights);
        let mut bytes = 0;
        for (size, weight) in BODIES {
            bytes = *size;
            if pick < *weight {
                break;
            }
            pick -= weight;
        }
        let number = self.crowd.number();
        let envelope = payload::envelope(number, bytes);
        let call = Call::Complete { token: grant.token, envelope: payload::digest(&envelope) };
        for _ in 0..8 {
            let answer = self.send(key, call, Some(grant), Some(&envelope)).await.0;
            let lost = matches!(answer, Answer::Unknown | Answer::Refused);
            if !lost || self.crowd.over() || self.random.random_bool(0.05) {
                return;
            }
        }
    }

    async fn call(&mut self, key: KeyId, call: Call, grant: Option<&Grant>) -> (Answer, Option<Grant>) {
        self.send(key, call, grant, None).await
    }

    /// Sends one call to a node, and writes it down.
    async fn send(
        &mut self,
        key: KeyId,
        call: Call,
        grant: Option<&Grant>,
        envelope: Option<&api::Envelope>,
    ) -> (Answer, Option<Grant>) {
        let Some((node, client)) = self.client().await else { return (Answer::Unknown, None) };
        let many = self.crowd.many();
        let seen = self.random.random_bool(0.3).then(|| self.crowd.seen(key)).flatten();
        let token = grant.map(|grant| grant.text.clone()).unwrap_or_default();
        let sent = Sent { key: name(key), call, token, envelope, seen };
        let patience = if many { PATIENCE_AMONG_NODES } else { PATIENCE };
        let invoked_ns = clock::now_ns();
        let answered = timeout(patience, exchange(&client, sent)).await;
        let returned_ns = clock::now_ns();
        let Answered { answer, grant, position } = match answered {
            Ok(Ok(answered)) => answered,
            Ok(Err(failure)) => self.failed(call, &failure).into(),
            Err(_) => Answer::Unknown.into(),
        };
        self.crowd.see(key, position);
        let seen = seen.filter(|_| matches!(call, Call::Reserve { .. }));
        self.crowd.note(Op { key, call, answer, invoked_ns, returned_ns, node, seen, position });
        if matches!(answer, Answer::Unknown | Answer::Refused) {
            self.clients.remove(&node);
            self.at = self.at.filter(|_| self.stays);
            let mut target = self.crowd.target.clone();
            let change = target.wait_for(|target| !target.iter().any(|(known, _)| *known == node));
            let rest = Duration::from_millis(self.random.random_range(1..REST_AMONG_NODES_MS));
            // Not waiting for long: the node may be up and only this answer lost.
            drop(timeout(if many { rest } else { REST }, change).await);
        }
        (answer, grant)
    }

    /// What a failure means; one that no call of a worker deserves is kept.
    fn failed(&self, call: Call, failure: &Failure) -> Answer {
        let expected = failure.code.is_empty() || failure.is_unavailable() || failure.is_overloaded();
        if !expected || failure.status == "unreadable" {
            self.crowd.surprise(call, format!("{failure:?}"));
        }
        if failure.definite { Answer::Refused } else { Answer::Unknown }
    }

    /// A node and its client, once there is one: mostly the one that was asked before.
    async fn client(&mut self) -> Option<(u64, Client)> {
        let mut target = self.crowd.target.clone();
        let nodes = target.wait_for(|nodes| !nodes.is_empty()).await.ok()?.clone();
        let stays = self.stays || nodes.len() == 1 || !self.random.random_bool(0.1);
        let before = nodes.iter().find(|(node, _)| stays && Some(*node) == self.at);
        let (node, address) = match before {
            Some(before) => *before,
            None => *nodes.get(self.random.random_range(0..nodes.len()))?,
        };
        self.at = Some(node);
        if let Some(client) = self.clients.get(&node) {
            return Some((node, client.clone()));
        }
        let client = if self.over_http { Client::http(address) } else { Client::grpc(address).ok()? };
        self.clients.insert(node, client.clone());
        Some((node, client))
    }
}
