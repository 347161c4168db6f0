//! One SMTP session of the sandbox's server as a state machine: octets in, replies and verdicts out.
//!
//! Invariant: no I/O, no clock, and no memory that grows with a message or with their number: of a message only its
//! Message-ID and its recipients are kept, and the content is skipped in place.

use crate::behaviour::{Provider, Verdict, refusal, verdict};
use crate::settings::ServerBehaviour;
use memchr::{memchr, memmem};
use serde::{Deserialize, Serialize};

/// The size that EHLO offers, in octets (RFC 1870).
const MESSAGE_OCTETS_MAX: usize = 35 * 1024 * 1024;
/// The longest command line that is read (RFC 5321 4.5.3.1 asks for 512 and extensions add to it).
const LINE_OCTETS_MAX: usize = 4096;
/// The most recipients of one transaction (RFC 5321 4.5.3.1.8).
const RECIPIENTS_MAX: usize = 100;
/// The longest Message-ID field that is kept, folds included.
const MESSAGE_ID_OCTETS_MAX: usize = 998;

/// One line of `mailboxes.ndjson`: what a mailbox did with one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Without angle brackets; `null` where the mailbox refused at RCPT or the message has none.
    pub message_id: Option<String>,
    pub recipient: String,
    pub recipient_domain: String,
    pub sender_domain: String,
    pub provider: Provider,
    #[serde(flatten)]
    pub verdict: Verdict,
    /// When it was decided, in milliseconds since 1970 UTC.
    pub at_ms: i64,
}

/// What one step of a session has to say.
#[derive(Debug, Default)]
pub struct Step {
    /// The replies, to be written after `lines`.
    pub replies: Vec<u8>,
    /// Lines for `mailboxes.ndjson`.
    pub lines: Vec<u8>,
    /// The client said QUIT.
    pub quit: bool,
}

/// The session's state.
pub struct Session {
    behaviour: ServerBehaviour,
    place: Place,
    /// The domain of the sender of the open transaction.
    sender_domain: Option<String>,
    recipients: Vec<String>,
    content_octets: usize,
    /// The raw value of the Message-ID field, as far as it was seen.
    message_id: Vec<u8>,
    /// The header line before this one belongs to the Message-ID field.
    in_message_id: bool,
}

/// Where in the dialogue the next octet belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Command,
    /// In a command line that is too long, up to its end.
    LongLine,
    /// At the start of a header line.
    Header,
    /// Inside a header line that is longer than what is kept.
    LongHeader,
    /// Behind the blank line.
    BodyStart,
    Body,
}

impl Session {
    pub fn new(behaviour: ServerBehaviour) -> Session {
        let (place, recipients, message_id) = (Place::Command, Vec::new(), Vec::new());
        Session { behaviour, place, sender_domain: None, recipients, content_octets: 0, message_id, in_message_id: false }
    }

    /// Takes the octets that were read and returns how many of them are done with; the rest must be offered again with
    /// more behind it, and is never longer than `LINE_OCTETS_MAX`.
    pub fn advance(&mut self, input: &[u8], at_ms: i64, step: &mut Step) -> usize {
        let mut done = 0;
        while !step.quit {
            let before = self.place;
            let used = match before {
                Place::Command => self.command(&input[done..], at_ms, step),
                Place::LongLine => self.long_line(&input[done..], step),
                Place::Header => self.header(&input[done..], at_ms, step),
                Place::LongHeader => self.long_header(&input[done..]),
                Place::BodyStart => self.body_start(&input[done..], at_ms, step),
                Place::Body => self.body(&input[done..], at_ms, step),
            };
            if used == 0 && self.place == before {
                break;
            }
            done += used;
        }
        done
    }

