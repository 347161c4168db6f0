//! The one writer of a database: a thread that puts the jobs that wait into one commit.
//!
//! Invariant: a job is answered after the commit that holds it. A job that fails or panics is undone alone; where the
//! commit fails, every job of it fails. What the thread remembers between jobs never outlives what was undone.

use crate::db::DbError;
use rusqlite::Connection;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot};

/// Jobs that may wait; then `write` waits.
const WAITING_MAX: usize = 1024;
/// Jobs of one commit.
const COMMIT_JOBS_MAX: usize = 256;

/// What a writing thread remembers between jobs, such as numbers that it has looked up.
pub trait Memory: Send + 'static {
    /// Forgets what may have come from a job that was undone.
    fn rolled_back(&mut self);
}

impl Memory for () {
    fn rolled_back(&mut self) {}
}

/// Hands jobs to the writer thread, which ends when the last clone is dropped.
pub struct Writer<M = ()> {
    jobs: mpsc::Sender<Box<dyn Job<M>>>,
    last_error: LastError,
}

impl<M> Clone for Writer<M> {
    fn clone(&self) -> Writer<M> {
        Writer { jobs: self.jobs.clone(), last_error: self.last_error.clone() }
    }
}

/// What the last commit failed with.
type LastError = Arc<Mutex<Option<DbError>>>;

/// Tells whether a database can be written.
#[async_trait::async_trait]
pub trait Writable: Send + Sync + 'static {
    /// Why nothing could be written the last time that something was to be: the disk is full, the file is locked.
    fn last_error(&self) -> Option<DbError>;

    /// Writes what stands there already, to find out whether writing works.
    async fn probe(&self) -> Result<(), DbError>;
}

#[async_trait::async_trait]
impl<M: Memory> Writable for Writer<M> {
    fn last_error(&self) -> Option<DbError> {
        self.last_error.lock().expect("nobody panics while he holds this lock").clone()
    }

    async fn probe(&self) -> Result<(), DbError> {
        self.write(|db, _| {
            let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
            Ok(db.pragma_update(None, "user_version", version)?)
        })
        .await
    }
}

impl<M: Memory> Writer<M> {
    /// Starts the thread `name` that owns the connection and the memory.
    pub fn start(name: &str, db: Connection, memory: M) -> std::io::Result<Writer<M>> {
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        let last_error = LastError::default();
        let told = last_error.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&db, memory, waiting, &told))?;
        Ok(Writer { jobs, last_error })
    }

    /// Runs `job` in a transaction, with others that wait, and answers when it is durable.
    pub async fn write<T, F>(&self, job: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &mut M) -> Result<T, DbError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let gone = || {
            let error = DbError::Unavailable("the writer has stopped; restart the service".to_owned());
            *self.last_error.lock().expect("nobody panics while he holds this lock") = Some(error.clone());
            error
        };
        self.jobs.send(Box::new(Pending { job: Some(job), result: None, answer })).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

trait Job<M>: Send {
    fn run(&mut self, db: &Connection, memory: &mut M) -> Result<(), DbError>;
    /// What the job itself failed with.
    fn error(&self) -> Option<DbError>;
    fn answer(self: Box<Self>, commit: Result<(), DbError>);
}

struct Pending<T, F> {
    job: Option<F>,
    result: Option<Result<T, DbError>>,
    answer: oneshot::Sender<Result<T, DbError>>,
}

impl<M, T: Send, F: FnOnce(&Connection, &mut M) -> Result<T, DbError> + Send> Job<M> for Pending<T, F> {
    fn run(&mut self, db: &Connection, memory: &mut M) -> Result<(), DbError> {
        let Some(job) = self.job.take() else { return Ok(()) };
        let ran = catch_unwind(AssertUnwindSafe(|| job(db, memory)));
        self.result = Some(ran.unwrap_or_else(|_| Err(DbError::Unavailable("the change panicked; see the log".to_owned()))));
        self.result.as_ref().and_then(|result| result.as_ref().err()).cloned().map_or(Ok(()), Err)
    }

    fn error(&self) -> Option<DbError> {
        self.result.as_ref()?.as_ref().err().cloned()
    }

    fn answer(self: Box<Self>, commit: Result<(), DbError>) {
        let not_run = || DbError::Unavailable("the commit before this job failed".to_owned());
        let Pending { result, answer, .. } = *self;
        // Nobody may wait any more: the caller was cancelled.
        let _ = answer.send(commit.and_then(|()| result.unwrap_or_else(|| Err(not_run()))));
    }
}

fn work<M: Memory>(db: &Connection, mut memory: M, mut waiting: mpsc::Receiver<Box<dyn Job<M>>>, last_error: &LastError) {
    let mut jobs = Vec::with_capacity(COMMIT_JOBS_MAX);
    while waiting.blocking_recv_many(&mut jobs, COMMIT_JOBS_MAX) > 0 {
        let commit = commit_all(db, &mut memory, &mut jobs);
        if commit.is_err() {
            memory.rolled_back();
        }
        let all_failed = || jobs.iter().map(|job| job.error()).collect::<Option<Vec<_>>>()?.pop();
        *last_error.lock().expect("nobody panics while he holds this lock") = commit.clone().err().or_else(all_failed);
        for job in jobs.drain(..) {
            job.answer(commit.clone());
        }
    }
}

