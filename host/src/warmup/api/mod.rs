//! The REST API of warmup: one file per endpoint group. `docs/API.md` describes every route.
//!
//! Invariant: everything that comes in is validated here and nowhere later; an organization sees only its own objects,
//! and another's look absent.

pub mod csv;
pub mod deliveries;
pub mod emails;
pub mod import;
pub mod rows;
pub mod send;
pub mod sender;
pub mod state;
pub mod unsubscribe;
pub mod users;

#[cfg(test)]
mod naughty_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unsubscribe_tests;
#[cfg(test)]
mod wire_tests;

use crate::http::layers;
use crate::http::openapi;
use crate::http::probes;
use crate::http::probes::Probes;
use crate::warmup::api::state::{Api, ApiState};
use axum::Router;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Routes without a deadline as a whole; they watch that their body goes on.
const UNTIMED: &[&str] = &["/users/import"];

/// The router of the warmup service, with all layers.
pub fn router(state: ApiState, probes: Probes) -> Router {
    let document = probes.document.clone();
    let (router, openapi) = parts(state, probes);
    // A second set would be another router of the same probes: the documents are equal.
    let _ = document.set(openapi::write(&openapi));
    layers::wrap(router, "warmup", UNTIMED)
}

fn parts(state: ApiState, probes: Probes) -> (Router, OpenApi) {
    let description = "Registers users, broadcasts emails, tells what became of each delivery.";
    let (router, document) = OpenApiRouter::with_openapi(openapi::document("Postwarm warmup", description))
        .routes(routes!(users::register_user))
        .routes(routes!(send::send_email))
        .routes(routes!(users::list_users))
        .routes(routes!(import::import_users))
        .routes(routes!(users::show_user))
        .routes(routes!(users::list_email_ids))
        .routes(routes!(emails::list_emails))
        .routes(routes!(emails::show_email))
        .routes(routes!(deliveries::list_deliveries))
        .routes(routes!(deliveries::resolve_deliveries))
        .routes(routes!(unsubscribe::show_unsubscribe, unsubscribe::unsubscribe))
        .with_state(Api::new(state))
        .merge(probes::router(probes))
        .split_for_parts();
    (router, openapi::finish(document))
}
