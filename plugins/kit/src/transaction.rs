//! The state of one mail transaction: which replies came, and what follows from them (RFC 5321 3.3, RFC 2920).
//!
//! Invariant: decides, and does no I/O.
//! Invariant: a reply is attributed by its position alone, never by its text.

use crate::session::Capabilities;
use postwarm_plugin_api::{Message, Phase, Reply};
use std::io::Write as _;

/// What must be sent before the next envelope, because this one left the session in a state of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    Nothing,
    /// MAIL was accepted, and the server waits for more of it.
    Reset,
    /// The server waits for a content that nobody sends (RFC 2920 3.1).
    LoneDot,
    /// The session cannot be used any more.
    Close,
}

impl Cleanup {
    /// The command, whose reply is swallowed; `None` where there is nothing to send.
    pub fn command(self) -> Option<&'static [u8]> {
        match self {
            Cleanup::Reset => Some(b"RSET\r\n"),
            Cleanup::LoneDot => Some(b".\r\n"),
            Cleanup::Nothing | Cleanup::Close => None,
        }
    }
}

/// What follows from a reply to the envelope.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The next reply of this envelope is on its way.
    Wait,
    /// The command of this phase is due now; the server does not pipeline.
    Send(Phase),
    /// The server waits for the content.
    Content,
    /// The envelope was refused.
    Refused { phase: Phase, reply: Reply, cleanup: Cleanup },
    /// The server ended the session (421).
    Ended,
    /// No answer that this command can have.
    Nonsense,
}

/// One envelope under way.
#[derive(Debug)]
pub struct Transaction {
    /// The phase whose reply is the next.
    awaited: Phase,
    pipelined: bool,
    mail_accepted: bool,
    rcpt_accepted: bool,
    refusal: Option<(Phase, Reply)>,
}

impl Transaction {
    /// Appends the envelope's first command, and with pipelining all of them.
    pub fn begin(message: &Message, capabilities: &Capabilities, pipelined: bool, out: &mut Vec<u8>) -> Transaction {
        push_mail(message, capabilities, out);
        if pipelined {
            push_rcpt(message, out);
            out.extend_from_slice(b"DATA\r\n");
        }
        Transaction { awaited: Phase::Mail, pipelined, mail_accepted: false, rcpt_accepted: false, refusal: None }
    }

    /// The phase whose reply is the next.
    pub fn awaited(&self) -> Phase {
        self.awaited
    }

    /// Appends the command of `phase`, as [`Progress::Send`] asks for it.
    pub fn push_command(phase: Phase, message: &Message, out: &mut Vec<u8>) {
        match phase {
            Phase::Rcpt => push_rcpt(message, out),
            _ => out.extend_from_slice(b"DATA\r\n"),
        }
    }

    /// Takes the next reply of this envelope. `reply` is called only where its text matters.
    pub fn on_reply(&mut self, code: u16, reply: impl FnOnce() -> Reply) -> Progress {
        if code == 421 {
            return Progress::Ended;
        }
        match self.awaited {
            Phase::Mail => self.on_mail(code, reply),
            Phase::Rcpt => self.on_rcpt(code, reply),
            _ => self.on_data(code, reply),
        }
    }

    fn on_mail(&mut self, code: u16, reply: impl FnOnce() -> Reply) -> Progress {
        self.mail_accepted = code / 100 == 2;
        self.advance(code, Phase::Rcpt, reply)
    }

    fn on_rcpt(&mut self, code: u16, reply: impl FnOnce() -> Reply) -> Progress {
        self.rcpt_accepted = code / 100 == 2;
        self.advance(code, Phase::Data, reply)
    }

    fn on_data(&mut self, code: u16, reply: impl FnOnce() -> Reply) -> Progress {
        match (code, self.refusal.take()) {
            (354, None) => Progress::Content,
            // With a recipient that the server believes in, a lone dot would send an empty mail.
            (354, Some((phase, reply))) => {
                let cleanup = if self.rcpt_accepted { Cleanup::Close } else { Cleanup::LoneDot };
                Progress::Refused { phase, reply, cleanup }
            }
            (400..=599, refusal) => {
                let (phase, reply) = refusal.unwrap_or_else(|| (Phase::Data, reply()));
                Progress::Refused { phase, reply, cleanup: self.reset() }
            }
            _ => Progress::Nonsense,
        }
    }

    /// Goes on to `next` after the reply to MAIL or RCPT.
    fn advance(&mut self, code: u16, next: Phase, reply: impl FnOnce() -> Reply) -> Progress {
        let phase = std::mem::replace(&mut self.awaited, next);
        match code / 100 {
            2 if self.pipelined => Progress::Wait,
            2 => Progress::Send(next),
            4 | 5 if self.pipelined => {
                self.refusal.get_or_insert_with(|| (phase, reply()));
                Progress::Wait
            }
            4 | 5 => Progress::Refused { phase, reply: reply(), cleanup: self.reset() },
            _ => Progress::Nonsense,
        }
    }

