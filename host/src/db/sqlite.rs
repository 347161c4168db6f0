//! SQLite: connections with the settings that durability and the memory limit need, and migrations.
//!
//! Invariant: every writer has WAL; a commit that others rely on is on the disk before it is answered; a reader cannot
//! write.

use crate::db::DbError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The page cache of a connection in KiB. SQLite looks through all of a writer's after a commit that rearranged pages.
const CACHE_KIB: i64 = 2 * 1024;
/// Prepared statements that a connection keeps.
const STATEMENTS_MAX: usize = 128;

/// How long a connection waits for another one's lock.
const BUSY_MAX: Duration = Duration::from_secs(10);

/// What a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A power loss (`synchronous=FULL`).
    PowerLoss,
    /// A crash of the process. A power loss takes back the newest commits, whole and in order (`synchronous=NORMAL`):
    /// for what is made again from elsewhere, with the position in it that says from where.
    Crash,
}

/// Opens a database for its one writer and makes it where it is missing.
pub fn open_writer(path: &Path, durability: Durability) -> Result<Connection, DbError> {
    let create = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let db = Connection::open_with_flags(path, create | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    prepare(&db)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    let synchronous = match durability {
        Durability::PowerLoss => "FULL",
        Durability::Crash => "NORMAL",
    };
    db.pragma_update(None, "synchronous", synchronous)?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.pragma_update(None, "temp_store", "MEMORY")?;
    db.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    Ok(db)
}

/// Opens a database that exists for reading.
pub fn open_reader(path: &Path) -> Result<Connection, DbError> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    prepare(&db)?;
    Ok(db)
}

fn prepare(db: &Connection) -> Result<(), DbError> {
    db.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    db.busy_timeout(BUSY_MAX)?;
    db.pragma_update(None, "cache_size", -CACHE_KIB)?;
    // A plan never depends on a bound value: else each new LIMIT compiles its statement anew.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Brings the schema up to date: step N of `steps` leads from version N to N + 1. Each step is one commit.
pub fn migrate(db: &mut Connection, steps: &[&str]) -> Result<(), DbError> {
    let found: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = steps.len() as i64;
    if found > known {
        return Err(DbError::Newer { found, known });
    }
    for (version, step) in steps.iter().enumerate().skip(found as usize) {
        let step_commit = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        step_commit.execute_batch(step)?;
        step_commit.pragma_update(None, "user_version", version as i64 + 1)?;
        step_commit.commit()?;
    }
    Ok(())
}

/// Checks the structure of the whole database; takes seconds per gigabyte.
pub fn check(db: &Connection) -> Result<(), DbError> {
    let said: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if said == "ok" { Ok(()) } else { Err(DbError::Damaged(said)) }
}

/// Read connections that are opened when needed and kept. Cloning shares them.
#[derive(Clone)]
pub struct Readers {
    path: Arc<Path>,
    idle: Arc<Mutex<Vec<Connection>>>,
    running: Arc<tokio::sync::Semaphore>,
}

impl Readers {
    /// At most `connections_max` reads run at a time.
    pub fn new(path: &Path, connections_max: usize) -> Readers {
        Readers { path: path.into(), idle: Arc::default(), running: Arc::new(tokio::sync::Semaphore::new(connections_max)) }
    }

    /// Runs `read` on a thread where it may block, in one transaction: all that it sees is of one moment.
    pub async fn read<T, F>(&self, read: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, DbError> + Send + 'static,
    {
        let permit = self.running.clone().acquire_owned().await.map_err(|e| DbError::Unavailable(e.to_string()))?;
        let (path, idle) = (self.path.clone(), self.idle.clone());
        let run = move || {
            let _permit = permit;
            let kept = idle.lock().expect("no thread panics while it holds this lock").pop();
            let db = kept.map_or_else(|| open_reader(&path), Ok)?;
            db.prepare_cached("BEGIN")?.execute([])?;
            let answer = read(&db);
            db.prepare_cached("COMMIT")?.execute([])?;
            idle.lock().expect("no thread panics while it holds this lock").push(db);
            answer
        };
        tokio::task::spawn_blocking(run).await.map_err(|e| DbError::Unavailable(e.to_string()))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_run_once_and_a_newer_database_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let steps = ["CREATE TABLE a (x INTEGER)", "INSERT INTO a VALUES (1)"];
        for _ in 0..2 {
            migrate(&mut open_writer(&path, Durability::PowerLoss).unwrap(), &steps).unwrap();
        }
        let rows: i64 = open_reader(&path).unwrap().query_row("SELECT count(*) FROM a", [], |r| r.get(0)).unwrap();
        assert_eq!(rows, 1);
        let refused = migrate(&mut open_writer(&path, Durability::PowerLoss).unwrap(), &steps[..1]);
        assert_eq!(refused, Err(DbError::Newer { found: 2, known: 1 }));
        assert_eq!(check(&open_reader(&path).unwrap()), Ok(()));
    }

    #[test]
    fn a_failed_migration_leaves_the_version_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut db = open_writer(&folder.path().join("a.db"), Durability::PowerLoss).unwrap();
        assert!(migrate(&mut db, &["CREATE TABLE a (x)", "CREATE TABLE b (x); nonsense"]).is_err());
        let version: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0)).unwrap();
        assert_eq!(version, 1);
        migrate(&mut db, &["CREATE TABLE a (x)", "CREATE TABLE b (x)"]).unwrap();
    }

    #[tokio::test]
    async fn a_reader_cannot_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        migrate(&mut open_writer(&path, Durability::PowerLoss).unwrap(), &["CREATE TABLE a (x)"]).unwrap();
        let readers = Readers::new(&path, 2);
        let refused = readers.read(|db| Ok(db.execute("INSERT INTO a VALUES (1)", [])?)).await;
        assert!(matches!(&refused, Err(DbError::ReadOnly(_))), "{refused:?}");
        assert_eq!(readers.read(|db| Ok(db.query_row("SELECT count(*) FROM a", [], |r| r.get::<_, i64>(0))?)).await, Ok(0));
    }
}
