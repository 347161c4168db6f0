//! A store in memory for tests of the HTTP behaviour; what the real one must do is tested by its contract suite.
//!
//! Invariant: it keeps organizations apart as the port asks.

use crate::clock::ManualClock;
use crate::http::probes::{Check, Probes, Readiness};
use crate::http::testing::{FakeKeys, settings};
use crate::model::address::Address;
use crate::model::delivery::{Counts, Said, State};
use crate::model::email::{EmailSummary, NewEmail};
use crate::model::message_id::Tokens;
use crate::model::name::{DeliveryKey, EmailNumber, OrgId, OrgName, UserNumber};
use crate::model::user::{Backfill, BackfillState, NewUser, User};
use crate::warmup::api::router;
use crate::warmup::api::state::{ApiState, Progress};
use crate::warmup::progress::{EmailNow, Question};
use crate::warmup::render::{self, RenderSettings};
use crate::warmup::store::{
    Accepted, Action, Deliveries, DeliveryPage, DeliveryRow, Idempotency, Imported, Registered, Result, Store, StoreError, WaitingLane,
    Which,
};
use async_trait::async_trait;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// The time of all tests: 2023-11-14T22:13:20.000Z.
pub const NOW: i64 = 1_700_000_000_000;

#[derive(Default)]
struct Org {
    users: Vec<User>,
    keys: HashMap<String, usize>,
    emails: Vec<(NewEmail, i64)>,
    idempotency: HashMap<String, ([u8; 32], i64)>,
    unknown: Vec<(i64, Address)>,
    suppressed: Vec<UserNumber>,
}

/// The store in memory.
pub struct FakeStore {
    orgs: Mutex<HashMap<OrgName, Org>>,
    tokens: Arc<Tokens>,
    /// What every change fails with.
    pub fails: Mutex<Option<fn() -> StoreError>>,
    /// While set, `accept` waits for it.
    pub hold: Mutex<Option<Arc<Notify>>>,
    /// Where the search for deliveries ends early.
    pub searched_to: Mutex<Option<UserNumber>>,
    /// Notified when `accept` is entered.
    pub entered: Notify,
}

impl FakeStore {
    fn with<T>(&self, org: OrgId, act: impl FnOnce(&mut Org) -> T) -> Result<T> {
        if let Some(fail) = *self.fails.lock().expect("not poisoned") {
            return Err(fail());
        }
        let mut orgs = self.orgs.lock().expect("not poisoned");
        let name = OrgName::parse(if org.0 == 1 { "acme" } else { "demo" }).expect("a name");
        Ok(act(orgs.entry(name).or_default()))
    }

    /// The emails of an organization as they were accepted.
    pub fn accepted(&self, org: i64) -> Vec<NewEmail> {
        self.with(OrgId(org), |o| o.emails.iter().map(|(e, _)| e.clone()).collect()).expect("no failure is set")
    }

    /// Puts a delivery in doubt.
    pub fn doubt(&self, org: i64, email: i64, address: &str) {
        let address = Address::parse(address).expect("an address");
        self.with(OrgId(org), |o| o.unknown.push((email, address))).expect("no failure is set");
    }

    /// Who is unsubscribed.
    pub fn suppressed(&self, org: i64) -> Vec<i64> {
        self.with(OrgId(org), |o| o.suppressed.iter().map(|u| u.0).collect()).expect("no failure is set")
    }
}

impl Org {
    fn register(&mut self, user: NewUser, now: i64) -> Registered {
        if let Some(at) = self.keys.get(&user.address.key()) {
            return Registered::Existing(self.users[*at].clone());
        }
        self.keys.insert(user.address.key(), self.users.len());
        let number = UserNumber(self.users.len() as i64 + 1);
        self.users.push(User { number, name: user.name, address: user.address, created_at: now });
        Registered::New(self.users[number.0 as usize - 1].clone())
    }

    fn summary(&self, number: i64) -> Option<EmailSummary> {
        let (email, recipients) = self.emails.get(usize::try_from(number).ok()?.checked_sub(1)?)?;
        Some(EmailSummary {
            number: EmailNumber(number),
            from: email.from.clone(),
            subject: email.subject.clone(),
            created_at: NOW,
            recipients: *recipients,
            counts: Counts { queued: *recipients, ..Counts::default() },
            started_at: None,
            completed_at: None,
        })
    }
}

#[async_trait]
impl Store for FakeStore {
    async fn organization(&self, name: &OrgName) -> Result<OrgId> {
        Ok(OrgId(if name.as_str() == "acme" { 1 } else { 2 }))
    }

    fn tokens(&self) -> Arc<Tokens> {
        self.tokens.clone()
    }

    async fn register(&self, org: OrgId, user: NewUser, now: i64) -> Result<Registered> {
        self.with(org, |o| o.register(user, now))
    }

    async fn import(&self, org: OrgId, users: Vec<NewUser>, _backfill: bool, now: i64) -> Result<Imported> {
        assert!(users.len() <= 10_000, "the port takes at most 10,000 a call");
        self.with(org, |o| {
            let before = o.users.len();
            let all = users.len() as u64;
            users.into_iter().for_each(|user| drop(o.register(user, now)));
            let created = (o.users.len() - before) as u64;
            Imported { created, existing: all - created }
        })
    }

