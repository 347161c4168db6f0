//! The one writer of a database: a thread that puts the jobs that wait into one commit.
//!
//! Invariant: a job is answered after the commit that holds it. A job that fails is undone alone; where the commit
//! fails, every job of it fails.

use crate::db::DbError;
use rusqlite::{Connection, TransactionBehavior};
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot};

/// Jobs that may wait; then `write` waits.
const WAITING_MAX: usize = 1024;
/// Jobs of one commit.
const COMMIT_JOBS_MAX: usize = 256;

/// Hands jobs to the writer thread, which ends when the last clone is dropped.
#[derive(Clone)]
pub struct Writer {
    jobs: mpsc::Sender<Box<dyn Job>>,
    last_error: LastError,
}

/// What the last commit failed with.
type LastError = Arc<Mutex<Option<DbError>>>;

impl Writer {
    /// Starts the thread `name` that owns the connection.
    pub fn start(name: &str, db: Connection) -> std::io::Result<Writer> {
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        let last_error = LastError::default();
        let told = last_error.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || work(db, waiting, &told))?;
        Ok(Writer { jobs, last_error })
    }

    /// Why nothing could be written the last time that something was to be: the disk is full, the file is locked.
    pub fn last_error(&self) -> Option<DbError> {
        self.last_error.lock().expect("nobody panics while he holds this lock").clone()
    }

    /// Writes what stands there already, to find out whether writing works.
    pub async fn probe(&self) -> Result<(), DbError> {
        self.write(|db| {
            let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
            Ok(db.pragma_update(None, "user_version", version)?)
        })
        .await
    }

    /// Runs `job` in a transaction, with others that wait, and answers when it is durable.
    pub async fn write<T, F>(&self, job: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, DbError> + Send + 'static,
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

trait Job: Send {
    fn run(&mut self, db: &Connection) -> Result<(), DbError>;
    fn answer(self: Box<Self>, commit: Result<(), DbError>);
}

struct Pending<T, F> {
    job: Option<F>,
    result: Option<Result<T, DbError>>,
    answer: oneshot::Sender<Result<T, DbError>>,
}

impl<T: Send, F: FnOnce(&Connection) -> Result<T, DbError> + Send> Job for Pending<T, F> {
    fn run(&mut self, db: &Connection) -> Result<(), DbError> {
        self.result = self.job.take().map(|job| job(db));
        match &self.result {
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn answer(self: Box<Self>, commit: Result<(), DbError>) {
        let not_run = || DbError::Unavailable("the commit before this job failed".to_owned());
        let Pending { result, answer, .. } = *self;
        // Nobody may wait any more: the caller was cancelled.
        let _ = answer.send(commit.and_then(|()| result.unwrap_or_else(|| Err(not_run()))));
    }
}

fn work(mut db: Connection, mut waiting: mpsc::Receiver<Box<dyn Job>>, last_error: &LastError) {
    let mut jobs = Vec::with_capacity(COMMIT_JOBS_MAX);
    while waiting.blocking_recv_many(&mut jobs, COMMIT_JOBS_MAX) > 0 {
        let mut failed = None;
        let commit = commit_all(&mut db, &mut jobs, &mut failed);
        *last_error.lock().expect("nobody panics while he holds this lock") = commit.clone().err().or(failed);
        for job in jobs.drain(..) {
            job.answer(commit.clone());
        }
    }
}

/// Runs the jobs in one commit. `failed` is what kept all of them from working, where the commit itself did.
fn commit_all(db: &mut Connection, jobs: &mut [Box<dyn Job>], failed: &mut Option<DbError>) -> Result<(), DbError> {
    let mut all_failed = true;
    let mut commit = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for job in jobs {
        let mut alone = commit.savepoint()?;
        match job.run(&alone) {
            Ok(()) => {
                alone.commit()?;
                all_failed = false;
            }
            Err(error) => {
                // Where the disk is full SQLite has undone the whole transaction, and the savepoint with it.
                alone.rollback().map_err(|_| error.clone())?;
                *failed = Some(error);
            }
        }
    }
    if !all_failed {
        *failed = None;
    }
    Ok(commit.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::sqlite::{migrate, open_writer};

    #[tokio::test]
    async fn a_job_that_fails_is_undone_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut db = open_writer(&folder.path().join("a.db")).unwrap();
        migrate(&mut db, &["CREATE TABLE a (x INTEGER PRIMARY KEY)"]).unwrap();
        let writer = Writer::start("test", db).unwrap();
        let add = |x: i64, then: Result<(), DbError>| {
            writer.write(move |db| {
                db.execute("INSERT INTO a VALUES (?1)", [x])?;
                then
            })
        };
        let (first, second, third) = tokio::join!(add(1, Ok(())), add(2, Err(DbError::Full)), add(3, Ok(())));
        assert_eq!((first, second, third), (Ok(()), Err(DbError::Full), Ok(())));
        let sum = writer.write(|db| Ok(db.query_row("SELECT sum(x) FROM a", [], |r| r.get::<_, i64>(0))?)).await;
        assert_eq!(sum, Ok(4));
        assert_eq!(writer.last_error(), None);
    }

    #[tokio::test]
    async fn a_full_disk_is_the_last_error_until_something_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut db = open_writer(&folder.path().join("a.db")).unwrap();
        migrate(&mut db, &["CREATE TABLE a (x BLOB)"]).unwrap();
        let room = |pages: i64| move |db: &Connection| Ok(db.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?);
        let writer = Writer::start("test", db).unwrap();
        writer.write(room(4)).await.unwrap();
        let fill = || writer.write(|db| Ok(db.execute("INSERT INTO a VALUES (zeroblob(100000))", ()).map(drop)?));
        assert_eq!(fill().await, Err(DbError::Full));
        assert_eq!(writer.last_error(), Some(DbError::Full));
        writer.write(room(1000)).await.unwrap();
        assert_eq!(fill().await, Ok(()));
        assert_eq!((writer.probe().await, writer.last_error()), (Ok(()), None));
    }
}
