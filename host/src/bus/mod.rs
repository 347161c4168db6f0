//! The event log between the two services: one port, two adapters.
//!
//! Invariant: nobody publishes directly but the relay, which empties the outbox, and the poller, whose record is facts
//! and cursor in one. Records carry public JSON that only `wire` reads and writes.

pub mod batch;
#[cfg(test)]
pub mod contract;
pub mod embedded;
pub mod kafka;
pub mod relay;
pub mod sealed;
pub mod throttle;
pub mod wire;

use batch::BatchError;
use bytes::Bytes;
use sealed::Sealed;
use std::time::Duration;

/// The payloads of one poll take up this much at most, and one record more.
pub const POLL_OCTETS_MAX: usize = 4 * 1024 * 1024;

/// The three topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// `email-events`: an email was accepted, started, completed.
    Emails,
    /// `emailId-events`: a recipient's state changed.
    Recipients,
    /// `health-facts`: what a feedback loop reported, with its new cursor.
    Facts,
}

/// A record to publish, as it stands in its batch. Its texts are UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    pub topic: Topic,
    /// When it happened, in milliseconds since 1970 UTC (`ce_time`).
    pub at: i64,
    /// Records of one key stay in order.
    pub key: &'a [u8],
    /// The event's id, the same whenever the same event is published again (`ce_id`).
    pub id: &'a [u8],
    /// The event's type (`ce_type`), such as `postwarm.recipient.sent.v1`.
    pub kind: &'a [u8],
    /// The organization (`ce_source` is `/organizations/NAME`).
    pub org: &'a [u8],
    /// The event as JSON.
    pub payload: &'a [u8],
}

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumed {
    pub topic: Topic,
    pub partition: i32,
    pub offset: i64,
    pub payload: Bytes,
}

/// Where a consumer goes on: the next offset of a partition. Partitions without a position start at their beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub topic: Topic,
    pub partition: i32,
    pub next_offset: i64,
}

/// What went wrong with the log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It may work the next time: the broker is away, the disk is full.
    #[error("the event log is not available: {0}")]
    Unavailable(String),
    /// What is to be published is no batch.
    #[error(transparent)]
    Damaged(#[from] BatchError),
    /// Records that were asked for are no longer kept.
    #[error("records of {topic} partition {partition} from offset {wanted} are gone; the oldest kept is {oldest}")]
    Gone { topic: String, partition: i32, wanted: i64, oldest: i64 },
}

/// The event log.
#[async_trait::async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// Appends all records durably, in order per key. After an `Err` some may have been appended; publishing them again
    /// is harmless.
    async fn publish(&self, batches: Vec<Sealed>) -> Result<(), LogError>;

    /// Opens a consumer of these topics that starts at `positions`.
    async fn consume(&self, topics: &[Topic], positions: &[Position]) -> Result<Box<dyn Consumer>, LogError>;

    /// What keeps the log from working just now, as far as is known without asking it. Does not block.
    fn trouble(&self) -> Option<String> {
        None
    }
}

/// Reads the log in the order of each partition.
#[async_trait::async_trait]
pub trait Consumer: Send {
    /// Returns up to `max` records, or none when `wait` has passed without one. Fewer where they take up more than
    /// `POLL_OCTETS_MAX`.
    async fn poll(&mut self, max: usize, wait: Duration) -> Result<Vec<Consumed>, LogError>;
}

/// One outbox row: records of one commit and the number that marks them published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub number: i64,
    pub batches: Vec<Sealed>,
}

/// The table that the relay empties.
#[async_trait::async_trait]
pub trait Outbox: Send + Sync + 'static {
    /// Returns unpublished records, oldest first: rows until they have `max` records or more.
    async fn pending(&self, max: usize) -> Result<Vec<Outgoing>, OutboxError>;
    /// Forgets the rows up to and including `number`, whose records are durably in the log.
    async fn published(&self, number: i64) -> Result<(), OutboxError>;
    /// Resolves when there may be something to publish.
    async fn wait(&self);
}

/// The outbox could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the outbox is not available: {0}")]
pub struct OutboxError(pub String);
