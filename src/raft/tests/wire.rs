//! A peer service with nothing but Raft in it, on links that can be cut and nodes that can be made silent.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use crate::peers::Peers;
use crate::raft::Group;
use crate::wire::v1;

/// What does not work, as (from, to) for links, and (to, to) for a node that neither takes nor answers entries.
pub(super) type Faults = Arc<watch::Sender<BTreeSet<(u64, u64)>>>;

pub(super) struct Service {
    pub(super) peers: Arc<Peers>,
    pub(super) group: Group,
    pub(super) faults: watch::Receiver<BTreeSet<(u64, u64)>>,
}

type Answers<A> = Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>;

impl Service {
    fn check<T>(&self, request: &Request<T>) -> Result<(u64, u64), Status> {
        let from =
            self.peers.check(request.metadata()).map_err(|unfit| Status::failed_precondition(unfit.to_string()))?;
        let link = (from, self.peers.me().node_id);
        match self.faults.borrow().contains(&link) {
            true => Err(Status::unavailable("the link is cut")),
            false => Ok(link),
        }
    }
}

async fn cut(mut faults: watch::Receiver<BTreeSet<(u64, u64)>>, link: (u64, u64)) {
    let _ = faults.wait_for(|faults| faults.contains(&link)).await;
}

#[tonic::async_trait]
impl v1::peer_server::Peer for Service {
    type AppendStream = Answers<v1::AppendReply>;
    type InstallSnapshotStream = Answers<v1::SnapshotProgress>;
    type ForwardStream = Answers<v1::ForwardReply>;

    async fn append(
        &self,
        request: Request<Streaming<v1::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let link = self.check(&request)?;
        let me = self.peers.me().node_id;
        let requests = request.into_inner().scan((), |(), request| std::future::ready(request.ok()));
        let requests =
            requests.take_until(cut(self.faults.clone(), link)).take_until(cut(self.faults.clone(), (me, me)));
        let answers = self.group.peer_append(requests);
        let answers = answers.map(|answer| answer.map_err(|refused| Status::unavailable(refused.to_string())));
        // A silent node does not even end the stream.
        let silence = stream::unfold(self.faults.clone(), move |faults| async move {
            if faults.borrow().contains(&(me, me)) {
                std::future::pending::<()>().await;
            }
            None
        });
        let back = (link.1, link.0);
        Ok(Response::new(Box::pin(answers.chain(silence).take_until(cut(self.faults.clone(), back)))))
    }

    async fn vote(&self, request: Request<v1::VoteRequest>) -> Result<Response<v1::VoteReply>, Status> {
        self.check(&request)?;
        let reply = self.group.peer_vote(request.into_inner()).await;
        reply.map(Response::new).map_err(|refused| Status::unavailable(refused.to_string()))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderReply>, Status> {
        self.check(&request)?;
        let reply = self.group.peer_transfer(request.into_inner()).await;
        reply.map(Response::new).map_err(|refused| Status::unavailable(refused.to_string()))
    }

    async fn hello(&self, request: Request<v1::HelloRequest>) -> Result<Response<v1::HelloReply>, Status> {
        self.check(&request).map(|_| Response::new(v1::HelloReply::default()))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<v1::SnapshotPart>>,
    ) -> Result<Response<Self::InstallSnapshotStream>, Status> {
        let link = self.check(&request)?;
        let mut parts = request.into_inner();
        let Some(v1::snapshot_part::Part::Header(header)) = parts.message().await?.and_then(|part| part.part) else {
            return Err(Status::invalid_argument("no header"));
        };
        let answers = self.group.peer_snapshot(header, parts);
        Ok(Response::new(Box::pin(answers.take_until(cut(self.faults.clone(), link)))))
    }

    async fn forward(
        &self,
        _: Request<Streaming<v1::ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        Err(Status::unimplemented("only Raft"))
    }

    async fn change_members(
        &self,
        _: Request<v1::ChangeMembersRequest>,
    ) -> Result<Response<v1::ChangeMembersReply>, Status> {
        Err(Status::unimplemented("only Raft"))
    }

    async fn join(&self, _: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        Err(Status::unimplemented("only Raft"))
    }
}
