//! Serves a router over TCP with limits that hold against slow and greedy clients, and drains when asked.
//!
//! Invariant: every connection has a deadline in each phase: request head, body (`layers`, the import), answer. While the
//! service drains, new requests to anything but the probes are refused. HTTP/1 only: what HTTP/2 would add, a proxy in
//! front can.

use crate::http::addresses::Addresses;
use crate::http::error::{ApiError, Code};
use crate::http::framing::{TwoLengths, Watched, is_chunked, wrong_head};
use crate::http::layers::Refusal;
use crate::http::probes;
use crate::http::stall::StallGuard;
use crate::http::unasked::{Newcomer, Unasked};
use axum::Router;
use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections of all clients together; one more closes the oldest that has asked nothing yet, or waits where all have.
pub const CONNECTIONS_MAX: usize = 1_000;
/// Connections of one remote address; more are closed at once. Loopback is exempt: a proxy speaks from there.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 100;
/// How long a client may take over a request's head, and how long a kept connection may be idle.
pub const HEAD_READ_MAX: Duration = Duration::from_secs(5);
/// How long an answer may stand still because the client does not read.
pub const ANSWER_STALL_MAX: Duration = Duration::from_secs(20);
/// How long a request may take, its body included. Streamed imports are exempt.
pub const REQUEST_MAX: Duration = Duration::from_secs(30);
/// How long a streamed body may stand still.
pub const BODY_STALL_MAX: Duration = Duration::from_secs(30);
/// Octets of a body; streamed imports are exempt.
pub const BODY_OCTETS_MAX: usize = 1024 * 1024;
/// Header fields of a request.
pub const HEADERS_MAX: usize = 64;
/// Octets of a request's head.
pub const HEAD_OCTETS_MAX: usize = 64 * 1024;
/// How long requests may take to end once the service drains.
pub const DRAIN_MAX: Duration = Duration::from_secs(30);
/// How long answers may take to be read once the listener has closed, where draining took all of its time.
const CLOSE_GRACE: Duration = Duration::from_secs(1);
/// Seconds after which a client may try again elsewhere, or here after a restart.
const DRAIN_RETRY_SECS: u64 = 5;
/// How long to wait where no file descriptor is left for another connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The remote end of the connection that a request came by; an extension of each request.
#[derive(Debug, Clone, Copy)]
pub struct Remote(pub SocketAddr);

/// Limits of one listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub connections: usize,
    pub connections_per_address: usize,
    pub head_read: Duration,
    pub answer_stall: Duration,
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: CONNECTIONS_MAX,
            connections_per_address: CONNECTIONS_PER_ADDRESS_MAX,
            head_read: HEAD_READ_MAX,
            answer_stall: ANSWER_STALL_MAX,
            drain: DRAIN_MAX,
        }
    }
}

/// When a listener ends. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    /// Cancelled when the service drains: running requests go on, and of new ones only the probes are answered.
    pub begins: CancellationToken,
    /// Cancelled when the work of the service has ended: the listener closes.
    pub ends: CancellationToken,
}

/// Serves `router`, which `layers` wrapped, until `drain` ends. Requests that run when draining begins may end within
/// `limits.drain` of it, however early it ends.
pub async fn serve(listener: TcpListener, router: Router, drain: Drain, limits: Limits) {
    let connections = Arc::new(Semaphore::new(limits.connections));
    let (addresses, unasked) = (Addresses::default(), Unasked::default());
    let tasks = TaskTracker::new();
    let abort = CancellationToken::new();
    let both = drain.clone();
    let begun = tokio::spawn(async move {
        both.ends.run_until_cancelled(both.begins.cancelled()).await;
        Instant::now()
    });
    while let Some((stream, remote)) = next(&listener, &drain.ends).await {
        let Some(place) = addresses.enter(remote.ip(), limits.connections_per_address) else {
            continue;
        };
        let Some(permit) = admit(&connections, &unasked, &drain.ends).await else { break };
        let newcomer = Arc::new(unasked.enter());
        let (abort, makes_room) = (abort.clone(), newcomer.closes());
        let connection = Connection { router: router.clone(), remote, limits, drain: drain.clone(), newcomer };
        tasks.spawn(async move {
            let _held = (permit, place);
            abort.run_until_cancelled(makes_room.run_until_cancelled(connection.run(stream))).await;
        });
    }
    drop(listener);
    tasks.close();
    let left = begun.await.map_or(limits.drain, |at| limits.drain.saturating_sub(at.elapsed())).max(CLOSE_GRACE.min(limits.drain));
    if tokio::time::timeout(left, tasks.wait()).await.is_err() {
        abort.cancel();
        tasks.wait().await;
    }
}

/// The next connection; `None` once draining has ended.
async fn next(listener: &TcpListener, ends: &CancellationToken) -> Option<(TcpStream, SocketAddr)> {
    loop {
        match ends.run_until_cancelled(listener.accept()).await? {
            Ok(accepted) => return Some(accepted),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                ends.run_until_cancelled(tokio::time::sleep(ACCEPT_RETRY)).await?;
            }
        }
    }
}

/// Waits for a place among the connections, and makes room for it; `None` once draining has ended.
async fn admit(connections: &Arc<Semaphore>, unasked: &Unasked, ends: &CancellationToken) -> Option<OwnedSemaphorePermit> {
    if connections.available_permits() == 0 {
        unasked.close_oldest();
    }
    ends.run_until_cancelled(connections.clone().acquire_owned()).await?.ok()
}

struct Connection {
    router: Router,
    remote: SocketAddr,
    limits: Limits,
    drain: Drain,
    newcomer: Arc<Newcomer>,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        // Answers are small; Nagle would only hold them back. A socket that refuses the option still works.
        let _ = stream.set_nodelay(true);
        let (router, remote, two_lengths) = (self.router, Remote(self.remote), TwoLengths::default());
        let (seen, begins, newcomer) = (two_lengths.clone(), self.drain.begins.clone(), self.newcomer);
        let service = service_fn(move |mut request: Request<Incoming>| {
            newcomer.asks();
            request.extensions_mut().insert(remote);
            let closes = refuse(&mut request, &seen, &begins) || is_chunked(request.headers());
            let answer = router.clone().oneshot(request.map(Body::new));
            async move {
                let mut answer: Response = answer.await?;
                if closes {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        });
        // Connections that come while the service drains are for the probes: they stay until it has ended.
        let closed = if self.drain.begins.is_cancelled() { self.drain.ends } else { self.drain.begins };
        let stream = Watched::new(StallGuard::new(stream, self.limits.answer_stall), two_lengths);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_read)
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_OCTETS_MAX)
            .max_buf_size(HEAD_OCTETS_MAX)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = closed.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// Marks a request that no route may see. Its connection closes.
fn refuse(request: &mut Request<Incoming>, two_lengths: &TwoLengths, drains: &CancellationToken) -> bool {
    let is_probe = || probes::PATHS.contains(&request.uri().path());
    let error = match wrong_head(request, two_lengths) {
        Some(wrong) => ApiError::new(Code::MalformedHead, wrong),
        None if drains.is_cancelled() && !is_probe() => {
            ApiError::new(Code::Draining, "the service is about to end; try again").retry_after(DRAIN_RETRY_SECS)
        }
        None => return false,
    };
    request.extensions_mut().insert(Refusal(error));
    true
}

#[cfg(test)]
mod tests {
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
}