    fn command(&mut self, input: &[u8], at_ms: i64, step: &mut Step) -> usize {
        let Some(end) = memchr(b'\n', input) else {
            if input.len() >= LINE_OCTETS_MAX {
                self.place = Place::LongLine;
            }
            return if input.len() >= LINE_OCTETS_MAX { input.len() } else { 0 };
        };
        let line = String::from_utf8_lossy(input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]));
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => self.greet(
                step,
                "250-sandbox.invalid at your service\r\n250-PIPELINING\r\n250-SIZE 36700160\r\n250-8BITMIME\r\n\
                 250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES\r\n",
            ),
            "HELO" => self.greet(step, "250 sandbox.invalid\r\n"),
            "MAIL" => self.mail(rest, step),
            "RCPT" => self.rcpt(rest, at_ms, step),
            "DATA" => self.data(step),
            "RSET" => self.greet(step, "250 2.0.0 Reset\r\n"),
            "NOOP" => say(step, "250 2.0.0 OK\r\n"),
            "VRFY" => say(step, "252 2.1.5 Send some mail and see\r\n"),
            "QUIT" => {
                say(step, "221 2.0.0 Bye\r\n");
                step.quit = true;
            }
            _ => say(step, "500 5.5.2 Command not known\r\n"),
        }
        end + 1
    }

    fn long_line(&mut self, input: &[u8], step: &mut Step) -> usize {
        let Some(end) = memchr(b'\n', input) else { return input.len() };
        say(step, "500 5.5.2 Line too long\r\n");
        self.place = Place::Command;
        end + 1
    }

    fn greet(&mut self, step: &mut Step, reply: &str) {
        self.reset();
        say(step, reply);
    }

    fn reset(&mut self) {
        self.sender_domain = None;
        self.recipients.clear();
        self.message_id.clear();
        self.content_octets = 0;
    }

    fn mail(&mut self, rest: &str, step: &mut Step) {
        if self.sender_domain.is_some() {
            return say(step, "503 5.5.1 A transaction is open already\r\n");
        }
        let Some((address, parameters)) = path_of(rest, "FROM:") else {
            return say(step, "501 5.5.4 Syntax: MAIL FROM:<address>\r\n");
        };
        let size = parameters.to_ascii_uppercase().split(' ').find_map(|p| p.strip_prefix("SIZE=")?.parse::<usize>().ok());
        if size.is_some_and(|size| size > MESSAGE_OCTETS_MAX) {
            return say(step, "552 5.3.4 Message too big\r\n");
        }
        self.sender_domain = Some(domain_of(address));
        say(step, "250 2.1.0 OK\r\n");
    }

    fn rcpt(&mut self, rest: &str, at_ms: i64, step: &mut Step) {
        if self.sender_domain.is_none() {
            return say(step, "503 5.5.1 MAIL first\r\n");
        }
        let Some((address, _)) = path_of(rest, "TO:").filter(|(address, _)| address.contains('@')) else {
            return say(step, "501 5.1.3 Syntax: RCPT TO:<local@domain>\r\n");
        };
        if self.recipients.len() == RECIPIENTS_MAX {
            return say(step, "452 4.5.3 Too many recipients\r\n");
        }
        let provider = Provider::of_domain(&domain_of(address));
        let ServerBehaviour { seed, rates, .. } = self.behaviour;
        if let Some(reply) = refusal(seed, provider, &rates, address) {
            self.record(address, None, at_ms, step);
            return say(step, reply);
        }
        self.recipients.push(address.to_owned());
        say(step, "250 2.1.5 OK\r\n");
    }

    fn data(&mut self, step: &mut Step) {
        if self.recipients.is_empty() {
            // A pipelining client has sent DATA before it knew that every recipient was refused (RFC 2920 3.1).
            let reply = if self.sender_domain.is_some() { "554 5.5.1 No valid recipients\r\n" } else { "503 5.5.1 MAIL first\r\n" };
            return say(step, reply);
        }
        self.place = Place::Header;
        say(step, "354 Go ahead\r\n");
    }

    fn header(&mut self, input: &[u8], at_ms: i64, step: &mut Step) -> usize {
        let Some(end) = memchr(b'\n', input) else {
            if input.len() < LINE_OCTETS_MAX {
                return 0;
            }
            self.place = Place::LongHeader;
            return self.skip(input.len());
        };
        let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
        if line.is_empty() {
            self.place = Place::BodyStart;
            return self.skip(end + 1);
        }
        if line == b"." {
            self.finish(at_ms, step);
            return end + 1;
        }
        let folded = line[0] == b' ' || line[0] == b'\t';
        if !folded {
            self.in_message_id = line.get(..11).is_some_and(|name| name.eq_ignore_ascii_case(b"message-id:"));
        }
        if self.in_message_id && self.message_id.len() + line.len() <= MESSAGE_ID_OCTETS_MAX {
            self.message_id.extend_from_slice(line);
        }
        self.skip(end + 1)
    }

    fn long_header(&mut self, input: &[u8]) -> usize {
        let Some(end) = memchr(b'\n', input) else { return self.skip(input.len()) };
        self.place = Place::Header;
        self.skip(end + 1)
    }

    fn body_start(&mut self, input: &[u8], at_ms: i64, step: &mut Step) -> usize {
        if input.starts_with(b".\r\n") {
            self.finish(at_ms, step);
            return 3;
        }
        if !b".\r\n".starts_with(input) {
            self.place = Place::Body;
        }
        0
    }

    fn body(&mut self, input: &[u8], at_ms: i64, step: &mut Step) -> usize {
        let Some(end) = memmem::find(input, b"\r\n.\r\n") else {
            // The end may have begun: its first four octets stay.
            return self.skip(input.len().saturating_sub(4));
        };
        self.skip(end + 2);
        self.finish(at_ms, step);
        end + 5
    }

    fn skip(&mut self, octets: usize) -> usize {
        self.content_octets = self.content_octets.saturating_add(octets);
        octets
    }

    fn finish(&mut self, at_ms: i64, step: &mut Step) {
        self.place = Place::Command;
        if self.content_octets > MESSAGE_OCTETS_MAX {
            say(step, "552 5.3.4 Message too big\r\n");
        } else {
            let message_id = message_id_of(&self.message_id);
            for recipient in std::mem::take(&mut self.recipients) {
                self.record(&recipient, message_id.as_deref(), at_ms, step);
            }
            say(step, "250 2.0.0 OK: taken\r\n");
        }
        self.reset();
    }

    fn record(&self, recipient: &str, message_id: Option<&str>, at_ms: i64, step: &mut Step) {
        let ServerBehaviour { seed, rates, .. } = self.behaviour;
        let recipient_domain = domain_of(recipient);
        let record = Record {
            message_id: message_id.map(str::to_owned),
            recipient: recipient.to_owned(),
            provider: Provider::of_domain(&recipient_domain),
            recipient_domain,
            sender_domain: self.sender_domain.clone().unwrap_or_default(),
            verdict: verdict(seed, &rates, recipient, message_id.unwrap_or_default()),
            at_ms,
        };
        serde_json::to_writer(&mut step.lines, &record).expect("a record of texts and flags is JSON, and a Vec takes it");
        step.lines.push(b'\n');
    }
}

