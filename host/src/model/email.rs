//! Emails: what an organization broadcasts.

use crate::model::address::Address;
use crate::model::delivery::Counts;
use crate::model::name::EmailNumber;

/// The most further headers of an email.
pub const HEADERS_MAX: usize = 50;
/// The longest name of a further header in characters.
pub const HEADER_NAME_CHARS_MAX: usize = 64;

/// Headers that Postwarm, signers or servers write, or that would change whom a mail reaches, lower case.
const OWN_HEADERS: [&str; 19] = [
    "from",
    "to",
    "subject",
    "date",
    "message-id",
    "mime-version",
    "feedback-id",
    "return-path",
    "received",
    "bcc",
    "cc",
    "sender",
    "reply-to",
    "dkim-signature",
    "authentication-results",
    "delivered-to",
    "x-original-to",
    "envelope-to",
    "apparently-to",
];
/// Beginnings of such headers, lower case.
const OWN_PREFIXES: [&str; 5] = ["content-", "list-unsubscribe", "resent-", "arc-", "received-"];

/// Tells whether a header is none that an email may bring, whatever its case.
pub fn is_own_header(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    OWN_HEADERS.contains(&lower.as_str()) || OWN_PREFIXES.iter().any(|prefix| lower.starts_with(prefix))
}

/// An email to broadcast. Texts have no NUL and no bare CR or LF in headers; the boundary has checked that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEmail {
    pub from: Mailbox,
    pub reply_to: Option<Mailbox>,
    pub subject: String,
    /// The text part, a minijinja template.
    pub body: String,
    /// The HTML part, a minijinja template with HTML escaping.
    pub html: Option<String>,
    /// Further headers, in order; names are checked against an allow list form and against those we set ourselves.
    pub headers: Vec<(String, String)>,
}

/// An address with an optional display name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    pub name: Option<String>,
    pub address: Address,
}

/// An accepted email as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmailSummary {
    pub number: EmailNumber,
    pub from: Mailbox,
    pub subject: String,
    /// Milliseconds since 1970 UTC.
    pub created_at: i64,
    /// Live recipients and back-fill so far.
    pub recipients: i64,
    pub counts: Counts,
    /// When the first recipient was claimed, in milliseconds since 1970 UTC.
    pub started_at: Option<i64>,
    /// When no recipient waited any more, in milliseconds since 1970 UTC.
    pub completed_at: Option<i64>,
}

/// An accepted email whole, as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email {
    pub number: EmailNumber,
    pub created_at: i64,
    pub content: NewEmail,
}
