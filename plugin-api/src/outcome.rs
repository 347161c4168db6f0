//! What became of one attempt to send: a closed set.
//!
//! Invariant: `Accepted` only after the server's positive reply to the end of data of exactly this message, and
//! `Unknown` only when the end of data may have reached the server and no reply to it was read. Everything that failed
//! earlier is certainly unsent and says so.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The next server took responsibility for the message. It is `sent`, not yet delivered.
    Accepted(Reply),
    /// Refused for now: a 4yz reply. It may be tried again.
    Deferred { reply: Reply, fault: Fault, retry_after: Option<Duration> },
    /// Refused for good: a 5yz reply.
    Rejected { reply: Reply, fault: Fault },
    /// The end of data did not leave: the message is certainly unsent, and its slot may be used again.
    NotAttempted { cause: Cause, detail: String },
    /// The end of data was on its way and its reply was not read. Nobody may send it again by himself.
    Unknown { phase: Phase, detail: String },
}

/// Why a message was not attempted. The first four blame the client, and the host hands over to the next one. `Unsupported`
/// blames neither: another client may carry that message, and this one carries others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// No connection: refused, unreachable, name not found, deadline passed.
    Connect,
    /// TLS could not be agreed on, or the certificate was not believed.
    Tls,
    /// The server did not accept the credentials, or none may be sent.
    Authenticate,
    /// The server turned the session away: greeting or EHLO of 4yz or 5yz, 421 at any time, a reply that is no SMTP or none in
    /// time, an end before it has answered any message.
    Session,
    /// The connection broke before the end of this message's content; others had been answered on it, or it held a part of this one.
    Disconnected,
    /// The client is being closed.
    Stopping,
    /// The plugin failed: a panic, a lost completion. Only where no content can have left.
    Internal,
    /// The message needs what the server does not offer (SMTPUTF8, 8BITMIME, a larger SIZE), or what no command can say. No
    /// server was asked, so there is no reply; the detail says what is missing.
    Unsupported,
}

impl Cause {
    /// Tells whether the client itself is at fault, so that the host hands over to the next client.
    pub fn blames_client(self) -> bool {
        !matches!(self, Cause::Disconnected | Cause::Stopping | Cause::Unsupported)
    }
}

/// Who is to blame for a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// This recipient: unknown, full, disabled.
    Recipient,
    /// The account that we send with: over quota, blocked, not allowed to use this sender.
    Account,
    /// The sending domain or address range: reputation, authentication, policy.
    Domain,
    /// This message: size, content, format.
    Content,
    /// The server or the way to it: overload, temporary failure, local error.
    Network,
}

/// How far a transaction had come (RFC 5321 4.5.3.2 gives each a deadline).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Connect,
    Greeting,
    Ehlo,
    StartTls,
    Authenticate,
    Mail,
    Rcpt,
    Data,
    Content,
    EndOfData,
    Quit,
}

/// A server's reply. The text has no line ends; lines of a multi-line reply are joined by one space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The three-digit code, 200 to 599.
    pub code: u16,
    /// The enhanced status code of RFC 3463, where the server gave one.
    pub enhanced: Option<EnhancedCode>,
    /// The text behind the codes, at most 512 octets.
    pub text: String,
}

/// An enhanced mail system status code (RFC 3463): class, subject, detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EnhancedCode(pub u8, pub u16, pub u16);

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A text that is no enhanced status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an enhanced status code is three numbers with dots between them")]
pub struct NoEnhancedCode;

/// Reads three numbers of ASCII digits with dots between them, of whatever class.
impl FromStr for EnhancedCode {
    type Err = NoEnhancedCode;

    fn from_str(text: &str) -> Result<EnhancedCode, NoEnhancedCode> {
        let mut parts = text.split('.').map(|part| part.bytes().all(|octet| octet.is_ascii_digit()).then_some(part));
        let mut next = || parts.next().flatten().ok_or(NoEnhancedCode);
        let (class, subject, detail) = (next()?, next()?, next()?);
        let code = (class.parse().ok(), subject.parse().ok(), detail.parse().ok());
        match (code, parts.next()) {
            ((Some(class), Some(subject), Some(detail)), None) => Ok(EnhancedCode(class, subject, detail)),
            _ => Err(NoEnhancedCode),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        if !self.text.is_empty() {
            write!(f, " {}", self.text)?;
        }
        Ok(())
    }
}
