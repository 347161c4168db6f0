//! How a sink behaves: what it announces, and rules for each step.
//!
//! Invariant: a script without rules is a well-behaved server.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// How a sink encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    None,
    StartTls,
    Implicit,
}

/// Where in a session a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Greeting,
    Ehlo,
    StartTls,
    /// The positive reply to STARTTLS has left, the TLS handshake has not begun.
    Handshake,
    Auth,
    Mail,
    Rcpt,
    Data,
    /// The first octets of a content arrived.
    Content,
    EndOfData,
    Rset,
    Quit,
}

/// What a sink does instead of its ordinary reply.
#[derive(Debug, Clone)]
pub enum Action {
    /// Replies; lines are separated by CRLF, the last one ends without it. `{to}` stands for the recipients.
    Reply(String),
    /// Replies and closes.
    ReplyThenClose(String),
    /// Closes without a reply.
    Close,
    /// At the end of data: takes responsibility for the message, whatever it then says.
    AcceptThen(Box<Action>),
    /// Sends these octets as they are and closes.
    RawThenClose(Vec<u8>),
    /// Sends these octets as they are and goes on as if it had replied.
    Raw(Vec<u8>),
    /// Sends a line without an end until the client leaves.
    Endless,
    /// Says nothing more until the client leaves.
    Stall,
    /// Reads nothing for so long, then does the other.
    Deaf(Duration, Box<Action>),
    /// Waits for the gate, then goes on as if there were no rule. At the end of data, a client that left meanwhile has its
    /// message not accepted.
    Hold(Gate),
}

impl Action {
    pub fn reply(line: &str) -> Action {
        Action::Reply(line.to_owned())
    }

    /// See [`Action::Deaf`].
    pub fn after_deafness(self, duration: Duration) -> Action {
        Action::Deaf(duration, Box::new(self))
    }

    /// See [`Action::AcceptThen`].
    pub fn accept_then(self) -> Action {
        Action::AcceptThen(Box::new(self))
    }
}

/// Holds replies back until a test lets them go, and tells the test of them. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate(Arc<watch::Sender<Held>>);

#[derive(Debug, Default)]
struct Held {
    is_open: bool,
    permits: usize,
    waiting: usize,
}

impl Gate {
    /// Makes a closed gate.
    pub fn closed() -> Gate {
        Gate(Arc::new(watch::Sender::new(Held::default())))
    }

    /// Makes an open gate: what comes to it passes until it is closed.
    pub fn opened() -> Gate {
        let gate = Gate::closed();
        gate.open();
        gate
    }

    /// Lets one held reply go.
    pub fn release_one(&self) {
        self.0.send_modify(|held| held.permits += 1);
    }

    /// Opens the gate until it is closed.
    pub fn open(&self) {
        self.0.send_modify(|held| held.is_open = true);
    }

    /// Holds from now on what comes.
    pub fn close(&self) {
        self.0.send_modify(|held| held.is_open = false);
    }

    /// Tells whether a reply would wait.
    pub fn is_closed(&self) -> bool {
        !self.0.borrow().is_open
    }

    /// Waits until so many replies are held.
    pub async fn holds(&self, count: usize) {
        // The gate itself holds the sender.
        let _ = self.0.subscribe().wait_for(|held| held.waiting >= count).await;
    }

    pub(crate) async fn pass(&self) {
        let mut changes = self.0.subscribe();
        let _waiting = Waiting::new(&self.0);
        let may_pass = |held: &mut Held| {
            let may = held.is_open || held.permits > 0;
            if may && !held.is_open {
                held.permits -= 1;
            }
            may
        };
        while !self.0.send_if_modified(may_pass) {
            let _ = changes.wait_for(|held| held.is_open || held.permits > 0).await;
        }
    }
}

/// Counts a reply as held for as long as it is, even where its session is dropped.
struct Waiting<'a>(&'a watch::Sender<Held>);

impl<'a> Waiting<'a> {
    fn new(gate: &'a watch::Sender<Held>) -> Waiting<'a> {
        gate.send_modify(|held| held.waiting += 1);
        Waiting(gate)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|held| held.waiting -= 1);
    }
}

