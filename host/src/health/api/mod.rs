//! The REST API of health. `docs/API.md` describes every route.
//!
//! Invariant: answers come from the ledger and from what the loops say of themselves; an organization sees only its own
//! emails and domains, and another's look absent.

pub mod domains;
pub mod mail_stats;

#[cfg(test)]
mod tests;

use crate::clock::Clock;
use crate::config::settings::Settings;
use crate::db::DbError;
use crate::health::charge::Charge;
use crate::health::store::Ledger;
use crate::http::auth::{Auth, Keys};
use crate::http::error::{ApiError, Code};
use crate::http::layers;
use crate::http::openapi;
use crate::http::probes;
use crate::http::probes::Probes;
use axum::Router;
use axum::extract::FromRef;
use std::sync::Arc;
use tokio::sync::watch;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Seconds after which a client may try again when the database was not available.
const STORE_RETRY_SECS: u64 = 5;

/// What the API needs.
#[derive(Clone)]
pub struct ApiState {
    pub ledger: Arc<dyn Ledger>,
    /// `Pollers::subscribe`.
    pub charge: watch::Receiver<Charge>,
    pub settings: watch::Receiver<Arc<Settings>>,
    pub keys: Arc<dyn Keys>,
    pub clock: Arc<dyn Clock>,
}

/// The handlers' state.
#[derive(Clone)]
pub struct Api {
    ledger: Arc<dyn Ledger>,
    charge: watch::Receiver<Charge>,
    auth: Arc<Auth>,
}

impl Api {
    fn charge(&self) -> Charge {
        self.charge.borrow().clone()
    }
}

impl FromRef<Api> for Arc<Auth> {
    fn from_ref(api: &Api) -> Arc<Auth> {
        api.auth.clone()
    }
}

/// The router of the health service, with all layers.
pub fn router(state: ApiState, probes: Probes) -> Router {
    let document = probes.document.clone();
    let (router, openapi) = parts(state, probes);
    // A second set would be another router of the same probes: the documents are equal.
    let _ = document.set(openapi::write(&openapi));
    layers::wrap(router, "health", &[])
}

fn parts(state: ApiState, probes: Probes) -> (Router, OpenApi) {
    let auth = Arc::new(Auth::new(state.keys, state.settings, state.clock));
    let api = Api { ledger: state.ledger, charge: state.charge, auth };
    let (router, document) = OpenApiRouter::with_openapi(openapi::document("Postwarm health", "Tells what became of every email."))
        .routes(routes!(mail_stats::show_mail_stats))
        .routes(routes!(mail_stats::list_all_mail_stats))
        .routes(routes!(domains::list_domains))
        .with_state(api)
        .merge(probes::router(probes))
        .split_for_parts();
    (router, openapi::finish(document))
}

impl From<DbError> for ApiError {
    fn from(error: DbError) -> ApiError {
        tracing::error!(%error, "a request could not use the health database");
        ApiError::new(Code::StoreUnavailable, "the database is not available at the moment; try again").retry_after(STORE_RETRY_SECS)
    }
}
