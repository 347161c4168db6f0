//! Keeps `/metrics` true and small: what is sampled, and the upkeep that the recorder wants from its owner.
//!
//! Invariant: works at a pace of its own, whether anybody reads the metrics or not.

use crate::app::Shared;
use crate::warmup::sqlite::SqliteStore;
use std::sync::Arc;
use std::time::Duration;

/// How old a sampled figure may be. Samples of durations are kept until the upkeep adds them up.
const EVERY: Duration = Duration::from_secs(5);

/// Adds up what was recorded, for as long as the process runs.
pub fn keep_up(shared: &Shared) {
    let metrics = shared.metrics.clone();
    shared.supervisor.spawn_endless("the upkeep of the metrics", async move {
        loop {
            metrics.run_upkeep();
            tokio::time::sleep(EVERY).await;
        }
    });
}

/// Shows how much is under way in warmup's database.
pub fn sample(shared: &Shared, store: Arc<SqliteStore>) {
    shared.supervisor.spawn_endless("the sampling of the metrics", async move {
        loop {
            match store.depth().await {
                Ok(depth) => depth.show(),
                Err(error) => tracing::debug!(%error, "what is under way could not be counted"),
            }
            tokio::time::sleep(EVERY).await;
        }
    });
}
