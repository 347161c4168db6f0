//! The health service: what became of every message, from the event log and the feedback loops.
//!
//! Invariant: never imports `warmup`. The ledger is fed by the log alone, so that it can be deleted and replayed.

pub mod charge;
pub mod figures;
pub mod projector;
pub mod sqlite;
pub mod store;
pub mod tally;
#[cfg(test)]
pub mod testing;
