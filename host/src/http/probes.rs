//! What an operator asks of a service: is it alive, ready, which version, its metrics, its OpenAPI document.
//!
//! Invariant: no key is needed and nothing here tells about an organization's users or emails.

use crate::http::error::readiness;
use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The paths of the probes, which answer while the service drains too.
pub const PATHS: [&str; 5] = ["/livez", "/readyz", "/version", "/metrics", "/openapi.json"];

/// How a part of the service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    Ok,
    /// Something needs a person, such as a broken configuration file; the service still works.
    Degraded,
    /// The service cannot do its work.
    Failing,
}

/// One named check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Check {
    pub name: String,
    pub condition: Condition,
    /// What is wrong and what to do; no secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Tells how the parts of a service are. Must not block.
pub trait Readiness: Send + Sync + 'static {
    fn checks(&self) -> Vec<Check>;
}

/// What the probes of one service need.
#[derive(Clone)]
pub struct Probes {
    /// `warmup` or `health`.
    pub service: &'static str,
    pub readiness: Arc<dyn Readiness>,
    /// Cancelled when the service drains: from then on it is not ready.
    pub draining: CancellationToken,
    /// Absent where no recorder is installed; `/metrics` is then empty.
    pub metrics: Option<PrometheusHandle>,
    /// The document, set once all routes are known.
    pub document: Arc<OnceLock<String>>,
}

/// The answer of `/readyz`.
#[derive(Debug, Serialize, ToSchema)]
struct ReadyAnswer {
    ready: bool,
    draining: bool,
    /// With `?verbose` all checks, else those that are not `ok`.
    checks: Vec<Check>,
}

/// The answer of `/version`.
#[derive(Debug, Serialize, ToSchema)]
struct VersionAnswer {
    name: &'static str,
    service: &'static str,
    version: &'static str,
}

/// The routes `/livez`, `/readyz`, `/version`, `/metrics` and `/openapi.json`.
pub fn router(probes: Probes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(get_livez))
        .routes(routes!(get_readyz))
        .routes(routes!(get_version))
        .routes(routes!(get_metrics))
        .routes(routes!(get_openapi))
        .with_state(probes)
}

/// Tells that the process answers.
#[utoipa::path(get, path = "/livez", tag = "probes", responses((status = 200, description = "It answers.", content_type = "text/plain", body = String)))]
async fn get_livez() -> &'static str {
    "ok\n"
}

/// Tells whether the service can do its work.
#[utoipa::path(get, path = "/readyz", tag = "probes",
    params(("verbose" = Option<bool>, Query, description = "Lists all checks, those that are ok too.")),
    responses((status = 200, description = "Ready.", body = ReadyAnswer), (status = 503, description = "Failing or draining.", body = ReadyAnswer)))]
async fn get_readyz(State(probes): State<Probes>, uri: Uri) -> Response {
    // Probes are written in many dialects; a parameter that is not ours must not make a service unready.
    let verbose = uri.query().is_some_and(|q| q.split('&').any(|pair| pair.split('=').next() == Some("verbose")));
    let mut checks = probes.readiness.checks();
    let draining = probes.draining.is_cancelled();
    let ready = !draining && checks.iter().all(|c| c.condition != Condition::Failing);
    if !verbose {
        checks.retain(|c| c.condition != Condition::Ok);
    }
    readiness(ready, ReadyAnswer { ready, draining, checks })
}

/// Tells the version.
#[utoipa::path(get, path = "/version", tag = "probes", responses((status = 200, description = "The version.", body = VersionAnswer)))]
async fn get_version(State(probes): State<Probes>) -> Json<VersionAnswer> {
    Json(VersionAnswer { name: "postwarm", service: probes.service, version: env!("CARGO_PKG_VERSION") })
}

/// Metrics in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "probes", responses((status = 200, description = "Metrics.", content_type = "text/plain", body = String)))]
async fn get_metrics(State(probes): State<Probes>) -> Response {
    let text = probes.metrics.map(|m| m.render()).unwrap_or_default();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "probes", responses((status = 200, description = "OpenAPI 3.1.", content_type = "application/json", body = Object)))]
async fn get_openapi(State(probes): State<Probes>) -> Response {
    ([(CONTENT_TYPE, "application/json")], probes.document.get().cloned().unwrap_or_default()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::call;

    struct Fixed(Condition);

    impl Readiness for Fixed {
        fn checks(&self) -> Vec<Check> {
            let check = |name: &str, condition| Check { name: name.into(), condition, detail: None };
            vec![check("database", self.0), check("log", Condition::Ok)]
        }
    }

    fn probes(condition: Condition) -> (axum::Router, CancellationToken) {
        let draining = CancellationToken::new();
        let readiness = Arc::new(Fixed(condition));
        let probes = Probes { service: "warmup", readiness, draining: draining.clone(), metrics: None, document: Arc::default() };
        (router(probes).into(), draining)
    }

    #[tokio::test]
    async fn a_degraded_service_is_ready_and_a_failing_or_draining_one_is_not() {
        let (ok, draining) = probes(Condition::Ok);
        assert_eq!(call(&ok, "acme", "GET", "/readyz").await.body, r#"{"ready":true,"draining":false,"checks":[]}"#);
        let verbose = call(&ok, "acme", "GET", "/readyz?verbose").await.json();
        assert_eq!(verbose["checks"].as_array().map(Vec::len), Some(2));
        draining.cancel();
        assert_eq!(call(&ok, "acme", "GET", "/readyz").await.status, 503);
        assert_eq!(call(&probes(Condition::Degraded).0, "acme", "GET", "/readyz").await.status, 200);
        assert_eq!(call(&probes(Condition::Failing).0, "acme", "GET", "/readyz").await.status, 503);
    }
}
