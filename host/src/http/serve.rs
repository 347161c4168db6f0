//! Serves a router over TCP with limits that hold against slow and greedy clients, and drains when asked.
//!
//! Invariant: every connection has a deadline in each phase: request head, body (`layers`, the import), answer. While the
//! service drains, new requests to anything but the probes are refused. HTTP/1 only: what HTTP/2 would add, a proxy in
//! front can.

use crate::http::addresses::Addresses;
use crate::http::body::Bodies;
use crate::http::error::{ApiError, Code};
use crate::http::framing::{TwoLengths, Watched, is_chunked, wrong_head};
use crate::http::layers::Refusal;
use crate::http::probes;
use crate::http::stall::StallGuard;
use crate::http::waiting::{Answer, Caller, Waiting};
use axum::Router;
use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request};
use axum::response::Response;
use hyper::body::{Body as _, Incoming};
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

/// Connections of all clients together; one more closes that which has waited longest for its client.
pub const CONNECTIONS_MAX: usize = 1_000;
/// Connections of one remote address; more are closed at once. Loopback is exempt: a proxy speaks from there.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 100;
/// How long a client may take over a request's head, and how long a kept connection may be idle.
pub const HEAD_READ_MAX: Duration = Duration::from_secs(5);
/// How long a connection may wait for its first request before it may close for another one.
pub const SILENT_MIN: Duration = Duration::from_millis(250);
/// How long an answer may stand still because the client does not read.
pub const ANSWER_STALL_MAX: Duration = Duration::from_secs(20);
/// How long a streamed body may stand still.
pub const BODY_STALL_MAX: Duration = Duration::from_secs(30);
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
    pub silent: Duration,
    pub answer_stall: Duration,
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: CONNECTIONS_MAX,
            connections_per_address: CONNECTIONS_PER_ADDRESS_MAX,
            head_read: HEAD_READ_MAX,
            silent: SILENT_MIN,
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
    let bodies = Bodies::default();
    let (addresses, waiting) = (Addresses::default(), Waiting::new(limits.silent));
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
        let Some(permit) = admit(&connections, &waiting, &drain.ends).await else { break };
        let (abort, caller) = (abort.clone(), Arc::new(waiting.enter()));
        let connection = Connection {
            router: router.clone(),
            remote,
            limits,
            drain: drain.clone(),
            caller: Arc::clone(&caller),
            bodies: bodies.clone(),
        };
        tasks.spawn(async move {
            let _held = (permit, place);
            let served = async {
                tokio::select! {
                    // What has come is read first.
                    biased;
                    () = connection.run(stream) => {}
                    () = caller.makes_room() => {}
                }
            };
            abort.run_until_cancelled(served).await;
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
async fn admit(connections: &Arc<Semaphore>, waiting: &Waiting, ends: &CancellationToken) -> Option<OwnedSemaphorePermit> {
    if connections.available_permits() == 0 {
        waiting.close_oldest();
    }
    ends.run_until_cancelled(connections.clone().acquire_owned()).await?.ok()
}

struct Connection {
    router: Router,
    remote: SocketAddr,
    limits: Limits,
    drain: Drain,
    caller: Arc<Caller>,
    bodies: Bodies,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        // Answers are small; Nagle would only hold them back. A socket that refuses the option still works.
        let _ = stream.set_nodelay(true);
        let (router, remote, two_lengths) = (self.router, Remote(self.remote), TwoLengths::default());
        let (seen, begins, caller) = (two_lengths.clone(), self.drain.begins.clone(), self.caller);
        let bodies = self.bodies;
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(remote);
            request.extensions_mut().insert(bodies.clone());
            if request.body().is_end_stream() {
                caller.asked();
            }
            request.extensions_mut().insert(Arc::clone(&caller));
            let caller = Arc::clone(&caller);
            let closes = refuse(&mut request, &seen, &begins) || is_chunked(request.headers());
            let answer = router.clone().oneshot(request.map(Body::new));
            async move {
                let mut answer: Response = answer.await?;
                if closes {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer.map(|body| Answer { body, caller }))
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
mod tests;
