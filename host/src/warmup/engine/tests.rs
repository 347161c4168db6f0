//! The engine over the real store, with a client that the test speaks for.

mod ahead;
mod answers;
mod breaks;
mod carries;
mod feeds;
mod fixture;
mod flaky;
mod kills;
mod lingers;
mod making;
mod parts;
mod reloads;
mod script;
mod stops;
mod waits;

use super::*;
use crate::bus::Outbox;
use crate::clock::SystemClock;
use crate::config::settings::*;
use crate::model::address::Address;
use crate::model::delivery::{Counts, State};
use crate::model::email::{Mailbox, NewEmail};
use crate::model::name::{EmailNumber, OrgName, UserNumber};
use crate::model::user::NewUser;
use crate::warmup::limits::Limits;
use crate::warmup::marks::MarksFile;
use crate::warmup::progress::{self, EmailNow, Question};
use crate::warmup::sqlite::SqliteStore;
use crate::warmup::store::DeliveryPage;
use fixture::{Other, Unsigned, accepted, reply, settings};
use postwarm_plugin_api::{BoxFuture, Cause, Fault, Message, Outcome, Phase};
use std::sync::Mutex;
use std::time::Instant;

type Say = Box<dyn Fn(&str) -> Outcome + Send + Sync>;

struct FakeClient {
    say: Say,
    got: Mutex<Vec<String>>,
}

impl SmtpClient for FakeClient {
    fn in_flight_max(&self) -> usize {
        8
    }

    fn send(&self, message: Message, _: Instant) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            self.got.lock().unwrap().push(message.envelope_to.to_string());
            (self.say)(&message.envelope_to)
        })
    }

    fn verify(&self, _: Instant) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn close(&self, _: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

fn client(say: impl Fn(&str) -> Outcome + Send + Sync + 'static) -> Arc<FakeClient> {
    Arc::new(FakeClient { say: Box::new(say), got: Mutex::default() })
}

struct Makes(Vec<Arc<FakeClient>>);

impl MakeClient for Makes {
    fn make(&self, organization: &Organization, entry: &SmtpEntry) -> Result<Arc<dyn SmtpClient>, String> {
        let place = organization.smtp.iter().position(|e| e.name == entry.name).unwrap();
        self.0.get(place).map(|client| client.clone() as Arc<dyn SmtpClient>).ok_or_else(|| "there is none yet".to_owned())
    }
}

fn email(body: &str) -> NewEmail {
    let from = Mailbox { name: None, address: Address::parse("a@acme.example").unwrap() };
    NewEmail { from, reply_to: None, subject: "S".into(), body: body.into(), html: None, headers: Vec::new() }
}

struct Running {
    _folder: tempfile::TempDir,
    store: Arc<SqliteStore>,
    stop: CancellationToken,
    engine: tokio::task::JoinHandle<()>,
    view: Arc<View>,
    limits: Shared,
    settings: watch::Sender<Arc<Settings>>,
    org: OrgId,
    email: EmailNumber,
}

impl Running {
    /// Broadcasts one email to `users` users and lets the engine run.
    async fn start(users: usize, clients: Vec<Arc<FakeClient>>, settings: Arc<Settings>) -> Running {
        Running::start_with("B", users, clients, settings).await
    }

    async fn start_with(body: &str, users: usize, clients: Vec<Arc<FakeClient>>, settings: Arc<Settings>) -> Running {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(&folder.path().join("warmup.db")).unwrap());
        let org = store.organization(&OrgName::parse("acme").unwrap()).await.unwrap();
        let user = |n: usize| NewUser { name: "N".into(), address: Address::parse(&format!("u{n}@x.example")).unwrap() };
        store.import(org, (0..users).map(user).collect(), false, 1).await.unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        store.accept(org, email(body), None, clock.now().wall_ms).await.unwrap();
        let (wake, view, stop) = (Arc::new(Notify::new()), Arc::new(View::default()), CancellationToken::new());
        let limits = Shared::new(Limits::new(clock.boot_id()));
        let (settings, taken) = watch::channel(settings);
        let parts = Parts {
            queue: store.clone(),
            store: store.clone(),
            clock: clock.clone(),
            settings: taken,
            make: Arc::new(Makes(clients)),
            wake: wake.clone(),
            view: view.clone(),
            limits: limits.clone(),
            marks: MarksFile::new(folder.path(), clock.boot_id()),
            signers: Arc::new(Unsigned),
            mail: Handle::current(),
            seed: 1,
        };
        let engine = tokio::spawn(Engine::start(parts).await.unwrap().run(stop.clone()));
        let feeder = Feeder { queue: store.clone(), clock, lookup: Arc::new(Other), wake: Arc::default(), engine: wake };
        tokio::spawn(feeder.run(stop.clone()));
        Running { _folder: folder, store, stop, engine, view, limits, settings, org, email: EmailNumber(1) }
    }

    async fn counts(&self) -> Counts {
        self.store.email(self.org, self.email).await.unwrap().unwrap().counts
    }

    /// Waits for the events of changes until the counts are as wanted.
    async fn until(&self, wanted: impl Fn(&Counts) -> bool) -> Counts {
        let seen = async {
            loop {
                let counts = self.counts().await;
                if wanted(&counts) {
                    return counts;
                }
                // Woken by every change; the timeout covers a change between the look and the wait.
                let _ = tokio::time::timeout(Duration::from_millis(50), self.store.wait()).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), seen).await.expect("it comes that far")
    }

    /// What the API answers of an email's progress.
    async fn now(&self, email: EmailNumber) -> EmailNow {
        let organization = self.settings.borrow().organizations.values().next().unwrap().clone();
        let queued = self.store.email(self.org, email).await.unwrap().unwrap().counts.queued;
        let lanes = self.store.waiting(self.org, email).await.unwrap();
        let question = Question { org: self.org, organization: &organization, email, queued, lanes: &lanes };
        progress::now(&question, &self.view, &self.limits, SystemClock.now())
    }

    async fn stop(self) -> (Arc<SqliteStore>, OrgId) {
        self.stop.cancel();
        self.engine.await.unwrap();
        (self.store, self.org)
    }
}

