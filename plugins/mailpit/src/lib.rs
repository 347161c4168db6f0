//! Sends to Mailpit and reads from its HTTP API what became of mail.
//!
//! Invariant: reading leaves no trace in Mailpit ([`api`]).

pub mod api;
pub mod client;
pub mod feedback;
pub mod scan;
pub mod settings;
pub mod time;

#[cfg(test)]
mod tests;
