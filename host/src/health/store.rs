//! The port to health's database, the ledger. Adapters: `sqlite`.
//!
//! Invariant: effects of a batch and the log positions behind it are one commit. Nothing comes in but by `apply`;
//! `expire` changes only what time alone decides. Every query of the API names its organization.

use crate::bus::Position;
use crate::db::DbError;
use crate::health::tally::{Delivery, Tally};
use crate::model::event::Event;
use crate::model::name::OrgName;
use async_trait::async_trait;
use postwarm_plugin_api::{FactKind, Report};
use std::sync::Arc;

pub type Result<T> = std::result::Result<T, DbError>;

/// Chooses the recipient domains that a loop answers for.
pub type DomainFilter = Arc<dyn Fn(&str) -> bool + Send + Sync>;

#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Where each partition of the log goes on.
    async fn positions(&self) -> Result<Vec<Position>>;
    /// Applies events and stores the positions behind them, in one commit. Applying an event again changes nothing.
    async fn apply(&self, events: Vec<Event>, positions: Vec<Position>) -> Result<()>;
    /// Ends the watch of up to `max` messages that were sent before `sent_before`; answers how many it ended.
    async fn expire(&self, sent_before: i64, max: usize) -> Result<usize>;

    /// Where a loop stands, as its last record in the log says.
    async fn loop_state(&self, org: &OrgName, name: &str) -> Result<LoopState>;
    /// Keeps of a loop's reports those that the ledger does not have and that may be about mail of this organization to a
    /// domain that `chosen` takes. Mail that the ledger does not know yet may be.
    async fn news(&self, org: &OrgName, name: &str, chosen: DomainFilter, reports: Vec<Report>) -> Result<Vec<Report>>;
    /// A page of watched messages behind position `after` whose recipient domain `chosen` takes.
    async fn watched(&self, org: &OrgName, chosen: DomainFilter, after: u64, max: usize) -> Result<Vec<WatchedDelivery>>;

    async fn email(&self, org: &OrgName, email: i64) -> Result<Option<EmailCounts>>;
    /// Emails behind number `after`, in the order of their numbers.
    async fn emails(&self, org: &OrgName, after: i64, limit: usize) -> Result<Vec<EmailCounts>>;
    /// One delivery, where the token is its own.
    async fn delivery(&self, org: &OrgName, email: i64, user: i64, token: i64) -> Result<Option<FoundDelivery>>;
    /// Recipient domains behind `after` in the order of their names, each with its provider.
    async fn domains(&self, org: &OrgName, after: &str, limit: usize) -> Result<Vec<(String, String)>>;
}

/// Where a loop stands. The default is that of a loop that never reported.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoopState {
    pub sequence: i64,
    pub cursor: String,
    /// When its last record was made, in milliseconds since 1970 UTC; 0 for never.
    pub at: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedDelivery {
    pub position: u64,
    pub message_id: String,
    pub domain: String,
    pub sent_at: i64,
}

/// How the deliveries of an email stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmailCounts {
    pub email: i64,
    /// The domain of its From address.
    pub from_domain: String,
    /// The live recipients; `None` until the log told.
    pub live: Option<i64>,
    /// When the first message came to be sent or unknown, in milliseconds since 1970 UTC; `None` before.
    pub first_sent_at: Option<i64>,
    /// By recipient domain and provider, of the deliveries that the log told about.
    pub parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub domain: String,
    pub provider: String,
    pub tally: Tally,
}

/// One delivery with its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDelivery {
    pub delivery: Delivery,
    pub domain: String,
    pub provider: String,
    pub from_domain: String,
    pub facts: Vec<Evidence>,
}

/// A fact as the ledger keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    pub kind: FactKind,
    /// When it happened, in milliseconds since 1970 UTC, where the source told.
    pub at: Option<i64>,
    /// When the loop was asked.
    pub seen_at: i64,
    /// The loop that saw it.
    pub source: String,
}