    async fn users(&self, org: OrgId, after: UserNumber, limit: usize) -> Result<Vec<User>> {
        self.with(org, |o| o.users.iter().filter(|u| u.number > after).take(limit).cloned().collect())
    }

    async fn user(&self, org: OrgId, address: &Address) -> Result<Option<(User, Backfill)>> {
        let backfill = Backfill { emails: 2, done: 1, state: BackfillState::Running, next_at: Some(NOW) };
        self.with(org, |o| o.keys.get(&address.key()).map(|at| (o.users[*at].clone(), backfill)))
    }

    async fn unsubscribe(&self, delivery: DeliveryKey, _now: i64) -> Result<bool> {
        self.with(delivery.org, |o| {
            let known = o.users.iter().any(|u| u.number == delivery.user);
            if known && !o.suppressed.contains(&delivery.user) {
                o.suppressed.push(delivery.user);
            }
            known
        })
    }

    async fn accept(&self, org: OrgId, email: NewEmail, idempotency: Option<Idempotency>, _now: i64) -> Result<Accepted> {
        self.entered.notify_one();
        let hold = self.hold.lock().expect("not poisoned").clone();
        if let Some(hold) = hold {
            hold.notified().await;
        }
        self.with(org, |o| {
            if let Some((hash, number)) = idempotency.as_ref().and_then(|i| o.idempotency.get(&i.key)) {
                let recipients = o.emails[*number as usize - 1].1;
                let same = idempotency.as_ref().is_some_and(|i| i.body_hash == *hash);
                return if same { Accepted::Again { email: EmailNumber(*number), recipients } } else { Accepted::OtherBody };
            }
            let recipients = o.users.len() as i64;
            o.emails.push((email, recipients));
            let number = o.emails.len() as i64;
            if let Some(Idempotency { key, body_hash }) = idempotency {
                o.idempotency.insert(key, (body_hash, number));
            }
            Accepted::New { email: EmailNumber(number), recipients }
        })
    }

    async fn emails(&self, org: OrgId, after: EmailNumber, limit: usize) -> Result<Vec<EmailSummary>> {
        self.with(org, |o| (after.0 + 1..=o.emails.len() as i64).take(limit).filter_map(|n| o.summary(n)).collect())
    }

    async fn email(&self, org: OrgId, email: EmailNumber) -> Result<Option<EmailSummary>> {
        self.with(org, |o| o.summary(email.0))
    }

    async fn waiting(&self, _org: OrgId, _email: EmailNumber) -> Result<Vec<WaitingLane>> {
        Ok(Vec::new())
    }

    async fn deliveries(&self, org: OrgId, email: EmailNumber, page: DeliveryPage) -> Result<Deliveries> {
        self.with(org, |o| {
            let state = |u: &User| if o.unknown.contains(&(email.0, u.address.clone())) { State::Unknown } else { State::Queued };
            let row = |u: &User| DeliveryRow {
                user: u.number,
                recipient: u.address.clone(),
                state: state(u),
                attempts: 0,
                client: None,
                said: Said::default(),
                queued_at: NOW,
                next_at: None,
                finished_at: None,
            };
            let rows = o.users.iter().filter(|u| u.number > page.after).map(row);
            let rows = rows.filter(|r| page.state.is_none_or(|s| s == r.state)).take(page.limit).collect();
            Deliveries { rows, searched_to: *self.searched_to.lock().expect("not poisoned") }
        })
    }

    async fn resolve(&self, org: OrgId, email: EmailNumber, which: Which, _action: Action, _now: i64) -> Result<usize> {
        self.with(org, |o| {
            let before = o.unknown.len();
            o.unknown.retain(|(of, address)| {
                let meant = match &which {
                    Which::All => true,
                    Which::Recipients(list) => list.contains(address),
                };
                *of != email.0 || !meant
            });
            before - o.unknown.len()
        })
    }
}

struct FixedProgress;

impl Progress for FixedProgress {
    fn of(&self, _question: &Question<'_>) -> EmailNow {
        EmailNow { rate_per_second: Some(2.5), eta: Some(NOW), waits_for: Some("client `gmail`, daily cap 500 reached".into()) }
    }
}

struct Ready;

impl Readiness for Ready {
    fn checks(&self) -> Vec<Check> {
        Vec::new()
    }
}

/// The API over a store in memory, for `acme` and `demo`, which both need their keys.
pub fn api() -> (axum::Router, Arc<FakeStore>, Arc<Notify>) {
    let store = Arc::new(FakeStore {
        orgs: Mutex::default(),
        tokens: Arc::new(Tokens::new(&[7; 32])),
        fails: Mutex::new(None),
        hold: Mutex::new(None),
        searched_to: Mutex::new(None),
        entered: Notify::new(),
    });
    let wake = Arc::new(Notify::new());
    let state = ApiState {
        store: store.clone(),
        settings: watch::channel(settings(&[("acme", false), ("demo", false)], None)).1,
        keys: Arc::new(FakeKeys),
        clock: Arc::new(ManualClock::at(NOW)),
        progress: Arc::new(FixedProgress),
        check_template: Arc::new(|email, organization| render::check(email, &RenderSettings::of(organization))),
        wake: wake.clone(),
    };
    let probes = Probes {
        service: "warmup",
        readiness: Arc::new(Ready),
        draining: CancellationToken::new(),
        metrics: None,
        document: Arc::default(),
    };
    (router(state, probes), store, wake)
}
