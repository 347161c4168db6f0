//! Serving over real sockets: limits, places, draining.

use super::*;
use crate::http::layers::wrap;
use axum::routing::get;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

async fn start(router: Router, limits: Limits) -> (SocketAddr, Drain, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let drain = Drain::default();
    (address, drain.clone(), tokio::spawn(serve(listener, wrap(router, "test", &[]), drain, limits)))
}

/// Sends octets on a new connection; answers all that comes back until the server closes it.
async fn raw(address: SocketAddr, octets: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    // A server that has refused may close before it has read everything.
    let _ = stream.write_all(octets.as_bytes()).await;
    read_all(&mut stream).await
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut text)).await;
    read.expect("the server closes the connection").ok();
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn silent_and_half_sent_requests_are_closed() {
    let limits = Limits { head_read: Duration::from_millis(50), ..Limits::default() };
    let (address, _drain, _server) = start(Router::new(), limits).await;
    for sent in ["", "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(sent.as_bytes()).await.expect("writes");
        read_all(&mut stream).await;
    }
}

#[tokio::test]
async fn silent_connections_keep_nobody_waiting() {
    let limits = Limits { connections: 2, head_read: Duration::from_secs(60), ..Limits::default() };
    let (address, _drain, _server) = start(Router::new().route("/", get(|| async { "ok" })), limits).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(address).await.expect("connects"));
    }
    let answer = raw(address, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.ends_with("ok"), "{answer}");
    assert_eq!(read_all(&mut silent[0]).await, "", "the oldest was closed");
}

#[tokio::test]
async fn a_request_that_came_before_it_was_read_is_answered_though_others_wait_for_a_place() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let (address, _drain, _server) = start(Router::new().route("/", get(|| async { "ok" })), limits).await;
    // The server runs on this thread: it has them all in its queue when it comes to look.
    let mut asks = std::net::TcpStream::connect(address).expect("connects");
    std::io::Write::write_all(&mut asks, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("writes");
    let _silent = [(); 3].map(|()| std::net::TcpStream::connect(address).expect("connects"));
    asks.set_nonblocking(true).expect("a socket");
    let answer = read_all(&mut TcpStream::from_std(asks).expect("a socket")).await;
    assert!(answer.ends_with("ok"), "{answer}");
}

#[tokio::test]
async fn a_request_with_more_than_64_headers_is_refused() {
    let (address, _drain, _server) = start(Router::new(), Limits::default()).await;
    let headers: String = (0..65).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert!(raw(address, &format!("GET / HTTP/1.1\r\n{headers}\r\n")).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn a_head_of_64_kib_is_read_and_one_octet_more_refused() {
    let (address, _drain, _server) = start(Router::new().route("/", get(|| async { "ok" })), Limits::default()).await;
    for (octets, expected) in [(HEAD_OCTETS_MAX, "HTTP/1.1 200 "), (HEAD_OCTETS_MAX + 1, "HTTP/1.1 431 ")] {
        let (start, end) = ("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: ", "\r\n\r\n");
        let head = format!("{start}{}{end}", "x".repeat(octets - start.len() - end.len()));
        assert!(raw(address, &head).await.starts_with(expected), "{octets} octets");
    }
}

#[tokio::test]
async fn heads_that_proxies_read_in_two_ways_are_refused_and_the_connection_closes() {
    let router = Router::new().route("/", get(|| async { "ok" }).post(|body: String| async { body }));
    let (address, _drain, _server) = start(router, Limits::default()).await;
    let chunks = "2\r\nab\r\n0\r\n\r\n";
    let after = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let wrong = [
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(),
        format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"),
        format!("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n{chunks}"),
    ];
    for head in wrong {
        let answer = raw(address, &format!("{head}{after}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("\"malformed_head\""), "{head:?}: {answer}");
        assert!(answer.contains("connection: close") && answer.matches("x-request-id").count() == 1, "{head:?}: {answer}");
    }
}

#[tokio::test]
async fn an_http_1_0_request_needs_no_host_and_a_chunked_one_is_the_last() {
    let router = Router::new().route("/", get(|| async { "ok" }).post(|body: String| async { body }));
    let (address, _drain, _server) = start(router, Limits::default()).await;
    assert!(raw(address, "GET / HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200 "));
    let sized = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nxy";
    let chunked = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    let answer = raw(address, &format!("{sized}{sized}{chunked}{sized}")).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 3, "{answer}");
    assert!(answer.ends_with("ab"), "{answer}");
}

#[tokio::test]
async fn while_draining_only_the_probes_answer() {
    let router = Router::new().route("/livez", get(|| async { "ok" })).route("/users", get(|| async { "[]" }));
    let (address, drain, server) = start(router, Limits::default()).await;
    drain.begins.cancel();
    let probe = raw(address, "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(probe.starts_with("HTTP/1.1 200 "), "{probe}");
    let other = raw(address, "GET /users HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(other.starts_with("HTTP/1.1 503 ") && other.contains("\"draining\"") && other.contains("retry-after: 5"), "{other}");
    drain.ends.cancel();
    server.await.expect("the server ends");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn draining_lets_a_running_request_end_and_closes_idle_connections() {
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (inside, go) = (entered.clone(), release.clone());
    let handler = move || async move {
        inside.notify_one();
        go.notified().await;
        "done"
    };
    let (address, drain, server) = start(Router::new().route("/", get(handler)), Limits::default()).await;
    let mut idle = TcpStream::connect(address).await.expect("connects");
    let mut busy = TcpStream::connect(address).await.expect("connects");
    busy.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("writes");
    entered.notified().await;
    drain.begins.cancel();
    assert_eq!(read_all(&mut idle).await, "");
    drain.ends.cancel();
    release.notify_one();
    assert!(read_all(&mut busy).await.ends_with("done"));
    server.await.expect("the server ends");
}

#[tokio::test]
async fn draining_ends_though_a_request_hangs() {
    let entered = Arc::new(Notify::new());
    let inside = entered.clone();
    let dropped = Arc::new(AtomicBool::new(false));
    struct OnDrop(Arc<AtomicBool>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let witness = dropped.clone();
    let handler = move || async move {
        let _witness = OnDrop(witness);
        inside.notify_one();
        std::future::pending::<&str>().await
    };
    let limits = Limits { drain: Duration::from_millis(20), ..Limits::default() };
    let (address, drain, server) = start(Router::new().route("/", get(handler)), limits).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("writes");
    entered.notified().await;
    drain.begins.cancel();
    drain.ends.cancel();
    server.await.expect("the server ends");
    assert!(dropped.load(Ordering::SeqCst));
}
