//! A region that is not one: nodes in threads of their own over one set of keys in memory, each with a fault of its own.
//! It keeps a log of what reached it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use holdfast_client::proto::v1;
use holdfast_client::proto::v1::reservations_server::{Reservations, ReservationsServer};
use holdfast_client::proto::v1::session_answer::Answer;
use holdfast_client::proto::v1::session_call::Call;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

/// When records go: Sun, 06 Nov 1994 08:49:37 GMT.
const EXPIRES_UNIX_MS: u64 = 784_111_777_000;
/// Calls in flight that a node takes on one session.
pub(crate) const MOST_IN_FLIGHT: u32 = 8;

/// What a node does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// It does what it is asked after this time.
    Slow(Duration),
    /// It does what it is asked, and the answer never arrives.
    LosesAnswers,
    /// It does what it is asked, and the connection breaks.
    BreaksOff,
    /// It does nothing, and names the leader.
    NotLeader(u64),
    /// It does nothing: the input is wrong.
    Refuses,
    /// It does nothing: the tenant may have no keys.
    KnowsNoTenant,
    /// It does nothing: too much waits.
    Overloaded,
    /// It takes no sessions, since it shuts down.
    Closes,
    /// It does nothing: no partition serves.
    Unavailable,
    /// It does nothing when it is told an outcome.
    HearsNoOutcome,
    /// It takes no envelope with a body.
    TakesNoBodies,
}

/// Something that reached a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Arrived {
    pub(crate) node: u64,
    pub(crate) call: Call,
}

/// What the nodes share.
#[derive(Debug, Default)]
struct World {
    faults: BTreeMap<u64, Fault>,
    keys: BTreeMap<String, Key>,
    arrived: Vec<Arrived>,
    /// Calls in flight on sessions now, and the most there were.
    in_flight: u32,
    most_in_flight: u32,
    topology: v1::TopologyResponse,
    position: u64,
    start_within_ms: u32,
    lease_ms: u32,
    /// What is answered to whoever asks for a key, whatever is known of it.
    said: BTreeMap<String, v1::reserve_response::Outcome>,
}

#[derive(Debug, Default)]
struct Key {
    nonce: Vec<u8>,
    sequence: u64,
    held: bool,
    envelope: Option<v1::Envelope>,
    /// What the request is compared by; nothing: every request is the same.
    fingerprint: Option<v1::Fingerprint>,
}

/// A region.
#[derive(Clone, Debug)]
pub(crate) struct Region(Arc<Mutex<World>>);

/// One node of it. Dropped, it is gone, and its connections with it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Clone, Debug)]
struct Server {
    region: Region,
    node: u64,
}

impl Region {
    /// Starts nodes numbered from 1. The first leads.
    pub(crate) fn start(count: u64) -> anyhow::Result<(Self, Vec<Node>)> {
        let region = Self(Arc::default());
        let mut nodes = Vec::new();
        for node in 1..=count {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let incoming = {
                let _inside = runtime.enter();
                TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.with_nodelay(Some(true))
            };
            let address = incoming.local_addr()?;
            let server = Server { region: region.clone(), node };
            let serving = tonic::transport::Server::builder().add_service(ReservationsServer::new(server));
            drop(runtime.spawn(serving.serve_with_incoming(incoming)));
            nodes.push(Node { address, runtime: Some(runtime) });
        }
        let mut world = region.world();
        (world.start_within_ms, world.lease_ms) = (10_000, 30_000);
        world.topology = v1::TopologyResponse {
            partitions: 1,
            nodes: (1..)
                .zip(&nodes)
                .map(|(node_id, node)| v1::TopologyNode { node_id, address: node.address.to_string() })
                .collect(),
            leaders: vec![1],
        };
        drop(world);
        Ok((region, nodes))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fault(&self, node: u64, fault: Fault) {
        self.world().faults.insert(node, fault);
    }

    pub(crate) fn leader(&self, node: u64) {
        self.world().topology.leaders = vec![node];
    }

    pub(crate) fn position(&self, position: u64) {
        self.world().position = position;
    }

    pub(crate) fn start_within(&self, ms: u32) {
        self.world().start_within_ms = ms;
    }

    pub(crate) fn lease(&self, ms: u32) {
        self.world().lease_ms = ms;
    }

    /// Answers this to whoever asks for the key.
    pub(crate) fn say(&self, key: &str, outcome: v1::reserve_response::Outcome) {
        self.world().said.insert(key.to_owned(), outcome);
    }

    /// The first envelope that the key got, as a retry would have it.
    pub(crate) fn stored(&self, key: &str) -> Option<v1::Envelope> {
        self.world().keys.get(key)?.envelope.clone()
    }

    /// Completes a key as another attempt would.
    pub(crate) fn complete(&self, key: &str, envelope: v1::Envelope) {
        let mut world = self.world();
        let key = world.keys.entry(key.to_owned()).or_default();
        (key.held, key.envelope) = (false, Some(envelope));
    }

    /// Whether an attempt holds the key.
    pub(crate) fn holds(&self, key: &str) -> bool {
        self.world().keys.get(key).is_some_and(|key| key.held)
    }

    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        self.world().arrived.clone()
    }

