//! Sessions over the real process: what is answered, what is refused alone, what is bounded, and how they end.

use std::collections::VecDeque;
use std::net::SocketAddr;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use futures_util::stream;
use holdfast_client::proto::v1 as api;
use holdfast_client::proto::v1::reservations_client::ReservationsClient;
use holdfast_client::proto::v1::session_answer::Answer;
use holdfast_client::proto::v1::session_call::Call;
use prost::Message;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::client::Client;
use crate::harness::{self, Place, STOP_DEADLINE};
use crate::history::Request;
use crate::payload;
use crate::talk::{Ask, complete, release};

/// Messages that a test may have on the way.
const AHEAD: usize = 4_096;

/// A `SessionRequest` whose calls are bytes, so that one can be as wrong as it wants.
#[derive(Clone, PartialEq, Eq, Message)]
struct Raw {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    calls: Vec<Bytes>,
}

/// A session by hand.
struct Talk {
    requests: mpsc::Sender<Raw>,
    answers: Streaming<api::SessionResponse>,
    ready: VecDeque<api::SessionAnswer>,
    most_in_flight: usize,
}

impl Talk {
    async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        Self::over(Endpoint::from_shared(format!("http://{address}"))?.connect().await?).await
    }

    async fn over(channel: Channel) -> anyhow::Result<Self> {
        let (requests, queue) = mpsc::channel(AHEAD);
        let queue = stream::unfold(queue, |mut queue| async move { queue.recv().await.map(|one| (one, queue)) });
        let codec = tonic_prost::ProstCodec::<Raw, api::SessionResponse>::default();
        let path = http::uri::PathAndQuery::from_static("/holdfast.v1.Reservations/Session");
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(8 * 1024 * 1024);
        grpc.ready().await?;
        let mut answers = grpc.streaming(tonic::Request::new(queue), path, codec).await?.into_inner();
        let hello = answers.message().await?.context("the session ended before it began")?;
        ensure!(hello.answers.is_empty() && hello.max_in_flight > 0, "{hello:?}");
        let most_in_flight = usize::try_from(hello.max_in_flight)?;
        Ok(Self { requests, answers, ready: VecDeque::new(), most_in_flight })
    }

    async fn send(&self, calls: impl IntoIterator<Item = api::SessionCall>) -> anyhow::Result<()> {
        let calls = calls.into_iter().map(|call| call.encode_to_vec().into()).collect();
        Ok(self.requests.send(Raw { calls }).await?)
    }

    /// The next answer; nothing when the session has ended well.
    async fn next(&mut self) -> anyhow::Result<Option<api::SessionAnswer>> {
        while self.ready.is_empty() {
            let message = tokio::time::timeout(STOP_DEADLINE, self.answers.message()).await.context("no answer")?;
            match message? {
                Some(message) => self.ready.extend(message.answers),
                None => return Ok(None),
            }
        }
        Ok(self.ready.pop_front())
    }

    async fn answer(&mut self) -> anyhow::Result<(u64, Answer)> {
        let answer = self.next().await?.context("the session ended")?;
        Ok((answer.id, answer.answer.context("an answer says nothing")?))
    }
}

fn call(id: u64, call: Call) -> api::SessionCall {
    api::SessionCall { id, timeout_ms: 0, call: Some(call) }
}

fn reserve(id: u64, key: &str, wait_ms: u32) -> api::SessionCall {
    let request = api::ReserveRequest {
        tenant: "acme".to_owned(),
        key: key.to_owned(),
        endpoint: payload::ENDPOINT.to_owned(),
        fingerprint: Some(payload::fingerprint(Request(0))),
        nonce: format!("session-{id}").into(),
        lease_ms: Some(60_000),
        wait_ms: (wait_ms > 0).then_some(wait_ms),
        ..api::ReserveRequest::default()
    };
    call(id, Call::Reserve(request))
}

fn lookup(id: u64, key: &str) -> api::SessionCall {
    call(id, Call::Lookup(api::LookupRequest { tenant: "acme".to_owned(), key: key.to_owned() }))
}

fn failure(answer: &Answer) -> anyhow::Result<&api::Failure> {
    match answer {
        Answer::Failure(failure) => Ok(failure),
        other => bail!("a failure was expected: {other:?}"),
    }
}

