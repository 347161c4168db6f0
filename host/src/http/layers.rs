//! What every request passes: an id, a deadline, a catch for panics, one log line, two metrics.
//!
//! Invariant: neither query, body, header nor address reaches the log; the path is logged as its template.

use crate::http::error::{ApiError, Code, REQUEST_ID};
use crate::http::waiting::Caller;
use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;

/// The header that carries a request's id, in both directions.
pub const REQUEST_ID_HEADER: &str = "x-request-id";
/// How long a request may take, its body included. Streamed imports are exempt.
const REQUEST_MAX: Duration = Duration::from_secs(30);
/// The longest id that is taken from a client, in octets.
const REQUEST_ID_OCTETS_MAX: usize = 64;

/// Answers a request before any route sees it; an extension of the request.
#[derive(Debug, Clone)]
pub struct Refusal(pub ApiError);

/// Wraps the router of a service. Routes in `untimed` (templates) have no deadline as a whole; they watch their body.
pub fn wrap(router: Router, service: &'static str, untimed: &'static [&'static str]) -> Router {
    router
        .fallback(|| async { ApiError::new(Code::RouteUnknown, "no route has this path; /openapi.json lists all") })
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(move |request: Request, next: Next| around(service, untimed, request, next)))
}

async fn around(service: &'static str, untimed: &'static [&'static str], mut request: Request, next: Next) -> Response {
    let refusal = request.extensions_mut().remove::<Refusal>();
    let id = request_id(request.headers());
    let path = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let method = known_method(request.method());
    let span = tracing::info_span!("request", service, request.id = %id, method, path);
    let started = Instant::now();
    let answer = REQUEST_ID.scope(id.clone(), async {
        let answer = match refusal {
            Some(Refusal(error)) => error.into_response(),
            None if untimed.contains(&path.as_str()) => {
                // What comes bit by bit is at work from the start.
                request.extensions().get::<Arc<Caller>>().inspect(|caller| caller.asked());
                next.run(request).await
            }
            None => tokio::time::timeout(REQUEST_MAX, next.run(request)).await.unwrap_or_else(|_| timed_out()),
        };
        ApiError::of_bare(&answer).map_or(answer, IntoResponse::into_response)
    });
    let mut answer = answer.instrument(span.clone()).await;
    let headers = answer.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID_HEADER, id);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    record(&span, (service, method, path), answer.status().as_u16(), started);
    answer
}

fn record(span: &tracing::Span, (service, method, path): (&'static str, &'static str, String), status: u16, started: Instant) {
    let duration = started.elapsed();
    let duration_ms = duration.as_secs_f64() * 1_000.0;
    span.in_scope(|| tracing::info!(status, duration_ms, "answered"));
    let labels = [("service", service.to_owned()), ("method", method.to_owned()), ("path", path), ("status", status.to_string())];
    metrics::counter!("postwarm_http_requests_total", &labels).increment(1);
    metrics::histogram!("postwarm_http_request_duration_seconds", "service" => service).record(duration.as_secs_f64());
}

/// The method as a label; clients can invent methods, and a metric must not grow by that.
fn known_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "PATCH" => "PATCH",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// The client's id where it has one that is plain, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let plain =
        |id: &&str| (1..=REQUEST_ID_OCTETS_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let given = headers.get(REQUEST_ID_HEADER).and_then(|v| v.to_str().ok()).filter(plain);
    given.map_or_else(|| format!("{:032x}", fastrand::u128(..)), str::to_owned)
}

fn timed_out() -> Response {
    ApiError::new(Code::RequestTimeout, format!("the request took longer than {} s", REQUEST_MAX.as_secs())).into_response()
}

fn panicked(cause: Box<dyn Any + Send>) -> Response {
    let text = cause.downcast_ref::<&str>().copied().or(cause.downcast_ref::<String>().map(String::as_str));
    tracing::error!(cause = text.unwrap_or("no text"), "a handler panicked");
    ApiError::new(Code::Internal, "this is a fault of ours; the log has more under the request id").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::{call, send};
    use axum::body::Body;
    use axum::routing::{get, post};

    fn router() -> Router {
        let boom = || async {
            if fastrand::u8(..) as u16 <= 255 {
                panic!("boom")
            }
        };
        wrap(Router::new().route("/boom", get(boom)).route("/raw", post(|_: String| async { "ok" })), "test", &[])
    }

    #[tokio::test]
    async fn a_panic_is_a_problem_with_the_request_id() {
        let answer = call(&router(), "acme", "GET", "/boom").await;
        assert_eq!(answer.problem(), "500 internal ");
        assert_eq!(answer.json()["request_id"].as_str(), answer.headers[REQUEST_ID_HEADER].to_str().ok());
        assert!(!answer.body.contains("boom\""), "causes stay in the log");
    }

    #[tokio::test]
    async fn what_the_router_refuses_is_a_problem_too() {
        assert_eq!(call(&router(), "acme", "GET", "/nothing").await.problem(), "404 route_unknown ");
        let answer = call(&router(), "acme", "DELETE", "/boom").await;
        assert_eq!(answer.problem(), "405 method_not_allowed ");
        assert_eq!(answer.headers["allow"], "GET,HEAD");
    }

    #[tokio::test]
    async fn an_id_of_the_client_is_kept_where_it_is_plain() {
        for (given, kept) in [("abc-1", true), ("a b", false), (&"x".repeat(65), false)] {
            let request = Request::get("/nothing").header(REQUEST_ID_HEADER, given).body(Body::empty()).expect("a request");
            let answer = send(&router(), request).await;
            assert_eq!(answer.headers[REQUEST_ID_HEADER] == given, kept, "{given}");
        }
    }
}
