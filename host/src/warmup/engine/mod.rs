//! The engine: claims what is due within the limits, hands it to clients, records what became of it.
//!
//! One task turns. Each turn is one commit: the outcomes since the last turn, what the limits counted, and the rows
//! claimed next, which are in `sending` before a client sees them. While a turn commits, messages travel and their
//! outcomes gather for the next.
//!
//! Invariant: at most `sending_rows_max` rows are in `sending`; nothing is dispatched that was not committed there; an
//! outcome that could not be committed is kept and committed by a later turn.

mod dispatch;
mod feeder;
mod lanes;
mod organizations;
mod settle;
#[cfg(test)]
mod tests;
mod view;

use crate::clock::Clock;
use crate::config::settings::{Organization, Settings, SmtpEntry};
use crate::model::name::OrgId;
use crate::warmup::limits::Shared;
use crate::warmup::store::{BackfillPace, Claimed, Queue, Recorded, Store, Turn};
use dispatch::{Done, Templates};
use lanes::{Lane, LaneBook};
use organizations::Organizations;
use postwarm_plugin_api::SmtpClient;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use dispatch::{MakeSigner, Sign};
pub use feeder::{Feeder, Looked, ProviderLookup};
pub use view::{Held, View};

/// How long the engine waits before it tries a failed commit again.
const COMMIT_RETRY: Duration = Duration::from_millis(200);
/// The longest sleep: a lane that became due by other means is found by then.
const SLEEP_MAX_MS: i64 = 1_000;
/// How long one call of a client may take; its own deadlines are shorter.
const SEND_MAX: Duration = Duration::from_secs(3600);
/// Outcomes of one turn.
const OUTCOMES_PER_TURN_MAX: usize = 512;

/// Makes the clients that an organization names. The composition root knows how.
pub trait MakeClient: Send + Sync + 'static {
    /// `Err` says in words why there is no such client now.
    fn make(&self, organization: &Organization, entry: &SmtpEntry) -> Result<Arc<dyn SmtpClient>, String>;
}

/// What the engine works with.
pub struct Parts {
    pub queue: Arc<dyn Queue>,
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub settings: watch::Receiver<Arc<Settings>>,
    pub make: Arc<dyn MakeClient>,
    /// Notified when rows may have become due.
    pub wake: Arc<Notify>,
    pub view: Arc<View>,
    /// What an earlier process counted is not in them yet.
    pub limits: Shared,
    pub signers: Arc<dyn MakeSigner>,
    /// Seeds the jitter.
    pub seed: u64,
}

/// The engine, ready to run.
pub struct Engine {
    queue: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
    settings: watch::Receiver<Arc<Settings>>,
    wake: Arc<Notify>,
    view: Arc<View>,
    organizations: Organizations,
    limits: Shared,
    lanes: LaneBook,
    templates: Templates,
    done: mpsc::UnboundedReceiver<Done>,
    finished: mpsc::UnboundedSender<Done>,
    /// Outcomes that wait for their commit.
    recorded: Vec<Recorded>,
    sending: usize,
    sending_rows_max: usize,
    paces: Arc<HashMap<OrgId, BackfillPace>>,
    random: fastrand::Rng,
}

impl Engine {
    /// Recovers what an earlier process left and takes the settings.
    pub async fn start(parts: Parts) -> anyhow::Result<Engine> {
        let counted = parts.queue.usage().await?;
        parts.limits.lock().restore(counted, parts.clock.now());
        let (finished, done) = mpsc::unbounded_channel();
        let mut engine = Engine {
            organizations: Organizations::new(parts.store, parts.make, parts.signers),
            limits: parts.limits,
            lanes: LaneBook::default(),
            templates: Templates::default(),
            queue: parts.queue,
            clock: parts.clock,
            settings: parts.settings,
            wake: parts.wake,
            view: parts.view,
            done,
            finished,
            recorded: Vec::new(),
            sending: 0,
            sending_rows_max: 0,
            paces: Arc::default(),
            random: fastrand::Rng::with_seed(parts.seed),
        };
        engine.take_settings().await?;
        engine.recover().await?;
        Ok(engine)
    }

