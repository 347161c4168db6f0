//! The pollers: one worker a feedback loop asks it what is new and publishes that with the new cursor.
//!
//! Invariant: facts and cursor are one record of the log, and a worker goes on only when the ledger has applied it; where
//! that takes too long the poll has failed, and the next one asks the same again. What is not news makes no record. A poll starts from the ledger's cursor, so that after a replay it is the log's last. A
//! loop that fails, panics or hangs stops nobody else.

use crate::bus::{EventLog, LogError, wire};
use crate::clock::Clock;
use crate::db::DbError;
use crate::health::charge::{Charge, LoopHandle, RunningLoop};
use crate::health::projector::Applied;
use crate::health::sink::{REPORTS_OCTETS_MAX, Sink, octets_of};
use crate::health::store::{DomainFilter, Ledger, LoopState, WatchedDelivery};
use crate::model::event::{Event, FactsReported};
use crate::model::name::OrgName;
use futures_util::FutureExt;
use postwarm_plugin_api::{BoxFuture, Poll, PollError, Report, WatchList, Watched};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a poll may take: its interval within these bounds.
const POLL_MIN: Duration = Duration::from_secs(10);
const POLL_MAX: Duration = Duration::from_secs(60);
/// What a loop gets beyond its deadline before it is cut off.
const POLL_GRACE: Duration = Duration::from_secs(2);
/// The longest wait after failures, unless the interval is longer.
const BACKOFF_MAX: Duration = Duration::from_secs(600);
/// The part of a wait by which it varies, up and down.
const JITTER: f64 = 0.1;
/// How long a worker waits until the ledger has applied its own record. Far longer than that takes while the log works, even
/// where the projector is behind a large broadcast.
const APPLY_MAX: Duration = Duration::from_secs(300);
/// The longest cursor in octets: with the reports it must fit a record.
const CURSOR_OCTETS_MAX: usize = 256 * 1024;

/// What all workers share.
pub struct Shared {
    pub ledger: Arc<dyn Ledger>,
    pub log: Arc<dyn EventLog>,
    pub clock: Arc<dyn Clock>,
    /// The projector's progress.
    pub applied: watch::Receiver<Applied>,
    /// Seeds the jitter.
    pub seed: u64,
}

/// The workers of all loops.
pub struct Pollers {
    shared: Arc<Shared>,
    charge: watch::Sender<Charge>,
    workers: Mutex<HashMap<(String, String), Worker>>,
}

struct Worker {
    running: Arc<RunningLoop>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Why a poll brought nothing.
#[derive(Debug, thiserror::Error)]
enum PollFailure {
    #[error(transparent)]
    Loop(#[from] PollError),
    #[error("the plugin panicked; its author must see the log")]
    Panicked,
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the cursor has {0} octets; at most {CURSOR_OCTETS_MAX} are kept")]
    Cursor(usize),
    #[error("the health database is not available: {0}")]
    Ledger(#[from] DbError),
    #[error("the watch list could not be read")]
    Watch,
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(
        "its record did not come back from the event log within {APPLY_MAX:?}; see what `/readyz` says of the projector, and \
         whether the topic of `health-facts` was emptied or made anew"
    )]
    NotApplied,
}

/// Whether the loop has more to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Nothing,
    More,
}

impl Pollers {
    pub fn new(shared: Shared) -> Pollers {
        Pollers { shared: Arc::new(shared), charge: watch::Sender::default(), workers: Mutex::default() }
    }

    /// Replaces the loops. Those that did not change (the same entry and origin) go on with the instance that they have; a
    /// changed one's new worker starts when the old one has ended. Needs a Tokio runtime.
    pub fn set(&self, handles: Vec<LoopHandle>) {
        let mut workers = self.workers.lock().expect("nobody panics while he holds this lock");
        let mut before = std::mem::take(&mut *workers);
        let mut order = Vec::with_capacity(handles.len());
        let mut to_start = Vec::new();
        for handle in handles {
            let key = (handle.org.to_string(), handle.name.to_string());
            match unchanged(before.remove(&key), &handle) {
                Ok(same) => {
                    order.push(same.running.clone());
                    workers.insert(key, same);
                }
                Err(old) => {
                    let running = Arc::new(RunningLoop::new(handle));
                    order.push(running.clone());
                    to_start.push((key, running, old));
                }
            }
        }
        self.charge.send_replace(Charge::new(order));
        before.values().for_each(|gone| gone.stop.cancel());
        for (key, running, old) in to_start {
            workers.insert(key, self.start(running, old));
        }
    }

    /// The loops that run, and who is in charge of which domain.
    pub fn charge(&self) -> Charge {
        self.charge.borrow().clone()
    }

    /// The same, for who wants to know later ones too.
    pub fn subscribe(&self) -> watch::Receiver<Charge> {
        self.charge.subscribe()
    }

