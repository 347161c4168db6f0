//! What comes back from the clients, on its way to the engine.
//!
//! Rows come back one by one and are recorded many a commit: the engine is woken for the first that comes, or for as many
//! as are worth a commit, and not for each.
//!
//! Invariant: what was pushed is taken once, in the order in which it came.

use crate::clock::Now;
use crate::warmup::engine::dispatch::Unmade;
use crate::warmup::store::Claimed;
use postwarm_plugin_api::Outcome;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// A row that came back.
pub struct Done {
    pub claimed: Arc<Claimed>,
    pub outcome: Result<Outcome, Unmade>,
    pub at: Now,
}

#[derive(Default)]
struct Came {
    rows: Vec<Done>,
    /// How many the engine waits for.
    enough: usize,
}

/// Rows that came back and were not taken yet.
#[derive(Default)]
pub struct Returns {
    came: Mutex<Came>,
    first: Notify,
    company: Notify,
}

impl Returns {
    pub fn push(&self, done: Done) {
        let mut came = self.lock();
        came.rows.push(done);
        let (count, enough) = (came.rows.len(), came.enough);
        drop(came);
        if count == 1 {
            self.first.notify_one();
        }
        if count == enough {
            self.company.notify_one();
        }
    }

    /// How many have come and were not taken yet.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.lock().rows.len()
    }

    /// Takes the oldest, at most `max`.
    pub fn take(&self, max: usize) -> Vec<Done> {
        let mut came = self.lock();
        let count = came.rows.len().min(max);
        came.rows.drain(..count).collect()
    }

    /// Resolves when a row has come. For one waiter at a time.
    pub async fn any(&self) {
        while self.lock().rows.is_empty() {
            self.first.notified().await;
        }
    }

    /// Resolves when there are enough for a commit. For one waiter at a time.
    pub async fn company(&self, enough: usize) {
        while !self.are(enough) {
            self.company.notified().await;
        }
    }

    fn are(&self, enough: usize) -> bool {
        let mut came = self.lock();
        came.enough = enough;
        came.rows.len() >= enough
    }

    fn lock(&self) -> MutexGuard<'_, Came> {
        self.came.lock().expect("nobody panics while he holds this lock")
    }
}