    async fn recover(&mut self) -> anyhow::Result<()> {
        let now = self.clock.now();
        let left = self.queue.recover(&self.organizations.resending(), now.wall_ms).await?;
        if !left.is_empty() {
            tracing::warn!(rows = left.len(), "rows that an earlier process had in hand are unknown now");
        }
        for row in left {
            if let Some(org) = self.organizations.get(row.delivery.org) {
                let scopes = org.scopes(&row.client, &row.provider);
                let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
                self.limits.lock().count_recovered(&scopes, 1, now.boot_ms);
            }
        }
        Ok(())
    }

    /// Runs until `stop`, then drains for at most the configured time.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if self.settings.has_changed().unwrap_or(false)
                && let Err(error) = self.take_settings().await
            {
                tracing::error!(%error, "the new settings could not be taken up");
            }
            self.refresh_lanes().await;
            let claims = self.plan();
            if claims.is_empty() && self.recorded.is_empty() {
                self.wait(&stop).await;
            } else {
                self.turn(claims).await;
            }
            self.gather();
        }
        self.drain().await;
    }

    async fn take_settings(&mut self) -> anyhow::Result<()> {
        let settings = self.settings.borrow_and_update().clone();
        self.sending_rows_max = settings.process.sending_rows_max;
        let taken = self.organizations.take(&settings).await;
        // Whatever runs now has its limits, even where not all could be taken.
        self.organizations.configure(&settings, &mut self.limits.lock(), self.clock.now());
        taken?;
        self.paces = Arc::new(self.organizations.paces());
        self.templates.clear();
        self.lanes.look_again();
        Ok(())
    }

    async fn refresh_lanes(&mut self) {
        let now = self.clock.now();
        if !self.lanes.is_stale(now.boot_ms) {
            return;
        }
        match self.queue.lanes(now.wall_ms).await {
            Ok(found) => self.lanes.replace(found, now),
            Err(error) => tracing::error!(%error, "the queue could not be read"),
        }
    }

    /// Decides what is claimed now and takes its slots.
    fn plan(&mut self) -> Vec<Lane> {
        let free = self.sending_rows_max.saturating_sub(self.sending);
        self.lanes.plan(free, &mut self.organizations, &mut self.limits.lock(), &self.view, self.clock.now())
    }

    async fn turn(&mut self, planned: Vec<Lane>) {
        let now = self.clock.now();
        let turn = Turn {
            outcomes: self.recorded.clone(),
            claims: planned.iter().map(|lane| lane.claim.clone()).collect(),
            usage: self.limits.lock().dirty(now),
            paces: self.paces.clone(),
            now: now.wall_ms,
        };
        match self.queue.turn(turn).await {
            Ok(claimed) => {
                // Only now can the store find what came back as due.
                for recorded in self.recorded.drain(..) {
                    self.lanes.settled(&recorded.result, now);
                }
                self.lanes.claimed(&planned, &claimed, &mut self.organizations, &mut self.limits.lock(), self.clock.now());
                self.dispatch(claimed).await;
            }
            Err(error) => {
                tracing::error!(%error, "a turn could not be committed; nothing was sent, and it is tried again");
                self.lanes.claimed(&planned, &[], &mut self.organizations, &mut self.limits.lock(), self.clock.now());
                self.lanes.look_again();
                self.clock.sleep(COMMIT_RETRY).await;
            }
        }
    }

    async fn dispatch(&mut self, claimed: Vec<Claimed>) {
        for row in claimed {
            let row = Arc::new(row);
            self.sending += 1;
            let Some(org) = self.organizations.get_mut(row.delivery.org) else {
                self.finish_unsent(row, "the organization is gone");
                continue;
            };
            let Some(client) = org.begin(&row.client) else {
                self.finish_unsent(row, "the client is gone");
                continue;
            };
            let job = dispatch::Job {
                claimed: row.clone(),
                client,
                signer: org.signer.clone(),
                settings: org.settings.clone(),
                deadline: SEND_MAX,
                now: self.clock.now().wall_ms,
            };
            let tokens = self.organizations.tokens();
            match self.templates.get(&*self.queue, &job).await {
                Ok(Ok(template)) => dispatch::spawn(job, template, tokens, self.clock.clone(), self.finished.clone()),
                Ok(Err(words)) => {
                    let _ = self.finished.send(Done { claimed: row, outcome: Err(words), at: self.clock.now() });
                }
                Err(error) => {
                    tracing::error!(%error, "an email could not be read; its messages are tried again");
                    self.finish_unsent(row, "the email could not be read");
                }
            }
        }
    }

    fn finish_unsent(&self, claimed: Arc<Claimed>, words: &str) {
        let outcome = postwarm_plugin_api::Outcome::NotAttempted { cause: postwarm_plugin_api::Cause::Stopping, detail: words.to_owned() };
        let _ = self.finished.send(Done { claimed, outcome: Ok(outcome), at: self.clock.now() });
    }

    /// Takes in what has come back.
    fn gather(&mut self) {
        while self.recorded.len() < OUTCOMES_PER_TURN_MAX {
            let Ok(done) = self.done.try_recv() else { return };
            self.take_in(done);
        }
    }

    fn take_in(&mut self, done: Done) {
        self.sending -= 1;
        let settled = match self.organizations.get_mut(done.claimed.delivery.org) {
            Some(org) => {
                let settled = settle::settle(&done, &org.settings, self.random.f64());
                org.ended(&done, &mut self.limits.lock());
                settled
            }
            None => settle::without_organization(&done),
        };
        self.view.settled(&done.claimed, &settled, done.at);
        self.recorded.push(Recorded { claimed: done.claimed, result: settled, at: done.at.wall_ms });
    }

    async fn wait(&mut self, stop: &CancellationToken) {
        let now = self.clock.now().boot_ms;
        let sleep = self.lanes.next_at().map_or(SLEEP_MAX_MS, |at| (at - now).clamp(1, SLEEP_MAX_MS));
        let done = tokio::select! {
            done = self.done.recv() => done,
            () = self.wake.notified() => { self.lanes.look_again(); None }
            _ = self.settings.changed() => { self.settings.mark_changed(); None }
            () = self.clock.sleep(Duration::from_millis(sleep as u64)) => { self.lanes.look_again(); None }
            () = stop.cancelled() => None,
        };
        if let Some(done) = done {
            self.take_in(done);
        }
    }

    /// Takes no new row, lets the running messages end, records them. What still waits for its reply becomes unknown.
    async fn drain(mut self) {
        let grace = self.settings.borrow().process.drain_max;
        let closing = self.organizations.close(grace);
        let clock = self.clock.clone();
        let until = clock.now().boot_ms + grace.as_millis() as i64;
        let deadline = clock.sleep(grace);
        tokio::pin!(deadline, closing);
        let mut closed = false;
        let mut waiting = true;
        while waiting && (self.sending > 0 || !self.recorded.is_empty()) {
            if self.recorded.is_empty() {
                tokio::select! {
                    done = self.done.recv() => if let Some(done) = done { self.take_in(done) },
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
        if self.sending > 0 {
            let now = self.clock.now().wall_ms;
            tracing::warn!(rows = self.sending, "the drain has ended; what waits for its reply is unknown now");
            if let Err(error) = self.queue.recover(&[], now).await {
                tracing::error!(%error, "the unknown rows are listed at the next start");
            }
        } else if !closed {
            closing.await;
        }
    }
}
