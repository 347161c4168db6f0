//! The states of a delivery. These seven words are the states everywhere: SQL, JSON, events, documentation.

use postwarm_plugin_api::{Fault, Reply};

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i64)]
pub enum State {
    /// Certainly not sent. A row that is not fanned out yet counts as queued too.
    Queued = 0,
    /// Refused for now; waits for `next_at`.
    Deferred = 1,
    /// Durably recorded before a client gets it.
    Sending = 2,
    /// Accepted by the next server. Not yet delivered.
    Sent = 3,
    /// Refused for good, or given up after the retries.
    Failed = 4,
    /// Not sent because the user wants no mail.
    Suppressed = 5,
    /// The end of data was on its way and no reply was read: only a person or evidence settles it.
    Unknown = 6,
}

impl State {
    pub const ALL: [State; 7] =
        [State::Queued, State::Deferred, State::Sending, State::Sent, State::Failed, State::Suppressed, State::Unknown];

    pub fn as_str(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Deferred => "deferred",
            State::Sending => "sending",
            State::Sent => "sent",
            State::Failed => "failed",
            State::Suppressed => "suppressed",
            State::Unknown => "unknown",
        }
    }

    pub fn parse(text: &str) -> Option<State> {
        State::ALL.into_iter().find(|s| s.as_str() == text)
    }

    pub fn from_number(number: i64) -> Option<State> {
        State::ALL.into_iter().find(|s| *s as i64 == number)
    }

    /// Tells whether nothing more happens by itself.
    pub fn is_final(self) -> bool {
        matches!(self, State::Sent | State::Failed | State::Suppressed)
    }
}

/// Whether a recipient was registered before the email (live) or after it (back-fill). Never both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    Live,
    Backfill,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Live => "live",
            Source::Backfill => "backfill",
        }
    }
}

/// What a server or the engine last said about a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said {
    /// The server's reply, where there was one.
    pub reply: Option<Reply>,
    pub fault: Option<Fault>,
    /// A sentence of our own where no server spoke: `retries exhausted after 72h`, `dropped by a person`.
    pub detail: Option<String>,
}

/// How many recipients of an email stand where. They add up to its recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub queued: i64,
    pub sending: i64,
    pub sent: i64,
    pub deferred: i64,
    pub failed: i64,
    pub suppressed: i64,
    pub unknown: i64,
}
