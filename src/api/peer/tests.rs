//! Who is let in, and what a node says that has no groups yet.

use tokio::task::JoinSet;
use tonic::Code;

use super::*;
use crate::peers::Peers;
use crate::wire::v1::{Facts, Node};

fn node(node_id: u64, peer: &str, disk: &str) -> Node {
    Node { node_id, peer: peer.to_owned(), api: String::new(), disk: disk.to_owned() }
}

fn facts(cluster_id: &str) -> Facts {
    Facts { cluster_id: cluster_id.to_owned(), ..Facts::default() }
}

/// Node 1, with disk `a`, of cluster `c`: its address, and what ends it.
async fn served(tasks: &mut JoinSet<()>) -> (String, watch::Sender<bool>) {
    let (peers, stop) = served_with(tasks).await;
    (peers.me().peer.clone(), stop)
}

/// The same, and whom it knows.
async fn served_with(tasks: &mut JoinSet<()>) -> (Arc<Peers>, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, shutdown) = watch::channel(false);
    let peers = Peers::new(node(1, &address, "a"), facts("c"));
    tasks.spawn(serve(listener, Cluster::new(Arc::clone(&peers), false), shutdown));
    (peers, stop)
}

#[tokio::test]
async fn only_a_call_that_fits_gets_in_but_everybody_may_ask_who_it_is() {
    let mut tasks = JoinSet::new();
    let (address, _stop) = served(&mut tasks).await;
    let vote = v1::VoteRequest::default;
    let callers = [
        ("c", "a", Code::Unavailable, "this node is starting"),
        ("c", "lost", Code::FailedPrecondition, "this is node 1/a, and the caller means 1/lost"),
        ("other", "a", Code::FailedPrecondition, "this node belongs to cluster c, the caller to other"),
    ];
    for (cluster_id, disk, code, text) in callers {
        let peers = Peers::new(node(2, "127.0.0.1:1", "b"), facts(cluster_id));
        peers.know(&node(1, &address, disk));
        let mut client = peers.client(1).unwrap();
        let status = client.vote(vote()).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
        let status = client.append(stream::iter([v1::AppendRequest::default()])).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        let hello = client.hello(v1::HelloRequest {}).await.unwrap().into_inner();
        assert_eq!((hello.node, hello.made), (Some(node(1, &address, "a")), false));
    }
    let peers = Peers::new(node(2, "127.0.0.1:1", "b"), facts("c"));
    let mut stranger = peers.stranger(&address).unwrap();
    assert!(stranger.hello(v1::HelloRequest {}).await.is_ok());
    assert_eq!(stranger.vote(vote()).await.unwrap_err().code(), Code::FailedPrecondition, "it means nobody");
    let mut client = v1::peer_client::PeerClient::new(connect(&address).await);
    let status = client.vote(vote()).await.unwrap_err();
    assert!(status.message().contains("does not say who calls"), "{status}");
}

#[tokio::test]
async fn a_follower_that_leads_nothing_hears_of_its_leader_all_the_same() {
    let mut tasks = JoinSet::new();
    let (follower, _stop) = served_with(&mut tasks).await;
    follower.know(&node(2, "127.0.0.1:1", "b"));
    assert!(!follower.reachable(2));
    let leader = Peers::new(node(2, "127.0.0.1:1", "b"), facts("c"));
    leader.know(follower.me());
    let refused = leader.client(1).unwrap().append(stream::iter([v1::AppendRequest::default()])).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable, "it has no groups yet");
    assert!(follower.reachable(2));
    assert_eq!(follower.bounded_clock_unix_ms(&[1, 2, 3]), 0, "what was heard is no clock");
}

#[tokio::test]
async fn it_ends_when_it_is_told_to_with_connections_open() {
    let mut tasks = JoinSet::new();
    let (address, stop) = served(&mut tasks).await;
    let mut client = v1::peer_client::PeerClient::new(connect(&address).await);
    client.hello(v1::HelloRequest {}).await.unwrap();
    stop.send_replace(true);
    let ended = timeout(Duration::from_secs(30), tasks.join_next()).await;
    assert!(matches!(ended, Ok(Some(Ok(())))), "{ended:?}");
    assert!(client.hello(v1::HelloRequest {}).await.is_err());
}

async fn connect(address: &str) -> tonic::transport::Channel {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}