    fn reset(&self) -> Cleanup {
        if self.mail_accepted { Cleanup::Reset } else { Cleanup::Nothing }
    }
}

/// Appends MAIL with the parameters that the server offers.
fn push_mail(message: &Message, capabilities: &Capabilities, out: &mut Vec<u8>) {
    out.extend_from_slice(b"MAIL FROM:<");
    out.extend_from_slice(message.envelope_from.as_bytes());
    out.push(b'>');
    if capabilities.size {
        // A Vec takes every write.
        let _ = write!(out, " SIZE={}", message.size());
    }
    if capabilities.eight_bit_mime && message.eight_bit {
        out.extend_from_slice(b" BODY=8BITMIME");
    }
    if capabilities.smtputf8 && message.smtputf8 {
        out.extend_from_slice(b" SMTPUTF8");
    }
    if capabilities.dsn {
        // Bounces shall name the delivery and return headers only (RFC 3461 4.3, 4.4).
        out.extend_from_slice(b" RET=HDRS");
        let id = message.delivery.as_bytes();
        if !id.is_empty() && id.len() <= 100 && id.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.'))
        {
            out.extend_from_slice(b" ENVID=");
            out.extend_from_slice(id);
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn push_rcpt(message: &Message, out: &mut Vec<u8>) {
    out.extend_from_slice(b"RCPT TO:<");
    out.extend_from_slice(message.envelope_to.as_bytes());
    out.extend_from_slice(b">\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn message() -> Message {
        Message {
            delivery: "d-1".into(),
            envelope_from: "a@x.example".into(),
            envelope_to: "b@y.example".into(),
            header: "Subject: x\r\n\r\n".into(),
            body: "hi\r\n".into(),
            eight_bit: true,
            smtputf8: true,
            mark: None,
        }
    }

    fn check(pipelined: bool, codes: &[u16], expected: Expect) {
        let mut transaction = Transaction::begin(&message(), &Capabilities::default(), pipelined, &mut Vec::new());
        let seen: Vec<String> = codes
            .iter()
            .map(|&code| match transaction.on_reply(code, || Reply { code, enhanced: None, text: String::new() }) {
                Progress::Refused { phase, reply, cleanup } => format!("{phase:?} refused {reply}, {cleanup:?}"),
                other => format!("{other:?}"),
            })
            .collect();
        expected.assert_eq(&seen.join("; "));
    }

    #[test]
    fn pipelined_replies_are_taken_by_position() {
        check(true, &[250, 250, 354], expect!["Wait; Wait; Content"]);
        check(true, &[550, 503, 503], expect!["Wait; Wait; Mail refused 550, Nothing"]);
        check(true, &[250, 550, 554], expect!["Wait; Wait; Rcpt refused 550, Reset"]);
        check(true, &[250, 450, 354], expect!["Wait; Wait; Rcpt refused 450, LoneDot"]);
        check(true, &[550, 250, 354], expect!["Wait; Wait; Mail refused 550, Close"]);
        check(true, &[250, 251, 451], expect!["Wait; Wait; Data refused 451, Reset"]);
        check(true, &[250, 421], expect!["Wait; Ended"]);
        check(true, &[250, 250, 250], expect!["Wait; Wait; Nonsense"]);
        check(true, &[354], expect!["Nonsense"]);
    }

    #[test]
    fn without_pipelining_each_command_waits_for_its_reply() {
        check(false, &[250, 250, 354], expect!["Send(Rcpt); Send(Data); Content"]);
        check(false, &[550], expect!["Mail refused 550, Nothing"]);
        check(false, &[250, 550], expect!["Send(Rcpt); Rcpt refused 550, Reset"]);
        check(false, &[250, 250, 554], expect!["Send(Rcpt); Send(Data); Data refused 554, Reset"]);
    }

    #[test]
    fn parameters_are_used_only_where_offered() {
        let mut bare = Vec::new();
        Transaction::begin(&message(), &Capabilities::default(), true, &mut bare);
        assert_eq!(String::from_utf8(bare).unwrap(), "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n");
        let offered = Capabilities { size: true, eight_bit_mime: true, smtputf8: true, dsn: true, ..Capabilities::default() };
        let mut full = Vec::new();
        Transaction::begin(&message(), &offered, false, &mut full);
        let expected = "MAIL FROM:<a@x.example> SIZE=18 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=d-1\r\n";
        assert_eq!(String::from_utf8(full).unwrap(), expected);
    }
}
