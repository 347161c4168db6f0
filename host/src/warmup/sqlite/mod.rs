//! The SQLite adapter of warmup's store: one writing thread with group commit, a few readers.
//!
//! Every function of the files beside this one works on a connection inside a transaction that is not its own. One
//! process works on a database at a time, so a lease is a row in `sending` and nothing else: what is claimed is
//! committed there before a client gets it, and what a process that died had claimed still stands there.
//!
//! Invariant: no other module names a table of `warmup.db`.

mod backfill;
mod blocks;
mod claims;
mod clock;
mod emails;
mod fan_out;
mod fresh;
mod listing;
#[cfg(test)]
mod migration_tests;
mod outbox;
mod outcomes;
mod recover;
mod rows;
mod sending;
mod sent;
#[cfg(test)]
mod testing;
mod users;
mod waiting;

use crate::bus::{Outbox, OutboxError, Outgoing};
use crate::db::DbError;
use crate::db::sqlite::{self, Durability, Readers};
use crate::db::writer::{Writable, Writer};
use crate::model::address::Address;
use crate::model::email::{Email, EmailSummary, NewEmail};
use crate::model::message_id::{SECRET_BYTES, Tokens};
use crate::model::name::{DeliveryKey, EmailNumber, OrgId, OrgName, UserNumber};
use crate::model::user::{Backfill, NewUser, User};
use crate::warmup::metrics::{Depth, Meter};
use crate::warmup::store::{
    Accepted, Action, BackfillStep, Believed, Claimed, Deliveries, DeliveryPage, FanOut, Idempotency, Imported, Lanes, Queue, Registered,
    Result, Store, StoreError, Turn, Usage, WaitingLane, Which,
};
use async_trait::async_trait;
use rows::Context;
use rusqlite::Connection;
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/warmup/0001_main.sql"),
    include_str!("../../../migrations/warmup/0002_state_index.sql"),
    include_str!("../../../migrations/warmup/0003_blocks.sql"),
    include_str!("../../../migrations/warmup/0004_room.sql"),
    include_str!("../../../migrations/warmup/0005_alike.sql"),
];

/// How many connections read at a time for the API, and as many for what sends: neither waits for the other.
const READERS: usize = 2;

/// Rows that a person's decision settles in one commit.
const RESOLVE_ROWS: usize = 1_000;

