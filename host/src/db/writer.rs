//! The one writer of a database: a thread that puts the jobs that wait into one commit.
//!
//! Invariant: a job is answered after the commit that holds it. A job that fails is undone alone; where the commit
//! fails, every job of it fails.

use crate::db::DbError;
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

/// Jobs that may wait; then `write` waits.
const WAITING_MAX: usize = 1024;
/// Jobs of one commit.
const COMMIT_JOBS_MAX: usize = 256;

/// Hands jobs to the writer thread, which ends when the last clone is dropped.
#[derive(Clone)]
pub struct Writer {
    jobs: mpsc::Sender<Box<dyn Job>>,
}

impl Writer {
    /// Starts the thread `name` that owns the connection.
    pub fn start(name: &str, db: Connection) -> std::io::Result<Writer> {
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || work(db, waiting))?;
        Ok(Writer { jobs })
    }

    /// Runs `job` in a transaction, with others that wait, and answers when it is durable.
    pub async fn write<T, F>(&self, job: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, DbError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let gone = || DbError::Unavailable("the writer has stopped".to_owned());
        self.jobs.send(Box::new(Pending { job: Some(job), result: None, answer })).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

trait Job: Send {
    /// Answers whether the job succeeded.
    fn run(&mut self, db: &Connection) -> bool;
    fn answer(self: Box<Self>, commit: Result<(), DbError>);
}

struct Pending<T, F> {
    job: Option<F>,
    result: Option<Result<T, DbError>>,
    answer: oneshot::Sender<Result<T, DbError>>,
}

impl<T: Send, F: FnOnce(&Connection) -> Result<T, DbError> + Send> Job for Pending<T, F> {
    fn run(&mut self, db: &Connection) -> bool {
        self.result = self.job.take().map(|job| job(db));
        matches!(self.result, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, commit: Result<(), DbError>) {
        let not_run = || DbError::Unavailable("the commit before this job failed".to_owned());
        let Pending { result, answer, .. } = *self;
        // Nobody may wait any more: the caller was cancelled.
        let _ = answer.send(commit.and_then(|()| result.unwrap_or_else(|| Err(not_run()))));
    }
}

fn work(mut db: Connection, mut waiting: mpsc::Receiver<Box<dyn Job>>) {
    let mut jobs = Vec::with_capacity(COMMIT_JOBS_MAX);
    while waiting.blocking_recv_many(&mut jobs, COMMIT_JOBS_MAX) > 0 {
        let commit = commit_all(&mut db, &mut jobs);
        for job in jobs.drain(..) {
            job.answer(commit.clone());
        }
    }
}

fn commit_all(db: &mut Connection, jobs: &mut [Box<dyn Job>]) -> Result<(), DbError> {
    let mut commit = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for job in jobs {
        let mut alone = commit.savepoint()?;
        if job.run(&alone) {
            alone.commit()?;
        } else {
            alone.rollback()?;
        }
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
    }
}