    /// Which nodes were asked to reserve, in order, and with which nonce.
    pub(crate) fn reserves(&self) -> Vec<(u64, Vec<u8>)> {
        let reserve = |arrived: Arrived| match arrived.call {
            Call::Reserve(reserve) => Some((arrived.node, reserve.nonce.to_vec())),
            _ => None,
        };
        self.arrived().into_iter().filter_map(reserve).collect()
    }

    /// How many releases arrived.
    pub(crate) fn releases(&self) -> usize {
        self.arrived().iter().filter(|arrived| matches!(arrived.call, Call::Release(_))).count()
    }

    pub(crate) fn most_in_flight(&self) -> u32 {
        self.world().most_in_flight
    }

    /// A key whose attempt ran out, and nobody knows what came of it.
    pub(crate) fn lapse(&self, key: &str) {
        let lapsed = Key { nonce: b"another".to_vec(), sequence: 1, ..Key::default() };
        self.world().keys.insert(key.to_owned(), lapsed);
    }

    /// The body of a key's answer.
    pub(crate) fn envelope(&self, key: &str) -> Option<Bytes> {
        Some(self.world().keys.get(key)?.envelope.as_ref()?.body.clone())
    }

    /// A key that an attempt before holds.
    pub(crate) fn hold(&self, key: &str) {
        let held = Key { nonce: b"another".to_vec(), sequence: 1, held: true, ..Key::default() };
        self.world().keys.insert(key.to_owned(), held);
    }
}

impl World {
    fn epoch(&self) -> Option<v1::Epoch> {
        let leader = self.topology.leaders.first().copied().unwrap_or_default();
        Some(v1::Epoch { home: "eu".to_owned(), partition: 0, epoch: 3, position: self.position, leader })
    }

    /// Does what a call asks.
    fn apply(&mut self, call: Call) -> Answer {
        let epoch = self.epoch();
        match call {
            Call::Reserve(request) => {
                Answer::Reserve(v1::ReserveResponse { outcome: Some(self.reserve(&request)), epoch })
            }
            Call::Complete(request) => {
                let mut recorded = v1::Recorded::Answer;
                if let Some(key) = self.keys.get_mut(&request.key) {
                    key.held = false;
                    match &key.envelope {
                        None => key.envelope = request.envelope,
                        Some(first) if Some(first) == request.envelope.as_ref() => recorded = v1::Recorded::Repeated,
                        Some(_) => recorded = v1::Recorded::Late,
                    }
                }
                let completed = v1::Completed { recorded: recorded.into(), expires_at_unix_ms: EXPIRES_UNIX_MS };
                let outcome = Some(v1::complete_response::Outcome::Completed(completed));
                Answer::Complete(v1::CompleteResponse { outcome, epoch })
            }
            Call::Release(request) => {
                if let Some(key) = self.keys.get_mut(&request.key) {
                    key.held = false;
                }
                let outcome = Some(v1::release_response::Outcome::Released(v1::Released {}));
                Answer::Release(v1::ReleaseResponse { outcome, epoch })
            }
            Call::Extend(request) => {
                let extended = v1::Extended { lease_ms: request.lease_ms };
                let outcome = Some(v1::extend_response::Outcome::Extended(extended));
                Answer::Extend(v1::ExtendResponse { outcome, epoch })
            }
            Call::Checkpoint(_) => {
                let stale = v1::StaleToken { state: v1::KeyState::Released.into() };
                let outcome = Some(v1::checkpoint_response::Outcome::StaleToken(stale));
                Answer::Checkpoint(v1::CheckpointResponse { outcome, epoch })
            }
            Call::Lookup(_) => Answer::Lookup(v1::LookupResponse { record: None, epoch }),
            Call::Claim(request) if self.keys.get(&request.key).is_some_and(|key| key.envelope.is_some()) => {
                let not = v1::NotClaimable { state: v1::KeyState::Completed.into() };
                let outcome = Some(v1::claim_response::Outcome::NotClaimable(not));
                Answer::Claim(v1::ClaimResponse { outcome, epoch })
            }
            Call::Claim(request) => {
                let grant = Some(self.grant(1, 2, false));
                let fingerprint = request.worker.into_bytes().into();
                let claimed = v1::Claimed { grant, endpoint: "e".to_owned(), fingerprint_version: 0, fingerprint };
                let outcome = Some(v1::claim_response::Outcome::Claimed(claimed));
                Answer::Claim(v1::ClaimResponse { outcome, epoch })
            }
            Call::Resolve(_) => Answer::Resolve(v1::ResolveResponse { outcome: None, epoch }),
        }
    }