#[tokio::test]
async fn everybody_gets_the_email_once() {
    let client = client(|_| accepted());
    let running = Running::start(100, vec![client.clone()], settings(1, |_| {})).await;
    assert_eq!(running.until(|c| c.sent == 100).await, Counts { sent: 100, ..Counts::default() });
    let mut got = client.got.lock().unwrap().clone();
    got.sort();
    got.dedup();
    assert_eq!(got.len(), 100);
}

#[tokio::test]
async fn a_client_that_cannot_connect_hands_over_and_nobody_is_lost_or_written_to_twice() {
    let dead = client(|_| Outcome::NotAttempted { cause: Cause::Connect, detail: "refused".into() });
    let second = client(|_| accepted());
    let running = Running::start(50, vec![dead.clone(), second.clone()], settings(2, |_| {})).await;
    running.until(|c| c.sent == 50).await;
    assert_eq!(second.got.lock().unwrap().len(), 50);
}

#[tokio::test]
async fn a_refusal_for_good_fails_and_one_for_now_is_tried_again_as_the_schedule_says() {
    let first = Mutex::new(true);
    let client = client(move |to| match to {
        "u0@x.example" => Outcome::Rejected { reply: reply(550), fault: Fault::Recipient },
        "u1@x.example" if std::mem::take(&mut *first.lock().unwrap()) => {
            Outcome::Deferred { reply: reply(451), fault: Fault::Recipient, retry_after: None }
        }
        _ => accepted(),
    });
    let running = Running::start(3, vec![client], settings(1, |_| {})).await;
    assert_eq!(running.until(|c| c.sent == 2).await, Counts { sent: 2, failed: 1, ..Counts::default() });
    let page = DeliveryPage { state: None, after: UserNumber(0), limit: 10 };
    let rows = running.store.deliveries(running.org, running.email, page).await.unwrap().rows;
    assert_eq!(rows.iter().map(|r| (r.state, r.attempts)).collect::<Vec<_>>(), [(State::Failed, 1), (State::Sent, 2), (State::Sent, 1)]);
}

