//! Whether a request that failed was written: told from the errors of the HTTP library, against sockets.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

fn request(address: SocketAddr, body: AnyBody) -> Request<AnyBody> {
    Request::post(format!("http://{address}/")).body(body).expect("a request")
}

fn text(text: &'static str) -> AnyBody {
    Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync()
}

fn client() -> Client<HttpConnector, AnyBody> {
    // The HTTP library sends such a request again by itself on a connection that was kept; here every failure is told.
    Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build(HttpConnector::new())
}

/// An upstream that answered one request, on a connection that the client keeps.
async fn answered_once(client: &Client<HttpConnector, AnyBody>) -> (TcpListener, SocketAddr, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let serving = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"first") {
            stream.read_buf(&mut bytes).await.expect("a request");
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("an answer");
        stream
    };
    let (stream, answer) = tokio::join!(serving, client.request(request(address, text("first"))));
    assert_eq!(answer.expect("an answer").status(), StatusCode::OK);
    (listener, address, stream)
}

/// The runtime has one thread, and polls this test before the connection's task when both are woken: the request is handed to a
/// connection whose close is known to the system, and not yet to the task, which reads before it writes.
#[tokio::test]
async fn a_request_on_a_connection_that_is_closed_already_was_not_sent() {
    let client = client();
    let (_listener, address, stream) = answered_once(&client).await;
    for _ in 0..10 {
        // The connection is put back among those that are kept.
        tokio::task::yield_now().await;
    }
    drop(stream);
    tokio::task::yield_now().await;
    let error = client.request(request(address, text("second"))).await.expect_err("the connection is closed");
    assert!(!error.is_connect() && any(&error, hyper::Error::is_canceled), "{error:?}");
    assert!(is_unsent(&error));
}

#[tokio::test]
async fn a_connection_that_is_refused_sent_nothing_and_one_that_breaks_may_have() {
    let client = client();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let refused = client.request(request(address, text("second"))).await;
    assert!(refused.is_err_and(|error| is_unsent(&error)));

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let breaking = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"third") {
            stream.read_buf(&mut bytes).await.expect("a request");
        }
    };
    let (_, broken) = tokio::join!(breaking, client.request(request(address, text("third"))));
    assert!(broken.is_err_and(|error| !is_unsent(&error)), "all of it was written");
}