fn granted(answer: Answer) -> anyhow::Result<api::Granted> {
    match answer {
        Answer::Reserve(api::ReserveResponse {
            outcome: Some(api::reserve_response::Outcome::Granted(grant)), ..
        }) => Ok(grant),
        other => bail!("a grant was expected: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_are_answered_each_by_its_id() -> anyhow::Result<()> {
    const CALLS: u64 = 700;
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let mut talk = Talk::open(node.address()).await?;
    // In messages of many, of one, and of none.
    talk.send((0..CALLS / 2).map(|id| reserve(id, &format!("k{id}"), 0))).await?;
    talk.send([]).await?;
    for id in CALLS / 2..CALLS {
        talk.send([reserve(id, &format!("k{id}"), 0)]).await?;
    }
    let mut tokens = std::collections::BTreeMap::new();
    while tokens.len() < usize::try_from(CALLS)? {
        let (id, answer) = talk.answer().await?;
        ensure!(tokens.insert(id, granted(answer)?.token).is_none(), "{id} was answered twice");
    }
    for (id, token) in &tokens {
        let envelope = Some(payload::envelope(*id, 2_000));
        let (tenant, key, token) = ("acme".to_owned(), format!("k{id}"), token.clone());
        let request = api::CompleteRequest { tenant, key, token, envelope, retention_ms: None };
        talk.send([call(*id, Call::Complete(request))]).await?;
    }
    for _ in 0..CALLS {
        let (id, answer) = talk.answer().await?;
        let Answer::Complete(completed) = answer else { bail!("{id}: {answer:?}") };
        ensure!(completed.outcome.is_some() && completed.epoch.is_some());
    }
    talk.send((0..CALLS).map(|id| reserve(id + CALLS, &format!("k{id}"), 0))).await?;
    for _ in 0..CALLS {
        let (id, answer) = talk.answer().await?;
        let Answer::Reserve(api::ReserveResponse { outcome: Some(outcome), .. }) = answer else { bail!("{answer:?}") };
        let api::reserve_response::Outcome::Replay(replay) = outcome else { bail!("{id}: {outcome:?}") };
        ensure!(replay.envelope == Some(payload::envelope(id - CALLS, 2_000)), "{id}: other bytes");
    }
    // The client says that nothing more comes, and hears the same.
    let Talk { requests, mut answers, .. } = talk;
    drop(requests);
    ensure!(answers.message().await?.is_none());
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_one_call_is_its_own_failure() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let client = Client::grpc(node.address())?;
    let held = Ask::new("held", 1).granted(&client).await?;
    let mut talk = Talk::open(node.address()).await?;

    // One call with a tenant that is no text, among others.
    let garbage = Bytes::from_static(b"\x08\x2a\x7a\x04\x0a\x02\xff\xfe");
    let good = Bytes::from(lookup(1, "k").encode_to_vec());
    talk.requests.send(Raw { calls: vec![garbage, good] }).await?;
    let (id, answer) = talk.answer().await?;
    let refused = failure(&answer)?;
    ensure!(id == 42 && refused.code == "body-invalid" && refused.definite && refused.grpc_code == 3, "{refused:?}");
    let (id, answer) = talk.answer().await?;
    ensure!(id == 1 && matches!(answer, Answer::Lookup(_)), "{answer:?}");

    // A kind of call that this version does not know.
    talk.send([api::SessionCall { id: 2, timeout_ms: 0, call: None }]).await?;
    let (id, answer) = talk.answer().await?;
    ensure!(id == 2 && failure(&answer)?.code == "input-invalid" && failure(&answer)?.definite);

    // Input that is wrong has the code that a call of its own gets.
    talk.send([reserve(3, "", 0)]).await?;
    let (id, answer) = talk.answer().await?;
    ensure!(id == 3 && failure(&answer)?.code == "key-invalid" && failure(&answer)?.retry_after_ms == 0);

    // An id that is in flight: the later call is refused, the earlier one goes on.
    talk.send([reserve(4, "held", 30_000)]).await?;
    talk.send([lookup(4, "k")]).await?;
    let (id, answer) = talk.answer().await?;
    let refused = failure(&answer)?;
    ensure!(id == 4 && refused.code == "body-invalid" && refused.message.contains("id 4"), "{refused:?}");
    release(&client, "held", &held.token)
        .await
        .map_err(|failure| anyhow::anyhow!("{failure:?}"))?
        .ok()
        .context("stale")?;
    let (id, answer) = talk.answer().await?;
    ensure!(id == 4 && granted(answer)?.attempt == 2);

    // A call that allows less time than it takes has no outcome that anybody knows.
    talk.send([api::SessionCall { timeout_ms: 50, ..reserve(5, "held", 30_000) }]).await?;
    let (id, answer) = talk.answer().await?;
    let late = failure(&answer)?;
    ensure!(id == 5 && late.code == "outcome-indefinite" && !late.definite && late.retry_after_ms > 0, "{late:?}");
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_beyond_the_limit_waits_unread() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let client = Client::grpc(node.address())?;
    let held = Ask::new("held", 1).granted(&client).await?;
    let mut talk = Talk::open(node.address()).await?;
    let waiters = u64::try_from(talk.most_in_flight)?;
    talk.send((0..waiters).map(|id| reserve(id, "held", 50_000))).await?;
    talk.send([lookup(waiters, "k")]).await?;
    // Other sessions, and other calls, are served meanwhile; that lookup would be answered at once were it read.
    let mut other = Talk::open(node.address()).await?;
    for id in 0..20 {
        other.send([lookup(id, "k")]).await?;
        ensure!(other.answer().await?.0 == id);
    }
    let done = complete(&client, "held", &held, &payload::envelope(1, 10)).await;
    done.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
    let mut order = Vec::new();
    while order.len() <= talk.most_in_flight {
        order.push(talk.answer().await?.0);
    }
    let read = order.iter().position(|id| *id == waiters).context("it was not answered")?;
    ensure!(read > 0, "the call beyond the limit was read before any other was answered");
    node.stop().await
}

/// Answers that nobody takes stop their session, and no other; they are there when they are taken after all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_stops_itself_alone() -> anyhow::Result<()> {
    const BODY_BYTES: usize = 200_000;
    const REPLAYS: u64 = 400;
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let client = Client::grpc(node.address())?;
    let channel = Endpoint::from_shared(format!("http://{}", node.address()))?.connect().await?;
    let mut talk = Talk::over(channel.clone()).await?;
    talk.send([reserve(0, "large", 0)]).await?;
    let grant = granted(talk.answer().await?.1)?;
    let done = complete(&client, "large", &grant, &payload::envelope(1, BODY_BYTES)).await;
    done.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;

    // 80 MB of answers; the session holds a few.
    for id in 1..=REPLAYS {
        talk.send([reserve(id, "large", 0)]).await?;
    }
    let mut beside = Talk::open(node.address()).await?;
    for id in 0..200 {
        beside.send([reserve(id, &format!("beside-{id}"), 0)]).await?;
        granted(beside.answer().await.with_context(|| format!("call {id} beside it"))?.1)?;
    }
    for number in 0..REPLAYS {
        let (id, answer) = talk.answer().await.with_context(|| format!("answer {number} that was not taken"))?;
        let Answer::Reserve(api::ReserveResponse { outcome: Some(outcome), .. }) = answer else { bail!("{answer:?}") };
        let api::reserve_response::Outcome::Replay(replay) = outcome else { bail!("{id}: {outcome:?}") };
        ensure!(replay.envelope == Some(payload::envelope(1, BODY_BYTES)), "{id}: other bytes");
    }
    node.stop().await
}

/// A client that resets its session has sent calls that may be committed: they go on to their end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_outlive_the_session_they_came_on() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let channel = Endpoint::from_shared(format!("http://{}", node.address()))?.connect().await?;
    let mut client = ReservationsClient::new(channel);
    for round in 0..20 {
        let key = format!("k{round}");
        let mut talk = Talk::open(node.address()).await?;
        talk.send([reserve(0, &key, 0), reserve(1, &format!("{key}-other"), 0)]).await?;
        // One answer shows that the message was read; the rest is dropped with the session.
        talk.answer().await?;
        drop(talk);
        let of = |key: String| api::LookupRequest { tenant: "acme".to_owned(), key };
        for key in [key.clone(), format!("{key}-other")] {
            harness::until("both keys are granted", STOP_DEADLINE, async || {
                Ok(client.lookup(of(key.clone())).await?.into_inner().record.map(drop))
            })
            .await?;
        }
    }
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_answers_what_is_in_flight_and_ends_the_session() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let mut node = place.start().run().await?;
    let client = Client::grpc(node.address())?;
    Ask::new("held", 1).granted(&client).await?;
    let mut talk = Talk::open(node.address()).await?;
    // It would wait far longer than a shutdown may take.
    talk.send([reserve(1, "held", 55_000)]).await?;
    talk.send([reserve(2, "free", 0)]).await?;
    ensure!(talk.answer().await?.0 == 2);
    node.signal(Signal::TERM)?;
    let (id, answer) = talk.answer().await?;
    let ended = failure(&answer)?;
    ensure!(id == 1 && ended.code == "outcome-indefinite" && !ended.definite, "{ended:?}");
    ensure!(talk.next().await?.is_none(), "the session ends well");
    let status = node.wait(STOP_DEADLINE).await?;
    ensure!(status.success(), "{status}");
    node.no_panic()
}