fn say(step: &mut Step, reply: &str) {
    step.replies.extend_from_slice(reply.as_bytes());
}

/// Splits `FROM:<address> parameters` behind the verb; the address comes without its brackets.
fn path_of<'a>(rest: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let (head, path) = rest.split_at_checked(keyword.len())?;
    let path = path.trim_start().strip_prefix('<').filter(|_| head.eq_ignore_ascii_case(keyword))?;
    path.rsplit_once('>')
}

fn domain_of(address: &str) -> String {
    address.rsplit_once('@').map(|(_, domain)| domain.to_lowercase()).unwrap_or_default()
}

/// Takes the id out of a raw Message-ID field.
fn message_id_of(field: &[u8]) -> Option<String> {
    let field = String::from_utf8_lossy(field);
    let (_, id) = field.split_once('<')?;
    let (id, _) = id.split_once('>')?;
    (!id.is_empty()).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::{Rates, Share};
    use std::time::Duration;

    fn behaviour(reject_percent: f64) -> ServerBehaviour {
        let reject = Share::from_percent(reject_percent).expect("a percentage");
        ServerBehaviour { seed: 1, rates: Rates { reject, ..Rates::default() }, delay: Duration::ZERO }
    }

    /// Feeds the input in pieces, as a connection would, and returns the replies and the records.
    fn talk(behaviour: ServerBehaviour, input: &[u8], piece: usize) -> (String, Vec<Record>) {
        let (mut session, mut step, mut buffer) = (Session::new(behaviour), Step::default(), Vec::new());
        for piece in input.chunks(piece) {
            buffer.extend_from_slice(piece);
            let done = session.advance(&buffer, 5, &mut step);
            buffer.drain(..done);
            assert!(buffer.len() <= LINE_OCTETS_MAX);
        }
        let lines = String::from_utf8(step.lines).expect("UTF-8");
        let records = lines.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
        (String::from_utf8(step.replies).expect("UTF-8"), records)
    }

    fn codes(replies: &str) -> Vec<&str> {
        replies.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| &line[..3]).collect()
    }

    const TWO: &[u8] = b"EHLO me\r\nMAIL FROM:<a@Sender.Example> SIZE=10 BODY=8BITMIME\r\nRCPT TO:<b@Example.COM>\r\nDATA\r\n\
        Subject: x\r\nMessage-Id:\r\n <one@x>\r\n\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<c@gmail.com>\r\nDATA\r\n\
        Message-ID: <two@x>\r\nX: y\r\n\r\nMessage-ID: <no@x>\r\n..dot\r\n.\n\r\nlast\r\n.\r\nQUIT\r\n";

    #[test]
    fn every_split_of_a_pipelined_dialogue_gives_the_same_replies_and_records() {
        let whole = talk(behaviour(0.0), TWO, TWO.len());
        assert_eq!(codes(&whole.0), ["250", "250", "250", "354", "250", "250", "250", "354", "250", "221"]);
        let ids: Vec<_> = whole.1.iter().map(|record| (record.message_id.as_deref(), record.recipient.as_str())).collect();
        assert_eq!(ids, [(Some("one@x"), "b@Example.COM"), (Some("two@x"), "c@gmail.com")]);
        assert_eq!((whole.1[0].sender_domain.as_str(), whole.1[0].recipient_domain.as_str()), ("sender.example", "example.com"));
        for piece in 1..64 {
            assert_eq!(talk(behaviour(0.0), TWO, piece), whole, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_rejecting_mailbox_refuses_at_rcpt_again_and_again_and_is_recorded_without_a_message_id() {
        let dialogue =
            b"EHLO me\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@gmail.com>\r\nDATA\r\nRSET\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@gmail.com>\r\n";
        let (replies, records) = talk(behaviour(100.0), dialogue, 7);
        assert_eq!(codes(&replies), ["250", "250", "550", "554", "250", "250", "550"]);
        assert!(records.len() == 2 && records.iter().all(|r| r.verdict.rejected && !r.verdict.delivered && r.message_id.is_none()));
    }

    #[test]
    fn an_endless_line_is_skipped_without_being_kept() {
        let mut dialogue = vec![b'x'; 3 * LINE_OCTETS_MAX];
        dialogue.extend_from_slice(b"\r\nNOOP\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\nX: ");
        dialogue.extend(std::iter::repeat_n(b'y', 3 * LINE_OCTETS_MAX));
        dialogue.extend_from_slice(b"\r\nMessage-ID: <m@x>\r\n.\r\n");
        let (replies, records) = talk(behaviour(0.0), &dialogue, 1000);
        assert_eq!(codes(&replies), ["500", "250", "250", "250", "354", "250"]);
        assert_eq!(records[0].message_id.as_deref(), Some("m@x"));
    }

    #[test]
    fn commands_out_of_order_or_malformed_are_refused_and_the_session_goes_on() {
        let dialogue = b"RCPT TO:<a@x>\r\nDATA\r\nMAIL TO:<a@x>\r\nMAIL FROM:<a@x> size=99999999999\r\nMAIL FROM:<a@x>\r\n\
            MAIL FROM:<a@x>\r\nRCPT TO:<nobody>\r\nWHAT\r\nNOOP\r\n";
        let (replies, records) = talk(behaviour(0.0), dialogue, 5);
        assert_eq!(codes(&replies), ["503", "503", "501", "552", "250", "503", "501", "500", "250"]);
        assert!(records.is_empty());
    }
}
