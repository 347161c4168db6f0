//! The SQLite adapter of warmup's store: one writing thread with group commit, a few readers.
//!
//! Every function of the files beside this one works on a connection inside a transaction that is not its own. One
//! process works on a database at a time, so a lease is a row in `sending` and nothing else: what is claimed is
//! committed there before a client gets it, and what was claimed by a process that died is unknown.
//!
//! Invariant: no other module names a table of `warmup.db`.

mod backfill;
mod claims;
mod emails;
mod fan_out;
mod outbox;
mod outcomes;
mod recover;
mod rows;
mod users;

use crate::bus::{Outbox, OutboxError, Outgoing};
use crate::db::DbError;
use crate::db::sqlite::{self, Readers};
use crate::db::writer::Writer;
use crate::model::address::Address;
use crate::model::email::{Email, EmailSummary, NewEmail};
use crate::model::message_id::{SECRET_BYTES, Tokens};
use crate::model::name::{DeliveryKey, EmailNumber, OrgId, OrgName, UserNumber};
use crate::model::user::{Backfill, NewUser, User};
use crate::warmup::store::{
    Accepted, Action, BackfillStep, Claimed, DeliveryPage, DeliveryRow, FanOut, Idempotency, Imported, Lanes, Queue, Registered, Result,
    Store, StoreError, Turn, Usage, Which,
};
use async_trait::async_trait;
use rows::Context;
use rusqlite::Connection;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

const MIGRATIONS: &[&str] = &[include_str!("../../../migrations/warmup/0001_main.sql")];

/// How many connections read at a time.
const READERS: usize = 2;

/// `warmup.db`.
pub struct SqliteStore {
    writer: Writer,
    /// Only the writing thread locks it for longer than a moment.
    context: Arc<Mutex<Context>>,
    readers: Readers,
    tokens: Arc<Tokens>,
    outgoing: Arc<Notify>,
}

/// Wakes the relay when it is dropped. The writer drops a job's answer, or hands it over, only after the commit.
struct WakeRelay(Arc<Notify>);

impl Drop for WakeRelay {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl SqliteStore {
    /// Opens the database, makes it where it is absent, and brings its tables up to date.
    pub fn open(path: &Path) -> anyhow::Result<SqliteStore> {
        let mut connection = sqlite::open_writer(path)?;
        sqlite::migrate(&mut connection, MIGRATIONS)?;
        let tokens = Arc::new(Tokens::new(&secret(&connection)?));
        let outgoing = Arc::new(Notify::new());
        let context = Arc::new(Mutex::new(Context::new(tokens.clone())));
        let writer = Writer::start("warmup-writer", connection)?;
        Ok(SqliteStore { writer, context, readers: Readers::new(path, READERS), tokens, outgoing })
    }

    async fn write<T, F>(&self, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &mut Context) -> std::result::Result<T, DbError> + Send + 'static,
    {
        let (context, outgoing) = (self.context.clone(), self.outgoing.clone());
        let result = self.writer.write(move |connection| {
            let mut context = context.lock().map_err(|_| DbError::Unavailable("an earlier change panicked".into()))?;
            let value = job(connection, &mut context);
            let wake = context.take_outgoing().then(|| WakeRelay(outgoing));
            value.map(|value| (value, wake))
        });
        let result = result.await.map(|(value, _wake)| value);
        if result.is_err() {
            self.context.lock().map_err(|_| DbError::Unavailable("an earlier change panicked".into()))?.rolled_back();
        }
        Ok(result?)
    }

