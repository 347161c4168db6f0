//! The projector: reads the log from where the ledger stands and applies it, batch by batch.
//!
//! Invariant: the effects of a batch and the positions behind it are one commit. A record that is no event of ours is
//! counted and passed over; one of a later schema stops the projector until the program is newer.

use crate::bus::throttle::{Say, Throttle};
use crate::bus::wire::{self, WireError};
use crate::bus::{Consumed, Consumer, EventLog, LogError, Position, Topic};
use crate::clock::Clock;
use crate::db::DbError;
use crate::health::store::Ledger;
use crate::model::event::Event;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Records of one commit.
const BATCH_MAX: usize = 4000;
/// Where so many come at once more will follow: they are waited for, as counts by email and domain are written once a commit.
const MUCH: usize = 250;
const TOGETHER: Duration = Duration::from_millis(200);
/// Messages whose watch ends in one commit.
const EXPIRE_MAX: usize = 2000;
/// How long a poll waits for a record; the watch list is swept in between.
const POLL_WAIT: Duration = Duration::from_secs(1);
/// Polls in a row that were not full: the end of the log is near, even if it grows all the time.
const SHORT_POLLS: u32 = 5;
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How far the projector has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Commits since the start.
    pub commits: u64,
    /// The projector came (near) to the end of the log at least once since the start.
    pub caught_up: bool,
}

#[derive(Debug, thiserror::Error)]
enum ProjectorError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the health database is not available: {0}")]
    Db(#[from] DbError),
    #[error("{topic:?} partition {partition} offset {offset}: {error}; run a newer program")]
    Newer { topic: Topic, partition: i32, offset: i64, error: WireError },
}

/// Feeds the ledger.
pub struct Projector {
    log: Arc<dyn EventLog>,
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    watch_for_ms: AtomicI64,
    applied: watch::Sender<Applied>,
    last_error: Mutex<Option<String>>,
}

impl Projector {
    /// `watch_for`: how long a sent message is watched. A longer one counts for messages still watched.
    pub fn new(log: Arc<dyn EventLog>, ledger: Arc<dyn Ledger>, clock: Arc<dyn Clock>, watch_for: Duration) -> Projector {
        let watch_for_ms = AtomicI64::new(watch_for.as_millis() as i64);
        Projector { log, ledger, clock, watch_for_ms, applied: watch::Sender::default(), last_error: Mutex::default() }
    }

    /// Changes how long a sent message is watched. A message whose watch has ended is not watched again.
    pub fn set_watch_for(&self, watch_for: Duration) {
        self.watch_for_ms.store(watch_for.as_millis() as i64, Ordering::Relaxed);
    }

    /// Tells of every commit.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// What keeps the projector from working, for `/readyz`.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().expect("nobody panics while he holds this lock").clone()
    }

    /// Runs until `stop`. After a failure it waits and starts again from where the ledger stands.
    pub async fn run(&self, stop: CancellationToken) {
        let (mut backoff, mut throttle) = (BACKOFF_MIN, Throttle::default());
        let work = async {
            loop {
                let before = self.applied.borrow().commits;
                let Err(error) = self.follow().await else { continue };
                if self.applied.borrow().commits > before {
                    backoff = BACKOFF_MIN;
                    throttle = Throttle::default();
                }
                metrics::counter!("postwarm_projector_failures_total").increment(1);
                match throttle.failed(self.clock.now().boot_ms) {
                    Say::Still { suppressed, .. } => tracing::error!(%error, suppressed, "the health figures still stand still"),
                    Say::Began => tracing::error!(%error, "the health figures stand still"),
                    Say::Nothing | Say::Over { .. } => {}
                }
                self.set_error(Some(error.to_string()));
                self.clock.sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        };
        stop.run_until_cancelled(work).await;
    }

    async fn follow(&self) -> Result<(), ProjectorError> {
        let positions = self.ledger.positions().await?;
        let mut consumer = self.log.consume(&[Topic::Emails, Topic::Recipients, Topic::Facts], &positions).await?;
        let mut short = 0;
        loop {
            let count = self.step(&mut *consumer).await?;
            short = if count < BATCH_MAX { short + 1 } else { 0 };
            if count == 0 || short >= SHORT_POLLS {
                self.applied.send_if_modified(|applied| !std::mem::replace(&mut applied.caught_up, true));
            }
            self.set_error(None);
            if (MUCH..BATCH_MAX).contains(&count) {
                self.clock.sleep(TOGETHER).await;
            }
        }
    }

    /// Applies one batch; answers how many records it had.
    async fn step(&self, consumer: &mut dyn Consumer) -> Result<usize, ProjectorError> {
        let records = consumer.poll(BATCH_MAX, POLL_WAIT).await?;
        let count = records.len();
        let mut lag_ms = 0;
        if count > 0 {
            let (events, positions) = read(&records)?;
            lag_ms = events.last().map_or(0, |last| (self.clock.now().wall_ms - last.at()).max(0));
            self.ledger.apply(events, positions).await?;
            metrics::counter!("postwarm_projector_records_total").increment(count as u64);
        }
        metrics::gauge!("postwarm_projector_lag_seconds").set(lag_ms as f64 / 1000.0);
        let sent_before = self.clock.now().wall_ms - self.watch_for_ms.load(Ordering::Relaxed);
        let expired = self.ledger.expire(sent_before, EXPIRE_MAX).await?;
        self.applied.send_if_modified(|applied| {
            applied.commits += u64::from(count > 0) + u64::from(expired > 0);
            count > 0 || expired > 0
        });
        Ok(count)
    }

    fn set_error(&self, error: Option<String>) {
        *self.last_error.lock().expect("nobody panics while he holds this lock") = error;
    }
}

/// Reads a batch: its events, and the positions behind it.
fn read(records: &[Consumed]) -> Result<(Vec<Event>, Vec<Position>), ProjectorError> {
    let mut events = Vec::with_capacity(records.len());
    let mut next: BTreeMap<(Topic, i32), i64> = BTreeMap::new();
    for record in records {
        let (topic, partition, offset) = (record.topic, record.partition, record.offset);
        match wire::decode(topic, &record.payload) {
            Ok(event) => events.push(event),
            Err(error @ WireError::Version(_)) => return Err(ProjectorError::Newer { topic, partition, offset, error }),
            Err(error) => {
                metrics::counter!("postwarm_projector_unreadable_total").increment(1);
                tracing::error!(?topic, partition, offset, %error, "a record of the event log is passed over");
            }
        }
        next.insert((topic, partition), offset + 1);
    }
    let positions = next.into_iter().map(|((topic, partition), next_offset)| Position { topic, partition, next_offset });
    Ok((events, positions.collect()))
}

#[cfg(test)]
mod tests;
