//! One session of a sink.

use super::certificate::Certificate;
use super::journal::{Fact, Journal};
use super::script::{Action, Gate, Script, Step, Tls};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What a session reads from and writes to.
pub type Stream = Box<dyn Duplex>;

/// A stream in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The session is over.
pub struct Over;

impl From<std::io::Error> for Over {
    fn from(_: std::io::Error) -> Over {
        Over
    }
}

/// One session.
pub struct Session<'a> {
    pub(super) stream: Stream,
    pub(super) connection: usize,
    pub(super) script: &'a Script,
    pub(super) journal: &'a Journal,
    certificate: &'a Certificate,
    pub(super) input: Vec<u8>,
    out: Vec<u8>,
    reads: usize,
    encrypted: bool,
    pub(super) in_mail: bool,
    pub(super) recipients: Vec<String>,
}

impl<'a> Session<'a> {
    pub fn new(stream: Stream, connection: usize, script: &'a Script, journal: &'a Journal, certificate: &'a Certificate) -> Session<'a> {
        Session {
            stream,
            connection,
            script,
            journal,
            certificate,
            input: Vec::new(),
            out: Vec::new(),
            reads: 0,
            encrypted: script.tls == Tls::Implicit,
            in_mail: false,
            recipients: Vec::new(),
        }
    }

    /// Serves until either side has enough.
    pub async fn serve(mut self) {
        // Either end is the end of this session.
        let _: Result<(), Over> = self.run().await;
    }

    async fn run(&mut self) -> Result<(), Over> {
        self.respond(Step::Greeting, "220 sink.example ESMTP").await?;
        loop {
            let line = self.line().await?;
            self.command(&line).await?;
        }
    }

    async fn command(&mut self, line: &str) -> Result<(), Over> {
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" | "HELO" => self.ehlo(line).await,
            "STARTTLS" => self.start_tls().await,
            "AUTH" => self.auth(line).await,
            "MAIL" => self.mail(line).await,
            "RCPT" => self.rcpt(line).await,
            "DATA" => self.data().await,
            "RSET" => {
                self.note(Fact::Command("RSET".to_owned()));
                self.forget();
                self.respond(Step::Rset, "250 2.0.0 ok").await.map(drop)
            }
            "QUIT" => {
                self.note(Fact::Command("QUIT".to_owned()));
                self.respond(Step::Quit, "221 2.0.0 bye").await?;
                self.flush().await?;
                self.stream.shutdown().await?;
                Err(Over)
            }
            _ => {
                self.note(Fact::Command(line.to_owned()));
                self.reply("502 5.5.2 no such command");
                Ok(())
            }
        }
    }

    async fn ehlo(&mut self, line: &str) -> Result<(), Over> {
        self.note(Fact::Ehlo(line.to_owned()));
        self.forget();
        let mut lines = vec!["sink.example".to_owned()];
        lines.extend(self.script.extensions.iter().cloned());
        if self.script.tls == Tls::StartTls && !self.encrypted {
            lines.push("STARTTLS".to_owned());
        }
        if self.script.credentials.is_some() {
            lines.push(format!("AUTH {}", self.script.auth));
        }
        let last = lines.pop().unwrap_or_default();
        let mut reply: String = lines.iter().map(|line| format!("250-{line}\r\n")).collect();
        reply.push_str(&format!("250 {last}"));
        self.respond(Step::Ehlo, &reply).await.map(drop)
    }

    async fn start_tls(&mut self) -> Result<(), Over> {
        self.note(Fact::Command("STARTTLS".to_owned()));
        if !self.respond(Step::StartTls, "220 2.0.0 go ahead").await? {
            return Ok(());
        }
        self.flush().await?;
        if let Some(action) = self.script.action(Step::Handshake, self.connection, &[]) {
            self.perform(action, "").await?;
            self.flush().await?;
        }
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        match self.certificate.acceptor.accept(plain).await {
            Ok(stream) => {
                self.stream = Box::new(stream);
                self.encrypted = true;
                self.input.clear();
                self.note(Fact::Encrypted);
                Ok(())
            }
            Err(_) => {
                self.note(Fact::TlsFailed);
                Err(Over)
            }
        }
    }

    async fn auth(&mut self, line: &str) -> Result<(), Over> {
        let mut words = line.split(' ').skip(1);
        let mechanism = words.next().unwrap_or_default().to_ascii_uppercase();
        let initial = words.next().map(str::to_owned);
        let given = match mechanism.as_str() {
            "LOGIN" => {
                let user = self.challenge("334 VXNlcm5hbWU6").await?;
                let password = self.challenge("334 UGFzc3dvcmQ6").await?;
                format!("{user}\n{password}")
            }
            _ => decode(&initial.unwrap_or_default()),
        };
        let accepted = self.script.credentials.as_ref().is_some_and(|(user, password)| match mechanism.as_str() {
            "PLAIN" => given == format!("\0{user}\0{password}"),
            "LOGIN" => given == format!("{user}\n{password}"),
            "XOAUTH2" => given == format!("user={user}\x01auth=Bearer {password}\x01\x01"),
            _ => false,
        });
        self.note(Fact::Auth { mechanism: mechanism.clone(), accepted, encrypted: self.encrypted });
        if !accepted && mechanism == "XOAUTH2" {
            // The error comes as a challenge, which an empty line answers.
            self.challenge("334 eyJzdGF0dXMiOiI0MDEifQ==").await?;
        }
        let reply = if accepted { "235 2.7.0 welcome" } else { "535 5.7.8 these credentials are wrong" };
        self.respond(Step::Auth, reply).await.map(drop)
    }

    async fn challenge(&mut self, reply: &str) -> Result<String, Over> {
        self.reply(reply);
        Ok(decode(&self.line().await?))
    }