    async fn read<T, F>(&self, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> std::result::Result<T, DbError> + Send + 'static,
    {
        Ok(self.readers.read(job).await?)
    }
}

fn secret(connection: &Connection) -> anyhow::Result<[u8; SECRET_BYTES]> {
    let mut fresh = [0_u8; SECRET_BYTES];
    aws_lc_rs::rand::fill(&mut fresh).map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    connection.execute("INSERT OR IGNORE INTO meta (key, value) VALUES ('secret', ?1)", [&fresh[..]])?;
    let stored: Vec<u8> = connection.query_row("SELECT value FROM meta WHERE key = 'secret'", [], |row| row.get(0))?;
    stored.try_into().map_err(|_| anyhow::anyhow!("the secret in warmup.db has a wrong length; restore the data folder from a backup"))
}

impl From<DbError> for StoreError {
    fn from(error: DbError) -> StoreError {
        match error {
            DbError::Full => StoreError::Full,
            other => StoreError::Unavailable(other.to_string()),
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn organization(&self, name: &OrgName) -> Result<OrgId> {
        let name = name.clone();
        self.write(move |connection, context| context.org_id(connection, &name)).await
    }

    fn tokens(&self) -> Arc<Tokens> {
        self.tokens.clone()
    }

    async fn register(&self, org: OrgId, user: NewUser, now: i64) -> Result<Registered> {
        self.write(move |connection, context| users::register(connection, context, org, user, now)).await
    }

    async fn import(&self, org: OrgId, new: Vec<NewUser>, backfill: bool, now: i64) -> Result<Imported> {
        self.write(move |connection, context| users::import(connection, context, org, &new, backfill, now)).await
    }

    async fn users(&self, org: OrgId, after: UserNumber, limit: usize) -> Result<Vec<User>> {
        self.read(move |connection| users::list(connection, org, after, limit)).await
    }

    async fn user(&self, org: OrgId, address: &Address) -> Result<Option<(User, Backfill)>> {
        let address = address.clone();
        self.read(move |connection| users::find(connection, org, &address)).await
    }

    async fn unsubscribe(&self, delivery: DeliveryKey, now: i64) -> Result<bool> {
        self.write(move |connection, _| users::unsubscribe(connection, delivery, now)).await
    }

    async fn accept(&self, org: OrgId, email: NewEmail, idempotency: Option<Idempotency>, now: i64) -> Result<Accepted> {
        self.write(move |connection, context| emails::accept(connection, context, org, &email, idempotency.as_ref(), now)).await
    }

    async fn emails(&self, org: OrgId, after: EmailNumber, limit: usize) -> Result<Vec<EmailSummary>> {
        self.read(move |connection| emails::list(connection, org, after, limit)).await
    }

    async fn email(&self, org: OrgId, email: EmailNumber) -> Result<Option<EmailSummary>> {
        self.read(move |connection| Ok(emails::list(connection, org, EmailNumber(email.0 - 1), 1)?.into_iter().find(|e| e.number == email)))
            .await
    }

    async fn deliveries(&self, org: OrgId, email: EmailNumber, page: DeliveryPage) -> Result<Vec<DeliveryRow>> {
        self.read(move |connection| rows::deliveries(connection, org, email, &page)).await
    }

    async fn resolve(&self, org: OrgId, email: EmailNumber, which: Which, action: Action, now: i64) -> Result<usize> {
        self.write(move |connection, context| recover::resolve(connection, context, org, email, &which, action, now)).await
    }
}

#[async_trait]
impl Outbox for SqliteStore {
    async fn pending(&self, max: usize) -> std::result::Result<Vec<Outgoing>, OutboxError> {
        self.readers.read(move |connection| outbox::pending(connection, max)).await.map_err(|e| OutboxError(e.to_string()))
    }

    async fn published(&self, number: i64) -> std::result::Result<(), OutboxError> {
        self.writer.write(move |connection| outbox::published(connection, number)).await.map_err(|e| OutboxError(e.to_string()))
    }

    async fn wait(&self) {
        self.outgoing.notified().await;
    }
}

#[async_trait]
impl Queue for SqliteStore {
    async fn in_hand(&self) -> Result<Vec<Claimed>> {
        let tokens = self.tokens.clone();
        self.read(move |connection| recover::in_hand(connection, &tokens)).await
    }

    async fn turn(&self, turn: Turn) -> Result<Vec<Claimed>> {
        self.write(move |connection, context| {
            outcomes::record(connection, context, &turn)?;
            outcomes::write_usage(connection, &turn.usage)?;
            claims::claim(connection, context, &turn.claims, turn.now)
        })
        .await
    }

    async fn lanes(&self, now: i64) -> Result<Lanes> {
        self.read(move |connection| claims::lanes(connection, now)).await
    }

    async fn fan_out_next(&self, rows: usize, checked_after: i64) -> Result<Option<FanOut>> {
        self.read(move |connection| fan_out::next(connection, rows, checked_after)).await
    }

    async fn set_providers(&self, found: Vec<(String, String)>, now: i64) -> Result<()> {
        self.write(move |connection, context| fan_out::set_providers(connection, context, &found, now)).await
    }

    async fn fan_out(&self, org: OrgId, email: EmailNumber, rows: usize, now: i64) -> Result<()> {
        self.write(move |connection, context| fan_out::fan_out(connection, context, org, email, rows, now)).await
    }

    async fn backfill_domains(&self, rows: usize, checked_after: i64, now: i64) -> Result<Vec<String>> {
        self.read(move |connection| backfill::domains(connection, rows, checked_after, now)).await
    }

    async fn backfill_step(&self, rows: usize, now: i64) -> Result<BackfillStep> {
        self.write(move |connection, context| backfill::step(connection, context, rows, now)).await
    }

    async fn content(&self, org: OrgId, email: EmailNumber) -> Result<Option<Email>> {
        self.read(move |connection| emails::content(connection, org, email)).await
    }

    async fn usage(&self) -> Result<Vec<Usage>> {
        self.read(outcomes::read_usage).await
    }
}
