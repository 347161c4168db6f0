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

/// How many rows are worth a commit of their own.
pub const COMPANY: usize = 48;

/// A row that came back.
pub struct Done {
    pub claimed: Arc<Claimed>,
    pub outcome: Result<Outcome, Unmade>,
    pub at: Now,
}

/// Rows that came back and were not taken yet.
#[derive(Default)]
pub struct Returns {
    came: Mutex<Vec<Done>>,
    first: Notify,
    company: Notify,
}

impl Returns {
    pub fn push(&self, done: Done) {
        let mut came = self.lock();
        came.push(done);
        let count = came.len();
        drop(came);
        match count {
            1 => self.first.notify_one(),
            COMPANY => self.company.notify_one(),
            _ => {}
        }
    }

    /// Takes the oldest, at most `max`.
    pub fn take(&self, max: usize) -> Vec<Done> {
        let mut came = self.lock();
        let count = came.len().min(max);
        came.drain(..count).collect()
    }

    /// Resolves when a row has come. For one waiter at a time.
    pub async fn any(&self) {
        while self.lock().is_empty() {
            self.first.notified().await;
        }
    }

    /// Resolves when there are enough for a commit. For one waiter at a time.
    pub async fn company(&self) {
        while self.lock().len() < COMPANY {
            self.company.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Done>> {
        self.came.lock().expect("nobody panics while he holds this lock")
    }
}
