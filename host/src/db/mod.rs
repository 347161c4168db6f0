//! Databases: how they are opened, migrated, written by one thread in group commits, and read.
//!
//! Invariant: knows no table. What is committed survives what its database promises (`sqlite::Durability`); a job that
//! fails leaves nothing behind.

pub mod sqlite;
pub mod writer;

/// What went wrong with a database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DbError {
    #[error("the disk is full; free some space")]
    Full,
    #[error("{0}: postwarm must be able to write the data folder and all its files")]
    ReadOnly(String),
    #[error("the database has schema version {found}, newer than the {known} that this program knows; run the newer program")]
    Newer { found: i64, known: i64 },
    #[error("the database is damaged: {0}; restore it from a backup (health.db alone may be deleted: it is replayed from the event log)")]
    Damaged(String),
    #[error("{0}")]
    Unavailable(String),
}

impl From<rusqlite::Error> for DbError {
    fn from(e: rusqlite::Error) -> DbError {
        use rusqlite::ErrorCode::{DatabaseCorrupt, DiskFull, NotADatabase, ReadOnly};
        match e.sqlite_error_code() {
            Some(DiskFull) => DbError::Full,
            Some(ReadOnly) => DbError::ReadOnly(e.to_string()),
            Some(DatabaseCorrupt | NotADatabase) => DbError::Damaged(e.to_string()),
            _ => DbError::Unavailable(e.to_string()),
        }
    }
}
