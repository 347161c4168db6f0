//! Postwarm itself, through the public interfaces of the real binary: both services in one process, state with FULL sync,
//! relay and health at work, as `make run` starts them.

pub mod broadcast;
pub mod content;
pub mod enqueue;
pub mod ledger;
mod looks;
mod service;
pub mod setup;

/// Runs what asks the product something, on this thread.
fn wait_for<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made").block_on(work)
}
