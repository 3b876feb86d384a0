use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use holdfast_client::proto::v1;
use holdfast_client::proto::v1::session_answer::Answer;
use tokio::task::JoinSet;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::clock;
use crate::region::calls::{LookupCall, ReserveOutcome};
use crate::region::fixture::{Fixture, LEADER, completed, granted, in_ms, key, late, open, reserve};
use crate::wire::v1 as wire;
use crate::wire::v1::peer_server::{Peer, PeerServer};

/// What a fake leader does with the next call.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a few of them stand in a script")]
enum Next {
    Answer(Answer),
    NotLeader(u64),
    Operated(wire::operated::What),
    /// Ends the stream: the call has arrived.
    Break,
    /// Says nothing.
    Silence,
}

/// A node that is none, and leads: it follows a script and writes down what it was sent.
#[derive(Clone, Default)]
struct Fake {
    script: Arc<Mutex<VecDeque<Next>>>,
    calls: Arc<Mutex<Vec<wire::ForwardCall>>>,
    /// Begins no stream.
    refuses: bool,
}

type Answers<A> = Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>;

fn none<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not here"))
}

impl Fake {
    async fn next(&self, call: wire::ForwardCall) -> Result<ForwardAnswer, Status> {
        let id = call.call.as_ref().map_or(0, |call| call.id);
        self.calls.lock().unwrap().push(call);
        let next = self.script.lock().unwrap().pop_front().unwrap_or(Next::Silence);
        let (mut answer, mut not_leader, mut operated) = (None, None, None);
        match next {
            Next::Answer(told) => answer = Some(told),
            Next::NotLeader(leader_node_id) => not_leader = Some(wire::NotLeader { leader_node_id }),
            Next::Operated(what) => operated = Some(wire::Operated { what: Some(what) }),
            Next::Break => return Err(Status::aborted("broken")),
            Next::Silence => std::future::pending().await,
        }
        Ok(ForwardAnswer { answer: Some(v1::SessionAnswer { id, answer }), not_leader, operated, other_selection: 0 })
    }

    /// Listens on loopback, for as long as the tasks live.
    async fn listen(&self, tasks: &mut JoinSet<()>) -> SocketAddr {
        let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = incoming.local_addr().unwrap();
        let serving = tonic::transport::Server::builder().add_service(PeerServer::new(self.clone()));
        tasks.spawn(async move { serving.serve_with_incoming(incoming).await.unwrap() });
        address
    }

