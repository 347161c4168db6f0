//! The trait of everything that tells what became of mail, and the facts it may report.
//!
//! Four things stay apart: a fact about this message, an aggregate for a date, "there is no data", and "I failed"
//! (an `Err`). No data is never zero.

use crate::BoxFuture;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Asks one mailbox provider, or one set of mailboxes, what became of messages.
pub trait FeedbackLoop: Send + Sync + 'static {
    /// What this instance can know. The host refuses reports outside of it and shows `null` where nobody can tell.
    fn capabilities(&self) -> Capabilities;

    /// Pushes what is new since `poll.cursor` into `sink` and returns the new cursor, opaque to the host. The host
    /// stores the reports and the cursor as one record; after an `Err` the old cursor is used again. Reporting a thing
    /// twice is harmless.
    fn poll<'a>(&'a self, poll: Poll<'a>, sink: &'a mut dyn FactSink) -> BoxFuture<'a, Result<String, PollError>>;
}

/// What a loop can tell about a single message, and whether it reports aggregates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capabilities {
    pub delivered: bool,
    pub spam: bool,
    pub opened: bool,
    pub read: bool,
    pub bounced: bool,
    pub unsubscribed: bool,
    /// Reports [`Aggregate`]s for a domain and a date.
    pub aggregates: bool,
}

impl Capabilities {
    /// Tells whether a fact of this kind lies within what was declared.
    pub fn allows(&self, kind: FactKind) -> bool {
        match kind {
            FactKind::Delivered => self.delivered,
            FactKind::Spam => self.spam,
            FactKind::Opened => self.opened,
            FactKind::Read => self.read,
            FactKind::Bounced => self.bounced,
            FactKind::Unsubscribed => self.unsubscribed,
        }
    }
}

/// One poll: where the last one ended, what is watched, and until when an answer is of use.
pub struct Poll<'a> {
    /// The cursor that the last successful poll returned; empty at first.
    pub cursor: &'a str,
    /// The sent messages that still wait for news.
    pub watch: &'a dyn WatchList,
    /// When the host stops waiting.
    pub deadline: Instant,
}

/// The sent messages that a loop still watches, read page by page so that nobody holds them all.
pub trait WatchList: Send + Sync {
    /// Returns up to `max` watched messages behind `after` (a `Watched::position`; 0 starts), email by email.
    fn page(&self, after: u64, max: usize) -> BoxFuture<'_, Vec<Watched>>;

    /// Tells whether the loop is in charge of a recipient domain (lower case). A loop whose source says for whom a
    /// message was asks before it reports: of a message whose own event is still on its way, the host cannot tell. Across
    /// the C table, which does not carry the question yet, every domain is.
    fn in_charge_of(&self, _domain: &str) -> bool {
        true
    }
}

/// One watched message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Where it stands in the list; grows.
    pub position: u64,
    /// Its Message-ID, without angle brackets.
    pub message_id: String,
    /// The domain of its recipient.
    pub domain: String,
    /// When the next server accepted it, in milliseconds since 1970 UTC.
    pub sent_at_ms: i64,
}

/// Takes reports from a loop.
pub trait FactSink: Send {
    /// Takes one report. Returns false when the host wants no more in this poll; the loop then returns the cursor up to
    /// which it has reported.
    fn push(&mut self, report: Report) -> bool;
}

/// One thing that a loop has to say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum Report {
    Message(Fact),
    Aggregate(Aggregate),
    /// The provider was asked and has no data for this date (`YYYY-MM-DD`).
    NoData {
        domain: String,
        date: String,
    },
}

/// A fact about one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The Message-ID, without angle brackets.
    pub message_id: String,
    pub kind: FactKind,
    /// When it happened, in milliseconds since 1970 UTC, where the source tells.
    pub at_ms: Option<i64>,
    /// What the source said, in its own words; at most 512 octets are kept. Never an address.
    pub detail: Option<String>,
}

/// What can be said about a message. All but `Bounced` imply that it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FactKind {
    /// It is in the mailbox, whatever the folder.
    Delivered,
    /// It lies in the spam folder, or the user marked it as spam.
    Spam,
    /// Its images were fetched, or a client displayed it.
    Opened,
    /// It is flagged as read.
    Read,
    /// It was returned after it had been accepted.
    Bounced,
    /// The user asked for no more.
    Unsubscribed,
}

/// A figure of a provider about a domain and a day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Aggregate {
    /// The sending domain.
    pub domain: String,
    /// The day in the provider's reckoning, `YYYY-MM-DD`.
    pub date: String,
    /// The provider's name of the figure, snake case, with its unit: `spam_ratio`.
    pub metric: String,
    pub value: f64,
}

/// Why a poll failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PollError {
    /// It may work the next time.
    #[error("{0}")]
    Temporary(String),
    /// The operator must do something first: credentials, permissions.
    #[error("{0}")]
    Refused(String),
}