    fn grant(&self, sequence: u64, attempt: u32, repeated: bool) -> v1::Granted {
        v1::Granted {
            token: format!("3.{sequence}.x"),
            fencing: Some(v1::FencingToken { epoch: 3, sequence }),
            start_within_ms: self.start_within_ms,
            lease_ms: self.lease_ms,
            attempt,
            checkpoint: None,
            possible_duplicate: false,
            repeated,
        }
    }

    fn reserve(&mut self, request: &v1::ReserveRequest) -> v1::reserve_response::Outcome {
        use v1::reserve_response::Outcome;
        if let Some(said) = self.said.get(&request.key) {
            return said.clone();
        }
        let before = self.keys.get(&request.key);
        let compared = before.and_then(|key| key.fingerprint.as_ref());
        if compared.is_some_and(|compared| Some(compared) != request.fingerprint.as_ref()) {
            return Outcome::Mismatch(v1::Mismatch {});
        }
        if let Some(envelope) = before.and_then(|key| key.envelope.clone()) {
            let expires_at_unix_ms = EXPIRES_UNIX_MS;
            return Outcome::Replay(v1::Replay {
                envelope: Some(envelope),
                expires_at_unix_ms,
                ..v1::Replay::default()
            });
        }
        if let Some(held) = before.filter(|key| key.held) {
            return match held.nonce == request.nonce {
                true => Outcome::Granted(self.grant(held.sequence, 1, true)),
                false => Outcome::InProgress(v1::InProgress { retry_after_ms: 40 }),
            };
        }
        let sequence = before.map_or(1, |key| key.sequence + 1);
        let fingerprint = request.fingerprint.clone();
        let key = Key { nonce: request.nonce.to_vec(), sequence, held: true, envelope: None, fingerprint };
        self.keys.insert(request.key.clone(), key);
        Outcome::Granted(self.grant(sequence, 1, false))
    }
}

/// Why there is no answer.
enum Silence {
    /// None ever comes.
    Lost,
    /// The connection breaks.
    Broken,
    Failure(v1::Failure),
}

impl Server {
    async fn answer(&self, call: Call) -> Result<Answer, Silence> {
        let fault = {
            let mut world = self.region.world();
            world.arrived.push(Arrived { node: self.node, call: call.clone() });
            world.faults.get(&self.node).copied().unwrap_or(Fault::None)
        };
        let failure = |code, retry_after_ms, leader| Err(Silence::Failure(failure(code, retry_after_ms, leader)));
        match fault {
            Fault::NotLeader(leader) => return failure("store-unavailable", 100, leader),
            Fault::Refuses => return failure("key-invalid", 0, 0),
            Fault::KnowsNoTenant => return failure("tenant-unknown", 0, 0),
            Fault::Overloaded => return failure("overloaded", 10, 0),
            Fault::Unavailable => return failure("store-unavailable", 100, 0),
            Fault::HearsNoOutcome if matches!(call, Call::Complete(_)) => return failure("store-unavailable", 10, 0),
            Fault::TakesNoBodies if has_body(&call) => return failure("envelope-too-large", 0, 0),
            Fault::Slow(time) => tokio::time::sleep(time).await,
            Fault::None
            | Fault::LosesAnswers
            | Fault::BreaksOff
            | Fault::Closes
            | Fault::HearsNoOutcome
            | Fault::TakesNoBodies => {}
        }
        self.wait(&call).await;
        let answer = self.region.world().apply(call);
        match fault {
            Fault::LosesAnswers => Err(Silence::Lost),
            Fault::BreaksOff => Err(Silence::Broken),
            _ => Ok(answer),
        }
    }

