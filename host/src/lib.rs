//! Postwarm: sends an organization's mail to all its users through the SMTP providers it prefers, and measures what
//! became of every message. `docs/ARCHITECTURE.md` is the map; its import table is tested.

pub mod app;
pub mod bus;
pub mod cli;
pub mod clock;
pub mod config;
pub mod db;
pub mod health;
pub mod http;
pub mod model;
pub mod registry;
pub mod warmup;
