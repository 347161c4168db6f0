//! The warmup service: registers users, broadcasts emails, sends them within the limits, says what became of each.
//!
//! Invariant: it knows health only as a reader of the event log, and a provider only as a plugin.

pub mod api;
pub mod backoff;
pub mod engine;
pub mod limits;
pub mod mailbox_provider;
pub mod marks;
pub mod metrics;
pub mod progress;
pub mod render;
pub mod route;
pub mod sign;
pub mod sqlite;
pub mod store;

#[cfg(test)]
mod store_contract;