#[tokio::test]
async fn a_reply_that_never_came_is_unknown_and_is_not_sent_again() {
    let client = client(|_| Outcome::Unknown { phase: Phase::EndOfData, detail: "the connection broke".into() });
    let running = Running::start(2, vec![client.clone()], settings(1, |_| {})).await;
    running.until(|c| c.unknown == 2).await;
    let (store, org) = running.stop().await;
    assert_eq!(store.email(org, EmailNumber(1)).await.unwrap().unwrap().counts.unknown, 2);
    assert_eq!(client.got.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_limit_keeps_the_rest_waiting_and_says_so() {
    let client = client(|_| accepted());
    let limited = settings(1, |o| o.smtp[0].limits = vec![Window { messages: 7, per: Duration::from_secs(86_400) }]);
    let running = Running::start(20, vec![client.clone()], limited).await;
    running.until(|c| c.sent == 7).await;
    let now = running.now(running.email).await;
    assert!(now.waits_for.as_ref().unwrap().starts_with("client `client0`, daily cap 7 reached, next at "), "{now:?}");
    let day = 86_400_000;
    let from_now = now.eta.unwrap() - SystemClock.now().wall_ms;
    assert!((2 * day..2 * day + day / 50).contains(&from_now), "7 of 13 go tomorrow, 6 the day after: {from_now}");
    let (store, org) = running.stop().await;
    assert_eq!(store.email(org, EmailNumber(1)).await.unwrap().unwrap().counts, Counts { sent: 7, queued: 13, ..Counts::default() });
    assert_eq!(client.got.lock().unwrap().len(), 7);
}

#[tokio::test]
async fn a_stop_leaves_nothing_in_doubt() {
    let running = Running::start(5_000, vec![client(|_| accepted())], settings(1, |_| {})).await;
    running.until(|c| c.sent > 100).await;
    let (store, org) = running.stop().await;
    let counts = store.email(org, EmailNumber(1)).await.unwrap().unwrap().counts;
    assert_eq!((counts.sending, counts.unknown, counts.sent + counts.queued), (0, 0, 5_000));
}

#[tokio::test]
async fn back_fill_waits_for_the_same_limits_and_an_email_that_is_done_waits_for_nothing() {
    let limited = settings(1, |o| o.limits = vec![Window { messages: 2, per: Duration::from_secs(86_400) }]);
    let running = Running::start(2, vec![client(|_| accepted())], limited).await;
    running.until(|c| c.sent == 2).await;
    let done = running.now(running.email).await;
    assert_eq!((done.eta, done.waits_for), (None, None));
    assert!(done.rate_per_second.is_some_and(|rate| rate <= 2.0), "two in less than a second are two a second");
    let newcomer = NewUser { name: "N".into(), address: Address::parse("new@x.example").unwrap() };
    running.store.register(running.org, newcomer, SystemClock.now().wall_ms).await.unwrap();
    running.until(|c| c.queued == 1).await;
    let waiting = running.now(running.email).await;
    assert!(waiting.waits_for.unwrap().starts_with("organization `acme`, daily cap 2 reached, next at "));
    assert!(waiting.eta.unwrap() >= SystemClock.now().wall_ms + 86_000_000);
}

#[tokio::test]
async fn a_client_that_fails_is_named_and_no_time_is_told() {
    let dead = client(|_| Outcome::NotAttempted { cause: Cause::Connect, detail: "refused".into() });
    let running = Running::start(5, vec![dead], settings(1, |_| {})).await;
    let named = async {
        loop {
            if let Some(words) = running.now(running.email).await.waits_for {
                return words;
            }
            tokio::task::yield_now().await;
        }
    };
    let words = tokio::time::timeout(Duration::from_secs(30), named).await.expect("it is named");
    assert_eq!(words, "client `client0` is failing: refused");
    assert_eq!(running.now(running.email).await.eta, None);
}

#[tokio::test]
async fn an_email_whose_link_was_taken_away_fails_with_the_reason_and_holds_up_no_other() {
    let day = Window { messages: 2, per: Duration::from_secs(86_400) };
    let with_url = |url: Option<&str>, limits: Vec<Window>| settings(1, |o| (o.public_url, o.limits) = (url.map(str::to_owned), limits));
    let url = Some("https://mail.acme.example");
    let running = Running::start_with("{{ unsubscribe_url }}", 9, vec![client(|_| accepted())], with_url(url, vec![day])).await;
    running.until(|c| c.sent == 2).await;
    running.settings.send_replace(with_url(None, Vec::new()));
    assert_eq!(running.until(|c| c.failed == 7).await, Counts { sent: 2, failed: 7, ..Counts::default() });
    let page = DeliveryPage { state: Some(State::Failed), after: UserNumber(0), limit: 1 };
    let detail = running.store.deliveries(running.org, running.email, page).await.unwrap().rows.remove(0).said.detail.unwrap();
    assert!(detail.contains("/body names `unsubscribe_url`") && detail.contains("set public_url"), "{detail}");
    running.store.accept(running.org, email("no link"), None, SystemClock.now().wall_ms).await.unwrap();
    let next = async {
        while running.store.email(running.org, EmailNumber(2)).await.unwrap().unwrap().counts.sent < 9 {
            let _ = tokio::time::timeout(Duration::from_millis(50), running.store.wait()).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), next).await.expect("the next email is sent");
}
