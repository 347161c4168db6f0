//! What plugins share: the SMTP session, the connection pool, reply classification, the cursor of a feedback loop.
//!
//! A provider is a [`preset::Preset`]: defaults and a table of [`classify`]. A plugin that needs more reads its settings with
//! [`settings::ServerSettings::parse`], or others with [`fields::Fields`], and makes a [`client::Client`].
//!
//! Invariant: depends on the plugin contract and on no provider; providers are tables in their own crates.

pub mod classify;
pub mod client;
pub mod cursor;
pub mod fields;
pub mod preflight;
pub mod preset;
pub mod reply;
pub mod schema;
pub mod session;
pub mod settings;
pub mod stuff;

mod connection;
mod handshake;
mod idle;
mod job;
mod pool;
mod tls;
mod transaction;
mod verdict;
mod wire;

#[cfg(test)]
mod tests;
