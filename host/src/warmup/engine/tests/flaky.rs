//! A database that fails where a test says so.

use crate::bus::{Outbox, OutboxError, Outgoing};
use crate::model::address::Address;
use crate::model::email::{Email, EmailSummary, NewEmail};
use crate::model::message_id::Tokens;
use crate::model::name::{DeliveryKey, EmailNumber, OrgId, OrgName, UserNumber};
use crate::model::user::{Backfill, NewUser, User};
use crate::warmup::sqlite::SqliteStore;
use crate::warmup::store::{
    Accepted, Action, BackfillStep, Believed, Claimed, Deliveries, DeliveryPage, FanOut, Idempotency, Imported, Lanes, Queue, Registered,
    Result as Stored, Store, StoreError, Turn, Usage, WaitingLane, Which,
};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// The real queue, but for what a test lets fail.
pub struct Flaky {
    pub store: Arc<SqliteStore>,
    pub turns_fail: AtomicBool,
    pub content_fails: AtomicBool,
    pub organizations_fail: AtomicBool,
    /// Whose fan-out fails.
    pub fan_out_fails: Mutex<Option<OrgId>>,
    fan_outs: AtomicUsize,
    /// The most fan-outs that waited for their commit at a time, so that one commit takes them all.
    pub fan_outs_together: AtomicUsize,
}

impl Flaky {
    pub fn over(store: Arc<SqliteStore>) -> Flaky {
        let works = || AtomicBool::new(false);
        Flaky {
            store,
            turns_fail: works(),
            content_fails: works(),
            organizations_fail: works(),
            fan_out_fails: Mutex::default(),
            fan_outs: AtomicUsize::default(),
            fan_outs_together: AtomicUsize::default(),
        }
    }
}

fn unless(fails: &AtomicBool) -> Stored<()> {
    match fails.load(Ordering::SeqCst) {
        true => Err(StoreError::Unavailable("the test says so".into())),
        false => Ok(()),
    }
}

#[async_trait::async_trait]
impl Outbox for Flaky {
    async fn pending(&self, max: usize) -> std::result::Result<Vec<Outgoing>, OutboxError> {
        self.store.pending(max).await
    }

    async fn published(&self, number: i64) -> std::result::Result<(), OutboxError> {
        self.store.published(number).await
    }

    async fn wait(&self) {
        self.store.wait().await;
    }
}

/// The engine asks two things of the store.
#[async_trait::async_trait]
impl Store for Flaky {
    async fn organization(&self, name: &OrgName) -> Stored<OrgId> {
        unless(&self.organizations_fail)?;
        self.store.organization(name).await
    }

    fn tokens(&self) -> Arc<Tokens> {
        self.store.tokens()
    }

    async fn register(&self, _: OrgId, _: NewUser, _: i64) -> Stored<Registered> {
        unreachable!("the API's")
    }

    async fn import(&self, _: OrgId, _: Vec<NewUser>, _: bool, _: i64) -> Stored<Imported> {
        unreachable!("the API's")
    }

    async fn users(&self, _: OrgId, _: UserNumber, _: usize) -> Stored<Vec<User>> {
        unreachable!("the API's")
    }

    async fn user(&self, _: OrgId, _: &Address) -> Stored<Option<(User, Backfill)>> {
        unreachable!("the API's")
    }

    async fn unsubscribe(&self, _: DeliveryKey, _: i64) -> Stored<bool> {
        unreachable!("the API's")
    }

    async fn accept(&self, _: OrgId, _: NewEmail, _: Option<Idempotency>, _: i64) -> Stored<Accepted> {
        unreachable!("the API's")
    }

    async fn emails(&self, _: OrgId, _: EmailNumber, _: usize) -> Stored<Vec<EmailSummary>> {
        unreachable!("the API's")
    }

    async fn email(&self, _: OrgId, _: EmailNumber) -> Stored<Option<EmailSummary>> {
        unreachable!("the API's")
    }

    async fn waiting(&self, _: OrgId, _: EmailNumber) -> Stored<Vec<WaitingLane>> {
        unreachable!("the API's")
    }

    async fn deliveries(&self, _: OrgId, _: EmailNumber, _: DeliveryPage) -> Stored<Deliveries> {
        unreachable!("the API's")
    }

    async fn resolve(&self, _: OrgId, _: EmailNumber, _: Which, _: Action, _: i64) -> Stored<usize> {
        unreachable!("the API's")
    }
}

#[async_trait::async_trait]
impl Queue for Flaky {
    async fn in_hand(&self) -> Stored<Vec<Claimed>> {
        self.store.in_hand().await
    }

    async fn last_turn(&self) -> Stored<i64> {
        self.store.last_turn().await
    }

    async fn turn(&self, turn: Turn) -> Stored<Vec<Claimed>> {
        unless(&self.turns_fail)?;
        self.store.turn(turn).await
    }

    async fn lanes(&self, now: i64) -> Stored<Lanes> {
        self.store.lanes(now).await
    }

    async fn fan_out_next(&self, last: OrgId, rows: usize, believed: Believed) -> Stored<Option<FanOut>> {
        self.store.fan_out_next(last, rows, believed).await
    }

    async fn set_providers(&self, found: Vec<(String, String)>, settings: i64, checked_at: i64) -> Stored<()> {
        self.store.set_providers(found, settings, checked_at).await
    }

    async fn set_undecided(&self, domains: Vec<String>, settings: i64, checked_at: i64) -> Stored<()> {
        self.store.set_undecided(domains, settings, checked_at).await
    }

    async fn fan_out(&self, org: OrgId, email: EmailNumber, rows: usize, now: i64) -> Stored<()> {
        unless(&AtomicBool::new(*self.fan_out_fails.lock().unwrap() == Some(org)))?;
        self.fan_outs_together.fetch_max(self.fan_outs.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let fanned_out = self.store.fan_out(org, email, rows, now).await;
        self.fan_outs.fetch_sub(1, Ordering::SeqCst);
        fanned_out
    }

    async fn backfill_domains(&self, rows: usize, believed: Believed, now: i64) -> Stored<Vec<String>> {
        self.store.backfill_domains(rows, believed, now).await
    }

    async fn backfill_step(&self, rows: usize, now: i64) -> Stored<BackfillStep> {
        self.store.backfill_step(rows, now).await
    }

    async fn content(&self, org: OrgId, email: EmailNumber) -> Stored<Option<Email>> {
        unless(&self.content_fails)?;
        self.store.content(org, email).await
    }

    async fn usage(&self) -> Stored<Vec<Usage>> {
        self.store.usage().await
    }
}
