//! What comes back from the clients, on its way to the engine.
//!
//! Rows come back one by one and are recorded many a commit: the engine is woken for the first that comes, or for as many
//! as are worth a commit, and not for each.
//!
//! Invariant: what was pushed is taken once, in the order in which it came.

use crate::clock::{Clock, Now};
use crate::warmup::store::Claimed;
use postwarm_plugin_api::{Cause, Outcome};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// A row that came back.
pub struct Done {
    pub claimed: Arc<Claimed>,
    pub outcome: Result<Outcome, Unmade>,
    pub at: Now,
}

/// A message was not made, and so not handed to its client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmade {
    /// The email itself cannot be rendered, and never will be.
    #[error("{0}")]
    Content(String),
    /// Something else is wrong, that may be put right: the database, the keys, the task.
    #[error("{0}")]
    Now(String),
}

/// Where rows go back to.
#[derive(Clone)]
pub struct Back {
    pub returns: Arc<Returns>,
    pub clock: Arc<dyn Clock>,
}

impl Back {
    /// Gives a row back that no client has seen.
    pub fn unsent(&self, claimed: Arc<Claimed>, words: &str) {
        let outcome = Outcome::NotAttempted { cause: Cause::Stopping, detail: words.to_owned() };
        self.returns.push(Done { claimed, outcome: Ok(outcome), at: self.clock.now() });
    }
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
