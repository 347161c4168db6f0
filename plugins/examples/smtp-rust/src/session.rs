//! One SMTP session (RFC 5321) over plain TCP.
//!
//! Invariant: replies are bounded in line and size; a session whose dialogue broke off is never used again.

use postwarm_plugin_api::{Cause, EnhancedCode, Fault, Message, Outcome, Phase, Reply};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{timeout, timeout_at};

const REPLY_LINE_OCTETS_MAX: u64 = 2048;
const REPLY_LINES_MAX: usize = 100;
const QUIT_PATIENCE: Duration = Duration::from_secs(2);

/// Why a message is certainly unsent.
pub struct Failure {
    pub cause: Cause,
    pub detail: String,
}

impl Failure {
    pub fn unsent(cause: Cause, detail: impl Into<String>) -> Failure {
        Failure { cause, detail: detail.into() }
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Outcome {
        Outcome::NotAttempted { cause: failure.cause, detail: failure.detail }
    }
}

/// Until when a message may take: its deadline, or the end of the client.
pub struct Limit {
    deadline: Instant,
    cut: watch::Receiver<bool>,
}

impl Limit {
    pub fn new(deadline: Instant, cut: watch::Receiver<bool>) -> Limit {
        Limit { deadline, cut }
    }

    /// Runs a step; `None` when the limit came first.
    pub async fn run<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        let mut cut = self.cut.clone();
        tokio::select! {
            biased;
            done = timeout_at(self.deadline.into(), step) => done.ok(),
            _ = cut.wait_for(|cut| *cut) => None,
        }
    }
}

/// An open session.
pub struct Session {
    stream: BufReader<TcpStream>,
    usable: bool,
    eight_bit: bool,
    smtputf8: bool,
}

