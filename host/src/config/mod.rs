//! The configuration: TOML files to typed settings, all problems at once.
//!
//! Invariant: a `Settings` is whole and checked; whoever holds one needs no file. Secrets are resolved when an instance
//! is made, never when a file is read, and never printed.

pub mod settings;