    async fn mail(&mut self, line: &str) -> Result<(), Over> {
        self.note(Fact::Mail(line.to_owned()));
        if self.in_mail {
            self.reply("503 5.5.1 nested MAIL command");
            return Ok(());
        }
        self.in_mail = self.respond(Step::Mail, "250 2.1.0 ok").await?;
        Ok(())
    }

    async fn rcpt(&mut self, line: &str) -> Result<(), Over> {
        self.note(Fact::Rcpt(line.to_owned()));
        if !self.in_mail {
            self.reply("503 5.5.1 MAIL first");
            return Ok(());
        }
        let recipient = line.split_once('<').and_then(|(_, rest)| rest.rsplit_once('>')).map_or(line, |(recipient, _)| recipient);
        self.recipients.push(recipient.to_owned());
        if !self.respond(Step::Rcpt, "250 2.1.5 ok").await? {
            self.recipients.pop();
        }
        Ok(())
    }

    async fn data(&mut self) -> Result<(), Over> {
        self.note(Fact::Data);
        let default = match (self.in_mail, self.recipients.is_empty()) {
            (false, _) => "503 5.5.1 MAIL first",
            (true, true) => "554 5.5.1 no valid recipients",
            (true, false) => "354 go ahead",
        };
        self.respond(Step::Data, default).await?;
        if !self.out.ends_with_reply(b"354") {
            return Ok(());
        }
        self.content().await
    }

    /// Does what the script says at `step`, or replies as usual. Returns whether the reply was positive.
    async fn respond(&mut self, step: Step, default: &str) -> Result<bool, Over> {
        match self.script.action(step, self.connection, &self.recipients) {
            None => {
                self.reply(default);
                Ok(default.starts_with('2'))
            }
            Some(action) => self.perform(action, default).await,
        }
    }

    pub(super) async fn perform(&mut self, mut action: Action, default: &str) -> Result<bool, Over> {
        while let Action::Deaf(duration, then) = action {
            self.flush().await?;
            tokio::time::sleep(duration).await;
            action = *then;
        }
        match action {
            Action::Reply(reply) => {
                self.reply(&reply);
                return Ok(reply.starts_with('2'));
            }
            Action::Raw(octets) => {
                self.out.extend_from_slice(&octets);
                return Ok(true);
            }
            Action::Hold(gate) => {
                self.hold(&gate).await?;
                self.reply(default);
                return Ok(default.starts_with('2'));
            }
            Action::ReplyThenClose(reply) => self.reply(&reply),
            Action::RawThenClose(octets) => self.out.extend_from_slice(&octets),
            // Nothing but a message can be accepted, and deafness is over.
            Action::Close | Action::AcceptThen(_) | Action::Deaf(..) => {}
            Action::Stall => {
                self.flush().await?;
                loop {
                    self.fill().await?;
                    self.input.clear();
                }
            }
            Action::Endless => loop {
                self.out.resize(64 * 1024, b'2');
                self.flush().await?;
            },
        }
        self.flush().await?;
        // A close with octets unread would reset the connection and could take the reply with it.
        self.stream.shutdown().await?;
        while self.stream.read(&mut [0; 4096]).await? > 0 {}
        Err(Over)
    }

    /// Waits at a gate that is closed; the replies before it leave first.
    pub(super) async fn hold(&mut self, gate: &Gate) -> Result<(), Over> {
        if gate.is_closed() {
            self.flush().await?;
            self.journal.sync();
            gate.pass().await;
        }
        Ok(())
    }

    pub(super) fn reply(&mut self, reply: &str) {
        if reply.is_empty() {
            return;
        }
        let reply = reply.replace("{to}", &self.recipients.join(" "));
        self.out.extend_from_slice(reply.as_bytes());
        self.note(Fact::Replied(reply));
        self.out.extend_from_slice(b"\r\n");
    }

    pub(super) fn note(&self, fact: Fact) {
        self.journal.push(self.connection, self.reads, fact);
    }

    fn forget(&mut self) {
        self.in_mail = false;
        self.recipients.clear();
    }

    async fn line(&mut self) -> Result<String, Over> {
        loop {
            if let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.input[..end]).into_owned();
                self.input.drain(..end + 2);
                return Ok(line);
            }
            self.fill().await?;
        }
    }

    /// Sends the replies that are due and reads more.
    pub(super) async fn fill(&mut self) -> Result<(), Over> {
        self.flush().await?;
        let mut block = [0; 16 * 1024];
        match self.stream.read(&mut block).await? {
            0 => Err(Over),
            read => {
                self.reads += 1;
                self.input.extend_from_slice(&block[..read]);
                Ok(())
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Over> {
        if self.out.is_empty() {
            return Ok(());
        }
        if !self.script.reply_delay.is_zero() {
            tokio::time::sleep(self.script.reply_delay).await;
        }
        self.journal.sync();
        self.stream.write_all(&self.out).await?;
        self.stream.flush().await?;
        self.out.clear();
        Ok(())
    }
}

/// Tells which reply was added last.
trait LastReply {
    fn ends_with_reply(&self, code: &[u8]) -> bool;
}

impl LastReply for Vec<u8> {
    fn ends_with_reply(&self, code: &[u8]) -> bool {
        self.strip_suffix(b"\r\n").is_some_and(|rest| {
            let start = rest.iter().rposition(|&octet| octet == b'\n').map_or(0, |at| at + 1);
            rest[start..].starts_with(code)
        })
    }
}

fn decode(text: &str) -> String {
    STANDARD.decode(text).map_or_else(|_| String::new(), |octets| String::from_utf8_lossy(&octets).into_owned())
}