impl Session {
    /// Connects, reads the greeting, says EHLO.
    pub async fn connect(host: &str, port: u16) -> Result<Session, Failure> {
        let unreachable = |error| Failure::unsent(Cause::Connect, format!("{host}:{port}: {error}"));
        let stream = TcpStream::connect((host, port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let mut session = Session { stream: BufReader::new(stream), usable: true, eight_bit: false, smtputf8: false };
        let turned_away = |reply: Reply| Failure::unsent(Cause::Session, reply.to_string());
        let greeting = session.reply().await.map_err(|error| Failure::unsent(Cause::Session, error))?;
        if greeting.code != 220 {
            return Err(turned_away(greeting));
        }
        let ehlo = session.command("EHLO [127.0.0.1]\r\n").await.map_err(|error| Failure::unsent(Cause::Session, error))?;
        if ehlo.code != 250 {
            return Err(turned_away(ehlo));
        }
        let offers = |name: &str| ehlo.text.split(' ').any(|word| word.eq_ignore_ascii_case(name));
        (session.eight_bit, session.smtputf8) = (offers("8BITMIME"), offers("SMTPUTF8"));
        Ok(session)
    }

    /// Tells whether another message may follow.
    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// Asks whether the server is still there.
    pub async fn noop(&mut self) -> Result<(), String> {
        let reply = self.command("NOOP\r\n").await?;
        if reply.code == 250 { Ok(()) } else { Err(reply.to_string()) }
    }

    /// Says QUIT, without waiting long for the answer.
    pub async fn quit(&mut self) {
        // Nothing is at stake any more, whatever the answer.
        let _ = timeout(QUIT_PATIENCE, self.command("QUIT\r\n")).await;
    }

    /// Sends one message.
    pub async fn send(&mut self, message: &Message, limit: &Limit) -> Outcome {
        if let Some(words) = self.missing(message) {
            return Failure::unsent(Cause::Unsupported, words).into();
        }
        // Set again only when the dialogue has come to its end.
        self.usable = false;
        let body = if message.eight_bit { " BODY=8BITMIME" } else { "" };
        let utf8 = if message.smtputf8 { " SMTPUTF8" } else { "" };
        let envelope = [
            (Phase::Mail, format!("MAIL FROM:<{}>{body}{utf8}\r\n", message.envelope_from), 250),
            (Phase::Rcpt, format!("RCPT TO:<{}>\r\n", message.envelope_to), 250),
            (Phase::Data, "DATA\r\n".to_owned(), 354),
        ];
        for (phase, command, expected) in envelope {
            let reply = match limit.run(self.command(&command)).await {
                Some(Ok(reply)) => reply,
                Some(Err(error)) => return Failure::unsent(Cause::Disconnected, error).into(),
                None => return Failure::unsent(Cause::Connect, format!("the deadline passed at {phase:?}")).into(),
            };
            if reply.code != expected && !(phase == Phase::Rcpt && reply.code == 251) {
                return self.refused(reply, phase).await;
            }
        }
        let content = dot_stuffed(message);
        let (text, end) = content.split_at(content.len() - END_OF_DATA.len());
        // Without the end of data the server must throw the message away (RFC 5321 3.3).
        match limit.run(self.stream.get_mut().write_all(text)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => return Failure::unsent(Cause::Disconnected, error.to_string()).into(),
            None => return Failure::unsent(Cause::Connect, "the deadline passed within the content").into(),
        }
        let ended = async {
            self.stream.get_mut().write_all(end).await.map_err(|error| error.to_string())?;
            self.reply().await
        };
        match limit.run(ended).await {
            Some(Ok(reply)) if (200..300).contains(&reply.code) => {
                self.usable = true;
                Outcome::Accepted(reply)
            }
            Some(Ok(reply)) => {
                self.usable = reply.code != 421;
                verdict(reply, Phase::EndOfData)
            }
            Some(Err(detail)) => Outcome::Unknown { phase: Phase::EndOfData, detail },
            None => Outcome::Unknown { phase: Phase::EndOfData, detail: "the deadline passed before the reply".into() },
        }
    }

    /// Says what the message needs and the server does not offer. No server is asked in vain, and no reply is made up.
    fn missing(&self, message: &Message) -> Option<&'static str> {
        let is_ascii = message.envelope_from.is_ascii() && message.envelope_to.is_ascii();
        match () {
            () if !is_ascii && !message.smtputf8 => Some("an address is not ASCII, and the message does not say that it needs SMTPUTF8"),
            () if message.smtputf8 && !self.smtputf8 => Some("the message needs SMTPUTF8, which the server does not offer"),
            () if message.eight_bit && !self.eight_bit => Some("the content has 8-bit octets, and the server does not offer 8BITMIME"),
            () => None,
        }
    }

    async fn refused(&mut self, reply: Reply, phase: Phase) -> Outcome {
        if reply.code == 421 {
            return Failure::unsent(Cause::Session, reply.to_string()).into();
        }
        // The session goes on behind a RSET.
        self.usable = matches!(self.command("RSET\r\n").await, Ok(Reply { code: 250, .. }));
        verdict(reply, phase)
    }

    async fn command(&mut self, line: &str) -> Result<Reply, String> {
        self.stream.get_mut().write_all(line.as_bytes()).await.map_err(|error| error.to_string())?;
        self.reply().await
    }

    async fn reply(&mut self) -> Result<Reply, String> {
        let mut texts = Vec::new();
        for _ in 0..REPLY_LINES_MAX {
            let mut line = Vec::new();
            let limited = (&mut self.stream).take(REPLY_LINE_OCTETS_MAX).read_until(b'\n', &mut line).await;
            limited.map_err(|error| error.to_string())?;
            let line = String::from_utf8_lossy(&line);
            let Some(line) = line.strip_suffix('\n').map(str::trim_end) else {
                return Err("the connection broke off, or a line of the reply was too long".into());
            };
            let code = line.get(..3).and_then(|code| code.parse().ok()).filter(|code| (200..600).contains(code));
            let Some(code) = code else { return Err(format!("this is no SMTP reply: {line}")) };
            let text = line.get(4..).unwrap_or_default().to_owned();
            texts.push(text);
            if line.as_bytes().get(3) != Some(&b'-') {
                let (enhanced, text) = split_enhanced(&texts.join(" "));
                return Ok(Reply { code, enhanced, text });
            }
        }
        Err(format!("the reply has more than {REPLY_LINES_MAX} lines"))
    }
}

fn split_enhanced(text: &str) -> (Option<EnhancedCode>, String) {
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    let mut numbers = first.split('.');
    let mut next = || numbers.next().and_then(|number| number.parse::<u16>().ok());
    match (next(), next(), next()) {
        (Some(class @ (2 | 4 | 5)), Some(subject), Some(detail)) => (Some(EnhancedCode(class as u8, subject, detail)), rest.to_owned()),
        _ => (None, text.to_owned()),
    }
}

fn verdict(reply: Reply, phase: Phase) -> Outcome {
    let fault = match (phase, reply.enhanced) {
        (_, Some(EnhancedCode(_, 1 | 2, _))) | (Phase::Rcpt, _) => Fault::Recipient,
        (Phase::Mail, _) => Fault::Account,
        (_, Some(EnhancedCode(_, 7, _))) => Fault::Domain,
        (Phase::EndOfData, _) if reply.code >= 500 => Fault::Content,
        _ => Fault::Network,
    };
    match reply.code {
        400..500 => Outcome::Deferred { reply, fault, retry_after: None },
        500..600 => Outcome::Rejected { reply, fault },
        _ if phase == Phase::EndOfData => Outcome::Unknown { phase, detail: reply.to_string() },
        // A reply of the wrong kind, before any content left.
        _ => Failure::unsent(Cause::Session, reply.to_string()).into(),
    }
}

const END_OF_DATA: &[u8] = b".\r\n";

/// The content with its dots doubled (RFC 5321 4.5.2), and the end of data.
fn dot_stuffed(message: &Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.size() + 64);
    let mut line_starts = true;
    for &octet in message.header.iter().chain(&message.body) {
        if line_starts && octet == b'.' {
            out.push(b'.');
        }
        out.push(octet);
        line_starts = octet == b'\n';
    }
    out.extend_from_slice(END_OF_DATA);
    out
}
