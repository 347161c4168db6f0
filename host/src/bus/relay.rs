//! The relay: empties an outbox into the event log.
//!
//! Invariant: a row is forgotten only after the log has it durably; after a failure the same records are published
//! again, which is harmless.

use crate::bus::batch::Batch;
use crate::bus::throttle::{Say, Throttle};
use crate::bus::{EventLog, LogError, Outbox, OutboxError};
use crate::clock::Clock;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Records of one publish, and those of a commit more.
const BATCH_MAX: usize = 2000;
/// How long the relay waits for company after the first record, so that a busy time has few and large publishes.
const LINGER: Duration = Duration::from_millis(25);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// Moves records from outbox to log.
pub struct Relay {
    outbox: Arc<dyn Outbox>,
    log: Arc<dyn EventLog>,
    clock: Arc<dyn Clock>,
    progress: Mutex<Progress>,
}

/// How far the relay is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// When the oldest event happened that is not in the log yet, in milliseconds since 1970 UTC; `None`: all are.
    pub oldest_at: Option<i64>,
    /// What its last attempt failed with.
    pub last_error: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

impl Relay {
    pub fn new(outbox: Arc<dyn Outbox>, log: Arc<dyn EventLog>, clock: Arc<dyn Clock>) -> Relay {
        Relay { outbox, log, clock, progress: Mutex::default() }
    }

    /// How far it is, for `/readyz`.
    pub fn progress(&self) -> Progress {
        self.lock().clone()
    }

    /// Runs until `stop`; what is pending then stays in the outbox.
    pub async fn run(&self, stop: CancellationToken) {
        let (mut backoff, mut throttle) = (BACKOFF_MIN, Throttle::default());
        let work = async {
            loop {
                match self.step().await {
                    Ok(moved) => {
                        backoff = BACKOFF_MIN;
                        self.tell(throttle.worked(), "");
                        if moved == 0 {
                            self.outbox.wait().await;
                            self.clock.sleep(LINGER).await;
                        }
                    }
                    Err(error) => {
                        metrics::counter!("postwarm_relay_failures_total").increment(1);
                        self.tell(throttle.failed(self.clock.now().boot_ms), &error.to_string());
                        self.lock().last_error = Some(error.to_string());
                        self.clock.sleep(backoff).await;
                        backoff = (backoff * 2).min(BACKOFF_MAX);
                    }
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    fn tell(&self, say: Say, error: &str) {
        let secs = |since_ms| (self.clock.now().boot_ms - since_ms) / 1000;
        match say {
            Say::Nothing => {}
            Say::Began => tracing::warn!(error, "events wait in the outbox"),
            Say::Still { since_ms, suppressed } => {
                tracing::warn!(error, secs = secs(since_ms), suppressed, "events still wait in the outbox")
            }
            Say::Over { since_ms, suppressed } => tracing::warn!(secs = secs(since_ms), suppressed, "the event log takes events again"),
        }
    }

    /// Publishes all that is pending, once; for the end of a drain.
    ///
    /// Errors are those of the log or the outbox, as text.
    pub async fn drain(&self) -> Result<(), String> {
        while self.step().await.map_err(|e| e.to_string())? > 0 {}
        Ok(())
    }

    /// Moves one batch; answers how many rows it had.
    async fn step(&self) -> Result<usize, RelayError> {
        let pending = self.outbox.pending(BATCH_MAX).await?;
        let oldest_at = pending.iter().flat_map(|row| row.batch.records()).next().map(|oldest| oldest.at);
        self.lock().oldest_at = oldest_at;
        let lag_ms = oldest_at.map_or(0, |at| (self.clock.now().wall_ms - at).max(0));
        metrics::gauge!("postwarm_relay_lag_seconds").set(lag_ms as f64 / 1000.0);
        let (rows, last) = (pending.len(), pending.last().map(|row| row.number));
        if let Some(last) = last {
            let batch: Batch = pending.into_iter().map(|row| row.batch).collect();
            let count = batch.len() as u64;
            self.log.publish(batch).await?;
            self.outbox.published(last).await?;
            metrics::counter!("postwarm_events_published_total").increment(count);
        }
        self.lock().last_error = None;
        Ok(rows)
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().expect("nobody panics while he holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Consumer, Outgoing, Position, Topic, contract};
    use crate::clock::ManualClock;
    use tokio::sync::Notify;

    #[derive(Default)]
    struct Rows {
        rows: Mutex<Vec<Outgoing>>,
        added: Notify,
        emptied: Notify,
    }

    #[async_trait::async_trait]
    impl Outbox for Rows {
        async fn pending(&self, max: usize) -> Result<Vec<Outgoing>, OutboxError> {
            Ok(self.rows.lock().unwrap().iter().take(max.div_ceil(2)).cloned().collect())
        }
        async fn published(&self, number: i64) -> Result<(), OutboxError> {
            let mut rows = self.rows.lock().unwrap();
            rows.retain(|r| r.number > number);
            if rows.is_empty() {
                self.emptied.notify_one();
            }
            Ok(())
        }
        async fn wait(&self) {
            self.added.notified().await;
        }
    }

    /// Fails the first `fail` publishes.
    struct Flaky {
        fail: Mutex<usize>,
        failed: Notify,
        got: Mutex<Batch>,
    }

    #[async_trait::async_trait]
    impl EventLog for Flaky {
        async fn publish(&self, batch: Batch) -> Result<(), LogError> {
            let mut fail = self.fail.lock().unwrap();
            if *fail > 0 {
                *fail -= 1;
                self.failed.notify_one();
                return Err(LogError::Unavailable("away".into()));
            }
            self.got.lock().unwrap().append(&batch);
            Ok(())
        }
        async fn consume(&self, _: &[Topic], _: &[Position]) -> Result<Box<dyn Consumer>, LogError> {
            Err(LogError::Unavailable("not in this test".into()))
        }
    }

    #[tokio::test]
    async fn a_log_that_is_away_keeps_the_rows_and_gets_them_all_in_order_later() {
        let two = |number: i64| [2 * number - 1, 2 * number].map(|n| contract::record(Topic::Recipients, "a", n)).into_iter().collect();
        let outgoing = (1..=2500).map(|number| Outgoing { number, batch: two(number) }).collect();
        let outbox = Arc::new(Rows { rows: Mutex::new(outgoing), ..Rows::default() });
        let log = Arc::new(Flaky { fail: Mutex::new(2), failed: Notify::new(), got: Mutex::default() });
        let (clock, stop) = (Arc::new(ManualClock::at(0)), CancellationToken::new());
        let relay = Arc::new(Relay::new(outbox.clone(), log.clone(), clock.clone()));
        let running = tokio::spawn({
            let (relay, stop) = (relay.clone(), stop.clone());
            async move { relay.run(stop).await }
        });
        for _ in 0..2 {
            log.failed.notified().await;
            assert_eq!(outbox.rows.lock().unwrap().len(), 2500);
            tokio::task::yield_now().await;
            let away = "the event log is not available: away".to_owned();
            assert_eq!(relay.progress(), Progress { oldest_at: Some(1), last_error: Some(away) });
            clock.advance(BACKOFF_MAX);
        }
        outbox.emptied.notified().await;
        stop.cancel();
        running.await.unwrap();
        let got: Vec<i64> = log.got.lock().unwrap().records().map(|r| r.at).collect();
        assert_eq!(got, (1..=5000).collect::<Vec<_>>());
        relay.drain().await.unwrap();
        assert_eq!(relay.progress(), Progress::default());
    }
}