    /// Stops all workers and waits for them.
    pub async fn stop(&self) {
        let workers = std::mem::take(&mut *self.workers.lock().expect("nobody panics while he holds this lock"));
        for worker in workers.values() {
            worker.stop.cancel();
        }
        for worker in workers.into_values() {
            // A worker that panicked has ended too.
            let _ = worker.task.await;
        }
    }

    fn start(&self, running: Arc<RunningLoop>, old: Option<Worker>) -> Worker {
        let stop = CancellationToken::new();
        let (shared, charge) = (self.shared.clone(), self.charge.subscribe());
        let (this, until) = (running.clone(), stop.clone());
        let task = tokio::spawn(async move {
            if let Some(old) = old {
                old.stop.cancel();
                // A worker that panicked has ended too.
                let _ = old.task.await;
            }
            until.run_until_cancelled(work(&shared, &this, &charge)).await;
        });
        Worker { running, stop, task }
    }
}

/// The worker as it is where it fits the handle; otherwise the one to replace.
fn unchanged(worker: Option<Worker>, handle: &LoopHandle) -> Result<Worker, Option<Worker>> {
    match worker {
        Some(w) if w.running.handle.is_made_from(&handle.entry, &handle.origin) => Ok(w),
        other => Err(other),
    }
}

async fn work(shared: &Shared, running: &Arc<RunningLoop>, charge: &watch::Receiver<Charge>) {
    // Before the replay has ended, cursor and sequence are not the last ones.
    if shared.applied.clone().wait_for(|applied| applied.caught_up).await.is_err() {
        return;
    }
    let mut hasher = DefaultHasher::new();
    (running.handle.org.as_str(), &running.handle.name).hash(&mut hasher);
    let mut random = fastrand::Rng::with_seed(shared.seed ^ hasher.finish());
    let mut failures = 0;
    loop {
        let began = shared.clock.now().wall_ms;
        let result = poll_once(shared, running, charge, began).await;
        let now = shared.clock.now().wall_ms;
        failures = if result.is_ok() { 0 } else { failures + 1 };
        let wait = match result {
            Ok(Rest::More) => Duration::ZERO,
            _ => wait_after(running.handle.entry.interval, failures, random.f64()),
        };
        note(running, &result, began, now + wait.as_millis() as i64);
        shared.clock.sleep(wait).await;
    }
}

/// How long to wait after this many failures in a row. `random` is within 0 and 1.
fn wait_after(interval: Duration, failures: u32, random: f64) -> Duration {
    let backed_off = interval.saturating_mul(1 << failures.min(16));
    backed_off.min(BACKOFF_MAX.max(interval)).mul_f64(1.0 - JITTER + 2.0 * JITTER * random)
}

fn note(running: &RunningLoop, result: &Result<Rest, PollFailure>, began: i64, next: i64) {
    let labels = labels(running);
    match result {
        Ok(_) => metrics::counter!("postwarm_polls_total", &labels).increment(1),
        Err(error) => {
            metrics::counter!("postwarm_poll_failures_total", &labels).increment(1);
            tracing::warn!(organization = %running.handle.org, feedback = %running.handle.name, %error, "a feedback loop failed");
        }
    }
    running.update(|status| {
        status.next_check_at = Some(next);
        status.last_error = result.as_ref().err().map(ToString::to_string);
        if result.is_ok() {
            // What came during the poll may not be in its answer.
            status.checked_at = Some(began);
        }
    });
}

fn labels(running: &RunningLoop) -> [(&'static str, String); 2] {
    [("organization", running.handle.org.to_string()), ("feedback", running.handle.name.to_string())]
}

async fn poll_once(shared: &Shared, running: &Arc<RunningLoop>, charge: &watch::Receiver<Charge>, began: i64) -> Result<Rest, PollFailure> {
    let (org, name) = (&running.handle.org, &running.handle.name);
    let state = shared.ledger.loop_state(org, name).await?;
    let (me, charge) = (running.clone(), charge.borrow().clone());
    let chosen: DomainFilter = Arc::new(move |domain| charge.of(&me.handle.org, domain).is_some_and(|l| Arc::ptr_eq(l, &me)));
    let News { reports, cursor, rest } = gather(shared, running, &state, chosen).await?;
    if reports.is_empty() && cursor == state.cursor {
        return Ok(Rest::Nothing);
    }
    let (sequence, count) = (state.sequence + 1, reports.len() as u64);
    let event = FactsReported { org: org.clone(), feedback: name.clone(), sequence, cursor, reports, at: began };
    shared.log.publish(wire::encode(&Event::Facts(event)).seal()).await?;
    metrics::counter!("postwarm_poll_reports_total", &labels(running)).increment(count);
    until_applied(shared, running, sequence).await?;
    Ok(rest)
}

/// Waits until the ledger has applied the loop's record of that sequence, or the service ends.
async fn until_applied(shared: &Shared, running: &RunningLoop, sequence: i64) -> Result<(), PollFailure> {
    let (org, name) = (&running.handle.org, &running.handle.name);
    let mut applied = shared.applied.clone();
    let came_back = async {
        while shared.ledger.loop_state(org, name).await?.sequence < sequence {
            if applied.changed().await.is_err() {
                break;
            }
        }
        Ok(())
    };
    tokio::select! {
        biased;
        came_back = came_back => came_back,
        () = shared.clock.sleep(APPLY_MAX) => Err(PollFailure::NotApplied),
    }
}

/// What a poll found.
struct News {
    reports: Vec<Report>,
    cursor: String,
    rest: Rest,
}

/// Asks the loop as often as it takes to have all that is new, a record's worth of it, or no time left. What the ledger
/// knows already takes up no room of the record: a loop may say the same at every poll.
async fn gather(shared: &Shared, running: &RunningLoop, state: &LoopState, chosen: DomainFilter) -> Result<News, PollFailure> {
    let (org, name) = (&running.handle.org, &running.handle.name);
    let until = Instant::now() + allowed(running);
    let mut news = News { reports: Vec::new(), cursor: state.cursor.clone(), rest: Rest::More };
    loop {
        let taken = octets_of(&news.reports);
        let mut sink = Sink::new(running.capabilities, REPORTS_OCTETS_MAX - taken);
        let cursor = match ask(shared, running, &news.cursor, chosen.clone(), (&mut sink, until)).await {
            Ok(cursor) => cursor,
            // What was found goes first; the failure comes again with the next question.
            Err(_) if !news.reports.is_empty() => return Ok(news),
            Err(failure) => return Err(failure),
        };
        if sink.refused > 0 {
            tracing::warn!(organization = %org, feedback = %name, refused = sink.refused, "reports outside of what the loop declared");
            running.update(|status| status.refused += sink.refused);
        }
        news.reports.extend(shared.ledger.news(org, name, chosen.clone(), sink.reports).await?);
        let came_on = std::mem::replace(&mut news.cursor, cursor) != news.cursor;
        if !sink.full {
            news.rest = Rest::Nothing;
        }
        // With less than half of it free, the rest is for a record of its own.
        let has_room = octets_of(&news.reports) < REPORTS_OCTETS_MAX / 2;
        if !(sink.full && came_on && has_room && Instant::now() < until) {
            return Ok(news);
        }
    }
}

/// How long a poll may take.
fn allowed(running: &RunningLoop) -> Duration {
    running.handle.entry.interval.clamp(POLL_MIN, POLL_MAX)
}

/// Asks the loop once; answers its new cursor.
async fn ask(
    shared: &Shared,
    running: &RunningLoop,
    cursor: &str,
    chosen: DomainFilter,
    (sink, until): (&mut Sink, Instant),
) -> Result<String, PollFailure> {
    let org = running.handle.org.clone();
    let watch = LedgerWatch { ledger: shared.ledger.clone(), org, chosen, failed: AtomicBool::new(false) };
    let allowed = allowed(running);
    let poll = Poll { cursor, watch: &watch, deadline: until.into_std() };
    let asked = AssertUnwindSafe(async { running.handle.feedback.poll(poll, sink).await }).catch_unwind();
    let cursor = tokio::select! {
        answer = asked => answer.map_err(|_| PollFailure::Panicked)??,
        () = shared.clock.sleep(allowed + POLL_GRACE) => return Err(PollFailure::TimedOut(allowed)),
    };
    match cursor.len() {
        // A page that could not be read looked like the end of the list.
        _ if watch.failed.load(Ordering::Relaxed) => Err(PollFailure::Watch),
        octets if octets > CURSOR_OCTETS_MAX => Err(PollFailure::Cursor(octets)),
        _ => Ok(cursor),
    }
}

/// The watch list of one loop, read from the ledger page by page.
struct LedgerWatch {
    ledger: Arc<dyn Ledger>,
    org: OrgName,
    chosen: DomainFilter,
    failed: AtomicBool,
}

/// The most messages of one page.
const PAGE_MAX: usize = 10_000;

impl WatchList for LedgerWatch {
    fn page(&self, after: u64, max: usize) -> BoxFuture<'_, Vec<Watched>> {
        Box::pin(async move {
            let found = self.ledger.watched(&self.org, self.chosen.clone(), after, max.min(PAGE_MAX)).await;
            let found = found.unwrap_or_else(|error| {
                tracing::warn!(%error, "the watch list could not be read");
                self.failed.store(true, Ordering::Relaxed);
                Vec::new()
            });
            let watched =
                |w: WatchedDelivery| Watched { position: w.position, message_id: w.message_id, domain: w.domain, sent_at_ms: w.sent_at };
            found.into_iter().map(watched).collect()
        })
    }

    fn in_charge_of(&self, domain: &str) -> bool {
        (self.chosen)(domain)
    }
}

#[cfg(test)]
mod tests;
