//! The commands. Each returns its exit code and writes to the writers that it is given.

pub mod arguments;
pub mod check;
pub mod healthcheck;
pub mod key;
pub mod plugin;
pub mod run;
mod scheduling;
mod scratch;
pub mod serve;
mod threads;
