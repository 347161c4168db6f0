//! How the engine ends, and what it finds of one that ended otherwise: rows whose reply nobody will learn.
//!
//! Invariant: a stop makes a row unknown only where a client does not know what became of it, or does not say so in time; a kill,
//! where the end of its data may have left and no answer had come, or where the marks that would tell are not believed.

use crate::clock::Now;
use crate::warmup::engine::returns::Done;
use crate::warmup::engine::{Engine, settle};
use crate::warmup::marks::answer::Answer;
use crate::warmup::marks::{MarksFile, Reached, Stays};
use crate::warmup::store::{Claimed, Recorded, Settled};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinError;

/// Why a row is unknown that an earlier process had in hand.
const CRASHED: &str = "the process ended while the message may have been on its way";
/// Why a row is unknown whose reply had not come when the drain ended.
const STOPPED: &str = "the process stopped before the reply came";
/// How long a client has, after its time is up, to say what became of what it had: what it never sent in full is in no doubt.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

impl Engine {
    /// Takes back what an earlier process counted, and settles what it had in hand: what was answered as its server said, unknown is
    /// what else may have left, and the rest is sent again. What a client was given counts, wherever it was taken from. Then what
    /// leaves is marked anew.
    pub(super) async fn settle_left(&mut self, marks: &MarksFile) -> anyhow::Result<()> {
        let (counted, left) = (self.queue.usage().await?, self.queue.in_hand().await?);
        self.turn_last = self.queue.last_turn().await?;
        let now = self.clock.now();
        let reached = if left.is_empty() { Vec::new() } else { reached(&left, marks, self.turn_last)? };
        let tried = reached.iter().filter(|reached| **reached != Reached::Nobody).count();
        self.limits.lock().restore(counted, tried as u64, now);
        for (claimed, reached) in left.into_iter().map(Arc::new).zip(reached) {
            match reached {
                Reached::Nobody | Reached::Client => self.settled(claimed, Settled::Returned { next_at: now.wall_ms }, now),
                Reached::Wire => self.doubt(claimed, CRASHED, now),
                Reached::Answered(Answer { outcome, at }) => {
                    let at = Now { wall_ms: at, ..now };
                    self.answered(Done { claimed, outcome: Ok(outcome), at });
                }
            }
        }
        if !self.recorded.is_empty() {
            self.commit(Vec::new()).await?;
        }
        // Not before: a kill up to here must find what the process before this one marked.
        self.marks = marks.begin(self.turn_last, self.sending_rows_max)?;
        Ok(())
    }

    /// Takes no new row, lets the running messages end, records them. What still waits for its reply becomes unknown.
    pub(super) async fn drain(mut self) {
        self.draining = true;
        for ready in std::mem::take(&mut self.handed) {
            self.organizations.back().unsent(ready.claimed, "the process stops");
        }
        let grace = self.settings.borrow().process.drain_max;
        // By itself: it must go on while a turn waits for the disk.
        let mut closing = self.organizations.close(grace);
        let clock = self.clock.clone();
        let most = grace + LAST_ANSWERS;
        let until = clock.now().boot_ms + most.as_millis() as i64;
        let deadline = clock.sleep(most);
        tokio::pin!(deadline);
        let mut closed = false;
        let mut waiting = true;
        while waiting && (!self.hands.is_empty() || !self.recorded.is_empty()) {
            if self.recorded.is_empty() {
                tokio::select! {
                    () = self.returns.any() => {}
                    ended = &mut closing, if !closed => closed = has_closed(ended),
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
                has_closed(closing.await);
            }
            return;
        }
        tracing::warn!(rows = left.len(), "the drain has ended; what waits for its reply is unknown now");
        let now = clock.now();
        for hand in left {
            self.limits.lock().settle(&hand.scopes, 1, now.boot_ms);
            self.marks.leaves(hand.place);
            self.doubt(hand.claimed, STOPPED, now);
        }
        if let Err(error) = self.commit(Vec::new()).await {
            tracing::error!(%error, "what is unknown is found by its marks at the next start");
        }
    }

    /// Notes that nobody will learn what became of a row.
    fn doubt(&mut self, claimed: Arc<Claimed>, words: &str, now: Now) {
        let settings = self.organizations.get(claimed.delivery.org).map(|running| &*running.settings);
        let result = settle::in_doubt(settings, words, now.wall_ms);
        self.settled(claimed, result, now);
    }

    /// Settles what a server said to an earlier process, as of then. It says nothing of the clients of this one.
    fn answered(&mut self, done: Done) {
        let result = match self.organizations.get(done.claimed.delivery.org) {
            Some(org) => settle::settle(&done, &org.settings, &self.steady, self.random.f64(), true),
            None => settle::without_organization(&done),
        };
        self.settled(done.claimed, result, done.at);
    }

    fn settled(&mut self, claimed: Arc<Claimed>, result: Settled, now: Now) {
        self.view.settled(&claimed, &result, now);
        self.recorded.push(Recorded { claimed, result, at: now.wall_ms });
    }
}

/// Clients close once, however that ended.
fn has_closed(ended: Result<(), JoinError>) -> bool {
    if let Err(error) = ended {
        tracing::error!(%error, "closing the clients ended badly");
    }
    true
}

/// How far each row came that an earlier process left in `sending`: as it marked, or as far as can be.
fn reached(left: &[Claimed], marks: &MarksFile, turn: i64) -> Result<Vec<Reached>, Stays> {
    let marked = marks.left(turn);
    if marked.is_err() {
        marks.take_away()?;
    }
    let reached: Vec<Reached> =
        left.iter().map(|row| marked.as_ref().map_or(Reached::Wire, |marked| marked.of(row.delivery, row.attempt))).collect();
    let count = |which: fn(&Reached) -> bool| reached.iter().filter(|reached| which(reached)).count();
    let unknown = count(|reached| *reached == Reached::Wire);
    let answered = count(|reached| matches!(reached, Reached::Answered(_)));
    match marked {
        Ok(_) => tracing::warn!(
            rows = left.len(),
            unknown,
            answered,
            "an earlier process was killed; what was answered is settled so, only what else may have left is unknown now, and the rest is sent again"
        ),
        Err(why) => {
            tracing::warn!(rows = left.len(), unknown, %why, "an earlier process was killed; all that it had in hand is unknown now")
        }
    }
    Ok(reached)
}
