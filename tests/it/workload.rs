//! A crowd of clients that live through many keys at a time and write down everything they ask and are told.
//!
//! Each worker has its own random sequence; the seed makes it repeatable as far as the store's answers are. Workers do
//! what services do: resend with the same nonce after a lost answer, sometimes start a new attempt instead, hold keys too
//! long, give up, meet each other on a key, and use a key for another request by mistake.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_client::proto::v1 as api;
use rand::Rng as _;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::client::Client;
use crate::clock;
use crate::failure::Failure;
use crate::history::{Answer, Call, Checkpoint, History, KeyId, Nonce, OnLapse, Op, Recorded, Request, Token};
use crate::payload;
use crate::random::Random;

/// How long a worker waits for one answer before it takes it for lost.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a worker rests after a call without an answer, unless another node is up sooner.
const REST: Duration = Duration::from_millis(20);
/// Keys that workers meet on: the last ones that were made.
const RECENT: usize = 64;
const LONG_LEASE_MS: u32 = 30_000;
const SHORT_LEASE_MS: u32 = 200;
/// Bodies, in bytes, and how often each is used.
const BODIES: &[(usize, u32)] =
    &[(0, 8), (1, 4), (180, 50), (3_000, 20), (16 * 1024, 12), (64 * 1024, 4), (256 * 1024, 2)];

/// Where the node is, if one is up. The number tells one process from the next.
pub(crate) type Target = Option<(u64, SocketAddr)>;

/// What all workers share.
pub(crate) struct Crowd {
    target: watch::Receiver<Target>,
    over: watch::Receiver<bool>,
    on_lapse: OnLapse,
    seed: u64,
    history: Mutex<History>,
    /// The lease of each key, by number.
    keys: Mutex<Vec<u32>>,
    /// Answers that no node should give here.
    surprises: Mutex<Vec<String>>,
    numbers: AtomicU64,
}

/// The whole of one grant, as its worker knows it.
#[derive(Clone)]
struct Grant {
    token: Token,
    text: String,
}

/// One client.
pub(crate) struct Worker {
    crowd: Arc<Crowd>,
    random: Random,
    over_http: bool,
    client: Option<(u64, Client)>,
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

    /// Notes that the process before is gone.
    pub(crate) fn died(&self) {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).deaths_ns.push(clock::now_ns());
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
            client: None,
        }
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn over(&self) -> bool {
        *self.over.borrow()
    }

    fn new_key(&self, lease_ms: u32) -> KeyId {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.push(lease_ms);
        KeyId(u32::try_from(keys.len() - 1).unwrap_or(u32::MAX))
    }

    /// How many keys there are.
    pub(crate) fn keys(&self) -> u32 {
        u32::try_from(self.keys.lock().unwrap_or_else(PoisonError::into_inner).len()).unwrap_or(u32::MAX)
    }

    fn lease_of(&self, key: KeyId) -> u32 {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(key.0 as usize).copied().unwrap_or(LONG_LEASE_MS)
    }

    fn note(&self, op: Op) {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).ops.push(op);
    }
}

/// The text of a key.
fn name(key: KeyId) -> String {
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
            let rest_us = self.random.random_range(0..2_000);
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

    /// Sends one call to the node that is up, and writes it down.
    async fn send(
        &mut self,
        key: KeyId,
        call: Call,
        grant: Option<&Grant>,
        envelope: Option<&api::Envelope>,
    ) -> (Answer, Option<Grant>) {
        let Some((number, client)) = self.client().await else { return (Answer::Unknown, None) };
        let token = grant.map(|grant| grant.text.clone()).unwrap_or_default();
        let invoked_ns = clock::now_ns();
        let answered = timeout(PATIENCE, exchange(&client, name(key), call, token, envelope)).await;
        let returned_ns = clock::now_ns();
        let (answer, granted) = match answered {
            Ok(Ok(answered)) => answered,
            Ok(Err(failure)) => (self.failed(call, &failure), None),
            Err(_) => (Answer::Unknown, None),
        };
        self.crowd.note(Op { key, call, answer, invoked_ns, returned_ns });
        if matches!(answer, Answer::Unknown | Answer::Refused) {
            self.client = None;
            let mut target = self.crowd.target.clone();
            let another = target.wait_for(|target| target.is_none_or(|(next, _)| next != number));
            // Not waiting for long: the node may be up and only this answer lost.
            drop(timeout(REST, another).await);
        }
        (answer, granted)
    }

    /// What a failure means; one that no call of a worker deserves is kept.
    fn failed(&self, call: Call, failure: &Failure) -> Answer {
        let expected = failure.code.is_empty() || failure.is_unavailable() || failure.is_overloaded();
        if !expected || failure.status == "unreadable" {
            self.crowd.surprise(call, format!("{failure:?}"));
        }
        if failure.definite { Answer::Refused } else { Answer::Unknown }
    }

    /// The client of the node that is up, once one is.
    async fn client(&mut self) -> Option<(u64, Client)> {
        let mut target = self.crowd.target.clone();
        let (number, address) = (*target.wait_for(Option::is_some).await.ok()?)?;
        if let Some((known, client)) = &self.client
            && *known == number
        {
            return Some((number, client.clone()));
        }
        let client = if self.over_http { Client::http(address) } else { Client::grpc(address).ok()? };
        self.client = Some((number, client.clone()));
        Some((number, client))
    }
}

