//! The engine: claims what is due within the limits, hands it to clients, records what became of it.
//!
//! One task turns. Each turn is one commit: the outcomes since the last turn, what the limits counted, the rows that go
//! from one client to another, and the rows claimed next, which are in `sending` before a client sees them. While a turn
//! commits, messages travel and their outcomes gather for the next.
//!
//! Invariant: at most `sending_rows_max` rows are in `sending`; nothing is dispatched that was not committed there, under
//! the client that gets it; an outcome that could not be committed is kept and committed by a later turn, and the row's mark with it.

mod calls;
mod client;
mod dispatch;
mod fair;
mod feeder;
mod handover;
mod hands;
mod lanes;
mod organizations;
mod pace;
mod plan;
mod returns;
mod settle;
mod stop;
#[cfg(test)]
mod tests;
mod untried;
mod view;

use crate::clock::{Clock, Steady};
use crate::config::settings::{Organization, Settings, SmtpEntry};
use crate::model::name::OrgId;
use crate::warmup::limits::Shared;
use crate::warmup::marks::{Marks, MarksFile};
use crate::warmup::store::{BackfillPace, Claim, Claimed, Queue, Recorded, Settled, Store, StoreError, Turn};
use dispatch::Templates;
use handover::Next;
use hands::{Hand, Hands, Ready};
use lanes::{Around, LaneBook};
use organizations::Organizations;
use plan::Planned;
use postwarm_plugin_api::{Outcome, SmtpClient};
use returns::{Back, Done, Returns};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use untried::Untried;

pub use dispatch::{BodyHash, MakeSigner, Sign};
pub use feeder::{Feeder, Looked, ProviderLookup};
pub use view::{Held, View};

/// How long the engine waits before it tries again what the database refused.
const COMMIT_RETRY: Duration = Duration::from_millis(200);
/// The longest sleep: a lane that became due by other means is found by then.
const SLEEP_MAX_MS: i64 = 1_000;
/// How long outcomes wait for others to be committed with, and for how many at most: for their part of what is in hand, so that
/// where little is in hand nobody waits for many.
const LINGER: Duration = Duration::from_millis(16);
const COMPANY_MAX: usize = 240;
const COMPANY_PART: usize = 2;
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
    pub marks: MarksFile,
    /// Runs the calls of clients; the engine itself turns where it is run.
    pub mail: Handle,
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
    returns: Arc<Returns>,
    /// Outcomes that wait for their commit.
    recorded: Vec<Recorded>,
    /// Rows in hand whose next client waits for the commit that notes it.
    handed: Vec<Ready>,
    draining: bool,
    hands: Hands,
    marks: Marks,
    /// The last turn that was committed.
    turn_last: i64,
    untried: Untried,
    /// As configured; no more rows are in hand than have a place to be marked at.
    sending_rows_max: usize,
    paces: Arc<HashMap<OrgId, BackfillPace>>,
    random: fastrand::Rng,
    steady: Steady,
}

impl Engine {
    /// Recovers what an earlier process left and takes the settings.
    pub async fn start(parts: Parts) -> anyhow::Result<Engine> {
        let returns = Arc::<Returns>::default();
        let back = Back { returns: returns.clone(), clock: parts.clock.clone() };
        let steady = Steady::since(parts.clock.now());
        let mut engine = Engine {
            organizations: Organizations::new(parts.store, parts.make, parts.signers, back, parts.mail),
            limits: parts.limits,
            lanes: LaneBook::default(),
            templates: Templates::default(),
            queue: parts.queue,
            clock: parts.clock,
            settings: parts.settings,
            wake: parts.wake,
            view: parts.view,
            returns,
            recorded: Vec::new(),
            handed: Vec::new(),
            draining: false,
            hands: Hands::default(),
            marks: Marks::none(),
            turn_last: 0,
            untried: Untried::default(),
            sending_rows_max: 0,
            paces: Arc::default(),
            random: fastrand::Rng::with_seed(parts.seed),
            steady,
        };
        engine.take_settings().await?;
        engine.settle_left(&parts.marks).await?;
        Ok(engine)
    }