fn commit_all<M: Memory>(db: &Connection, memory: &mut M, jobs: &mut [Box<dyn Job<M>>]) -> Result<(), DbError> {
    run(db, "BEGIN IMMEDIATE")?;
    let ran = match jobs {
        // Undone alone is undone as a whole.
        [only] => only.run(db, memory).or_else(|_| undo_all(db, memory)),
        several => several.iter_mut().try_for_each(|job| alone(db, memory, &mut **job)),
    };
    let committed = match db.is_autocommit() {
        true => ran,
        false => ran.and_then(|()| run(db, "COMMIT")),
    };
    if committed.is_err() && !db.is_autocommit() {
        run(db, "ROLLBACK")?;
    }
    committed
}

fn undo_all<M: Memory>(db: &Connection, memory: &mut M) -> Result<(), DbError> {
    memory.rolled_back();
    // SQLite has done so itself where the disk is full.
    if db.is_autocommit() { Ok(()) } else { run(db, "ROLLBACK") }
}

/// Runs a job so that its failure undoes nothing else. `Err` where that cannot be.
fn alone<M: Memory>(db: &Connection, memory: &mut M, job: &mut dyn Job<M>) -> Result<(), DbError> {
    run(db, "SAVEPOINT job")?;
    let Err(error) = job.run(db, memory) else { return run(db, "RELEASE job") };
    memory.rolled_back();
    if db.is_autocommit() {
        return Err(error);
    }
    run(db, "ROLLBACK TO job")?;
    run(db, "RELEASE job")
}

fn run(db: &Connection, statement: &str) -> Result<(), DbError> {
    db.prepare_cached(statement)?.execute([])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::sqlite::{Durability, migrate, open_writer};
    use std::collections::BTreeSet;

    /// The numbers that the jobs have added.
    #[derive(Default)]
    struct Added(BTreeSet<i64>);

    impl Memory for Added {
        fn rolled_back(&mut self) {
            self.0.clear();
        }
    }

    fn writer(folder: &tempfile::TempDir) -> Writer<Added> {
        let mut db = open_writer(&folder.path().join("a.db"), Durability::PowerLoss).unwrap();
        migrate(&mut db, &["CREATE TABLE a (x INTEGER PRIMARY KEY CHECK (x < 100))"]).unwrap();
        Writer::start("test", db, Added::default()).unwrap()
    }

    async fn add(writer: &Writer<Added>, x: i64, then: Result<(), DbError>) -> Result<(), DbError> {
        let job = move |db: &Connection, added: &mut Added| {
            db.execute("INSERT INTO a VALUES (?1)", [x])?;
            added.0.insert(x);
            then
        };
        writer.write(job).await
    }

    async fn sum_and_memory(writer: &Writer<Added>) -> (i64, Vec<i64>) {
        let read = |db: &Connection, added: &mut Added| {
            Ok((db.query_row("SELECT sum(x) FROM a", [], |r| r.get(0))?, added.0.iter().copied().collect()))
        };
        writer.write(read).await.unwrap()
    }

    #[tokio::test]
    async fn a_job_that_fails_is_undone_alone_and_what_was_remembered_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder);
        let (first, second, third) = tokio::join!(add(&writer, 1, Ok(())), add(&writer, 2, Err(DbError::Full)), add(&writer, 3, Ok(())));
        assert_eq!((first, second, third), (Ok(()), Err(DbError::Full), Ok(())));
        assert_eq!(sum_and_memory(&writer).await, (4, vec![3]));
        assert_eq!(writer.last_error(), None);
        assert_eq!(add(&writer, 4, Err(DbError::Full)).await, Err(DbError::Full));
        assert_eq!(sum_and_memory(&writer).await, (4, vec![]));
    }

    #[tokio::test]
    async fn a_job_that_panics_is_undone_and_answered_and_the_writer_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder);
        let panics = |db: &Connection, added: &mut Added| -> Result<(), DbError> {
            db.execute("INSERT INTO a VALUES (5)", [])?;
            added.0.insert(5);
            panic!("of the test");
        };
        assert!(matches!(writer.write(panics).await, Err(DbError::Unavailable(_))));
        assert_eq!(add(&writer, 6, Ok(())).await, Ok(()));
        assert_eq!(sum_and_memory(&writer).await, (6, vec![6]));
    }

    #[tokio::test]
    async fn a_full_disk_is_the_last_error_until_something_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut db = open_writer(&folder.path().join("a.db"), Durability::PowerLoss).unwrap();
        migrate(&mut db, &["CREATE TABLE a (x BLOB)"]).unwrap();
        let room =
            |pages: i64| move |db: &Connection, _: &mut ()| Ok(db.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?);
        let writer = Writer::start("test", db, ()).unwrap();
        writer.write(room(4)).await.unwrap();
        let fill = || writer.write(|db, ()| Ok(db.execute("INSERT INTO a VALUES (zeroblob(100000))", ()).map(drop)?));
        assert_eq!(fill().await, Err(DbError::Full));
        assert_eq!(writer.last_error(), Some(DbError::Full));
        writer.write(room(1000)).await.unwrap();
        assert_eq!(fill().await, Ok(()));
        assert_eq!((writer.probe().await, writer.last_error()), (Ok(()), None));
    }
}
