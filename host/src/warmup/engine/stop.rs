//! How the engine ends, and what it finds of one that ended otherwise: rows whose reply nobody will learn.
//!
//! Invariant: a stop makes a row unknown only where a client does not know what became of it, or does not say so in time; a kill,
//! wherever a client may have had it.

use crate::clock::Now;
use crate::warmup::engine::{Engine, settle};
use crate::warmup::store::{Claimed, Recorded};
use std::sync::Arc;
use std::time::Duration;

/// Why a row is unknown that an earlier process had in hand.
const CRASHED: &str = "the process ended while a client had the message in hand";
/// Why a row is unknown whose reply had not come when the drain ended.
const STOPPED: &str = "the process stopped before the reply came";
/// How long a client has, after its time is up, to say what became of what it had: what it never sent in full is in no doubt.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

impl Engine {
    /// Takes back what an earlier process counted. What it had in hand is unknown; that counts too, wherever it was taken from.
    pub(super) async fn settle_left(&mut self) -> anyhow::Result<()> {
        let (counted, left) = (self.queue.usage().await?, self.queue.in_hand().await?);
        let now = self.clock.now();
        self.limits.lock().restore(counted, left.len() as u64, now);
        if left.is_empty() {
            return Ok(());
        }
        tracing::warn!(rows = left.len(), "rows that an earlier process had in hand are unknown now");
        for claimed in left {
            self.doubt(Arc::new(claimed), CRASHED, now);
        }
        self.commit(Vec::new()).await?;
        Ok(())
    }

    /// Takes no new row, lets the running messages end, records them. What still waits for its reply becomes unknown.
    pub(super) async fn drain(mut self) {
        self.draining = true;
        for (row, _) in std::mem::take(&mut self.handed) {
            self.organizations.back().unsent(row, "the process stops");
        }
        let grace = self.settings.borrow().process.drain_max;
        let closing = self.organizations.close(grace);
        let clock = self.clock.clone();
        let most = grace + LAST_ANSWERS;
        let until = clock.now().boot_ms + most.as_millis() as i64;
        let deadline = clock.sleep(most);
        tokio::pin!(deadline, closing);
        let mut closed = false;
        let mut waiting = true;
        while waiting && (!self.hands.is_empty() || !self.recorded.is_empty()) {
            if self.recorded.is_empty() {
                tokio::select! {
                    () = self.returns.any() => {}
                    () = &mut closing, if !closed => closed = true,
                    () = &mut deadline => waiting = false,
                }
            }
            self.gather();
            if !self.recorded.is_empty() {
                self.turn(Vec::new()).await;
                waiting &= self.clock.now().boot_ms < until;
            }
        }
        // What came back while the last turn was committed is in no doubt.
        for done in self.returns.take(usize::MAX) {
            self.take_in(done);
        }
        let left = self.hands.take_all();
        if left.is_empty() && self.recorded.is_empty() {
            if !closed {
                closing.await;
            }
            return;
        }
        tracing::warn!(rows = left.len(), "the drain has ended; what waits for its reply is unknown now");
        let now = clock.now();
        for hand in left {
            self.limits.lock().settle(&hand.scopes, 1, now.boot_ms);
            self.doubt(hand.claimed, STOPPED, now);
        }
        if let Err(error) = self.commit(Vec::new()).await {
            tracing::error!(%error, "the unknown rows are listed at the next start");
        }
    }

    /// Notes that nobody will learn what became of a row.
    fn doubt(&mut self, claimed: Arc<Claimed>, words: &str, now: Now) {
        let settings = self.organizations.get(claimed.delivery.org).map(|running| &*running.settings);
        let result = settle::in_doubt(settings, words, now.wall_ms);
        self.view.settled(&claimed, &result, now);
        self.recorded.push(Recorded { claimed, result, at: now.wall_ms });
    }
}
