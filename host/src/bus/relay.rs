//! The relay: empties an outbox into the event log.
//!
//! Invariant: a row is forgotten only after the log has it durably; after a failure the same records are published
//! again, which is harmless.

use crate::bus::{EventLog, LogError, Outbox, OutboxError};
use crate::clock::Clock;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Records of one publish, and those of a commit more.
const BATCH_MAX: usize = 2000;
/// How long the relay waits for company after the first record, so that a busy time has few and large publishes.
const LINGER: Duration = Duration::from_millis(10);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// Moves records from outbox to log.
pub struct Relay;

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

impl Relay {
    /// Runs until `stop`; what is pending then stays in the outbox.
    pub async fn run(outbox: Arc<dyn Outbox>, log: Arc<dyn EventLog>, clock: Arc<dyn Clock>, stop: CancellationToken) {
        let mut backoff = BACKOFF_MIN;
        let work = async {
            loop {
                match step(&*outbox, &*log, &*clock).await {
                    Ok(moved) => {
                        backoff = BACKOFF_MIN;
                        if moved == 0 {
                            outbox.wait().await;
                            clock.sleep(LINGER).await;
                        }
                    }
                    Err(error) => {
                        metrics::counter!("postwarm_relay_failures_total").increment(1);
                        tracing::warn!(%error, retry_after_ms = backoff.as_millis() as u64, "events wait in the outbox");
                        clock.sleep(backoff).await;
                        backoff = (backoff * 2).min(BACKOFF_MAX);
                    }
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Publishes all that is pending, once; for the end of a drain.
    ///
    /// Errors are those of the log or the outbox, as text.
    pub async fn drain(outbox: &dyn Outbox, log: &dyn EventLog, clock: &dyn Clock) -> Result<(), String> {
        while step(outbox, log, clock).await.map_err(|e| e.to_string())? > 0 {}
        Ok(())
    }
}

/// Moves one batch; answers how many rows it had.
async fn step(outbox: &dyn Outbox, log: &dyn EventLog, clock: &dyn Clock) -> Result<usize, RelayError> {
    let pending = outbox.pending(BATCH_MAX).await?;
    let oldest = pending.iter().flat_map(|row| &row.records).next();
    let lag_ms = oldest.map_or(0, |oldest| (clock.now().wall_ms - oldest.at).max(0));
    metrics::gauge!("postwarm_relay_lag_seconds").set(lag_ms as f64 / 1000.0);
    let Some(last) = pending.last().map(|row| row.number) else { return Ok(0) };
    let (rows, records) = (pending.len(), pending.into_iter().flat_map(|row| row.records).collect::<Vec<_>>());
    let count = records.len() as u64;
    log.publish(records).await?;
    outbox.published(last).await?;
    metrics::counter!("postwarm_events_published_total").increment(count);
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Consumer, Outgoing, Position, Record, Topic, contract};
    use crate::clock::ManualClock;
    use std::sync::Mutex;
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
        got: Mutex<Vec<Record>>,
    }

    #[async_trait::async_trait]
    impl EventLog for Flaky {
        async fn publish(&self, records: Vec<Record>) -> Result<(), LogError> {
            let mut fail = self.fail.lock().unwrap();
            if *fail > 0 {
                *fail -= 1;
                self.failed.notify_one();
                return Err(LogError::Unavailable("away".into()));
            }
            self.got.lock().unwrap().extend(records);
            Ok(())
        }
        async fn consume(&self, _: &[Topic], _: &[Position]) -> Result<Box<dyn Consumer>, LogError> {
            Err(LogError::Unavailable("not in this test".into()))
        }
    }

    #[tokio::test]
    async fn a_log_that_is_away_keeps_the_rows_and_gets_them_all_in_order_later() {
        let two = |number: i64| [2 * number - 1, 2 * number].map(|n| contract::record(Topic::Recipients, "a", n)).to_vec();
        let outgoing = (1..=2500).map(|number| Outgoing { number, records: two(number) }).collect();
        let outbox = Arc::new(Rows { rows: Mutex::new(outgoing), ..Rows::default() });
        let log = Arc::new(Flaky { fail: Mutex::new(2), failed: Notify::new(), got: Mutex::default() });
        let (clock, stop) = (Arc::new(ManualClock::at(0)), CancellationToken::new());
        let relay = tokio::spawn(Relay::run(outbox.clone(), log.clone(), clock.clone(), stop.clone()));
        for _ in 0..2 {
            log.failed.notified().await;
            assert_eq!(outbox.rows.lock().unwrap().len(), 2500);
            tokio::task::yield_now().await;
            clock.advance(BACKOFF_MAX);
        }
        outbox.emptied.notified().await;
        stop.cancel();
        relay.await.unwrap();
        let got: Vec<i64> = log.got.lock().unwrap().iter().map(|r| r.at).collect();
        assert_eq!(got, (1..=5000).collect::<Vec<_>>());
    }
}