/// One call and its answer, in the history's words.
async fn exchange(
    client: &Client,
    key: String,
    call: Call,
    token: String,
    envelope: Option<&api::Envelope>,
) -> Result<(Answer, Option<Grant>), Failure> {
    let tenant = "crowd".to_owned();
    match call {
        Call::Reserve { nonce, request, lease_ms } => client
            .reserve(api::ReserveRequest {
                tenant,
                key,
                endpoint: payload::ENDPOINT.to_owned(),
                fingerprint: Some(payload::fingerprint(request)),
                nonce: nonce.0.to_be_bytes().to_vec().into(),
                client_version: "it/1".to_owned(),
                lease_ms: Some(lease_ms),
                wait_ms: None,
            })
            .await
            .and_then(reserved),
        Call::Complete { .. } => client
            .complete(api::CompleteRequest { tenant, key, token, envelope: envelope.cloned(), retention_ms: None })
            .await
            .and_then(|answer| completed(&answer)),
        Call::Release { .. } => {
            let answer = client.release(api::ReleaseRequest { tenant, key, token }).await?;
            match answer.outcome {
                Some(api::release_response::Outcome::Released(_)) => Ok((Answer::Released, None)),
                Some(api::release_response::Outcome::StaleToken(_)) => Ok((Answer::StaleToken, None)),
                None => Err(no_outcome(&answer)),
            }
        }
        Call::Extend { lease_ms, .. } => {
            let answer = client.extend(api::ExtendRequest { tenant, key, token, lease_ms }).await?;
            match answer.outcome {
                Some(api::extend_response::Outcome::Extended(_)) => Ok((Answer::Extended, None)),
                Some(api::extend_response::Outcome::StaleToken(_)) => Ok((Answer::StaleToken, None)),
                None => Err(no_outcome(&answer)),
            }
        }
        Call::Checkpoint { checkpoint, .. } => {
            let data = checkpoint.0.to_be_bytes().to_vec().into();
            let checkpoint = Some(api::CheckpointData { name: "step".to_owned(), data });
            let answer = client.checkpoint(api::CheckpointRequest { tenant, key, token, checkpoint }).await?;
            match answer.outcome {
                Some(api::checkpoint_response::Outcome::Checkpointed(_)) => Ok((Answer::Checkpointed, None)),
                Some(api::checkpoint_response::Outcome::StaleToken(_)) => Ok((Answer::StaleToken, None)),
                None => Err(no_outcome(&answer)),
            }
        }
        Call::Claim { nonce, lease_ms } => client
            .claim(api::ClaimRequest {
                tenant,
                key,
                worker: "recovery".to_owned(),
                nonce: nonce.0.to_be_bytes().to_vec().into(),
                lease_ms: Some(lease_ms),
            })
            .await
            .and_then(claimed),
    }
}

/// An answer that cannot be one here: the contract has a place for it, this node has not.
fn no_outcome(answer: &impl std::fmt::Debug) -> Failure {
    Failure::unreadable(&anyhow::anyhow!("{answer:?}"))
}

fn reserved(answer: api::ReserveResponse) -> Result<(Answer, Option<Grant>), Failure> {
    use api::reserve_response::Outcome;
    let plain = |answer| Ok((answer, None));
    match answer.outcome {
        Some(Outcome::Granted(grant)) => granted(grant),
        Some(Outcome::Replay(replay)) => plain(Answer::Replay(payload::digest(&replay.envelope.unwrap_or_default()))),
        Some(Outcome::Mismatch(_)) => plain(Answer::Mismatch),
        Some(Outcome::InProgress(_)) => plain(Answer::InProgress),
        Some(Outcome::OutcomeUnknown(_)) => plain(Answer::OutcomeUnknown),
        Some(Outcome::Limited(_)) => plain(Answer::Refused),
        Some(Outcome::InDoubt(_) | Outcome::Superseded(_) | Outcome::Expired(_)) | None => Err(no_outcome(&answer)),
    }
}

fn granted(grant: api::Granted) -> Result<(Answer, Option<Grant>), Failure> {
    let Some(fencing) = grant.fencing else { return Err(no_outcome(&grant)) };
    let token = Token { epoch: fencing.epoch, sequence: fencing.sequence };
    let checkpoint = grant.checkpoint.map(|checkpoint| {
        let number = <[u8; 8]>::try_from(checkpoint.data.as_ref()).map(u64::from_be_bytes);
        Checkpoint(number.unwrap_or_default())
    });
    let answer = Answer::Granted { token, repeated: grant.repeated, flagged: grant.possible_duplicate, checkpoint };
    Ok((answer, Some(Grant { token, text: grant.token })))
}

fn claimed(answer: api::ClaimResponse) -> Result<(Answer, Option<Grant>), Failure> {
    use api::claim_response::Outcome;
    match answer.outcome {
        Some(Outcome::Claimed(claimed)) => granted(claimed.grant.unwrap_or_default()),
        Some(Outcome::NotClaimable(_)) => Ok((Answer::NotClaimable, None)),
        Some(Outcome::Limited(_)) => Ok((Answer::Refused, None)),
        None => Err(no_outcome(&answer)),
    }
}

fn completed(answer: &api::CompleteResponse) -> Result<(Answer, Option<Grant>), Failure> {
    let Some(api::complete_response::Outcome::Completed(completed)) = &answer.outcome else {
        return Err(no_outcome(answer));
    };
    match completed.recorded() {
        api::Recorded::Answer => Ok((Answer::Completed(Recorded::Answer), None)),
        api::Recorded::Repeated => Ok((Answer::Completed(Recorded::Repeated), None)),
        api::Recorded::Late => Ok((Answer::Completed(Recorded::Late), None)),
        api::Recorded::Unspecified => Err(no_outcome(answer)),
    }
}
