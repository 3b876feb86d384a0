//! The service between the nodes of a region, on a port of its own: every call is checked, and passed to who answers it.
//!
//! Deliberately absent: every decision. `raft` answers what groups say to each other, [`Cluster`] what is asked about
//! members.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use super::forward;
use crate::limits;
use crate::raft::{Group, Refused};
use crate::router::cluster::Cluster;
use crate::server::{self, Bounds};
use crate::wire::v1;
use crate::wire::v1::peer_server::PeerServer;

/// Peers are few, send much at a time, and are missed soon.
const BOUNDS: Bounds = Bounds {
    connections: limits::MAX_PEER_CONNECTIONS,
    streams: limits::MAX_STREAMS_PER_PEER,
    stream_window: 4 * 1024 * 1024,
    connection_window: 16 * 1024 * 1024,
    ping_period: Duration::from_secs(2),
    ping_timeout: Duration::from_secs(4),
};

/// How long calls in flight get at a shutdown. Streams are ended at once: their callers go to whoever leads next.
const DRAIN: Duration = Duration::from_secs(1);

/// Serves the peers on a bound listener until `shutdown` is true or its sender is gone. Returns when the last connection is
/// closed, and with it the last use of `cluster`.
pub async fn serve(listener: TcpListener, cluster: Arc<Cluster>, mut shutdown: watch::Receiver<bool>) {
    let service = PeerServer::new(Peer { cluster, shutdown: shutdown.clone() })
        .max_decoding_message_size(limits::MAX_PEER_MESSAGE_BYTES)
        .max_encoding_message_size(limits::MAX_PEER_MESSAGE_BYTES);
    let mut connections =
        server::accept(listener, |_| TowerToHyperService::new(service.clone()), BOUNDS, &mut shutdown).await;
    server::drain(&mut connections, DRAIN).await;
}

/// Answers the peers.
struct Peer {
    cluster: Arc<Cluster>,
    shutdown: watch::Receiver<bool>,
}

type Answers<A> = Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>;

fn refused(refused: Refused) -> Status {
    match refused {
        Refused::Stopped(_) => Status::unavailable(refused.to_string()),
        Refused::NotUnderstood(_) => Status::invalid_argument(refused.to_string()),
    }
}

impl Peer {
    /// Who calls, if the call is of this cluster and means this node.
    fn check<T>(&self, request: &Request<T>) -> Result<u64, Status> {
        self.cluster.peers().check(request.metadata()).map_err(|unfit| Status::failed_precondition(unfit.to_string()))
    }

    fn group(&self, partition: u32) -> Result<Group, Status> {
        let none = || match self.cluster.region() {
            None => Status::unavailable("this node is starting"),
            Some(_) => Status::invalid_argument(format!("there is no partition {partition}")),
        };
        self.cluster.group(partition).ok_or_else(none)
    }

    /// Ends a stream when the shutdown begins.
    fn until_shutdown<A>(&self, answers: impl Stream<Item = Result<A, Status>> + Send + 'static) -> Answers<A>
    where
        A: 'static,
    {
        let mut shutdown = self.shutdown.clone();
        Box::pin(answers.take_until(async move {
            // An error says that the sender is gone, which is a shutdown too.
            let _begun = shutdown.wait_for(|begun| *begun).await;
        }))
    }
}

/// The first message of a stream, which says what the stream is about.
async fn opening<T>(requests: &mut Streaming<T>) -> Result<T, Status> {
    match timeout(Duration::from_millis(limits::PEER_OPENING_MS), requests.message()).await {
        Ok(Ok(Some(first))) => Ok(first),
        Ok(Ok(None)) => Err(Status::invalid_argument("the stream ended before it began")),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::deadline_exceeded("the stream did not begin in time")),
    }
}

#[tonic::async_trait]
impl v1::peer_server::Peer for Peer {
    type AppendStream = Answers<v1::AppendReply>;
    type InstallSnapshotStream = Answers<v1::SnapshotProgress>;
    type ForwardStream = Answers<v1::ForwardReply>;

    async fn hello(&self, _request: Request<v1::HelloRequest>) -> Result<Response<v1::HelloReply>, Status> {
        Ok(Response::new(self.cluster.hello()))
    }

    async fn append(
        &self,
        request: Request<Streaming<v1::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let leader = self.check(&request)?;
        let peers = Arc::clone(self.cluster.peers());
        let mut requests = request.into_inner();
        let first = opening(&mut requests).await?;
        peers.seen(leader);
        let group = self.group(first.partition)?;
        // The stream ends where it breaks: whoever sent it is gone, and asks anew.
        let rest = requests.scan((), move |(), request| {
            peers.seen(leader);
            std::future::ready(request.ok())
        });
        let answers = group.peer_append(stream::iter([first]).chain(rest));
        Ok(Response::new(self.until_shutdown(answers.map(|answer| answer.map_err(refused)))))
    }

    async fn vote(&self, request: Request<v1::VoteRequest>) -> Result<Response<v1::VoteReply>, Status> {
        self.check(&request)?;
        let request = request.into_inner();
        self.group(request.partition)?.peer_vote(request).await.map(Response::new).map_err(refused)
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderReply>, Status> {
        self.check(&request)?;
        let request = request.into_inner();
        // The others are told as well: they may vote for the next leader at once.
        if self.cluster.stopping() && request.to_node_id == self.cluster.peers().me().node_id {
            return Ok(Response::new(v1::TransferLeaderReply { refused: "this node stops".to_owned() }));
        }
        self.group(request.partition)?.peer_transfer(request).await.map(Response::new).map_err(refused)
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<v1::SnapshotPart>>,
    ) -> Result<Response<Self::InstallSnapshotStream>, Status> {
        self.check(&request)?;
        let mut parts = request.into_inner();
        let Some(v1::snapshot_part::Part::Header(header)) = opening(&mut parts).await?.part else {
            return Err(Status::invalid_argument("a snapshot without a header"));
        };
        let answers = self.group(header.partition)?.peer_snapshot(header, parts);
        Ok(Response::new(self.until_shutdown(answers)))
    }

    async fn forward(
        &self,
        request: Request<Streaming<v1::ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        self.check(&request)?;
        let region = self.cluster.region().ok_or_else(|| Status::unavailable("this node is starting"))?;
        // Once the shutdown begins no more calls are read; those that were are answered.
        let calls = request.into_inner();
        let mut shutdown = self.shutdown.clone();
        let calls = calls.take_until(Box::pin(async move {
            let _begun = shutdown.wait_for(|begun| *begun).await;
        }));
        Ok(Response::new(Box::pin(forward::answer_forwarded(region, calls))))
    }

    async fn change_members(
        &self,
        request: Request<v1::ChangeMembersRequest>,
    ) -> Result<Response<v1::ChangeMembersReply>, Status> {
        self.check(&request)?;
        Ok(Response::new(self.cluster.change_for(request.into_inner()).await))
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        self.check(&request)?;
        Ok(Response::new(self.cluster.join_for(request.into_inner()).await))
    }
}

#[cfg(test)]
mod tests;
