//! The configuration: TOML files to typed settings, all problems at once.
//!
//! `loader` is the way in; `format` is the public format as data, `form` checks files against it, and `process`,
//! `providers`, `organization` and `clients` decode what passed. `live` keeps what runs and takes edits up.
//!
//! Invariant: a `Settings` is whole and checked; whoever holds one needs no file. Secrets are resolved when an instance
//! is made, never when a file is read, and never printed.

pub mod catalogue;
mod clients;
mod credentials;
pub mod dkim;
mod document;
pub mod files;
mod form;
mod format;
pub mod instance;
pub mod keys;
mod limits;
pub mod live;
pub mod loader;
mod organization;
mod overrides;
mod plugins;
pub mod problem;
mod process;
mod providers;
pub mod schema;
pub mod secrets;
pub mod serving;
pub mod settings;
mod texts;
pub mod watch;

#[cfg(test)]
pub mod tests;