    /// Runs until `stop`, then drains for at most the configured time.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if self.settings.has_changed().unwrap_or(false)
                && let Err(error) = self.take_settings().await
            {
                tracing::error!(%error, "the new settings could not be taken up; it is tried again");
                self.settings.mark_changed();
                self.clock.sleep(COMMIT_RETRY).await;
            }
            self.linger(&stop).await;
            self.refresh_lanes().await;
            let claims = self.plan();
            if claims.is_empty() && self.recorded.is_empty() && self.handed.is_empty() {
                self.wait(&stop).await;
            } else {
                self.turn(claims).await;
            }
            self.gather();
        }
        self.drain().await;
    }

    /// Lets a few outcomes wait for others, while others can come.
    async fn linger(&mut self, stop: &CancellationToken) {
        let company = ((self.recorded.len() + self.hands.len()) / COMPANY_PART).min(COMPANY_MAX);
        if self.recorded.is_empty() || self.recorded.len() >= company || self.hands.is_empty() {
            return;
        }
        tokio::select! {
            () = self.returns.company(company - self.recorded.len()) => {}
            () = self.clock.sleep(LINGER) => {}
            () = stop.cancelled() => {}
        }
        self.gather();
    }

    async fn take_settings(&mut self) -> anyhow::Result<()> {
        let settings = self.settings.borrow_and_update().clone();
        let rows_max = settings.process.sending_rows_max;
        let places = self.marks.places();
        if rows_max > places && rows_max != self.sending_rows_max {
            tracing::warn!(rows_max, places, "`sending_rows_max` was raised above what can be marked; until the next start it is `places`");
        }
        self.sending_rows_max = rows_max;
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
        self.steady.look(now);
        if !self.lanes.is_stale(now.boot_ms) {
            return;
        }
        match self.queue.lanes(now.wall_ms).await {
            Ok(found) => self.lanes.replace(found, now, self.clock.now()),
            Err(error) => {
                tracing::error!(%error, "the queue could not be read; it is tried again");
                self.clock.sleep(COMMIT_RETRY).await;
            }
        }
    }

    /// Decides what is claimed now and takes its slots.
    fn plan(&mut self) -> Vec<Planned> {
        let now = self.clock.now();
        self.organizations.look_whether_silent(now.boot_ms);
        let (organizations, limits) = (&mut self.organizations, &mut self.limits.lock());
        let around = Around { organizations, limits, view: &self.view, now };
        self.lanes.plan(self.sending_rows_max.min(self.marks.places()), &self.hands, around)
    }

    async fn turn(&mut self, mut planned: Vec<Planned>) {
        let claims = planned.iter().map(|lane| lane.claim.clone()).collect();
        match self.commit(claims).await {
            Ok(claimed) => {
                let mut rows = std::mem::take(&mut self.handed);
                rows.extend(self.take_in_hand(&mut planned, claimed));
                self.lanes.claimed(&planned, &mut self.organizations, &mut self.limits.lock());
                self.dispatch(rows).await;
            }
            Err(error) => {
                tracing::error!(%error, "a turn could not be committed; nothing was sent, and it is tried again");
                self.lanes.claimed(&planned, &mut self.organizations, &mut self.limits.lock());
                self.lanes.look_again();
                self.clock.sleep(COMMIT_RETRY).await;
            }
        }
    }

    /// Commits what waits for it. After an error all of it waits for the next commit.
    async fn commit(&mut self, claims: Vec<Claim>) -> Result<Vec<Claimed>, StoreError> {
        let now = self.clock.now();
        let outcomes = Arc::new(std::mem::take(&mut self.recorded));
        let usage = self.limits.lock().dirty(now);
        let handed = self.handed.iter().map(|ready| ready.claimed.clone()).collect();
        let number = self.turn_last + 1;
        self.marks.intend(number);
        let turn = Turn { number, outcomes: outcomes.clone(), handed, claims, usage, paces: self.paces.clone(), now: now.wall_ms };
        match self.queue.turn(turn).await {
            Ok(claimed) => {
                self.turn_last = number;
                self.marks.committed(number);
                self.limits.lock().written();
                // Only now can the store find what came back as due.
                for recorded in outcomes.iter() {
                    self.lanes.settled(&recorded.result, now);
                }
                Ok(claimed)
            }
            Err(error) => {
                self.recorded = Arc::try_unwrap(outcomes).unwrap_or_else(|shared| shared.to_vec());
                Err(error)
            }
        }
    }

    /// Notes the claimed rows as in hand, each with what its lane decided.
    fn take_in_hand(&mut self, planned: &mut [Planned], claimed: Vec<Claimed>) -> Vec<Ready> {
        let mut rows = Vec::with_capacity(claimed.len());
        let mut place = 0;
        for row in claimed {
            // Rows come in the order of the claims, so that the last lane is nearly always the one.
            if !planned.get(place).is_some_and(|lane| lane.made(&row)) {
                let Some(found) = planned.iter().position(|lane| lane.made(&row)) else {
                    tracing::error!(delivery.id = %row.delivery, "the store handed out a row that nobody claimed; it stays in hand until a restart");
                    continue;
                };
                place = found;
            }
            let lane = &mut planned[place];
            lane.got += 1;
            let place = self.marks.take(row.delivery, row.attempt);
            let hand = Hand { claimed: Arc::new(row), scopes: lane.scopes.clone(), client: lane.client, place, declined: Vec::new() };
            rows.push(hand.ready());
            self.hands.add(hand);
        }
        rows
    }

    async fn dispatch(&mut self, rows: Vec<Ready>) {
        let (tokens, now) = (self.organizations.tokens(), self.clock.now());
        for Ready { claimed: row, client, place } in rows {
            let Some(org) = self.organizations.get(row.delivery.org) else {
                self.organizations.back().unsent(row, "the organization is gone");
                continue;
            };
            let Some(calls) = org.calls(client) else {
                self.organizations.back().unsent(row, "the client is gone");
                continue;
            };
            match self.templates.get(&*self.queue, &row, &org.settings).await {
                Ok(prepared) => {
                    let (signer, tokens) = (org.signer.clone(), tokens.clone());
                    let marker = self.marks.marker(place);
                    calls.push(dispatch::Job { claimed: row, prepared, signer, tokens, marker, now: now.wall_ms });
                }
                Err(unmade) => self.returns.push(Done { claimed: row, outcome: Err(unmade), at: now }),
            }
        }
    }

    /// Takes in what has come back.
    fn gather(&mut self) {
        let room = OUTCOMES_PER_TURN_MAX.saturating_sub(self.recorded.len());
        for done in self.returns.take(room) {
            self.take_in(done);
        }
    }

    fn take_in(&mut self, done: Done) {
        let Some(hand) = self.hands.remove(done.claimed.delivery) else { return };
        let place = hand.place;
        match &done.outcome {
            Ok(Outcome::NotAttempted { .. }) | Err(_) => {
                self.limits.lock().give_back(&hand.scopes, 1);
                self.marks.clear(place);
            }
            Ok(_) => self.limits.lock().settle(&hand.scopes, 1, done.at.boot_ms),
        }
        let counts = self.untried.came_back(done.claimed.delivery, &done.outcome);
        let settled = match self.organizations.get_mut(done.claimed.delivery.org) {
            Some(org) => {
                org.ended(&hand, &done);
                if let (Err(_), Some((until, words))) = (&done.outcome, org.held(&done.claimed.provider, done.at)) {
                    let held = Held { words, until_boot_ms: Some(until) };
                    self.view.hold(done.claimed.delivery.org, &done.claimed.provider, held);
                }
                match handover::declined(&done.outcome) {
                    Some(_) if self.draining => Settled::Returned { next_at: done.at.wall_ms },
                    Some(why) => {
                        let next = handover::next(hand, why, org, &mut self.limits.lock(), done.at);
                        match next {
                            Next::Client(hand) => return self.hand_over(hand),
                            Next::Settled(settled) => settled,
                        }
                    }
                    None if counts => settle::attempted(&done, &org.settings, &self.steady, self.random.f64()),
                    None => {
                        let other_client = org.works(done.at.boot_ms);
                        settle::settle(&done, &org.settings, &self.steady, self.random.f64(), other_client)
                    }
                }
            }
            None => settle::without_organization(&done),
        };
        self.view.settled(&done.claimed, &settled, done.at);
        self.marks.leaves(place);
        self.recorded.push(Recorded { claimed: done.claimed, result: settled, at: done.at.wall_ms });
    }

    /// Notes a row as in the next client's hand; the next turn commits that, and then the client gets it.
    fn hand_over(&mut self, hand: Hand) {
        self.handed.push(hand.ready());
        self.hands.add(hand);
    }

    async fn wait(&mut self, stop: &CancellationToken) {
        let now = self.clock.now().boot_ms;
        let sleep = self.lanes.next_at().map_or(SLEEP_MAX_MS, |at| (at - now).clamp(1, SLEEP_MAX_MS));
        tokio::select! {
            () = self.returns.any() => {}
            () = self.wake.notified() => self.lanes.look_again(),
            _ = self.settings.changed() => self.settings.mark_changed(),
            () = self.clock.sleep(Duration::from_millis(sleep as u64)) => self.lanes.look_again(),
            () = stop.cancelled() => {}
        }
    }
}
