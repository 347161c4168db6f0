//! One connection's task in its pool, from connecting to its end.
//!
//! Invariant: however it ends, its place is given back, and another one is called where jobs wait.

use crate::connection::Connection;
use crate::handshake::{self, Failure};
use crate::pool::{HAND_OVER, HOLD, Help, Pool, answer_queued};
use postwarm_plugin_api::Cause;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::{Instant, timeout_at};

#[derive(PartialEq, Eq, Clone, Copy)]
pub enum Stage {
    /// Nothing of it has run.
    Spawned,
    Connecting,
    Open,
}

/// One task's place in the pool, given back however the task ends.
pub struct Seat {
    pub pool: Arc<Pool>,
    pub id: u64,
    pub stage: Stage,
}

impl Seat {
    pub async fn run(mut self) {
        self.stage = Stage::Connecting;
        let pool = Arc::clone(&self.pool);
        let (began, greeted) = (Instant::now(), AtomicBool::default());
        let opening = async {
            let mut opening = pin!(handshake::open(&pool.settings, &pool.tls, &greeted));
            match timeout_at(began + HAND_OVER, &mut opening).await {
                Ok(opened) => opened,
                Err(_) => {
                    if !greeted.load(Ordering::Relaxed) {
                        self.hand_back();
                    }
                    opening.await
                }
            }
        };
        let opened = tokio::select! {
            opened = opening => opened,
            () = pool.closing() => return,
        };
        match opened {
            Ok(session) => {
                self.opened(began.elapsed() < HAND_OVER);
                Connection::new(session, &pool).serve().await;
            }
            Err(failure) => self.failed(&failure),
        }
    }

    /// Gives back what waits for a server that does not greet, unless another session works or it is known as slow.
    fn hand_back(&self) {
        let mut state = self.pool.state();
        if state.open > 0 || std::mem::replace(&mut state.slow, true) {
            return;
        }
        let settings = &self.pool.settings;
        let detail = format!("{}:{}: no greeting within {HAND_OVER:?}; it is still waited for", settings.host, settings.port);
        answer_queued(state, |job| job.resolve_broken(Cause::Connect, detail.clone()));
    }

    fn opened(&mut self, quickly: bool) {
        let mut state = self.pool.state();
        self.stage = Stage::Open;
        state.waiting -= 1;
        state.open += 1;
        state.hold_until = None;
        state.slow &= !quickly;
    }

    /// With other sessions open the queue is theirs, and no new one is tried for a while. Else every queued job would
    /// meet the same failure, so all of them get it now, and the host can hand over at once.
    fn failed(&self, failure: &Failure) {
        let mut state = self.pool.state();
        tracing::debug!(cause = ?failure.cause, detail = %failure.detail, "smtp session failed");
        if state.open > 0 {
            state.hold_until = Some(Instant::now() + HOLD);
            return;
        }
        answer_queued(state, |job| job.resolve_broken(failure.cause, failure.detail.clone()));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        match self.stage {
            Stage::Spawned | Stage::Connecting => state.waiting -= 1,
            Stage::Open => state.open -= 1,
        }
        state.tasks.remove(&self.id);
        // A runtime that shuts down drops a task that it never ran, and would do the same to the next one.
        let unwanted = self.stage == Stage::Spawned || state.queue.is_empty();
        let next = if unwanted { Help::Nobody } else { self.pool.help(&mut state) };
        drop(state);
        self.pool.call(next);
        self.pool.ended.notify_waiters();
    }
}