/// `warmup.db`.
pub struct SqliteStore {
    writer: Writer<Context>,
    readers: Readers,
    queue_readers: Readers,
    tokens: Arc<Tokens>,
    /// The latest instant of the wall clock that was seen.
    latest: AtomicI64,
    outgoing: Arc<Notify>,
    meter: Meter,
    /// Numbers that are committed, so that no request waits for the writer to learn one. As many as there were settings for.
    organizations: Mutex<HashMap<OrgName, OrgId>>,
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
        let mut connection = sqlite::open_writer(path, Durability::PowerLoss)?;
        sqlite::migrate(&mut connection, MIGRATIONS)?;
        let tokens = Arc::new(Tokens::new(&secret(&connection)?));
        let outgoing = Arc::new(Notify::new());
        let latest = AtomicI64::new(clock::latest(&connection)?);
        let writer = Writer::start("warmup-writer", connection, Context::new(tokens.clone()))?;
        let (readers, queue_readers) = (Readers::new(path, READERS), Readers::new(path, READERS));
        let (meter, organizations) = (Meter::default(), Mutex::default());
        Ok(SqliteStore { writer, readers, queue_readers, tokens, latest, outgoing, meter, organizations })
    }

    /// How much is under way, for the metrics.
    pub async fn depth(&self) -> Result<Depth> {
        self.read(outbox::depth).await
    }

    /// What writes to it, for `/readyz`.
    pub fn writer(&self) -> Arc<dyn Writable> {
        Arc::new(self.writer.clone())
    }

    async fn write<T, F>(&self, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &mut Context) -> std::result::Result<T, DbError> + Send + 'static,
    {
        let outgoing = self.outgoing.clone();
        let result = self.writer.write(move |connection, context| {
            let value = job(connection, context)?;
            context.sending.write(connection)?;
            context.fresh.write(connection)?;
            let wake = outbox::write(connection, context)?.then(|| WakeRelay(outgoing));
            Ok((value, std::mem::take(&mut context.changes), wake))
        });
        let (value, changes, _wake) = result.await?;
        self.meter.count(changes);
        Ok(value)
    }

    async fn read<T, F>(&self, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> std::result::Result<T, DbError> + Send + 'static,
    {
        Ok(self.readers.read(job).await?)
    }

    /// Moves what waits for a time where the wall clock was set back. Only the engine's task calls it.
    async fn follow_clock(&self, now: i64) -> Result<()> {
        let by = self.latest.fetch_max(now, Ordering::Relaxed) - now;
        if by > clock::SET_BACK_MS {
            tracing::warn!(by_ms = by, "the wall clock was set back; what waits for a time is moved with it");
            self.write(move |connection, _| clock::set_back(connection, by, now)).await?;
            self.latest.store(now, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn read_queue<T, F>(&self, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> std::result::Result<T, DbError> + Send + 'static,
    {
        Ok(self.queue_readers.read(job).await?)
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
        let known = || self.organizations.lock().map_err(|_| StoreError::Unavailable("an earlier request panicked".into()));
        if let Some(org) = known()?.get(name) {
            return Ok(*org);
        }
        let (read, made) = (name.clone(), name.clone());
        let org = match self.read(move |connection| rows::find_org(connection, &read)).await? {
            Some(org) => org,
            None => self.write(move |connection, context| context.org_id(connection, &made)).await?,
        };
        known()?.insert(name.clone(), org);
        Ok(org)
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

    async fn waiting(&self, org: OrgId, email: EmailNumber) -> Result<Vec<WaitingLane>> {
        self.read(move |connection| waiting::of(connection, org, email)).await
    }

    async fn deliveries(&self, org: OrgId, email: EmailNumber, page: DeliveryPage) -> Result<Deliveries> {
        self.read(move |connection| listing::deliveries(connection, org, email, &page)).await
    }

    async fn resolve(&self, org: OrgId, email: EmailNumber, which: Which, action: Action, now: i64) -> Result<usize> {
        let settle = |part: recover::Part| {
            self.write(move |connection, context| recover::resolve(connection, context, (org, email), &part, action, now))
        };
        let mut settled = 0;
        match which {
            Which::Recipients(addresses) => {
                for part in addresses.chunks(RESOLVE_ROWS) {
                    settled += settle(recover::Part::Named(part.to_vec())).await?.0;
                }
            }
            Which::All => {
                let (mut rows, mut last) = (RESOLVE_ROWS, UserNumber(0));
                while rows == RESOLVE_ROWS {
                    (rows, last) = settle(recover::Part::Behind(last, RESOLVE_ROWS)).await?;
                    settled += rows;
                }
            }
        }
        Ok(settled)
    }
}

#[async_trait]
impl Outbox for SqliteStore {
    async fn pending(&self, max: usize) -> std::result::Result<Vec<Outgoing>, OutboxError> {
        self.queue_readers.read(move |connection| outbox::pending(connection, max)).await.map_err(|e| OutboxError(e.to_string()))
    }

    async fn published(&self, number: i64) -> std::result::Result<(), OutboxError> {
        self.writer.write(move |connection, _| outbox::published(connection, number)).await.map_err(|e| OutboxError(e.to_string()))
    }

    async fn wait(&self) {
        self.outgoing.notified().await;
    }
}

#[async_trait]
impl Queue for SqliteStore {
    async fn in_hand(&self) -> Result<Vec<Claimed>> {
        let tokens = self.tokens.clone();
        self.read_queue(move |connection| recover::in_hand(connection, &tokens)).await
    }

    async fn last_turn(&self) -> Result<i64> {
        self.read_queue(recover::last_turn).await
    }

    async fn turn(&self, turn: Turn) -> Result<Vec<Claimed>> {
        self.follow_clock(turn.now).await?;
        self.write(move |connection, context| {
            outcomes::record(connection, context, &turn)?;
            outcomes::write_usage(connection, &turn.usage)?;
            claims::hand_over(connection, context, &turn.handed)?;
            recover::note_turn(connection, turn.number)?;
            claims::claim(connection, context, &turn)
        })
        .await
    }

    async fn lanes(&self, now: i64) -> Result<Lanes> {
        self.follow_clock(now).await?;
        self.read_queue(move |connection| claims::lanes(connection, now)).await
    }

    async fn fan_out_next(&self, last: OrgId, rows: usize, believed: Believed) -> Result<Option<FanOut>> {
        self.read_queue(move |connection| fan_out::next(connection, last, rows, believed)).await
    }

    async fn set_providers(&self, found: Vec<(String, String)>, settings: i64, checked_at: i64) -> Result<()> {
        self.write(move |connection, context| fan_out::set_providers(connection, context, &found, settings, checked_at)).await
    }

    async fn set_undecided(&self, domains: Vec<String>, settings: i64, checked_at: i64) -> Result<()> {
        self.write(move |connection, _| fan_out::set_undecided(connection, &domains, settings, checked_at)).await
    }

    async fn fan_out(&self, org: OrgId, email: EmailNumber, rows: usize, now: i64) -> Result<()> {
        self.write(move |connection, context| fan_out::fan_out(connection, context, org, email, rows, now)).await
    }

    async fn backfill_domains(&self, rows: usize, believed: Believed, now: i64) -> Result<Vec<String>> {
        self.read_queue(move |connection| backfill::domains(connection, rows, believed, now)).await
    }

    async fn backfill_step(&self, rows: usize, now: i64) -> Result<BackfillStep> {
        self.write(move |connection, context| backfill::step(connection, context, rows, now)).await
    }

    async fn content(&self, org: OrgId, email: EmailNumber) -> Result<Option<Email>> {
        self.read_queue(move |connection| emails::content(connection, org, email)).await
    }

    async fn usage(&self) -> Result<Vec<Usage>> {
        self.read_queue(outcomes::read_usage).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warmup::store_contract::suite::store_contract;

    store_contract!(|folder| Box::pin(async { Arc::new(SqliteStore::open(&folder.join("warmup.db")).unwrap()) as _ }));

    #[tokio::test]
    async fn an_organization_that_is_known_does_not_wait_for_the_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("warmup.db");
        let name = OrgName::parse("acme").unwrap();
        let org = SqliteStore::open(&path).unwrap().organization(&name).await.unwrap();
        let store = Arc::new(SqliteStore::open(&path).unwrap());
        let (runs, is_running) = tokio::sync::oneshot::channel();
        let (end, may_end) = std::sync::mpsc::channel::<()>();
        let writing = store.clone();
        let write = move |_: &Connection, _: &mut Context| {
            runs.send(()).unwrap();
            let _ = may_end.recv();
            Ok(())
        };
        let writing = tokio::spawn(async move { writing.write(write).await });
        is_running.await.unwrap();
        assert_eq!(store.organization(&name).await.unwrap(), org, "read after a start");
        assert_eq!(store.organization(&name).await.unwrap(), org, "remembered");
        drop(end);
        writing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn reads_of_the_api_do_not_hold_up_what_sends() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(&folder.path().join("warmup.db")).unwrap());
        let mut slow = Vec::new();
        for _ in 0..READERS {
            let (runs, is_running) = tokio::sync::oneshot::channel();
            let (end, may_end) = std::sync::mpsc::channel::<()>();
            let reading = store.clone();
            let read = move |_: &Connection| {
                runs.send(()).unwrap();
                let _ = may_end.recv();
                Ok(())
            };
            let reading = tokio::spawn(async move { reading.read(read).await });
            is_running.await.unwrap();
            slow.push((reading, end));
        }
        assert_eq!(store.lanes(0).await.unwrap(), Lanes::default());
        assert_eq!(store.pending(1).await.unwrap(), []);
        for (reading, end) in slow {
            drop(end);
            reading.await.unwrap().unwrap();
        }
    }
}