/// One exception from good behaviour.
#[derive(Debug, Clone)]
pub struct Rule {
    step: Step,
    action: Action,
    connection: Option<usize>,
    recipient: Option<String>,
    gate: Option<Gate>,
    skip: usize,
    times: usize,
    seen: Arc<AtomicUsize>,
}

impl Rule {
    /// Applies `action` each time that a session comes to `step`.
    pub fn new(step: Step, action: Action) -> Rule {
        Rule { step, action, connection: None, recipient: None, gate: None, skip: 0, times: usize::MAX, seen: Arc::default() }
    }

    /// Only on this connection, counted from 1.
    pub fn connection(self, connection: usize) -> Rule {
        Rule { connection: Some(connection), ..self }
    }

    /// Only where the recipient contains this text.
    pub fn recipient(self, pattern: &str) -> Rule {
        Rule { recipient: Some(pattern.to_owned()), ..self }
    }

    /// Only while this gate is closed.
    pub fn while_closed(self, gate: &Gate) -> Rule {
        Rule { gate: Some(gate.clone()), ..self }
    }

    /// Not the first `skip` times.
    pub fn skip(self, skip: usize) -> Rule {
        Rule { skip, ..self }
    }

    /// At most `times` times.
    pub fn times(self, times: usize) -> Rule {
        Rule { times, ..self }
    }
}

/// How a sink behaves.
#[derive(Debug, Clone)]
pub struct Script {
    pub tls: Tls,
    /// The names in the certificate.
    pub certificate_names: Vec<String>,
    /// The lines of the EHLO reply, but for STARTTLS and AUTH.
    pub extensions: Vec<String>,
    /// The mechanisms that are announced; none without credentials.
    pub auth: String,
    /// User name and password; with XOAUTH2 the password is the token.
    pub credentials: Option<(String, String)>,
    pub rules: Vec<Rule>,
    /// How long each group of replies waits, to stand for a round trip.
    pub reply_delay: Duration,
    /// Lets the system take few octets ahead of the sink: a client soon has to wait for one that does not read.
    pub small_buffers: bool,
    /// Keeps the contents in the journal.
    pub keep_content: bool,
    /// Writes the journal here too, synchronously.
    pub journal_file: Option<PathBuf>,
}

impl Default for Script {
    fn default() -> Script {
        let extensions = ["PIPELINING", "SIZE 35882577", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"];
        Script {
            tls: Tls::None,
            certificate_names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            extensions: extensions.map(str::to_owned).to_vec(),
            auth: "PLAIN LOGIN XOAUTH2".to_owned(),
            credentials: None,
            rules: Vec::new(),
            reply_delay: Duration::ZERO,
            small_buffers: false,
            keep_content: true,
            journal_file: None,
        }
    }
}

impl Script {
    /// Adds a rule; the first that applies wins.
    pub fn rule(mut self, rule: Rule) -> Script {
        self.rules.push(rule);
        self
    }

    /// Adds a rule without conditions.
    pub fn on(self, step: Step, action: Action) -> Script {
        self.rule(Rule::new(step, action))
    }

    /// Announces this extension no more.
    pub fn without(mut self, extension: &str) -> Script {
        self.extensions.retain(|line| !line.starts_with(extension));
        self
    }

    pub(crate) fn action(&self, step: Step, connection: usize, recipients: &[String]) -> Option<Action> {
        let applies = |rule: &&Rule| {
            let is_meant = rule.step == step
                && rule.connection.is_none_or(|wanted| wanted == connection)
                && rule.recipient.as_ref().is_none_or(|pattern| recipients.iter().any(|recipient| recipient.contains(pattern.as_str())))
                && rule.gate.as_ref().is_none_or(Gate::is_closed);
            if !is_meant {
                return false;
            }
            let nth = rule.seen.fetch_add(1, Ordering::Relaxed);
            nth >= rule.skip && nth - rule.skip < rule.times
        };
        self.rules.iter().find(applies).map(|rule| rule.action.clone())
    }
}
