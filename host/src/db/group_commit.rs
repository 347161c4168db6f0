//! One thread owns the write connection of a SQLite database and commits many jobs at once.
//!
//! Invariant: a job's answer is given only after the commit that holds its changes. A job that fails is rolled back
//! alone; a commit that fails fails every job in it.

use rusqlite::{Connection, ErrorCode};
use std::sync::mpsc;
use std::time::Duration;
use tokio::sync::oneshot;

/// The most jobs in one commit.
const JOBS_PER_COMMIT_MAX: usize = 64;

/// Why a job has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DbError {
    #[error("the disk is full")]
    Full,
    #[error("{0}")]
    Failed(String),
}

impl From<rusqlite::Error> for DbError {
    fn from(error: rusqlite::Error) -> DbError {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => DbError::Full,
            _ => DbError::Failed(error.to_string()),
        }
    }
}

/// What the writing thread holds besides its connection, such as caches of what the database says.
pub trait State: Send + 'static {
    /// Forgets what may have been rolled back.
    fn rolled_back(&mut self);
}

/// A job: makes its changes and hands back how to tell the waiting side.
type Job<S> = Box<dyn FnOnce(&Connection, &mut S) -> Tell + Send>;

/// Whether the job's changes stand, and who is told.
struct Tell {
    failed: bool,
    told: Box<dyn FnOnce(Result<(), DbError>) + Send>,
}

/// The handle to a writing thread. The thread ends when the last handle is dropped.
pub struct Writer<S> {
    jobs: mpsc::Sender<Job<S>>,
}

impl<S> Clone for Writer<S> {
    fn clone(&self) -> Writer<S> {
        Writer { jobs: self.jobs.clone() }
    }
}

impl<S: State> Writer<S> {
    /// Starts the thread.
    pub fn start(name: &str, connection: Connection, state: S) -> std::io::Result<Writer<S>> {
        let (jobs, queue) = mpsc::channel();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || work(connection, state, queue))?;
        Ok(Writer { jobs })
    }

    /// Runs `job` on the writing thread and answers once its changes are durable.
    pub async fn run<T, F>(&self, job: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &mut S) -> Result<T, DbError> + Send + 'static,
    {
        let (answer, waiting) = oneshot::channel();
        let job: Job<S> = Box::new(move |connection, state| {
            let result = job(connection, state);
            Tell {
                failed: result.is_err(),
                told: Box::new(move |committed| {
                    // The one who asked may have gone: the change stands all the same.
                    let _ = answer.send(committed.and(result));
                }),
            }
        });
        self.jobs.send(job).map_err(|_| DbError::Failed("the writing thread has ended".into()))?;
        waiting.await.unwrap_or_else(|_| Err(DbError::Failed("the writing thread has ended".into())))
    }
}

fn work<S: State>(connection: Connection, mut state: S, queue: mpsc::Receiver<Job<S>>) {
    while let Ok(first) = queue.recv() {
        let mut told = Vec::new();
        let result = commit(&connection, &mut state, first, &queue, &mut told);
        if let Err(error) = &result {
            state.rolled_back();
            tracing::error!(error = %error, "a commit failed");
            if !connection.is_autocommit() {
                let _ = connection.execute_batch("ROLLBACK");
            }
            // A full disk stays full for a while: do not spin on it.
            std::thread::park_timeout(Duration::from_millis(20));
        }
        for tell in told {
            tell(result.clone());
        }
    }
}

fn commit<S: State>(
    connection: &Connection,
    state: &mut S,
    first: Job<S>,
    queue: &mpsc::Receiver<Job<S>>,
    told: &mut Vec<Box<dyn FnOnce(Result<(), DbError>) + Send>>,
) -> Result<(), DbError> {
    let begun = connection.prepare_cached("BEGIN IMMEDIATE").and_then(|mut s| s.execute([]));
    let mut next = Some(first);
    while let Some(job) = next.take() {
        connection.prepare_cached("SAVEPOINT job")?.execute([]).ok();
        let tell = job(connection, state);
        if tell.failed {
            state.rolled_back();
            connection.execute_batch("ROLLBACK TO job").ok();
        }
        connection.prepare_cached("RELEASE job")?.execute([]).ok();
        told.push(tell.told);
        if told.len() < JOBS_PER_COMMIT_MAX {
            next = queue.try_recv().ok();
        }
    }
    begun?;
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}
