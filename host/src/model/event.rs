//! What happened, as the event log tells it. Events are past tense; no event holds an address.

use crate::model::delivery::{Said, Source, State};
use crate::model::name::{EmailNumber, OrgName, UserNumber};
use postwarm_plugin_api::Report;
use std::sync::Arc;

/// Something that one of the three topics carries.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Topic `email-events`.
    Email(EmailProgressed),
    /// Topic `emailId-events`.
    Recipient(RecipientChanged),
    /// Topic `health-facts`.
    Facts(FactsReported),
}

impl Event {
    /// When it happened, in milliseconds since 1970 UTC.
    pub fn at(&self) -> i64 {
        match self {
            Event::Email(e) => e.at,
            Event::Recipient(e) => e.at,
            Event::Facts(e) => e.at,
        }
    }
}

/// An email was accepted, started or completed. Keyed by organization and email.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmailProgressed {
    pub org: OrgName,
    pub email: EmailNumber,
    pub progress: Progress,
    /// The domain of the From address, which the Message-IDs of the email carry.
    pub from_domain: String,
    /// The live recipients, frozen when it was accepted.
    pub recipients: i64,
    /// Milliseconds since 1970 UTC.
    pub at: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Accepted,
    Started,
    Completed,
}

/// A delivery came to be sent, deferred, failed, suppressed or unknown. Keyed by organization and recipient id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientChanged {
    pub org: OrgName,
    pub email: EmailNumber,
    pub user: UserNumber,
    pub state: State,
    /// How many attempts were made, this one included. Grows by every attempt: with the state it orders changes.
    pub attempt: i64,
    pub source: Source,
    /// The recipient's domain.
    pub domain: Arc<str>,
    /// The mailbox provider that receives for it, or `other`.
    pub provider: Arc<str>,
    /// The delivery's Message-ID, without angle brackets.
    pub message_id: String,
    /// The client that the attempt went through.
    pub client: Option<Arc<str>>,
    pub said: Said,
    /// A person dropped it while it was unknown: it is failed, but nobody refused it.
    pub dropped: bool,
    /// Milliseconds since 1970 UTC.
    pub at: i64,
}

/// A feedback loop reported. Keyed by organization and loop: facts and the new cursor are one record.
#[derive(Debug, Clone, PartialEq)]
pub struct FactsReported {
    pub org: OrgName,
    /// The loop's name within the organization.
    pub feedback: Arc<str>,
    /// Counts the polls of this loop; a record with a sequence already applied changes nothing.
    pub sequence: i64,
    /// The cursor after this poll.
    pub cursor: String,
    pub reports: Vec<Report>,
    /// When the loop was asked, in milliseconds since 1970 UTC.
    pub at: i64,
}
