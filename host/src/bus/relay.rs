//! The relay: empties an outbox into the event log.
//!
//! Invariant: a row is forgotten only after the log has it durably; after a failure the same records are published
//! again, which is harmless.

use crate::bus::sealed::Sealed;
use crate::bus::throttle::{Say, Throttle};
use crate::bus::{EventLog, LogError, Outbox, OutboxError};
use crate::clock::Clock;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Records of one publish, and those of a commit more.
const BATCH_MAX: usize = 4000;
/// How long the relay lets records gather, so that a busy time has few and large publishes.
const LINGER: Duration = Duration::from_millis(100);
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
                        }
                        if moved < BATCH_MAX {
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

    /// Moves one batch; answers how many records it had.
    async fn step(&self) -> Result<usize, RelayError> {
        let pending = self.outbox.pending(BATCH_MAX).await?;
        let oldest_at = pending.iter().flat_map(|row| &row.batches).map(|batch| batch.oldest).min();
        self.lock().oldest_at = oldest_at;
        let lag_ms = oldest_at.map_or(0, |at| (self.clock.now().wall_ms - at).max(0));
        metrics::gauge!("postwarm_relay_lag_seconds").set(lag_ms as f64 / 1000.0);
        let mut records = 0;
        if let Some(last) = pending.last().map(|row| row.number) {
            let batches: Vec<Sealed> = pending.into_iter().flat_map(|row| row.batches).collect();
            records = batches.iter().map(|batch| batch.count).sum();
            self.log.publish(batches).await?;
            self.outbox.published(last).await?;
            metrics::counter!("postwarm_events_published_total").increment(records as u64);
        }
        self.lock().last_error = None;
        Ok(records)
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().expect("nobody panics while he holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::batch::Batch;
    use crate::bus::{Consumer, Outgoing, Position, Topic, contract};
    use crate::clock::ManualClock;
    use futures_util::poll;
    use std::pin::pin;
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
        /// How many records each publish had.
        sizes: Mutex<Vec<usize>>,
    }

    impl Flaky {
        fn that_fails(publishes: usize) -> Arc<Flaky> {
            Arc::new(Flaky { fail: Mutex::new(publishes), failed: Notify::new(), got: Mutex::default(), sizes: Mutex::default() })
        }
    }

    /// A row of two records.
    fn row(number: i64) -> Outgoing {
        let records = [2 * number - 1, 2 * number].map(|n| contract::record(Topic::Recipients, "a", n));
        Outgoing { number, batches: records.into_iter().collect::<Batch>().seal() }
    }

    fn outbox(numbers: std::ops::RangeInclusive<i64>) -> Arc<Rows> {
        Arc::new(Rows { rows: Mutex::new(numbers.map(row).collect()), ..Rows::default() })
    }

    #[async_trait::async_trait]
    impl EventLog for Flaky {
        async fn publish(&self, batches: Vec<Sealed>) -> Result<(), LogError> {
            let mut fail = self.fail.lock().unwrap();
            if *fail > 0 {
                *fail -= 1;
                self.failed.notify_one();
                return Err(LogError::Unavailable("away".into()));
            }
            let batch: Batch = batches.iter().map(|batch| batch.open().unwrap()).collect();
            self.sizes.lock().unwrap().push(batch.len());
            self.got.lock().unwrap().append(&batch);
            Ok(())
        }
        async fn consume(&self, _: &[Topic], _: &[Position]) -> Result<Box<dyn Consumer>, LogError> {
            Err(LogError::Unavailable("not in this test".into()))
        }
    }

    #[tokio::test]
    async fn a_log_that_is_away_keeps_the_rows_and_gets_them_all_in_order_later() {
        let (outbox, log) = (outbox(1..=2500), Flaky::that_fails(2));
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

    #[tokio::test]
    async fn records_that_keep_coming_gather_between_publishes() {
        let (outbox, log, clock) = (outbox(1..=1), Flaky::that_fails(0), Arc::new(ManualClock::at(0)));
        let relay = Relay::new(outbox.clone(), log.clone(), clock.clone());
        let mut running = pin!(relay.run(CancellationToken::new()));
        let sizes = || log.sizes.lock().unwrap().clone();
        let add = |number| {
            outbox.rows.lock().unwrap().push(row(number));
            outbox.added.notify_one();
        };
        let ms = |ms| clock.advance(Duration::from_millis(ms));
        assert!(poll!(&mut running).is_pending());
        add(2);
        ms(99);
        add(3);
        assert!(poll!(&mut running).is_pending());
        assert_eq!(sizes(), [2]);
        ms(1);
        assert!(poll!(&mut running).is_pending());
        assert_eq!(sizes(), [2, 4]);
        // Nothing has come for a while; what comes then waits for company too.
        for _ in 0..3 {
            ms(100);
            assert!(poll!(&mut running).is_pending());
        }
        add(4);
        assert!(poll!(&mut running).is_pending());
        add(5);
        ms(100);
        assert!(poll!(&mut running).is_pending());
        assert_eq!(sizes(), [2, 4, 4]);
    }

    #[tokio::test]
    async fn a_relay_that_is_behind_goes_on_at_once() {
        let (log, clock) = (Flaky::that_fails(0), Arc::new(ManualClock::at(0)));
        let relay = Relay::new(outbox(1..=2500), log.clone(), clock);
        let mut running = pin!(relay.run(CancellationToken::new()));
        assert!(poll!(&mut running).is_pending());
        assert_eq!(*log.sizes.lock().unwrap(), [BATCH_MAX, 1000]);
    }
}
