//! What a client is asked to send: one message for one recipient.
//!
//! Invariant: the bytes are RFC 5322 clean. Lines end in CRLF, no bare CR or LF stands anywhere, no line is longer than
//! 998 octets, and the content ends in CRLF. A client adds nothing but the dot-stuffing of RFC 5321 4.5.2.

use crate::Mark;
use bytes::Bytes;
use std::sync::Arc;

/// One message for one recipient. Cloning shares the bytes.
#[derive(Debug, Clone)]
pub struct Message {
    /// The delivery it belongs to, opaque to a plugin; the same on every attempt. For logs and idempotency keys.
    pub delivery: Arc<str>,
    /// The envelope sender, without angle brackets. Empty for the null sender.
    pub envelope_from: Arc<str>,
    /// The envelope recipient, without angle brackets.
    pub envelope_to: Arc<str>,
    /// This recipient's header block and the blank line behind it.
    pub header: Bytes,
    /// The body behind the blank line, shared by all recipients where it does not differ.
    pub body: Bytes,
    /// The content has octets above 127 (8BITMIME, RFC 6152).
    pub eight_bit: bool,
    /// An envelope address or a header is not ASCII (SMTPUTF8, RFC 6531).
    pub smtputf8: bool,
    /// What a client that [marks the end of data](crate::SmtpClient::marks_end_of_data) sets before the end of this message's data can
    /// leave. Absent for any other, and where the host keeps no marks.
    pub mark: Option<Mark>,
}

impl Message {
    /// The size of header and body in octets, before dot-stuffing (SIZE, RFC 1870).
    pub fn size(&self) -> usize {
        self.header.len() + self.body.len()
    }
}