    /// Waits while another attempt holds the key that is asked for, for as long as the caller would.
    async fn wait(&self, call: &Call) {
        let Call::Reserve(reserve) = call else { return };
        let is_held = || {
            let world = self.region.world();
            world.keys.get(&reserve.key).is_some_and(|key| key.held && key.nonce != reserve.nonce)
        };
        let wait = Duration::from_millis(reserve.wait_ms.unwrap_or_default().into());
        let until_it_changes = async {
            while is_held() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let _either = tokio::time::timeout(wait, until_it_changes).await;
    }

    async fn unary<T>(&self, call: Call, take: impl FnOnce(Answer) -> Option<T>) -> Result<Response<T>, Status> {
        match self.answer(call).await {
            Ok(answer) => take(answer).map(Response::new).ok_or_else(|| Status::internal("another answer")),
            Err(Silence::Lost) => std::future::pending().await,
            Err(Silence::Broken) => Err(Status::unavailable("connection reset")),
            Err(Silence::Failure(failure)) => Err(status(&failure)),
        }
    }

    /// The answers of a session's calls, each when it is done.
    async fn on_session(self, call: v1::SessionCall) -> Result<v1::SessionResponse, Status> {
        {
            let mut world = self.region.world();
            world.in_flight += 1;
            world.most_in_flight = world.most_in_flight.max(world.in_flight);
        }
        let answered = match call.call {
            Some(asked) => self.answer(asked).await,
            None => Err(Silence::Broken),
        };
        let answer = match answered {
            Ok(answer) => answer,
            Err(Silence::Lost) => std::future::pending().await,
            Err(Silence::Broken) => return Err(Status::unavailable("session reset")),
            Err(Silence::Failure(failure)) => Answer::Failure(failure),
        };
        self.region.world().in_flight -= 1;
        let answer = v1::SessionAnswer { id: call.id, answer: Some(answer) };
        Ok(v1::SessionResponse { answers: vec![answer], max_in_flight: 0 })
    }
}

fn has_body(call: &Call) -> bool {
    matches!(call, Call::Complete(complete) if complete.envelope.as_ref().is_some_and(|envelope| !envelope.body.is_empty()))
}

fn failure(code: &str, retry_after_ms: u32, leader: u64) -> v1::Failure {
    let (code, message) = (code.to_owned(), "as the test wants it".to_owned());
    v1::Failure { code, message, definite: true, retry_after_ms, grpc_code: 14, leader }
}

/// A failure as a call of its own has it.
fn status(failure: &v1::Failure) -> Status {
    let metadata =
        [("definite".to_owned(), failure.definite.to_string()), ("leader".to_owned(), failure.leader.to_string())];
    let mut details = ErrorDetails::with_error_info(failure.code.clone(), "holdfast", metadata);
    if failure.retry_after_ms > 0 {
        details.set_retry_info(Some(Duration::from_millis(failure.retry_after_ms.into())));
    }
    Status::with_error_details(Code::Unavailable, failure.message.clone(), details)
}

/// Writes the methods that differ in their types only.
macro_rules! calls {
    ($($name:ident $variant:ident $request:ident $response:ident;)*) => {
        #[tonic::async_trait]
        impl Reservations for Server {
            $(async fn $name(&self, request: Request<v1::$request>) -> Result<Response<v1::$response>, Status> {
                self.unary(Call::$variant(request.into_inner()), |answer| match answer {
                    Answer::$variant(answer) => Some(answer),
                    _ => None,
                }).await
            })*

            async fn epochs(&self, _: Request<v1::EpochsRequest>) -> Result<Response<v1::EpochsResponse>, Status> {
                Err(Status::unimplemented("no test asks"))
            }

            type SessionStream = std::pin::Pin<Box<dyn Stream<Item = Result<v1::SessionResponse, Status>> + Send>>;

            async fn session(
                &self,
                requests: Request<Streaming<v1::SessionRequest>>,
            ) -> Result<Response<Self::SessionStream>, Status> {
                if self.region.world().faults.get(&self.node) == Some(&Fault::Closes) {
                    return Err(status(&failure("store-unavailable", 60_000, 0)));
                }
                let server = self.clone();
                let hello = v1::SessionResponse { answers: Vec::new(), max_in_flight: MOST_IN_FLIGHT };
                let answered = requests
                    .into_inner()
                    .flat_map(|request| stream::iter(request.map(|request| request.calls).unwrap_or_default()))
                    .map(move |call| server.clone().on_session(call))
                    .buffer_unordered(1_000);
                Ok(Response::new(Box::pin(stream::once(async { Ok(hello) }).chain(answered))))
            }

            async fn topology(
                &self,
                _: Request<v1::TopologyRequest>,
            ) -> Result<Response<v1::TopologyResponse>, Status> {
                Ok(Response::new(self.region.world().topology.clone()))
            }
        }
    };
}

calls! {
    reserve Reserve ReserveRequest ReserveResponse;
    complete Complete CompleteRequest CompleteResponse;
    release Release ReleaseRequest ReleaseResponse;
    extend Extend ExtendRequest ExtendResponse;
    checkpoint Checkpoint CheckpointRequest CheckpointResponse;
    lookup Lookup LookupRequest LookupResponse;
    claim Claim ClaimRequest ClaimResponse;
    resolve Resolve ResolveRequest ResolveResponse;
}
