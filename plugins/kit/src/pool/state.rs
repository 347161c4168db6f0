//! What a pool knows of its queue and its tasks.
//!
//! Invariant: decides, and calls nobody.

use crate::job::Job;
use std::collections::{HashMap, VecDeque};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// How many jobs wait for each task that will take some, before another one is woken or started.
const BEHIND: usize = 3;

/// Jobs, tasks and how many of these do what.
#[derive(Default)]
pub struct State {
    pub queue: VecDeque<Job>,
    pub id_last: u64,
    pub tasks: HashMap<u64, Option<AbortHandle>>,
    /// Tasks that will look at the queue before anything else: connecting or idle.
    pub waiting: usize,
    /// Idle tasks alone.
    pub idle: usize,
    /// Idle tasks that were woken and have not looked at the queue since.
    pub woken: usize,
    /// Tasks whose session is open.
    pub open: usize,
    /// Somebody looks for jobs that wait long.
    pub patrolled: bool,
    pub hold_until: Option<Instant>,
    /// The server was too slow to greet once: jobs wait for it until it fails or is fast again.
    pub slow: bool,
    pub closing: bool,
}

impl State {
    /// Tells whether there are more jobs than those who serve, or are about to, shall have behind them.
    pub fn is_deep(&self) -> bool {
        let (connecting, busy) = (self.waiting.saturating_sub(self.idle), self.open.saturating_sub(self.idle));
        let about_to = connecting + self.woken.min(self.idle);
        self.queue.len() > busy * BEHIND + about_to * (BEHIND + 1)
    }

    /// Takes the oldest job whose caller still waits.
    pub fn pop(&mut self) -> Option<Job> {
        if self.closing {
            return None;
        }
        while let Some(job) = self.queue.pop_front() {
            if !job.is_cancelled() {
                return Some(job);
            }
        }
        None
    }
}