    fn asked(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

#[tonic::async_trait]
impl Peer for Fake {
    type AppendStream = Answers<wire::AppendReply>;
    type InstallSnapshotStream = Answers<wire::SnapshotProgress>;
    type ForwardStream = Answers<wire::ForwardReply>;

    async fn hello(&self, _: Request<wire::HelloRequest>) -> Result<Response<wire::HelloReply>, Status> {
        none()
    }

    async fn append(&self, _: Request<Streaming<wire::AppendRequest>>) -> Result<Response<Self::AppendStream>, Status> {
        none()
    }

    async fn vote(&self, _: Request<wire::VoteRequest>) -> Result<Response<wire::VoteReply>, Status> {
        none()
    }

    async fn transfer_leader(
        &self,
        _: Request<wire::TransferLeaderRequest>,
    ) -> Result<Response<wire::TransferLeaderReply>, Status> {
        none()
    }

    async fn install_snapshot(
        &self,
        _: Request<Streaming<wire::SnapshotPart>>,
    ) -> Result<Response<Self::InstallSnapshotStream>, Status> {
        none()
    }

    async fn forward(
        &self,
        request: Request<Streaming<wire::ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        if self.refuses {
            return Err(Status::failed_precondition("another node was meant"));
        }
        let fake = self.clone();
        let answers = request.into_inner().then(move |request| {
            let fake = fake.clone();
            async move {
                let mut answers = Vec::new();
                for call in request?.calls {
                    answers.push(fake.next(call).await?);
                }
                Ok(wire::ForwardReply { answers })
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn change_members(
        &self,
        _: Request<wire::ChangeMembersRequest>,
    ) -> Result<Response<wire::ChangeMembersReply>, Status> {
        none()
    }

    async fn join(&self, _: Request<wire::JoinRequest>) -> Result<Response<wire::JoinReply>, Status> {
        none()
    }
}

/// A node that follows a fake leader.
struct Bench {
    node: Fixture,
    router: Router,
    fake: Fake,
    _tasks: JoinSet<()>,
}

impl Bench {
    async fn new(script: impl IntoIterator<Item = Next>) -> Self {
        Self::with(Fake { script: Arc::new(Mutex::new(script.into_iter().collect())), ..Fake::default() }, true).await
    }

    async fn with(fake: Fake, listens: bool) -> Self {
        let node = Fixture::following(vec![open(), granted("done"), completed("done")]).await;
        let mut tasks = JoinSet::new();
        let address = if listens {
            fake.listen(&mut tasks).await
        } else {
            // Bound and closed again: nobody listens there.
            let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            taken.local_addr().unwrap()
        };
        let leader =
            wire::Node { node_id: LEADER, peer: address.to_string(), api: "10.0.0.2:7400".into(), disk: "d2".into() };
        node.peers.know(&leader);
        let router = Router::new(Arc::clone(&node.region), Arc::clone(&node.peers));
        Self { node, router, fake, _tasks: tasks }
    }
}

fn epoch() -> Option<v1::Epoch> {
    Some(v1::Epoch { home: "eu".into(), partition: 0, epoch: 1, position: 77, leader: LEADER })
}

fn in_progress() -> Next {
    let held = v1::reserve_response::Outcome::InProgress(v1::InProgress { retry_after_ms: 40 });
    Next::Answer(Answer::Reserve(v1::ReserveResponse { outcome: Some(held), epoch: epoch() }))
}

fn certainty(failed: &Failed) -> Option<Certainty> {
    match &failed.failure {
        Failure::Unavailable { certainty, .. } | Failure::Elsewhere { certainty, .. } => Some(*certainty),
        Failure::Invalid(_)
        | Failure::Overloaded { .. }
        | Failure::DiskLow { .. }
        | Failure::OtherSelection { .. }
        | Failure::NotLeader { .. } => None,
    }
}

#[tokio::test]
async fn a_call_is_passed_on_whole_and_its_answer_read() {
    let bench = Bench::new([in_progress()]).await;
    let call = reserve("a");
    let placed = bench.router.call(&call, in_ms(5_000)).await.unwrap();
    assert_eq!(placed.outcome, ReserveOutcome::InProgress { retry_after: Duration::from_millis(40) });
    assert_eq!((placed.place.position, placed.place.leader), (77, Some(LEADER)));
    let calls = bench.fake.calls.lock().unwrap();
    let [passed] = calls.as_slice() else { panic!("{calls:?}") };
    assert_eq!((passed.fingerprint_version, passed.fingerprint_selection), (1, 1));
    let message = passed.call.as_ref().unwrap();
    assert!((1..=5_000).contains(&message.timeout_ms), "what is left of the caller's patience: {}", message.timeout_ms);
    let Some(v1::session_call::Call::Reserve(request)) = &message.call else { panic!("{message:?}") };
    assert_eq!((request.tenant.as_str(), request.key.as_str(), request.lease_ms), ("acme", "a", Some(60_000)));
    assert_eq!(request.nonce.as_ref(), b"n1");
}

#[tokio::test]
async fn what_is_completed_here_is_not_passed_on() {
    let bench = Bench::new([in_progress()]).await;
    let placed = bench.router.call(&reserve("done"), late()).await.unwrap();
    assert!(matches!(placed.outcome, ReserveOutcome::Replay(_)));
    assert_eq!(bench.fake.asked(), 0);
    let ahead = crate::region::calls::ReserveCall { seen: Some(9), ..reserve("done") };
    bench.router.call(&ahead, late()).await.unwrap();
    assert_eq!(bench.fake.asked(), 1, "its caller has seen more than is applied here");
}

#[tokio::test]
async fn a_stream_that_breaks_after_a_call_was_sent_leaves_it_open() {
    let bench = Bench::new([Next::Break, in_progress()]).await;
    let failed = bench.router.call(&reserve("a"), late()).await.unwrap_err();
    assert_eq!(certainty(&failed), Some(Certainty::Indefinite), "{failed:?}");
    assert_eq!(failed.leader.map(|leader| leader.api), Some("10.0.0.2:7400".to_owned()));
    assert_eq!(bench.fake.asked(), 1, "it is not sent a second time");
    assert!(bench.router.call(&reserve("a"), late()).await.is_ok(), "on a new stream");
}

#[tokio::test]
async fn a_read_that_was_lost_is_asked_again() {
    let absent = Answer::Lookup(v1::LookupResponse { record: None, epoch: epoch() });
    let bench = Bench::new([Next::Break, Next::Answer(absent)]).await;
    let placed = bench.router.call(&LookupCall(key("a")), late()).await.unwrap();
    assert_eq!(placed.outcome, None);
    assert_eq!(bench.fake.asked(), 2);
}

#[tokio::test]
async fn a_call_that_was_not_sent_is_definitely_not_done() {
    for (fake, listens) in [(Fake::default(), false), (Fake { refuses: true, ..Fake::default() }, true)] {
        let bench = Bench::with(fake, listens).await;
        let failed = bench.router.call(&reserve("a"), in_ms(300)).await.unwrap_err();
        assert_eq!(certainty(&failed), Some(Certainty::Definite), "listens: {listens}: {failed:?}");
        assert_eq!(failed.leader.map(|leader| leader.node_id), Some(LEADER));
        assert_eq!(bench.fake.asked(), 0);
    }
}

#[tokio::test]
async fn a_leader_that_does_not_answer_in_time_leaves_the_call_open() {
    let bench = Bench::new([Next::Silence]).await;
    // Connected already, so that the time is over after the call was sent.
    let begun = clock::monotonic();
    let failed = bench.router.call(&reserve("a"), in_ms(500)).await.unwrap_err();
    assert_eq!(certainty(&failed), Some(Certainty::Indefinite), "{failed:?}");
    assert!(clock::monotonic().since(begun) < Duration::from_secs(10));
}

#[tokio::test]
async fn who_leads_no_more_is_asked_again_only_a_few_times_and_nothing_was_done() {
    let bench = Bench::new(std::iter::repeat_n(Next::NotLeader(0), 100)).await;
    let failed = bench.router.call(&reserve("a"), in_ms(400)).await.unwrap_err();
    assert_eq!(certainty(&failed), Some(Certainty::Definite), "{failed:?}");
    let asked = bench.fake.asked();
    assert!((2..=8).contains(&asked), "asked {asked} times");
    let bench = Bench::new([Next::NotLeader(0), Next::NotLeader(LEADER), in_progress()]).await;
    assert!(bench.router.call(&reserve("a"), late()).await.is_ok(), "it leads again");
}

#[tokio::test]
async fn nodes_that_name_each_other_end_no_call_in_a_loop() {
    let bench = Bench::new([Next::NotLeader(1), Next::NotLeader(3), Next::NotLeader(1), in_progress()]).await;
    assert!(bench.router.call(&reserve("a"), late()).await.is_ok());
    assert_eq!(bench.fake.asked(), 4);
}

#[tokio::test]
async fn a_call_that_was_passed_on_is_not_passed_on_again() {
    let bench = Bench::new([in_progress()]).await;
    let failed = here(&bench.node.region, &reserve("a"), late()).await.unwrap_err();
    assert_eq!(failed.failure, Failure::NotLeader { leader: Some(LEADER) });
    assert_eq!(bench.fake.asked(), 0);
}

#[tokio::test]
async fn a_failure_comes_back_word_for_word_and_as_certain_as_it_was() {
    let failure = |code: &str, definite, retry_after_ms| {
        let message = "as the leader says".to_owned();
        let code = code.to_owned();
        Next::Answer(Answer::Failure(v1::Failure { code, message, definite, retry_after_ms, grpc_code: 14, leader: 3 }))
    };
    let bench = Bench::new([
        failure("token-invalid", true, 0),
        failure("outcome-indefinite", false, 100),
        failure("overloaded", true, 30),
    ])
    .await;
    let told = |code: &str, certainty, retry_after: Option<u64>| Failure::Elsewhere {
        code: code.to_owned(),
        message: "as the leader says".to_owned(),
        certainty,
        retry_after: retry_after.map(Duration::from_millis),
    };
    let call = reserve("a");
    let ask = || bench.router.call(&call, late());
    let failed = ask().await.unwrap_err();
    assert_eq!(failed.failure, told("token-invalid", Certainty::Definite, None));
    assert_eq!(failed.leader.map(|leader| leader.node_id), Some(3));
    assert_eq!(ask().await.unwrap_err().failure, told("outcome-indefinite", Certainty::Indefinite, Some(100)));
    assert_eq!(ask().await.unwrap_err().failure, told("overloaded", Certainty::Definite, Some(30)));
}

#[tokio::test]
async fn an_answer_to_another_call_is_no_answer() {
    let bench = Bench::new([Next::Answer(Answer::Lookup(v1::LookupResponse { record: None, epoch: epoch() }))]).await;
    let failed = bench.router.call(&reserve("a"), late()).await.unwrap_err();
    assert_eq!(certainty(&failed), Some(Certainty::Indefinite), "{failed:?}");
}

#[tokio::test]
async fn calls_that_wait_together_go_together_and_each_gets_its_own_answer() {
    let count = 200;
    let bench = Bench::new(std::iter::repeat_n(in_progress(), count)).await;
    let calls: Vec<_> = (0..count).map(|at| reserve(&format!("k{at}"))).collect();
    let until = late();
    let answers = futures_util::future::join_all(calls.iter().map(|call| bench.router.call(call, until))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(bench.fake.asked(), count);
}

#[tokio::test]
async fn what_an_operator_asks_goes_to_the_leader_too() {
    let log_time = wire::operated::What::LogTimeUnixMs(1_234);
    let bench = Bench::new([
        Next::Operated(wire::operated::What::KeyId(4)),
        Next::Break,
        // What can be done twice is asked again.
        Next::Break,
        Next::Operated(log_time),
    ])
    .await;
    assert_eq!(bench.router.rotate_cluster_key(crate::control::Signature::default()).await.unwrap(), 4);
    let failed = bench.router.rotate_cluster_key(crate::control::Signature::default()).await.unwrap_err();
    assert_eq!(certainty(&failed), Some(Certainty::Indefinite), "{failed:?}");
    assert_eq!(
        bench.router.accept_clock(&crate::control::Signature::default()).await.unwrap(),
        vec![crate::time::LogTime::from_unix_ms(1_234)]
    );
}
